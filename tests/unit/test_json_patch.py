"""gateway.fhir.json_patch: RFC 6902 as its own test suite (json-patch/json-patch-tests) asks, numbers as written, and what no patch may touch."""

from __future__ import annotations

import json
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import BadRequest, Unprocessable
from gateway.fhir import json_patch
from gateway.fhir.json import parse_trusted, serialize

BASE = "https://gw.example/fhir/hapi"

# (document, patch, result): the cases of json-patch-tests, tests.json and spec_tests.json, below a member where they are on the root.
VECTORS = [
    ({"a": {}}, [{"op": "add", "path": "/a/foo", "value": 1}], {"a": {"foo": 1}}),
    ({"a": [1, 2]}, [{"op": "add", "path": "/a/1", "value": [3]}], {"a": [1, [3], 2]}),
    ({"a": [1]}, [{"op": "add", "path": "/a/-", "value": {"b": None}}], {"a": [1, {"b": None}]}),
    ({"a": [1]}, [{"op": "add", "path": "/a/1", "value": 2}], {"a": [1, 2]}),
    ({"a": 1}, [{"op": "add", "path": "/a", "value": 2}], {"a": 2}),
    ({"a": 1}, [{"op": "add", "path": "/", "value": 2}], {"a": 1, "": 2}),
    ({"a": {"": 1}}, [{"op": "replace", "path": "/a/", "value": 2}], {"a": {"": 2}}),
    ({"a/b": 1, "m~n": 2}, [{"op": "replace", "path": "/a~1b", "value": 3}, {"op": "remove", "path": "/m~0n"}], {"a/b": 3}),
    ({"~1": 1}, [{"op": "test", "path": "/~01", "value": 1}], {"~1": 1}),
    ({"a": {"0": 1}}, [{"op": "remove", "path": "/a/0"}], {"a": {}}),
    ({"a": [1, 2, 3, 4]}, [{"op": "move", "from": "/a/1", "path": "/a/3"}], {"a": [1, 3, 4, 2]}),
    ({"a": {"b": 1}, "c": {}}, [{"op": "move", "from": "/a/b", "path": "/c/d"}], {"a": {}, "c": {"d": 1}}),
    ({"a": 1}, [{"op": "move", "from": "/a", "path": "/a"}], {"a": 1}),
    ({"a": [{"b": [1]}]}, [{"op": "copy", "from": "/a/0", "path": "/a/-"}, {"op": "add", "path": "/a/0/b/-", "value": 2}], None),
    ({"a": None}, [{"op": "test", "path": "/a", "value": None}, {"op": "replace", "path": "/a", "value": "x"}], {"a": "x"}),
    ({"a": {"b": [1, 2], "c": 3}}, [{"op": "test", "path": "/a", "value": {"c": 3.0, "b": [1, 2.00]}}], {"a": {"b": [1, 2], "c": 3}}),
    ({"a": 1}, [{"op": "add", "path": "/b", "value": True, "xyz": 4, "from": "/nowhere"}], {"a": 1, "b": True}),
    ({"a": 1}, [{"op": "add", "path": "/__proto__", "value": 1}], {"a": 1, "__proto__": 1}),
]


@pytest.mark.parametrize(("document", "patch", "result"), VECTORS)
def test_the_steps_of_the_rfc(document, patch, result) -> None:
    """Each gives what the suite says, written and read again too, and the old document stays as it was."""
    before = json.dumps(document)
    operations = json_patch.read(json.dumps(patch).encode())
    assert json_patch.read(json_patch.write(operations)) == operations
    found = json_patch.apply(document, operations)
    assert found == (result or {"a": [{"b": [1, 2]}, {"b": [1]}]})
    assert json.dumps(document) == before


FAILING = [
    ({"a": 1}, {"op": "remove", "path": "/b"}),
    ({"a": 1}, {"op": "replace", "path": "/b", "value": 1}),
    ({"a": 1}, {"op": "add", "path": "/b/c", "value": 1}),
    ({"a": 1}, {"op": "add", "path": "/a/b", "value": 1}),
    ({"a": "text"}, {"op": "replace", "path": "/a/0", "value": "x"}),
    ({"a": [1]}, {"op": "add", "path": "/a/2", "value": 1}),
    ({"a": [1]}, {"op": "add", "path": "/a/-1", "value": 1}),
    ({"a": [1]}, {"op": "add", "path": "/a/01", "value": 1}),
    ({"a": [1]}, {"op": "add", "path": "/a/1e0", "value": 1}),
    ({"a": [1]}, {"op": "add", "path": "/a/b", "value": 1}),
    ({"a": [1]}, {"op": "remove", "path": "/a/-"}),
    ({"a": [1]}, {"op": "replace", "path": "/a/1", "value": 1}),
    ({"a": 1}, {"op": "copy", "from": "/b", "path": "/c"}),
    ({"a": 1}, {"op": "move", "from": "/b", "path": "/c"}),
    ({"a": None}, {"op": "remove", "path": "/a/b"}),
    ({"a": "x"}, {"op": "remove", "path": "/a/0"}),
    ({"a": 1}, {"op": "test", "path": "/b", "value": None}),
    ({"a": 1}, {"op": "test", "path": "/a", "value": True}),
    ({"a": 0}, {"op": "test", "path": "/a", "value": False}),
    ({"a": "1"}, {"op": "test", "path": "/a", "value": 1}),
    ({"a": [1, 2]}, {"op": "test", "path": "/a", "value": [2, 1]}),
    ({"a": {"b": 1}}, {"op": "test", "path": "/a", "value": {"b": 1, "c": 1}}),
    ({"a": None}, {"op": "test", "path": "/a", "value": False}),
]


@pytest.mark.parametrize(("document", "step"), FAILING)
def test_steps_that_cannot_be_done(document, step) -> None:
    """422, which names the step and nothing of the document."""
    operations = json_patch.read(json.dumps([step]).encode())
    with pytest.raises(Unprocessable) as caught:
        json_patch.apply(document, operations)
    assert "text" not in caught.value.message


MALFORMED = [
    b"{}",
    b"[]",
    b'["x"]',
    b"[{}]",
    b'[{"op":"spam","path":"/a"}]',
    b'[{"op":"Add","path":"/a","value":1}]',
    b'[{"op":"add","path":"/a"}]',
    b'[{"op":"add","value":1}]',
    b'[{"op":"add","path":"a","value":1}]',
    b'[{"op":"add","path":"/a~2","value":1}]',
    b'[{"op":"add","path":1,"value":1}]',
    b'[{"op":"copy","path":"/a"}]',
    b'[{"op":"move","from":"/a","path":"/a/b"}]',
    b'[{"op":"add","op":"remove","path":"/a","value":1}]',
    b'[{"op":"remove","path":"/a"}' + b',{"op":"remove","path":"/a"}' * 100 + b"]",
]


@pytest.mark.parametrize("data", MALFORMED)
def test_what_is_no_patch(data) -> None:
    """400 before anything is read; a member twice too (json-patch-tests: "duplicate ops")."""
    with pytest.raises(BadRequest):
        json_patch.read(data)


NEVER = [
    {"op": "replace", "path": "", "value": {}},
    {"op": "add", "path": "", "value": {"resourceType": "Patient"}},
    {"op": "remove", "path": ""},
    {"op": "copy", "from": "", "path": "/contained/0"},
    {"op": "move", "from": "/contained/0", "path": ""},
    {"op": "replace", "path": "/id", "value": "B"},
    {"op": "remove", "path": "/id"},
    {"op": "add", "path": "/id/x", "value": 1},
    {"op": "replace", "path": "/resourceType", "value": "Patient"},
    {"op": "move", "from": "/id", "path": "/x"},
    {"op": "copy", "from": "/status", "path": "/resourceType"},
]


@pytest.mark.parametrize("step", NEVER, ids=str)
def test_what_no_patch_may_touch(step) -> None:
    """ATK-F12, ATK-F27: the whole document, the id and the type, as target or source, whatever would come of it."""
    with pytest.raises(BadRequest):
        json_patch.read(json.dumps([step]).encode())


def test_numbers_stay_as_written() -> None:
    """Promise 2: those that stand there and those that come (`1.10` is not `1.1`), also when they are moved; a test compares their values."""
    stored = b'{"a":1.10,"b":[5.60,12345678901234567890.50],"c":1E5,"d":123456789012345678901234567890}'
    patch = b'[{"op":"test","path":"/a","value":1.1},{"op":"add","path":"/e","value":2.500},{"op":"move","from":"/b/0","path":"/f"}]'
    found = json_patch.apply(parse_trusted(stored), json_patch.read(json_patch.write(json_patch.read(patch))))
    assert serialize(found) == b'{"a":1.10,"b":[12345678901234567890.50],"c":1E5,"d":123456789012345678901234567890,"e":2.500,"f":5.60}'
    assert isinstance(found["a"], Decimal)


def test_copies_cannot_grow_without_end() -> None:
    """Each copy of the whole into itself doubles it: 99 of them would fill any memory."""
    steps = [{"op": "copy", "from": "/a", "path": "/a/-"}] * 99
    with pytest.raises(Unprocessable) as caught:
        json_patch.apply({"a": [1]}, json_patch.read(json.dumps(steps).encode()))
    assert caught.value.reason == "patch-too-large"


def _nested(levels: int) -> object:
    value: object = 1
    for _ in range(levels):
        value = {"a": value}
    return value


@pytest.mark.parametrize(
    "steps",
    [
        [{"op": "add", "path": "/a" * (1 + 30 * step), "value": _nested(30)} for step in range(3)],
        [{"op": "add", "path": "/a", "value": _nested(40)}, {"op": "copy", "from": "/a", "path": "/a" * 30}],
        [
            {"op": "add", "path": "/b", "value": _nested(40)},
            {"op": "add", "path": "/a", "value": _nested(40)},
            {"op": "move", "from": "/b", "path": "/a" * 30},
        ],
        [{"op": "add", "path": "/a", "value": _nested(40)}, {"op": "replace", "path": "/a" * 30, "value": _nested(40)}],
    ],
)
def test_no_patch_goes_deeper_than_a_body_may(steps) -> None:
    """FAULT-S6: step by step it would, and whoever walks the result would end in a stack that is full."""
    with pytest.raises(Unprocessable) as caught:
        json_patch.apply({}, json_patch.read(json.dumps(steps).encode()))
    assert caught.value.reason == "patch-too-large"


def test_a_patch_goes_as_deep_as_a_body_may() -> None:
    """64 levels, the document itself among them."""
    steps = [{"op": "add", "path": "/a", "value": _nested(40)}, {"op": "replace", "path": "/a" * 24, "value": _nested(40)}]
    assert json_patch.apply({}, json_patch.read(json.dumps(steps).encode())) == _nested(64)


def test_own_links_become_relative() -> None:
    """As in a whole resource: where the member is a reference, and only there."""
    steps = [
        {"op": "add", "path": "/subject/reference", "value": f"{BASE}/Patient/A"},
        {"op": "add", "path": "/recipient/-", "value": {"reference": f"{BASE}/Patient/A"}},
        {"op": "add", "path": "/recipient", "value": [{"reference": f"{BASE}/Patient/A"}]},
        {"op": "add", "path": "/identifier/0/system", "value": f"{BASE}/Patient/A"},
    ]
    values = [one.value for one in json_patch.read(json.dumps(steps).encode(), (BASE,))]
    assert values == ["Patient/A", {"reference": "Patient/A"}, [{"reference": "Patient/A"}], f"{BASE}/Patient/A"]


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=8,
)
paths = st.lists(st.sampled_from(["a", "b", "0", "1", "-", "~0", "~1"]), min_size=1, max_size=4).map(lambda tokens: "/" + "/".join(tokens))
steps = st.builds(
    lambda op, path, from_, value: {"op": op, "path": path, "from": from_, "value": value},
    st.sampled_from(sorted(json_patch._KNOWN)),
    paths,
    paths,
    values,
)


@given(
    document=st.fixed_dictionaries({"resourceType": st.just("X"), "id": st.just("A"), "a": values, "b": values}),
    patch=st.lists(steps, min_size=1, max_size=5),
)
def test_any_patch_gives_a_document_or_a_refusal(document, patch) -> None:
    """No other error; the id and the type come out as they went in, and the old document is untouched."""
    before = json.dumps(document)
    try:
        found = json_patch.apply(document, json_patch.read(json.dumps(patch).encode()))
    except (BadRequest, Unprocessable):
        found = document
    assert (found["resourceType"], found["id"]) == ("X", "A")
    assert json.dumps(document) == before
