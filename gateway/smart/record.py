"""What goes on record of a request: who sent it, about whom it was, and what became of it. For the server and for the client of an EHR."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.audit import AuditRecord
from gateway.store.oauth_rows import Account, Client, new_id

RecordIn = Callable[[AsyncConnection, AuditRecord], Awaitable[None]]
"""Writes an audit record in the caller's transaction."""


@dataclass(frozen=True, slots=True)
class Caller:
    """What the edge knows about an HTTP request, for the audit record."""

    request_id: str = ""
    address: str = ""
    method: str = ""  # of HTTP


@dataclass(frozen=True, slots=True)
class Event:
    """What is common to the audit records of one request here."""

    ehr: str
    caller: Caller
    now: datetime
    client: Client | None = None
    account: Account | None = None
    client_id: str = ""

    def record(self, action: str, status: int, *, reason: str = "", patient: str = "", detail: str = "") -> AuditRecord:
        """One record of it."""
        account, client = self.account, self.client
        return AuditRecord(
            id=new_id(),
            recorded=self.now,
            request_id=self.caller.request_id,
            ehr=self.ehr,
            action=action,
            outcome="0" if status < 400 else "4" if status < 500 else "8",  # HTTP: refusals begin there, failures of ours there
            status=status,
            reason=reason,
            principal=_kind(account) if account else ("system" if client and not client.redirect_uris else "anonymous"),
            client_id=client.id if client else self.client_id,
            client_name=client.name if client else "",
            fhir_user=account.fhir_user if account else "",
            user_id=account.id if account else "",
            patients=(patient,) if patient else (),
            address=self.caller.address,
            detail=detail,
        )


def _kind(account: Account) -> str:
    return "user" if account.is_practitioner else "patient"
