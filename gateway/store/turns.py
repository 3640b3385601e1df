"""Whose turn it is, among all processes: a key that one holder has until it leaves, or until a moment after which it counts as gone."""

from __future__ import annotations

from datetime import datetime, timedelta

from sqlalchemy import Column, String, Table, delete
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.store.base import Database, UtcDateTime, metadata, now

table = Table(
    "turn",
    metadata,
    Column("key", String(64), primary_key=True),
    Column("holder", String(32), nullable=False),
    Column("until", UtcDateTime, nullable=False),
)


async def take(connection: AsyncConnection, key: str, holder: str, *, moment: datetime, until: datetime) -> bool:
    """Take the turn, if nobody has it or whoever had it is over its time. `key`: a hash in hex. False: somebody else has it."""
    make = postgresql.insert if connection.dialect.name == "postgresql" else sqlite.insert
    mine = make(table).values(key=key, holder=holder, until=until)
    taken = mine.on_conflict_do_update(index_elements=["key"], set_={"holder": holder, "until": until}, where=table.c.until < moment)
    return (await connection.execute(taken)).rowcount == 1


async def leave(connection: AsyncConnection, key: str, holder: str) -> None:
    """Let the next one go, unless the turn went to another meanwhile."""
    await connection.execute(delete(table).where(table.c.key == key, table.c.holder == holder))


async def prune(connection: AsyncConnection, *, moment: datetime) -> None:
    """Forget turns that a crash left behind."""
    await connection.execute(delete(table).where(table.c.until < moment))


class StoredTurns:
    """Turns over a database. One that nobody ended is over after `life` seconds, which is longer than a write to an EHR takes."""

    def __init__(self, database: Database, *, life: float = 60.0) -> None:
        self._database, self._life = database, timedelta(seconds=life)

    async def take(self, key: str, holder: str) -> bool:
        """See `take`. Raises Unavailable."""
        moment = now()
        async with self._database.write() as connection:
            return await take(connection, key, holder, moment=moment, until=moment + self._life)

    async def leave(self, key: str, holder: str) -> None:
        """See `leave`. Raises Unavailable."""
        async with self._database.write() as connection:
            await leave(connection, key, holder)
