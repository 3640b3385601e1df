"""Conditions, medicines, bills and the access log: what each view says about the clinic's data."""

from __future__ import annotations

import json
from typing import Any

import pytest

from gateway.errors import Forbidden, NotFound, UpstreamFault
from gateway.portal import access_log, bills, conditions, medicines
from tests.support.clinic import Clinic, eob_total, exact, ref, rich, words
from tests.support.portal_app import Account
from tests.support.portal_chart import chart_of

# -- conditions


async def test_conditions_are_grouped_and_those_ruled_out_are_hidden():
    """One without a status is not dropped; a refuted one is."""
    view = await conditions.listing(chart_of(rich()))
    assert [item.name for item in view.current] == ["Type 2 diabetes", "Cough"]
    assert [item.name for item in view.past] == ["Asthma in childhood"]
    assert [item.name for item in view.unsaid] == ["Back pain"]
    first = view.current[0]
    assert (first.status, first.started, first.severity) == ("Active", "April 2018", "Moderate")
    assert (view.current[1].not_sure, view.current[1].notes) == ("Not confirmed yet", ("Check again in spring.",))
    assert view.past[0].started == "at age 6"
    assert view.unsaid[0].visit
    assert not view.empty


async def test_no_conditions_is_an_empty_list_and_not_an_error():
    """The page then says that nothing was written down."""
    assert (await conditions.listing(chart_of(Clinic()))).empty


@pytest.mark.parametrize(
    ("more", "started"),
    [
        ({"onsetPeriod": {"start": "2020", "end": "2021"}}, "between 2020 and 2021"),
        ({"onsetPeriod": {"start": "2020"}}, "after 2020"),
        ({"onsetRange": {"low": {"value": 3, "unit": "years"}, "high": {"value": 5, "unit": "years"}}}, "between 3 years and 5 years"),
        ({"onsetString": "as a child"}, "as a child"),
        ({"onsetDateTime": "2020-01-05T03:00:00Z"}, "4 January 2020"),
    ],
)
async def test_every_kind_of_onset(more, started):
    """onset[x] in words, in the clinic's zone."""
    clinic = Clinic()
    clinic.put({"resourceType": "Condition", "id": "c", "subject": ref("Patient/p1"), "clinicalStatus": words("", "active")} | more)
    assert (await conditions.listing(chart_of(clinic))).current[0].started == started


# -- medicines


async def test_medicines_have_directions_and_refills():
    """The prescriber's text first; a sentence is made only where there is none."""
    view = await medicines.listing(chart_of(rich()))
    metformin, salbutamol = view.current
    assert (metformin.name, metformin.directions, metformin.refills) == (
        "Metformin 500 mg tablet",
        ("Take 1 tablet every evening with food",),
        "2 refills left.",
    )
    assert (metformin.by, metformin.reason, metformin.last_given, metformin.supply) == ("Dr Hana Kim", "Diabetes", "2 August 2026", "30 days")
    assert salbutamol.name == "Salbutamol inhaler 100 micrograms"
    assert salbutamol.directions == ("Take 2 puffs, 4 times a day, when needed",)
    assert (salbutamol.refills, salbutamol.none_left) == ("No refills left.", True)
    assert [item.name for item in view.past] == ["Lisinopril 10 mg tablet"]
    assert not view.past[0].may_ask
    with pytest.raises(NotFound):
        view.one("theirs")


@pytest.mark.parametrize(
    ("allowed", "given", "left"),
    [(3, 0, None), (None, 2, None), (3, 1, 3), (3, 2, 2), (3, 4, 0), (3, 9, 0), (0, 1, 0), (True, 1, None)],
)
def test_refills_left(allowed, given, left):
    """Repeats allowed less the dispenses after the first; not known without any dispense."""
    order = {"dispenseRequest": {} if allowed is None else {"numberOfRepeatsAllowed": allowed}}
    dispenses = [{"status": "completed"}] * given + [{"status": "cancelled"}]
    assert medicines.refills_left(order, dispenses) == left


@pytest.mark.parametrize(
    ("dose", "line"),
    [
        ({"text": "Twice daily"}, ("Twice daily",)),
        ({"text": "Twice daily", "patientInstruction": "With water"}, ("With water", "Twice daily")),
        (
            {
                "doseAndRate": [{"doseRange": {"low": {"value": 1}, "high": {"value": 2, "unit": "tablets"}}}],
                "timing": {"repeat": {"frequency": 1, "period": 8, "periodUnit": "h"}},
            },
            ("Take 1 to 2 tablets, once every 8 hours",),
        ),
        (
            {"route": words("By mouth"), "asNeededCodeableConcept": words("pain"), "timing": {"code": words("At bedtime")}},
            ("By mouth, At bedtime, when needed for pain",),
        ),
        ({}, ()),
    ],
)
def test_directions(dose, line):
    """Text, the patient's own instruction, or the parts."""
    assert medicines.directions({"dosageInstruction": [dose]}) == line


async def test_without_the_pharmacys_data_the_rest_is_shown_and_refills_are_not_known():
    """A part that fails is named; no number is made up from what is missing."""
    clinic = rich()
    clinic.failing["MedicationDispense"] = UpstreamFault()
    view = await medicines.listing(chart_of(clinic))
    assert view.standing.missing == ("what the pharmacy handed out",)
    assert view.current[0].refills.startswith("We do not know")
    clinic.failing |= {"MedicationRequest": Forbidden(), "Task": UpstreamFault()}
    with pytest.raises(Forbidden):
        await medicines.listing(chart_of(clinic))


async def test_names_that_cannot_be_read_do_not_hide_a_medicine():
    """It shows without a name rather than not at all."""
    clinic = rich()
    clinic.failing["Medication"] = UpstreamFault()
    view = await medicines.listing(chart_of(clinic))
    assert "Medicine without a name" in [item.name for item in view.current]


async def test_a_contained_medication_gives_its_name():
    """`#m` is looked up in the prescription itself."""
    clinic = Clinic()
    clinic.put(
        {
            "resourceType": "MedicationRequest",
            "id": "m1",
            "status": "active",
            "intent": "order",
            "subject": ref("Patient/p1"),
            "contained": [{"resourceType": "Medication", "id": "m", "code": words("Aspirin")}],
            "medicationReference": ref("#m"),
        }
    )
    assert (await medicines.listing(chart_of(clinic))).current[0].name == "Aspirin"


# -- bills


async def test_a_decided_bill_says_who_billed_paid_and_what_is_owed():
    """Amounts stand as written; the claim that was decided is not listed again."""
    view = await bills.listing(chart_of(rich()))
    assert [bill.target for bill in view.bills] == ["Claim/cl2", "ExplanationOfBenefit/eob1"]
    bill = view.one("ExplanationOfBenefit/eob1")
    assert bill.sentences == (
        "Mercy Clinic billed $185.50.",
        "Blue River Health Plan paid $120.25.",
        "The price was lowered by $40.25.",
        "You owe $25.00.",
    )
    assert bill.owes_something
    assert [(item.what, item.billed, item.paid, item.owed) for item in bill.items] == [
        ("Office visit, 20 minutes", "$150.50", "$100.25", "$25.00"),
        ("Flu vaccine", "$35.00", "", ""),
    ]
    claim = view.one("Claim/cl2")
    assert (claim.status.word, claim.billed, claim.decided) == ("Sent to your plan", "$64.00", False)
    with pytest.raises(NotFound):
        view.one("Claim/none")


async def test_a_sum_is_made_only_of_what_the_plan_said():
    """No total: the lines' parts are added, exactly; nobody said: nothing is worked out."""
    clinic = rich()
    eob = json.loads(clinic.resources["ExplanationOfBenefit", "eob1"]) | {"total": []}
    eob["item"] = [
        {"sequence": 1, "productOrService": words("a"), "adjudication": [eob_total("deductible", "10.10"), eob_total("copay", "0.20")]},
        {"sequence": 2, "productOrService": words("b"), "adjudication": [eob_total("copay", "5.00")]},
    ]
    clinic.put(eob)
    (bill, _) = await bills.one(chart_of(clinic), "ExplanationOfBenefit", "eob1")
    assert bill.owed == "$15.30"
    assert bill.sentences[0] == "The plan did not say what was billed."
    clinic.put(eob | {"item": []})
    (bill, _) = await bills.one(chart_of(clinic), "ExplanationOfBenefit", "eob1")
    assert bill.sentences[-1] == "The plan did not say what you owe. Your clinic can tell you."
    assert not bill.owes_something


async def test_two_currencies_are_never_added():
    """A sum of unlike things would be wrong."""
    clinic = rich()
    eob = json.loads(clinic.resources["ExplanationOfBenefit", "eob1"]) | {"item": []}
    eob["total"] = [
        {"category": words("c", "copay"), "amount": {"value": exact("1.00"), "currency": "USD"}},
        {"category": words("d", "deductible"), "amount": {"value": exact("1.00"), "currency": "EUR"}},
    ]
    clinic.put(eob)
    (bill, _) = await bills.one(chart_of(clinic), "ExplanationOfBenefit", "eob1")
    assert bill.owed == ""


async def test_bills_todo_is_the_newest_that_is_owed():
    """Nothing owed, nothing to do."""
    (item,) = bills.todo(await bills.listing(chart_of(rich())))
    assert item.title == "Your plan says you owe $25.00"
    assert bills.todo(await bills.listing(chart_of(Clinic()))) == ()


# -- access log


async def test_the_access_log_says_who_what_when_and_through_what():
    """Alike accesses of a day are one line with all their times; newest day first."""
    view = await access_log.listing(chart_of(rich()))
    assert [day.title for day in view.days] == ["21 November 2026", "20 November 2026"]
    refused, lab_system = view.days[0].accesses
    assert (refused.who, refused.what, refused.app, refused.result) == (
        "You",
        "Tried to look at health conditions",
        "Fitness app",
        "Refused",
    )
    assert (lab_system.who, lab_system.what) == ("City Lab", "Added to test results and measurements")
    doctor, herself = view.days[1].accesses
    assert (doctor.who, doctor.what, doctor.app) == ("Dr Hana Kim", "Looked at test results and measurements", "Mercy desk")
    assert (herself.who, herself.app, herself.yours) == ("You", "This site", True)
    assert herself.times == (
        "7:05 am (UTC\N{MINUS SIGN}5): test results and measurements",
        "5:05 am (UTC\N{MINUS SIGN}5): test results and measurements",
    )
    assert [item.who for day in view.of_others().days for item in day.accesses] == ["You", "City Lab", "Dr Hana Kim"]


async def test_looks_of_a_day_are_one_line_and_writes_stay_apart():
    """Else her own visits to these pages bury what others did."""
    clinic = Clinic()

    def event(number: int, code: str, kind: str) -> dict[str, Any]:
        return {
            "resourceType": "AuditEvent",
            "id": f"e{number}",
            "recorded": f"2026-11-20T10:0{number}:00Z",
            "subtype": [{"code": code}],
            "agent": [{"who": ref("Patient/p1"), "name": "Patient portal", "requestor": True}],
            "entity": [{"what": ref("Patient/p1")}, {"what": {"type": kind}}],
        }

    clinic.put(event(1, "search-type", "Observation"), event(2, "create", "Communication"), event(3, "read", "Condition"), event(4, "create", "Task"))
    (day,) = (await access_log.listing(chart_of(clinic))).days
    assert [item.what for item in day.accesses] == [
        "Added to requests for refills",
        "Looked at health conditions and test results and measurements",
        "Added to messages",
    ]


async def test_a_carer_is_named_apart_from_the_patient():
    """What the patient did herself is not "You" for the one who cares for her."""
    view = await access_log.listing(chart_of(rich(), account=Account(fhir_user="RelatedPerson/r1")))
    whose = {item.who for day in view.days for item in day.accesses}
    assert "The patient" in whose
    assert "You" not in whose


async def test_odd_events_still_show():
    """No agent, no subtype, a query that is no base64."""
    clinic = Clinic()
    clinic.put(
        {"resourceType": "AuditEvent", "id": "e", "recorded": "2026-11-20T10:00:00Z", "entity": [{"what": ref("Patient/p1")}, {"query": "%%"}]}
    )
    (day,) = (await access_log.listing(chart_of(clinic))).days
    assert (day.accesses[0].who, day.accesses[0].what) == ("Not known", "Used the record")


async def test_bills_are_told_apart_by_what_was_done():
    """All are of the same clinic; a bare code is no name, and then the clinic stands there."""
    clinic = Clinic()
    services = {
        "one": [{"text": "Eye check"}],
        "many": [{"text": name} for name in ("X-ray", "X-ray", "Visit", "Bandage")],
        "code": [{"coding": [{"code": "99213"}]}],
    }
    for id_, items in services.items():
        lines = [{"sequence": number, "productOrService": item} for number, item in enumerate(items, 1)]
        claim = {"resourceType": "Claim", "id": id_, "status": "active", "use": "claim", "patient": ref("Patient/p1"), "created": "2026-11-01"}
        clinic.put(claim | {"type": words("", "vision"), "provider": {"display": "Mercy Clinic"}, "item": lines})
    found = {bill.target: bill for bill in (await bills.listing(chart_of(clinic))).bills}
    assert {target.partition("/")[2]: bill.title for target, bill in found.items()} == {
        "one": "Eye check",
        "many": "X-ray, Visit and 1 more",
        "code": "Mercy Clinic",
    }
    assert dict(found["Claim/one"].facts)["Kind of care"] == "Eyes"


@pytest.mark.parametrize(
    ("dose", "line"),
    [
        ({"value": 2, "unit": "tablet"}, "Take 2 tablets"),
        ({"value": 1, "unit": "tablet"}, "Take 1 tablet"),
        ({"value": 10, "unit": "mL"}, "Take 10 mL"),
    ],
)
def test_more_than_one_piece_has_an_s(dose, line):
    """Directions that are made from parts are still a sentence."""
    assert medicines.directions({"dosageInstruction": [{"doseAndRate": [{"doseQuantity": dose}]}]}) == (line,)


async def test_what_nobody_prescribed_has_no_refills():
    """The page does not send her to the pharmacy to ask how many are left."""
    clinic = Clinic()
    order = {"resourceType": "MedicationRequest", "id": "m", "status": "active", "intent": "plan", "subject": ref("Patient/p1")}
    clinic.put(order | {"reportedBoolean": True, "medicationCodeableConcept": {"text": "Vitamin D"}})
    (item,) = (await medicines.listing(chart_of(clinic))).current
    assert (item.refills, item.may_ask) == ("", False)


async def test_a_day_names_a_few_kinds_of_data_and_counts_the_rest():
    """A list of thirteen kinds is read by nobody; each time names its own."""
    clinic = Clinic()
    kinds = ("Observation", "Condition", "Communication", "Appointment", "Task", "Claim", "CareTeam")
    for number, kind in enumerate(kinds):
        event = {"resourceType": "AuditEvent", "id": f"e{number}", "type": words("", "rest"), "subtype": [words("", "search-type")["coding"][0]]}
        agent = {"who": ref("Practitioner/x") | {"display": "Dr. X"}, "requestor": True}
        entity = [{"what": ref("Patient/p1")}, {"what": {"type": kind}}]
        clinic.put(event | {"recorded": f"2026-11-20T10:0{number}:00Z", "agent": [agent], "entity": entity})
    (day,) = (await access_log.listing(chart_of(clinic))).days
    assert [item.what for item in day.accesses] == [
        "Looked at the care team, bills sent to the plan, requests for refills, appointments and 3 more kinds of data"
    ]
    assert len(day.accesses[0].times) == len(kinds)
