"""The cache against a model without one: any order of reads, writes, pushes, revocations, faults and time, in three processes, in virtual time.

An answer has to be what the EHR had at the moment that the answer names, and to know every write that was answered before its request began.
Older ones are fresh within their life, or stale, within the configured age, only while the EHR fails, and say so.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from gateway.adapters.ehr.base import OutcomeUnknown
from gateway.cache import cache as cache_module
from gateway.cache import circle as circle_module
from gateway.cache import remembered as remembered_module
from gateway.cache.board import Hub
from gateway.cache.cache import Cache
from gateway.cache.circle import Circle
from gateway.cache.flights import Flights
from gateway.cache.keys import Ask, everything, generation_names, names
from gateway.cache.memory import MemoryStore
from gateway.cache.policy import ANY, FRESH, Fresh, Life, Lives, Stale, Wish
from gateway.errors import NotFound, Unavailable, UpstreamFault
from gateway.fhir.interaction import Interaction, Kind
from gateway.proxy import fetched as fetched_module
from gateway.proxy import kept as kept_module
from gateway.proxy.fetched import Fetched, again
from gateway.proxy.kept import Forwarded, Kept, Wanted
from gateway.seal import Sealer
from gateway.store.invalidation import Member, Pending
from tests.support.virtual_time import VirtualLoop

COHERENCE, ABANDONED, LIFE, STALE = 1.0, 10.0, 6.0, 4.0
PATIENTS, PROCESSES = "ab", 3
SLOW, QUICK = (0, 0, 0.001, 0.02, 0.2), (0, 0.001)
"""Seconds of a way to the store, the database or the board."""
LIVES = Lives({}, Life(LIFE, "of the model"))


class Rows:
    """The database's two tables, as `store.invalidation` shows them."""

    def __init__(self, loop: VirtualLoop) -> None:
        self.loop, self.rows, self.members_, self.number = loop, dict[str, Pending](), dict[str, bool](), 0

    def moment(self) -> datetime:
        return datetime.fromtimestamp(self.loop.epoch(), UTC)

    async def add(self, link: Link, wanted: Iterable[str], *, settled: bool = False) -> str:
        self.number += 1
        id_ = str(self.number)
        link.staged.append(lambda: self.rows.__setitem__(id_, Pending(id_, tuple(sorted(set(wanted))), self.moment(), settled)))
        return id_

    async def remove(self, link: Link, *ids: str) -> None:
        link.staged.append(lambda: [self.rows.pop(id_, None) for id_ in ids])

    async def join(self, link: Link, id_: str) -> None:
        link.staged.append(lambda: self.members_.__setitem__(id_, False))

    async def leave(self, link: Link, *ids: str) -> None:
        link.staged.append(lambda: [self.members_.pop(id_, None) for id_ in ids])

    async def leave_out(self, link: Link, *ids: str) -> None:
        link.staged.append(lambda: [self.members_.__setitem__(id_, True) for id_ in ids if id_ in self.members_])

    async def pending(self, derive: Callable[[Callable[[], Any]], Any]) -> Sequence[Pending]:
        return await derive(lambda: list(self.rows.values()))

    async def members(self, derive: Callable[[Callable[[], Any]], Any]) -> Sequence[Member]:
        return await derive(lambda: [Member(id_, out) for id_, out in self.members_.items()])


@dataclass
class Link:
    """What one process reaches, each by a way of its own that may be slow, cut, or (with the whole process) stand still."""

    chance: random.Random
    store: MemoryStore
    hub: Hub
    pace: list[float]
    cut: set[str] = field(default_factory=set[str])
    lost: asyncio.Event = field(default_factory=asyncio.Event)
    moving: asyncio.Event = field(default_factory=asyncio.Event)
    staged: list[Callable[[], object]] = field(default_factory=list[Callable[[], object]])

    async def way(self) -> None:
        await asyncio.sleep(self.chance.choice(self.pace))
        await self.moving.wait()

    # The database
    async def derive(self, look: Callable[[], Any]) -> Any:
        await self.way()
        if "database" in self.cut:
            raise Unavailable(reason="store-down")
        found = look()
        await self.way()
        return found

    @asynccontextmanager
    async def write(self) -> AsyncIterator[Link]:
        await self.way()
        if "database" in self.cut:
            raise Unavailable(reason="store-down")
        transaction = replace(self, staged=[])
        yield transaction
        await self.way()
        for step in transaction.staged:
            step()
        await self.way()

    # The store
    async def _reached(self, act: Callable[[], Any], otherwise: Any) -> Any:
        await self.way()
        if "store" in self.cut:
            return otherwise
        found = await act()
        await self.way()
        return otherwise if "store" in self.cut else found

    async def generations(self, wanted: Sequence[str]) -> tuple[str, ...] | None:
        return await self._reached(lambda: self.store.generations(wanted), None)

    async def get(self, key: str) -> bytes | None:
        return await self._reached(lambda: self.store.get(key), None)

    async def put(self, key: str, value: bytes, life: float) -> None:
        await self._reached(lambda: self.store.put(key, value, life), None)

    async def renew(self, wanted: Sequence[str]) -> bool:
        return await self._reached(lambda: self.store.renew(wanted), otherwise=False)

    async def ping(self) -> bool:
        return True

    async def close(self) -> None:
        pass

    # The board
    async def say(self, to: str, message: bytes) -> bool:
        await self.way()
        return "board" not in self.cut and await self.hub.say(to, message)

    async def listen(self, own: str, linked: Callable[[], None], heard: Callable[[bytes], None]) -> None:
        async def hear(message: bytes) -> None:
            await self.way()
            if "board" not in self.cut:
                heard(message)

        hearing = set[asyncio.Task[None]]()

        def comes(message: bytes) -> None:
            hearing.add(asyncio.ensure_future(hear(message)))

        if "board" in self.cut:
            return
        listening = asyncio.ensure_future(self.hub.listen(own, linked, comes))
        losing = asyncio.ensure_future(self.lost.wait())
        try:
            await asyncio.wait([listening, losing], return_when=asyncio.FIRST_COMPLETED)
        finally:
            listening.cancel()
            losing.cancel()
            for task in hearing:
                task.cancel()
            self.lost.clear()


class Truth:
    """The EHR: one value for each patient, as of each moment; and the tokens."""

    def __init__(self, loop: VirtualLoop, chance: random.Random) -> None:
        self.loop, self.chance = loop, chance
        self.history: dict[str, list[tuple[float, int]]] = {one: [(float("-inf"), 0)] for one in PATIENTS}
        self.least = dict.fromkeys(PATIENTS, 0)  # the newest version that somebody was told of
        self.failed_at = float("-inf")
        self.fails, self.refuses = False, set[str]()
        self.refused = dict[tuple[int, str], float]()  # by process and ask: when the last request that was refused began
        self.revoked, self.told_revoked = set[str](), set[str]()

    def current(self, patient: str) -> int:
        return self.history[patient][-1][1]

    def change(self, patient: str) -> int:
        self.history[patient].append((self.loop.epoch(), self.current(patient) + 1))
        return self.current(patient)

    def at(self, patient: str, moment: float) -> set[int]:
        """What a reply that was had at this moment may say: values of the time that a call takes."""
        before = [version for since, version in self.history[patient] if since <= moment - 0.5]
        return {before[-1] if before else 0, *(version for since, version in self.history[patient] if moment - 0.5 < since <= moment)}

    async def read(self, patients: str, held: Fetched | None) -> Fetched:
        await asyncio.sleep(self.chance.choice((0, 0.01, 0.2)))
        if self.fails:
            self.failed_at = self.loop.epoch()
            raise UpstreamFault(reason="ehr-unreachable")
        if self.refuses & set(patients):
            raise NotFound
        body = ",".join(str(self.current(one)) for one in patients).encode()
        await asyncio.sleep(self.chance.choice((0, 0.01, 0.2)))
        if held is not None and held.body == body:
            return again(held, held.patients)
        return Fetched(self.loop.epoch(), body, etag=f'W/"{body.decode()}"', patients=tuple(patients))


class World(RuleBasedStateMachine):
    """Rules start things; time passes in between."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = VirtualLoop()
        clock = SimpleNamespace(monotonic=self.loop.monotonic, time=self.loop.epoch)
        self.rows = Rows(self.loop)
        self.patches = [
            *(mock.patch.object(module, "time", clock) for module in (cache_module, circle_module, fetched_module, kept_module)),
            *(mock.patch.object(module, "invalidation", self.rows) for module in (cache_module, circle_module)),
            mock.patch.object(cache_module, "now", self.rows.moment),
            mock.patch.object(remembered_module, "time", clock),
        ]
        for patch in self.patches:
            patch.start()
        self.chance, self.pace = random.Random(0), list(SLOW)
        self.truth = Truth(self.loop, self.chance)
        self.store = MemoryStore(20_000, clock=self.loop.monotonic)
        self.tasks = set[asyncio.Task[None]]()
        self.seen = dict[str, int]()
        self.loop.do(self._start())

    async def _start(self) -> None:
        hub = Hub()
        self.links = [Link(self.chance, self.store, hub, self.pace) for _ in range(PROCESSES)]
        self.caches, self.keeps, self.memories, self.running = [], [], [], []
        for link in self.links:
            link.moving.set()
            circle = Circle(link, link, coherence=COHERENCE)
            memory = circle.memory(10_000)
            memory._clock = self.loop.epoch
            cache = Cache(link, link, sealer=SEALER, coherence=COHERENCE, abandoned=ABANDONED, circle=circle, process_bytes=5_000)
            cache._near._clock = self.loop.epoch
            circle.wanted = True
            self.caches.append(cache)
            self.memories.append(memory)
            self.keeps.append(Kept(cache, Flights(), LIVES, STALE))
            self.running.append(asyncio.ensure_future(cache.run()))
        await asyncio.sleep(2)

    def _begin(self, work: Any) -> asyncio.Task[None]:
        task = asyncio.ensure_future(work, loop=self.loop)
        self.tasks.add(task)
        return task

    def _note(self, what: str) -> None:
        self.seen[what] = self.seen.get(what, 0) + 1

    # What happens ----------------------------------------------------------------------------------------------------------------

    process = st.integers(0, PROCESSES - 1)
    who = st.sampled_from([*PATIENTS, PATIENTS])
    links_ = st.sampled_from(["store", "board", "database"])

    @rule(process=process, patients=who, wish=st.sampled_from([ANY, ANY, ANY, FRESH, Wish(store=False), Wish(max_age=2)]))
    def read(self, process: int, patients: str, wish: Wish) -> None:
        self._begin(self._read(process, patients, wish))

    @rule(process=process, patients=who)
    def read_now(self, process: int, patients: str) -> None:
        """Most requests come one after the other."""
        self._begin(self._read(process, patients, ANY))
        self.loop.do(asyncio.sleep(0.3))

    async def _read(self, process: int, patients: str, wish: Wish) -> None:
        await self.links[process].moving.wait()
        least, began = {one: self.truth.least[one] for one in patients}, self.loop.epoch()
        ask = Ask("ehr", "gateway", patients, "read", tuple(patients), ())
        refused = self.truth.refused.get((process, patients), float("-inf"))

        async def get(held: Fetched | None) -> Fetched:
            return await self.truth.read(patients, held)

        try:
            given = await self.keeps[process].given(Wanted(ask, Interaction(Kind.READ, "Basic", "x"), wish, get))
        except UpstreamFault:
            self._note("error")
            return
        except NotFound:
            self._note("refused")
            self.truth.refused[process, patients] = began
            return
        ended, at = self.loop.epoch(), given.fetched.at
        assert at >= refused, f"{patients} was refused in this process before this request began ({given.source})"
        for one, version in zip(patients, map(int, given.fetched.body.split(b",")), strict=True):
            assert version >= least[one], f"{one}: {version} is older than what was answered before, {least[one]} ({given.source})"
            assert version in self.truth.at(one, at), f"{one}: {version} is not what was there at {at} ({given.source})"
        self._note(type(given.source).__name__)
        match given.source:
            case Fresh(age, _):
                assert began - at - 1 < LIFE
                assert not wish.fresh
                assert wish.store
                assert began - at - 1 < wish.max_age
                assert int(began - at) <= age <= ended - at + 1
            case Stale(_, ttl):
                assert self.truth.failed_at >= began - 1  # she may have joined who asked a moment before
                assert wish == ANY
                assert ended - at <= LIFE + STALE
                assert ttl < 0
            case Forwarded(_, _, stored, _):
                assert at >= began - 1
                assert not stored or wish.store

    @rule(process=process, patient=st.sampled_from(PATIENTS), how=st.sampled_from(["write", "write", "push", "refused", "unknown", "everything"]))
    def write(self, process: int, patient: str, how: str) -> None:
        self._begin(self._write(process, patient, how))

    @rule(process=process, patient=st.sampled_from(PATIENTS))
    def write_now(self, process: int, patient: str) -> None:
        self._begin(self._write(process, patient, "write"))
        self.loop.do(asyncio.sleep(0.5))

    async def _write(self, process: int, patient: str, how: str) -> None:
        await self.links[process].moving.wait()
        wanted = (everything("ehr"),) if how == "everything" else names("ehr", [patient], ["Basic"])
        version = 0
        if how == "push":  # the EHR of record changed it, and tells us afterwards
            version = self.truth.change(patient)
        with suppress(Unavailable, UpstreamFault, OutcomeUnknown):
            async with self.caches[process].touching(wanted):
                await asyncio.sleep(self.chance.choice(self.pace))
                if how == "refused":
                    raise UpstreamFault(reason="refused")
                if how == "unknown":
                    self._begin(self._late(patient))
                    raise OutcomeUnknown
                if how != "push":
                    version = self.truth.change(patient)
                await asyncio.sleep(self.chance.choice(self.pace))
            self.truth.least[patient] = max(self.truth.least[patient], version)
            self._note(how)

    async def _late(self, patient: str) -> None:
        """It takes effect after the gateway gave up; the next attempt finds it, and that may be acknowledged at once."""
        await asyncio.sleep(2 * COHERENCE + self.chance.choice((0, 1, 4)))
        version = self.truth.change(patient)
        self.truth.least[patient] = max(self.truth.least[patient], version)

    @rule(patient=st.sampled_from(PATIENTS))
    def change_behind(self, patient: str) -> None:
        """At the EHR itself, and nobody tells us: may stay unseen for a life."""
        self.truth.change(patient)

    @rule(process=process, token=st.sampled_from("xy"))
    def use_token(self, process: int, token: str) -> None:
        self._begin(self._use(process, token))

    async def _use(self, process: int, token: str) -> None:
        """As the authenticator would."""
        link, memory, circle = self.links[process], self.memories[process], self.caches[process]._circle
        await link.moving.wait()
        known = token in self.truth.told_revoked
        row = memory.get(token) if circle.trusted else None
        if row is None:
            mark = memory.mark
            try:
                row = await link.derive(lambda: "revoked" if token in self.truth.revoked else "good")
            except Unavailable:
                return
            memory.put(token, row, size=100, names=(f"gw:{{grants}}:g:{token}", everything("grants")), mark=mark, until=self.loop.epoch() + 60)
        else:
            self._note("token remembered")
        assert not (known and row == "good"), f"{token} was taken back before this request began"

    @rule(process=process, token=st.sampled_from("xy"))
    def revoke(self, process: int, token: str) -> None:
        self._begin(self._revoke(process, token))

    async def _revoke(self, process: int, token: str) -> None:
        link = self.links[process]
        await link.moving.wait()
        with suppress(Unavailable):
            async with self.caches[process].touching([f"gw:{{grants}}:g:{token}"]), link.write() as transaction:
                transaction.staged.append(lambda: self.truth.revoked.add(token))
            self.truth.told_revoked.add(token)
            self._note("revoked")

    @rule(token=st.sampled_from("xy"))
    def grant(self, token: str) -> None:
        """Another token of that name, when nobody is taking it back."""
        if not self.tasks:
            self.truth.revoked.discard(token)
            self.truth.told_revoked.discard(token)

    # What goes wrong ----------------------------------------------------------------------------------------------------------------

    @rule(process=process, what=links_)
    def cut(self, process: int, what: str) -> None:
        self.links[process].cut ^= {what}

    @rule(
        process=process,
        patient=st.sampled_from(PATIENTS),
        what=st.sampled_from(["store", "board", "database"]),
        seconds=st.sampled_from([0.2, 0.5, 1.2]),
    )
    def write_during_a_cut(self, process: int, patient: str, what: str, seconds: float) -> None:
        """The writer is cut off while it writes, and not for long; all others remember what it changes."""
        self._all_remember(patient)
        self._begin(self._write(process, patient, "write"))
        self.loop.do(asyncio.sleep(0.1))
        self.links[process].cut.add(what)
        self.loop.do(asyncio.sleep(seconds))
        self.links[process].cut.discard(what)
        self.loop.do(asyncio.sleep(1.5))
        self._all_remember(patient)

    @rule(process=process, patient=st.sampled_from(PATIENTS), seconds=st.sampled_from([0.3, 1.5, 3.0]))
    def miss_a_write(self, process: int, patient: str, seconds: float) -> None:
        """Somebody stands still and hears nothing while another one writes, and goes on as if nothing had happened."""
        self._all_remember(patient)
        self.links[process].cut.add("board")
        self.stand_still(process, seconds)
        self.write_now((process + 1) % PROCESSES, patient)
        self.loop.do(asyncio.sleep(seconds + 1.0))
        self._all_remember(patient)

    @rule(process=process, notices=st.booleans())
    def be_deaf(self, process: int, notices: bool) -> None:
        """Somebody hears nothing more, and may or may not notice; two writes follow each other at once."""
        for patient in PATIENTS:
            self._all_remember(patient)
        if notices:
            self.links[process].lost.set()
            self.loop.do(asyncio.sleep(self.chance.choice((0.001, 0.05, 0.2))))
        else:
            self.links[process].cut.add("board")
        for patient in PATIENTS:
            writing = self._begin(self._write((process + 1) % PROCESSES, patient, "write"))
            self.loop.do(asyncio.wait([writing], timeout=5))
            self.read_now(process, patient)

    def _all_remember(self, patient: str) -> None:
        for process in range(PROCESSES):
            if self.links[process].moving.is_set():
                self.read_now(process, patient)

    @rule(process=process)
    def mend(self, process: int) -> None:
        self.links[process].cut.clear()

    @rule(process=process)
    def lose_board(self, process: int) -> None:
        """The link ends, and the process notices."""
        self.links[process].lost.set()

    @rule(process=process, seconds=st.sampled_from([0.3, 1.5, 5.0]))
    def stand_still(self, process: int, seconds: float) -> None:
        """SIGSTOP, then SIGCONT."""
        link = self.links[process]
        link.moving.clear()
        self.loop.call_later(seconds, link.moving.set)

    @rule(quick=st.booleans())
    def hurry(self, quick: bool) -> None:
        """Ways are short or long; writes too."""
        self.pace[:] = QUICK if quick else SLOW

    @rule()
    def flush(self) -> None:
        self.loop.do(self.store.close())

    @rule(data=st.data())
    def poison(self, data: st.DataObject) -> None:
        """FAULT-R5: rubbish, or another key's value."""
        for key in self.store._values:
            rubbish = data.draw(st.sampled_from([b"", b"rubbish", *(value for value, _ in self.store._values.values())]))
            self.store._values[key] = (rubbish, self.store._values[key][1])

    @rule(fails=st.booleans())
    def ehr(self, fails: bool) -> None:
        self.truth.fails = fails

    @rule(process=process, patients=who)
    def fail_when_it_is_old(self, process: int, patients: str) -> None:
        """What stale answers are for."""
        self.read_now(process, patients)
        self.loop.do(asyncio.sleep(LIFE))
        self.truth.fails = True
        self.read_now(process, patients)

    @rule(patient=st.sampled_from([None, None, *PATIENTS]))
    def refuse(self, patient: str | None) -> None:
        self.truth.refuses = {patient} if patient else set()

    @rule(seconds=st.sampled_from([0.0, 0.01, 0.2, 0.6, 1.1, 3.0, 7.0]), seed=st.integers(0, 1000))
    def wait(self, seconds: float, seed: int) -> None:
        self.chance.seed(seed)
        self.loop.do(asyncio.sleep(seconds))

    @invariant()
    def nothing_was_wrong(self) -> None:
        self.loop.do(asyncio.sleep(0))
        for task in [task for task in self.tasks if task.done()]:
            self.tasks.discard(task)
            task.result()
        for running in self.running:
            assert not running.done(), running.exception()
        for cache in self.caches:
            assert cache._near.size <= 5_000

    def teardown(self) -> None:
        """All is well again: what was begun ends, nothing is owed, and everybody remembers."""
        try:
            for link in self.links:
                link.cut.clear()
                link.moving.set()
            self.truth.fails, self.truth.refuses = False, set()
            self.loop.do(asyncio.sleep(2 * ABANDONED + 10))
            self.nothing_was_wrong()
            assert not self.tasks
            assert not self.rows.rows
            assert not any(cache._busy or cache._finishing for cache in self.caches)
            for process in range(PROCESSES):
                self._soon_remembers(process)
            self.nothing_was_wrong()
        finally:
            SEEN.append(self.seen | {f"cache {k}": v for cache in self.caches for k, v in cache.counts.shown().items()})
            self.stop()

    def stop(self) -> None:
        self.loop.do(self._end())
        self.loop.close()
        for patch in self.patches:
            patch.stop()

    def _soon_remembers(self, process: int) -> None:
        near = self.caches[process]._near
        for _ in range(100):
            self.read_now(process, "a")
            if near.get(Ask("ehr", "gateway", "a", "read", ("a",), ())):
                return
        raise AssertionError("it remembers nothing any more")

    async def _end(self) -> None:
        every = [*self.running, *self.tasks]
        for task in every:
            task.cancel()
        await asyncio.gather(*every, return_exceptions=True)
        for keep in self.keeps:
            await keep.flights.close()


SEALER = Sealer([bytes(32)])
SEEN: list[dict[str, int]] = []


def test_no_order_of_events_gives_a_wrong_answer():
    """FAULT-C1 to C3, R1 to R5, P3 with two levels and three processes; revocations by the same way."""
    chosen = settings(max_examples=60, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck), database=None)
    run_state_machine_as_test(World, settings=chosen)


def test_it_is_all_there():
    """Each kind of answer comes about in the model: else it would say nothing of it."""
    world = World()
    world.hurry(quick=True)
    for process in (0, 0, 1, 1):
        world.read_now(process, "a")
        world.use_token(process, "x")
        world.loop.do(asyncio.sleep(0.5))
    world.write_now(0, "a")
    world.write(1, "a", "push")
    world.revoke(2, "x")
    world.fail_when_it_is_old(0, "b")
    world.loop.do(asyncio.sleep(1))
    world.read_now(1, "ab")
    world.loop.do(asyncio.sleep(1))
    world.nothing_was_wrong()
    world.teardown()
    wanted = {"Forwarded", "Fresh", "Stale", "error", "write", "push", "revoked", "token remembered", "cache found-process", "cache found-shared"}
    assert wanted <= set(SEEN[-1])


@pytest.mark.parametrize("missing", ["told", "drop"])
def test_the_model_would_see_it(missing: str):
    """What this suite is worth: with nobody told, or nobody forgetting, an old answer is found at once."""
    with mock.patch.object(Circle, missing, _nobody if missing == "told" else _nothing):
        world = World()
        with pytest.raises(AssertionError, match="older than what was answered"):
            _read_write_read(world)
        world.stop()


def _read_write_read(world: World) -> None:
    for patient in PATIENTS * 20:
        world._all_remember(patient)
        world.write_now(0, patient)
        world._all_remember(patient)
        world.nothing_was_wrong()


async def _nobody(*_: object) -> None:
    """Waits for nobody."""


def _nothing(*_: object) -> None:
    """Forgets nothing."""


def test_names_of_what_is_remembered():
    """The names of an answer hold its EHR's, by which all of them can be ended."""
    assert everything("ehr") in generation_names(Ask("ehr", "gateway", "a", "read", ("a",), ()))
