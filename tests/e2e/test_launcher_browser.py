"""The launcher in a real browser, with the sample app: a whole launch in two clicks, seen live, offline, open to everybody."""

from __future__ import annotations

import asyncio
import html
import re
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass

import pytest
from playwright.async_api import Browser, BrowserContext, Page, expect

from gateway import local
from gateway.sandbox import sample_app
from gateway.smart.server import faults
from gateway.smart.server.faults import FAULTS
from tests.e2e.test_portal_browser import SIDEWAYS, found_by_axe
from tests.support.smart import Form
from tests.support.whole_on_socket import EHR, Whole, whole

pytestmark = pytest.mark.browser


@dataclass
class Workshop:
    """A gateway with the launcher on, and the sample app on a port of its own."""

    gateway: Whole
    app: str


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workshop]:
    """Over the EHR double with the sandbox's people, who are all developers here. What is slow is a little less slow."""
    listener = sample_app.listen(0)
    address = sample_app.base_url(listener)
    with (
        pytest.MonkeyPatch.context() as patch,
        whole(tmp_path_factory.mktemp("gateway"), launcher_enabled=True, launcher_users="amara, dr.novak") as gateway,
    ):
        patch.setattr(faults, "TOKEN_SLOW", 0.5)
        patch.setattr(faults, "FHIR_SLOW", 0.5)
        asyncio.run(_register(gateway, address))
        app = sample_app.start([f"{gateway.url}/fhir/{EHR}"], listener)
        yield Workshop(gateway, address)
        app.stop()


async def _register(gateway: Whole, address: str) -> None:
    async with local.opened(gateway.settings) as state:
        await local.registrar(state).register(sample_app.registration(address))


async def launched(context: BrowserContext, page: Page) -> Page:
    """One click: the app's tab, at the consent page."""
    async with context.expect_page() as opened:
        await page.get_by_role("button", name="Launch", exact=True).click()
    return await opened.value


async def test_a_whole_launch_in_two_clicks_seen_live_and_offline(browser: Browser, workshop: Workshop):
    """Launch, Allow: the app shows the record, and the first tab has become the live view of it. Nobody else's address is ever asked."""
    context = await browser.new_context()
    asked: list[str] = []
    context.on("request", lambda request: asked.append(request.url))
    page = await context.new_page()
    await page.goto(f"{workshop.gateway.url}/launcher")
    app = await launched(context, page)
    await app.get_by_role("button", name="Allow", exact=True).click()
    await app.get_by_text("Amara Okafor").first.wait_for()
    await expect(page).to_have_url(f"{workshop.gateway.url}/launcher/trials/" + page.url.rpartition("/")[2])
    await page.get_by_text("GET /fhir/clinic/Patient/amara-okafor").wait_for()
    await page.get_by_text("authorization_code: 200").wait_for()
    await page.get_by_text("/.well-known/smart-configuration").first.wait_for()
    assert {url.split("/")[2] for url in asked} == {workshop.gateway.url.split("/")[2], workshop.app.split("/")[2]}
    await context.close()


async def test_the_link_follows_the_choices(browser: Browser, workshop: Workshop):
    """Opened elsewhere it is the same form."""
    context = await browser.new_context()
    page = await context.new_page()
    await page.goto(f"{workshop.gateway.url}/launcher")
    await page.get_by_label("Error to simulate").select_option("fhir-throttled")
    await page.get_by_text("More choices").click()
    await page.get_by_label("Scopes, at most").fill("patient/Patient.r launch")
    link = await page.get_by_label("These choices as an address").input_value()
    await page.goto(link)
    await expect(page.get_by_label("Error to simulate")).to_have_value("fhir-throttled")
    await expect(page.get_by_label("Scopes, at most")).to_have_value("patient/Patient.r launch")
    await context.close()


async def test_the_encounters_follow_the_patient(browser: Browser, workshop: Workshop):
    """By script at once, and in the link too; the button does it for a patient whose id is typed, in the same tab."""
    context = await browser.new_context()
    page = await context.new_page()
    await page.goto(f"{workshop.gateway.url}/launcher")
    await page.get_by_text("More choices").click()
    offered = page.get_by_label("Encounter", exact=True)
    await offered.select_option(index=1)
    first = await offered.input_value()
    assert first.startswith("amara-okafor-")
    share = page.get_by_label("These choices as an address")
    await expect(share).to_have_value(re.compile(f"visit={first}"))
    who = page.get_by_label("Who, and whose record")
    await who.select_option("dr.novak|daniel-reyes")
    await page.get_by_text("The record system knows no encounter of Daniel Reyes").wait_for()
    await expect(offered.locator("option")).to_have_count(1)
    await expect(share).not_to_have_value(re.compile("visit="))
    await page.get_by_label("Another user name").fill("dr.novak")
    await page.get_by_label("Another patient").fill("amara-okafor")
    await page.get_by_role("button", name="Find the patient's encounters").click()
    await expect(offered.locator("option").nth(1)).to_have_attribute("value", re.compile("^amara-okafor-"))
    assert len(context.pages) == 1
    assert page.url == f"{workshop.gateway.url}/launcher"
    await context.close()


@pytest.mark.parametrize(("width", "scheme"), [(320, "light"), (1280, "dark")])
async def test_both_pages_are_open_to_all(browser: Browser, workshop: Workshop, axe_source: str, width: int, scheme: str):
    """Before and after a launch that failed: nothing scrolls sideways, and axe finds nothing."""
    context = await browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
    page = await context.new_page()
    await page.goto(f"{workshop.gateway.url}/launcher?fault=invalid-scope&scopes=patient/*.rs")
    await page.locator("details").evaluate_all("all => all.forEach(one => { one.open = true; })")
    assert await page.evaluate(SIDEWAYS) == []
    assert await found_by_axe(page, axe_source) == []
    await launched(context, page)
    await page.get_by_text(f"simulated: {FAULTS['invalid-scope'].title}").wait_for()
    heading = await page.locator("table.rows caption").first.bounding_box()
    assert heading is not None
    assert heading["width"] > 250  # a sentence, and no column of letters
    await page.locator("details").evaluate_all("all => all.forEach(one => { one.open = true; })")
    assert await page.evaluate(SIDEWAYS) == []
    assert await found_by_axe(page, axe_source) == []
    await context.close()


async def test_by_keyboard_and_without_scripts(browser: Browser, workshop: Workshop):
    """The way to the live view is a link then."""
    context = await browser.new_context(java_script_enabled=False)
    page = await context.new_page()
    await page.goto(f"{workshop.gateway.url}/launcher")
    await page.get_by_role("button", name="Launch", exact=True).focus()
    async with context.expect_page() as opened:
        await page.keyboard.press("Enter")
    await (await opened.value).wait_for_load_state()
    await page.goto(f"{workshop.gateway.url}/launcher")
    await page.get_by_role("link", name="What the last one does").click()
    await page.get_by_role("heading", name="what it does").wait_for()
    await page.get_by_role("link", name="Look again").click()
    await page.get_by_role("link", name="Launch again").click()
    assert "/launcher?" in page.url
    await context.close()


@dataclass(frozen=True)
class Told:
    """What a launch with a fault ends in. `at`: where on the page; `code`: what is said to developers; `asked`: whether the person was.

    `first`: what is done before: "refresh" when the record is there, "stop" when the app waits. `tells`: said on the way, while it waits.
    `shown`: the record is, at the end. `again`: the app has a button to try again.
    """

    sentence: str
    code: str = ""
    at: str = "#problem"
    asked: bool = True
    first: str = ""
    tells: str = ""
    shown: bool = False
    again: bool = False


ID_TOKEN = "The health record's word on who signed in is not to be trusted, so the app does not go on."
ENDED = "This app's access to the record has ended. Start again to ask for it."
TOKEN_REFUSED = "The health record does not take this app's access token. Press Refresh, or start again."
SLOW = "it is slow today, the app still waits."
TOLD = {
    "unknown-client": Told("The app that sent you is not registered with this service. Nothing was shared.", at="main", asked=False),
    "unknown-redirect": Told("The app gave an address that is not registered here. Nothing was shared.", at="main", asked=False),
    "invalid-scope": Told("The health record does not give what this app asked for.", "invalid_scope", asked=False),
    "wrong-aud": Told("The health record did not understand this app's request.", "invalid_request: The parameter aud must be", asked=False),
    "server-error": Told("The health record has a problem. Try again in a moment.", "server_error", asked=False),
    "server-busy": Told("The health record is busy. Try again in a moment.", "temporarily_unavailable", asked=False),
    "denied": Told("You did not allow this app to see the record, so it sees nothing.", "access_denied: The person did not allow it."),
    "state-changed": Told("This tab did not start that sign-in, so the app does not go on with it.", "was used before (RFC 6749 10.12)"),
    "other-iss": Told("The answer came from another server than the one that was asked.", "iss is https://another-issuer.invalid and not http"),
    "client-refused": Told("The health record does not know this app.", "invalid_client"),
    "code-expired": Told("The health record did not accept the sign-in any more.", "invalid_grant: code is too old"),
    "token-slow": Told("Amara Okafor", at="#patient", tells=SLOW, shown=True),
    "token-down": Told("The health record is busy. Try again in 5 seconds.", "temporarily_unavailable", again=True),
    "no-patient": Told("The health record did not say whose record it is.", "the token response has no patient"),
    "id-token-unknown-key": Told(ID_TOKEN, "id_token: its signature is not of the key that is published"),
    "id-token-expired": Told(ID_TOKEN, "id_token: it ended at 2"),
    "id-token-other-aud": Told(ID_TOKEN, "id_token: aud is "),
    "id-token-other-nonce": Told(ID_TOKEN, "id_token: nonce is not the one that was sent"),
    "refresh-scope": Told("The health record does not give what this app asked for.", "invalid_scope: scope may be less", first="refresh"),
    "refresh-expired": Told(ENDED, "invalid_grant: refresh_token is too old", first="refresh"),
    "refresh-revoked": Told(ENDED, "invalid_grant: This access was ended", first="refresh"),
    "fhir-expired": Told(TOKEN_REFUSED, "401: login", at="#trouble"),
    "fhir-unknown": Told(TOKEN_REFUSED, "401: login", at="#trouble"),
    "fhir-scope": Told("This app was not given the right to see that.", "403: forbidden", at="#trouble"),
    "fhir-throttled": Told(
        "The health record asks for a pause. Try again in 5 seconds.",
        "429: throttled",
        at="#trouble",
        first="stop",
        tells="asks for a pause of 5 seconds. Then the app tries again by itself (1 of 3).",
        again=True,
    ),
    "fhir-slow": Told("Amara Okafor", at="#patient", tells=SLOW, shown=True),
    "fhir-unavailable": Told("The health record pauses. Try again in 5 seconds.", "503: transient", at="#trouble", again=True),
    "fhir-down": Told("The health record could not be reached behind its gateway.", "502: transient", at="#trouble", again=True),
    "fhir-timeout": Told("The health record did not answer in time.", "504: timeout", at="#trouble", again=True),
}
FOR_BACKENDS = {"token-scope"}
"""That a browser never meets: flow/launcher/test_seen has what the client gets."""


async def started(workshop: Workshop, page: Page, fault: str) -> None:
    """What the button Launch does, without the launcher's page; the app is open then."""
    form = await page.request.get(f"{workshop.gateway.url}/launcher?fault={fault}")
    sent = await page.request.post(f"{workshop.gateway.url}/launcher", form=dict(Form(await form.text()).to("/launcher")))
    found = re.search(r'http-equiv="refresh" content="0; url=([^"]+)"', await sent.text())
    assert found
    await page.goto(html.unescape(found[1]))


async def ended(page: Page, told: Told) -> str:
    """Go on as a person does who wants to see her record, to the end. The text there."""
    if told.asked:
        await page.get_by_role("button", name="Allow", exact=True).click()
    if told.tells == SLOW:
        await page.locator("#status").wait_for()
        while SLOW not in await page.locator("#status").inner_text():  # several things are waited for, each for a moment
            assert await page.get_by_role("button", name="Refresh").count() == 0
            await page.clock.run_for(1_000)
    elif told.tells:
        await page.locator("#status", has_text=told.tells).wait_for()
    if told.first:
        await page.get_by_role("button", name={"refresh": "Refresh", "stop": "Do not wait"}[told.first]).click()
    await page.locator(told.at, has_text=told.code or told.sentence).wait_for()
    return " ".join((await page.locator(told.at).inner_text()).split())


@pytest.fixture
async def app_page(browser: Browser) -> AsyncIterator[Page]:
    """One page for all cases."""
    context = await browser.new_context()
    page = await context.new_page()
    page.set_default_timeout(10_000)
    await page.clock.install()
    yield page
    await context.close()


async def test_each_error_ends_in_a_sentence(app_page: Page, workshop: Workshop, axe_source: str):
    """And in the check that failed, for developers. Nobody's data is shown but where the record only was slow; what lies is never believed."""
    assert set(TOLD) | FOR_BACKENDS == set(FAULTS)
    for fault, told in TOLD.items():
        await started(workshop, app_page, fault)
        text = await ended(app_page, told)
        assert told.sentence in text, (fault, text)
        assert not told.code or told.code in text.partition("For developers: ")[2], (fault, text)
        assert ("Amara Okafor" in await app_page.locator("main").inner_text()) is told.shown, fault
        assert bool(await app_page.get_by_role("button", name="Try again").count()) is told.again, fault
        if fault in ("other-iss", "fhir-throttled"):
            assert await found_by_axe(app_page, axe_source) == []
