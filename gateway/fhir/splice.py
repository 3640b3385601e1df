"""Byte-exact edits of JSON that `fhir.json.parse` has accepted: what is not named in an edit stays as it was sent (promise 2).

A push is delivered with the caller's own bytes; only `id` and, in a Bundle, `request` and the references within it are spliced. No document is
ever decoded and encoded again here: a small scanner finds where a member's value begins and ends, and the bytes between are exchanged.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import msgspec

_BOM = b"\xef\xbb\xbf"
_SPACE = re.compile(rb"[ \t\r\n]*")
_STRING = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"', re.DOTALL)
_SCALAR = re.compile(rb"[^\s,\]}]+")
# Strings are taken whole, so that a bracket inside one is not counted.
_NESTING = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"|[\[\]{}]', re.DOTALL)
# Each string, with the string that is its value when it is a member's name: a value is never followed by a colon.
_PAIR = re.compile(rb'("[^"\\]*(?:\\.[^"\\]*)*")(?:[ \t\r\n]*:[ \t\r\n]*("[^"\\]*(?:\\.[^"\\]*)*"))?', re.DOTALL)

_encode = msgspec.json.Encoder().encode
_decode_text = msgspec.json.Decoder(str).decode


@dataclass(frozen=True, slots=True)
class Span:
    """Where a value stands in its document: `raw[start:end]`."""

    start: int
    end: int


@dataclass(frozen=True, slots=True, order=True)
class Edit:
    """Put `text` in the place of `raw[start:end]`."""

    start: int
    end: int
    text: bytes


def apply(raw: bytes, edits: Iterable[Edit]) -> bytes:
    """The document with all edits made. They may not overlap (ValueError)."""
    parts: list[bytes] = []
    at = 0
    for edit in sorted(edits):
        if edit.start < at:
            raise ValueError("edits overlap")
        parts += (raw[at : edit.start], edit.text)
        at = edit.end
    parts.append(raw[at:])
    return b"".join(parts)


def root(raw: bytes) -> Span:
    """The document's one value, without the space or byte order mark around it."""
    start = _after_space(raw, len(_BOM) if raw.startswith(_BOM) else 0)
    return Span(start, _end(raw, start))


def members(raw: bytes, at: Span) -> Iterator[tuple[str, Span]]:
    """The members of the object that begins at `at.start`: name (decoded) and where the value stands. Nothing for another kind of value."""
    if raw[at.start : at.start + 1] != b"{":
        return
    position = _after_space(raw, at.start + 1)
    while raw[position : position + 1] != b"}":
        name = _match(_STRING, raw, position)
        colon = _after_space(raw, name.end())
        if raw[colon : colon + 1] != b":":
            raise ValueError("not JSON")
        start = _after_space(raw, colon + 1)
        end = _end(raw, start)
        yield _decode_text(name.group()), Span(start, end)
        position = _after_comma(raw, end)


def items(raw: bytes, at: Span) -> Iterator[Span]:
    """The items of the array that begins at `at.start`. Nothing for another kind of value."""
    if raw[at.start : at.start + 1] != b"[":
        return
    position = _after_space(raw, at.start + 1)
    while raw[position : position + 1] != b"]":
        end = _end(raw, position)
        yield Span(position, end)
        position = _after_comma(raw, end)


def member(raw: bytes, at: Span, name: str) -> Span | None:
    """Where one member's value stands, or None."""
    return next((span for found, span in members(raw, at) if found == name), None)


def text(raw: bytes, at: Span | None) -> str:
    """The string that stands there, or "" for anything else."""
    if at is None or raw[at.start : at.start + 1] != b'"':
        return ""
    return _decode_text(raw[at.start : at.end])


def setting(raw: bytes, at: Span, name: str, value: bytes) -> Edit:
    """The edit that gives the object at `at` this member: in the place of the old value, or as its first member."""
    if raw[at.start : at.start + 1] != b"{":
        raise ValueError("not an object")
    if (old := member(raw, at, name)) is not None:
        return Edit(old.start, old.end, value)
    first = at.start + 1
    empty = raw[_after_space(raw, first) : at.end] == b"}"
    return Edit(first, first, _encode(name) + b":" + value + (b"" if empty else b","))


def replace_member(raw: bytes, name: str, value: bytes) -> bytes:
    """A document whose top-level member `name` is `value` (JSON), everything else byte for byte."""
    return apply(raw, (setting(raw, root(raw), name, value),))


def set_id(raw: bytes, id_: str) -> bytes:
    """A resource with this id, everything else byte for byte."""
    return replace_member(raw, "id", _encode(id_))


def referring(raw: bytes, at: Span, targets: Mapping[str, str]) -> Iterator[Edit]:
    """The edits that turn each `"reference": "X"` within `at` into `"reference": targets[X]`."""
    for found in _PAIR.finditer(raw, at.start, at.end):
        if found.group(2) is None or _decode_text(found.group(1)) != "reference":
            continue
        old = _decode_text(found.group(2))
        if (new := targets.get(old)) is not None:
            yield Edit(found.start(2), found.end(2), _encode(new))


def string(value: str) -> bytes:
    """A JSON string."""
    return _encode(value)


def _after_space(raw: bytes, at: int) -> int:
    return _match(_SPACE, raw, at).end()


def _after_comma(raw: bytes, at: int) -> int:
    at = _after_space(raw, at)
    if raw[at : at + 1] == b",":
        return _after_space(raw, at + 1)
    if raw[at : at + 1] not in (b"]", b"}"):
        raise ValueError("not JSON")
    return at


def _end(raw: bytes, at: int) -> int:
    """Where the value that begins at `at` ends."""
    first = raw[at : at + 1]
    if first == b'"':
        return _match(_STRING, raw, at).end()
    if first not in (b"{", b"["):
        return _match(_SCALAR, raw, at).end()
    depth = 0
    for found in _NESTING.finditer(raw, at):
        mark = raw[found.start()]
        if mark in b"{[":
            depth += 1
        elif mark in b"}]":
            depth -= 1
            if depth == 0:
                return found.end()
    raise ValueError("not JSON")


def _match(pattern: re.Pattern[bytes], raw: bytes, at: int) -> re.Match[bytes]:
    found = pattern.match(raw, at)
    if found is None:
        raise ValueError("not JSON")
    return found
