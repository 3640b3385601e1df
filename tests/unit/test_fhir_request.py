"""gateway.fhir.request: one parse of a request; what could be read in two ways is refused before an EHR hears of it."""

from __future__ import annotations

import json
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import BadRequest, FhirError, Unprocessable
from gateway.fhir import query
from gateway.fhir.interaction import Conditions, Interaction, Kind, Param, Prefer
from gateway.fhir.request import parse
from gateway.fhir.search import render

BASE = "https://gw.example/fhir/hapi"
JSON = {"content-type": "application/fhir+json"}
FORM = {"content-type": "application/x-www-form-urlencoded"}
OBSERVATION = b'{"resourceType":"Observation","status":"final","code":{"text":"x"},"valueQuantity":{"value":1.10}}'


def ask(method: str, path: str, query: bytes = b"", body: bytes = b"", headers: dict[str, str] | None = None) -> Interaction:
    pairs = [(name.encode(), value.encode("latin-1")) for name, value in (headers or {}).items()]
    return parse(method=method, path=path, query=query, headers=pairs, body=body, own_bases=(BASE,))


def refusal(*args, **kwargs) -> FhirError:
    with pytest.raises(FhirError) as caught:
        ask(*args, **kwargs)
    return caught.value


# What is offered


def test_a_read() -> None:
    """GET [type]/[id]; HEAD is a GET without a body."""
    assert ask("GET", "Patient/A.1-x") == Interaction(Kind.READ, "Patient", "A.1-x")
    assert ask("HEAD", "Patient/A") == ask("GET", "Patient/A")


def test_a_version_read() -> None:
    """GET [type]/[id]/_history/[vid]."""
    assert ask("GET", "Patient/A/_history/3") == Interaction(Kind.VREAD, "Patient", "A", "3")


def test_a_search() -> None:
    """Parameters in order, repeats kept, decoded once, result formats gone."""
    found = ask("GET", "Observation", b"date=ge2020&date=le2021&code:not=http%3A%2F%2Floinc.org%7C1-8,a%5C%2Cb&_format=json&_pretty=true&_count=5")
    assert found.params == (
        Param("date", "", "ge2020"),
        Param("date", "", "le2021"),
        Param("code", "not", "http://loinc.org|1-8,a\\,b"),
        Param("_count", "", "5"),
    )


def test_a_search_by_form() -> None:
    """POST _search: the parameters of the URL and of the body are one search (ATK-F11)."""
    found = ask("POST", "Observation/_search", b"patient=A", b"patient=B&code=x+y", {**FORM, "content-type": FORM["content-type"] + ";charset=UTF-8"})
    assert found == Interaction(Kind.SEARCH, "Observation", params=(Param("patient", "", "A"), Param("patient", "", "B"), Param("code", "", "x y")))
    assert ask("POST", "Observation/_search", b"patient=A").params == (Param("patient", "", "A"),)


def test_a_page() -> None:
    """Our own page links carry everything; nothing beside them counts, and what would ask for something is refused (ATK-F15)."""
    for link in (b"_page=aB-_9", b"_page=aB-_9&_count=1000"):
        assert ask("GET", "Observation", link) == Interaction(Kind.SEARCH, "Observation", page="aB-_9")
    for altered in (b"_page=a&patient=B", b"_page=a&_page=b", b"_page:not=a", b"_page=a.b", b"_page=a%3D"):
        assert refusal("GET", "Observation", altered).reason == "page-altered"


def test_a_create() -> None:
    """The caller's bytes go on as they are."""
    sent = {**JSON, "if-none-exist": "identifier=s%7C1&status=final", "prefer": "return=minimal; handling=strict, respond-async"}
    assert ask("POST", "Observation", body=OBSERVATION, headers=sent) == Interaction(
        Kind.CREATE,
        "Observation",
        body=OBSERVATION,
        conditions=Conditions(if_none_exist=(Param("identifier", "", "s|1"), Param("status", "", "final"))),
        prefer=Prefer("minimal", respond_async=True),
    )


def test_an_update() -> None:
    """PUT with the version that it replaces."""
    body = b'\n{"resourceType":"Observation", "id":"o1","status":"final"}\n'
    found = ask("PUT", "Observation/o1", body=body, headers={"content-type": "application/json; charset=utf-8", "if-match": '"3"'})
    assert found == Interaction(Kind.UPDATE, "Observation", "o1", body=body, conditions=Conditions(if_match='W/"3"'))


def test_own_urls_become_relative() -> None:
    """In parameters, conditions and bodies; the names of systems and definitions stay (EHRs refuse foreign absolute references)."""
    found = ask(
        "GET", "Observation", f"patient={BASE}/Patient/A,Patient/B&subject={quote_plus(BASE + '/Patient/A')}&identifier={BASE}/Patient/A".encode()
    )
    assert [param.value for param in found.params] == ["Patient/A,Patient/B", "Patient/A", f"{BASE}/Patient/A"]
    stays = ask("GET", "Observation", f"code={BASE}/CodeSystem/x|1&patient={BASE}-other/Patient/A&subject={BASE}/Patient/A?x=1".encode())
    assert [param.value for param in stays.params] == [f"{BASE}/CodeSystem/x|1", f"{BASE}-other/Patient/A", f"{BASE}/Patient/A?x=1"]
    body = b'{"resourceType":"Observation","status":"final","identifier":[{"system":"%b/x"}],"subject":{"reference":"%b/Patient/A"}}'
    own = BASE.encode()
    assert ask("POST", "Observation", body=body % (own, own), headers=JSON).body == body.replace(b"%b/P", b"P") % own


def test_a_byte_order_mark_comes_off() -> None:
    """FAULT-S7: accepted, and not passed on."""
    assert ask("POST", "Observation", body=b"\xef\xbb\xbf" + OBSERVATION, headers=JSON).body == OBSERVATION


def test_conditional_reads() -> None:
    """If-None-Match as sent; an If-Modified-Since that is no date is ignored."""
    sent = {"if-none-match": 'W/"1", "2"', "if-modified-since": "Tue, 24 Nov 2026 10:00:00 GMT"}
    assert ask("GET", "Patient/A", headers=sent).conditions == Conditions("", 'W/"1", "2"', "Tue, 24 Nov 2026 10:00:00 GMT")
    assert ask("GET", "Patient/A", headers={"if-modified-since": "yesterday"}).conditions == Conditions()


# Paths

PATHS = {
    "ATK-F14 dots": ("Patient/../Patient/B", 400),
    "ATK-F14 dots at the end": ("Patient/..", 400),
    "ATK-F14 one dot": ("Patient/./B", 400),
    "ATK-F14 three dots": ("Patient/...", 400),
    "ATK-F14 encoded dots": ("Patient/%2e%2e/B", 400),
    "ATK-F14 encoded slash": ("Patient%2FB", 400),
    "ATK-F14 double slash": ("Patient//B", 400),
    "ATK-F14 leading slash": ("/Patient/B", 400),
    "ATK-F14 trailing slash": ("Patient/B/", 400),
    "ATK-F14 matrix parameter": ("Patient/B;x=1", 400),
    "ATK-F14 dots and semicolon": ("Patient/..;/B", 400),
    "ATK-F14 NUL": ("Patient/B%00", 400),
    "ATK-F14 backslash": ("Patient\\B", 400),
    "ATK-F14 encoded type": ("%50atient/B", 400),
    "ATK-F14 encoded twice": ("Patient/%252e%252e/B", 400),
    "ATK-F14 space": ("Patient/B ", 400),
    "ATK-F14 line feed": ("Patient/B\n", 400),
    "ATK-F14 letters beyond ASCII": ("Patient/\u017f", 400),
    "ATK-F14 case": ("patient/B", 404),
    "ATK-F14 unknown type": ("Person2/B", 404),
    "ATK-F14 too long an id": ("Patient/" + "a" * 65, 404),
    "ATK-F14 no id": ("Patient/a_b", 404),
    "ATK-F14 no version": ("Patient/A/_history/a_b", 404),
    "ATK-F7 system operation": ("$export", 501),
    "ATK-F7 type operation": ("Patient/$match", 501),
    "ATK-F7 instance operation": ("Patient/A/$everything", 501),
    "ATK-F7 unknown operation": ("Patient/A/$x", 501),
    "ATK-F7 operation of a version": ("Patient/A/_history/1/$meta", 501),
    "ATK-F8 system history": ("_history", 403),
    "ATK-F8 type history": ("Patient/_history", 403),
    "ATK-F8 instance history": ("Patient/B/_history", 403),
    "ATK-F8 compartment": ("Patient/B/Observation", 403),
    "ATK-F8 whole compartment": ("Patient/B/*", 403),
    "ATK-F5 everything": ("", 400),
    "ATK-F5 system search": ("_search", 400),
    "search without a form": ("Patient/_search", 405),
    "nothing there": ("Patient/A/b", 404),
    "deeper than FHIR": ("Patient/A/_history/1/2", 404),
}


@pytest.mark.parametrize(("path", "status"), PATHS.values(), ids=PATHS)
def test_paths_that_are_not_offered(path, status) -> None:
    """Each is refused with its status, a sentence and a code of the required value set."""
    error = refusal("GET", path)
    assert error.status == status
    assert error.message.endswith(".")


def test_foreign_and_impossible_ids_look_alike() -> None:
    """ATK-F1: an id that cannot exist gets the very words of one that does not."""
    error = refusal("GET", "Patient/a_b")
    assert (error.message, error.issue_code) == ("There is no such resource.", "not-found")


METHODS = {
    "patch of what it is not said": ("PATCH", "Patient/A", b"", 415),
    "ATK-F12 cascading delete": ("DELETE", "Patient/A", b"_cascade=delete", 400),
    "patch of everything": ("PATCH", "Patient", b"", 405),
    "delete of everything": ("DELETE", "Patient", b"", 405),
    "delete of what cannot be there": ("DELETE", "Patient/a_b", b"", 404),
    "post to an instance": ("POST", "Patient/A", b"", 405),
    "put to a type": ("PUT", "Patient", b"", 405),
    "put to a version": ("PUT", "Patient/A/_history/1", b"", 405),
    "put to the base": ("PUT", "", b"", 405),
    "post to metadata": ("POST", "metadata", b"", 405),
    "lower case": ("get", "Patient/A", b"", 405),
    "unknown": ("PURGE", "Patient/A", b"", 405),
    "ATK-F8 deleted history": ("DELETE", "Patient/A/_history", b"", 403),
}


@pytest.mark.parametrize(("method", "path", "text", "status"), METHODS.values(), ids=METHODS)
def test_methods_that_are_not_offered(method, path, text, status) -> None:
    """Default deny, with a sentence."""
    assert refusal(method, path, text).status == status


PATCH = {"content-type": "application/json-patch+json"}


def test_changes_by_id_and_by_condition() -> None:
    """Without an id the parameters say which; a patch is written anew with our own links relative."""
    steps = b'[{"op":"add","path":"/subject/reference","value":"https://gw.example/fhir/hapi/Patient/A"}]'
    assert ask("DELETE", "Observation/o", headers={"if-match": 'W/"3"'}) == Interaction(
        Kind.DELETE, "Observation", "o", conditions=Conditions(if_match='W/"3"')
    )
    found = ask("PATCH", "Observation", b"identifier=x", steps, PATCH)
    assert found == Interaction(
        Kind.PATCH, "Observation", params=(Param("identifier", "", "x"),), body=b'[{"op":"add","path":"/subject/reference","value":"Patient/A"}]'
    )
    assert found.by_condition
    updated = ask("PUT", "Observation", b"identifier=x", OBSERVATION, JSON)
    assert (updated.kind, updated.id, updated.by_condition, updated.body) == (Kind.UPDATE, "", True, OBSERVATION)
    assert not ask("PATCH", "Observation/o", b"", steps, PATCH).by_condition


BAD_CHANGES = {
    "a body on a delete": ("DELETE", b"", OBSERVATION, JSON),
    "FHIRPath Patch": ("PATCH", b"", b'{"resourceType":"Parameters"}', JSON),
    "no patch": ("PATCH", b"", b"{}", PATCH),
    "HAPI's cascade": ("DELETE", b"", b"", {"x-cascade": "delete"}),
    "If-None-Exist on a patch": ("PATCH", b"", b'[{"op":"remove","path":"/note"}]', {**PATCH, "if-none-exist": "identifier=x"}),
    "parameters beside an id": ("PATCH", b"identifier=x", b'[{"op":"remove","path":"/note"}]', PATCH),
}


@pytest.mark.parametrize(("method", "text", "body", "headers"), BAD_CHANGES.values(), ids=BAD_CHANGES)
def test_changes_that_are_not_understood(method, text, body, headers) -> None:
    """ATK-F12: refused before anything is asked of an EHR."""
    assert refusal(method, "Observation/o", text, body, headers).status in (400, 415)


@pytest.mark.parametrize("name", ["x-http-method-override", "x-http-method", "x-method-override"])
def test_methods_are_not_taken_from_headers(name) -> None:
    """ATK-F11."""
    assert refusal("POST", "Patient/_search", headers={name: "DELETE", **FORM}).reason == "method-override"


def test_a_get_takes_no_body() -> None:
    """ATK-F24: one server reads it, another does not."""
    assert refusal("GET", "Patient", body=b"_id=B").status == 400


@pytest.mark.parametrize("path", ["Patient/A", "Patient/A/_history/1", "metadata"])
@pytest.mark.parametrize("text", [b"_summary=true", b"_elements=name", b"_method=DELETE", b"patient=B", b"x=/metadata"])
def test_reads_take_no_parameters(path, text) -> None:
    """They would change the resource, or mean something elsewhere (peers' fault 1)."""
    assert refusal("GET", path, text).status == 400


def test_an_address_in_a_parameter_is_no_path() -> None:
    """Peers' fault 1: `Patient?x=/metadata` is a search."""
    assert ask("GET", "Patient", b"x=/metadata").kind is Kind.SEARCH
    assert ask("GET", "metadata").kind is Kind.CAPABILITIES


# Queries

QUERIES = {
    "bad escape": b"name=%zz",
    "cut escape": b"name=a%2",
    "overlong": b"name=%c0%af",
    "not UTF-8": b"name=%ff",
    "surrogate": b"name=%ed%a0%80",
    "raw UTF-8": "name=é".encode(),
    "NUL": b"name=a%00b",
    "line feed": b"name=a%0Ab",
    "semicolon": b"name=a;_id=B",
    "encoded twice: ampersand (fault 23)": b"patient=A%2526subject=B",
    "encoded twice: comma": b"patient=A%252CB",
    "encoded twice: bar": b"code=s%257C1",
    "encoded twice: name": b"%2570atient=B",
    "brackets (ATK-F2)": b"patient[]=B",
    "encoded brackets": b"patient%5B%5D=B",
    "no name": b"=B",
    "no value": b"patient",
    "empty value": b"patient=",
    "empty modifier": b"patient:=B",
    "spaces in the name": b"pat+ient=B",
    "hash": b"name=a#b",
    "quote": b'name="a"',
}


@pytest.mark.parametrize("text", QUERIES.values(), ids=QUERIES)
def test_queries_that_two_readers_could_understand_differently(text) -> None:
    """ATK-F24, in the URL, in a form and in a condition alike."""
    assert refusal("GET", "Patient", text).reason == "query-malformed"
    assert refusal("POST", "Patient/_search", body=text, headers=FORM).reason == "query-malformed"
    if text.isascii():
        assert refusal("POST", "Observation", body=OBSERVATION, headers={**JSON, "if-none-exist": text.decode()}).reason == "query-malformed"


def test_encoded_names_are_the_names_that_they_are() -> None:
    """ATK-F2: `%70atient` is `patient`, and judged as it; mixed case of escapes means nothing."""
    assert ask("GET", "Observation", b"%70atient=B&code=a%7cb&code=a%7Cb").params == (
        Param("patient", "", "B"),
        Param("code", "", "a|b"),
        Param("code", "", "a|b"),
    )


def test_an_encoded_ampersand_stays_in_its_value() -> None:
    """Peers' fault 23: decoded once, it is part of a value; what goes to the EHR encodes it again."""
    found = ask("GET", "Observation", b"code=x%26subject%3DPatient%2FA")
    assert found.params == (Param("code", "", "x&subject=Patient/A"),)
    assert render(found.params) == "code=x%26subject%3DPatient/A"


def test_modifiers_and_chains_are_kept_for_the_policy() -> None:
    """`_has`, chains and iterating includes are told apart by name and modifier (fault 14: `_include:iterate` is an `_include`)."""
    found = ask("GET", "Patient", b"_has:Observation:patient:code=1&subject:Patient.name=x&patient.name=x&_include:iterate=*")
    assert [(param.name, param.modifier) for param in found.params] == [
        ("_has", "Observation:patient:code"),
        ("subject", "Patient.name"),
        ("patient.name", ""),
        ("_include", "iterate"),
    ]


def test_too_much_is_too_much() -> None:
    """Bounds on what one query costs."""
    assert refusal("GET", "Patient", b"&".join([b"name=a"] * 257)).issue_code == "too-costly"
    assert refusal("GET", "Patient", b"name=" + b"a" * 9000).issue_code == "too-long"


PARAMS = st.lists(
    st.builds(
        Param,
        st.from_regex(r"\A[a-z][a-z\-]{0,8}\Z"),
        st.sampled_from(["", "not", "Patient", "missing"]),
        st.text(st.characters(codec="utf-8", min_codepoint=0x20, exclude_characters="%\x7f"), min_size=1, max_size=12),
    ),
    max_size=5,
)


@given(PARAMS, st.booleans())
def test_a_query_is_rebuilt_as_it_was_understood(params, plus) -> None:
    """Whatever was accepted serialises to a query that is understood the same (ATK-F24)."""
    encode = quote_plus if plus else quote
    sent = "&".join(f"{encode(param.key, safe=':')}={encode(param.value, safe='')}" for param in params).encode()
    understood = query.parse(sent)
    assert understood == tuple(params)
    assert query.parse(render(understood).encode()) == understood


@given(st.binary(max_size=60))
def test_any_query_is_understood_or_refused(data) -> None:
    """No bytes raise anything else, and whatever is accepted is stable."""
    try:
        understood = query.parse(data)
    except BadRequest:
        return
    assert query.parse(render(understood).encode()) == understood


@given(st.text(max_size=30), st.sampled_from(["GET", "PUT", "POST", "DELETE", "HEAD"]))
def test_any_path_is_understood_or_refused(path, method) -> None:
    """And what is understood is put together again to just that path."""
    try:
        found = ask(method, path, headers=JSON)
    except FhirError:
        return
    parts = [found.type, found.id, *(("_history", found.version) if found.version else ())]
    assert path in ("/".join(part for part in parts if part), "metadata", f"{found.type}/_search")


# Media types

TAKEN = ["", "*/*", "application/*", "application/fhir+json", "application/json", "text/html, */*;q=0.1", "application/fhir+json; fhirVersion=4.0"]
NOT_TAKEN = [
    "application/fhir+xml",
    "text/html",
    "application/fhir+json;q=0",
    "application/fhir+json; fhirVersion=3.0",
    "application/fhir+turtle",
    "x",
]


@pytest.mark.parametrize("accept", TAKEN)
def test_json_for_those_who_take_it(accept) -> None:
    """Accept with ranges, weights and parameters."""
    assert ask("GET", "Patient/A", headers={"accept": accept}).kind is Kind.READ


@pytest.mark.parametrize("accept", NOT_TAKEN)
def test_406_for_those_who_do_not(accept) -> None:
    """FAULT-S13."""
    assert refusal("GET", "Patient/A", headers={"accept": accept}).status == 406


def test_the_format_parameter_overrides_accept() -> None:
    """Browsers cannot set headers; `+` in it is a space once decoded."""
    for text in (b"_format=json", b"_format=application/fhir+json", b"_format=application%2Ffhir%2Bjson", b"_format=application/json"):
        assert ask("GET", "Patient", text, headers={"accept": "text/html"}).params == ()
    for text in (b"_format=xml", b"_format=application/fhir%2Bxml", b"_format=json&_format=xml", b"_format=ttl"):
        assert refusal("GET", "Patient", text).status == 406
    assert refusal("POST", "Patient/_search", body=b"_format=xml", headers=FORM).status == 406


@pytest.mark.parametrize(
    "kind",
    [
        "",
        "text/plain",
        "application/fhir+xml",
        "application/json; charset=utf-16",
        "application/fhir+json;fhirVersion=3.0",
        "application/json-patch+json",
    ],
)
def test_415_for_bodies_of_other_kinds(kind) -> None:
    """FAULT-S13, ATK-F24: a form on create too."""
    for kind_ in (kind, FORM["content-type"]):
        assert refusal("POST", "Observation", body=OBSERVATION, headers={"content-type": kind_}).status == 415
        assert refusal("PUT", "Observation/1", body=OBSERVATION, headers={"content-type": kind_}).status == 415
        assert refusal("POST", "", body=b"{}", headers={"content-type": kind_}).status == 415


def test_415_for_a_resource_on_search() -> None:
    """Peers' fault 21: a JSON body passed the check for creates and ran as a search of anybody."""
    for kind in ("application/fhir+json", "application/json", "text/plain", ""):
        assert refusal("POST", "Observation/_search", body=OBSERVATION, headers={"content-type": kind}).status == 415
    assert refusal("POST", "Observation/_search", body=OBSERVATION, headers=FORM).status == 400


def test_two_content_types_are_none() -> None:
    """One reader takes the first, another the last."""
    with pytest.raises(FhirError) as caught:
        parse(
            method="POST",
            path="Observation",
            query=b"",
            headers=[(b"content-type", b"application/json"), (b"content-type", b"text/plain")],
            body=OBSERVATION,
            own_bases=(BASE,),
        )
    assert caught.value.reason == "header-repeated"


# Writes

BODIES = {
    "nothing": (b"", 400, "structure"),
    "a list": (b"[]", 400, "structure"),
    "a string": (b'"x"', 400, "structure"),
    "another type": (b'{"resourceType":"Patient"}', 400, "invalid"),
    "no type": (b"{}", 400, "invalid"),
    "two types": (b'{"resourceType":"Observation","resourceType":"Patient"}', 400, "structure"),
    "nested too deep": (b'{"resourceType":"Observation","a":' + b"[" * 64 + b"]" * 64 + b"}", 400, "too-costly"),
    "a number without end": (b'{"resourceType":"Observation","a":1e999}', 400, "too-costly"),
    "a wrong code": (b'{"resourceType":"Observation","status":"bogus"}', 422, "code-invalid"),
    "no status": (b'{"resourceType":"Observation"}', 422, "required"),
    "an empty list": (b'{"resourceType":"Observation","status":"final","note":[]}', 422, "structure"),
    "ATK-F12 dots in a reference": (b'{"resourceType":"Observation","status":"final","subject":{"reference":"Patient/A/../B"}}', 422, "value"),
}


@pytest.mark.parametrize(("body", "status", "code"), BODIES.values(), ids=BODIES)
def test_bodies_that_are_refused(body, status, code) -> None:
    """Before any EHR hears of them, and with the right issue code."""
    error = refusal("POST", "Observation", body=body, headers=JSON)
    assert (error.status, error.issue_code) == (status, code)


@pytest.mark.parametrize("member", ["", '"id":"o2",', '"id":1,', '"id":null,'])
def test_an_update_says_one_id(member) -> None:
    """ATK-F12: the id in the body is there and is the one in the path."""
    body = f'{{"resourceType":"Observation",{member}"status":"final"}}'.encode()
    assert refusal("PUT", "Observation/o1", body=body, headers=JSON).reason == "id-mismatch"


@pytest.mark.parametrize("tag", ['W/"1", W/"2"', "*", "3", 'W/"a b"', 'W/"1\r\nX: y"', '""'])
def test_if_match_is_one_version(tag) -> None:
    """What would go to the EHR is made of a FHIR id and nothing else."""
    body = b'{"resourceType":"Observation","id":"o1","status":"final"}'
    assert refusal("PUT", "Observation/o1", body=body, headers={**JSON, "if-match": tag}).reason == "if-match"


def test_if_none_match_on_an_update_is_kept() -> None:
    """`*` means: only if there is none."""
    body = b'{"resourceType":"Observation","id":"o1","status":"final"}'
    assert ask("PUT", "Observation/o1", body=body, headers={**JSON, "if-none-match": "*"}).conditions.if_none_match == "*"
    assert refusal("PUT", "Observation/o1", body=body, headers={**JSON, "if-none-match": "1"}).reason == "if-none-match"


def test_an_update_has_an_id_to_be_stored_under() -> None:
    """Nothing can be put where no id is."""
    assert refusal("PUT", "Observation/a_b", body=OBSERVATION, headers=JSON).reason == "id-malformed"


def test_a_condition_is_ascii() -> None:
    """A header in another encoding is read differently by different servers."""
    assert refusal("POST", "Observation", body=OBSERVATION, headers={**JSON, "if-none-exist": "code=\u00e9"}).reason == "if-none-exist"


def test_writes_take_no_parameters() -> None:
    """Nothing beside the body says what is written (ATK-F10, `_cascade`)."""
    for text in (b"identifier=x", b"_cascade=delete", b"_method=GET"):
        assert refusal("POST", "Observation", text, OBSERVATION, JSON).status == 400
        assert refusal("PUT", "Observation/1", text, OBSERVATION, JSON).status == 400
        assert refusal("POST", "", text, b"{}", JSON).status == 400


def test_if_none_exist_belongs_to_creates() -> None:
    """A condition of another type, or on an update, is none (ATK-F26); a leading question mark or the type itself is taken off."""
    body = b'{"resourceType":"Observation","id":"o1","status":"final"}'
    assert refusal("PUT", "Observation/o1", body=body, headers={**JSON, "if-none-exist": "a=b"}).reason == "if-none-exist"
    for text in ("code=x", "?code=x", "Observation?code=x"):
        assert ask("POST", "Observation", body=OBSERVATION, headers={**JSON, "if-none-exist": text}).conditions.if_none_exist == (
            Param("code", "", "x"),
        )
    assert refusal("POST", "Observation", body=OBSERVATION, headers={**JSON, "if-none-exist": "Patient?_id=B"}).status == 400


# Bundles


def bundle(*entries: object, kind: str = "transaction", **more: object) -> bytes:
    return json.dumps({"resourceType": "Bundle", "type": kind, **more, "entry": list(entries)}).encode()


def entry(method: str = "POST", url: str = "Observation", resource: object = None, full_url: str = "", **more: str) -> dict[str, object]:
    made: dict[str, object] = {"fullUrl": full_url} if full_url else {}
    given = {"resourceType": "Observation", "status": "final"} if resource is None else resource
    return {**made, "resource": given, "request": {"method": method, "url": url, **more}}


def post(body: bytes) -> Interaction:
    return ask("POST", "", body=body, headers=JSON)


def test_a_transaction_is_its_entries() -> None:
    """Each entry is an Interaction, with the bytes of its resource."""
    first, second = '{ "resourceType":"Observation","status":"final","valueQuantity":{"value":1.10} }', '{"resourceType":"Patient","id":"p1"}'
    body = (
        '{"resourceType":"Bundle","type":"transaction","entry":[{"fullUrl":"urn:uuid:1","resource":FIRST,"request":{"method":"POST",'
        '"url":"Observation","ifNoneExist":"code=x"}},\n{"resource":SECOND,"request":{"method":"PUT","url":"Patient/p1","ifMatch":"W/\\"2\\""}}]}'
    )
    body = body.replace("FIRST", first).replace("SECOND", second).encode()
    found = post(body)
    assert (found.kind, found.body) == (Kind.TRANSACTION, body)
    assert found.entries == (
        Interaction(
            Kind.CREATE,
            "Observation",
            body=first.encode(),
            conditions=Conditions(if_none_exist=(Param("code", "", "x"),)),
            full_url="urn:uuid:1",
        ),
        Interaction(Kind.UPDATE, "Patient", "p1", body=second.encode(), conditions=Conditions('W/"2"')),
    )


def test_own_urls_in_a_bundle_become_relative() -> None:
    """In the body that goes on and in the entries alike."""
    resource = {"resourceType": "Observation", "id": "o1", "status": "final", "subject": {"reference": f"{BASE}/Patient/A"}}
    found = post(bundle(entry("PUT", f"{BASE}/Observation/o1", resource, f"{BASE}/Observation/o1"), kind="batch"))
    assert BASE.encode() not in found.body
    assert (found.entries[0].target, found.entries[0].full_url) == ("Observation/o1", "Observation/o1")
    assert json.loads(found.entries[0].body)["subject"] == {"reference": "Patient/A"}


ENTRIES = {
    "ATK-F9 read": (entry("GET", "Patient/B"), 400),
    "ATK-F9 search": (entry("GET", "Patient?_id=B"), 400),
    "ATK-F9 delete": (entry("DELETE", "Patient/B"), 400),
    "ATK-F9 patch in a Binary": (entry("PATCH", "Patient/B", {"resourceType": "Binary"}), 400),
    "ATK-F9 lower-case verb": (entry("post"), 400),
    "ATK-F9 foreign URL": (entry("PUT", "http://evil/fhir/Observation/1"), 400),
    "ATK-F9 dots": (entry("PUT", "Observation/../Patient/B"), 400),
    "ATK-F9 leading slash": (entry("PUT", "/Observation/1"), 400),
    "ATK-F9 encoded": (entry("PUT", "Observation%2F1"), 400),
    "ATK-F9 fragment": (entry("PUT", "Observation/1#x"), 400),
    "ATK-F9 conditional update": (entry("PUT", "Observation?identifier=x"), 400),
    "ATK-F9 operation": (entry("POST", "Patient/$match"), 400),
    "ATK-F9 operation at the base": (entry("POST", "$process-message"), 400),
    "ATK-F9 search by post": (entry("POST", "Observation/_search"), 400),
    "ATK-F9 bad condition": (entry(ifNoneExist="a=%zz"), 400),
    "ATK-F9 doubly encoded condition (fault 23)": (entry(ifNoneExist="code=x%2526subject=A"), 400),
    "ATK-F9 bad version": (entry("PUT", "Observation/1", {"resourceType": "Observation", "id": "1"}, ifMatch="*"), 400),
    "no resource": ({"request": {"method": "POST", "url": "Observation"}}, 400),
    "no request": ({"resource": {"resourceType": "Observation"}}, 400),
    "no url": (entry(url=""), 400),
    "another type": (entry("POST", "Patient"), 400),
    "another id": (entry("PUT", "Observation/1", {"resourceType": "Observation", "id": "2"}), 400),
    "no id": (entry("PUT", "Observation/1"), 400),
    "unknown type": (entry("POST", "Nothing"), 400),
    "a wrong code": (entry(resource={"resourceType": "Observation", "status": "bogus"}), 422),
    "no object": ("x", 400),
    "request that is a list": ({"resource": {}, "request": []}, 400),
    "method that is a number": ({"resource": {}, "request": {"method": 1, "url": "Observation"}}, 400),
    "resource that is a list": ({"resource": [], "request": {}}, 400),
}


@pytest.mark.parametrize("kind", ["transaction", "batch"])
@pytest.mark.parametrize(("bad", "status"), ENTRIES.values(), ids=ENTRIES)
def test_a_bad_entry_refuses_the_bundle(bad, status, kind) -> None:
    """FAULT-S18: nothing of it goes on, and the answer says which entry is meant."""
    error = refusal("POST", "", body=bundle(entry(), bad, entry(), kind=kind), headers=JSON)
    assert error.status == status
    assert error.expression.startswith("Bundle.entry[1]")


def test_issues_of_an_entry_say_where_it_stands() -> None:
    """The path of each issue begins at the Bundle."""
    error = refusal("POST", "", body=bundle(entry(), entry(resource={"resourceType": "Observation", "status": "x", "note": []})), headers=JSON)
    assert isinstance(error, Unprocessable)
    assert [issue["expression"] for issue in error.issues] == [["Bundle.entry[1].resource.status"], ["Bundle.entry[1].resource.note"]]


@pytest.mark.parametrize("kind", ["message", "document", "collection", "history", "searchset", "transaction-response", "x"])
def test_other_bundles_are_not_taken(kind) -> None:
    """ATK-F9."""
    assert refusal("POST", "", body=bundle(kind=kind), headers=JSON).reason == "bundle-type"


@pytest.mark.parametrize(
    "body", [b"[]", b"{}", b'{"resourceType":"Patient"}', b'{"resourceType":"Bundle"}', b'{"resourceType":"Bundle","type":"batch","entry":{}}']
)
def test_what_is_no_bundle_is_not_taken(body) -> None:
    """400 with code structure."""
    assert refusal("POST", "", body=body, headers=JSON).issue_code == "structure"


def test_one_identity_has_one_entry() -> None:
    """FAULT-S19: in a transaction; the entries of a batch are independent, but a fullUrl is one resource's all the same."""
    same = entry("PUT", "Observation/1", {"resourceType": "Observation", "id": "1", "status": "final"})
    assert refusal("POST", "", body=bundle(same, same), headers=JSON).issue_code == "duplicate"
    assert len(post(bundle(same, same, kind="batch")).entries) == 2
    twice = entry(full_url="urn:uuid:1")
    assert refusal("POST", "", body=bundle(twice, twice, kind="batch"), headers=JSON).issue_code == "duplicate"


def test_an_empty_transaction_is_one() -> None:
    """R4 allows it."""
    assert post(b'{"resourceType":"Bundle","type":"transaction"}').entries == ()
