"""From the cache where that is as good as fresh, else from the EHR: the driver of the states in `cache.policy`."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace

from gateway.cache.cache import Cache, Looked, NoCache
from gateway.cache.flights import Flights
from gateway.cache.keys import Ask
from gateway.cache.policy import Fetch, Fresh, Keep, Lives, Refuse, Stale, Stamp, Wish, failed, is_refusal, judge, keeping
from gateway.errors import FhirError
from gateway.fhir.interaction import Interaction
from gateway.proxy.fetched import Fetched, pack, stamped, unpack

Get = Callable[[Fetched | None], Awaitable[Fetched]]
"""Ask the EHR. Takes what is kept when its ETag may be sent along, else None; what still holds comes back with the same body."""

_REFUSALS = 10_000
"""How many of them a process knows."""

_WORDS = {"absent": "miss", "implausible": "miss", "expired": "stale", "asked": "request", "no-store": "request", "around": "bypass"}
"""`Fetch.why` in the words of RFC 9211 section 2.2."""


@dataclass(frozen=True, slots=True)
class Forwarded:
    """The EHR was asked (RFC 9211 sections 2.2 to 2.5): why, whether it said "unchanged", whether that is kept, and whether others asked too."""

    why: str
    revalidated: bool = False
    stored: bool = False
    collapsed: bool = False


@dataclass(frozen=True, slots=True)
class Given:
    """What is answered, and where it came from."""

    fetched: Fetched
    source: Fresh | Stale | Forwarded

    @property
    def cached(self) -> bool:
        """Whether the EHR did not give it just now."""
        return not isinstance(self.source, Forwarded)


def headers(given: Given) -> list[tuple[str, str]]:
    """What an answer says of itself: Cache-Status (RFC 9211), Age (RFC 9111 section 5.1), and Warning, which is obsolete and still read."""
    match given.source:
        case Fresh(age, ttl):
            return [("Cache-Status", f"gateway; hit; ttl={ttl}"), ("Age", str(age))]
        case Stale(age, ttl):
            warning = '110 gateway "Response is Stale", 111 gateway "Revalidation Failed"'  # RFC 7234 section 5.5
            return [("Cache-Status", f"gateway; hit; ttl={ttl}"), ("Age", str(age)), ("Warning", warning)]
        case Forwarded(why, revalidated, stored, collapsed):
            more = [("; fwd-status=304", revalidated), ("; stored", stored), ("; collapsed", collapsed)]
            return [("Cache-Status", f"gateway; fwd={_WORDS[why]}" + "".join(text for text, so in more if so))]


@dataclass(frozen=True, slots=True)
class Wanted:
    """One read: where it is kept, what it is, what the caller says of freshness, and how the EHR is asked."""

    ask: Ask
    interaction: Interaction
    wish: Wish
    get: Get


@dataclass(frozen=True, slots=True)
class Kept:
    """What is kept of one EHR's answers. `stale`: the configured seconds beyond their life."""

    cache: Cache | NoCache
    flights: Flights
    lives: Lives
    stale: float
    refused: dict[Ask, float] = field(default_factory=dict[Ask, float], repr=False)
    """When the EHR last refused what was asked (epoch seconds), the oldest first: what it gave before may still be kept out of reach."""

    async def given(self, wanted: Wanted) -> Given:
        """The answer. Raises what `get` raises, unless an older answer may be given instead."""
        looked = await self.cache.look(wanted.ask) if wanted.wish.store else Looked("", None)
        held = self._held(looked, wanted.ask)
        stamp = self._stamp(held, wanted.interaction) if held else None
        state = judge(stamp, wanted.wish, time.time())
        if isinstance(state, Fresh) and held:
            self.cache.counts.add("given-fresh")
            return Given(held, state)
        fetch = _fetch(state, looked, wanted.wish)
        try:
            return await self._asked(wanted, looked, held, fetch)
        except FhirError as error:
            instead = failed(fetch, stamp, error, time.time())
            if isinstance(instead, Refuse) or held is None:
                raise
            self.cache.counts.add("given-stale")
            return Given(held, instead)

    async def _asked(self, wanted: Wanted, looked: Looked, held: Fetched | None, fetch: Fetch) -> Given:
        """Once for all who ask for the same now. Who said how fresh it has to be does not join what began before she asked."""

        async def fetch_once() -> Given:
            self.cache.counts.add(f"fetched-{fetch.why}")
            return await self._carried_out(wanted, looked, held if fetch.etag else None, fetch)

        shared = looked.key if wanted.wish.takes_stale else ""
        if not self.flights.flying(shared):
            return await self.flights.share(shared, fetch_once)
        self.cache.counts.add("joined")
        given = await self.flights.share(shared, fetch_once)
        return replace(given, source=replace(given.source, collapsed=True)) if isinstance(given.source, Forwarded) else given

    async def _carried_out(self, wanted: Wanted, looked: Looked, held: Fetched | None, fetch: Fetch) -> Given:
        try:
            fetched = await wanted.get(held)
        except FhirError as error:
            if is_refusal(error):
                await self._evict(wanted, looked)
            raise
        unchanged = held is not None and fetched.body is held.body
        self.cache.counts.add("given-unchanged", unchanged)
        return Given(fetched, Forwarded(fetch.why, unchanged, await self._keep(wanted, looked, fetched)))

    async def _keep(self, wanted: Wanted, looked: Looked, fetched: Fetched) -> bool:
        """Keep it, if it may be kept and there is a place for it."""
        types = {wanted.interaction.type, *(entry.type for entry in fetched.entries)}
        verdict = keeping(wanted.interaction.kind, types, self.lives, wish=wanted.wish, etag=fetched.etag, stale=self.stale)
        if not isinstance(verdict, Keep) or not looked.key:
            self.cache.counts.add("left")
            return False
        self.cache.counts.add("kept")
        await self.cache.fill(looked, pack(stamped(fetched, verdict.life, verdict.stale)), verdict.hold, fresh=verdict.life)
        return True

    async def _evict(self, wanted: Wanted, looked: Looked) -> None:
        """The EHR says that there is nothing for this caller: what is kept is never given again, though it were fresh (FAULT-U21, U22)."""
        self.cache.counts.add("evicted")
        self.refused.pop(wanted.ask, None)
        self.refused[wanted.ask] = time.time()
        while len(self.refused) > _REFUSALS:
            del self.refused[next(iter(self.refused))]
        # Who wanted nothing from the cache has not looked; the next one may.
        await self.cache.forget(looked if looked.key else await self.cache.look(wanted.ask))

    def _held(self, looked: Looked, ask: Ask) -> Fetched | None:
        """What is kept; None for another version's value, which is a miss (FAULT-R5), and for what was refused since."""
        try:
            held = unpack(looked.value) if looked.value is not None else None
        except ValueError:
            return None
        return held if held and held.at >= self.refused.get(ask, 0.0) else None

    def _stamp(self, held: Fetched, asked: Interaction) -> Stamp:
        """As it was when it was kept, or shorter where the operator has shortened it since."""
        life = min(held.life, self.lives.of(asked.type).seconds)
        return Stamp(held.at, life, min(held.stale, self.stale), held.etag if held.body else "")


def _fetch(state: Fresh | Fetch, looked: Looked, wish: Wish) -> Fetch:
    """Why the EHR is asked, where the cache was not asked at all."""
    if not wish.store:
        return Fetch("no-store")
    return state if looked.key and isinstance(state, Fetch) else Fetch("around")
