// Makes or uses a passkey: the one thing on this site that a browser offers to scripts only. The page holds what the browser needs, and a form
// takes what it answered; nothing is fetched. Without this file the page says so and leads back to the password.
"use strict";

const form = document.querySelector("form[data-passkey]");
const show = (id) => { document.getElementById(id).hidden = false; };
const bytes = (text) => Uint8Array.from(atob(text.replaceAll("-", "+").replaceAll("_", "/")), (char) => char.charCodeAt(0));
const text = (buffer) => btoa(String.fromCharCode(...new Uint8Array(buffer))).replaceAll("+", "-").replaceAll("/", "_").replaceAll("=", "");
const named = (list) => (list || []).map((one) => ({ ...one, id: bytes(one.id) }));

function asked() {
  const options = JSON.parse(form.dataset.options);
  options.challenge = bytes(options.challenge);
  if (options.user) options.user.id = bytes(options.user.id);
  options.excludeCredentials = named(options.excludeCredentials);
  options.allowCredentials = named(options.allowCredentials);
  return { publicKey: options };
}

function answered(credential) {
  const response = {};
  for (const name of ["clientDataJSON", "attestationObject", "authenticatorData", "signature", "userHandle"]) {
    if (credential.response[name]) response[name] = text(credential.response[name]);
  }
  return JSON.stringify({ id: credential.id, rawId: text(credential.rawId), type: credential.type, clientExtensionResults: {}, response });
}

async function use(event) {
  event.preventDefault();
  try {
    const ask = form.dataset.passkey === "create" ? navigator.credentials.create : navigator.credentials.get;
    form.elements.answer.value = answered(await ask.call(navigator.credentials, asked()));
    form.submit();
  } catch {
    show("passkey-not-used"); // she closed the window, has none, or took too long: browsers do not tell which
  }
}

if (form && window.PublicKeyCredential) {
  show("passkey-form");
  form.addEventListener("submit", use);
} else if (form) {
  show("passkey-unknown");
}
