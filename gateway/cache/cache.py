"""The cache: a store that may fail at any time, kept coherent by rows in the database.

The promise: no request that starts after a write was answered gets what was cached before that write, in any process, whatever happens to Redis.

A write commits an intent row, renews (deletes) the generations it touches, is sent, and renews them again whatever its outcome. When the store
confirms the second renewal, every cached answer that knew the old generations is out of reach, and the row goes. When it does not (killed,
stopped, cut off), the row stays and the write's answer waits for `coherence`. Every process reads the rows twice in that time and goes around
the cache for the names in them; one that could not read them for `coherence` goes around the cache for everything.

A write whose answer was lost, or whose process died, may take effect at the EHR after the second renewal. Its row stays for `abandoned`, in
which everybody goes around the cache for its names; then whoever finds it renews once more and strikes it out.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

import structlog
import zstandard

from gateway.cache.counts import Counts
from gateway.cache.keys import Ask, generation_names, key, widened
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
"""Names that one process may owe before it owes all of those EHRs instead; and keys of refused answers whose deletion it owes."""
_TELL: Final = 60.0
"""Seconds between two lines of the log about how often the cache answered."""
_RAW, _ZSTD = b"\x00", b"\x01"


@dataclass(frozen=True, slots=True)
class Looked:
    """What a look-up gave. `key` is where an answer fetched now may be kept; "": go around the cache, and keep nothing."""

    key: str
    value: bytes | None


@dataclass(frozen=True, slots=True)
class _Owed:
    """Renewals that the store has not confirmed yet, and the rows that stand for them."""

    ids: tuple[str, ...] = ()
    names: frozenset[str] = frozenset()


class Cache:
    """`coherence`: seconds within which every process learns of a write that Redis did not confirm; the same in all of them.

    `abandoned`: seconds after which the intent of a write that never ended counts as a crash; a write ends sooner. Call `recover` at the start
    and keep `run` running: without it every look-up goes around the cache.
    """

    def __init__(self, store: CacheStore, database: Database, *, sealer: Seals, coherence: float = 1.0, abandoned: float = 60.0) -> None:
        self._store, self._database, self._sealer = store, database, sealer
        self._coherence, self._abandoned = coherence, timedelta(seconds=abandoned)
        self.counts = Counts()
        self._zstd = _Zstd()
        self._polled = float("-inf")  # when the last successful poll began
        self._pending = frozenset[str]()  # names in the rows, as of then
        self._busy = Counter[str]()  # names that writes of this process touch now
        self._mine: set[str] = set()  # their rows
        self._refused: dict[str, None] = {}  # keys whose deletion the store has not confirmed, oldest first
        self._owed = _Owed()
        self._settling = asyncio.Lock()
        self._finishing: set[asyncio.Task[None]] = set()
        self._failing = False

    # Reading -------------------------------------------------------------------------------------------------------------------

    async def look(self, ask: Ask) -> Looked:
        """What is kept for this ask, whose right to it was decided before. Never raises: a store that fails is a miss."""
        wanted = generation_names(ask)
        if why_not := self._why_not(wanted):
            return self._around(why_not)
        generations = await self._store.generations(wanted)
        if generations is None:
            return self._around("down")
        place = key(ask, generations)
        value = await self._get(place)
        self.counts.add("found-nothing" if value is None else "found-shared")
        return Looked(place, value)

    def _around(self, why: str) -> Looked:
        self.counts.add(f"around-{why}")
        return Looked("", None)

    async def fill(self, key: str, value: bytes, life: float) -> None:
        """Keep an answer for `life` seconds under the key of the look-up that missed, made before the answer was fetched."""
        if key and life > 0 and len(value) <= LARGEST:
            await self._store.put(key, self._sealer.seal(self._zstd.pack(value), _context(key)), life)

    async def forget(self, key: str) -> None:
        """Never give again what is kept under the key of a look-up: the EHR refused it to this caller."""
        if not await self._store.renew((key,)):
            self._refused[key] = None
            while len(self._refused) > _MANY:
                del self._refused[next(iter(self._refused))]

    def _why_not(self, wanted: Sequence[str]) -> str:
        """Why what the store says about these names cannot be trusted now; "" when it can be."""
        if time.monotonic() - self._polled >= self._coherence:
            return "incoherent"
        return "pending" if any(name in self._pending or name in self._busy for name in wanted) else ""

    async def _get(self, place: str) -> bytes | None:
        if place in self._refused:
            del self._refused[place]
            await self.forget(place)
            return None
        sealed = await self._store.get(place)
        if sealed is None:
            return None
        try:
            return self._zstd.unpack(self._sealer.open(sealed, _context(place)))
        except (SealBroken, zstandard.ZstdError, ValueError):  # FAULT-R5: poisoned, cut, or sealed with a lost key
            log.warning("cache-value-broken")
            self.counts.add("broken")
            await self._store.renew((place,))
            return None

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
            await self._to_the_end(self._finish(intent, wanted, known=known))

    async def _intend(self, wanted: tuple[str, ...]) -> str:
        async with self._database.write() as connection:
            intent = await invalidation.add(connection, wanted)
        self._mine.add(intent)
        self._busy.update(wanted)
        try:
            await self._store.renew(wanted)
        except BaseException:  # cancelled before anything was sent: the row is taken for abandoned later
            self._ended(intent, wanted)
            raise
        return intent

    async def _finish(self, intent: str, wanted: tuple[str, ...], *, known: bool) -> None:
        try:
            confirmed = await self._store.renew(wanted)
            if not known:  # the row stays as after a crash; who sends it again may find it done, and say so at once
                await asyncio.sleep(self._coherence + _MARGIN)
            elif confirmed:
                await self._strike(intent)
            else:
                await self._owe(intent, wanted)
        finally:
            self._ended(intent, wanted)

    def _ended(self, intent: str, wanted: tuple[str, ...]) -> None:
        self._mine.discard(intent)
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

    async def _owe(self, intent: str, wanted: tuple[str, ...]) -> None:
        """The store did not confirm: leave a row for all that this process owes, and wait until it is paid or known everywhere."""
        async with self._settling:
            owed = _Owed((*self._owed.ids, intent), _few(self._owed.names.union(wanted)))
            self._owed = owed
            try:
                async with self._database.write() as connection:
                    # One row for all, with a new id, so that who renews for the old row cannot strike out what came after.
                    row = await invalidation.add(connection, owed.names, settled=True)
                    await invalidation.remove(connection, *owed.ids)
                self._owed = _Owed((row,), owed.names)
            except Unavailable:  # the intent is still there; who cannot read it goes around the cache for everything
                log.warning("intent-not-settled")
        until = time.monotonic() + self._coherence + _MARGIN
        while not await self._settle():
            left = until - time.monotonic()
            if left <= 0:
                return
            await asyncio.sleep(min(_RETRY, left))

    async def _settle(self) -> bool:
        """Pay what is owed, if the store takes it. True when nothing is owed any more."""
        if self._settling.locked():
            return False
        async with self._settling:
            owed = self._owed
            if owed.names and not await self._store.renew(tuple(owed.names)):
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
        told = time.monotonic()
        while True:
            began = time.monotonic()
            if began - told >= _TELL:
                told = began
                self._tell()
            try:
                await self._tend(await self._poll())
                await self._settle()
                self._say(failing=False)
            except Unavailable:
                self._say(failing=True)
            await asyncio.sleep(max(0.0, began + self._coherence / 2 - time.monotonic()))

    async def _poll(self) -> Sequence[Pending]:
        began = time.monotonic()  # before the read: a row committed from now on may not be in it
        rows = await invalidation.pending(self._database.derive)
        self._pending = frozenset(name for row in rows for name in row.names)
        self._polled = began
        return rows

    async def _tend(self, rows: Sequence[Pending]) -> None:
        """Renew for writes that ended without a confirmation, here or elsewhere, and for those that never ended; strike out what is confirmed."""
        old = now() - self._abandoned
        own = {*self._mine, *self._owed.ids}  # `_finish` and `_settle` see to these
        due = [row for row in rows if row.id not in own and (row.settled or row.created_at < old)]
        if due and await self._store.renew(tuple({name for row in due for name in row.names})):
            await self._strike(*(row.id for row in due))

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
        await self._store.close()


class NoCache:
    """The cache switched off, in every process that shares the EHRs: each look-up is a miss, and there is nothing to renew."""

    def __init__(self) -> None:
        self.counts = Counts()

    async def look(self, ask: Ask) -> Looked:
        """A miss whose answer is not kept."""
        del ask
        return Looked("", None)

    async def fill(self, key: str, value: bytes, life: float) -> None:
        """Keep nothing."""

    async def forget(self, key: str) -> None:
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
    return wanted if len(wanted) <= _MANY else frozenset(map(widened, wanted))


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
