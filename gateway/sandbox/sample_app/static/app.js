// The page. One of four things is shown: the form, a problem, the record, or (for a moment) what is being waited for.

import { begin, finish, Problem, renew, revoke } from "/smart.js";
import { bornOf, dayOf, flagOf, get, nameOf, rangeOf, scopeInWords, valueOf, wordsOf } from "/fhir.js";

const $ = (id) => document.getElementById(id);
const redirectUri = `${location.origin}/callback`;
let session = null; // { server, token }, in this tab's memory and nowhere else

function show(id) {
  for (const name of ["problem", "begin", "record"]) $(name).hidden = name !== id;
  $("status").textContent = "";
  document.title = `${$(`${id}-title`).textContent} · Latest results (sample app)`;
  if (id !== "begin") $(`${id}-title`).focus(); // a page that has just been opened begins at its top
}

function fail(error) {
  const known = error instanceof Problem;
  if (!known) console.error(error);
  $("problem-text").textContent = known ? error.message : "Something in this app went wrong.";
  $("problem-code").textContent = known && error.code ? `For developers: ${error.code}` : "";
  show("problem");
}

/** A piece of text in an element; never HTML. */
function element(name, text = "", className = "") {
  const found = document.createElement(name);
  found.textContent = text;
  if (className) found.className = className;
  return found;
}

function resultRow(observation) {
  const row = document.createElement("tr");
  const test = element("th", wordsOf(observation.code) || "Unnamed test");
  test.scope = "row";
  const value = document.createElement("td");
  value.append(element("span", valueOf(observation), "value"));
  if (flagOf(observation)) value.append(" ", element("span", flagOf(observation), "flag"));
  const notes = [observation.status !== "final" && `Status: ${observation.status}`, rangeOf(observation)].filter(Boolean);
  for (const note of notes) value.append(element("span", note, "note"));
  row.append(test, value, element("td", dayOf(observation)));
  return row;
}

function showToken({ token }) {
  const scopes = `${token.scope ?? ""}`.split(" ").filter(Boolean);
  $("scope-note").textContent = `The health record gave ${scopes.length} scopes. It may give fewer than the app asked for.`;
  $("scopes").replaceChildren(...scopes.map((scope) => {
    const item = element("li", `${scopeInWords(scope)}: `);
    item.append(element("code", scope));
    return item;
  }));
  const until = new Date(token.expiresAt).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" });
  $("expiry").textContent = `The access token is good until ${until}. ${token.refresh_token ? "Refresh gets a new one." : "After that, start again."}`;
  const { access_token: _access, refresh_token: _refresh, id_token: _id, expiresAt: _expires, identity, ...context } = token;
  $("context").textContent = JSON.stringify({ ...context, expires_in: Number(context.expires_in), ...(identity && { "id_token, verified": identity }) }, null, 2);
}

/** Name and results, each as it ended. */
function read({ server: { iss }, token }) {
  const search = new URLSearchParams({ patient: token.patient, category: "laboratory", _sort: "-date", _count: "10" });
  return Promise.allSettled([
    get(iss, `Patient/${encodeURIComponent(token.patient)}`, token.access_token),
    get(iss, `Observation?${search}`, token.access_token),
  ]);
}

/** What is wrong with all of it at once, in place of the name. */
function showTrouble(error) {
  $("trouble").hidden = !error;
  $("trouble-text").textContent = error?.message ?? "";
  $("trouble-code").textContent = error?.code ? `For developers: ${error.code}` : "";
}

async function showRecord() {
  $("status").textContent = "Reading the record …";
  const slow = setTimeout(() => { $("status").textContent = "Reading the record … it is slow today, the app still waits."; }, 4000);
  let found = await read(session);
  if (session.token.refresh_token && found.some((one) => one.reason?.status === 401)) { // the token ended before its time: a new one, once
    session.token = await renew(session.server, session.token).finally(() => clearTimeout(slow));
    found = await read(session);
  }
  clearTimeout(slow);
  const [patient, results] = found;
  const same = patient.reason && results.reason && patient.reason.message === results.reason.message;
  showTrouble(same ? results.reason : null);
  $("patient").hidden = same;
  $("patient").textContent = patient.status === "fulfilled" ? `${nameOf(patient.value)}, ${bornOf(patient.value)}` : `Name: ${patient.reason.message}`;
  const rows = (results.value?.entry ?? []).map((entry) => entry.resource).filter((one) => one?.resourceType === "Observation").slice(0, 10);
  $("results").querySelector("tbody").replaceChildren(...rows.map(resultRow));
  $("results").hidden = rows.length === 0;
  $("no-results").hidden = rows.length > 0 || same;
  $("no-results").textContent = results.status === "rejected" ? `Results: ${results.reason.message}` : "The record has no lab results.";
  showToken(session);
  show("record");
  $("status").textContent = `Read at ${new Date().toLocaleTimeString()}.`;
}

async function refresh() {
  $("status").textContent = "Asking again …";
  if (session.token.refresh_token) session.token = await renew(session.server, session.token);
  await showRecord();
}

async function leave() {
  await revoke(session.server, session.token);
  session = null;
  location.assign("/");
}

async function copyToken() {
  try {
    await navigator.clipboard.writeText(session.token.access_token);
    $("copied").textContent = "Copied. It opens this record: keep it to yourself.";
  } catch {
    $("copied").textContent = "The browser did not allow copying.";
  }
}

function showForm(config) {
  $("server").replaceChildren(...config.servers.map((url) => element("option", url)));
  $("scope").value = `launch/patient ${config.scope}`;
  $("client").textContent = config.client_id;
  $("redirect").textContent = redirectUri;
  show("begin");
}

/** An EHR launch: the EHR names itself (iss) and gives a handle (launch). */
async function fromEhr(query, config) {
  const iss = query.get("iss").replace(/\/$/, "");
  if (!config.servers.includes(iss)) throw new Problem("The launch link names a health record that this app does not know, so it does not go there.", iss);
  $("status").textContent = "Going to the health record …";
  await begin({ iss, clientId: config.client_id, redirectUri, scope: `launch ${config.scope}`, launch: query.get("launch") });
}

let busy = false;

/** An event handler that tells problems, and does one thing at a time: a refresh token that is sent twice ends the whole grant. */
const guarded = (work) => async (event) => {
  event.preventDefault();
  if (busy) return;
  busy = true;
  await work().catch(fail);
  busy = false;
};

async function main() {
  const query = new URLSearchParams(location.search);
  history.replaceState(null, "", location.pathname); // no code and no launch handle stays in the address or the history
  const config = await (await fetch("/config.json")).json();
  $("launch-form").addEventListener("submit", guarded(() =>
    begin({ iss: $("server").value, clientId: config.client_id, redirectUri, scope: $("scope").value.trim().replace(/\s+/g, " ") })));
  $("refresh").addEventListener("click", guarded(refresh));
  $("leave").addEventListener("click", guarded(leave));
  $("copy").addEventListener("click", guarded(copyToken));
  if (query.has("state") || query.has("code") || query.has("error")) {
    $("status").textContent = "Signing in …";
    session = await finish(query);
    await showRecord();
  } else if (query.has("iss") && query.has("launch")) {
    await fromEhr(query, config);
  } else {
    showForm(config);
  }
}

main().catch(fail);
