"""Pushes into EHRs that give the ids themselves, or take no transactions: through the whole gateway, over the double, and over HAPI told to."""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gateway import local
from gateway.adapters.ehr.base import EhrCall
from gateway.errors import Unavailable
from gateway.fhir.interaction import Kind
from gateway.ingest import admin
from gateway.sandbox.double import Double, Fault, served
from tests.flow.test_push_faults import AMBIGUOUS, PATIENT, World, result
from tests.support import smart
from tests.support.jobs_letters import day
from tests.support.jobs_scene import PASSWORD
from tests.support.two_people import Two
from tests.support.whole_in_process import Whole, whole

DELIVER = {"mode": "deliver", "ehr": "hapi"}
SCOPE = "system/Patient.cu system/Observation.cu system/DiagnosticReport.cu"
LOST = {name: replace(fault, method="POST") for name, fault in AMBIGUOUS.items()}


@asynccontextmanager
async def over(double: Double, folder: Path, **environ: str) -> AsyncGenerator[World]:
    """A gateway whose worker runs only when it is asked to."""
    double.seed(PATIENT)
    with served(double) as url:
        async with whole(url, folder, deliver=False, coherence=0.1, environ=environ) as gateway:
            worker = gateway.gateway.worker
            worker._policy = replace(worker._policy, backoff=30.0)
            yield World(gateway, double, await gateway.token(SCOPE, push=DELIVER))


@pytest.fixture
async def world(tmp_path):
    async with over(Double(client_ids=False), tmp_path) as world:
        yield world


def numbered(value: object, **more: Any) -> dict[str, Any]:
    return result(identifier=[{"system": "urn:lab", "value": str(value)}], **more)


def observations(double: Double) -> list[dict[str, Any]]:
    return [one.resource for one in double.store.of_type("Observation")]


async def answering(world: World) -> None:
    """The EHR answers something, so that failures do not count as a row of them."""
    await world.gateway.gateway.ehrs["hapi"].send(EhrCall(Kind.READ, "Patient", "p1"))


async def location(world: World, status: str, *statuses: str) -> str:
    """`Type/id` of what became of a push."""
    told = await world.outcome(status)
    assert told["status"] in (statuses or ("201",)), told
    return told["location"].removeprefix(f"{world.gateway.base}/").partition("/_history/")[0]


# One resource --------------------------------------------------------------------------------------------------------------


async def test_a_result_arrives_as_it_was_sent_under_an_id_of_the_ehr(world):
    """The Location is the EHR's own; the bytes are the sender's, digits and all."""
    raw = json.dumps(numbered(1)).encode()[:-1] + b',"valueQuantity":{"value":1.10,"unit":"mmol/L"}}'
    answer = await world.gateway.fhir(world.token, "POST", "Observation", raw, Prefer="respond-async")
    await world.attempt()
    target = await location(world, answer.headers["Content-Location"].removeprefix(f"{world.gateway.base}/"))
    assert target.startswith("Observation/d")
    assert [one.body for one in world.double.requests if one.method == "POST"] == [raw]
    assert world.double.requests[-1].headers["if-none-exist"] == "identifier=urn%3Alab%7C1"
    assert b'"value":1.10,' in world.double.raw(target)
    async with world.database.read() as connection:
        rows = await connection.exec_driver_sql("SELECT action, target FROM audit WHERE message_id != '' ORDER BY recorded")
        assert {row[0]: row[1] for row in rows} == {"push": "", "create": target, "push-done": target}


@pytest.mark.parametrize("identified", [True, False])
async def test_twenty_lost_answers_make_twenty_resources(world, identified):
    """One of each: found by its identifier, or given to a person to decide; never a second one."""
    for turn in range(20):
        body = numbered(turn) if identified else result(valueInteger=turn)
        status = await world.push("POST", "Observation", body | {"subject": {"reference": f"Patient/of{turn}"}})
        world.double.fail(Fault(method="POST", path="^Observation$", after=True, drop=True))
        for _ in range(2):
            await world.attempt()
        assert len(observations(world.double)) == turn + 1
        if identified:
            assert world.double.raw(await location(world, status))
        else:
            assert (await world.outcome(status))["status"] == "503"
            await answering(world)
    found = await admin.accounting(world.database)
    assert (found.acknowledged, found.done, found.dead) == ((20, 20, 0) if identified else (20, 0, 20))
    assert len([line for line in world.double.lines() if line == "POST Observation"]) == 20


@pytest.mark.parametrize("fault", LOST.values(), ids=LOST.keys())
async def test_a_create_of_unknown_outcome_is_settled_by_its_identifier(world, fault):
    """Done once, whatever the fault; what was corrected in between stays."""
    status = await world.push("POST", "Observation", numbered(1))
    world.double.fail(fault)
    await world.attempt()
    if fault.after:
        (made,) = observations(world.double)
        world.double.seed(made | {"status": "corrected"})
    await world.attempt()
    target = await location(world, status, "201", "200")
    (found,) = observations(world.double)
    assert (found["status"], f"Observation/{found['id']}") == ("corrected" if fault.after else "final", target)


async def test_one_that_nobody_can_find_waits_for_a_person(world):
    """Dead, with a sentence for its sender; what came later for the patient is held. Sent again when somebody has looked."""
    status = await world.push("POST", "Observation", result())
    await world.push("POST", "Observation", numbered(2))
    world.double.fail(Fault(method="POST", drop=True))
    for _ in range(3):
        await world.attempt()
    assert [line for line in world.double.lines() if line.startswith("POST")] == ["POST Observation"]
    later, first = await admin.listed(world.database)
    assert (first.state, first.error, later.state) == ("dead", "outcome-unknown", "held")
    told = await world.outcome(status)
    assert told["status"] == "503"
    assert "may or may not be there" in told["outcome"]["issue"][0]["details"]["text"]

    assert await admin.retry(world.database, world.gateway.gateway.state.audit, first.id)
    await world.attempt()
    await location(world, status)
    await world.attempt()
    assert len(observations(world.double)) == 2
    assert (await admin.accounting(world.database)).done == 2


async def test_what_a_refusal_or_a_silent_door_means_is_known(world):
    """The EHR's own 503 and 429, and a refused connection: nothing was done, and a resource without an identifier may be sent again."""
    await world.push("POST", "Observation", result())
    for fault in (Fault(status=503), Fault(status=429, headers={"Retry-After": "1"})):
        world.double.fail(replace(fault, method="POST"))
        await world.attempt()
    await world.attempt()
    assert len(observations(world.double)) == 1
    assert (await admin.accounting(world.database)).done == 1


async def test_what_the_gateway_cannot_put_on_record_may_have_been_done(world, monkeypatch):
    """The EHR took it, and then our own store failed: that is no refusal of the EHR's, and no reason to send it again."""
    status = await world.push("POST", "Observation", numbered(1))
    audit = world.gateway.gateway.state.audit
    kept, failures = audit.commit, iter([True])

    async def commit(record) -> None:
        if next(failures, False):
            raise Unavailable(reason="store-down")
        await kept(record)

    monkeypatch.setattr(audit, "commit", commit)
    for _ in range(2):
        await world.attempt()
    await location(world, status)
    assert len(observations(world.double)) == 1


async def test_results_that_share_an_identifier_are_both_stored(world):
    """A number of an order on each result of a panel; the same result sent twice is one."""
    for value in ("a", "b", "b"):
        await world.push("POST", "Observation", numbered("order", valueString=value))
    for _ in range(3):
        await world.attempt()
    assert sorted(one["valueString"] for one in observations(world.double)) == ["a", "b"]
    assert (await admin.accounting(world.database)).done == 3


async def test_the_entries_of_a_batch_go_one_by_one(world):
    """Each like a resource of its own; one that nobody can find ends the message, when the others are through."""
    entries = [{"resource": body, "request": {"method": "POST", "url": "Observation"}} for body in (numbered(1), result(), numbered(2))]
    await world.push("POST", "", {"resourceType": "Bundle", "type": "batch", "entry": entries})
    world.double.fail(Fault(method="POST", path="^Observation$", after=True, drop=True, times=2))
    for _ in range(3):
        await world.attempt()
    assert len(observations(world.double)) == 3
    assert (await world.only()).error == "outcome-unknown"


# What it takes, and how that is known --------------------------------------------------------------------------------------


@pytest.mark.parametrize("takes", [True, False])
async def test_what_is_pushed_while_the_ehr_is_away_is_delivered_when_it_is_back(tmp_path, takes):
    """Nobody knew at the door what it takes: the first attempt asks."""
    double = Double(client_ids=takes)
    double.fail(Fault(path="metadata", status=503, times=0))
    async with over(double, tmp_path) as world:
        status = await world.push("POST", "Observation", numbered(1))
        await world.attempt()
        assert (await world.only()).error == "ehr-503"
        world.double.heal()
        await world.attempt()
        assert (await location(world, status)).startswith("Observation/gw" if takes else "Observation/d")
        assert len(observations(double)) == 1


@pytest.mark.parametrize("said", [True, False])
async def test_an_ehr_that_says_405_gets_a_post(tmp_path, said, monkeypatch):
    """Its statement says yes, or cannot be read; its answer says no. Nothing is lost, and nothing rejected."""
    double = Double(client_ids=False)
    if said:
        monkeypatch.setattr(double.server, "client_ids", True)
    else:
        double.fail(Fault(path="metadata", status=500, times=0))
    async with over(double, tmp_path) as world:
        await world.gateway.gateway.pipeline.offers("hapi")
        double.server.client_ids = False
        status = await world.push("POST", "Observation", numbered(1))
        await world.attempt()
        assert (await location(world, status)).startswith("Observation/d")
        assert [line.partition("/")[0] for line in double.lines() if line[0] == "P"] == ["PUT Observation", "POST Observation"]


async def test_the_operator_may_say_it(tmp_path):
    """A setting comes before the statement."""
    double = Double()
    async with over(double, tmp_path, GATEWAY_EHR_HAPI_CLIENT_IDS="false") as world:
        status = await world.push("POST", "Observation", numbered(1))
        await world.attempt()
        assert (await location(world, status)).startswith("Observation/d")


# Transactions --------------------------------------------------------------------------------------------------------------

NEW = "urn:uuid:00000000-0000-4000-8000-000000000001"


def panel(patient: str, *, identified: bool = True) -> dict[str, Any]:
    """A new patient, a result of hers and a report that names both."""
    result_ = "urn:uuid:00000000-0000-4000-8000-000000000002"
    subject = {"subject": {"reference": NEW}}
    own = {"identifier": [{"system": "urn:mrn", "value": patient}]} if identified else {}
    report = {"resourceType": "DiagnosticReport", "status": "final", "code": {"text": "panel"}, "result": [{"reference": result_}]} | subject
    resources = [(NEW, {"resourceType": "Patient", "name": [{"family": "New"}]} | own), (result_, result(**subject)), ("", report)]
    entries = [
        ({"fullUrl": full_url} if full_url else {}) | {"resource": one, "request": {"method": "POST", "url": one["resourceType"]}}
        for full_url, one in resources
    ]
    return {"resourceType": "Bundle", "type": "transaction", "entry": entries}


async def test_a_transaction_of_posts_arrives_whole(world):
    """The EHR resolves what its entries call each other, and its places are in the answer."""
    status = await world.push("POST", "", panel("m1"))
    await world.attempt()
    told = json.loads(json.dumps((await world.gateway.fhir(world.token, "GET", status)).json()))["entry"][0]["resource"]
    places = [one["response"]["location"].removeprefix(f"{world.gateway.base}/").partition("/_history/")[0] for one in told["entry"]]
    assert [place.partition("/")[0] for place in places] == ["Patient", "Observation", "DiagnosticReport"]
    report = json.loads(world.double.raw(places[2]))
    assert (report["subject"]["reference"], report["result"][0]["reference"]) == (places[0], places[1])


@pytest.mark.parametrize("after", [True, False])
async def test_twenty_transactions_whose_answer_was_lost_happen_once_each(world, after):
    """The new patient's identifier tells."""
    for turn in range(20):
        status = await world.push("POST", "", panel(f"m{turn}"))
        world.double.fail(Fault(method="POST", path="^$", after=after, drop=True))
        for _ in range(2):
            await world.attempt()
        assert len(observations(world.double)) == turn + 1
        entry = (await world.gateway.fhir(world.token, "GET", status)).json()["entry"][0]
        assert entry["response"]["status"] == "200"
        assert [one["response"]["status"][:3] for one in entry["resource"]["entry"]] == ["201"] * 3
    assert (await admin.accounting(world.database)).done == 20


async def test_a_transaction_without_any_identifier_is_sent_once(world):
    """Nobody can tell whether it happened."""
    await world.push("POST", "", panel("m1", identified=False))
    world.double.fail(Fault(method="POST", path="^$", after=True, drop=True))
    for _ in range(3):
        await world.attempt()
    assert len(observations(world.double)) == 1
    listed = await world.only()
    assert (listed.state, listed.error) == ("dead", "outcome-unknown")


async def test_a_transaction_is_refused_at_the_door_of_an_ehr_that_takes_none(tmp_path):
    """422 and a sentence, on record and not stored. A batch goes; the EHR of record may tell of one that it did."""
    async with over(Double(transactions=False), tmp_path) as world:
        answer = await world.gateway.fhir(world.token, "POST", "", panel("m1"))
        assert (answer.status_code, answer.json()["issue"][0]["code"]) == (422, "not-supported")
        assert "takes no transactions" in answer.json()["issue"][0]["details"]["text"]
        assert (await admin.accounting(world.database)).acknowledged == 0
        assert "transaction" not in (await world.gateway.fhir("", "GET", "metadata")).text

        await world.push("POST", "", panel("m1") | {"type": "batch"})
        teller = await world.gateway.token(SCOPE, push={"mode": "notify"})
        told = await world.gateway.fhir(teller, "POST", "", panel("m2"), Prefer="respond-async")
        await world.attempt()
        assert (told.status_code, (await admin.accounting(world.database)).done) == (202, 2)


async def test_one_that_was_let_in_while_nobody_knew_is_refused_at_its_first_attempt(tmp_path):
    """The sender is told so by its status."""
    double = Double(transactions=False)
    double.fail(Fault(path="metadata", status=503, times=0))
    async with over(double, tmp_path) as world:
        status = await world.push("POST", "", panel("m1"))
        double.heal()
        await world.attempt()
        assert (await world.outcome(status))["status"] == "422"
        assert [line for line in double.lines() if line.startswith("POST")] == []


# A real one ----------------------------------------------------------------------------------------------------------------


@pytest.mark.hapi
async def test_hapi_told_to_give_the_ids_itself(hapi_url, tmp_path):
    """A resource twice and a transaction twice, each once: its search and its ifNoneExist find what an earlier message made."""
    tag = secrets.token_hex(6)
    environ = {"GATEWAY_EHR_HAPI_CLIENT_IDS": "false"}
    async with whole(hapi_url, tmp_path, environ=environ) as gateway:
        token = await gateway.token(SCOPE, push=DELIVER)
        patient = {"resourceType": "Patient", "identifier": [{"system": "urn:test:mrn", "value": tag}]}
        answers = [await gateway.fhir(token, "POST", "Patient", patient) for _ in range(2)]
        assert [answer.status_code for answer in answers] == [201, 200], answers[0].text
        place = answers[0].headers["Location"].partition("/_history/")[0]
        assert answers[1].headers["Location"] == place
        assert place.rpartition("/")[2].isdecimal(), "HAPI's own ids are numbers"

        told = [await gateway.fhir(token, "POST", "", panel(f"t-{tag}")) for _ in range(2)]
        assert [answer.status_code for answer in told] == [200, 200], told[0].text
        patients = [answer.json()["entry"][0]["response"] for answer in told]
        assert [one["status"][:3] for one in patients] == ["201", "200"]
        assert len({one["location"].partition("/_history/")[0] for one in patients}) == 1


# The portal ----------------------------------------------------------------------------------------------------------------


async def _request(gateway: Whole, people: Two) -> tuple[smart.Browser, list[tuple[str, str]]]:
    """Somebody who has filled in the form for an appointment, and what she would send."""
    await local.accounts(gateway.gateway.state).add("ann", PASSWORD, ehr="hapi", fhir_user=f"Patient/{people.a}")
    browser = smart.Browser(gateway.asgi)
    await browser.get("/portal/appointments")  # read from the EHR: from then on it is known what it takes
    await browser.sign_in("ann", PASSWORD)
    await browser.get("/portal/appointments/new")
    given = {"what": "Rash", "start": day(3), "end": day(5), "comment": ""}
    form = [pair for pair in smart.Form(browser.page.text).to("/portal/appointments/new") if pair[0] not in given]
    return browser, [*form, *given.items()]


@pytest.mark.parametrize("lost", [False, True])
async def test_a_form_sent_twice_is_one_request(tmp_path, lost):
    """At the same moment; or again after its answer was lost. The statement says that it takes no ids: none is tried."""
    double, people = Double(client_ids=False), Two()
    double.seed(*people.resources())
    with served(double) as url:
        async with whole(url, tmp_path) as gateway:
            browser, fields = await _request(gateway, people)
            if lost:
                double.fail(Fault(method="POST", path="^Appointment$", after=True, drop=True))
                assert (await browser.post("/portal/appointments/new", fields)).status_code == 504
                await browser.post("/portal/appointments/new", fields)
            else:
                sent = await asyncio.gather(*(browser.http.post("/portal/appointments/new", data=dict(fields)) for _ in range(5)))
                assert {answer.status_code for answer in sent} == {303}
                await browser.get(sent[0].headers["location"])
            assert "This is not booked." in browser.page.text
            await browser.http.aclose()
    assert len(list(double.store.of_type("Appointment"))) == 1
    assert not [line for line in double.lines() if line.startswith("PUT")]
