"""Short records, each with one thing that a page may get wrong: nearly nothing, nothing, another script, a refused claim, a merged record."""

from __future__ import annotations

from datetime import date

from gateway.sandbox.people_data.build import Chart, Clock, dose, name, reach, to
from gateway.sandbox.people_data.codes import LOINC, SNOMED, concept, hl7, words

NURSE = "Practitioner/ruth-abelsen"


def tomas(today: date) -> Chart:
    """A new patient: a Patient and one Observation."""
    chart = Chart(
        today,
        "tomas-lindqvist",
        "Tomas Lindqvist",
        {"name": name("Tomas", "Lindqvist"), "gender": "male", "birthDate": Clock(today).born(29, "12-01")},
    )
    chart.lab("hemoglobin", -2, "14.9")
    return chart


def beatriz(today: date) -> Chart:
    """Registered, and nothing else: every list is empty. Her birth date is known by its year alone."""
    born = Clock(today).born(44, "06-06")[:4]
    return Chart(today, "beatriz-carvalho", "Beatriz Carvalho", {"name": name("Beatriz", "Carvalho"), "gender": "other", "birthDate": born})


def noor(today: date) -> Chart:
    """Expecting a child; her name is written in two scripts and she needs an interpreter."""
    chart = Chart(
        today,
        "noor-al-amin",
        "Noor Al-Amin",
        {
            "name": [
                {"use": "official", "text": "Noor Al-Amin", "family": "Al-Amin", "given": ["Noor"]},
                {"use": "usual", "text": "نور الأمين", "family": "الأمين", "given": ["نور"]},
            ],
            "telecom": reach("+1-555-0196"),
            "gender": "female",
            "birthDate": Clock(today).born(31, "04-22"),
            "communication": [{"language": concept("urn:ietf:bcp:47", "ar", "Arabic"), "preferred": True}],
        },
    )
    chart.condition("pregnancy", concept(SNOMED, "72892002", "Normal pregnancy", "Pregnancy"), recorded=-110, onsetDateTime=chart.day(-150))
    chart.condition("anemia", concept(SNOMED, "87522002", "Iron deficiency anemia", "Low iron"), recorded=-60)
    chart.panel("cbc", -60, "10.40 31.8 3.90 79.5 9.10 231", conclusion="Mild anemia with small red cells.")
    chart.panel("cbc", -5, "11.20 34.0 4.05 82.1 9.80 240")
    chart.result(
        "iron", concept(LOINC, "2498-4", "Iron"), -60, {"referenceRange": [{"text": "33 to 193 µg/dL"}], "valueString": "نتيجة: منخفض / low"}
    )
    chart.blood_pressure(-5, "112", "70")
    chart.result("last-period", concept(LOINC, "8665-2", "Last menstrual period start date"), -110, {"valueDateTime": chart.day(-150)})
    chart.medicine("iron", words("Ferrous sulfate 325 mg tablet"), dose("1 tablet a day, with orange juice, not with tea"), days=-58, repeats=1)
    chart.appointment("midwife", 3, "09:40", 30, "Midwife visit", who=NURSE, comment="Interpreter for Arabic is booked")
    chart.appointment("scan", 24, "13:10", 40, "Ultrasound scan")
    chart.care_team([("Practitioner/hana-novak", "Family doctor"), (NURSE, "Midwife")])
    chart.thread(
        "iron",
        "سؤال عن الحديد (question about iron)",
        [chart.patient, NURSE],
        [
            (chart.patient, -20, "22:00", "هل يمكنني أخذ الحديد مع القهوة؟\nCan I take the iron with coffee?"),
            (NURSE, -19, "08:05", "Better with juice, and coffee an hour later ☕."),
        ],
        category="Medicines",
    )
    return chart


def kwame(today: date) -> Chart:
    """Bills: one refused, one paid in part, one that was sent in twice and cancelled."""
    chart = Chart(
        today,
        "kwame-boateng",
        "Kwame Boateng",
        {"name": name("Kwame", "Boateng"), "telecom": reach("", "kwame@mail.example"), "gender": "male", "birthDate": Clock(today).born(47, "08-15")},
    )
    chart.condition("back", words("Low back pain"), recorded=-210)
    chart.coverage("Larkspur Bronze", "LHP-31-4410-220")
    chart.bill(
        "scan",
        -200,
        "Scan of the lower back",
        "1250.00 0.00 0.00 0.00 0.00 1250.00",
        note="Refused: the plan asks for approval before this scan.",
    )
    chart.bill(
        "therapy", -150, "Physical therapy, six visits", "720.00 540.00 200.00 60.00 280.00 260.00", note="Counts toward your yearly deductible."
    )
    chart.bill("therapy-twice", -149, "Physical therapy, six visits", "720.00 0.00 0.00 0.00 0.00 0.00", note="Sent in twice.", status="cancelled")
    chart.claim("visit", -3, "Office visit", "180.00")
    chart.appointment("therapy", 2, "17:00", 45, "Physical therapy", who=NURSE)
    chart.appointment("therapy-late", None, "", 0, "Physical therapy", status="waitlist", comment="After 17:00 if a place becomes free")
    chart.care_team([("Practitioner/hana-novak", "Family doctor")])
    return chart


def leila(today: date) -> tuple[Chart, Chart]:
    """One person with two records: the old one was merged into the new one (Patient.link), which does not open it to anybody."""
    born = Clock(today).born(58, "10-10")
    old = Chart(
        today,
        "leila-haddad-old",
        "Leila Haddad (old record)",
        {"active": False, "name": name("Leyla", "Hadad"), "gender": "female", "birthDate": born},
    )
    old.lab("glucose", -900, "101")
    new = Chart(
        today,
        "leila-haddad",
        "Leila Haddad",
        {
            "name": name("Leila", "Haddad"),
            "telecom": reach("+1-555-0107"),
            "gender": "female",
            "birthDate": born,
            "link": [{"other": to(old.patient), "type": "replaces"}],
        },
    )
    new.condition("prediabetes", concept(SNOMED, "15777000", "Prediabetes"), recorded=-300)
    new.lab("a1c", -30, "5.90")
    new.lab("glucose", -30, "110")
    new.care_team([("Practitioner/hana-novak", "Family doctor")])
    return old, new


def sofia(today: date) -> Chart:
    """Seventeen: her own account, and visits that nobody wrote a reason for."""
    chart = Chart(
        today,
        "sofia-petrova",
        "Sofia Petrova",
        {"name": name("Sofia", "Petrova"), "gender": "female", "birthDate": Clock(today).born(17, "02-11")},
        doctor="mei-lin-cho",
    )
    chart.condition("anxiety", concept(SNOMED, "21897009", "Generalized anxiety disorder", "Anxiety"), recorded=-90)
    chart.appointment("talk", 11, "16:30", 50, "Talk", who="Practitioner/mei-lin-cho")
    chart.put(
        "Appointment",
        "unsaid",
        {
            "status": "booked",
            "start": chart.time(chart.open_day(30), "16:00"),
            "end": chart.time(chart.open_day(30), "16:20"),
            "participant": [{"actor": to(chart.patient), "status": "accepted"}],
        },
    )
    chart.result("glasses", words("Wears glasses"), -14, {"category": [hl7("observation-category", "exam", "Exam")], "valueBoolean": False})
    chart.vaccine("hpv", "62", "HPV, quadrivalent", -800)
    chart.result(
        "mood",
        words("PHQ-9 total score"),
        -14,
        {"category": [hl7("observation-category", "survey", "Survey")], "valueInteger": 9, "performer": [to(chart.patient)]},
    )
    chart.care_team([("Practitioner/mei-lin-cho", "Doctor for young people"), (NURSE, "Nurse")])
    return chart
