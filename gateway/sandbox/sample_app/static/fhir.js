// Reading FHIR resources and putting them into words. Nothing here touches the page.

import { failed, fetchJson } from "/smart.js";

const STATUSES = {
  401: "The health record does not take this app's access token. Press Refresh, or start again.",
  403: "This app was not given the right to see that.",
  404: "The health record has no such resource for this app.",
};

/** GET a resource or a search with the token. */
export async function get(iss, path, accessToken) {
  const { response, body } = await fetchJson(`${iss}/${path}`, { headers: { Accept: "application/fhir+json", Authorization: `Bearer ${accessToken}` } });
  if (response.ok && body?.resourceType) return body;
  const issue = body?.issue?.[0];
  throw failed(response, STATUSES[response.status], [`${response.status}`, issue?.code, issue?.details?.text].filter(Boolean).join(": "));
}

/** A patient's name: the official one, or the first there is. */
export function nameOf(patient) {
  const name = patient.name?.find((one) => one.use === "official") ?? patient.name?.[0] ?? {};
  return name.text ?? ([...(name.prefix ?? []), ...(name.given ?? []), name.family].filter(Boolean).join(" ") || "Name not given");
}

export const wordsOf = (concept) => concept?.text ?? concept?.coding?.find((one) => one.display)?.display ?? concept?.coding?.[0]?.code ?? "";

const quantity = (value) => `${value.comparator ?? ""}${value.value ?? ""} ${value.unit ?? value.code ?? ""}`.trim();

/** The value of an Observation or of one of its components, as it was sent. */
export function valueOf(item) {
  if (item.valueQuantity) return quantity(item.valueQuantity);
  if (item.valueString !== undefined) return item.valueString;
  if (item.valueCodeableConcept) return wordsOf(item.valueCodeableConcept);
  if (item.valueRatio) return `${quantity(item.valueRatio.numerator ?? {})} : ${quantity(item.valueRatio.denominator ?? {})}`;
  for (const name of ["valueInteger", "valueBoolean", "valueDateTime", "valueTime"]) if (item[name] !== undefined) return `${item[name]}`;
  if (item.component) return item.component.map((part) => `${wordsOf(part.code)} ${valueOf(part)}`).join(", ");
  if (item.hasMember) return `${item.hasMember.length} results, listed one by one`;
  return item.dataAbsentReason ? `No result: ${wordsOf(item.dataAbsentReason)}` : "No result yet";
}

/** The laboratory's range in its own words, or as it was sent. */
export function rangeOf(observation) {
  const ranges = observation.referenceRange ?? [];
  if (ranges.length > 1) return "The range depends on age or sex: see the full report";
  const [range] = ranges;
  if (!range) return "";
  if (range.text) return `Usual: ${range.text}`;
  const [low, high] = [range.low && quantity(range.low), range.high && quantity(range.high)];
  if (low && high) return `Usual: ${low} to ${high}`;
  return low ? `Usual: ${low} or more` : `Usual: up to ${high}`;
}

const FLAGS = { N: "", H: "High", L: "Low", HH: "Critically high", LL: "Critically low", A: "Abnormal", AA: "Critically abnormal", POS: "Positive", NEG: "Negative" };

/** What the laboratory marked; never worked out here. */
export function flagOf(observation) {
  const code = observation.interpretation?.[0]?.coding?.[0]?.code;
  return code === undefined ? "" : FLAGS[code] ?? wordsOf(observation.interpretation[0]);
}

const MONTHS = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];

/** A FHIR date or dateTime as a day, as precise as it is: `3 Nov 2026`, `Nov 2026`, `2026`. */
function day(time) {
  const [year, month, date] = time.slice(0, 10).split("-");
  return [date && Number(date), month && MONTHS[month - 1], year].filter(Boolean).join(" ");
}

/** The day as the laboratory wrote it, in its own time zone. */
export const dayOf = (observation) =>
  day(observation.effectiveDateTime ?? observation.effectivePeriod?.start ?? observation.effectiveInstant ?? observation.issued ?? "") || "Date not given";

export const bornOf = (patient) => (patient.birthDate ? `born ${day(patient.birthDate)}` : "birth date not given");

const VERBS = { r: "read", s: "search", c: "create", u: "change", d: "delete", read: "read and search", write: "create, change and delete", "*": "do everything with" };
const CONTEXT = {
  openid: "Know that you signed in",
  fhirUser: "Know who you are in the record",
  profile: "Know who you are in the record",
  launch: "Know what was open in the health record",
  "launch/patient": "Know which patient was chosen",
  offline_access: "Go on until you take it back",
  online_access: "Go on while you are signed in",
};

/** A scope in words. */
export function scopeInWords(scope) {
  const [, level, type, letters, query] = /^(patient|user|system)\/([A-Za-z*]+)\.([a-z*]+)(?:\?(.+))?$/.exec(scope) ?? [];
  if (!level) return CONTEXT[scope] ?? "Something else";
  const verbs = VERBS[letters] ? [VERBS[letters]] : [...letters].map((letter) => VERBS[letter]);
  const what = type === "*" ? "everything" : `${type} resources`;
  const whose = { patient: "of this patient", user: "that you may see", system: "of everybody" }[level];
  const listed = [verbs.slice(0, -1).join(", "), verbs.at(-1)].filter(Boolean).join(" and ");
  return `${listed[0].toUpperCase()}${listed.slice(1)} ${what} ${whose}${query ? `, only where ${query.replace(/^(\w+)=.*\|/, "$1 is ")}` : ""}`;
}
