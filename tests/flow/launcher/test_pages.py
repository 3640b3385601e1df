"""The launcher's pages without a browser: the form and its mistakes, the link to share, the live view; and nothing of it where it is off."""

from __future__ import annotations

import html
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from urllib.parse import parse_qsl, urlencode, urlsplit

import pytest

from gateway import local
from gateway.errors import Unavailable
from gateway.portal.visits import Visits
from gateway.smart.server.attempts import limits_of_trials
from gateway.smart.server.faults import FAULTS
from gateway.smart.server.trial import is_secret
from gateway.store.oauth_rows import ListedPatient
from tests.support import smart
from tests.support.launcher_world import TWO
from tests.support.smart import APP, PASSWORD, Browser, Pkce
from tests.support.whole_in_process import PUBLIC_URL, Whole, whole

SCOPE = "launch openid patient/Patient.rs patient/Observation.rs"
FIELDS = (
    "ehr",
    "client_id",
    "launch_url",
    "kind",
    "who",
    "user",
    "patient",
    "visit",
    "encounter",
    "scopes",
    "access_life",
    "refresh_life",
    "fault",
    "intent",
)


@dataclass
class World:
    """A gateway with the launcher on, over the EHR double."""

    at: Whole

    def browser(self) -> Browser:
        return Browser(self.at.asgi)


async def furnish(at: Whole) -> None:
    registrar, accounts = local.registrar(at.gateway.state, ("hapi",)), local.accounts(at.gateway.state)
    names = {"redirect_uris": [APP], "launch_uri": "https://app.test/launch", "client_uri": "https://app.test/"}
    await registrar.register(names | {"client_id": "app", "client_name": "The app", "token_endpoint_auth_method": "none"})
    bare = {"redirect_uris": ["https://bare.test/cb"], "client_id": "bare", "client_name": "A bare one", "token_endpoint_auth_method": "none"}
    await registrar.register(bare)
    await accounts.add("dora", PASSWORD, ehr="hapi", fhir_user="Practitioner/dora", display_name="Dora", patients=[ListedPatient(TWO.a)])
    await accounts.add("pat", PASSWORD, ehr="hapi", fhir_user=f"Patient/{TWO.a}", display_name="Pat")
    await accounts.add("ann", PASSWORD, ehr="hapi", fhir_user=f"Patient/{TWO.a}", display_name="Ann")


@pytest.fixture(scope="module")
async def world(tmp_path_factory: pytest.TempPathFactory, ehr_url: str) -> AsyncIterator[World]:
    folder = tmp_path_factory.mktemp("gateway")
    async with whole(ehr_url, folder, deliver=False, launcher_enabled=True, launcher_users="dora, pat") as at:
        await furnish(at)
        yield World(at)


def opened(browser: Browser) -> str:
    """Where the page of a started launch sends the browser."""
    found = re.search(r'http-equiv="refresh" content="0; url=([^"]+)"', browser.page.text)
    assert found, browser.page.text
    return html.unescape(found[1])


async def live(browser: Browser) -> str:
    """The live view of what this browser started last."""
    return (await browser.get("/launcher/latest")).text


async def ridden(browser: Browser, url: str, **more: str) -> int:
    """What an app does that was opened there: authorization, token, one read. The status of the read, 0 when there was none."""
    pkce, sent = Pkce(), dict(parse_qsl(urlsplit(url).query))
    await browser.authorize(smart.asking("app", SCOPE, pkce, launch=sent["launch"], aud=sent["iss"], **more), ehr="hapi")
    if "decision" not in browser.page.text:
        return 0
    await browser.allow(ehr="hapi")
    form = {"grant_type": "authorization_code", "code": browser.answer.get("code", ""), "redirect_uri": APP, "client_id": "app"}
    token = await browser.http.post("/auth/hapi/token", data=form | {"code_verifier": pkce.verifier})
    if token.status_code != 200:
        return 0
    headers = {"Authorization": f"Bearer {token.json()['access_token']}"}
    return (await browser.http.get(f"/fhir/hapi/Patient/{TWO.a}", headers=headers)).status_code


async def test_two_clicks_to_data(world: World):
    """What the page proposes is a whole launch: Launch, Allow, and the app reads; the first tab shows all of it, and no token."""
    browser = world.browser()
    page = await browser.get("/launcher")
    assert "Dora (dora)" in page.text
    assert "The app" in page.text
    await browser.submit("/launcher")
    url = opened(browser)
    assert url.startswith("https://app.test/launch?iss=")
    assert await ridden(browser, url) == 200
    text = await live(browser)
    assert f"GET /fhir/hapi/Patient/{TWO.a}" in text
    for shown in ("It is right; the person is asked.", "authorization_code: 200", "patient/Patient.rs", "(43 characters)", "1 resource"):
        assert shown in text, shown
    assert browser.answer["code"] not in text
    assert dict(parse_qsl(urlsplit(url).query))["launch"] not in text


async def test_what_is_wrong_with_the_request_is_said_beside_it(world: World):
    """A wrong aud, a parameter that is missing: the developer sees which, and what the app hears."""
    browser = world.browser()
    await browser.get("/launcher")
    await browser.submit("/launcher")
    sent = dict(parse_qsl(urlsplit(opened(browser)).query))
    asked = smart.asking("app", SCOPE, launch=sent["launch"], aud="https://elsewhere.test")
    del asked["state"]
    await browser.authorize(asked, ehr="hapi")
    text = await live(browser)
    assert f"has to be {PUBLIC_URL}/fhir/hapi" in text
    assert "is missing" in text
    assert "error=invalid_request" in text


@pytest.mark.parametrize(("fault", "says"), [("fhir-throttled", "429"), ("invalid-scope", "error=invalid_scope"), ("code-expired", "invalid_grant")])
async def test_a_simulated_error_is_shown_as_that(world: World, fault: str, says: str):
    """Nobody takes it for a real one."""
    browser = world.browser()
    await browser.get("/launcher", fault=fault)
    await browser.submit("/launcher")
    assert await ridden(browser, opened(browser)) != 200
    text = await live(browser)
    assert f"simulated: {FAULTS[fault].title}" in text
    assert says in text


async def test_the_link_has_the_choices(world: World):
    """What is sent by the address stands in the form, and the link that it shows is the same again."""
    chosen = {
        "client_id": "bare",
        "who": f"dora|{TWO.a}",
        "kind": "standalone",
        "fault": "fhir-slow",
        "scopes": "patient/Patient.r",
        "access_life": "60",
    }
    page = await world.browser().get("/launcher", **chosen)
    link = html.unescape(re.search(r'id="share" readonly value="([^"]+)"', page.text)[1])
    sent = dict(parse_qsl(urlsplit(link).query))
    assert {name: sent[name] for name in chosen} == chosen
    again = await world.browser().get(f"/launcher?{urlsplit(link).query}")
    assert html.unescape(re.search(r'id="share" readonly value="([^"]+)"', again.text)[1]) == link


async def test_a_standalone_start_and_a_typed_address(world: World):
    """The app is opened with iss alone, at the address that was typed; the app is the one that is registered there."""
    browser = world.browser()
    await browser.get("/launcher")
    await browser.submit("/launcher", kind="standalone", launch_url="https://bare.test/dev/start")
    assert opened(browser) == f"https://bare.test/dev/start?{urlencode({'iss': f'{PUBLIC_URL}/fhir/hapi'})}"
    assert "A bare one: what it does" in await live(browser)


async def test_a_backend_service_is_told_what_to_send(world: World):
    """It has no browser: the page says by which parameter its token request belongs to the trial."""
    registrar, key = local.registrar(world.at.gateway.state, ("hapi",)), smart.BackendKey()
    keys = {"grant_types": ["client_credentials"], "jwks": {"keys": [key.public]}}
    await registrar.register({"client_id": "lab", "client_name": "The lab", "scope": "system/Observation.rs"} | keys)
    browser = world.browser()
    await browser.get("/launcher")
    await browser.submit("/launcher", kind="backend", client_id="lab")
    trial = str(browser.page.url).rpartition("/")[2]
    assert f"trial={trial}" in browser.page.text


WRONG = {
    "app": ({"client_id": "nobody"}, "That client is not registered here."),
    "typed address of nobody": ({"launch_url": "https://nobody.test/launch"}, "No app with an address there is registered."),
    "no address of its own": ({"client_id": "bare"}, "has no launch_uri"),
    "fault": ({"fault": "fire"}, "That error cannot be simulated."),
    "kind": ({"kind": "sideways"}, "That is no kind of launch."),
    "life": ({"access_life": "long"}, "That is no number of seconds."),
    "short life": ({"access_life": "1"}, "A token lives 5 to 86400 seconds here."),
    "scope": ({"scopes": "patient/*.everything"}, "Write SMART scopes, such as patient/Observation.rs."),
    "patient": ({"who": "dora|", "patient": "no id!"}, "That is not the id of a resource."),
    "ehr": ({"ehr": "other"}, "There is no such EHR."),
    "encounter of another": ({"encounter": TWO.id("visit-b1")}, "That patient has no such encounter."),
    "encounter that is picked for another": ({"visit": TWO.id("visit-b1")}, "That patient has no such encounter."),
    "encounter of nobody": ({"encounter": "nowhere"}, "That patient has no such encounter."),
    "encounter in words": ({"encounter": "the last one"}, "That is not the id of a resource."),
    "encounter without a launch": (
        {"encounter": TWO.id("visit-a1"), "kind": "standalone"},
        "Only a launch from the record system names an encounter.",
    ),
    "no developer": ({"user": "ann", "patient": TWO.a}, "for developers' accounts alone"),
}


@pytest.mark.parametrize(("fields", "says"), WRONG.values(), ids=WRONG)
async def test_a_mistake_is_one_sentence_and_keeps_the_rest(world: World, fields: dict[str, str], says: str):
    """400, the sentence with what to do, and every other choice as it was."""
    browser = world.browser()
    await browser.get("/launcher")
    await browser.submit("/launcher", **({"intent": "kept"} | fields))
    assert browser.page.status_code == 400
    assert says in html.unescape(browser.page.text)
    assert 'value="kept"' in browser.page.text
    assert "refresh" not in browser.page.headers


def offered(page: str) -> list[tuple[str, str]]:
    """The encounters to choose from: id and words."""
    listed = re.search(r'<select id="visit".*?</select>', page, re.DOTALL)
    assert listed
    return [(value, html.unescape(words)) for value, words in re.findall(r'<option value="([^"]+)"[^>]*>([^<]*)<', listed[0])]


async def test_encounters_of_the_patient_are_offered(world: World):
    """From the EHR, the newest first, no one else's; the app gets the one that is picked, and the link to share has it."""
    browser = world.browser()
    page = await browser.get("/launcher")
    assert offered(page.text) == [
        (TWO.id("visit-a2"), "3 November 2026, Check-up <2>, ambulatory, finished"),
        (TWO.id("visit-a1"), "2 March 2026, Check-up <1>, ambulatory, finished"),
    ]
    await browser.submit("/launcher", visit=TWO.id("visit-a1"))
    pkce, sent = Pkce(), dict(parse_qsl(urlsplit(opened(browser)).query))
    await browser.authorize(smart.asking("app", SCOPE, pkce, launch=sent["launch"], aud=sent["iss"]), ehr="hapi")
    await browser.allow(ehr="hapi")
    form = {"grant_type": "authorization_code", "code": browser.answer["code"], "redirect_uri": APP, "client_id": "app"}
    token = await browser.http.post("/auth/hapi/token", data=form | {"code_verifier": pkce.verifier})
    assert token.json()["encounter"] == TWO.id("visit-a1")
    again = re.search(r'<p class="back"><a href="([^"]+)"', await live(browser))
    assert again
    link = html.unescape(again[1]).removeprefix(PUBLIC_URL)
    assert f'value="{TWO.id("visit-a1")}" selected' in (await browser.get(link)).text


async def test_encounters_of_another_patient_are_asked_for_by_a_button(world: World):
    """Without scripts: the page comes back with them, the choices as they were, and nothing was started."""
    browser = world.browser()
    await browser.get("/launcher")
    page = await browser.submit("/launcher", look="encounters", who="", user="Dora ", patient=TWO.b, intent="kept")
    assert page.status_code == 200
    assert [id_ for id_, _ in offered(page.text)] == [TWO.id("visit-b1")]
    assert 'value="kept"' in page.text
    assert str((await browser.get("/launcher/latest")).url).endswith("/launcher")
    page = await world.browser().get("/launcher", who="", user="ann", patient=TWO.a)  # no developer: nothing is read in her name
    assert offered(page.text) == []


async def test_a_record_system_that_cannot_say_is_a_sentence(world: World):
    """The page is there without encounters; one that is typed is not taken unseen."""
    browser = world.browser()

    async def cannot(*_: object) -> None:
        raise Unavailable

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(world.at.gateway.pipeline), "handle", cannot)
        page = await browser.get("/launcher")
        assert offered(page.text) == []
        assert "The record system could not be asked for those of" in page.text
        await browser.submit("/launcher", encounter=TWO.id("visit-a1"))
    assert browser.page.status_code == 400
    assert "The record system could not be asked about that encounter." in browser.page.text


@pytest.mark.parametrize(("user", "says"), [("ann", "for developers&#39; accounts alone"), ("pat", "That user may not see that patient.")])
async def test_no_encounter_is_read_for_who_may_not_see_the_patient(world: World, user: str, says: str):
    """Isolation: the answer is the one about the person, whatever the encounter."""
    browser = world.browser()
    await browser.get("/launcher")
    with pytest.MonkeyPatch.context() as patch:
        for name in ("has", "of"):
            patch.setattr(Visits, name, lambda *_: pytest.fail("it was asked"))
        for number in (1, 2):
            await browser.submit("/launcher", who="", user=user, patient=TWO.b, encounter=TWO.id(f"visit-b{number}"))
            assert browser.page.status_code == 400
            assert says in browser.page.text


async def test_too_many_starts_are_a_sentence(world: World):
    """429 with Retry-After on the form, the choices as they were, on record; nobody is signed in and nothing opens."""
    browser = world.browser()
    await browser.get("/launcher")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(world.at.gateway.trials, "_limits", partial(limits_of_trials, most=0, most_of_system=0, window=600))
        await browser.submit("/launcher", intent="kept")
    assert browser.page.status_code == 429
    wait = browser.page.headers["retry-after"]
    assert f"Too many trials were started from here. Try again in {wait} seconds." in browser.page.text
    assert 'value="kept"' in browser.page.text
    assert "refresh" not in browser.page.headers
    assert "gw_session" not in browser.page.headers.get("set-cookie", "")
    found = next(one for one in await world.at.gateway.state.audit.search(limit=50) if one.action == "trial")
    assert (found.status, found.reason, found.client_id) == (429, "trials-locked", "app")


@pytest.mark.parametrize("name", FIELDS)
async def test_nothing_that_is_sent_is_read_as_html(world: World, name: str):
    """By the address and by the form (ATK-O18)."""
    browser = world.browser()
    bad = '"><script>alert(1)</script>'
    for page in (await browser.get("/launcher", **{name: bad}), await browser.submit("/launcher", **{name: bad})):
        assert "<script>alert" not in page.text
        assert "unsafe" not in page.headers["content-security-policy"]


async def test_a_form_of_another_browser_starts_nothing(world: World):
    """ATK-O17: nobody is made to sign in as somebody by a page elsewhere."""
    browser, other = world.browser(), world.browser()
    await browser.get("/launcher")
    await other.get("/launcher")
    forged = await other.submit("/launcher", csrf=dict(smart.Form(browser.page.text).to("/launcher"))["csrf"])
    assert forged.status_code == 403
    assert "set-cookie" not in forged.headers
    assert (await world.browser().post("/launcher", [("client_id", "app")])).status_code == 403


async def test_only_developers_are_signed_in_without_a_password(world: World):
    """Ann's app is opened by itself, and she signs in."""
    browser = world.browser()
    await browser.get("/launcher")
    await browser.submit("/launcher", user="ann", kind="standalone")
    assert "launch=" not in opened(browser)
    await browser.authorize(smart.asking("app", SCOPE.replace("launch ", "launch/patient ")), ehr="hapi")
    assert "/signin" in str(browser.page.url)


async def test_a_trial_that_is_none_is_a_page(world: World):
    """404 with a sentence, and the way to the last one leads to the form."""
    assert (await world.browser().get("/launcher/trials/" + "x" * 43)).status_code == 404
    assert str((await world.browser().get("/launcher/latest")).url).endswith("/launcher")


async def test_where_it_is_off_there_is_nothing(ehr_url: str, tmp_path: Path):
    """As any address that is none."""
    async with whole(ehr_url, tmp_path, deliver=False) as at:
        browser = Browser(at.asgi)
        for path in ("/launcher", "/launcher/latest", "/launcher/trials/x", "/launcher/trials/x/events"):
            assert (await browser.get(path)).status_code == 404
        assert (await browser.post("/launcher", [("client_id", "app")])).status_code == 404


async def test_switched_off_nothing_of_it_counts_any_more(ehr_url: str, tmp_path: Path):
    """What was had in a trial ends with it: the token, its renewal, the session without a password; introspection says so too."""
    pkce = Pkce()
    async with whole(ehr_url, tmp_path, deliver=False, launcher_enabled=True, launcher_users="dora") as at:
        await furnish(at)
        browser = Browser(at.asgi)
        await browser.get("/launcher")
        await browser.submit("/launcher")
        sent = dict(parse_qsl(urlsplit(opened(browser)).query))
        asked = smart.asking("app", f"{SCOPE} offline_access", pkce, launch=sent["launch"], aud=sent["iss"])
        await browser.authorize(asked, ehr="hapi")
        await browser.allow(ehr="hapi")
        form = {"grant_type": "authorization_code", "code": browser.answer["code"], "redirect_uri": APP, "client_id": "app"}
        token = (await browser.http.post("/auth/hapi/token", data=form | {"code_verifier": pkce.verifier})).json()
        headers = {"Authorization": f"Bearer {token['access_token']}"}
        assert (await browser.http.get(f"/fhir/hapi/Patient/{TWO.a}", headers=headers)).status_code == 200
        assert (await browser.http.get("/security")).status_code == 200
    async with whole(ehr_url, tmp_path, deliver=False) as at:
        again = Browser(at.asgi)
        again.http.cookies = browser.http.cookies
        assert (await again.http.get(f"/fhir/hapi/Patient/{TWO.a}", headers=headers)).status_code == 401
        renewal = {"grant_type": "refresh_token", "refresh_token": token["refresh_token"], "client_id": "app"}
        assert (await again.http.post("/auth/hapi/token", data=renewal)).json()["error"] == "invalid_grant"
        assert (await again.http.get("/security")).headers["location"].startswith("/signin")


async def test_a_session_without_a_password_is_for_trials_alone(world: World):
    """An app that was not launched here gets nothing by it: whoever opens the page must sign in for that."""
    browser = world.browser()
    await browser.get("/launcher")
    await browser.submit("/launcher")
    standalone = "launch/patient openid offline_access patient/Patient.rs"
    await browser.authorize(smart.asking("bare", standalone, redirect_uri="https://bare.test/cb"), ehr="hapi")
    assert "/signin" in str(browser.page.url)
    silent = smart.asking("bare", standalone, redirect_uri="https://bare.test/cb", prompt="none")
    await browser.authorize(silent, ehr="hapi")
    assert browser.answer["error"] == "login_required"


@pytest.mark.parametrize(("name", "hidden"), [("access_token", True), ("Access_Token", True), ("client_secret", True), ("patient", False)])
def test_what_could_prove_something_is_not_kept(name: str, hidden: bool):
    """By the parameter's name, however it is written."""
    assert is_secret(name) is hidden
