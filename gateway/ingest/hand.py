"""What every attempt needs: the road to the EHR, the lease on the message, and the looks at what stands there."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol

from gateway.adapters.ehr.base import EhrReply, Offers
from gateway.errors import PreconditionFailed
from gateway.fhir.bundle import Found
from gateway.fhir.interaction import Interaction, Kind
from gateway.ingest import plan, stored
from gateway.ingest.points import point
from gateway.ingest.posted import Posts
from gateway.ingest.stored import StoredAnswer
from gateway.proxy.answer import Answer, RequestContext
from gateway.smart.principal import Principal
from gateway.store.inbox_rows import Entry, State

ROUNDS = 3
"""How often an update is applied anew to a record that moved on (FAULT-U23)."""


class Road(Protocol):
    """What the pipeline does for the worker."""

    async def handle(self, principal: Principal, interaction: Interaction, context: RequestContext) -> Answer:
        """Write. Raises FhirError or OutcomeUnknown."""
        ...

    async def stored(self, principal: Principal, interaction: Interaction, context: RequestContext) -> EhrReply | None:
        """A fresh read or vread of what the sender may write; None when nothing is there, status 410 when it was deleted. Raises FhirError."""
        ...

    async def found(self, principal: Principal, interaction: Interaction, context: RequestContext) -> Found | None:
        """A fresh search among what the sender may write; None when the EHR has no such search. Raises FhirError."""
        ...


class Lease(Protocol):
    """The worker's hold on the message. What writes or checks raises Fenced when it is lost."""

    def held(self) -> AbstractAsyncContextManager[None]:
        """A block that ends when the lease runs out by this process's own clock: one that stood still writes nothing any more (FAULT-P3)."""
        ...

    async def sending(self, seen: Mapping[int, str | None]) -> None:
        """Commit that these entries are going out now, with the versions that were read before."""
        ...

    async def unsent(self, positions: Collection[int]) -> None:
        """Commit that the EHR did not take these entries."""
        ...

    async def give_up_ids(self, positions: Collection[int]) -> None:
        """Commit that these creates go out without the id that was fixed for them."""
        ...

    async def finish_entry(self, position: int, state: State, answer: StoredAnswer) -> None:
        """Commit that one entry of a batch is through."""
        ...

    def entry_answer(self, entry: Entry) -> StoredAnswer:
        """The answer that `finish_entry` kept."""
        ...


@dataclass(frozen=True, slots=True)
class Hand:
    """One attempt's hold on a message. `base` is the gateway's FHIR base; `attempts` counts this one; `offers` is what the EHR takes."""

    road: Road
    lease: Lease
    principal: Principal
    context: RequestContext
    base: str
    attempts: int
    offers: Offers

    async def send(self, asked: Interaction) -> StoredAnswer:
        """Write, while the lease runs. Raises FhirError, OutcomeUnknown or Fenced."""
        async with self.lease.held():
            answer = stored.from_answer(await self.road.handle(self.principal, asked, self.context))
        point("after-answer")
        return answer

    async def found(self, asked: Interaction) -> Found | None:
        """What a search gives; None where the EHR has no such search."""
        return await self.road.found(self.principal, asked, self.context)

    async def read(self, type_: str, id_: str, version: str = "") -> EhrReply | None:
        """What stands there, or stood there in that version."""
        reply = await self._look(type_, id_, version)
        return None if reply is None or reply.status == 410 else reply

    async def exists(self, entry: Entry) -> bool:
        """In any version: what was deleted since is not made again. An EHR may say so itself (410), whether it keeps versions or not."""
        if await self._look(entry.type, entry.target) is not None:
            return True
        return await self._look(entry.type, entry.target, "1") is not None

    async def _look(self, type_: str, id_: str, version: str = "") -> EhrReply | None:
        asked = Interaction(Kind.VREAD if version else Kind.READ, type_, id_, version)
        return await self.road.stored(self.principal, asked, self.context)

    async def version(self, asked: Interaction) -> str:
        """The ETag of what is there, "" for nothing."""
        reply = await self.read(asked.type, asked.id)
        return reply.etag if reply is not None else ""

    async def is_ours(self, asked: Interaction, seen: str) -> bool:
        """Whether the version after the one seen is what we sent. Raises PreconditionFailed when nobody can tell any more.

        Sent with If-Match, ours can only have become that very version; so when it is another's, ours was never done.
        """
        number = plan.version_number(seen) if seen else 0
        after = await self.read(asked.type, asked.id, str(number + 1)) if number is not None else None
        if after is not None:
            return plan.same_content(asked.body, after.body)
        current = await self.read(asked.type, asked.id)
        if current is None:
            raise PreconditionFailed("The record was deleted in the meantime.", reason="deleted-since")
        if current.etag == seen:
            return False
        if plan.same_content(asked.body, current.body):
            return True
        raise PreconditionFailed("The record changed, and whether this update came first is not known.", reason="outcome-unsettled")

    @property
    def posts(self) -> Posts:
        """For creates at an EHR that gives the ids itself."""
        return Posts(self.found, self.send, self.lease, self.offers, self.base)

    async def without_ids(self, rows: tuple[Entry, ...], positions: Collection[int]) -> tuple[Entry, ...]:
        """The rows with the ids at these positions given up, for good."""
        if not positions:
            return rows
        await self.lease.give_up_ids(positions)
        return plan.without_ids(rows, positions)
