"""Nothing that was acknowledged is lost, nothing is written twice, nothing goes over a correction: whenever processes are killed (promise 3).

Real processes, files on disk, a real HAPI. SIGKILL comes from outside, at the eight moments of FAULT-P1 and at random ones. Half of the messages
are POSTs without any identity: they are not sent again when their answer was lost. A third of what has arrived is corrected at HAPI before each
restart, and everything that was just on its way.

GATEWAY_TEST_KILLS (100) and GATEWAY_TEST_MESSAGES (1000) make it smaller; GATEWAY_TEST_SEED repeats a run.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import multiprocessing
import os
import random
import secrets
import signal
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import text

from gateway.ingest import points
from gateway.store import inbox_admin, schema
from gateway.store import oauth as rows
from gateway.store.audit import AuditLog
from gateway.store.base import Database, now
from gateway.store.oauth_rows import Client
from tests.support import children, parts, smart

pytestmark = [pytest.mark.fault, pytest.mark.hapi, pytest.mark.redis, pytest.mark.timeout(600)]

KILLS = int(os.environ.get("GATEWAY_TEST_KILLS", "100"))
MESSAGES = int(os.environ.get("GATEWAY_TEST_MESSAGES", "1000"))
SEED = int(os.environ.get("GATEWAY_TEST_SEED", str(secrets.randbelow(10**6))))
RECOVERY = 30.0
"""Seconds after the last restart within which everything has arrived."""
PATIENTS = 20
SCOPE = "system/Observation.cu"
JSON = {"Content-Type": "application/fhir+json"}
SERVER_POINTS = ("before-commit", "after-commit", "during-ack")
WORKER_POINTS = ("after-claim", "after-send", "after-answer", "during-shutdown")


# What is sent --------------------------------------------------------------------------------------------------------------


@dataclass
class Push:
    """One message. `tags`: what its resources are called in HAPI (`valueString`), one for each."""

    number: int
    method: str
    path: str
    body: dict[str, Any]
    tags: tuple[str, ...]
    headers: dict[str, str] = field(default_factory=dict)
    identity: bool = True
    sent: bool = False  # it may have reached the gateway
    answers: list[int] = field(default_factory=list)

    @property
    def acknowledged(self) -> bool:
        return any(status < 300 for status in self.answers)


class Plan:
    """A thousand messages: every second one a POST without identity; else POST, PUT (new and known), transaction, batch in turn."""

    def __init__(self, run: str) -> None:
        self.run = run
        self.known = [f"kn-{run}-{n}" for n in range(MESSAGES) if n % 8 == 3]
        self.pushes = [self._push(n) for n in range(MESSAGES)]

    def patient(self, n: int) -> str:
        return f"kp-{self.run}-{n % PATIENTS}"

    def resource(self, n: int, tag: str, **more: Any) -> dict[str, Any]:
        subject = {"reference": f"Patient/{self.patient(n)}"}
        return {"resourceType": "Observation", "status": "final", "code": {"text": "kill"}, "subject": subject, "valueString": tag} | more

    def _push(self, n: int) -> Push:
        tag = f"{self.run}-{n}"
        headers = {"Prefer": "respond-async"} if n % 3 else {}
        if n % 2 == 0:
            return Push(n, "POST", "Observation", self.resource(n, tag), (tag,), headers, identity=False)
        keyed = headers | {"Idempotency-Key": tag}
        match n % 8:
            case 1:
                return Push(n, "POST", "Observation", self.resource(n, tag), (tag,), keyed)
            case 3:
                return Push(n, "PUT", f"Observation/kn-{tag}", self.resource(n, tag, id=f"kn-{tag}"), (tag,), keyed)
            case 5 if n % 16 < 8:
                return Push(n, "PUT", f"Observation/ka-{tag}", self.resource(n, tag, id=f"ka-{tag}"), (tag,), keyed)
            case 5:
                return Push(n, "POST", "", self._bundle("batch", n, tag), (f"{tag}-a", f"{tag}-b"), keyed)
            case _:
                body = self._bundle("transaction", n, tag) | {"identifier": {"system": "urn:kill", "value": tag}}
                return Push(n, "POST", "", body, (f"{tag}-a", f"{tag}-b"), headers)

    def _bundle(self, kind: str, n: int, tag: str) -> dict[str, Any]:
        names = (f"{tag}-a", f"{tag}-b")
        entries = [{"resource": self.resource(n, name), "request": {"method": "POST", "url": "Observation"}} for name in names]
        return {"resourceType": "Bundle", "type": kind, "entry": entries}


class Sender:
    """Sends. Without identity it sends again only what certainly did not arrive: no connection, or a 503, which means "not stored"."""

    def __init__(self, base: str, token: str) -> None:
        self._base = base
        self._http = httpx.AsyncClient(timeout=15, trust_env=False, headers={"Authorization": f"Bearer {token}"} | JSON)

    async def send(self, push: Push) -> None:
        while not push.acknowledged:
            try:
                answer = await self._http.request(push.method, f"{self._base}/{push.path}", content=json.dumps(push.body), headers=push.headers)
            except httpx.ConnectError:
                await asyncio.sleep(0.05)
                continue
            except httpx.TransportError:
                push.sent = True
                if not push.identity:
                    return
                await asyncio.sleep(0.05)
                continue
            push.answers.append(answer.status_code)
            push.sent = push.sent or answer.status_code < 500
            if 300 <= answer.status_code < 500:
                raise AssertionError(f"{push.method} {push.path}: {answer.status_code} {answer.text}")
            if not push.acknowledged:
                await asyncio.sleep(0.05)

    async def close(self) -> None:
        await self._http.aclose()


# What is killed ------------------------------------------------------------------------------------------------------------


class Processes:
    """The server and the worker."""

    def __init__(self, flags: dict[str, Any], port: int, folder: Path) -> None:
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(["tests.support.children"])
        self._flags, self._port = flags, port
        self._announced = folder / "reached"
        self.running: dict[str, Any] = {}

    def start(self, name: str, at: str = "") -> None:
        """Start one, with a kill point armed."""
        self._announced.unlink(missing_ok=True)
        environ = {"GATEWAY_KILL_POINT": at, "GATEWAY_KILL_FILE": str(self._announced)} if at else {}
        work = {"serve": children.serve, "worker": children.deliver, "migrate": children.migrate}[name]
        arguments = (self._flags, environ, self._port) if name == "serve" else (self._flags, environ)
        process = self._context.Process(target=work, args=arguments, daemon=True)
        process.start()
        self.running[name] = process

    async def ready(self) -> None:
        """The server answers."""
        async with asyncio.timeout(20):
            while True:
                with contextlib.suppress(OSError):
                    _, writer = await asyncio.open_connection("127.0.0.1", self._port)
                    writer.close()
                    return
                await asyncio.sleep(0.02)

    def kill(self, name: str) -> None:
        """SIGKILL; no error when it had ended by itself."""
        process = self.running.pop(name)
        process.kill()
        process.join()

    def end(self, name: str) -> None:
        """SIGTERM, and no waiting."""
        os.kill(self.running[name].pid, signal.SIGTERM)

    async def reached(self, seconds: float) -> bool:
        """Whether the armed moment has come within that time."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if self._announced.exists():
                return True
            await asyncio.sleep(0.01)
        return False


# What must hold ------------------------------------------------------------------------------------------------------------


class Oracle:
    """What is really there: looks into HAPI and into the store, and corrects as a clinician would."""

    def __init__(self, hapi_url: str, database: Database, plan: Plan, chance: random.Random) -> None:
        self._hapi = httpx.AsyncClient(base_url=hapi_url, trust_env=False, timeout=30)
        self._database, self._plan, self._chance = database, plan, chance
        self._considered: set[str] = set()
        self.corrected: set[str] = set()

    async def prepare(self) -> None:
        """Patients, and the records that are going to be updated."""
        entries = [{"resourceType": "Patient", "id": self._plan.patient(n)} for n in range(PATIENTS)]
        entries += [self._plan.resource(int(id_.rsplit("-", 1)[1]), "before", id=id_) for id_ in self._plan.known]
        for begin in range(0, len(entries), 100):
            await self._put_all(entries[begin : begin + 100])

    async def _put_all(self, resources: list[dict[str, Any]]) -> None:
        listed = [{"resource": one, "request": {"method": "PUT", "url": f"{one['resourceType']}/{one['id']}"}} for one in resources]
        answer = await self._hapi.post("", content=json.dumps({"resourceType": "Bundle", "type": "transaction", "entry": listed}), headers=JSON)
        assert answer.status_code == 200, answer.text

    async def under_way(self, pid: int) -> None:
        """Wait until that worker has a message."""
        statement = text("SELECT count(*) FROM inbox_message WHERE lease_holder LIKE :holder")
        async with asyncio.timeout(20):
            while True:
                async with self._database.read() as connection:
                    if (await connection.execute(statement, {"holder": f"%:{pid}:%"})).scalar_one():
                        return
                await asyncio.sleep(0.01)

    async def correct(self) -> None:
        """What is on its way, and a third of what is done and was not looked at before: whatever of it is there is corrected."""
        statement = text(
            "SELECT m.state, e.target FROM inbox_message m JOIN inbox_entry e ON e.seq = m.seq WHERE m.state IN ('claimed', 'sent', 'done')"
        )
        async with self._database.read() as connection:
            found = [(row[0], row[1]) for row in await connection.execute(statement) if row[1] not in self._considered]
        for state, target in found:
            if state == "done":
                self._considered.add(target)
                if self._chance.random() >= 1 / 3:
                    continue
            await self._correct(target)

    async def _correct(self, target: str) -> None:
        answer = await self._hapi.get(f"/Observation/{target}")
        if answer.status_code != 200 or answer.json()["valueString"] == "before":
            return
        self._considered.add(target)
        body = answer.json() | {"status": "corrected", "note": [{"text": "corrected by hand"}]}
        written = await self._hapi.put(f"/Observation/{target}", content=json.dumps(body), headers=JSON | {"If-Match": answer.headers["ETag"]})
        if written.status_code == 200:
            self.corrected.add(target)

    async def everything(self) -> dict[str, list[dict[str, Any]]]:
        """All Observations of this run in HAPI, by their tag."""
        found: dict[str, list[dict[str, Any]]] = {}
        for n in range(PATIENTS):
            url = f"/Observation?subject=Patient/{self._plan.patient(n)}&_count=500"
            while url:
                page = (await self._hapi.get(url, headers={"Cache-Control": "no-cache"})).json()
                for entry in page.get("entry", []):
                    found.setdefault(entry["resource"]["valueString"], []).append(entry["resource"])
                url = next((link["url"] for link in page["link"] if link["relation"] == "next"), "")
        return found

    async def close(self) -> None:
        await self._hapi.aclose()


@dataclass
class Run:
    """Everything together, and the figures."""

    processes: Processes
    sender: Sender
    oracle: Oracle
    plan: Plan
    chance: random.Random
    tasks: list[asyncio.Task[None]] = field(default_factory=list)
    released: int = 0
    kills: dict[str, int] = field(default_factory=dict)

    def release(self, count: int) -> None:
        """Let the next messages go."""
        for push in self.plan.pushes[self.released : self.released + count]:
            self.tasks.append(asyncio.create_task(self.sender.send(push)))
        self.released = min(self.released + count, len(self.plan.pushes))

    async def at_random(self, count: int) -> None:
        """Kill one or both at a random moment; correct; start again."""
        self.release(count)
        await asyncio.sleep(self.chance.uniform(0, 0.35))
        victims = self.chance.choice((("serve",), ("worker",), ("worker",), ("serve", "worker")))
        for name in victims:
            self.processes.kill(name)
        self.kills["random"] = self.kills.get("random", 0) + 1
        await self.restart(*victims)

    async def at_point(self, name: str, count: int) -> None:
        """Kill at a named moment."""
        victim = "serve" if name in SERVER_POINTS else "worker"
        self.processes.kill(victim)
        self.processes.start(victim, at=name)
        await self.processes.ready()
        self.release(count)
        if name == "during-shutdown":
            await self.oracle.under_way(self.processes.running[victim].pid)
            self.processes.end(victim)
        assert await self.processes.reached(20), f"{name} was never reached"
        self.processes.kill(victim)
        self.kills[name] = self.kills.get(name, 0) + 1
        await self.restart(victim)

    async def restart(self, *names: str) -> None:
        """Correct what has arrived, then start again."""
        await self.oracle.correct()
        for name in names:
            self.processes.start(name)
        await self.processes.ready()


async def test_killed_at_any_moment_nothing_is_lost_doubled_or_reverted(hapi_url, redis_url, tmp_path, capsys):
    """FAULT-P1: one of each on HAPI, every correction alive, the accounting identity, and no answer without its record."""
    began = time.monotonic()
    chance = random.Random(SEED)  # a test's dice
    data, port = tmp_path / "data", parts.free_port()
    base = f"http://127.0.0.1:{port}"
    flags = {"ehr": (f"hapi={hapi_url}",), "public_url": base, "data_dir": str(data), "redis": redis_url}
    flags |= {"store": f"sqlite:///{tmp_path / 'store.db'}", "listen": f"127.0.0.1:{port}", "push_wait": "2"}
    data.mkdir()
    processes = Processes(flags, port, tmp_path)

    await _killed_while_the_schema_is_made(processes)
    database = Database(f"sqlite+aiosqlite:///{tmp_path / 'store.db'}")
    plan = Plan(secrets.token_hex(3))
    sender = Sender(f"{base}/fhir/hapi", await _token(database))
    oracle = Oracle(hapi_url, database, plan, chance)
    run = Run(processes, sender, oracle, plan, chance, kills={"during-migration": 1})
    try:
        await oracle.prepare()
        for name in ("serve", "worker"):
            processes.start(name)
        await processes.ready()
        await _kill_at_all_moments(run)
        recovered = await _until_settled(run, database)
        await _check(run, database, data)
        figures = await _figures(run, database)
    finally:
        for name in list(processes.running):
            processes.kill(name)
        await sender.close()
        await oracle.close()
        await database.close()
    with capsys.disabled():
        print(f"\n  kill test (seed {SEED}): {figures}, settled {recovered:.1f} s after the last restart, {time.monotonic() - began:.0f} s in all")


async def _killed_while_the_schema_is_made(processes: Processes) -> None:
    """FAULT-P1, during migration: half a schema is none, and the next start makes it whole."""
    processes.start("migrate", at="during-migration")
    assert await processes.reached(20)
    processes.kill("migrate")
    processes.start("migrate")
    processes.running.pop("migrate").join()


async def _token(database: Database) -> str:
    assert await schema.state(database) is schema.State.CURRENT
    client = Client("lab", "The lab", "none", (), (), "", ("*",), now(), push={"mode": "deliver", "ehr": "hapi"})
    async with database.write() as connection:
        await rows.put_client(connection, client, frozenset())
    return await smart.issue(database, client_id="lab", scope=SCOPE, ehr="hapi")


async def _kill_at_all_moments(run: Run) -> None:
    moments = ["random"] * KILLS + [*SERVER_POINTS, *WORKER_POINTS]
    run.chance.shuffle(moments)
    for n, moment in enumerate(moments):
        count = len(run.plan.pushes) * (n + 1) // len(moments) - len(run.plan.pushes) * n // len(moments)
        await (run.at_random(count) if moment == "random" else run.at_point(moment, count))
    run.release(len(run.plan.pushes))


async def _until_settled(run: Run, database: Database) -> float:
    """Seconds until every sender has its answer and nothing is pending."""
    began = time.monotonic()
    async with asyncio.timeout(RECOVERY):
        await asyncio.gather(*run.tasks)
        while True:
            async with database.read() as connection:
                if not (await inbox_admin.accounting(connection)).pending:
                    return time.monotonic() - began
            await asyncio.sleep(0.1)


async def _check(run: Run, database: Database, data: Path) -> None:
    async with database.read() as connection:
        counted = await inbox_admin.accounting(connection)
    assert counted.holds
    assert (counted.rejected, counted.dead, counted.held, counted.pending) == (0, 0, 0, 0)
    acknowledged = sum(push.acknowledged for push in run.plan.pushes)
    assert acknowledged <= counted.acknowledged <= sum(push.sent for push in run.plan.pushes)

    found = await run.oracle.everything()
    for push in run.plan.pushes:
        copies = [len(found.get(tag, [])) for tag in push.tags]
        allowed = [1] if push.acknowledged else [0, 1]
        assert all(copy in allowed for copy in copies), f"{push.method} {push.path} {push.tags}: {copies}, answers {push.answers}"
        assert len(set(copies)) == 1, f"half of {push.tags}"
        assert push.acknowledged or not push.identity
    assert sum(len(copies) for tag, copies in found.items() if tag != "before") == sum(
        len(push.tags) for push in run.plan.pushes if push.tags[0] in found
    )

    stored = {one["id"]: one for copies in found.values() for one in copies}
    reverted = [id_ for id_ in run.oracle.corrected if stored[id_]["status"] != "corrected"]
    assert not reverted, f"{len(reverted)} corrections were written over: {reverted[:5]}"

    audit = AuditLog(database, data / "audit")
    await audit.load()
    await audit.close()
    answers = sum(status < 300 for push in run.plan.pushes for status in push.answers)
    async with database.read() as connection:
        records = (await connection.execute(text("SELECT count(*) FROM audit WHERE action IN ('push', 'push-repeat')"))).scalar_one()
        ends = (await connection.execute(text("SELECT count(*) FROM audit WHERE action = 'push-done'"))).scalar_one()
    assert records >= answers
    assert ends == counted.done
    assert set(run.kills) >= set(points.NAMES)


async def _figures(run: Run, database: Database) -> str:
    async with database.read() as connection:
        counted = await inbox_admin.accounting(connection)
        attempts = (await connection.execute(text("SELECT sum(attempts), sum(attempts > 1) FROM inbox_message"))).one()
    pushes = run.plan.pushes
    lost = sum(not push.acknowledged for push in pushes)
    return (
        f"{len(pushes)} messages, {run.kills.get('random', 0)} random and {len(run.kills) - bool(run.kills.get('random'))} named kills, "
        f"{sum(len(push.answers) for push in pushes)} answers, {lost} without one, {counted.done} done in {attempts[0]} attempts "
        f"({attempts[1]} messages more than once), {len(run.oracle.corrected)} corrections alive"
    )
