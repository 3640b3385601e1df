"""HTTP to Interaction: the one place where a request is understood (FHIR R4 http.html).

What is not understood completely is refused before any EHR hears of it (ATK-F11, F14, F17, F24); what goes to an EHR is rebuilt from the parts.
Whether the caller may do it is judged later (`smart.policy`); what is not offered to anybody is refused here.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from email.utils import parsedate_to_datetime
from typing import Any, cast

from gateway.errors import BadRequest, FhirError, Forbidden, MethodNotAllowed, NotFound, NotSupported
from gateway.fhir import inbound, json_patch, negotiation, query, validate
from gateway.fhir.bundle import Opened, PushedEntry, malformed_entry, open_bundle
from gateway.fhir.interaction import Conditions, Interaction, Kind, Param
from gateway.fhir.json import parse as parse_json
from gateway.fhir.json import without_bom
from gateway.fhir.names import RESOURCE_TYPES, is_id
from gateway.fhir.negotiation import Fields, Headers

_OVERRIDES = frozenset({b"x-http-method-override", b"x-http-method", b"x-method-override", b"x-method"})
_PATH = re.compile(r"[A-Za-z0-9\-._/$*]*", re.ASCII)
_PAGE = re.compile(r"[A-Za-z0-9_\-]{1,8192}", re.ASCII)


@dataclass(frozen=True, slots=True)
class _Request:
    """The raw parts, and what every kind of interaction needs of them."""

    method: str
    headers: Fields
    body: bytes
    own_bases: tuple[str, ...]
    params: tuple[Param, ...] = ()


def parse(*, method: str, path: str, query: bytes, headers: Headers, body: bytes, own_bases: Sequence[str]) -> Interaction:
    """One request as an Interaction, or a FhirError that says what is wrong or not offered.

    `path` is the raw (still percent-encoded) path below the FHIR base, without its leading slash; `query` the raw query string; `headers` as in
    ASGI; `own_bases` the URLs under which this FHIR base is known, whose links become relative.
    """
    found = negotiation.fields(headers)
    if not _OVERRIDES.isdisjoint(found):
        raise BadRequest("Methods are not taken from headers.", reason="method-override")
    segments = _segments(path)
    request = _negotiated(_Request(method, found, body, tuple(own_bases)), query)
    if method in ("GET", "HEAD"):
        if body:
            raise BadRequest("A GET takes no body.", reason="body-on-get")
        request = replace(request, method="GET")
    return _route(segments)(request, segments)


def _negotiated(request: _Request, text: bytes) -> _Request:
    """Answer format settled, and its parameters gone."""
    params = query.parse(text, own_bases=request.own_bases)
    return _settle(replace(request, params=params))


def _settle(request: _Request) -> _Request:
    if not request.params:
        negotiation.check_acceptable(request.headers, ())
        return request
    negotiation.check_acceptable(request.headers, (param.value for param in request.params if param.name == "_format"))
    return replace(request, params=tuple(param for param in request.params if param.name not in ("_format", "_pretty")))


# Paths


def _segments(path: str) -> tuple[str, ...]:
    """The path's parts. Nothing percent-encoded, no `..`, `//`, `;` or backslash: none is ever needed (ATK-F14)."""
    if not _PATH.fullmatch(path):
        raise BadRequest("The path has a character that no FHIR path needs.", reason="path-malformed")
    if not path:
        return ()
    segments = tuple(path.split("/"))
    if any(not segment.strip(".") for segment in segments):
        raise BadRequest("The path has an empty part, or one of dots.", reason="path-malformed")
    return segments


_Maker = Callable[[_Request, tuple[str, ...]], Interaction]


def _route(segments: tuple[str, ...]) -> _Maker:
    if any(segment.startswith("$") for segment in segments):
        return _operation
    match segments:
        case ():
            return _base
        case ("metadata",):
            return _metadata
        case ("_history",):
            return _history
        case ("_search",):
            return _search_everything
        case (type_, *_) if type_ not in RESOURCE_TYPES:
            raise NotFound("There is no such type of resource.", reason="type-unknown", code="not-supported")
        case (_,):
            return _type
        case (_, "_search"):
            return _search_form
        case (_, "_history") | (_, _, "_history"):
            return _history
        case (_, _):
            return _instance
        case (_, _, "_history", _):
            return _version
        case (_, _, other) if other == "*" or other in RESOURCE_TYPES:
            return _compartment
        case _:
            raise NotFound(reason="path-unknown")


def _operation(_request: _Request, _segments: tuple[str, ...]) -> Interaction:
    raise NotSupported("Operations are not offered.", reason="operation-not-offered")  # ATK-F7


def _history(_request: _Request, _segments: tuple[str, ...]) -> Interaction:
    raise Forbidden("Histories are not offered; a known version can be read.", reason="history-not-offered", code="not-supported")  # ATK-F8


def _compartment(_request: _Request, _segments: tuple[str, ...]) -> Interaction:
    raise Forbidden("Compartment URLs are not offered; search the type by patient.", reason="compartment-not-offered", code="not-supported")  # ATK-F8


def _search_everything(_request: _Request, _segments: tuple[str, ...]) -> Interaction:
    raise BadRequest("Searching all types at once is not offered.", reason="system-search-not-offered", code="not-supported")  # ATK-F5


def _metadata(request: _Request, segments: tuple[str, ...]) -> Interaction:
    _only(request, segments, "GET")
    # `mode` is a parameter of this interaction; only the full statement is offered, and any other is none of ours.
    if any(param.key != "mode" or param.value != "full" for param in request.params):
        raise _unexpected_parameter()
    return Interaction(Kind.CAPABILITIES)


def _base(request: _Request, segments: tuple[str, ...]) -> Interaction:
    if request.method == "GET":
        return _search_everything(request, segments)
    _only(request, segments, "POST")
    _no_params(request)
    return _bundle(request)


def _type(request: _Request, segments: tuple[str, ...]) -> Interaction:
    match request.method:
        case "GET":
            return _search(request, segments[0])
        case "POST":
            return _create(request, segments[0])
        case "PUT" | "PATCH" | "DELETE" if request.params:  # without a condition it would be about everything there is
            return _CHANGES[request.method](request, segments[0], "")
        case _:
            raise _not_allowed(request.method)


def _instance(request: _Request, segments: tuple[str, ...]) -> Interaction:
    type_, id_ = segments
    match request.method:
        case "GET":
            return _read(request, type_, id_)
        case "PUT" | "PATCH" | "DELETE":
            _no_params(request)
            if not is_id(id_):
                raise _no_id(request.method)
            return _CHANGES[request.method](request, type_, id_)
        case _:
            raise _not_allowed(request.method)


def _version(request: _Request, segments: tuple[str, ...]) -> Interaction:
    type_, id_, _, version = segments
    _only(request, segments, "GET")
    _no_params(request)
    if not is_id(id_) or not is_id(version):
        raise NotFound(reason="id-malformed")
    return Interaction(Kind.VREAD, type_, id_, version, conditions=_read_conditions(request))


# Reads and searches


def _read(request: _Request, type_: str, id_: str) -> Interaction:
    _no_params(request)
    if not is_id(id_):  # nothing can be stored under it: the same answer as for any absent id (ATK-F1)
        raise NotFound(reason="id-malformed")
    return Interaction(Kind.READ, type_, id_, conditions=_read_conditions(request))


def _read_conditions(request: _Request) -> Conditions:
    since = negotiation.single(request.headers, b"if-modified-since")
    if not since and b"if-none-match" not in request.headers:
        return Conditions()
    return Conditions(if_none_match=negotiation.if_none_match(request.headers), if_modified_since=since if _is_date(since) else "")


def _is_date(text: str) -> bool:
    """An invalid date is ignored (RFC 9110 section 13.1.3)."""
    try:
        parsedate_to_datetime(text)
    except ValueError:
        return False
    return True


def _search(request: _Request, type_: str) -> Interaction:
    page = [param for param in request.params if param.name == "_page"]
    if not page:
        return Interaction(
            Kind.SEARCH, type_, params=request.params, conditions=_read_conditions(request), prefer=negotiation.prefer(request.headers)
        )
    # The link carries its whole search; anything beside it would be a second search (ATK-F15). A `_count` is passed over: Medplum adds one.
    beside = [param for param in request.params if param.name != "_count"]
    if len(beside) > 1 or page[0].modifier or not _PAGE.fullmatch(page[0].value):
        raise BadRequest("A page link is followed as it was given.", reason="page-altered")
    return Interaction(Kind.SEARCH, type_, page=page[0].value, conditions=_read_conditions(request))


def _search_form(request: _Request, segments: tuple[str, ...]) -> Interaction:
    _only(request, segments, "POST")
    if request.body or b"content-type" in request.headers:
        negotiation.check_form(request.headers)
    # Both sets are one search, and all of it is judged (ATK-F11).
    params = request.params + query.parse(request.body, where="form", own_bases=request.own_bases)
    return _search(_settle(replace(request, params=params)), segments[0])


# Writes


def _create(request: _Request, type_: str) -> Interaction:
    _no_params(request)
    body, resource = _resource(request)
    _check_type(resource, type_)
    validate.require(resource)
    conditions = Conditions(if_none_exist=_if_none_exist(negotiation.single(request.headers, b"if-none-exist"), type_, request.own_bases))
    return Interaction(Kind.CREATE, type_, body=body, conditions=conditions, prefer=negotiation.prefer(request.headers))


def _update(request: _Request, type_: str, id_: str) -> Interaction:
    """PUT of an id, or (without one) of the one resource that a search finds."""
    body, resource = _resource(request)
    _check_type(resource, type_)
    if id_:
        _check_id(resource, id_)
    validate.require(resource)
    return _changed(request, Interaction(Kind.UPDATE, type_, id_, body=body))


def _patch(request: _Request, type_: str, id_: str) -> Interaction:
    """PATCH, by JSON Patch only: FHIRPath Patch would be judged by what it says and not by what it does (ATK-F12)."""
    negotiation.check_patch(request.headers)
    operations = json_patch.read(request.body, request.own_bases)
    return _changed(request, Interaction(Kind.PATCH, type_, id_, body=json_patch.write(operations)))


def _delete(request: _Request, type_: str, id_: str) -> Interaction:
    if request.body:
        raise BadRequest("A DELETE takes no body.", reason="body-on-delete")
    if b"x-cascade" in request.headers:  # HAPI's: whatever refers to it would go too (ATK-F12)
        raise _unexpected_parameter()
    return _changed(request, Interaction(Kind.DELETE, type_, id_))


def _changed(request: _Request, asked: Interaction) -> Interaction:
    """With its condition, where it names no id, and the conditional headers."""
    if b"if-none-exist" in request.headers:
        raise BadRequest("If-None-Exist goes with a create.", reason="if-none-exist")
    conditions = Conditions(negotiation.if_match(request.headers), negotiation.if_none_match(request.headers))
    return replace(asked, params=request.params, conditions=conditions, prefer=negotiation.prefer(request.headers))


_CHANGES: dict[str, Callable[[_Request, str, str], Interaction]] = {"PUT": _update, "PATCH": _patch, "DELETE": _delete}


def _no_id(method: str) -> FhirError:
    """Nothing can be there (the same answer as for any absent id, ATK-F1), nor be put there."""
    if method == "PUT":
        return BadRequest("The id in the path is no FHIR id.", reason="id-malformed", code="value")
    return NotFound(reason="id-malformed")


def _resource(request: _Request) -> tuple[bytes, dict[str, Any]]:
    """The body with our own URLs relative, and parsed."""
    negotiation.check_json(request.headers)
    if not request.body:
        raise BadRequest("Send a resource in the body.", reason="body-missing", code="structure")
    resource = parse_json(request.body)
    if not isinstance(resource, dict):
        raise BadRequest("The body is no resource.", reason="body-no-resource", code="structure")
    return inbound.body(without_bom(request.body), request.own_bases), cast("dict[str, Any]", resource)


def _check_type(resource: dict[str, Any], type_: str) -> None:
    if resource.get("resourceType") != type_:
        raise BadRequest(f"The body is no {type_}.", reason="type-mismatch", code="invalid", expression="resourceType")


def _check_id(resource: dict[str, Any], id_: str) -> None:
    if resource.get("id") != id_:  # http.html#update: the id in the body SHALL be there and be the same
        raise BadRequest(
            "The id in the body is not the id in the path.", reason="id-mismatch", code="invalid", expression=f"{resource['resourceType']}.id"
        )


def _if_none_exist(text: str, type_: str, own_bases: Sequence[str]) -> tuple[Param, ...]:
    if not text:
        return ()
    condition = text.removeprefix(f"{type_}?").removeprefix("?")
    try:
        data = condition.encode("ascii")
    except UnicodeEncodeError as error:
        raise BadRequest("If-None-Exist has a character that is not allowed there.", reason="if-none-exist") from error
    return query.parse(data, where="condition", own_bases=own_bases)


# Bundles


def _bundle(request: _Request) -> Interaction:
    negotiation.check_json(request.headers)
    opened = open_bundle(request.body)
    if opened.type not in ("transaction", "batch"):
        raise BadRequest("Only a transaction or a batch can be sent here.", reason="bundle-type", code="not-supported", expression="Bundle.type")
    before = without_bom(request.body)
    body = inbound.body(before, request.own_bases)
    listed = _reopened(body, before, opened).entries
    entries = tuple(_entry(index, entry, request.own_bases) for index, entry in enumerate(listed))
    _check_identities(opened.type, entries)
    return Interaction(Kind(opened.type), body=body, entries=entries, prefer=negotiation.prefer(request.headers))


def _reopened(body: bytes, before: bytes, opened: Opened) -> Opened:
    """The Bundle after the edit, so that its entries hold the bytes that go on."""
    return opened if body == before else open_bundle(body)


def _entry(index: int, entry: PushedEntry, own_bases: Sequence[str]) -> Interaction:
    """One entry as the request that it is. Its errors say which entry they are about."""
    try:
        return _entry_interaction(index, entry, own_bases)
    except FhirError as error:
        error.expression = error.expression if error.expression.startswith("Bundle.") else f"Bundle.entry[{index}]"
        raise


def _entry_interaction(index: int, entry: PushedEntry, own_bases: Sequence[str]) -> Interaction:
    sent = entry.request
    path, question, _ = sent.url.partition("?")
    if not sent.url or "#" in sent.url or "://" in sent.url:
        raise malformed_entry(index, "has no request.url of this server")
    segments = _segments(path)
    if not segments or segments[0] not in RESOURCE_TYPES:
        raise malformed_entry(index, "has a request.url that names no type")
    if question:
        raise _conditional(sent.method)
    match sent.method, segments:
        case "POST", (type_,):
            conditions = Conditions(if_none_exist=_if_none_exist(sent.if_none_exist, type_, own_bases))
            return _written(index, entry, Interaction(Kind.CREATE, type_, conditions=conditions))
        case "PUT", (type_, id_) if is_id(id_):
            conditions = Conditions(negotiation.etag(sent.if_match, "ifMatch"), negotiation.etags(sent.if_none_match, "ifNoneMatch"))
            return _written(index, entry, Interaction(Kind.UPDATE, type_, id_, conditions=conditions))
        case _:
            raise BadRequest(
                f"Entry {index + 1} of the Bundle asks for something that is not offered: only POST [type] and PUT [type]/[id] are.",
                reason="entry-not-offered",
                code="not-supported",
            )


def _written(index: int, entry: PushedEntry, interaction: Interaction) -> Interaction:
    if entry.resource is None:
        raise malformed_entry(index, "has no resource")
    _check_type(entry.resource, interaction.type)
    if interaction.kind is Kind.UPDATE:
        _check_id(entry.resource, interaction.id)
    validate.require(entry.resource, f"Bundle.entry[{index}].resource")
    return replace(interaction, body=entry.raw, full_url=entry.full_url)


def _check_identities(bundle_type: str, entries: Sequence[Interaction]) -> None:
    """One identity, one entry (http.html#trules, invariant bdl-7; FAULT-S19). The entries of a batch are independent of each other."""
    targets = [entry.target for entry in entries if entry.target] if bundle_type == "transaction" else []
    for names in (targets, [entry.full_url for entry in entries if entry.full_url]):
        if len(set(names)) != len(names):
            raise BadRequest("Two entries of the Bundle have one identity.", reason="entry-duplicate", code="duplicate", expression="Bundle.entry")


# Refusals


def _only(request: _Request, segments: tuple[str, ...], method: str) -> None:
    if request.method != method:
        raise MethodNotAllowed(f"Only {method} is offered at {'/'.join(segments) or 'the base'}.", reason="method-not-offered")


def _no_params(request: _Request) -> None:
    if request.params:
        raise _unexpected_parameter()


def _unexpected_parameter() -> BadRequest:
    return BadRequest("That parameter is not offered here.", reason="parameter-not-offered", code="not-supported")


def _conditional(method: str) -> BadRequest:
    what = {"PUT": "updates", "PATCH": "patches", "DELETE": "deletes"}.get(method, "requests")
    return BadRequest(f"Conditional {what} are not offered in a Bundle.", reason="conditional-not-offered", code="not-supported")  # ATK-F10


def _not_allowed(method: str) -> MethodNotAllowed:
    text = "Say which, by an id or by a condition." if method in _CHANGES else ""
    return MethodNotAllowed(text, reason="method-not-offered")
