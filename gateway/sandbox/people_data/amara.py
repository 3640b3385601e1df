"""Amara Okafor: the rich record. Every kind of result, report, condition, medicine, visit, message and bill that the pages must get right."""

from __future__ import annotations

from datetime import date

from gateway.sandbox.people_data.build import Chart, Clock, dose, interpretation, money, name, plain_text, quantity, reach, structured, to
from gateway.sandbox.people_data.codes import CLINIC, HL7, ICD10, LOINC, RXNORM, SNOMED, coding, concept, hl7, words

DOCTOR, NURSE, HEART, DIET = "Practitioner/hana-novak", "Practitioner/ruth-abelsen", "Practitioner/ibrahim-diallo", "Practitioner/gabriel-ortega"


def amara(today: date) -> Chart:
    """Type 2 diabetes, high blood pressure and an underactive thyroid, followed for five years."""
    chart = Chart(
        today,
        "amara-okafor",
        "Amara Okafor",
        {
            "name": name("Amara Chidinma", "Okafor", text="Amara Okafor"),
            "telecom": reach("+1-555-0141", "amara.okafor@mail.example"),
            "gender": "female",
            "birthDate": Clock(today).born(52, "03-14"),
            "address": [{"use": "home", "line": ["7 Willow Court"], "city": "Maplewick", "postalCode": "00501", "country": "US"}],
            "maritalStatus": hl7("v3-MaritalStatus", "M", "Married"),
            "communication": [{"language": concept("urn:ietf:bcp:47", "en", "English"), "preferred": True}],
        },
    )
    _conditions(chart)
    _appointments(chart)
    _years_of_results(chart)
    _special_results(chart)
    _reports(chart)
    _vitals(chart)
    _medicines(chart)
    _messages(chart)
    _money(chart)
    _history(chart)
    _provenance(chart)
    return chart


def _conditions(chart: Chart) -> None:
    chart.condition(
        "diabetes",
        {
            "coding": [
                coding(SNOMED, "44054006", "Diabetes mellitus type 2 (disorder)"),
                coding(ICD10, "E11.9", "Type 2 diabetes mellitus without complications"),
            ],
            "text": "Type 2 diabetes",
        },
        recorded=-2190,
        onsetDateTime=chart.day(-2190)[:7],
        severity=concept(SNOMED, "6736007", "Moderate"),
        note=[{"text": "Well controlled with tablets. Yearly eye and foot checks."}],
    )
    chart.condition(
        "hypertension",
        concept(SNOMED, "59621000", "Essential hypertension (disorder)", "High blood pressure"),
        recorded=-1500,
        onsetDateTime=chart.day(-1500),
    )
    chart.condition(
        "hypothyroid", concept(SNOMED, "40930008", "Hypothyroidism", "Underactive thyroid"), recorded=-1100, onsetString="about three years ago"
    )
    chart.condition(
        "pneumonia",
        concept(SNOMED, "233604007", "Pneumonia", "Pneumonia, right lung"),
        clinical="resolved",
        recorded=-800,
        onsetDateTime=chart.day(-805),
        abatementDateTime=chart.day(-770),
    )
    chart.condition("migraine", concept(SNOMED, "37796009", "Migraine"), clinical="inactive", recorded=-1900, onsetAge=quantity("31", "years"))
    chart.condition("asthma", concept(SNOMED, "195967001", "Asthma"), verified="refuted", clinical="inactive", recorded=-700)
    chart.condition("pregnancy", concept(SNOMED, "72892002", "Normal pregnancy"), verified="entered-in-error", clinical="", recorded=-650)
    chart.condition(
        "sore-throat",
        concept(SNOMED, "195662009", "Acute viral pharyngitis (disorder)", "Sore throat"),
        category="encounter-diagnosis",
        clinical="",  # found by a search for the patient, not by one for the clinical status (F01)
        recorded=-300,
    )
    chart.condition(
        "shoulder",
        concept(SNOMED, "399114005", "Adhesive capsulitis of shoulder", "Frozen shoulder"),
        clinical="recurrence",
        recorded=-75,
        bodySite=[words("Left shoulder")],
        onsetPeriod={"start": chart.day(-90), "end": chart.day(-75)},
    )
    chart.condition("stress", words("Stress at work"), category="problem-list-item", verified="provisional", recorded=-40)
    chart.allergy(
        "penicillin", concept(SNOMED, "764146007", "Penicillin", "Penicillin"), reaction="Hives", criticality="high", category=["medication"]
    )
    chart.allergy("latex", concept(SNOMED, "111088007", "Latex (substance)", "Latex"), reaction="Itching", criticality="low")


def _years_of_results(chart: Chart) -> None:
    """The same tests again and again, newest last: enough for a trend over five years."""
    for days, a1c, creatinine, egfr in (
        (-1800, "8.4", "0.80", ">90"),
        (-1620, "7.9", "0.85", ">90"),
        (-1440, "7.60", "0.90", "88"),
        (-1260, "7.2", "0.90", "87"),
        (-1080, "7.0", "0.95", "84"),
        (-900, "6.9", "1.00", "80"),
        (-720, "6.80", "1.00", "79"),
        (-540, "7.1", "1.05", "76"),
        (-360, "6.7", "1.10", "72"),
        (-180, "6.50", "1.10", "71"),
        (-21, "6.4", "1.10", "70"),
    ):
        chart.lab("a1c", days, a1c)
        chart.lab("creatinine", days, creatinine)
        chart.lab("egfr", days, egfr)
    for days, text in ((-1790, "7.80"), (-1430, "6.9"), (-1070, "6.4")):
        chart.lab("glucose-si", days, text)  # the laboratory changed its unit: two charts, never one (F11)
    for days, text in ((-700, "118"), (-520, "121"), (-350, "109"), (-170, "104")):
        chart.lab("glucose", days, text)
    for days, text in ((-1080, "9.80"), (-1000, "6.10"), (-900, "4.20"), (-700, "2.90"), (-400, "1.90"), (-200, "1.10")):
        chart.lab("tsh", days, text)
    for days, text in ((-900, "32"), (-400, "28"), (-200, "<5")):
        chart.lab("urine-albumin", days, text)
    for days, values in ((-1080, "228 44 148 180"), (-720, "205 48 118 171"), (-360, "188 51 96 150"), (-21, "172 53.0 88.50 130")):
        chart.panel("lipids", days, values)


def _special_results(chart: Chart) -> None:
    chart.lab("crp", -21, "<5", slug="crp-below")
    chart.lab("vitamin-d", -180, "22.10", slug="vitamin-d-unflagged", flag="")  # outside the range and not flagged: no flag is invented (F10)
    chart.lab(
        "potassium",
        -9,
        "6.1",
        slug="potassium-critical",
        flag="HH",
        note=[{"text": "Telephoned to Dr. Novák at 16:40. Sample slightly hemolyzed, please repeat."}],
    )
    chart.result(
        "alkaline-phosphatase",
        concept(LOINC, "6768-6", "Alkaline phosphatase"),
        -180,
        {
            "valueQuantity": quantity("96", "U/L"),
            "interpretation": interpretation("N"),
            "referenceRange": [
                {
                    "low": quantity("35", "U/L"),
                    "high": quantity("104", "U/L"),
                    "appliesTo": [concept(SNOMED, "248152002", "Female (finding)", "Women")],
                    "age": {"low": quantity("18", "years"), "high": quantity("59", "years")},
                },
                {
                    "low": quantity("40", "U/L"),
                    "high": quantity("130", "U/L"),
                    "appliesTo": [concept(SNOMED, "248153007", "Male (finding)", "Men")],
                    "age": {"low": quantity("18", "years"), "high": quantity("59", "years")},
                },
                {"low": quantity("45", "U/L"), "high": quantity("140", "U/L"), "age": {"low": quantity("60", "years")}},
            ],
        },
    )
    chart.result(
        "ferritin",
        concept(LOINC, "2276-4", "Ferritin"),
        -180,
        {"valueQuantity": quantity("48", "ng/mL"), "referenceRange": [{"text": "Women before menopause: 15 to 150. After: 30 to 400."}]},
    )
    chart.result(
        "birch-screen",
        {"coding": [coding(f"{CLINIC}lab", "BIR-CL", "Allergen class, birch")], "text": "Birch pollen allergy screen"},  # no LOINC at all
        -120,
        {"valueString": "Class 2: moderate", "interpretation": interpretation("A"), "referenceRange": [{"text": "Class 0"}]},
    )
    chart.result(
        "hand-written", words("Wet mount, read at the clinic"), -118, {"valueString": "No yeast, no clue cells seen", "performer": [to(DOCTOR)]}
    )
    chart.result(
        "ana-titer",
        concept(LOINC, "5048-4", "Antinuclear antibody (ANA) titer"),
        -118,
        {
            "valueRatio": {"numerator": quantity("1"), "denominator": quantity("160")},
            "interpretation": interpretation("A"),
            "referenceRange": [{"text": "under 1:80"}],
        },
    )
    chart.result(
        "blood-group",
        concept(LOINC, "882-1", "Blood group and Rh type"),
        -1500,
        {"valueCodeableConcept": concept(SNOMED, "278149003", "Blood group A Rh(D) positive", "A positive")},
    )
    chart.result(
        "urine-cells",
        concept(LOINC, "5821-4", "White blood cells in urine, by microscope"),
        -118,
        {"valueRange": {"low": quantity("0", "/HPF"), "high": quantity("2", "/HPF")}, "referenceRange": [{"high": quantity("5", "/HPF")}]},
    )
    chart.result(
        "heart-rhythm",
        words("Heart rhythm recording"),
        -50,
        {"valuePeriod": {"start": chart.time(-50, "08:00"), "end": chart.time(-49, "08:00")}, "note": [{"text": "Recorded for 24 hours."}]},
    )
    chart.result(
        "hepatitis-c",
        concept(LOINC, "16128-1", "Hepatitis C antibody"),
        -400,
        {
            "valueCodeableConcept": words("Not detected"),
            "interpretation": [hl7("v3-ObservationInterpretation", "NEG", "Negative")],
            "method": words("Immunoassay"),
            "specimen": {"display": "Blood from a vein"},
        },
    )
    chart.result("strep", words("Rapid strep test"), -300, {"valueCodeableConcept": words("Negative"), "performer": [to(NURSE)]})
    chart.result(
        "magnesium-cancelled",
        concept(LOINC, "19123-9", "Magnesium"),
        -9,
        {
            "status": "cancelled",
            "dataAbsentReason": hl7("data-absent-reason", "unsatisfactory", "Unsatisfactory"),
            "note": [{"text": "Not enough sample."}],
        },
    )
    chart.result("calcitriol-registered", concept(LOINC, "1649-3", "Calcitriol (active vitamin D)"), -2, {"status": "registered", "issued": None})
    chart.lab("b12", -400, "18", slug="b12-wrong", status="entered-in-error", note=[{"text": "Another patient's sample."}])
    electrolytes = [
        chart.lab(key, -9, text, slug=f"electrolytes-{key}") for key, text in (("sodium", "139"), ("chloride", "103"), ("bicarbonate", "24.0"))
    ]
    chart.result(
        "electrolytes",
        concept(LOINC, "24326-1", "Electrolytes 1998 panel - Serum or Plasma", "Electrolytes"),
        -9,
        {"hasMember": [to(member) for member in [f"Observation/{chart.id}-potassium-critical", *electrolytes]]},
    )


def _reports(chart: Chart) -> None:
    chart.panel("cbc", -21, "13.10 39.4 4.52 87.2 6.80 254", conclusion="Normal blood count.")
    chart.panel("metabolic", -180, "104 15 1.10 71 140 4.4 104 25.0 9.40")
    chart.panel("liver", -180, "21 19 0.50 4.40")
    amended = chart.lab(
        "free-t4", -200, "1.30", slug="free-t4-corrected", status="corrected", note=[{"text": "First reported as 3.10 ng/dL: a typing error."}]
    )
    chart.report(
        "thyroid-amended",
        concept(LOINC, "24348-5", "Thyroid tests"),
        -200,
        [f"Observation/{chart.id}-tsh-200d", amended],
        status="amended",
        issued=chart.time(-198, "10:05"),
        conclusion="Free T4 corrected. The thyroid dose is right.",
    )
    growth = chart.result(
        "blood-culture-growth",
        concept(LOINC, "600-7", "Bacteria identified in blood by culture", "Blood culture"),
        -2,
        {"status": "preliminary", "valueString": "No growth after 24 hours"},
    )
    chart.report(
        "blood-culture",
        concept(LOINC, "600-7", "Blood culture"),
        -2,
        [growth],
        status="preliminary",
        conclusion="No growth so far. A final report follows after five days.",
    )
    urine = [
        chart.result("urine-color", concept(LOINC, "5778-6", "Color of urine"), -21, {"valueString": "Straw yellow"}),
        chart.result(
            "urine-nitrite",
            concept(LOINC, "5802-4", "Nitrite in urine"),
            -21,
            {"valueCodeableConcept": words("Negative"), "interpretation": interpretation("N")},
        ),
        chart.result(
            "urine-gravity",
            concept(LOINC, "5811-5", "Specific gravity of urine"),
            -21,
            {"valueQuantity": quantity("1.020"), "referenceRange": [{"low": quantity("1.005"), "high": quantity("1.030")}]},
        ),
        chart.result(
            "urine-protein",
            concept(LOINC, "5804-0", "Protein in urine"),
            -21,
            {"valueCodeableConcept": words("Trace"), "interpretation": interpretation("A"), "referenceRange": [{"text": "Negative"}]},
        ),
    ]
    chart.report("urinalysis", concept(LOINC, "24357-6", "Urinalysis by test strip", "Urine test"), -21, urine)
    chart.report(
        "urine-culture",
        concept(LOINC, "630-4", "Bacteria identified in urine by culture", "Urine culture"),
        -118,
        conclusion="Mixed growth, probably from the skin. No treatment needed.",
        presentedForm=[plain_text("Urine culture", "URINE CULTURE\nMixed growth below 10 000 per mL.\nNo single organism identified.\n")],
    )
    chart.report(
        "chest-x-ray",
        concept(LOINC, "36643-5", "XR Chest 2 Views", "Chest X-ray"),
        -770,
        category=[hl7("v2-0074", "RAD", "Radiology"), concept(LOINC, "LP29684-5", "Radiology")],
        performer=[to("Organization/alder-street-clinic", "Alder Street Clinic")],
        conclusion="The lungs are clear. The pneumonia seen five weeks ago is gone.",
        presentedForm=[
            plain_text("Chest X-ray report", "CHEST, TWO VIEWS\nLungs are clear. Heart size is normal.\nImpression: pneumonia resolved.\n")
        ],
    )
    _reports_within_reports(chart)
    chart.report(
        "biopsy-cancelled", words("Skin biopsy"), -500, status="cancelled", conclusion="Cancelled by the clinic: no longer needed.", performer=None
    )


def _reports_within_reports(chart: Chart) -> None:
    """A panel whose members are panels, and a report that carries its result within itself."""
    white = [
        chart.result(f"diff-{slug}", concept(LOINC, loinc, title), -350, {"valueQuantity": quantity(text, "%")})
        for slug, loinc, title, text in (("neutrophils", "770-8", "Neutrophils", "58.0"), ("lymphocytes", "736-9", "Lymphocytes", "31.50"))
    ]
    differential = chart.result("diff", words("White cell differential"), -350, {"hasMember": [to(part) for part in white]})
    cells = chart.lab("white-cells", -350, "7.10", slug="diff-white-cells")
    chart.report("blood-panel", words("Blood cells, with differential"), -350, [cells, differential])
    inside = {
        "resourceType": "Observation",
        "id": "score",
        "status": "final",
        "code": words("Bone density T-score, hip"),
        "subject": to(chart.patient),
        "valueQuantity": quantity("-1.10"),
    }
    chart.report(
        "bone-density",
        words("Bone density scan"),
        -240,
        category=[hl7("v2-0074", "RAD", "Radiology")],
        contained=[inside],
        result=[to("#score")],
        conclusion="Slightly thin bones.",
    )


def _vitals(chart: Chart) -> None:
    for days, systolic, diastolic in ((-720, "148", "92"), (-540, "142", "88"), (-360, "136", "84"), (-180, "131", "82"), (-21, "126", "78")):
        chart.blood_pressure(days, systolic, diastolic)
    for days, text in ((-720, "84.20"), (-360, "81.0"), (-21, "78.50")):
        chart.vital(f"weight{days}d", "29463-7", "Body weight", days, text, "kg")
    chart.vital("height", "8302-2", "Body height", -720, "168", "cm")
    chart.vital("pulse", "8867-4", "Heart rate", -21, "72", "beats/min")
    chart.vital("temperature", "8310-5", "Body temperature", -300, "37.9", "°C")
    chart.blood_pressure(
        -4,
        "128",
        "80",
        meta={"tag": [{"system": "http://hl7.org/fhir/us/core/CodeSystem/us-core-tags", "code": "patient-supplied"}]},
        performer=[to(chart.patient)],
        note=[{"text": "Measured at home."}],
    )
    chart.put(
        "Observation",
        "smoking",
        {
            "status": "final",
            "category": [hl7("observation-category", "social-history", "Social History")],
            "code": concept(LOINC, "72166-2", "Tobacco smoking status"),
            "subject": to(chart.patient),
            "effectiveDateTime": chart.day(-180),
            "valueCodeableConcept": concept(SNOMED, "266919005", "Never smoker", "Never smoked"),
        },
    )


def _medicines(chart: Chart) -> None:
    metformin = concept(RXNORM, "860975", "metformin hydrochloride 500 MG Extended Release Oral Tablet", "Metformin ER 500 mg tablet")
    order = chart.medicine(
        "metformin",
        metformin,
        dose("Take 2 tablets every evening with food"),
        days=-200,
        repeats=3,
        reasonReference=[to(f"Condition/{chart.id}-diabetes")],
    )
    for number, days in enumerate((-195, -105, -14), start=1):
        chart.dispense(f"metformin-{number}", order, metformin, days)
    lisinopril = concept(RXNORM, "314076", "lisinopril 10 MG Oral Tablet", "Lisinopril 10 mg tablet")
    order = chart.medicine("lisinopril", lisinopril, structured("1", "tablet", 1, when="MORN"), days=-180, repeats=1)
    for number, days in enumerate((-178, -88), start=1):
        chart.dispense(f"lisinopril-{number}", order, lisinopril, days)
    levothyroxine = to("Medication/levothyroxine-50")
    order = chart.medicine("levothyroxine", levothyroxine, dose("Take 1 tablet every morning, 30 minutes before breakfast"), days=-150, repeats=2)
    chart.dispense("levothyroxine-1", order, levothyroxine, -148)
    chart.dispense("levothyroxine-2", order, levothyroxine, -1, status="preparation")
    atorvastatin = concept(RXNORM, "617310", "atorvastatin 20 MG Oral Tablet", "Atorvastatin 20 mg tablet")
    chart.medicine("atorvastatin", atorvastatin, dose("Take 1 tablet at bedtime"), days=-30, repeats=None)
    chart.medicine(
        "simvastatin",
        concept(RXNORM, "312961", "simvastatin 20 MG Oral Tablet", "Simvastatin 20 mg tablet"),
        dose("Take 1 tablet at bedtime"),
        days=-720,
        status="stopped",
        statusReason=words("Muscle aches"),
    )
    amoxicillin = concept(RXNORM, "308191", "amoxicillin 500 MG Oral Capsule", "Amoxicillin 500 mg capsule")
    chart.medicine("amoxicillin-error", amoxicillin, dose("Take 1 capsule three times a day"), days=-650, status="entered-in-error")
    ibuprofen = concept(RXNORM, "310965", "ibuprofen 200 MG Oral Tablet", "Ibuprofen 200 mg tablet")
    chart.medicine(
        "ibuprofen",
        ibuprofen,
        structured(
            "1", "tablet", 3, asNeededBoolean=True, maxDosePerPeriod={"numerator": quantity("3", "tablet"), "denominator": quantity("1", "days")}
        ),
        days=-90,
        repeats=0,
        status="on-hold",
        statusReason=words("Kidney values are being checked"),
    )
    chart.medicine(
        "vitamin-d",
        words("Vitamin D3 1000 units, bought without prescription"),
        dose("1 capsule a day"),
        days=-60,
        repeats=None,
        reportedBoolean=True,
        intent="plan",
    )
    azithromycin = words("Azithromycin 250 mg tablet")
    chart.medicine(
        "azithromycin", azithromycin, dose("2 tablets on the first day, then 1 a day for four days"), days=-803, repeats=0, status="completed"
    )


def _appointments(chart: Chart) -> None:
    main = {"actor": to("Location/alder-street-main", "Alder Street Clinic, main building"), "required": "information-only", "status": "accepted"}
    chart.appointment(
        "checkup",
        6,
        "10:30",
        30,
        "Diabetes check-up",
        others=[main],
        patientInstruction="Please do not eat for 8 hours before. Bring your glucose meter.",
    )
    chart.appointment(
        "heart",
        41,
        "14:15",
        45,
        "Heart specialist, first visit",
        who=HEART,
        others=[main],
        reasonReference=[to(f"Condition/{chart.id}-hypertension")],
    )
    chart.appointment(
        "video",
        20,
        "08:45",
        20,
        "Diet advice",
        who=DIET,
        appointmentType=words("Video visit"),
        patientInstruction="By video. We send you the link on the day before.",
    )
    chart.appointment(
        "skin",
        None,
        "",
        0,
        "Dermatology",
        status="proposed",
        requestedPeriod=[{"start": chart.day(7), "end": chart.day(21)}],
        comment="Mornings only",
    )
    chart.appointment("blood-draw", 5, "07:50", 10, "Blood draw", status="pending", who="Location/alder-street-lab-desk")
    chart.appointment(
        "foot",
        12,
        "11:00",
        20,
        "Foot check",
        status="cancelled",
        cancelationReason=hl7("appointment-cancellation-reason", "pat", "Patient") | words("You asked us to cancel"),
    )
    yearly = chart.appointment("yearly", -180, "09:00", 25, "Yearly check-up", status="fulfilled", others=[main])
    recent = chart.appointment("recent", -21, "09:00", 25, "Follow-up visit", status="fulfilled", others=[main])
    chart.appointment("missed", -250, "16:00", 20, "Flu vaccination", status="noshow", who=NURSE)
    chart.appointment(
        "closed",
        -100,
        "13:00",
        20,
        "Eye photo",
        status="cancelled",
        cancelationReason=hl7("appointment-cancellation-reason", "prov", "Provider") | words("The clinic had to cancel"),
        comment="The camera was broken",
    )
    chart.visit("yearly-visit", -180, "Yearly check-up", appointment=yearly)
    chart.visit("recent-visit", -21, "Follow-up visit", appointment=recent)


def _messages(chart: Chart) -> None:
    me, team = chart.patient, f"CareTeam/{chart.id}-care-team"
    chart.care_team([(chart.patient, "Patient"), (DOCTOR, "Family doctor"), (NURSE, "Nurse"), (HEART, "Heart specialist"), (DIET, "Diet adviser")])
    chart.thread(
        "metformin",
        "Question about metformin",
        [me, team, NURSE],
        [
            (me, -16, "19:22", "Since I take two tablets of metformin in the evening, my stomach is upset. Can I take one in the morning instead?"),
            (
                NURSE,
                -15,
                "08:41",
                "Good morning Ms. Okafor. Yes: one with breakfast and one with dinner. Please write again in a week and tell us how it goes.",
            ),
            (me, -8, "20:03", "Much better now, thank you!\n\nOne more thing: do I have to stop it before the blood draw?"),
            (NURSE, -7, "09:15", "No, only do not eat for 8 hours. Water is fine."),
        ],
        category="Medicines",
    )
    chart.put(
        "Communication",
        "metformin-mistake",
        {
            "status": "entered-in-error",
            "partOf": [to(f"Communication/{chart.id}-metformin")],
            "subject": to(chart.patient),
            "topic": words("Question about metformin"),
            "sender": to(NURSE),
            "recipient": [to(me), to(team)],
            "sent": chart.time(-15, "08:39"),
            "payload": [{"contentString": "This was meant for somebody else."}],
        },
    )
    chart.thread(
        "potassium",
        "Your potassium result",
        [me, DOCTOR],
        [
            (
                DOCTOR,
                -8,
                "17:02",
                "Your potassium was too high in the last sample. This may come from the sample itself. Please come for a new blood draw this week.",
            )
        ],
        category="Results",
        priority="urgent",
        about=[to(f"Observation/{chart.id}-potassium-critical")],
    )
    chart.thread(
        "form",
        "Form for my employer",
        [me, team, DOCTOR],
        [
            (me, -70, "12:00", "Could you sign the form for my employer? I can bring it on Monday."),
            (DOCTOR, -69, "10:30", "Yes, please leave it at the front desk."),
        ],
        category="Forms",
        status="completed",
    )
    chart.put(
        "Communication",
        "form-signed",
        {
            "status": "completed",
            "partOf": [to(f"Communication/{chart.id}-form")],
            "subject": to(chart.patient),
            "topic": words("Form for my employer"),
            "sender": to(DOCTOR),
            "recipient": [to(me)],
            "sent": chart.time(-66, "11:00"),
            "payload": [
                {"contentString": "Here is the signed form."},
                {"contentAttachment": plain_text("Signed form.txt", "Ms. Okafor can do her usual work.\n")},
            ],
        },
    )


def _money(chart: Chart) -> None:
    chart.coverage("Larkspur Silver", "LHP-55-2091-447")
    chart.bill("checkup", -180, "Office visit, established patient", "180.00 145.00 0.00 29.00 116.00 29.00", note="Paid. You pay the copay.")
    chart.bill("labs", -21, "Laboratory tests", "212.50 96.10 0.00 0.00 96.10 0.00", note="Covered in full.")
    chart.claim("eye", -1, "Eye check", "95.00")
    chart.bill("x-ray", -770, "Chest X-ray, two views", "240.00 150.00 150.00 0.00 0.00 150.00", note="Counts toward your yearly deductible.")
    chart.put(
        "Invoice",
        "invoice-checkup",
        {
            "identifier": [{"system": f"{CLINIC}statement", "value": f"ST-{chart.today.year}-1101"}],
            "status": "issued",
            "subject": to(chart.patient),
            "recipient": to(chart.patient),
            "date": chart.day(-160),
            "issuer": to("Organization/alder-street-clinic", "Alder Street Clinic"),
            "lineItem": [
                {
                    "sequence": 1,
                    "chargeItemCodeableConcept": words("Office visit, your share"),
                    "priceComponent": [{"type": "base", "amount": money("29.00")}],
                }
            ],
            "totalGross": money("29.00"),
            "paymentTerms": "Due in 30 days",
        },
    )


def _history(chart: Chart) -> None:
    chart.vaccine("flu", "140", "Influenza, seasonal, injectable, preservative free", -240, performer=[{"actor": to(NURSE)}])
    chart.vaccine("tdap", "115", "Tdap", -1900)
    chart.vaccine("zoster", "121", "zoster vaccine, live", -100, status="not-done", statusReason=hl7("v3-ActReason", "PATOBJ", "Patient objection"))
    chart.put(
        "Procedure",
        "eye-photo",
        {
            "status": "completed",
            "code": words("Photograph of the retina"),
            "subject": to(chart.patient),
            "performedDateTime": chart.day(-365),
            "outcome": words("No damage seen"),
        },
    )
    chart.put(
        "Goal",
        "a1c-goal",
        {
            "lifecycleStatus": "active",
            "description": words("Hemoglobin A1c under 7.0 %"),
            "subject": to(chart.patient),
            "startDate": chart.day(-900),
            "target": [{"measure": concept(LOINC, "4548-4", "Hemoglobin A1c"), "detailQuantity": quantity("<7.0", "%")}],
        },
    )
    chart.put(
        "Task",
        "refill-done",
        {
            "identifier": [{"system": f"{CLINIC}refill", "value": "rf-0007"}],
            "status": "completed",
            "intent": "order",
            "code": {"coding": [coding("http://hl7.org/fhir/CodeSystem/task-code", "fulfill")], "text": "Refill request"},
            "focus": to(f"MedicationRequest/{chart.id}-metformin"),
            "for": to(chart.patient),
            "requester": to(chart.patient),
            "owner": to("Organization/juniper-pharmacy", "Juniper Pharmacy"),
            "authoredOn": chart.time(-17, "18:00"),
            "lastModified": chart.time(-14, "17:45"),
            "businessStatus": words("Picked up"),
        },
    )


def _provenance(chart: Chart) -> None:
    author = {"coding": [coding(f"{HL7}provenance-participant-type", "author", "Author")]}
    for slug, target, who in (
        ("thyroid", f"DiagnosticReport/{chart.id}-thyroid-amended", "Organization/alder-street-lab"),
        ("home-pressure", f"Observation/{chart.id}-bp-4d", chart.patient),
    ):
        chart.put(
            "Provenance",
            f"provenance-{slug}",
            {"target": [to(target)], "recorded": chart.time(-3, "12:00"), "agent": [{"type": author, "who": to(who)}]},
        )
