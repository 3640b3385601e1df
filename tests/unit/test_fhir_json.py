"""gateway.fhir.json: what callers send is read strictly, what EHRs answer fast, and numbers keep their text."""

from __future__ import annotations

import json
import pickle
import time
import tracemalloc
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import BadRequest, UpstreamFault
from gateway.fhir.json import MAX_DEPTH, Exact, parse, parse_trusted, serialize

REFUSED = {
    "FAULT-S6 nesting": (b"[" * 65 + b"]" * 65, "json-depth", "too-costly"),
    "FAULT-S6 a hundred thousand brackets": (b"[" * 100_000, "json-depth", "too-costly"),
    "FAULT-S6 objects": (b'{"a":' * 65 + b"1" + b"}" * 65, "json-depth", "too-costly"),
    "FAULT-S7 invalid UTF-8": (b'{"a":"\xff"}', "json-encoding", "structure"),
    "FAULT-S7 overlong": (b'{"a":"\xc0\xaf"}', "json-encoding", "structure"),
    "FAULT-S7 surrogate in UTF-8": (b'{"a":"\xed\xa0\x80"}', "json-encoding", "structure"),
    "FAULT-S7 lone surrogate": (b'{"a":"\\ud800"}', "json-surrogate", "structure"),
    "FAULT-S7 lone surrogate in a key": (b'{"\\uDC00":1}', "json-surrogate", "structure"),
    "FAULT-S7 raw NUL": (b'{"a":"\x00"}', "json-malformed", "structure"),
    "FAULT-S7 UTF-16": ('{"a":1}'.encode("utf-16"), "json-encoding", "structure"),
    "FAULT-S8 infinity": (b"1e400", "json-number", "too-costly"),
    "FAULT-S8 nothing": (b"1e-400", "json-number", "too-costly"),
    "FAULT-S8 a million digits": (b"1" * 10**6, "json-number", "too-costly"),
    "FAULT-S8 a million decimals": (b"0." + b"1" * 10**6, "json-number", "too-costly"),
    "FAULT-S8 an exponent of a million digits": (b"1e" + b"9" * 10**6, "json-number", "too-costly"),
    "FAULT-S8 NaN": (b'{"value":NaN}', "json-constant", "structure"),
    "FAULT-S8 Infinity": (b"[-Infinity]", "json-constant", "structure"),
    "FAULT-S10 the same key twice": (b'{"status":"final","status":"amended"}', "json-duplicate-key", "structure"),
    "FAULT-S10 the same key, escaped": (b'{"status":"final","\\u0073tatus":"amended"}', "json-duplicate-key", "structure"),
    "FAULT-S5 nothing at all": (b"", "json-malformed", "structure"),
    "FAULT-S5 cut off": (b'{"resourceType":"Pat', "json-malformed", "structure"),
    "FAULT-S5 two values": (b"{}{}", "json-malformed", "structure"),
    "FAULT-S5 XML": (b"<Patient/>", "json-malformed", "structure"),
}


@pytest.mark.parametrize(("data", "reason", "code"), REFUSED.values(), ids=REFUSED)
def test_ambiguous_or_costly_json_is_refused_at_once(data, reason, code) -> None:
    """Each is a BadRequest with the right issue code, in well under the 50 ms that FAULT-S6 and S8 allow."""
    started = time.perf_counter()
    with pytest.raises(BadRequest) as caught:
        parse(data)
    assert (caught.value.reason, caught.value.issue_code) == (reason, code)
    assert time.perf_counter() - started < 0.5  # ten times the rule: the machine is shared


def test_a_refusal_names_the_place_and_the_key() -> None:
    """FAULT-S10: the sender learns which member; a strange name is not repeated."""
    with pytest.raises(BadRequest, match=r'The condition has the member "status" twice'):
        parse(b'{"status":1,"status":2}', where="condition")
    with pytest.raises(BadRequest, match="The body has the member twice"):
        parse(b'{"John Doe":1,"John Doe":2}')


def test_deep_input_costs_no_memory() -> None:
    """FAULT-S6: megabytes of brackets are turned away before anything is built from them."""
    data = b'{"a":[' * 500_000
    tracemalloc.start()
    with pytest.raises(BadRequest):
        parse(data)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 6 * len(data)


@pytest.mark.parametrize(
    ("data", "value"),
    [
        (b"[" * MAX_DEPTH + b"]" * MAX_DEPTH, None),
        (b'\xef\xbb\xbf{"a":1}', {"a": 1}),
        (b'{"a":"[[[[\\"[[[["}', {"a": '[[[["[[[['}),
        (b'{"a":"' + b"[" * 1000 + b'"}', {"a": "[" * 1000}),
        (b'{"a":"\\ud83d\\ude00"}', {"a": "\U0001f600"}),
        (b'{"a":"\\\\ud800"}', {"a": "\\ud800"}),
        (b"1e308", Decimal("1e308")),
        (b"123456789012345678901234567890", 123456789012345678901234567890),
    ],
)
def test_unusual_but_plain_json_is_read(data, value) -> None:
    """A byte order mark, brackets in strings, pairs of surrogates, 64 levels: all fine."""
    assert value is None or parse(data) == value
    assert parse(data) == parse_trusted(data)


@pytest.mark.parametrize("text", ["1.10", "1.0e3", "-0.0", "0.000000010", "1E-2", "12.3456789012345678901", "100.00"])
def test_numbers_keep_their_text(text) -> None:
    """Promise 2: `1.10` stays `1.10` for whoever shows it, and still computes as a number."""
    for read in (parse, parse_trusted):
        value = read(f'{{"value": {text}}}'.encode())["value"]
        assert isinstance(value, Exact)
        assert str(value) == text
        assert value == Decimal(text)
        assert serialize(value).decode() == text
        assert str(pickle.loads(pickle.dumps(value))) == text


@pytest.mark.parametrize("data", [b"", b"<html>", b'{"a":"\xff"}', b'{"\xff":1}', b"[" * 100_000, b'{"a":1', b"NaN", b'"\\ud800"'])
def test_an_ehr_that_answers_rubbish_is_at_fault(data) -> None:
    """FAULT-U13, U14: 502 with code structure, never an exception of a library."""
    with pytest.raises(UpstreamFault) as caught:
        parse_trusted(data)
    assert caught.value.issue_code == "structure"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**30), 10**30) | st.text(st.characters(codec="utf-8")),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(st.characters(codec="utf-8"), max_size=8), inner, max_size=4),
    max_leaves=30,
)


@given(JSON, st.booleans(), st.sampled_from([None, 1]))
def test_any_value_survives_both_readers(value, ascii_only, indent) -> None:
    """What is well-formed is read alike by both readers, and written back as the same value."""
    data = json.dumps(value, ensure_ascii=ascii_only, indent=indent).encode()
    assert parse(data) == parse_trusted(data) == value
    assert parse(serialize(value)) == value


@given(st.binary(max_size=200))
def test_any_bytes_give_a_value_or_a_refusal(data) -> None:
    """No bytes whatever raise anything but the two errors."""
    try:
        strict = parse(data)
    except BadRequest:
        return
    assert parse_trusted(data) == strict


@given(st.recursive(st.just("1"), lambda inner: st.builds("[{}]".format, inner) | st.builds('{{"[]":{}}}'.format, inner), max_leaves=80))
def test_the_depth_is_counted_right(text) -> None:
    """The bound is exact, whatever brackets stand in strings."""
    depth = text.count("[") - 2 * text.count("[]") + text.count("[]") + text.count("{")
    if depth <= MAX_DEPTH:
        assert parse(text.encode()) is not None
    else:
        with pytest.raises(BadRequest):
            parse(text.encode())


def test_only_json_is_written() -> None:
    """A value that JSON has no form for is a mistake of ours."""
    with pytest.raises(TypeError):
        serialize({"a": object()})
