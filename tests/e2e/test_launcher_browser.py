"""The launcher in a real browser, with the sample app: a whole launch in two clicks, seen live, offline, open to everybody."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from playwright.async_api import Browser, BrowserContext, Page, expect

from gateway import local
from gateway.sandbox import sample_app
from gateway.smart.server.faults import FAULTS
from tests.e2e.test_portal_browser import SIDEWAYS, found_by_axe
from tests.support.whole_on_socket import EHR, Whole, whole

pytestmark = pytest.mark.browser


@dataclass
class Workshop:
    """A gateway with the launcher on, and the sample app on a port of its own."""

    gateway: Whole
    app: str


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workshop]:
    """Over the EHR double with the sandbox's people, who are all developers here."""
    listener = sample_app.listen(0)
    address = sample_app.base_url(listener)
    with whole(tmp_path_factory.mktemp("gateway"), launcher_enabled=True, launcher_users="amara, dr.novak") as gateway:
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


SENTENCES = {
    "state-changed": ("This tab did not start that sign-in", "RFC 6749 10.12"),
    "other-iss": ("The answer came from another server", "iss is https://another-issuer.invalid and not http"),
    "token-down": ("The health record is busy. Try again in 5 seconds.", "temporarily_unavailable"),
    "no-patient": ("did not say whose record it is", "the token response has no patient"),
    "id-token-unknown-key": ("word on who signed in is not to be trusted", "id_token: its signature is not of the key that is published"),
    "id-token-expired": ("word on who signed in is not to be trusted", "id_token: it ended at 2"),
    "id-token-other-aud": ("word on who signed in is not to be trusted", "id_token: aud is "),
    "id-token-other-nonce": ("word on who signed in is not to be trusted", "id_token: nonce is not the one that was sent"),
    "fhir-expired": ("does not take this app's access token", "401: "),
    "fhir-throttled": ("asks for a pause. Try again in 5 seconds.", "429: "),
    "fhir-down": ("could not be reached behind its gateway", "502: "),
}


async def test_each_error_ends_in_a_sentence_of_the_sample_app(browser: Browser, workshop: Workshop, axe_source: str):
    """And in the check that failed, for developers; nobody's data is shown, and what lies is never believed."""
    told: dict[str, tuple[bool, bool, bool]] = {}
    context = await browser.new_context()
    page = await context.new_page()
    for fault, (sentence, code) in SENTENCES.items():
        await page.goto(f"{workshop.gateway.url}/launcher?fault={fault}")
        app = await launched(context, page)
        await app.get_by_role("button", name="Allow", exact=True).click()
        where = app.locator("#trouble" if fault.startswith("fhir") else "#problem")
        await where.get_by_text("For developers: ").wait_for()
        text = await where.inner_text()
        told[fault] = (sentence in text, code in text, "Amara Okafor" in await app.locator("main").inner_text())
        if fault in ("other-iss", "fhir-throttled"):
            assert await found_by_axe(app, axe_source) == []
        await app.close()
    await context.close()
    assert told == dict.fromkeys(SENTENCES, (True, True, False))


async def test_access_that_was_taken_back_is_said_at_the_refresh(browser: Browser, workshop: Workshop):
    """The record was shown; the app asks for a new token and hears that it is over."""
    context = await browser.new_context()
    page = await context.new_page()
    await page.goto(f"{workshop.gateway.url}/launcher?fault=refresh-revoked")
    app = await launched(context, page)
    await app.get_by_role("button", name="Allow", exact=True).click()
    await app.get_by_text("Amara Okafor").first.wait_for()
    await app.get_by_role("button", name="Refresh").click()
    await app.get_by_text("This app's access to the record has ended.").wait_for()
    await page.get_by_text("refresh_token: 400").wait_for()
    await context.close()
