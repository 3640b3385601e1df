// The page. One of four things is shown: the form, a problem, the record, or (for a moment) what is being waited for.

import { begin, fetchJson, keysOf, Problem, redeem, renew, returned, revoke, secondsInWords } from "/smart.js";
import { bornOf, dayOf, flagOf, get, nameOf, rangeOf, scopeInWords, valueOf, wordsOf } from "/fhir.js";

const $ = (id) => document.getElementById(id);
const redirectUri = `${location.origin}/callback`;
const SLOW = 4000; // milliseconds after which it is said that something takes long
const [TRIES, LONGEST, UNSAID] = [3, 60, 5]; // pauses that are waited for, how many seconds one may be, and how long it is when nobody said
let session = null; // { server, token }, in this tab's memory and nowhere else

function show(id) {
  for (const name of ["moment", "problem", "begin", "record"]) $(name).hidden = name !== id;
  $("status").textContent = "";
  document.title = `${$(`${id}-title`).textContent} · Latest results (sample app)`;
  if (id !== "begin") $(`${id}-title`).focus(); // a page that has just been opened begins at its top
}

function fail(error) {
  const known = error instanceof Problem;
  if (!known) console.error(error);
  $("problem-text").textContent = known ? error.message : "Something in this app went wrong.";
  $("problem-code").textContent = known && error.code ? `For developers: ${error.code}` : "";
  $("try-again").hidden = !error.again;
  $("start-again").classList.toggle("second", Boolean(error.again));
  show("problem");
}

/** Do it, saying what is waited for, and after a while that it is slow. */
async function telling(what, work) {
  $("status").textContent = `${what} …`;
  const slow = setTimeout(() => { $("status").textContent = `${what} … it is slow today, the app still waits.`; }, SLOW);
  return work().finally(() => clearTimeout(slow));
}

let giveUp = () => false; // ends the pause that the app makes, if it makes one

/** True after so many seconds; false when the person does not want to wait for that. */
async function pause(seconds, tries) {
  $("status").textContent = `The health record asks for a pause of ${secondsInWords(seconds)}. Then the app tries again by itself (${tries} of ${TRIES}).`;
  $("pause").hidden = false;
  const waited = await new Promise((done) => {
    const timer = setTimeout(done, 1000 * seconds, true);
    giveUp = () => { clearTimeout(timer); done(false); return true; };
  });
  giveUp = () => false;
  $("pause").hidden = true;
  return waited;
}

/** Do it; when the health record asks for a pause (429), make it and try again, a few times and not for long. */
async function patiently(what, work) {
  for (let tries = 1; ; tries += 1) {
    try {
      return await telling(what, work);
    } catch (error) {
      const wait = error.wait || UNSAID;
      if (error.status !== 429 || tries > TRIES || wait > LONGEST || !(await pause(wait, tries))) throw error;
    }
  }
}

/** The same, and what passes by itself (503, no network) is tried again when the person says so. */
async function insist(what, work) {
  for (;;) {
    try {
      return await patiently(what, work);
    } catch (error) {
      if (!error.again) throw error;
      fail(error);
      await new Promise((done) => { $("try-again").onclick = done; });
      show("moment");
    }
  }
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
  let found = [];
  const reading = async () => {
    found = await read(session);
    const paused = found.find((one) => one.reason?.status === 429);
    if (paused) throw paused.reason;
  };
  const asked = () => patiently("Reading the record", reading).catch((error) => { if (error.status !== 429) throw error; });
  await asked();
  if (session.token.refresh_token && found.some((one) => one.reason?.status === 401)) { // the token ended before its time: a new one, once
    session.token = await insist("Asking for a new token", () => renew(session.server, session.token));
    await asked();
  }
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
  const again = found.some((one) => one.reason?.again);
  $("again").hidden = !again;
  $("refresh").classList.toggle("second", again);
  showToken(session);
  show("record");
  $("status").textContent = `${found.some((one) => one.reason) ? "Tried" : "Read"} at ${new Date().toLocaleTimeString()}.`;
}

async function refresh() {
  if (session.token.refresh_token) session.token = await insist("Asking again", () => renew(session.server, session.token));
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
  await going({ iss, clientId: config.client_id, redirectUri, scope: `launch ${config.scope}`, launch: query.get("launch") });
}

const going = (asked) => insist("Going to the health record", () => begin(asked));

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
  show("moment");
  const query = new URLSearchParams(location.search);
  history.replaceState(null, "", location.pathname); // no code and no launch handle stays in the address or the history
  const { body: config } = await insist("Opening", () => fetchJson("/config.json", {}, "This app's own server"));
  $("launch-form").addEventListener("submit", guarded(() =>
    going({ iss: $("server").value, clientId: config.client_id, redirectUri, scope: $("scope").value.trim().replace(/\s+/g, " ") })));
  $("refresh").addEventListener("click", guarded(refresh));
  $("again").addEventListener("click", guarded(showRecord));
  $("stop").addEventListener("click", () => giveUp());
  const leaving = guarded(leave);
  $("leave").addEventListener("click", (event) => (giveUp() ? leave() : leaving(event))); // nobody has to wait to go
  $("copy").addEventListener("click", guarded(copyToken));
  if (query.has("state") || query.has("code") || query.has("error")) {
    const kept = returned(query);
    const keys = await insist("Signing in", () => keysOf(kept));
    session = await insist("Signing in", () => redeem(kept, keys));
    await showRecord();
  } else if (query.has("iss") && query.has("launch")) {
    await fromEhr(query, config);
  } else {
    showForm(config);
  }
}

main().catch(fail);
