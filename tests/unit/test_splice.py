"""Byte-exact edits: everything that was not named stays as it was sent."""

from __future__ import annotations

import json
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.fhir import splice

_SPACE = st.sampled_from(["", " ", "\n", "\t ", "  \r\n"])
_TEXT = st.text(max_size=12) | st.sampled_from(['a"b', "\\", "{", "}]", "urn:uuid:1", "id", "reference", "é", "\u2028", "😀"])
_NUMBER = st.sampled_from(["1.10", "0.000000010", "1.0e3", "-0", "12345678901234567890.50"])


@st.composite
def written(draw, depth: int = 3) -> str:
    """A JSON value in some writing of its own: spaces, escapes, numbers that floats would change."""
    kind = draw(st.sampled_from(["string", "number", "word"] + (["object", "array"] * 2 if depth else [])))
    if kind == "string":
        return _string(draw, draw(_TEXT))
    if kind == "number":
        return draw(_NUMBER)
    if kind == "word":
        return draw(st.sampled_from(["true", "false", "null"]))
    if kind == "array":
        parts = draw(st.lists(written(depth - 1), max_size=3))
        return "[" + _joined(draw, parts) + "]"
    return draw(written_object(depth))


@st.composite
def written_object(draw, depth: int = 3) -> str:
    names = draw(st.lists(_TEXT, max_size=4, unique=True))
    parts = [_string(draw, name) + draw(_SPACE) + ":" + draw(_SPACE) + draw(written(max(depth - 1, 0))) for name in names]
    return "{" + _joined(draw, parts) + "}"


def _joined(draw, parts: list[str]) -> str:
    return draw(_SPACE) + ",".join(draw(_SPACE) + part + draw(_SPACE) for part in parts)


def _string(draw, text: str) -> str:
    return json.dumps(text, ensure_ascii=draw(st.booleans()))


def _read(raw: bytes):
    return json.loads(raw.decode("utf-8", "surrogatepass"), parse_float=Decimal, parse_int=Decimal)


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


@given(written_object(), _SPACE, _SPACE)
def test_set_id_changes_the_id_and_nothing_else(text, before, after):
    """The id is set; the bytes before and after that one place are the sender's own."""
    raw = _bytes(before + text + after)
    spliced = splice.set_id(raw, "gw1")

    assert _read(spliced) == _read(raw) | {"id": "gw1"}
    edit = splice.setting(raw, splice.root(raw), "id", b'"gw1"')
    assert spliced == raw[: edit.start] + edit.text + raw[edit.end :]
    assert edit.text.removesuffix(b",") in (b'"gw1"', b'"id":"gw1"')


@given(written())
def test_members_and_items_are_found_where_they_stand(text):
    """Each span holds exactly one value, and together they are the document."""
    raw = _bytes(text)
    at = splice.root(raw)
    value = _read(raw)

    assert _read(raw[at.start : at.end]) == value
    if isinstance(value, dict):
        assert {name: _read(raw[span.start : span.end]) for name, span in splice.members(raw, at)} == value
        assert list(splice.items(raw, at)) == []
    if isinstance(value, list):
        assert [_read(raw[span.start : span.end]) for span in splice.items(raw, at)] == value
        assert list(splice.members(raw, at)) == []


@given(written_object())
def test_only_the_values_of_reference_members_change(text):
    """A reference to a known target is exchanged; the same text anywhere else stays."""
    raw = _bytes(text)
    edits = list(splice.referring(raw, splice.root(raw), {"urn:uuid:1": "Patient/gw1"}))

    assert _read(splice.apply(raw, edits)) == _referring(_read(raw))
    assert all(raw[edit.start : edit.end].startswith(b'"') for edit in edits)


def _referring(value):
    if isinstance(value, list):
        return [_referring(item) for item in value]
    if not isinstance(value, dict):
        return value
    return {k: "Patient/gw1" if (k, v) == ("reference", "urn:uuid:1") else _referring(v) for k, v in value.items()}


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (b"{}", b'{"id":"x"}'),
        (b"{ }", b'{"id":"x" }'),
        (b'\xef\xbb\xbf {"a":1.10}\n', b'\xef\xbb\xbf {"id":"x","a":1.10}\n'),
        (b'{"a":{"id":"no"} , "\\u0069d" :\t"old"}', b'{"a":{"id":"no"} , "\\u0069d" :\t"x"}'),
        (b'{"id":7}', b'{"id":"x"}'),
        (b'{"a":"\\"id\\": {","b":[{"id":1}]}', b'{"id":"x","a":"\\"id\\": {","b":[{"id":1}]}'),
    ],
)
def test_known_writings(raw, expected):
    """Empty objects, a byte order mark, escaped names, nested ids."""
    assert splice.set_id(raw, "x") == expected


def test_escaped_references_are_recognised():
    """What an escape spells counts as what it says."""
    raw = b'{"subject":{"ref\\u0065rence" : "urn\\u003auuid:1"},"note":"urn:uuid:1"}'
    edits = splice.referring(raw, splice.root(raw), {"urn:uuid:1": "Patient/p"})
    assert splice.apply(raw, edits) == b'{"subject":{"ref\\u0065rence" : "Patient/p"},"note":"urn:uuid:1"}'


@pytest.mark.parametrize("raw", [b"[1]", b'"x"', b"{", b'{"a" 1}', b'{"a":1 "b":2}', b"", b'{"a":[1}'])
def test_what_is_no_object_is_refused(raw):
    """A document that is no JSON object is never edited by guess."""
    with pytest.raises(ValueError):
        splice.set_id(raw, "x")


def test_edits_that_overlap_are_refused():
    """Two edits of one place are a mistake of the caller."""
    with pytest.raises(ValueError, match="overlap"):
        splice.apply(b"abcdef", [splice.Edit(0, 3, b""), splice.Edit(2, 4, b"")])


def test_a_large_document_is_scanned_quickly():
    """Half a megabyte takes milliseconds, not seconds."""
    raw = b'{"entry":[' + b",".join(b'{"a":"' + b"x" * 90 + b'","b":[1.10,{}]}' for _ in range(5000)) + b"]}"
    entries = splice.member(raw, splice.root(raw), "entry")
    assert entries is not None
    assert sum(1 for _ in splice.items(raw, entries)) == 5000
