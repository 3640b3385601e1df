"""A worker that stands still in the middle of a delivery, and goes on when another one has long taken its place (FAULT-P3)."""

from __future__ import annotations

import asyncio
import contextlib
import json
import multiprocessing
import os
import signal
import sqlite3
from pathlib import Path

import pytest

from gateway.sandbox.double import Double, served
from gateway.store.base import Database
from tests.support import children
from tests.support.whole_in_process import whole

pytestmark = [pytest.mark.fault, pytest.mark.timeout(120)]

PATIENT = {"resourceType": "Patient", "id": "p1"}
RESULT = {"resourceType": "Observation", "status": "final", "code": {"text": "x"}, "subject": {"reference": "Patient/p1"}}


async def test_a_worker_that_stood_still_before_its_put_does_not_send_it(tmp_path):
    """SIGSTOP after the lease was looked at and before the bytes left; another worker delivers, somebody corrects, SIGCONT: one PUT in all."""
    double, reached = Double(), tmp_path / "reached"
    double.seed(PATIENT)
    settings = {"store": f"sqlite:///{tmp_path / 'store.db'}", "cache_bytes": "0", "data_dir": str(tmp_path / "data"), "push_wait": "0"}
    with served(double) as url:
        async with whole(url, tmp_path, deliver=False, **settings) as gateway:
            token = await gateway.token("system/Observation.cu", push={"mode": "deliver", "ehr": "hapi"})
            assert (await gateway.fhir(token, "POST", "Observation", RESULT)).status_code == 202
            flags = {"ehr": (f"hapi={url}",), "public_url": "https://gateway.test", **settings}
            zombie = multiprocessing.get_context("forkserver").Process(
                target=children.deliver_slowly, args=(flags, {"GATEWAY_TEST_REACHED": str(reached)}), daemon=True
            )
            zombie.start()
            try:
                await _until_there(reached)
                await _stopped(zombie.pid or 0, tmp_path / "store.db")
                await asyncio.sleep(children.LEASE + 0.2)
                await gateway.gateway.worker.drained()
                target = await _target(gateway.gateway.state.database)
                assert [one for one in double.lines() if one.startswith("PUT")] == [f"PUT {target}"]
                double.seed(RESULT | {"id": target.partition("/")[2], "status": "corrected"})
                os.kill(zombie.pid or 0, signal.SIGCONT)
                await asyncio.sleep(1.5)
            finally:
                zombie.kill()
                zombie.join()
    assert [one for one in double.lines() if one.startswith("PUT")] == [f"PUT {target}"]
    assert (json.loads(double.raw(target))["status"], double.versions(target)) == ("corrected", 2)


async def _stopped(pid: int, store: Path) -> None:
    """Stop it, and not while another of its tasks holds the one lock that SQLite has: nobody could go on then."""
    for _ in range(50):
        os.kill(pid, signal.SIGSTOP)
        with contextlib.closing(sqlite3.connect(store, timeout=0.1)) as found:
            try:
                found.execute("BEGIN IMMEDIATE")
            except sqlite3.OperationalError:
                os.kill(pid, signal.SIGCONT)
            else:
                return
        await asyncio.sleep(0.01)
    pytest.fail("the worker held the store all the time")


async def _until_there(path: Path) -> None:
    async with asyncio.timeout(30):
        while not os.path.lexists(path):  # noqa: ASYNC110, ASYNC240 (another process makes it)
            await asyncio.sleep(0.005)


async def _target(database: Database) -> str:
    async with database.read() as connection:
        row = (await connection.exec_driver_sql("SELECT type, target FROM inbox_entry")).one()
    return f"{row[0]}/{row[1]}"
