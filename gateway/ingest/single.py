"""One write of one resource: a create that goes to its fixed id, or stays a POST; an update bound to the version that was seen."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

from gateway.errors import MethodNotAllowed, PreconditionFailed
from gateway.fhir.interaction import Interaction, Kind
from gateway.fhir.json import parse
from gateway.ingest import identifier, plan, stored
from gateway.ingest.hand import ROUNDS, Hand
from gateway.ingest.stored import StoredAnswer
from gateway.store.inbox_rows import Entry


@dataclass(frozen=True, slots=True)
class Single:
    """One resource as it was pushed, and its row."""

    hand: Hand
    asked: Interaction
    entry: Entry

    async def deliver(self) -> StoredAnswer:
        """Raises FhirError, OutcomeUnknown, Unconfirmed or Fenced."""
        return await (self._create(self.asked, self.entry) if self.asked.kind is Kind.CREATE else self._update(self.asked, self.entry))

    async def _create(self, asked: Interaction, entry: Entry) -> StoredAnswer:
        if entry.target and self._may_have_been_sent(entry) and await self.hand.exists(entry):
            return stored.delivered(self.hand.base, entry.kind, entry.type, entry.target)
        (entry,) = await self.hand.without_ids((entry,), plan.refused_ids((entry,), self.hand.offers))
        if not entry.target:
            return await self._post(asked, entry)
        try:
            return await self.hand.send(plan.single(asked, entry))
        except MethodNotAllowed:  # it takes no ids of clients after all (R4 http.html 3.1.0.4.1), and nothing was made
            (entry,) = await self.hand.without_ids((entry,), (entry.position,))
            return await self._post(asked, entry)
        except PreconditionFailed:  # something is there, says an EHR that heeds If-None-Match: an earlier attempt that arrived late
            if not await self.hand.exists(entry):
                raise
            return stored.delivered(self.hand.base, entry.kind, entry.type, entry.target)

    async def _post(self, asked: Interaction, entry: Entry) -> StoredAnswer:
        if asked.conditions.if_none_exist:  # the sender's own condition is judged, and looked at, at each attempt
            return await self.hand.send(asked)
        return await self.hand.posts.create(asked, entry, identifier.of(cast("Mapping[str, Any]", parse(asked.body))))

    def _may_have_been_sent(self, entry: Entry) -> bool:
        """A create needs no mark of its own before it goes out: the lease is one, and a look too many costs a read only."""
        return entry.tried or self.hand.attempts > 1

    async def _update(self, asked: Interaction, entry: Entry) -> StoredAnswer:
        seen = entry.seen if entry.tried else None
        for _ in range(ROUNDS):
            unknown = seen is not None
            if seen is None:
                seen = asked.conditions.if_match or await self.hand.version(asked)
                _check_absent(asked, seen)
                await self.hand.lease.sending({entry.position: seen})
            elif not seen and (answer := await self._was_made(asked, entry)):
                return answer
            try:
                return await self.hand.send(plan.single(asked, entry, seen))
            except PreconditionFailed:
                if unknown and await self.hand.is_ours(asked, seen):
                    return stored.delivered(self.hand.base, entry.kind, entry.type, entry.target)
                if asked.conditions.if_match:
                    raise
                seen = None
        raise PreconditionFailed("The record kept changing.", reason="version-changed")

    async def _was_made(self, asked: Interaction, entry: Entry) -> StoredAnswer | None:
        """There was nothing before the first attempt. If there is something now: ours, or another's over which ours does not go."""
        if not await self.hand.exists(entry):
            return None
        if await self.hand.is_ours(asked, ""):
            return stored.delivered(self.hand.base, Kind.CREATE, entry.type, entry.target)
        raise PreconditionFailed("Somebody else made this record in the meantime.", reason="made-since")


def _check_absent(asked: Interaction, etag: str) -> None:
    """A sender's own `If-None-Match: *` is judged here: HAPI does not look at it on a PUT."""
    if "*" in asked.conditions.if_none_match and etag:
        raise PreconditionFailed("There is such a record already.", reason="exists")
