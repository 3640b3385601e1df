"""What was seen of a trial, in the order and the words in which a developer reads it. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from gateway.smart.server.faults import FAULTS
from gateway.smart.server.trial import Seen, TrialWanted
from gateway.store.oauth_rows import Client

_MEANINGS = {
    "response_type": "code, always",
    "client_id": "the app, as it is registered",
    "redirect_uri": "where the answer goes: one of the registered addresses, to the letter",
    "scope": "what the app asks for",
    "state": "comes back unchanged, so that the app knows its own request",
    "aud": "the FHIR base that the token is for",
    "launch": "the handle of an EHR launch",
    "code_challenge": "PKCE: the SHA-256 of a secret that the token request brings",
    "code_challenge_method": "S256, always",
    "nonce": "comes back in the id_token",
    "prompt": "how the person wants to be met",
    "max_age": "how long ago she may have signed in",
    "login_hint": "who she is, the app believes",
    "id_token_hint": "whom the app knows from before",
    "request_uri": "a request that was sent ahead (RFC 9126)",
}
_NEEDED = ("response_type", "client_id", "redirect_uri", "scope", "state", "aud", "code_challenge", "code_challenge_method")
_STEPS = {"signin": "sign-in", "sign-in": "sign-in", "patient": "whose record", "consent": "what the app may do"}


@dataclass(frozen=True, slots=True)
class Parameter:
    """One parameter of the authorization request. `wrong`: what is not right about it, or ""."""

    name: str
    value: str
    meaning: str
    wrong: str = ""


@dataclass(frozen=True, slots=True)
class Request:
    """An authorization request, and what came of it. `then`: in words."""

    number: int
    parameters: tuple[Parameter, ...]
    then: str
    simulated: str


@dataclass(frozen=True, slots=True)
class Token:
    """A request to the token endpoint. `left_out`: scopes that were asked for and not granted."""

    number: int
    grant_type: str
    authenticated_by: str
    status: int
    ms: float
    granted: tuple[str, ...]
    left_out: tuple[str, ...]
    answer: str
    simulated: str


@dataclass(frozen=True, slots=True)
class Call:
    """A FHIR request of the app. `why`: the scopes that allowed it, or why it was refused."""

    number: int
    method: str
    address: str
    status: int
    ms: float
    cached: bool
    entries: str
    why: str
    simulated: str

    @property
    def good(self) -> bool:
        """Whether the app got what it asked for."""
        return self.status < 400


@dataclass(frozen=True, slots=True)
class View:
    """All of it. `state`: where the launch is, in a sentence; `bad`: it ended badly."""

    last: int
    state: str
    bad: bool
    discovery: tuple[Seen, ...]
    requests: tuple[Request, ...]
    steps: tuple[str, ...]
    tokens: tuple[Token, ...]
    calls: tuple[Call, ...]
    others: tuple[Seen, ...]


def view_of(seen: Sequence[Seen], wanted: TrialWanted, client: Client | None, discovery: Mapping[str, Any]) -> View:
    """From everything that was seen."""
    of = {kind: [one for one in seen if one.kind == kind] for kind in ("discovery", "authorize", "push", "step", "consent", "token", "fhir")}
    asked: tuple[str, ...] = tuple(scope for one in of["authorize"][-1:] for scope in one.facts.get("asked", ()))
    requests = tuple(_request(one, wanted, client, discovery) for one in of["authorize"])
    tokens, calls = tuple(_token(one, asked) for one in of["token"]), tuple(_call(one) for one in of["fhir"])
    state, bad = _state(seen, wanted)
    others = tuple(one for one in seen if one.kind in ("push", "introspect", "revoke", "broken"))
    steps = tuple(_step(one) for one in seen if one.kind in ("step", "consent"))
    return View(seen[-1].number if seen else 0, state, bad, tuple(of["discovery"]), requests, steps, tokens, calls, others)


def _request(one: Seen, wanted: TrialWanted, client: Client | None, discovery: Mapping[str, Any]) -> Request:
    pairs = [(str(name), str(value)) for name, value in one.facts.get("parameters", ())]
    sent = [
        Parameter(name, value, _MEANINGS.get(name, "not known here, and passed over"), _wrong(name, value, wanted, client, discovery))
        for name, value in pairs
    ]
    names = {name for name, _ in pairs}
    missing = [] if "request_uri" in names else [Parameter(name, "", _MEANINGS[name], "is missing") for name in _NEEDED if name not in names]
    return Request(one.number, (*sent, *missing), _came(one.facts), _simulated(one))


def _wrong(name: str, value: str, wanted: TrialWanted, client: Client | None, discovery: Mapping[str, Any]) -> str:
    base = str(discovery.get("issuer", ""))
    match name:
        case "response_type" if value != "code":
            return "has to be code"
        case "client_id" if value != wanted.client_id:
            return "is another app than the one that was chosen"
        case "redirect_uri" if client is not None and value not in client.redirect_uris:
            return "is not registered"
        case "aud" if value.rstrip("/") != base:
            return f"has to be {base}"
        case "code_challenge_method" if value != "S256":
            return "has to be S256"
        case _:
            return ""


def _came(facts: Mapping[str, Any]) -> str:
    """What came of a request or a decision."""
    match facts.get("then", ""):
        case "the person":
            return "It is right; the person is asked."
        case "back to the app" if facts.get("error"):
            told = f": {facts['error_description']}" if facts.get("error_description") else ""
            return f"The browser went back to the app with error={facts['error']}{told}"
        case "back to the app":
            return "The browser went back to the app with a code."
        case "a page that explains":
            return f"The browser stays here, on a page ({facts.get('reason', '')}): the app hears nothing."
        case other:
            return str(other)


def _step(one: Seen) -> str:
    if one.kind == "step":
        page = str(one.facts.get("page", ""))
        return f"The person sees: {_STEPS.get(page, page)}."
    granted = " ".join(str(scope) for scope in one.facts.get("granted", ()))
    said = f"She {one.facts.get('decision', '')}" + (f": {granted}" if granted else "")
    return f"{said}. {_came(one.facts)}"


def _token(one: Seen, asked: Sequence[str]) -> Token:
    answer = cast("Mapping[str, Any]", one.facts.get("answer", {}))
    granted = tuple(str(answer.get("scope", "")).split())
    return Token(
        one.number,
        str(one.facts.get("grant_type", "")),
        str(one.facts.get("authenticated_by", "")),
        one.status,
        one.ms,
        granted,
        tuple(scope for scope in asked if scope not in granted) if granted else (),
        json.dumps(answer, indent=2),
        _simulated(one),
    )


def _call(one: Seen) -> Call:
    facts = one.facts
    why = (
        f"{facts.get('reason', '')}: {facts.get('sentence', '')}"
        if facts.get("reason")
        else ", ".join(str(scope) for scope in facts.get("scopes", ()))
    )
    entries = str(facts["entries"]) if "entries" in facts else ""
    return Call(one.number, one.method, one.address, one.status, one.ms, bool(facts.get("cached")), entries, why, _simulated(one))


def _simulated(one: Seen) -> str:
    name = str(one.facts.get("simulated", ""))
    return FAULTS[name].title if name in FAULTS else name


def _state(seen: Sequence[Seen], wanted: TrialWanted) -> tuple[str, bool]:
    """Where it is, and whether that is a bad end."""
    last = next((one for one in reversed(seen) if one.kind in ("authorize", "step", "consent", "token", "fhir")), None)
    if last is None:
        return ("The service has not asked for a token yet." if wanted.kind == "backend" else "The app has not asked for anything yet."), False
    if last.kind == "fhir":
        count = sum(one.kind == "fhir" for one in seen)
        refused = f" The last one was answered {last.status}." if last.status >= 400 else ""
        return f"The app reads the record: {count} request{'s' if count > 1 else ''} so far.{refused}", last.status >= 400
    if last.kind == "token":
        answer = cast("Mapping[str, Any]", last.facts.get("answer", {}))
        if last.status == 200:
            return "The app has its token.", False
        return f"The token endpoint refused: {answer.get('error', last.status)}. {answer.get('error_description', '')}".strip(), True
    if last.kind == "step":
        return _step(last), False
    return _came(last.facts), bool(last.facts.get("error")) or last.facts.get("then") == "a page that explains"
