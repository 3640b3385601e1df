r"""Find the URLs of one base inside FHIR JSON, by bytes, and edit them where their member says that they are links to resources.

A scan for the host finds candidates; one counts only when it begins a string (so a look-alike such as `hhttp://up/fhir` does not), is
followed by the end of the string, `/`, `?` or `#` (so `http://up/fhir-other` does not), and stands in a member of the table below.
`identifier.system`, canonical `url`, `valueUri`, narrative and every other byte stay as they are. `\/` is understood (ATK-F21).
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from urllib.parse import urlsplit

ATTACHMENTS = frozenset(
    {
        *("attachment", "content", "contentAttachment", "defaultValueAttachment", "document", "fixedAttachment", "form", "image"),
        *("legallyBindingAttachment", "patternAttachment", "photo", "presentedForm", "sourceAttachment", "targetAttachment", "valueAttachment"),
    }
)
"""Every element of R4 whose type is Attachment: their `url` says where the content is."""
_LINK_HOLDERS = ATTACHMENTS | {"link", "request"}  # Bundle.link, Bundle.entry.link, Bundle.entry.request
_EXPRESSIONS = frozenset(
    {"criteria", "defaultValueExpression", "definitionExpression", "expression", "fixedExpression", "patternExpression", "valueExpression"}
)
# Where `reference` is a uri of its own and no Reference.reference: Expression, Immunization.education, DetectedIssue.
_NOT_REFERENCES = _EXPRESSIONS | {"education", "contained", ""}
_RESOURCE_HOLDERS = frozenset({("entry", "resource"), ("parameter", "resource"), ("response", "outcome")})
# A document without these words has no such `reference`, and its members can be judged without knowing what is around them.
_TRAPS = (b'"DetectedIssue"', b'xpression"', b'criteria"', b'ducation"', b"rigger", b"\\u")

_STRING_REST = re.compile(rb'[^"\\]*(?:\\.[^"\\]*)*', re.DOTALL)
_MEMBER = re.compile(rb'(?<!\\)"([A-Za-z]+)"[ \t\r\n]*:[ \t\r\n]*\Z')
_TOKEN = re.compile(rb'"([^"\\]*(?:\\.[^"\\]*)*)"([ \t\r\n]*:)?|[\[\]{}]', re.DOTALL)
_WHITE = b" \t\r\n"


@dataclass(frozen=True, slots=True)
class Hit:
    """A URL of the base: bytes `start` to `end` are the base as written."""

    start: int
    end: int

    def rest(self, raw: bytes) -> str:
        """What follows the base, unescaped: `/Patient/1`."""
        match = _STRING_REST.match(raw, self.end)
        return _text(match.group()) if match else ""


def hits(raw: bytes, base: str) -> Iterator[Hit]:
    """The URLs below `base` (absolute, no trailing slash) that are links or references, in order. `raw` is well-formed JSON."""
    finder = _finder(base.rstrip("/"))
    found = list(finder.candidates(raw))
    if not found:
        return
    if any(trap in raw for trap in _TRAPS):
        yield from _judged(raw, found)
        return
    simple = [(_local_member(raw, hit.start - 1), hit) for hit in found]
    if any(member in (b"url", b"location", None) for member, _ in simple):
        yield from _judged(raw, found)
        return
    yield from (hit for member, hit in simple if member in (b"reference", b"fullUrl"))


def replace(raw: bytes, bases: Iterable[str], new: bytes) -> bytes:
    """Put `new` in the place of each of these bases, at once: what is put there is not looked at again. Of two that begin alike the longer counts."""
    found = {hit.start: hit for base in sorted(bases, key=len) for hit in hits(raw, base)}
    parts: list[bytes] = []
    at = 0
    for start in sorted(found):
        parts += (raw[at:start], new)
        at = found[start].end
    return raw if not parts else b"".join((*parts, raw[at:]))


def edit(raw: bytes, base: str, change: Callable[[Hit], tuple[int, bytes] | None]) -> bytes:
    """Replace, for each hit, the bytes from its start to the given end by the given bytes. None keeps it."""
    parts: list[bytes] = []
    at = 0
    for hit in hits(raw, base):
        if (changed := change(hit)) is not None:
            parts += (raw[at : hit.start], changed[1])
            at = changed[0]
    return raw if not parts else b"".join((*parts, raw[at:]))


class _Finder:
    """Looks for one base, however its slashes are written."""

    def __init__(self, base: str) -> None:
        parts = urlsplit(base)
        self._host = parts.netloc.encode()
        self._scheme = len(parts.scheme) + 1
        pattern = rb"\\?/".join(re.escape(part.encode()) for part in base.split("/"))
        self._base = re.compile(pattern + rb'(?=["/?#]|\\/)')

    def candidates(self, raw: bytes) -> Iterator[Hit]:
        """Strings that begin with the base."""
        at = raw.find(self._host)
        while at >= 0:
            if (hit := self._candidate(raw, at)) is not None:
                yield hit
            at = raw.find(self._host, at + len(self._host))

    def _candidate(self, raw: bytes, host: int) -> Hit | None:
        for slashes in (2, 4, 3):  # `//`, `\/\/`, and a mixture
            start = host - slashes - self._scheme
            if start < 1 or raw[start - 1] != 0x22 or (match := self._base.match(raw, start)) is None:
                continue
            if start >= 2 and raw[start - 2] == 0x5C:  # an escaped quote: we are inside a string
                return None
            return Hit(start, match.end())
        return None


@lru_cache(maxsize=64)
def _finder(base: str) -> _Finder:
    return _Finder(base)


def _local_member(raw: bytes, quote: int) -> bytes | None:
    """The member whose value opens at `quote`, read backwards; b"" in an array; None when only the whole text can tell."""
    before = raw[max(0, quote - 64) : quote]
    stripped = before.rstrip(_WHITE)
    if stripped and stripped[-1] in b"[,":
        return b""
    match = _MEMBER.search(before)
    return match[1] if match else None


def _judged(raw: bytes, found: list[Hit]) -> Iterator[Hit]:
    """The hits whose place in the document makes them links, by one pass over the document."""
    wanted = {hit.start - 1: hit for hit in found}
    last = found[-1].start
    holders: list[tuple[bool, str]] = []  # (is an object, the member it is the value of), outermost first
    member = ""
    for token in _TOKEN.finditer(raw):
        if token.start() > last:
            return
        first = raw[token.start()]
        if first == 0x22:
            if token[2] is not None:
                member = _text(token[1])
            elif (hit := wanted.get(token.start())) is not None and _is_link(holders, member):
                yield hit
        elif first in b"{[":
            inside = holders[-1] if holders else (True, "")
            holders.append((first == 0x7B, member if inside[0] else inside[1]))
            member = ""
        elif holders:
            holders.pop()


def _text(content: bytes) -> str:
    """What stands between the quotes of a string; "" when it is no JSON after all."""
    try:
        return json.loads(b'"' + content + b'"') if b"\\" in content else content.decode()
    except ValueError:
        return ""


def _is_link(holders: list[tuple[bool, str]], member: str) -> bool:
    objects = [name for is_object, name in holders if is_object]
    if not holders or not holders[-1][0]:
        return False
    holder = objects[-1]
    around = objects[-2] if len(objects) > 1 else ""
    match member:
        case "fullUrl":
            return holder == "entry"
        case "url":
            return holder in _LINK_HOLDERS
        case "location":
            return holder == "response"
        case "reference":
            trigger = holder == "condition" and around.lower().endswith(("trigger", "triggerdefinition"))
            return not trigger and holder not in _NOT_REFERENCES and (around, holder) not in _RESOURCE_HOLDERS
        case _:
            return False
