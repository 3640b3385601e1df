"""The record that the three jobs are done on: one patient with a little of everything, and another of whom nothing may ever be seen."""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import msgspec

from tests.support.two_people import LAB

LOINC, UCUM = "http://loinc.org", "http://unitsofmeasure.org"
CODES = "http://terminology.hl7.org/CodeSystem"
encode = msgspec.json.Encoder(decimal_format="number").encode
"""Decimals are written as they are: `1.10`."""


def quantity(value: str, unit: str = "mg/dL", **more: Any) -> dict[str, Any]:
    return {"value": Decimal(value), "unit": unit, "system": UCUM, "code": unit} | more


def money(value: str) -> dict[str, Any]:
    return {"value": Decimal(value), "currency": "USD"}


def coded(system: str, code: str) -> dict[str, Any]:
    return {"coding": [{"system": system, "code": code}]}


def moment(days: int, hour: int = 10) -> str:
    """So many days from today, with a time zone."""
    return (datetime.now(UTC).replace(hour=hour, minute=0, second=0, microsecond=0) + timedelta(days=days)).isoformat(timespec="seconds")


@dataclass(frozen=True)
class Record:
    """Ids of one run, so that many share an EHR. `a` is the patient, `b` the other one; every value of `b` holds the canary."""

    tag: str = field(default_factory=lambda: secrets.token_hex(4))

    @property
    def a(self) -> str:
        return self.id("ann")

    @property
    def b(self) -> str:
        return self.id("ben")

    @property
    def child(self) -> str:
        return self.id("kid")

    @property
    def canary(self) -> str:
        return f"canary{self.tag}"

    @property
    def ann(self) -> dict[str, str]:
        return {"reference": f"Patient/{self.a}"}

    def id(self, name: str) -> str:
        return f"{name}-{self.tag}"

    def ref(self, kind: str, name: str) -> dict[str, str]:
        return {"reference": f"{kind}/{self.id(name)}"}

    def result(self, name: str, text: str, *, days: int = -3, status: str = "final", **more: Any) -> dict[str, Any]:
        """A laboratory result of the patient."""
        return {
            "resourceType": "Observation",
            "id": self.id(name),
            "status": status,
            "category": [LAB],
            "code": {"text": text},
            "subject": self.ann,
            "effectiveDateTime": moment(days),
        } | more

    def results(self) -> list[dict[str, Any]]:
        """What laboratories send: numbers with their zeros, comparators, words, and what is not final."""
        band, high = {"low": quantity("0.50"), "high": quantity("1.00")}, coded(f"{CODES}/v3-ObservationInterpretation", "H")
        upper = {"high": quantity("4.20", "mIU/L")}
        return [
            self.result("creatinine", "Creatinine", valueQuantity=quantity("1.10"), referenceRange=[band], interpretation=[high]),
            self.result("crp", "C-reactive protein", valueQuantity=quantity("5", "mg/L", comparator="<"), referenceRange=[{"text": "under 10"}]),
            self.result("screen", "Birch pollen screen", valueString="Class 2: moderate", referenceRange=[{"text": "Class 0"}]),
            self.result("nitrite", "Nitrite in urine", valueCodeableConcept={"text": "Not detected"}),
            self.result("culture", "Blood culture", status="preliminary", valueString="No growth after 24 hours"),
            self.result("ferritin", "Ferritin", status="amended", valueQuantity=quantity("48.0", "ng/mL")),
            self.result("tsh", "Thyroid hormone", status="corrected", valueQuantity=quantity("0.0010", "mIU/L"), referenceRange=[upper]),
        ]  # fmt: skip

    def resources(self) -> list[dict[str, Any]]:
        """Everything, in an order that keeps references whole."""
        return [*self._clinic(), *self._people(), *self.results(), *self._care(), *self._visits(), *self._thread(), *self._money(), *self._other()]

    def _clinic(self) -> list[dict[str, Any]]:
        return [
            {"resourceType": "Organization", "id": self.id("clinic"), "name": "Larch Clinic"},
            {"resourceType": "Practitioner", "id": self.id("doctor"), "name": [{"text": "Dr. Ida Lund"}]},
        ]

    def _people(self) -> list[dict[str, Any]]:
        doctor, clinic = [self.ref("Practitioner", "doctor")], self.ref("Organization", "clinic")
        ann = {"name": [{"text": "Ann Aster"}], "birthDate": "1970-05-06", "generalPractitioner": doctor, "managingOrganization": clinic}
        ben = {"name": [{"text": self.canary}], "identifier": [{"system": "urn:mrn", "value": self.canary}]}
        child = {"name": [{"text": "Kit Aster"}], "birthDate": "2019-01-02"}
        return [{"resourceType": "Patient", "id": id_} | more for id_, more in ((self.a, ann), (self.b, ben), (self.child, child))]

    def _care(self) -> list[dict[str, Any]]:
        clinical = f"{CODES}/condition-clinical"
        order = {"resourceType": "MedicationRequest", "status": "active", "intent": "order", "subject": self.ann}
        tablet = {"authoredOn": moment(-30), "requester": self.ref("Practitioner", "doctor")}
        return [
            {"resourceType": "Condition", "id": self.id("asthma"), "subject": self.ann, "code": {"text": "Asthma"}}
            | {"clinicalStatus": coded(clinical, "active"), "onsetDateTime": "2015-04"},
            {"resourceType": "Condition", "id": self.id("pneumonia"), "subject": self.ann, "code": {"text": "Pneumonia"}}
            | {"clinicalStatus": coded(clinical, "resolved"), "abatementDateTime": "2020-02-03"},
            *(
                order | tablet | {"id": self.id(name), "medicationCodeableConcept": {"text": text}, "dosageInstruction": [{"text": how}]}
                for name, text, how in (
                    ("metformin", "Metformin 500 mg tablet", "Take 1 tablet every evening with food"),
                    ("inhaler", "Salbutamol inhaler", "2 puffs when you wheeze"),
                )
            ),
        ]

    def visit(self, name: str, status: str, days: int | None, what: str) -> dict[str, Any]:
        """An appointment; without `days` it has no time yet."""
        times = {} if days is None else {"start": moment(days, 10), "end": moment(days, 11)}
        who = [{"actor": self.ann, "status": "accepted"}, {"actor": self.ref("Practitioner", "doctor"), "status": "accepted"}]
        return {"resourceType": "Appointment", "id": self.id(name), "status": status, "serviceType": [{"text": what}], "participant": who} | times

    def _visits(self) -> list[dict[str, Any]]:
        return [
            self.visit("checkup", "booked", 9, "Yearly check-up"),
            self.visit("dressing", "booked", 12, "Change of dressing"),
            self.visit("eyes", "fulfilled", -40, "Eye photograph"),
        ]

    def message(self, name: str, text: str, *, days: int = -2, **more: Any) -> dict[str, Any]:
        """What the doctor wrote."""
        return {
            "resourceType": "Communication",
            "id": self.id(name),
            "status": "completed",
            "subject": self.ann,
            "sender": self.ref("Practitioner", "doctor"),
            "recipient": [self.ann],
            "sent": moment(days),
            "payload": [{"contentString": text}],
        } | more

    def _thread(self) -> list[dict[str, Any]]:
        header = self.message("thread", "", topic={"text": "Your new inhaler"}) | {
            "status": "in-progress",
            "recipient": [self.ann, self.ref("Practitioner", "doctor")],
        }
        del header["payload"]
        part = [self.ref("Communication", "thread")]
        return [header, self.message("first", "How do you get on with the new inhaler?", partOf=part)]

    def _money(self) -> list[dict[str, Any]]:
        common = {"status": "active", "use": "claim", "patient": self.ann, "type": coded(f"{CODES}/claim-type", "professional")}
        payor = {"payor": [self.ref("Organization", "plan")]}
        insurance = [{"focal": True, "coverage": self.ref("Coverage", "coverage")}]
        claim = common | {"insurance": [one | {"sequence": 1} for one in insurance], "priority": {"text": "normal"}, "created": moment(-20)}
        claim |= {"provider": self.ref("Organization", "clinic")}
        decided = {"outcome": "complete", "insurer": self.ref("Organization", "plan"), "provider": self.ref("Organization", "clinic")}
        totals = [
            {"category": coded(f"{CODES}/adjudication", code), "amount": money(amount)}
            for code, amount in (("submitted", "180.00"), ("benefit", "150.50"))
        ]
        owed = {"category": coded("http://hl7.org/fhir/us/carin-bb/CodeSystem/C4BBAdjudication", "memberliability"), "amount": money("29.50")}
        return [
            {"resourceType": "Organization", "id": self.id("plan"), "name": "Larkspur Health"},
            {"resourceType": "Coverage", "id": self.id("coverage"), "status": "active", "beneficiary": self.ann} | payor,
            {"resourceType": "Claim", "id": self.id("claim")} | claim | {"total": money("180.00")},
            {"resourceType": "Claim", "id": self.id("open")} | claim | {"total": money("95.10")},
            {"resourceType": "ExplanationOfBenefit", "id": self.id("benefit"), "created": moment(-10), "claim": self.ref("Claim", "claim")}
            | common | decided | {"insurance": insurance, "total": [*totals, owed]},
        ]  # fmt: skip

    def _other(self) -> list[dict[str, Any]]:
        """Of the other patient."""
        ben = {"reference": f"Patient/{self.b}"}
        return [
            self.result("ben-lab", self.canary, subject=ben, valueString=self.canary),
            self.message("ben-message", self.canary, subject=ben, recipient=[ben]),
            self.visit("ben-visit", "booked", 5, self.canary) | {"participant": [{"actor": ben, "status": "accepted"}]},
        ]
