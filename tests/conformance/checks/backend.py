"""A12: backend services, and bulk export where it is offered."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator, Mapping
from typing import Any

import httpx

from tests.conformance.check import Group, Missing, Outcome, Skipped, verdict
from tests.conformance.checks.standalone import all_of, tokens
from tests.conformance.config import App
from tests.conformance.context import Context, Json, brief, json_of, text
from tests.conformance.jose import Key, encode
from tests.conformance.key_server import KeyServer

GROUP = Group("backend")
_LONGEST = 300  # seconds that a system's token lives at most (HL7@262)


@GROUP.check("A12.66", "smart_backend_services_invalid_grant_type")
def grant_type(at: Context) -> Outcome:
    """An unknown grant_type is refused by 400."""
    app = at.keyed("backend")
    answer = at.ask_token(None, at.backend_form(app, at.signed(app), grant_type="not_a_grant_type"))
    return verdict([f"{answer.status_code}"] * (answer.status_code != 400))


@GROUP.check("A12.67", "smart_backend_services_invalid_client_assertion")
def assertion_type(at: Context) -> Outcome:
    """An unknown client_assertion_type is refused: 400 or 401."""
    app = at.keyed("backend")
    answer = at.ask_token(None, at.backend_form(app, at.signed(app), client_assertion_type="not_an_assertion_type"))
    return verdict([f"{answer.status_code}"] * (answer.status_code not in (400, 401)))


@GROUP.check("A12.68", "smart_backend_services_invalid_jwt")
def no_jwt(at: Context) -> Outcome:
    """An assertion that is no JWT is refused: 400 or 401."""
    app = at.keyed("backend")
    answers = [at.ask_token(None, at.backend_form(app, sent)) for sent in ("not_a_jwt", "a.b.c", "")]
    return verdict(f"{one.status_code}" for one in answers if one.status_code not in (400, 401))


@GROUP.check("A12.69", "smart_backend_services_auth_request_success")
def success(at: Context) -> Outcome:
    """A good assertion is exchanged for a token."""
    answer = at.backend()
    return verdict([f"{answer.status_code} {brief(answer)}"] * (answer.status_code not in (200, 201)))


@GROUP.check("A12.70", "smart_backend_services_auth_response_body", 248, 262)
def body(at: Context) -> Outcome:
    """Its answer has the members of a token response, no refresh token, and a life of five minutes at most."""
    found = json_of(at.backend())
    expires = found.get("expires_in")
    long = isinstance(expires, int | float) and expires > _LONGEST
    return all_of(tokens(found), verdict(["there is a refresh_token"] * ("refresh_token" in found)), verdict((), [f"expires_in is {expires}"] * long))


@GROUP.check("A12.71", "(HL7: assertions that must be refused)", 335, 336, 337, 338, 339, 340)
def bad_assertions(at: Context) -> Outcome:
    """Every wrong assertion is refused as invalid_client, by 400 or 401."""
    app = at.keyed("backend")
    problems = [one for name, signed in _bad(at, app) if (one := _taken(at, app, name, signed))]
    return verdict(problems + list(_duplicate_kid(at)))


@GROUP.check("A12.72", "(HL7: keys by URL and by value)", 296, 297, 341)
def key_sets(at: Context) -> Outcome:
    """Keys count by value and by URL; a URL is asked for JSON, and its answer kept no longer than it says."""
    _ = at.backend()
    if at.config.served_keys is None:
        raise Skipped("no client whose keys this suite serves by URL is in the configuration")
    app, problems = at.config.served_keys.app, []
    old, new = Key.new("EC", "first"), Key.new("RSA", "second")
    with KeyServer(at.config.served_keys) as served:
        for keys, used, wanted in (([old], old, True), ([new], new, True), ([new], old, False)):
            served.keys = [one.public for one in keys]
            if keys != [new] or used == new:
                time.sleep(served.at.life + 0.1)  # what was said about the keys before has run out
            answer = at.ask_token(None, at.backend_form(app, at.signed(app, key=used)))
            if (answer.status_code in (200, 201)) != wanted:
                problems.append(f"a key that {'is' if wanted else 'was'} in the set: {answer.status_code} {brief(answer)}")
        problems += [f"the URL was asked with Accept: {one}" for one in served.accepts if "json" not in one]
    return verdict(problems)


@GROUP.check("A12.73", "(HL7: scope beyond registration)", 250)
def scope(at: Context) -> Outcome:
    """A scope that was not agreed on is refused as invalid_scope."""
    app = at.keyed("backend")
    answer = at.ask_token(None, at.backend_form(app, at.signed(app), scope="patient/Patient.rs system/Nonsense.cruds"))
    problems = [f"{answer.status_code}"] * (answer.status_code != 400)
    return verdict(problems + [f"error is {_error(answer)}"] * (_error(answer) != "invalid_scope"))


@GROUP.check("A12.74", "bulk_data_group_export, bulk_data_patient_export")
def bulk(at: Context) -> Outcome:
    """An export is kicked off, polled, downloaded by those who may, and ended."""
    path = _export(at)
    token = text(json_of(at.backend()), "access_token")
    anonymous = at.fhir(path, Prefer="respond-async")
    problems = [f"without a token: {anonymous.status_code}"] * (anonymous.status_code not in (400, 401))
    for query in (*(f"_outputFormat={one}" for one in ("application/fhir%2Bndjson", "application/ndjson", "ndjson")), "_since=2000-01-01T00:00:00Z"):
        kicked = at.fhir(f"{path}?{query}", token, Prefer="respond-async")
        problems += [f"{query}: {kicked.status_code}"] * (kicked.status_code != 202)
        problems += _cancelled(at, kicked, token, query) if kicked.status_code == 202 else ()
    return verdict([*problems, *_exported(at, at.fhir(path, token, Prefer="respond-async"), token)])


def _error(answer: httpx.Response) -> str:
    return str(json_of(answer).get("error")) if "json" in answer.headers.get("content-type", "") else "not JSON"


def _taken(at: Context, app: App, name: str, signed: str) -> str:
    """What is wrong with the answer to a wrong assertion, or "". 400 says invalid_client too: the assertion is what is wrong (RFC 7521 4.2.1)."""
    answer = at.ask_token(None, at.backend_form(app, signed))
    if answer.status_code not in (400, 401):
        return f"{name}: {answer.status_code}"
    return "" if _error(answer) == "invalid_client" else f"{name}: {_error(answer)}"


def _bad(at: Context, app: App) -> Iterator[tuple[str, str]]:
    """Every wrong assertion, by what is wrong with it."""
    now, key = int(time.time()), app.key
    if key is None:
        raise Missing("the backend client has no key")
    other = Key.new("EC" if key.algorithm == "ES384" else "RSA", key.kid)
    crossed = Key.new("RSA" if key.algorithm == "ES384" else "EC", key.kid)
    claims: Mapping[str, Mapping[str, Any]] = {
        "aud wrong": {"aud": "https://elsewhere.example/token"},
        "aud missing": {"aud": None},
        "iss missing": {"iss": None},
        "iss not sub": {"iss": "somebody-else"},
        "unknown client": {"iss": "nobody-registered", "sub": "nobody-registered"},
        "exp missing": {"exp": None},
        "exp past": {"exp": now - 120},
        "exp too far": {"exp": now + 900},
        "nbf future": {"nbf": now + 120},
        "jti missing": {"jti": None},
    }
    yield from ((name, at.signed(app, **wrong)) for name, wrong in claims.items())
    headers: Mapping[str, Mapping[str, Any]] = {
        "kid unknown": {"kid": secrets.token_hex(8)},
        "kid missing": {"kid": None},
        "jku not registered": {"jku": "https://elsewhere.example/jwks.json"},
    }
    yield from ((name, at.signed(app, header=wrong)) for name, wrong in headers.items())
    yield "wrong signature", at.signed(app, key=other)
    yield "embedded jwk", at.signed(app, key=other, header={"jwk": other.public})
    yield "kty not of alg", at.signed(app, key=crossed)
    yield "alg none", at.signed(app, header={"alg": "none"}, signer=None)
    for algorithm in ("HS256", "HS384"):
        yield f"alg {algorithm}", at.signed(app, header={"alg": algorithm}, signer=encode(str(key.public).encode()).encode())
    again = at.signed(app)
    if at.ask_token(None, at.backend_form(app, again)).status_code in (200, 201):
        yield "jti again", again
        jti = secrets.token_hex(16)
        at.ask_token(None, at.backend_form(app, at.signed(app, jti=jti)))
        yield "jti again, another assertion", at.signed(app, jti=jti, exp=now + 200)


def _duplicate_kid(at: Context) -> Iterator[str]:
    """Two keys with one id, where this suite serves the keys."""
    if at.config.served_keys is None:
        return
    app, one = at.config.served_keys.app, Key.new("EC", "twin")
    with KeyServer(at.config.served_keys) as served:
        served.keys = [one.public, Key.new("EC", "twin").public]
        if problem := _taken(at, app, "kid twice", at.signed(app, key=one)):
            yield problem


def _export(at: Context) -> str:
    """Where an export starts. Raises Skipped when the CapabilityStatement lists none."""
    rest = next(iter(at.metadata.get("rest") or ()), {})
    offered = {one.get("type") for one in rest.get("resource") or () for op in one.get("operation") or () if op.get("name") in ("export", "$export")}
    offered |= {one.get("type") for one in rest.get("resource") or () for op in one.get("operation") or () if "-export" in str(op.get("definition"))}
    if "Group" in offered and at.config.bulk_group:
        return f"Group/{at.config.bulk_group}/$export"
    if "Patient" in offered:
        return "Patient/$export"
    raise Skipped("the CapabilityStatement lists no export of Group or Patient")


def _poll(at: Context, kicked: httpx.Response, token: str) -> httpx.Response:
    """The status when it is no longer 202."""
    for _ in range(120):
        answer = at.fhir(kicked.headers["content-location"], token, Accept="application/json")
        if answer.status_code != 202:
            return answer
        waits = answer.headers.get("retry-after", "")
        time.sleep(min(int(waits), 10) if waits.isdecimal() else 1)
    raise Missing("the export did not end")


def _cancelled(at: Context, kicked: httpx.Response, token: str, name: str) -> Iterator[str]:
    where = kicked.headers.get("content-location", "")
    if not where.startswith("http"):
        yield f"{name}: Content-Location is {where!r}"
        return
    deleted = at.http.delete(where, headers={"Authorization": f"Bearer {token}"})
    if deleted.status_code != 202:
        yield f"{name}: DELETE answered {deleted.status_code}"
    after = at.fhir(where, token, Accept="application/json")
    if after.status_code != 404 or json_of(after).get("resourceType") != "OperationOutcome":
        yield f"{name}: after DELETE the status is {after.status_code}"


def _exported(at: Context, kicked: httpx.Response, token: str) -> Iterator[str]:
    if kicked.status_code != 202 or not kicked.headers.get("content-location"):
        yield f"kick-off: {kicked.status_code} without a status address"
        return
    done = json_of(_poll(at, kicked, token))
    yield from (f"the status lacks {name}" for name in ("transactionTime", "request", "requiresAccessToken", "output", "error") if name not in done)
    files: list[Json] = done.get("output") or []
    yield from (f"an output has url {one.get('url')}" for one in files if not str(one.get("url")).startswith("http") or not one.get("type"))
    if files and done.get("requiresAccessToken"):
        anonymous = at.get(files[0]["url"], Accept="application/fhir+ndjson")
        yield from [f"a file without a token: {anonymous.status_code}"] * (anonymous.status_code not in (400, 401))
    patients = [line for one in files if one.get("type") == "Patient" for line in at.fhir(one["url"], token, Accept="*/*").text.splitlines() if line]
    if len(patients) < 2:
        yield f"{len(patients)} patients were exported"
