"""A14: the CapabilityStatement of a US Core server, and section D: the search parameters that US Core demands."""

from __future__ import annotations

from tests.conformance.check import Group, Outcome, verdict
from tests.conformance.context import Context, Json, brief, json_of

GROUP = Group("capability")
_US_CORE = "http://hl7.org/fhir/us/core/"
SEARCHED_BY = {
    "Patient": "_id identifier name birthdate gender",
    "AllergyIntolerance": "patient",
    "CarePlan": "patient category",
    "CareTeam": "patient status",
    "Condition": "patient category",
    "Coverage": "patient",
    "Device": "patient",
    "DiagnosticReport": "patient category date code",
    "DocumentReference": "_id patient category date type",
    "Encounter": "_id patient date",
    "Goal": "patient",
    "Immunization": "patient",
    "Location": "name address",
    "MedicationDispense": "patient",
    "MedicationRequest": "patient intent status",
    "Observation": "patient category date code",
    "Organization": "name address",
    "Practitioner": "name identifier",
    "PractitionerRole": "practitioner specialty",
    "Procedure": "patient date",
    "QuestionnaireResponse": "_id patient",
    "RelatedPerson": "_id",
    "ServiceRequest": "_id patient category authored code",
    "Specimen": "_id",
}
"""Names of the parameters in SHALL searches, alone or combined (US Core 6.1, 7.0, 8.0)."""


@GROUP.check("A14.81", "us_core_capability_statement tests")
def statement(at: Context) -> Outcome:
    """Anybody may read /metadata: R4, JSON, a US Core server, its profiles, and the search parameters that US Core demands."""
    answer = at.fhir("metadata")
    if answer.status_code != 200:
        return verdict([f"{answer.status_code} {brief(answer)}"])
    found = json_of(answer)
    rest = next(iter(found.get("rest") or ()), {})
    resources: list[Json] = rest.get("resource") or []
    problems = [f"it is a {found.get('resourceType')}"] * (found.get("resourceType") != "CapabilityStatement")
    problems += [f"{name} is missing" for name in ("status", "date", "kind", "fhirVersion", "format", "rest") if not found.get(name)]
    problems += [f"fhirVersion is {found.get('fhirVersion')}"] * (not str(found.get("fhirVersion")).startswith("4.0"))
    problems += ["format has no json"] * (not {"json", "application/fhir+json"} & set(found.get("format") or ()))
    problems += ["instantiates lacks us-core-server"] * (
        f"{_US_CORE}CapabilityStatement/us-core-server" not in _versionless(found.get("instantiates"))
    )
    return verdict(problems + _profiles(resources) + [one for resource in resources for one in _unsearched(resource)])


def _versionless(canonicals: object) -> list[str]:
    return [str(one).partition("|")[0] for one in canonicals or ()] if isinstance(canonicals, list | None) else []


def _profiles(resources: list[Json]) -> list[str]:
    """Problems: us-core-patient and one more are supported at least."""
    supported = {url for one in resources for url in _versionless(one.get("supportedProfile"))}
    us_core = {one for one in supported if one.startswith(f"{_US_CORE}StructureDefinition/")}
    patient = f"{_US_CORE}StructureDefinition/us-core-patient"
    problems = ["supportedProfile lacks us-core-patient"] * (patient not in us_core)
    return problems + ["supportedProfile lists no other US Core profile"] * (not us_core - {patient})


def _unsearched(resource: Json) -> list[str]:
    """Problems of a type that can be searched at all. `_id` needs no listing: it is of every type."""
    name = str(resource.get("type"))
    offered = {one.get("code") for one in resource.get("interaction") or ()}
    listed = {one.get("name") for one in resource.get("searchParam") or ()} | {"_id"}
    wanted = SEARCHED_BY.get(name, "").split() if "search-type" in offered else []
    problems = [f"{name} is not read"] * (name in SEARCHED_BY and name != "QuestionnaireResponse" and "read" not in offered)
    return problems + [f"{name} is not searched by {one}" for one in wanted if one not in listed]
