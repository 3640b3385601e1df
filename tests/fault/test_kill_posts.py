"""Where the EHR gives the ids itself: nothing is lost or written twice there either, whenever the worker is killed (promise 3).

A real worker process, a store on disk, the double on a socket. GATEWAY_TEST_KILLS (100) and GATEWAY_TEST_SEED as in test_kill.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import secrets
from collections import Counter
from typing import Any

import pytest

from gateway.ingest import admin
from gateway.sandbox.double import Double, served
from gateway.store.inbox_rows import UNCONFIRMED, State
from tests.fault.test_kill import WORKER_POINTS, Processes
from tests.support.whole_in_process import Whole, whole

pytestmark = [pytest.mark.fault, pytest.mark.timeout(600)]

KILLS = int(os.environ.get("GATEWAY_TEST_KILLS", "100")) // 2
SEED = int(os.environ.get("GATEWAY_TEST_SEED", str(secrets.randbelow(10**6))))
EACH = 4
"""Messages between two kills."""
PATIENTS = 20


def body(number: int) -> dict[str, Any]:
    """A result, called by its number; every fourth has no identifier."""
    own = {} if number % 4 == 3 else {"identifier": [{"system": "urn:lab", "value": str(number)}]}
    subject = {"reference": f"Patient/p{number % PATIENTS}"}
    return {"resourceType": "Observation", "status": "final", "code": {"text": "x"}, "subject": subject, "valueInteger": number} | own


def bundle(number: int) -> dict[str, Any]:
    """The same in a transaction, with another one that only the transaction brings."""
    other = body(number) | {"valueInteger": -number}
    other.pop("identifier", None)
    entries = [{"resource": one, "request": {"method": "POST", "url": "Observation"}} for one in (body(number), other)]
    return {"resourceType": "Bundle", "type": "transaction", "entry": entries}


async def test_killed_at_any_moment_each_identifier_is_made_once(tmp_path, capsys):
    """One of each that can be found again; of the others at most one, and a person is told where that is not known to be one."""
    chance, double = random.Random(SEED), Double(client_ids=False)
    for number in range(PATIENTS):
        double.seed({"resourceType": "Patient", "id": f"p{number}"})
    settings = {"store": f"sqlite:///{tmp_path / 'store.db'}", "cache_bytes": "0", "data_dir": str(tmp_path / "data"), "push_wait": "0"}
    with served(double) as url:
        async with whole(url, tmp_path, deliver=False, **settings) as gateway:
            flags = {"ehr": (f"hapi={url}",), "public_url": "https://gateway.test", **settings}
            sent = await _under_fire(gateway, Processes(flags, 0, tmp_path), chance)
            counted = await admin.accounting(gateway.gateway.state.database)
            unknown = await _unknown(gateway)
    copies = Counter(one.resource["valueInteger"] for one in double.store.of_type("Observation"))
    assert (counted.acknowledged, counted.pending, counted.rejected, counted.held) == (len(sent), 0, 0, 0)
    for number in sent:
        if number % 4 == 3:
            assert copies[number] in ((0, 1) if unknown[number] else (1,)), number
        else:
            assert (copies[number], unknown[number]) == (1, 0), number
        if number % 5 == 4:
            assert copies[-number] == copies[number], f"half of the transaction {number}"
    with capsys.disabled():
        print(f"\n  kill test (seed {SEED}): {len(sent)} messages, {len(sent) // EACH} kills, {sum(unknown.values())} outcomes unknown")


async def _under_fire(gateway: Whole, processes: Processes, chance: random.Random) -> range:
    token = await gateway.token("system/Observation.cu", push={"mode": "deliver", "ehr": "hapi"})
    moments = ["random"] * KILLS + [name for name in WORKER_POINTS if name != "during-shutdown"]
    chance.shuffle(moments)
    for turn, moment in enumerate(moments):
        processes.start("worker", at="" if moment == "random" else moment)
        for number in range(turn * EACH, (turn + 1) * EACH):
            transaction = number % 5 == 4
            answer = await gateway.fhir(token, "POST", "" if transaction else "Observation", (bundle if transaction else body)(number))
            assert answer.status_code == 202, answer.text
        if moment == "random":
            await asyncio.sleep(chance.uniform(0.3, 1.0))
        else:
            assert await processes.reached(20), f"{moment} was never reached"
        processes.kill("worker")
    processes.start("worker")
    async with asyncio.timeout(120):
        while True:
            await _release(gateway)
            if not (await admin.accounting(gateway.gateway.state.database)).pending:
                break
            await asyncio.sleep(0.2)
    processes.kill("worker")
    return range(len(moments) * EACH)


async def _release(gateway: Whole) -> None:
    """What only waits behind a dead message goes on: the order is another test's matter."""
    async with gateway.gateway.state.database.write() as connection:
        await connection.exec_driver_sql("DELETE FROM inbox_key WHERE seq IN (SELECT seq FROM inbox_message WHERE state = 'dead')")
        await connection.exec_driver_sql("UPDATE inbox_message SET state = 'received' WHERE state = 'held'")


async def _unknown(gateway: Whole) -> Counter[int]:
    """The numbers of the messages that are dead because nobody can tell."""
    state = gateway.gateway.state
    found: Counter[int] = Counter()
    for one in await admin.listed(state.database, state=str(State.DEAD), limit=10_000):
        assert one.error == UNCONFIRMED, one
        shown = await admin.shown(state.database, state.seals, one.id)
        assert shown is not None
        asked = json.loads(shown.request.body)
        found[asked.get("entry", [{"resource": asked}])[0]["resource"]["valueInteger"]] += 1
    return found
