"""gateway.proxy.rewrite and gateway.fhir.inbound: links change their base, and no other byte changes."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.fhir import inbound
from gateway.fhir.json import parse
from gateway.fhir.urls import ATTACHMENTS, hits
from gateway.proxy.rewrite import outbound

UP = "http://up:8080/fhir"
OURS = "https://gw.example/fhir/hapi"

REWRITTEN = {
    "reference": {"subject": {"reference": f"{UP}/Patient/1"}},
    "versioned reference": {"subject": {"reference": f"{UP}/Patient/1/_history/2"}},
    "reference in a list": {"performer": [{"display": "x"}, {"reference": f"{UP}/Practitioner/1"}]},
    "reference in an extension": {"extension": [{"url": "http://x", "valueReference": {"reference": f"{UP}/Patient/1"}}]},
    "reference in a contained resource": {"contained": [{"resourceType": "Condition", "subject": {"reference": f"{UP}/Patient/1"}}]},
    "Linkage.item.resource": {"item": [{"resource": {"reference": f"{UP}/Patient/1"}}]},
    "attachment": {"content": [{"attachment": {"contentType": "text/plain", "url": f"{UP}/Binary/1"}}]},
    "attachment in a list": {"presentedForm": [{"url": f"{UP}/Binary/1"}]},
    "fullUrl": {"entry": [{"fullUrl": f"{UP}/Patient/1", "resource": {"resourceType": "Patient"}}]},
    "link": {"link": [{"relation": "self", "url": f"{UP}?_getpages=1"}]},
    "response location": {"entry": [{"response": {"status": "201", "location": f"{UP}/Patient/1/_history/1"}}]},
    "request url": {"entry": [{"request": {"method": "PUT", "url": f"{UP}/Patient/1"}}]},
    "the base alone": {"subject": {"reference": UP}},
}

KEPT = {
    "identifier system": {"identifier": [{"system": f"{UP}/mrn", "value": "1"}]},
    "canonical url": {"resourceType": "Questionnaire", "url": f"{UP}/Questionnaire/1"},
    "canonical": {"questionnaire": f"{UP}/Questionnaire/1", "instantiatesUri": [f"{UP}/x"]},
    "profile": {"meta": {"profile": [f"{UP}/StructureDefinition/x"], "source": f"{UP}/x"}},
    "extension url and uri": {"extension": [{"url": f"{UP}/ext", "valueUri": f"{UP}/Patient/1"}]},
    "extension with a url value": {"extension": [{"url": "x", "valueUrl": f"{UP}/Patient/1"}]},
    "narrative": {"text": {"div": f'<a href="{UP}/Patient/1">"reference": "{UP}/Patient/1"</a>'}},
    "text that looks like a member": {"display": f'"reference":"{UP}/Patient/1"'},
    "look-alike path (fault 16)": {"subject": {"reference": "http://up:8080/fhir-other/Patient/1"}},
    "look-alike scheme (fault 16)": {"subject": {"reference": f"h{UP}/Patient/1"}},
    "look-alike host": {"subject": {"reference": "http://backup:8080/fhir/Patient/1"}},
    "host with a longer port": {"subject": {"reference": "http://up:80801/fhir/Patient/1"}},
    "other scheme": {"subject": {"reference": "https://up:8080/fhir/Patient/1"}},
    "inside another URL": {"subject": {"reference": f"http://x/?u={UP}/Patient/1"}},
    "user info": {"subject": {"reference": "http://up:8080@evil/fhir/Patient/1"}},
    "coding system": {"code": {"coding": [{"system": f"{UP}/cs", "code": "x"}]}},
    "DetectedIssue.reference": {"resourceType": "DetectedIssue", "reference": f"{UP}/x"},
    "contained DetectedIssue.reference": {"contained": [{"resourceType": "DetectedIssue", "reference": f"{UP}/x"}]},
    "DetectedIssue.reference in a Bundle": {"entry": [{"resource": {"resourceType": "DetectedIssue", "reference": f"{UP}/x"}}]},
    "Immunization.education.reference": {"education": [{"reference": f"{UP}/x"}]},
    "Expression.reference": {"valueExpression": {"language": "text/cql", "reference": f"{UP}/x"}},
    "location that is no response's": {"location": [{"location": {"display": f"{UP}/Location/1"}}], "x": {"location": f"{UP}/x"}},
    "url of a repository": {"repository": [{"type": "other", "url": f"{UP}/x"}]},
    "a key": {f"{UP}/Patient/1": "x"},
}


@pytest.mark.parametrize("document", REWRITTEN.values(), ids=REWRITTEN)
@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("slash", ["/", "\\/"])
def test_links_and_references_point_to_the_gateway(document, indent, slash) -> None:
    """The base changes and nothing else, however the JSON is written (peers' fault 16: escaped slashes)."""
    raw = json.dumps(document, indent=indent).replace("/", slash).encode()
    written = json.dumps(UP).strip('"').replace("/", slash).encode()
    assert outbound(raw, UP, OURS) == raw.replace(written, OURS.encode())


@pytest.mark.parametrize("document", KEPT.values(), ids=KEPT)
@pytest.mark.parametrize("slash", ["/", "\\/"])
def test_everything_else_stays(document, slash) -> None:
    """Peers' faults 16 and 18: identifiers, canonicals, narrative and look-alike hosts are not ours to change."""
    raw = json.dumps(document).replace("/", slash).encode()
    assert outbound(raw, UP, OURS) == raw
    # Beside a link, where the whole document is looked at, they stay too.
    both = json.dumps({"link": [{"url": f"{UP}/x"}], **document})
    changed = both.replace(f'"{UP}/x"}}]', f'"{OURS}/x"}}]', 1)
    assert outbound(both.replace("/", slash).encode(), UP, OURS).replace(b"\\/", b"/") == changed.encode()


def test_an_untouched_document_is_not_copied() -> None:
    """Most resources of most EHRs have relative references: they cost one scan."""
    raw = json.dumps([document for name, document in KEPT.items() if "DetectedIssue" not in name]).encode()
    assert outbound(raw, UP, OURS) is raw


def test_keys_may_be_escaped() -> None:
    r"""`"refer\u0065nce"` is `reference`, and `"x\"reference"` is not."""
    assert outbound(rb'{"s":{"refer\u0065nce":"http://up:8080/fhir/Patient/1"}}', UP, OURS) == (
        rb'{"s":{"refer\u0065nce":"https://gw.example/fhir/hapi/Patient/1"}}'
    )
    other = rb'{"s":{"x\"reference":"http://up:8080/fhir/Patient/1"}}'
    assert outbound(other, UP, OURS) == other


def test_trailing_slashes_of_bases_do_not_matter() -> None:
    """A base is a base with or without one."""
    raw = b'{"subject":{"reference":"http://up:8080/fhir/Patient/1"}}'
    assert outbound(raw, UP + "/", OURS + "/") == outbound(raw, UP, OURS)


ALIASES = ("https://ehr.example/r4", "http://up:8080/fhir/inner", "https://gw.example/fhir")


def test_an_ehr_behind_a_proxy_is_known_by_its_other_addresses_too() -> None:
    """All at once: of two that begin alike the longer one is meant, and what was put there is not looked at again."""
    refs = (f"{UP}/Patient/1", "https://ehr.example/r4/Patient/2", f"{UP}/inner/Patient/3", "https://gw.example/fhir/Patient/4")
    raw = json.dumps({"entry": [{"reference": ref} for ref in (*refs, "https://ehr.example/r4x/Patient/5")], "value": refs[1]}).encode()
    told = json.loads(outbound(raw, UP, OURS, ALIASES))
    assert [one["reference"] for one in told["entry"]] == [*(f"{OURS}/Patient/{n}" for n in range(1, 5)), "https://ehr.example/r4x/Patient/5"]
    assert told["value"] == refs[1]
    assert outbound(b'{"a":1}', UP, OURS, ALIASES) == b'{"a":1}'


# Inbound


def test_our_own_urls_become_relative() -> None:
    """EHRs refuse absolute references to a server that they are not (seen: HAPI-0507)."""
    raw = b'{"resourceType":"DocumentReference", "subject":{"reference":"%s/Patient/1"},"content":[{"attachment":{"url":"%s/Binary/2"}}]}'
    base = OURS.encode()
    assert inbound.body(raw % (base, base), (OURS,)) == (
        b'{"resourceType":"DocumentReference", "subject":{"reference":"Patient/1"},"content":[{"attachment":{"url":"Binary/2"}}]}'
    )


@pytest.mark.parametrize("rest", ["", "/", "/nothing/1", "/../other/Patient/1", "/metadata", "?x=1", "-other/Patient/1"])
def test_what_names_no_resource_of_ours_stays(rest) -> None:
    """Only a URL of a type is one of ours; the rest is judged as the foreign reference that it is."""
    raw = json.dumps({"subject": {"reference": OURS + rest}}).encode()
    assert inbound.body(raw, (OURS,)) is raw


def test_escaped_slashes_come_off_whole() -> None:
    r"""The separator may be `\/`."""
    raw = b'{"subject":{"reference":"https:\\/\\/gw.example\\/fhir\\/hapi\\/Patient\\/1"}}'
    assert inbound.body(raw, (OURS,)) == b'{"subject":{"reference":"Patient\\/1"}}'


# Any document

NAMES = st.sampled_from(
    [
        *("reference", "url", "fullUrl", "location", "link", "entry", "request", "response", "resource", "contained", "photo", "content", "x\\y"),
        *('q"r', "attachment", "education", "valueExpression", "valueReference", "extension", "identifier", "condition", "trigger", "resourceType"),
    ]
)
TEXTS = st.sampled_from(
    [UP, f"{UP}/Patient/1", f"{UP}?x=1", f"{UP}-other/P/1", f"h{UP}/P/1", f'"reference":"{UP}/P/1"', "\\", '"', "DetectedIssue", "x", "", f"\\{UP}"]
)
DOCUMENTS = st.recursive(
    TEXTS | st.none() | st.integers(0, 9),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(NAMES, inner, max_size=5),
    max_leaves=25,
)
_RESOURCE = {("entry", "resource"), ("parameter", "resource"), ("response", "outcome")}


def _expected(value, holders=("",), member=""):
    """The same rewriting on parsed JSON, written the plain way."""
    if isinstance(value, dict):
        inner = (*holders, member)
        return {name: _text(item, inner, name) if isinstance(item, str) else _expected(item, inner, name) for name, item in value.items()}
    if isinstance(value, list):
        return [_expected(item, holders, member) for item in value]
    return value


def _text(text, holders, name):
    begins = text == UP or text.startswith((UP + "/", UP + "?"))
    around, holder = holders[-2:]
    link = {
        "fullUrl": holder == "entry",
        "url": holder in ATTACHMENTS | {"link", "request"},
        "location": holder == "response",
        "reference": holder not in ("", "contained", "education", "valueExpression")
        and (around, holder) not in _RESOURCE
        and not (holder == "condition" and around == "trigger"),
    }
    return OURS + text[len(UP) :] if begins and link.get(name, False) else text


@given(DOCUMENTS, st.sampled_from([None, 1]), st.booleans())
def test_any_document_is_rewritten_as_its_members_say(document, indent, escaped) -> None:
    """The byte edit does what an edit of the parsed document would do; and putting the old base back gives the old bytes."""
    document = {"resourceType": "DetectedIssue", "value": document}  # always judged in full: the short cut is tested below
    raw = json.dumps(document, indent=indent).replace("/", "\\/" if escaped else "/").encode()
    result = outbound(raw, UP, OURS)
    assert parse(result) == _expected(document)
    assert result.replace(OURS.encode(), UP.replace("/", "\\/" if escaped else "/").encode()) == raw


SIMPLE = st.recursive(
    TEXTS,
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["fullUrl", "reference", "subject", "entry", "system"]), inner, max_size=4)
    ),
    max_leaves=25,
)


@given(SIMPLE, st.sampled_from([None, 3]))
def test_the_short_cut_agrees_with_the_whole_reading(document, indent) -> None:
    """Where a look at the member alone is enough, it finds the references that the whole reading finds."""
    raw = json.dumps({"subject": {"entry": document}}, indent=indent).encode()
    whole = b'{"expression":[],"value":' + raw + b"}"  # a word that makes the whole document be read
    short = {hit.start for hit in hits(raw, UP)}
    full = {hit.start - len(b'{"expression":[],"value":') for hit in hits(whole, UP)}
    # A fullUrl outside an entry and a reference in a resource itself do not occur in FHIR: the short cut takes them.
    assert full <= short


@given(st.binary(max_size=80), st.binary(max_size=80))
def test_bytes_that_are_no_json_do_no_harm(before, after) -> None:
    """Whatever surrounds a URL, rewriting ends without an exception."""
    outbound(before + UP.encode() + b"/Patient/1" + after, UP, OURS)
    assert isinstance(outbound(before + b'"reference":"' + UP.encode() + b'"' + after, UP, OURS), bytes)
