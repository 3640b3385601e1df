"""A10.56, A10.61: scopes of version 1, and scopes that are none."""

from __future__ import annotations

from tests.conformance.check import Group, Outcome, verdict
from tests.conformance.checks.standalone import SEARCHES, searchable
from tests.conformance.context import Context
from tests.conformance.launches import V1_TYPES, clinical, scopes_of

GROUP = Group("scopes")


@GROUP.check("A10.56", "g10_smart_v1_scopes", 127, 128)
def version_1(at: Context) -> Outcome:
    """Scopes of version 1 are granted, should come back in version 1, and reach every type."""
    at.offered("permission-v1")
    launched = at.launch("v1")
    received = clinical(launched.tokens.get("scope"))
    reached = {one.type for one in received if {"r", "s"} <= set(one.letters)}
    problems = [f"{name} is not granted" for name in V1_TYPES if name not in reached and "*" not in reached]
    problems += [one for name in ("Patient", *SEARCHES) for one in searchable(at, name, launched)]
    return verdict(problems, ["they came back in version 2"] * any(not one.raw.endswith((".read", ".*")) for one in received))


@GROUP.check("A10.61", "(HL7: invalid scopes)", 129)
def odd(at: Context) -> Outcome:
    """Letters out of order, no letters and unknown types are ignored or refused, and never read as more."""
    launched = at.launch("odd")
    if "error" in launched.arrived.answer:
        return verdict([f"error is {launched.arrived.answer['error']}"] * (launched.arrived.answer["error"] != "invalid_scope"))
    received = scopes_of(launched.tokens.get("scope"))
    problems = [f"{one} was granted" for one in received if one not in ("launch/patient", "patient/Patient.r")]
    for name in ("Observation", "Condition", "Goal"):
        answer = at.search(name, {"patient": launched.patient}, launched.access)
        problems += [f"{name}: {answer.status_code}"] * (answer.status_code not in (401, 403))
    return verdict(problems)
