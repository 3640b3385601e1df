"""The launches that the checks ask for, as values: scopes, clients, who signs in, and what she leaves ticked."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tests.conformance.person import AS_OFFERED, Choice

TYPES = [
    "Medication",
    "AllergyIntolerance",
    "CarePlan",
    "CareTeam",
    "Condition",
    "Coverage",
    "Device",
    "DiagnosticReport",
    "DocumentReference",
    "Encounter",
    "Goal",
    "Immunization",
    "Location",
    "MedicationDispense",
    "MedicationRequest",
    "Observation",
    "Organization",
    "Patient",
    "Practitioner",
    "PractitionerRole",
    "Procedure",
    "Provenance",
    "QuestionnaireResponse",
    "RelatedPerson",
    "ServiceRequest",
    "Specimen",
]
"""The 26 types whose scopes a standalone launch asks for (A2)."""
ABOUT_PATIENTS = [
    "Patient",
    "AllergyIntolerance",
    "CarePlan",
    "CareTeam",
    "Condition",
    "Coverage",
    "DiagnosticReport",
    "DocumentReference",
    "Encounter",
    "Goal",
    "Immunization",
    "MedicationDispense",
    "MedicationRequest",
    "Observation",
    "Procedure",
    "Provenance",
    "ServiceRequest",
    "Specimen",
]
"""Those of them that the published check of scopes demands, for US Core 6.1."""
IDENTITY = "openid fhirUser"
_SCOPE = re.compile(r"(patient|user|system)/(\*|[A-Z][A-Za-z]+)\.(read|write|\*|c?r?u?d?s?)(\?\S+)?")


def scopes_of(text: Any) -> list[str]:
    """The scope strings of a token response."""
    return text.split() if isinstance(text, str) else []


@dataclass(frozen=True, slots=True)
class Clinical:
    """A clinical scope that is well-formed."""

    raw: str
    level: str
    type: str
    letters: str
    query: str

    @staticmethod
    def of(text: str) -> Clinical | None:
        found = _SCOPE.fullmatch(text)
        if found is None or not found[3]:
            return None
        letters = {"read": "rs", "write": "cud", "*": "cruds"}.get(found[3], found[3])
        return Clinical(text, found[1], found[2], letters, (found[4] or "")[1:])


def clinical(text: Any) -> list[Clinical]:
    """The clinical scopes of a token response."""
    return [found for one in scopes_of(text) if (found := Clinical.of(one))]


def asking(level: str, letters: str = "rs", types: list[str] | None = None) -> str:
    """One scope for each type."""
    return " ".join(f"{level}/{name}.{letters}" for name in types or TYPES)


STANDALONE = f"launch/patient {IDENTITY} offline_access {asking('patient')}"


@dataclass(frozen=True, slots=True)
class Wish:
    """A launch to make. `client` is a name in the configuration; with `ehr` the EHR starts it. `more` replaces parameters, None leaves out."""

    scope: str
    client: str = "symmetric"
    method: str = "GET"
    who: str = "patient"
    ehr: bool = False
    choice: Choice = AS_OFFERED
    more: Mapping[str, str | None] = field(default_factory=dict)


_KEPT = frozenset({"Patient", "Condition", "Observation"})
_KEPT_SCOPES = frozenset({"launch/patient", "openid", "fhirUser", "offline_access"}) | {f"patient/{name}.rs" for name in _KEPT}
LIMITED = Choice(
    "Leave only Patient, Condition and Observation ticked (and the sign-in and offline access).",
    lambda value, offered: offered and value in _KEPT_SCOPES,
)
_PARTS = re.compile(r"patient/(Condition|Observation)\.\w+\?category=\S+")
SOME_KINDS = Choice(
    "Of Condition and of Observation, share only some kinds: tick one or more categories of each.",
    lambda value, offered: offered or _PARTS.fullmatch(value) is not None,
)

_HL7 = "http://terminology.hl7.org/CodeSystem"
_US_CORE = "http://hl7.org/fhir/us/core/CodeSystem"
GRANULAR = {
    "granular-1": (
        f"patient/Condition.rs?category={_HL7}/condition-category|encounter-diagnosis",
        f"patient/Condition.rs?category={_US_CORE}/condition-category|health-concern",
        f"patient/Observation.rs?category={_HL7}/observation-category|laboratory",
        f"patient/Observation.rs?category={_HL7}/observation-category|social-history",
    ),
    "granular-2": (
        f"patient/Condition.rs?category={_HL7}/condition-category|problem-list-item",
        f"patient/Observation.rs?category={_HL7}/observation-category|vital-signs",
        f"patient/Observation.rs?category={_HL7}/observation-category|survey",
        f"patient/Observation.rs?category={_US_CORE}/us-core-category|sdoh",
    ),
}
V1_TYPES = [name for name in TYPES if name not in ("RelatedPerson", "QuestionnaireResponse")]

LAUNCHES: Mapping[str, Wish] = {
    "standalone": Wish(STANDALONE),
    "public": Wish(f"launch/patient {IDENTITY} offline_access {asking('patient')}", "public"),
    "asymmetric": Wish(f"launch/patient {IDENTITY} offline_access {asking('patient')}", "asymmetric"),
    "limited": Wish(STANDALONE, choice=LIMITED),
    "ehr": Wish(f"launch {IDENTITY} offline_access {asking('user')}", method="POST", who="clinician", ehr=True),
    "ehr-patient": Wish(f"launch {IDENTITY} offline_access patient/Patient.rs", who="clinician", ehr=True),
    "revoked": Wish(STANDALONE),
    "v1": Wish(f"launch/patient {IDENTITY} offline_access {asking('patient', 'read', V1_TYPES)}"),
    **{name: Wish(f"launch/patient {IDENTITY} patient/Patient.rs {' '.join(scopes)}") for name, scopes in GRANULAR.items()},
    "some-kinds": Wish(f"launch/patient {IDENTITY} patient/Condition.rs patient/Observation.rs patient/Patient.rs", choice=SOME_KINDS),
    "odd": Wish("launch/patient patient/Patient.r patient/Observation.dus patient/Condition. patient/Nonsense.rs patient/Goal.rsx"),
}
