"""A7: the other kinds of clients."""

from __future__ import annotations

import re
import secrets

from tests.conformance.check import Group, Outcome, lacking, verdict
from tests.conformance.checks.refresh import refuses_refresh
from tests.conformance.checks.standalone import all_of, is_json, reads_patient, tokens
from tests.conformance.context import Context

GROUP = Group("clients")


@GROUP.check("A7.45", "g10_public_standalone_launch_stu2_2")
def public(at: Context) -> Outcome:
    """A public client launches, reads the patient in context and gets an id_token."""
    at.offered("client-public")
    launched = at.launch("public")
    return all_of(
        is_json(launched.exchanged),
        tokens(launched.tokens),
        verdict(lacking(launched.tokens, "id_token")),
        reads_patient(at, launched, launched.access),
    )


@GROUP.check("A7.46", "g10_asymmetric_launch")
def asymmetric(at: Context) -> Outcome:
    """A client with a key launches and refreshes, each time with a new assertion; an invalid refresh token is refused."""
    at.offered("client-confidential-asymmetric")
    launched = at.launch("asymmetric")
    return all_of(
        is_json(launched.exchanged),
        verdict(lacking(launched.tokens, "id_token")),
        reads_patient(at, launched, launched.access),
        is_json(at.renewed("asymmetric")),
        refuses_refresh(at, launched, secrets.token_urlsafe(32)),
    )


@GROUP.check("A7.47", "g10_ehr_patient_launch_stu2_2")
def ehr_patient(at: Context) -> Outcome:
    """An EHR launch for patient/Patient.rs gives the patient in context, and the scope back in version 2."""
    launched = at.launch("ehr-patient")
    scope = str(launched.tokens.get("scope"))
    return verdict([f"scope is {scope}"] * (not re.search(r"patient/Patient\.rs?( |$)", scope)) + lacking(launched.tokens, "patient"))
