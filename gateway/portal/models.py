"""The R4B models of what the portal writes. They are close enough to R4 for these types and only ever see a copy."""

from __future__ import annotations

import copy
from functools import cache
from typing import Any

from pydantic import ValidationError

from gateway.portal.words import Resource, text

# The models accept any code: the required bindings are ours to hold (R4 4.0.1 value sets).
STATUSES: dict[str, frozenset[str]] = {
    "Appointment": frozenset(
        {"proposed", "pending", "booked", "arrived", "fulfilled", "cancelled", "noshow", "entered-in-error", "checked-in", "waitlist"}
    ),
    "Communication": frozenset({"preparation", "in-progress", "not-done", "on-hold", "stopped", "completed", "entered-in-error", "unknown"}),
    "Task": frozenset(
        {
            "draft",
            "requested",
            "received",
            "accepted",
            "rejected",
            "ready",
            "cancelled",
            "in-progress",
            "on-hold",
            "failed",
            "completed",
            "entered-in-error",
        }
    ),
}


@cache
def _models() -> dict[str, Any]:
    """By type. Imported when somebody writes: to build them takes a tenth of a second, at every start of every process."""
    from fhir.resources.R4B.appointment import Appointment  # noqa: PLC0415  # as said
    from fhir.resources.R4B.communication import Communication  # noqa: PLC0415  # as said
    from fhir.resources.R4B.task import Task  # noqa: PLC0415  # as said

    return {"Appointment": Appointment, "Communication": Communication, "Task": Task}


def validate(resource: Resource) -> str:
    """What is wrong, as places and kinds only (never values), or ""."""
    model = text(resource, "resourceType")
    if resource.get("status") not in STATUSES[model]:
        return "status"
    try:
        _models()[model].model_validate(copy.deepcopy(dict(resource)))
    except ValidationError as error:
        return ", ".join(f"{'.'.join(map(str, item['loc']))}: {item['type']}" for item in error.errors(include_input=False))
    return ""
