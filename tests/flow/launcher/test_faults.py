"""Each simulated error through the real HTTP edge: it looks like the real thing, and gives nothing that there was not without it."""

from __future__ import annotations

import re
from datetime import timedelta
from pathlib import Path

import pytest
from joserfc import jwk, jwt
from joserfc.errors import JoseError

from gateway.smart.server import faults
from gateway.smart.server.faults import FAULTS
from gateway.store import oauth as rows
from gateway.store.base import now
from gateway.store.oauth_rows import digest
from tests.support import smart
from tests.support.launcher_world import READS, SCOPE, STANDALONE, A, World
from tests.support.smart import APP, Pkce
from tests.support.whole_in_process import PUBLIC_URL


@pytest.mark.parametrize("name", list(FAULTS))
async def test_a_fault_takes_away_and_never_gives(world: World, honest: set[str], name: str):
    """Whatever is simulated, an app that does not care about anything gets nothing that it would not have got without."""
    ride = await world.ride(await world.start(fault=name))
    assert ride.got <= honest


async def test_a_standalone_trial_gives_the_same(world: World, honest: set[str]):
    """Its label comes by the browser, and not by the launch."""
    assert (await world.ride(await world.start(kind="standalone"), STANDALONE)).got == honest
    assert (await world.ride(await world.start(kind="standalone", fault="fhir-scope"), STANDALONE)).got == set()


PAGES = {
    "unknown-client": ("client-unknown", {"client_id": "nobody"}),
    "unknown-redirect": ("redirect-not-registered", {"redirect_uri": "https://x.test"}),
}


@pytest.mark.parametrize("name", PAGES)
async def test_a_page_and_no_redirect(world: World, name: str):
    """ATK-O1: an unknown client and an unknown address are told to the person alone, as they really are."""
    reason, really = PAGES[name]
    ride = await world.ride(await world.start(fault=name))
    assert (ride.browser.page.status_code, ride.browser.left_to) == (400, "")
    assert reason in ride.browser.page.text
    real = await world.browser().authorize(smart.asking("app", SCOPE) | really)
    assert ride.browser.page.text == real.text


BACK = {
    "invalid-scope": ("invalid_scope", {"scope": "patient/Nothing.rs"}),
    "wrong-aud": ("invalid_request", {"aud": "https://elsewhere.test"}),
    "server-error": ("server_error", None),
    "server-busy": ("temporarily_unavailable", None),
    "denied": ("access_denied", None),
}


@pytest.mark.parametrize("name", BACK)
async def test_an_error_comes_back_to_the_app(world: World, name: str):
    """RFC 6749 4.1.2.1, with state and iss, in the words of the real refusal."""
    error, really = BACK[name]
    ride = await world.ride(await world.start(kind="standalone", fault=name), STANDALONE)
    assert ride.answer["error"] == error
    assert (ride.answer["state"], ride.answer["iss"]) == ("st-1", world.at.base)
    if really:
        browser = world.browser()
        await browser.authorize(smart.asking("app", STANDALONE) | really)
        assert browser.answer == ride.answer


async def test_state_and_iss_can_lie(world: World):
    """A code comes, and the app has to throw it away."""
    changed = await world.ride(await world.start(fault="state-changed"))
    assert changed.answer["state"] != "st-1"
    assert changed.answer["iss"] == world.at.base
    other = await world.ride(await world.start(fault="other-iss"))
    assert (other.answer["state"], other.answer["iss"]) == ("st-1", faults.OTHER_ISSUER)


async def test_the_token_endpoint_refuses(world: World):
    """Each refusal has the status and body of the real one, and the code is not used up by it."""
    client = await world.ride(await world.start(client_id="web", fault="client-refused"), client_id="web")
    assert client.token is not None
    wrong = await smart.exchange(world.browser().http, {"grant_type": "authorization_code", "code": "x"}, auth=("web", "wrong"))
    assert (client.token.status_code, client.token.json(), client.token.headers["www-authenticate"]) == (
        (401, wrong.json(), wrong.headers["www-authenticate"])
    )
    expired = await world.ride(await world.start(fault="code-expired"))
    assert expired.token is not None
    really = {"error": "invalid_grant", "error_description": "code is too old: it lives 60 seconds."}  # as in tokens/test_codes
    assert (expired.token.status_code, expired.token.json()) == (400, really)
    down = await world.ride(await world.start(fault="token-down"))
    assert down.token is not None
    assert (down.token.status_code, down.token.json()["error"]) == (503, "temporarily_unavailable")
    assert down.token.headers["retry-after"] == str(faults.PAUSE)
    async with world.at.gateway.state.database.read() as connection:
        code = await rows.code(connection, digest(down.answer["code"]))
    assert code is not None
    assert code.state == "issued"


async def test_a_slow_token_endpoint(world: World):
    """It answers as always, later."""
    ride = await world.ride(await world.start(fault="token-slow"))
    assert ride.token is not None
    assert ride.token.status_code == 200
    assert ride.token.elapsed >= timedelta(seconds=0.1)


async def test_no_patient(world: World):
    """Neither token response names one, nor that of a refresh; everything else is as it would be."""
    ride = await world.ride(await world.start(fault="no-patient"))
    assert ride.refreshed is not None
    for body in (ride.body, ride.refreshed.json()):
        assert "patient" not in body
        assert body["scope"]


@pytest.mark.parametrize("name", [one for one in FAULTS if one.startswith("id-token")])
async def test_an_id_token_that_has_to_be_refused(world: World, name: str):
    """OpenID Connect Core 3.1.3.7: signature, end, audience and nonce; everything but what is simulated is right."""
    ride = await world.ride(await world.start(fault=name))
    keys = jwk.KeySet.import_key_set((await world.at.http.get(f"{PUBLIC_URL}/auth/hapi/jwks")).json())
    moment = int(now().timestamp())
    try:
        claims = jwt.decode(ride.body["id_token"], keys, algorithms=["RS256"]).claims
    except JoseError:
        assert name == "id-token-unknown-key"
        return
    wrong = {
        "id-token-expired": claims["exp"] <= moment - 3000,
        "id-token-other-aud": claims["aud"] != "app",
        "id-token-other-nonce": claims["nonce"] != "n-1",
    }
    assert {one for one, found in wrong.items() if found} == {name}


async def test_a_refresh_refuses(world: World):
    """The first tokens work; then 400 as it would really be said, and after a revocation every token of the launch is a 401."""
    cases = (
        ("refresh-scope", "invalid_scope", "scope may be less"),
        ("refresh-expired", "invalid_grant", "refresh_token is too old"),
        ("refresh-revoked", "invalid_grant", "This access was ended"),
    )
    for name, error, words in cases:
        ride = await world.ride(await world.start(fault=name))
        assert ride.refreshed is not None
        assert (ride.refreshed.status_code, ride.refreshed.json()["error"]) == (400, error)
        assert ride.refreshed.json()["error_description"].startswith(words)
        assert [one.status_code for one in ride.answers] == [200, 200, 200]
        after = await world.at.fhir(ride.body["access_token"], "GET", READS[0])
        assert after.status_code == (401 if name == "refresh-revoked" else 200)


FHIR = {
    "fhir-expired": (401, "login"),
    "fhir-unknown": (401, "login"),
    "fhir-scope": (403, "forbidden"),
    "fhir-throttled": (429, "throttled"),
    "fhir-unavailable": (503, "transient"),
    "fhir-down": (502, "transient"),
    "fhir-timeout": (504, "timeout"),
}


@pytest.mark.parametrize("name", FHIR)
async def test_the_record_system_refuses(world: World, name: str):
    """Each with its status, issue code and headers."""
    status, code = FHIR[name]
    ride = await world.ride(await world.start(fault=name))
    assert ride.got == set()
    for answer in ride.answers:
        assert (answer.status_code, answer.json()["issue"][0]["code"]) == (status, code)
    headers = ride.answers[0].headers
    if status == 401:
        assert headers["www-authenticate"] == 'Bearer realm="fhir", error="invalid_token"'
    if status == 403:
        assert 'error="insufficient_scope"' in headers["www-authenticate"]
    if status in (429, 503):
        assert headers["retry-after"] == str(faults.PAUSE)


async def test_a_real_401_looks_the_same(world: World):
    """Nobody can tell a simulated end from a real one, but by the record."""
    simulated = (await world.ride(await world.start(fault="fhir-unknown"))).answers[0]
    real = await world.at.fhir("x" * 43, "GET", READS[0])
    assert simulated.json()["issue"][0] | {"diagnostics": ""} == real.json()["issue"][0] | {"diagnostics": ""}


async def test_a_slow_record_system(world: World, honest: set[str]):
    """It gives everything, later."""
    ride = await world.ride(await world.start(fault="fhir-slow"))
    assert ride.got == honest
    assert all(one.elapsed >= timedelta(seconds=0.1) for one in ride.answers)


async def test_a_write_whose_answer_is_lost(world: World):
    """504, and nobody knows."""
    scope = "launch patient/Patient.r patient/Communication.cr"
    ride = await world.ride(await world.start(fault="fhir-timeout"), scope)
    body = {"resourceType": "Communication", "status": "in-progress", "subject": {"reference": f"Patient/{A}"}}
    answer = await world.at.fhir(ride.body["access_token"], "POST", "Communication", body)
    assert (answer.status_code, "outcome" in answer.text.lower()) == (504, True)
    assert "may or may not" in answer.text


def test_every_fault_has_its_test():
    """None is added without."""
    identity = {one for one in FAULTS if one.startswith("id-token")}
    lone = {"state-changed", "other-iss", "client-refused", "code-expired", "token-slow", "token-down", "no-patient", "token-scope", "fhir-slow"}
    refresh = {"refresh-scope", "refresh-expired", "refresh-revoked"}
    assert set(FAULTS) == {*PAGES, *BACK, *FHIR, *identity, *lone, *refresh}


def test_the_page_lists_every_fault():
    """As the table in the code has them, word for word."""
    page = (Path(__file__).parents[3] / "docs" / "trials-over-http.md").read_text("utf-8")
    found = re.findall(r"^\| `([a-z-]+)` \| (authorize|token|refresh|fhir) \| (.*) \|$", page, re.MULTILINE)
    assert found == [(one.name, one.moment, one.sees) for one in FAULTS.values()]


async def test_what_is_really_wrong_goes_first(world: World):
    """A fault never hides a mistake of the app, and no real refusal is on record as simulated."""
    started = await world.start(kind="standalone", fault="invalid-scope")
    browser = world.in_trial(world.browser(), started.trial_id)
    await browser.authorize(smart.asking("app", STANDALONE, aud="https://elsewhere.test"))
    assert browser.answer["error"] == "invalid_request"
    assert "simulated" not in (await world.seen(started))[-1]["facts"]
    started, pkce = await world.start(fault="token-down"), Pkce()
    browser = world.browser()
    code = await smart.code_for(browser, smart.asking("app", SCOPE, pkce, launch=started.launch))
    form = {"grant_type": "authorization_code", "code": code, "redirect_uri": APP, "code_verifier": Pkce().verifier}
    assert (await world.exchange(form)).status_code == 400
    assert "simulated" not in (await world.seen(started))[-1]["facts"]
    found = await world.records("token")
    assert found[0].detail == ""


async def test_a_real_refusal_is_recorded_as_real(world: World):
    """A token that was taken back, and a person who says no, under a fault of that moment."""
    ride = await world.ride(await world.start(fault="fhir-expired"))
    await world.at.http.post(f"{PUBLIC_URL}/auth/hapi/revoke", data={"token": ride.body["access_token"], "client_id": "app"})
    assert (await world.at.fhir(ride.body["access_token"], "GET", READS[0])).status_code == 401
    refused = (await world.records("login"))[0]
    assert (refused.reason, refused.detail) == ("token-revoked", "")
    started, browser = await world.start(fault="state-changed"), world.browser()
    await browser.authorize(smart.asking("app", SCOPE, launch=started.launch))
    await browser.sign_in("ann")
    await browser.deny()
    assert (browser.answer["error"], browser.answer["state"]) == ("access_denied", "st-1")
    assert (await world.records("grant-refused"))[0].detail == ""
    assert "simulated" not in (await world.seen(started))[-1]["facts"]


async def test_a_simulated_no_is_not_kept(world: World):
    """Who ticks "do not ask me again" while a no is simulated is asked the next time."""
    started, browser = await world.start(client_id="web", fault="denied", user="berg"), world.browser()
    await browser.authorize(smart.asking("web", SCOPE, launch=started.launch))
    await browser.sign_in("berg")
    await browser.submit("/auth/hapi/consent", decision="allow", remember="yes")
    assert browser.answer["error"] == "access_denied"
    assert [one for one in await world.records("consent-remember") if one.fhir_user == "Practitioner/berg"] == []
