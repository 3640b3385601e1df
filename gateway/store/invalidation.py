"""Intents to renew cache generations, committed before a write is sent to an EHR and removed once the cache confirmed the renewal after it.

As long as a row is here, every process goes around the cache for its names (`gateway.cache.cache`). A restart finds the rows of a crash.
Beside them: the processes that remember answers, for which a write waits until they have forgotten what it changes (`gateway.cache.circle`).
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import JSON, Boolean, Column, String, Table, delete, insert, select, update
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

cache_member = Table(
    "cache_member",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("left_out", Boolean, nullable=False),
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


@dataclass(frozen=True, slots=True)
class Member:
    """One process that remembers. `out`: it said nothing when it was told what changed, and is to find that here."""

    id: str
    out: bool


async def join(connection: AsyncConnection, id_: str) -> None:
    """A process remembers from now on."""
    await connection.execute(insert(cache_member).values(id=id_, left_out=False))


async def leave(connection: AsyncConnection, *ids: str) -> None:
    """These remember nothing; those that are gone already are no error."""
    if ids:
        await connection.execute(delete(cache_member).where(cache_member.c.id.in_(ids)))


async def leave_out(connection: AsyncConnection, *ids: str) -> None:
    """These are to find that they remember nothing any more."""
    if ids:
        await connection.execute(update(cache_member).where(cache_member.c.id.in_(ids)).values(left_out=True))


_MEMBERS = select(cache_member)


async def members(derive: Derive) -> Sequence[Member]:
    """All of them."""
    return await derive(_MEMBERS, {}, _members)


def _members(rows: Values) -> Sequence[Member]:
    return [Member(row["id"], row["left_out"]) for row in rows]
