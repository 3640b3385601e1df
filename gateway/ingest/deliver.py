"""The worker: takes messages from the inbox in the order of their keys and delivers them, each under a lease.

`Worker.run` is the loop, `Worker._deliver` one message from lease to result. Several workers, in one process or on several machines, need
no other coordination than the store.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import socket
import time
from collections.abc import AsyncGenerator, Collection, Iterable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Protocol, cast

import structlog
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.adapters.ehr.base import Offers
from gateway.cache import keys
from gateway.errors import FhirError, Unavailable
from gateway.fhir.compartment import patients_of
from gateway.fhir.interaction import Interaction, Kind
from gateway.fhir.json import parse, serialize
from gateway.fhir.tables import Tables
from gateway.ingest import plan, trail
from gateway.ingest.attempt import Attempt, Dead, Done, Later, Rejected, Result, verdict
from gateway.ingest.hand import Road
from gateway.ingest.pauses import Pauses
from gateway.ingest.points import point
from gateway.ingest.signals import Signals
from gateway.ingest.stored import StoredAnswer, Vault, bundle, place
from gateway.proxy.answer import RequestContext
from gateway.seal import SealBroken, Seals
from gateway.smart.principal import Principal
from gateway.store import inbox
from gateway.store.base import Database, now
from gateway.store.group import Group
from gateway.store.inbox_rows import Claimed, Entry, Fenced, Message, State

log = structlog.get_logger("gateway.worker")

_RANDOM = secrets.SystemRandom()


class Judge(Road, Protocol):
    """The pipeline, as far as the worker knows it."""

    async def offers(self, ehr: str) -> Offers:
        """What the EHR takes from those who write. Raises UpstreamFault while it cannot be asked."""
        ...

    def admit(self, principal: Principal, interaction: Interaction) -> None:
        """Whether the sender's scopes allow every entry. Raises FhirError."""
        ...


class Generations(Protocol):
    """The cache, as far as the worker knows it."""

    def touching(self, names: Iterable[str]) -> AbstractAsyncContextManager[Any]:
        """Renews these generations before and after the block."""
        ...


class Senders(Protocol):
    """Who sent a message, as of now."""

    async def principal(self, message: Message) -> Principal:
        """Raises Forbidden."""
        ...


@dataclass(frozen=True, slots=True)
class Policy:
    """All times in seconds. `block`: what waits behind a dead message of its key is held; else it goes on."""

    concurrency: int = 8
    lease: float = 10.0  # renewed at each third; the time after which a killed worker's messages are taken over
    attempts: int = 12
    backoff: float = 0.5  # doubled for each attempt, with full jitter
    longest: float = 300.0
    settle: float = 5.0  # after a POST whose answer was lost, before it is looked for: it may still be on its way
    poll: float = 0.2
    drain: float = 20.0  # after SIGTERM (FAULT-P2)
    block: bool = True


@dataclass(frozen=True, slots=True)
class Parts:
    """What a worker is made of."""

    pipeline: Judge
    senders: Senders
    database: Database
    audit: trail.AuditTrail
    sealer: Seals
    cache: Generations
    tables: Tables
    signals: Signals
    public_url: str


class Worker:
    """Delivers until it is told to stop."""

    def __init__(self, parts: Parts, policy: Policy = Policy()) -> None:  # a frozen value
        self._parts = parts
        self._policy = policy
        self._vault = Vault(parts.sealer)
        self._group = Group(parts.database)
        self._pauses = Pauses()
        self._holder = f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(4)}"
        self._running: dict[int, _Job] = {}

    async def run(self, stop: asyncio.Event) -> None:
        """Until `stop` is set; then what is on its way is finished, or its lease given back, within `drain` seconds."""
        beat = asyncio.create_task(self._keep_leases())
        self._parts.signals.has_worker = True
        try:
            while not stop.is_set():
                try:
                    await self._take()
                except Unavailable:
                    log.warning("inbox not available")
                    await asyncio.sleep(1)
                await self._parts.signals.wait_for_work(self._policy.poll)
            await self._drain()
        finally:
            self._parts.signals.has_worker = False
            beat.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await beat

    async def drained(self) -> None:
        """Take and deliver until nothing is due: for tests and the command line."""
        while True:
            await self._take()
            if not self._running:
                return
            await asyncio.wait([job.task for job in self._running.values()])

    # Leases ----------------------------------------------------------------------------------------------------------------

    async def _take(self) -> None:
        while (free := self._policy.concurrency - len(self._running)) > 0:
            limit = 1 if self._pauses.is_probing_next else free
            until = time.monotonic() + self._policy.lease
            claimed = await self._claim(limit)
            for one in claimed:
                self._pauses.taken(one.message.ehr)
                lease = HeldLease(self._group, self._vault, one.message, until)
                task = asyncio.create_task(self._deliver(one, lease))
                self._running[one.message.seq] = _Job(one.message, lease, task)
                task.add_done_callback(lambda _, seq=one.message.seq: self._finished(seq))
            if len(claimed) < limit:
                return

    async def _claim(self, limit: int) -> tuple[Claimed, ...]:
        at = now()
        async with self._parts.database.write() as connection:
            claimed = await inbox.claim(
                connection,
                holder=self._holder,
                token=secrets.token_hex(16),
                now=at,
                until=at + timedelta(seconds=self._policy.lease),
                limit=limit,
                paused=self._pauses.paused(_clock()),
            )
        if claimed:
            point("after-claim")
        return claimed

    def _finished(self, seq: int) -> None:
        self._running.pop(seq, None)
        self._parts.signals.ring()

    async def _keep_leases(self) -> None:
        while True:
            await asyncio.sleep(self._policy.lease / 3)
            held = {seq: job.message.attempt_token for seq, job in self._running.items()}
            if not held:
                continue
            until = time.monotonic() + self._policy.lease
            try:
                async with self._parts.database.write() as connection:
                    kept = await inbox.renew(connection, held, now() + timedelta(seconds=self._policy.lease))
            except Unavailable:
                continue  # the next beat tries again; a lease that runs out is taken over and this worker's writes are fenced
            for seq in held:
                if (job := self._running.get(seq)) is None:
                    continue
                if seq in kept:
                    job.lease.renewed(until)
                else:
                    job.task.cancel()

    async def _drain(self) -> None:
        point("during-shutdown")
        if not self._running:
            return
        _, late = await asyncio.wait([job.task for job in self._running.values()], timeout=self._policy.drain)
        unfinished = [job.message for job in self._running.values() if job.task in late]
        for task in late:
            task.cancel()
        await asyncio.gather(*late, return_exceptions=True)
        for message in unfinished:
            with contextlib.suppress(Fenced, Unavailable):
                async with self._parts.database.write() as connection:
                    await inbox.again(connection, message, at=now(), counts=False)

    # One message -------------------------------------------------------------------------------------------------------------

    async def _deliver(self, claimed: Claimed, lease: HeldLease) -> None:
        message = claimed.message
        try:
            result = await self._result(claimed, lease)
        except Fenced:
            self._pauses.abandoned(message.ehr)
            log.warning("lease lost", message_id=message.id, attempt=message.attempts)
            return
        except SealBroken:
            result = Later("seal-broken")
        except asyncio.CancelledError:
            self._pauses.abandoned(message.ehr)
            raise
        except Exception:  # one message's surprise must not end the worker, nor the message: it is tried again and dies visibly
            log.exception("unexpected", message_id=message.id, request_id=message.request_id)
            result = Later("unexpected")
        try:
            await self._settle(message, result)
        except (Fenced, Unavailable):
            log.warning("result not recorded", message_id=message.id, attempt=message.attempts)  # the lease runs out and the next one looks

    async def _result(self, claimed: Claimed, lease: HeldLease) -> Result:
        message = claimed.message
        context = RequestContext(message.request_id, via="worker", message_id=message.id, until=lambda: lease.until)
        try:
            asked = self._vault.request(message.id, claimed.request).parse((self._base(message.ehr),))
            principal = await self._parts.senders.principal(message)
            self._parts.pipeline.admit(principal, asked)
            if message.mode == "notify":
                return await self._notify(message, asked)
            offers = await self._parts.pipeline.offers(message.ehr)
            plan.check_offered(asked, offers)
        except FhirError as error:
            return verdict(error, message.request_id, message.attempts)
        base = self._base(message.ehr)
        return await Attempt(self._parts.pipeline, lease, principal, asked, claimed.entries, context, base, message.attempts, offers).run()

    async def _notify(self, message: Message, asked: Interaction) -> Result:
        """The EHR of record has told that it changed something: nothing is written, but nobody reads the old answer any more."""
        parts = plan.parts(asked)
        async with self._parts.cache.touching(_touched(message.ehr, parts, self._parts.tables)):
            pass
        if asked.kind in (Kind.TRANSACTION, Kind.BATCH):
            return Done(bundle(str(asked.kind), [StoredAnswer(200) for _ in parts], self._base(message.ehr)))
        return Done(StoredAnswer(200, body=_NOTED))

    async def _settle(self, message: Message, result: Result) -> None:
        match result:
            case Done(answer):
                self._pauses.succeeded(message.ehr)
                await self._finish(message, State.DONE, answer)
            case Rejected(answer, error):
                self._pauses.succeeded(message.ehr)
                await self._finish(message, State.REJECTED, answer, error)
            case Dead(error):
                self._pauses.failed(message.ehr, _clock())
                await self._finish(message, State.DEAD, None, error)
            case Later():
                self._note(message, result)
                if result.counts and message.attempts >= self._policy.attempts:
                    await self._finish(message, State.DEAD, None, result.error)
                else:
                    await self._again(message, result)

    def _note(self, message: Message, later: Later) -> None:
        if not later.strained:
            self._pauses.abandoned(message.ehr)
        elif self._pauses.failed(message.ehr, _clock(), retry_after=later.after):
            log.warning("EHR paused", ehr=message.ehr, reason_id=later.error)

    async def _finish(self, message: Message, state: State, answer: StoredAnswer | None, error: str = "") -> None:
        sealed = self._vault.close(message.id, answer) if answer else None
        status = answer.status if answer else 503

        async def store(connection: AsyncConnection) -> None:
            await inbox.finish(connection, message, state, at=now(), answer=sealed, error=error, block=self._policy.block)
            await self._parts.audit.record_in(connection, trail.moved(message, state, status=status, reason=error, place=place(answer)))

        await self._group.write(store)
        self._parts.signals.finished(message.id)
        if state is not State.DONE:
            log.warning("message not delivered", state=str(state), message_id=message.id, reason_id=error, attempt=message.attempts)

    async def _again(self, message: Message, later: Later) -> None:
        delay = later.after if later.after is not None else self._backoff(message.attempts)
        delay = max(delay, self._policy.settle if later.settling else 0.0)

        async def store(connection: AsyncConnection) -> None:
            await inbox.again(connection, message, at=now() + timedelta(seconds=delay), error=later.error, counts=later.counts)
            await self._parts.audit.record_in(connection, trail.moved(message, "retry", status=503, reason=later.error))

        await self._group.write(store)

    def _backoff(self, attempts: int) -> float:
        """Full jitter: many messages that failed together do not come back together."""
        return _RANDOM.uniform(0, min(self._policy.longest, self._policy.backoff * 2 ** min(attempts, 20)))

    def _base(self, ehr: str) -> str:
        return f"{self._parts.public_url}/fhir/{ehr}"


class HeldLease:
    """A lease in the store. `until`: when it runs out by this process's monotonic clock, counted from before it was taken or renewed."""

    def __init__(self, group: Group, vault: Vault, message: Message, until: float) -> None:
        self._group = group
        self._vault = vault
        self._message = message
        self.until = until
        self._ending: asyncio.Timeout | None = None

    def renewed(self, until: float) -> None:
        """It runs until then."""
        self.until = until
        if self._ending:
            self._ending.reschedule(self._end)

    @contextlib.asynccontextmanager
    async def held(self) -> AsyncGenerator[None]:
        """Raises Fenced when the lease is over, or as soon as it is."""
        self._ending = ending = asyncio.timeout_at(self._end)
        try:
            async with ending:
                if time.monotonic() > self.until:
                    raise Fenced
                yield
        except TimeoutError as error:
            if not ending.expired():
                raise
            raise Fenced from error
        finally:
            self._ending = None

    @property
    def _end(self) -> float:
        """In the loop's own time."""
        return _clock() + self.until - time.monotonic()

    async def sending(self, seen: Mapping[int, str | None]) -> None:
        """Raises Fenced."""
        await self._group.write(lambda connection: inbox.sending(connection, self._message, seen))

    async def unsent(self, positions: Collection[int]) -> None:
        """Raises Fenced."""
        await self._group.write(lambda connection: inbox.unsent(connection, self._message, positions))

    async def give_up_ids(self, positions: Collection[int]) -> None:
        """Raises Fenced."""
        await self._group.write(lambda connection: inbox.give_up_ids(connection, self._message, positions))

    async def finish_entry(self, position: int, state: State, answer: StoredAnswer) -> None:
        """Raises Fenced."""
        sealed = self._vault.close(f"{self._message.id}:{position}", answer)
        await self._group.write(lambda connection: inbox.finish_entry(connection, self._message, position, state, sealed))

    def entry_answer(self, entry: Entry) -> StoredAnswer:
        """The answer of an entry that is through."""
        return self._vault.answer(f"{self._message.id}:{entry.position}", entry.answer or b"")


@dataclass(frozen=True, slots=True)
class _Job:
    """A message that is being delivered."""

    message: Message
    lease: HeldLease
    task: asyncio.Task[None]


def _touched(ehr: str, parts: Iterable[Interaction], tables: Tables) -> tuple[str, ...]:
    """The generations that a change at the EHR ends. Whose data an old version was is not known: an update ends all (`cache.keys`)."""
    patients: set[str] = set()
    types: set[str] = set()
    for part in parts:
        row = tables.compartment.get(part.type)
        # The EHR that tells may name its patients absolutely, by an address that we do not know: one too many is ended rather than one too few.
        found = patients_of(cast("Mapping[str, Any]", parse(part.body)), row, _tail) if row else frozenset[str]()
        if part.kind is Kind.UPDATE or (not found and (row is None or row.kind != "shared")):
            return keys.names(ehr, None, ())
        patients.update(found)
        types.add(part.type)
    return keys.names(ehr, sorted(patients), sorted(types))


def _tail(url: str) -> str:
    """`Patient/p1` of an absolute URL, whatever its base."""
    return "/".join(url.partition("/_history/")[0].split("/")[-2:])


def _clock() -> float:
    return asyncio.get_running_loop().time()


_NOTED = serialize(
    {
        "resourceType": "OperationOutcome",
        "issue": [{"severity": "information", "code": "informational", "details": {"text": "Noted. Nothing is written back."}}],
    }
)
