"""One suite for EHRs through their adapter: the double on a real socket, and the real HAPI. What holds here, the gateway relies on."""

from __future__ import annotations

import json
import secrets

import pytest

from gateway.adapters.ehr import connect
from gateway.adapters.ehr.base import EhrCall
from gateway.fhir.interaction import Kind, Param
from gateway.fhir.json import parse_trusted
from gateway.sandbox.double import Double, served

LOINC = "http://loinc.org"
CATEGORY = "http://terminology.hl7.org/CodeSystem/observation-category"


@pytest.fixture(scope="module")
def double_url():
    with served(Double()) as base_url:
        yield base_url


@pytest.fixture(params=["double", pytest.param("hapi", marks=pytest.mark.hapi)])
def base_url(request):
    return request.getfixturevalue(f"{request.param}_url")


@pytest.fixture
async def ehr(base_url):
    ehr = connect("test", base_url)
    yield ehr
    await ehr.close()


def unique(prefix="t") -> str:
    return f"{prefix}-{secrets.token_hex(6)}"


def params(*pairs: tuple[str, str]) -> tuple[Param, ...]:
    return tuple(Param(name.partition(":")[0], name.partition(":")[2], value) for name, value in pairs)


async def put(ehr, resource: dict | bytes):
    raw = resource if isinstance(resource, bytes) else json.dumps(resource).encode()
    parsed = json.loads(raw)
    reply = await ehr.send(EhrCall(Kind.UPDATE, parsed["resourceType"], parsed["id"], body=raw))
    assert reply.status in (200, 201), reply.body
    return reply


async def search(ehr, resource_type, *pairs):
    reply = await ehr.send(EhrCall(Kind.SEARCH, resource_type, params=params(*pairs)))
    assert reply.status == 200, reply.body
    return json.loads(reply.body)


def refs(bundle, mode="match") -> list[str]:
    return [f"{entry['resource']['resourceType']}/{entry['resource']['id']}" for entry in bundle.get("entry", []) if entry["search"]["mode"] == mode]


async def read(ehr, ref, version=""):
    resource_type, _, id_ = ref.partition("/")
    return await ehr.send(EhrCall(Kind.VREAD if version else Kind.READ, resource_type, id_, version))


@pytest.fixture
async def patient(ehr):
    id_ = unique("p")
    await put(ehr, {"resourceType": "Patient", "id": id_, "active": True, "name": [{"family": f"Family{id_}", "given": ["Given"]}]})
    return f"Patient/{id_}"


def observation(patient, code="718-7", day="2026-01-02", *, category="laboratory", status="final") -> dict:
    return {
        "resourceType": "Observation",
        "id": unique("o"),
        "status": status,
        "category": [{"coding": [{"system": CATEGORY, "code": category}]}],
        "code": {"coding": [{"system": LOINC, "code": code}]},
        "subject": {"reference": patient},
        "effectiveDateTime": f"{day}T10:00:00Z",
    }


# ---- one resource ----


async def test_a_create_gives_id_version_and_place(ehr):
    """201, an ETag, a Location below the base, and the resource."""
    reply = await ehr.send(EhrCall(Kind.CREATE, "Patient", body=b'{"resourceType":"Patient","active":true}'))
    assert (reply.status, reply.etag) == (201, 'W/"1"')
    made = json.loads(reply.body)
    assert ehr.relative(reply.headers["location"]) == f"Patient/{made['id']}/_history/1"
    assert made["meta"]["versionId"] == "1"


async def test_numbers_and_texts_come_back_as_they_were_written(ehr, patient):
    """Promise 2 begins at the EHR."""
    raw = json.dumps(observation(patient) | {"note": [{"text": 'Ünïcode \\ "quoted" €'}]}).encode()[:-1] + b', "valueQuantity": {"value": 1.10}}'
    await put(ehr, raw)
    reply = await read(ehr, f"Observation/{json.loads(raw)['id']}")
    assert str(parse_trusted(reply.body)["valueQuantity"]["value"]) == "1.10"
    assert json.loads(reply.body)["note"][0]["text"] == 'Ünïcode \\ "quoted" €'
    assert b"1.10" in reply.body


async def test_a_read_of_what_is_kept_says_whether_it_is_still_so(ehr, patient):
    """304 without a body for the version that is named, the whole resource for another one."""
    id_ = patient.removeprefix("Patient/")
    etag = (await read(ehr, patient)).etag
    same = await ehr.send(EhrCall(Kind.READ, "Patient", id_, if_none_match=etag))
    assert (same.status, same.body) == (304, b"")
    other = await ehr.send(EhrCall(Kind.READ, "Patient", id_, if_none_match='W/"99"'))
    assert (other.status, json.loads(other.body)["id"]) == (200, id_)


async def test_a_read_gives_its_version(ehr, patient):
    """ETag and Last-Modified as headers, versionId in the meta."""
    reply = await read(ehr, patient)
    assert (reply.status, reply.etag) == (200, 'W/"1"')
    assert reply.headers["last-modified"].endswith("GMT")
    assert json.loads(reply.body)["meta"]["versionId"] == "1"


async def test_what_was_never_there_is_404(ehr):
    """A reply with an OperationOutcome, no error."""
    reply = await read(ehr, f"Patient/{unique()}")
    assert reply.status == 404
    assert json.loads(reply.body)["resourceType"] == "OperationOutcome"


async def test_versions_stay_readable(ehr, patient):
    """An update makes a new version; both can be read."""
    changed = {"resourceType": "Patient", "id": patient.partition("/")[2], "active": False}
    reply = await put(ehr, changed)
    assert (reply.status, reply.etag) == (200, 'W/"2"')
    assert json.loads((await read(ehr, patient, "1")).body)["active"] is True
    assert json.loads((await read(ehr, patient, "2")).body)["active"] is False
    assert (await read(ehr, patient, "3")).status == 404


async def test_a_client_chooses_an_id(ehr):
    """PUT of an id that is new makes it: how pushes are delivered just once."""
    id_ = unique()
    reply = await put(ehr, {"resourceType": "Patient", "id": id_})
    assert reply.status == 201
    assert ehr.relative(reply.headers["location"]) == f"Patient/{id_}/_history/1"


@pytest.mark.parametrize(("seen", "status"), [('W/"1"', 200), ('W/"9"', 412)])
async def test_an_update_holds_only_for_the_version_seen(ehr, patient, seen, status):
    """A stale If-Match is 412 at every EHR, whatever it says itself (FAULT-U23), and changes nothing."""
    body = json.dumps({"resourceType": "Patient", "id": patient.partition("/")[2], "active": False}).encode()
    reply = await ehr.send(EhrCall(Kind.UPDATE, *patient.split("/"), body=body, if_match=seen))
    assert reply.status == status
    assert json.loads((await read(ehr, patient)).body)["active"] is (status != 200)


async def test_a_broken_body_is_refused(ehr):
    """4xx comes back as a reply with its outcome."""
    reply = await ehr.send(EhrCall(Kind.CREATE, "Patient", body=b'{"resourceType":"Patient","active":'))
    assert reply.status == 400
    assert json.loads(reply.body)["resourceType"] == "OperationOutcome"


async def test_a_conditional_create_makes_one(ehr):
    """The second gives the first (http.html 3.1.0.8.1); the condition is sent encoded, and read as it was meant."""
    value = unique("mrn") + " a&b|c"
    body = json.dumps({"resourceType": "Patient", "identifier": [{"system": "urn:test", "value": value}]}).encode()
    condition = params(("identifier", "urn:test|" + value.replace("|", "\\|")))
    replies = [await ehr.send(EhrCall(Kind.CREATE, "Patient", body=body, if_none_exist=condition)) for _ in range(2)]
    assert [reply.status for reply in replies] == [201, 200]
    assert len({json.loads(reply.body)["id"] for reply in replies}) == 1


async def test_a_condition_that_matches_several_is_412(ehr):
    """Nothing is made."""
    value = unique("mrn")
    body = {"resourceType": "Patient", "identifier": [{"system": "urn:test", "value": value}]}
    for _ in range(2):
        await put(ehr, body | {"id": unique()})
    call = EhrCall(Kind.CREATE, "Patient", body=json.dumps(body).encode(), if_none_exist=params(("identifier", f"urn:test|{value}")))
    assert (await ehr.send(call)).status == 412


# ---- searches ----


async def test_searches_keep_to_the_patient(ehr, patient):
    """By `patient`, in both spellings that all understand; stock HAPI finds nothing by an absolute one, even below its own base."""
    other = f"Patient/{unique('p')}"
    await put(ehr, {"resourceType": "Patient", "id": other.partition("/")[2]})
    mine, theirs = observation(patient), observation(other)
    for one in (mine, theirs):
        await put(ehr, one)
    for value in (patient, patient.partition("/")[2]):
        assert refs(await search(ehr, "Observation", ("patient", value))) == [f"Observation/{mine['id']}"]
    assert refs(await search(ehr, "Observation", ("subject", patient), ("patient", other))) == []


@pytest.mark.parametrize(
    ("pairs", "found"),
    [
        ([("category", f"{CATEGORY}|laboratory")], "ab"),
        ([("category", "vital-signs")], "c"),
        ([("code", f"{LOINC}|718-7")], "ac"),
        ([("code", f"{LOINC}|718-7,{LOINC}|2345-7")], "abc"),
        ([("code", "urn:other|718-7")], ""),
        ([("code", "718-7"), ("category", "laboratory")], "a"),
        ([("status", "final")], "ac"),
        ([("status:not", "final")], "b"),
        ([("date", "2026-02-01")], "b"),
        ([("date", "ge2026-02-01")], "bc"),
        ([("date", "gt2026-02-01")], "c"),
        ([("date", "ge2026-01-15"), ("date", "lt2026-03-01")], "b"),
        ([("date", "2026")], "abc"),
        ([("_sort", "date")], "abc"),
        ([("_sort", "-date")], "cba"),
    ],
)  # fmt: skip
async def test_searches_by_what_pages_ask(ehr, patient, pairs, found):
    """Token, date and sort parameters of the portal's pages and of granular scopes."""
    made = {
        "a": observation(patient, "718-7", "2026-01-01"),
        "b": observation(patient, "2345-7", "2026-02-01", status="preliminary"),
        "c": observation(patient, "718-7", "2026-03-01", category="vital-signs"),
    }
    for one in made.values():
        await put(ehr, one)
    names = {f"Observation/{one['id']}": name for name, one in made.items()}
    got = [names[ref] for ref in refs(await search(ehr, "Observation", ("patient", patient), *pairs))]
    assert got == list(found) if "_sort" in str(pairs) else sorted(got) == sorted(found)


@pytest.mark.parametrize(
    ("value", "found"),
    [("ge2026-01-20", True), ("ge2026-01-21", False), ("le2026-01-10", True), ("le2026-01-09", False), ("gt2026-01-20", False),
     ("gt2026-01-19", True),
     ("lt2026-01-10", False), ("lt2026-01-11", True), ("2026-01", True), ("2026-01-15", False), ("sa2026-01-09", True), ("eb2026-01-21", True)],
)  # fmt: skip
async def test_a_period_is_found_by_what_it_touches(ehr, patient, value, found):
    """Encounters and plans last from the 10th to the 20th (search.html 3.1.1.4.8)."""
    period = observation(patient) | {"effectivePeriod": {"start": "2026-01-10T00:00:00Z", "end": "2026-01-20T23:59:59Z"}}
    del period["effectiveDateTime"]
    await put(ehr, period)
    assert bool(refs(await search(ehr, "Observation", ("patient", patient), ("date", value)))) is found


async def test_a_search_by_several_ids(ehr):
    """`_id` takes a list; what is not there is left out."""
    ids = [unique() for _ in range(3)]
    for id_ in ids:
        await put(ehr, {"resourceType": "Patient", "id": id_})
    assert sorted(refs(await search(ehr, "Patient", ("_id", ",".join([*ids, unique()]))))) == sorted(f"Patient/{id_}" for id_ in ids)


async def test_a_search_that_is_too_long_for_a_url(ehr, patient):
    """It goes by POST to _search, with the same result."""
    ids = [patient.partition("/")[2], *(unique() for _ in range(400))]
    assert refs(await search(ehr, "Patient", ("_id", ",".join(ids)))) == [patient]


@pytest.mark.parametrize("text", ["a b", "a&b=c", "100%", "%41", "a+b", "Ünï€", "a#b", "a/b?c", 'quo"te', "semi;colon"])
async def test_values_mean_what_they_say(ehr, text):
    """One encoding on the way out, one decoding there (ATK-F24)."""
    value = f"{unique()}{text}"
    id_ = unique()
    await put(ehr, {"resourceType": "Patient", "id": id_, "identifier": [{"system": "urn:test:x", "value": value}]})
    assert refs(await search(ehr, "Patient", ("identifier", f"urn:test:x|{value}"))) == [f"Patient/{id_}"]
    assert refs(await search(ehr, "Patient", ("identifier", value))) == [f"Patient/{id_}"]


@pytest.mark.parametrize("text", ["a,b", "a|b", "a$b", "a\\b"])
async def test_fhir_escapes_are_kept(ehr, text):
    r"""`\,` `\|` `\$` `\\` belong to the value (search.html 3.1.1.4.12)."""
    value = f"{unique()}{text}"
    escaped = "".join("\\" + char if char in "\\,|$" else char for char in value)
    id_ = unique()
    await put(ehr, {"resourceType": "Patient", "id": id_, "identifier": [{"system": "urn:test:x", "value": value}]})
    assert refs(await search(ehr, "Patient", ("identifier", f"urn:test:x|{escaped}"))) == [f"Patient/{id_}"]


async def test_a_search_sees_the_write_before_it(ehr, patient):
    """Repeated at once, although stock HAPI keeps results for 60 s: `Cache-Control: no-cache`."""
    for count in range(1, 4):
        await put(ehr, observation(patient))
        assert len(refs(await search(ehr, "Observation", ("patient", patient)))) == count


async def test_an_update_is_seen_by_the_next_search(ehr, patient):
    """The same for a changed resource."""
    one = observation(patient)
    await put(ehr, one)
    assert len(refs(await search(ehr, "Observation", ("patient", patient), ("status", "final")))) == 1
    await put(ehr, one | {"status": "amended"})
    assert refs(await search(ehr, "Observation", ("patient", patient), ("status", "final"))) == []


async def test_pages_give_everything_once(ehr, patient):
    """Next links lie below the base, lead through all, and end."""
    made = [observation(patient) for _ in range(7)]
    for one in made:
        await put(ehr, one)
    reply = await ehr.send(EhrCall(Kind.SEARCH, "Observation", params=params(("patient", patient), ("_count", "3"))))
    found: list[str] = []
    for _ in range(10):
        bundle = json.loads(reply.body)
        found += refs(bundle)
        link = next((link["url"] for link in bundle.get("link", []) if link["relation"] == "next"), None)
        if link is None:
            break
        page = ehr.relative(link)
        assert page is not None
        reply = await ehr.send(EhrCall(Kind.SEARCH, "Observation", page=page))
        assert reply.status == 200
    assert sorted(found) == sorted(f"Observation/{one['id']}" for one in made)


async def test_the_total_is_exact_when_asked_for(ehr, patient):
    """`_total=accurate` counts all pages."""
    for _ in range(4):
        await put(ehr, observation(patient))
    assert (await search(ehr, "Observation", ("patient", patient), ("_count", "2"), ("_total", "accurate")))["total"] == 4


async def test_a_page_that_is_gone_is_a_refusal(ehr):
    """410, a reply."""
    await ehr.capabilities()  # from then on the platform is known
    name = "_getpages" if ehr.profile.name == "hapi" else "_page"
    reply = await ehr.send(EhrCall(Kind.SEARCH, page=f"?{name}=00000000-0000-0000-0000-000000000000"))
    assert reply.status == 410


async def test_an_unknown_parameter_is_refused(ehr):
    """400, not everything of the type."""
    assert (await ehr.send(EhrCall(Kind.SEARCH, "Observation", params=params(("no-such-parameter", "x"))))).status == 400


async def test_includes_come_along(ehr, patient):
    """A prescription with its medication, a result with its provenance; each entry says which it is."""
    medication = {"resourceType": "Medication", "id": unique("m"), "status": "active"}
    prescription = {
        "resourceType": "MedicationRequest",
        "id": unique("r"),
        "status": "active",
        "intent": "order",
        "subject": {"reference": patient},
        "medicationReference": {"reference": f"Medication/{medication['id']}"},
    }
    provenance = {
        "resourceType": "Provenance",
        "id": unique("v"),
        "target": [{"reference": f"MedicationRequest/{prescription['id']}"}],
        "recorded": "2026-01-01T00:00:00Z",
        "agent": [{"who": {"reference": patient}}],
    }
    for one in (medication, prescription, provenance):
        await put(ehr, one)
    asked = [("patient", patient), ("_include", "MedicationRequest:medication"), ("_revinclude", "Provenance:target")]
    bundle = await search(ehr, "MedicationRequest", *asked)
    assert refs(bundle) == [f"MedicationRequest/{prescription['id']}"]
    assert sorted(refs(bundle, "include")) == [f"Medication/{medication['id']}", f"Provenance/{provenance['id']}"]


async def test_a_thread_is_found_by_part_of(ehr, patient):
    """Messages: the header, and its replies."""
    header = {"resourceType": "Communication", "id": unique("c"), "status": "completed", "subject": {"reference": patient}}
    replies = [header | {"id": unique("c"), "partOf": [{"reference": f"Communication/{header['id']}"}]} for _ in range(2)]
    for one in (header, *replies):
        await put(ehr, one)
    found = refs(await search(ehr, "Communication", ("part-of", f"Communication/{header['id']}")))
    assert sorted(found) == sorted(f"Communication/{one['id']}" for one in replies)


async def test_a_name_is_found_by_how_it_begins(ehr, patient):
    """String search (search.html 3.1.1.4.7)."""
    family = f"Family{patient.partition('/')[2]}"
    assert refs(await search(ehr, "Patient", ("family", family[:-2].lower()))) == [patient]
    assert refs(await search(ehr, "Patient", ("family:exact", family))) == [patient]


# ---- bundles ----


def entry(method, url, resource=None, *, full_url="", **conditions) -> dict:
    request = {"method": method, "url": url, **conditions}
    return ({"fullUrl": full_url} if full_url else {}) | {"request": request} | ({"resource": resource} if resource else {})


async def post(ehr, kind, *entries):
    body = json.dumps({"resourceType": "Bundle", "type": kind.value, "entry": list(entries)}).encode()
    return await ehr.send(EhrCall(kind, body=body))


async def test_a_transaction_resolves_its_own_references(ehr, patient):
    """What is made under a urn:uuid is what the others refer to."""
    made = observation(patient)
    made.pop("id")
    report = {
        "resourceType": "DiagnosticReport",
        "id": unique("d"),
        "status": "final",
        "code": {"text": "panel"},
        "subject": {"reference": patient},
        "result": [{"reference": "urn:uuid:5d0e9bd3-5ac0-4a2c-a1a4-6f3b7b8f8a01"}],
    }
    reply = await post(
        ehr,
        Kind.TRANSACTION,
        entry("POST", "Observation", made, full_url="urn:uuid:5d0e9bd3-5ac0-4a2c-a1a4-6f3b7b8f8a01"),
        entry("PUT", f"DiagnosticReport/{report['id']}", report, full_url=f"{ehr.base_url}/DiagnosticReport/{report['id']}"),
    )
    assert reply.status == 200
    responses = [one["response"] for one in json.loads(reply.body)["entry"]]
    assert [one["status"][:3] for one in responses] == ["201", "201"]
    stored = json.loads((await read(ehr, f"DiagnosticReport/{report['id']}")).body)
    assert stored["result"][0]["reference"] == responses[0]["location"].removeprefix(f"{ehr.base_url}/").partition("/_history")[0]


async def test_a_transaction_that_fails_leaves_nothing(ehr, patient):
    """All or nothing, and 412 for a version that is not current."""
    new = unique()
    stale = {"resourceType": "Patient", "id": patient.partition("/")[2], "active": False}
    reply = await post(
        ehr,
        Kind.TRANSACTION,
        entry("PUT", f"Patient/{new}", {"resourceType": "Patient", "id": new}),
        entry("PUT", patient, stale, ifMatch='W/"7"'),
    )
    assert reply.status == 412
    assert (await read(ehr, f"Patient/{new}")).status == 404
    assert json.loads((await read(ehr, patient)).body)["active"] is True


async def test_a_batch_answers_each_entry(ehr):
    """One may fail, the others hold."""
    new = unique()
    reply = await post(
        ehr,
        Kind.BATCH,
        entry("PUT", f"Patient/{new}", {"resourceType": "Patient", "id": new}),
        entry("GET", f"Patient/{unique()}"),
    )
    assert [one["response"]["status"][:3] for one in json.loads(reply.body)["entry"]] == ["201", "404"]
    assert (await read(ehr, f"Patient/{new}")).status == 200


# ---- the server ----


async def test_it_says_what_it_can(ehr):
    """A CapabilityStatement of R4."""
    statement = json.loads((await ehr.capabilities()).body)
    assert (statement["resourceType"], statement["fhirVersion"]) == ("CapabilityStatement", "4.0.1")


async def test_the_platform_is_found_out(ehr, base_url):
    """`auto` asks the server what it is."""
    await read(ehr, f"Patient/{unique()}")
    assert ehr.profile.name == ("hapi" if "HAPI" in (await ehr.capabilities()).body.decode() else "generic")
