"""Code systems and the laboratory's catalogue: LOINC, SNOMED CT, RxNorm and UCUM codes with the words a clinic uses for them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

LOINC = "http://loinc.org"
SNOMED = "http://snomed.info/sct"
RXNORM = "http://www.nlm.nih.gov/research/umls/rxnorm"
UCUM = "http://unitsofmeasure.org"
ICD10 = "http://hl7.org/fhir/sid/icd-10-cm"
HL7 = "http://terminology.hl7.org/CodeSystem/"
CLINIC = "https://alderstreet.example/"
"""The made-up clinic's own systems: record numbers, local codes, order numbers."""

UNITS = {
    "mmHg": "mm[Hg]",
    "µmol/L": "umol/L",
    "10³/µL": "10*3/uL",
    "10⁶/µL": "10*6/uL",
    "µg/L": "ug/L",
    "µg/dL": "ug/dL",
    "mU/L": "m[IU]/L",
    "U/L": "U/L",
    "°C": "Cel",
    "mL/min/1.73 m²": "mL/min/{1.73_m2}",
    "kg/m²": "kg/m2",
    "beats/min": "/min",
    "breaths/min": "/min",
    "tablet": "{tbl}",
    "capsule": "{capsule}",
    "puff": "{puff}",
    "INR": "{INR}",
    "/HPF": "/[HPF]",
    "years": "a",
    "days": "d",
}
"""Units whose UCUM code is not what people read."""


@dataclass(frozen=True, slots=True)
class Test:
    """One line of the laboratory's catalogue: LOINC code, name, unit and the usual range (`low` and `high` as written, "" is open)."""

    __test__ = False  # pytest: not a test

    loinc: str
    name: str
    unit: str = ""
    low: str = ""
    high: str = ""
    range_text: str = ""


TESTS = {
    "a1c": Test("4548-4", "Hemoglobin A1c", "%", "4.0", "5.6", "4.0 to 5.6 %; goal with diabetes: under 7.0 %"),
    "glucose": Test("2345-7", "Glucose, fasting", "mg/dL", "70", "99"),
    "glucose-si": Test("14749-6", "Glucose, fasting", "mmol/L", "3.9", "5.5"),
    "creatinine": Test("2160-0", "Creatinine", "mg/dL", "0.60", "1.10"),
    "egfr": Test("62238-1", "Estimated kidney function (eGFR)", "mL/min/1.73 m²", "60"),
    "urea": Test("3094-0", "Urea nitrogen (BUN)", "mg/dL", "7", "20"),
    "sodium": Test("2951-2", "Sodium", "mmol/L", "135", "145"),
    "potassium": Test("2823-3", "Potassium", "mmol/L", "3.5", "5.1"),
    "chloride": Test("2075-0", "Chloride", "mmol/L", "98", "107"),
    "bicarbonate": Test("2028-9", "Carbon dioxide (bicarbonate)", "mmol/L", "22", "29"),
    "calcium": Test("17861-6", "Calcium", "mg/dL", "8.6", "10.3"),
    "tsh": Test("3016-3", "Thyroid stimulating hormone (TSH)", "mU/L", "0.40", "4.00"),
    "free-t4": Test("3024-7", "Free thyroxine (free T4)", "ng/dL", "0.80", "1.80"),
    "cholesterol": Test("2093-3", "Total cholesterol", "mg/dL", "", "200", "under 200 is desirable"),
    "hdl": Test("2085-9", "HDL cholesterol", "mg/dL", "50"),
    "ldl": Test("13457-7", "LDL cholesterol, calculated", "mg/dL", "", "100", "under 100; under 70 with diabetes"),
    "triglycerides": Test("2571-8", "Triglycerides", "mg/dL", "", "150"),
    "hemoglobin": Test("718-7", "Hemoglobin", "g/dL", "12.0", "15.5"),
    "hematocrit": Test("4544-3", "Hematocrit", "%", "36.0", "46.0"),
    "red-cells": Test("789-8", "Red blood cells", "10⁶/µL", "3.80", "5.10"),
    "mcv": Test("787-2", "Red cell size (MCV)", "fL", "80.0", "96.0"),
    "white-cells": Test("6690-2", "White blood cells", "10³/µL", "4.0", "11.0"),
    "platelets": Test("777-3", "Platelets", "10³/µL", "150", "400"),
    "alt": Test("1742-6", "ALT (liver)", "U/L", "7", "35"),
    "ast": Test("1920-8", "AST (liver)", "U/L", "8", "33"),
    "bilirubin": Test("1975-2", "Bilirubin, total", "mg/dL", "0.2", "1.2"),
    "albumin": Test("1751-7", "Albumin", "g/dL", "3.5", "5.0"),
    "crp": Test("1988-5", "C-reactive protein (CRP)", "mg/L", "", "5"),
    "b12": Test("2132-9", "Vitamin B12", "pg/mL", "200", "900"),
    "vitamin-d": Test("1989-3", "Vitamin D (25-hydroxy)", "ng/mL", "30.0", "100.0"),
    "urine-albumin": Test("9318-7", "Albumin to creatinine ratio, urine", "mg/g", "", "30"),
    "inr": Test("6301-6", "INR (clotting time)", "INR", "2.0", "3.0", "goal 2.0 to 3.0"),
    "bnp": Test("33762-6", "NT-proBNP (heart strain)", "pg/mL", "", "450"),
    "lead": Test("5671-3", "Lead, blood", "µg/dL", "", "3.5"),
}
"""What the laboratory measures, by the key that the people's modules use."""

PANELS = {
    "cbc": ("58410-2", "Complete blood count", ("hemoglobin", "hematocrit", "red-cells", "mcv", "white-cells", "platelets")),
    "lipids": ("24331-1", "Cholesterol panel", ("cholesterol", "hdl", "ldl", "triglycerides")),
    "metabolic": (
        "24321-2",
        "Basic metabolic panel",
        ("glucose", "urea", "creatinine", "egfr", "sodium", "potassium", "chloride", "bicarbonate", "calcium"),
    ),
    "liver": ("24325-3", "Liver panel", ("alt", "ast", "bilirubin", "albumin")),
    "thyroid": ("24348-5", "Thyroid tests", ("tsh", "free-t4")),
    "electrolytes": ("24326-1", "Electrolytes", ("sodium", "potassium", "chloride", "bicarbonate")),
}
"""Panels: LOINC code, name, and the tests in the order that the laboratory prints them."""


def coding(system: str, code: str, display: str = "") -> dict[str, Any]:
    """A Coding."""
    return {"system": system, "code": code} | ({"display": display} if display else {})


def concept(system: str, code: str, display: str, text: str = "") -> dict[str, Any]:
    """A CodeableConcept with one coding; `text` is what the clinic calls it."""
    return {"coding": [coding(system, code, display)], "text": text or display}


def words(text: str) -> dict[str, Any]:
    """A CodeableConcept that nobody has coded."""
    return {"text": text}


def hl7(system: str, code: str, display: str = "") -> dict[str, Any]:
    """A CodeableConcept of one of HL7's own small systems, without text."""
    return {"coding": [coding(HL7 + system, code, display)]}
