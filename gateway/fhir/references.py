"""References in resources: Reference.reference wherever it stands (FHIR R4 references.html). Pure.

Canonicals, uris and `identifier.system` are no references: they name definitions and systems, and are never resolved as records.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, cast

from gateway.fhir.names import RESOURCE_TYPES, is_id

Relative = Callable[[str], str | None]
"""Gives the part of a URL below the EHR's base, or None."""

_SHAPE = re.compile(r"(?:(https?://[^\s?#]+)/)?([A-Z][A-Za-z]+)/([A-Za-z0-9\-.]{1,64})(?:/_history/([A-Za-z0-9\-.]{1,64}))?", re.ASCII)
# Members called `reference` that hold a uri of their own (see gateway.fhir.urls): found by the member that holds their object.
_URI_HOLDERS = re.compile(r".*[eE]xpression|criteria|education")
_RESOURCE_HOLDERS = frozenset({"", "contained", "resource", "outcome"})  # where an object may be a resource


@dataclass(frozen=True, slots=True)
class Ref:
    """One Reference. `path` is a FHIRPath-like place (`Observation.subject`, `Bundle.entry[0].resource.subject`).

    `type`, `id` and `version` are "" unless `value` is a literal reference to one resource; `base` is the absolute part before them.
    `value` is "" for a logical reference, which has only an identifier. `declared` is Reference.type.
    """

    path: str
    value: str
    type: str = ""
    id: str = ""
    version: str = ""
    base: str = ""
    declared: str = ""

    @property
    def contained(self) -> bool:
        """Whether it points into its own resource (`#med1`, or `#` for the resource itself)."""
        return self.value.startswith("#")


def split(text: str) -> tuple[str, str, str, str] | None:
    """A literal reference as (base, type, id, version), base and version "" when absent; None for anything else.

    `Patient/A/../B`, queries (`Patient?identifier=x`), fragments and urn: are anything else (ATK-F12).
    """
    match = _SHAPE.fullmatch(text)
    if match is None or match[2] not in RESOURCE_TYPES or not is_id(match[3]):
        return None
    return match[1] or "", match[2], match[3], match[4] or ""


def relative_reference(text: str, relative: Relative) -> tuple[str, str] | None:
    """The (type, id) that a reference names at this EHR, relative or absolute; None for a contained, foreign, logical or malformed one."""
    if "://" in text:
        text = relative(text) or ""
    found = split(text)
    return None if found is None or found[0] else (found[1], found[2])


def walk(resource: Any) -> Iterator[Ref]:
    """Every Reference in a parsed resource: contained resources, extensions and the entries of a Bundle too."""
    root = str(cast("dict[str, Any]", resource).get("resourceType", "")) if isinstance(resource, dict) else ""
    pending: list[tuple[str, str, Any]] = [(root, "", resource)]
    while pending:
        path, holder, value = pending.pop()
        if isinstance(value, list):
            pending += ((f"{path}[{index}]", holder, item) for index, item in reversed(list(enumerate(cast("list[Any]", value)))))
        elif isinstance(value, dict):
            members = cast("dict[str, Any]", value)
            if (found := _reference(path, holder, members)) is not None:
                yield found
            pending += ((f"{path}.{name}" if path else name, name, item) for name, item in reversed(members.items()) if isinstance(item, dict | list))


def _reference(path: str, holder: str, members: dict[str, Any]) -> Ref | None:
    # DetectedIssue has a `reference` that is a uri. Elsewhere `resourceType` makes nothing a resource: servers read over it (HAPI does).
    if members.get("resourceType") == "DetectedIssue" and holder in _RESOURCE_HOLDERS:
        return None
    if _URI_HOLDERS.fullmatch(holder):
        return None
    text, declared = members.get("reference"), members.get("type")
    kind = declared if isinstance(declared, str) else ""
    if isinstance(text, str):
        base, type_, id_, version = split(text) or ("", "", "", "")
        return Ref(path, text, type_, id_, version, base, kind)
    # A logical reference has nothing but these members; an object with more is some other element that has an identifier.
    if isinstance(members.get("identifier"), dict) and members.keys() <= {"identifier", "type", "display", "id", "extension"}:
        return Ref(path, "", declared=kind)
    return None
