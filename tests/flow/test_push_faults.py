"""An EHR that fails in the middle of a delivery: each fault of the matrix, through the real adapter, with a correction before the next attempt."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, replace
from typing import Any

import httpx
import pytest

from gateway.adapters.ehr.base import OutcomeUnknown
from gateway.fhir.interaction import Interaction, Kind
from gateway.ingest import admin
from gateway.proxy.answer import RequestContext
from gateway.sandbox.double import Double, Fault, served
from gateway.smart.principal import Principal, PrincipalKind
from gateway.smart.scopes import clinical
from gateway.store.base import Database, now
from tests.support.whole_in_process import Whole, whole

SCOPE = "system/Patient.cu system/Observation.cu"
PATIENT = {"resourceType": "Patient", "id": "p1"}
LOGIN_PAGE = b"<html><form>Sign in</form></html>"


@dataclass
class World:
    """A gateway whose worker runs only when it is asked to, over a double."""

    gateway: Whole
    double: Double
    token: str

    @property
    def database(self) -> Database:
        return self.gateway.gateway.state.database

    async def push(self, method: str, path: str, body: Any) -> str:
        """Accepted for later; gives the path of its status."""
        answer = await self.gateway.fhir(self.token, method, path, body, Prefer="respond-async")
        assert answer.status_code == 202, answer.text
        return answer.headers["Content-Location"].removeprefix(f"{self.gateway.base}/")

    async def attempt(self) -> None:
        """One attempt at whatever is pending, whenever it would be due."""
        async with self.database.write() as connection:
            await connection.exec_driver_sql("UPDATE inbox_message SET next_attempt_at = '2020-01-01 00:00:00.000000'")
        worker = self.gateway.gateway.worker
        worker._pauses._states.clear()
        await worker.drained()

    async def outcome(self, status: str) -> dict[str, Any]:
        answer = await self.gateway.fhir(self.token, "GET", status)
        assert answer.status_code == 200, (answer.status_code, answer.headers)
        return answer.json()["entry"][0]["response"]

    async def only(self) -> admin.Listed:
        (found,) = await admin.listed(self.database)
        return found


@pytest.fixture
async def world(tmp_path):
    double = Double()
    double.seed(PATIENT)
    with served(double) as url:
        async with whole(url, tmp_path, deliver=False, coherence=0.1) as gateway:
            worker = gateway.gateway.worker
            worker._policy = replace(worker._policy, backoff=30.0, attempts=4)
            yield World(gateway, double, await gateway.token(SCOPE, push={"mode": "deliver", "ehr": "hapi"}))


def result(**more: Any) -> dict[str, Any]:
    return {"resourceType": "Observation", "status": "final", "code": {"text": "x"}, "subject": {"reference": "Patient/p1"}} | more


def letter(**more: Any) -> dict[str, Any]:
    own = {"reference": "Patient/p1"}
    return {"resourceType": "Communication", "status": "in-progress", "subject": own, "sender": own, "payload": [{"contentString": "x"}]} | more


OTHER = {"status": 200, "headers": {"Content-Type": "application/fhir+json"}, "body": json.dumps(result(id="other")).encode()}

AMBIGUOUS = {
    "U7-reset-after": Fault(method="PUT", after=True, drop=True),
    "U4-500-after": Fault(method="PUT", after=True, status=500),
    "U4-502-after": Fault(method="PUT", after=True, status=502, body=LOGIN_PAGE),
    "U13-truncated": Fault(method="PUT", after=True, status=200, body=b'{"resourceType":"Obs'),
    "U15-html-200": Fault(method="PUT", after=True, status=200, body=LOGIN_PAGE),
    "U18-redirect": Fault(method="PUT", after=True, status=302, headers={"Location": "http://127.0.0.1:9/"}),
    "U26-other-resource-after": Fault(method="PUT", after=True, **OTHER),
    "U26-other-resource-before": Fault(method="PUT", **OTHER),
    "U7-reset-before": Fault(method="PUT", drop=True),
    "U4-500-before": Fault(method="PUT", status=500),
}


@pytest.mark.parametrize("fault", AMBIGUOUS.values(), ids=AMBIGUOUS.keys())
async def test_a_create_of_unknown_outcome_is_settled_by_looking(world, fault):
    """Done once; what was corrected in between stays."""
    status = await world.push("POST", "Observation", result())
    world.double.fail(fault)
    await world.attempt()
    (target,) = await _targets(world)
    if fault.after:
        world.double.seed(result(id=target.partition("/")[2], status="corrected"))
    await world.attempt()
    assert (await world.outcome(status))["status"] == "201"
    assert json.loads(world.double.raw(target))["status"] == ("corrected" if fault.after else "final")
    assert world.double.versions(target) == (2 if fault.after else 1)
    assert (await admin.accounting(world.database)).done == 1


@pytest.mark.parametrize("fault", AMBIGUOUS.values(), ids=AMBIGUOUS.keys())
async def test_an_update_of_unknown_outcome_is_settled_by_the_version_after(world, fault):
    """Ours, then corrected: left alone. Not ours, and another's in between: applied to that."""
    world.double.seed(result(id="o1", valueString="before"))
    status = await world.push("PUT", "Observation/o1", result(id="o1", valueString="ours"))
    world.double.fail(fault)
    await world.attempt()
    world.double.seed(result(id="o1", valueString="theirs"))
    await world.attempt()
    assert (await world.outcome(status))["status"] == "200"
    assert json.loads(world.double.raw("Observation/o1"))["valueString"] == ("theirs" if fault.after else "ours")
    assert world.double.versions("Observation/o1") == 3


@pytest.mark.parametrize("after", [True, False])
async def test_a_transaction_of_unknown_outcome_happened_wholly_or_not(world, after):
    """Its first create tells."""
    world.double.seed(result(id="o1", valueString="before"))
    entries = [
        {"resource": result(), "request": {"method": "POST", "url": "Observation"}},
        {"resource": result(id="o1", valueString="ours"), "request": {"method": "PUT", "url": "Observation/o1"}},
    ]
    status = await world.push("POST", "", {"resourceType": "Bundle", "type": "transaction", "entry": entries})
    world.double.fail(Fault(method="POST", after=after, drop=True))
    await world.attempt()
    world.double.seed(result(id="o1", valueString="theirs"))
    await world.attempt()
    assert (await world.outcome(status))["status"] == "200"
    assert json.loads(world.double.raw("Observation/o1"))["valueString"] == ("theirs" if after else "ours")
    made, _ = await _targets(world)
    assert (world.double.versions(made), world.double.versions("Observation/o1")) == (1, 3)


@pytest.mark.parametrize("kind", ["double", "no-versions", pytest.param("hapi", marks=pytest.mark.hapi)])
async def test_what_was_deleted_before_the_look_is_not_made_again(tmp_path, request, monkeypatch, kind):
    """The answer to the PUT was lost, and somebody deleted the resource: it was delivered, and stays deleted."""
    double = Double()
    if kind == "no-versions":
        outcome = b'{"resourceType":"OperationOutcome","issue":[{"severity":"error","code":"not-found"}]}'
        double.fail(Fault(path="_history", status=404, body=outcome, times=0))
    with served(double) as double_url:
        url = request.getfixturevalue("hapi_url") if kind == "hapi" else double_url
        async with whole(url, tmp_path, deliver=False, coherence=0.1) as gateway, httpx.AsyncClient(base_url=url, trust_env=False) as other:
            world = World(gateway, double, await gateway.token(SCOPE, push={"mode": "deliver", "ehr": "hapi"}))
            ehr = gateway.gateway.ehrs["hapi"]
            send = ehr.send

            async def losing(call):
                reply = await send(call)
                if call.kind is Kind.UPDATE:
                    raise OutcomeUnknown
                return reply

            status = await world.push("POST", "Patient", {"resourceType": "Patient", "active": True})
            with monkeypatch.context() as patch:
                patch.setattr(ehr, "send", losing)
                await world.attempt()
            (target,) = await _targets(world)
            assert (await other.delete(f"/{target}")).status_code in (200, 204)
            await world.attempt()
            assert (await world.outcome(status))["status"] == "201"
            assert (await other.get(f"/{target}")).status_code == 410


@pytest.mark.parametrize("method", ["POST", "PUT"])
async def test_a_first_put_that_arrives_late_changes_nothing_where_the_ehr_heeds_its_condition(world, method):
    """It waited somewhere on the way while another attempt delivered and somebody corrected: If-None-Match: * keeps it out."""
    path, own = ("Observation", {}) if method == "POST" else ("Observation/o9", {"id": "o9"})
    status = await world.push(method, path, result(valueString="ours", **own))
    world.double.fail(Fault(method="PUT", drop=True))
    await world.attempt()
    (target,) = await _targets(world)
    late = next(one for one in world.double.requests if one.method == "PUT")
    await world.attempt()
    assert (await world.outcome(status))["status"] == "201"
    world.double.seed(result(id=target.partition("/")[2], valueString="corrected"))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(world.double), base_url="http://ehr.test/fhir/") as network:
        kept = {name: text for name, text in late.headers.items() if name in ("if-none-match", "if-match", "content-type")}
        arrived = await network.put(late.path, content=late.body, headers=kept)
    assert arrived.status_code == 412
    assert (json.loads(world.double.raw(target))["valueString"], world.double.versions(target)) == ("corrected", 2)


async def test_an_update_of_what_somebody_made_just_now_is_applied_to_that(world, monkeypatch):
    """Between the look and the PUT there is time for another; where the EHR heeds the condition it does not go over his unseen."""
    ehr = world.gateway.gateway.ehrs["hapi"]
    send, theirs = ehr.send, [result(id="o8", valueString="theirs")]

    async def overtaken(call):
        if call.kind is Kind.UPDATE and theirs:
            world.double.seed(theirs.pop())
        return await send(call)

    monkeypatch.setattr(ehr, "send", overtaken)
    status = await world.push("PUT", "Observation/o8", result(id="o8", valueString="ours"))
    await world.attempt()
    assert (await world.outcome(status))["status"] == "200"
    assert [one.headers.get("if-none-match", one.headers.get("if-match")) for one in world.double.requests if one.method == "PUT"] == ["*", 'W/"1"']
    assert (json.loads(world.double.raw("Observation/o8"))["valueString"], world.double.versions("Observation/o8")) == ("ours", 2)


async def test_a_form_that_made_it_in_the_meantime_is_found(world, monkeypatch):
    """A person's create with an id of the gateway's: refused as there already, it is hers, and she gets it."""
    ehr = world.gateway.gateway.ehrs["hapi"]
    send, first = ehr.send, [PATIENT["id"]]
    message = letter(id="form-1")

    async def overtaken(call):
        if call.kind is Kind.UPDATE and first:
            first.pop()
            world.double.seed(message)
        return await send(call)

    monkeypatch.setattr(ehr, "send", overtaken)
    person = Principal(PrincipalKind.PATIENT, "hapi", "portal", clinical("patient/Communication.cr"), patient="p1", fhir_user="Patient/p1")
    asked = Interaction(Kind.CREATE, "Communication", "form-1", body=json.dumps(message).encode())
    answer = await world.gateway.gateway.pipeline.handle(person, asked, RequestContext("r1", via="portal"))
    assert (answer.status, answer.header("ETag")) == (200, 'W/"1"')
    assert world.double.versions("Communication/form-1") == 1


async def test_no_call_before_the_time_that_the_ehr_asked_for(world):
    """FAULT-U5: 429 with Retry-After; it counts for nothing against the message, and nobody else calls that EHR meanwhile."""
    await world.push("POST", "Observation", result())
    world.double.fail(Fault(method="PUT", status=429, headers={"Retry-After": "60"}))
    await world.gateway.gateway.worker.drained()
    await world.push("POST", "Observation", result(subject={"reference": "Patient/p2"}))
    before = len(world.double.lines())
    await world.gateway.gateway.worker.drained()
    assert len(world.double.lines()) == before
    async with world.database.read() as connection:
        rows = (await connection.exec_driver_sql("SELECT attempts, next_attempt_at FROM inbox_message ORDER BY seq")).all()
    assert [row[0] for row in rows] == [0, 0]
    assert rows[0][1] > (now().replace(tzinfo=None)).isoformat(sep=" ")[:16]


async def test_a_look_that_is_told_to_wait_waits(world):
    """FAULT-U6 at the read before an update."""
    await world.push("PUT", "Patient/p1", PATIENT | {"active": True})
    world.double.fail(Fault(method="GET", path="Patient", status=503, headers={"Retry-After": "60"}))
    await world.gateway.gateway.worker.drained()
    await world.gateway.gateway.worker.drained()
    assert world.double.lines()[-1] == "GET Patient/p1"
    assert (await world.only()).error == "ehr-503"


async def test_a_conditional_create_needs_the_right_to_search(world):
    """Refused at the door, with no row; with the right it is found instead of made."""
    answer = await world.gateway.fhir(world.token, "POST", "Patient", PATIENT, If_None_Exist="identifier=urn:x|1")
    assert answer.status_code == 403
    assert await admin.listed(world.database) == []
    able = await world.gateway.token("system/Patient.crs", push={"mode": "deliver", "ehr": "hapi"})
    world.double.seed(PATIENT | {"identifier": [{"system": "urn:x", "value": "1"}]})
    answer = await world.gateway.fhir(
        able, "POST", "Patient", {"resourceType": "Patient"}, If_None_Exist="identifier=urn:x|1", Prefer="respond-async"
    )
    await world.attempt()
    outcome = await world.gateway.fhir(able, "GET", answer.headers["Content-Location"].removeprefix(f"{world.gateway.base}/"))
    assert outcome.json()["entry"][0]["response"]["location"].startswith(f"{world.gateway.base}/Patient/p1")


@pytest.mark.parametrize("system", [True, False])
async def test_a_conditional_create_is_not_lost_to_an_ehr_that_ignores_its_condition(world, system):
    """It gives any resource of the type as the match. A sender's message stays, an app is told; another's condition is nobody's match."""
    other = result(id="other", identifier=[{"system": "urn:x", "value": "2"}])
    world.double.seed(other)
    world.double.lies.ignore_filters = True
    mine = result(identifier=[{"system": "urn:x", "value": "1"}])
    if system:
        token = await world.gateway.token("system/Observation.crs", push={"mode": "deliver", "ehr": "hapi"})
        await world.gateway.fhir(token, "POST", "Observation", mine, If_None_Exist="identifier=urn:x|1", Prefer="respond-async")
        await world.attempt()
        listed = await world.only()
        assert (listed.state, listed.error) == ("received", "condition-ignored")
        world.double.heal()
        await world.attempt()
        assert (await world.only()).state == "done"
    else:
        token = await world.gateway.token("patient/Communication.crs", patient="p1")
        world.double.seed(letter(id="other", identifier=[{"system": "urn:x", "value": "2"}]))
        asked = letter(identifier=[{"system": "urn:x", "value": "1"}])
        answer = await world.gateway.fhir(token, "POST", "Communication", asked, If_None_Exist="identifier=urn:x|1")
        assert (answer.status_code, answer.json()["issue"][0]["code"]) == (502, "processing")
        world.double.heal()
        assert (await world.gateway.fhir(token, "POST", "Communication", asked, If_None_Exist="identifier=urn:x|1")).status_code == 201
        assert (await world.gateway.fhir(token, "POST", "Communication", asked, If_None_Exist="identifier=urn:x|1")).status_code == 200


async def test_an_ehr_that_fails_for_good_ends_in_a_dead_message(world):
    """FAULT-U4: after its last attempt it is dead, visible, and may be tried again."""
    status = await world.push("POST", "Observation", result())
    world.double.fail(Fault(method="PUT", status=500, times=0))
    for _ in range(4):
        await world.attempt()
    listed = await world.only()
    assert (listed.state, listed.attempts, listed.error) == ("dead", 4, "ehr-500")
    assert (await world.outcome(status))["status"] == "503"
    world.double.heal()
    assert await admin.retry(world.database, world.gateway.gateway.state.audit, listed.id)
    await world.attempt()
    assert (await world.outcome(status))["status"] == "201"


@pytest.mark.parametrize(("on_dead", "second"), [("block", "held"), ("skip", "done")])
async def test_the_operator_says_when_a_message_is_dead_and_what_goes_on(tmp_path, on_dead, second):
    """`push_attempts`, and `push_on_dead` for what was pushed behind it for the same patient."""
    double = Double()
    double.seed(PATIENT)
    with served(double) as url:
        async with whole(url, tmp_path, deliver=False, push_attempts="2", push_on_dead=on_dead) as gateway:
            world = World(gateway, double, await gateway.token(SCOPE, push={"mode": "deliver", "ehr": "hapi"}))
            for _ in range(2):
                await world.push("POST", "Observation", result())
            double.fail(Fault(method="PUT", status=500, times=2))
            for _ in range(3):
                await world.attempt()
            newest, first = await admin.listed(world.database)
            assert (first.state, first.attempts, newest.state) == ("dead", 2, second)


@pytest.mark.parametrize("fault", [Fault(status=401, times=0), Fault(method="GET", status=401, times=0)])
async def test_no_message_dies_of_the_gateways_own_credential(world, fault):
    """FAULT-U21: 401 is not the message's; it waits for the operator."""
    status = await world.push("PUT", "Patient/p1", PATIENT | {"active": True})
    world.double.fail(fault)
    for _ in range(6):
        await world.attempt()
    assert (await world.only()).state == "received"
    world.double.heal()
    await asyncio.sleep(0)
    await world.attempt()
    assert (await world.outcome(status))["status"] == "200"


async def test_an_ehr_that_is_gone_holds_nothing_against_a_message(tmp_path):
    """FAULT-U1: refused connections, for as long as they last."""
    async with whole("http://127.0.0.1:9/fhir", tmp_path, deliver=False) as gateway:
        world = World(gateway, Double(), await gateway.token(SCOPE, push={"mode": "deliver", "ehr": "hapi"}))
        await world.push("POST", "Observation", result())
        for _ in range(20):
            await world.attempt()
        listed = await world.only()
        assert (listed.state, listed.attempts) == ("received", 0)


async def test_poison_is_rejected_and_the_next_message_of_its_patient_flows(world):
    """FAULT-U25."""
    first = await world.push("POST", "Observation", result())
    second = await world.push("POST", "Observation", result())
    outcome = {"resourceType": "OperationOutcome", "issue": [{"severity": "error", "code": "value", "diagnostics": "secret words"}]}
    world.double.fail(Fault(method="PUT", status=422, headers={"Content-Type": "application/fhir+json"}, body=json.dumps(outcome).encode()))
    await world.attempt()
    refused = await world.outcome(first)
    assert (refused["status"], refused["outcome"]["issue"][0]["code"]) == ("422", "value")
    assert "secret" not in json.dumps(refused)
    assert (await world.outcome(second))["status"] == "201"


async def _targets(world: World) -> list[str]:
    async with world.database.read() as connection:
        return [f"{row[0]}/{row[1]}" for row in await connection.exec_driver_sql("SELECT type, target FROM inbox_entry ORDER BY seq, position")]
