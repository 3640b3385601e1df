"""What a sender is told about a message: the result itself, or a status that is shaped as R5's async-bundle (hl7.org/fhir/R5/async-bundle.html)."""

from __future__ import annotations

from gateway.errors import FhirError
from gateway.fhir import outcome
from gateway.fhir.json import serialize
from gateway.ingest.stored import StoredAnswer, response_entry
from gateway.proxy.answer import Answer
from gateway.store.inbox_rows import UNCONFIRMED, Message, State

RETRY_AFTER = 2
"""Seconds after which a sender may ask again."""
_SECOND_USE = "This identity was used before with other content. Both were processed."


class DeliveryFailed(FhirError):
    """The message is stored, but could not be delivered. The operator has been told and can try again."""

    status = 503
    code = "transient"


class Unconfirmed(DeliveryFailed):
    """It was sent once, and the record system did not confirm it: it may or may not be there. The operator has been told, and decides."""


def accepted(message: Message, base: str) -> Answer:
    """202: it is stored, and this is where its result will be."""
    return Answer(202, headers=(("Content-Location", f"{base}/_async/{message.id}"), ("Retry-After", str(RETRY_AFTER)), *_warning(message)))


def result(message: Message, answer: StoredAnswer, *, repeat: bool = False) -> Answer:
    """The result. A repeat made nothing new: 200 with the first Location, where the first answer was a success (FAULT-S1)."""
    status = 200 if repeat and answer.status < 300 else answer.status
    return Answer(status, answer.body, (*answer.headers, *_warning(message)))


def progress(message: Message) -> Answer:
    """The status of a message that is not through."""
    words = {State.HELD: "held: an earlier message for the same patient could not be delivered"}
    told = words.get(State(message.state), f"attempt {message.attempts}" if message.attempts else "waiting")
    return Answer(202, headers=(("Retry-After", str(RETRY_AFTER)), ("X-Progress", told)))


def complete(message: Message, answer: StoredAnswer | None, request_id: str) -> Answer:
    """The status of a message that is through: a batch-response with one entry. A dead one has no answer of its own."""
    if answer is None:
        failed = Unconfirmed if message.error == UNCONFIRMED else DeliveryFailed
        answer = StoredAnswer(503, body=outcome.outcome(failed(reason=message.error), request_id))
    if message.identity_reused and not answer.body:
        answer = StoredAnswer(answer.status, answer.headers, _flag())
    entry = response_entry(answer)
    return Answer(200, b'{"resourceType":"Bundle","type":"batch-response","entry":[' + entry + b"]}", _warning(message))


def _flag() -> bytes:
    issue = {"severity": "warning", "code": "duplicate", "details": {"text": _SECOND_USE}}
    return serialize({"resourceType": "OperationOutcome", "issue": [issue]})


def _warning(message: Message) -> tuple[tuple[str, str], ...]:
    return (("Warning", f'199 - "{_SECOND_USE}"'),) if message.identity_reused else ()
