"""The cache: a store that may fail at any time, kept coherent by rows in the database; and before it what this process remembers itself.

The promise: no request that starts after a write was answered gets what was cached before that write, in any process, whatever happens to Redis.

A write commits an intent row, renews (deletes) the generations it touches, is sent, and renews them again whatever its outcome. When the store
confirms the second renewal, every cached answer that knew the old generations is out of reach, and the row goes. When it does not (killed,
stopped, cut off), the row stays and the write's answer waits for `coherence`. Every process reads the rows twice in that time and goes around
the cache for the names in them; one that could not read them for `coherence` goes around the cache for everything.

What a process remembers (`circle`, `remembered`) is under the same rows, with a short cut: the write's answer waits until each other process has
said that it forgot, at most for `coherence`. So a row is struck out only when the deletion is confirmed and, besides, everybody has forgotten or
the row has been there for `coherence`.

A write whose answer was lost, or whose process died, may take effect at the EHR after the second renewal. Its row stays for `abandoned`, in
which everybody goes around the cache for its names; then whoever finds it renews once more and strikes it out.
"""

from __future__ import annotations

import asyncio
import struct
import time
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Final

import structlog
import zstandard

from gateway.cache.circle import Circle, Others
from gateway.cache.counts import Counts
from gateway.cache.keys import Ask, generation_names, key, widened
from gateway.cache.remembered import Remembered
from gateway.cache.store import CacheStore
from gateway.errors import FhirError, Unavailable
from gateway.seal import SealBroken, Seals
from gateway.store import invalidation
from gateway.store.base import Database, now
from gateway.store.invalidation import Pending

log = structlog.get_logger("gateway.cache")

COMPRESS_FROM: Final = 2048
"""Bytes from which zstd pays."""
LARGEST: Final = 8 * 2**20
"""Bytes of a value that is kept: one of this size takes Redis a few milliseconds, in which it serves nobody else."""
_MARGIN: Final = 0.05
"""Seconds that a writer waits beyond `coherence`: clocks of two machines do not run alike."""
_RETRY: Final = 0.1
_MANY: Final = 1000
"""Names that one process may owe before it owes all of those EHRs instead."""
_TELL: Final = 60.0
"""Seconds between two lines of the log about how often the cache answered."""
_RAW, _ZSTD = b"\x00", b"\x01"
_UNTIL: Final = struct.Struct(">d")
_OVERHEAD: Final = 600
"""Bytes that an answer costs in this process besides itself, its key and what was asked."""


@dataclass(frozen=True, slots=True)
class Looked:
    """What a look-up gave. `key` is where an answer fetched now may be kept; "": go around the cache, and keep nothing."""

    key: str
    value: bytes | None
    ask: Ask | None = field(default=None, compare=False, repr=False)
    mark: int = field(default=0, compare=False, repr=False)  # of this process's memory, before anything was read


@dataclass(frozen=True, slots=True)
class _Intent:
    """A write's row, its names, and who else may remember something, as of `since` (monotonic)."""

    row: str
    names: tuple[str, ...]
    others: Others
    since: float


@dataclass(frozen=True, slots=True)
class _Owed:
    """Renewals that the store has not confirmed yet, and the rows that stand for them; since when all of the names are in rows."""

    ids: tuple[str, ...] = ()
    names: frozenset[str] = frozenset()
    others: bool = False
    since: float = float("-inf")


class Cache:
    """`coherence`: seconds within which every process learns of a write that Redis did not confirm; the same in all of them.

    `abandoned`: seconds after which the intent of a write that never ended counts as a crash; a write ends sooner. Call `recover` at the start
    and keep `run` running: without it every look-up goes around the cache.

    `circle` where several processes share the store: this one remembers up to `process_bytes` of answers itself. Without one it is the only
    process, whose store is its memory.
    """

    def __init__(
        self,
        store: CacheStore,
        database: Database,
        *,
        sealer: Seals,
        coherence: float = 1.0,
        abandoned: float = 60.0,
        circle: Circle | None = None,
        process_bytes: int = 0,
    ) -> None:
        self._store, self._database, self._sealer = store, database, sealer
        self._coherence, self._abandoned = coherence, timedelta(seconds=abandoned)
        self._circle = circle
        self._near: Remembered[Ask, tuple[str, bytes]] | None = circle.memory(process_bytes) if circle and process_bytes else None
        self.counts = circle.counts if circle else Counts()
        self._zstd = _Zstd()
        self._polled = float("-inf")  # when the last successful poll began
        self._pending = frozenset[str]()  # names in the rows, as of then
        self._busy = Counter[str]()  # names that writes of this process touch now
        self._mine: set[str] = set()  # their rows
        self._seen: dict[str, float] = {}  # rows of the last poll, and when each was first seen here
        self._owed = _Owed()
        self._settling = asyncio.Lock()
        self._finishing: set[asyncio.Task[None]] = set()
        self._failing = False

    # Reading -------------------------------------------------------------------------------------------------------------------

    async def look(self, ask: Ask) -> Looked:
        """What is kept for this ask, whose right to it was decided before. Never raises: a store that fails is a miss."""
        near, mark = self._near, 0
        if near is not None and self._circle is not None:
            mark = near.mark
            if self._circle.trusted and (found := near.get(ask)) is not None:
                self.counts.add("found-process")
                return Looked(*found, ask, mark)
        wanted = generation_names(ask)
        if why_not := self._why_not(wanted):
            return self._around(why_not)
        generations = await self._store.generations(wanted)
        if generations is None:
            return self._around("down")
        looked = Looked(key(ask, generations), None, ask, mark)
        value, until = await self._get(looked.key)
        if value is None:
            self.counts.add("found-nothing")
            return looked
        self.counts.add("found-shared")
        self._remember(looked, wanted, value, until)
        return replace(looked, value=value)

    def _around(self, why: str) -> Looked:
        self.counts.add(f"around-{why}")
        return Looked("", None)

    async def fill(self, looked: Looked, value: bytes, life: float, *, fresh: float | None = None) -> None:
        """Keep an answer for `life` seconds where the look-up missed it that was made before the answer was fetched.

        `fresh`: how many of them this process may give it from its own memory; after that the store has it, for who takes an old one.
        """
        if not looked.key or looked.ask is None or life <= 0 or len(value) > LARGEST:
            return
        until = time.time() + (life if fresh is None else fresh)
        self._remember(looked, generation_names(looked.ask), value, until)
        packed = _UNTIL.pack(until) + self._zstd.pack(value)
        await self._store.put(looked.key, self._sealer.seal(packed, _context(looked.key)), life)

    def _remember(self, looked: Looked, names: Sequence[str], value: bytes, until: float) -> None:
        if self._near is None or self._circle is None or looked.ask is None:
            return
        self._circle.wanted = True
        if self._circle.trusted:
            size = len(value) + len(looked.key) + sum(map(len, (*names, looked.ask.constraint, looked.ask.interaction))) + _OVERHEAD
            self._near.put(looked.ask, (looked.key, value), size=size, names=(*names, looked.key), mark=looked.mark, until=until)

    async def forget(self, looked: Looked) -> None:
        """Do not give again what is kept where this look-up looked, as far as it can be reached: the EHR refused it to this caller."""
        if self._near is not None and looked.ask is not None:
            self._near.forget(looked.ask)
        if looked.key:
            if self._circle:
                self._circle.tell((looked.key,))
            await self._store.renew((looked.key,))

    def _why_not(self, wanted: Sequence[str]) -> str:
        """Why what the store says about these names cannot be trusted now; "" when it can be."""
        if time.monotonic() - self._polled >= self._coherence:
            return "incoherent"
        return "pending" if any(name in self._pending or name in self._busy for name in wanted) else ""

    async def _get(self, place: str) -> tuple[bytes | None, float]:
        """The value, and until when (epoch seconds) it may be remembered."""
        sealed = await self._store.get(place)
        if sealed is None:
            return None, 0.0
        try:
            packed = self._sealer.open(sealed, _context(place))
            (until,) = _UNTIL.unpack_from(packed)
            return self._zstd.unpack(packed[_UNTIL.size :]), until
        except (SealBroken, zstandard.ZstdError, ValueError, struct.error):  # FAULT-R5: poisoned, cut, or sealed with a lost key
            log.warning("cache-value-broken")
            self.counts.add("broken")
            await self._store.renew((place,))
            return None, 0.0

    # Writing -------------------------------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def touching(self, names: Iterable[str]) -> AsyncGenerator[None]:
        """Around a write to an EHR that touches these generations. Raises Unavailable before the block when the intent cannot be stored.

        Not within a transaction: the intent has one of its own, committed before anything is sent. A FhirError out of the block means that
        the EHR refused or never got it; any other error, that its outcome is not known (FAULT-U7 to U12).
        Left only when no later request can get an old answer: at once when the store confirms, else after `coherence`. Leaving never raises
        an error of its own, because the write has happened; when the caller is cancelled, the rest is done in the background.
        """
        wanted = tuple(dict.fromkeys(names))
        if not wanted:
            yield
            return
        intent = await self._intend(wanted)
        known = False
        try:
            yield
            known = True
        except FhirError:
            known = True
            raise
        finally:
            await self._to_the_end(self._finish(intent, known=known))

    async def _intend(self, wanted: tuple[str, ...]) -> _Intent:
        async with self._database.write() as connection:
            row = await invalidation.add(connection, wanted)
        self._mine.add(row)
        self._busy.update(wanted)
        self._drop(wanted)
        try:
            others = await self._circle.others() if self._circle else Others()
            intent = _Intent(row, wanted, others, time.monotonic())
            await self._store.renew(wanted)
        except BaseException:  # cancelled before anything was sent: the row is taken for abandoned later
            self._ended(row, wanted)
            raise
        return intent

    async def _intended_anew(self, intent: _Intent) -> _Intent:
        """With a new row: one of which the outcome is not known has its whole time from now on, and an old one may count as abandoned already."""
        try:
            async with self._database.write() as connection:
                row = await invalidation.add(connection, intent.names)
                await invalidation.remove(connection, intent.row)
        except Unavailable:  # the old one has to do
            log.warning("intent-not-renewed")
            return intent
        self._mine.add(row)
        self._mine.discard(intent.row)
        others = await self._circle.others() if self._circle else Others()
        return _Intent(row, intent.names, others, time.monotonic())

    def _drop(self, wanted: tuple[str, ...]) -> None:
        if self._circle:
            self._circle.drop(wanted)

    async def _finish(self, intent: _Intent, *, known: bool) -> None:
        try:
            if not known or time.monotonic() - intent.since > self._abandoned.total_seconds() / 2:
                intent = await self._intended_anew(intent)
            confirmed = await self._store.renew(intent.names)
            if not known:  # the row stays as after a crash; who sends it again may find it done, and say so at once
                await asyncio.sleep(self._coherence + _MARGIN)
            elif confirmed:
                if self._circle:
                    await self._circle.told(intent.names, intent.others, intent.since)
                await self._strike(intent.row)
            else:
                await self._owe(intent)
        finally:
            self._drop(intent.names)
            self._ended(intent.row, intent.names)

    def _ended(self, row: str, wanted: tuple[str, ...]) -> None:
        self._mine.discard(row)
        self._busy.subtract(wanted)
        for name in wanted:
            if not self._busy[name]:
                del self._busy[name]

    async def _strike(self, *ids: str) -> bool:
        """Remove rows whose renewal is confirmed. One that stays costs hits and no truth; it counts as abandoned after a while."""
        try:
            async with self._database.write() as connection:
                await invalidation.remove(connection, *ids)
        except Unavailable:
            log.warning("intent-not-removed")
            return False
        return True

    async def _owe(self, intent: _Intent) -> None:
        """The store did not confirm: leave a row for all that this process owes, and wait until it is paid or known everywhere."""
        async with self._settling:
            before = self._owed
            names, others = _few(before.names.union(intent.names)), before.others or bool(intent.others)
            owed = self._owed = _Owed((*before.ids, intent.row), names, others, max(before.since, intent.since))
            try:
                async with self._database.write() as connection:
                    # One row for all, with a new id, so that who renews for the old row cannot strike out what came after.
                    row = await invalidation.add(connection, owed.names, settled=True)
                    await invalidation.remove(connection, *owed.ids)
                self._owed = replace(owed, ids=(row,))
            except Unavailable:  # the intent is still there; who cannot read it goes around the cache for everything
                log.warning("intent-not-settled")
        until = time.monotonic() + self._coherence + _MARGIN
        while not await self._settle():
            left = until - time.monotonic()
            if left <= 0:
                return
            await asyncio.sleep(min(_RETRY, left))

    async def _settle(self) -> bool:
        """Pay what is owed, if the store takes it and everybody who remembers must know. True when nothing is owed any more."""
        if self._settling.locked():
            return False
        async with self._settling:
            owed = self._owed
            if owed.names and not await self._store.renew(tuple(owed.names)):
                return False
            if owed.others and time.monotonic() < owed.since + self._coherence + _MARGIN:
                return False
            if not owed.ids or await self._strike(*owed.ids):
                self._owed = _Owed()
            return True

    async def _to_the_end(self, work: Awaitable[None]) -> None:
        task = asyncio.ensure_future(work)
        self._finishing.add(task)
        task.add_done_callback(self._finishing.discard)
        await asyncio.shield(task)

    # In the background ---------------------------------------------------------------------------------------------------------

    async def recover(self) -> None:
        """At the start: renew for all intents that are left, and learn which names to go around. Raises Unavailable without a database."""
        rows = await self._poll()
        if rows:
            await self._store.renew(tuple({name for row in rows for name in row.names}))

    async def run(self) -> None:
        """Poll the intents twice in `coherence` until cancelled. A database that fails is said once; look-ups go around the cache meanwhile."""
        async with asyncio.TaskGroup() as both:
            both.create_task(self._watch())
            if self._circle:
                both.create_task(self._circle.run())

    async def _watch(self) -> None:
        told = time.monotonic()
        while True:
            began = time.monotonic()
            if began - told >= _TELL:
                told = began
                self._tell()
            try:
                await self._tend(await self._poll())
                await self._settle()
                if self._circle:
                    await self._circle.tend()
                self._say(failing=False)
            except Unavailable:
                self._say(failing=True)
            await asyncio.sleep(max(0.0, began + self._coherence / 2 - time.monotonic()))

    async def _poll(self) -> Sequence[Pending]:
        began = time.monotonic()  # before the read: a row committed from now on may not be in it
        reading = invalidation.pending(self._database.derive), invalidation.members(self._database.derive)
        rows, members = await asyncio.gather(*reading)
        self._pending = frozenset(name for row in rows for name in row.names)
        self._polled = began
        self._seen = {row.id: self._seen.get(row.id, began) for row in rows}
        if self._circle:
            self._circle.polled(began, self._pending, {one.id: one.out for one in members})
        return rows

    async def _tend(self, rows: Sequence[Pending]) -> None:
        """Renew for writes that ended without a confirmation, here or elsewhere, and for those that never ended; strike out what is confirmed."""
        old = now() - self._abandoned
        own = {*self._mine, *self._owed.ids}  # `_finish` and `_settle` see to these
        due = [row for row in rows if row.id not in own and (row.settled or row.created_at < old) and self._is_known(row)]
        if due and await self._store.renew(tuple({name for row in due for name in row.names})):
            await self._strike(*(row.id for row in due))

    def _is_known(self, row: Pending) -> bool:
        """Whether it has been there so long that everybody who remembers anything has read it."""
        return self._circle is None or time.monotonic() >= self._seen[row.id] + self._coherence + _MARGIN

    def _tell(self) -> None:
        if news := self.counts.news():
            log.info("cache-counts", **{name.replace("-", "_"): count for name, count in news.items()})

    def _say(self, *, failing: bool) -> None:
        if failing != self._failing:
            (log.warning if failing else log.info)("cache-incoherent" if failing else "cache-coherent")
            self._failing = failing

    async def ping(self) -> bool:
        """Whether the store answers now; for readiness, which is "degraded" without it (FAULT-R1)."""
        return await self._store.ping()

    async def close(self) -> None:
        """Wait for writes that are ending, and give the store's connections back. End `run` before."""
        await asyncio.gather(*self._finishing, return_exceptions=True)
        if self._circle:
            await self._circle.leave()
        await self._store.close()


class NoCache:
    """The cache switched off, in every process that shares the EHRs: each look-up is a miss, and there is nothing to renew."""

    def __init__(self) -> None:
        self.counts = Counts()

    async def look(self, ask: Ask) -> Looked:
        """A miss whose answer is not kept."""
        del ask
        return Looked("", None)

    async def fill(self, looked: Looked, value: bytes, life: float, *, fresh: float | None = None) -> None:
        """Keep nothing."""

    async def forget(self, looked: Looked) -> None:
        """There is nothing."""

    @asynccontextmanager
    async def touching(self, names: Iterable[str]) -> AsyncGenerator[None]:
        """The block alone."""
        del names
        yield

    async def recover(self) -> None:
        """Nothing is left behind."""

    async def run(self) -> None:
        """Until cancelled, nothing."""
        await asyncio.Event().wait()

    async def ping(self) -> bool:
        """It is always there."""
        return True

    async def close(self) -> None:
        """There is nothing to give back."""


def _few(wanted: frozenset[str]) -> frozenset[str]:
    """Whole EHRs instead of many names, and instead of names of an EHR that is among them as a whole."""
    if len(wanted) > _MANY:
        return frozenset(map(widened, wanted))
    return frozenset(name for name in wanted if name == widened(name) or widened(name) not in wanted)


def _context(place: str) -> bytes:
    """A value opens under its own key only: one that was moved, or that came as the reply to another request, is broken."""
    return b"cache:" + place.encode()


class _Zstd:
    """Compression of one loop's values: the contexts are kept, because making one costs more than using it; no two threads may share them."""

    def __init__(self) -> None:
        self._compressor = zstandard.ZstdCompressor(level=1)
        self._decompressor = zstandard.ZstdDecompressor()

    def pack(self, value: bytes) -> bytes:
        """A mark, and the value or its compressed form."""
        return _RAW + value if len(value) < COMPRESS_FROM else _ZSTD + self._compressor.compress(value)

    def unpack(self, data: bytes) -> bytes:
        """The value. Raises ValueError or ZstdError for what `pack` did not make."""
        if data[:1] == _RAW:
            return data[1:]
        frame = data[1:]
        if data[:1] != _ZSTD or not 0 <= zstandard.frame_content_size(frame) <= LARGEST:
            raise ValueError("no value of ours")
        return self._decompressor.decompress(frame, max_output_size=LARGEST)
