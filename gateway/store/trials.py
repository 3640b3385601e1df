"""Reads and writes of the launcher's trials, on a connection that the caller opened. None of these functions commits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import delete, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.store import trial_tables as t
from gateway.store.oauth_tables import client_origin
from gateway.store.row_values import as_row, as_value, one_row

MOST = 2000
"""Events of one trial; what comes after them is not kept."""


@dataclass(frozen=True, slots=True)
class TrialRow:
    """A trial. `wanted`: what the developer chose, as plain JSON; `events`: how many were kept."""

    label: str
    ehr: str
    client_id: str
    wanted: Mapping[str, Any]
    created_at: datetime
    expires_at: datetime
    events: int = 0


@dataclass(frozen=True, slots=True)
class EventRow:
    """One thing that was seen."""

    label: str
    number: int
    at: datetime
    sealed: bytes


async def add(connection: AsyncConnection, value: TrialRow) -> None:
    """A new trial."""
    await connection.execute(insert(t.trial).values(**as_row(value)))


async def trial(connection: AsyncConnection, label: str) -> TrialRow | None:
    """By its label, one that is over too."""
    return await one_row(connection, TrialRow, t.trial, label, "label")


async def begun(connection: AsyncConnection, ehr: str, origin: str, since: datetime) -> str:
    """The label of the newest trial at this EHR, begun since then, whose app lives on this web origin; "" for none."""
    table, origins = t.trial, client_origin
    found = (
        select(table.c.label)
        .join(origins, origins.c.client_id == table.c.client_id)
        .where(table.c.ehr == ehr, table.c.created_at >= since, origins.c.origin == origin)
        .order_by(table.c.created_at.desc())
        .limit(1)
    )
    return str((await connection.execute(found)).scalar() or "")


async def reserve(connection: AsyncConnection, label: str, count: int) -> int:
    """The first of `count` numbers for events, in order of commit; 0 when the trial is over or has enough. Nobody else gets one until the commit."""
    table = t.trial
    counted = update(table).where(table.c.label == label, table.c.events <= MOST - count)
    last = (await connection.execute(counted.values(events=table.c.events + count).returning(table.c.events))).scalar()
    return last - count + 1 if last is not None else 0


async def add_events(connection: AsyncConnection, values: Sequence[EventRow]) -> None:
    """Keep them, under numbers that were reserved in this transaction."""
    await connection.execute(insert(t.trial_event), [as_row(value) for value in values])


async def events(connection: AsyncConnection, label: str, after: int, limit: int) -> tuple[EventRow, ...]:
    """Numbers beyond `after`, in order."""
    table = t.trial_event
    rows = await connection.execute(select(table).where(table.c.label == label, table.c.number > after).order_by(table.c.number).limit(limit))
    return tuple(found for row in rows if (found := as_value(EventRow, row)) is not None)


async def prune(connection: AsyncConnection, *, moment: datetime) -> None:
    """Forget trials that are over, with all that was seen of them."""
    over = select(t.trial.c.label).where(t.trial.c.expires_at < moment)
    await connection.execute(delete(t.trial_event).where(t.trial_event.c.label.in_(over)))
    await connection.execute(delete(t.trial).where(t.trial.c.expires_at < moment))
