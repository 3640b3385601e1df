"""Two processes that remember answers themselves, and what a write costs when one of them does not say that it forgot."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from gateway.cache.board import Board, Hub
from gateway.cache.cache import Cache, Looked
from gateway.cache.keys import Ask, names
from gateway.cache.memory import MemoryStore
from gateway.cache.redis import RedisStore
from gateway.cache.redis_board import RedisBoard
from gateway.errors import Unavailable
from gateway.store import invalidation, schema
from gateway.store.base import Database
from tests.contract.test_cache import COHERENCE, Cuttable, Flaky, _process, _until


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    made = Database(f"sqlite+aiosqlite:///{tmp_path}/store.db")
    await schema.prepare(made)
    yield made
    await made.close()


@dataclass
class Pair:
    """A writer, a reader, and the reader's links."""

    writer: Cache
    reader: Cache
    store: Flaky
    board: Cuttable
    database: Database
    others: Database  # the reader's own
    ehr: str

    @property
    def ask(self) -> Ask:
        return Ask(self.ehr, "gateway", "[]", "read Patient/a", ("a",), ())

    async def remembered(self) -> Looked:
        """What the reader has, without asking the store."""
        self.store.cut = True
        try:
            return await self.reader.look(self.ask)
        finally:
            self.store.cut = False

    async def fill(self, value: bytes) -> None:
        await self.reader.fill(await self.reader.look(self.ask), value, 60)
        assert (await self.remembered()).value == value

    async def write(self) -> bool:
        """Whether it had to wait until nobody can remember any more."""
        before = self._waits()
        async with self.writer.touching(names(self.ehr, ["a"], ["Patient"])):
            pass
        return self._waits() > before

    def _waits(self) -> int:
        return sum(count for name, count in self.writer.counts.shown().items() if name.startswith("waited"))

    async def members(self) -> list[bool]:
        return sorted(one.out for one in await invalidation.members(self.database.derive))


@asynccontextmanager
async def _pair(database: Database, store: MemoryStore | RedisStore, boards: tuple[Board, Board]) -> AsyncIterator[Pair]:
    flaky, cuttable, own = Flaky(store), Cuttable(boards[1]), Database(database.url)
    async with _process(store, database, board=boards[0]) as writer, _process(flaky, own, board=cuttable) as reader:
        yield Pair(writer, reader, flaky, cuttable, database, own, f"ehr-{secrets.token_hex(4)}")
    await own.close()


@pytest.fixture
async def pair(database: Database) -> AsyncIterator[Pair]:
    hub = Hub()
    async with _pair(database, MemoryStore(1_000_000), (hub, hub)) as made:
        yield made


async def test_a_process_remembers_and_forgets_with_a_write_elsewhere(pair: Pair):
    """FAULT-C3 with two levels: no trip to the store for what it remembers; a write is answered once it forgot, which takes no time."""
    await pair.fill(b"old")
    assert not await pair.write()
    assert await pair.remembered() == Looked("", None)
    assert (await pair.reader.look(pair.ask)).value is None
    assert pair.reader.counts.shown()["found-process"] == 1


async def test_what_another_process_kept_is_remembered_too(pair: Pair):
    """From the store once, from memory afterwards, and no longer than it is fresh."""
    await pair.writer.fill(await pair.writer.look(pair.ask), b"shared", 60, fresh=0.3)
    assert (await pair.reader.look(pair.ask)).value == b"shared"
    assert (await pair.remembered()).value == b"shared"
    await asyncio.sleep(0.3)
    assert await pair.remembered() == Looked("", None)
    assert (await pair.reader.look(pair.ask)).value == b"shared"  # for who takes an old one


async def test_an_answer_that_was_refused_is_forgotten_everywhere(pair: Pair):
    """FAULT-U22: the EHR said in one process that there is nothing for this caller; another one does not go on giving it."""
    await pair.fill(b"gone")
    await pair.writer.forget(await pair.writer.look(pair.ask))
    await asyncio.sleep(0.05)
    assert (await pair.remembered()).value is None
    assert (await pair.reader.look(pair.ask)).value is None


async def test_a_process_that_hears_nothing_makes_a_write_wait_and_is_left_out(pair: Pair):
    """It does not know that its link is dead. The write waits until it must have read the row; then it is out, and nobody waits for it."""
    await pair.fill(b"old")
    pair.board.cut = True
    assert await pair.write()
    assert await pair.remembered() == Looked("", None)
    assert await pair.members() == [False, True]
    await _until(lambda: not pair.reader._circle._member and not pair.reader._circle._over)
    assert await pair.members() == [False]
    assert not await pair.write()


async def test_a_process_that_notices_that_it_hears_nothing_leaves(pair: Pair):
    """Nobody waits for it; it goes to the store, and comes back when it hears again."""
    await pair.fill(b"old")
    pair.board.lost.set()
    await _until(lambda: not pair.reader._circle._linked)
    await asyncio.sleep(0.1)
    assert await pair.members() == [False]
    assert not await pair.write()
    assert not pair.reader._circle.trusted
    pair.board.lost.clear()
    await _until(lambda: pair.reader._circle.trusted)


async def test_a_process_that_stood_still_trusts_nothing_it_remembers(pair: Pair, monkeypatch: pytest.MonkeyPatch):
    """FAULT-P3: stopped and continued. Its first request comes before its first poll; its polls find no row of what happened meanwhile."""
    await pair.fill(b"old")
    gate, derive = asyncio.Event(), pair.others.derive

    async def stands(*given: Any) -> Any:
        await gate.wait()
        return await derive(*given)

    monkeypatch.setattr(pair.others, "derive", stands)
    pair.board.cut = True
    assert await pair.write()
    assert await pair.remembered() == Looked("", None)
    gate.set()
    await _until(lambda: pair.reader._polled > time.monotonic() - COHERENCE / 2)
    assert (await pair.remembered()).value is None


async def test_who_cannot_read_the_members_waits_for_all(pair: Pair, monkeypatch: pytest.MonkeyPatch):
    """The database fails between the intent and the answer: whoever may remember is waited for."""
    await pair.fill(b"old")

    async def gone(*_: object) -> None:
        raise Unavailable(reason="store-down")

    with monkeypatch.context() as patched:
        patched.setattr(invalidation, "members", gone)
        assert await pair.write()
    assert (await pair.reader.look(pair.ask)).value is None


async def test_a_process_that_dies_is_waited_for_twice(database: Database):
    """Killed: its row stays. The first write waits, and so do those until everybody must know that it is out; then none."""
    hub, store = Hub(), MemoryStore(1_000_000)
    async with _process(store, database, board=hub) as writer:
        async with database.write() as connection:
            await invalidation.join(connection, "dead")
        pair = Pair(writer, writer, Flaky(store), Cuttable(hub), database, database, "ehr")
        took = [await pair.write() for _ in range(3)]
    assert took == [True, True, False]


async def test_who_is_no_member_any_more_remembers_nothing(pair: Pair):
    """Its row was removed while it could not look: it finds that at its next poll, forgets, and becomes a member anew."""
    await pair.fill(b"old")
    member = pair.reader._circle._member
    async with pair.database.write() as connection:
        await invalidation.leave(connection, member)
    await _until(lambda: not pair.reader._circle.trusted)
    assert (await pair.remembered()).value is None
    await _until(lambda: pair.reader._circle.trusted)
    assert pair.reader._circle._member not in ("", member)


async def test_leaving_ends_the_membership(database: Database):
    """SIGTERM: the next write of another process waits for nobody."""
    hub = Hub()
    async with _process(MemoryStore(1_000_000), database, board=hub) as cache:
        assert len(await invalidation.members(database.derive)) == 1
    await cache.close()
    assert await invalidation.members(database.derive) == []


async def test_rubbish_on_the_board_is_ignored(pair: Pair):
    """Whoever can publish can make nobody forget more than names, nor break anybody."""
    await pair.fill(b"v")
    for rubbish in (b"", b"\xff", b"{}", b"\x93\xa4drop\x01\x02"):
        await pair.board.inner.say("", rubbish)
    await asyncio.sleep(0.05)
    assert (await pair.remembered()).value == b"v"


@pytest.mark.redis
async def test_over_a_real_valkey(tmp_path: Path, redis_url: str):
    """Publish and subscribe, with answers of the subscription's own PING; a connection that the server ends is noticed and made anew."""
    database = Database(f"sqlite+aiosqlite:///{tmp_path}/store.db")
    await schema.prepare(database)
    stores = [RedisStore(redis_url, timeout=2) for _ in range(2)]
    boards = RedisBoard(stores[0], quiet=0.05), RedisBoard(stores[1], quiet=0.05)
    async with _pair(database, stores[1], boards) as pair:
        await pair.fill(b"old")
        await asyncio.sleep(0.2)  # some PINGs
        assert pair.reader._circle.trusted
        assert not await pair.write()
        assert (await pair.remembered()).value is None
        link = await stores[0].connection()
        assert link is not None
        await link.send_command("CLIENT", "KILL", "TYPE", "pubsub")
        assert int(await link.read_response()) >= 1
        await link.disconnect()
        await _until(lambda: not pair.reader._circle.trusted)
        await _until(lambda: pair.reader._circle.trusted and pair.writer._circle.trusted)
        assert not await pair.write()
    for store in stores:
        await store.close()
    await database.close()
