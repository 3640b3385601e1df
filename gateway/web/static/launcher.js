// The launcher's two pages with scripts: the form's link follows the choices, the launch opens in a tab of its own while this one shows what the app
// does, and the live view looks by itself. Without this file both pages do the same with a click more. Only this site is asked.
"use strict";

const EVERY = 1000;

const form = document.querySelector("form[data-launcher]");
if (form) {
  const share = document.querySelector("[data-share]");
  form.addEventListener("input", () => {
    const chosen = [...new FormData(form)].filter(([name, value]) => value && name !== "csrf");
    share.value = `${location.origin}/launcher?${new URLSearchParams(chosen)}`;
  });
  const latest = async () => (await fetch("/launcher/latest", { method: "HEAD" })).url;
  form.addEventListener("submit", async (event) => {
    if (event.submitter?.name === "look") return; // the page comes back with what is to be chosen from
    const before = await latest();
    for (let tries = 0; tries < 30; tries += 1) {
      await new Promise((done) => { setTimeout(done, EVERY / 4); });
      const now = await latest();
      if (now !== before) { location.assign(now); return; }
    }
  });
  const who = document.getElementById("who");
  who.addEventListener("change", async () => { // the encounters are those of the patient
    const chosen = who.value;
    const page = await read(share.value).catch(() => null);
    if (!page || who.value !== chosen) return;
    document.getElementById("visits").replaceWith(page.getElementById("visits"));
    form.dispatchEvent(new Event("input"));
  });
  const ehr = document.getElementById("ehr");
  if (ehr && ehr.tagName === "SELECT") ehr.addEventListener("change", () => { location.assign(`/launcher?ehr=${encodeURIComponent(ehr.value)}`); });
}

let seen = document.getElementById("seen");
if (seen) {
  seen.querySelector("[data-live]").hidden = false;
  setTimeout(look, EVERY);
}

async function look() {
  try {
    const answer = await fetch(`${seen.dataset.events}?after=${seen.dataset.after}`);
    if (answer.status === 404) return; // it is over
    if (answer.ok && (await answer.json()).events.length) await show();
  } catch { /* the gateway is away for a moment */ }
  setTimeout(look, EVERY);
}

async function read(address) {
  return new DOMParser().parseFromString(await (await fetch(address)).text(), "text/html");
}

async function show() {
  const page = await read(location.href);
  const fresh = page.getElementById("seen");
  if (!fresh) return;
  for (const one of seen.querySelectorAll("details[id]")) {
    const other = fresh.querySelector(`#${one.id}`);
    if (other) other.open = one.open;
  }
  fresh.querySelector("[data-live]").hidden = false;
  const [before, now] = [document.getElementById("state"), page.getElementById("state")]; // the same element: else nobody is told
  before.className = now.className;
  if (before.textContent !== now.textContent) before.firstElementChild.textContent = now.textContent;
  const at = document.activeElement && seen.contains(document.activeElement) ? document.activeElement.closest("[id]") : null;
  seen.replaceWith(fresh);
  seen = fresh;
  if (at && at.id !== "seen") document.getElementById(at.id)?.focus();
}
