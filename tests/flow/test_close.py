"""What a gateway leaves behind when it ends: nothing."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from gateway.sandbox.double import Double, Fault, served
from tests.flow.whole import whole


async def test_a_fetch_that_nobody_waits_for_ends_with_the_gateway(tmp_path: Path):
    """Who leaves does not end a shared fetch; the end of the gateway does, and does not wait for a slow EHR."""
    double = Double()
    double.seed({"resourceType": "Patient", "id": "a"})
    with served(double) as url:
        async with whole(url, tmp_path, deliver=False) as running:
            token = await running.token("patient/*.rs", patient="a")
            double.fail(Fault(path="Patient", delay=5))
            before = asyncio.all_tasks()
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(running.fhir(token, "GET", "Patient/a"), 0.5)
            left = asyncio.all_tasks() - before
            assert [task for task in left if not task.done()]
            await running.gateway.pipeline.close()
            assert all(task.done() for task in left)
