"""Receive a push: `Inbox.receive` shows the order of the door. A 5xx always means "not stored"; after the commit there is none.

A repeat is recognised by an explicit identity only, within one sender: the header `Idempotency-Key`, else `Bundle.identifier`, else the id of
the MessageHeader that a Bundle begins with. The same request under the same identity gives the first result. Another request under the same
identity is processed too and flagged (FAULT-S2): refusing it could lose a correction, taking it for the first certainly would.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, cast

import msgspec
import structlog
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.adapters.ehr.base import Offers
from gateway.audit import AuditRecord
from gateway.errors import BadRequest, FhirError, Forbidden, NotFound, Unavailable, UpstreamFault
from gateway.fhir.interaction import Interaction, Kind
from gateway.fhir.json import parse, without_bom
from gateway.fhir.tables import Tables
from gateway.ingest import order, plan, status, stored, trail
from gateway.ingest.points import point
from gateway.ingest.signals import Signals
from gateway.ingest.stored import Headers, StoredAnswer, Vault
from gateway.proxy.answer import Answer, RequestContext
from gateway.seal import Seals
from gateway.smart.principal import Principal
from gateway.store import inbox
from gateway.store.base import Database, now
from gateway.store.group import Group
from gateway.store.inbox_rows import FINAL, Added, Entry, Message, NewMessage, State
from gateway.store.oauth_rows import new_secret

log = structlog.get_logger("gateway.inbox")

MAX_IDENTITY = 255
_LARGE = 256 * 1024
"""Bytes of a body from which on it is worked on beside the event loop: other senders do not wait for it."""
PATIENCE = 1.0
"""Seconds that a push waits for the gateway to learn what the EHR offers; then it is stored, and the worker finds out."""


class Judge(Protocol):
    """The pipeline's part at the door."""

    def admit(self, principal: Principal, interaction: Interaction) -> None:
        """Whether the sender's scopes allow every entry. Raises FhirError."""
        ...

    async def offers(self, ehr: str, *, patience: float | None = None) -> Offers:
        """What the EHR takes from those who write. Raises UpstreamFault while that cannot be found out."""
        ...


@dataclass(frozen=True, slots=True)
class Door:
    """`push_wait`: seconds that a sender waits for its result before it gets 202."""

    public_url: str
    push_wait: float = 10.0
    poll: float = 0.2


class Inbox:
    """Where writes of systems go: durable before they are acknowledged. `signals` is shared with a worker of this process, if there is one."""

    def __init__(
        self,
        judge: Judge,
        database: Database,
        audit: trail.AuditTrail,
        sealer: Seals,
        tables: Tables,
        signals: Signals,
        door: Door,
    ) -> None:
        self._judge = judge
        self._database = database
        self._group = Group(database)
        self._audit = audit
        self._vault = Vault(sealer)
        self._tables = tables
        self._signals = signals
        self._door = door

    async def receive(self, principal: Principal, interaction: Interaction, headers: Headers, body: bytes, context: RequestContext) -> Answer:
        """Judge, commit, then the result or a status URL. Raises FhirError, on record, when nothing was stored."""
        try:
            self._judge.admit(principal, interaction)
            plan.refuse_duplicates(interaction)
            mode = _registered(principal)
            offers = await self._offers(principal.ehr) if mode == "deliver" else None
            if offers:
                plan.check_offered(interaction, offers)
            entries = plan.entries(interaction, offers)
            added = await self._commit(principal, interaction, headers, body, context, mode, entries)
        except FhirError as error:
            self._audit.append(trail.refused(principal, interaction, context, error))
            raise
        point("after-commit")
        self._signals.ring()
        return await self._answer(added, context, 0.0 if interaction.prefer.respond_async else self._door.push_wait)

    async def _offers(self, ehr: str) -> Offers | None:
        """None: not known now, and no reason to refuse a push."""
        try:
            return await self._judge.offers(ehr, patience=PATIENCE)
        except UpstreamFault:
            return None

    async def status(self, principal: Principal, token: str, context: RequestContext) -> Answer:
        """What became of a message: of the sender's own only."""
        async with self._database.read() as connection:
            message = await inbox.get(connection, token)
            sealed = await inbox.answer(connection, message.seq) if message else None
        if message is None or message.subject != principal.subject:
            self._audit.append(trail.looked_up(principal, "", context, action="push-status", status=404))
            raise NotFound("There is no such message.", reason="message-unknown")
        self._audit.append(trail.looked_up(principal, message.id, context, action="push-status", status=200))
        if not message.is_final:
            return status.progress(message)
        return status.complete(message, self._vault.answer(message.id, sealed) if sealed else None, message.request_id)

    # The commit ------------------------------------------------------------------------------------------------------------

    async def _commit(
        self,
        principal: Principal,
        interaction: Interaction,
        headers: Headers,
        body: bytes,
        context: RequestContext,
        mode: str,
        entries: tuple[Entry, ...],
    ) -> Added:
        prepare = partial(self._prepared, principal, interaction, headers, body, context, mode, entries)
        new, keys, record = await asyncio.to_thread(prepare) if len(body) > _LARGE else prepare()

        async def store(connection: AsyncConnection) -> Added:
            added = await inbox.add(connection, new, entries, keys)
            repeat = trail.looked_up(principal, added.message.id, context, action="push-repeat", status=200)
            await self._audit.record_in(connection, record if added.first else repeat)
            point("before-commit")
            return added

        try:
            return await self._group.write(store)
        except Unavailable:
            return await self._stored_after_all(new.id)

    def _prepared(
        self,
        principal: Principal,
        interaction: Interaction,
        headers: Headers,
        body: bytes,
        context: RequestContext,
        mode: str,
        entries: tuple[Entry, ...],
    ) -> tuple[NewMessage, frozenset[str], AuditRecord]:
        """All that is made of the body: the row, its keys, its record. Each resource is parsed here, once; the time grows with the body."""
        parts = plan.parts(interaction)
        resources = [cast("Mapping[str, Any]", parse(part.body)) for part in parts]
        identity = _identity(principal, interaction, headers, body, resources)
        new = self._row(principal, interaction, headers, body, context, mode, entries, identity)
        keys = order.keys(principal.client_id, principal.ehr, list(zip(parts, entries, resources, strict=True)))
        return new, keys, trail.received(new, order.patients(resources, self._tables), context.address)

    async def _stored_after_all(self, id_: str) -> Added:
        """A connection may break after the commit and before its answer (FAULT-D4): 503 only when the row is not there."""
        async with self._database.read() as connection:
            message = await inbox.get(connection, id_)
        if message is None:
            raise Unavailable(reason="store-down", retry_after=2)
        return Added(message, first=True)

    def _row(
        self,
        principal: Principal,
        interaction: Interaction,
        headers: Headers,
        body: bytes,
        context: RequestContext,
        mode: str,
        entries: tuple[Entry, ...],
        identity: str,
    ) -> NewMessage:
        id_ = new_secret()
        kept = stored.request_of(interaction, headers, body)
        is_bundle = interaction.kind in (Kind.TRANSACTION, Kind.BATCH)
        sha256 = hashlib.sha256(body).hexdigest()
        return NewMessage(
            id=id_,
            ehr=principal.ehr,
            client_id=principal.client_id,
            client_name=principal.client_name,
            subject=principal.subject,
            scopes=" ".join(str(scope) for scope in principal.scopes),
            mode=mode,
            kind=str(interaction.kind),
            type="Bundle" if is_bundle else interaction.type,
            target="" if is_bundle else entries[0].target,
            sha256=sha256,
            size=len(body),
            request=self._vault.close(id_, kept),
            request_id=context.request_id,
            received_at=now(),
            identity=identity,
            repeat_key=_repeat_key(identity, kept, sha256) if identity else None,
        )

    # The answer ------------------------------------------------------------------------------------------------------------

    async def _answer(self, added: Added, context: RequestContext, wait: float) -> Answer:
        """Whatever fails from here on, the message is stored: the worst answer is 202."""
        base = f"{self._door.public_url}/fhir/{added.message.ehr}"
        if added.first and not wait:
            return status.accepted(added.message, base)
        try:
            found = await self._result(added.message, wait)
        except Exception:  # the message is stored, and a 5xx would say that it is not
            log.exception("no result after the commit", message_id=added.message.id, request_id=context.request_id)
            return status.accepted(added.message, base)
        return status.result(added.message, found, repeat=not added.first) if found else status.accepted(added.message, base)

    async def _result(self, message: Message, wait: float) -> StoredAnswer | None:
        """The stored answer as soon as there is one; None when time is out, or nothing could be delivered."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + wait
        # A worker of this process rings; the store is only asked now and then whether another one was faster.
        pause = self._door.poll * (5 if self._signals.has_worker else 1)
        with self._signals.waiting(message.id) as finished:
            while True:
                async with self._database.read() as connection:
                    state, sealed = await inbox.result(connection, message.id)
                if state in FINAL:
                    return self._vault.answer(message.id, sealed) if sealed and state != State.DEAD else None
                left = deadline - loop.time()
                if left <= 0:
                    return None
                await _until(finished, min(left, pause))


async def _until(event: asyncio.Event, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return


def _registered(principal: Principal) -> str:
    """How the sender was registered: `deliver` or `notify`. Raises Forbidden for one that may not push here."""
    push = principal.push
    if push is None or push.mode not in ("deliver", "notify"):
        raise Forbidden("This client is not registered to push.", reason="push-not-registered")
    if push.mode == "deliver" and push.ehr != principal.ehr:
        raise Forbidden("This client delivers to another record system.", reason="push-other-ehr")
    if push.mode == "deliver" and push.source_ehr == push.ehr:
        raise Forbidden("This client would deliver into the record system that it speaks for.", reason="push-into-itself")
    return push.mode


# Identity ----------------------------------------------------------------------------------------------------------------


def _identity(principal: Principal, interaction: Interaction, headers: Headers, body: bytes, resources: Sequence[Mapping[str, Any]]) -> str:
    """A digest of sender and explicit identity, or ""."""
    named = _key_header(headers) or _of_bundle(interaction, body, resources)
    return order.digest(principal.client_id, principal.ehr, *named) if named else ""


def _key_header(headers: Headers) -> tuple[str, ...]:
    for name, value in headers:
        if name == b"idempotency-key" and value.strip():
            if len(value) > MAX_IDENTITY:
                raise BadRequest(f"An Idempotency-Key has at most {MAX_IDENTITY} characters.", reason="idempotency-key")
            return ("idempotency-key", value.strip().decode("latin-1"))
    return ()


class _Named(msgspec.Struct):
    """A Bundle, of which nothing but its identifier is made into values."""

    identifier: msgspec.Raw = msgspec.Raw()


def _of_bundle(interaction: Interaction, body: bytes, resources: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    if interaction.kind not in (Kind.TRANSACTION, Kind.BATCH):
        return ()
    raw = bytes(msgspec.json.decode(without_bom(body), type=_Named).identifier)
    identifier = parse(raw) if raw else None
    if isinstance(identifier, dict):
        members = cast("dict[str, Any]", identifier)
        if isinstance(members.get("value"), str):
            return ("bundle", str(members.get("system", "")), members["value"])
    if resources and interaction.entries[0].type == "MessageHeader" and isinstance(resources[0].get("id"), str):
        return ("message", resources[0]["id"])
    return ()


def _repeat_key(identity: str, kept: stored.StoredRequest, sha256: str) -> str:
    """The identity with the whole request: only the same request under the same identity is a repeat."""
    conditions = sorted(value.decode("latin-1") for name, value in kept.headers if name in (b"if-match", b"if-none-exist"))
    return order.digest(identity, kept.method, kept.path, *conditions, sha256)
