"""HTTP headers that FHIR gives a meaning: media types, ETags, preferences (FHIR R4 http.html; RFC 9110; RFC 7240)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence

from gateway.errors import BadRequest, NotAcceptable, UnsupportedMedia
from gateway.fhir.interaction import Prefer

Headers = Sequence[tuple[bytes, bytes]]
"""As in ASGI: names in lower case."""
Fields = Mapping[bytes, Sequence[str]]
"""Headers by name, the values of each in order."""

FORM = "application/x-www-form-urlencoded"
JSON_PATCH = "application/json-patch+json"
_JSON = frozenset({"application/fhir+json", "application/json"})
# `+` in `?_format=application/fhir+json` is a space once decoded, and clients send it so; the older names are DSTU2's.
_FORMATS = _JSON | {"json", "application/fhir json", "application/json+fhir", "application/json fhir", "text/json"}
_RANGES = _JSON | {"*/*", "application/*", "application/json+fhir", "text/json"}
_ETAG = re.compile(r'(?:W/)?"([A-Za-z0-9\-.]{1,64})"')
_ETAGS = re.compile(r'\*|(?:W/)?"[\x21\x23-\x7e]*"(?:[ \t]*,[ \t]*(?:W/)?"[\x21\x23-\x7e]*")*')
_SEMICOLON = re.compile(r';(?=(?:[^"]*"[^"]*")*[^"]*$)')


def fields(headers: Headers) -> Fields:
    """Headers, read once."""
    found: dict[bytes, list[str]] = {}
    for name, value in headers:
        found.setdefault(name, []).append(value.decode("latin-1").strip())
    return found


def single(found: Fields, name: bytes) -> str:
    """The one value of a header, or "". Raises BadRequest when it was sent with different values."""
    values = found.get(name, ())
    if len(values) > 1 and len(set(values)) > 1:
        raise BadRequest(f"The header {name.decode()} was sent more than once.", reason="header-repeated")
    return values[0] if values else ""


def media(text: str) -> tuple[str, dict[str, str]]:
    """A media type and its parameters, names and type in lower case, quotes taken off."""
    kind, *rest = (part.strip() for part in _SEMICOLON.split(text))
    pairs = (part.partition("=") for part in rest if part)
    return kind.lower(), {name.strip().lower(): value.strip().strip('"') for name, _, value in pairs}


def check_json(found: Fields) -> None:
    """Raise UnsupportedMedia unless the body is said to be FHIR R4 JSON in UTF-8 (FAULT-S13)."""
    kind, parameters = media(single(found, b"content-type"))
    if kind not in _JSON:
        raise UnsupportedMedia("Send the resource as application/fhir+json.", reason="content-type")
    _check_parameters(parameters)


def check_form(found: Fields) -> None:
    """Raise UnsupportedMedia unless the body is said to be a form in UTF-8 (peers' fault 21: a JSON body on `_search`)."""
    kind, parameters = media(single(found, b"content-type"))
    if kind != FORM:
        raise UnsupportedMedia(f"Send the parameters of _search as {FORM}.", reason="content-type")
    _check_parameters(parameters)


def check_patch(found: Fields) -> None:
    """Raise UnsupportedMedia unless the body is said to be a JSON Patch in UTF-8. A Parameters resource would be a FHIRPath Patch."""
    kind, parameters = media(single(found, b"content-type"))
    if kind != JSON_PATCH:
        told = " FHIRPath Patch is not offered." if kind in _JSON else ""
        raise UnsupportedMedia(f"Send a patch as {JSON_PATCH} (RFC 6902).{told}", reason="content-type")
    _check_parameters(parameters)


def _check_parameters(parameters: dict[str, str]) -> None:
    if parameters.get("charset", "utf-8").lower() not in ("utf-8", "utf8"):
        raise UnsupportedMedia("Send the body in UTF-8.", reason="charset")
    if parameters.get("fhirversion", "4.0") != "4.0":
        raise UnsupportedMedia("Only FHIR R4 (fhirVersion=4.0) is offered.", reason="fhir-version")


def check_acceptable(found: Fields, formats: Iterable[str]) -> None:
    """Raise NotAcceptable unless the caller takes FHIR R4 JSON. `_format`, where given, counts instead of Accept (http.html#parameters)."""
    if asked := list(formats):
        if not all(_is_json(text, _FORMATS) for text in asked):
            raise NotAcceptable(reason="format")
        return
    ranges = [part for value in found.get(b"accept", ()) for part in value.split(",") if part.strip()]
    if ranges and not any(_is_json(part, _RANGES) for part in ranges):
        raise NotAcceptable(reason="accept")


def _is_json(text: str, known: frozenset[str]) -> bool:
    kind, parameters = media(text)
    refused = re.fullmatch(r"0(\.0*)?", parameters.get("q", "1"))
    return kind in known and not refused and parameters.get("fhirversion", "4.0") == "4.0"


def if_match(found: Fields) -> str:
    """If-Match as `W/"3"`, or "". Raises BadRequest for anything but the one ETag of a version."""
    return etag(single(found, b"if-match"), "If-Match")


def etag(text: str, where: str) -> str:
    """`W/"3"` for an ETag of a version, or "" for ""."""
    if not text:
        return ""
    match = _ETAG.fullmatch(text)
    if match is None:
        raise BadRequest(f'{where} takes one version, as in W/"3".', reason="if-match")
    return f'W/"{match[1]}"'


def if_none_match(found: Fields) -> str:
    """If-None-Match as sent (a list of ETags, or `*`), or ""."""
    return etags(", ".join(value for value in found.get(b"if-none-match", ()) if value), "If-None-Match")


def etags(text: str, where: str) -> str:
    """`text` when it is a list of ETags, `*` or empty."""
    if text and not _ETAGS.fullmatch(text):
        raise BadRequest(f"{where} is no list of ETags.", reason="if-none-match")
    return text


def prefer(found: Fields) -> Prefer:
    """The preferences that change an answer; others are ignored (RFC 7240 section 2), and of a repeated one the first counts."""
    if b"prefer" not in found:
        return Prefer()
    asked: dict[str, str] = {}
    for name, value in _preferences(found[b"prefer"]):
        asked.setdefault(name, value)
    return Prefer(
        return_=asked["return"] if asked.get("return") in ("minimal", "representation", "OperationOutcome") else "",
        respond_async="respond-async" in asked,
    )


def _preferences(values: Iterable[str]) -> Iterator[tuple[str, str]]:
    for value in values:
        for part in value.split(","):  # what follows a `;` are parameters of one preference; clients also list preferences so
            for item in part.split(";"):
                name, _, text = item.partition("=")
                yield name.strip().lower(), text.strip().strip('"')
