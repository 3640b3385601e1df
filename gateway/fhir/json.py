"""FHIR JSON in and out, with every decimal kept as it was written (datatypes.html#decimal: `1.10` is not `1.1`).

`parse` is for callers and refuses whatever two readers could understand in two ways; `parse_trusted` is for answers of an EHR and is
fast. Both give plain dicts, lists, str, bool, None, int, and `Exact` for a number with a fraction or an exponent.
"""

from __future__ import annotations

import json
import re
from array import array
from collections.abc import Iterator
from decimal import Decimal
from itertools import accumulate
from typing import Any, Self

import msgspec

from gateway.errors import BadRequest, UpstreamFault

MAX_DEPTH = 64
"""Levels of nesting in a caller's body (FAULT-S6). The deepest published R4 example has 15."""
MAX_DIGITS = 64
"""Significant digits of a number; R4 asks for 18."""
MAX_EXPONENT = 308
"""Powers of ten of a number, either way: beyond it receivers with doubles read infinity or zero (FAULT-S8)."""

_BOM = b"\xef\xbb\xbf"


class Exact(Decimal):
    """A JSON number that remembers its text: `str(Exact("1.0e3")) == "1.0e3"`, and it computes and compares as 1000."""

    __slots__ = ("text",)
    text: str

    def __new__(cls, text: str) -> Self:
        """`text` as it stands in the JSON."""
        made = super().__new__(cls, text)
        made.text = text
        return made

    def __str__(self) -> str:
        return self.text

    def __reduce__(self) -> tuple[type[Self], tuple[str]]:
        return type(self), (self.text,)


def without_bom(data: bytes) -> bytes:
    """The bytes without a leading UTF-8 byte order mark, which a reader may ignore (RFC 8259 section 8.1)."""
    return data.removeprefix(_BOM)


def parse(data: bytes, *, where: str = "body") -> Any:
    """The value of a caller's JSON. Raises BadRequest (issue code structure or too-costly) naming `where` and, for a duplicate, the key.

    Refused: duplicate keys, NaN and Infinity, lone surrogates, invalid UTF-8, more than MAX_DEPTH levels, huge numbers
    (FAULT-S5 to S10). The depth is known before anything is parsed, in linear time.
    """
    text = _decode(without_bom(data), where)
    _check_depth(data, where)
    try:
        value = _Reader(where).decode(text)
    except (ValueError, RecursionError) as error:
        raise _malformed(where) from error
    if "\\ud" in text or "\\uD" in text:
        _check_surrogates(value, where)
    return value


def parse_trusted(data: bytes) -> Any:
    """The value of an EHR's JSON. Raises UpstreamFault (issue code structure) when it is malformed (FAULT-U13, U14)."""
    try:
        return _trusted(without_bom(data))
    except (ValueError, RecursionError) as error:  # msgspec's errors and UnicodeDecodeError are ValueErrors
        raise UpstreamFault(reason="ehr-malformed", code="structure") from error


def serialize(value: Any) -> bytes:
    """Compact JSON of plain values; `Exact` as its own text, `Decimal` exactly."""
    return _encode(value)


def _encode_number(value: object) -> object:
    if isinstance(value, Exact):
        return msgspec.Raw(value.text.encode())
    raise TypeError(f"not JSON: {type(value).__name__}")


_trusted = msgspec.json.Decoder(float_hook=Exact).decode
_encode = msgspec.json.Encoder(decimal_format="number", enc_hook=_encode_number).encode


def _malformed(where: str) -> BadRequest:
    return BadRequest(f"The {where} is not well-formed JSON.", reason="json-malformed", code="structure")


def _decode(data: bytes, where: str) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise BadRequest(f"The {where} is not valid UTF-8.", reason="json-encoding", code="structure") from error


# Depth: everything but quotes and brackets goes away by C loops, then what is outside strings is summed up, +1 and -1, piece by piece.
_OTHER = bytes(set(range(256)) - set(b'"[]{}'))
_STEPS = bytes.maketrans(b"[{]}", b"\x01\x01\xff\xff")
_PIECE = 1 << 16


def _check_depth(data: bytes, where: str) -> None:
    signs = data.replace(b"\\\\", b"").replace(b'\\"', b"").translate(_STEPS, _OTHER)
    depth, inside = 0, 0
    for start in range(0, len(signs), _PIECE):
        parts = signs[start : start + _PIECE].split(b'"')
        levels = list(accumulate(array("b", b"".join(parts[inside::2])), initial=depth))
        if max(levels) > MAX_DEPTH:
            raise BadRequest(f"The {where} is nested more than {MAX_DEPTH} levels deep.", reason="json-depth", code="too-costly")
        depth, inside = levels[-1], (inside + len(parts) - 1) % 2


def _check_surrogates(value: Any, where: str) -> None:
    for text in _texts(value):
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise BadRequest(f"The {where} has half of a surrogate pair in a string.", reason="json-surrogate", code="structure") from error


def _texts(value: Any) -> Iterator[str]:
    """Every string in a value, keys too."""
    pending: list[Any] = [value]
    while pending:
        match pending.pop():
            case str() as text:
                yield text
            case dict() as members:  # pyright: ignore[reportUnknownVariableType]
                pending += members.keys()
                pending += members.values()
            case list() as items:  # pyright: ignore[reportUnknownVariableType]
                pending += items
            case _:
                pass


_DIGITS = re.compile(r"-?([0-9]+)(?:\.([0-9]+))?(?:[eE]([+-]?[0-9]+))?")


class _Reader:
    """The strict decoder for one place, so that its refusals can name it."""

    def __init__(self, where: str) -> None:
        self._where = where

    def decode(self, text: str) -> Any:
        return json.loads(
            text,
            object_pairs_hook=self._members,
            parse_float=self._decimal,
            parse_int=self._integer,
            parse_constant=self._constant,
        )

    def _members(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        members = dict(pairs)
        if len(members) == len(pairs):
            return members
        seen: set[str] = set()
        double = next(key for key, _ in pairs if key in seen or seen.add(key))
        # A key names an element, not a person; a strange one is not repeated to the caller.
        named = f' "{double}"' if re.fullmatch(r"[A-Za-z0-9_.:\-]{1,64}", double) else ""
        raise BadRequest(f"The {self._where} has the member{named} twice in one object.", reason="json-duplicate-key", code="structure")

    def _decimal(self, text: str) -> Exact:
        self._check_size(text)
        return Exact(text)

    def _integer(self, text: str) -> int | Exact:
        self._check_size(text)
        return Exact(text) if text == "-0" else int(text)

    def _constant(self, text: str) -> Any:
        raise BadRequest(f"The {self._where} has {text}, which is not JSON.", reason="json-constant", code="structure")

    def _check_size(self, text: str) -> None:
        if len(text) <= 18 and "e" not in text and "E" not in text:
            return
        match = _DIGITS.fullmatch(text)
        whole, fraction, power = match.groups("") if match else ("", "", "")
        digits = (whole + fraction).lstrip("0")
        # The power is judged by its length first: int() of a million digits is the attack itself.
        exponent = 0 if not power else int(power) if len(power) < 8 else MAX_EXPONENT + 1
        if len(digits) > MAX_DIGITS or len(text) > 4 * MAX_EXPONENT or not -MAX_EXPONENT <= exponent <= MAX_EXPONENT:
            raise BadRequest(
                f"The {self._where} has a number with more digits or a larger exponent than this server takes.",
                reason="json-number",
                code="too-costly",
            )
