"""Creates at an EHR that takes no ids of clients: there is nothing to fix before the first attempt, so that they are found by their identifier.

    first attempt   look; commit what stood there; POST, with If-None-Exist where nothing did
    any later one   look: what did not stand there before is ours, and delivered; else as the first
    no identifier   commit; POST, once. When its answer is lost nobody can tell (`Unconfirmed`): a person decides

A look is no lock. Messages of one sender that share an identifier are delivered one after the other (`ingest.order`), and If-None-Exist makes the
moment between a look and its POST shorter where others write (docs/adr/0008).
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass, replace
from typing import Protocol

from gateway.adapters.ehr.base import Offers, OutcomeUnknown
from gateway.errors import FhirError, PreconditionFailed
from gateway.fhir.bundle import Found
from gateway.fhir.interaction import Interaction, Kind, Param
from gateway.ingest import identifier, stored
from gateway.ingest.identifier import Identifier, There
from gateway.ingest.stored import StoredAnswer
from gateway.store.inbox_rows import OTHERS, Entry

ROUNDS = 3
"""How often a create is tried anew when others make such records at the same moment."""


class Unconfirmed(Exception):
    """It was sent, its answer was lost, and it cannot be found again: it may or may not have taken effect."""


class MayArrive(OutcomeUnknown):
    """A POST whose answer was lost. It may still be on its way, and a look that comes too early would not find it."""


class Lease(Protocol):
    """The worker's hold on the message, as far as it is needed here. Both raise Fenced."""

    async def sending(self, seen: Mapping[int, str | None]) -> None:
        """Commit that these entries are going out now, with what stood there before."""
        ...

    async def unsent(self, positions: Collection[int]) -> None:
        """Commit that the EHR did not take these."""
        ...


@dataclass(frozen=True, slots=True)
class Posts:
    """Posts for one message. `search` gives what the EHR has, None where it cannot search so; `send` writes."""

    search: Callable[[Interaction], Awaitable[Found | None]]
    send: Callable[[Interaction], Awaitable[StoredAnswer]]
    lease: Lease
    offers: Offers
    base: str

    async def create(self, asked: Interaction, entry: Entry, own: Identifier | None) -> StoredAnswer:
        """One create. Raises FhirError, MayArrive, Unconfirmed or Fenced."""
        there = await self.look(asked, own)
        if entry.tried and (mine := ours(entry, there)):
            return stored.delivered(self.base, Kind.CREATE, entry.type, mine)
        for _ in range(ROUNDS):
            if there and there.same:  # the same thing was sent before, under another message
                return stored.delivered(self.base, Kind.UPDATE, entry.type, there.same)
            guard = self.guard(there)
            try:
                return await self._once(asked, entry, guard, there)
            except PreconditionFailed:
                if not guard:
                    raise
            there = await self.look(asked, own)
        raise PreconditionFailed("Others kept making such records.", reason="made-since")

    async def look(self, asked: Interaction, own: Identifier | None) -> There | None:
        """What stands under the identifier; None without one, or where it cannot be found out."""
        found = await self.search(own.search) if own else None
        return identifier.there(own, asked.body, found) if own and found else None

    def guard(self, there: There | None) -> tuple[Param, ...]:
        """The If-None-Exist: where nothing stands under the identifier, or our own content alone. It would keep away what only shares it."""
        taken = there is not None and there.ids not in ((), (there.same,))
        if there is None or taken or not self.offers.conditional_create.of(there.own.type):
            return ()
        return there.own.params

    async def _once(self, asked: Interaction, entry: Entry, guard: tuple[Param, ...], there: There | None) -> StoredAnswer:
        await self.lease.sending({entry.position: seen(there)})
        async with posting(self.lease, (entry.position,)):
            return await self.send(replace(asked, conditions=replace(asked.conditions, guard=guard)))


@contextlib.asynccontextmanager
async def posting(lease: Lease, positions: Collection[int]) -> AsyncGenerator[None]:
    """Around a POST of what is committed as sent. A refusal takes that back; when the answer is lost it stays, and the next attempt looks."""
    try:
        yield
    except OutcomeUnknown as unknown:
        raise MayArrive(unknown.reason) from unknown
    except FhirError:
        await lease.unsent(positions)
        raise


def place(entry: Entry, there: There | None) -> str:
    """The id of what an earlier attempt is known to have made, "" when it cannot be found."""
    try:
        return ours(entry, there)
    except Unconfirmed:
        return ""


def seen(there: There | None) -> str | None:
    """What is kept of a look (`store.inbox_rows.Entry.seen`)."""
    return None if there is None else OTHERS if there.ids else ""


def ours(entry: Entry, there: There | None) -> str:
    """The id of what an earlier attempt made, "" when it made nothing. Raises Unconfirmed when that cannot be told.

    Where nothing stood before, whatever stands there now is ours, in whichever version. Where others did, ours is known by its content only.
    """
    if there is None or entry.seen is None:
        raise Unconfirmed
    if there.same or entry.seen == "":
        return there.same or next(iter(there.ids), "")
    raise Unconfirmed
