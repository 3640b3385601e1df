"""Does the time of a refusal tell whether somebody else's resource exists? ATK-F1, with a foreign body of 200 kB on a real HAPI."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator
from statistics import median

import httpx
import pytest

from gateway.proxy.reads import FLOOR, OWNERS_FLOOR
from tests.support.two_people import Two, load
from tests.support.whole_in_process import Whole, whole

pytestmark = [pytest.mark.hapi, pytest.mark.alone, pytest.mark.timeout(240)]

ROUNDS = 300
AT_ONCE = 3
"""Of each: together they take the EHR less time than the floor."""
ADVANTAGE = 0.10
"""How far the chance of telling the two apart may lie from a coin's. With 300 rounds its standard error is 0.024: four of them."""


@pytest.fixture
async def gateway(hapi_url: str, tmp_path) -> AsyncIterator[Whole]:
    async with whole(hapi_url, tmp_path) as running:
        yield running


@pytest.mark.parametrize("way", ["Observation/{id}", "Observation?has-member=Observation/{id}"])
async def test_absent_and_foreign_take_the_same_time(gateway: Whole, hapi_url: str, way: str):
    """B's 200 kB Observation and none at all, by id and by a reference to it, in any order: the area under the curve stays near one half."""
    two = Two()
    load(hapi_url, two.resources(large=200_000))
    token = await gateway.token("patient/*.rs", patient=two.a)
    dice = random.Random(1)  # which comes first says nothing
    times: dict[bool, list[float]] = {True: [], False: []}

    async def ask(is_foreign: bool, number: int) -> None:
        path = way.format(id=two.id("lab-b") if is_foreign else f"none-{two.tag}-{number % 7}")
        started = time.perf_counter()
        answer = await gateway.fhir(token, "GET", path, Cache_Control="no-cache")
        times[is_foreign].append(time.perf_counter() - started)
        assert answer.status_code == 404 or not answer.json().get("entry")

    for number in range(0, ROUNDS, AT_ONCE):
        both = [ask(is_foreign, number + one) for one in range(AT_ONCE) for is_foreign in (True, False)]
        dice.shuffle(both)
        await asyncio.gather(*both)
    told = area_under_curve(times[True][20:], times[False][20:])
    print(f"\nforeign {median(times[True]) * 1000:.2f} ms, absent {median(times[False]) * 1000:.2f} ms, area under the curve {told:.3f}")
    assert min(times[True] + times[False]) >= FLOOR
    assert abs(told - 0.5) < ADVANTAGE


async def test_a_plain_read_would_tell(hapi_url: str):
    """The measure works: straight at the EHR, the same two are told apart. Else the test above could not fail."""
    two = Two()
    load(hapi_url, two.resources(large=200_000))
    times: dict[bool, list[float]] = {True: [], False: []}
    async with httpx.AsyncClient() as http:
        for number in range(60):
            for is_foreign, id_ in ((True, two.id("lab-b")), (False, f"none-{two.tag}-{number % 7}")):
                started = time.perf_counter()
                await http.get(f"{hapi_url}/Observation/{id_}")
                times[is_foreign].append(time.perf_counter() - started)
    assert abs(area_under_curve(times[True][10:], times[False][10:]) - 0.5) > ADVANTAGE


def area_under_curve(first: list[float], second: list[float]) -> float:
    """The chance that one of the first took longer than one of the second (ties count half)."""
    wins = sum((a > b) + 0.5 * (a == b) for a in first for b in second)
    return wins / (len(first) * len(second))


async def test_what_no_search_can_confine_is_refused_in_silence(gateway: Whole, hapi_url: str):
    """B's Provenance, of which the EHR must be asked, and none at all: both refusals take the floor, and not what the EHR took."""
    two = Two()
    load(hapi_url, two.resources(large=200_000))
    token = await gateway.token("patient/*.rs", patient=two.a)
    times: dict[bool, list[float]] = {True: [], False: []}
    for _ in range(8):
        for is_foreign, path in ((True, f"Provenance/{two.id('prov-b')}"), (False, f"Provenance/none-{two.tag}")):
            started = time.perf_counter()
            assert (await gateway.fhir(token, "GET", path)).status_code == 404
            times[is_foreign].append(time.perf_counter() - started)
    assert min(times[True] + times[False]) >= OWNERS_FLOOR
    assert abs(median(times[True]) - median(times[False])) < OWNERS_FLOOR / 10
    assert (await gateway.fhir(token, "GET", f"Provenance/{two.id('prov-a')}")).status_code == 200
