"""The package's EHR double as a process of its own, with one patient and Observations of 3 kB. `python -m bench.ehr PORT`."""

from __future__ import annotations

import sys
from typing import Any

import uvicorn

from gateway.sandbox.double import Double

PATIENT = "bench-p"
OBSERVATIONS = 10
LAB = {"coding": [{"system": "http://terminology.hl7.org/CodeSystem/observation-category", "code": "laboratory"}]}


def resources() -> list[dict[str, Any]]:
    """What the bench reads, in an order that keeps references whole."""
    return [{"resourceType": "Patient", "id": PATIENT, "name": [{"family": "Bench"}]}, *(_observation(n) for n in range(OBSERVATIONS))]


def _observation(number: int) -> dict[str, Any]:
    components = [
        {
            "code": {"coding": [{"system": "http://loinc.org", "code": f"{place}-{number}", "display": f"Measured thing number {place}"}]},
            "valueQuantity": {"value": place + 0.5, "unit": "mmol/L", "system": "http://unitsofmeasure.org", "code": "mmol/L"},
        }
        for place in range(12)
    ]
    return {
        "resourceType": "Observation",
        "id": f"bench-o{number}",
        "status": "final",
        "category": [LAB],
        "code": {"coding": [{"system": "http://loinc.org", "code": "24323-8"}], "text": "Comprehensive metabolic panel"},
        "subject": {"reference": f"Patient/{PATIENT}"},
        "effectiveDateTime": f"2026-01-{number + 1:02}T08:00:00Z",
        "component": components,
    }


def main() -> None:
    """Serve until it is ended."""
    double = Double()
    double.seed(*resources())
    double.requests = _Forgotten()
    uvicorn.run(double, host="127.0.0.1", port=int(sys.argv[1]), log_level="critical", lifespan="off", ws="none", loop="uvloop", http="httptools")


class _Forgotten(list[Any]):
    """Keeps nothing: a bench asks a hundred thousand times."""

    def append(self, item: Any) -> None:
        """Forget it."""


if __name__ == "__main__":
    main()
