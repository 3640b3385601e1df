"""What tests may rely on in the EHR double beyond FHIR: bytes kept, requests recorded, lies and failures on demand."""

from __future__ import annotations

import asyncio
import json
import time
from datetime import UTC, datetime

import httpx
import pytest

from gateway import shipped
from gateway.fhir.names import RESOURCE_TYPES
from gateway.sandbox.double import Double, Dropped, Fault, served
from gateway.sandbox.double_search import Query, Unsupported, check, matches, span

NOW = datetime(2026, 5, 6, 7, 8, 9, tzinfo=UTC)
JSON = {"Content-Type": "application/fhir+json"}


@pytest.fixture
def double():
    double = Double(clock=lambda: NOW)
    double.seed({"resourceType": "Patient", "id": "a"}, {"resourceType": "Patient", "id": "b"})
    return double


@pytest.fixture
async def client(double):
    async with httpx.AsyncClient(transport=httpx.ASGITransport(double), base_url="http://ehr.test/fhir/") as client:
        yield client


async def refs(client, path):
    bundle = (await client.get(path)).json()
    return [entry["resource"]["resourceType"] + "/" + entry["resource"]["id"] for entry in bundle.get("entry", [])]


async def test_bytes_are_kept(double, client):
    """All but id, versionId and lastUpdated: spaces, order, escapes and numbers of the sender."""
    raw = b'{ "resourceType":"Observation",\n "id":"o" , "valueQuantity":{"value":1.10,"x":1.0e3}, "note":[{"text":"\\u00fc\\/"}] }'
    await client.put("Observation/o", content=raw, headers=JSON)
    stamp = b'{"meta":{"versionId":"1","lastUpdated":"2026-05-06T07:08:09.000+00:00"},'
    assert double.raw("Observation/o") == stamp + raw[1:]
    assert (await client.get("Observation/o")).content == stamp + raw[1:]


async def test_meta_is_changed_in_place(double, client):
    """Profiles, tags and what else stands there stay."""
    raw = b'{"resourceType":"Patient","meta":{"profile":["urn:p"],"versionId":"77"},"id":"m"}'
    await client.put("Patient/m", content=raw, headers=JSON)
    expected = {"profile": ["urn:p"], "versionId": "1", "lastUpdated": "2026-05-06T07:08:09.000+00:00"}
    assert json.loads(double.raw("Patient/m"))["meta"] == expected
    assert b'"profile":["urn:p"]' in double.raw("Patient/m")


async def test_it_can_keep_every_byte(client):
    """`stamp=False`: for tests of bytes themselves."""
    raw = b'{"resourceType":"Patient","id":"a"}'
    double = Double(stamp=False)
    double.seed(raw)
    assert double.raw("Patient/a") == raw


async def test_requests_are_recorded(double, client):
    """Refused ones too, with headers and body."""
    await client.get("Patient/a?x=1")
    await client.post("Patient", content=b"{", headers=JSON | {"X-Request-ID": "r"})
    assert double.lines() == ["GET Patient/a?x=1", "POST Patient"]
    assert double.requests[1].body == b"{"
    assert double.requests[1].headers["x-request-id"] == "r"


async def test_versions_count_writes(double, client):
    """A write that came twice shows."""
    for _ in range(2):
        await client.put("Patient/a", content=b'{"resourceType":"Patient","id":"a"}', headers=JSON)
    assert double.versions("Patient/a") == 3


async def test_a_deleted_resource_is_gone(double, client):
    """410, and it comes back with the next version."""
    assert (await client.delete("Patient/a")).status_code == 204
    assert (await client.get("Patient/a")).status_code == 410
    assert await refs(client, "Patient") == ["Patient/b"]
    assert (await client.put("Patient/a", content=b'{"resourceType":"Patient","id":"a"}', headers=JSON)).status_code == 201
    assert (await client.get("Patient/a")).headers["etag"] == 'W/"3"'


async def test_a_read_of_the_same_version_is_304(client):
    """If-None-Match."""
    response = await client.get("Patient/a", headers={"If-None-Match": 'W/"1"'})
    assert (response.status_code, response.content) == (304, b"")


async def test_a_put_only_where_nothing_is_there(double, client):
    """If-None-Match on PUT (RFC 9110 13.1.2): what was deleted is not there."""
    body = b'{"resourceType":"Patient","id":"%s"}'
    for id_, condition, status in (("a", "*", 412), ("a", 'W/"1"', 412), ("a", 'W/"9"', 200), ("new", "*", 201), ("new", "*", 412)):
        response = await client.put(f"Patient/{id_}", content=body % id_.encode(), headers=JSON | {"If-None-Match": condition})
        assert (response.status_code, id_, condition) == (status, id_, condition)
    await client.delete("Patient/new")
    assert (await client.put("Patient/new", content=body % b"new", headers=JSON | {"If-None-Match": "*"})).status_code == 201
    assert double.versions("Patient/new") == 3


async def test_minimal_is_minimal(client):
    """`Prefer: return=minimal` gives no body."""
    response = await client.post("Patient", content=b'{"resourceType":"Patient"}', headers=JSON | {"Prefer": "return=minimal"})
    assert (response.status_code, response.content) == (201, b"")
    assert response.headers["location"].startswith("http://ehr.test/fhir/Patient/")


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("GET", "Nothing/a", b"", 404),
        ("GET", "x/y/z", b"", 404),
        ("GET", "Patient/none", b"", 404),
        ("PATCH", "Patient/a", b"[]", 405),
        ("POST", "Patient", b'{"resourceType":"Observation"}', 400),
        ("POST", "Patient", b"[]", 400),
        ("PUT", "Patient/a", b'{"resourceType":"Patient"}', 400),
        ("PUT", "Patient/a", b'{"resourceType":"Patient","id":"b"}', 400),
        ("POST", "", b'{"resourceType":"Bundle","type":"collection"}', 400),
        ("GET", "?_page=unknown", b"", 410),
        ("GET", "Patient?nothing=1", b"", 400),
        ("GET", "Patient?birthdate=soon", b"", 400),
    ],
)
async def test_refusals(client, method, path, body, status):
    """With an OperationOutcome."""
    response = await client.request(method, path, content=body, headers=JSON)
    assert response.status_code == status
    assert response.json()["resourceType"] == "OperationOutcome"


# ---- other kinds of EHR ----


async def get(double, path, **given):
    async with httpx.AsyncClient(transport=httpx.ASGITransport(double), base_url="http://ehr.test/fhir/") as client:
        return await client.request(given.pop("method", "GET"), path, **given)


async def test_one_that_wants_a_token():
    """401 without it."""
    double = Double(bearer="secret")
    assert (await get(double, "metadata")).status_code == 401
    assert (await get(double, "metadata", headers={"Authorization": "Bearer secret"})).status_code == 200


async def test_one_whose_ids_are_its_own():
    """PUT of a new id is refused, as by many products."""
    body = b'{"resourceType":"Patient","id":"new"}'
    assert (await get(Double(client_ids=False), "Patient/new", method="PUT", content=body)).status_code == 405


async def test_one_that_ignores_what_it_does_not_know():
    """And so gives more than was asked for."""
    double = Double(strict=False)
    double.seed({"resourceType": "Patient", "id": "a"})
    assert (await get(double, "Patient?nothing=1")).json()["total"] == 1


async def test_its_statement_names_it():
    """So that a platform can be found out."""
    statement = (await get(Double(software="HAPI FHIR Server"), "metadata")).json()
    assert statement["software"]["name"] == "HAPI FHIR Server"
    assert {one["type"] for one in statement["rest"][0]["resource"]} == RESOURCE_TYPES


# ---- failing ----


async def test_a_fault_meets_the_next_request_only(double, client):
    """`times` more of them, when it says so."""
    double.fail(Fault(status=503, headers={"Retry-After": "7"}, times=2))
    statuses = [(await client.get("Patient/a")).status_code for _ in range(3)]
    assert statuses == [503, 503, 200]


async def test_a_fault_names_its_requests(double, client):
    """By method and path."""
    double.fail(Fault(method="PUT", path=r"^Patient/a$", status=500))
    assert (await client.get("Patient/a")).status_code == 200
    assert (await client.put("Patient/b", content=b'{"resourceType":"Patient","id":"b"}', headers=JSON)).status_code == 200
    assert (await client.put("Patient/a", content=b"{}", headers=JSON)).status_code == 500


async def test_a_fault_for_ever_ends_when_healed(double, client):
    """`times=0`."""
    double.fail(Fault(status=500, times=0))
    assert [(await client.get("Patient/a")).status_code for _ in range(3)] == [500] * 3
    double.heal()
    assert (await client.get("Patient/a")).status_code == 200


@pytest.mark.parametrize(("after", "versions"), [(False, 1), (True, 2)])
async def test_before_or_after_the_write(double, client, after, versions):
    """The answer is the same, the store is not."""
    double.fail(Fault(status=500, after=after))
    assert (await client.put("Patient/a", content=b'{"resourceType":"Patient","id":"a"}', headers=JSON)).status_code == 500
    assert double.versions("Patient/a") == versions


async def test_a_dropped_answer_in_process(double, client):
    """An error of the connection."""
    double.fail(Fault(drop=True))
    with pytest.raises(Dropped):
        await client.get("Patient/a")


async def test_a_dropped_answer_on_a_socket(double):
    """The body ends early."""
    with served(double) as base_url:
        double.fail(Fault(drop=True, after=True))
        async with httpx.AsyncClient() as client:
            with pytest.raises(httpx.RemoteProtocolError):
                await client.get(f"{base_url}/Patient/a")
            assert (await client.get(f"{base_url}/Patient/a")).status_code == 200


async def test_a_slow_answer(double, client):
    """And others meanwhile."""
    double.fail(Fault(path="Patient/a", delay=0.6))
    begun = time.monotonic()
    slow = asyncio.create_task(client.get("Patient/a"))
    await asyncio.sleep(0.01)
    assert (await client.get("Patient/b")).status_code == 200
    assert time.monotonic() - begun < 0.6
    assert (await slow).status_code == 200
    assert time.monotonic() - begun >= 0.6


# ---- lying ----


async def test_a_read_of_one_can_give_another(double, client):
    """FAULT-U26."""
    double.lies.swap["Patient/a"] = "Patient/b"
    assert (await client.get("Patient/a")).json()["id"] == "b"
    double.heal()
    assert (await client.get("Patient/a")).json()["id"] == "a"


async def test_a_search_can_give_more(double, client):
    """As a match, as an include, or everything."""
    double.lies.extra.append("Patient/b")
    assert await refs(client, "Patient?_id=a") == ["Patient/a", "Patient/b"]
    double.heal()
    double.lies.extra_includes.append("Patient/b")
    entries = (await client.get("Patient?_id=a")).json()["entry"]
    assert [entry["search"]["mode"] for entry in entries] == ["match", "include"]
    double.heal()
    double.lies.ignore_filters = True
    assert sorted(await refs(client, "Patient?_id=a")) == ["Patient/a", "Patient/b"]


async def test_a_link_can_lead_elsewhere(double, client):
    """ATK-F21."""
    double.lies.next_link = "http://evil.test/fhir?_page=1"
    double.lies.total = 99
    bundle = (await client.get("Patient")).json()
    assert bundle["link"][1] == {"relation": "next", "url": "http://evil.test/fhir?_page=1"}
    assert bundle["total"] == 99


async def test_pages_can_be_forgotten(double, client):
    """410 then."""
    bundle = (await client.get("Patient?_count=1")).json()
    link = bundle["link"][1]["url"]
    assert "total" not in bundle
    assert (await client.get(link)).status_code == 200
    double.forget_pages()
    assert (await client.get(link)).status_code == 410


# ---- transactions ----


async def test_a_failed_transaction_leaves_the_store_alone(double, client):
    """Whatever was done before the failing entry."""
    entries = [
        {"request": {"method": "POST", "url": "Patient"}, "resource": {"resourceType": "Patient"}},
        {"request": {"method": "DELETE", "url": "Patient/a"}},
        {"request": {"method": "PUT", "url": "Patient/b", "ifMatch": 'W/"9"'}, "resource": {"resourceType": "Patient", "id": "b"}},
    ]
    response = await client.post("", json={"resourceType": "Bundle", "type": "transaction", "entry": entries})
    assert response.status_code == 412
    assert sorted(await refs(client, "Patient")) == ["Patient/a", "Patient/b"]


async def test_a_transaction_keeps_bytes_but_references(double, client):
    """Only what names a fullUrl of the Bundle changes."""
    body = (
        b'{"resourceType":"Bundle","type":"transaction","entry":[{"fullUrl":"urn:uuid:1","request":{"method":"POST","url":"Patient"},'
        b'"resource":{"resourceType":"Patient"}},{"request":{"method":"PUT","url":"Observation/o"},"resource":{"resourceType":"Observation",'
        b'"id":"o","subject":{ "reference" : "urn:uuid:1"},"valueQuantity":{"value":1.10}}}]}'
    )
    response = await client.post("", content=body, headers=JSON)
    made = response.json()["entry"][0]["response"]["location"].partition("/_history")[0]
    assert b'"subject":{ "reference" : "%s"},"valueQuantity":{"value":1.10}' % made.encode() in double.raw("Observation/o")
    assert (await client.get(made)).status_code == 200


# ---- searching ----


def holds(resource, query):
    params = shipped.tables().search[resource["resourceType"]]
    return matches(resource, Query.parse(query), params, "http://ehr.test/fhir")


OBSERVATION = {
    "resourceType": "Observation",
    "id": "o",
    "meta": {"lastUpdated": "2026-03-04T05:06:07Z"},
    "status": "final",
    "code": {"coding": [{"system": "http://loinc.org", "code": "718-7"}, {"code": "local"}]},
    "subject": {"reference": "http://ehr.test/fhir/Patient/a"},
    "performer": [{"identifier": {"system": "urn:npi", "value": "1"}}],
    "effectivePeriod": {"start": "2026-01-10", "end": "2026-01-20"},
    "valueQuantity": {"value": 5.4, "unit": "mg", "system": "http://unitsofmeasure.org", "code": "mg"},
}


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("patient=Patient/a", True), ("patient=a", True), ("patient:Patient=a", True), ("patient=http://ehr.test/fhir/Patient/a", True),
        ("patient=b", False), ("subject=Group/a", False), ("patient=a&patient=b", False), ("patient=b,a", True),
        ("code=718-7", True), ("code=http://loinc.org|718-7", True), ("code=http://loinc.org|", True), ("code=|local", True),
        ("code=|718-7", False), ("code=urn:x|718-7", False), ("code=718", False), ("code:not=718-7", False), ("code:not=x", True),
        ("status=final,amended", True), ("status:missing=true", False), ("category:missing=true", True), ("status:missing=false", True),
        ("performer:identifier=urn:npi|1", True), ("performer:identifier=urn:npi|2", False),
        ("date=2026-01", True), ("date=2026-01-15", False), ("date=ge2026-01-15", True), ("date=lt2026-01-10", False), ("date=le2026-01-10", True),
        ("date=gt2026-01-20", False), ("date=gt2026-01-19", True), ("date=sa2026-01-09", True), ("date=sa2026-01-10", False),
        ("date=eb2026-01-21", True), ("date=ne2026-01", False), ("date=ge2026-01-12&date=lt2026-01-05", False),
        ("date=2026-01-12T00:00:00Z", False), ("_lastUpdated=gt2026-03-04T05:06:06Z", True), ("_lastUpdated=2026-03-05", False),
        ("value-quantity=5.4", True), ("value-quantity=5.40", True), ("value-quantity=5", True), ("value-quantity=gt5.4", False),
        ("value-quantity=gt5", False), ("value-quantity=le5.4|http://unitsofmeasure.org|mg", True), ("value-quantity=5.4||g", False),
        ("_id=o,x", True), ("_id=x", False),
    ],
)  # fmt: skip
def test_parameters_mean_what_r4_says(query, expected):
    """search.html 3.1.1.4."""
    assert holds(OBSERVATION, query) is expected


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("name=mül", True), ("name=anna", True), ("family:exact=Müller", True), ("family:exact=müller", False), ("name:contains=lle", True),
        ("name=ller", False), ("birthdate=1990", True), ("birthdate=1990-02-30", None), ("identifier=urn:x|a,b", False),
        ("identifier=urn:x|a\\,b", True), ("active=true", True),
    ],
)  # fmt: skip
def test_names_dates_and_escapes(query, expected):
    """Strings ignore case and begin anywhere but inside; an impossible date is refused."""
    patient = {
        "resourceType": "Patient", "id": "a", "active": True, "birthDate": "1990-02-03", "name": [{"family": "Müller", "given": ["Anna"]}],
        "identifier": [{"system": "urn:x", "value": "a,b"}],
    }  # fmt: skip
    if expected is None:
        with pytest.raises(Unsupported):
            holds(patient, query)
    else:
        assert holds(patient, query) is expected


@pytest.mark.parametrize("name", ["nothing", "subject.nothing2", "_has", "combo-code-value-quantity"])
def test_what_it_cannot_do_it_refuses(name):
    """Rather than giving everything."""
    params = shipped.tables().search["Observation"]
    query = Query.parse(f"{name}=1")
    with pytest.raises(Unsupported):
        assert check(query, params) is None is matches(OBSERVATION, query, params, "")


@pytest.mark.parametrize(
    ("text", "end"),
    [
        ("2026", "2027-01-01T00:00:00"), ("2026-12", "2027-01-01T00:00:00"), ("2026-02", "2026-03-01T00:00:00"),
        ("2026-02-28", "2026-03-01T00:00:00"),
        ("2026-02-28T10:00Z", "2026-02-28T10:01:00"), ("2026-02-28T10:00:00+02:00", "2026-02-28T08:00:01"),
        ("2026-02-28T10:00:00.5Z", "2026-02-28T10:00:00.501"),
    ],
)  # fmt: skip
def test_a_date_is_as_long_as_its_precision(text, end):
    """search.html 3.1.1.4.8."""
    assert span(text)[1] == datetime.fromisoformat(end).replace(tzinfo=UTC)
