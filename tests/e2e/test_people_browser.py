"""Sign-in and security in a real browser: a passkey on a virtual authenticator, everything else without JavaScript, and axe on each page."""

from __future__ import annotations

import asyncio
import socket
from base64 import b32decode
from collections.abc import AsyncIterator
from dataclasses import dataclass
from importlib.resources import files

import pytest
import uvicorn
from playwright.async_api import Browser, BrowserContext, Page

from gateway.smart.server.attempts import Attempts
from gateway.smart.server.people import totp
from tests.support import smart

pytestmark = pytest.mark.browser

AXE = (files("axe_playwright_python") / "axe.min.js").read_text("utf-8")
VIOLATIONS = """async () => (await axe.run(document, {rules: {'target-size': {enabled: true}}})).violations
  .map(v => v.id + ': ' + v.nodes.map(n => n.target.join(' ')).join(' | '))"""
SIDEWAYS = "document.documentElement.scrollWidth > document.documentElement.clientWidth"


@dataclass
class Served:
    url: str
    server: smart.Smart

    def code(self, secret: bytes, steps: int = 0) -> str:
        return totp.code(secret, totp.step_at(self.server.clock()) + steps)


@pytest.fixture
async def served(tmp_path) -> AsyncIterator[Served]:
    """At localhost: the one name for which browsers have passkeys without https."""
    listener = socket.create_server(("127.0.0.1", 0))
    url = f"http://localhost:{listener.getsockname()[1]}"
    async with smart.smart_server(f"sqlite+aiosqlite:///{tmp_path}/store.db", public_url=url, attempts=Attempts(of_factor=3)) as server:
        app = server.app()
        app.mount("/static", server.pages.static())
        await server.person()
        running = uvicorn.Server(uvicorn.Config(app, log_level="warning", ws="none", lifespan="off"))
        task = asyncio.create_task(running.serve(sockets=[listener]))
        yield Served(url, server)
        running.should_exit = True
        await task


async def sign_in(page: Page, served: Served, path: str = "/security") -> None:
    await page.goto(f"{served.url}/signin?next={path}")
    await page.fill("#username", "ann")
    await page.fill("#password", smart.PASSWORD)
    await page.click("form[action='/signin'] button")


async def set_up_app(page: Page, served: Served) -> bytes:
    await page.click("text=Set up an authenticator app")
    secret = b32decode((await page.inner_text(".key")).replace(" ", ""))
    await page.fill("#code", served.code(secret))
    await page.click("text=Switch it on")
    await page.locator(".codes").wait_for()
    return secret


async def with_authenticator(page: Page) -> tuple[object, str]:
    """A device of the browser's own with discoverable credentials, whose owner shows her finger."""
    session = await page.context.new_cdp_session(page)
    await session.send("WebAuthn.enable")
    options = {
        "protocol": "ctap2",
        "transport": "internal",
        "hasResidentKey": True,
        "hasUserVerification": True,
        "isUserVerified": True,
        "automaticPresenceSimulation": True,
    }
    made = await session.send("WebAuthn.addVirtualAuthenticator", {"options": options})
    return session, made["authenticatorId"]


async def test_a_passkey_from_its_making_to_its_end(browser: Browser, served: Served):
    """Made on the security page, used for a sign-in without name or password, taken away; the script is the only one, and CSP lets it run."""
    context = await browser.new_context()
    page = await context.new_page()
    said: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    session, device = await with_authenticator(page)
    await sign_in(page, served)
    await page.click("text=Add a passkey")
    await page.fill("#name", "My laptop")
    await page.click("#passkey-form button")
    await page.wait_for_url("**/security?done=passkey")
    assert "My laptop" in await page.inner_text("main")
    kept = await session.send("WebAuthn.getCredentials", {"authenticatorId": device})
    assert [(one["rpId"], one["isResidentCredential"]) for one in kept["credentials"]] == [("localhost", True)]
    await page.click("text=Sign out everywhere")
    await page.goto(f"{served.url}/signin?next=/security")
    await page.click("text=Sign in with a passkey")
    await page.click("text=Use my passkey")
    await page.wait_for_url("**/security")
    assert "with a passkey" in await page.inner_text("main")
    await page.click(".cards button")
    await page.goto(f"{served.url}/signin/passkey?next=/security")
    await page.click("text=Use my passkey")
    await page.locator("text=This passkey is not known here").wait_for()
    await session.send("WebAuthn.clearCredentials", {"authenticatorId": device})
    await session.send("WebAuthn.setUserVerified", {"authenticatorId": device, "isUserVerified": False})
    await page.click("text=Use my passkey")
    await page.locator("text=No passkey was used").wait_for()
    assert [text for text in said if "Content Security Policy" in text] == []
    await context.close()


async def test_everything_else_without_javascript(browser: Browser, served: Served):
    """An app, a sign-in with it, a verified address, another password; the passkey page says what it needs and leads back."""
    context = await browser.new_context(java_script_enabled=False)
    page = await context.new_page()
    await sign_in(page, served)
    secret = await set_up_app(page, served)
    await page.click("text=I have written them down")
    await page.click("text=Sign out everywhere")
    served.server.clock.forward(60)
    await sign_in(page, served)
    await page.fill("#code", served.code(secret))
    await page.click("text=Go on >> nth=0")
    await page.click("text=Add an address")
    await page.fill("#contact", "ann@example.com")
    await page.click("text=Send me a code")
    await page.locator("#code").wait_for()
    await served.server.verification.settled()
    await page.fill("#code", served.server.mailbox.code)
    await page.click("button:text('Confirm')")
    assert "The address is confirmed" in await page.inner_text("main")
    await page.goto(f"{served.url}/signin/passkey")
    assert "Passkeys need JavaScript" in await page.inner_text("main")
    assert not await page.is_visible("#passkey-form")
    await page.click("text=Sign in with a password")
    await context.close()


async def test_the_second_step_by_keyboard(browser: Browser, served: Served):
    """The field comes soon, Enter sends it, and a wrong code is said beside it."""
    context = await browser.new_context()
    page = await context.new_page()
    await sign_in(page, served)
    await set_up_app(page, served)
    await page.click("text=I have written them down")
    await page.click("text=Sign out everywhere")
    await sign_in(page, served)
    await page.locator("#code").wait_for()
    for _ in range(3):  # skip link, the brand, the field
        await page.keyboard.press("Tab")
    assert await page.evaluate("document.activeElement.id") == "code"
    await page.keyboard.type("000000")
    await page.keyboard.press("Enter")
    await page.locator("#code-error").wait_for()
    assert await page.get_attribute("#code", "aria-describedby") == "code-hint code-error"
    assert (await page.title()).startswith("Problem: ")
    await context.close()


@pytest.mark.parametrize(("width", "scheme"), [(320, "light"), (1280, "dark")])
async def test_every_page_passes_axe(browser: Browser, served: Served, width: int, scheme: str):
    """No violation, nothing scrolls sideways: each page, new and with what can be wrong on it."""
    context = await browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
    found = [one async for one in _walk(context, served)]
    await context.close()
    assert [one for one in found if one[1] or one[2]] == []
    assert len(found) == 20


async def _walk(context: BrowserContext, served: Served) -> AsyncIterator[tuple[str, list[str], bool]]:
    """Each page by name, with its violations and whether it scrolls sideways."""
    page = await context.new_page()
    await with_authenticator(page)

    async def judged(name: str) -> tuple[str, list[str], bool]:
        await page.wait_for_load_state()
        await page.locator("h1").wait_for()  # a click returns while the next page is still being read
        await page.evaluate(AXE)
        return name, await page.evaluate(VIOLATIONS), await page.evaluate(SIDEWAYS)

    await page.goto(f"{served.url}/signin/forgotten")
    yield await judged("forgotten")
    await page.fill("#username", "nobody")
    await page.click("text=Send me a code")
    await page.locator("#password").wait_for()
    yield await judged("forgotten-code")
    await page.fill("#code", "00000000")
    await page.fill("#password", "new password")
    await page.click("text=Change my password")
    await page.locator("#code-error").wait_for()
    yield await judged("forgotten-code-wrong")
    await page.goto(f"{served.url}/signin/passkey")
    yield await judged("passkey")
    await page.click("text=Use my passkey")
    await page.locator("#passkey-not-used").wait_for()
    yield await judged("passkey-not-used")
    await sign_in(page, served)
    yield await judged("security")
    await page.click("text=Change my password")
    yield await judged("password")
    await page.goto(f"{served.url}/security/contact")
    yield await judged("contact")
    await page.fill("#contact", "no address")
    await page.click("text=Send me a code")
    await page.locator("#contact-error").wait_for()
    yield await judged("contact-wrong")
    await page.fill("#contact", "ann@example.com")
    await page.click("text=Send me a code")
    await page.locator("#code").wait_for()
    yield await judged("contact-code")
    await served.server.verification.settled()
    await page.fill("#code", served.server.mailbox.code)
    await page.click("button:text('Confirm')")
    await page.click("text=Add a passkey")
    yield await judged("passkey-add")
    await page.fill("#name", "A name as long as it can be, without any place to break it" + "x" * 6)
    await page.click("#passkey-form button")
    await page.wait_for_url("**/security?done=passkey")
    await page.click("text=Set up an authenticator app")
    yield await judged("app")
    secret = b32decode((await page.inner_text(".key")).replace(" ", ""))
    await page.fill("#code", "000000")
    await page.click("text=Switch it on")
    await page.locator("#code-error").wait_for()
    yield await judged("app-wrong")
    await page.fill("#code", served.code(secret))
    await page.click("text=Switch it on")
    await page.locator(".codes").wait_for()
    yield await judged("codes")
    await page.goto(f"{served.url}/security?done=passkey")
    yield await judged("security-full")
    served.server.clock.forward(400)
    await page.click("text=Change my password")
    yield await judged("sign-in-again")
    await page.fill("#password", smart.PASSWORD)
    await page.click("form[action='/signin'] button")
    await page.click("summary")
    yield await judged("second")
    for number in range(3):
        await page.fill("#code", "000000")
        await page.click("text=Go on >> nth=0")
        await page.locator("#code-error").wait_for()
        if number == 0:
            yield await judged("second-wrong")
    await page.fill("#code", "000000")
    await page.click("text=Go on >> nth=0")
    await page.locator("text=Too many attempts").wait_for()
    yield await judged("second-locked")
    await page.fill("#code", "000000")
    await page.click("text=Go on >> nth=0")
    await page.locator("text=Start again").wait_for()
    yield await judged("second-over")
