"""Intents to renew cache generations, committed before a write is sent to an EHR and removed once the cache confirmed the renewal after it.

As long as a row is here, every process goes around the cache for its names (`gateway.cache.cache`). A restart finds the rows of a crash.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import JSON, Boolean, Column, String, Table, delete, insert, select
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.store.base import Derive, UtcDateTime, metadata, now
from gateway.store.here import Values

table = Table(
    "pending_invalidation",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("names", JSON, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Column("settled", Boolean, nullable=False),
)


@dataclass(frozen=True, slots=True)
class Pending:
    """One intent. `settled`: the write behind it has ended, so a renewal from now on is enough; else it may still be on its way."""

    id: str
    names: tuple[str, ...]
    created_at: datetime
    settled: bool


async def add(connection: AsyncConnection, names: Iterable[str], *, settled: bool = False) -> str:
    """Note that these generations are to be renewed. Gives the row's id."""
    id_ = secrets.token_hex(16)
    await connection.execute(insert(table).values(id=id_, names=sorted(set(names)), created_at=now(), settled=settled))
    return id_


async def remove(connection: AsyncConnection, *ids: str) -> None:
    """Strike out intents; those that are gone already are no error."""
    if ids:
        await connection.execute(delete(table).where(table.c.id.in_(ids)))


_PENDING = select(table).order_by(table.c.created_at)


async def pending(derive: Derive) -> Sequence[Pending]:
    """All intents, the oldest first."""
    return await derive(_PENDING, {}, _pending)


def _pending(rows: Values) -> Sequence[Pending]:
    return [Pending(row["id"], tuple(row["names"]), row["created_at"], row["settled"]) for row in rows]
