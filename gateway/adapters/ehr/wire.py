"""An EhrCall as an HTTP request. Pure: every path is rebuilt from parsed parts, every value percent-encoded once, strictly (ATK-F24).

FHIR R4 http.html; `_search` by POST is section 3.1.0.8.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from urllib.parse import quote

from gateway import __version__
from gateway.adapters.ehr.address import Address
from gateway.adapters.ehr.base import EhrCall, HttpRequest
from gateway.fhir.interaction import WRITES, Kind, Param
from gateway.fhir.names import RESOURCE_TYPES, is_id

JSON = "application/fhir+json"
FORM = "application/x-www-form-urlencoded"

_ACCEPT = (("Accept", JSON), ("User-Agent", f"fhir-portal-gateway/{__version__}"))
_FRESH = (("Cache-Control", "no-cache"),)
"""Stock HAPI gives the result of the same search again for 60 s, also after a write; this it heeds."""
_WRITE = (("Content-Type", JSON), ("Prefer", "return=representation"))


def http_request(base: Address, call: EhrCall, credentials: Mapping[str, str], *, url_limit: int) -> HttpRequest:
    """The request for a call. Raises ValueError for ids, types and links that are none, before anything is sent."""
    common = (*_ACCEPT, *credentials.items(), *((("X-Request-ID", _header(call.request_id)),) if call.request_id else ()))
    if call.kind is Kind.SEARCH:
        return _search(base, call, common, url_limit)
    if call.kind is Kind.DELETE:
        return HttpRequest("DELETE", base.text + _path(call), (*common, *_conditions(call)), None, call.not_after)
    headers = (*common, *_WRITE, *_conditions(call)) if call.kind in WRITES else (*common, *_still(call))
    body = call.body if call.kind in WRITES else None
    return HttpRequest(_METHODS[call.kind], base.text + _path(call), headers, body, call.not_after)


_METHODS = {
    Kind.READ: "GET",
    Kind.VREAD: "GET",
    Kind.CAPABILITIES: "GET",
    Kind.CREATE: "POST",
    Kind.UPDATE: "PUT",
    Kind.TRANSACTION: "POST",
    Kind.BATCH: "POST",
}


def _path(call: EhrCall) -> str:
    match call.kind:
        case Kind.DELETE if call.params:  # by what else must hold, for a server that does not look at If-Match of a DELETE
            return f"/{_type(call.type)}?{query((Param('_id', '', _id(call.id)), *call.params))}"
        case Kind.READ | Kind.UPDATE | Kind.DELETE:
            return f"/{_type(call.type)}/{_id(call.id)}"
        case Kind.VREAD:
            return f"/{_type(call.type)}/{_id(call.id)}/_history/{_id(call.version)}"
        case Kind.CREATE:
            return f"/{_type(call.type)}"
        case Kind.CAPABILITIES:
            return "/metadata" + (f"?{query(call.params)}" if call.params else "")
        case _:  # a transaction or batch goes to the base
            return ""


def _search(base: Address, call: EhrCall, common: tuple[tuple[str, str], ...], url_limit: int) -> HttpRequest:
    """By GET; by POST where the URL would be longer than servers and proxies on the way take. A page is always a GET."""
    if call.page:
        return HttpRequest("GET", base.page(call.page), common + _FRESH)
    wanted = query(call.params)
    url = f"{base.text}/{_type(call.type)}" + (f"?{wanted}" if wanted else "")
    if len(url) <= url_limit:
        return HttpRequest("GET", url, common + _FRESH)
    return HttpRequest("POST", f"{base.text}/{_type(call.type)}/_search", (*common, *_FRESH, ("Content-Type", FORM)), wanted.encode())


def _conditions(call: EhrCall) -> Iterable[tuple[str, str]]:
    if call.if_match:
        yield "If-Match", _header(call.if_match)
    if call.if_none_match:
        yield "If-None-Match", _header(call.if_none_match)
    if call.if_none_exist:
        yield "If-None-Exist", query(call.if_none_exist)


def _still(call: EhrCall) -> Iterable[tuple[str, str]]:
    """Of a read: "not again, if it is still this one" (RFC 9110 section 13.1.2). Nothing else about a read is conditional."""
    if call.kind is Kind.READ and call.if_none_match:
        yield "If-None-Match", _header(call.if_none_match)


def query(params: Iterable[Param]) -> str:
    """Parameters as a query, in their order. Everything but unreserved characters is encoded: what the EHR decodes is what was parsed."""
    return "&".join(f"{quote(param.key, safe=':')}={quote(param.value, safe='')}" for param in params)


def _header(value: str) -> str:
    """A line break in it would begin a header of its own (RFC 9110 5.5)."""
    if not (value.isascii() and value.isprintable()):
        raise ValueError("this is no value of a header")
    return value


def _type(name: str) -> str:
    if name not in RESOURCE_TYPES:
        raise ValueError("this is no resource type of R4")
    return name


def _id(text: str) -> str:
    if not is_id(text):
        raise ValueError("this is no id that can stand in a path")
    return text
