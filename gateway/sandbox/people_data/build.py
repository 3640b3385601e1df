"""A person's chart, written line by line: each method adds one resource (or a few that belong together) and gives back its reference.

Times are counted in days from `today`, so that a coming appointment is one on whatever day the sandbox is made; everything else is fixed.
Numbers are given as text and kept as Decimal, so that `1.10` is written as `1.10`.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from datetime import date, timedelta
from decimal import Decimal
from typing import Any
from zlib import crc32

from gateway.sandbox.people_data.codes import (
    CLINIC,
    HL7,
    LOINC,
    PANELS,
    SNOMED,
    TESTS,
    UCUM,
    UNITS,
    Test,
    coding,
    concept,
    hl7,
    words,
)

Resource = dict[str, Any]
Reference = dict[str, Any]

OFFSET = "-05:00"
"""The clinic's place keeps one time all year."""
_COMPARATORS = ("<=", ">=", "<", ">")
LAB = "Organization/alder-street-lab"


def quantity(text: str, unit: str = "") -> dict[str, Any]:
    """A Quantity from what the laboratory writes: `1.10`, `<5`, `>90`."""
    comparator = next((sign for sign in _COMPARATORS if text.startswith(sign)), "")
    found: dict[str, Any] = {"value": Decimal(text.removeprefix(comparator))}
    if comparator:
        found["comparator"] = comparator
    if unit:
        found |= {"unit": unit, "system": UCUM, "code": UNITS.get(unit, unit)}
    return found


def money(text: str) -> dict[str, Any]:
    """US dollars."""
    return {"value": Decimal(text), "currency": "USD"}


def to(reference: str, display: str = "") -> Reference:
    """A Reference."""
    return {"reference": reference} | ({"display": display} if display else {})


def usual_range(test: Test) -> dict[str, Any]:
    """The laboratory's range of a test, empty when it has none."""
    found: dict[str, Any] = {}
    if test.low:
        found["low"] = quantity(test.low, test.unit)
    if test.high:
        found["high"] = quantity(test.high, test.unit)
    if test.range_text:
        found["text"] = test.range_text
    return found


def flag_of(text: str, test: Test) -> str:
    """The laboratory's own flag: H, L, N, or "" where it has no range."""
    value = Decimal(text.lstrip("<>="))
    if test.low and value < Decimal(test.low):
        return "L"
    if test.high and value > Decimal(test.high):
        return "H"
    return "N" if test.low or test.high else ""


_FLAGS = {"H": "High", "L": "Low", "N": "Normal", "HH": "Critical high", "LL": "Critical low", "A": "Abnormal"}


def interpretation(flag: str) -> list[dict[str, Any]]:
    """Observation.interpretation."""
    return [hl7("v3-ObservationInterpretation", flag, _FLAGS[flag])]


class Clock:
    """Dates and times counted from the day on which the sandbox is made."""

    def __init__(self, today: date) -> None:
        self.today = today

    def day(self, days: int) -> str:
        """The date `days` from today; the past is negative."""
        return (self.today + timedelta(days=days)).isoformat()

    def time(self, days: int, clock: str = "09:00") -> str:
        """A dateTime at the clinic, `clock` as HH:MM or HH:MM:SS."""
        return f"{self.day(days)}T{clock}{':00' if len(clock) == 5 else ''}{OFFSET}"

    def open_day(self, days: int) -> int:
        """The nearest weekday, away from today: a clinic is closed at the weekend."""
        step = 1 if days > 0 else -1
        while (self.today + timedelta(days=days)).weekday() > 4:
            days += step
        return days

    def born(self, age: int, month_day: str) -> str:
        """The birth date of someone who is `age` today."""
        year = self.today.year - age
        return f"{year if month_day <= self.today.strftime('%m-%d') else year - 1}-{month_day}"


class Folder(Clock):
    """A list of resources that are loaded together, in an order in which references point back as far as that is possible."""

    def __init__(self, today: date, title: str) -> None:
        super().__init__(today)
        self.title = title
        self.resources: list[Resource] = []

    def add(self, resource_type: str, id_: str, content: Mapping[str, Any]) -> str:
        """Add a resource. Members that are None or empty are left out (FHIR R4 2.6.2: no empty elements)."""
        kept = {name: value for name, value in content.items() if value not in (None, "", [], {})}
        self.resources.append({"resourceType": resource_type, "id": id_, **kept})
        return f"{resource_type}/{id_}"


class Chart(Folder):
    """One patient's folder. Ids are `{patient}-{what}`."""

    def __init__(self, today: date, id_: str, title: str, patient: Mapping[str, Any], *, doctor: str = "hana-novak") -> None:
        super().__init__(today, title)
        self.id = id_
        self.patient = f"Patient/{id_}"
        self.doctor = f"Practitioner/{doctor}"
        number = sum(ord(letter) * (place + 7) for place, letter in enumerate(id_))
        self.add(
            "Patient",
            id_,
            {
                "identifier": [{"use": "usual", "type": hl7("v2-0203", "MR"), "system": f"{CLINIC}mrn", "value": f"AS-{number:06d}"}],
                "active": True,
                "generalPractitioner": [to(self.doctor)],
                "managingOrganization": to("Organization/alder-street-clinic", "Alder Street Clinic"),
            }
            | dict(patient),
        )

    def put(self, resource_type: str, slug: str, content: Mapping[str, Any]) -> str:
        """Add a resource of this patient's under `{patient}-{slug}`."""
        return self.add(resource_type, f"{self.id}-{slug}", content)

    # ---- results ----

    def result(self, slug: str, code: Mapping[str, Any], days: int, content: Mapping[str, Any], *, clock: str = "08:10", issued: int = 0) -> str:
        """Any laboratory Observation; `issued` is how many days after the sample the result came."""
        return self.put(
            "Observation",
            slug,
            {
                "status": "final",
                "category": [hl7("observation-category", "laboratory", "Laboratory")],
                "code": code,
                "subject": to(self.patient),
                "effectiveDateTime": self.time(days, clock),
                "issued": self.time(days + issued, "16:30"),
                "performer": [to(LAB, "Alder Street Laboratory")],
            }
            | dict(content),
        )

    def lab(self, key: str, days: int, text: str, *, slug: str = "", flag: str | None = None, **content: Any) -> str:
        """A result from the catalogue. `flag` None lets the laboratory flag it from its range, "" leaves it without."""
        test = TESTS[key]
        mark = flag_of(text, test) if flag is None else flag
        found: dict[str, Any] = {"valueQuantity": quantity(text, test.unit), "interpretation": interpretation(mark) if mark else None}
        ranges = usual_range(test)
        found["referenceRange"] = [ranges] if ranges else None
        return self.result(slug or f"{key}-{-days}d", concept(LOINC, test.loinc, test.name), days, found | content)

    def panel(self, key: str, days: int, values: str, *, status: str = "final", slug: str = "", **content: Any) -> str:
        """A report with one result for each value of a panel, in the catalogue's order; `-` leaves one out."""
        loinc, name, tests = PANELS[key]
        slug = slug or f"{key}-{-days}d"
        given = [(test, text) for test, text in zip(tests, values.split(), strict=True) if text != "-"]
        state = {"status": status} if status != "final" else {}
        results = [self.lab(test, days, text, slug=f"{slug}-{test}", **state) for test, text in given]
        return self.report(slug, concept(LOINC, loinc, name), days, results, status=status, **content)

    def report(self, slug: str, code: Mapping[str, Any], days: int, results: Sequence[str] = (), *, status: str = "final", **content: Any) -> str:
        """A laboratory DiagnosticReport."""
        return self.put(
            "DiagnosticReport",
            slug,
            {
                "status": status,
                "category": [hl7("v2-0074", "LAB", "Laboratory")],
                "code": code,
                "subject": to(self.patient),
                "effectiveDateTime": self.time(days, "08:10"),
                "issued": self.time(days, "16:30"),
                "performer": [to(LAB, "Alder Street Laboratory")],
                "result": [to(result) for result in results],
            }
            | content,
        )

    def vital(self, slug: str, loinc: str, name: str, days: int, text: str, unit: str, **content: Any) -> str:
        """One vital sign."""
        body = {"category": [hl7("observation-category", "vital-signs", "Vital signs")], "valueQuantity": quantity(text, unit)}
        found = {"performer": [to(self.doctor)]} | body | content
        return self.result(slug, concept(LOINC, loinc, name), days, found, clock="09:05")

    def blood_pressure(self, days: int, systolic: str, diastolic: str, **content: Any) -> str:
        """Systolic and diastolic as components (US Core blood pressure)."""
        parts = [("8480-6", "Systolic blood pressure", systolic), ("8462-4", "Diastolic blood pressure", diastolic)]
        return self.result(
            f"bp-{-days}d",
            concept(LOINC, "85354-9", "Blood pressure panel with all children optional", "Blood pressure"),
            days,
            {
                "category": [hl7("observation-category", "vital-signs", "Vital signs")],
                "performer": [to(self.doctor)],
                "component": [{"code": concept(LOINC, code, name), "valueQuantity": quantity(text, "mmHg")} for code, name, text in parts],
            }
            | content,
            clock="09:05",
        )

    # ---- problems, allergies, vaccines ----

    def condition(
        self,
        slug: str,
        code: Mapping[str, Any],
        *,
        clinical: str = "active",
        verified: str = "confirmed",
        category: str = "problem-list-item",
        recorded: int = -400,
        **content: Any,
    ) -> str:
        """A Condition. `clinical` "" leaves the clinical status out, as an error must (con-5)."""
        return self.put(
            "Condition",
            slug,
            {
                "clinicalStatus": hl7("condition-clinical", clinical) if clinical else None,
                "verificationStatus": hl7("condition-ver-status", verified),
                "category": [hl7("condition-category", category)],
                "code": code,
                "subject": to(self.patient),
                "recordedDate": self.day(recorded),
                "recorder": to(self.doctor),
            }
            | content,
        )

    def allergy(self, slug: str, code: Mapping[str, Any], *, reaction: str = "", criticality: str = "", **content: Any) -> str:
        """An AllergyIntolerance; "no known allergies" is one too (F02)."""
        return self.put(
            "AllergyIntolerance",
            slug,
            {
                "clinicalStatus": hl7("allergyintolerance-clinical", "active"),
                "verificationStatus": hl7("allergyintolerance-verification", "confirmed"),
                "criticality": criticality,
                "code": code,
                "patient": to(self.patient),
                "recordedDate": self.day(-900),
                "reaction": [{"manifestation": [words(reaction)]}] if reaction else None,
            }
            | content,
        )

    def vaccine(self, slug: str, cvx: str, name: str, days: int, **content: Any) -> str:
        """An Immunization."""
        code = concept("http://hl7.org/fhir/sid/cvx", cvx, name)
        body = {"status": "completed", "vaccineCode": code, "patient": to(self.patient), "occurrenceDateTime": self.day(days), "primarySource": True}
        return self.put("Immunization", slug, body | content)

    # ---- medicines ----

    def medicine(
        self,
        slug: str,
        medication: Mapping[str, Any],
        dosage: Sequence[Mapping[str, Any]],
        *,
        days: int = -60,
        repeats: int | None = 3,
        **content: Any,
    ) -> str:
        """A MedicationRequest. `medication` is a CodeableConcept, or a Reference to a Medication."""
        kind = "medicationReference" if "reference" in medication else "medicationCodeableConcept"
        supply: dict[str, Any] = {"quantity": quantity("90", "tablet"), "expectedSupplyDuration": quantity("90", "days")}
        if repeats is not None:
            supply["numberOfRepeatsAllowed"] = repeats
        supply["performer"] = to("Organization/juniper-pharmacy", "Juniper Pharmacy")
        return self.put(
            "MedicationRequest",
            slug,
            {
                "status": "active",
                "intent": "order",
                kind: medication,
                "subject": to(self.patient),
                "authoredOn": self.time(days, "10:20"),
                "requester": to(self.doctor),
                "dosageInstruction": list(dosage),
                "dispenseRequest": supply,
            }
            | content,
        )

    def dispense(self, slug: str, prescription: str, medication: Mapping[str, Any], days: int, *, status: str = "completed", **content: Any) -> str:
        """A MedicationDispense of a prescription."""
        kind = "medicationReference" if "reference" in medication else "medicationCodeableConcept"
        return self.put(
            "MedicationDispense",
            slug,
            {
                "status": status,
                kind: medication,
                "subject": to(self.patient),
                "performer": [{"actor": to("Organization/juniper-pharmacy", "Juniper Pharmacy")}],
                "authorizingPrescription": [to(prescription)],
                "quantity": quantity("90", "tablet"),
                "daysSupply": quantity("90", "days"),
                "whenPrepared": self.time(days - 1, "15:00"),
                "whenHandedOver": self.time(days, "17:45") if status == "completed" else None,
            }
            | content,
        )

    # ---- visits ----

    def appointment(
        self,
        slug: str,
        days: int | None,
        clock: str,
        minutes: int,
        what: str,
        *,
        status: str = "booked",
        who: str = "",
        others: Sequence[Mapping[str, Any]] = (),
        **content: Any,
    ) -> str:
        """An Appointment of this patient's; `days` None is a request without a time (F26)."""
        days = None if days is None else self.open_day(days)
        times = {} if days is None else {"start": self.time(days, clock), "end": self.time(days, _later(clock, minutes))}
        accepted = "declined" if status == "cancelled" else "accepted"
        seen = to(who or self.doctor)
        return self.put(
            "Appointment",
            slug,
            {
                "status": status,
                "serviceType": [words(what)],
                "minutesDuration": minutes if times else None,
                **times,
                "created": self.time(-30 if days is None else min(days, 0) - 20, "11:00"),
                "participant": [
                    {"actor": to(self.patient), "required": "required", "status": accepted},
                    {"actor": seen, "required": "required", "status": "needs-action" if status in ("proposed", "pending") else accepted},
                    *others,
                ],
            }
            | content,
        )

    def visit(self, slug: str, days: int, what: str, *, appointment: str = "", **content: Any) -> str:
        """A finished Encounter."""
        days = self.open_day(days)
        return self.put(
            "Encounter",
            slug,
            {
                "status": "finished",
                "class": coding(f"{HL7}v3-ActCode", "AMB", "ambulatory"),
                "type": [words(what)],
                "subject": to(self.patient),
                "participant": [{"individual": to(self.doctor)}],
                "appointment": [to(appointment)] if appointment else None,
                "period": {"start": self.time(days, "09:00"), "end": self.time(days, "09:25")},
                "serviceProvider": to("Organization/alder-street-clinic", "Alder Street Clinic"),
            }
            | content,
        )

    # ---- messages ----

    def thread(
        self,
        slug: str,
        topic: str,
        members: Sequence[str],
        messages: Sequence[tuple[str, int, str, str]],
        *,
        category: str = "Question",
        **content: Any,
    ) -> str:
        """A thread of messages (F20): a header that names everyone, and messages that are part of it.

        `messages` are (sender, day, clock, text), oldest first; each answers the one before it. What the last one says is still unread.
        """
        first, everyone = messages[0], [to(member) for member in members]
        common: dict[str, Any] = {"category": [words(category)], "subject": to(self.patient), "topic": words(topic)}
        header = self.put(
            "Communication",
            slug,
            {"identifier": [{"system": f"{CLINIC}thread", "value": f"{self.id}-{slug}"}], "status": "in-progress"}
            | common
            | {"recipient": everyone, "sender": to(first[0]), "sent": self.time(first[1], first[2])}
            | content,
        )
        answered = ""
        for number, (sender, days, clock, text) in enumerate(messages, start=1):
            body: dict[str, Any] = {
                "identifier": [{"system": f"{CLINIC}message", "value": f"{self.id}-{slug}-{number}"}],
                "partOf": [to(header)],
                "inResponseTo": [to(answered)] if answered else None,
                "status": "completed" if number < len(messages) else "in-progress",
            }
            rest = {"sent": self.time(days, clock), "recipient": [to(member) for member in members if member != sender], "sender": to(sender)}
            answered = self.put("Communication", f"{slug}-{number}", body | common | rest | {"payload": [{"contentString": text}]})
        return header

    # ---- money ----

    def coverage(self, plan: str, member: str) -> str:
        """A Coverage by the made-up insurer."""
        return self.put(
            "Coverage",
            "coverage",
            {
                "status": "active",
                "type": hl7("v3-ActCode", "HIP", "health insurance plan policy"),
                "subscriberId": member,
                "beneficiary": to(self.patient),
                "relationship": hl7("subscriber-relationship", "self", "Self"),
                "period": {"start": f"{self.today.year}-01-01"},
                "payor": [to("Organization/larkspur-health", "Larkspur Health Plan")],
                "class": [{"type": hl7("coverage-class", "plan"), "value": plan.lower().replace(" ", "-"), "name": plan}],
            },
        )

    def claim(self, slug: str, days: int, what: str, billed: str, **content: Any) -> str:
        """A Claim for one service, sent to the made-up insurer."""
        item = {"sequence": 1, "productOrService": words(what), "servicedDate": self.day(days), "net": money(billed)}
        return self.put(
            "Claim",
            f"claim-{slug}",
            self._billing(slug, days, self.time(min(days + 2, -1)))
            | {
                "priority": hl7("processpriority", "normal"),
                "insurance": [{"sequence": 1, "focal": True, "coverage": to(f"Coverage/{self.id}-coverage")}],
                "item": [item],
                "total": money(billed),
            }
            | content,
        )

    def bill(self, slug: str, days: int, what: str, amounts: str, *, note: str = "", **content: Any) -> str:
        """A Claim and what the insurer made of it. `amounts`: billed, allowed, deductible, copay, paid by the plan, owed by the patient."""
        billed, *judged = amounts.split()
        claim = self.claim(slug, days, what, billed, **content)
        item = {"sequence": 1, "productOrService": words(what), "servicedDate": self.day(days), "net": money(billed)}
        lines = _adjudication(billed, *judged)
        return self.put(
            "ExplanationOfBenefit",
            f"eob-{slug}",
            self._billing(slug, days, self.time(min(days + 9, -1)))
            | {
                "claim": to(claim),
                "outcome": "complete",
                "disposition": note,
                "insurance": [{"focal": True, "coverage": to(f"Coverage/{self.id}-coverage")}],
                "item": [item | {"adjudication": lines}],
                "total": lines,
            }
            | content,
        )

    def _billing(self, slug: str, days: int, created: str) -> dict[str, Any]:
        """What a Claim and its ExplanationOfBenefit have in common."""
        return {
            "identifier": [{"system": f"{CLINIC}claim", "value": f"CL-{crc32(f'{self.id}-{slug}'.encode()) % 1_000_000:06d}"}],
            "status": "active",
            "type": hl7("claim-type", "professional", "Professional"),
            "use": "claim",
            "patient": to(self.patient),
            "billablePeriod": {"start": self.day(days), "end": self.day(days)},
            "created": created,
            "insurer": to("Organization/larkspur-health", "Larkspur Health Plan"),
            "provider": to("Organization/alder-street-clinic", "Alder Street Clinic"),
        }

    # ---- who helps ----

    def care_team(self, members: Sequence[tuple[str, str]]) -> str:
        """The CareTeam: (reference, role in words). It is also whom the patient may write to."""
        return self.put(
            "CareTeam",
            "care-team",
            {
                "status": "active",
                "name": f"Care team of {self.title}",
                "subject": to(self.patient),
                "participant": [{"role": [words(role)], "member": to(member)} for member, role in members],
                "managingOrganization": [to("Organization/alder-street-clinic", "Alder Street Clinic")],
            },
        )


_C4BB = "http://hl7.org/fhir/us/carin-bb/CodeSystem/C4BBAdjudication"


def _adjudication(billed: str, allowed: str, deductible: str, copay: str, paid: str, owed: str) -> list[dict[str, Any]]:
    """HL7's own adjudication codes, and CARIN Blue Button's for what HL7 has none."""
    lines = [("submitted", billed), ("eligible", allowed), ("deductible", deductible), ("copay", copay), ("benefit", paid)]
    found = [{"category": hl7("adjudication", name), "amount": money(amount)} for name, amount in lines]
    others = [("memberliability", "Member liability", owed)]
    if Decimal(allowed):
        others.append(("discount", "Discount", str(Decimal(billed) - Decimal(allowed))))
    return found + [{"category": {"coding": [coding(_C4BB, name, display)]}, "amount": money(amount)} for name, display, amount in others]


def dose(text: str) -> list[dict[str, Any]]:
    """Directions in the prescriber's words."""
    return [{"text": text}]


def structured(
    amount: str, unit: str, times: int, *, period: int = 1, period_unit: str = "d", when: str = "", **content: Any
) -> list[dict[str, Any]]:
    """Directions without words: `amount` `unit`, `times` per `period`. `when` is an EventTiming code such as AC or HS."""
    repeat: dict[str, Any] = {"frequency": times, "period": Decimal(period), "periodUnit": period_unit}
    if when:
        repeat["when"] = [when]
    oral = concept(SNOMED, "26643006", "Oral route", "by mouth")
    return [{"timing": {"repeat": repeat}, "route": oral, "doseAndRate": [{"doseQuantity": quantity(amount, unit)}]} | content]


def plain_text(title: str, text: str) -> dict[str, Any]:
    """An Attachment that carries its own text."""
    data = text.encode()
    return {"contentType": "text/plain; charset=utf-8", "data": base64.b64encode(data).decode(), "title": title, "size": len(data)}


def name(given: str, family: str, *, prefix: str = "", text: str = "") -> list[dict[str, Any]]:
    """Patient.name or Practitioner.name."""
    found: dict[str, Any] = {"use": "official", "text": text or f"{prefix} {given} {family}".strip(), "family": family, "given": given.split()}
    return [found | ({"prefix": [prefix]} if prefix else {})]


def reach(phone: str = "", email: str = "") -> list[dict[str, Any]]:
    """Patient.telecom, with numbers and hosts that are reserved for examples."""
    found = [{"system": "phone", "value": phone, "use": "mobile"}] if phone else []
    return found + ([{"system": "email", "value": email}] if email else [])


def _later(clock: str, minutes: int) -> str:
    hours, rest = divmod(int(clock[:2]) * 60 + int(clock[3:]) + minutes, 60)
    return f"{hours:02d}:{rest:02d}"
