"""One record for each access and each state change: the value, and where it goes.

The store implements `AuditSink`. A read's record reaches an append-only segment before the first byte of the answer leaves; a
write's record is committed with the write (docs/flow.md). `to_fhir` gives the AuditEvent that the patient and her apps read.
"""

from __future__ import annotations

import base64
import re
import secrets
import time
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol


def new_id() -> str:
    """An id for a record or a request: 32 hex digits, of which the first half is the time.

    Rows whose ids grow go to one end of each index; at random places they cost the more the longer the record is (measured: at 30,000 rows
    twice as much as in an empty table). The other half, 64 random bits, keeps apart what happens at one moment.
    """
    return f"{time.time_ns():016x}{secrets.token_hex(8)}"


@dataclass(frozen=True, slots=True)
class AuditRecord:
    """Who did what to whose data, when, through which client, and how it ended. Never a body, never a token."""

    id: str  # as `new_id` makes it
    recorded: datetime  # aware, UTC
    request_id: str
    ehr: str
    action: str  # FHIR restful-interaction code ("read", "search-type", "create", ...) or an event of ours ("login", "grant", "revoke", "push")
    outcome: str  # "0" success, "4" refused, "8" failed (AuditEvent.outcome)
    status: int  # the HTTP status that the caller got
    reason: str = ""  # reason id of a refusal
    principal: str = ""  # kind of principal: patient, user, system, portal, anonymous
    client_id: str = ""
    client_name: str = ""
    fhir_user: str = ""  # "Practitioner/7"
    user_id: str = ""  # the gateway's account id
    patients: tuple[str, ...] = ()  # whose data; one AuditEvent is made for each
    type: str = ""  # resource type asked for
    target: str = ""  # "Observation/o1" when one resource was named
    query: str = ""  # the canonical search, as narrowed
    address: str = ""  # network address of the caller
    resources: int = 0  # resources that left
    cached: bool = False
    message_id: str = ""  # inbox row
    detail: str = ""


class AuditSink(Protocol):
    """Where records go."""

    def append(self, record: AuditRecord) -> None:
        """Put a read's record where it survives SIGKILL. Raises Unavailable when it cannot: then nothing may be answered."""
        ...

    async def commit(self, record: AuditRecord) -> None:
        """Put a state change's record into the store, durably, before the answer. Raises Unavailable when it cannot."""
        ...


_ACTIONS = {"read": "R", "vread": "R", "search-type": "E", "create": "C", "update": "U", "patch": "U", "delete": "D", "history-instance": "R"}
_PATIENT = re.compile(r"\bPatient/([A-Za-z0-9.\-]+)", re.ASCII)
_REST = frozenset({"read", "vread", "search-type", "create", "update", "patch", "delete", "history-instance", "transaction", "batch", "capabilities"})


def to_fhir(record: AuditRecord, patient: str, *, observer: str) -> dict[str, Any]:
    """The AuditEvent about one patient's data (R4 AuditEvent; profile of profiles/fhir). Values are plain JSON."""
    event: dict[str, Any] = {
        "resourceType": "AuditEvent",
        "id": f"{record.id}",
        "type": {"system": "http://terminology.hl7.org/CodeSystem/audit-event-type", "code": "rest"},
        "subtype": [_subtype(record)],
        "action": _ACTIONS.get(record.action, "E"),
        "recorded": record.recorded.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "outcome": record.outcome,
        "agent": [_agent(record)],
        "source": {"observer": {"display": observer}},
        "entity": _entities(record, patient),
    }
    if record.reason:  # what was simulated in a trial of the launcher is no real refusal
        event["outcomeDesc"] = f"{record.reason} ({record.detail})" if record.detail.startswith("simulated: ") else record.reason
    return event


def _subtype(record: AuditRecord) -> dict[str, Any]:
    system = "http://hl7.org/fhir/restful-interaction" if record.action in _REST else "urn:fhir-portal-gateway:event"
    return {"system": system, "code": record.action}


def _agent(record: AuditRecord) -> dict[str, Any]:
    """Who asked, with what, from where."""
    agent: dict[str, Any] = {"requestor": True}
    if record.fhir_user:
        agent["who"] = {"reference": record.fhir_user}
    else:
        agent["who"] = {"identifier": {"system": "urn:fhir-portal-gateway:client", "value": record.client_id or "anonymous"}}
    if record.client_name or record.client_id:
        agent["name"] = record.client_name or record.client_id
    if record.address:
        agent["network"] = {"address": record.address, "type": "2"}
    return agent


def _entities(record: AuditRecord, patient: str) -> list[dict[str, Any]]:
    """Whose data, and which: a resource, a search as far as it may be told to her, or a type."""
    told = _is_about_her_alone(record, patient)
    entities: list[dict[str, Any]] = [{"what": {"reference": f"Patient/{patient}"}, "role": _role("1")}]
    if record.target and record.target != f"Patient/{patient}":
        entities.append({"what": {"reference": record.target}})
    elif not record.target and record.type and not told:
        entities.append({"what": {"type": record.type}})
    if told:
        entities.append({"query": base64.b64encode(f"{record.type}?{record.query}".encode()).decode(), "role": _role("24")})
    return entities


def _role(code: str) -> dict[str, str]:
    return {"system": "http://terminology.hl7.org/CodeSystem/object-role", "code": code}


def _is_about_her_alone(record: AuditRecord, patient: str) -> bool:
    """Whether the search may be told to her: one that was bound to her, and names no other patient (promise 1)."""
    if record.patients != (patient,):
        return False
    if record.type != "Patient":
        return set(_PATIENT.findall(record.query)) == {patient}
    return f"_id={patient}" in record.query.split("&")
