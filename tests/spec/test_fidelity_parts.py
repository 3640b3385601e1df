"""Every published example passes the parts of the FHIR edge as the bytes that it is (promise 2)."""

from __future__ import annotations

import json
import re

import pytest

from gateway.errors import BadRequest
from gateway.fhir import inbound
from gateway.fhir.bundle import open_bundle, open_searchset, searchset
from gateway.fhir.json import Exact, parse, parse_trusted, serialize
from gateway.fhir.references import walk
from gateway.fhir.request import parse as understand
from gateway.fhir.validate import check
from gateway.proxy.rewrite import outbound
from tests.support import corpus

pytestmark = pytest.mark.corpus

OURS = "https://gw.example/fhir/hapi"
HEADERS = [(b"content-type", b"application/fhir+json")]


@pytest.fixture(scope="module")
def examples() -> list[tuple[str, bytes]]:
    """Name and bytes of every valid resource of the corpus."""
    found = [(path.name, path.read_bytes()) for path in corpus.valid_resources()]
    assert len(found) > 200
    return found


def _texts(value) -> list[str]:
    """The text of every number, in order."""
    if isinstance(value, dict):
        return [text for item in value.values() for text in _texts(item)]
    if isinstance(value, list):
        return [text for item in value for text in _texts(item)]
    return [str(value)] if isinstance(value, int | Exact) and not isinstance(value, bool) else []


def test_both_readers_see_the_same(examples) -> None:
    """The strict one refuses no published resource, and both keep the text of every number."""
    for name, data in examples:
        value = parse(data)
        assert value == parse_trusted(data), name
        kept = json.loads(data.removeprefix(b"\xef\xbb\xbf"), parse_float=str, parse_int=str)
        assert _texts(value) == _texts_of_strings(kept, value), name
        assert parse(serialize(value)) == value, name


def _texts_of_strings(kept, value) -> list[str]:
    """The numbers of `kept`, which a plain reader left as text, at the places where `value` has numbers."""
    if isinstance(value, dict):
        return [text for key, item in value.items() for text in _texts_of_strings(kept[key], item)]
    if isinstance(value, list):
        return [text for place, item in zip(kept, value, strict=True) for text in _texts_of_strings(place, item)]
    return [kept] if isinstance(value, int | Exact) and not isinstance(value, bool) else []


def test_no_published_resource_is_refused(examples) -> None:
    """The check of what callers write finds nothing in what the publishers and the reference validator call valid."""
    assert {name: issues for name, data in examples if (issues := check(parse(data)))} == {}


def test_a_push_keeps_its_bytes(examples) -> None:
    """A create is understood with the caller's own bytes, but for a byte order mark."""
    for name, data in examples:
        resource_type = parse(data)["resourceType"]
        if resource_type == "Bundle":
            continue
        found = understand(method="POST", path=resource_type, query=b"", headers=HEADERS, body=data, own_bases=(OURS,))
        assert found.body == data.removeprefix(b"\xef\xbb\xbf"), name


def test_bundles_keep_the_bytes_of_their_entries(examples) -> None:
    """Opened, each entry's resource is a piece of the Bundle as it stands, and says what the whole says."""
    opened = 0
    for name, data in examples:
        value = parse(data)
        if value["resourceType"] != "Bundle":
            continue
        for entry, whole in zip(open_bundle(data).entries, value.get("entry", []), strict=True):
            assert entry.raw in data, name
            assert entry.resource == whole.get("resource"), name
            opened += 1
    assert opened > 100


def test_the_synthea_transactions_are_understood() -> None:
    """Whole patients as transactions, each entry with its bytes."""
    for path in corpus.files("fhir/synthea-bundles"):
        data = path.read_bytes()
        value = parse(data)
        try:
            found = understand(method="POST", path="", query=b"", headers=HEADERS, body=data, own_bases=(OURS,))
        except BadRequest as error:
            assert value["type"] not in ("transaction", "batch") or error.reason == "entry-not-offered", path.name  # noqa: PT017 - either may be
            continue
        assert found.body == data
        assert [parse(entry.body) for entry in found.entries] == [entry["resource"] for entry in value["entry"]]


def test_the_answer_keeps_the_bytes(examples) -> None:
    """A searchset of ours around a resource gives back its bytes."""
    resources = [(name, data) for name, data in examples if isinstance(parse(data).get("id"), str)]
    made = searchset([(f"{OURS}/{name}", data, "match") for name, data in resources if parse(data)["resourceType"] != "OperationOutcome"])
    found = open_searchset(made)
    assert [entry.raw for entry in found.entries] == [data.strip() for name, data in resources if parse(data)["resourceType"] != "OperationOutcome"]


def test_rewriting_changes_references_and_nothing_else(examples) -> None:
    """An EHR that makes every reference absolute: outbound each names the gateway, and inbound it is relative again, byte for byte."""
    changed = 0
    for name, data in examples:
        theirs = _made_absolute(data)
        ours = outbound(theirs, _EHR.decode(), OURS)
        assert ours == theirs.replace(_EHR, OURS.encode() + b"/"), name
        assert inbound.body(ours, (OURS,)) == data, name
        assert outbound(data, "http://not.there/fhir", OURS) is data
        changed += theirs.count(_EHR)
    assert changed > 400


def _made_absolute(data: bytes) -> bytes:
    refs = {ref.value for ref in walk(parse(data)) if ref.id and not ref.base}
    return _RELATIVE.sub(lambda match: match[1] + _EHR + match[2] if match[2].decode() in refs else match[0], data)


_EHR = b"http://up.example:8080/fhir/"
_RELATIVE = re.compile(rb'("reference"\s*:\s*")([A-Za-z]+/[^"]+)')
