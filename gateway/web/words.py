"""Scopes in words that a patient understands, for the consent page and the list of connected apps. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime

from gateway.smart.scopes import Scope, parse_scope

CONTEXT: Mapping[str, str] = {
    "openid": "Know that you signed in, and with which account",
    "fhirUser": "Know who you are at your clinic",
    "profile": "Know who you are at your clinic",
    "launch": "Know which patient was open when it was started",
    "launch/patient": "Know whose record you chose here",
    "offline_access": "Keep this access when you are not using the app",
    "online_access": "Keep this access until you sign out here",
}

TYPES: Mapping[str, str] = {
    "*": "all kinds of records",
    "AllergyIntolerance": "allergies and intolerances",
    "Appointment": "appointments",
    "AuditEvent": "who looked at the record",
    "Binary": "files that belong to documents",
    "CarePlan": "care plans",
    "CareTeam": "the care team",
    "Claim": "bills sent to insurers",
    "Communication": "messages",
    "CommunicationRequest": "reminders",
    "Condition": "conditions and diagnoses",
    "Consent": "consents",
    "Coverage": "insurance",
    "Device": "devices and implants",
    "DiagnosticReport": "test reports",
    "DocumentReference": "documents and notes",
    "Encounter": "visits",
    "ExplanationOfBenefit": "what insurance paid",
    "Goal": "goals",
    "Immunization": "vaccinations",
    "Invoice": "invoices",
    "Location": "places of care",
    "Medication": "medicines",
    "MedicationAdministration": "medicines that were given",
    "MedicationDispense": "medicines that were handed out",
    "MedicationRequest": "prescriptions",
    "MedicationStatement": "medicines that are taken",
    "Observation": "test results, vital signs and other observations",
    "Organization": "clinics and other organizations",
    "Patient": "name, birth date, address and contacts",
    "Practitioner": "doctors and other staff",
    "PractitionerRole": "roles of staff",
    "Procedure": "procedures",
    "Provenance": "where entries come from",
    "QuestionnaireResponse": "answers to questionnaires",
    "RelatedPerson": "family and other contacts",
    "Schedule": "schedules",
    "ServiceRequest": "orders and referrals",
    "Slot": "free appointment times",
    "Specimen": "samples",
    "Task": "requests and their progress",
}
_WHOSE = {"patient": "", "user": ", of everyone whose record you may open"}


def day_words(at: datetime) -> str:
    """A day as people write it: 5 March 2027."""
    return f"{at.day} {at:%B %Y}"


def scope_words(text: str) -> str:
    """One scope as a short phrase: "See and change appointments"."""
    scope = parse_scope(text)
    if scope is None:
        return CONTEXT.get(text, text)
    words = f"{_doing(scope)} {type_words(scope.type)}"
    return words + _WHOSE.get(scope.level, "")


def grant_words(scopes: Iterable[str]) -> list[str]:
    """What a grant lets an app do with records, one phrase for each clinical scope."""
    found = [scope for text in scopes if (scope := parse_scope(text)) is not None]
    return [scope_words(str(scope)) + (f": only {condition_words(scope)}" if scope.query else "") for scope in found]


def type_words(resource_type: str) -> str:
    """A resource type in words; its FHIR name where we have none better."""
    return TYPES.get(resource_type, f"{resource_type} entries")


def condition_words(scope: Scope) -> str:
    """What a granular scope is limited to, as far as it can be said: "vital signs"."""
    return ", ".join(value.rpartition("|")[2].replace("-", " ") for _, value in scope.query)


def _doing(scope: Scope) -> str:
    doing = ["see"] if set("rs") & set(scope.letters) else []
    doing += [word for letter, word in (("c", "add"), ("u", "change"), ("d", "delete")) if letter in scope.letters]
    text = " and ".join(part for part in (", ".join(doing[:-1]), doing[-1]) if part)
    return text[:1].upper() + text[1:]
