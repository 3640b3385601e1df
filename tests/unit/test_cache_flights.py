"""One fetch for many."""

from __future__ import annotations

import asyncio

import pytest

from gateway.cache.flights import Flights
from gateway.errors import UpstreamFault


class _Work:
    """Counts how often it ran; ends when `gate` is set."""

    def __init__(self, error: Exception | None = None) -> None:
        self.runs, self.gate, self.error = 0, asyncio.Event(), error

    async def __call__(self) -> bytes:
        self.runs += 1
        await self.gate.wait()
        if self.error:
            raise self.error
        return b"value"


async def test_two_hundred_at_once_are_one_fetch():
    """FAULT-C1: everyone gets the answer of one fetch."""
    flights, work = Flights(), _Work()
    asking = [asyncio.create_task(flights.share("k", work)) for _ in range(200)]
    await asyncio.sleep(0)
    work.gate.set()
    assert await asyncio.gather(*asking) == [b"value"] * 200
    assert work.runs == 1


async def test_an_error_wakes_all_and_is_not_kept():
    """FAULT-C1: the EHR's failure reaches all who waited; the next one asks again."""
    flights, work = Flights(), _Work(UpstreamFault())
    asking = [asyncio.create_task(flights.share("k", work)) for _ in range(5)]
    await asyncio.sleep(0)
    work.gate.set()
    assert [type(result) for result in await asyncio.gather(*asking, return_exceptions=True)] == [UpstreamFault] * 5
    work.error = None
    assert await flights.share("k", work) == b"value"
    assert work.runs == 2


async def test_who_leaves_does_not_take_the_others_along():
    """The first one is cancelled; the work goes on for the second."""
    flights, work = Flights(), _Work()
    first, second = (asyncio.create_task(flights.share("k", work)) for _ in range(2))
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.sleep(0)
    work.gate.set()
    assert await second == b"value"
    with pytest.raises(asyncio.CancelledError):
        await first


async def test_other_keys_and_no_key_are_not_shared():
    """Another key is another caller or another generation; "" means that nothing may be shared."""
    flights, work = Flights(), _Work()
    work.gate.set()
    await asyncio.gather(flights.share("a", work), flights.share("b", work), flights.share("", work), flights.share("", work))
    assert work.runs == 4


async def test_closing_ends_what_is_under_way():
    """Nobody waits for a fetch that was given up, and its error is not lost in a log when everyone has left."""
    flights, work = Flights(), _Work()
    asking = asyncio.create_task(flights.share("k", work))
    await asyncio.sleep(0)
    await flights.close()
    with pytest.raises(asyncio.CancelledError):
        await asking
    failing = _Work(UpstreamFault())
    left = asyncio.create_task(flights.share("k", failing))
    await asyncio.sleep(0)
    left.cancel()
    failing.gate.set()
    await asyncio.sleep(0.01)
    assert failing.runs == 1
