"""What the portal writes: a request, a cancellation, a refill, messages. Each once, however often the button is pressed."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from datetime import date, timedelta

import pytest

from gateway.adapters.ehr.base import OutcomeUnknown
from gateway.errors import BadRequest, Conflict, NotFound, PreconditionFailed, UpstreamFault
from gateway.fhir.interaction import Kind
from gateway.portal import appointments, medicines, messages
from gateway.portal.models import validate
from tests.support.clinic import Clinic, ref, rich, words
from tests.support.portal_app import NOW, Account
from tests.support.portal_chart import chart_of

KEY = "0" * 32
WISH = appointments.Wish("Skin rash", "2026-12-01", "2026-12-15", "Mornings only")
DRAFT = messages.Draft("CareTeam/ct1", "Side effects", "medication", "Is dizziness common?")


def written(clinic: Clinic, kind: Kind = Kind.CREATE) -> list[dict]:
    """The bodies of the writes, in order."""
    return [json.loads(interaction.body) for _, interaction, _ in clinic.seen if interaction.kind is kind]


# -- appointments


async def test_a_request_is_a_proposal_and_never_a_booking():
    """Status proposed, no start, the patient as participant, an identifier of ours; right by the model."""
    clinic = rich()
    id_ = await appointments.ask(chart_of(clinic), WISH, KEY)
    (body,) = written(clinic)
    assert validate(body) == ""
    assert body["status"] == "proposed"
    assert "start" not in body
    assert body["requestedPeriod"] == [{"start": "2026-12-01", "end": "2026-12-15"}]
    assert body["participant"] == [{"actor": {"reference": "Patient/p1"}, "status": "accepted"}]
    assert (body["serviceType"], body["comment"]) == ([{"text": "Skin rash"}], "Mornings only")
    assert body["identifier"][0]["system"] == "urn:fhir-portal-gateway:appointment-request"
    view = await appointments.listing(chart_of(clinic))
    assert id_ in [item.id for item in view.requested]
    assert next(item for item in view.requested if item.id == id_).status.word == "Requested"


@pytest.mark.parametrize("takes_ids", [False, True])
async def test_the_same_form_twice_is_one_request(takes_ids):
    """By conditional create, or by an id of ours where the EHR takes those."""
    clinic = rich()
    chart = chart_of(clinic, takes_ids=takes_ids)
    before = len(clinic.of_type("Appointment"))
    first, second = await appointments.ask(chart, WISH, KEY), await appointments.ask(chart, WISH, KEY)
    third = await appointments.ask(chart, WISH, "1" * 32)
    assert first == second != third
    assert len(clinic.of_type("Appointment")) == before + 2


async def test_a_lost_answer_is_repeated_without_a_second_effect():
    """The form is sent again with its key."""
    clinic = rich()
    clinic.lose_answers = 1
    with pytest.raises(OutcomeUnknown):
        await appointments.ask(chart_of(clinic), WISH, KEY)
    before = len(clinic.of_type("Appointment"))
    await appointments.ask(chart_of(clinic), WISH, KEY)
    assert len(clinic.of_type("Appointment")) == before


async def test_the_same_key_of_two_people_makes_two_things():
    """An identifier is derived from whose form it is, too."""
    one, other = chart_of(rich()), chart_of(rich(), "p3")
    assert one.identifier("thread", KEY) != other.identifier("thread", KEY)


@pytest.mark.parametrize(
    ("change", "wrong"),
    [
        ({}, set()),
        ({"what": ""}, {"what"}),
        ({"what": "x" * 501}, {"what"}),
        ({"comment": "x" * 501}, {"comment"}),
        ({"start": ""}, {"start"}),
        ({"start": "2026-11-01"}, {"start"}),
        ({"start": "2028-01-01", "end": "2028-01-02"}, {"start"}),
        ({"end": "2026-11-30"}, {"end"}),
        ({"end": "yesterday"}, {"end"}),
        ({"start": "x", "end": ""}, {"start", "end"}),
    ],
)
def test_a_wish_is_checked_by_field(change, wrong):
    """Errors are sentences beside the field."""
    assert set(replace(WISH, **change).errors(date(2026, 11, 22))) == wrong


async def test_appointments_are_split_with_requests_first():
    """A request has no start; a cancelled one to come is over; entered in error is hidden."""
    clinic = rich()
    clinic.put({"resourceType": "Appointment", "id": "x", "status": "entered-in-error", "participant": [{"actor": ref("Patient/p1")}]})
    view = await appointments.listing(chart_of(clinic))
    assert [item.id for item in view.requested] == ["a2"]
    assert [item.id for item in view.coming] == ["a1"]
    assert [item.id for item in view.past] == ["a4", "a3"]
    visit = view.coming[0]
    assert (visit.when, visit.people, visit.places) == (
        "1 December 2026, 9:00 am (UTC\N{MINUS SIGN}5)",
        ("Dr Hana Kim",),
        ("Mercy Clinic, North building, room 4",),
    )
    assert view.past[0].cancelled_because == "Clinic closed"
    later = await appointments.listing(chart_of(clinic, now=NOW + timedelta(days=9)))
    assert later.coming == ()
    assert [item.title for item in appointments.todo(view)] == ["Next visit: Diabetes check-up", "Not booked yet: Eye check"]


async def test_cancelling_changes_the_status_and_her_own_answer_and_nothing_else():
    """Everything that the clinic wrote goes back as it was, numbers digit for digit, with If-Match of the version she saw."""
    clinic = rich()
    stored = clinic.resources["Appointment", "a1"]
    item, _ = await appointments.one(chart_of(clinic), "a1")
    await appointments.cancel(chart_of(clinic), "a1", item.etag, "pat-lt")
    sent = next(interaction for _, interaction, _ in clinic.seen if interaction.kind is Kind.UPDATE)
    assert sent.conditions.if_match == 'W/"1"'
    assert b'"valueDecimal":1.50' in sent.body
    before, after = json.loads(stored), json.loads(sent.body)
    assert after["status"] == "cancelled"
    assert after["cancelationReason"]["coding"][0]["code"] == "pat-lt"
    assert [item["status"] for item in after["participant"]] == ["declined", "accepted", "accepted"]
    changed = {name for name in before | after if before.get(name) != after.get(name)}
    assert changed == {"status", "cancelationReason", "participant"}


async def test_an_appointment_that_changed_meanwhile_is_not_cancelled():
    """She saw nine o'clock; the clinic has moved it since."""
    clinic = rich()
    item, _ = await appointments.one(chart_of(clinic), "a1")
    clinic.put({**json.loads(clinic.resources["Appointment", "a1"]), "start": "2026-12-02T09:00:00-05:00"})
    with pytest.raises(PreconditionFailed):
        await appointments.cancel(chart_of(clinic), "a1", item.etag, "pat-fb")
    assert json.loads(clinic.resources["Appointment", "a1"])["status"] == "booked"


async def test_cancelling_twice_is_one_effect_and_what_is_over_cannot_be_cancelled():
    """The second tap of a double tap is no error."""
    clinic = rich()
    item, _ = await appointments.one(chart_of(clinic), "a1")
    for _ in range(2):
        await appointments.cancel(chart_of(clinic), "a1", item.etag, "pat-fb")
    assert len(written(clinic, Kind.UPDATE)) == 1
    with pytest.raises(Conflict):
        await appointments.cancel(chart_of(clinic), "a3", 'W/"1"', "pat-fb")


async def test_gateway_urls_in_what_was_read_go_back_as_relative_references():
    """An EHR knows nothing of the gateway's address."""
    clinic = rich()
    raw = clinic.resources["Appointment", "a1"].replace(b'"Practitioner/kim"', b'"http://gateway.test/fhir/clinic/Practitioner/kim"')
    clinic.put(raw)
    await appointments.cancel(chart_of(clinic), "a1", 'W/"2"', "pat-fb")
    (body,) = written(clinic, Kind.UPDATE)
    assert body["participant"][1]["actor"]["reference"] == "Practitioner/kim"


async def test_odd_data_of_the_clinics_do_not_keep_her_from_cancelling():
    """What was not right by the model before is not hers to put right."""
    clinic = rich()
    clinic.put({**json.loads(clinic.resources["Appointment", "a1"]), "minutesDuration": "thirty"})
    await appointments.cancel(chart_of(clinic), "a1", 'W/"2"', "pat-fb")
    assert json.loads(clinic.resources["Appointment", "a1"])["minutesDuration"] == "thirty"


# -- refills


async def test_a_refill_request_is_a_task_about_the_prescription():
    """Requested, for and by the patient, to the pharmacy that the prescription names; right by the model; seen at once."""
    clinic = rich()
    await medicines.ask_for_more(chart_of(clinic), "mr1", KEY, "New pharmacy, please")
    (task,) = written(clinic)
    assert validate(task) == ""
    assert (task["status"], task["intent"], task["code"]["coding"][0]["code"]) == ("requested", "order", "fulfill")
    assert task["focus"] == {"reference": "MedicationRequest/mr1"}
    assert task["for"] == task["requester"] == {"reference": "Patient/p1"}
    assert task["owner"] == {"reference": "Organization/mercy"}
    assert task["note"] == [{"text": "New pharmacy, please"}]
    item = (await medicines.listing(chart_of(clinic))).one("mr1")
    assert item.waiting is not None
    assert (item.waiting.status.word, item.may_ask) == ("Requested", False)


async def test_an_open_request_blocks_another_until_it_ends():
    """The same form again is no error; another form is told that it was asked for already."""
    clinic = rich()
    for _ in range(2):
        await medicines.ask_for_more(chart_of(clinic), "mr1", KEY, "")
    assert len(clinic.of_type("Task")) == 1
    with pytest.raises(Conflict, match="already"):
        await medicines.ask_for_more(chart_of(clinic), "mr1", "1" * 32, "")
    task = clinic.of_type("Task")[0]
    clinic.put({**task, "status": "rejected", "statusReason": {"text": "Please come in first."}})
    item = (await medicines.listing(chart_of(clinic))).one("mr1")
    assert (item.may_ask, item.requests[0].status.word, item.requests[0].reason) == (True, "Not agreed", "Please come in first.")
    await medicines.ask_for_more(chart_of(clinic), "mr1", "1" * 32, "")
    assert len(clinic.of_type("Task")) == 2


async def test_only_what_she_takes_now_can_be_asked_for():
    """Stopped, absent or another's: nothing is written."""
    clinic = rich()
    clinic.put({"resourceType": "MedicationRequest", "id": "b1", "status": "active", "intent": "order", "subject": ref("Patient/p2")})
    clinic.put({**json.loads(clinic.resources["MedicationRequest", "mr1"]), "id": "told", "reportedBoolean": True})
    clinic.put({**json.loads(clinic.resources["MedicationRequest", "mr1"]), "id": "paused", "status": "on-hold"})
    view = await medicines.listing(chart_of(clinic))
    assert not view.one("told").may_ask
    assert not view.one("paused").may_ask
    for id_, error in (("mr3", Conflict), ("told", Conflict), ("paused", Conflict), ("none", NotFound), ("b1", NotFound), ("../x", NotFound)):
        with pytest.raises(error):
            await medicines.ask_for_more(chart_of(clinic), id_, KEY, "")
    assert written(clinic) == []


# -- messages


async def test_threads_are_grouped_and_the_newest_is_first():
    """A header without text is no message; one of staff without a header is a thread of its own."""
    view = await messages.listing(chart_of(rich()))
    assert [(thread.id, thread.topic) for thread in view.threads] == [("th1", "Question about metformin"), ("m9", "Flu shot")]
    thread = view.one("th1")
    assert thread.people == ("Diabetes care team", "Kwame Osei, RN")
    assert [(item.who, item.mine, item.state) for item in thread.messages] == [("You", True, "Read"), ("Kwame Osei, RN", False, "")]
    assert thread.messages[1].text == "Yes, with your evening meal.\nTell us if your stomach hurts."
    assert [item.title for item in messages.todo(view, NOW)] == ["Message from Kwame Osei, RN"]


async def test_messages_can_be_written_only_to_those_whom_this_ehr_names():
    """The care team, its members, her doctor and her clinic; never herself."""
    found = await messages.recipients(chart_of(rich()))
    assert [(item.reference, item.name) for item in found] == [
        ("CareTeam/ct1", "Diabetes care team"),
        ("Practitioner/osei", "Kwame Osei, RN"),
        ("Practitioner/kim", "Dr Hana Kim"),
        ("Organization/mercy", "Mercy Clinic"),
    ]
    assert set(replace(DRAFT, to="Practitioner/stranger").errors(found)) == {"to"}
    assert set(messages.Draft().errors(found)) == {"to", "category", "topic", "text"}
    assert set(replace(DRAFT, topic="x" * 101, text="x" * 5001).errors(found)) == {"topic", "text"}
    assert DRAFT.errors(found) == {}


async def test_a_source_of_names_that_fails_leaves_the_others():
    """Without care teams, her own doctor is still there."""
    clinic = rich()
    clinic.failing["CareTeam"] = UpstreamFault()
    assert [item.name for item in await messages.recipients(chart_of(clinic))] == ["Dr Hana Kim", "Mercy Clinic"]
    clinic.failing["Patient"] = UpstreamFault()
    assert await messages.recipients(chart_of(clinic)) == ()


async def test_a_new_thread_is_a_header_and_a_message_in_it():
    """The header lists everyone and has no text; the message is part of it and goes to staff; both are in progress."""
    clinic = rich()
    thread_id = await messages.send_new(chart_of(clinic), replace(DRAFT, about="Observation/k1"), KEY)
    header, message = written(clinic)
    assert validate(header) == validate(message) == ""
    assert "payload" not in header
    assert [item["reference"] for item in header["recipient"]] == ["Patient/p1", "CareTeam/ct1"]
    assert message["partOf"] == [{"reference": f"Communication/{thread_id}"}]
    assert message["recipient"] == [{"reference": "CareTeam/ct1"}]
    assert message["payload"] == [{"contentString": "Is dizziness common?"}]
    assert message["about"] == [{"reference": "Observation/k1"}]
    assert (await messages.listing(chart_of(clinic))).one(thread_id).about == "/portal/results/observation/k1"
    assert {header["status"], message["status"]} == {"in-progress"}
    assert header["sender"] == message["sender"] == header["subject"] == {"reference": "Patient/p1"}
    assert header["identifier"] != message["identifier"]
    assert (await messages.listing(chart_of(clinic))).one(thread_id).last.state == "Sent"


@pytest.mark.parametrize("lost", [1, 2])
async def test_a_new_thread_is_repeatable_wherever_its_answer_was_lost(lost):
    """After the header or after the message: one of each at the end."""
    clinic = rich()
    before = len(clinic.of_type("Communication"))
    clinic.lose_answers = lost
    for _ in range(lost):
        with pytest.raises(OutcomeUnknown):
            await messages.send_new(chart_of(clinic), DRAFT, KEY)
    await messages.send_new(chart_of(clinic), DRAFT, KEY)
    await messages.send_new(chart_of(clinic), DRAFT, KEY)
    assert len(clinic.of_type("Communication")) == before + 2


async def test_a_header_whose_message_never_came_is_not_shown_as_an_empty_thread():
    """There is nothing to read in it."""
    clinic = Clinic()
    clinic.put({"resourceType": "Communication", "id": "h", "status": "in-progress", "subject": ref("Patient/p1"), "topic": words("x")})
    assert (await messages.listing(chart_of(clinic))).threads == ()


async def test_a_reply_answers_the_last_message_and_goes_to_staff():
    """PartOf the thread, inResponseTo the last, never to herself; the second send finds the first."""
    clinic = rich()
    for _ in range(2):
        await messages.reply(chart_of(clinic), "th1", "Thank you.", KEY)
    (first, second) = written(clinic)
    assert first["identifier"] == second["identifier"]
    assert validate(first) == ""
    assert first["partOf"] == [{"reference": "Communication/th1"}]
    assert first["inResponseTo"] == [{"reference": "Communication/m2"}]
    assert first["recipient"] == [{"reference": "CareTeam/ct1"}]
    thread = (await messages.listing(chart_of(clinic))).one("th1")
    assert [item.text for item in thread.messages].count("Thank you.") == 1


async def test_a_message_of_staff_without_a_header_can_be_answered():
    """The answer goes to its sender."""
    clinic = rich()
    await messages.reply(chart_of(clinic), "m9", "I will come.", KEY)
    (body,) = written(clinic)
    assert body["recipient"] == [{"reference": "Practitioner/kim"}]
    assert (await messages.listing(chart_of(clinic))).one("m9").last.text == "I will come."


async def test_a_closed_thread_takes_no_answer_and_an_unknown_one_is_not_found():
    """Nothing is written."""
    clinic = rich()
    clinic.put({**json.loads(clinic.resources["Communication", "th1"]), "status": "completed"})
    assert not (await messages.listing(chart_of(clinic))).one("th1").open
    for id_, error in (("th1", Conflict), ("none", NotFound)):
        with pytest.raises(error):
            await messages.reply(chart_of(clinic), id_, "x", KEY)
    assert written(clinic) == []


async def test_withdrawn_messages_and_foreign_drafts_show_no_text():
    """Entered in error: that it was taken back. A draft of staff: nothing yet."""
    clinic = rich()
    clinic.put({**json.loads(clinic.resources["Communication", "m2"]), "status": "entered-in-error"})
    last = (await messages.listing(chart_of(clinic))).one("th1").last
    assert (last.withdrawn, last.text) == (True, "")
    clinic.put({**json.loads(clinic.resources["Communication", "m2"]), "status": "preparation"})
    assert (await messages.listing(chart_of(clinic))).one("th1").last.id == "m1"


async def test_one_who_cares_for_a_patient_writes_in_her_own_name():
    """Sender is the carer, subject the patient, and what she wrote is hers on the page."""
    clinic = rich()
    clinic.put({"resourceType": "CareTeam", "id": "ct3", "status": "active", "name": "Leo's team", "subject": ref("Patient/p3")})
    chart = chart_of(clinic, "p3", account=Account(fhir_user="RelatedPerson/r1"))
    thread_id = await messages.send_new(chart, replace(DRAFT, to="CareTeam/ct3"), KEY)
    header, message = written(clinic)
    assert header["sender"] == message["sender"] == {"reference": "RelatedPerson/r1"}
    assert [item["reference"] for item in header["recipient"]] == ["Patient/p3", "RelatedPerson/r1", "CareTeam/ct3"]
    assert (await messages.listing(chart)).one(thread_id).last.who == "You"


async def test_a_message_is_about_her_own_record_only():
    """By the resource's name; another's is not found, another kind is refused."""
    chart = chart_of(rich())
    assert await messages.about_words(chart, "Observation/k1") == "Potassium, 20 November 2026"
    with pytest.raises(NotFound):
        await messages.about_words(chart, "Observation/theirs")
    with pytest.raises(BadRequest):
        await messages.about_words(chart, "Patient/p2")


async def test_circles_of_messages_end():
    """Two that answer each other are one thread, whatever an EHR holds."""
    clinic = Clinic()
    for id_, other in (("a", "b"), ("b", "a")):
        clinic.put(
            {
                "resourceType": "Communication",
                "id": id_,
                "status": "completed",
                "subject": ref("Patient/p1"),
                "inResponseTo": [ref(f"Communication/{other}")],
                "payload": [{"contentString": id_}],
            }
        )
    view = await asyncio.wait_for(messages.listing(chart_of(clinic)), 5)
    assert sorted(item.text for thread in view.threads for item in thread.messages) == ["a", "b"]


@pytest.mark.parametrize(
    ("about", "category", "path"),
    [
        ("Observation/k1", "result", "/portal/results/observation/k1"),
        ("DiagnosticReport/r1", "result", "/portal/results/report/r1"),
        ("MedicationRequest/m1", "medication", "/portal/medicines/m1"),
        ("Appointment/a1", "appointment", "/portal/appointments/a1"),
        ("ExplanationOfBenefit/e1", "billing", "/portal/bills/plan/e1"),
        ("Claim/c1", "billing", "/portal/bills/claim/c1"),
        ("Condition/c1", "general", "/portal/conditions"),
        ("Patient/p1", "", ""),
        ("", "", ""),
    ],
)
def test_a_message_begins_with_its_category_and_leads_back_to_what_it_is_about(about, category, path):
    """The form does not ask what it knows, and there is a way back."""
    assert (messages.about_category(about), messages.about_path(about)) == (category, path)


async def test_a_visit_that_is_not_agreed_is_never_the_next_one():
    """It has a time, and yet it stands with what is not booked; the next visit is the first that is."""
    clinic = Clinic()
    for id_, status, start in (("a", "pending", "2026-11-30T07:50:00-05:00"), ("b", "booked", "2026-12-01T10:30:00-05:00"), ("c", "proposed", "")):
        visit = {"resourceType": "Appointment", "id": id_, "status": status, "description": id_, "participant": [{"actor": ref("Patient/p1")}]}
        clinic.put(visit | ({"start": start} if start else {}))
    view = await appointments.listing(chart_of(clinic))
    assert ([item.id for item in view.requested], [item.id for item in view.coming]) == (["a", "c"], ["b"])
    first, *others = appointments.todo(view)
    assert (first.title, first.detail) == ("Next visit: b", "Tuesday, 1 December 2026, 10:30 am (UTC\N{MINUS SIGN}5). Booked.")
    assert [item.title for item in others] == ["Not booked yet: a", "Not booked yet: c"]
    assert others[0].detail.startswith("Monday, 30 November 2026, 7:50 am")
    assert others[0].detail.endswith("This is not booked.")
    later = await appointments.listing(chart_of(clinic, now=NOW + timedelta(days=10)))
    assert [item.id for item in later.past] == ["b", "a"]
