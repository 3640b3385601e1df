"""A11: token introspection."""

from __future__ import annotations

import time
from collections.abc import Iterator

import httpx

from tests.conformance.check import Group, Outcome, Skipped, verdict
from tests.conformance.context import Context, Json, Launched, brief, json_of
from tests.conformance.launches import scopes_of

GROUP = Group("introspection")
_CONTEXT = ("patient", "encounter", "need_patient_banner", "smart_style_url", "intent", "tenant", "fhirContext")


@GROUP.check("A11.62", "smart_token_introspection_stu2_2 (request)")
def answers(at: Context) -> Outcome:
    """The introspection endpoint answers with JSON."""
    answer = introspect(at, at.launch("standalone").access)
    kind = answer.headers.get("content-type", "")
    return verdict([f"{answer.status_code} {brief(answer)}"] * (answer.status_code != 200) + [f"Content-Type is {kind}"] * ("json" not in kind))


@GROUP.check("A11.63", "smart_token_introspection_stu2_2 (active token)", 277)
def active(at: Context) -> Outcome:
    """It says of a token what the token response said: client, scope, launch context, and who signed in."""
    names = ["standalone"] + ["ehr"] * ("symmetric" in at.config.clients and _can_start(at))
    problems, warnings = [], []
    for name in names:
        launched = at.launch(name)
        found = json_of(introspect(at, launched.access))
        problems += [f"{name}: {one}" for one in _differences(at, launched, found)]
        warnings += [f"{name}: fhirUser is {found.get('fhirUser')}" for user in [_fhir_user(at, launched)] if user and found.get("fhirUser") != user]
    return verdict(problems, warnings)


@GROUP.check("A11.64", "smart_token_introspection_stu2_2 (invalid token)")
def inactive(at: Context) -> Outcome:
    """Of what is no token it says that it is not active, and nothing else."""
    answer = introspect(at, "invalid_token_value")
    if answer.status_code != 200:
        return verdict([f"{answer.status_code} {brief(answer)}"])
    found = json_of(answer)
    more = sorted(found.keys() - {"active"})
    return verdict([f"active is {found.get('active')!r}"] * (found.get("active") is not False), [f"it says {', '.join(more)} too"] * bool(more))


@GROUP.check("A11.65", "(HL7: Bearer at the introspection endpoint)", 282, 283)
def bearer(at: Context) -> Outcome:
    """Where the endpoint is guarded, a Bearer token opens it, also for tokens of other clients."""
    token, url = at.launch("standalone").access, at.endpoint("introspection_endpoint")
    if at.http.post(url, data={"token": token}, headers={"Accept": "application/json"}).status_code == 200:
        raise Skipped("the introspection endpoint is open to anybody")
    asked = {"its own": at.launch("standalone")} | ({"another client's": at.launch("public")} if "public" in at.config.clients else {})
    problems = []
    for whose, launched in asked.items():
        answer = introspect(at, launched.access, authorization=f"Bearer {token}")
        if answer.status_code != 200 or json_of(answer).get("active") is not True:
            problems.append(f"{whose} token: {answer.status_code} {brief(answer)}")
    return verdict(problems)


def introspect(at: Context, token: str, *, authorization: str = "") -> httpx.Response:
    """POST, with the authorization of the configuration, else as the symmetric client."""
    header = authorization or at.config.introspection_authorization
    headers = {"Accept": "application/json"} | ({"Authorization": header} if header else {})
    basic = None if header else at.authentication(at.client("symmetric"))[1]
    return at.http.post(at.endpoint("introspection_endpoint"), data={"token": token}, headers=headers, auth=basic)


def _can_start(at: Context) -> bool:
    try:
        at.launch("ehr")
    except Skipped:
        return False
    return True


def _fhir_user(at: Context, launched: Launched) -> str:
    return str(at.identity(launched).claims.get("fhirUser", "")) if "id_token" in launched.tokens else ""


def _differences(at: Context, launched: Launched, found: Json) -> Iterator[str]:
    tokens = launched.tokens
    if found.get("active") is not True:
        yield f"active is {found.get('active')!r}"
        return
    if found.get("client_id") != launched.app.id:
        yield f"client_id is {found.get('client_id')}"
    if sorted(scopes_of(found.get("scope"))) != sorted(scopes_of(tokens.get("scope"))):
        yield "scope is not that of the token response"
    if not isinstance(found.get("exp"), int | float) or found["exp"] < time.time() - 600:
        yield "exp is missing or past"
    for name in _CONTEXT:
        if name in tokens and found.get(name) != tokens[name]:
            yield f"{name} is {found.get(name)!r}"
    if "id_token" in tokens:
        claims = at.identity(launched).claims
        yield from (f"{name} is not that of the id_token" for name in ("iss", "sub") if found.get(name) != claims.get(name))
