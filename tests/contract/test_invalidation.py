"""Intents to renew generations, on SQLite and PostgreSQL."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.store import invalidation, schema
from gateway.store.base import Database


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
async def database(request: pytest.FixtureRequest, tmp_path: Path):
    url = f"sqlite+aiosqlite:///{tmp_path}/store.db" if request.param == "sqlite" else request.getfixturevalue("postgres_url")
    made = Database(url)
    await schema.prepare(made)
    yield made
    await made.close()


async def test_an_intent_is_there_until_it_is_removed(database: Database):
    """Oldest first, each name once; removing what is gone is no error."""
    async with database.write() as connection:
        first = await invalidation.add(connection, ["b", "a", "b"])
        second = await invalidation.add(connection, ["c"], settled=True)
    found = await invalidation.pending(database.derive)
    assert [(row.id, row.names, row.settled) for row in found] == [(first, ("a", "b"), False), (second, ("c",), True)]
    assert found[0].created_at.tzinfo is not None
    async with database.write() as connection:
        await invalidation.remove(connection, first, "gone")
        await invalidation.remove(connection)
    assert [row.id for row in await invalidation.pending(database.derive)] == [second]


async def test_an_intent_of_a_transaction_that_failed_is_not_there(database: Database):
    """It is committed with what it speaks of, or not at all."""

    async def fail() -> None:
        async with database.write() as connection:
            await invalidation.add(connection, ["a"])
            raise RuntimeError("half way")

    with pytest.raises(RuntimeError, match="half way"):
        await fail()
    assert await invalidation.pending(database.derive) == []


async def test_members_come_and_go(database: Database):
    """Who was left out is still there, and says so; leaving out who is gone is no error."""

    async def members() -> dict[str, bool]:
        return {one.id: one.out for one in await invalidation.members(database.derive)}

    async with database.write() as connection:
        await invalidation.join(connection, "a")
        await invalidation.join(connection, "b")
    assert await members() == {"a": False, "b": False}
    async with database.write() as connection:
        await invalidation.leave_out(connection, "a", "gone")
        await invalidation.leave_out(connection)
    assert await members() == {"a": True, "b": False}
    async with database.write() as connection:
        await invalidation.leave(connection, "a", "gone")
        await invalidation.leave(connection)
    assert await members() == {"b": False}
