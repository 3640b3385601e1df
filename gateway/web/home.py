"""The home page: what needs attention now, from all features, and where everything is. One feature that fails is named, the rest is shown."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

from gateway.errors import FhirError
from gateway.portal import appointments, bills, medicines, messages, results
from gateway.portal.chart import Chart, Standing, Todo
from gateway.portal.features import Feature, feature, sections


class View(Protocol):
    """What every feature's list has."""

    @property
    def standing(self) -> Standing:
        """Whose data, how old, what is missing."""
        ...


V = TypeVar("V", bound=View)


@dataclass(frozen=True, slots=True)
class Home:
    """`todos` most urgent first."""

    todos: tuple[Todo, ...]
    sections: tuple[Feature, ...]
    standing: Standing


async def home(chart: Chart) -> Home:
    """Ask every feature what there is to do."""
    today = chart.now.date()
    parts = await asyncio.gather(
        _part(chart, "F26", appointments.listing, appointments.todo),
        _part(chart, "F10", results.listing, lambda view: results.todo(view, today)),
        _part(chart, "F20", messages.listing, lambda view: messages.todo(view, chart.now)),
        _part(chart, "F09", medicines.listing, medicines.todo),
        _part(chart, "F36", bills.listing, bills.todo),
    )
    standing = chart.standing()
    for _, one in parts:
        standing = standing.merged(one)
    todos = sorted((item for found, _ in parts for item in found), key=lambda item: item.rank)
    return Home(tuple(todos), tuple(row for row in sections() if row.path != "/portal/"), standing)


async def _part(
    chart: Chart, feature_id: str, listing: Callable[[Chart], Awaitable[V]], todo: Callable[[V], Sequence[Todo]]
) -> tuple[Sequence[Todo], Standing]:
    try:
        view = await listing(chart)
    except FhirError:
        return (), Standing(chart.source, missing=(feature(feature_id).title.lower(),))
    return todo(view), view.standing
