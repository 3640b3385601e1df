"""The FHIR facade over a real HAPI: what each attack of ATK-F gets, and what an ordinary app gets."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass

import httpx
import pytest

from tests.support.two_people import Two, load
from tests.support.whole_in_process import Whole, whole

pytestmark = pytest.mark.hapi
ALL = "patient/*.cruds openid fhirUser"


@dataclass
class Scene:
    """A gateway, two people and A's token."""

    gateway: Whole
    two: Two
    token: str

    async def get(self, path: str, **headers: str) -> httpx.Response:
        return await self.gateway.fhir(self.token, "GET", path, **headers)

    async def send(self, method: str, path: str, body, **headers: str) -> httpx.Response:
        return await self.gateway.fhir(self.token, method, path, body, **headers)


@pytest.fixture(scope="module")
def two(hapi_url: str) -> Two:
    people = Two()
    load(hapi_url, people.resources())
    return people


@pytest.fixture(scope="module")
async def gateway(hapi_url: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Whole]:
    async with whole(hapi_url, tmp_path_factory.mktemp("gateway")) as running:
        yield running


@pytest.fixture
async def scene(gateway: Whole, two: Two) -> Scene:
    return Scene(gateway, two, await gateway.token(ALL, patient=two.a))


def outcome(response: httpx.Response) -> dict:
    """The OperationOutcome of a refusal, checked for shape."""
    body = response.json()
    assert response.headers["content-type"].startswith("application/fhir+json")
    assert body["resourceType"] == "OperationOutcome"
    assert body["issue"][0]["severity"] in ("error", "fatal")
    assert body["issue"][0]["details"]["text"]
    return body


def ids(response: httpx.Response) -> set[str]:
    assert response.status_code == 200, response.text
    return {entry["resource"]["id"] for entry in response.json().get("entry", [])}


def paths(value: str, two: Two) -> str:
    return value.format(a=two.a, b=two.b, t=two.tag, canary=two.canary)


# What an app does --------------------------------------------------------------------------------------------------------------


async def test_a_read_comes_back_as_the_ehr_has_it(scene: Scene, hapi_url: str):
    """Promise 2: the bytes of the EHR, with ETag and Last-Modified; then from the cache, which says so."""
    path = f"Observation/{scene.two.id('lab-a')}"
    async with httpx.AsyncClient() as http:
        direct = await http.get(f"{hapi_url}/{path}", headers={"Accept": "application/fhir+json"})
    first, second = await scene.get(path), await scene.get(path)
    assert first.content == second.content == direct.content
    assert first.headers["etag"] == direct.headers["etag"]
    assert "last-modified" in first.headers
    assert first.headers["cache-control"] == "private, no-cache"
    assert second.headers["cache-status"].startswith("gateway; hit; ttl=")
    assert second.headers["age"].isdecimal()


async def test_searches_page_by_opaque_links(scene: Scene):
    """The self and next links name the gateway; following them gives each resource once, and GET and POST agree."""
    first = await scene.get("Observation?_count=1")
    links = {link["relation"]: link["url"] for link in first.json()["link"]}
    assert links["next"].startswith(f"{scene.gateway.base}/Observation?_page=")
    second = await scene.get(links["next"].removeprefix(scene.gateway.base + "/"))
    assert ids(first) | ids(second) == {scene.two.id("lab-a"), scene.two.id("vital-a")}
    posted = await scene.send("POST", "Observation/_search", b"_count=1", Content_Type="application/x-www-form-urlencoded")
    assert ids(posted) == ids(first)
    assert first.json()["entry"][0]["fullUrl"].startswith(scene.gateway.base + "/Observation/")


async def test_the_self_link_says_what_was_done(scene: Scene):
    """search.html 3.1.1.6: a parameter that was passed over is not in it, and the page is as long as it was made."""
    found = await scene.get("Observation?_totalMethod=count&code=718-7&_count=9999")
    links = {link["relation"]: link["url"] for link in found.json()["link"]}
    assert links["self"] == f"{scene.gateway.base}/Observation?code=718-7&_count=200"


async def test_conditional_reads(scene: Scene):
    """If-None-Match and If-Modified-Since give 304, from the cache too."""
    path = f"Patient/{scene.two.a}"
    first = await scene.get(path)
    for _ in range(2):
        again = await scene.get(path, If_None_Match=first.headers["etag"])
        assert (again.status_code, again.content) == (304, b"")
        assert again.headers["etag"] == first.headers["etag"]
    since = await scene.get(path, If_Modified_Since=first.headers["last-modified"])
    assert since.status_code == 304
    assert (await scene.get(path, If_None_Match='W/"99"')).status_code == 200


async def test_vread_and_head(scene: Scene):
    """A version, and a read without a body."""
    path = f"Observation/{scene.two.id('lab-a')}"
    assert (await scene.get(f"{path}/_history/1")).json()["meta"]["versionId"] == "1"
    head = await scene.send("HEAD", path, None)
    assert (head.status_code, head.content) == (200, b"")
    assert int(head.headers["content-length"]) > 0


async def test_includes_bring_what_the_scopes_allow(scene: Scene):
    """MedicationRequest:medication and Provenance:target; without the type's scope they stay away (ATK-F4, ATK-F28)."""
    both = await scene.get("MedicationRequest?_include=MedicationRequest:medication")
    assert ids(both) == {scene.two.id("mr-a"), scene.two.id("med")}
    origin = await scene.get("Observation?_revinclude=Provenance:target")
    assert scene.two.id("prov-a") in ids(origin)
    narrow = await scene.gateway.token("patient/MedicationRequest.rs patient/Observation.rs", patient=scene.two.a)
    alone = await scene.gateway.fhir(narrow, "GET", "MedicationRequest?_include=MedicationRequest:medication")
    assert ids(alone) == {scene.two.id("mr-a")}
    assert scene.two.id("prov-a") not in ids(await scene.gateway.fhir(narrow, "GET", "Observation?_revinclude=Provenance:target"))


async def test_a_message_is_written_and_seen_at_once(scene: Scene):
    """Promise 4: the search that was cached before the write shows the write after its answer."""
    before = ids(await scene.get("Communication"))
    assert ids(await scene.get("Communication")) == before
    body = {"resourceType": "Communication", "status": "in-progress", "subject": {"reference": f"Patient/{scene.two.a}"}}
    body |= {"sender": {"reference": f"{scene.gateway.base}/Patient/{scene.two.a}"}, "payload": [{"contentString": "hello"}]}
    made = await scene.send("POST", "Communication", body)
    assert made.status_code == 201, made.text
    assert made.headers["location"].startswith(f"{scene.gateway.base}/Communication/")
    assert made.headers["etag"] == 'W/"1"'
    new = made.json()["id"]
    assert ids(await scene.get("Communication")) == before | {new}
    stored = made.json()
    taken_back = stored | {"status": "entered-in-error"}
    changed = await scene.send("PUT", f"Communication/{new}", taken_back, If_Match='W/"1"')
    assert (changed.status_code, changed.headers["etag"]) == (200, 'W/"2"')
    assert (await scene.get(f"Communication/{new}")).json()["status"] == "entered-in-error"
    stale = await scene.send("PUT", f"Communication/{new}", taken_back, If_Match='W/"1"')
    assert stale.status_code == 412
    outcome(stale)


async def test_prefer(scene: Scene):
    """return=minimal gives no body, OperationOutcome gives one of ours, and no r scope means no representation (ATK-F17)."""
    body = {"resourceType": "Task", "status": "requested", "intent": "order"} | {
        key: {"reference": f"Patient/{scene.two.a}"} for key in ("for", "requester")
    }
    assert (await scene.send("POST", "Task", body, Prefer="return=minimal")).content == b""
    assert (await scene.send("POST", "Task", body, Prefer="return=OperationOutcome")).json()["resourceType"] == "OperationOutcome"
    only_c = await scene.gateway.token("patient/Task.c", patient=scene.two.a)
    made = await scene.gateway.fhir(only_c, "POST", "Task", body)
    assert (made.status_code, made.content) == (201, b"")


async def test_metadata_is_ours(scene: Scene, hapi_url: str):
    """/metadata without a token: SMART security block, oauth-uris, search parameters, and nothing of the EHR."""
    answer = await scene.gateway.fhir("", "GET", "metadata", Origin="https://anywhere.test")
    assert answer.status_code == 200
    assert answer.headers["access-control-allow-origin"] == "*"
    statement = answer.json()
    security = statement["rest"][0]["security"]
    uris = {one["url"]: one["valueUri"] for one in security["extension"][0]["extension"]}
    assert uris["token"] == "https://gateway.test/auth/hapi/token"
    observation = next(one for one in statement["rest"][0]["resource"] if one["type"] == "Observation")
    assert {"patient", "category", "code", "date"} <= {one["name"] for one in observation["searchParam"]}
    assert {one["code"] for one in observation["interaction"]} == {"read", "vread", "search-type", "create", "update", "patch", "delete"}
    assert b"HAPI" not in answer.content
    assert hapi_url.encode() not in answer.content


async def test_discovery(scene: Scene):
    """Each EHR has its own documents, whatever Accept says (HL7@374)."""
    answer = await scene.gateway.fhir("", "GET", ".well-known/smart-configuration", Accept="text/html", Origin="https://x.test")
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["access-control-allow-origin"] == "*"
    assert answer.json()["token_endpoint"] == "https://gateway.test/auth/hapi/token"
    assert (await scene.gateway.fhir("", "GET", ".well-known/openid-configuration")).json()["issuer"] == scene.gateway.base


async def test_granular_scopes_see_exactly_their_part(scene: Scene):
    """ATK-F16: search, other category, _id, read and writes of a token with laboratory only."""
    lab = "http://terminology.hl7.org/CodeSystem/observation-category|laboratory"
    token = await scene.gateway.token(f"patient/Observation.rs?category={lab}", patient=scene.two.a)
    mine, other = scene.two.id("lab-a"), scene.two.id("vital-a")

    async def get(path: str) -> httpx.Response:
        return await scene.gateway.fhir(token, "GET", path)

    assert ids(await get("Observation")) == {mine}
    assert ids(await get("Observation?category=vital-signs")) == set()
    assert ids(await get(f"Observation?_id={other},{mine}")) == {mine}
    assert ids(await get("Observation?category:not=laboratory")) == set()
    assert (await get(f"Observation/{mine}")).status_code == 200
    assert (await get(f"Observation/{other}")).status_code == 404


# What an attacker gets -----------------------------------------------------------------------------------------------------------

SAME_404 = ["Observation/lab-b-{t}", "Observation/absent-{t}", "Patient/{b}", "Patient/absent", "Condition/cond-b-{t}", "Provenance/prov-b-{t}"]


@pytest.mark.parametrize("path", SAME_404)
async def test_foreign_and_absent_ids_are_the_same(scene: Scene, path: str):
    """ATK-F1: read, vread and HEAD of B's, and of nothing, answer alike in body and headers."""
    absent = await scene.get("Observation/nothing-here")
    for method in ("GET", "HEAD"):
        answer = await scene.send(method, paths(path, scene.two), None, If_None_Match='W/"1"')
        assert answer.status_code == 404
        assert _comparable(answer) == _comparable(absent) or method == "HEAD"
    version = await scene.get(paths(path, scene.two) + "/_history/1")
    assert _comparable(version) == _comparable(absent)


def _comparable(answer: httpx.Response) -> tuple:
    body = answer.content.replace(answer.headers["x-request-id"].encode(), b"") if answer.content else b""
    return answer.status_code, body, {k: v for k, v in answer.headers.items() if k != "x-request-id"}


SEARCHES = [
    "Observation?patient={b}",
    "Observation?subject=Patient/{b}",
    "Observation?patient={a},{b}",
    "Observation?patient={a}&patient={b}",
    "Observation?patient=https://gateway.test/fhir/hapi/Patient/{b}",
    "Observation?patient=http://elsewhere.test/Patient/{b}",
    "Observation?subject:Patient={b}",
    "Observation?patient:Patient={b}",
    "Observation?subject:identifier=urn:mrn|mrn-{b}",
    "Observation?patient:missing=true",
    "Observation?code:not=x",
    "Observation?%70atient={b}",
    "Observation?patient[]={b}",
    "Observation?PATIENT={b}",
    "Observation?_id=lab-b-{t}",
    "Observation?_id=lab-a-{t},lab-b-{t}",
    "Observation?_id=lab-b-{t}&_id:not=x",
    "Observation?_summary=count",
    "Observation?_total=accurate",
    "Observation?_count=0",
    "Observation?_elements=note",
    "Observation?performer=Patient/{b}",
    "Patient?identifier=urn:mrn|mrn-{b}",
    "Patient?_id={b}",
    "Patient?_id={a}&_id:not={a}",
    "Patient?name={canary}",
    "Patient?birthdate=1980-02-02",
    "Patient?_has:Observation:patient:code=2345-7",
    "Patient?link=Patient/{b}",
    "Observation?patient.name={canary}",
    "Observation?subject:Patient.family={canary}",
    "Observation?_include=Observation:subject",
    "Observation?_include=*",
    "Observation?_include:iterate=Observation:subject",
    "Observation?_revinclude=*",
    "Observation?_revinclude:iterate=Provenance:target",
    "Provenance?target=Observation/lab-b-{t}",
    "Provenance?patient={b}",
    "Practitioner?_revinclude=Provenance:target",
    "Medication?_revinclude=MedicationRequest:medication",
    "Observation?_filter=subject%20eq%20Patient/{b}",
    "Observation?_query=x",
    "Observation?_list=x",
    "Observation?_content={canary}",
    "Observation?_text={canary}",
    "Observation?patient={a}%26patient={b}",
    "Observation?patient={a}%2C{b}",
    "Observation?patient=%257B{b}",
    "Observation?_sort=subject.name",
    "?_type=Patient",
    "_search?_type=Patient",
    "Patient/{b}/Observation",
    "Patient/{b}/*",
    "Patient/{b}/$everything",
    "Patient/$everything",
    "Patient/$match",
    "Patient/{b}/_history",
    "Patient/_history",
    "_history",
    "$export",
    "Observation/$lastn?patient={b}",
    "$graphql?query=x",
    "Patient/{b}/$graphql",
    "Group?member={a}",
    "List?subject={a}",
    "Person?patient={a}",
    "AuditEvent?patient={b}",
    "Patient?x=/metadata",
    "Observation?_page=garbage",
]


@pytest.mark.parametrize("path", SEARCHES)
async def test_no_search_shows_b(scene: Scene, path: str):
    """ATK-F2 to F8, F24 to F26, F28: 4xx that says so, or 200 without any of B's data, by GET and by POST; and totals count only A's."""
    query = paths(path, scene.two)
    for answer in (await scene.get(query), await _posted(scene, query)):
        assert scene.two.canary.encode() not in answer.content.replace(query.encode(), b"")
        assert f"mrn-{scene.two.b}".encode() not in answer.content.replace(query.encode(), b"")
        if answer.status_code == 200:
            bundle = answer.json()
            assert bundle.get("total", 0) <= 3 or path.startswith(("Practitioner", "Medication"))  # shared types are everyone's
            for entry in bundle.get("entry", []):
                assert not entry["resource"]["id"].endswith(f"-b-{scene.two.tag}")
                assert entry["resource"]["id"] != scene.two.b
        else:
            assert 400 <= answer.status_code < 502, answer.text
            assert answer.status_code != 500
            outcome(answer)


async def _posted(scene: Scene, query: str) -> httpx.Response:
    path, _, form = query.partition("?")
    content = form.encode()
    return await scene.send("POST", f"{path}/_search" if path else "_search", content, Content_Type="application/x-www-form-urlencoded")


ODD_PATHS = [
    "Patient/{a}/../{b}",
    "Patient/{a}/%2e%2e/{b}",
    "Patient%2F{b}",
    "Patient//{b}",
    "Patient/{b};x=1",
    "Patient/{b}%00",
    "Patient/..;/{b}",
    "Patient\\{b}",
    "%50atient/{b}",
    "patient/{b}",
    "Patient/{b}/",
    "../hapi/Patient/{b}",
]


@pytest.mark.parametrize("path", ODD_PATHS)
async def test_odd_paths_never_reach_the_ehr(scene: Scene, path: str):
    """ATK-F14: 400 or 404, rebuilt from parsed parts, never forwarded."""
    raw = paths(path, scene.two)
    request = scene.gateway.http.build_request("GET", scene.gateway.base + "/x", headers={"Authorization": f"Bearer {scene.token}"})
    request.url = request.url.copy_with(raw_path=f"/fhir/hapi/{raw}".encode())
    answer = await scene.gateway.http.send(request)
    assert answer.status_code in (400, 404)
    assert scene.two.canary.encode() not in answer.content


def communication(two: Two, **members) -> dict:
    mine = {"reference": f"Patient/{two.a}"}
    return {"resourceType": "Communication", "status": "in-progress", "subject": mine, "sender": mine, "payload": [{"contentString": "x"}]} | members


WRITES = [
    ("POST", "Communication", {"subject": {"reference": "Patient/{b}"}}),
    ("POST", "Communication", {"subject": {"reference": "http://elsewhere.test/Patient/{a}"}}),
    ("POST", "Communication", {"subject": {"reference": "Patient/{a}/../{b}"}}),
    ("POST", "Communication", {"subject": {"reference": "Patient/{b}/_history/1"}}),
    ("POST", "Communication", {"subject": {"reference": "Patient?identifier=urn:mrn|mrn-{b}"}}),
    ("POST", "Communication", {"subject": {"identifier": {"system": "urn:mrn", "value": "mrn-{b}"}}}),
    ("POST", "Communication", {"subject": {"reference": "#p"}, "contained": [{"resourceType": "Patient", "id": "p"}]}),
    ("POST", "Communication", {"subject": {"reference": "Group/x"}}),
    ("POST", "Communication", {"subject": [{"reference": "Patient/{a}"}, {"reference": "Patient/{b}"}]}),
    ("POST", "Communication", {"sender": {"reference": "Patient/{b}"}}),
    ("POST", "Communication", {"recipient": [{"reference": "Patient/{b}"}]}),
    ("POST", "Communication", {"about": [{"reference": "Observation/lab-b-{t}"}]}),
    ("POST", "Communication", {"extension": [{"url": "x:y", "valueReference": {"reference": "Patient/{b}"}}]}),
    ("POST", "Communication", {"meta": {"security": [{"system": "urn:x", "code": "R"}]}}),
    ("POST", "Observation", {"resourceType": "Patient"}),
    (
        "PUT",
        "Observation/lab-b-{t}",
        {"resourceType": "Observation", "id": "lab-b-{t}", "code": {"text": "x"}, "performer": [{"reference": "Patient/{a}"}]},
    ),
    ("PUT", "Communication/com-b-{t}", {"id": "com-b-{t}"}),
    ("PUT", "Communication/absent-{t}", {"id": "absent-{t}"}),
    ("PUT", "Communication/com-a-{t}", {"id": "com-b-{t}"}),
    ("PUT", "Communication/com-a-{t}", {"id": "com-a-{t}", "subject": {"reference": "Patient/{b}"}}),
    ("PUT", "Patient/{a}", {"resourceType": "Patient", "id": "{a}", "link": [{"other": {"reference": "Patient/{b}"}, "type": "seealso"}]}),
    ("PUT", "Communication?identifier=x", {}),
    ("PATCH", "Communication/com-b-{t}", {}),
    ("DELETE", "Communication/com-b-{t}", None),
    ("DELETE", "Communication?subject=Patient/{b}", None),
    (
        "POST",
        "MedicationRequest",
        {"resourceType": "MedicationRequest", "status": "active", "intent": "order", "medicationCodeableConcept": {"text": "x"}},
    ),
    ("POST", "Practitioner", {"resourceType": "Practitioner"}),
    ("POST", "", {"resourceType": "Bundle", "type": "batch", "entry": [{"request": {"method": "GET", "url": "Patient/{b}"}}]}),
    ("POST", "Patient/$merge", {}),
    ("POST", "Observation/_search", {"resourceType": "Observation"}),
]


@pytest.mark.parametrize(("method", "path", "change"), WRITES, ids=lambda v: v if isinstance(v, str) else "")
async def test_no_write_leaves_the_compartment(scene: Scene, hapi_url: str, method: str, path: str, change):
    """ATK-F9, F10, F12, F25, F27: refused with an OperationOutcome, and B's record is as it was."""
    before = _b(hapi_url, scene.two)
    body = None if change is None else json.loads(paths_in(json.dumps(communication(scene.two, **change)), scene.two))
    answer = await scene.send(method, paths(path, scene.two), body)
    assert 400 <= answer.status_code < 502, answer.text
    outcome(answer)
    assert scene.two.canary.encode() not in answer.content
    assert _b(hapi_url, scene.two) == before


def paths_in(text: str, two: Two) -> str:
    for name, value in (("a", two.a), ("b", two.b), ("t", two.tag)):
        text = text.replace(f"{{{name}}}", value)
    return text


def _b(hapi_url: str, two: Two) -> dict[str, str]:
    names = ("Patient", two.b), ("Observation", two.id("lab-b")), ("Communication", two.id("com-b"))
    return {id_: httpx.get(f"{hapi_url}/{type_}/{id_}").json()["meta"]["versionId"] for type_, id_ in names}


async def test_a_joint_appointment_is_cancelled_by_one(scene: Scene, hapi_url: str):
    """What the stored resource named already may stay: the other participant and the slot; a person added may not (ATK-F25)."""
    t = scene.two.tag
    prac, slot = {"reference": f"Practitioner/{scene.two.id('prac')}"}, {"reference": f"Slot/slot-{t}"}
    people = [{"actor": {"reference": f"Patient/{one}"}, "status": "accepted"} for one in (scene.two.a, scene.two.b)]
    visit = {"resourceType": "Appointment", "id": f"visit-{t}", "status": "booked", "participant": people, "slot": [slot]}
    visit |= {"start": "2030-01-01T09:00:00Z", "end": "2030-01-01T09:30:00Z"}
    schedule = {"resourceType": "Schedule", "id": f"schedule-{t}", "actor": [prac]}
    free = {"resourceType": "Slot", "id": f"slot-{t}", "schedule": {"reference": f"Schedule/schedule-{t}"}, "status": "busy"}
    load(hapi_url, [schedule, free | {"start": visit["start"], "end": visit["end"]}, visit])
    stored = (await scene.get(f"Appointment/visit-{t}")).json()
    guest = stored | {"status": "cancelled", "participant": [*stored["participant"], {"actor": {"reference": "Patient/else"}, "status": "accepted"}]}
    assert (await scene.send("PUT", f"Appointment/visit-{t}", guest)).status_code in (403, 422)
    done = await scene.send("PUT", f"Appointment/visit-{t}", stored | {"status": "cancelled"})
    assert (done.status_code, done.json()["status"]) == (200, "cancelled")


async def test_absent_and_foreign_targets_of_a_write_are_the_same(scene: Scene):
    """ATK-F12: PUT of an absent or foreign id, and a reference to either, answer alike."""
    foreign = await scene.send("PUT", f"Communication/{scene.two.id('com-b')}", communication(scene.two, id=scene.two.id("com-b")))
    absent = await scene.send("PUT", "Communication/nobodys", communication(scene.two, id="nobodys"))
    assert _comparable(foreign) == _comparable(absent)
    about = [{"reference": f"Observation/{scene.two.id('lab-b')}"}], [{"reference": "Observation/nobodys"}]
    answers = [await scene.send("POST", "Communication", communication(scene.two, about=one)) for one in about]
    assert _comparable(answers[0]) == _comparable(answers[1])


async def test_conditional_create_tells_nothing_of_b(scene: Scene):
    """ATK-F10, F26: If-None-Exist is narrowed; a condition that names B answers alike whether or not it matches."""
    hit = await scene.send("POST", "Communication", communication(scene.two), If_None_Exist=f"patient={scene.two.b}")
    miss = await scene.send("POST", "Communication", communication(scene.two), If_None_Exist="patient=nobody")
    assert _comparable(hit) == _comparable(miss)
    assert hit.status_code == 412
    own = communication(scene.two, identifier=[{"system": "urn:key", "value": scene.two.tag}])
    first = await scene.send("POST", "Communication", own, If_None_Exist=f"identifier=urn:key|{scene.two.tag}")
    again = await scene.send("POST", "Communication", own, If_None_Exist=f"identifier=urn:key|{scene.two.tag}")
    assert (first.status_code, again.status_code) == (201, 200)
    assert first.json()["id"] == again.json()["id"]


@pytest.mark.parametrize("override", ["X-HTTP-Method-Override", "X-HTTP-Method", "X-Method-Override"])
async def test_methods_are_not_overridden(scene: Scene, override: str):
    """ATK-F11."""
    answer = await scene.send("POST", "Communication", communication(scene.two), **{override: "DELETE"})
    assert answer.status_code == 400


async def test_page_links_are_bound_to_their_caller(scene: Scene):
    """ATK-F15: another's token, another app's, a tampered link and another type get nothing."""
    first = await scene.get("Observation?_count=1")
    link = next(one["url"] for one in first.json()["link"] if one["relation"] == "next").removeprefix(scene.gateway.base + "/")
    stranger = await scene.gateway.token(ALL, patient=scene.two.b)
    other_app = await scene.gateway.token(ALL, patient=scene.two.a)
    narrower = await scene.gateway.token("patient/Observation.s", patient=scene.two.a)
    for token in (stranger, other_app, narrower):
        assert (await scene.gateway.fhir(token, "GET", link)).status_code == 404
    assert (await scene.get(link[:-3] + "AAA")).status_code in (400, 404)
    assert (await scene.get(link.replace("Observation", "Condition"))).status_code == 404


async def test_the_cache_serves_only_those_who_could_get_it_fresh(scene: Scene):
    """ATK-F15, FAULT-C2: the same URL by another person, by narrower scopes, and after the grant has ended."""
    path = f"Observation/{scene.two.id('lab-a')}"
    assert (await scene.get(path)).status_code == 200
    assert (await scene.get(path)).headers["cache-status"].startswith("gateway; hit; ttl=")
    stranger = await scene.gateway.token(ALL, patient=scene.two.b)
    assert (await scene.gateway.fhir(stranger, "GET", path)).status_code == 404
    vital = "http://terminology.hl7.org/CodeSystem/observation-category|vital-signs"
    narrow = await scene.gateway.token(f"patient/Observation.rs?category={vital}", patient=scene.two.a)
    assert (await scene.gateway.fhir(narrow, "GET", path)).status_code == 404
    assert (await scene.gateway.fhir("", "GET", path)).status_code == 401


BAD_TOKENS = ["", "Bearer", "Bearer ", "Bearer garbage", "Basic YTpi", "Bearer a b", "bearer\tx", "Bearer a, Bearer b"]


@pytest.mark.parametrize("header", BAD_TOKENS)
async def test_bad_tokens(scene: Scene, header: str):
    """ATK-F19, O30: 401, an OperationOutcome and WWW-Authenticate."""
    headers = {"Authorization": header} if header else {}
    answer = await scene.gateway.http.get(f"{scene.gateway.base}/Patient/{scene.two.a}", headers=headers)
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"].startswith("Bearer")
    outcome(answer)


async def test_tokens_in_the_query_are_refused(scene: Scene):
    """ATK-O30: URLs end up in logs."""
    assert (await scene.gateway.fhir("", "GET", f"Patient/{scene.two.a}?access_token={scene.token}")).status_code == 401


async def test_denied_types_and_missing_scopes_are_not_empty_lists(scene: Scene):
    """A6.44: no scope is 403, no data is an empty 200."""
    token = await scene.gateway.token("patient/Patient.rs patient/Immunization.rs", patient=scene.two.a)
    denied = await scene.gateway.fhir(token, "GET", "Observation")
    assert denied.status_code == 403
    assert 'error="insufficient_scope"' in denied.headers["www-authenticate"]
    assert ids(await scene.gateway.fhir(token, "GET", "Immunization")) == set()


async def test_forwarded_headers_change_nothing(scene: Scene):
    """ATK-O31, peers' fault 29: links come from configuration."""
    answer = await scene.get(
        "Observation?_count=1", X_Forwarded_Host="evil.test", X_Forwarded_Proto="http", Host="evil.test", Forwarded="host=evil.test"
    )
    assert b"evil.test" not in answer.content


async def test_cors_is_for_registered_origins(scene: Scene):
    """ATK-O29: never credentials, never `*` on data."""
    known, unknown = "https://app.test", "https://evil.test"
    allowed = await scene.get("Patient", Origin=known)
    assert allowed.headers["access-control-allow-origin"] == known
    assert "access-control-allow-credentials" not in allowed.headers
    for origin in (unknown, "null"):
        assert "access-control-allow-origin" not in (await scene.get("Patient", Origin=origin)).headers
    preflight = await scene.gateway.fhir("", "OPTIONS", "Patient", Origin=known, Access_Control_Request_Method="GET")
    assert preflight.status_code == 204
    assert preflight.headers["access-control-allow-origin"] == known


NOT_OFFERED = [
    ("PATCH", "Patient/{a}"),
    ("DELETE", "Patient/{a}"),
    ("GET", "Patient/{a}/_history"),
    ("POST", ""),
    ("GET", ""),
    ("TRACE", "Patient/{a}"),
    ("GET", "AuditEvent/x"),
]


@pytest.mark.parametrize(("method", "path"), NOT_OFFERED)
async def test_what_is_not_offered_says_so(scene: Scene, method: str, path: str):
    """Default deny, with a sentence."""
    answer = await scene.send(method, paths(path, scene.two), None)
    assert answer.status_code in (400, 403, 404, 405, 415, 501)
    outcome(answer)


async def test_every_access_is_on_record_and_hers_to_read(scene: Scene):
    """Promise 5: allowed and refused requests are AuditEvents for the patient's own token, newest first, and of nobody else."""
    await scene.get("Condition")
    await scene.get(f"Observation/{scene.two.id('lab-b')}")
    log = await scene.get(f"AuditEvent?patient={scene.two.a}&_count=5")
    events = [entry["resource"] for entry in log.json()["entry"]]
    assert [event["outcome"] for event in events[:2]] == ["4", "0"]
    assert events[1]["subtype"][0]["code"] == "search-type"
    assert all({"reference": f"Patient/{scene.two.a}"} == event["entity"][0]["what"] for event in events)
    assert (await scene.get(f"AuditEvent?patient={scene.two.b}")).json().get("entry", []) == []
    theirs = await scene.gateway.token(ALL, patient=scene.two.b)
    assert scene.two.a.encode() not in (await scene.gateway.fhir(theirs, "GET", f"AuditEvent?patient={scene.two.b}")).content


async def test_users_reach_their_list(scene: Scene):
    """user/ scopes reach the launched patient and those listed; a removed one is gone at the next request (ATK-F23)."""
    token = await scene.gateway.token("user/*.rs", fhir_user=f"Practitioner/{scene.two.id('prac')}", listed=(scene.two.a,))
    assert ids(await scene.gateway.fhir(token, "GET", "Condition")) == {scene.two.id("cond-a")}
    assert (await scene.gateway.fhir(token, "GET", f"Patient/{scene.two.b}")).status_code == 404
    nobody = await scene.gateway.token("user/*.rs", fhir_user=f"Practitioner/{scene.two.id('prac')}")
    assert (await scene.gateway.fhir(nobody, "GET", "Condition")).status_code == 403
