"""What a message is about: the patients whose data it changes, and the keys in whose order it is delivered. Pure.

Two messages of one sender that share a key are delivered in the order of their receipt. The keys: each patient that a resource names (by
reference, or by identifier), each resource that is updated, each condition of a create, the identifier of one that is found again by it
(`posted`); else the sender's one channel.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, cast

from gateway.fhir.compartment import patients_of
from gateway.fhir.interaction import Interaction, Kind
from gateway.fhir.tables import Tables
from gateway.ingest import identifier
from gateway.store.inbox_rows import Entry

Resource = Mapping[str, Any]


def keys(client_id: str, ehr: str, parts: Sequence[tuple[Interaction, Entry, Resource]]) -> frozenset[str]:
    """Digests, so that the queue holds no identifier of a person. Never empty."""
    words = {word for asked, entry, resource in parts for word in _words(asked, entry, resource)}
    return frozenset(digest(client_id, ehr, word) for word in words or {"channel"})


def patients(resources: Sequence[Resource], tables: Tables) -> tuple[str, ...]:
    """The ids of the patients that these resources belong to, sorted."""
    found: set[str] = set()
    for resource in resources:
        if (row := tables.compartment.get(str(resource.get("resourceType")))) is not None:
            found |= patients_of(resource, row, lambda _: None)
    return tuple(sorted(found))


def digest(*parts: str) -> str:
    """32 hexadecimal digits of SHA-256 over the parts, which may hold anything."""
    told = hashlib.sha256()
    for part in parts:
        data = part.encode("utf-8", "surrogatepass")
        told.update(len(data).to_bytes(8) + data)
    return told.hexdigest()[:32]


def _words(asked: Interaction, entry: Entry, resource: Resource) -> Iterator[str]:
    if asked.kind is Kind.UPDATE:
        yield f"{asked.type}/{asked.id}"
    if asked.conditions.if_none_exist:
        yield "condition:" + asked.type + "&".join(sorted(f"{one.key}={one.value}" for one in asked.conditions.if_none_exist))
    elif asked.kind is Kind.CREATE and not entry.target and (own := identifier.of(resource)):
        yield f"{own.type}:{own.system}|{own.value}"
    if asked.type == "Patient":
        if entry.target:
            yield f"Patient/{entry.target}"
        yield from _identifiers(resource.get("identifier"))
    yield from _named(resource)


def _named(value: Any) -> Iterator[str]:
    """Every patient that is referred to, at any depth."""
    if isinstance(value, list):
        for item in cast("list[Any]", value):
            yield from _named(item)
    elif isinstance(value, dict):
        members = cast("dict[str, Any]", value)
        reference = members.get("reference")
        if isinstance(reference, str) and "Patient/" in reference:
            yield "Patient/" + reference.rpartition("Patient/")[2].split("/")[0]
        if members.get("type") == "Patient" and "identifier" in members:  # a logical reference (references.html#logical)
            yield from _identifiers(members["identifier"])
        for item in members.values():
            yield from _named(item)


def _identifiers(value: Any) -> Iterator[str]:
    """System and value; an identifier without a system names nobody in particular."""
    for item in cast("list[Any]", value) if isinstance(value, list) else [value]:
        if isinstance(item, dict):
            identifier = cast("dict[str, Any]", item)
            if identifier.get("system") and identifier.get("value"):
                yield f"identifier:{identifier['system']}|{identifier['value']}"
