"""Walter Brandt, who takes many medicines, and Priya Venkataraman, whose blood has been tested every second week for years."""

from __future__ import annotations

from datetime import date

from gateway.sandbox.people_data.build import Chart, Clock, dose, name, quantity, reach, structured, to
from gateway.sandbox.people_data.codes import RXNORM, SNOMED, coding, concept, hl7, words

HEART, NURSE = "Practitioner/ibrahim-diallo", "Practitioner/ruth-abelsen"


def walter(today: date) -> Chart:
    """Eighty-four, with a weak heart and fourteen prescriptions: directions in words, structured, as needed, tapering."""
    chart = Chart(
        today,
        "walter-brandt",
        "Walter Brandt",
        {
            "name": name("Walter Emil", "Brandt", prefix="Mr.", text="Walter Brandt"),
            "telecom": reach("+1-555-0174"),
            "gender": "male",
            "birthDate": Clock(today).born(84, "02-28"),
            "address": [{"use": "home", "line": ["Riverside Home, room 12"], "city": "Maplewick", "postalCode": "00502", "country": "US"}],
        },
        doctor="ibrahim-diallo",
    )
    for slug, code, display, text in (
        ("heart-failure", "84114007", "Heart failure", "Weak heart (heart failure)"),
        ("atrial-fibrillation", "49436004", "Atrial fibrillation", "Irregular heartbeat (atrial fibrillation)"),
        ("kidney", "433144002", "Chronic kidney disease stage 3 (disorder)", "Reduced kidney function"),
        ("gout", "90560007", "Gout", "Gout"),
        ("knee", "239873007", "Osteoarthritis of knee", "Worn knee joint"),
        ("lipids", "55822004", "Hyperlipidemia", "High cholesterol"),
    ):
        chart.condition(slug, concept(SNOMED, code, display, text), recorded=-1600)
    _many_medicines(chart)
    for days, text in ((-400, "1890"), (-220, "1430"), (-40, "980")):
        chart.lab("bnp", days, text)
    for days, creatinine in ((-400, "1.60"), (-220, "1.52"), (-40, "1.50")):
        chart.lab("creatinine", days, creatinine)
        chart.lab("potassium", days, "4.9")
    chart.appointment("heart", 18, "10:00", 30, "Heart check", who=HEART, others=[{"actor": to("Location/alder-street-main"), "status": "accepted"}])
    chart.appointment("house-call", -33, "14:00", 40, "Home visit by the nurse", status="fulfilled", who=NURSE)
    chart.care_team([(HEART, "Heart specialist"), (NURSE, "Nurse"), ("Organization/juniper-pharmacy", "Pharmacy")])
    chart.thread(
        "swelling",
        "Swollen ankles",
        [chart.patient, HEART, NURSE],
        [
            (chart.patient, -38, "07:30", "My ankles are thick again in the evening."),
            (HEART, -38, "11:45", "Please take two water tablets instead of one for three days. Nurse Abelsen will come and see you."),
        ],
    )
    chart.coverage("Larkspur Senior", "LHP-12-0008-951")
    chart.bill("house-call", -33, "Home visit", "310.00 240.00 0.00 20.00 220.00 20.00")
    return chart


def _many_medicines(chart: Chart) -> None:
    for slug, code, display, text, directions in (
        ("furosemide", "313988", "furosemide 40 MG Oral Tablet", "Furosemide 40 mg tablet (water tablet)", structured("1", "tablet", 1, when="MORN")),
        ("aspirin", "243670", "aspirin 81 MG Oral Tablet", "Aspirin 81 mg tablet", structured("1", "tablet", 1)),
        ("amlodipine", "197361", "amlodipine 5 MG Oral Tablet", "Amlodipine 5 mg tablet", structured("1", "tablet", 1)),
        ("digoxin", "197604", "digoxin 0.125 MG Oral Tablet", "Digoxin 0.125 mg tablet", structured("0.5", "tablet", 1, period=2)),
        ("clopidogrel", "309362", "clopidogrel 75 MG Oral Tablet", "Clopidogrel 75 mg tablet", dose("1 tablet with breakfast")),
        (
            "omeprazole",
            "198051",
            "omeprazole 20 MG Delayed Release Oral Capsule",
            "Omeprazole 20 mg capsule",
            structured("1", "capsule", 1, when="ACM"),
        ),
        (
            "acetaminophen",
            "313782",
            "acetaminophen 325 MG Oral Tablet",
            "Acetaminophen 325 mg tablet",
            structured("2", "tablet", 3, asNeededBoolean=True),
        ),
        ("hctz", "310798", "hydrochlorothiazide 25 MG Oral Tablet", "Hydrochlorothiazide 25 mg tablet", dose("Half a tablet in the morning")),
    ):
        medication = concept(RXNORM, code, display, text)
        order = chart.medicine(slug, medication, directions, days=-120, repeats=3)
        chart.dispense(f"{slug}-1", order, medication, -118)
    for text, directions in (
        ("Allopurinol 100 mg tablet", dose("Take 2 tablets after dinner")),
        (
            "Metoprolol 50 mg tablet",
            [{"text": "Take 1 tablet in the morning and 1 in the evening", "patientInstruction": "Rise slowly: it can make you dizzy."}],
        ),
        ("Spironolactone 25 mg tablet", dose("Take 1 tablet in the morning")),
        ("Potassium chloride 20 mEq tablet", dose("Take 1 tablet with a glass of water")),
        (
            "Senna 8.6 mg tablet",
            [
                {
                    "timing": {"code": hl7("v3-GTSAbbreviation", "QD", "every day")},
                    "asNeededCodeableConcept": words("constipation"),
                    "doseAndRate": [{"doseRange": {"low": quantity("1", "tablet"), "high": quantity("2", "tablet")}}],
                }
            ],
        ),
    ):
        chart.medicine(text.split()[0].lower(), words(text), directions, days=-90, repeats=2)
    for slug, status, note, days in (("furosemide", "requested", "", -1), ("digoxin", "rejected", "Please have your blood tested first", -12)):
        chart.put(
            "Task",
            f"refill-{slug}",
            {
                "status": status,
                "statusReason": words(note) if note else None,
                "intent": "order",
                "code": {"coding": [coding("http://hl7.org/fhir/CodeSystem/task-code", "fulfill")], "text": "Refill request"},
                "focus": to(f"MedicationRequest/{chart.id}-{slug}"),
                "for": to(chart.patient),
                "requester": to(chart.patient),
                "owner": to("Organization/juniper-pharmacy", "Juniper Pharmacy"),
                "authoredOn": chart.time(days, "08:00"),
            },
        )
    taper = [
        {"sequence": 1, "text": "Days 1 to 3: 2 tablets each morning", "timing": {"repeat": {"boundsDuration": quantity("3", "days")}}},
        {"sequence": 2, "text": "Days 4 to 6: 1 tablet each morning", "timing": {"repeat": {"boundsDuration": quantity("3", "days")}}},
    ]
    chart.medicine("prednisone", words("Prednisone 20 mg tablet"), taper, days=-250, repeats=0, status="completed")


def priya(today: date) -> Chart:
    """Six years of clotting tests, every second week: enough to page through, with values such as 2.10."""
    chart = Chart(
        today,
        "priya-venkataraman",
        "Priya Venkataraman",
        {
            "name": name("Priya", "Venkataraman"),
            "telecom": reach("+1-555-0185", "priya.v@mail.example"),
            "gender": "female",
            "birthDate": Clock(today).born(63, "07-30"),
        },
    )
    chart.condition("valve", words("Mechanical heart valve"), recorded=-2200)
    warfarin = to("Medication/warfarin-5")
    order = chart.medicine("warfarin", warfarin, dose("As written in your dose card. Usually 1 tablet every evening."), days=-90, repeats=3)
    chart.dispense("warfarin-1", order, warfarin, -88)
    for number in range(150):
        chart.lab("inr", -2093 + 14 * number, _inr(number), slug=f"inr-{number + 1:03d}")
    chart.lab("hemoglobin", -30, "12.40")
    chart.appointment("clotting", 7, "08:00", 10, "Clotting test", who="Location/alder-street-lab-desk")
    chart.care_team([("Practitioner/hana-novak", "Family doctor"), (NURSE, "Clotting nurse")])
    chart.thread(
        "dose",
        "Your dose this week",
        [chart.patient, NURSE],
        [(NURSE, -6, "15:30", "Your INR is 2.50: please go on with the same dose. Next test in two weeks.")],
        category="Medicines",
    )
    return chart


def _inr(number: int) -> str:
    """A value that wanders around the goal, the same one each time; hundredths, so that some end in a zero."""
    drift = (number * 37) % 23 - 11
    return f"{(250 + drift * 9 + (number % 5) * 4) / 100:.2f}" if number < 149 else "2.50"
