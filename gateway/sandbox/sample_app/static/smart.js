// SMART App Launch 2.2 for a public client, as far as this app needs it. Nothing here touches the page.

const KEY = "smart-launch:";
const SKEW = 60_000; // milliseconds that two clocks may differ
const LONGEST = 60_000; // milliseconds that an answer may take

/**
 * A problem that is worth a sentence. `code` is what the server said or which check failed, for developers; `status` of an HTTP answer. `again`: the
 * same request may do better later; `wait`: after so many seconds, as the server said, or 0.
 */
export class Problem extends Error {
  constructor(sentence, code = "", { status = 0, again = false, wait = 0 } = {}) {
    super(sentence);
    Object.assign(this, { code, status, again, wait });
  }
}

// RFC 6749 4.1.2.1 and 5.2, OpenID Connect Core 3.1.2.6, in words.
const SENTENCES = {
  access_denied: "You did not allow this app to see the record, so it sees nothing.",
  login_required: "The health record wants you to sign in first.",
  interaction_required: "The health record needs an answer from you first.",
  invalid_client: "The health record does not know this app. It has to be registered there, with the redirect address that its start page shows.",
  invalid_grant: "The health record did not accept the sign-in any more. It may have taken too long, or was used already.",
  invalid_launch: "The launch link is not valid any more. Ask for a new one.",
  invalid_request: "The health record did not understand this app's request.",
  invalid_scope: "The health record does not give what this app asked for.",
  server_error: "The health record has a problem. Try again in a moment.",
  temporarily_unavailable: "The health record is busy. Try again in a moment.",
  unauthorized_client: "The health record does not let this app sign people in.",
  unsupported_response_type: "The health record does not offer this way of signing in.",
};

// What may pass by itself, by status.
const PASSING = {
  429: "The health record asks for a pause. Try again in a moment.",
  502: "The health record could not be reached behind its gateway. Try again in a moment.",
  503: "The health record pauses. Try again in a moment.",
  504: "The health record did not answer in time. Try again in a moment.",
};

const passes = (status) => status === 429 || status >= 500;

const refused = (error, description = "") => new Problem(SENTENCES[error] ?? "The health record said no.", [error, description].filter(Boolean).join(": "));

/** Seconds that the server asks to wait (RFC 9110 10.2.3: a number, or a date); 0 when it did not say, or the browser may not tell (CORS). */
function waitOf(response) {
  const said = response.headers.get("Retry-After") ?? "";
  const seconds = /^\d{1,6}$/.test(said) ? Number(said) : Math.ceil((Date.parse(said) - Date.now()) / 1000);
  return seconds > 0 ? seconds : 0;
}

export const secondsInWords = (seconds) => `${seconds} second${seconds === 1 ? "" : "s"}`;

/** What an HTTP answer that is no success means: in `sentence`, or else as its status says. */
export function failed(response, sentence, code) {
  const { status } = response;
  const wait = waitOf(response);
  const told = sentence ?? PASSING[status] ?? "The health record could not answer. Try again in a moment.";
  return new Problem(wait ? told.replace("in a moment.", `in ${secondsInWords(wait)}.`) : told, code, { status, again: passes(status), wait });
}

const base64url = (bytes) => btoa(String.fromCharCode(...bytes)).replaceAll("+", "-").replaceAll("/", "_").replaceAll("=", "");
const bytesOf = (text) => Uint8Array.from(atob(text.replaceAll("-", "+").replaceAll("_", "/")), (letter) => letter.charCodeAt(0));
const random = () => base64url(crypto.getRandomValues(new Uint8Array(32)));

async function challengeOf(verifier) {
  if (!crypto.subtle) throw new Problem("This page must be opened over https or on this computer itself: the browser gives no cryptography otherwise.");
  return base64url(new Uint8Array(await crypto.subtle.digest("SHA-256", new TextEncoder().encode(verifier))));
}

/** Read a JSON answer, or say what is wrong with it. */
export async function fetchJson(url, options = {}, what = "The health record") {
  let response, text;
  try {
    response = await fetch(url, { cache: "no-store", credentials: "omit", referrerPolicy: "no-referrer", signal: AbortSignal.timeout(LONGEST), ...options });
    text = await response.text();
  } catch (error) {
    if (error.name === "TimeoutError") throw new Problem(`${what} did not answer in time. Try again in a moment.`, "no answer within a minute", { again: true });
    throw new Problem(`${what} could not be reached. It may be down, or it does not let this app in (CORS).`, "", { again: true });
  }
  let body = null;
  try {
    body = parseExactly(text);
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
  if (passes(response.status)) throw failed(response, undefined, `discovery: ${response.status}`);
  if (!response.ok || !body?.authorization_endpoint || !body?.token_endpoint) throw new Problem("That server does not offer SMART sign-in.");
  if (!body.code_challenge_methods_supported?.includes("S256")) throw new Problem("That server does not offer PKCE with S256, so this app does not sign in there.");
  return body;
}

/** Send the browser to the record's own sign-in. `launch` is the EHR's handle, "" for a standalone launch. */
export async function begin({ iss, clientId, redirectUri, scope, launch = "" }) {
  const found = await discover(iss);
  const [state, verifier, nonce] = [random(), random(), random()];
  const kept = { iss, verifier, nonce, redirectUri, clientId, scope, tokenEndpoint: found.token_endpoint, revocationEndpoint: found.revocation_endpoint ?? "",
    issuer: found.issuer ?? "", saysIss: found.authorization_response_iss_parameter_supported === true, jwksUri: found.jwks_uri ?? "" };
  sessionStorage.setItem(KEY + state, JSON.stringify(kept));
  const url = new URL(found.authorization_endpoint);
  const query = { response_type: "code", client_id: clientId, redirect_uri: redirectUri, scope, state, aud: iss,
    code_challenge: await challengeOf(verifier), code_challenge_method: "S256", ...(scope.split(" ").includes("openid") && { nonce }), ...(launch && { launch }) };
  for (const [name, value] of Object.entries(query)) url.searchParams.set(name, value);
  location.assign(url);
}

/** What was kept of the sign-in with which the browser comes back, a code with it; all that can be wrong with that is a Problem. */
export function returned(query) {
  const state = query.get("state") ?? "";
  const kept = JSON.parse(sessionStorage.getItem(KEY + state) ?? "null");
  sessionStorage.removeItem(KEY + state); // a code and its verifier are used once
  if (!kept) {
    throw new Problem("This tab did not start that sign-in, so the app does not go on with it.", "state is not one that this tab sent, or was used before (RFC 6749 10.12)");
  }
  if ((kept.saysIss || query.has("iss")) && query.get("iss") !== kept.issuer) {
    throw new Problem("The answer came from another server than the one that was asked.", `iss is ${query.get("iss") ?? "missing"} and not ${kept.issuer} (RFC 9207 2.4)`);
  }
  if (query.has("error")) throw refused(query.get("error"), query.get("error_description") ?? "");
  if (!query.get("code")) throw new Problem("The health record sent you back without an answer.");
  return { ...kept, code: query.get("code") };
}

/** The keys that may have signed an id_token: before the code is sent, so that nothing but a right token comes after it. */
export async function keysOf({ scope, jwksUri }) {
  if (!jwksUri || !scope.split(" ").includes("openid")) return [];
  const { response, body } = await fetchJson(jwksUri);
  if (passes(response.status)) throw failed(response, undefined, `jwks_uri: ${response.status}`);
  return Array.isArray(body?.keys) ? body.keys : [];
}

/** The code for tokens, and where they are good for. */
export async function redeem({ code, ...kept }, keys) {
  const token = await exchange(kept, { grant_type: "authorization_code", code, redirect_uri: kept.redirectUri, code_verifier: kept.verifier });
  try {
    token.identity = await identityOf(kept, token, keys);
    if (!token.patient) throw new Problem("The health record did not say whose record it is.", "the token response has no patient");
  } catch (error) {
    await revoke(kept, token); // what is not used does not lie about
    throw error;
  }
  return { server: kept, token };
}

/** The claims of the id_token, each check of OpenID Connect Core 3.1.3.7 done; null when openid was not granted. */
async function identityOf(kept, token, keys) {
  if (!`${token.scope ?? ""}`.split(" ").includes("openid")) return null;
  const wrong = (what) => new Problem("The health record's word on who signed in is not to be trusted, so the app does not go on.", `id_token: ${what}`);
  const parts = `${token.id_token ?? ""}`.split(".");
  let header, claims, signature;
  try {
    [header, claims] = parts.slice(0, 2).map((part) => ({ ...JSON.parse(new TextDecoder().decode(bytesOf(part))) }));
    signature = bytesOf(parts[2]);
  } catch {
    throw wrong(token.id_token ? "it is not a signed JWT" : "it is missing, though openid was granted");
  }
  if (header.alg !== "RS256") throw wrong(`alg is ${header.alg} and not RS256`);
  const key = keys.find((one) => one?.kid === header.kid && one?.kty === "RSA");
  if (!key) throw wrong(`no key at jwks_uri has its kid, ${header.kid}`);
  const algorithm = { name: "RSASSA-PKCS1-v1_5", hash: "SHA-256" };
  const usable = await crypto.subtle.importKey("jwk", { kty: "RSA", n: key.n, e: key.e }, algorithm, false, ["verify"]).catch(() => null);
  if (!usable) throw wrong("the key at jwks_uri with its kid is not a usable one");
  if (!(await crypto.subtle.verify(algorithm, usable, signature, new TextEncoder().encode(parts.slice(0, 2).join("."))))) throw wrong("its signature is not of the key that is published");
  if (claims.iss !== kept.issuer) throw wrong(`iss is ${claims.iss} and not ${kept.issuer}`);
  if (![claims.aud].flat().includes(kept.clientId)) throw wrong(`aud is ${claims.aud} and not ${kept.clientId}`);
  if (claims.exp === undefined) throw wrong("exp is missing, so it never ends");
  const end = new Date(claims.exp * 1000); // far away times are no Date any more
  if (typeof claims.exp !== "number" || Number.isNaN(end.getTime())) throw wrong("exp is no time in seconds");
  if (!(end > Date.now() - SKEW)) throw wrong(`it ended at ${end.toISOString()}`);
  if (claims.nonce !== kept.nonce) throw wrong("nonce is not the one that was sent");
  return claims;
}

/** A new access token for the refresh token (RFC 6749 6). The old refresh token stays when none comes back. */
export async function renew(server, token) {
  try {
    return { ...token, ...(await exchange(server, { grant_type: "refresh_token", refresh_token: token.refresh_token })) };
  } catch (error) {
    if (!error.code?.startsWith("invalid_grant")) throw error;
    throw new Problem("This app's access to the record has ended. Start again to ask for it.", error.code);
  }
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
  const code = [answer?.error ?? response.status, answer?.error_description].filter(Boolean).join(": ");
  if (!response.ok) throw failed(response, SENTENCES[answer?.error] ?? (passes(response.status) ? undefined : "The health record said no."), code);
  if (!answer?.access_token || `${answer.token_type}`.toLowerCase() !== "bearer") throw new Problem("The health record did not give a usable token.");
  return { ...answer, expiresAt: Date.now() + 1000 * Number(answer.expires_in ?? 300) };
}
