"""Bundles as envelopes: each entry's resource stays the bytes that came (FHIR R4 bundle.html).

`open_searchset` takes an EHR's answer apart, `searchset` makes the answer that leaves, `open_bundle` takes a pushed transaction or batch apart.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import msgspec

from gateway.errors import BadRequest, UpstreamFault
from gateway.fhir.json import parse, parse_trusted, serialize, without_bom
from gateway.fhir.names import RESOURCE_TYPES, is_id

MATCH, INCLUDE, OUTCOME = "match", "include", "outcome"


@dataclass(frozen=True, slots=True)
class FoundEntry:
    """One entry of a searchset. `raw` are the resource's own bytes; `mode` is match, include or outcome."""

    raw: bytes
    resource: dict[str, Any]
    mode: str = MATCH
    full_url: str = ""


@dataclass(frozen=True, slots=True)
class Found:
    """An EHR's searchset. `links` by relation; `total` as the EHR says, None when it does not."""

    entries: tuple[FoundEntry, ...]
    links: dict[str, str]
    total: int | None


class _Link(msgspec.Struct):
    relation: str = ""
    url: str = ""


class _Search(msgspec.Struct):
    mode: str = ""


class _Entry(msgspec.Struct):
    fullUrl: str = ""  # noqa: N815 - the element's name in FHIR
    resource: msgspec.Raw = msgspec.Raw()
    search: _Search = msgspec.field(default_factory=_Search)


class _Searchset(msgspec.Struct):
    resourceType: str = ""  # noqa: N815 - the element's name in FHIR
    type: str = ""
    total: int | None = None
    link: list[_Link] = msgspec.field(default_factory=list[_Link])
    entry: list[_Entry] = msgspec.field(default_factory=list[_Entry])


_decode_searchset = msgspec.json.Decoder(_Searchset).decode


def open_searchset(data: bytes) -> Found:
    """The entries of an EHR's searchset, in order. Raises UpstreamFault when it is none, or an entry is no resource with an id (ATK-F21)."""
    try:
        bundle = _decode_searchset(without_bom(data))
    except (ValueError, RecursionError) as error:
        raise _no_searchset() from error
    if bundle.resourceType != "Bundle" or bundle.type != "searchset":
        raise _no_searchset()
    entries = tuple(_found(entry) for entry in bundle.entry if bytes(entry.resource))
    total = bundle.total if bundle.total is not None and bundle.total >= 0 else None
    return Found(entries, {link.relation: link.url for link in bundle.link}, total)


def _found(entry: _Entry) -> FoundEntry:
    raw = bytes(entry.resource)
    resource = parse_trusted(raw)
    if not isinstance(resource, dict):
        raise _no_searchset()
    members = cast("dict[str, Any]", resource)
    kind, id_ = members.get("resourceType"), members.get("id")
    if kind == "OperationOutcome":
        return FoundEntry(raw, members, OUTCOME, entry.fullUrl)
    if not isinstance(kind, str) or kind not in RESOURCE_TYPES or not isinstance(id_, str) or not is_id(id_):
        raise _no_searchset()
    return FoundEntry(raw, members, INCLUDE if entry.search.mode == INCLUDE else MATCH, entry.fullUrl)


def _no_searchset() -> UpstreamFault:
    return UpstreamFault(reason="ehr-no-searchset", code="structure")


def searchset(
    entries: Iterable[tuple[str, bytes, str]],
    *,
    links: Iterable[tuple[str, str]] = (),
    total: int | None = None,
    id_: str = "",
    timestamp: str = "",
) -> bytes:
    """A searchset Bundle of ours around the bytes of resources. `entries` are (fullUrl, resource, mode), `links` (relation, absolute URL).

    R4 has `total` count the matches of all pages: pass None unless it is known to be just those that the caller may see (ATK-F2).
    """
    head: dict[str, Any] = {"resourceType": "Bundle"}
    if id_:
        head["id"] = id_
    if timestamp:
        head["meta"] = {"lastUpdated": timestamp}
    head["type"] = "searchset"
    if total is not None:
        head["total"] = total
    if linked := [{"relation": relation, "url": url} for relation, url in links]:
        head["link"] = linked
    # R4 allows no empty array: without entries there is no `entry`.
    pasted = b",".join(_entry(full_url, raw, mode) for full_url, raw, mode in entries)
    return serialize(head)[:-1] + (b',"entry":[' + pasted + b"]}" if pasted else b"}")


def _entry(full_url: str, raw: bytes, mode: str) -> bytes:
    return b'{"fullUrl":' + serialize(full_url) + b',"resource":' + raw + b',"search":{"mode":' + serialize(mode) + b"}}"


@dataclass(frozen=True, slots=True)
class EntryRequest:
    """`Bundle.entry.request` as sent; empty strings for what is absent."""

    method: str = ""
    url: str = ""
    if_match: str = ""
    if_none_match: str = ""
    if_none_exist: str = ""
    if_modified_since: str = ""


@dataclass(frozen=True, slots=True)
class PushedEntry:
    """One entry of a pushed Bundle. `raw` are the bytes of its resource, b"" when there is none."""

    raw: bytes
    resource: dict[str, Any] | None
    full_url: str = ""
    request: EntryRequest = field(default_factory=EntryRequest)


@dataclass(frozen=True, slots=True)
class Opened:
    """A caller's Bundle. `identifier` is (system, value) of Bundle.identifier, or None."""

    type: str
    identifier: tuple[str, str] | None
    entries: tuple[PushedEntry, ...]


class _RawEntry(msgspec.Struct):
    resource: msgspec.Raw = msgspec.Raw()


class _RawBundle(msgspec.Struct):
    entry: list[_RawEntry] = msgspec.field(default_factory=list[_RawEntry])


_decode_raw = msgspec.json.Decoder(_RawBundle).decode


def open_bundle(data: bytes) -> Opened:
    """A caller's Bundle, read strictly (`gateway.fhir.json.parse`). Raises BadRequest, with an expression for what is wrong in an entry."""
    bundle = parse(data)
    if not isinstance(bundle, dict) or cast("dict[str, Any]", bundle).get("resourceType") != "Bundle":
        raise BadRequest("Send a Bundle here.", reason="bundle-expected", code="structure")
    members = cast("dict[str, Any]", bundle)
    kind, listed = members.get("type"), members.get("entry", [])
    if not isinstance(kind, str) or not isinstance(listed, list):
        raise BadRequest("The Bundle has no type, or its entries are no list.", reason="bundle-malformed", code="structure")
    parsed = cast("list[Any]", listed)
    return Opened(kind, _identifier(members.get("identifier")), tuple(_pushed(parsed, _raw_resources(data, parsed))))


def _raw_resources(data: bytes, parsed: Sequence[Any]) -> Sequence[bytes]:
    for index, entry in enumerate(parsed):
        if not isinstance(entry, dict):
            raise malformed_entry(index, "is no object")
    return [bytes(entry.resource) for entry in _decode_raw(without_bom(data)).entry] if parsed else []


def _pushed(parsed: Sequence[dict[str, Any]], raws: Sequence[bytes]) -> Iterator[PushedEntry]:
    for index, (entry, raw) in enumerate(zip(parsed, raws, strict=True)):
        resource, full_url, request = entry.get("resource"), entry.get("fullUrl", ""), entry.get("request", {})
        if not isinstance(resource, dict | None):
            raise malformed_entry(index, "has a resource that is no object")
        if not isinstance(full_url, str):
            raise malformed_entry(index, "has a fullUrl that is no string")
        yield PushedEntry(raw, cast("dict[str, Any] | None", resource), full_url, _request(index, request))


_REQUEST = {
    "method": "method",
    "url": "url",
    "ifMatch": "if_match",
    "ifNoneMatch": "if_none_match",
    "ifNoneExist": "if_none_exist",
    "ifModifiedSince": "if_modified_since",
}


def _request(index: int, request: Any) -> EntryRequest:
    if not isinstance(request, dict):
        raise malformed_entry(index, "has a request that is no object")
    members = cast("dict[str, Any]", request)
    found = {name: members.get(element, "") for element, name in _REQUEST.items()}
    if not all(isinstance(text, str) for text in found.values()):
        raise malformed_entry(index, "has a request that is not made of strings")
    return EntryRequest(**found)


def _identifier(value: Any) -> tuple[str, str] | None:
    if value is None:
        return None
    members = cast("dict[str, Any]", value) if isinstance(value, dict) else {}
    system, text = members.get("system", ""), members.get("value", "")
    if not isinstance(system, str) or not isinstance(text, str) or not text:
        raise BadRequest("Bundle.identifier has no value.", reason="bundle-identifier", code="structure", expression="Bundle.identifier")
    return system, text


def malformed_entry(index: int, what: str) -> BadRequest:
    """The refusal of one entry, by its number in the Bundle."""
    return BadRequest(f"Entry {index + 1} of the Bundle {what}.", reason="bundle-entry", code="structure", expression=f"Bundle.entry[{index}]")
