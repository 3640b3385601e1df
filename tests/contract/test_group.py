"""Group commit, on SQLite and on PostgreSQL: nobody hears of success before it is durable, nobody fails for another."""

from __future__ import annotations

import asyncio

import pytest
from sqlalchemy import text

from gateway.errors import Unavailable
from gateway.store.base import Database
from gateway.store.group import Group


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
async def database(request, tmp_path):
    url = request.getfixturevalue("postgres_url") if request.param == "postgres" else f"sqlite+aiosqlite:///{tmp_path / 'store.db'}"
    made = Database(url)
    async with made.write() as connection:
        await connection.execute(text("CREATE TABLE number (n INTEGER PRIMARY KEY)"))
    yield made
    await made.close()


def putting(n: int):
    async def put(connection) -> int:
        await connection.execute(text("INSERT INTO number VALUES (:n)"), {"n": n})
        return n

    return put


async def numbers(database: Database) -> list[int]:
    async with database.read() as connection:
        return [row[0] for row in await connection.execute(text("SELECT n FROM number ORDER BY n"))]


async def test_many_at_once_are_all_there_and_each_has_its_own_result(database):
    """Far fewer transactions than writes, where there is one writer."""
    group, begun = Group(database), 0
    write = database.write

    def counted():
        nonlocal begun
        begun += 1
        return write()

    database.write = counted
    assert await asyncio.gather(*(group.write(putting(n)) for n in range(200))) == list(range(200))
    assert await numbers(database) == list(range(200))
    assert not database.is_sqlite or begun < 10


async def test_one_that_fails_fails_alone(database):
    """What it had changed is undone; the others are stored."""
    group = Group(database)

    async def bad(connection) -> None:
        await putting(1000)(connection)
        raise KeyError("bad")

    results = await asyncio.gather(*(group.write(putting(n)) for n in range(5)), group.write(bad), group.write(putting(5)), return_exceptions=True)
    assert results[:5] == list(range(5))
    assert isinstance(results[5], KeyError)
    assert results[6] == 5
    assert await numbers(database) == [0, 1, 2, 3, 4, 5]


async def test_nothing_is_told_as_stored_when_the_store_is_down(database):
    """All of the group hear of it."""
    group = Group(database)

    def down():
        raise Unavailable(reason="store-down")

    database.write = down
    results = await asyncio.gather(*(group.write(putting(n)) for n in range(5)), return_exceptions=True)
    assert [type(one) for one in results] == [Unavailable] * 5
    assert await numbers(database) == []


async def test_one_that_went_away_does_not_trouble_the_others(database):
    """A sender that hung up while its group was written."""
    group = Group(database)
    gone = asyncio.create_task(group.write(putting(1)))
    await asyncio.sleep(0)
    stays = asyncio.create_task(group.write(putting(2)))
    await asyncio.sleep(0)
    gone.cancel()
    assert await stays == 2
    assert 2 in await numbers(database)
    assert await group.write(putting(3)) == 3
