"""An EHR's transaction-response or batch-response as it may be shown (FHIR R4 bundle.html, http.html#transaction-response).

The envelope is made anew and resources stay the bytes that came. An OperationOutcome in it is the EHR's own talk: what may be shown of it is
what `fhir.outcome` shows of any; a success says nothing. Locations are left to `proxy.rewrite`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgspec

from gateway.errors import UpstreamFault
from gateway.fhir import outcome
from gateway.fhir.json import serialize, without_bom

MAX_HIDDEN = 8000
_KINDS = ("transaction-response", "batch-response")


class _Response(msgspec.Struct):
    status: str
    location: str = ""
    etag: str = ""
    lastModified: str = ""  # noqa: N815 - the element's name in FHIR
    outcome: msgspec.Raw = msgspec.Raw()


class _Entry(msgspec.Struct):
    response: _Response
    resource: msgspec.Raw = msgspec.Raw()


class _Bundle(msgspec.Struct):
    resourceType: str  # noqa: N815 - the element's name in FHIR
    type: str
    entry: list[_Entry] = msgspec.field(default_factory=list[_Entry])


class _Typed(msgspec.Struct):
    resourceType: str = ""  # noqa: N815 - the element's name in FHIR


_decode = msgspec.json.Decoder(_Bundle).decode
_decode_type = msgspec.json.Decoder(_Typed).decode


@dataclass(frozen=True, slots=True)
class Responded:
    """`hidden` are the EHR's own words, bounded, for the event log only."""

    body: bytes
    hidden: str = ""


def shown(data: bytes, *, bases: tuple[str, ...] = ()) -> Responded:
    """Raises UpstreamFault when it is no response Bundle with a status for each entry. `bases` are the EHR's, whose codings are left out."""
    try:
        bundle = _decode(without_bom(data))
        if bundle.resourceType != "Bundle" or bundle.type not in _KINDS:
            raise UpstreamFault(reason="ehr-no-response-bundle", code="structure")
        made = [_entry(entry, bases) for entry in bundle.entry]
    except (ValueError, RecursionError) as error:  # msgspec's errors are ValueErrors, and so is a status that is no number
        raise UpstreamFault(reason="ehr-no-response-bundle", code="structure") from error
    entries = b",".join(entry for entry, _ in made)
    head = b'{"resourceType":"Bundle","type":' + serialize(bundle.type)
    body = head + (b',"entry":[' + entries + b"]}" if entries else b"}")
    hidden = "\n".join(words for _, words in made if words)[:MAX_HIDDEN]
    return Responded(body, hidden)


def _entry(entry: _Entry, bases: tuple[str, ...]) -> tuple[bytes, str]:
    response = entry.response
    status = int(response.status[:3])
    told: dict[str, Any] = {"status": str(status)}
    told |= {"location": response.location} if response.location else {}
    told |= {"etag": response.etag} if response.etag else {}
    told |= {"lastModified": response.lastModified} if response.lastModified else {}
    resource, said = bytes(entry.resource), bytes(response.outcome)
    if resource and _decode_type(resource).resourceType == "OperationOutcome":
        resource, said = b"", said or resource
    hidden = ""
    if said:
        translated = outcome.from_upstream(said, status, bases=bases)
        hidden = translated.hidden
        if status >= 400 and translated.issues:
            told["outcome"] = {"resourceType": "OperationOutcome", "issue": list(translated.issues)}
    pasted = b'"resource":' + resource + b"," if resource else b""
    return b"{" + pasted + b'"response":' + serialize(told) + b"}", hidden
