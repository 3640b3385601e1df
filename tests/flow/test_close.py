"""What a gateway leaves behind when it ends: nothing."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from gateway.sandbox.double import Double, Fault, served
from tests.support.whole_in_process import whole


async def test_a_fetch_that_nobody_waits_for_ends_with_the_gateway(tmp_path: Path):
    """Who leaves does not end a shared fetch; the end of the gateway does, and does not wait for a slow EHR."""
    double = Double()
    double.seed({"resourceType": "Patient", "id": "a"})
    with served(double) as url:
        async with whole(url, tmp_path, deliver=False) as running:
            token = await running.token("patient/*.rs", patient="a")
            double.fail(Fault(path="Patient", delay=60))
            before = asyncio.all_tasks()
            asking = asyncio.create_task(running.fhir(token, "GET", "Patient/a"))
            while not double.requests:  # noqa: ASYNC110  (the EHR is what is looked at)
                await asyncio.sleep(0.01)
            asking.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asking
            left = {task for task in asyncio.all_tasks() - before if "fetch" in repr(task.get_coro())}
            assert len(left) == 1
            assert not any(task.done() for task in left)
            await asyncio.wait_for(running.gateway.pipeline.close(), 10)
            assert all(task.done() for task in left)
