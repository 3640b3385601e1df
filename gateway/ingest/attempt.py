"""One attempt to deliver one message under a lease, so that it may be repeated (promise 3).

A create goes as a PUT to an id that was fixed on receipt; any attempt after the first looks first: if the id exists in any version, it was
delivered, whatever became of it since. An update goes with If-Match of the version that was read, and committed, before the first attempt; when
that does not hold on a later attempt, the version after it tells whether it is ours (delivered) or another's (ours was never done, so it may be
tried again). A transaction does the same for all its entries at once: all of it happened or nothing. The entries of a batch are delivered one
by one, and those that are through are not sent again.

Where the EHR takes no ids of clients, a create stays the POST that it is, and is found again by its identifier (`posted`).
"""

from __future__ import annotations

from dataclasses import dataclass

from gateway.adapters.ehr.base import Offers, OutcomeUnknown
from gateway.errors import Conflict, FhirError, Throttled, Unavailable, UpstreamFault
from gateway.fhir.interaction import Interaction, Kind
from gateway.ingest import stored
from gateway.ingest.hand import Hand, Lease, Road
from gateway.ingest.posted import MayArrive, Unconfirmed
from gateway.ingest.single import Single
from gateway.ingest.stored import StoredAnswer
from gateway.ingest.transaction import Transaction
from gateway.proxy.answer import RequestContext
from gateway.smart.principal import Principal
from gateway.store.inbox_rows import UNCONFIRMED, Entry, State

CONFLICTS = 3
"""Attempts after which an EHR's 409 is taken as its last word: most are two writers at the same moment."""

AWAY = frozenset({"ehr-down", "ehr-unreachable"})
"""The EHR is not there for anybody: nothing was sent, and no message dies of that (FAULT-U1)."""
DISTRUST = frozenset({"login", "security"})
"""The EHR does not take the gateway's own sign-in, or shows a wrong certificate: the operator's trouble, not the message's (FAULT-U20, U21)."""


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


@dataclass(frozen=True, slots=True)
class Attempt:
    """`asked` is the message as the parser understands it now; `base` is the gateway's FHIR base; `attempts` counts this one.

    `offers` is what the EHR takes from those who write.
    """

    road: Road
    lease: Lease
    principal: Principal
    asked: Interaction
    entries: tuple[Entry, ...]
    context: RequestContext
    base: str
    attempts: int
    offers: Offers

    async def run(self) -> Result:
        """Deliver. Raises Fenced."""
        try:
            match self.asked.kind:
                case Kind.TRANSACTION:
                    return Done(await Transaction(self._hand, self.asked, self.entries).deliver())
                case Kind.BATCH:
                    return await self._batch()
                case _:
                    return Done(await Single(self._hand, self.asked, self.entries[0]).deliver())
        except Unconfirmed:
            return Dead(UNCONFIRMED)
        except (FhirError, OutcomeUnknown) as error:
            return verdict(error, self.context.request_id, self.attempts)

    @property
    def _hand(self) -> Hand:
        return Hand(self.road, self.lease, self.principal, self.context, self.base, self.attempts, self.offers)

    # Batch -------------------------------------------------------------------------------------------------------------------

    async def _batch(self) -> Result:
        answers: list[StoredAnswer] = []
        failed: list[Later] = []
        dead: list[Dead] = []
        for part, entry in zip(self.asked.entries, self.entries, strict=True):
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
            return Done(await Single(self._hand, part, entry).deliver())
        except Unconfirmed:
            return Dead(UNCONFIRMED)
        except (FhirError, OutcomeUnknown) as error:
            return verdict(error, self.context.request_id, self.attempts)
