"""The audit records of what went through the pipeline. Pure but for the clock and the id. Never a body, never a token."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from gateway.audit import AuditRecord, new_id
from gateway.errors import FhirError
from gateway.fhir.interaction import Interaction
from gateway.fhir.search import canonical
from gateway.proxy.answer import RequestContext
from gateway.proxy.fetched import Fetched
from gateway.proxy.narrow import Narrowed
from gateway.smart.principal import Principal
from gateway.smart.server.faults import said

_MOST = 200
"""Patients on one record; a search over everyone's data that found more is on record without naming each."""


def read(principal: Principal, asked: Interaction, narrowed: Narrowed, fetched: Fetched, context: RequestContext, *, cached: bool) -> AuditRecord:
    """Somebody saw something: whose data was asked for, and whose was found."""
    patients = set(fetched.patients) | (set(narrowed.patients or ()) if asked.id == "" else set[str]())
    return _record(
        principal,
        asked,
        context,
        status=200,
        outcome="0",
        patients=tuple(sorted(patients)[:_MOST]),
        query=canonical(narrowed.interaction.params) if narrowed.interaction else canonical(asked.params),
        resources=len(fetched.entries) or int(bool(fetched.body)),
        cached=cached,
    )


def wrote(principal: Principal, asked: Interaction, context: RequestContext, status: int, patients: tuple[str, ...]) -> AuditRecord:
    """Somebody changed something."""
    return _record(principal, asked, context, status=status, outcome="0", patients=patients, resources=max(1, len(asked.entries)))


def looked(principal: Principal, asked: Interaction, context: RequestContext, status: int) -> AuditRecord:
    """The worker looked at what stands there before it writes."""
    return _record(principal, asked, context, status=status, outcome="0", detail="look")


def refused(principal: Principal, asked: Interaction, context: RequestContext, error: FhirError) -> AuditRecord:
    """Somebody was refused, or the EHR failed. It is on the record of the patient whose context it was, never of one who was only named."""
    outcome = "8" if error.status >= 500 else "4"
    patients = (principal.patient,) if principal.patient else ()
    detail = said(error.simulated)
    return _record(principal, asked, context, status=error.status, outcome=outcome, patients=patients, reason=error.reason, detail=detail)


def unconfirmed(principal: Principal, asked: Interaction, context: RequestContext, reason: str) -> AuditRecord:
    """A write was sent, and whether it took effect is not known."""
    patients = (principal.patient,) if principal.patient else ()
    return _record(principal, asked, context, status=504, outcome="8", patients=patients, reason=reason)


def anonymous(ehr: str, context: RequestContext, error: FhirError) -> AuditRecord:
    """A request without a token that counts."""
    return AuditRecord(
        id=new_id(),
        recorded=datetime.now(UTC),
        request_id=context.request_id,
        ehr=ehr,
        action="login",
        outcome="4",
        status=error.status,
        reason=error.reason,
        principal="anonymous",
        address=context.address,
        detail=said(error.simulated),
    )


def _record(principal: Principal, asked: Interaction, context: RequestContext, **more: Any) -> AuditRecord:
    more.setdefault("detail", said(context.simulated))
    return AuditRecord(
        id=new_id(),
        recorded=datetime.now(UTC),
        request_id=context.request_id,
        ehr=principal.ehr,
        action=asked.kind.value,
        principal=f"portal-{principal.kind}" if context.via == "portal" else principal.kind.value,
        client_id=principal.client_id,
        client_name=principal.client_name,
        fhir_user=principal.fhir_user,
        user_id=principal.user_id,
        type=asked.type,
        target=asked.target,
        address=context.address,
        message_id=context.message_id,
        **more,
    )
