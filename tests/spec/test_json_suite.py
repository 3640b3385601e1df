"""JSONTestSuite: what must parse parses, what must be refused is refused (FAULT-S5)."""

from __future__ import annotations

import pytest

from gateway.errors import BadRequest
from gateway.fhir.json import parse
from tests.support import corpus

pytestmark = pytest.mark.corpus

# RFC 8259 allows the same key twice; FAULT-S10 does not: two readers would see two resources.
REFUSED_ALL_THE_SAME = {"y_object_duplicated_key.json", "y_object_duplicated_key_and_value.json"}


def _accepted(data: bytes) -> bool:
    try:
        parse(data)
    except BadRequest:
        return False
    return True


def test_everything_that_must_parse_parses() -> None:
    """All y_ files but those with duplicate keys."""
    wrong = [path.name for path in corpus.files("json/jsontestsuite", "y_*") if not _accepted(path.read_bytes())]
    assert set(wrong) <= REFUSED_ALL_THE_SAME


def test_everything_that_must_be_refused_is() -> None:
    """All n_ files, without a crash."""
    assert [path.name for path in corpus.files("json/jsontestsuite", "n_*") if _accepted(path.read_bytes())] == []


def test_the_rest_ends_in_a_value_or_a_refusal() -> None:
    """The i_ files are ours to decide: no crash, and nothing that another reader would see differently."""
    accepted = {path.name for path in corpus.files("json/jsontestsuite", "i_*") if _accepted(path.read_bytes())}
    assert {name for name in accepted if "surrogate" in name or "utf" in name.lower()} <= {"i_structure_UTF-8_BOM_empty_object.json"}
