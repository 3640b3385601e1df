"""The worker: poison, an EHR that is down, lost answers, leases, and two of them."""

from __future__ import annotations

import asyncio
import json
import math
import threading
from dataclasses import replace

import pytest

from gateway.errors import Unprocessable, UpstreamFault
from gateway.ingest import admin, receive
from gateway.smart.scopes import clinical
from gateway.store import inbox_admin, oauth, schema
from gateway.store.base import Database, now
from gateway.store.inbox_rows import Message
from gateway.store.oauth_rows import Client
from tests.support.push_scene import ASYNC, LAB, SCOPE, Gateway, result, settled, until_settled, working
from tests.support.shelf import LOST


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
    await until_settled(gateway)
    counted = await gateway.accounting()
    assert (counted.done, counted.dead) == (36, 4)

    gateway.shelf.handle = handle
    for listed in await admin.listed(gateway.database, state="dead"):
        assert await admin.retry(gateway.database, gateway.trail, listed.id)
    await until_settled(gateway)
    assert (await gateway.accounting()).done == 40
    assert sorted(len(one) for one in gateway.shelf.versions.values()) == [1] * 40


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
        await settled(gateway)
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


# Several processes ---------------------------------------------------------------------------------


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
        await settled(first)
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
