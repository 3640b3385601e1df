"""Promise 1, attacked by a generator: remove B from the EHR, and A's answer must not change in body, status, headers or total.

Two worlds behind two gateways: one where B exists and one where she does not. Whatever is asked with A's token is asked in both. The second half
is an EHR that lies. Both halves run once more with narrowing, then with screening, taken out: each must then turn them red.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.proxy import narrow, screen
from gateway.sandbox.double import Double, Fault, served
from tests.support.two_people import LAB, Two
from tests.support.whole_in_process import Whole, whole

EXAMPLES = int(os.environ.get("GATEWAY_TEST_EXAMPLES", "250"))
TWO = Two("x1")
SCOPES = (
    "patient/*.cruds",
    "patient/*.rs user/*.cruds",
    "patient/Observation.rs?category=http://terminology.hl7.org/CodeSystem/observation-category|laboratory patient/Provenance.rs patient/Patient.r",
)


@dataclass
class World:
    """One EHR behind one gateway, and A's tokens there."""

    double: Double
    gateway: Whole
    tokens: dict[str, str]

    async def ask(self, scope: str, request: Request) -> tuple[int, bytes, dict[str, str]]:
        """The answer, without what differs by chance: request ids, sealed page links, new ids and moments."""
        answer = await self.gateway.fhir(self.tokens[scope], request.method, request.path, request.content, **request.headers)
        return comparable(answer)


@dataclass(frozen=True)
class Request:
    method: str
    path: str
    content: bytes | None = None
    form: bool = False

    @property
    def headers(self) -> dict[str, str]:
        return {"Content_Type": "application/x-www-form-urlencoded"} if self.form else {}


def comparable(answer: httpx.Response) -> tuple[int, bytes, dict[str, str]]:
    chance = re.compile(rb"_page=[\w-]+|\b[0-9a-f]{32}\b|\bd[0-9a-f]{12}\b|\d{4}-\d\d-\d\dT[\d:.]+(?:Z|\+00:00)")
    kept = {"etag", "last-modified", "location", "content-location", "www-authenticate", "cache-control", "content-type"}
    headers = {name: chance.sub(b"~", value.encode()).decode() for name, value in answer.headers.items() if name in kept}
    return answer.status_code, chance.sub(b"~", answer.content), headers


@pytest.fixture(scope="module")
async def worlds(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[tuple[World, World]]:
    async with AsyncExitStack() as stack:
        yield (
            await _world(stack, tmp_path_factory.mktemp("both"), with_b=True),
            await _world(stack, tmp_path_factory.mktemp("alone"), with_b=False),
        )


async def _world(stack: AsyncExitStack, folder, *, with_b: bool) -> World:
    double = Double(clock=lambda: datetime(2026, 1, 1, tzinfo=UTC))
    double.seed(*TWO.resources(with_b=with_b))
    base = stack.enter_context(served(double))
    # Without a cache: whatever is asked, the EHR answers, so that nothing depends on what was asked before.
    gateway = await stack.enter_async_context(whole(base, folder, ehr="ehr", cache_bytes=0))
    tokens = {scope: await gateway.token(scope, patient=TWO.a) for scope in SCOPES}
    await gateway.fhir(tokens[SCOPES[0]], "GET", f"Patient/{TWO.a}")  # from here on the platform is known: no fault is spent on asking for it
    return World(double, gateway, tokens)


# What may be asked ---------------------------------------------------------------------------------------------------------------

TYPES = ["Patient", "Observation", "Condition", "MedicationRequest", "Communication", "Provenance", "Practitioner", "Medication", "Organization"]
NAMES = ("lab", "vital", "cond", "mr", "com", "prov")
IDS = [TWO.a, TWO.b, "absent", TWO.id("prac"), TWO.id("med")] + [TWO.id(f"{name}-{who}") for name in NAMES for who in "ab"]
references = st.one_of(
    st.sampled_from(IDS),
    st.builds(
        "{}/{}".format,
        st.sampled_from([*TYPES, "Group", "patient", "https://gateway.test/fhir/ehr/Patient", "http://x.test/Patient"]),
        st.sampled_from(IDS),
    ),
)
words = st.sampled_from(
    [
        "2345-7",
        "http://loinc.org|2345-7",
        "final",
        "laboratory",
        TWO.canary,
        "Ann",
        "1980-02-02",
        "ge1900",
        f"urn:mrn|mrn-{TWO.b}",
        "true",
        "",
        "|",
        "\\",
        "*",
    ]
)
values = st.lists(st.one_of(references, words), min_size=1, max_size=3).map(",".join)
plain = [
    "patient",
    "subject",
    "_id",
    "performer",
    "code",
    "category",
    "status",
    "identifier",
    "name",
    "birthdate",
    "target",
    "recipient",
    "sender",
    "part-of",
    "link",
]
results = [
    "_count",
    "_sort",
    "_total",
    "_include",
    "_revinclude",
    "_summary",
    "_elements",
    "_lastUpdated",
    "_tag",
    "_has:Observation:patient:code",
    "_filter",
    "_page",
]
keys = st.one_of(
    st.sampled_from(plain),
    st.builds(
        "{}:{}".format,
        st.sampled_from(plain),
        st.sampled_from(["Patient", "not", "missing", "identifier", "exact", "contains", "text", "in", "iterate"]),
    ),
    st.builds("{}.{}".format, st.sampled_from(["patient", "subject", "subject:Patient"]), st.sampled_from(["name", "_id", "identifier"])),
    st.sampled_from(results),
)
joins = st.sampled_from(["Provenance:target", "MedicationRequest:medication", "Observation:subject", "*", "Group:member", "Communication:sender"])
numbers = st.sampled_from(["0", "1", "2", "1000", "-1", "accurate", "count", "-date", "code", "subject.name"])
pairs = st.tuples(keys, st.one_of(values, joins, numbers))


def encoded(key: str, value: str, style: int) -> str:
    """A pair as a URL has it: plain, escaped, escaped twice, with an odd ampersand, or in odd case."""
    plainly = (
        value.replace("%", "%25")
        .replace("&", "%26")
        .replace("#", "%23")
        .replace("+", "%2B")
        .replace("\\", "%5C")
        .replace("|", "%7C")
        .replace(" ", "%20")
    )
    hexed = "".join(f"%{byte:02X}" for byte in value.encode())
    return (
        f"{key}={plainly}",
        f"{key}={hexed}",
        f"{key}={hexed.replace('%', '%25')}",
        f"{key}={plainly}%26patient={TWO.b}",
        f"{key.upper()}={plainly}",
    )[style]


queries = st.lists(st.tuples(pairs, st.sampled_from([0, 0, 0, 1, 2, 3, 4])), max_size=4).map(
    lambda found: "&".join(encoded(*pair, style) for pair, style in found)
)
searches = st.builds(
    lambda type_, query, post: (
        Request("POST", f"{type_}/_search", query.encode(), form=True) if post else Request("GET", f"{type_}?{query}" if query else type_)
    ),
    st.sampled_from([*TYPES, "Group", "List", "Appointment", ""]),
    queries,
    st.booleans(),
)
reads = st.builds(
    lambda method, type_, id_, tail: Request(method, f"{type_}/{id_}{tail}"),
    st.sampled_from(["GET", "GET", "HEAD", "DELETE", "PATCH"]),
    st.sampled_from(TYPES),
    st.sampled_from(IDS),
    st.sampled_from(["", "", "/_history/1", "/_history/2", "/_history", "/$everything", "/Observation", "/"]),
)


@st.composite
def writes(draw: st.DrawFn) -> Request:
    """Creates and updates that name all sorts of people and things."""
    resource: dict[str, Any] = {
        "resourceType": draw(st.sampled_from(["Communication", "Observation", "Task", "MedicationRequest", "Condition", "Patient"]))
    }
    resource["status"] = draw(st.sampled_from(["in-progress", "final", "requested", "draft", "active", "entered-in-error"]))
    for member in draw(st.lists(st.sampled_from(["subject", "sender", "for", "requester", "encounter"]), unique=True)):
        resource[member] = {"reference": draw(references)}
    for member in draw(st.lists(st.sampled_from(["performer", "recipient", "about", "basedOn", "partOf"]), unique=True)):
        resource[member] = [{"reference": draw(references)}]
    if draw(st.booleans()):
        return Request("POST", resource["resourceType"], json.dumps(resource).encode())
    id_ = draw(st.sampled_from(IDS))
    return Request("PUT", f"{resource['resourceType']}/{id_}", json.dumps(resource | {"id": id_}).encode())


requests = st.one_of(searches, searches, reads, writes())
GENERATED = settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True, database=None)


async def differs(worlds: tuple[World, World], scope: str, request: Request) -> str:
    """How the two worlds' answers differ, or what of B's there is in the first; "" when A learns nothing."""
    both, alone = worlds
    first, second = await both.ask(scope, request), await alone.ask(scope, request)
    if TWO.canary.encode() in first[1].replace((request.content or b"") + request.path.encode(), b"") and TWO.canary not in request.path:
        return f"{request}: B's data in {first}"
    return "" if first == second else f"{request}: {first} where B exists, {second} where she does not"


@GENERATED
@given(scope=st.sampled_from(SCOPES), request=requests)
async def test_a_learns_nothing_of_b(worlds: tuple[World, World], scope: str, request: Request):
    """Any request: the same answer whether or not B exists; and B's record is untouched."""
    assert not await differs(worlds, scope, request)
    for resource in TWO.resources():
        if resource["id"].endswith(f"-b-{TWO.tag}") or resource["id"] == TWO.b:
            assert worlds[0].double.versions(f"{resource['resourceType']}/{resource['id']}") == 1


# An EHR that lies ------------------------------------------------------------------------------------------------------------------

B_REFS = [f"Patient/{TWO.b}"] + [f"{t}/{TWO.id(n + '-b')}" for t, n in (("Observation", "lab"), ("Condition", "cond"), ("Provenance", "prov"))]
HONEST = [
    f"Observation/{TWO.id('lab-a')}",
    f"Patient/{TWO.a}",
    f"Provenance/{TWO.id('prov-a')}",
    f"Practitioner/{TWO.id('prac')}",
    "Observation",
    "Condition?_count=1",
    "MedicationRequest?_include=MedicationRequest:medication",
    "Observation?_revinclude=Provenance:target",
]


async def leaks(world: World) -> list[str]:
    """What of B's is in the answers to ordinary questions, and answers that are no answers."""
    found: list[str] = []
    for path in HONEST:
        status, body, _ = await world.ask(SCOPES[0], Request("GET", path))
        if TWO.canary.encode() in body or b"http://evil.test" in body or status not in (200, 404, 502):
            found.append(f"{path}: {status} {body[:200]!r}")
        if status == 200 and b"searchset" in body and json.loads(body).get("total", 0) > 2:
            found.append(f"{path}: counts what may not be seen")
    return found


LIES: dict[str, dict[str, Any]] = {
    "B among the matches": {"extra": B_REFS},
    "B among the includes": {"extra_includes": B_REFS},
    "everything of the type": {"ignore_filters": True},
    "a total of everybody": {"extra": B_REFS, "total": 4711},
    "a page elsewhere": {"next_link": "http://evil.test/fhir/Observation?page=2"},
    "a page on a look-alike host": {"next_link": "{base}-evil/Observation?page=2"},
    "B's bytes for A's id": {"swap": {path: ref for path in HONEST[:4] for ref in B_REFS[:2]}},
}


@pytest.mark.parametrize("lie", LIES)
async def test_a_lying_ehr_shows_nothing_of_b(worlds: tuple[World, World], lie: str):
    """ATK-F21, FAULT-U26: what does not pass is not there, and a foreign page link is a 502."""
    world = worlds[0]
    base = next(iter(world.gateway.gateway.ehrs.values())).base_url
    told = {k: v.replace("{base}", base) if isinstance(v, str) else v for k, v in LIES[lie].items()}
    world.double.server.lies = replace(world.double.lies, **told)
    try:
        assert await leaks(world) == []
    finally:
        world.double.heal()


@pytest.mark.parametrize("location", ["http://evil.test/fhir/Patient/1", "/fhir/Patient/pb-x1"])
async def test_redirects_are_not_followed(worlds: tuple[World, World], location: str):
    """ATK-F21, FAULT-U19: a redirect is a 502, wherever it points; no credential goes elsewhere."""
    world = worlds[0]
    world.double.fail(Fault(status=302, headers={"Location": location}))
    asked = len(world.double.requests)
    status, body, _ = await world.ask(SCOPES[0], Request("GET", f"Patient/{TWO.a}"))
    world.double.heal()
    assert status == 502
    assert b"evil" not in body
    assert len(world.double.requests) == asked + 1


BAD_BODIES = [
    b"",
    b"{",
    b"[]",
    b'"x"',
    b"<html>Sign in</html>",
    b'{"resourceType":"Bundle"}',
    b'{"resourceType":"Patient"}',
    b"\xff\xfe",
    b"{" * 5000,
]


@pytest.mark.parametrize("body", BAD_BODIES, ids=lambda body: body[:12].decode("latin-1"))
@pytest.mark.parametrize("path", [f"Patient/{TWO.a}", "Observation"])
async def test_what_is_no_fhir_is_a_502(worlds: tuple[World, World], body: bytes, path: str):
    """FAULT-U13 to U15: never cached, never forwarded, always an OperationOutcome."""
    worlds[0].double.fail(Fault(status=200, body=body, headers={"Content-Type": "application/fhir+json"}))
    status, answer, _ = await worlds[0].ask(SCOPES[0], Request("GET", path))
    worlds[0].double.heal()
    assert status in (502, 404)
    assert json.loads(answer)["resourceType"] == "OperationOutcome"
    assert (await worlds[0].ask(SCOPES[0], Request("GET", path)))[0] == 200


@pytest.mark.parametrize("version", ["1\u20ac", "1\r\nSet-Cookie: gw_session=x", "\x7f", "\u00e9"])
async def test_a_version_that_could_be_no_header_becomes_none(worlds: tuple[World, World], version: str):
    """G3: what an EHR writes as versionId or ETag never breaks the answer, nor adds a header to it."""
    mine = {"resourceType": "Observation", "id": TWO.id("lab-a"), "meta": {"versionId": version}, "subject": {"reference": f"Patient/{TWO.a}"}}
    found = {"resourceType": "Bundle", "type": "searchset", "entry": [{"resource": mine, "search": {"mode": "match"}}]}
    worlds[0].double.fail(Fault(status=200, body=json.dumps(found).encode(), headers={"Content-Type": "application/fhir+json"}))
    answer = await worlds[0].gateway.fhir(worlds[0].tokens[SCOPES[0]], "GET", f"Observation/{TWO.id('lab-a')}")
    worlds[0].double.heal()
    assert answer.status_code == 200
    assert not {"etag", "set-cookie"} & answer.headers.keys()


@pytest.mark.parametrize("kind", ["transaction", "batch"])
@pytest.mark.parametrize("method", ["POST", "PUT"])
@pytest.mark.parametrize("who", ["a", "b"])
async def test_bundles_are_for_systems_that_push(worlds: tuple[World, World], kind: str, method: str, who: str):
    """ATK-F9: nobody judges the entries of people's Bundles by patient, row and reference; so none goes out, and the refusal is on record."""
    world = worlds[0]
    body = {"resourceType": "Observation", "id": TWO.id(f"lab-{who}"), "status": "final", "code": {"text": "x"}}
    entry = {"resource": body | {"subject": {"reference": f"Patient/{TWO.a if who == 'a' else TWO.b}"}}}
    url = "Observation" if method == "POST" else f"Observation/{body['id']}"
    bundle = {"resourceType": "Bundle", "type": kind, "entry": [entry | {"request": {"method": method, "url": url}}]}
    staff = await world.gateway.token("user/*.cruds", fhir_user=f"Practitioner/{TWO.id('prac')}", listed=(TWO.a,))
    asked = len(world.double.requests)
    for token in (world.tokens[SCOPES[0]], world.tokens[SCOPES[1]], staff):
        answer = await world.gateway.fhir(token, "POST", "", bundle)
        assert answer.status_code == 501
        assert answer.json()["resourceType"] == "OperationOutcome"
        assert TWO.canary not in answer.text
    assert len(world.double.requests) == asked


async def test_a_write_is_on_the_record_of_whom_it_was_about(worlds: tuple[World, World]):
    """Promises 1 and 5: staff who reach A and B write into B's record, and A's record of accesses has nothing of it; B's does."""
    gateway = worlds[0].gateway
    staff = await gateway.token("user/*.cruds", fhir_user=f"Practitioner/{TWO.id('prac')}", listed=(TWO.a, TWO.b))
    body = {"resourceType": "Observation", "status": "final", "code": {"text": "x"}, "subject": {"reference": f"Patient/{TWO.b}"}}
    made = await gateway.fhir(staff, "POST", "Observation", body)
    target = made.headers["location"].removeprefix(f"{gateway.base}/").partition("/_history")[0]
    seen = {}
    for who in (TWO.a, TWO.b):
        token = await gateway.token("patient/AuditEvent.rs", patient=who)
        seen[who] = (await gateway.fhir(token, "GET", f"AuditEvent?patient={who}&_count=200")).text
    worlds[0].double.store.delete("Observation", target.partition("/")[2])
    assert target not in seen[TWO.a]
    assert target in seen[TWO.b]


async def test_a_granular_system_overwrites_only_what_is_within_its_condition(worlds: tuple[World, World]):
    """ATK-F16: not the new version alone decides; what stands there is judged as well, and nothing is sent."""
    world = worlds[0]
    lab = await world.gateway.token(
        "system/Observation.cu?category=http://terminology.hl7.org/CodeSystem/observation-category|laboratory", push={"mode": "deliver", "ehr": "ehr"}
    )
    mine = {"resourceType": "Observation", "status": "final", "category": [LAB], "code": {"text": "x"}, "subject": {"reference": f"Patient/{TWO.a}"}}
    asked = len(world.double.requests)
    answer = await world.gateway.fhir(lab, "PUT", f"Observation/{TWO.id('vital-a')}", mine | {"id": TWO.id("vital-a")})
    assert answer.status_code == 403
    assert "PUT" not in {request.method for request in world.double.requests[asked:]}


# The tests above can fail -----------------------------------------------------------------------------------------------------------


def _not_narrowed(interaction, reaches, tables):
    return narrow.Narrowed(interaction, exact=True, patients=frozenset({TWO.a}))


def _not_screened(resource, reaches, tables, relative):
    return screen.Keep(frozenset({TWO.a}))


PROBES = [
    Request("GET", path)
    for path in ("Observation?_total=accurate", f"Observation/{TWO.id('lab-b')}", "Patient?_count=0&_total=accurate", "Observation?_count=2")
]


async def test_without_narrowing_the_suite_is_red(worlds: tuple[World, World], monkeypatch: pytest.MonkeyPatch):
    """Screening alone keeps B's bytes away, and still counts, pages and empty places tell that she exists."""
    monkeypatch.setattr(narrow, "narrow", _not_narrowed)
    assert [request for request in PROBES if await differs(worlds, SCOPES[0], request)]


async def test_without_screening_the_suite_is_red(worlds: tuple[World, World], monkeypatch: pytest.MonkeyPatch):
    """Narrowing alone believes whatever the EHR says."""
    monkeypatch.setattr(screen, "judge", _not_screened)
    worlds[0].double.server.lies = replace(worlds[0].double.lies, extra=B_REFS)
    try:
        assert await leaks(worlds[0])
    finally:
        worlds[0].double.heal()
