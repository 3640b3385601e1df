"""The HTTP edge of the facade, before any EHR is asked: bodies, encodings, formats; and the loop that goes on meanwhile."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator

import httpx
import pytest

from gateway.adapters.ehr.base import EhrReply
from gateway.api import asgi
from gateway.errors import RequestTimeout
from gateway.fhir import request
from gateway.proxy import reads
from gateway.proxy.answer import RequestContext
from tests.support.whole_in_process import Whole, whole

NOWHERE = "http://127.0.0.1:9/fhir"
DELIVER = {"mode": "deliver", "ehr": "hapi", "source_ehr": ""}


@pytest.fixture(scope="module")
async def gateway(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Whole]:
    async with whole(NOWHERE, tmp_path_factory.mktemp("gateway"), deliver=False) as running:
        yield running


@pytest.fixture
async def token(gateway: Whole) -> str:
    return await gateway.token("system/*.cruds", push=DELIVER)


def reason(answer: httpx.Response) -> str:
    """The issue code of a refusal, whose shape is checked too."""
    outcome = answer.json()
    assert outcome["resourceType"] == "OperationOutcome"
    assert answer.headers["content-type"] == "application/fhir+json"
    return outcome["issue"][0]["code"]


@pytest.mark.parametrize("encoding", ["gzip", "br", "deflate", "gzip, identity", "GZIP", "x-unknown"])
async def test_encoded_bodies_are_refused(gateway: Whole, token: str, encoding: str):
    """FAULT-S12: 415, whatever is in the body; it is never unpacked. The refusal is on record, with who it was."""
    answer = await gateway.fhir(token, "POST", "Observation", b"\x1f\x8b", Content_Encoding=encoding)
    assert (answer.status_code, reason(answer)) == (415, "not-supported")
    records = await gateway.gateway.state.audit.search(limit=1)
    assert (records[0].reason, records[0].status, records[0].principal) == ("content-encoding", 415, "system")


async def test_bodies_that_are_too_large_are_refused(gateway: Whole, token: str):
    """FAULT-S11: 413, by what is announced before a byte of it is read, and in the middle where nothing is; an endless one is not read to its end."""
    cap, read = gateway.gateway.state.settings.body_cap, 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal read
        while True:
            read += 1 << 20
            yield b" " * (1 << 20)

    announced = await gateway.fhir(token, "POST", "Observation", b"{}", Content_Length=str(20_000_000))
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/fhir+json"}
    unannounced = await gateway.http.post(f"{gateway.base}/Observation", content=endless(), headers=headers)
    for answer in (announced, unannounced):
        assert (answer.status_code, reason(answer)) == (413, "too-long")
    assert read <= cap + (2 << 20)


async def test_a_body_that_comes_too_slowly_is_not_waited_for():
    """FAULT-S14: 408 when the whole of it is not there in time, however much comes now and then."""

    async def now_and_then() -> dict[str, object]:
        await asyncio.sleep(0.02)
        return {"type": "http.request", "body": b" ", "more_body": True}

    with pytest.raises(RequestTimeout) as caught:
        await asyncio.wait_for(asgi.read_body([], now_and_then, asgi.Limits(cap=1 << 20, deadline=0.2)), 5)
    assert (caught.value.status, caught.value.reason) == (408, "body-too-slow")


@pytest.mark.parametrize(
    ("path", "ehr", "reason_id"), [("n" * 300 + "/Patient/a", "n" * 64, "ehr-unknown"), ("hapi/.well-known/x", "hapi", "NotFound")]
)
async def test_what_is_not_there_for_anybody_is_on_record_too(gateway: Whole, path: str, ehr: str, reason_id: str):
    """Somebody tries addresses: the operator can see it."""
    answer = await gateway.http.get(f"https://gateway.test/fhir/{path}")
    assert answer.status_code == 404
    (record,) = await gateway.gateway.state.audit.search(limit=1)
    assert (record.request_id, record.ehr, record.reason, record.status) == (answer.headers["x-request-id"], ehr, reason_id, 404)


@pytest.mark.parametrize("encoding", ["identity", "Identity"])
async def test_identity_is_no_encoding(gateway: Whole, token: str, encoding: str):
    """RFC 9110 section 8.4.1: the body is judged as it is."""
    answer = await gateway.fhir(token, "POST", "Observation", b"{", Content_Encoding=encoding)
    assert (answer.status_code, reason(answer)) == (400, "structure")


@pytest.mark.parametrize("accept", ["application/fhir+xml", "application/xml", "text/html", "application/fhir+json; fhirVersion=5.0"])
async def test_metadata_is_json_only(gateway: Whole, accept: str):
    """FHIR R4 http.html#mime-type: 406 for a format that is not offered, before the EHR is asked."""
    by_header = await gateway.fhir("", "GET", "metadata", Accept=accept)
    by_parameter = await gateway.fhir("", "GET", "metadata?_format=xml")
    assert (by_header.status_code, by_parameter.status_code) == (406, 406)
    assert reason(by_header) == reason(by_parameter) == "not-supported"


@pytest.mark.parametrize("accept", ["application/fhir+json", "application/json", "*/*", "application/fhir+xml, application/fhir+json;q=0.5"])
async def test_metadata_in_json_is_asked_of_the_ehr(gateway: Whole, accept: str):
    """What is acceptable goes on: here to an EHR that does not answer."""
    answer = await gateway.fhir("", "GET", "metadata", Accept=accept)
    assert answer.status_code in (502, 503)
    assert reason(answer) == "transient"


@pytest.mark.parametrize(("size", "in_loop"), [(1_000, True), (300_000, False)])
async def test_large_bodies_are_understood_in_a_thread(gateway: Whole, token: str, monkeypatch: pytest.MonkeyPatch, size: int, in_loop: bool):
    """A large body does not hold up the loop; a small one is not worth a thread."""
    where: list[int] = []
    parse = request.parse

    def noted(**parts):
        where.append(threading.get_ident())
        return parse(**parts)

    monkeypatch.setattr(request, "parse", noted)
    body = {"resourceType": "Observation", "status": "bogus", "code": {"text": "x" * size}}
    answer = await gateway.fhir(token, "POST", "Observation", body)
    assert answer.status_code in (400, 422)
    assert [thread == threading.get_ident() for thread in where] == [in_loop]


async def test_codings_of_the_ehrs_own_address_stay_hidden(gateway: Whole):
    """An EHR's refusal with a coding system below its own base: the address does not reach the caller."""
    codings = [{"system": f"{NOWHERE}/CodeSystem/x", "code": "own"}, {"system": "http://loinc.org", "code": "1-8"}]
    issue = {"severity": "error", "code": "invalid", "details": {"coding": codings}}
    reply = EhrReply(400, {}, json.dumps({"resourceType": "OperationOutcome", "issue": [issue]}).encode())
    error = reads.refusal(reply, gateway.gateway.ehrs["hapi"], RequestContext("r1", "127.0.0.1"), lambda *_: None)
    assert [coding["code"] for coding in error.issues[0]["details"]["coding"]] == ["1-8"]
