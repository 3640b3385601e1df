"""A pytest plugin: leaves out the tests of the parts named in GATEWAY_TEST_WITHOUT, by their marker or by the fixture that they ask for."""

from __future__ import annotations

import os

FIXTURES = {
    "hapi": {"hapi_url"},
    "redis": {"redis_url"},
    "postgres": {"postgres_server", "postgres_url"},
    "browser": {"chromium"},
}


def pytest_collection_modifyitems(config, items) -> None:
    """Deselect, so that the closing line counts them."""
    without = {name for name in os.environ.get("GATEWAY_TEST_WITHOUT", "").split(",") if name}
    dropped = [item for item in items if any(_needs(item, name) for name in without)]
    if dropped:
        config.hook.pytest_deselected(items=dropped)
        items[:] = [item for item in items if item not in set(dropped)]


def _needs(item, part: str) -> bool:
    return item.get_closest_marker(part) is not None or bool(FIXTURES.get(part, set()) & set(getattr(item, "fixturenames", ())))
