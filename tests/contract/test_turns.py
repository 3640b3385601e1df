"""Turns among processes, on SQLite and PostgreSQL; and forms that take them."""

from __future__ import annotations

import asyncio
import time
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import func, select

from gateway.store import schema, turns
from gateway.store.base import Database, now
from gateway.store.turns import StoredTurns
from gateway.web.forms import Turns


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
async def database(request: pytest.FixtureRequest, tmp_path: Path):
    url = f"sqlite+aiosqlite:///{tmp_path}/store.db" if request.param == "sqlite" else request.getfixturevalue("postgres_url")
    made = Database(url)
    await schema.prepare(made)
    yield made
    await made.close()


async def test_of_many_one_has_the_turn(database: Database):
    """The others get it one after the other, each when the one before has left; another key is nobody else's business."""
    claims = StoredTurns(database)
    taken = await asyncio.gather(*(claims.take("k", f"h{number}") for number in range(10)))
    assert sorted(taken) == [False] * 9 + [True]
    first = f"h{taken.index(True)}"
    assert await claims.take("other", "h1")
    await claims.leave("k", "somebody")
    assert not await claims.take("k", "late")
    await claims.leave("k", first)
    assert await claims.take("k", "late")


async def test_a_turn_that_nobody_ended_is_over_in_time(database: Database):
    """Its holder was killed: the next one takes it, and the late leaving of the first does not end the second's."""
    assert await StoredTurns(database, life=0.05).take("k", "killed")
    claims = StoredTurns(database)
    await asyncio.sleep(0.1)
    assert await claims.take("k", "next")
    await claims.leave("k", "killed")
    assert not await claims.take("k", "third")


async def test_what_a_crash_left_is_forgotten(database: Database):
    """Those whose time is over, and no others."""
    await StoredTurns(database, life=-1).take("old", "h")
    await StoredTurns(database).take("new", "h")
    async with database.write() as connection:
        await turns.prune(connection, moment=now() + timedelta(seconds=0.1))
    async with database.read() as connection:
        assert (await connection.execute(select(turns.table.c.key))).scalars().all() == ["new"]


async def test_a_form_at_two_processes_is_carried_out_by_one_after_the_other(database: Database):
    """Two of them never have the turn at once, and nothing is left when all are done."""
    processes, inside, most = [Turns(StoredTurns(database)) for _ in range(2)], 0, 0

    async def send(number: int) -> None:
        nonlocal inside, most
        async with processes[number % 2].turn("form"):
            inside += 1
            most = max(most, inside)
            await asyncio.sleep(0.01)
            inside -= 1

    await asyncio.gather(*(send(number) for number in range(6)))
    assert most == 1
    async with database.read() as connection:
        assert (await connection.execute(select(func.count()).select_from(turns.table))).scalar_one() == 0


async def test_a_turn_that_does_not_come_is_not_waited_for_for_ever(database: Database):
    """The other process hangs: after a while the form is carried out here, which looks for what is there first."""
    claims = StoredTurns(database)
    async with Turns(claims).turn("form"):
        begun = time.monotonic()
        async with Turns(claims, patience=0.2).turn("form"):
            assert 0.2 <= time.monotonic() - begun < 5
