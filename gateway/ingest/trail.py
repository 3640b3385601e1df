"""The audit records of the inbox: what came, and each state that it reached. Never a body, a token or an identity that the sender chose."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Protocol

from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.audit import AuditRecord, new_id
from gateway.errors import FhirError
from gateway.fhir.interaction import Interaction
from gateway.proxy.answer import RequestContext
from gateway.smart.principal import Principal
from gateway.store.inbox_rows import Message, NewMessage

_MOST = 200
"""Patients on one record."""


class AuditTrail(Protocol):
    """Where records go: with the row that they speak of, or by themselves. Both raise Unavailable."""

    async def record_in(self, connection: AsyncConnection, record: AuditRecord) -> None:
        """In the caller's transaction: no state without its record."""
        ...

    def append(self, record: AuditRecord) -> None:
        """Where it survives SIGKILL."""
        ...


def received(new: NewMessage, patients: tuple[str, ...], address: str) -> AuditRecord:
    """A message was stored."""
    return AuditRecord(
        id=new_id(),
        recorded=datetime.now(UTC),
        request_id=new.request_id,
        ehr=new.ehr,
        action="push",
        outcome="0",
        status=202,
        principal="system",
        client_id=new.client_id,
        client_name=new.client_name,
        patients=patients[:_MOST],
        type=new.type,
        target=f"{new.type}/{new.target}" if new.target else "",
        address=address,
        message_id=new.id,
        detail=f"{new.kind} sha256 {new.sha256}",
    )


def looked_up(principal: Principal, message_id: str, context: RequestContext, *, action: str, status: int) -> AuditRecord:
    """A sender asked what became of a message, or sent it again."""
    return AuditRecord(
        id=new_id(),
        recorded=datetime.now(UTC),
        request_id=context.request_id,
        ehr=principal.ehr,
        action=action,
        outcome="0" if status < 400 else "4",
        status=status,
        principal=principal.kind.value,
        client_id=principal.client_id,
        client_name=principal.client_name,
        address=context.address,
        message_id=message_id,
    )


def refused(principal: Principal, interaction: Interaction, context: RequestContext, error: FhirError) -> AuditRecord:
    """A push that left no row."""
    return AuditRecord(
        id=new_id(),
        recorded=datetime.now(UTC),
        request_id=context.request_id,
        ehr=principal.ehr,
        action="push",
        outcome="8" if error.status >= 500 else "4",
        status=error.status,
        reason=error.reason,
        principal=principal.kind.value,
        client_id=principal.client_id,
        client_name=principal.client_name,
        type=interaction.type,
        address=context.address,
    )


def moved(message: Message, state: str, *, status: int, reason: str = "", place: str = "") -> AuditRecord:
    """A message changed its state. `place` is the `Type/id` where it is now, if it is known."""
    return AuditRecord(
        id=new_id(),
        recorded=datetime.now(UTC),
        request_id=message.request_id,
        ehr=message.ehr,
        action=f"push-{state}",
        outcome="0" if status < 400 else ("8" if status >= 500 else "4"),
        status=status,
        reason=reason,
        principal="system",
        client_id=message.client_id,
        client_name=message.client_name,
        type=message.type,
        target=place or (f"{message.type}/{message.target}" if message.target else ""),
        message_id=message.id,
        detail=f"attempt {message.attempts}",
    )
