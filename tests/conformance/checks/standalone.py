"""A2: standalone launch, confidential symmetric client."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import httpx

from tests.conformance.check import Fail, Group, Missing, Outcome, Skip, Warn, verdict
from tests.conformance.checks import tls
from tests.conformance.context import Context, Json, Launched, brief, json_of
from tests.conformance.launches import ABOUT_PATIENTS, LAUNCHES, clinical, scopes_of

GROUP = Group("standalone")
_ID = r"[A-Za-z0-9.-]{1,64}"
_RELATIVE = re.compile(rf"[A-Z][A-Za-z]+/{_ID}(/_history/{_ID})?")
_TYPE = re.compile(r"[A-Z][A-Za-z]+")
SEARCHES = {
    "AllergyIntolerance": {},
    "CarePlan": {"category": "assess-plan"},
    "CareTeam": {"status": "active"},
    "Condition": {},
    "Device": {},
    "DiagnosticReport": {"category": "LAB"},
    "DocumentReference": {},
    "Goal": {},
    "Immunization": {},
    "MedicationRequest": {"intent": "order"},
    "Observation": {"category": "laboratory"},
    "Procedure": {},
    "Encounter": {},
    "ServiceRequest": {},
    "Coverage": {},
    "MedicationDispense": {},
}
"""How each type is searched for besides `patient` (A2.21)."""
STATUSES = {
    "CarePlan": "active,completed",
    "CareTeam": "proposed,active,suspended,inactive,entered-in-error",
    "Device": "active",
    "MedicationRequest": "active,completed",
    "DocumentReference": "current",
    "Goal": "active",
}


@GROUP.check("A2.11", "standalone_auth_tls, standalone_token_tls", 231)
def encrypted(at: Context) -> Outcome:
    """The authorization and token endpoints speak TLS 1.2 or later, and nothing older."""
    return tls.judged(at, "authorization_endpoint", "token_endpoint")


@GROUP.check("A2.12", "smart_app_redirect_stu2", 48, 49)
def redirected(at: Context) -> Outcome:
    """The browser comes back with the same state, whether it was sent by GET or by POST."""
    answers = {"GET": at.launch("standalone"), "POST": at.once("launch:posted", lambda: at.begin(replace(LAUNCHES["standalone"], method="POST")))}
    return verdict(problem for method, launched in answers.items() for problem in _back(method, launched))


@GROUP.check("A2.13", "smart_code_received")
def code(at: Context) -> Outcome:
    """It comes with a code and without an error."""
    answer = at.launch("standalone").arrived.answer
    return verdict(["there is no code"] * (not answer.get("code")) + [f"error={answer.get('error')}"] * ("error" in answer))


@GROUP.check("A2.14", "smart_token_exchange_stu2_2")
def exchanged(at: Context) -> Outcome:
    """The code is exchanged by a form, HTTP Basic and the PKCE verifier: 200 and JSON."""
    launched = at.launch("standalone")
    _ = launched.code
    return is_json(launched.exchanged)


@GROUP.check("A2.15", "smart_token_response_body_stu2_2")
def body(at: Context) -> Outcome:
    """The token response has access_token, token_type, expires_in and scope, each of its type; fhirContext is well-formed."""
    launched = at.launch("standalone")
    return tokens(launched.tokens, asked=launched.wish.scope)


@GROUP.check("A2.16", "smart_token_response_headers")
def headers(at: Context) -> Outcome:
    """No cache keeps the token response."""
    return never_stored(at.launch("standalone").exchanged)


@GROUP.check("A2.17", "smart_cors_token_exchange")
def cors(at: Context) -> Outcome:
    """A public client in a browser may read the token response."""
    at.offered("client-public")
    answer = at.launch("public").exchanged
    if answer is None:
        raise Missing("the public client has no code")
    allowed = answer.headers.get("access-control-allow-origin")
    return verdict([f"Access-Control-Allow-Origin is {allowed}"] * (allowed not in ("*", at.config.origin)))


@GROUP.check("A2.18", "g10_smart_scopes")
def scopes(at: Context) -> Outcome:
    """All that was asked for is granted, well-formed, and what is about patients at the level patient/."""
    return granted(at.launch("standalone"), level="patient", context="openid fhirUser launch/patient offline_access")


@GROUP.check("A2.19", "g10_unauthorized_access")
def unauthorized(at: Context) -> Outcome:
    """Without a token the patient is not shown: 401."""
    answer = at.fhir(f"Patient/{at.launch('standalone').patient}")
    return verdict([f"{answer.status_code}"] * (answer.status_code != 401))


@GROUP.check("A2.20", "g10_patient_context")
def patient(at: Context) -> Outcome:
    """With the token the patient in context can be read."""
    launched = at.launch("standalone")
    return reads_patient(at, launched, launched.access)


@GROUP.check("A2.21", "g10_unrestricted_resource_type_access")
def every_type(at: Context) -> Outcome:
    """Each type of US Core can be searched by patient."""
    launched = at.launch("standalone")
    return verdict(problem for name in ("Patient", *SEARCHES) for problem in searchable(at, name, launched))


# ---- what other launches are judged by too ----


def is_json(answer: httpx.Response | None) -> Outcome:
    """200, and a JSON object."""
    if answer is None:
        raise Missing("there is no answer of the token endpoint")
    if answer.status_code != 200:
        return verdict([f"{answer.status_code} {brief(answer)}"])
    kind = answer.headers.get("content-type", "")
    json_of(answer)
    return verdict([f"Content-Type is {kind}"] * (not kind.startswith("application/json")))


def tokens(found: Json, *, asked: str = "") -> Outcome:
    """The members of a token response. What was asked for and not granted is a warning."""
    problems = [f"{name} is no text" for name in ("access_token", "token_type", "scope") if not isinstance(found.get(name), str) or not found[name]]
    problems += [f"token_type is {found.get('token_type')}"] * (str(found.get("token_type")).lower() != "bearer")
    expires = found.get("expires_in")
    problems += ["expires_in is no number"] * (isinstance(expires, bool) or not isinstance(expires, int | float))
    problems += ["refresh_token is no text"] * ("refresh_token" in found and not isinstance(found["refresh_token"], str))
    problems += list(_context_problems(found.get("fhirContext", [])))
    missing = set(asked.split()) - set(scopes_of(found.get("scope")))
    return verdict(problems, [f"not granted: {' '.join(sorted(missing))}"] * bool(missing))


def never_stored(answer: httpx.Response | None) -> Outcome:
    """Cache-Control: no-store and Pragma: no-cache."""
    if answer is None:
        raise Missing("there is no answer of the token endpoint")
    wanted = {"Cache-Control": "no-store", "Pragma": "no-cache"}
    return verdict(f"{name} is {answer.headers.get(name)}" for name, value in wanted.items() if value not in answer.headers.get(name, "").lower())


def granted(launched: Launched, *, level: str, context: str) -> Outcome:
    """The scopes of a token response."""
    received, asked = scopes_of(launched.tokens.get("scope")), launched.wish.scope.split()
    found = clinical(launched.tokens.get("scope"))
    problems = [f"{one} was not granted" for one in context.split() if one in asked and one not in received]
    problems += [f"{one} is not well-formed" for one in received if "." in one and one not in [scope.raw for scope in found]]
    problems += [f"{one.raw} is at the wrong level" for one in found if one.type in (*ABOUT_PATIENTS, "*") and one.level != level]
    reached = {one.type for one in found if {"r", "s"} <= set(one.letters)}
    return verdict(problems + [f"{name} is not granted" for name in ABOUT_PATIENTS if name not in reached and "*" not in reached])


def reads_patient(at: Context, launched: Launched, token: str) -> Outcome:
    """The patient in context: 200, a Patient, the same."""
    answer = at.fhir(f"Patient/{launched.patient}", token)
    if answer.status_code != 200:
        return verdict([f"{answer.status_code} {brief(answer)}"])
    found = json_of(answer)
    return verdict(["it is no Patient"] * (found.get("resourceType") != "Patient") + ["it is another"] * (found.get("id") != launched.patient))


def searchable(at: Context, name: str, launched: Launched) -> Iterator[str]:
    """Problems of a search by patient; a server may ask for a status (US Core, "Search for servers requiring status")."""
    params = {"_id": launched.patient} if name == "Patient" else {"patient": launched.patient, **SEARCHES.get(name, {})}
    answer = at.search(name, params, launched.access)
    if answer.status_code == 400 and name in STATUSES and _is_outcome(answer):
        answer = at.search(name, params | {"status": STATUSES[name]}, launched.access)
    if answer.status_code != 200:
        yield f"{name}: {answer.status_code} {brief(answer)}"
    elif json_of(answer).get("type") != "searchset":
        yield f"{name}: no searchset"


def all_of(*outcomes: Outcome) -> Outcome:
    """The worst of several, with the reasons of all like it. Skipped only when all are."""
    skipped = [one for one in outcomes if isinstance(one, Skip)]
    if skipped and len(skipped) == len(outcomes):
        return skipped[0]
    return verdict([one.reason for one in outcomes if isinstance(one, Fail)], [one.reason for one in outcomes if isinstance(one, Warn)])


def _is_outcome(answer: httpx.Response) -> bool:
    return json_of(answer).get("resourceType") == "OperationOutcome"


def _back(method: str, launched: Launched) -> Iterator[str]:
    answer = launched.arrived.answer
    if not answer:
        yield f"{method}: the browser did not come back ({launched.arrived.page})"
    elif answer.get("state") != launched.asked["state"]:
        yield f"{method}: state is {answer.get('state')!r}"


def _context_problems(entries: Any) -> Iterator[str]:
    """`fhirContext`: objects that name something (SMART 2.2 "fhirContext")."""
    if not isinstance(entries, list):
        yield "fhirContext is no list"
        return
    for one in entries:
        if not isinstance(one, dict):
            yield "fhirContext has an entry that is no object"
        elif not one.keys() & {"reference", "canonical", "identifier"}:
            yield "fhirContext has an entry that names nothing"
        elif not _RELATIVE.fullmatch(str(one.get("reference", "Patient/x"))) or not _TYPE.fullmatch(str(one.get("type", "Patient"))):
            yield "fhirContext has a reference or type that is none"
        elif not str(one.get("canonical", "http")).startswith("http") or not isinstance(one.get("identifier", {}), dict):
            yield "fhirContext has a canonical or identifier that is none"
