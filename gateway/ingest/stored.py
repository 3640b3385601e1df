"""What the inbox keeps sealed: the request as it was sent, and the answer that the sender is owed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from gateway.errors import FhirError
from gateway.fhir import outcome, request
from gateway.fhir.interaction import Interaction, Kind
from gateway.fhir.json import serialize
from gateway.proxy.answer import Answer
from gateway.seal import Seals
from gateway.store.inbox_rows import Entry

Headers = Sequence[tuple[bytes, bytes]]
_KEPT = frozenset({b"content-type", b"if-match", b"if-none-exist", b"if-none-match", b"prefer"})


class StoredRequest(msgspec.Struct, array_like=True, frozen=True):
    """All that says what was asked. `body` is byte for byte what came; the headers are those that the meaning depends on."""

    method: str
    path: str  # below the FHIR base, without a leading slash
    headers: tuple[tuple[bytes, bytes], ...]
    body: bytes

    def parse(self, own_bases: Sequence[str]) -> Interaction:
        """The interaction, by the one parser for every request. Raises FhirError when it is not accepted any more."""
        return request.parse(method=self.method, path=self.path, query=b"", headers=self.headers, body=self.body, own_bases=tuple(own_bases))


class StoredAnswer(msgspec.Struct, array_like=True, frozen=True):
    """An answer. `headers` as in `proxy.answer.Answer`."""

    status: int
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = b""

    def header(self, name: str) -> str:
        """The value of a header, or ""."""
        return next((value for key, value in self.headers if key.lower() == name.lower()), "")


def place(answer: StoredAnswer | None) -> str:
    """`Type/id` of its Location, or ""."""
    parts = answer.header("Location").partition("/_history/")[0].split("/") if answer else []
    return "/".join(parts[-2:]) if len(parts) > 1 else ""


class Vault:
    """Packs and seals for one row each: what was sealed for one message does not open for another."""

    def __init__(self, sealer: Seals) -> None:
        self._sealer = sealer

    def close(self, id_: str, value: StoredRequest | StoredAnswer) -> bytes:
        """Packed and sealed."""
        return self._sealer.seal(msgspec.msgpack.encode(value), _context(id_, value))

    def request(self, id_: str, sealed: bytes) -> StoredRequest:
        """Raises SealBroken."""
        return msgspec.msgpack.decode(self._sealer.open(sealed, _context(id_, StoredRequest)), type=StoredRequest)

    def answer(self, id_: str, sealed: bytes) -> StoredAnswer:
        """Raises SealBroken."""
        return msgspec.msgpack.decode(self._sealer.open(sealed, _context(id_, StoredAnswer)), type=StoredAnswer)


def _context(id_: str, value: Any) -> bytes:
    kind = value if isinstance(value, type) else type(value)
    return f"inbox:{kind.__name__}:{id_}".encode()


def request_of(interaction: Interaction, headers: Headers, body: bytes) -> StoredRequest:
    """What is kept of a request that was understood as `interaction`. Path and method follow from it (ATK-F14)."""
    path = interaction.type if interaction.kind is Kind.CREATE else interaction.target
    kept = tuple((name, value) for name, value in headers if name in _KEPT)
    return StoredRequest("PUT" if interaction.kind is Kind.UPDATE else "POST", path, kept, body)


def from_answer(answer: Answer) -> StoredAnswer:
    """What a pipeline gave."""
    return StoredAnswer(answer.status, answer.headers, answer.body)


def refusal(error: FhirError, request_id: str) -> StoredAnswer:
    """An error as the answer that it becomes."""
    return StoredAnswer(error.status, body=outcome.outcome(error, request_id))


def delivered(base: str, kind: str, type_: str, id_: str, etag: str = "") -> StoredAnswer:
    """A write that an earlier attempt did, and whose own answer was lost. Without an id there is no telling where it is."""
    if not id_:
        return StoredAnswer(201 if kind == Kind.CREATE else 200)
    version = etag.removeprefix("W/").strip('"')
    location = f"{base}/{type_}/{id_}" + (f"/_history/{version}" if version else "")
    headers = (("Location", location), ("ETag", etag)) if etag else (("Location", location),)
    return StoredAnswer(201 if kind == Kind.CREATE else 200, headers)


def bundle(kind: str, answers: Sequence[StoredAnswer], base: str) -> StoredAnswer:
    """The response Bundle for these answers, in the order of the entries (http.html#transaction-response)."""
    entries = b",".join(response_entry(one, base) for one in answers)
    head = b'{"resourceType":"Bundle","type":' + serialize(f"{kind}-response")
    return StoredAnswer(200, body=head + (b',"entry":[' + entries + b"]}" if entries else b"}"))


def response_entry(answer: StoredAnswer, base: str = "") -> bytes:
    """One answer as a Bundle entry: a resource stays the bytes it was, an OperationOutcome stands in the response (bundle.html)."""
    response: dict[str, Any] = {"status": str(answer.status)}
    if location := answer.header("Location"):
        response["location"] = location.removeprefix(f"{base}/") if base else location
    if etag := answer.header("ETag"):
        response["etag"] = etag
    told = serialize(response)
    if not answer.body:
        return b'{"response":' + told + b"}"
    if _is_outcome(answer.body):
        return b'{"response":' + told[:-1] + b',"outcome":' + answer.body + b"}}"
    return b'{"resource":' + answer.body + b',"response":' + told + b"}"


def _is_outcome(body: bytes) -> bool:
    return msgspec.json.decode(body, type=_Typed).resourceType == "OperationOutcome"


class _Typed(msgspec.Struct):
    resourceType: str = ""  # noqa: N815 - the element's name in FHIR


def as_delivered(entries: Sequence[Entry], base: str) -> StoredAnswer:
    """A transaction that an earlier attempt did."""
    return bundle("transaction", [delivered(base, one.kind, one.type, one.target) for one in entries], base)
