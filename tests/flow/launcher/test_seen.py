"""What a developer sees of her trial and what is on record of it; backend services; never a secret."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import unquote

import httpx
import pytest
from sqlalchemy import select

from gateway.audit import to_fhir
from gateway.store import oauth_tables, trial_tables
from gateway.store import trials as trial_store
from gateway.store.base import now
from gateway.store.oauth_rows import digest
from tests.support import smart
from tests.support.launcher_world import READS, SCOPE, STANDALONE, A, World
from tests.support.smart import Pkce
from tests.support.whole_in_process import PUBLIC_URL

# What is seen -----------------------------------------------------------------------------------------------------------


async def test_a_whole_launch_is_seen(world: World):
    """In order, numbered without gaps, with who allowed what; the rest by `after`."""
    started = await world.start(client_id="web")
    origin = {"Origin": "https://app.test"}
    await world.at.http.get(f"{world.at.base}/.well-known/smart-configuration", headers=origin)
    ride = await world.ride(started, client_id="web")
    access, basic = ride.body["access_token"], ("web", "secret-of-web")
    await world.at.fhir(access, "GET", READS[0], Cache_Control="no-cache")
    await world.at.fhir(access, "GET", "Appointment?status=booked")
    await world.at.http.post(f"{PUBLIC_URL}/auth/hapi/introspect", data={"token": access}, auth=basic)
    asked = await world.at.http.post(f"{PUBLIC_URL}/auth/hapi/introspect", data={"token": access}, auth=("web-2", "secret-of-web-2"))
    assert asked.json()["active"]  # by another client, of which the developer hears nothing
    await world.at.http.post(f"{PUBLIC_URL}/auth/hapi/revoke", data={"token": access}, auth=basic)
    await world.at.fhir(access, "GET", READS[0])
    seen = await world.seen(started)
    assert [one["number"] for one in seen] == list(range(1, len(seen) + 1))
    kinds = [one["kind"] for one in seen]
    assert kinds == [
        "discovery",
        "authorize",
        "step",
        "step",
        "consent",
        "token",
        *["fhir"] * 3,
        "token",
        *["fhir"] * 5,
        "introspect",
        "revoke",
        "fhir",
    ]
    authorize, signing, asking, consent, token = seen[1:6]
    assert dict(authorize["facts"]["parameters"])["scope"] == SCOPE
    assert [signing["facts"]["page"], asking["facts"]["page"]] == ["sign-in", "consent"]
    assert consent["facts"]["granted"] == SCOPE.split()
    facts = token["facts"]
    assert (facts["grant_type"], facts["authenticated_by"], facts["answer"]["patient"]) == ("authorization_code", "client_secret_basic", A)
    assert facts["answer"]["access_token"] == "(43 characters)"
    assert facts["answer"]["id_token"]["claims"]["aud"] == "web"
    patient, observations = seen[6], seen[7]
    assert (patient["method"], patient["address"], patient["status"]) == ("GET", f"/fhir/hapi/Patient/{A}", 200)
    assert patient["facts"]["scopes"] == ["patient/Patient.r"]
    assert observations["facts"]["entries"] == 2
    told = ["hit" in one.headers["cache-status"] for one in ride.answers]
    assert [seen[place]["facts"]["cached"] for place in (6, 7, 8, 10, 11, 12, 13)] == [*told, False]
    refused = seen[14]
    assert (refused["status"], refused["facts"]["reason"], refused["address"]) == (403, "scope-missing", "/fhir/hapi/Appointment?status=booked")
    assert "no scope" in refused["facts"]["sentence"]
    assert seen[15]["facts"]["answer"]["active"] is True
    assert (seen[17]["status"], seen[17]["facts"]["reason"]) == (401, "token-revoked")
    assert await world.seen(started, after=15) == seen[15:]


async def test_no_event_holds_a_secret(world: World):
    """Neither what is stored nor what is shown has a token, a code, a verifier, a handle, a secret or the id of the trial."""
    rides, ids = [], []
    for client_id, name in (("app", ""), ("web", "refresh-revoked"), ("web", "fhir-expired")):
        started = await world.start(client_id=client_id, fault=name)
        rides.append(await world.ride(started, client_id=client_id))
        ids.append(started)
    request = smart.asking("app", STANDALONE, client_secret="secret-of-web", id_token_hint=rides[0].body["id_token"])
    alone = await world.start(kind="standalone")
    await world.in_trial(world.browser(), alone.trial_id).authorize(request)
    ids.append(alone)
    sent = await world.at.fhir(rides[0].body["access_token"], "GET", f"Observation?access_token={rides[0].body['access_token']}")
    assert sent.status_code == 401
    where, token = f"{world.at.base}/.well-known/smart-configuration", rides[0].body["access_token"]
    assert (await world.at.http.get(f"{where}?access_token={token}", headers={"Origin": "https://app.test"})).status_code == 200
    assert (await world.seen(ids[-1]))[-1]["kind"] == "discovery"
    secrets = {secret for ride in rides for secret in ride.secrets} | {one.trial_id for one in ids} | {"secret-of-web"}
    shown = json.dumps([await world.seen(one) for one in ids])
    async with world.at.gateway.state.database.read() as connection:
        tables = [trial_tables.trial, trial_tables.trial_event]
        stored = [repr(tuple(row)) for table in tables for row in await connection.execute(select(table))]
        labelled = [repr(tuple(row)) for row in await connection.execute(select(oauth_tables.grant))]
    opened = repr([await world.trials.seen(one.trial_id) for one in ids])
    audited = repr(await world.at.gateway.state.audit.search(limit=400))
    assert len(secrets) > 15
    for secret in secrets:
        assert not [where for where in (shown, opened, audited, *stored, *labelled) if secret in where]
    assert A.encode() not in b"".join(row.sealed for row in await _events(world))


MISPLACED = {
    "in the path": ("GET", "Patient/{}", "Patient/(43 characters)"),
    "in a version": ("GET", "Observation/{}/_history/1", "Observation/(43 characters)/_history/1"),
    "with other letters": ("GET", "Patient/Bearer%20{}", "Patient/(52 characters)"),
    "where the sentence quotes the path": ("POST", "Observation/{}/_history/1", "Observation/(43 characters)/_history/1"),
    "in a parameter": ("GET", "Observation?_id={}&status=final", "Observation?_id=(43 characters)&status=final"),
    "in a reference": ("GET", "Observation?subject=Patient/{}", "Observation?subject=Patient/(43 characters)"),
    "as a name": ("GET", "Observation?{}", "Observation?(43 characters)"),
    "as a name of its own": ("GET", "Observation?refresh%5Ftoken={}", "Observation?refresh%5Ftoken=(a token, which does not belong there)"),
    "as a code": ("GET", "Observation?code={}", "Observation?code=(43 characters)"),
}


async def test_a_secret_in_an_address_is_not_kept(world: World):
    """A token, a code or a handle in the path or the query of a call, written plainly or encoded; codes of searches are none, and are shown."""
    started = await world.start()
    ride = await world.ride(started)
    token, before = ride.body["access_token"], (await world.seen(started))[-1]["number"]
    for secret in (token, ride.body["refresh_token"], ride.answer["code"], started.launch):
        for method, path, _ in MISPLACED.values():
            await world.at.fhir(token, method, path.format(secret))
        letters = "".join(f"%{ord(letter):02x}" for letter in secret)
        for encoded in (letters, letters.replace("%", "%25")):
            await world.at.fhir(token, "GET", f"Patient/{encoded}")
            await world.at.fhir(token, "GET", f"Observation?_id={encoded}")
        await world.at.fhir(token, "GET", f"Patient/{ride.body['id_token']}")
    seen = await world.seen(started, after=before)
    told = [one["address"].removeprefix("/fhir/hapi/") for one in seen]
    assert told[: len(MISPLACED)] == [shown for *_, shown in MISPLACED.values()]
    kept = json.dumps(seen) + json.dumps([unquote(one["address"]) for one in seen]) + json.dumps([unquote(unquote(one["address"])) for one in seen])
    for secret in (*ride.secrets, *(digest(one) for one in ride.secrets)):
        assert secret not in kept
    await world.at.fhir(token, "GET", "Observation?code=http://loinc.org|718-7&_sort=-date")
    assert (await world.seen(started))[-1]["address"] == "/fhir/hapi/Observation?code=http://loinc.org|718-7&_sort=-date"


async def test_a_secret_of_another_name_is_not_kept_of_a_request(world: World):
    """In the authorization request and at the token endpoint too; what only looks like one (state, nonce, PKCE) is shown."""
    before = await world.start()
    first = await world.ride(before)
    started = await world.start(kind="standalone")
    token, state = first.body["access_token"], "s" * 43
    asked = smart.asking("app", f"{STANDALONE} {token}", state=state, hint=token, nonce="n" * 43)
    await world.in_trial(world.browser(), started.trial_id).authorize(asked)
    renewal = {"grant_type": "refresh_token", "refresh_token": first.body["refresh_token"], "scope": token, "resource": token}
    assert (await world.exchange(renewal)).status_code == 400
    assert token not in json.dumps([await world.seen(before), await world.seen(started)])
    request = next(one for one in await world.seen(started) if one["kind"] == "authorize")
    parameters = dict(request["facts"]["parameters"])
    shown = (parameters["hint"], parameters["state"], parameters["nonce"], len(parameters["code_challenge"]))
    assert shown == ("(43 characters)", state, "n" * 43, 43)


async def _events(world: World) -> list[Any]:
    async with world.at.gateway.state.database.read() as connection:
        return list(await connection.execute(select(trial_tables.trial_event)))


async def test_who_has_no_id_sees_nothing(world: World):
    """An id that is none, the label, and a number that is none."""
    started = await world.start()
    for id_ in ("x" * 43, digest(started.trial_id), "%00", "a" * 5000):
        assert (await world.at.http.get(f"{PUBLIC_URL}/launcher/trials/{id_}/events")).status_code == 404
    for after in ("-1", "1e9", "9999999999", "%D9%A1"):
        assert (await world.at.http.get(f"{PUBLIC_URL}/launcher/trials/{started.trial_id}/events?after={after}")).status_code == 400
    assert await world.trials.seen("x" * 43) == ()


async def test_a_discovery_from_elsewhere_is_nobodys(world: World):
    """Without an origin, with a foreign one, or at another time."""
    started = await world.start()
    for headers in ({}, {"Origin": "https://evil.test"}, {"Origin": "null"}):
        await world.at.http.get(f"{world.at.base}/.well-known/smart-configuration", headers=headers)
    assert await world.seen(started) == []


async def test_a_stranger_cannot_fill_a_trial(world: World):
    """Anybody can read the discovery documents with the web origin of somebody's app: a few of them are kept, and all of what the app does."""
    started = await world.start()
    for _ in range(60):
        await world.at.http.get(f"{world.at.base}/.well-known/smart-configuration", headers={"Origin": "https://app.test"})
    await world.ride(started)
    kinds = [one["kind"] for one in await world.seen(started)]
    assert kinds.count("discovery") == 20
    assert {"authorize", "token", "fhir"} <= set(kinds)


async def test_a_record_that_fails_breaks_nothing(world: World, honest: set[str]):
    """The launch goes on as if nobody looked."""
    started = await world.start()

    async def fails(*_: Any) -> None:
        raise ValueError("no")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trial_store, "add_events", fails)
        ride = await world.ride(started)
        await world.trials.settled()
    assert ride.got == honest
    assert await world.seen(started) == []


async def test_a_pushed_request_is_seen(world: World):
    """RFC 9126: the request, and then the browser that brings its name."""
    started, pkce = await world.start(client_id="web", fault="denied"), Pkce()
    request = smart.asking("web", SCOPE, pkce, launch=started.launch)
    pushed = await world.at.http.post(f"{PUBLIC_URL}/auth/hapi/par", data=request, auth=("web", "secret-of-web"))
    browser = world.browser()
    await browser.authorize({"client_id": "web", "request_uri": pushed.json()["request_uri"]})
    await browser.sign_in("ann")
    await browser.allow()
    assert browser.answer["error"] == "access_denied"
    seen = await world.seen(started)
    assert [one["kind"] for one in seen] == ["push", "authorize", "step", "step", "consent"]
    assert seen[-1]["facts"]["simulated"] == "denied"
    assert pushed.json()["request_uri"].rpartition(":")[2] not in json.dumps(seen)


# Backend services -------------------------------------------------------------------------------------------------------


async def backend(world: World, client_id: str, **more: str) -> httpx.Response:
    audience = f"{PUBLIC_URL}/auth/hapi/token"
    form = smart.asserted(world.key.assertion(client_id, moment=now(), audience=audience), **more)
    return await world.at.http.post(audience, data=form)


async def test_a_backend_service_names_its_trial_itself(world: World):
    """Nobody else can put it into one: it proves who it is in the same request."""
    started = await world.start(kind="backend", client_id="lab", fault="token-scope", user="", patient="")
    assert started.url == ""
    refused = await backend(world, "lab", trial=started.trial_id)
    assert (refused.status_code, refused.json()["error"]) == (400, "invalid_scope")
    for client_id, trial in (("lab", ""), ("lab", "x" * 43), ("lab-2", started.trial_id)):
        assert (await backend(world, client_id, **({"trial": trial} if trial else {}))).status_code == 200
    seen = await world.seen(started)
    assert [(one["kind"], one["facts"].get("simulated")) for one in seen] == [("token", "token-scope")]
    assert seen[0]["facts"]["authenticated_by"] == "private_key_jwt"
    assert started.trial_id not in json.dumps(seen)


async def test_what_a_backend_service_does_is_seen(world: World):
    """Its calls too; and an assertion is used up by a simulated refusal as by any."""
    started = await world.start(kind="backend", client_id="lab", fault="fhir-throttled", user="", patient="")
    token = (await backend(world, "lab", trial=started.trial_id)).json()["access_token"]
    assert (await world.at.fhir(token, "GET", "Observation")).status_code == 429
    assert [one["kind"] for one in await world.seen(started)] == ["token", "fhir"]
    started = await world.start(kind="backend", client_id="lab", fault="client-refused", user="", patient="")
    audience = f"{PUBLIC_URL}/auth/hapi/token"
    form = smart.asserted(world.key.assertion("lab", moment=now(), audience=audience), trial=started.trial_id)
    assert (await world.at.http.post(audience, data=form)).status_code == 401
    del form["trial"]
    assert (await world.at.http.post(audience, data=form)).status_code == 401


# On record --------------------------------------------------------------------------------------------------------------


async def test_each_start_is_on_record(world: World):
    """With the name of the fault, and of the system that asked."""
    await world.start("", user="dora", fault="fhir-down")
    found = (await world.records("trial"))[0]
    assert (found.status, found.client_id, found.detail) == (201, "app", "ehr, simulated: fhir-down")
    launched = (await world.records("launch"))[0]
    assert (launched.patients, launched.detail) == ((A,), "by the launcher")


@pytest.mark.parametrize(
    ("name", "action", "reason"),
    [
        ("unknown-client", "authorize", "client-unknown"),
        ("wrong-aud", "authorize", "invalid_request"),
        ("denied", "grant-refused", "access_denied"),
        ("state-changed", "grant", ""),
        ("client-refused", "token", "invalid_client"),
        ("id-token-expired", "token", ""),
        ("fhir-expired", "login", "token-expired"),
        ("fhir-scope", "read", "scope-missing"),
        ("fhir-slow", "read", ""),
        ("fhir-down", "read", "ehr-unreachable"),
    ],
)
async def test_what_is_simulated_is_on_record_as_that(world: World, name: str, action: str, reason: str):
    """Nobody takes it for a real refusal."""
    await world.ride(await world.start(fault=name))
    found = next(one for one in await world.records(action) if f"simulated: {name}" in one.detail)
    assert found.reason == reason
    told = to_fhir(found, A, observer="gateway").get("outcomeDesc", "")
    assert told == (f"{reason} (simulated: {name})" if reason else "")
