"""The launcher's trials through the real HTTP edge: each fault, what is seen, and that enforcement stays on."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from joserfc import jwk, jwt
from joserfc.errors import JoseError
from sqlalchemy import select

from gateway import compose, local
from gateway.audit import to_fhir
from gateway.errors import ConfigError
from gateway.sandbox.double import Double, served
from gateway.smart.server import faults
from gateway.smart.server.authorization.launches import Wanted
from gateway.smart.server.faults import FAULTS
from gateway.smart.server.people.accounts import Passwords
from gateway.smart.server.trials import Trial, Trials, TrialWanted
from gateway.smart.server.values import Caller
from gateway.store import oauth as rows
from gateway.store import oauth_tables, people_factors, trial_tables
from gateway.store import trials as trial_store
from gateway.store.base import now
from gateway.store.oauth_rows import Launch, ListedPatient, digest
from tests.support import smart
from tests.support.smart import APP, PASSWORD, Browser, Pkce
from tests.support.two_people import Two
from tests.support.whole_in_process import PUBLIC_URL, Whole, whole

TWO = Two("t")
A = TWO.a
SCOPE = "launch openid fhirUser offline_access patient/Patient.r patient/Observation.rs patient/Condition.rs"
STANDALONE = SCOPE.replace("launch ", "launch/patient ", 1)
CALLER = Caller("test", "192.0.2.9")
READS = (f"Patient/{A}", "Observation", "Condition")


@dataclass
class Ride:
    """What an app met on its way. It is careless: whatever it gets, it goes on."""

    browser: Browser
    answer: dict[str, str] = field(default_factory=dict)
    token: httpx.Response | None = None
    refreshed: httpx.Response | None = None
    got: set[str] = field(default_factory=set)
    answers: list[httpx.Response] = field(default_factory=list)
    secrets: list[str] = field(default_factory=list)

    @property
    def body(self) -> dict[str, Any]:
        return self.token.json() if self.token is not None else {}


@dataclass
class World:
    """A gateway with the launcher on, two apps, a backend, and people."""

    at: Whole
    trials: Trials
    key: smart.BackendKey

    def browser(self) -> Browser:
        return Browser(self.at.asgi)

    async def start(self, by: str = "record", **more: Any) -> Any:
        """By the record system, which may launch for anybody; `by` "": by the launcher's page."""
        wanted = {"ehr": "hapi", "client_id": "app", "patient": A, "user": "ann"} | more
        return await self.trials.start(TrialWanted(**wanted), CALLER, by)

    def in_trial(self, browser: Browser, trial_id: str) -> Browser:
        browser.http.cookies.set("__Host-gw_trial", trial_id, domain="gateway.test")
        return browser

    async def ride(self, started: Any, scope: str = SCOPE, *, client_id: str = "app", username: str = "ann", **more: str) -> Ride:
        """A launch from beginning to end, and everything that can be had with it."""
        pkce, browser = Pkce(), self.browser()
        ride = Ride(browser, secrets=[pkce.verifier])
        request = smart.asking(client_id, scope, pkce, nonce="n-1", **more)
        if started is not None and started.launch:
            request["launch"] = started.launch
            ride.secrets.append(started.launch)
        elif started is not None:
            self.in_trial(browser, started.trial_id)
        await browser.authorize(request)
        if "/signin" in str(browser.page.request.url):
            await browser.sign_in(username)
        if "/consent" in str(browser.page.request.url):
            await browser.allow()
        ride.answer = browser.answer
        if "code" not in ride.answer:
            return ride
        form = {"grant_type": "authorization_code", "code": ride.answer["code"], "redirect_uri": APP, "code_verifier": pkce.verifier}
        ride.token = await self.exchange(form, client_id)
        ride.secrets.append(ride.answer["code"])
        if ride.token.status_code == 200:
            await self.use(ride, ride.body["access_token"])
        if "refresh_token" in ride.body:
            form = {"grant_type": "refresh_token", "refresh_token": ride.body["refresh_token"]}
            ride.refreshed = await self.exchange(form, client_id)
            if ride.refreshed.status_code == 200:
                await self.use(ride, ride.refreshed.json()["access_token"])
        for answer in (ride.body, ride.refreshed.json() if ride.refreshed is not None else {}):
            ride.secrets += [answer[name] for name in ("access_token", "refresh_token", "id_token") if name in answer]
        return ride

    async def exchange(self, form: Mapping[str, str], client_id: str = "app") -> httpx.Response:
        auth = ("web", "secret-of-web") if client_id == "web" else None
        return await smart.exchange(self.browser().http, dict(form) | ({} if auth else {"client_id": client_id}), auth=auth)

    async def use(self, ride: Ride, token: str) -> None:
        for path in READS:
            found = await self.at.fhir(token, "GET", path)
            ride.answers.append(found)
            if found.status_code == 200:
                resource = found.json()
                inside = [one["resource"] for one in resource.get("entry", [])] if resource["resourceType"] == "Bundle" else [resource]
                ride.got |= {f"{one['resourceType']}/{one['id']}" for one in inside}

    async def seen(self, started: Any, after: int = 0) -> list[dict[str, Any]]:
        answer = await self.at.http.get(f"{PUBLIC_URL}/launcher/trials/{started.trial_id}/events?after={after}")
        assert answer.status_code == 200, answer.text
        return answer.json()["events"]

    async def records(self, action: str) -> list[Any]:
        return [one for one in await self.at.gateway.state.audit.search(limit=400) if one.action == action]


@pytest.fixture(scope="module", autouse=True)
def quick() -> Iterator[None]:
    """Real argon2id, as cheap as it gets; slow servers that are a little less slow."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compose, "Passwords", lambda: Passwords(time_cost=1, memory=64))
        patch.setattr(faults, "TOKEN_SLOW", 0.1)
        patch.setattr(faults, "FHIR_SLOW", 0.1)
        yield


@pytest.fixture(scope="module")
def ehr_url() -> Iterator[str]:
    double = Double()
    double.seed(*TWO.resources())
    with served(double) as url:
        yield url


async def furnish(at: Whole, key: smart.BackendKey) -> None:
    state = at.gateway.state
    registrar, accounts = local.registrar(state, ("hapi",)), local.accounts(state)
    app = {"redirect_uris": [APP], "launch_uri": "https://app.test/launch", "client_uri": "https://app.test/"}
    for name, more in (("app", {}), ("other", {"redirect_uris": ["https://other.test/cb"]})):
        await registrar.register(app | {"client_id": name, "token_endpoint_auth_method": "none"} | more)
    for name in ("web", "web-2"):
        await registrar.register(app | {"client_id": name, "client_secret": f"secret-of-{name}"})
    keys = {"grant_types": ["client_credentials"], "jwks": {"keys": [key.public]}}
    for name in ("lab", "lab-2"):
        await registrar.register({"client_id": name, "scope": "system/Observation.rs"} | keys)
    await registrar.register({"client_id": "record", "scope": "gateway.launch"} | keys)
    for name, user, listed in (("ann", f"Patient/{A}", ()), ("berg", "Practitioner/berg", (A,)), ("dora", "Practitioner/dora", ())):
        patients = [ListedPatient(one) for one in listed]
        await accounts.add(name, PASSWORD, ehr="hapi", fhir_user=user, patients=patients)


@pytest.fixture(scope="module")
async def world(tmp_path_factory: pytest.TempPathFactory, ehr_url: str) -> AsyncIterator[World]:
    folder, key = tmp_path_factory.mktemp("gateway"), smart.BackendKey()
    async with whole(ehr_url, folder, deliver=False, launcher_enabled=True, launcher_users="dora, ann-dev") as at:
        await furnish(at, key)
        assert at.gateway.trials is not None
        yield World(at, at.gateway.trials, key)


@pytest.fixture(scope="module")
async def honest(world: World) -> set[str]:
    """What a launch without a fault gives."""
    ride = await world.ride(await world.start())
    assert ride.refreshed is not None
    assert ride.refreshed.status_code == 200
    assert ride.got == {f"Patient/{A}", *(TWO_OWN)}
    return ride.got


TWO_OWN = {f"Observation/{TWO.id('lab-a')}", f"Observation/{TWO.id('vital-a')}", f"Condition/{TWO.id('cond-a')}"}

# Faults -----------------------------------------------------------------------------------------------------------------


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
    really = {"error": "invalid_grant", "error_description": "code is too old: it lives 60 seconds."}  # as in test_oauth_token
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
    page = (Path(__file__).parents[2] / "docs" / "trials-over-http.md").read_text("utf-8")
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
