"""US Core's searches (6.1, 7 and 8) as a table: what a row asks, what it finds, and what the EHR holds for it.

Of each type A has two resources, 1 with the values that are asked for and 2 with others; B has one with the values of A's 1. Whatever a row
asks, B's is in no answer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

LOINC, SNOMED, HL7 = "http://loinc.org", "http://snomed.info/sct", "http://terminology.hl7.org/CodeSystem"
EARLY, LATE = "2020-02-02", "2024-03-10"


@dataclass(frozen=True)
class Row:
    """`find` are the numbers of A's resources that it finds. `joins` brings the names of what is included. `level`: SHALL or SHOULD."""

    type: str
    query: str
    find: str = "1"
    level: str = "SHALL"
    joins: str = ""

    @property
    def about_patients(self) -> bool:
        return "patient=" in self.query


def shall(type_: str, *queries: str, find: str = "1") -> list[Row]:
    return [Row(type_, query, find) for query in queries]


def should(type_: str, *queries: str, find: str = "1", joins: str = "") -> list[Row]:
    return [Row(type_, query, find, "SHOULD", joins) for query in queries]


def dates(type_: str, name: str, level: str = "SHALL", before: str = "patient={p}&") -> list[Row]:
    """The comparators that every date parameter SHALL take, alone and as a range."""
    asked = {
        f"{name}={LATE}": "1",
        f"{name}=gt2022-01-01": "1",
        f"{name}=ge{LATE}": "1",
        f"{name}=lt2022-01-01": "2",
        f"{name}=le{EARLY}": "2",
        f"{name}=ge2024-01-01&{name}=le2024-12-31": "1",
        f"{name}=gt2025": "",
    }
    return [Row(type_, before + query, find, level) for query, find in asked.items()]


def since(type_: str) -> list[Row]:
    """`_lastUpdated`: SHOULD since US Core 7."""
    return [Row(type_, f"patient={{p}}&_lastUpdated={value}", find, "SHOULD") for value, find in (("ge2001-01-01", "12"), ("lt2001-01-01", ""))]


CONDITION = f"{HL7}/condition-category|problem-list-item"
OBSERVED = f"{HL7}/observation-category|laboratory"
STATUS_OR = "completed,in-progress"

ROWS: list[Row] = [
    *shall("Patient", "_id={p}", "identifier=urn:mrn-{t}|same", "name=Same{t}", "birthdate=1970-05-05&name=Same{t}", "gender=female&name=Same{t}"),
    *shall("Patient", "name=Nobody{t}", "birthdate=1971-01-01&name=Same{t}", "gender=male&name=Same{t}", find=""),
    *should("Patient", "birthdate=1970-05-05&family=Same{t}", "death-date=2025-01-01&family=Same{t}", "family=Same{t}&gender=female"),
    *shall("AllergyIntolerance", "patient={p}", find="12"),
    *should("AllergyIntolerance", f"patient={{p}}&clinical-status={HL7}/allergyintolerance-clinical|active"),
    *shall("CarePlan", "patient={p}&category=urn:plans|assess-plan"),
    *should(
        "CarePlan", "patient={p}&category=urn:plans|assess-plan&status=active,completed", "patient={p}&category=urn:plans|assess-plan&status=active"
    ),
    *dates("CarePlan", "date", "SHOULD", "patient={p}&category=urn:plans|assess-plan,urn:plans|other&"),
    *should("CarePlan", f"patient={{p}}&category=urn:plans|assess-plan&status=active&date=ge{LATE}"),
    *shall("CareTeam", "patient={p}&status=active"),
    *should("CareTeam", "patient={p}&status=active&_include=CareTeam:participant", joins="prac rel pat"),
    *should("CareTeam", "patient={p}&status=active&_include=CareTeam:participant:Practitioner", joins="prac"),
    *should("CareTeam", "patient={p}&status=active&_include=CareTeam:participant:RelatedPerson", joins="rel"),
    *shall("Condition", "patient={p}", find="12"),
    *shall("Condition", f"patient={{p}}&category={CONDITION}"),
    *should("Condition", f"patient={{p}}&clinical-status={HL7}/condition-clinical|active", f"patient={{p}}&code={SNOMED}|44054006"),
    *should("Condition", f"patient={{p}}&category={CONDITION}&encounter=Encounter/encounter-1-{{t}}"),
    *(row for name in ("onset-date", "abatement-date", "recorded-date") for row in dates("Condition", name, "SHOULD")),
    *since("Condition"),
    *shall("Coverage", "patient={p}", find="12"),
    *shall("Device", "patient={p}", find="12"),
    *should("Device", f"patient={{p}}&type={SNOMED}|72506001", "patient={p}&status=active"),
    *shall("DiagnosticReport", "patient={p}", find="12"),
    *shall("DiagnosticReport", f"patient={{p}}&category={HL7}/v2-0074|LAB", f"patient={{p}}&code={LOINC}|24323-8"),
    *dates("DiagnosticReport", "date", "SHALL", f"patient={{p}}&category={HL7}/v2-0074|LAB,{HL7}/v2-0074|RAD&"),
    *should("DiagnosticReport", "patient={p}&status=final", f"patient={{p}}&code={LOINC}|24323-8&date=ge{LATE}"),
    *should("DiagnosticReport", "patient={p}&status=final,preliminary", find="12"),
    *since("DiagnosticReport"),
    *shall("DocumentReference", "_id=documentreference-1-{t}", "patient={p}&category=urn:docs|clinical-note", f"patient={{p}}&type={LOINC}|34133-9"),
    *shall("DocumentReference", "patient={p}", find="12"),
    *dates("DocumentReference", "date", "SHALL", "patient={p}&category=urn:docs|clinical-note,urn:docs|other&"),
    *should("DocumentReference", "patient={p}&status=current", f"patient={{p}}&type={LOINC}|34133-9&period=ge{LATE}"),
    *should("DocumentReference", "patient={p}&status=current,superseded", find="12"),
    *dates("DocumentReference", "period", "SHOULD", "patient={p}&"),
    *shall("Encounter", "_id=encounter-1-{t}"),
    *shall("Encounter", "patient={p}", find="12"),
    *dates("Encounter", "date"),
    *should("Encounter", f"patient={{p}}&class={HL7}/v3-ActCode|AMB", f"patient={{p}}&type={SNOMED}|11429006", "patient={p}&status=finished"),
    *should("Encounter", "patient={p}&location=Location/location-1-{t}", "identifier=urn:visits-{t}|v1"),
    *since("Encounter"),
    *shall("Goal", "patient={p}", find="12"),
    *should("Goal", "patient={p}&lifecycle-status=active"),
    *dates("Goal", "target-date", "SHOULD"),
    *shall("Immunization", "patient={p}", find="12"),
    *should("Immunization", "patient={p}&status=completed"),
    *dates("Immunization", "date", "SHOULD"),
    *shall("Location", "name=North{t}", "address=Street{t}"),
    *should("Location", "address-city=City{t}", "address-state=State{t}", "address-postalcode=P1{t}"),
    *shall("MedicationDispense", "patient={p}", find="12"),
    *should("MedicationDispense", "patient={p}&status=completed", f"patient={{p}}&status=completed&type={HL7}/v3-ActCode|FF"),
    *should("MedicationDispense", f"patient={{p}}&status={STATUS_OR}", find="12"),
    *should("MedicationDispense", "patient={p}&status=completed&_include=MedicationDispense:medication", joins="med"),
    *shall("MedicationRequest", "patient={p}&intent=order", "patient={p}&intent=order&status=active", "patient={p}&intent=order,plan&status=active"),
    *shall("MedicationRequest", "patient={p}&intent=order,plan", "patient={p}&intent=order,plan&status=active,stopped", find="12"),
    Row("MedicationRequest", "patient={p}&intent=order&_include=MedicationRequest:medication", joins="med"),
    *should("MedicationRequest", "patient={p}&intent=order&encounter=Encounter/encounter-1-{t}"),
    *dates("MedicationRequest", "authoredon", "SHOULD", "patient={p}&intent=order,plan&"),
    *shall(
        "Observation", f"patient={{p}}&category={OBSERVED}", f"patient={{p}}&code={LOINC}|2345-7", f"patient={{p}}&code={LOINC}|2345-7,{LOINC}|1-8"
    ),
    *dates("Observation", "date", "SHALL", f"patient={{p}}&category={OBSERVED},{HL7}/observation-category|vital-signs&"),
    *should("Observation", f"patient={{p}}&category={OBSERVED}&status=final", f"patient={{p}}&category={OBSERVED}&status=final,amended"),
    *dates("Observation", "date", "SHOULD", f"patient={{p}}&code={LOINC}|2345-7,{LOINC}|8867-4&"),
    *since("Observation"),
    *shall("Organization", "name=North{t}", "address=Street{t}"),
    *shall("Practitioner", "name=North{t}", "identifier=urn:npi-{t}|n1{t}"),
    *should("Practitioner", "_id=practitioner-1-{t}"),
    *shall("PractitionerRole", "practitioner=Practitioner/practitioner-1-{t}", "specialty=urn:specialties-{t}|cardio{t}"),
    *should("PractitionerRole", "specialty=urn:specialties-{t}|cardio{t}&_include=PractitionerRole:practitioner", joins="prac"),
    *should("PractitionerRole", "specialty=urn:specialties-{t}|cardio{t}&_include=PractitionerRole:endpoint", joins="end"),
    *shall("Procedure", "patient={p}", find="12"),
    *dates("Procedure", "date"),
    *should("Procedure", "patient={p}&status=completed", f"patient={{p}}&code={SNOMED}|80146002&date=ge{LATE}"),
    *should("Procedure", f"patient={{p}}&status={STATUS_OR}", find="12"),
    *shall("QuestionnaireResponse", "_id=questionnaireresponse-1-{t}"),
    *shall("QuestionnaireResponse", "patient={p}", find="12"),
    *should("QuestionnaireResponse", "patient={p}&status=completed", "patient={p}&questionnaire=http://q.test/phq9"),
    *should("QuestionnaireResponse", f"patient={{p}}&status={STATUS_OR}", find="12"),
    *dates("QuestionnaireResponse", "authored", "SHOULD"),
    *shall("RelatedPerson", "_id=relatedperson-1-{t}"),
    *should("RelatedPerson", "patient={p}", find="12"),
    *should("RelatedPerson", "name=North{t}", "patient={p}&name=North{t}"),
    *shall("ServiceRequest", "_id=servicerequest-1-{t}", f"patient={{p}}&category={SNOMED}|108252007", f"patient={{p}}&code={LOINC}|24323-8"),
    *shall("ServiceRequest", "patient={p}", find="12"),
    *dates("ServiceRequest", "authored", "SHALL", f"patient={{p}}&category={SNOMED}|108252007,{SNOMED}|363679005&"),
    *should("ServiceRequest", "patient={p}&status=active", f"patient={{p}}&code={LOINC}|24323-8&authored=ge{LATE}"),
    *should("ServiceRequest", "patient={p}&status=active,completed", find="12"),
    *shall("Specimen", "_id=specimen-1-{t}"),
    *should("Specimen", "patient={p}", find="12"),
]

WITHOUT_PROVENANCE = frozenset({"Location", "Organization", "Practitioner", "PractitionerRole", "Specimen"})
"""The rows where US Core asks for no `_revinclude=Provenance:target`."""

OF_US_CORE_ALONE = (
    "CareTeam?role=x",
    "Condition?asserted-date=2024",
    "Encounter?discharge-disposition=x",
    "Goal?description=x",
)
"""SHOULD rows whose parameter US Core defines and R4 does not: a stock HAPI has none of them."""


def _concept(system: str, code: str) -> dict[str, Any]:
    return {"coding": [{"system": system, "code": code}], "text": code}


def _ref(target: str) -> dict[str, str]:
    return {"reference": target}


def shared(tag: str) -> list[dict[str, Any]]:
    """Two of each type that is nobody's; the first has the values that are asked for."""
    found: list[dict[str, Any]] = [{"resourceType": "Medication", "id": f"medication-1-{tag}", "code": {"text": "metformin"}}]
    for number, word in (("1", "North"), ("2", "South")):
        own = "" if number == "1" else "2"
        address = {"line": [f"{'Street' if not own else 'Road'}{tag}"], "city": f"City{own}{tag}", "state": f"State{own}{tag}"}
        address |= {"postalCode": f"P{number}{tag}"}
        found += [
            {"resourceType": "Organization", "id": f"organization-{number}-{tag}", "name": f"{word}{tag}", "address": [address]},
            {"resourceType": "Location", "id": f"location-{number}-{tag}", "name": f"{word}{tag}", "address": address},
            {"resourceType": "Practitioner", "id": f"practitioner-{number}-{tag}", "name": [{"family": f"{word}{tag}"}]}
            | {"identifier": [{"system": f"urn:npi-{tag}", "value": f"n{number}{tag}"}]},
            {"resourceType": "Endpoint", "id": f"endpoint-{number}-{tag}", "status": "active", "address": "https://direct.test"}
            | {"connectionType": {"code": "direct-project"}, "payloadType": [{"text": "any"}]},
            {"resourceType": "PractitionerRole", "id": f"practitionerrole-{number}-{tag}"}
            | {"practitioner": _ref(f"Practitioner/practitioner-{number}-{tag}"), "endpoint": [_ref(f"Endpoint/endpoint-{number}-{tag}")]}
            | {"specialty": [_concept(f"urn:specialties-{tag}", f"{'cardio' if number == '1' else 'derma'}{tag}")]},
        ]
    return found


def patient(id_: str, tag: str) -> dict[str, Any]:
    """A and B look alike."""
    return {
        "resourceType": "Patient",
        "id": id_,
        "identifier": [{"system": f"urn:mrn-{tag}", "value": "same"}],
        "name": [{"family": f"Same{tag}", "given": ["Ann"]}],
        "gender": "female",
        "birthDate": "1970-05-05",
        "deceasedDateTime": "2025-01-01",
    }


def record(patient_id: str, tag: str, number: str, *, like: str) -> list[dict[str, Any]]:
    """One resource of each type for a patient, numbered, with the values of A's 1 or 2 (`like`)."""
    first = like == "1"
    subject, when = _ref(f"Patient/{patient_id}"), LATE if first else EARLY
    period, practitioner = {"start": when, "end": when}, _ref(f"Practitioner/practitioner-1-{tag}")
    encounter, code = _ref(f"Encounter/encounter-{number}-{tag}"), _concept(LOINC, "24323-8" if first else "30954-2")

    def made(type_: str, **members: Any) -> dict[str, Any]:
        return {"resourceType": type_, "id": f"{type_.lower()}-{number}-{tag}"} | members

    def one_of(yes: Any, no: Any) -> Any:
        return yes if first else no

    whom = {"subject": subject}
    by = {"patient": subject}
    allergy, condition = f"{HL7}/allergyintolerance-clinical", f"{HL7}/condition-clinical"
    listed = [
        made("RelatedPerson", **by, name=[{"family": f"{one_of('North', 'South')}{tag}"}]),
        made(
            "Encounter",
            **whom,
            status=one_of("finished", "planned"),
            **{"class": {"system": f"{HL7}/v3-ActCode", "code": one_of("AMB", "EMER")}},
            type=[_concept(SNOMED, one_of("11429006", "185349003"))],
            period=period,
            location=[{"location": _ref(f"Location/location-{like}-{tag}")}],
            identifier=[{"system": f"urn:visits-{tag}", "value": f"v{like}"}],
        ),
        made("AllergyIntolerance", **by, clinicalStatus=_concept(allergy, one_of("active", "resolved")), code={"text": "nuts"}),
        made(
            "CarePlan",
            **whom,
            status=one_of("active", "revoked"),
            intent="plan",
            category=[_concept("urn:plans", one_of("assess-plan", "other"))],
            period=period,
        ),
        made(
            "CareTeam",
            **whom,
            status=one_of("active", "inactive"),
            participant=[{"member": practitioner}, {"member": _ref(f"RelatedPerson/relatedperson-{number}-{tag}")}, {"member": subject}],
        ),
        made(
            "Condition",
            **whom,
            clinicalStatus=_concept(condition, one_of("active", "resolved")),
            category=[_concept(f"{HL7}/condition-category", one_of("problem-list-item", "encounter-diagnosis"))],
            code=_concept(SNOMED, one_of("44054006", "195967001")),
            encounter=encounter,
            onsetDateTime=when,
            abatementDateTime=when,
            recordedDate=when,
        ),
        made("Coverage", beneficiary=subject, status="active", payor=[_ref(f"Organization/organization-1-{tag}")]),
        made("Device", **by, status=one_of("active", "inactive"), type=_concept(SNOMED, one_of("72506001", "43252007"))),
        made(
            "DiagnosticReport",
            **whom,
            status=one_of("final", "preliminary"),
            category=[_concept(f"{HL7}/v2-0074", one_of("LAB", "RAD"))],
            code=code,
            effectiveDateTime=when,
        ),
        made(
            "DocumentReference",
            **whom,
            status=one_of("current", "superseded"),
            type=_concept(LOINC, one_of("34133-9", "11488-4")),
            category=[_concept("urn:docs", one_of("clinical-note", "other"))],
            date=f"{when}T00:00:00Z",
            content=[{"attachment": {"contentType": "text/plain", "data": "eA=="}}],
            context={"period": period},
        ),
        made("Goal", **whom, lifecycleStatus=one_of("active", "cancelled"), description={"text": "walk"}, target=[{"dueDate": when}]),
        made("Immunization", **by, status=one_of("completed", "not-done"), vaccineCode={"text": "flu"}, occurrenceDateTime=when),
        made(
            "MedicationRequest",
            **whom,
            status=one_of("active", "stopped"),
            intent=one_of("order", "plan"),
            medicationReference=_ref(f"Medication/medication-1-{tag}"),
            encounter=encounter,
            authoredOn=when,
        ),
        made(
            "MedicationDispense",
            **whom,
            status=one_of("completed", "in-progress"),
            type=_concept(f"{HL7}/v3-ActCode", one_of("FF", "RF")),
            medicationReference=_ref(f"Medication/medication-1-{tag}"),
        ),
        made(
            "Observation",
            **whom,
            status=one_of("final", "registered"),
            category=[_concept(f"{HL7}/observation-category", one_of("laboratory", "vital-signs"))],
            code=_concept(LOINC, one_of("2345-7", "8867-4")),
            effectiveDateTime=when,
        ),
        made(
            "Procedure",
            **whom,
            status=one_of("completed", "in-progress"),
            code=_concept(SNOMED, one_of("80146002", "73761001")),
            performedDateTime=when,
        ),
        made(
            "QuestionnaireResponse",
            **whom,
            status=one_of("completed", "in-progress"),
            questionnaire=one_of("http://q.test/phq9", "http://q.test/other"),
            authored=when,
        ),
        made(
            "ServiceRequest",
            **whom,
            status=one_of("active", "completed"),
            intent="order",
            category=[_concept(SNOMED, one_of("108252007", "363679005"))],
            code=code,
            authoredOn=when,
        ),
        made("Specimen", **whom, status="available"),
    ]
    targets = [f"{one['resourceType']}/{one['id']}" for one in listed if one["resourceType"] not in WITHOUT_PROVENANCE]
    provenance = [_provenance(target, f"provenance-{at}-{number}-{tag}", tag) for at, target in enumerate(targets)]
    return listed + provenance


def _provenance(target: str, id_: str, tag: str) -> dict[str, Any]:
    agent = [{"who": _ref(f"Practitioner/practitioner-1-{tag}")}]
    return {"resourceType": "Provenance", "id": id_, "recorded": "2026-01-01T00:00:00Z", "target": [_ref(target)], "agent": agent}


def everything(a: str, b: str, tag: str) -> list[dict[str, Any]]:
    """In an order that keeps references whole. B's resources are numbered 9."""
    people = [patient(a, tag), patient(b, tag), _provenance(f"Patient/{a}", f"provenance-p-1-{tag}", tag)]
    return [*shared(tag), *people, *record(a, tag, "1", like="1"), *record(a, tag, "2", like="2"), *record(b, tag, "9", like="1")]
