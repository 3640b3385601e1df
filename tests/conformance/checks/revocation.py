"""A8: a person takes access back."""

from __future__ import annotations

from tests.conformance.check import Group, Outcome, Skipped, verdict
from tests.conformance.checks.refresh import refuses_refresh
from tests.conformance.checks.standalone import all_of
from tests.conformance.context import Context

GROUP = Group("revocation")


@GROUP.check("A8.48", "g10_token_revocation")
def revoked(at: Context) -> Outcome:
    """After she took it back, the access token reads nothing and the refresh token gives nothing."""
    launched = at.launch("revoked")
    access, renewal, patient = launched.access, launched.refresh, launched.patient
    management = at.smart.get("management_endpoint")
    if not isinstance(management, str):
        raise Skipped("the server names no management_endpoint where access is taken back")
    at.person.take_back(management, launched.app.id, lambda: at.fhir(f"Patient/{patient}", access).status_code != 200)
    at.forget_launches()
    answer = at.fhir(f"Patient/{patient}", access)
    read = verdict([f"the patient is read: {answer.status_code}"] * (answer.status_code not in (401, 403, 404)))
    return all_of(read, refuses_refresh(at, launched, renewal))
