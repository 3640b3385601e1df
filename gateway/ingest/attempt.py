"""One attempt to deliver one message under a lease, so that it may be repeated (promise 3).

A create goes as a PUT to an id that was fixed on receipt; any attempt after the first looks first: if the id exists in any version, it was
delivered, whatever became of it since. An update goes with If-Match of the version that was read, and committed, before the first attempt; when
that does not hold on a later attempt, the version after it tells whether it is ours (delivered) or another's (ours was never done, so it may be
tried again). A transaction does the same for all its entries at once: all of it happened or nothing. The entries of a batch are delivered one
by one, and those that are through are not sent again.

Where the EHR takes no ids of clients, a create stays the POST that it is, and is found again by its identifier (`posted`).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol, cast

from gateway.adapters.ehr.base import ByType, EhrReply, Offers, OutcomeUnknown
from gateway.errors import Conflict, FhirError, MethodNotAllowed, PreconditionFailed, Throttled, Unavailable, UpstreamFault
from gateway.fhir.bundle import Found
from gateway.fhir.interaction import Interaction, Kind
from gateway.fhir.json import parse
from gateway.ingest import identifier, plan, posted, stored
from gateway.ingest.identifier import There
from gateway.ingest.points import point
from gateway.ingest.posted import MayArrive, Posts, Unconfirmed
from gateway.ingest.stored import StoredAnswer
from gateway.proxy.answer import Answer, RequestContext
from gateway.smart.principal import Principal
from gateway.store.inbox import UNCONFIRMED, Entry, State

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

    async def found(self, principal: Principal, interaction: Interaction, context: RequestContext) -> Found | None:
        """A fresh search among what the sender may write; None when the EHR has no such search. Raises FhirError."""
        ...


class Lease(Protocol):
    """The worker's hold on the message. What writes or checks raises Fenced when it is lost."""

    def check(self) -> None:
        """Whether the lease still runs by this process's own clock: one that stood still may not write to the EHR any more (FAULT-P3)."""
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
    """Not now. `after`: seconds that the EHR asked for. `counts`: it goes towards the last attempt. `strained`: the EHR is in trouble.

    `settling`: what was sent may still be on its way; the next attempt gives it time.
    """

    error: str
    after: float | None = None
    counts: bool = True
    strained: bool = False
    settling: bool = False


@dataclass(frozen=True, slots=True)
class Dead:
    """Not again without a person: it may have been done, and nobody can tell."""

    error: str


Result = Done | Rejected | Later | Dead


def verdict(error: FhirError | OutcomeUnknown, request_id: str, attempts: int) -> Result:
    """What an error of the pipeline means for a message (G6)."""
    match error:
        case MayArrive():
            return Later(error.reason, strained=True, settling=True)
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


EVERYTHING = Offers(ByType(usually=True), ByType(usually=True), transactions=True)


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
    offers: Offers = EVERYTHING

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
        except Unconfirmed:
            return Dead(UNCONFIRMED)
        except (FhirError, OutcomeUnknown) as error:
            return verdict(error, self.context.request_id, self.attempts)

    async def _single(self, asked: Interaction, entry: Entry) -> StoredAnswer:
        return await (self._create(asked, entry) if asked.kind is Kind.CREATE else self._update(asked, entry))

    # Create ----------------------------------------------------------------------------------------------------------------

    async def _create(self, asked: Interaction, entry: Entry) -> StoredAnswer:
        if entry.target and self._may_have_been_sent(entry) and await self._exists(entry):
            return stored.delivered(self.base, entry.kind, entry.type, entry.target)
        (entry,) = await self._without_ids((entry,), plan.refused_ids((entry,), self.offers))
        if not entry.target:
            return await self._post(asked, entry)
        try:
            return await self._send(plan.single(asked, entry))
        except MethodNotAllowed:  # it takes no ids of clients after all (R4 http.html 3.1.0.4.1), and nothing was made
            (entry,) = await self._without_ids((entry,), (entry.position,))
            return await self._post(asked, entry)

    async def _post(self, asked: Interaction, entry: Entry) -> StoredAnswer:
        if asked.conditions.if_none_exist:  # the sender's own condition is judged, and looked at, at each attempt
            return await self._send(asked)
        return await self._posts.create(asked, entry, identifier.of(cast("Mapping[str, Any]", parse(asked.body))))

    @property
    def _posts(self) -> Posts:
        return Posts(self._found, self._send, self.lease, self.offers, self.base)

    async def _without_ids(self, rows: tuple[Entry, ...], positions: Collection[int]) -> tuple[Entry, ...]:
        """The rows with the ids at these positions given up, for good."""
        if not positions:
            return rows
        await self.lease.give_up_ids(positions)
        return plan.without_ids(rows, positions)

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
        rows = self.entries
        for _ in range(ROUNDS):
            if unknown and await self._happened():
                return stored.as_delivered(await self._located(), self.base)
            unknown = False
            rows = await self._without_ids(rows, plan.refused_ids(rows, self.offers))
            seen = {entry.position: await self._version(part) for part, entry in self._updates() if not part.conditions.if_match}
            there = await self._there(rows)
            try:
                return await self._send_all(rows, seen, there)
            except PreconditionFailed:
                if not seen and not there:
                    raise
        raise PreconditionFailed("The records kept changing.", reason="version-changed")

    async def _send_all(self, rows: tuple[Entry, ...], seen: Mapping[int, str], there: Mapping[int, There | None]) -> StoredAnswer:
        """`seen`: the versions of updates; `there`: what stands under the identifiers of the creates that go as POST."""
        guards = {at: guard for at, one in there.items() if (guard := self._posts.guard(one))}
        sent = plan.transaction(self.asked, rows, {at: version for at, version in seen.items() if version}, guards)
        marks = {at: posted.seen(one) for at, one in there.items()}
        await self.lease.sending({at: marks.get(at, seen.get(at, part.conditions.if_match or None)) for at, part in enumerate(self.asked.entries)})
        if not there:
            return await self._send(sent)
        async with posted.posting(self.lease, tuple(there)):
            return await self._send(sent)

    async def _happened(self) -> bool:
        """Whether an earlier attempt did it: all of it or nothing, so that one sign is enough. Raises Unconfirmed without any."""
        made = [entry for entry in self.entries if entry.kind == Kind.CREATE and entry.target]
        if made:
            return await self._exists(made[0])
        posts = [row for row in self._posted(self.entries) if row.tried]
        if sign := next((row for row in posts if row.seen == ""), None):
            return bool(posted.ours(sign, (await self._there((sign,)))[sign.position]))
        happened = await self._by_update()
        if happened is None and posts:
            raise Unconfirmed
        return bool(happened)

    async def _by_update(self) -> bool | None:
        """What an update of the transaction tells. None: nothing, be it that what it would write is what stands there."""
        for part, entry in self._updates():
            if entry.seen is None or (entry.seen and await self._version(part) == entry.seen):
                continue
            if not entry.seen and not await self._exists(entry):
                return False
            return await self._is_ours(part, entry.seen)
        return None

    def _posted(self, rows: Collection[Entry]) -> list[Entry]:
        """The creates that go as POST without a condition of their sender's."""
        return [row for row in rows if row.kind == Kind.CREATE and not row.target and not self.asked.entries[row.position].conditions.if_none_exist]

    async def _there(self, rows: Collection[Entry]) -> Mapping[int, There | None]:
        """What stands under the identifier of each of those, by position."""
        posts = self._posted(rows)
        if not posts:
            return {}
        own = identifier.of_parts(self.asked.entries)
        return {row.position: await self._posts.look(self.asked.entries[row.position], own.get(row.position)) for row in posts}

    async def _located(self) -> tuple[Entry, ...]:
        """The entries, with the ids that the EHR gave, as far as they can be found."""
        there = await self._there(self.entries)
        return tuple(replace(row, target=posted.place(row, there[row.position])) if row.position in there else row for row in self.entries)

    def _pairs(self) -> list[tuple[Interaction, Entry]]:
        return list(zip(self.asked.entries, self.entries, strict=True))

    def _updates(self) -> list[tuple[Interaction, Entry]]:
        return [(part, entry) for part, entry in self._pairs() if part.kind is Kind.UPDATE]

    # Batch -------------------------------------------------------------------------------------------------------------------

    async def _batch(self) -> Result:
        answers: list[StoredAnswer] = []
        failed: list[Later] = []
        dead: list[Dead] = []
        for part, entry in self._pairs():
            if entry.state != State.RECEIVED:
                answers.append(self.lease.entry_answer(entry))
                continue
            if len(failed) > 1:  # the EHR is in trouble: the rest waits for the next attempt
                break
            match await self._entry(part, entry):
                case Later() as later:
                    failed.append(later)
                case Dead() as one:
                    dead.append(one)
                case Done(answer):
                    answers.append(answer)
                    await self.lease.finish_entry(entry.position, State.DONE, answer)
                case Rejected(answer):
                    answers.append(answer)
                    await self.lease.finish_entry(entry.position, State.REJECTED, answer)
        if failed or dead:  # what can still go is tried first
            return [*dead, *failed][-1]
        return Done(stored.bundle("batch", answers, self.base))

    async def _entry(self, part: Interaction, entry: Entry) -> Result:
        try:
            return Done(await self._single(part, entry))
        except Unconfirmed:
            return Dead(UNCONFIRMED)
        except (FhirError, OutcomeUnknown) as error:
            return verdict(error, self.context.request_id, self.attempts)

    # The road ----------------------------------------------------------------------------------------------------------------

    async def _send(self, asked: Interaction) -> StoredAnswer:
        self.lease.check()
        answer = stored.from_answer(await self.road.handle(self.principal, asked, self.context))
        point("after-answer")
        return answer

    async def _found(self, asked: Interaction) -> Found | None:
        return await self.road.found(self.principal, asked, self.context)

    async def _read(self, type_: str, id_: str, version: str = "") -> EhrReply | None:
        asked = Interaction(Kind.VREAD if version else Kind.READ, type_, id_, version)
        return await self.road.stored(self.principal, asked, self.context)


def _check_absent(asked: Interaction, etag: str) -> None:
    """A sender's own `If-None-Match: *` is judged here: HAPI does not look at it on a PUT."""
    if "*" in asked.conditions.if_none_match and etag:
        raise PreconditionFailed("There is such a record already.", reason="exists")
