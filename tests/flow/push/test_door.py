"""Pushes: what a sender sees, what is let in, and what the operator does with it."""

from __future__ import annotations

import contextlib
import json
from dataclasses import replace

import pytest
from sqlalchemy import event

from gateway.errors import FhirError, Forbidden, NotFound, Unavailable, Unprocessable, UpstreamFault
from gateway.ingest import admin, receive
from gateway.proxy.answer import RequestContext
from gateway.smart.principal import Push
from gateway.smart.scopes import clinical
from gateway.store.base import Database
from tests.support.push_scene import ASYNC, BASE, GW, LAB, SEALER, TELLER, Gateway, key, result, settled, working

# What a sender sees --------------------------------------------------------------------------------------------------------


async def test_a_push_waits_for_its_result(gateway):
    """201 with the Location in the EHR, and the bytes are the sender's own apart from the id."""
    raw = b'{ "resourceType":"Observation","status":"final", "code":{"text":"x"},"valueQuantity":{"value": 1.10} }'
    async with working(gateway):
        answer = await gateway.push("POST", "Observation", raw)
    assert answer.status == 201
    target = answer.header("Location").removeprefix(f"{BASE}/").removesuffix("/_history/1")
    (stored,) = gateway.shelf.versions[target]
    assert stored == raw.replace(b"{ ", b'{"id":"%s", ' % target.removeprefix("Observation/").encode(), 1)
    assert gateway.trail.actions() == ["push", "push-done"]


async def test_without_a_result_in_time_there_is_a_status_url(gateway):
    """202 while it is pending, then R5's async-bundle."""
    gateway.door = receive.Door(GW, push_wait=0.05)
    answer = await gateway.post()
    assert (answer.status, answer.body) == (202, b"")
    pending = await gateway.status(answer)
    assert (pending.status, pending.header("X-Progress"), pending.header("Retry-After")) == (202, "waiting", "2")

    await gateway.worker().drained()
    done = await gateway.status(answer)
    told = json.loads(done.body)
    assert (done.status, told["type"]) == (200, "batch-response")
    (entry,) = told["entry"]
    assert entry["response"]["status"] == "201"
    assert entry["response"]["location"].startswith(f"{BASE}/Observation/gw")


async def test_prefer_respond_async_does_not_wait(gateway):
    """The sender asked for it."""
    async with working(gateway):
        answer = await gateway.post(ASYNC)
    assert answer.status == 202
    assert answer.header("Content-Location").startswith(f"{BASE}/_async/")


async def test_a_refusal_of_the_ehr_is_the_answer(gateway):
    """4xx with an OperationOutcome; in the status the outcome stands in the response."""
    gateway.shelf.faults = [Unprocessable(reason="ehr-422", code="value"), Unprocessable(reason="ehr-422", code="value")]
    async with working(gateway):
        answer = await gateway.post()
        later = await gateway.post(ASYNC)
        await settled(gateway)
    assert (answer.status, json.loads(answer.body)["issue"][0]["code"]) == (422, "value")
    (entry,) = json.loads((await gateway.status(later)).body)["entry"]
    assert (entry["response"]["status"], entry["response"]["outcome"]["resourceType"]) == ("422", "OperationOutcome")
    assert (await gateway.accounting()).rejected == 2


async def test_after_the_commit_there_is_no_5xx(gateway, monkeypatch):
    """Whatever breaks then, the message is stored, and the sender is told so."""

    async def broken(*_):
        raise Unavailable(reason="store-down")

    monkeypatch.setattr(receive.Inbox, "_result", broken)
    assert (await gateway.post()).status == 202
    assert (await gateway.accounting()).pending == 1


async def test_a_dead_message_is_never_told_as_a_5xx_of_the_request(gateway):
    """The sender that waits gets 202; the status says what happened, and changes when the operator tries again."""
    gateway.policy = replace(gateway.policy, attempts=1)
    gateway.door = receive.Door(GW, push_wait=0.5)
    gateway.shelf.faults = [UpstreamFault(reason="ehr-500")]
    async with working(gateway):
        answer = await gateway.post()
    assert answer.status == 202
    (entry,) = json.loads((await gateway.status(answer)).body)["entry"]
    assert entry["response"]["status"] == "503"
    (listed,) = await admin.listed(gateway.database, state="dead")
    assert (listed.source, listed.attempts, listed.error) == ("lab", 1, "ehr-500")

    assert await admin.retry(gateway.database, gateway.trail, listed.id)
    await gateway.worker().drained()
    (entry,) = json.loads((await gateway.status(answer)).body)["entry"]
    assert entry["response"]["status"] == "201"


async def test_a_status_is_the_senders_own(gateway):
    """Somebody else's token finds nothing, as with a token that never was."""
    answer = await gateway.post(ASYNC)
    for by in (replace(LAB, client_id="other"), replace(LAB, ehr="stmarys")):
        with pytest.raises(NotFound):
            await gateway.status(answer, by=by)
    with pytest.raises(NotFound):
        await gateway.inbox.status(LAB, "no-such-token", RequestContext("r3"))
    assert [one.status for one in gateway.trail.records if one.action == "push-status"] == [404, 404, 404]


# The door ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("push", "reason"),
    [
        (None, "push-not-registered"),
        (Push(""), "push-not-registered"),
        (Push("deliver", "stmarys"), "push-other-ehr"),
        (Push("deliver", "hapi", "hapi"), "push-into-itself"),
    ],
)
async def test_who_is_not_registered_to_push_leaves_no_row(gateway, push, reason):
    """403, on record."""
    with pytest.raises(Forbidden) as refused:
        await gateway.post(by=replace(LAB, push=push))
    assert refused.value.reason == reason
    assert (await gateway.accounting()).acknowledged == 0
    assert [(one.action, one.outcome, one.reason) for one in gateway.trail.records] == [("push", "4", reason)]


async def test_what_the_scopes_do_not_allow_leaves_no_row(gateway):
    """The pipeline's judgement comes first."""

    def refuse(*_):
        raise Forbidden(reason="scope-missing")

    gateway.shelf.admit = refuse
    with pytest.raises(Forbidden):
        await gateway.post()
    assert (await gateway.accounting()).acknowledged == 0


async def test_without_its_record_nothing_is_stored(gateway):
    """No record, no row, and the sender knows: 503 (G4)."""
    gateway.trail.broken = True
    with pytest.raises(Unavailable):
        await gateway.post()
    assert (await gateway.accounting()).acknowledged == 0


async def test_a_locked_store_is_503_and_no_acknowledgement(gateway):
    """FAULT-D1."""
    async with gateway.database.engine.connect() as other:
        await other.exec_driver_sql("BEGIN IMMEDIATE")
        with pytest.raises(Unavailable) as refused:
            await gateway.post()
        await other.rollback()
    assert (refused.value.status, refused.value.retry_after) == (503, 2)
    assert (await gateway.accounting()).acknowledged == 0


async def test_a_commit_whose_answer_was_lost_is_found(gateway, monkeypatch):
    """FAULT-D4: the connection broke after the commit; the sender is not told that nothing is stored."""
    write = gateway.database.write

    @contextlib.asynccontextmanager
    async def breaking():
        async with write() as connection:
            yield connection
        raise Unavailable(reason="store-down")

    monkeypatch.setattr(gateway.database, "write", breaking)
    answer = await gateway.post(ASYNC)
    assert answer.status == 202
    assert (await gateway.accounting()).pending == 1


async def test_bodies_are_sealed_in_the_store(gateway, tmp_path):
    """Neither the resource nor what its sender calls itself by can be read from the file."""
    await gateway.post(ASYNC, key("canary-key"), valueString="canary-value")
    async with gateway.database.write() as connection:
        await connection.exec_driver_sql("SELECT 1")
    files = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert b"canary" not in files
    (listed,) = await admin.listed(gateway.database)
    shown = await admin.shown(gateway.database, SEALER, listed.id)
    assert shown is not None
    assert b"canary-value" in shown.request.body


# Notify --------------------------------------------------------------------------------------------------------------------


async def test_the_ehr_of_record_tells_and_nothing_is_written(gateway):
    """The generations of the patients end; an update, whose old version nobody knows, ends the EHR's."""
    async with working(gateway):
        told = await gateway.post(by=TELLER)
        await gateway.push("PUT", "Observation/o1", result(id="o1"), by=TELLER)
        entries = [{"resource": result(subject={"reference": "Patient/p2"}), "request": {"method": "POST", "url": "Observation"}}]
        bundle = await gateway.push("POST", "", {"resourceType": "Bundle", "type": "batch", "entry": entries}, by=TELLER)
    assert (told.status, json.loads(told.body)["issue"][0]["severity"]) == (200, "information")
    assert json.loads(bundle.body)["type"] == "batch-response"
    assert gateway.shelf.log == []
    named = [[name.rpartition("g:")[2] for name in names] for names in gateway.cache.names]
    assert named == [["p:p1", "t:Observation"], ["all"], ["p:p2", "t:Observation"]]


async def test_a_notification_may_name_patients_by_any_address(gateway):
    """Promise 4: of a resource of two patients, one of them named absolutely, the answers of both end."""
    actors = [{"actor": {"reference": name}, "status": "accepted"} for name in ("Patient/p1", "https://ehr.internal/r4/Patient/p2/_history/3")]
    joint = {"resourceType": "Appointment", "status": "booked", "participant": actors}
    teller = replace(TELLER, scopes=clinical("system/Appointment.c"))
    async with working(gateway):
        assert (await gateway.push("POST", "Appointment", joint, by=teller)).status == 200
    assert [name.rpartition("g:")[2] for name in gateway.cache.names[0]] == ["p:p1", "p:p2", "t:Appointment"]


# Commands ------------------------------------------------------------------------------------------------------------------


async def test_a_message_can_be_dropped(gateway):
    """It counts as rejected, says so to its sender, and what waited behind it goes on."""
    gateway.policy = replace(gateway.policy, attempts=1)
    gateway.shelf.faults = [UpstreamFault(reason="ehr-500")]
    dead, held = await gateway.post(ASYNC), await gateway.post(ASYNC)
    await gateway.worker().drained()
    assert (await gateway.status(held)).header("X-Progress").startswith("held")
    (listed,) = await admin.listed(gateway.database, state="dead")
    assert await admin.drop(gateway.database, gateway.trail, SEALER, listed.id)
    assert not await admin.drop(gateway.database, gateway.trail, SEALER, listed.id)
    assert not await admin.drop(gateway.database, gateway.trail, SEALER, "unknown")
    await gateway.worker().drained()
    (entry,) = json.loads((await gateway.status(dead)).body)["entry"]
    assert entry["response"]["status"] == "403"
    counted = await gateway.accounting()
    assert (counted.done, counted.rejected, counted.dead, counted.held) == (1, 1, 0, 0)
    assert await admin.shown(gateway.database, SEALER, "unknown") is None


async def test_every_error_of_the_door_is_a_fhir_error(gateway):
    """What leaves the inbox is an Answer or a FhirError, never anything else."""
    with pytest.raises(FhirError):
        await gateway.post(by=replace(LAB, push=None))
    assert gateway.trail.records[-1].status == 403


async def test_a_full_disk_is_503_reads_go_on_and_space_is_enough_to_recover(gateway, tmp_path):
    """FAULT-D2: nothing is acknowledged that is not stored, and nothing has to be repaired by hand."""
    await gateway.post(ASYNC, valueString="before")
    full = Database(f"sqlite+aiosqlite:///{tmp_path / 'store.db'}")

    @event.listens_for(full.engine.sync_engine, "connect")
    def small(connection, record) -> None:
        del record
        cursor = connection.cursor()
        cursor.execute("PRAGMA page_count")
        cursor.execute(f"PRAGMA max_page_count={cursor.fetchone()[0]}")
        cursor.close()

    cramped = Gateway(full)

    async def fill() -> None:
        for _ in range(20):
            await cramped.post(ASYNC, valueString="x" * 100_000)

    with pytest.raises(Unavailable) as refused:
        await fill()
    assert refused.value.status == 503
    kept = (await cramped.accounting()).acknowledged
    await full.close()
    assert (await gateway.post(ASYNC, valueString="after")).status == 202
    assert (await gateway.accounting()).acknowledged == kept + 1
