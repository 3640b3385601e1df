"""How a push becomes requests that may be repeated: fixed ids, what is spliced and what stays, and when two writings say the same."""

from __future__ import annotations

import json

import pytest

from gateway.errors import BadRequest
from gateway.fhir import request
from gateway.fhir.interaction import Conditions, Interaction, Kind, Param
from gateway.ingest import plan
from gateway.store.inbox_rows import Entry

JSON = ((b"content-type", b"application/fhir+json"),)


def bundle(*entries: str, kind: str = "transaction") -> Interaction:
    body = f'{{"resourceType":"Bundle", "type":"{kind}",\n "entry":[{",".join(entries)}] }}'.encode()
    return request.parse(method="POST", path="", query=b"", headers=JSON, body=body, own_bases=("https://gw/fhir/hapi",))


def posted(full_url: str, type_: str, rest: str) -> str:
    return f'{{"fullUrl":"{full_url}","resource":{{"resourceType":"{type_}"{rest}}},"request":{{"method":"POST","url":"{type_}"}}}}'


PATIENT = '{"fullUrl":"urn:uuid:p", "resource": {"resourceType":"Patient","active" : true}, "request":{"method":"POST","url":"Patient"}}'
RESULT = (
    '{ "fullUrl":"urn:uuid:o","resource":{"resourceType":"Observation","id":"mine","status":"final","code":{"text":"x"},'
    '"subject":{"reference":"urn:uuid:p"},"note":[{"text":"urn:uuid:p"}],"valueQuantity":{"value":1.10}},'
    '"request":{ "method" :"POST","url":"Observation" } }'
)
UPDATE = (
    '{"resource":{"resourceType":"Patient","id":"p9","link":[{"other":{"reference":"urn:uuid:p"}}]},"request":{"method":"PUT","url":"Patient/p9"}}'
)


def test_a_create_has_an_id_before_the_first_attempt():
    """With a letter in it: HAPI refuses numbers from clients."""
    asked = Interaction(Kind.CREATE, "Observation", body=b'{"resourceType":"Observation"}')
    (entry,) = plan.entries(asked)
    sent = plan.single(asked, entry)
    assert entry.target.startswith("gw")
    assert len(entry.target) == 32
    assert (sent.id, json.loads(sent.body)["id"]) == (entry.target, entry.target)
    assert plan.entries(asked)[0].target != entry.target


def test_a_conditional_create_keeps_its_condition_instead():
    """No id is fixed: the condition finds what an earlier attempt made."""
    asked = Interaction(Kind.CREATE, "Patient", body=b"{}", conditions=Conditions(if_none_exist=(Param("identifier", "", "s|1"),)))
    (entry,) = plan.entries(asked)
    assert entry.target == ""
    assert plan.single(asked, entry) == asked


def test_an_update_goes_to_the_version_that_was_seen():
    """The bytes stay; only the condition is added."""
    asked = Interaction(Kind.UPDATE, "Patient", "p1", body=b'{"id":"p1"}')
    (entry,) = plan.entries(asked)
    sent = plan.single(asked, entry, 'W/"3"')
    assert (entry.target, sent.conditions.if_match, sent.body) == ("p1", 'W/"3"', asked.body)


def test_a_transaction_keeps_every_byte_but_ids_requests_and_references():
    """Creates become puts to fixed ids, references follow, text that looks alike stays, and so does every space and digit."""
    asked = bundle(PATIENT, RESULT, UPDATE)
    rows = (Entry(0, "create", "Patient", "gwp"), Entry(1, "create", "Observation", "gwo"), Entry(2, "update", "Patient", "p9"))
    sent = plan.transaction(asked, rows, {2: 'W/"4"'})

    expected = (
        asked.body.decode()
        .replace('{"resourceType":"Patient","active"', '{"id":"gwp","resourceType":"Patient","active"')
        .replace('{"method":"POST","url":"Patient"}', '{"method":"PUT","url":"Patient/gwp"}')
        .replace('"id":"mine"', '"id":"gwo"')
        .replace('"reference":"urn:uuid:p"', '"reference":"Patient/gwp"')
        .replace('{ "method" :"POST","url":"Observation" }', '{ "method" :"PUT","url":"Observation/gwo" }')
        .replace('{"method":"PUT","url":"Patient/p9"}', '{"ifMatch":"W/\\"4\\"","method":"PUT","url":"Patient/p9"}')
    )
    assert sent.body.decode() == expected
    assert [(part.kind, part.id) for part in sent.entries] == [(Kind.CREATE, "gwp"), (Kind.CREATE, "gwo"), (Kind.UPDATE, "p9")]
    assert json.loads(sent.entries[1].body)["subject"] == {"reference": "Patient/gwp"}


def test_restful_full_urls_resolve_relative_references_of_their_own_base_only():
    """bundle.html#references: a relative reference is read against the fullUrl of the entry it stands in."""
    base = "http://lab.example/r4"
    subject = ',"status":"final","code":{"text":"x"},"subject":{"reference":"Patient/1"}'
    entries = (
        posted(f"{base}/Patient/1", "Patient", ',"id":"1"'),
        posted(f"{base}/Observation/2", "Observation", subject),
        posted("urn:uuid:x", "Observation", subject + f',"performer":[{{"reference":"{base}/Patient/1"}}]'),
    )
    rows = tuple(Entry(n, "create", type_, f"gw{n}") for n, type_ in enumerate(("Patient", "Observation", "Observation")))
    found = json.loads(plan.transaction(bundle(*entries), rows, {}).body)["entry"]

    assert [entry["fullUrl"] for entry in found] == ["http://lab.example/r4/Patient/gw0", "http://lab.example/r4/Observation/gw1", "urn:uuid:x"]
    assert found[1]["resource"]["subject"] == {"reference": "Patient/gw0"}
    assert found[2]["resource"]["subject"] == {"reference": "Patient/1"}, "its own fullUrl is no address: this is the server's Patient/1"
    assert found[2]["resource"]["performer"] == [{"reference": "Patient/gw0"}]


def test_a_conditional_create_within_a_transaction_stays_what_it_is():
    """The EHR resolves it, and the references to it."""
    entry = PATIENT.replace('"url":"Patient"', '"url":"Patient","ifNoneExist":"identifier=s|1"')
    asked = bundle(entry, RESULT)
    rows = plan.entries(asked)
    sent = plan.transaction(asked, rows, {})
    assert rows[0].target == ""
    first, second = json.loads(sent.body)["entry"]
    assert first["request"] == {"method": "POST", "url": "Patient", "ifNoneExist": "identifier=s|1"}
    assert second["resource"]["subject"] == {"reference": "urn:uuid:p"}


def test_an_own_if_match_of_an_entry_passes():
    """The sender's condition is stricter than ours."""
    entry = UPDATE.replace('"url":"Patient/p9"', '"url":"Patient/p9","ifMatch":"W/\\"1\\""')
    sent = plan.transaction(bundle(entry), (Entry(0, "update", "Patient", "p9"),), {0: 'W/"4"'})
    assert json.loads(sent.body)["entry"][0]["request"]["ifMatch"] == 'W/"1"'


def test_one_condition_twice_in_a_transaction_is_refused():
    """FAULT-S19: an EHR would drop one of them silently."""
    entry = '{"resource":{"resourceType":"Patient"},"request":{"method":"POST","url":"Patient","ifNoneExist":"identifier=s|1"}}'
    with pytest.raises(BadRequest) as refused:
        plan.refuse_duplicates(bundle(entry, entry))
    assert (refused.value.issue_code, refused.value.expression) == ("duplicate", "Bundle.entry[1]")
    plan.refuse_duplicates(bundle(entry, entry, kind="batch"))


@pytest.mark.parametrize(
    ("mine", "theirs", "same"),
    [
        ('{"id":"a","value":1.0e3}', '{"meta":{"versionId":"2"},"text":{"div":"x"},"value":1000,"id":"a"}', True),
        ('{"value":1.10}', '{"value":1.1}', True),
        ('{"value":1.10}', '{"value":1.11}', False),
        ('{"status":"final"}', '{"status":"amended"}', False),
        ('{"code":{"text":"a"}}', '{"code":{"text":"b"}}', False),
        ('{"a":[1,2]}', '{"a":[2,1]}', False),
        ('{"a":true}', '{"a":1}', False),
        ('{"s":{"reference":"urn:uuid:p"}}', '{"s":{"reference":"Patient/7"}}', True),
        ('{"s":{"reference":"Patient?identifier=1"}}', '{"s":{"reference":"Patient/7"}}', True),
        ('{"s":{"reference":"Patient/7/_history/2"}}', '{"s":{"reference":"Patient/7"}}', True),
        ('{"s":{"reference":"Patient/7"}}', '{"s":{"reference":"Patient/8"}}', False),
        ('{"a":1,"b":2}', '{"a":1}', False),
    ],
)
def test_two_writings_say_the_same(mine, theirs, same):
    """Apart from what servers write themselves; an unsettled update is only called ours when it is."""
    assert plan.same_content(mine.encode(), theirs.encode()) is same


@pytest.mark.parametrize(("etag", "number"), [('W/"3"', 3), ('"12"', 12), ('W/"a1"', None), ("", None), ('W/"-1"', None)])
def test_the_number_of_a_version(etag, number):
    """None where versions cannot be counted."""
    assert plan.version_number(etag) == number
