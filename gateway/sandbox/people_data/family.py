"""Households: a child whose father signs in for her, and a couple who share an appointment and a conversation."""

from __future__ import annotations

from datetime import date

from gateway.sandbox.people_data.build import Chart, Clock, Folder, dose, name, quantity, reach, structured, to
from gateway.sandbox.people_data.codes import LOINC, SNOMED, coding, concept, hl7, words

CHILDREN_DOCTOR, NURSE = "Practitioner/mei-lin-cho", "Practitioner/ruth-abelsen"
_ADDRESS = [{"use": "home", "line": ["31 Orchard Lane"], "city": "Maplewick", "postalCode": "00501", "country": "US"}]
_MERCIER_ADDRESS = [{"use": "home", "line": ["3 Quarry Road"], "city": "Maplewick", "postalCode": "00502", "country": "US"}]


def mina(today: date) -> Chart:
    """A child of six, whose father may see her record."""
    chart = Chart(
        today,
        "mina-reyes",
        "Mina Reyes",
        {
            "name": name("Mina", "Reyes"),
            "gender": "female",
            "birthDate": Clock(today).born(6, "05-02"),
            "address": _ADDRESS,
            "contact": [
                {
                    "relationship": [{"coding": [coding("http://terminology.hl7.org/CodeSystem/v3-RoleCode", "FTH", "father")], "text": "Father"}],
                    "name": {"text": "Daniel Reyes", "family": "Reyes", "given": ["Daniel"]},
                    "telecom": reach("+1-555-0152"),
                }
            ],
        },
        doctor="mei-lin-cho",
    )
    father = chart.put(
        "RelatedPerson",
        "father",
        {
            "active": True,
            "patient": to(chart.patient),
            "relationship": [hl7("v3-RoleCode", "FTH", "father")],
            "name": name("Daniel", "Reyes"),
            "telecom": reach("+1-555-0152", "daniel.reyes@mail.example"),
            "period": {"start": chart.day(-2100)},
        },
    )
    _childhood(chart)
    _plans_for_mina(chart, father)
    return chart


def _childhood(chart: Chart) -> None:
    chart.condition(
        "ear",
        concept(SNOMED, "65363002", "Otitis media", "Middle ear infection"),
        clinical="resolved",
        recorded=-300,
        abatementDateTime=chart.day(-285),
    )
    chart.condition("eczema", concept(SNOMED, "24079001", "Atopic dermatitis", "Eczema"), recorded=-900)
    chart.allergy("peanut", concept(SNOMED, "762952008", "Peanuts", "Peanut"), reaction="Swollen lips", criticality="high", category=["food"])
    for cvx, title, days in (("20", "DTaP", -1500), ("03", "MMR", -700), ("21", "varicella", -700), ("10", "IPV", -1500)):
        chart.vaccine(f"vaccine-{cvx}-{-days}d", cvx, title, days)
    chart.lab("lead", -700, "<1.0")
    chart.result(
        "child-hemoglobin",
        concept(LOINC, "718-7", "Hemoglobin"),
        -60,
        {
            "valueQuantity": quantity("11.80", "g/dL"),
            "interpretation": [hl7("v3-ObservationInterpretation", "N", "Normal")],
            "referenceRange": [
                {
                    "low": quantity("11.0", "g/dL"),
                    "high": quantity("14.0", "g/dL"),
                    "age": {"low": quantity("2", "years"), "high": quantity("6", "years")},
                },
                {
                    "low": quantity("11.5", "g/dL"),
                    "high": quantity("15.5", "g/dL"),
                    "age": {"low": quantity("7", "years"), "high": quantity("12", "years")},
                },
            ],
        },
    )
    for days, height, weight in ((-730, "101.5", "16.20"), (-365, "109.0", "18.4"), (-60, "114.5", "20.10")):
        chart.vital(f"height{days}d", "8302-2", "Body height", days, height, "cm")
        chart.vital(f"weight{days}d", "29463-7", "Body weight", days, weight, "kg")
    cream = words("Hydrocortisone 1 % cream")
    chart.medicine("cream", cream, dose("Thin layer on the dry patches twice a day, no longer than 7 days"), days=-60, repeats=1)


def _plans_for_mina(chart: Chart, father: str) -> None:
    with_father = [{"actor": to(father, "Daniel Reyes"), "required": "optional", "status": "accepted"}]
    chart.appointment("school", 15, "15:30", 20, "School check-up", others=with_father)
    chart.appointment("vaccines", -700, "15:00", 15, "Vaccinations", status="fulfilled", who=NURSE)
    chart.care_team([(CHILDREN_DOCTOR, "Children's doctor"), (NURSE, "Nurse"), (father, "Father")])
    chart.thread(
        "school",
        "Form for school",
        [father, CHILDREN_DOCTOR, chart.patient],
        [
            (father, -12, "21:10", "Mina's school asks for a form about her peanut allergy. Can you fill it in?"),
            (CHILDREN_DOCTOR, -11, "08:20", "Of course. It is ready at the desk, and I added what to do in an emergency."),
        ],
        category="Forms",
    )
    chart.coverage("Larkspur Family", "LHP-77-1180-003")
    chart.bill("vaccines", -700, "Vaccinations", "160.00 120.00 0.00 0.00 120.00 0.00", note="Vaccines for children are covered in full.")


def daniel(today: date) -> Chart:
    """Mina's father; he has a short record of his own."""
    chart = Chart(
        today,
        "daniel-reyes",
        "Daniel Reyes",
        {
            "name": name("Daniel", "Reyes"),
            "telecom": reach("+1-555-0152", "daniel.reyes@mail.example"),
            "gender": "male",
            "birthDate": Clock(today).born(38, "11-19"),
            "address": _ADDRESS,
        },
    )
    chart.condition("rhinitis", concept(SNOMED, "367498001", "Seasonal allergic rhinitis", "Hay fever"), recorded=-500)
    chart.allergy("none", concept(SNOMED, "716186003", "No known allergy", "No known allergies"))
    chart.panel("lipids", -90, "182 58 101 118")
    chart.blood_pressure(-90, "122", "76")
    spray = words("Fluticasone 50 microgram nasal spray")
    chart.medicine("spray", spray, [{"text": "2 sprays into each nostril once a day in spring"}], days=-230, repeats=0, status="completed")
    chart.appointment("physical", 55, "08:00", 30, "Physical exam")
    chart.care_team([("Practitioner/hana-novak", "Family doctor"), (NURSE, "Nurse")])
    return chart


def merciers(today: date) -> tuple[Chart, Chart, Folder]:
    """Joëlle and Henri Mercier, and what belongs to both: it is loaded last, when both are there."""
    joelle, henri = _joelle(today), _henri(today)
    both = Folder(today, "Joëlle and Henri Mercier together")
    hers, his = to(joelle.patient, "Joëlle Mercier"), to(henri.patient, "Henri Mercier")
    both.add(
        "Appointment",
        "merciers-memory-talk",
        {
            "status": "booked",
            "serviceType": [words("Family talk about memory care")],
            "start": both.time(both.open_day(9), "13:30"),
            "end": both.time(both.open_day(9), "14:15"),
            "minutesDuration": 45,
            "created": both.time(-14, "10:00"),
            "participant": [
                {"actor": hers, "required": "required", "status": "accepted"},
                {"actor": his, "required": "required", "status": "accepted"},
                {"actor": to("Practitioner/hana-novak"), "required": "required", "status": "accepted"},
                {
                    "actor": to("Location/alder-street-main", "Alder Street Clinic, main building"),
                    "required": "information-only",
                    "status": "accepted",
                },
            ],
        },
    )
    common = {"category": [words("Question")], "subject": his, "topic": words("Who can pick up Henri's medicines?")}
    header = both.add(
        "Communication",
        "merciers-pickup",
        common | {"status": "in-progress", "recipient": [hers, his, to(NURSE)], "sender": hers, "sent": both.time(-5, "16:10")},
    )
    ask = "I would like to pick up Henri's medicines at the pharmacy. Do you need a form from him?"
    answer = "Yes please, he signs it once and you may pick them up from then on. Both of you can see this conversation."
    for number, (sender, days, clock, text, read) in enumerate(((hers, -5, "16:10", ask, True), (to(NURSE), -4, "09:02", answer, False)), start=1):
        both.add(
            "Communication",
            f"merciers-pickup-{number}",
            common
            | {
                "partOf": [to(header)],
                "status": "completed" if read else "in-progress",
                "sender": sender,
                "recipient": [person for person in (hers, his, to(NURSE)) if person != sender],
                "sent": both.time(days, clock),
                "payload": [{"contentString": text}],
            },
        )
    return joelle, henri, both


def _joelle(today: date) -> Chart:
    chart = Chart(
        today,
        "joelle-mercier",
        "Joëlle Mercier",
        {
            "name": name("Joëlle", "Mercier"),
            "telecom": reach("+1-555-0163"),
            "gender": "female",
            "birthDate": Clock(today).born(71, "09-27"),
            "address": _MERCIER_ADDRESS,
            "communication": [{"language": concept("urn:ietf:bcp:47", "fr", "French"), "preferred": True}],
        },
    )
    chart.condition("osteoporosis", concept(SNOMED, "64859006", "Osteoporosis (disorder)", "Osteoporosis"), recorded=-1300)
    chart.lab("vitamin-d", -45, "31.0")
    chart.lab("calcium", -45, "9.10")
    chart.medicine("alendronate", words("Alendronate 70 mg tablet"), structured("1", "tablet", 1, period=1, period_unit="wk"), days=-45, repeats=3)
    chart.appointment("bone-scan", 33, "12:20", 30, "Bone density scan")
    chart.care_team([("Practitioner/hana-novak", "Family doctor"), (NURSE, "Nurse")])
    return chart


def _henri(today: date) -> Chart:
    chart = Chart(
        today,
        "henri-mercier",
        "Henri Mercier",
        {"name": name("Henri", "Mercier"), "gender": "male", "birthDate": Clock(today).born(76, "01-08"), "address": _MERCIER_ADDRESS},
    )
    chart.put(
        "RelatedPerson",
        "wife",
        {
            "active": True,
            "patient": to(chart.patient),
            "relationship": [hl7("v3-RoleCode", "WIFE", "wife")],
            "name": name("Joëlle", "Mercier"),
            "telecom": reach("+1-555-0163"),
        },
    )
    chart.condition("memory", concept(SNOMED, "386807006", "Memory impairment", "Memory problems"), recorded=-200)
    chart.lab("b12", -190, "310")
    chart.lab("tsh", -190, "2.10")
    chart.medicine("donepezil", words("Donepezil 5 mg tablet"), dose("Take 1 tablet at bedtime"), days=-100, repeats=2)
    chart.care_team([("Practitioner/hana-novak", "Family doctor"), (NURSE, "Nurse")])
    return chart
