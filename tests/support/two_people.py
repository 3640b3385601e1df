"""Two people in one EHR: A, whose token is used, and B, of whom nothing may ever be seen. B's every value holds the canary."""

from __future__ import annotations

import json
import secrets
from dataclasses import dataclass, field
from typing import Any

import httpx

LAB = {"coding": [{"system": "http://terminology.hl7.org/CodeSystem/observation-category", "code": "laboratory"}]}
VITAL = {"coding": [{"system": "http://terminology.hl7.org/CodeSystem/observation-category", "code": "vital-signs"}]}


@dataclass(frozen=True)
class Two:
    """Ids for one test, so that many tests share an EHR."""

    tag: str = field(default_factory=lambda: secrets.token_hex(4))

    @property
    def a(self) -> str:
        return f"pa-{self.tag}"

    @property
    def b(self) -> str:
        return f"pb-{self.tag}"

    @property
    def canary(self) -> str:
        return f"canary{self.tag}"

    def id(self, name: str) -> str:
        return f"{name}-{self.tag}"

    def resources(self, *, with_b: bool = True, large: int = 0) -> list[dict[str, Any]]:
        """What goes into the EHR, in an order that keeps references whole."""
        shared = [
            {"resourceType": "Organization", "id": self.id("org"), "name": "Clinic"},
            {"resourceType": "Practitioner", "id": self.id("prac"), "name": [{"family": "Kim"}]},
            {"resourceType": "Medication", "id": self.id("med"), "code": {"text": "metformin"}},
        ]
        return shared + self._of(self.a, "a", "Ann", large=0) + (self._of(self.b, "b", self.canary, large=large) if with_b else [])

    def _of(self, patient: str, who: str, word: str, *, large: int) -> list[dict[str, Any]]:
        subject = {"reference": f"Patient/{patient}"}
        code = {"coding": [{"system": "http://loinc.org", "code": "2345-7"}], "text": word}
        note = [{"text": word + "x" * large}]
        return [
            {
                "resourceType": "Patient",
                "id": patient,
                "identifier": [{"system": "urn:mrn", "value": f"mrn-{patient}"}],
                "name": [{"family": word, "given": [word]}],
                "birthDate": "1970-01-01" if who == "a" else "1980-02-02",
            },
            {"resourceType": "Observation", "id": self.id(f"lab-{who}"), "status": "final", "category": [LAB], "code": code, "subject": subject}
            | {"valueQuantity": {"value": 1, "unit": "g"}, "note": note},
            {"resourceType": "Observation", "id": self.id(f"vital-{who}"), "status": "final", "category": [VITAL], "code": code, "subject": subject},
            {"resourceType": "Condition", "id": self.id(f"cond-{who}"), "code": {"text": word}, "subject": subject},
            {"resourceType": "MedicationRequest", "id": self.id(f"mr-{who}"), "status": "active", "intent": "order", "subject": subject}
            | {"medicationReference": {"reference": f"Medication/{self.id('med')}"}},
            {"resourceType": "Communication", "id": self.id(f"com-{who}"), "status": "in-progress", "subject": subject, "sender": subject}
            | {"payload": [{"contentString": word}]},
            {"resourceType": "Provenance", "id": self.id(f"prov-{who}"), "recorded": "2026-01-01T00:00:00Z"}
            | {
                "target": [{"reference": f"Observation/{self.id(f'lab-{who}')}"}],
                "agent": [{"who": {"reference": f"Practitioner/{self.id('prac')}", "display": word}}],
            },
        ]


def load(base_url: str, resources: list[dict[str, Any]], headers: dict[str, str] | None = None) -> None:
    """PUT them into an EHR."""
    with httpx.Client(base_url=base_url, timeout=30, headers=headers, trust_env=False) as http:
        for resource in resources:
            body = json.dumps(resource)
            answer = http.put(f"/{resource['resourceType']}/{resource['id']}", content=body, headers={"Content-Type": "application/fhir+json"})
            assert answer.status_code in (200, 201), answer.text
