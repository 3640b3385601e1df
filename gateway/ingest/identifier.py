"""The identifier by which a create is found again at an EHR that gives the ids itself. Pure.

It is the first one of the resource's own that has a system and a value: without a system it names nothing in particular, and what other
elements identify is not this resource.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from gateway.fhir.bundle import MATCH, Found, FoundEntry
from gateway.fhir.interaction import Interaction, Kind, Param
from gateway.fhir.json import parse
from gateway.fhir.search import escape
from gateway.ingest import plan

MOST = 50
"""Resources under one identifier that are looked at. Where there are more it identifies nothing."""


@dataclass(frozen=True, slots=True)
class Identifier:
    """`system` and `value` as they stand in the resource of this type."""

    type: str
    system: str
    value: str

    @property
    def params(self) -> tuple[Param, ...]:
        """As a search (R4 search.html#token)."""
        return (Param("identifier", "", f"{escape(self.system)}|{escape(self.value)}"),)

    @property
    def search(self) -> Interaction:
        """For all that has it."""
        return Interaction(Kind.SEARCH, self.type, params=(*self.params, Param("_count", "", str(MOST))))


@dataclass(frozen=True, slots=True)
class There:
    """What stands under the identifier `own`: the ids, and the one whose content is ours, or ""."""

    own: Identifier
    ids: tuple[str, ...] = ()
    same: str = ""


def of(resource: Mapping[str, Any]) -> Identifier | None:
    """The identifier of a parsed resource, or None."""
    for one in _identifiers(resource):
        system, value = one.get("system"), one.get("value")
        if isinstance(system, str) and isinstance(value, str) and system and value:
            return Identifier(str(resource.get("resourceType")), system, value)
    return None


def of_parts(parts: Sequence[Interaction]) -> Mapping[int, Identifier]:
    """The identifiers of creates by position. One that two parts share identifies neither; one with a condition of its sender's needs none."""
    found = {at: one for at, part in enumerate(parts) if part.kind is Kind.CREATE and (one := of(cast("Mapping[str, Any]", parse(part.body))))}
    times = Counter(found.values())
    return {at: one for at, one in found.items() if times[one] == 1 and not parts[at].conditions.if_none_exist}


def there(own: Identifier, mine: bytes, found: Found) -> There | None:
    """What an EHR's answer to `search` says, `mine` being the bytes that are to be sent.

    None when it cannot be relied on: an EHR that ignores the parameter gives other resources too, and one page may not be all.
    """
    entries = [entry for entry in found.entries if entry.mode == MATCH]
    if found.links.get("next") or not all(_has(entry, own) for entry in entries):
        return None
    same = next((str(entry.resource["id"]) for entry in entries if plan.same_content(mine, entry.raw)), "")
    return There(own, tuple(str(entry.resource["id"]) for entry in entries), same)


def _has(entry: FoundEntry, own: Identifier) -> bool:
    found = ((one.get("system"), one.get("value")) for one in _identifiers(entry.resource))
    return entry.resource["resourceType"] == own.type and (own.system, own.value) in found


def _identifiers(resource: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """A list in most types, one object in some (QuestionnaireResponse, Composition)."""
    given = resource.get("identifier")
    for one in cast("list[Any]", given) if isinstance(given, list) else [given]:
        if isinstance(one, dict):
            yield cast("dict[str, Any]", one)
