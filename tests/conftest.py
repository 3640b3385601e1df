"""Fixtures for the real parts. Each is started once, when the first test asks; a part that is missing is an error, never a skip.

A running one is used instead when it is named: GATEWAY_TEST_HAPI (a base URL), GATEWAY_TEST_REDIS (redis:// or unix://),
GATEWAY_TEST_POSTGRES (postgresql://, a role that may create databases), GATEWAY_TEST_CHROMIUM (a path). Tests that share a HAPI keep to
patients and ids of their own.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from hypothesis import settings

from tests.support import parts

# No deadline for one example: a machine that is busy with a real HAPI is slow now and then, and that is no finding.
# On CI the same commit gets the same examples, so that a red run means the change; everywhere else they are new each time.
settings.register_profile("gateway", deadline=None, derandomize=bool(os.environ.get("CI")))
settings.load_profile("gateway")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The first start of HAPI downloads for minutes: where it is used, the time limit is for the test alone. The launcher has its own."""
    for item in items:
        needs_hapi = item.get_closest_marker("hapi") or "hapi_url" in getattr(item, "fixturenames", ())
        if needs_hapi and item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(func_only=True))


@pytest.fixture(scope="session")
def anyio_backend() -> tuple[str, dict[str, object]]:
    """The gateway runs on asyncio only."""
    return "asyncio", {}


@pytest.fixture(scope="session")
def hapi_url() -> Iterator[str]:
    """Base URL of a real HAPI as it comes: it reuses searches for 60 s, refuses dangling references and numeric ids."""
    if running := os.environ.get("GATEWAY_TEST_HAPI"):
        yield running.rstrip("/")
        return
    with parts.hapi() as base_url:
        yield base_url


@pytest.fixture(scope="session")
def redis_url() -> Iterator[str]:
    """URL of a real Valkey or Redis. Tests use key prefixes of their own; those that pause or fill a server start one with parts.valkey."""
    if running := os.environ.get("GATEWAY_TEST_REDIS"):
        yield running
        return
    with parts.valkey() as server:
        yield server.url


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[str]:
    """URL of a real PostgreSQL server; `postgres_url` makes the databases."""
    if running := os.environ.get("GATEWAY_TEST_POSTGRES"):
        yield running
        return
    with parts.postgres() as server:
        yield server.url


@pytest.fixture
def postgres_url(postgres_server: str) -> Iterator[str]:
    """URL (postgresql+asyncpg://) of a new, empty database, dropped after the test."""
    url = parts.new_database(postgres_server)
    yield url
    parts.drop_database(url)


@pytest.fixture(scope="session")
def chromium() -> str:
    """Path of a Chromium to give to Playwright as executable_path."""
    return parts.chromium_path()
