"""Two real processes that remember answers, one of which stands still, or whose Redis is stopped, flushed or killed, while the other one writes."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import signal
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
import redis

from gateway.sandbox.double import Double, served
from gateway.store import invalidation, people
from gateway.store import oauth as rows
from gateway.store.base import Database, now
from gateway.store.oauth_rows import Account, Client, new_id
from tests.support import parts, smart
from tests.support.processes import Served, serving

pytestmark = [pytest.mark.redis, pytest.mark.fault]
COHERENCE = 0.7
SLOW = 0.9 * COHERENCE
"""Seconds of a write that waited for somebody in vain."""


@dataclass
class Two:
    """Both on one store and one Redis, in front of one EHR; `token` is of the app of patient a."""

    writer: Served
    reader: Served
    redis: parts.Part
    database: Database
    token: str

    def ask(self, at: Served, method: str = "GET", **more: object) -> httpx.Response:
        headers = {"Authorization": f"Bearer {self.token}", "Content-Type": "application/fhir+json"}
        return httpx.request(method, f"{at.url}/fhir/clinic/Communication", headers=headers, trust_env=False, timeout=20, **more)

    def write(self) -> tuple[str, float]:
        """A message: its id, and the seconds until the answer."""
        hers, began = {"reference": "Patient/a"}, time.monotonic()
        body = {"resourceType": "Communication", "status": "in-progress", "subject": hers, "sender": hers}
        answer = self.ask(self.writer, "POST", json=body | {"payload": [{"contentString": secrets.token_hex(4)}]})
        assert answer.status_code == 201, answer.text
        return answer.json()["id"], time.monotonic() - began

    async def remembered(self) -> None:
        """Both remember what the other one will change."""
        until = time.monotonic() + 30
        while not self._hits() or [one.out for one in await invalidation.members(self.database.derive)] != [False, False]:
            assert time.monotonic() < until
            await asyncio.sleep(0.2)
        await asyncio.sleep(COHERENCE)  # a poll that finds the member
        assert self._hits()

    def _hits(self) -> bool:
        return all(["hit" in self.ask(at).headers["cache-status"] for _ in range(2)][1] for at in (self.writer, self.reader))


@pytest.fixture
async def two(tmp_path: Path) -> AsyncIterator[Two]:
    double, port = Double(), parts.free_port()
    double.seed({"resourceType": "Patient", "id": "a"})
    with served(double) as ehr, parts.valkey(port=parts.free_port()) as server, contextlib.ExitStack() as stack:
        extra, env = ("--redis", server.url, "--public-url", f"http://127.0.0.1:{port}"), {"GATEWAY_COHERENCE": str(COHERENCE)}
        writer = stack.enter_context(serving(tmp_path, f"clinic={ehr}", extra=extra, env=env, port=port))
        reader = stack.enter_context(serving(tmp_path, f"clinic={ehr}", extra=extra, env=env))
        database = Database(f"sqlite+aiosqlite:///{tmp_path}/gateway.db")
        yield Two(writer, reader, server, database, await _token(database))
        await database.close()


async def _token(database: Database) -> str:
    moment = now()
    client = Client("app", "App", "none", ("authorization_code",), ("https://app.test/cb",), "", ("*",), moment)
    account = Account(new_id(), new_id(), "", "clinic", "Patient/a", "Ann", moment)
    async with database.write() as connection:
        await rows.put_client(connection, client, frozenset())
        await people.put_account(connection, account, ())
    return await smart.issue(database, client_id="app", scope="patient/*.cruds", ehr="clinic", account=account, patient="a")


async def test_nothing_that_happens_hides_a_write(two: Two):
    """FAULT-C3, P3, R1 to R3 with two levels: each write is in the other process's first answer to a request that starts after it."""
    await two.remembered()
    await _quick(two)
    await _standing_still(two)
    await two.remembered()
    await _flushed(two)
    await two.remembered()
    await _stopped(two)
    two.redis.process.kill()  # R1
    two.redis.process.wait()
    made, _ = two.write()
    assert made in two.ask(two.reader).text


async def _quick(two: Two) -> None:
    """Nobody waits for `coherence` when all is well."""
    made, took = two.write()
    assert made in two.ask(two.reader).text
    assert took < SLOW


async def _standing_still(two: Two) -> None:
    """P3: stopped while it remembers, asked after the write's answer, continued then: the request may come before its poll."""
    two.ask(two.reader)
    two.reader.process.send_signal(signal.SIGSTOP)
    try:
        made, took = two.write()
        asking = asyncio.create_task(asyncio.to_thread(two.ask, two.reader))
        await asyncio.sleep(0.2)
    finally:
        two.reader.process.send_signal(signal.SIGCONT)
    assert made in (await asking).text
    assert took > SLOW


async def _flushed(two: Two) -> None:
    """R3: who remembers is not written there."""
    with redis.Redis.from_url(two.redis.url) as admin:
        admin.flushall()
        made, took = two.write()
        admin.flushall()
    assert made in two.ask(two.reader).text
    assert took < SLOW


async def _stopped(two: Two) -> None:
    """R2: nobody can be told; the row in the database is what everybody reads."""
    two.redis.process.send_signal(signal.SIGSTOP)
    try:
        made, _ = two.write()
        assert made in two.ask(two.reader).text
    finally:
        two.redis.process.send_signal(signal.SIGCONT)
    assert made in two.ask(two.reader).text
