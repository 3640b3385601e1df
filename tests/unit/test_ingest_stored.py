"""What the inbox keeps sealed, and the Bundles that senders are answered with."""

from __future__ import annotations

import json

import pytest

from gateway.errors import Unprocessable
from gateway.fhir.interaction import Interaction, Kind
from gateway.ingest import stored
from gateway.ingest.stored import StoredAnswer, Vault
from gateway.seal import SealBroken, Sealer
from gateway.store.inbox_rows import Entry

VAULT = Vault(Sealer((b"k" * 32,)))
BASE = "https://gw/fhir/hapi"


def test_a_request_comes_back_as_it_was_understood():
    """Path and method from what was parsed, the body byte for byte, the headers that its meaning depends on."""
    headers = ((b"content-type", b"application/fhir+json"), (b"authorization", b"Bearer secret"), (b"if-match", b'W/"3"'))
    asked = Interaction(Kind.UPDATE, "Patient", "p1")
    kept = stored.request_of(asked, headers, b' {"resourceType":"Patient","id":"p1"}\n')
    again = VAULT.request("m1", VAULT.close("m1", kept))
    assert again == kept
    parsed = again.parse((BASE,))
    assert (parsed.kind, parsed.target, parsed.conditions.if_match) == (Kind.UPDATE, "Patient/p1", 'W/"3"')
    assert b"secret" not in b"".join(value for _, value in kept.headers)


@pytest.mark.parametrize(("kind", "path"), [(Kind.CREATE, "Patient"), (Kind.TRANSACTION, ""), (Kind.BATCH, "")])
def test_where_it_was_sent(kind, path):
    """A create to its type, a Bundle to the base."""
    found = stored.request_of(Interaction(kind, "Patient" if kind is Kind.CREATE else ""), (), b"")
    assert (found.method, found.path) == ("POST", path)


def test_what_was_sealed_for_one_message_does_not_open_for_another():
    """Nor an answer as a request."""
    sealed = VAULT.close("m1", StoredAnswer(200))
    assert VAULT.answer("m1", sealed).status == 200
    for attempt in (lambda: VAULT.answer("m2", sealed), lambda: VAULT.request("m1", sealed)):
        with pytest.raises(SealBroken):
            attempt()


def test_a_response_entry_keeps_the_bytes_of_a_resource():
    """`1.10` stays; an outcome stands in the response."""
    answer = StoredAnswer(201, (("Location", f"{BASE}/Observation/o1/_history/1"), ("ETag", 'W/"1"')), b'{"resourceType":"Observation","x": 1.10}')
    entry = stored.response_entry(answer, BASE)
    assert entry == (
        b'{"resource":{"resourceType":"Observation","x": 1.10},"response":{"status":"201","location":"Observation/o1/_history/1","etag":"W/\\"1\\""}}'
    )
    refused = json.loads(stored.response_entry(stored.refusal(Unprocessable(), "r1")))
    assert (refused["response"]["status"], refused["response"]["outcome"]["issue"][0]["diagnostics"]) == ("422", "request r1")
    assert "resource" not in refused


def test_a_transaction_of_an_earlier_attempt_is_told_entry_by_entry():
    """In the order of the request."""
    told = json.loads(stored.as_delivered([Entry(0, "create", "Patient", "gw1"), Entry(1, "update", "Observation", "o1")], BASE).body)
    assert told["type"] == "transaction-response"
    assert [one["response"] for one in told["entry"]] == [
        {"status": "201", "location": "Patient/gw1"},
        {"status": "200", "location": "Observation/o1"},
    ]
