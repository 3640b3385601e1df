"""Who looked at this record: the gateway's own audit records as AuditEvents, in place of the EHR's."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from datetime import datetime
from typing import Protocol

from gateway.audit import AuditRecord, to_fhir
from gateway.errors import BadRequest
from gateway.fhir.interaction import Interaction
from gateway.proxy.fetched import Entry, Fetched
from gateway.proxy.narrow import MAX_COUNT, Narrowed

_DEFAULT = 50


class Records(Protocol):
    """Where the audit records are."""

    async def of_patient(self, ehr: str, patient: str, *, limit: int = 50, before: datetime | None = None) -> Sequence[AuditRecord]:
        """Newest first."""
        ...


class AccessLog:
    """Reads the records of one patient. `observer` names this gateway in each event."""

    def __init__(self, records: Records, *, observer: str = "FHIR gateway") -> None:
        self._records, self._observer = records, observer

    async def fetch(self, ehr: str, narrowed: Narrowed, asked: Interaction, page: str) -> Fetched:
        """One page, newest first, whatever `_sort` says. `page` is the moment before which to go on."""
        if narrowed.interaction is None or not narrowed.patients:
            return Fetched(time.time(), total=0)
        unknown = {param.name for param in asked.params} - {"patient", "entity", "_count", "_sort"}
        if unknown:
            raise BadRequest(f"AuditEvent can be searched by patient only, not by {', '.join(sorted(unknown))}.", reason="parameter-unknown")
        (patient,) = narrowed.patients
        count = min([int(param.value) for param in asked.params if param.name == "_count"] + [MAX_COUNT]) or _DEFAULT
        count = count if any(param.name == "_count" for param in asked.params) else _DEFAULT
        before = datetime.fromisoformat(page) if page else None
        records = await self._records.of_patient(ehr, patient, limit=count + 1, before=before)
        entries = tuple(
            Entry(json.dumps(to_fhir(record, patient, observer=self._observer)).encode(), "AuditEvent", record.id) for record in records[:count]
        )
        link = records[count - 1].recorded.isoformat() if len(records) > count else ""
        return Fetched(time.time(), entries=entries, link=link, patients=(patient,))
