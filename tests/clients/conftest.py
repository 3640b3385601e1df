"""One gateway, one browser and the packages for all tests of released clients. The first run downloads: the time limit is for the tests alone."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from playwright.async_api import Browser, async_playwright

from tests.clients.scene import Scene, scene
from tests.support import packages

HERE = Path(__file__).parent
ARGUMENTS = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what is here."""
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.clients)
            item.add_marker(pytest.mark.timeout(func_only=True))


@pytest.fixture(scope="session")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    """The gateway with everything around it."""
    found = packages.npm(packages.pins(HERE / "npm.json"))
    with scene(tmp_path_factory.mktemp("clients"), found) as started:
        yield started


@pytest.fixture(scope="session")
def interpreter() -> Path:
    """A Python with the clients that are Python packages, and without the gateway."""
    return packages.python(HERE / "requirements.txt")


@pytest.fixture(scope="session")
async def browser(chromium: str) -> AsyncIterator[Browser]:
    """One browser for all tests; each opens contexts of its own."""
    async with async_playwright() as playwright:
        launched = await playwright.chromium.launch(executable_path=chromium, args=ARGUMENTS)
        yield launched
        await launched.close()
