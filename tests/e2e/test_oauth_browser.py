"""A launch in a real browser: what only a browser enforces (CSP on redirects, cookies), and axe on each page of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from importlib.resources import files
from urllib.parse import urlencode

import pytest
import uvicorn
from playwright.async_api import Browser, BrowserContext, Page
from starlette.responses import PlainTextResponse

from gateway.sockets import listening
from tests.support import smart

pytestmark = pytest.mark.browser

SCOPE = "launch/patient openid fhirUser offline_access patient/Patient.r patient/Observation.rs patient/Condition.read user/Appointment.cruds"
AXE = (files("axe_playwright_python") / "axe.min.js").read_text("utf-8")
VIOLATIONS = """async () => (await axe.run(document, {rules: {'target-size': {enabled: true}}})).violations
  .map(v => v.id + ': ' + v.nodes.map(n => n.target.join(' ')).join(' | '))"""
SIDEWAYS = "document.documentElement.scrollWidth > document.documentElement.clientWidth"


@dataclass
class Served:
    """The gateway at 127.0.0.1 and an app at localhost: two origins for a browser."""

    url: str
    callback: str

    def request(self, **more: str) -> str:
        return f"{self.url}/auth/hapi/authorize?" + urlencode(
            smart.asking(scope=SCOPE, aud=f"{self.url}/fhir/hapi", redirect_uri=self.callback, **more)
        )


@pytest.fixture
async def served(tmp_path) -> AsyncIterator[Served]:
    listener = listening("127.0.0.1")
    port = listener.getsockname()[1]
    found = Served(f"http://127.0.0.1:{port}", f"http://localhost:{port}/client/cb")
    async with smart.smart_server(f"sqlite+aiosqlite:///{tmp_path}/store.db", public_url=found.url) as server:
        app = server.app()
        app.mount("/static", server.pages.static())
        app.add_api_route("/client/cb", lambda: PlainTextResponse("back at the app"), response_model=None)
        await server.public_app(redirect_uris=[found.callback])
        mother = await server.person("mum", fhir_user="Patient/m", patients=["leo", "mia"])
        await smart.issue(server.database, client_id="app", scope=SCOPE, account=mother, patient="leo")
        running = uvicorn.Server(uvicorn.Config(app, log_level="warning", ws="none", lifespan="off"))
        task = asyncio.create_task(running.serve(sockets=[listener]))
        yield found
        running.should_exit = True
        await task


async def sign_in(page: Page) -> None:
    await page.fill("#username", "mum")
    await page.fill("#password", smart.PASSWORD)
    await page.click("form[action='/signin'] button")


@pytest.mark.parametrize("decision", ["allow", "deny"])
async def test_a_launch_without_javascript(browser: Browser, served: Served, decision: str):
    """Sign-in, picker and consent are plain forms, and form-action lets the last one lead to the app's origin."""
    context = await browser.new_context(java_script_enabled=False)
    page = await context.new_page()
    await page.goto(served.request())
    await sign_in(page)
    await page.check("text=Record of leo")
    await page.click("text=Go on")
    assert "Record of leo" in await page.inner_text("main")
    await page.click(f"button[value={decision}]")
    await page.wait_for_url(f"{served.callback}?*")
    assert ("code=" in page.url) == (decision == "allow")
    assert await page.inner_text("body") == "back at the app"
    await context.close()


async def test_scripts_cannot_read_the_cookies(browser: Browser, served: Served):
    """ATK-O18: HttpOnly, in a browser's own words."""
    context = await browser.new_context()
    page = await context.new_page()
    await page.goto(served.request())
    await sign_in(page)
    assert await page.evaluate("document.cookie") == ""
    assert {cookie["name"]: (cookie["httpOnly"], cookie["sameSite"]) for cookie in await context.cookies()} == {
        "gw_browser": (True, "Lax"),
        "gw_known": (True, "Lax"),
        "gw_session": (True, "Lax"),
    }
    await context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 320])
async def test_every_page_passes_axe(browser: Browser, served: Served, width: int, scheme: str):
    """No violation, nothing scrolls sideways: sign-in (new, wrong), picker, consent (opened up), connected apps, refusal, sign-out."""
    context = await browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
    found = [one async for one in _walk(context, served)]
    await context.close()
    assert [one for one in found if one[1] or one[2]] == []
    assert len(found) == 8


async def _walk(context: BrowserContext, served: Served) -> AsyncIterator[tuple[str, list[str], bool]]:
    """Each page by name, with its violations and whether it scrolls sideways."""
    page = await context.new_page()

    async def judged(name: str) -> tuple[str, list[str], bool]:
        await page.wait_for_load_state()
        await page.locator("h1").wait_for()  # a click returns while the next page is still being read
        await page.evaluate(AXE)
        return name, await page.evaluate(VIOLATIONS), await page.evaluate(SIDEWAYS)

    await page.goto(served.request())
    yield await judged("sign-in")
    await page.fill("#username", "mum")
    await page.fill("#password", "wrong password")
    await page.click("form[action='/signin'] button")
    yield await judged("sign-in-wrong")
    await sign_in(page)
    yield await judged("patient")
    await page.check("text=Record of leo")
    await page.click("text=Go on")
    for summary in await page.locator("summary").all():
        await summary.click()
    yield await judged("consent")
    await page.click("button[value=allow]")
    await page.wait_for_url(f"{served.callback}?*")
    await page.goto(f"{served.url}/apps")
    await page.click("summary")
    yield await judged("apps")
    await page.goto(served.request(client_id="nobody"))
    yield await judged("refused")
    await page.goto(f"{served.url}/signout")
    yield await judged("sign-out")
    await page.click("main button")
    yield await judged("signed-out")
