"""Published resources go in by push and come back by reads (promise 2): at the recording double byte for byte, at real EHRs number for number.

What an EHR refuses or changes is listed here by file, with its reason, and the list is checked both ways.
"""

from __future__ import annotations

import asyncio
import html
import json
import re
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
import pytest

from gateway import shipped
from gateway.fhir.interaction import Interaction, Kind
from gateway.fhir.references import walk
from gateway.sandbox import embedded
from gateway.sandbox.double import Double, served
from gateway.sandbox.hapi import Options
from gateway.smart.constraint import Allow, Deny
from gateway.smart.policy import AccessRules, decide
from gateway.smart.principal import Principal, PrincipalKind
from gateway.smart.scopes import clinical
from tests.support import corpus, parts
from tests.support.whole_in_process import Whole, whole

pytestmark = pytest.mark.corpus

BOM = b"\xef\xbb\xbf"
DEFINITIONS = [
    "CapabilityStatement",
    "CodeSystem",
    "CompartmentDefinition",
    "ConceptMap",
    "MessageDefinition",
    "NamingSystem",
    "SearchParameter",
    "StructureDefinition",
    "ValueSet",
]
"""Those among the files that change how the EHR works: a wildcard does not write them."""
SYSTEM = " ".join(["system/*.cruds", *(f"system/{name}.cruds" for name in DEFINITIONS)])
DELIVER = {"mode": "deliver", "ehr": "hapi"}
AT_ONCE = 8
"""Pushes under way at one moment; files that name the same resource go one after the other."""


@dataclass(frozen=True)
class File:
    """One published resource. `raw` is without a byte order mark, which RFC 8259 section 8.1 has no place for."""

    path: Path

    @property
    def name(self) -> str:
        return f"{self.path.parent.name}/{self.path.name}"

    @property
    def raw(self) -> bytes:
        return self.path.read_bytes().removeprefix(BOM)

    @property
    def type(self) -> str:
        return json.loads(self.raw)["resourceType"]

    @property
    def id(self) -> str:
        return json.loads(self.raw).get("id", "")


@pytest.fixture(scope="module")
def published() -> list[File]:
    found = [File(path) for path in corpus.examples()]
    assert len(found) > 200
    return found


@dataclass(frozen=True)
class Sender:
    """A system that delivers into the EHR, and reads there."""

    gateway: Whole
    token: str

    async def put(self, file: File) -> httpx.Response:
        """Under its own id; what has none is created."""
        method, path = ("PUT", f"{file.type}/{file.id}") if file.id else ("POST", file.type)
        return await self.gateway.fhir(self.token, method, path, file.path.read_bytes())

    async def get(self, pushed: httpx.Response) -> httpx.Response:
        """What was pushed, as the gateway gives it back."""
        return await self.gateway.fhir(self.token, "GET", self.path(pushed.headers["location"]))

    def path(self, location: str) -> str:
        """`Type/id` of a Location of the gateway."""
        return location.removeprefix(f"{self.gateway.base}/").partition("/_history")[0]

    def words(self, refusal: httpx.Response) -> str:
        """What the EHR itself said, from the sealed event log."""
        request = refusal.json()["issue"][0]["diagnostics"].removeprefix("request ")
        return " ".join(text for kind, text in self.gateway.gateway.state.events.read(request) if kind == "ehr-diagnostics")


@asynccontextmanager
async def sending(url: str, folder: Path, **more: Any) -> AsyncIterator[Sender]:
    """A whole gateway with its worker, and a sender."""
    async with whole(url, folder, push_wait=60.0, **more) as gateway:
        yield Sender(gateway, await gateway.token(SYSTEM, push=DELIVER))


async def each(files: list[File], visit) -> dict[str, Any]:
    """What `visit` gives for each file, by name; None is left out."""
    chains: dict[tuple[str, str], list[File]] = {}
    for file in files:
        chains.setdefault((file.type, file.id or file.name), []).append(file)
    found: dict[str, Any] = {}
    turn = asyncio.Semaphore(AT_ONCE)

    async def one(chain: list[File]) -> None:
        async with turn:
            for file in chain:
                if (result := await visit(file)) is not None:
                    found[file.name] = result

    await asyncio.gather(*(one(chain) for chain in chains.values()))
    return dict(sorted(found.items()))


# Who may have what -------------------------------------------------------------------------------------------------------------------

_NOBODYS = "no element says whose it is"
SYSTEMS_ONLY = {
    "Bundle": "no element of its own says whose data it holds",
    "DeviceMetric": _NOBODYS,
    "Group": "it names several patients",
    "OperationOutcome": "nothing that is stored",
    "Parameters": "nothing that is stored",
    "PaymentNotice": _NOBODYS,
    "Questionnaire": _NOBODYS,
    "Schedule": "a patient as actor of a Schedule is no way to own it",
    "Substance": _NOBODYS,
}


def test_persons_are_offered_all_types_but_these(published: list[File]):
    """What nothing says whose it is, or is several people's, is for systems; every published type may be pushed by one with the scopes for it."""
    tables = shipped.tables()
    person = Principal(PrincipalKind.PATIENT, "hapi", "app", clinical("patient/*.cruds"), patient="a", fhir_user="Patient/a")
    system = Principal(PrincipalKind.SYSTEM, "hapi", "lab", clinical(SYSTEM))
    refused: dict[str, str] = {}
    for type_ in {file.type for file in published}:
        assert isinstance(decide(system, Interaction(Kind.CREATE, type_), tables=tables, rules=AccessRules()), Allow), type_
        decision = decide(person, Interaction(Kind.SEARCH, type_), tables=tables, rules=AccessRules())
        if isinstance(decision, Deny):
            refused[type_] = decision.reason
    assert refused == dict.fromkeys([*SYSTEMS_ONLY, *DEFINITIONS], "type-not-offered")


# The recording double: bytes ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def double() -> Double:
    return Double(stamp=False)


@pytest.fixture(scope="module")
async def at_double(double: Double, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Sender]:
    with served(double) as url:
        async with sending(url, tmp_path_factory.mktemp("double")) as sender:
            yield sender


async def test_every_file_arrives_and_comes_back_byte_for_byte(published: list[File], at_double: Sender, double: Double):
    """Pushed, the EHR has the sender's bytes, but for the id of what had none; read, the reader has the EHR's bytes."""
    arrived: set[str] = set()

    async def visit(file: File) -> str | None:
        pushed = await at_double.put(file)
        if pushed.status_code not in (200, 201):
            return pushed.text
        stored = double.raw(at_double.path(pushed.headers["location"]))
        read = await at_double.get(pushed)
        arrived.add(file.name)
        if _without_new_id(stored, file) != file.raw:
            return "arrived changed"
        return None if read.status_code == 200 and read.content == stored else "came back changed"

    assert await each(published, visit) == {}
    assert arrived == {file.name for file in published}


async def test_transactions_change_ids_and_links_to_the_gateway_alone(published: list[File], at_double: Sender, double: Double):
    """In transactions of creates, their references naming the gateway by its full address: the EHR has each file with a new id, and relative."""
    linked = 0
    for files in _groups(published, 25):
        entries = [_absolute(file.raw, at_double.gateway.base.encode() + b"/") for file in files]
        linked += sum(entry != file.raw for entry, file in zip(entries, files, strict=True))
        answer = await at_double.gateway.fhir(at_double.token, "POST", "", _transaction(files, entries))
        assert answer.status_code == 200, answer.text
        for file, entry in zip(files, answer.json()["entry"], strict=True):
            stored = double.raw(at_double.path(entry["response"]["location"]))
            assert _without_new_id(stored, file) == file.raw.strip(), file.name
    assert linked > 100


def _without_new_id(stored: bytes, file: File) -> bytes:
    """The bytes before the id that the gateway gave was spliced in: put in front of all others, or in the place of the file's own."""
    if file.id:
        return re.sub(rb'"gw[0-9a-f]{30}"', json.dumps(file.id).encode(), stored, count=1)
    return re.sub(rb'"id":"gw[0-9a-f]{30}",', b"", stored, count=1)


def _groups(files: list[File], size: int) -> Iterator[list[File]]:
    for start in range(0, len(files), size):
        yield files[start : start + size]


def _transaction(files: list[File], entries: list[bytes]) -> bytes:
    """Written by hand, so that each entry has the bytes of its file."""
    written = [
        b'{"resource":%b,"request":{"method":"POST","url":"%b"}}' % (raw, file.type.encode()) for file, raw in zip(files, entries, strict=True)
    ]
    return b'{"resourceType":"Bundle","type":"transaction","entry":[%b]}' % b",\n".join(written)


_RELATIVE = re.compile(rb'("reference"\s*:\s*")([A-Za-z]+/[^"]+)')


def _absolute(raw: bytes, base: bytes) -> bytes:
    """The resource with its relative references below `base`."""
    refs = {ref.value for ref in walk(json.loads(raw)) if ref.id and not ref.base}
    return _RELATIVE.sub(lambda match: match[1] + base + match[2] if match[2].decode() in refs else match[0], raw)


# Real EHRs: what they say, number for number -----------------------------------------------------------------------------------------


class Number(str):
    """A JSON number, as it is written."""

    __slots__ = ()


def as_written(raw: bytes) -> Any:
    """JSON with every number as its text."""
    return json.loads(raw.removeprefix(BOM), parse_float=Number, parse_int=Number)


def changes(sent: Any, back: Any, at: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Where two values differ: path, what was sent, what came back (None: nothing)."""
    if isinstance(sent, dict) and isinstance(back, dict):
        for name in {**sent, **back}:
            yield from changes(sent.get(name), back.get(name), f"{at}.{name}".removeprefix("."))
    elif isinstance(sent, list) and isinstance(back, list) and len(sent) == len(back):
        for index, (one, other) in enumerate(zip(sent, back, strict=True)):
            yield from changes(one, other, f"{at}[{index}]")
    elif sent != back or type(sent) is not type(back):
        yield at, sent, back


async def round_trip(sender: Sender, files: list[File], excused) -> tuple[dict[str, tuple[int, str]], dict[str, list[str]]]:
    """Refusals (status, and the EHR's words) and changes that are not `excused`, by file."""

    async def visit(file: File) -> tuple[int, str] | list[str] | None:
        pushed = await sender.put(file)
        if pushed.status_code not in (200, 201):
            return pushed.status_code, sender.words(pushed) or pushed.text
        read = await sender.get(pushed)
        assert read.status_code == 200, (file.name, read.text)
        found = changes(as_written(file.raw), as_written(read.content))
        return sorted(at for at, sent, back in found if not (excused(at, sent, back) or (at == "id" and not file.id))) or None

    found = await each(files, visit)
    refused = {name: result for name, result in found.items() if isinstance(result, tuple)}
    return refused, {name: result for name, result in found.items() if isinstance(result, list)}


def check_refused(refused: Mapping[str, tuple[int, str]], expected: Mapping[str, tuple[int, str]]) -> None:
    """The same files, each with its status and with the words that tell why."""
    assert {name: status for name, (status, _) in refused.items()} == {name: status for name, (status, _) in expected.items()}, refused
    for name, (_, words) in expected.items():
        assert words in refused[name][1], name


_STAMPS = re.compile(r"meta(\.(versionId|lastUpdated|source))?")


def stamps(at: str, sent: Any, back: Any) -> bool:
    """FHIR R4 resource.html#Meta: version and time are the server's own, and HAPI notes a source where none is named."""
    return bool(_STAMPS.fullmatch(at)) and (at != "meta" or (sent is None and back.keys() <= {"versionId", "lastUpdated", "source"}))


# HAPI, lenient (dangling references and ids that are numbers go in)

_BUNDLE = "HAPI-0522"  # it stores documents, collections and messages only
REFUSED_BY_HAPI = {
    "r4-examples/devicemetric-example.json": (422, "HAPI-0931"),  # parent is a DeviceDefinition, where R4 wants a Device
    "r4-examples/medicationrequest0301.json": (422, "HAPI-0931"),  # dispenseRequest.performer is a Practitioner, where R4 wants an Organization
    "us-core/PractitionerRole_Practitioner_Endpoint_Bundle_Example.json": (422, _BUNDLE),
    "us-core/allergyintolerance-provenance-example1.json": (422, _BUNDLE),
    "us-core/allergyintolerance-provenance-example2.json": (422, _BUNDLE),
    "validator-cases/matchetype__matchetype-pattern.json": (400, "HAPI-1821"),  # a template: its instant is the word $instant$
}
FAILS_AT_HAPI = "validator-cases/params-reference-part-transaction.json"

_VERSIONED = "HAPI keeps references without their version, inside a stored Bundle too"
_BUNDLE_IDS = "HAPI takes the fullUrl of an entry for the id of its resource, and for what refers to it"
CHANGED_BY_HAPI: Mapping[str, Mapping[str, str]] = {
    "validator-cases/bundle-document-versioned-references-good.json": {
        "entry[0].resource.section[0].entry[0].reference": _VERSIONED,
        "entry[0].resource.section[0].entry[1].reference": _VERSIONED,
    },
    "validator-cases/shc-bundle.json": {
        "entry[0].resource.id": _BUNDLE_IDS,
        "entry[1].resource.id": _BUNDLE_IDS,
        "entry[1].resource.patient.reference": _BUNDLE_IDS,
        "entry[2].resource.id": _BUNDLE_IDS,
        "entry[2].resource.patient.reference": _BUNDLE_IDS,
    },
}


def by_hapi(at: str, sent: Any, back: Any) -> bool:
    """What HAPI changes in any resource: its stamps, the markup of narratives (not their text), and numbers with an exponent."""
    if re.fullmatch(r"(.*\.)?text\.div", at):
        return _text(sent) == _text(back)
    if isinstance(sent, Number) and isinstance(back, Number) and "e" in sent.lower():
        return Decimal(sent) == Decimal(back)
    return stamps(at, sent, back)


def _text(div: str) -> str:
    """What a reader sees."""
    return " ".join(html.unescape(re.sub(r"<!--.*?-->|<[^>]*>", " ", div, flags=re.DOTALL)).split())


@pytest.fixture(scope="module")
async def at_hapi(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Sender]:
    with parts.hapi(Options(lenient=True)) as url:
        async with sending(url, tmp_path_factory.mktemp("hapi")) as sender:
            yield sender


@pytest.mark.hapi
async def test_hapi_keeps_what_it_takes(published: list[File], at_hapi: Sender):
    """The files that HAPI refuses are these, and so is what it changes in the others."""
    refused, changed = await round_trip(at_hapi, [file for file in published if file.name != FAILS_AT_HAPI], by_hapi)
    check_refused(refused, REFUSED_BY_HAPI)
    assert changed == {name: sorted(paths) for name, paths in CHANGED_BY_HAPI.items()}


@pytest.mark.hapi
async def test_hapi_fails_at_one_file(published: list[File], at_hapi: Sender):
    """Nobody is refused here: HAPI ends with a 500 of its own, and a push of it would wait for a HAPI that can do it."""
    (file,) = (file for file in published if file.name == FAILS_AT_HAPI)
    url = f"{at_hapi.gateway.gateway.ehrs['hapi'].base_url}/{file.type}/{file.id}"
    async with httpx.AsyncClient(trust_env=False, timeout=30) as http:
        answer = await http.put(url, content=file.raw, headers={"Content-Type": "application/fhir+json"})
    assert (answer.status_code, answer.json()["issue"][0]["diagnostics"]) == (500, "HAPI-2223: null")


NUMBERS = b"""{"resourceType": "Observation", "id": "numbers-as-written", "status": "final", "code": {"text": "x"}, "component": [
 {"code": {"text": "1"}, "valueQuantity": {"value": 1.10}}, {"code": {"text": "2"}, "valueQuantity": {"value": 0.000000010}},
 {"code": {"text": "3"}, "valueQuantity": {"value": 1.0e3}}, {"code": {"text": "4"}, "valueQuantity": {"value": -0.50}},
 {"code": {"text": "5"}, "valueQuantity": {"value": 12345678901234567890.1234567890}}]}"""


def _numbers(raw: bytes) -> list[str]:
    return [str(one["valueQuantity"]["value"]) for one in as_written(raw)["component"]]


@pytest.mark.hapi
async def test_numbers_at_hapi(at_hapi: Sender, tmp_path: Path):
    """As they were written, but for 1.0e3: HAPI says 1000, and the gateway says what HAPI says."""
    file = File(tmp_path / "numbers.json")
    file.path.write_bytes(NUMBERS)
    read = await at_hapi.get(await at_hapi.put(file))
    assert _numbers(read.content) == ["1000" if number == "1.0e3" else number for number in _numbers(NUMBERS)]


# The embedded EHR

REFUSED_BY_EMBEDDED = {
    "validator-cases/matchetype__matchetype-pattern.json": (400, "timestamp"),  # a template: its instant is the word $instant$
}


@pytest.fixture(scope="module")
async def at_embedded(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Sender]:
    with embedded.running(tmp_path_factory.mktemp("data")) as ehr:
        environ = {"GATEWAY_EHR_HAPI_AUTH": "bearer", "GATEWAY_EHR_HAPI_BEARER": ehr.token}
        async with sending(ehr.base_url, tmp_path_factory.mktemp("embedded"), environ=environ) as sender:
            yield sender


async def test_the_embedded_ehr_keeps_what_it_takes(published: list[File], at_embedded: Sender):
    """It refuses these files, and changes nothing but its stamps in the others."""
    refused, changed = await round_trip(at_embedded, published, stamps)
    check_refused(refused, REFUSED_BY_EMBEDDED)
    assert changed == {}


async def test_numbers_at_the_embedded_ehr(at_embedded: Sender, tmp_path: Path):
    """All of them as they were written."""
    file = File(tmp_path / "numbers.json")
    file.path.write_bytes(NUMBERS)
    read = await at_embedded.get(await at_embedded.put(file))
    assert _numbers(read.content) == _numbers(NUMBERS)
