"""gateway.fhir.bundle: envelopes open and close around bytes that nobody touches."""

from __future__ import annotations

import json

import pytest
from fhir.resources.R4B.bundle import Bundle
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import BadRequest, UpstreamFault
from gateway.fhir.bundle import FoundEntry, open_bundle, open_searchset, searchset

RESOURCE = (
    b'{ "resourceType" : "Observation","id":"o1","status":"final","code":{"text":"x"},"valueQuantity":{"value":1.10},\n"note":[{"text":"\\u00e9"}] }'
)


def test_a_searchset_opens_into_the_ehrs_own_bytes() -> None:
    """Promise 2: white space, escapes and decimals are as they came."""
    data = (
        b'\xef\xbb\xbf{"resourceType":"Bundle","type":"searchset","total":7,"link":[{"relation":"next","url":"http://up/fhir?x=1"}],"entry":[{"fullUrl":'
        b'"http://up/fhir/Observation/o1","resource": '
        + RESOURCE
        + b' ,"search":{"mode":"match","score":1.0}},{"resource":{"resourceType":"Patient",'
        b'"id":"p"},"search":{"mode":"include"}},{"resource":{"resourceType":"OperationOutcome","issue":[]},"search":{"mode":"outcome"}},{"fullUrl":"x"}]}'
    )
    found = open_searchset(data)
    assert (found.total, found.links) == (7, {"next": "http://up/fhir?x=1"})
    assert [(entry.raw, entry.mode) for entry in found.entries] == [
        (RESOURCE, "match"),
        (b'{"resourceType":"Patient","id":"p"}', "include"),
        (b'{"resourceType":"OperationOutcome","issue":[]}', "outcome"),
    ]
    assert str(found.entries[0].resource["valueQuantity"]["value"]) == "1.10"
    assert found.entries[0].full_url == "http://up/fhir/Observation/o1"


def test_an_outcome_is_one_whatever_its_mode() -> None:
    """An OperationOutcome is never a match."""
    found = open_searchset(b'{"resourceType":"Bundle","type":"searchset","entry":[{"resource":{"resourceType":"OperationOutcome"}}]}')
    assert [entry.mode for entry in found.entries] == ["outcome"]


LIES = {
    "no JSON": b"<html>",
    "cut off (FAULT-U13)": b'{"resourceType":"Bundle","type":"searchset","entry":[{"resource":{"res',
    "invalid UTF-8 (FAULT-U14)": b'{"resourceType":"Bundle","type":"searchset","entry":[{"resource":{"id":"1","x":"\xff"}}]}',
    "a resource": b'{"resourceType":"Patient","id":"1"}',
    "an outcome": b'{"resourceType":"OperationOutcome","issue":[]}',
    "another Bundle": b'{"resourceType":"Bundle","type":"history","entry":[]}',
    "a list": b"[]",
    "entries that are no list": b'{"resourceType":"Bundle","type":"searchset","entry":{}}',
    "a resource that is no object": b'{"resourceType":"Bundle","type":"searchset","entry":[{"resource":[]}]}',
    "a type that is a list": b'{"resourceType":"Bundle","type":"searchset","entry":[{"resource":{"resourceType":[],"id":"1"}}]}',
    "a resource without a type": b'{"resourceType":"Bundle","type":"searchset","entry":[{"resource":{"id":"1"}}]}',
    "an unknown type": b'{"resourceType":"Bundle","type":"searchset","entry":[{"resource":{"resourceType":"X","id":"1"}}]}',
    "a resource without an id": b'{"resourceType":"Bundle","type":"searchset","entry":[{"resource":{"resourceType":"Patient"}}]}',
    "an id that is a path": b'{"resourceType":"Bundle","type":"searchset","entry":[{"resource":{"resourceType":"Patient","id":"../x"}}]}',
    "a total that is a text": b'{"resourceType":"Bundle","type":"searchset","total":"many"}',
    "nested without end": b'{"resourceType":"Bundle","type":"searchset","entry":[{"resource":' + b"[" * 100_000,
}


@pytest.mark.parametrize("data", LIES.values(), ids=LIES)
def test_what_is_no_searchset_is_the_ehrs_fault(data) -> None:
    """ATK-F21: 502 with code structure; nothing half-read goes on."""
    with pytest.raises(UpstreamFault) as caught:
        open_searchset(data)
    assert caught.value.issue_code == "structure"


def test_a_searchset_of_ours_is_valid() -> None:
    """The resources' bytes, our envelope: links, total and modes (peers' fault 8: kept)."""
    made = searchset(
        [("https://gw/fhir/h/Observation/o1", RESOURCE, "match"), ("https://gw/fhir/h/Patient/p", b'{"resourceType":"Patient","id":"p"}', "include")],
        links=[("self", 'https://gw/fhir/h/Observation?x="'), ("next", "https://gw/fhir/h/Observation?_page=1")],
        total=1,
        id_="b1",
        timestamp="2026-11-24T10:00:00Z",
    )
    assert RESOURCE in made
    assert Bundle.model_validate(json.loads(made))
    assert json.loads(made)["link"][0]["url"] == 'https://gw/fhir/h/Observation?x="'


def test_an_empty_searchset_has_no_empty_lists() -> None:
    """R4 allows none; a total that is not known is not said (ATK-F2)."""
    assert json.loads(searchset([])) == {"resourceType": "Bundle", "type": "searchset"}
    assert json.loads(searchset([], total=0)) == {"resourceType": "Bundle", "type": "searchset", "total": 0}


RESOURCES = st.builds(
    lambda name, id_, text, indent: json.dumps({"resourceType": name, "id": id_, "text": text}, indent=indent).encode(),
    st.sampled_from(["Patient", "Observation"]),
    st.from_regex(r"\A[A-Za-z0-9]{1,8}\Z"),
    st.text(st.characters(codec="utf-8"), max_size=10),
    st.sampled_from([None, 2]),
)


@given(
    st.lists(st.tuples(st.text(st.characters(codec="utf-8"), max_size=9), RESOURCES, st.sampled_from(["match", "include"])), max_size=4),
    st.none() | st.integers(0, 9),
)
def test_what_is_closed_opens_again(entries, total) -> None:
    """Any resources come out of our envelope as the bytes that went in."""
    found = open_searchset(searchset(entries, links=[("self", "x")], total=total))
    assert [(entry.full_url, entry.raw, entry.mode) for entry in found.entries] == entries
    assert (found.total, found.links) == (total, {"self": "x"})


def test_a_pushed_bundle_opens_into_the_callers_own_bytes() -> None:
    """With what each entry asks for."""
    data = (
        b'{"resourceType":"Bundle","identifier":{"system":"urn:s","value":"m1"},"type":"transaction","entry":[{"fullUrl":"urn:uuid:1","resource": '
        + RESOURCE
        + b' ,"request":{"method":"PUT","url":"Observation/o1","ifMatch":"W/\\"1\\"","ifNoneMatch":"*",'
        b'"ifNoneExist":"a=b"}},{"request":{"method":"GET"}}]}'
    )
    opened = open_bundle(data)
    first, second = opened.entries
    assert (opened.type, opened.identifier) == ("transaction", ("urn:s", "m1"))
    assert (first.raw, first.full_url) == (RESOURCE, "urn:uuid:1")
    assert (first.request.method, first.request.url, first.request.if_match) == ("PUT", "Observation/o1", 'W/"1"')
    assert (first.request.if_none_match, first.request.if_none_exist) == ("*", "a=b")
    assert (second.raw, second.resource, second.request.method) == (b"", None, "GET")


@pytest.mark.parametrize("identifier", ['"x"', "{}", '{"system":"x"}', '{"value":1}', '{"value":""}', "[]"])
def test_an_identifier_without_a_value_is_refused(identifier) -> None:
    """A repeat is recognised by it: it must say something."""
    with pytest.raises(BadRequest):
        open_bundle(f'{{"resourceType":"Bundle","type":"batch","identifier":{identifier}}}'.encode())


FULL_URL = b'{"resourceType":"Bundle","type":"batch","entry":[{"fullUrl":1}]}'


@pytest.mark.parametrize(
    "data", [b"", b"[]", b"{}", b'{"resourceType":"Bundle","type":1}', b'{"resourceType":"Bundle","type":"batch","entry":[1]}', FULL_URL]
)
def test_what_is_no_bundle_is_the_callers_fault(data) -> None:
    """400, never an exception of a library."""
    with pytest.raises(BadRequest):
        open_bundle(data)


def test_found_entries_are_values() -> None:
    """Equal parts make equal entries."""
    assert FoundEntry(b"{}", {}) == FoundEntry(b"{}", {}, "match", "")
