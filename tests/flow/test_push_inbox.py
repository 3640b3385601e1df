"""From the door to the EHR and back, over a real store: what a sender sees, what is stored, and in which order it arrives."""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import threading
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace

import pytest
from sqlalchemy import event

from gateway import shipped
from gateway.audit import AuditRecord
from gateway.errors import BadRequest, FhirError, Forbidden, NotFound, Unavailable, Unprocessable, UpstreamFault
from gateway.fhir import request
from gateway.ingest import admin, deliver, receive
from gateway.ingest.senders import RegisteredSenders
from gateway.ingest.signals import Signals
from gateway.proxy.answer import Answer, RequestContext
from gateway.seal import Sealer
from gateway.smart.principal import Principal, PrincipalKind, Push
from gateway.smart.scopes import clinical
from gateway.store import inbox_admin, oauth, schema
from gateway.store.base import Database, now
from gateway.store.inbox_rows import Accounting, Message
from gateway.store.oauth_rows import Client
from tests.support.shelf import LOST, Shelf

GW = "https://gw"
BASE = f"{GW}/fhir/hapi"
SCOPE = "system/Observation.cu system/Patient.cu"
LAB = Principal(PrincipalKind.SYSTEM, "hapi", "lab", clinical(SCOPE), "The lab", push=Push("deliver", "hapi"))
TELLER = replace(LAB, client_id="teller", push=Push("notify"))
JSON = (b"content-type", b"application/fhir+json")
SEALER = Sealer((b"k" * 32,))


@dataclass
class Trail:
    """An audit sink that can fail."""

    records: list[AuditRecord] = field(default_factory=list)
    broken: bool = False

    async def record_in(self, connection, record: AuditRecord) -> None:
        del connection
        if self.broken:
            raise Unavailable(reason="audit-down")
        self.records.append(record)

    def append(self, record: AuditRecord) -> None:
        self.records.append(record)

    def actions(self) -> list[str]:
        return [one.action for one in self.records]


@dataclass
class Renewals:
    """A cache that notes what was renewed."""

    names: list[tuple[str, ...]] = field(default_factory=list)

    @contextlib.asynccontextmanager
    async def touching(self, names) -> AsyncIterator[None]:
        self.names.append(tuple(names))
        yield


class Gateway:
    """Door, store, worker and EHR."""

    def __init__(self, database: Database, **policy) -> None:
        self.database = database
        self.shelf = Shelf()
        self.trail = Trail()
        self.cache = Renewals()
        self.signals = Signals()
        self.door = receive.Door(GW, push_wait=5)
        self.policy = deliver.Policy(**({"backoff": 0.001, "poll": 0.02, "lease": 5} | policy))

    @property
    def inbox(self) -> receive.Inbox:
        return receive.Inbox(self.shelf, self.database, self.trail, SEALER, shipped.tables(), self.signals, self.door)

    def worker(self) -> deliver.Worker:
        senders = RegisteredSenders(self.database)
        parts = deliver.Parts(self.shelf, senders, self.database, self.trail, SEALER, self.cache, shipped.tables(), self.signals, GW)
        return deliver.Worker(parts, self.policy)

    async def push(self, method: str, path: str, body: object, *headers: tuple[bytes, bytes], by: Principal = LAB) -> Answer:
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        asked = request.parse(method=method, path=path, query=b"", headers=(JSON, *headers), body=raw, own_bases=(BASE,))
        return await self.inbox.receive(by, asked, (JSON, *headers), raw, RequestContext("r1", "192.0.2.1"))

    async def post(self, *headers: tuple[bytes, bytes], by: Principal = LAB, **more) -> Answer:
        return await self.push("POST", "Observation", result(**more), *headers, by=by)

    async def status(self, answer: Answer, by: Principal = LAB) -> Answer:
        token = answer.header("Content-Location").removeprefix(f"{BASE}/_async/")
        return await self.inbox.status(by, token, RequestContext("r2"))

    async def accounting(self) -> Accounting:
        found = await admin.accounting(self.database)
        assert found.holds
        return found


def result(**more) -> dict:
    return {"resourceType": "Observation", "status": "final", "code": {"text": "x"}, "subject": {"reference": "Patient/p1"}} | more


@pytest.fixture
async def gateway(tmp_path):
    """A gateway whose worker is not running."""
    database = Database(f"sqlite+aiosqlite:///{tmp_path / 'store.db'}")
    await schema.prepare(database)
    async with database.write() as connection:
        for name, push in (("lab", {"mode": "deliver", "ehr": "hapi"}), ("teller", {"mode": "notify"})):
            client = Client(name, "The lab", "private_key_jwt", ("client_credentials",), (), SCOPE, ("hapi",), now(), push=push)
            await oauth.put_client(connection, client, frozenset())
    yield Gateway(database)
    await database.close()


@contextlib.asynccontextmanager
async def working(gateway: Gateway) -> AsyncIterator[None]:
    """With a worker in the same process."""
    stop = asyncio.Event()
    task = asyncio.create_task(gateway.worker().run(stop))
    try:
        yield
    finally:
        stop.set()
        await task


ASYNC = (b"prefer", b"respond-async")


def key(name: str) -> tuple[bytes, bytes]:
    return b"idempotency-key", name.encode()


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
        await _settled(gateway)
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


# Repeats -------------------------------------------------------------------------------------------------------------------


async def test_fifty_at_once_under_one_key_are_one_effect(gateway):
    """FAULT-S1: all get the first Location; one says 201, the others 200."""
    async with working(gateway):
        answers = await asyncio.gather(*(gateway.post(key("k1")) for _ in range(50)))
    assert len({one.header("Location") for one in answers}) == 1
    assert sorted(one.status for one in answers) == [200] * 49 + [201]
    assert [len(versions) for versions in gateway.shelf.versions.values()] == [1]


async def test_a_repeat_of_what_is_pending_is_told_where_to_look(gateway):
    """202 with the same status URL."""
    gateway.door = receive.Door(GW, push_wait=0.01)
    first, second = await gateway.post(key("k1")), await gateway.post(key("k1"))
    assert (second.status, second.header("Content-Location")) == (202, first.header("Content-Location"))


async def test_a_repeat_of_what_was_refused_gets_the_refusal(gateway):
    """The same request has the same answer."""
    gateway.shelf.faults = [Unprocessable(reason="ehr-422")]
    async with working(gateway):
        assert [(await gateway.post(key("k1"))).status for _ in range(2)] == [422, 422]
    assert (await gateway.accounting()).acknowledged == 1


async def test_one_key_with_other_content_is_processed_and_flagged(gateway):
    """FAULT-S2: both arrive, the second with a warning."""
    async with working(gateway):
        first = await gateway.post(key("k1"))
        second = await gateway.post(key("k1"), valueString="other")
        third = await gateway.post(key("k1"), ASYNC, valueString="third")
        await _settled(gateway)
    assert (first.status, second.status) == (201, 201)
    assert first.header("Location") != second.header("Location")
    assert (first.header("Warning"), second.header("Warning")[:5]) == ("", "199 -")
    (entry,) = json.loads((await gateway.status(third)).body)["entry"]
    assert entry["response"]["outcome"]["issue"][0]["code"] == "duplicate"


async def test_a_key_belongs_to_its_sender(gateway):
    """Another sender's key is another key."""
    async with working(gateway):
        await gateway.post(key("k1"))
        answer = await gateway.post(key("k1"), by=replace(LAB, client_id="teller", push=Push("notify")))
    assert (answer.status, answer.header("Location"), answer.header("Warning")) == (200, "", "")


async def test_an_identity_of_a_bundle_is_recognised(gateway):
    """Bundle.identifier, and the id of the MessageHeader that a Bundle begins with."""
    header = {
        "resourceType": "MessageHeader",
        "id": "m1",
        "eventCoding": {"code": "x"},
        "source": {"endpoint": "urn:x"},
    }
    entries = [{"resource": result(), "request": {"method": "POST", "url": "Observation"}}]
    by_header = [{"resource": header, "request": {"method": "POST", "url": "MessageHeader"}}, *entries]
    async with working(gateway):
        for bundle in (
            {"identifier": {"system": "urn:lab", "value": "7"}, "entry": entries},
            {"entry": by_header},
        ):
            body = {"resourceType": "Bundle", "type": "transaction"} | bundle
            assert [(await gateway.push("POST", "", body)).status for _ in range(2)] == [200, 200]
    counted = await gateway.accounting()
    assert (counted.acknowledged, counted.done) == (2, 2)


async def test_without_identity_put_a_put_b_put_a_ends_as_a(gateway):
    """Bytes alone never make a repeat, and the order holds."""
    async with working(gateway):
        for text in ("A", "B", "A"):
            await gateway.push("PUT", "Observation/o1", result(id="o1", valueString=text), ASYNC)
        await _settled(gateway)
    assert [json.loads(body)["valueString"] for body in gateway.shelf.versions["Observation/o1"]] == ["A", "B", "A"]


async def test_a_key_that_is_too_long_is_refused(gateway):
    """400; nothing is stored."""
    with pytest.raises(BadRequest):
        await gateway.post(key("k" * 256))
    assert (await gateway.accounting()).acknowledged == 0


# The worker ----------------------------------------------------------------------------------------------------------------


async def test_poison_does_not_stop_the_others(gateway):
    """FAULT-S21: every tenth of forty dies; the rest arrives; after the repair everything is there once."""
    gateway.policy = replace(gateway.policy, attempts=2, block=False)
    handle = gateway.shelf.handle

    async def poisoned(principal, interaction, context):
        if b"poison" in interaction.body:
            raise UpstreamFault(reason="ehr-500")
        return await handle(principal, interaction, context)

    gateway.shelf.handle = poisoned
    for n in range(40):
        await gateway.post(ASYNC, valueString="poison" if n % 10 == 0 else str(n), subject={"reference": f"Patient/{n}"})
    await _until_settled(gateway)
    counted = await gateway.accounting()
    assert (counted.done, counted.dead) == (36, 4)

    gateway.shelf.handle = handle
    for listed in await admin.listed(gateway.database, state="dead"):
        assert await admin.retry(gateway.database, gateway.trail, listed.id)
    await _until_settled(gateway)
    assert (await gateway.accounting()).done == 40
    assert sorted(len(one) for one in gateway.shelf.versions.values()) == [1] * 40


async def _until_settled(gateway: Gateway) -> None:
    async with working(gateway):
        await _settled(gateway)


async def _settled(gateway: Gateway) -> None:
    async with asyncio.timeout(30):
        while (await gateway.accounting()).pending:  # noqa: ASYNC110  # the store is what is waited for
            await asyncio.sleep(0.05)


async def test_an_ehr_that_is_down_gets_no_storm_and_everything_afterwards(gateway):
    """FAULT-U1, FAULT-B1: after a few failures it is left alone; nothing dies meanwhile; all arrive in order."""
    handle, down = gateway.shelf.handle, True
    calls = 0

    async def failing(principal, interaction, context):
        nonlocal calls
        calls += 1
        if down:
            raise UpstreamFault(reason="ehr-unreachable")
        return await handle(principal, interaction, context)

    gateway.shelf.handle = failing
    for n in range(40):
        await gateway.push("PUT", f"Observation/o{n % 4}", result(id=f"o{n % 4}", valueString=str(n)), ASYNC)
    async with working(gateway):
        await asyncio.sleep(0.7)
        assert calls <= 16
        assert (await gateway.accounting()).pending == 40
        down = False
        await _settled(gateway)
    for lane in range(4):
        arrived = [int(json.loads(body)["valueString"]) for body in gateway.shelf.versions[f"Observation/o{lane}"]]
        assert arrived == list(range(lane, 40, 4))


async def test_a_lost_answer_is_settled_by_looking(gateway):
    """OutcomeUnknown: tried again, found, one effect."""
    gateway.shelf.faults = [LOST]
    async with working(gateway):
        answer = await gateway.post()
    assert answer.status == 201
    assert [len(one) for one in gateway.shelf.versions.values()] == [1]


async def test_a_sender_that_was_disabled_since_is_rejected(gateway):
    """Judged again at delivery: nothing is written in its name."""
    answer = await gateway.post(ASYNC)
    async with gateway.database.write() as connection:
        client = await oauth.client(connection, "lab")
        await oauth.put_client(connection, replace(client, disabled_at=now()), frozenset())
    await gateway.worker().drained()
    assert gateway.shelf.versions == {}
    (entry,) = json.loads((await gateway.status(answer)).body)["entry"]
    assert entry["response"]["status"] == "403"


async def test_what_no_longer_parses_or_opens_dies_visibly(gateway):
    """A row of another key: it is tried, and dies with a reason; the worker goes on."""
    gateway.policy = replace(gateway.policy, attempts=1, block=False)
    await gateway.post(ASYNC)
    async with gateway.database.write() as connection:
        await connection.exec_driver_sql("UPDATE inbox_message SET request = x'00'")
    await gateway.post(ASYNC)
    await gateway.worker().drained()
    assert sorted((one.state, one.error) for one in await admin.listed(gateway.database)) == [("dead", "seal-broken"), ("done", "")]


async def test_a_surprise_in_one_message_does_not_end_the_worker(gateway):
    """It is tried again."""
    gateway.shelf.faults = [ZeroDivisionError()]
    async with working(gateway):
        assert (await gateway.post()).status == 201


async def test_a_stopped_worker_finishes_or_gives_its_leases_back(gateway):
    """FAULT-P2: within its time; what was not finished is pending for the next one at once."""
    gateway.policy = replace(gateway.policy, drain=0.05, lease=60)
    forever = asyncio.Event()

    async def stuck(*_):
        await forever.wait()

    handle, gateway.shelf.handle = gateway.shelf.handle, stuck
    await gateway.post(ASYNC)
    async with working(gateway):
        await asyncio.sleep(0.1)
    (listed,) = await admin.listed(gateway.database)
    assert (listed.state, listed.attempts) == ("received", 0)
    gateway.shelf.handle = handle
    await gateway.worker().drained()
    assert (await gateway.accounting()).done == 1


async def test_a_worker_that_was_away_too_long_writes_nothing_in_the_store(gateway):
    """FAULT-P3: the heir's result stands; the zombie is fenced."""
    gateway.policy = replace(gateway.policy, lease=0.2)
    go_on, begun = asyncio.Event(), asyncio.Event()
    handle = gateway.shelf.handle

    async def frozen(principal, interaction, context):
        begun.set()
        await go_on.wait()
        raise Unprocessable(reason="too-late")

    gateway.shelf.handle = frozen
    answer = await gateway.post(ASYNC)
    zombie = gateway.worker()
    zombie_task = asyncio.create_task(zombie.drained())
    await begun.wait()
    for job in zombie._running.values():
        job.lease.renewed(math.inf)  # its own clock does not tell it
    await asyncio.sleep(0.3)  # leases are renewed by `run` only
    gateway.shelf.handle = handle
    await gateway.worker().drained()
    go_on.set()
    await zombie_task
    (entry,) = json.loads((await gateway.status(answer)).body)["entry"]
    assert entry["response"]["status"] == "201"


async def test_a_delivery_takes_as_long_as_its_lease_is_renewed(gateway):
    """The EHR may be slower than a lease; nobody takes the message over meanwhile."""
    gateway.policy = replace(gateway.policy, lease=1.0)
    handle = gateway.shelf.handle

    async def slow(*given):
        await asyncio.sleep(2)
        return await handle(*given)

    gateway.shelf.handle = slow
    async with working(gateway), working(gateway):
        answer = await gateway.post()
    assert (answer.status, [len(each) for each in gateway.shelf.versions.values()]) == (201, [1])
    (listed,) = await admin.listed(gateway.database)
    assert listed.attempts == 1


async def test_a_delivery_ends_with_its_lease(gateway):
    """When it cannot be renewed, what is still on its way to the EHR is given up: the heir looks, and a late end of it could go over a correction."""
    gateway.policy = replace(gateway.policy, lease=0.3)
    ended = asyncio.Event()

    async def stuck(*_):
        try:
            await asyncio.sleep(60)
        finally:
            ended.set()

    gateway.shelf.handle = stuck
    await gateway.post(ASYNC)
    worker = gateway.worker()
    await worker._take()  # leases are renewed by `run` only
    async with asyncio.timeout(5):
        await asyncio.wait([job.task for job in worker._running.values()])
    assert ended.is_set()
    (listed,) = await admin.listed(gateway.database)
    assert (listed.state, listed.attempts) == ("claimed", 1)


@pytest.mark.parametrize("count", [3, 3000])
async def test_a_body_is_parsed_once_and_a_large_one_beside_the_loop(gateway, monkeypatch, count):
    """Nobody else waits while sixteen megabytes are looked through; and nothing is looked through twice."""
    parsed: list[tuple[int, bool]] = []
    parse = receive.parse

    def noting(data: bytes) -> object:
        parsed.append((len(data), threading.current_thread() is threading.main_thread()))
        return parse(data)

    monkeypatch.setattr(receive, "parse", noting)
    header = {"resourceType": "MessageHeader", "id": "m1", "eventUri": "urn:e", "source": {"endpoint": "urn:s"}}
    entries = [{"resource": one, "request": {"method": "POST", "url": one["resourceType"]}} for one in [header] + [result()] * count]
    raw = json.dumps({"resourceType": "Bundle", "type": "batch", "entry": entries}).encode()
    both = replace(LAB, scopes=clinical("system/Observation.cu system/MessageHeader.c"))
    first = await gateway.push("POST", "", raw, ASYNC, by=both)
    again = await gateway.push("POST", "", raw, ASYNC, by=both)
    assert [one.status for one in (first, again)] == [202, 202]
    assert len(await admin.listed(gateway.database)) == 1
    assert sum(size for size, _ in parsed) <= 2 * len(raw)
    assert {in_loop for _, in_loop in parsed} == {count == 3}


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


# Several processes, and a disk that is full ---------------------------------------------------------------------------------


@pytest.mark.postgres
async def test_two_workers_on_one_postgres_keep_the_order_and_deliver_once(postgres_url):
    """FAULT-P4: two nodes; one owner for each key at any time."""
    databases = [Database(postgres_url), Database(postgres_url)]
    await schema.prepare(databases[0])
    async with databases[0].write() as connection:
        client = Client("lab", "The lab", "none", (), (), SCOPE, ("hapi",), now(), push={"mode": "deliver", "ehr": "hapi"})
        await oauth.put_client(connection, client, frozenset())
    first, second = (Gateway(database) for database in databases)
    second.shelf = first.shelf
    for n in range(60):
        await first.push("PUT", f"Observation/o{n % 5}", result(id=f"o{n % 5}", valueString=str(n), subject={"reference": f"Patient/{n % 5}"}), ASYNC)
    async with working(first), working(second):
        await _settled(first)
    for lane in range(5):
        arrived = [int(json.loads(body)["valueString"]) for body in first.shelf.versions[f"Observation/o{lane}"]]
        assert arrived == list(range(lane, 60, 5))
    holders = {one.lease_holder for one in await _listing(databases[0])}
    assert holders == {""}
    for database in databases:
        await database.close()


async def _listing(database: Database) -> tuple[Message, ...]:
    async with database.read() as connection:
        return await inbox_admin.listing(connection)


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
