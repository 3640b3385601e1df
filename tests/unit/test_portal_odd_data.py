"""Whatever an EHR holds, each view stands: members of any shape are left out or shown as they are, never an error."""

from __future__ import annotations

import asyncio
import copy
import json
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.portal import access_log, appointments, bills, conditions, medicines, messages, results
from gateway.web.home import home
from tests.support.clinic import Clinic, rich
from tests.support.portal_chart import chart_of

BASE = rich()
JUNK = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-3, 10**20)
    | st.sampled_from(["", " ", "x", "2026-13-45", "2026-01-01T99:00:00Z", "Patient/p1", "#", "0001"]),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["value", "unit", "text", "coding", "code", "reference", "start"]), inner)
    ),
    max_leaves=6,
)
KEPT = frozenset({"resourceType", "id", "subject", "patient", "for", "entity", "participant"})  # what says whose it is


def _places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every place below a resource that may be spoiled."""
    items: list[tuple[Any, Any]] = list(value.items()) if isinstance(value, dict) else list(enumerate(value)) if isinstance(value, list) else []
    found: list[tuple[Any, ...]] = []
    for name, inner in items:
        if path or name not in KEPT:
            found += [(*path, name), *_places(inner, (*path, name))]
    return found


def _spoil(resource: dict[str, Any], path: tuple[Any, ...], junk: Any) -> dict[str, Any]:
    made = copy.deepcopy(resource)
    inner: Any = made
    for name in path[:-1]:
        inner = inner[name]
    inner[path[-1]] = junk
    return made


PLACES = [(key, path) for key, raw in BASE.resources.items() if key[0] != "Patient" for path in _places(json.loads(raw))]


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(PLACES), JUNK), min_size=1, max_size=4))
def test_no_shape_of_data_breaks_a_view(spoils):
    """One to four members of the rich record become something else; every list and every detail is still made."""
    clinic = Clinic(resources=dict(BASE.resources), versions=dict(BASE.versions))
    for (key, path), junk in {key: (key, junk) for key, junk in [((key, path), junk) for (key, path), junk in spoils]}.values():
        clinic.put(_spoil(json.loads(BASE.resources[key]), path, junk))
    asyncio.run(_look_at_everything(clinic))


async def _look_at_everything(clinic: Clinic) -> None:
    chart = chart_of(clinic)
    for listing in (
        access_log.listing,
        appointments.listing,
        bills.listing,
        conditions.listing,
        medicines.listing,
        messages.listing,
        results.listing,
    ):
        assert (await listing(chart)).standing.missing == ()
    assert (await home(chart)).standing.missing == ()
    assert await messages.recipients(chart) is not None
    for name in ("k1", "bp", "cr1"):
        assert (await results.observation(chart, name)).title
    assert (await results.report(chart, "panel")).title
    assert (await appointments.one(chart, "a1"))[0].title
    assert (await bills.one(chart, "ExplanationOfBenefit", "eob1"))[0].title
