"""What the store promises, over SQLite and PostgreSQL: transactions, times, and what happens when it is locked, down or restarted."""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import time
from contextlib import closing
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest
from sqlalchemy import Column, Integer, String, Table, bindparam, insert, select, text, update
from sqlalchemy.exc import IntegrityError, ProgrammingError, StatementError

from gateway.errors import Unavailable
from gateway.store import base, here, schema
from gateway.store.base import Database, UtcDateTime, metadata
from tests.support import parts

MOMENT = datetime(2026, 3, 29, 1, 30, 0, 123456, tzinfo=UTC)


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
async def database(request: pytest.FixtureRequest, tmp_path: Path):
    url = f"sqlite+aiosqlite:///{tmp_path}/store.db" if request.param == "sqlite" else request.getfixturevalue("postgres_url")
    made = Database(url)
    await _make(made)
    yield made
    await made.close()


@pytest.fixture
async def sqlite(tmp_path: Path):
    made = Database(f"sqlite+aiosqlite:///{tmp_path}/store.db")
    await _make(made)
    yield made
    await made.close()


async def _make(database: Database) -> None:
    async with database.write() as connection:
        kind = "TIMESTAMP WITH TIME ZONE" if not database.is_sqlite else "DATETIME"
        await connection.execute(text(f"CREATE TABLE things (id INTEGER PRIMARY KEY, name VARCHAR(20) UNIQUE, at {kind})"))


_things = Table(
    "things",
    metadata.__class__(),  # not among the tables of the gateway
    Column("id", Integer, primary_key=True),
    Column("name", String(20), unique=True),
    Column("at", UtcDateTime),
)


async def _add(database: Database, id_: int, *, fail: bool = False) -> None:
    async with database.write() as connection:
        await connection.execute(insert(_things).values(id=id_, name=str(id_), at=MOMENT))
        if fail:
            raise RuntimeError("half way")


async def _ids(database: Database) -> list[int]:
    async with database.read() as connection:
        return list((await connection.execute(select(_things.c.id).order_by(_things.c.id))).scalars())


async def test_a_transaction_is_whole_or_nothing(database: Database):
    """What fails half way leaves nothing; its own error reaches the caller."""
    await _add(database, 1)
    with pytest.raises(RuntimeError, match="half way"):
        await _add(database, 2, fail=True)
    assert await _ids(database) == [1]


async def test_times_come_back_aware_and_in_utc(database: Database):
    """Whatever zone they were given in, to the microsecond; a time without a zone is refused."""
    zone = timezone(timedelta(hours=-7))
    async with database.write() as connection:
        await connection.execute(insert(_things).values(id=1, at=MOMENT.astimezone(zone)))
    async with database.read() as connection:
        (found,) = (await connection.execute(select(_things.c.at))).scalars()
    assert found == MOMENT
    assert found.utcoffset() == timedelta(0)

    async def naive() -> None:
        async with database.write() as connection:
            await connection.execute(insert(_things).values(id=2, at=MOMENT.replace(tzinfo=None)))

    with pytest.raises(StatementError, match="without a zone"):
        await naive()


async def test_a_mistake_of_ours_is_not_a_database_that_is_down(database: Database):
    """Constraints and (on PostgreSQL) unknown columns keep their own errors: an answer 503 would have callers try again for ever."""
    await _add(database, 1)
    with pytest.raises(IntegrityError):
        await _add(database, 1)


@pytest.mark.postgres
async def test_two_that_wait_for_each_other_are_no_mistake(postgres_url: str):
    """PostgreSQL ends one of them: nothing of it is done, and whoever asked is told to come back."""
    database = Database(postgres_url)
    await _make(database)
    await asyncio.gather(*(_add(database, number) for number in (1, 2)))
    both = asyncio.Barrier(2)

    async def take(first: int, then: int) -> None:
        async with database.write() as connection:
            await connection.execute(text("SET LOCAL deadlock_timeout = '10ms'"))
            await connection.execute(update(_things).where(_things.c.id == first).values(name=f"before {first}"))
            await both.wait()
            await connection.execute(update(_things).where(_things.c.id == then).values(name=f"after {first}"))

    found = await asyncio.gather(take(1, 2), take(2, 1), return_exceptions=True)
    await database.close()
    assert sorted(type(one).__name__ for one in found) == ["NoneType", "Unavailable"]


async def test_many_writers_wait_for_each_other(database: Database):
    """A hundred at once, all committed, none refused."""
    await asyncio.gather(*(_add(database, number) for number in range(100)))
    assert await _ids(database) == list(range(100))


async def test_readers_do_not_wait_for_a_writer(database: Database):
    """They see what was committed before."""
    await _add(database, 1)
    async with database.write() as connection:
        await connection.execute(insert(_things).values(id=2))
        assert await asyncio.wait_for(_ids(database), 2) == [1]
    assert await _ids(database) == [1, 2]


_BY_NAME = select(_things.c.id, _things.c.at).where(_things.c.name == bindparam("name"))


def _pairs(rows) -> list[tuple]:
    return [(row["id"], row["at"]) for row in rows]


async def _named(database: Database, name: str) -> list[tuple]:
    return await database.derive(_BY_NAME, {"name": name}, _pairs)


async def test_what_is_derived_is_of_the_newest_commit(database: Database):
    """What is asked at every request sees each commit, of this process and of others, and nothing that was not committed."""
    assert await _named(database, "1") == []
    await _add(database, 1)
    assert await _named(database, "1") == [(1, MOMENT)]
    other = Database(database.url)
    for at in (None, MOMENT + timedelta(days=1), None, MOMENT):
        before = await _named(database, "1")
        async with other.write() as connection:
            await connection.execute(update(_things).where(_things.c.name == "1").values(at=at))
            assert await _named(database, "1") == before
        assert await _named(database, "1") == [(1, at)]
    with pytest.raises(RuntimeError, match="half way"):
        await _add(database, 2, fail=True)
    assert await _named(database, "2") == []
    await other.close()


async def test_what_is_derived_is_kept_while_the_rows_are_the_same(sqlite: Database):
    """Rows are read each time, and made into something once; other rows, and another reading of them, are their own."""
    for number in range(3):
        await _add(sqlite, number)
    first = await _named(sqlite, "1")
    assert await _named(sqlite, "1") is first
    assert await _named(sqlite, "2") == [(2, MOMENT)]
    assert await sqlite.derive(_BY_NAME, {"name": "1"}, len) == 1
    async with sqlite.write() as connection:
        await connection.execute(update(_things).where(_things.c.name == "1").values(id=7))
    assert await _named(sqlite, "1") == [(7, MOMENT)]


async def test_what_is_kept_is_bounded(sqlite: Database, monkeypatch: pytest.MonkeyPatch):
    """The oldest goes; nothing is kept of what is not there."""
    monkeypatch.setattr(here, "_KEPT", 3)
    for number in range(5):
        await _add(sqlite, number)
    kept = [await _named(sqlite, str(number)) for number in range(5)]
    for number in range(100, 200):
        assert await _named(sqlite, str(number)) == []
    assert [await _named(sqlite, str(number)) is kept[number] for number in (4, 3, 2, 1)] == [True, True, True, False]


async def test_deriving_holds_no_lock(sqlite: Database):
    """The connection that stays open for it keeps no snapshot: the log is emptied into the database while it is there."""
    await _add(sqlite, 1)
    assert len(await _named(sqlite, "1")) == 1
    async with sqlite.read() as connection:
        busy, left, _ = (await connection.execute(text("PRAGMA wal_checkpoint(TRUNCATE)"))).one()
    assert (busy, left) == (0, 0)


async def test_deriving_waits_where_it_has_to(sqlite: Database):
    """While another process has the whole file for itself for a moment, it is done in the patient way, and the loop goes on."""
    await _add(sqlite, 1)
    assert len(await _named(sqlite, "1")) == 1
    path = sqlite.url.partition(":///")[2]
    await sqlite.close()
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("PRAGMA locking_mode=EXCLUSIVE")
        other.execute("PRAGMA journal_mode=DELETE")
        other.execute("BEGIN EXCLUSIVE")
        asked = asyncio.create_task(_named(sqlite, "1"))
        await asyncio.sleep(0.3)
        assert not asked.done()
        other.execute("COMMIT")
    assert len(await asked) == 1


async def test_deriving_from_a_store_that_is_gone(tmp_path: Path):
    """503, as for every read."""
    database = Database(f"sqlite+aiosqlite:///{tmp_path}/gone/store.db")
    with pytest.raises(Unavailable):
        await _named(database, "1")
    await database.close()


@pytest.mark.parametrize("after", [0.0, 0.0005, 0.002, 0.005, 0.01])
async def test_a_cancelled_writer_leaves_nothing_behind(database: Database, after: float):
    """Requests are cancelled at any moment: no open transaction, no lock and no half write stays."""
    for number in range(10):
        task = asyncio.create_task(_add(database, number))
        await asyncio.sleep(after)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    await asyncio.wait_for(_add(database, 100), 3)
    found = await _ids(database)
    assert found[-1] == 100
    if database.is_sqlite:
        with closing(sqlite3.connect(database.url.partition(":///")[2], timeout=0)) as other:
            other.execute("BEGIN IMMEDIATE")  # nobody holds the lock


async def test_a_writer_cancelled_while_it_waits_for_the_lock_does_not_get_it_later(sqlite: Database):
    """The statement goes on in the driver's thread after the request was cancelled: what it obtains must be given back."""
    with closing(sqlite3.connect(sqlite.url.partition(":///")[2], isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        task = asyncio.create_task(_add(sqlite, 1))
        await asyncio.sleep(0.2)
        task.cancel()
        await asyncio.sleep(0.05)
        other.execute("ROLLBACK")
        await asyncio.gather(task, return_exceptions=True)
        await asyncio.sleep(0.2)
        other.execute("PRAGMA busy_timeout=0")
        other.execute("BEGIN IMMEDIATE")
        other.execute("ROLLBACK")
    assert await _ids(sqlite) == []
    await _add(sqlite, 2)


# Faults --------------------------------------------------------------------------------------------------------------------------


@pytest.mark.fault
async def test_locked(sqlite: Database, monkeypatch: pytest.MonkeyPatch):
    """FAULT-D1: another process holds the write lock: 503 with Retry-After within the busy timeout, for one and for many; reads go on."""
    monkeypatch.setattr(base, "BUSY", 1.0)
    database = Database(sqlite.url)
    with closing(sqlite3.connect(sqlite.url.partition(":///")[2], isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        began = time.monotonic()
        results = await asyncio.gather(*(_add(database, number) for number in range(30)), return_exceptions=True)
        assert time.monotonic() - began < 1.0 + 1.0
        assert {type(result) for result in results} == {Unavailable}
        assert {result.retry_after for result in results if isinstance(result, Unavailable)} == {2}
        assert await asyncio.wait_for(_ids(database), 1) == []
        other.execute("ROLLBACK")
    await _add(database, 1)
    assert await _ids(database) == [1]
    await database.close()


@pytest.mark.fault
async def test_locked_for_a_moment_is_waited_for(sqlite: Database):
    """A short write of another process costs time and nothing else."""
    with closing(sqlite3.connect(sqlite.url.partition(":///")[2], isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        adding = asyncio.gather(*(_add(sqlite, number) for number in range(5)))
        await asyncio.sleep(0.5)
        other.execute("ROLLBACK")
        await adding
    assert await _ids(sqlite) == [0, 1, 2, 3, 4]


@pytest.mark.fault
async def test_disk_full(sqlite: Database):
    """FAULT-D2: 503, nothing half, reads go on, and it recovers when there is space."""
    async with sqlite.read() as connection:
        pages = (await connection.execute(text("PRAGMA page_count"))).scalar_one()
    limited = Database(sqlite.url)
    base.event.listen(limited.engine.sync_engine, "connect", lambda raw, _: raw.execute(f"PRAGMA max_page_count={pages}"))
    with pytest.raises(Unavailable):
        await _fill(limited)
    assert await _ids(limited) == []
    await limited.close()
    await _add(sqlite, 1)


async def _fill(database: Database) -> None:
    async with database.write() as connection:
        for number in range(2000):
            await connection.execute(insert(_things).values(id=number, name="x" * 15 + str(number)))


@pytest.fixture
def server():
    with parts.postgres() as started:
        yield started


@pytest.mark.postgres
@pytest.mark.fault
async def test_down_and_back(server: parts.Part):
    """FAULT-D3: PostgreSQL is killed: 503 at once for who has a connection, who waits in a transaction, and who is new."""
    database = Database(parts.new_database(server.url))
    await _make(database)
    await _add(database, 1)

    async def interrupted() -> None:
        async with database.write() as connection:
            await connection.execute(insert(_things).values(id=2))
            server.process.send_signal(signal.SIGQUIT)  # immediate shutdown, as after a crash
            await asyncio.to_thread(server.process.wait)
            await connection.execute(insert(_things).values(id=3))

    with pytest.raises(Unavailable):
        await interrupted()
    for attempt in (_add(database, 4), _ids(database), _add(Database(database.url), 5), schema.prepare(database)):
        began = time.monotonic()
        with pytest.raises(Unavailable) as caught:
            await attempt
        assert caught.value.retry_after == 2
        assert time.monotonic() - began < 2
    await database.close()


@pytest.mark.postgres
@pytest.mark.fault
async def test_connections_that_were_ended_are_replaced(database: Database):
    """FAULT-D4: after a restart or a fail-over the next request has a new connection, without an error."""
    if database.is_sqlite:
        return
    await asyncio.gather(*(_ids(database) for _ in range(5)))
    other = Database(database.url)
    async with other.write() as connection:
        await connection.execute(
            text("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND datname = current_database()")
        )
    await asyncio.sleep(0.2)
    await _add(database, 1)
    assert await _ids(database) == [1]
    await other.close()


@pytest.mark.postgres
@pytest.mark.fault
async def test_stopped(server: parts.Part, monkeypatch: pytest.MonkeyPatch):
    """A PostgreSQL that says nothing at all (a cut cable, SIGSTOP) is a 503 too, and not a request that hangs for ever."""
    monkeypatch.setattr(base, "BUSY", 0.5)
    monkeypatch.setattr(base, "_SLOW", 1.0)
    database = Database(parts.new_database(server.url))
    await _make(database)
    await _add(database, 1)
    children = _children(server.process.pid)
    for pid in (server.process.pid, *children):
        os.kill(pid, signal.SIGSTOP)
    try:
        for attempt in (_add(database, 2), _ids(database)):
            began = time.monotonic()
            with pytest.raises(Unavailable):
                await attempt
            assert time.monotonic() - began < 6
    finally:
        for pid in (server.process.pid, *children):
            os.kill(pid, signal.SIGCONT)
    await _add(database, 3)
    assert await _ids(database) == [1, 3]
    await database.close()


def _children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.mark.postgres
async def test_an_unknown_column_is_a_mistake(postgres_url: str):
    """Not a 503: it would be tried again for ever."""
    database = Database(postgres_url)

    async def ask() -> None:
        async with database.read() as connection:
            await connection.execute(text("SELECT nothing FROM nowhere"))

    with pytest.raises(ProgrammingError):
        await ask()
    await database.close()


def test_sqlite_in_memory_is_refused():
    """Each connection would have a database of its own."""
    with pytest.raises(ValueError, match="use a file"):
        Database("sqlite+aiosqlite:///:memory:")


async def test_sqlite_commits_reach_the_disk(sqlite: Database):
    """Promise 3: write-ahead log with synchronous=FULL, foreign keys enforced."""
    async with sqlite.read() as connection:
        settings = [(await connection.execute(text(f"PRAGMA {name}"))).scalar_one() for name in ("journal_mode", "synchronous", "foreign_keys")]
    assert settings == ["wal", 2, 1]
