"""A whole gateway on a socket, over the EHR double with the people of the sandbox: what the browser tests of real records run against."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from playwright.async_api import BrowserContext

from gateway import app, compose, config, local
from gateway.sandbox import people
from gateway.sandbox.double import Double
from gateway.sandbox.double import served as double_served
from gateway.sockets import listening
from gateway.store.oauth_rows import ListedPatient
from tests.support.threaded_server import served

EHR = "clinic"


@dataclass
class Whole:
    """Where it runs, and the EHR behind it."""

    url: str
    double: Double
    settings: config.Settings

    async def sign_in(self, context: BrowserContext, username: str) -> None:
        """Through the sign-in page, as a person does."""
        page = await context.new_page()
        await page.goto(f"{self.url}/portal/")
        await page.get_by_label("User name").fill(username)
        await page.get_by_label("Password").fill(people.DEFAULT_PASSWORD)
        await page.get_by_role("button", name="Sign in").click()
        await page.get_by_role("button", name="Sign out").wait_for()
        await page.close()


@contextmanager
def whole(folder: Path, **more: object) -> Iterator[Whole]:
    """Composed as the serving process composes it. `more`: settings by name."""
    with ExitStack() as stack:
        double = Double()
        upstream = stack.enter_context(double_served(double))
        asyncio.run(people.load(upstream, people.folders(datetime.now(UTC).date()), headers={}, say=lambda _: None))
        listener = listening("127.0.0.1")
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        flags = {"ehr": (f"{EHR}={upstream}",), "public_url": url, "data_dir": str(folder)} | more
        environ = {"GATEWAY_EHR_CLINIC_DISPLAY": "Alder Street Clinic", "GATEWAY_EHR_CLINIC_PHONE": "555 0100"}
        settings = config.load(environ=environ, flags=flags, cwd=folder).settings
        asyncio.run(_accounts(settings))
        stack.enter_context(served(app.app(compose.gateway(settings), deliver=True), listener=listener, lifespan="on"))
        yield Whole(url, double, settings)


async def _accounts(settings: config.Settings) -> None:
    async with local.opened(settings) as state:
        accounts = local.accounts(state)
        for one in people.roster():
            listed = tuple(ListedPatient(*pair) for pair in one.patients)
            await accounts.add(one.username, one.password, ehr=EHR, fhir_user=one.fhir_user, display_name=one.display, patients=listed)
