"""The picker with more people than a page shows, in a real browser: by keyboard, without JavaScript, at 320 pixels, and judged by axe."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from importlib.resources import files
from urllib.parse import urlencode

import pytest
import uvicorn
from playwright.async_api import Browser, Page

from gateway.portal.faces import Face
from tests.support import smart

pytestmark = pytest.mark.browser

AXE = (files("axe_playwright_python") / "axe.min.js").read_text("utf-8")
VIOLATIONS = """async () => (await axe.run(document, {rules: {'target-size': {enabled: true}}})).violations
  .map(v => v.id + ': ' + v.nodes.map(n => n.target.join(' ')).join(' | '))"""
SIDEWAYS = "document.documentElement.scrollWidth > document.documentElement.clientWidth"
MANY = [f"p{number:03}" for number in range(45)]


@pytest.fixture
async def start(tmp_path) -> AsyncIterator[str]:
    """The address with which an app sends the browser."""
    listener = socket.create_server(("127.0.0.1", 0))
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    async with smart.smart_server(f"sqlite+aiosqlite:///{tmp_path}/store.db", public_url=url) as server:
        app = server.app()
        app.mount("/static", server.pages.static())
        await server.public_app()
        await server.person("nurse", fhir_user="Practitioner/n", patients=MANY)
        server.faces.faces = {one: Face(f"Wilhelmina-Konstantina Featherstonehaugh {one}", "4 May 1990", "female") for one in MANY}
        running = uvicorn.Server(uvicorn.Config(app, log_level="warning", ws="none", lifespan="off"))
        task = asyncio.create_task(running.serve(sockets=[listener]))
        yield f"{url}/auth/hapi/authorize?" + urlencode(smart.asking(aud=f"{url}/fhir/hapi"))
        running.should_exit = True
        await task


async def sign_in(page: Page, start: str) -> None:
    await page.goto(start)
    await page.fill("#username", "nurse")
    await page.fill("#password", smart.PASSWORD)
    await page.click("form[action='/signin'] button")
    await page.locator("text=Page 1 of 3").wait_for()


async def test_a_patient_is_found_and_chosen_by_keyboard_without_javascript(browser: Browser, start: str):
    """Type, Enter, to the radio button, Space, Enter; and pages are links."""
    context = await browser.new_context(java_script_enabled=False, viewport={"width": 320, "height": 700})
    page = await context.new_page()
    await sign_in(page, start)
    await page.click("text=Next page")
    await page.locator("text=Page 2 of 3").wait_for()
    await page.focus("#q")
    await page.keyboard.type("featherstonehaugh p044")
    await page.keyboard.press("Enter")
    await page.locator("text=1 of 45 is found").wait_for()
    await page.focus("#q")
    for _ in range(6):
        if await page.locator("input[type=radio]:focus").count():
            break
        await page.keyboard.press("Tab")
    await page.keyboard.press("Space")
    await page.keyboard.press("Enter")
    await page.locator("text=Do not ask me again for this app").wait_for()
    assert "p044, born 4 May 1990, female" in await page.inner_text("main")
    await context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 320])
async def test_the_picker_passes_axe(browser: Browser, start: str, width: int, scheme: str):
    """Many, a search, and nobody found: no violation, nothing scrolls sideways."""
    context = await browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
    page = await context.new_page()
    await sign_in(page, start)
    found: list[tuple[list[str], bool]] = []
    for asked in ("", "p01", "nobody at all"):
        if asked:
            await page.fill("#q", asked)
            await page.click("form[role=search] button")
            await page.locator("text=found").first.wait_for()
        await page.evaluate(AXE)
        found.append((await page.evaluate(VIOLATIONS), await page.evaluate(SIDEWAYS)))
    await context.close()
    assert found == [([], False)] * 3
