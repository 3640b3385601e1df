"""The sandbox's people: valid, complete in themselves, the same for the same day, and loaded exactly as written."""

from __future__ import annotations

import json
import re
from datetime import date, datetime, timedelta
from decimal import Decimal

import httpx
import pytest
import respx
from fhir.resources.R4B import get_fhir_model_class

from gateway.errors import ConfigError
from gateway.sandbox import people
from gateway.sandbox.people_data.build import Chart, Clock, Folder, quantity

TODAY = date(2026, 11, 24)
ALL = people.folders(TODAY)
RESOURCES = {name: resource for folder in ALL for name, resource in people.named(folder)}
BASE = "https://ehr.example/fhir"

# The required bindings, which the models do not hold (R4 4.0.1 value sets).
STATUSES = {
    "Appointment": "proposed pending booked arrived fulfilled cancelled noshow entered-in-error checked-in waitlist",
    "CareTeam": "proposed active suspended inactive entered-in-error",
    "Claim": "active cancelled draft entered-in-error",
    "Communication": "preparation in-progress not-done on-hold stopped completed entered-in-error unknown",
    "Coverage": "active cancelled draft entered-in-error",
    "DiagnosticReport": "registered partial preliminary final amended corrected appended cancelled entered-in-error unknown",
    "Encounter": "planned arrived triaged in-progress onleave finished cancelled entered-in-error unknown",
    "ExplanationOfBenefit": "active cancelled draft entered-in-error",
    "Immunization": "completed entered-in-error not-done",
    "Invoice": "draft issued balanced cancelled entered-in-error",
    "Location": "active suspended inactive",
    "Medication": "active inactive entered-in-error",
    "MedicationDispense": "preparation in-progress cancelled on-hold completed entered-in-error stopped declined unknown",
    "MedicationRequest": "active on-hold cancelled completed entered-in-error stopped draft unknown",
    "Observation": "registered preliminary final amended corrected cancelled entered-in-error unknown",
    "Procedure": "preparation in-progress not-done on-hold stopped completed entered-in-error unknown",
    "Task": "draft requested received accepted rejected ready cancelled in-progress on-hold failed completed entered-in-error",
}


def of(resource_type: str) -> list[dict]:
    return [resource for resource in RESOURCES.values() if resource["resourceType"] == resource_type]


def references(value):
    """Every literal reference within a resource."""
    if isinstance(value, dict):
        if isinstance(value.get("reference"), str):
            yield value["reference"]
        for member in value.values():
            yield from references(member)
    elif isinstance(value, list):
        for item in value:
            yield from references(item)


@pytest.mark.parametrize("folder", ALL, ids=[folder.title for folder in ALL])
def test_every_resource_is_valid(folder):
    """By the R4B models, on a copy made from the text that is sent."""
    for name, resource in people.named(folder):
        copy = json.loads(people.encode(resource), parse_float=Decimal)
        assert get_fhir_model_class(name.partition("/")[0]).model_validate(copy), name


@pytest.mark.parametrize("resource_type", STATUSES)
def test_every_status_is_of_its_value_set(resource_type):
    """Required bindings."""
    assert {resource["status"] for resource in of(resource_type)} <= set(STATUSES[resource_type].split())


def test_every_type_with_a_status_is_in_that_table():
    """A new type must be looked at."""
    assert {resource["resourceType"] for resource in RESOURCES.values() if "status" in resource} == STATUSES.keys()


def test_ids_have_letters_and_are_given_once():
    """HAPI takes no numeric id from a client."""
    assert len(RESOURCES) == sum(len(folder.resources) for folder in ALL)
    assert all(re.fullmatch(r"[a-z][a-z0-9.-]{2,63}", resource["id"]) for resource in RESOURCES.values())


def test_every_reference_points_back():
    """A strict server takes the resources one by one in this order."""
    seen: set[str] = set()
    for folder in ALL:
        for name, resource in people.named(folder):
            assert {target for target in references(resource) if not target.startswith("#")} <= seen | {name}, name
            seen.add(name)


def test_no_resource_has_an_empty_member():
    """FHIR R4 2.6.2: elements are never empty."""
    text = b"".join(people.bundle(folder) for folder in ALL)
    assert not re.search(rb'(""|\[\]|\{\}|null)[,}\]]', text)


def test_the_same_day_gives_the_same_bytes():
    """Deterministic, on whatever machine."""
    again = people.folders(TODAY)
    assert [people.bundle(folder) for folder in again] == [people.bundle(folder) for folder in ALL]


@pytest.mark.parametrize("today", [date(2024, 2, 29), date(2027, 1, 1), date(2030, 12, 31)])
def test_any_day_will_do(today):
    """Dates exist, and what is to come is to come."""
    found = people.folders(today)
    times = re.findall(rb'"(\d{4}-\d\d-\d\dT[\d:]+-05:00)"', b"".join(people.bundle(folder) for folder in found))
    assert [datetime.fromisoformat(time.decode()) for time in times]
    starts = [a["start"][:10] for folder in found for _, a in people.named(folder) if a["resourceType"] == "Appointment" and a["status"] == "booked"]
    assert min(starts) > today.isoformat()


def test_past_and_coming_appointments_are_what_they_say():
    """Fulfilled and missed visits are past; booked ones to come; a request has no start (F26)."""
    for appointment in of("Appointment"):
        start = appointment.get("start", "")[:10]
        if appointment["status"] in ("fulfilled", "noshow"):
            assert start < TODAY.isoformat()
        if appointment["status"] in ("booked", "pending"):
            assert start > TODAY.isoformat()
        assert start or appointment["status"] in ("proposed", "cancelled", "waitlist")  # app-3
        assert "cancelationReason" not in appointment or appointment["status"] in ("cancelled", "noshow")  # app-4


def test_the_clinic_is_closed_at_the_weekend():
    """On whatever day the people are made, a day that is to come stays to come."""
    for offset in range(7):
        found = people.folders(TODAY + timedelta(days=offset))
        visits = [
            resource for folder in found for _, resource in people.named(folder) if resource["resourceType"] == "Appointment" and "start" in resource
        ]
        assert all(datetime.fromisoformat(visit["start"]).weekday() < 5 for visit in visits)
        assert all(visit["start"][:10] > str(TODAY + timedelta(days=offset)) for visit in visits if visit["status"] in ("booked", "pending"))


def test_nothing_else_lies_in_the_future():
    """A result of tomorrow would be a wonder."""
    limit = (TODAY + timedelta(days=1)).isoformat()
    for name, resource in RESOURCES.items():
        for member in ("effectiveDateTime", "issued", "sent", "authoredOn", "recordedDate", "whenHandedOver", "created", "birthDate"):
            assert str(resource.get(member, "")) < limit, name


def test_numbers_are_written_as_given():
    """1.10 stays 1.10, in the text that is sent."""
    text = b"".join(people.bundle(folder) for folder in ALL)
    for number in (b"1.10", b"6.80", b"78.50", b"53.0", b"1.020", b"24.0", b"180.00"):
        assert re.search(rb'"value":' + re.escape(number) + rb"[,}]", text), number
    assert quantity("<5", "mg/L") == {"value": Decimal(5), "comparator": "<", "unit": "mg/L", "system": "http://unitsofmeasure.org", "code": "mg/L"}
    assert quantity(">90")["comparator"] == ">"


def test_conditions_keep_the_rules_of_their_statuses():
    """con-3, con-4 and con-5 of R4 Condition."""
    for condition in of("Condition"):
        clinical = condition.get("clinicalStatus", {}).get("coding", [{}])[0].get("code", "")
        if condition["verificationStatus"]["coding"][0]["code"] == "entered-in-error":
            assert not clinical
        elif condition["category"][0]["coding"][0]["code"] == "problem-list-item":
            assert clinical
        if "abatementDateTime" in condition:
            assert clinical in ("inactive", "resolved", "remission")


def test_the_rich_record_has_what_the_pages_must_get_right():
    """One assertion for each kind of thing."""
    mine = [resource for name, resource in RESOURCES.items() if "amara-okafor" in name]
    results = [resource for resource in mine if resource["resourceType"] == "Observation"]
    assert {r["status"] for r in mine if r["resourceType"] == "DiagnosticReport"} == {"final", "preliminary", "amended", "cancelled"}
    assert {r["status"] for r in results} == {"final", "preliminary", "corrected", "cancelled", "registered", "entered-in-error"}
    kinds = {key for r in of("Observation") for key in r if key.startswith("value")}
    assert kinds == {
        f"value{kind}" for kind in ["Quantity", "String", "CodeableConcept", "Ratio", "Range", "Period", "DateTime", "Boolean", "Integer"]
    }
    assert any(r["valueQuantity"].get("comparator") == "<" for r in results if "valueQuantity" in r)
    assert any("hasMember" in r for r in results)
    assert any("component" in r for r in results)
    assert any("coding" not in r["code"] for r in results)
    assert any("age" in part and "appliesTo" in part for r in results for part in r.get("referenceRange", ()))
    assert any(set(part) == {"text"} for r in results for part in r.get("referenceRange", ()))
    flags = {part["coding"][0]["code"] for r in results for part in r.get("interpretation", ())}
    assert flags >= {"H", "L", "N", "HH", "A"}
    assert min(r["effectiveDateTime"] for r in results if "effectiveDateTime" in r) < (TODAY - timedelta(days=1790)).isoformat()
    states = {(r["verificationStatus"]["coding"][0]["code"], r.get("clinicalStatus", {}).get("coding", [{}])[0].get("code")) for r in of("Condition")}
    assert states >= {("confirmed", "active"), ("confirmed", "resolved"), ("refuted", "inactive"), ("entered-in-error", None)}
    directions = [part for r in mine if r["resourceType"] == "MedicationRequest" for part in r["dosageInstruction"]]
    assert {"text" in part for part in directions} == {True, False}
    assert {r["resourceType"] for r in mine} >= {"Claim", "ExplanationOfBenefit", "CareTeam", "Provenance", "MedicationDispense", "Task", "Encounter"}


def test_a_thread_is_a_header_and_messages_that_name_everyone():
    """F20: the header lists each participant, the sender too, in `recipient`; a message is part of it."""
    headers = [c for c in of("Communication") if "partOf" not in c]
    for header in headers:
        parts = [c for c in of("Communication") if c.get("partOf", [{}])[0].get("reference") == f"Communication/{header['id']}"]
        members = set(references(header["recipient"]))
        assert parts
        assert {message["sender"]["reference"] for message in parts} <= members, header["id"]
        assert all(set(references(message["recipient"])) < members for message in parts)
        assert all(message["sent"] >= header["sent"] for message in parts)
    assert len(headers) >= 8


def test_money_adds_up():
    """Allowed is what the plan pays and what the patient owes, where the plan took part."""
    for explained in of("ExplanationOfBenefit"):
        amounts = {part["category"]["coding"][0]["code"]: part["amount"]["value"] for part in explained["total"]}
        if amounts["eligible"]:
            assert amounts["eligible"] == amounts["benefit"] + amounts["memberliability"], explained["id"]
            assert amounts["submitted"] == amounts["eligible"] + amounts["discount"], explained["id"]
            assert amounts["memberliability"] == amounts["deductible"] + amounts["copay"], explained["id"]


def test_there_is_enough_to_page_through_and_someone_with_nothing():
    """Priya's clotting tests; Beatriz has only herself."""
    sizes = {folder.title: len(folder.resources) for folder in ALL}
    assert sizes["Priya Venkataraman"] > 150
    assert sizes["Tomas Lindqvist"] == 2
    assert sizes["Beatriz Carvalho"] == 1
    assert len(of("Patient")) >= 12


def test_the_roster_names_people_who_exist():
    """User names once; the father sees his daughter; the doctor's patients are listed; the merged old record is nobody's to open."""
    accounts = people.roster()
    assert len({account.username for account in accounts}) == len(accounts) >= 11
    for account in accounts:
        assert account.fhir_user in RESOURCES
        assert all(f"Patient/{id_}" in RESOURCES for id_, _ in account.patients)
        assert account.password not in repr(account)
    by_name = {account.username: account for account in accounts}
    assert by_name["daniel"].patients == (("daniel-reyes", "Daniel Reyes"), ("mina-reyes", "Mina Reyes"))
    assert by_name["dr.novak"].fhir_user.startswith("Practitioner/")
    assert "leila-haddad-old" not in {id_ for account in accounts for id_, _ in account.patients}


def test_ages_are_right_on_the_day():
    """Born before or after the birthday of this year."""
    clock = Clock(TODAY)
    assert clock.born(6, "11-24") == "2020-11-24"
    assert clock.born(6, "11-25") == "2019-11-25"


# Loading ----------------------------------------------------------------------------------------------------------------------


def small() -> Folder:
    chart = Chart(TODAY, "ada-small", "Ada Small", {"gender": "female"})
    chart.lab("a1c", -1, "5.10")
    return chart


@respx.mock
async def test_a_folder_goes_in_as_one_transaction():
    """With the number as written, and a line that says so."""
    respx.get(f"{BASE}/Observation/ada-small-a1c-1d").respond(404)
    route = respx.post(BASE).respond(200, json={})
    said: list[str] = []
    loaded = await people.load(f"{BASE}/", [small()], headers={"Authorization": "Bearer t"}, say=said.append)
    sent = route.calls.last.request
    assert loaded == people.Loaded(2, 0, ())
    assert b'"value":5.10,' in sent.content
    assert sent.headers["authorization"] == "Bearer t"
    assert said == ["Loading 1 of 1: Ada Small (2 resources)"]


@respx.mock
async def test_what_is_there_is_left_alone():
    """A demo that is started again goes on with its data."""
    respx.get(f"{BASE}/Observation/ada-small-a1c-1d").respond(200, json={})
    assert await people.load(BASE, [small()], headers={}, say=str) == people.Loaded(0, 1, ())


@respx.mock
@pytest.mark.parametrize("status", [404, 405, 501, 403])
async def test_without_transactions_they_go_one_by_one(status):
    """And the server is asked for a transaction only once."""
    transaction = respx.post(BASE).respond(status)
    put = respx.put(url__startswith=f"{BASE}/").respond(201, json={})
    loaded = await people.load(BASE, [small(), small()], headers={}, say=str, again=True)
    assert loaded.written == 4
    assert transaction.call_count == 1
    assert [call.request.url.path for call in put.calls][:2] == ["/fhir/Patient/ada-small", "/fhir/Observation/ada-small-a1c-1d"]


@respx.mock
async def test_a_refused_transaction_names_what_was_refused():
    """The rest goes in."""
    respx.post(BASE).respond(422)
    respx.put(f"{BASE}/Patient/ada-small").respond(200, json={})
    respx.put(f"{BASE}/Observation/ada-small-a1c-1d").respond(400)
    loaded = await people.load(BASE, [small()], headers={}, say=str, again=True)
    assert loaded == people.Loaded(1, 0, ("Observation/ada-small-a1c-1d: 400",))


@respx.mock
@pytest.mark.parametrize(("status", "fix"), [(401, "credential"), (503, "log")])
async def test_a_server_that_fails_is_a_sentence(status, fix):
    """With the fix, and no answer text of the server's."""
    respx.post(BASE).respond(status, text="SECRET")
    with pytest.raises(ConfigError) as raised:
        await people.load(BASE, [small()], headers={}, say=str, again=True)
    assert str(status) in raised.value.message
    assert fix in raised.value.fix
    assert "SECRET" not in raised.value.message


async def test_a_server_that_is_not_there_is_a_sentence():
    """Nothing listens on that port."""
    with respx.mock:
        respx.post(BASE).mock(side_effect=httpx.ConnectError("refused"))
        with pytest.raises(ConfigError, match="could not be reached"):
            await people.load(BASE, [small()], headers={}, say=str, again=True)
