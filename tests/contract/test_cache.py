"""The cache as a whole: two of them, as in two processes, on one store and one database. Every test tries to get an old answer out."""

from __future__ import annotations

import asyncio
import random
import secrets
import signal
import time
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack, aclosing, asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from redis.asyncio import Redis

from gateway.adapters.ehr.base import OutcomeUnknown
from gateway.cache import cache as cache_module
from gateway.cache.board import Board, Hub
from gateway.cache.cache import Cache, Looked, NoCache
from gateway.cache.circle import Circle
from gateway.cache.keys import Ask, everything, names
from gateway.cache.memory import MemoryStore
from gateway.cache.redis import RedisStore
from gateway.cache.redis_board import RedisBoard
from gateway.cache.store import CacheStore
from gateway.errors import Unavailable, UpstreamFault
from gateway.seal import Plain, Sealer
from gateway.store import invalidation, schema
from gateway.store.base import Database
from tests.support import parts

COHERENCE = 0.4
SEALER = Sealer([bytes(32)])


async def _until(true: Callable[[], object], seconds: float = 10) -> None:
    """Waits for what is to come."""
    until = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < until
        await asyncio.sleep(0.01)


def _ask(patient: str = "a", ehr: str = "hapi") -> Ask:
    return Ask(ehr, "gateway", "[]", f"read Patient/{patient}", (patient,), ())


@dataclass
class Flaky:
    """A store that this process is cut off from on demand, while the other process is not."""

    inner: CacheStore
    cut: bool = False
    renewals: list[Sequence[str]] = field(default_factory=list)

    async def generations(self, names: Sequence[str]) -> tuple[str, ...] | None:
        return None if self.cut else await self.inner.generations(names)

    async def get(self, key: str) -> bytes | None:
        return None if self.cut else await self.inner.get(key)

    async def put(self, key: str, value: bytes, life: float) -> None:
        if not self.cut:
            await self.inner.put(key, value, life)

    async def renew(self, names: Sequence[str]) -> bool:
        if self.cut:
            return False
        self.renewals.append(names)
        return await self.inner.renew(names)

    async def ping(self) -> bool:
        return not self.cut and await self.inner.ping()

    async def close(self) -> None:
        await self.inner.close()


class Record:
    """The EHR's truth about one patient. Reads and writes take a moment, so that they can overlap."""

    def __init__(self, slow: float = 0.0) -> None:
        self.version, self.slow = 0, slow

    async def read(self) -> bytes:
        value = str(self.version).encode()
        await asyncio.sleep(self.slow)
        return value

    async def write(self) -> None:
        await asyncio.sleep(self.slow / 2)
        self.version += 1
        await asyncio.sleep(self.slow / 2)


async def _answer(cache: Cache, ask: Ask, record: Record) -> int:
    """What a request gets: from the cache, else from the EHR, then kept."""
    looked = await cache.look(ask)
    if looked.value is not None:
        return int(looked.value)
    value = await record.read()
    await cache.fill(looked, value, 60)
    return int(value)


@pytest.fixture
async def database(tmp_path: Path):
    made = Database(f"sqlite+aiosqlite:///{tmp_path}/store.db")
    await schema.prepare(made)
    yield made
    await made.close()


@pytest.fixture(params=["memory", pytest.param("redis", marks=pytest.mark.redis)])
async def shared(request: pytest.FixtureRequest):
    """One store for both processes; each gets a view of its own."""
    made: CacheStore = MemoryStore(10_000_000) if request.param == "memory" else RedisStore(request.getfixturevalue("redis_url"), timeout=2)
    yield made
    await made.close()


@dataclass
class Cuttable:
    """A board that this process is cut off from on demand: nothing gets through, and nobody notices. Or it notices, and cannot listen."""

    inner: Board
    cut: bool = False
    lost: asyncio.Event = field(default_factory=asyncio.Event)

    async def say(self, to: str, message: bytes) -> bool:
        return not self.cut and await self.inner.say(to, message)

    async def listen(self, own: str, linked: Callable[[], None], heard: Callable[[bytes], None]) -> None:
        if self.lost.is_set():
            return
        listening = asyncio.create_task(self.inner.listen(own, linked, lambda message: None if self.cut else heard(message)))
        losing = asyncio.create_task(self.lost.wait())
        try:
            await asyncio.wait([listening, losing], return_when=asyncio.FIRST_COMPLETED)
        finally:
            listening.cancel()
            losing.cancel()


@asynccontextmanager
async def _process(store: CacheStore, database: Database, *, abandoned: float = 60.0, board: Board | None = None):
    """A cache with its background task, as a process has it. With a board it remembers answers itself."""
    circle = Circle(board, database, coherence=COHERENCE) if board else None
    cache = Cache(store, database, sealer=SEALER, coherence=COHERENCE, abandoned=abandoned, circle=circle, process_bytes=1_000_000)
    await cache.recover()
    running = asyncio.create_task(cache.run())
    if circle:
        circle.wanted = True
        await _until(lambda: circle.trusted)
    try:
        yield cache
    finally:
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running
        await asyncio.gather(*cache._finishing, return_exceptions=True)


@pytest.fixture
async def two(shared: CacheStore, database: Database):
    """(writer, its store, reader, its store). On Redis both remember answers themselves, too."""
    here, there = Flaky(shared), Flaky(shared)
    board = Hub() if isinstance(shared, RedisStore) else None
    async with _process(here, database, board=board) as writer, _process(there, database, board=board) as reader:
        yield writer, here, reader, there


@pytest.fixture
def ehr() -> str:
    """An EHR of this test alone, because the Redis is shared."""
    return f"ehr-{secrets.token_hex(4)}"


async def _rows(database: Database) -> list[invalidation.Pending]:
    return list(await invalidation.pending(database.derive))


async def test_keeps_and_gives_back(two, ehr: str):
    """A fill by one process is a hit in the other, whatever its size; another patient's ask is a miss."""
    one, _, other, _ = two
    for size in (0, 10, 2048, 300_000):
        ask = _ask(f"p{size}", ehr)
        looked = await one.look(ask)
        assert looked.key
        assert looked.value is None
        value = b"7" * size
        await one.fill(looked, value, 60)
        assert (await other.look(ask)).value == value
        assert (await other.look(_ask("other", ehr))).value is None


async def test_a_life_of_nothing_and_no_key_keep_nothing(two, ehr: str, monkeypatch: pytest.MonkeyPatch):
    """0 seconds, the key "", or a value beyond the largest."""
    one, _, _, _ = two
    looked = await one.look(_ask("a", ehr))
    await one.fill(looked, b"v", 0)
    await one.fill(Looked("", None), b"v", 60)
    monkeypatch.setattr(cache_module, "LARGEST", 10)
    await one.fill(looked, b"v" * 11, 60)
    assert (await one.look(_ask("a", ehr))).value is None


async def test_a_write_is_seen_by_both(two, ehr: str):
    """FAULT-C3: read, read (hit), write, read (new), in both processes; an untouched patient stays cached."""
    writer, _, reader, _ = two
    record, other = Record(), Record()
    for cache in (writer, reader):
        assert await _answer(cache, _ask("a", ehr), record) == 0
        await _answer(cache, _ask("b", ehr), other)
    other.version = 99  # changed behind our back: a hit still says 0
    async with writer.touching(names(ehr, ["a"], ["Patient"])):
        await record.write()
    assert await _answer(reader, _ask("a", ehr), record) == 1
    assert await _answer(writer, _ask("a", ehr), record) == 1
    assert await _answer(reader, _ask("b", ehr), other) == 0


async def test_a_write_that_was_refused_renews_too(two, database: Database, ehr: str):
    """The error reaches the caller; the EHR did not take it, so the intent goes."""
    writer, here, _, _ = two

    async def write() -> None:
        async with writer.touching(names(ehr, ["a"], ["Patient"])):
            raise UpstreamFault(reason="refused")

    with pytest.raises(UpstreamFault):
        await write()
    assert here.renewals.count(names(ehr, ["a"], ["Patient"])) == 2
    assert await _rows(database) == []


async def test_a_write_whose_outcome_is_unknown_may_come_late(shared: CacheStore, database: Database, ehr: str):
    """FAULT-U7 to U12: the EHR takes it after the gateway gave up, and the next attempt finds it done: nobody gets the old answer then."""
    record = Record()

    async def write(cache: Cache) -> None:
        async with cache.touching(names(ehr, ["a"], ["Patient"])):
            raise OutcomeUnknown

    async with _process(shared, database, abandoned=3 * COHERENCE) as writer, _process(shared, database, abandoned=3 * COHERENCE) as reader:
        with pytest.raises(OutcomeUnknown):
            await write(writer)
        for cache in (writer, reader):
            assert await _answer(cache, _ask("a", ehr), record) == 0
        await record.write()
        for cache in (writer, reader):
            assert await _answer(cache, _ask("a", ehr), record) == 1
        await asyncio.sleep(4 * COHERENCE)
        assert await _rows(database) == []
        for cache in (writer, reader):
            assert await _answer(cache, _ask("a", ehr), record) == 1
        assert (await reader.look(_ask("a", ehr))).value == b"1"


async def test_a_write_that_takes_longer_than_a_crash_is_seen_all_the_same(shared: CacheStore, database: Database, ehr: str):
    """A slow EHR: others took the intent for abandoned, struck it out and cached again; the end of the write counts as its beginning did."""
    record, board = Record(), Hub()
    async with (
        _process(shared, database, abandoned=COHERENCE, board=board) as writer,
        _process(shared, database, abandoned=COHERENCE, board=Cuttable(board)) as reader,
    ):
        async with writer.touching(names(ehr, ["a"], ["Patient"])):
            await _until(lambda: reader._polled and not reader._pending and not reader._seen, 5)
            assert await _answer(reader, _ask("a", ehr), record) == 0
            await record.write()
        assert await _answer(reader, _ask("a", ehr), record) == 1
        assert await _rows(database) == []


async def test_unknown_patients_renew_everything_of_that_ehr(two, ehr: str):
    """When the old version is unknown, every answer of the EHR goes, and none of another's."""
    writer, _, reader, _ = two
    record, elsewhere = Record(), Record()
    await _answer(reader, _ask("a", ehr), record)
    await _answer(reader, _ask("a", ehr + "x"), elsewhere)
    elsewhere.version = 99
    async with writer.touching((everything(ehr),)):
        await record.write()
    assert await _answer(reader, _ask("a", ehr), record) == 1
    assert await _answer(reader, _ask("a", ehr + "x"), elsewhere) == 0


async def test_a_late_fill_lands_where_nobody_looks(two, ehr: str):
    """A read that began before the write and ends after it cannot bring the old answer back."""
    writer, _, reader, _ = two
    record = Record()
    looked = await reader.look(_ask("a", ehr))
    old = await record.read()
    async with writer.touching(names(ehr, ["a"], [])):
        during = await reader.look(_ask("a", ehr))
        await record.write()
    await reader.fill(looked, old, 60)
    await reader.fill(during, old, 60)
    assert await _answer(reader, _ask("a", ehr), record) == 1


async def test_the_writer_goes_around_the_cache_while_it_writes(two, ehr: str):
    """In its own process at once: what is read during the write is not kept."""
    writer, _, _, _ = two
    async with writer.touching(names(ehr, ["a"], [])):
        assert await writer.look(_ask("a", ehr)) == Looked("", None)
        assert (await writer.look(_ask("b", ehr))).key
    await asyncio.sleep(COHERENCE)  # a poll that fell into the write counts until the next one
    assert (await writer.look(_ask("a", ehr))).key


async def test_a_writer_that_is_cut_off_waits_until_the_other_knows(two, database: Database, ehr: str):
    """The renewal fails, the other process has its store: a request that starts after the writer's exit gets the new value. Then it heals."""
    writer, here, reader, there = two
    record = Record()
    assert await _answer(reader, _ask("a", ehr), record) == 0
    here.cut = True
    began = time.monotonic()
    async with writer.touching(names(ehr, ["a"], ["Patient"])):
        await record.write()
    assert await _answer(reader, _ask("a", ehr), record) == 1
    assert time.monotonic() - began < 3 * COHERENCE + 1
    # The reader renewed for it and struck the row out; what it keeps now is new.
    await asyncio.sleep(2 * COHERENCE)
    assert names(ehr, ["a"], ["Patient"])[0] in {name for renewal in there.renewals for name in renewal}
    assert await _rows(database) == []
    assert await _answer(reader, _ask("a", ehr), record) == 1
    assert (await reader.look(_ask("a", ehr))).value == b"1"


async def test_a_store_that_is_down_for_all_is_healed_by_whoever_comes_first(two, database: Database, ehr: str):
    """Both cut off, old values still in the store: nothing old is given while it is down, nor when it is back."""
    writer, here, reader, there = two
    record = Record()
    for cache in (writer, reader):
        await _answer(cache, _ask("a", ehr), record)
    here.cut = there.cut = True
    async with writer.touching(names(ehr, ["a"], [])):
        await record.write()
    assert [await _answer(cache, _ask("a", ehr), record) for cache in (writer, reader)] == [1, 1]
    assert [row.settled for row in await _rows(database)] == [True]
    there.cut = False  # the reader is back first, and finds the old value still there
    assert await _answer(reader, _ask("a", ehr), record) == 1
    here.cut = False
    assert await _answer(writer, _ask("a", ehr), record) == 1
    await asyncio.sleep(2 * COHERENCE)
    assert await _rows(database) == []
    for cache in (writer, reader):
        assert await _answer(cache, _ask("a", ehr), record) == 1


async def test_many_writes_while_the_store_is_down_leave_one_row(two, database: Database, ehr: str, monkeypatch: pytest.MonkeyPatch):
    """What a process owes is one row, which names the whole EHR when it would be long; the writes wait side by side, not in a queue."""
    writer, here, reader, _ = two
    monkeypatch.setattr(cache_module, "_MANY", 20)
    here.cut = True

    async def write(patient: int) -> None:
        async with writer.touching(names(ehr, [str(patient)], ["Observation"])):
            pass

    began = time.monotonic()
    await asyncio.gather(*(write(patient) for patient in range(40)))
    assert time.monotonic() - began < 5
    rows = [row for row in await _rows(database) if row.settled]
    assert len(rows) <= 1
    assert not rows or rows[0].names == (everything(ehr),)
    here.cut = False
    await asyncio.sleep(2 * COHERENCE)
    assert await _rows(database) == []
    assert (await reader.look(_ask("1", ehr))).key


async def test_a_process_that_cannot_poll_trusts_nothing(shared: CacheStore, database: Database, ehr: str):
    """Without the rows of the last moments every look-up goes around the cache: at first, and when polls stop."""
    cache = Cache(shared, database, sealer=SEALER, coherence=COHERENCE)
    assert (await cache.look(_ask("a", ehr))).key == ""
    await cache.recover()
    assert (await cache.look(_ask("a", ehr))).key
    await asyncio.sleep(COHERENCE)
    assert (await cache.look(_ask("a", ehr))).key == ""


async def test_a_database_that_fails_costs_hits_and_no_truth(two, ehr: str, monkeypatch: pytest.MonkeyPatch):
    """Polls fail: uncached. A write cannot store its intent: 503 before anything is sent. It recovers by itself."""
    writer, _, reader, _ = two

    @asynccontextmanager
    async def down():
        raise Unavailable(reason="store-down")
        yield

    async def gone(*_):
        raise Unavailable(reason="store-down")

    with monkeypatch.context() as patched:
        for cache in (writer, reader):
            patched.setattr(cache._database, "derive", gone)
            patched.setattr(cache._database, "write", down)
        await asyncio.sleep(COHERENCE * 1.1)
        assert (await reader.look(_ask("a", ehr))).key == ""
        with pytest.raises(Unavailable):
            async with writer.touching(names(ehr, ["a"], [])):
                pytest.fail("sent without an intent")
    await asyncio.sleep(COHERENCE * 1.1)
    assert (await reader.look(_ask("a", ehr))).key


async def test_a_database_that_fails_during_the_write_does_not_undo_it(two, database: Database, ehr: str, monkeypatch: pytest.MonkeyPatch):
    """The write has happened: leaving raises nothing, confirmed or not, and the rows are seen to afterwards."""
    writer, here, reader, _ = two
    record = Record()

    @asynccontextmanager
    async def down():
        raise Unavailable(reason="store-down")
        yield

    for cut in (False, True):
        await _answer(reader, _ask("a", ehr), record)
        with monkeypatch.context() as patched:
            async with writer.touching(names(ehr, ["a"], [])):
                await record.write()
                here.cut = cut
                patched.setattr(database, "write", down)
            assert await _answer(reader, _ask("a", ehr), record) == record.version
        here.cut = False
    await asyncio.sleep(2 * COHERENCE)
    assert writer._owed.names == frozenset()
    assert await _answer(reader, _ask("a", ehr), record) == record.version


async def test_the_intent_of_a_crash_is_repeated(shared: CacheStore, database: Database, ehr: str):
    """A process dies after it sent a write: its row stays. Others go around the cache for it, and renew it once the write must have ended."""
    record = Record()
    async with _process(shared, database, abandoned=2 * COHERENCE) as reader:
        assert await _answer(reader, _ask("a", ehr), record) == 0
        async with database.write() as connection:  # what `touching` of the dead one committed
            await invalidation.add(connection, names(ehr, ["a"], []))
        await asyncio.sleep(COHERENCE)
        assert await reader.look(_ask("a", ehr)) == Looked("", None)
        await record.write()  # the EHR got it late
        assert await _answer(reader, _ask("a", ehr), record) == 1
        await asyncio.sleep(4 * COHERENCE)
        assert await _rows(database) == []
        assert await _answer(reader, _ask("a", ehr), record) == 1
        assert (await reader.look(_ask("a", ehr))).value == b"1"


async def test_a_restart_repeats_intents_at_once(shared: CacheStore, database: Database, ehr: str):
    """`recover` renews before the first look-up, and its first look-up already goes around what may still be on its way."""
    record = Record()
    async with _process(shared, database) as before:
        await _answer(before, _ask("a", ehr), record)
    async with database.write() as connection:
        await invalidation.add(connection, names(ehr, ["a"], []))
    await record.write()
    store = Flaky(shared)
    async with _process(store, database) as after:
        assert await _answer(after, _ask("a", ehr), record) == 1
        assert set(names(ehr, ["a"], [])) <= {name for renewal in store.renewals for name in renewal}


async def test_a_cancelled_request_still_ends_its_write(two, database: Database, ehr: str):
    """The caller has gone while the EHR took the write: the renewal is made all the same."""
    writer, _, reader, _ = two
    record = Record()
    await _answer(reader, _ask("a", ehr), record)
    sent = asyncio.Event()

    async def request() -> None:
        async with writer.touching(names(ehr, ["a"], [])):
            await record.write()
            sent.set()
            await asyncio.sleep(60)

    task = asyncio.create_task(request())
    await sent.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await _answer(reader, _ask("a", ehr), record) == 1
    assert [row.settled for row in await _rows(database)] == [False]  # what becomes of it is not known: as after a crash
    assert not writer._busy


async def test_twice_cancelled_still_ends_its_write(two, database: Database, ehr: str):
    """A second cancellation, while it is leaving, leaves the rest to the background; `close` waits for that."""
    writer, here, _, _ = two
    here.cut = True
    sent = asyncio.Event()

    async def request() -> None:
        async with writer.touching(names(ehr, ["a"], [])):
            sent.set()
            await asyncio.sleep(60)

    task = asyncio.create_task(request())
    await sent.wait()
    task.cancel()
    await asyncio.sleep(0.05)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert writer._finishing
    await asyncio.gather(*writer._finishing)
    assert not writer._busy
    assert [row.settled for row in await _rows(database)] == [False]


async def test_nothing_touched_is_no_intent(two, database: Database):
    """A write that names nothing costs no row."""
    writer, _, _, _ = two
    async with writer.touching(()):
        assert await _rows(database) == []


async def test_a_broken_value_is_a_miss_and_is_deleted(two, shared: CacheStore, ehr: str):
    """FAULT-R5: rubbish, a cut value, and one that was moved from another key."""
    one, _, _, _ = two
    place, other = (await one.look(_ask("a", ehr))).key, await one.look(_ask("b", ehr))
    await one.fill(other, b"of b", 60)
    moved = await shared.get(other.key)
    assert moved is not None
    for rubbish in (b"", b"rubbish", moved, moved[:-1]):
        await shared.put(place, rubbish, 60)
        assert await one.look(_ask("a", ehr)) == Looked(place, None)
        assert await shared.get(place) is None


@pytest.mark.parametrize("rubbish", [b"", b"\2x", b"\1", b"\1not zstd", b"\1\x28\xb5\x2f\xfd\xa0\xff\xff\xff\x7f"])
async def test_a_broken_value_is_a_miss_without_sealing_too(database: Database, rubbish: bytes):
    """Sealing switched off: no unknown mark, no frame that is none, no frame that claims gigabytes."""
    store = MemoryStore(1_000_000)
    cache = Cache(store, database, sealer=Plain())
    await cache.recover()
    place = (await cache.look(_ask())).key
    await store.put(place, rubbish, 60)
    assert await cache.look(_ask()) == Looked(place, None)


async def test_nothing_readable_is_kept(two, shared: CacheStore, ehr: str):
    """Values rest sealed."""
    one, _, _, _ = two
    looked = await one.look(_ask("a", ehr))
    await one.fill(looked, b"Erika Mustermann", 60)
    kept = await shared.get(looked.key)
    assert kept is not None
    assert b"Erika" not in kept


async def test_values_outlive_a_new_key_and_not_a_lost_one(database: Database):
    """The first key seals and all of them open: what the old one sealed is a hit after the rotation, and a miss once the old one is gone."""
    store, old, new = MemoryStore(1_000_000), bytes(32), bytes([1]) * 32
    for keys, expected in (([old], None), ([new, old], b"v"), ([new], None)):
        cache = Cache(store, database, sealer=Sealer(keys))
        await cache.recover()
        looked = await cache.look(_ask())
        assert looked.value == expected
        if keys == [old]:
            await cache.fill(looked, b"v", 60)


async def test_no_cache_does_nothing():
    """The null object: misses, and the block runs."""
    cache = NoCache()
    await cache.recover()
    assert await cache.look(_ask()) == Looked("", None)
    await cache.fill("k", b"v", 60)
    ran = False
    async with cache.touching(["a"]):
        ran = True
    assert ran
    assert await cache.ping()
    await cache.close()


async def test_closing_waits_for_writes_that_are_ending(shared: CacheStore, database: Database, ehr: str):
    """SIGTERM while a write waits for its renewal: the wait goes on to its end before the store is closed."""
    store = Flaky(shared, cut=True)
    cache = Cache(store, database, sealer=SEALER, coherence=COHERENCE)

    sent = asyncio.Event()

    async def write() -> None:
        async with cache.touching(names(ehr, ["a"], [])):
            sent.set()

    task = asyncio.create_task(write())
    await sent.wait()
    await asyncio.sleep(0.01)  # it is in the renewal, which does not come through
    task.cancel()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert cache._busy
    await cache.close()
    assert not cache._busy
    assert len(await _rows(database)) == 1


@pytest.mark.parametrize("seed", range(2))
async def test_no_order_of_events_gives_an_old_answer(shared: CacheStore, database: Database, ehr: str, seed: int):
    """Readers and writers in three processes, each cut off now and then: nobody gets what is older than a write answered before she asked."""
    chance = random.Random(seed)
    records = {patient: Record(slow=0.01) for patient in "ab"}
    answered = dict.fromkeys(records, 0)
    hits = 0

    async def write(cache: Cache) -> None:
        while time.monotonic() < stop:
            patient = chance.choice("ab")
            async with cache.touching(names(ehr, [patient], [])):
                await records[patient].write()
                version = records[patient].version
            answered[patient] = max(answered[patient], version)
            await asyncio.sleep(chance.uniform(0, 0.3))

    async def read(cache: Cache) -> None:
        nonlocal hits
        while time.monotonic() < stop:
            patient = chance.choice("ab")
            least = answered[patient]
            looked = await cache.look(_ask(patient, ehr))
            hits += looked.value is not None
            value = looked.value or await records[patient].read()
            assert int(value) >= least, f"seed {seed}: {patient} {value!r} < {least}"
            await asyncio.sleep(chance.uniform(0, 0.02))
            await cache.fill(looked, value, 60)
            await asyncio.sleep(chance.uniform(0, 0.01))

    async def cut(link: Flaky | Cuttable) -> None:
        while time.monotonic() < stop:
            await asyncio.sleep(chance.uniform(0, 0.5))
            link.cut = not link.cut

    hub = Hub()
    async with AsyncExitStack() as stack:
        links = [(Flaky(shared), Cuttable(hub)) for _ in range(3)]
        caches = [await stack.enter_async_context(_process(store, database, board=board)) for store, board in links]
        stop = time.monotonic() + 3
        async with asyncio.TaskGroup() as group:
            for cache, (store, board) in zip(caches, links, strict=True):
                for work in (write, read, read, read):
                    group.create_task(work(cache))
                group.create_task(cut(store))
                group.create_task(cut(board))
        remembered = sum(cache.counts.shown().get("found-process", 0) for cache in caches)
    assert remembered > 0
    assert hits > 0
    assert min(answered.values()) > 0


class _Closing(RedisStore):
    """For `aclosing`."""

    aclose = RedisStore.close


@pytest.mark.redis
@pytest.mark.fault
@pytest.mark.parametrize("fault", ["client-pause", "sigstop", "kill", "flush", "full"])
async def test_no_fault_of_redis_gives_an_old_answer(database: Database, fault: str):
    """FAULT-R1 to R4 under traffic in two processes on a real Valkey: no old answer, reads hardly slower, and hits again without a human."""
    port = parts.free_port()
    async with AsyncExitStack() as stack:
        server = stack.enter_context(parts.valkey("--maxmemory-policy", "noeviction", port=port))
        stores = [await stack.enter_async_context(aclosing(_Closing(server.url))) for _ in range(2)]
        boards = [RedisBoard(store, quiet=COHERENCE / 2) for store in stores]
        caches = [await stack.enter_async_context(_process(store, database, board=board)) for store, board in zip(stores, boards, strict=True)]
        record, answered, slowest, hits = Record(), 0, 0.0, 0
        stopped = False

        async def write() -> None:
            nonlocal answered
            while not stopped:
                async with caches[0].touching(names("hapi", ["a"], [])):
                    await record.write()
                    version = record.version
                answered = version
                await asyncio.sleep(0.15)

        async def read(cache: Cache) -> None:
            nonlocal slowest, hits
            while not stopped:
                least, began = answered, time.monotonic()
                looked = await cache.look(_ask())
                slowest = max(slowest, time.monotonic() - began)
                hits += looked.value is not None
                value = looked.value or await record.read()
                assert int(value) >= least
                await cache.fill(looked, value, 60)
                await asyncio.sleep(0.005)

        async with asyncio.TaskGroup() as group:
            group.create_task(write())
            for cache in caches * 2:
                group.create_task(read(cache))
            await asyncio.sleep(0.5)
            assert hits
            await _do(fault, server)
            if fault == "kill":
                server = stack.enter_context(parts.valkey(port=port))
            await asyncio.sleep(4)
            hits = 0
            await asyncio.sleep(1)
            stopped = True
        assert hits > 0
        assert slowest < 1.5  # two operations of 0.1 s, and a busy test machine; the stops are longer


async def _do(fault: str, server: parts.Part) -> None:
    if fault == "kill":
        await asyncio.sleep(0.5)
        server.process.kill()
        server.process.wait()
        await asyncio.sleep(1)
        return
    if fault == "sigstop":
        server.process.send_signal(signal.SIGSTOP)
        await asyncio.sleep(2.5)
        server.process.send_signal(signal.SIGCONT)
        return
    async with Redis.from_url(server.url) as admin:
        if fault == "client-pause":
            await admin.client_pause(2500)
        elif fault == "flush":
            for _ in range(20):
                await admin.flushall()
                await asyncio.sleep(0.05)
        else:
            await admin.config_set("maxmemory", "1")
            await asyncio.sleep(1)
            await admin.config_set("maxmemory", "0")
