"""A small clinic in memory for tests of the portal: a pipeline that keeps bytes as sent, people who are signed in, and a record to look at.

It obeys what the real pipeline promises to the portal: scopes, one patient's data only, conditional create, If-Match, opaque pages.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

from gateway.adapters.ehr.base import OutcomeUnknown
from gateway.errors import FhirError, Forbidden, NotFound, PreconditionFailed
from gateway.fhir.interaction import Interaction, Kind
from gateway.portal.words import many, text
from gateway.proxy.answer import Answer, RequestContext
from gateway.smart.policy import LETTER
from gateway.smart.principal import Principal

OWNERS = ("subject", "patient", "for", "entity", "participant")
SHARED = {"Practitioner", "PractitionerRole", "Organization", "Location", "Medication"}


@dataclass
class Clinic:
    """The pipeline's double. `seen` lists what was asked; `failing` maps a type to the error that it gives."""

    page_size: int = 200
    age: int = 0
    resources: dict[tuple[str, str], bytes] = field(default_factory=dict)
    versions: dict[tuple[str, str], int] = field(default_factory=dict)
    seen: list[tuple[Principal, Interaction, RequestContext]] = field(default_factory=list)
    failing: dict[str, FhirError] = field(default_factory=dict)
    lose_answers: int = 0  # so many of the next writes take effect and their answer is lost

    def put(self, *resources: Mapping[str, Any] | bytes) -> None:
        """Store resources, as values or as the very bytes."""
        for resource in resources:
            raw = resource if isinstance(resource, bytes) else re.sub(r'"§([^§"]*)§"', r"\1", json.dumps(resource, ensure_ascii=False)).encode()
            parsed = json.loads(raw)
            self._keep((parsed["resourceType"], parsed["id"]), raw)

    def of_type(self, resource_type: str) -> list[dict[str, Any]]:
        """All resources of a type."""
        return [json.loads(raw) for (kind, _), raw in self.resources.items() if kind == resource_type]

    async def handle(self, principal: Principal, interaction: Interaction, context: RequestContext) -> Answer:
        """As `Pipeline.handle`."""
        self.seen.append((principal, interaction, context))
        if not any(scope.allows(interaction.type, LETTER[interaction.kind]) for scope in principal.scopes):
            raise Forbidden(reason="scope-missing")
        if error := self.failing.get(interaction.type):
            raise error
        match interaction.kind:
            case Kind.READ:
                return self._read(principal, interaction)
            case Kind.SEARCH:
                return self._search(principal, interaction)
            case Kind.CREATE:
                return self._create(principal, interaction)
            case Kind.UPDATE:
                return self._update(principal, interaction)
            case _:
                raise NotFound

    def _read(self, principal: Principal, interaction: Interaction) -> Answer:
        key = (interaction.type, interaction.id)
        raw = self.resources.get(key)
        if raw is None or not self._visible(principal, json.loads(raw)):
            raise NotFound
        return Answer(200, raw, (("ETag", f'W/"{self.versions[key]}"'),), age=self.age)

    def _search(self, principal: Principal, interaction: Interaction) -> Answer:
        params = {param.name: param.value for param in interaction.params}
        start = 0
        if interaction.page:
            start, params = json.loads(bytes.fromhex(interaction.page))
        found = [raw for (kind, _), raw in self.resources.items() if kind == interaction.type and self._matches(principal, json.loads(raw), params)]
        shown = found[start : start + self.page_size]
        link = []
        if len(found) > start + self.page_size:
            page = json.dumps([start + self.page_size, params]).encode().hex()
            link = [{"relation": "next", "url": f"http://gateway.test/fhir/clinic/{interaction.type}?_page={quote(page)}"}]
        entries = b",".join(b'{"resource":' + raw + b',"search":{"mode":"match"}}' for raw in shown)
        head = json.dumps({"resourceType": "Bundle", "type": "searchset", "link": link}).encode()[:-1]
        return Answer(200, head + b',"entry":[' + entries + b"]}" if shown else head + b"}", age=self.age)

    def _create(self, principal: Principal, interaction: Interaction) -> Answer:
        parsed = json.loads(interaction.body)
        for condition in interaction.conditions.if_none_exist:
            if found := [r for r in self._hers(principal, interaction.type) if self._matches(principal, r, {condition.name: condition.value})]:
                return Answer(200, location=f"{interaction.type}/{found[0]['id']}/_history/1")
        key = (interaction.type, interaction.id or f"new{len(self.resources)}")
        self._keep(key, interaction.body if "id" in parsed else b'{"id":"' + key[1].encode() + b'",' + interaction.body[1:])
        self._maybe_lose()
        return Answer(201, location=f"{key[0]}/{key[1]}/_history/1")

    def _update(self, principal: Principal, interaction: Interaction) -> Answer:
        key = (interaction.type, interaction.id)
        if key not in self.resources or not self._visible(principal, json.loads(self.resources[key])):
            raise NotFound
        if interaction.conditions.if_match != f'W/"{self.versions[key]}"':
            raise PreconditionFailed(reason="version-changed")
        self._keep(key, interaction.body)
        self._maybe_lose()
        return Answer(200, location=f"{key[0]}/{key[1]}/_history/{self.versions[key]}")

    def _keep(self, key: tuple[str, str], raw: bytes) -> None:
        self.resources[key] = raw
        self.versions[key] = self.versions.get(key, 0) + 1

    def _maybe_lose(self) -> None:
        if self.lose_answers:
            self.lose_answers -= 1
            raise OutcomeUnknown

    def _hers(self, principal: Principal, resource_type: str) -> list[dict[str, Any]]:
        return [resource for resource in self.of_type(resource_type) if self._visible(principal, resource)]

    def _visible(self, principal: Principal, resource: Mapping[str, Any]) -> bool:
        kind = resource["resourceType"]
        if kind in SHARED:
            return True
        if kind == "Patient":
            return resource["id"] == principal.patient
        return f'"Patient/{principal.patient}"' in json.dumps({name: resource[name] for name in OWNERS if name in resource})

    def _matches(self, principal: Principal, resource: Mapping[str, Any], params: Mapping[str, str]) -> bool:
        if not self._visible(principal, resource):
            return False
        if "_id" in params and resource["id"] not in params["_id"].split(","):
            return False
        if "identifier" in params and params["identifier"] not in _tokens(resource, "identifier", part="value"):
            return False
        return "code" not in params or params["code"] in _tokens(resource, "code", "coding")


def _tokens(resource: Mapping[str, Any], *path: str, part: str = "code") -> list[str]:
    """`system|code` of what stands at a path."""
    return [f"{text(item, 'system')}|{text(item, part)}" for item in many(resource, *path)]


def ref(target: str, display: str = "") -> dict[str, str]:
    """A Reference."""
    return {"reference": target} | ({"display": display} if display else {})


def words(text: str, *codes: str) -> dict[str, Any]:
    """A CodeableConcept with a text and codes of any system."""
    return {"text": text, "coding": [{"system": "http://example.test/codes", "code": code} for code in codes]}


def exact(number: str) -> str:
    """A number that stands in the stored bytes just as given here."""
    return f"§{number}§"


def lab(id_: str, name: str, value: bytes, when: str, more: bytes = b"", code: str = "", patient: str = "p1", category: str = "laboratory") -> bytes:
    """An Observation as bytes, so that its number stands exactly as given. `value` is the member `"valueQuantity": ...` and the like."""
    coding = f',"coding":[{{"system":"http://loinc.org","code":"{code}"}}]' if code else ""
    return (
        (
            f'{{"resourceType":"Observation","id":"{id_}","status":"final","category":[{{"coding":[{{"code":"{category}"}}]}}],'
            f'"code":{{"text":"{name}"{coding}}},"subject":{{"reference":"Patient/{patient}"}},"effectiveDateTime":"{when}",'
        ).encode()
        + b",".join(part for part in (value, more) if part)
        + b"}"
    )


def eob_total(code: str, value: str) -> dict[str, Any]:
    """One total of an ExplanationOfBenefit."""
    return {"category": words(code, code), "amount": {"value": exact(value), "currency": "USD"}}


def rich() -> Clinic:
    """Amina Shaw (p1) with something on every page, Leo (p3) whom she cares for, and B (p2) whom she may never see."""
    clinic = Clinic()
    clinic.put(*_people(), *_labs(), *_conditions(), *_medicines(), *_appointments(), *_messages(), *_bills(), *_accesses())
    return clinic


def _people() -> Iterable[dict[str, Any]]:
    yield {
        "resourceType": "Patient",
        "id": "p1",
        "name": [{"given": ["Amina"], "family": "Shaw"}],
        "birthDate": "1984-03-02",
        "gender": "female",
        "generalPractitioner": [ref("Practitioner/kim")],
        "managingOrganization": ref("Organization/mercy"),
    }
    yield {"resourceType": "Patient", "id": "p2", "name": [{"text": "Someone Else"}]}
    yield {"resourceType": "Patient", "id": "p3", "name": [{"text": "Leo Shaw"}], "birthDate": "2019-06-01"}
    yield {"resourceType": "Practitioner", "id": "kim", "name": [{"prefix": ["Dr"], "given": ["Hana"], "family": "Kim"}]}
    yield {"resourceType": "Practitioner", "id": "osei", "name": [{"text": "Kwame Osei, RN"}]}
    yield {"resourceType": "Organization", "id": "mercy", "name": "Mercy Clinic"}
    yield {"resourceType": "Organization", "id": "plan", "name": "Blue River Health Plan"}
    yield {"resourceType": "Location", "id": "north", "name": "Mercy Clinic, North building, room 4"}
    yield {
        "resourceType": "CareTeam",
        "id": "ct1",
        "status": "active",
        "name": "Diabetes care team",
        "subject": ref("Patient/p1"),
        "participant": [{"role": [words("Nurse")], "member": ref("Practitioner/osei")}, {"member": ref("Patient/p1")}],
    }


def _labs() -> Iterable[bytes | dict[str, Any]]:
    loinc_k, loinc_glu = "2823-3", "2345-7"
    yield lab(
        "k1",
        "Potassium",
        b'"valueQuantity":{"value":5.60,"unit":"mmol/L"}',
        "2026-11-20T08:15:00-05:00",
        b'"interpretation":[{"coding":[{"code":"H"}]}],"referenceRange":[{"low":{"value":3.5,"unit":"mmol/L"},"high":{"value":5.1,"unit":"mmol/L"}}]',
        loinc_k,
    )
    yield lab("k0", "Potassium", b'"valueQuantity":{"value":4.2,"unit":"mmol/L"}', "2026-05-02T09:00:00-04:00", code=loinc_k)
    yield lab(
        "cr1",
        "Creatinine",
        b'"valueQuantity":{"value":1.10,"unit":"mg/dL"}',
        "2026-11-20T08:15:00-05:00",
        b'"referenceRange":[{"text":"0.50 - 1.00 mg/dL","low":{"value":0.50,"unit":"mg/dL"},"high":{"value":1.00,"unit":"mg/dL"}}]',
    )
    yield lab("crp", "C-reactive protein", b'"valueQuantity":{"value":5,"comparator":"<","unit":"mg/L"}', "2026-11-20T08:15:00-05:00")
    yield lab(
        "glu",
        "Glucose",
        b'"valueQuantity":{"value":98,"unit":"mg/dL"}',
        "2026-11-21T07:00:00-05:00",
        b'"note":[{"text":"Fasting sample."}]',
        loinc_glu,
    )
    yield lab(
        "strep",
        "Rapid strep test",
        b'"valueCodeableConcept":{"text":"Not detected"}',
        "2026-09-02",
        b'"interpretation":[{"coding":[{"code":"NEG"}]}]',
    )
    yield lab("hiv", "Virus load", b'"dataAbsentReason":{"coding":[{"code":"not-performed"}]}', "2026-08-01")
    yield lab(
        "bp",
        "Blood pressure",
        b'"component":[{"code":{"text":"Upper number (systolic)"},"valueQuantity":{"value":128,"unit":"mmHg"}},'
        b'{"code":{"text":"Lower number (diastolic)"},"valueQuantity":{"value":82,"unit":"mmHg"}}]',
        "2026-11-20T08:00:00-05:00",
        category="vital-signs",
    )
    wrong = json.loads(lab("oops", "Troponin", b'"valueQuantity":{"value":9.99,"unit":"ng/mL"}', "2026-07-01"))
    yield {**wrong, "status": "entered-in-error"}
    yield lab("theirs", "Secret of B", b'"valueString":"B only"', "2026-11-21", patient="p2")
    yield {
        "resourceType": "DiagnosticReport",
        "id": "panel",
        "status": "preliminary",
        "category": [words("Laboratory", "LAB")],
        "code": words("Basic metabolic panel"),
        "subject": ref("Patient/p1"),
        "effectiveDateTime": "2026-11-20T08:15:00-05:00",
        "issued": "2026-11-20T14:00:00-05:00",
        "performer": [ref("Organization/mercy")],
        "result": [ref("Observation/k1"), ref("Observation/cr1"), ref("Observation/crp")],
        "conclusion": "Potassium is a little high. Repeat in two weeks.",
    }
    yield {
        "resourceType": "DiagnosticReport",
        "id": "xray",
        "status": "amended",
        "category": [words("Radiology", "RAD")],
        "code": words("Chest X-ray, two views"),
        "subject": ref("Patient/p1"),
        "effectiveDateTime": "2025-12-01",
        "conclusion": "No sign of pneumonia.",
        "presentedForm": [{"contentType": "text/plain", "data": "THVuZ3MgYXJlIGNsZWFyLgo=", "title": "Radiology report"}],
    }


def _conditions() -> Iterable[dict[str, Any]]:
    def condition(id_: str, name: str, status: str, **more: Any) -> dict[str, Any]:
        made = {"resourceType": "Condition", "id": id_, "code": words(name), "subject": ref("Patient/p1")} | more
        return made | ({"clinicalStatus": words("", status)} if status else {})

    yield condition("c1", "Type 2 diabetes", "active", onsetDateTime="2018-04", recordedDate="2018-04-20", severity=words("Moderate"))
    yield condition("c2", "Asthma in childhood", "resolved", onsetAge={"value": 6, "unit": "years"})
    yield condition("c3", "Back pain", "", recordedDate="2026-02-03", category=[words("", "encounter-diagnosis")])
    yield condition("c4", "Cough", "active", verificationStatus=words("", "provisional"), note=[{"text": "Check again in spring."}])
    yield condition("c5", "Gout", "active", verificationStatus=words("", "refuted"))


def _medicines() -> Iterable[dict[str, Any]]:
    yield {
        "resourceType": "MedicationRequest",
        "id": "mr1",
        "status": "active",
        "intent": "order",
        "medicationCodeableConcept": words("Metformin 500 mg tablet"),
        "subject": ref("Patient/p1"),
        "authoredOn": "2026-06-01",
        "requester": ref("Practitioner/kim"),
        "reasonCode": [words("Diabetes")],
        "dosageInstruction": [{"text": "Take 1 tablet every evening with food"}],
        "dispenseRequest": {"numberOfRepeatsAllowed": 3, "performer": ref("Organization/mercy")},
    }
    yield {
        "resourceType": "MedicationRequest",
        "id": "mr2",
        "status": "active",
        "intent": "order",
        "medicationReference": ref("Medication/salb"),
        "subject": ref("Patient/p1"),
        "dosageInstruction": [
            {
                "doseAndRate": [{"doseQuantity": {"value": 2, "unit": "puffs"}}],
                "timing": {"repeat": {"frequency": 4, "period": 1, "periodUnit": "d"}},
                "asNeededBoolean": True,
            }
        ],
        "dispenseRequest": {"numberOfRepeatsAllowed": 0},
    }
    yield {
        "resourceType": "MedicationRequest",
        "id": "mr3",
        "status": "stopped",
        "intent": "order",
        "medicationCodeableConcept": words("Lisinopril 10 mg tablet"),
        "subject": ref("Patient/p1"),
    }
    yield {"resourceType": "Medication", "id": "salb", "code": words("Salbutamol inhaler 100 micrograms")}
    for number, medicine in ((1, "mr1"), (2, "mr1"), (3, "mr2")):
        yield {
            "resourceType": "MedicationDispense",
            "id": f"md{number}",
            "status": "completed",
            "medicationCodeableConcept": words("x"),
            "subject": ref("Patient/p1"),
            "authorizingPrescription": [ref(f"MedicationRequest/{medicine}")],
            "whenHandedOver": f"2026-0{6 + number}-02T10:00:00-04:00",
            "daysSupply": {"value": 30, "unit": "days"},
        }


def _appointments() -> Iterable[dict[str, Any]]:
    def visit(id_: str, name: str, status: str, **more: Any) -> dict[str, Any]:
        return {
            "resourceType": "Appointment",
            "id": id_,
            "status": status,
            "serviceType": [words(name)],
            "participant": [{"actor": ref("Patient/p1"), "status": "accepted"}, {"actor": ref("Practitioner/kim"), "status": "accepted"}],
        } | more

    yield visit("a1", "Diabetes check-up", "booked", start="2026-12-01T09:00:00-05:00", end="2026-12-01T09:30:00-05:00", minutesDuration=30) | {
        "participant": [
            {"actor": ref("Patient/p1"), "status": "accepted"},
            {"actor": ref("Practitioner/kim"), "status": "accepted"},
            {"actor": ref("Location/north"), "status": "accepted"},
        ],
        "extension": [{"url": "http://example.test/fee", "valueDecimal": exact("1.50")}],
        "patientInstruction": "Do not eat for 8 hours before.",
    }
    yield visit("a2", "Eye check", "proposed", requestedPeriod=[{"start": "2026-12-01", "end": "2026-12-15"}], comment="Mornings only")
    yield visit("a3", "Flu shot", "fulfilled", start="2026-10-02T14:00:00Z", end="2026-10-02T14:10:00Z")
    yield visit("a4", "Foot check", "cancelled", start="2026-12-20T11:00:00-05:00", cancelationReason=words("Clinic closed"))


def _messages() -> Iterable[dict[str, Any]]:
    def message(id_: str, sender: str, text: str, sent: str, **more: Any) -> dict[str, Any]:
        return {
            "resourceType": "Communication",
            "id": id_,
            "status": "in-progress",
            "subject": ref("Patient/p1"),
            "sender": ref(sender),
            "sent": sent,
            "payload": [{"contentString": text}] if text else [],
            "recipient": [ref("CareTeam/ct1")],
        } | more

    yield message(
        "th1", "Patient/p1", "", "2026-11-20T15:00:00Z", topic=words("Question about metformin"), recipient=[ref("Patient/p1"), ref("CareTeam/ct1")]
    )
    yield message("m1", "Patient/p1", "Can I take it with food?", "2026-11-20T15:00:05Z", partOf=[ref("Communication/th1")], status="completed")
    yield message(
        "m2",
        "Practitioner/osei",
        "Yes, with your evening meal.\nTell us if your stomach hurts.",
        "2026-11-21T16:30:00Z",
        partOf=[ref("Communication/th1")],
        recipient=[ref("Patient/p1")],
        inResponseTo=[ref("Communication/m1")],
    )
    yield message("m9", "Practitioner/kim", "Your flu shot is due.", "2026-09-01T10:00:00Z", recipient=[ref("Patient/p1")], topic=words("Flu shot"))


def _bills() -> Iterable[dict[str, Any]]:
    yield {
        "resourceType": "ExplanationOfBenefit",
        "id": "eob1",
        "status": "active",
        "type": words("Office visit"),
        "use": "claim",
        "patient": ref("Patient/p1"),
        "created": "2026-10-20",
        "billablePeriod": {"start": "2026-10-02", "end": "2026-10-02"},
        "insurer": ref("Organization/plan"),
        "provider": ref("Organization/mercy"),
        "outcome": "complete",
        "claim": ref("Claim/cl1"),
        "total": [
            eob_total("submitted", "185.50"),
            eob_total("benefit", "120.25"),
            eob_total("discount", "40.25"),
            eob_total("memberliability", "25.00"),
        ],
        "item": [
            {
                "sequence": 1,
                "productOrService": words("Office visit, 20 minutes"),
                "servicedDate": "2026-10-02",
                "net": {"value": exact("150.50"), "currency": "USD"},
                "adjudication": [eob_total("benefit", "100.25"), eob_total("memberliability", "25.00")],
            },
            {
                "sequence": 2,
                "productOrService": words("Flu vaccine"),
                "servicedDate": "2026-10-02",
                "net": {"value": exact("35.00"), "currency": "USD"},
            },
        ],
    }
    for id_, day in (("cl1", "2026-10-02"), ("cl2", "2026-11-20")):
        yield {
            "resourceType": "Claim",
            "id": id_,
            "status": "active",
            "use": "claim",
            "type": words("Lab tests"),
            "patient": ref("Patient/p1"),
            "created": day,
            "provider": ref("Organization/mercy"),
            "insurer": ref("Organization/plan"),
            "total": {"value": exact("64.00"), "currency": "USD"},
            "item": [
                {"sequence": 1, "productOrService": words("Blood test, basic panel"), "unitPrice": {"value": exact("64.00"), "currency": "USD"}}
            ],
        }


def _accesses() -> Iterable[dict[str, Any]]:
    def event(number: int, action: str, who: dict[str, Any], name: str, what: dict[str, Any], outcome: str = "0") -> dict[str, Any]:
        return {
            "resourceType": "AuditEvent",
            "id": f"e{number}",
            "type": {"code": "rest"},
            "subtype": [{"code": action}],
            "recorded": f"2026-11-2{number % 2}T1{number}:05:00Z",
            "outcome": outcome,
            "agent": [{"who": who, "name": name, "requestor": True}],
            "source": {"observer": {"display": "gateway"}},
            "entity": [{"what": ref("Patient/p1")}, what],
        }

    observations = {"query": "T2JzZXJ2YXRpb24/cGF0aWVudD1wMQ=="}
    yield event(0, "search-type", ref("Patient/p1"), "Patient portal", observations)
    yield event(2, "search-type", ref("Patient/p1"), "Patient portal", observations)
    yield event(4, "read", ref("Practitioner/kim"), "Mercy desk", {"what": ref("Observation/k1")})
    yield event(1, "create", {"identifier": {"value": "lab-1"}}, "City Lab", {"what": ref("Observation/k1")})
    yield event(3, "search-type", ref("Patient/p1"), "Fitness app", {"query": "Q29uZGl0aW9uP3BhdGllbnQ9cDE="}, "4")
