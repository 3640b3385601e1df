"""A real browser against the portal. `site` is where it runs and how to sign in: a clinic in memory here, any running gateway elsewhere."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from importlib.resources import files

import pytest
from playwright.async_api import Browser, BrowserContext, async_playwright

from tests.support.clinic import Clinic, rich
from tests.support.portal_app import FAMILY, People, Person, make_app
from tests.support.threaded_server import served

ARGUMENTS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
# Every page by what it is; paths are those of the clinic in memory.
PAGES = {
    "home": "",
    "results": "results",
    "results-empty-kind": "results?kind=imaging",
    "result": "results/observation/k1",
    "result-parts": "results/observation/bp",
    "result-withdrawn": "results/observation/oops",
    "report": "results/report/panel",
    "report-text": "results/report/xray",
    "conditions": "conditions",
    "medicines": "medicines",
    "medicine": "medicines/mr1",
    "get-more": "medicines/mr2/more",
    "appointments": "appointments",
    "appointment": "appointments/a1",
    "appointment-ask": "appointments/new",
    "appointment-cancel": "appointments/a1/cancel",
    "messages": "messages",
    "thread": "messages/th1",
    "message-new": "messages/new?about=Observation/k1",
    "bills": "bills",
    "bill": "bills/plan/eob1",
    "claim": "bills/claim/cl2",
    "access": "access",
    "records": "records",
    "not-found": "nowhere",
}


async def _nothing(_: BrowserContext) -> None:
    """In the clinic in memory somebody is always signed in."""


@dataclass
class Site:
    """Where the portal runs. `pages`: name to path below /portal/. `clinic` is the double behind it, None for a real gateway."""

    url: str
    sign_in: Callable[[BrowserContext], Awaitable[None]] = _nothing
    pages: dict[str, str] = field(default_factory=lambda: dict(PAGES))
    clinic: Clinic | None = None


@pytest.fixture(scope="session")
def site() -> Iterator[Site]:
    """A rich record; tests that use it only look."""
    clinic = rich()
    with served(make_app(clinic, People(FAMILY))) as url:
        yield Site(url, clinic=clinic)


@pytest.fixture
def own_site() -> Iterator[Site]:
    """A record of its own for a test that changes it."""
    clinic = rich()
    with served(make_app(clinic, People(Person()))) as url:
        yield Site(url, clinic=clinic)


@pytest.fixture
def empty_site() -> Iterator[Site]:
    """A clinic that has nothing about the patient."""
    lists = ("home", "results", "conditions", "medicines", "appointments", "messages", "message-new", "bills", "access")
    pages = {name: PAGES[name].partition("?")[0] for name in lists}
    with served(make_app(Clinic(), People(Person()))) as url:
        yield Site(url, pages=pages)


@pytest.fixture(scope="session")
async def browser(chromium: str) -> AsyncIterator[Browser]:
    """One browser for all tests; each opens contexts of its own."""
    async with async_playwright() as playwright:
        launched = await playwright.chromium.launch(executable_path=chromium, args=ARGUMENTS)
        yield launched
        await launched.close()


@pytest.fixture(scope="session")
def axe_source() -> str:
    """axe-core, to be run by `page.evaluate`: our CSP lets no script in."""
    return (files("axe_playwright_python") / "axe.min.js").read_text()
