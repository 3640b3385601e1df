"""The table of the portal: one row for each feature. Pages, navigation, consent wording, the portal's own scopes, docs and tests are made from it.

Ids are those of the feature list (F01 conditions ... F45 access log). A feature declares just the scopes that it needs; the portal's principal
holds just those of all rows, so what is not declared here cannot be reached from a page.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

from gateway.smart.principal import Principal, PrincipalKind
from gateway.smart.scopes import LETTERS, Scope, parse_scope

CLIENT_ID = "portal"
CLIENT_NAME = "Patient portal"


@dataclass(frozen=True, slots=True)
class Feature:
    """`short` is the word in the navigation ("": no section of its own). `types` are the FHIR types shown or written."""

    id: str
    path: str
    title: str
    short: str
    sentence: str
    scopes: tuple[str, ...]
    types: tuple[str, ...]


FEATURES: tuple[Feature, ...] = (
    Feature(
        "F08",
        "/portal/",
        "Home",
        "Home",
        "What needs your attention now, and where everything is.",
        ("patient/Patient.r",),
        ("Patient",),
    ),
    Feature(
        "F10",
        "/portal/results",
        "Test results",
        "Results",
        "Lab tests and measurements, with the lab's range and what the status means.",
        ("patient/DiagnosticReport.rs", "patient/Observation.rs", "patient/Patient.r", "patient/Practitioner.r", "patient/Organization.r"),
        ("DiagnosticReport", "Observation"),
    ),
    Feature(
        "F09",
        "/portal/medicines",
        "Medicines",
        "Medicines",
        "What you take, how to take it, and how many refills are left.",
        ("patient/MedicationRequest.rs", "patient/MedicationDispense.rs", "patient/Medication.r", "patient/Practitioner.r"),
        ("MedicationRequest", "MedicationDispense", "Medication"),
    ),
    Feature(
        "F28",
        "/portal/medicines",
        "Get more of a medicine",
        "",
        "Ask for a refill, and see what became of it.",
        ("patient/Task.crs", "patient/MedicationRequest.r"),
        ("Task",),
    ),
    Feature(
        "F26",
        "/portal/appointments",
        "Appointments",
        "Appointments",
        "Visits to come, visits in the past, and what you asked for.",
        (
            "patient/Appointment.rus",
            "patient/Practitioner.r",
            "patient/PractitionerRole.r",
            "patient/Location.r",
            "patient/Organization.r",
        ),
        ("Appointment",),
    ),
    Feature(
        "F24",
        "/portal/appointments/new",
        "Ask for an appointment",
        "",
        "Tell your clinic what you need and when you could come.",
        ("patient/Appointment.crs",),
        ("Appointment",),
    ),
    Feature(
        "F20",
        "/portal/messages",
        "Messages",
        "Messages",
        "Write to your care team and read their answers.",
        (
            "patient/Communication.crs",
            "patient/CareTeam.rs",
            "patient/Patient.r",
            "patient/Practitioner.r",
            "patient/PractitionerRole.r",
            "patient/Organization.r",
        ),
        ("Communication", "CareTeam"),
    ),
    Feature(
        "F01",
        "/portal/conditions",
        "Health conditions",
        "Conditions",
        "Health problems that your care team has on record.",
        ("patient/Condition.rs",),
        ("Condition",),
    ),
    Feature(
        "F36",
        "/portal/bills",
        "Bills and insurance",
        "Bills",
        "What was billed, what your plan paid, and what you owe.",
        ("patient/Claim.rs", "patient/ExplanationOfBenefit.rs", "patient/Organization.r", "patient/Practitioner.r"),
        ("Claim", "ExplanationOfBenefit"),
    ),
    Feature(
        "F45",
        "/portal/access",
        "Who looked at my record",
        "Who looked",
        "Each person and app that opened your record, and when.",
        ("patient/AuditEvent.rs", "patient/Practitioner.r"),
        ("AuditEvent",),
    ),
)


class Account(Protocol):
    """What is needed of the signed-in person's account."""

    @property
    def id(self) -> str:
        """The gateway's account id."""
        ...

    @property
    def fhir_user(self) -> str:
        """`Patient/p1` or `RelatedPerson/r1`."""
        ...


def feature(feature_id: str) -> Feature:
    """The row of that id."""
    return next(row for row in FEATURES if row.id == feature_id)


def sections() -> tuple[Feature, ...]:
    """The rows that stand in the navigation, in order."""
    return tuple(row for row in FEATURES if row.short)


def declared_scopes(rows: Iterable[Feature] = FEATURES) -> tuple[Scope, ...]:
    """The scopes of the rows, one for each type, with the union of the letters."""
    letters: dict[str, set[str]] = {}
    for row in rows:
        for text in row.scopes:
            scope = parse_scope(text)
            if scope is None or scope.level != "patient" or scope.query:
                raise ValueError(text)
            letters.setdefault(scope.type, set()).update(scope.letters)
    return tuple(Scope("patient", name, "".join(c for c in LETTERS if c in found)) for name, found in sorted(letters.items()))


_SCOPES = declared_scopes()


def portal_principal(account: Account, patient: str, ehr: str) -> Principal:
    """The portal acting for the signed-in person on one record (`patient`: an id that the caller has checked to be hers to see)."""
    return Principal(
        PrincipalKind.PATIENT,
        ehr,
        CLIENT_ID,
        _SCOPES,
        client_name=CLIENT_NAME,
        patient=patient,
        fhir_user=account.fhir_user,
        user_id=account.id,
    )
