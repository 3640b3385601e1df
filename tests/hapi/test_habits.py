"""What docs/ehrs.md says of HAPI, tried on a real one. When HAPI changes a habit, this says so before a patient does."""

from __future__ import annotations

import asyncio
import secrets

import httpx
import pytest

from gateway.adapters.ehr import connect
from gateway.adapters.ehr.base import EhrCall
from gateway.fhir.interaction import Kind

pytestmark = pytest.mark.hapi
FHIR = {"Content-Type": "application/fhir+json"}


@pytest.fixture
def hapi(hapi_url):
    with httpx.Client(base_url=hapi_url, headers=FHIR, timeout=60) as client:
        yield client


@pytest.fixture
def new_id() -> str:
    return f"habit-{secrets.token_hex(6)}"


def observation(id_: str = "", number: str = "1.10", more: str = "") -> str:
    head = f'"id":"{id_}",' if id_ else ""
    return f'{{"resourceType":"Observation",{head}"status":"final","code":{{"text":"t"}},"valueQuantity":{{"value":{number}}}{more}}}'


@pytest.mark.parametrize(("written", "read"), [("1.10", "1.10"), ("0.000000010", "0.000000010"), ("1.0e3", "1000")])
def test_numbers(hapi, new_id, written, read):
    """Exact, but for exponents."""
    assert hapi.put(f"/Observation/{new_id}", content=observation(new_id, written)).status_code == 201
    body = hapi.get(f"/Observation/{new_id}").text
    assert f'"value":{read}' in body.replace('"value": ', '"value":')


def test_versions(hapi, new_id):
    """A stale If-Match is 409, an identical PUT makes no version, If-None-Match on PUT is ignored."""
    url = f"/Observation/{new_id}"
    first = hapi.put(url, content=observation(new_id))
    assert hapi.put(url, content=observation(new_id)).headers["etag"] == first.headers["etag"] == 'W/"1"'
    assert hapi.put(url, content=observation(new_id, "2"), headers={"If-None-Match": "*"}).status_code == 200
    stale = hapi.put(url, content=observation(new_id, "3"), headers={"If-Match": 'W/"1"'})
    assert (stale.status_code, "HAPI-0989" in stale.text) == (409, True)


@pytest.mark.parametrize(
    ("path", "body", "code"),
    [
        ("/Observation/77001122334455", observation("77001122334455"), "HAPI-0960"),
        ("/Observation/habit-without-id", observation(), "HAPI-0419"),
        ("/Observation/habit-dangling", observation("habit-dangling", more=',"subject":{"reference":"Patient/habit-nobody"}'), "HAPI-1094"),
        (
            "/Observation/habit-foreign",
            observation("habit-foreign", more=',"subject":{"reference":"https://other.example/fhir/Patient/1"}'),
            "HAPI-0507",
        ),
    ],
)
def test_what_it_does_not_take(hapi, path, body, code):
    """400, each with its own number."""
    answer = hapi.put(path, content=body)
    assert (answer.status_code, code in answer.text) == (400, True)


@pytest.mark.parametrize("search", ["nonsense=1", "_content=x", "_text=x"])
def test_unknown_parameters_are_400_even_when_leniency_is_asked_for(hapi, search):
    """So the gateway refuses them itself, with a sentence."""
    assert hapi.get(f"/Observation?{search}", headers={"Prefer": "handling=lenient"}).status_code == 400


def test_a_search_is_reused_unless_a_fresh_one_is_asked_for(hapi, new_id):
    """The stock reuse of 60 s: the freshness of the portal depends on the header."""
    search = f"/Observation?identifier=urn:habit|{new_id}"
    fresh = {"Cache-Control": "no-cache"}
    assert hapi.get(search).json().get("total") == 0
    hapi.put(f"/Observation/{new_id}", content=observation(new_id, more=f',"identifier":[{{"system":"urn:habit","value":"{new_id}"}}]'))
    assert hapi.get(search).json().get("total") == 0
    assert hapi.get(search, headers=fresh).json().get("total") == 1


def test_pages_have_no_type_in_their_links(hapi, new_id):
    """`{base}?_getpages=...`, and the total may be left out."""
    for number in range(3):
        id_ = f"{new_id}-{number}"
        hapi.put(f"/Observation/{id_}", content=observation(id_, more=f',"identifier":[{{"system":"urn:habit","value":"{new_id}"}}]'))
    found = hapi.get(f"/Observation?identifier=urn:habit|{new_id}&_count=1", headers={"Cache-Control": "no-cache"}).json()
    following = next(link["url"] for link in found["link"] if link["relation"] == "next")
    assert following.startswith(f"{str(hapi.base_url).rstrip('/')}?_getpages=")
    expired = hapi.get(f"?_getpages=habit-{new_id}&_getpagesoffset=1&_count=1")
    assert expired.status_code == 410


def test_a_compartment_url_does_not_work_for_tasks(hapi, new_id):
    """Narrowing uses each type's own search parameter."""
    hapi.put(f"/Patient/{new_id}", content=f'{{"resourceType":"Patient","id":"{new_id}"}}')
    assert hapi.get(f"/Patient/{new_id}/Task").status_code == 400
    assert hapi.get(f"/Task?patient={new_id}").status_code == 200


def test_what_is_referred_to_is_not_deleted(hapi, new_id):
    """409."""
    hapi.put(f"/Patient/{new_id}", content=f'{{"resourceType":"Patient","id":"{new_id}"}}')
    hapi.put(f"/Observation/{new_id}", content=observation(new_id, more=f',"subject":{{"reference":"Patient/{new_id}"}}'))
    assert hapi.delete(f"/Patient/{new_id}").status_code == 409


def test_batch_works_and_is_not_declared(hapi):
    """A CapabilityStatement that leaves something out is no reason to deny it."""
    declared = {one["code"] for one in hapi.get("/metadata").json()["rest"][0]["interaction"]}
    assert "transaction" in declared
    assert "batch" not in declared
    answer = hapi.post("", content='{"resourceType":"Bundle","type":"batch","entry":[{"request":{"method":"GET","url":"Patient/habit-nobody"}}]}')
    assert answer.status_code == 200


async def test_of_several_writes_of_one_version_one_is_taken(hapi_url, new_id):
    """At the same time, it answers 409 in two ways (HAPI-0989, HAPI-0823); through the adapter each is a stale version, 412."""
    ehr = connect("hapi", hapi_url, platform="hapi")
    for turn in range(3):
        id_ = f"{new_id}-{turn}"
        assert (await ehr.send(EhrCall(Kind.UPDATE, "Observation", id_, body=observation(id_).encode()))).status == 201
        calls = [EhrCall(Kind.UPDATE, "Observation", id_, body=observation(id_, str(number)).encode(), if_match='W/"1"') for number in range(6)]
        replies = await asyncio.gather(*(ehr.send(call) for call in calls))
        assert sorted(reply.status for reply in replies) == [200] + [412] * 5
    await ehr.close()
