"""Query strings and form bodies into parameters: decoded once, strictly (ATK-F24). FHIR R4 search.html."""

from __future__ import annotations

import re
from collections.abc import Sequence

from gateway.errors import BadRequest
from gateway.fhir import inbound
from gateway.fhir.interaction import Param
from gateway.fhir.search import split_or

MAX_PARAMETERS = 256
MAX_VALUE = 8192

# RFC 3986 query characters without `;`, which some servers take for `&`; `|` and `\` are no URI characters, yet clients send FHIR's as they are.
_PLAIN = re.compile(rb"[A-Za-z0-9\-._~!$&'()*+,=:@/?|\\%]*")
_BAD_ESCAPE = re.compile(rb"%(?![0-9A-Fa-f]{2})")
_ESCAPE = re.compile(rb"%([0-9A-Fa-f]{2})")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_ESCAPED_AGAIN = re.compile(r"%[0-9A-Fa-f]{2}")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.\-]*", re.ASCII)
_MODIFIER = re.compile(r"[A-Za-z0-9_.:\-]+", re.ASCII)
# Parameters of type uri: their values are names of definitions, which stay absolute even below our own base.
_URIS = frozenset(
    {
        *("_profile", "_source", "definition", "dependson", "destination-uri", "expansion", "identifier", "instantiates", "instantiates-uri"),
        *("policy", "product", "source-system", "source-uri", "system", "target-system", "type", "url"),
    }
)


def parse(text: bytes, *, where: str = "query", own_bases: Sequence[str] = ()) -> tuple[Param, ...]:
    """The parameters in order, repeats kept, with references below our own bases relative. Raises BadRequest for what could be read in two ways.

    That is: bad, overlong or doubled percent-escapes, `;`, control characters, bytes that are not UTF-8, empty names and values. `+` is a space.
    """
    if not text:
        return ()
    if not _PLAIN.fullmatch(text) or _BAD_ESCAPE.search(text):
        raise _bad(where, "has a character or percent-escape that is not allowed there")
    pieces = [piece for piece in text.split(b"&") if piece]
    if len(pieces) > MAX_PARAMETERS:
        raise BadRequest(f"The {where} has more than {MAX_PARAMETERS} parameters.", reason="too-many-parameters", code="too-costly")
    return tuple(_param(piece, where, own_bases) for piece in pieces)


def _param(piece: bytes, where: str, own_bases: Sequence[str]) -> Param:
    raw_key, equals, raw_value = piece.partition(b"=")
    key, value = _decode(raw_key, where), _decode(raw_value, where)
    name, colon, modifier = key.partition(":")
    if not _NAME.fullmatch(name) or (colon and not _MODIFIER.fullmatch(modifier)):
        raise _bad(where, "has a parameter whose name is none")
    if not equals or not value:
        raise _bad(where, f"has no value for the parameter {name}")
    return Param(name, modifier, value if name in _URIS else _relative(value, own_bases))


def _relative(value: str, own_bases: Sequence[str]) -> str:
    if not any(base in value for base in own_bases):
        return value
    return ",".join(inbound.reference(part, own_bases) for part in split_or(value))


def _decode(text: bytes, where: str) -> str:
    if len(text) > MAX_VALUE:
        raise BadRequest(f"A parameter of the {where} is too long.", reason="parameter-too-long", code="too-long")
    data = _ESCAPE.sub(lambda match: bytes((int(match[1], 16),)), text.replace(b"+", b" "))
    try:
        decoded = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise _bad(where, "is not valid UTF-8 once decoded") from error
    # A value that would decode once more means one thing here and another to a server that decodes twice.
    if _CONTROL.search(decoded) or _ESCAPED_AGAIN.search(decoded):
        raise _bad(where, "has a control character, or is percent-encoded twice")
    return decoded


def _bad(where: str, what: str) -> BadRequest:
    return BadRequest(f"The {where} {what}.", reason="query-malformed", code="invalid")
