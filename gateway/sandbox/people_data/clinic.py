"""Alder Street Clinic: its organizations, places and staff, which everybody's records refer to."""

from __future__ import annotations

from datetime import date

from gateway.sandbox.people_data.build import Folder, name, to
from gateway.sandbox.people_data.codes import CLINIC, RXNORM, concept, hl7, words

STAFF = (
    ("hana-novak", "Hana", "Novák", "Dr.", "Family medicine", "female"),
    ("ibrahim-diallo", "Ibrahim", "Diallo", "Dr.", "Cardiology", "male"),
    ("ruth-abelsen", "Ruth", "Abelsen", "", "Nursing", "female"),
    ("mei-lin-cho", "Mei-Lin", "Cho", "Dr.", "Pediatrics", "female"),
    ("gabriel-ortega", "Gabriel", "Ortega", "", "Dietetics", "male"),
)
"""Id, given name, family name, title, specialty, gender."""


def clinic(today: date) -> Folder:
    """What is nobody's record: it goes in first."""
    folder = Folder(today, "Alder Street Clinic")
    _organizations(folder)
    _places(folder)
    for id_, given, family, prefix, specialty, gender in STAFF:
        _staff(folder, id_, given, family, prefix, specialty, gender)
    _medications(folder)
    return folder


def _organizations(folder: Folder) -> None:
    kinds = {"prov": "Healthcare Provider", "pay": "Payer", "other": "Other"}
    for id_, title, kind, phone in (
        ("alder-street-clinic", "Alder Street Clinic", "prov", "+1-555-0100"),
        ("alder-street-lab", "Alder Street Laboratory", "prov", "+1-555-0110"),
        ("juniper-pharmacy", "Juniper Pharmacy", "other", "+1-555-0120"),
        ("larkspur-health", "Larkspur Health Plan", "pay", "+1-555-0130"),
    ):
        folder.add(
            "Organization",
            id_,
            {
                "identifier": [{"system": f"{CLINIC}organization", "value": id_}],
                "active": True,
                "type": [hl7("organization-type", kind, kinds[kind])],
                "name": title,
                "telecom": [{"system": "phone", "value": phone, "use": "work"}],
                "address": [{"line": ["12 Alder Street"], "city": "Maplewick", "postalCode": "00501", "country": "US"}],
            },
        )


def _places(folder: Folder) -> None:
    clinic_reference = to("Organization/alder-street-clinic", "Alder Street Clinic")
    for id_, title, line in (
        ("alder-street-main", "Alder Street Clinic, main building", "12 Alder Street"),
        ("alder-street-lab-desk", "Blood draw desk, ground floor", "14 Alder Street"),
        ("alder-street-children", "Children's rooms, second floor", "12 Alder Street"),
    ):
        folder.add(
            "Location",
            id_,
            {
                "status": "active",
                "name": title,
                "mode": "instance",
                "address": {"line": [line], "city": "Maplewick", "postalCode": "00501", "country": "US"},
                "managingOrganization": clinic_reference,
            },
        )


def _staff(folder: Folder, id_: str, given: str, family: str, prefix: str, specialty: str, gender: str) -> None:
    person = name(given, family, prefix=prefix)
    folder.add(
        "Practitioner",
        id_,
        {"identifier": [{"system": f"{CLINIC}staff", "value": id_}], "active": True, "name": person, "gender": gender},
    )
    folder.add(
        "PractitionerRole",
        f"{id_}-role",
        {
            "active": True,
            "practitioner": to(f"Practitioner/{id_}", person[0]["text"]),
            "organization": to("Organization/alder-street-clinic", "Alder Street Clinic"),
            "code": [words(specialty)],
            "specialty": [words(specialty)],
            "location": [to("Location/alder-street-main")],
        },
    )


def _medications(folder: Folder) -> None:
    """Medicines that prescriptions name by reference."""
    folder.add(
        "Medication",
        "levothyroxine-50",
        {"code": {"coding": [{"system": f"{CLINIC}formulary", "code": "LEV50"}], "text": "Levothyroxine 50 microgram tablet"}, "status": "active"},
    )
    folder.add(
        "Medication",
        "warfarin-5",
        {"code": concept(RXNORM, "855332", "warfarin sodium 5 MG Oral Tablet", "Warfarin 5 mg tablet"), "status": "active"},
    )
