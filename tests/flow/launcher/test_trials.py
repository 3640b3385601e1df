"""Trials: what a developer chooses, whose a trial is, how she is signed in, over HTTP, and where the launcher is off."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import Any

import pytest
from sqlalchemy import select

from gateway import local
from gateway.errors import ConfigError
from gateway.smart.server.attempts import limits_of_trials
from gateway.smart.server.authorization.launches import Wanted
from gateway.smart.server.faults import FAULTS
from gateway.smart.server.trial import Trial, TrialWanted
from gateway.store import oauth as rows
from gateway.store import oauth_tables, people_factors
from gateway.store import trials as trial_store
from gateway.store.base import now
from gateway.store.oauth_rows import Launch, digest
from tests.support import smart
from tests.support.launcher_world import CALLER, SCOPE, STANDALONE, TWO, TWO_OWN, A, World, furnish
from tests.support.smart import APP, PASSWORD, Pkce
from tests.support.whole_in_process import PUBLIC_URL, Whole, whole

# What a developer chooses -----------------------------------------------------------------------------------------------


async def test_scopes_are_capped(world: World):
    """By the algebra of a client's registration: what is not within the cap is not granted, whatever is asked."""
    started = await world.start(scopes="openid patient/Observation.rs")
    ride = await world.ride(started, "launch openid offline_access patient/Patient.r patient/Observation.s patient/Condition.rs")
    assert set(ride.body["scope"].split()) == {"launch", "openid", "patient/Observation.s"}
    assert ride.got == {one for one in TWO_OWN if one.startswith("Observation")}


async def test_lives_are_shorter_and_never_longer(world: World):
    """What is had in a trial ends with it, a day after its start."""
    short = (await world.ride(await world.start(access_life=60, refresh_life=600))).body
    assert short["expires_in"] == 60
    long = (await world.ride(await world.start(access_life=80000))).body
    assert long["expires_in"] == 3600
    async with world.at.gateway.state.database.read() as connection:
        for body, seconds in ((short, 600), (long, 86400)):
            refresh = await rows.refresh_token(connection, digest(body["refresh_token"]))
            assert refresh is not None
            assert refresh.expires_at <= now() + timedelta(seconds=seconds)


async def test_a_standalone_trial_suggests_its_patient(world: World):
    """Only one that the person may pick anyway."""
    started = await world.start(kind="standalone", patient=A, user="")
    ride = await world.ride(started, STANDALONE, username="berg")
    assert ride.body["patient"] == A
    browser = world.in_trial(world.browser(), (await world.start(kind="standalone", patient=TWO.b)).trial_id)
    await browser.authorize(smart.asking("app", STANDALONE))
    await browser.sign_in("ann")
    await browser.allow()
    assert "code" in browser.answer


@pytest.mark.parametrize(
    ("where", "more"),
    [
        ("ehr", {"ehr": "nowhere"}),
        ("client_id", {"client_id": "nobody"}),
        ("kind", {"kind": "sideways"}),
        ("kind", {"kind": "backend"}),
        ("fault", {"fault": "earthquake"}),
        ("access_life", {"access_life": 1}),
        ("refresh_life", {"refresh_life": 99999999}),
        ("scopes", {"scopes": "patient/observation"}),
        ("launch_url", {"launch_url": "http://elsewhere.test/launch"}),
        ("launch_url", {"launch_url": "javascript:alert(1)"}),
        ("user", {"user": "nobody"}),
        ("user", {"user": "", "by": ""}),
        ("user", {"user": "ann", "patient": TWO.b}),
        ("user", {"user": "berg", "patient": TWO.b, "by": ""}),
        ("patient", {"user": "dora", "patient": "not/an/id"}),
        ("intent", {"intent": "\n"}),
    ],
)
async def test_what_is_wrong_is_said_with_its_field(world: World, where: str, more: dict[str, Any]):
    """So that the page can say it there."""
    with pytest.raises(ConfigError) as caught:
        await world.start(**more)
    assert caught.value.where == where
    assert caught.value.fix


async def test_the_launcher_gives_its_word_for_developers_alone(world: World):
    """A launch lets staff see a patient who is not on their list: from the page, those of [launcher] users only.

    Everybody else gets one answer, whether there is such a person, and whosever record it is.
    """
    ride = await world.ride(await world.start("", user="dora", patient=TWO.b), "launch patient/Condition.rs", username="dora")
    assert ride.body["patient"] == TWO.b
    told: set[str] = set()
    for user in ("berg", "ann", "nobody"):
        for patient in (A, TWO.b):
            with pytest.raises(ConfigError) as caught:
                await world.start("", user=user, patient=patient)
            told.add(f"{caught.value.where}: {caught.value.message} {caught.value.fix}")
    assert len(told) == 1


async def test_a_launch_url_of_ones_own(world: World):
    """An app on the developer's machine, in place of the registered address."""
    started = await world.start(launch_url="http://localhost:9000/launch?x=1")
    assert started.url.startswith(f"http://localhost:9000/launch?x=1&iss=https%3A%2F%2Fgateway.test%2Ffhir%2Fhapi&launch={started.launch}")
    alone = await world.start(kind="standalone")
    assert alone.url == "https://app.test/?iss=https%3A%2F%2Fgateway.test%2Ffhir%2Fhapi"


# Whose trial it is ------------------------------------------------------------------------------------------------------


async def test_a_cookie_counts_for_its_app_alone(world: World):
    """Another app in the same browser is not in the trial; nor is the app itself after ten minutes."""
    started = await world.start(kind="standalone", fault="invalid-scope")
    browser = world.in_trial(world.browser(), started.trial_id)
    await browser.authorize(smart.asking("other", STANDALONE, redirect_uri="https://other.test/cb"))
    await browser.sign_in("ann")
    await browser.allow()
    assert "code" in browser.answer
    assert await world.seen(started) == []
    later = now() + timedelta(seconds=601)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(world.trials, "_clock", lambda: later)
        ride = await world.ride(started, STANDALONE)
    assert ride.token is not None
    assert ride.token.status_code == 200
    assert await world.seen(started) == []


async def test_a_cookie_that_is_made_up(world: World):
    """Nothing happens; neither does a cookie that names the label, which is in the store and no secret."""
    started = await world.start(kind="standalone", fault="invalid-scope")
    for cookie in ("x" * 43, digest(started.trial_id)[:43]):
        browser = world.in_trial(world.browser(), cookie)
        await browser.authorize(smart.asking("app", STANDALONE))
        assert "/signin" in str(browser.page.request.url)
    assert await world.seen(started) == []
    assert len(started.trial_id) == 43
    launched = await world.start(fault="invalid-scope")  # the id of a launch's trial is no standalone one
    browser = world.in_trial(world.browser(), launched.trial_id)
    await browser.authorize(smart.asking("app", STANDALONE))
    assert "/signin" in str(browser.page.request.url)
    assert await world.seen(launched) == []


async def test_an_ehr_launch_is_in_its_own_trial(world: World):
    """A browser with the cookie of another trial goes on in that of the launch; a launch without a trial is in none."""
    alone, launched = await world.start(kind="standalone", fault="denied"), await world.start()
    browser = world.in_trial(world.browser(), alone.trial_id)
    await browser.authorize(smart.asking("app", SCOPE, launch=launched.launch))
    assert (await world.seen(launched))[0]["kind"] == "authorize"
    plain = await local.launches(world.at.gateway.state).create(Wanted("hapi", "app", A))
    await browser.authorize(smart.asking("app", SCOPE, launch=plain.launch))
    assert await world.seen(alone) == []


async def test_a_launch_in_other_hands_is_in_no_trial(world: World):
    """Another app that brings the handle is refused as always, and its developer's trial shows nothing of it."""
    started = await world.start(fault="invalid-scope")
    browser = world.browser()
    await browser.authorize(smart.asking("other", SCOPE, launch=started.launch, redirect_uri="https://other.test/cb"))
    assert browser.answer["error"] == "invalid_request"
    form = smart.asking("other", SCOPE, launch=started.launch, redirect_uri="https://other.test/cb")
    assert (await world.at.http.post(f"{PUBLIC_URL}/auth/hapi/par", data=form)).json()["error"] == "invalid_request"
    assert await world.seen(started) == []


async def test_a_token_of_another_client_shows_nothing(world: World):
    """A code that somebody else brings is refused, and is no event of the trial."""
    started, browser, pkce = await world.start(), world.browser(), Pkce()
    code = await smart.code_for(browser, smart.asking("app", SCOPE, pkce, launch=started.launch))
    before = len(await world.seen(started))
    form = {"grant_type": "authorization_code", "code": code, "redirect_uri": APP, "code_verifier": pkce.verifier}
    assert (await world.exchange(form, "other")).status_code == 400
    assert len(await world.seen(started)) == before


async def test_somebody_who_is_no_developer_is_told_and_asked(world: World):
    """The consent page says that the app is watched, and what she chose once and for all does not answer in a trial."""
    browser = world.browser()
    await browser.authorize(smart.asking("web", STANDALONE))
    await browser.sign_in("ann")
    assert "developers" not in browser.page.text
    await browser.submit("/auth/hapi/consent", decision="allow", remember="yes")
    assert "code" in browser.answer
    browser.left_to = ""
    await browser.authorize(smart.asking("web", STANDALONE))
    assert "code" in browser.answer
    browser.left_to = ""
    world.in_trial(browser, (await world.start(kind="standalone", client_id="web")).trial_id)
    await browser.authorize(smart.asking("web", STANDALONE))
    assert browser.left_to == ""
    assert "developers" in browser.page.text


# Developers' sessions ---------------------------------------------------------------------------------------------------


async def test_a_developer_is_signed_in_without_a_password(world: World):
    """On record, in a session that says how it began; and it changes nothing of how she signs in."""
    secret = await world.trials.session_for("Dora", "hapi", CALLER)
    sessions = world.at.gateway.people._sessions
    visitor = await sessions.current(secret)
    assert visitor is not None
    assert (visitor.account.username, visitor.session.method) == ("dora", "launcher")
    assert not sessions.is_fresh(visitor)
    assert (await world.records("login"))[0].detail == "by the launcher, without a password"
    browser = world.browser()
    browser.http.cookies.set("__Host-gw_session", secret, domain="gateway.test")
    started = await world.start(user="dora")
    await browser.authorize(smart.asking("app", SCOPE, launch=started.launch))
    await browser.allow()
    assert "code" in browser.answer


async def test_nobody_else_is(world: World):
    """Not listed, not there, of another EHR, closed, or guarded by more than a password."""
    state = world.at.gateway.state
    accounts, factors = local.accounts(state), local.factors(state)
    dev = await accounts.add("ann-dev", PASSWORD, ehr="hapi", fhir_user=f"Patient/{A}")
    for name, ehr in (("ann", "hapi"), ("berg", "hapi"), ("nobody", "hapi"), ("", "hapi"), ("dora", "other")):
        assert await world.trials.session_for(name, ehr, CALLER) == ""
    assert await world.trials.session_for("ann-dev", "hapi", CALLER)
    async with state.database.write() as connection:
        await people_factors.begin_totp(connection, people_factors.Totp(dev.id, b"x", now()))
    assert await world.trials.session_for("ann-dev", "hapi", CALLER)  # begun and never confirmed: it guards nothing yet
    async with state.database.write() as connection:
        found = await people_factors.totp(connection, dev.id)
        assert found is not None
        await people_factors.confirm_totp(connection, found, at=now(), step=1)
    assert await world.trials.session_for("ann-dev", "hapi", CALLER) == ""
    await factors.reset(dev)
    assert await world.trials.session_for("ann-dev", "hapi", CALLER)
    async with state.database.write() as connection:
        await people_factors.add_passkey(connection, people_factors.Passkey("p" * 64, dev.id, b"id", b"key", 0, "phone", now()))
    assert await world.trials.session_for("ann-dev", "hapi", CALLER) == ""
    await factors.reset(dev)
    assert await world.trials.session_for("ann-dev", "hapi", CALLER)
    await accounts.disable(dev)
    assert await world.trials.session_for("ann-dev", "hapi", CALLER) == ""


# Over HTTP, and off -----------------------------------------------------------------------------------------------------


async def may_launch(at: Whole, key: smart.BackendKey) -> dict[str, str]:
    audience = f"{PUBLIC_URL}/auth/hapi/token"
    form = smart.asserted(key.assertion("record", moment=now(), audience=audience), scope="gateway.launch")
    return {"Authorization": f"Bearer {(await at.http.post(audience, data=form)).json()['access_token']}"}


async def test_a_harness_starts_a_trial(world: World):
    """POST /api/launches with one of the launcher's members; without them it is as it was, and tells nothing of trials."""
    headers, body = await may_launch(world.at, world.key), {"ehr": "hapi", "client_id": "app", "patient": A, "user": "ann"}
    url = f"{PUBLIC_URL}/api/launches"
    plain = await world.at.http.post(url, json=body, headers=headers)
    assert plain.json().keys() == {"iss", "launch", "launch_url"}
    more = {"fault": "fhir-throttled", "access_life": 60, "scopes": "patient/Patient.r"}
    answer = (await world.at.http.post(url, json=body | more, headers=headers)).json()
    assert answer["launch_url"].endswith(answer["launch"])

    @dataclass
    class Launched:
        trial_id: str
        launch: str

    ride = await world.ride(Launched(answer["trial"], answer["launch"]))
    assert (ride.body["expires_in"], ride.body["scope"]) == (60, "launch patient/Patient.r")
    assert ride.answers[0].status_code == 429
    events = (await world.at.http.get(answer["events"])).json()["events"]
    assert [(one["status"], one["facts"].get("simulated")) for one in events if one["kind"] == "fhir"] == [
        (429, "fhir-throttled"),
        (403, None),
        (403, None),
    ]
    anybody = await world.at.http.post(url, json=body | {"user": "", "patient": TWO.b, "scopes": ""}, headers=headers)
    assert anybody.status_code == 201  # the system has the operator's word
    wrong = await world.at.http.post(url, json=body | {"fault": "x"}, headers=headers)
    assert (wrong.status_code, wrong.json()["error_description"].startswith("fault: ")) == (400, True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(world.trials, "_limits", partial(limits_of_trials, most=600, most_of_system=0, window=600))
        many = await world.at.http.post(url, json=body | more, headers=headers)
        assert (await world.at.http.post(url, json=body, headers=headers)).status_code == 201  # no trial
    assert (many.status_code, many.json()["error"]) == (429, "temporarily_unavailable")
    assert f"Try again in {many.headers['retry-after']} seconds." in many.json()["error_description"]
    described = (await world.at.http.get(f"{PUBLIC_URL}/api/openapi.json")).json()["components"]["schemas"]
    assert set(FAULTS) < set(described["LaunchRequest"]["properties"]["fault"]["enum"])


async def test_where_the_launcher_is_off(tmp_path, ehr_url):
    """No address of it is there, its members are refused with a sentence, and a label that is left over means nothing."""
    key = smart.BackendKey()
    async with whole(ehr_url, tmp_path, deliver=False) as at:
        await furnish(at, key)
        assert at.gateway.trials is None
        assert (await at.http.get(f"{PUBLIC_URL}/launcher/trials/{'x' * 43}/events")).status_code == 404
        headers, body = await may_launch(at, key), {"ehr": "hapi", "client_id": "app", "patient": A, "user": "ann"}
        refused = await at.http.post(f"{PUBLIC_URL}/api/launches", json=body | {"fault": "denied", "scopes": ""}, headers=headers)
        assert (refused.status_code, refused.json()["error_description"]) == (400, "fault, scopes: only where the launcher is enabled.")
        described = (await at.http.get(f"{PUBLIC_URL}/api/openapi.json")).json()["components"]["schemas"]
        assert "fault" not in described["LaunchRequest"]["properties"]
        state = at.gateway.state
        async with state.database.write() as connection:
            row = trial_store.TrialRow("l" * 64, "hapi", "app", {}, now(), now() + timedelta(days=1))
            await trial_store.add(connection, row)
            handle = "h" * 43
            launch = Launch(digest(handle), "hapi", "app", A, "", "", True, "open", now() + timedelta(minutes=5), trial="l" * 64)
            await rows.add_launch(connection, launch)
        off = World(at, None, key)

        @dataclass
        class Launched:
            launch: str

        ride = await off.ride(Launched(handle))
        assert ride.got == {f"Patient/{A}", *TWO_OWN}
        async with state.database.read() as connection:
            assert {row.trial for row in await connection.execute(select(oauth_tables.grant))} == {""}
            assert (await trial_store.trial(connection, "l" * 64)).events == 0


def test_a_trial_says_what_it_is_of():
    """Values that the page shows."""
    moment = now()
    trial = Trial("l", TrialWanted("hapi", "app", fault="denied"), moment, moment)
    assert (trial.ehr, trial.client_id, trial.fault) == ("hapi", "app", "denied")
