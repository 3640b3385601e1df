// SMART App Launch 2.2 for a public client, as far as this app needs it. Nothing here touches the page.

const KEY = "smart-launch:";

/** A problem that is worth a sentence. `code` is what the server said, for developers. */
export class Problem extends Error {
  constructor(sentence, code = "") {
    super(sentence);
    this.code = code;
  }
}

// RFC 6749 4.1.2.1 and 5.2, OpenID Connect Core 3.1.2.6, in words.
const SENTENCES = {
  access_denied: "You did not allow this app to see the record, so it sees nothing.",
  login_required: "The health record wants you to sign in first.",
  interaction_required: "The health record needs an answer from you first.",
  invalid_client: "The health record does not know this app. It must be registered there with the address shown below.",
  invalid_grant: "The health record did not accept the sign-in any more. It may have taken too long, or was used already.",
  invalid_launch: "The launch link is not valid any more. Ask for a new one.",
  invalid_request: "The health record did not understand this app's request.",
  invalid_scope: "The health record does not give what this app asked for.",
  server_error: "The health record has a problem. Try again in a moment.",
  temporarily_unavailable: "The health record is busy. Try again in a moment.",
  unauthorized_client: "The health record does not let this app sign people in.",
  unsupported_response_type: "The health record does not offer this way of signing in.",
};

const refused = (error, description = "") =>
  new Problem(SENTENCES[error] ?? "The health record said no.", [error, description].filter(Boolean).join(": "));

const base64url = (bytes) => btoa(String.fromCharCode(...bytes)).replaceAll("+", "-").replaceAll("/", "_").replaceAll("=", "");
const random = () => base64url(crypto.getRandomValues(new Uint8Array(32)));

async function challengeOf(verifier) {
  if (!crypto.subtle) throw new Problem("This page must be opened over https or on this computer itself: the browser gives no cryptography otherwise.");
  return base64url(new Uint8Array(await crypto.subtle.digest("SHA-256", new TextEncoder().encode(verifier))));
}

/** Read a JSON answer, or say what is wrong with it. */
export async function fetchJson(url, options = {}, what = "The health record") {
  let response;
  try {
    response = await fetch(url, { cache: "no-store", credentials: "omit", referrerPolicy: "no-referrer", ...options });
  } catch {
    throw new Problem(`${what} could not be reached. It may be down, or it does not let this app in (CORS).`);
  }
  let body = null;
  try {
    body = parseExactly(await response.text());
  } catch {
    if (response.ok) throw new Problem(`${what} gave an answer that is not JSON.`);
  }
  return { response, body };
}

/** Numbers become the text that the server wrote: 1.10 stays 1.10. */
export const parseExactly = (text) =>
  JSON.parse(text, (_key, value, context) => (typeof value === "number" && context?.source ? new Written(context.source) : value));

/** A number as it was written. */
export class Written {
  constructor(source) { this.source = source; }
  toString() { return this.source; }
  valueOf() { return Number(this.source); }
  toJSON() { return Number(this.source); }
}

/** The server's discovery document (SMART 2.2 "Conformance"). */
export async function discover(iss) {
  const { response, body } = await fetchJson(`${iss}/.well-known/smart-configuration`, { headers: { Accept: "application/json" } });
  if (!response.ok || !body?.authorization_endpoint || !body?.token_endpoint) throw new Problem("That server does not offer SMART sign-in.");
  if (!body.code_challenge_methods_supported?.includes("S256")) throw new Problem("That server does not offer PKCE with S256, so this app does not sign in there.");
  return body;
}

/** Send the browser to the record's own sign-in. `launch` is the EHR's handle, "" for a standalone launch. */
export async function begin({ iss, clientId, redirectUri, scope, launch = "" }) {
  const found = await discover(iss);
  const [state, verifier] = [random(), random()];
  const kept = { iss, verifier, redirectUri, clientId, tokenEndpoint: found.token_endpoint, revocationEndpoint: found.revocation_endpoint ?? "",
    issuer: found.authorization_response_iss_parameter_supported ? found.issuer : "" };
  sessionStorage.setItem(KEY + state, JSON.stringify(kept));
  const url = new URL(found.authorization_endpoint);
  const query = { response_type: "code", client_id: clientId, redirect_uri: redirectUri, scope, state, aud: iss,
    code_challenge: await challengeOf(verifier), code_challenge_method: "S256", ...(launch && { launch }) };
  for (const [name, value] of Object.entries(query)) url.searchParams.set(name, value);
  location.assign(url);
}

/** What the browser came back with: the token response, and where it is good for. */
export async function finish(query) {
  const state = query.get("state") ?? "";
  const kept = JSON.parse(sessionStorage.getItem(KEY + state) ?? "null");
  sessionStorage.removeItem(KEY + state); // a code and its verifier are used once
  if (!kept) throw new Problem("This tab did not start that sign-in, so the app does not go on with it.");
  if (kept.issuer && query.get("iss") !== kept.issuer) throw new Problem("The answer came from another server than the one that was asked."); // RFC 9207
  if (query.has("error")) throw refused(query.get("error"), query.get("error_description") ?? "");
  if (!query.get("code")) throw new Problem("The health record sent you back without an answer.");
  const token = await exchange(kept, { grant_type: "authorization_code", code: query.get("code"), redirect_uri: kept.redirectUri, code_verifier: kept.verifier });
  if (!token.patient) throw new Problem("The health record did not say whose record it is.");
  return { server: kept, token };
}

/** A new access token for the refresh token (RFC 6749 6). The old refresh token stays when none comes back. */
export async function renew(server, token) {
  const fresh = await exchange(server, { grant_type: "refresh_token", refresh_token: token.refresh_token });
  return { ...token, ...fresh };
}

/** Tell the record that the tokens are not needed any more (RFC 7009). What it answers changes nothing here. */
export async function revoke(server, token) {
  if (!server.revocationEndpoint) return;
  const body = new URLSearchParams({ token: token.refresh_token ?? token.access_token, client_id: server.clientId });
  await fetch(server.revocationEndpoint, { method: "POST", body, credentials: "omit" }).then((response) => response.text()).catch(() => null);
}

async function exchange(server, form) {
  const body = new URLSearchParams({ ...form, client_id: server.clientId });
  const { response, body: answer } = await fetchJson(server.tokenEndpoint, { method: "POST", body, headers: { Accept: "application/json" } });
  if (!response.ok) throw refused(answer?.error ?? `status ${response.status}`, answer?.error_description ?? "");
  if (!answer?.access_token || `${answer.token_type}`.toLowerCase() !== "bearer") throw new Problem("The health record did not give a usable token.");
  return { ...answer, expiresAt: Date.now() + 1000 * Number(answer.expires_in ?? 300) };
}
