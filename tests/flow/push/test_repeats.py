"""Pushes that come again: known by an explicit identity, and by nothing else."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace

import pytest

from gateway.errors import BadRequest, Unprocessable
from gateway.ingest import receive
from gateway.smart.principal import Push
from tests.support.push_scene import ASYNC, GW, LAB, key, result, settled, working


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
        await settled(gateway)
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
        await settled(gateway)
    assert [json.loads(body)["valueString"] for body in gateway.shelf.versions["Observation/o1"]] == ["A", "B", "A"]


async def test_a_key_that_is_too_long_is_refused(gateway):
    """400; nothing is stored."""
    with pytest.raises(BadRequest):
        await gateway.post(key("k" * 256))
    assert (await gateway.accounting()).acknowledged == 0
