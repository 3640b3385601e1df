"""One attempt to deliver one message under a lease, so that it may be repeated (promise 3).

A create goes as a PUT to an id that was fixed on receipt; any attempt after the first looks first: if the id exists in any version, it was
delivered, whatever became of it since. An update goes with If-Match of the version that was read, and committed, before the first attempt; when
that does not hold on a later attempt, the version after it tells whether it is ours (delivered) or another's (ours was never done, so it may be
tried again). A transaction does the same for all its entries at once: all of it happened or nothing. The entries of a batch are delivered one
by one, and those that are through are not sent again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from gateway.adapters.ehr.base import EhrReply, OutcomeUnknown
from gateway.errors import Conflict, FhirError, PreconditionFailed, Throttled, Unavailable, UpstreamFault
from gateway.fhir.interaction import Interaction, Kind
from gateway.ingest import plan, stored
from gateway.ingest.points import point
from gateway.ingest.stored import StoredAnswer
from gateway.proxy.answer import Answer, RequestContext
from gateway.smart.principal import Principal
from gateway.store.inbox import Entry, State

ROUNDS = 3
"""How often an update is applied anew to a record that moved on (FAULT-U23)."""
CONFLICTS = 3
"""Attempts after which an EHR's 409 is taken as its last word: most are two writers at the same moment."""


AWAY = frozenset({"ehr-down", "ehr-unreachable"})
"""The EHR is not there for anybody: nothing was sent, and no message dies of that (FAULT-U1)."""
DISTRUST = frozenset({"login", "security"})
"""The EHR does not take the gateway's own sign-in, or shows a wrong certificate: the operator's trouble, not the message's (FAULT-U20, U21)."""


class Road(Protocol):
    """What the pipeline does for the worker."""

    async def handle(self, principal: Principal, interaction: Interaction, context: RequestContext) -> Answer:
        """Write. Raises FhirError or OutcomeUnknown."""
        ...

    async def stored(self, principal: Principal, interaction: Interaction, context: RequestContext) -> EhrReply | None:
        """A fresh read or vread of what the sender may write; None when nothing is there. Raises FhirError."""
        ...


class Lease(Protocol):
    """The worker's hold on the message. What writes or checks raises Fenced when it is lost."""

    def check(self) -> None:
        """Whether the lease still runs by this process's own clock: one that stood still may not write to the EHR any more (FAULT-P3)."""
        ...

    async def sending(self, seen: Mapping[int, str | None]) -> None:
        """Commit that these entries are going out now, with the versions that were read before."""
        ...

    async def finish_entry(self, position: int, state: State, answer: StoredAnswer) -> None:
        """Commit that one entry of a batch is through."""
        ...

    def entry_answer(self, entry: Entry) -> StoredAnswer:
        """The answer that `finish_entry` kept."""
        ...


@dataclass(frozen=True, slots=True)
class Done:
    """Delivered."""

    answer: StoredAnswer


@dataclass(frozen=True, slots=True)
class Rejected:
    """Refused for good: the sender is told why, and what waits behind goes on (FAULT-U25)."""

    answer: StoredAnswer
    error: str


@dataclass(frozen=True, slots=True)
class Later:
    """Not now. `after`: seconds that the EHR asked for. `counts`: it goes towards the last attempt. `strained`: the EHR is in trouble."""

    error: str
    after: float | None = None
    counts: bool = True
    strained: bool = False


Result = Done | Rejected | Later


def verdict(error: FhirError | OutcomeUnknown, request_id: str, attempts: int) -> Result:
    """What an error of the pipeline means for a message (G6)."""
    match error:
        case OutcomeUnknown():
            return Later(error.reason, strained=True)
        case Throttled():
            return Later(error.reason, after=float(error.retry_after or 5), counts=False, strained=True)
        case Unavailable() if not error.reason.startswith("ehr-"):
            return Later(error.reason, after=error.retry_after, counts=False)  # the gateway's own trouble is not the message's
        case UpstreamFault() if error.reason in AWAY or error.issue_code in DISTRUST:
            return Later(error.reason, after=error.retry_after, counts=False, strained=True)
        case Unavailable() | UpstreamFault():
            return Later(error.reason, after=error.retry_after, strained=True)
        case Conflict() if attempts < CONFLICTS:
            return Later(error.reason)
        case FhirError():
            return Rejected(stored.refusal(error, request_id), error.reason)


@dataclass(frozen=True, slots=True)
class Attempt:
    """`asked` is the message as the parser understands it now; `base` is the gateway's FHIR base; `attempts` counts this one."""

    road: Road
    lease: Lease
    principal: Principal
    asked: Interaction
    entries: tuple[Entry, ...]
    context: RequestContext
    base: str
    attempts: int

    async def run(self) -> Result:
        """Deliver. Raises Fenced."""
        try:
            match self.asked.kind:
                case Kind.TRANSACTION:
                    return Done(await self._transaction())
                case Kind.BATCH:
                    return await self._batch()
                case _:
                    return Done(await self._single(self.asked, self.entries[0]))
        except (FhirError, OutcomeUnknown) as error:
            return verdict(error, self.context.request_id, self.attempts)

    async def _single(self, asked: Interaction, entry: Entry) -> StoredAnswer:
        return await (self._create(asked, entry) if asked.kind is Kind.CREATE else self._update(asked, entry))

    # Create ----------------------------------------------------------------------------------------------------------------

    async def _create(self, asked: Interaction, entry: Entry) -> StoredAnswer:
        if entry.target and self._may_have_been_sent(entry) and await self._exists(entry):
            return stored.delivered(self.base, entry.kind, entry.type, entry.target)
        return await self._send(plan.single(asked, entry))

    def _may_have_been_sent(self, entry: Entry) -> bool:
        """A create needs no mark of its own before it goes out: the lease is one, and a look too many costs a read only."""
        return entry.tried or self.attempts > 1

    async def _exists(self, entry: Entry) -> bool:
        """In any version: what was deleted since is not made again."""
        if await self._read(entry.type, entry.target) is not None:
            return True
        return await self._read(entry.type, entry.target, "1") is not None

    # Update ----------------------------------------------------------------------------------------------------------------

    async def _update(self, asked: Interaction, entry: Entry) -> StoredAnswer:
        seen = entry.seen if entry.tried else None
        for _ in range(ROUNDS):
            unknown = seen is not None
            if seen is None:
                seen = asked.conditions.if_match or await self._version(asked)
                _check_absent(asked, seen)
                await self.lease.sending({entry.position: seen})
            elif not seen and (answer := await self._was_made(asked, entry)):
                return answer
            try:
                return await self._send(plan.single(asked, entry, seen))
            except PreconditionFailed:
                if unknown and await self._is_ours(asked, seen):
                    return stored.delivered(self.base, entry.kind, entry.type, entry.target)
                if asked.conditions.if_match:
                    raise
                seen = None
        raise PreconditionFailed("The record kept changing.", reason="version-changed")

    async def _was_made(self, asked: Interaction, entry: Entry) -> StoredAnswer | None:
        """There was nothing before the first attempt. If there is something now: ours, or another's over which ours does not go."""
        if not await self._exists(entry):
            return None
        if await self._is_ours(asked, ""):
            return stored.delivered(self.base, Kind.CREATE, entry.type, entry.target)
        raise PreconditionFailed("Somebody else made this record in the meantime.", reason="made-since")

    async def _version(self, asked: Interaction) -> str:
        """The ETag of what is there, "" for nothing."""
        reply = await self._read(asked.type, asked.id)
        return reply.etag if reply is not None else ""

    async def _is_ours(self, asked: Interaction, seen: str) -> bool:
        """Whether the version after the one seen is what we sent. Raises PreconditionFailed when nobody can tell any more.

        Sent with If-Match, ours can only have become that very version; so when it is another's, ours was never done.
        """
        number = plan.version_number(seen) if seen else 0
        after = await self._read(asked.type, asked.id, str(number + 1)) if number is not None else None
        if after is not None:
            return plan.same_content(asked.body, after.body)
        current = await self._read(asked.type, asked.id)
        if current is None:
            raise PreconditionFailed("The record was deleted in the meantime.", reason="deleted-since")
        if current.etag == seen:
            return False
        if plan.same_content(asked.body, current.body):
            return True
        raise PreconditionFailed("The record changed, and whether this update came first is not known.", reason="outcome-unsettled")

    # Transaction -------------------------------------------------------------------------------------------------------------

    async def _transaction(self) -> StoredAnswer:
        unknown = self.attempts > 1 or any(entry.tried for entry in self.entries)
        for _ in range(ROUNDS):
            if unknown and await self._happened():
                return stored.as_delivered(self.entries, self.base)
            unknown = False
            seen = {entry.position: await self._version(part) for part, entry in self._updates() if not part.conditions.if_match}
            await self.lease.sending({entry.position: seen.get(entry.position, part.conditions.if_match or None) for part, entry in self._pairs()})
            try:
                return await self._send(plan.transaction(self.asked, self.entries, {at: version for at, version in seen.items() if version}))
            except PreconditionFailed:
                if not seen:
                    raise
        raise PreconditionFailed("The records kept changing.", reason="version-changed")

    async def _happened(self) -> bool:
        """Whether an earlier attempt did it: all of it or nothing, so that one sign is enough."""
        made = [entry for entry in self.entries if entry.kind == Kind.CREATE and entry.target]
        if made:
            return await self._exists(made[0])
        for part, entry in self._updates():
            if entry.seen is None or (entry.seen and await self._version(part) == entry.seen):
                continue
            if not entry.seen and not await self._exists(entry):
                return False
            return await self._is_ours(part, entry.seen)
        return False

    def _pairs(self) -> list[tuple[Interaction, Entry]]:
        return list(zip(self.asked.entries, self.entries, strict=True))

    def _updates(self) -> list[tuple[Interaction, Entry]]:
        return [(part, entry) for part, entry in self._pairs() if part.kind is Kind.UPDATE]

    # Batch -------------------------------------------------------------------------------------------------------------------

    async def _batch(self) -> Result:
        answers: list[StoredAnswer] = []
        failed: list[Later] = []
        for part, entry in self._pairs():
            if entry.state != State.RECEIVED:
                answers.append(self.lease.entry_answer(entry))
                continue
            if len(failed) > 1:  # the EHR is in trouble: the rest waits for the next attempt
                break
            match await self._entry(part, entry):
                case Later() as later:
                    failed.append(later)
                case Done(answer):
                    answers.append(answer)
                    await self.lease.finish_entry(entry.position, State.DONE, answer)
                case Rejected(answer):
                    answers.append(answer)
                    await self.lease.finish_entry(entry.position, State.REJECTED, answer)
        return failed[-1] if failed else Done(stored.bundle("batch", answers, self.base))

    async def _entry(self, part: Interaction, entry: Entry) -> Result:
        try:
            return Done(await self._single(part, entry))
        except (FhirError, OutcomeUnknown) as error:
            return verdict(error, self.context.request_id, self.attempts)

    # The road ----------------------------------------------------------------------------------------------------------------

    async def _send(self, asked: Interaction) -> StoredAnswer:
        self.lease.check()
        answer = stored.from_answer(await self.road.handle(self.principal, asked, self.context))
        point("after-answer")
        return answer

    async def _read(self, type_: str, id_: str, version: str = "") -> EhrReply | None:
        asked = Interaction(Kind.VREAD if version else Kind.READ, type_, id_, version)
        return await self.road.stored(self.principal, asked, self.context)


def _check_absent(asked: Interaction, etag: str) -> None:
    """A sender's own `If-None-Match: *` is judged here: HAPI does not look at it on a PUT."""
    if "*" in asked.conditions.if_none_match and etag:
        raise PreconditionFailed("There is such a record already.", reason="exists")
