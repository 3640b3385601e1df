"""Whose is this resource? The R4 Patient CompartmentDefinition with our decisions beside it (profiles/fhir/compartment-*.json). Pure.

A resource belongs to a patient by the elements of the definition *and* only when its own subject, patient or beneficiary, where that is a
Patient, is one that the caller may see (ATK-F25): a performer never makes another person's resource hers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, cast

from gateway.fhir.references import Relative, relative_reference
from gateway.fhir.search import split_or, split_token
from gateway.fhir.tables import CompartmentRow, Tables


@dataclass(frozen=True, slots=True)
class Inside:
    """It belongs to these patients of those asked about."""

    patients: frozenset[str]


@dataclass(frozen=True, slots=True)
class Shared:
    """It is nobody's in particular."""


@dataclass(frozen=True, slots=True)
class NeedsOwners:
    """It is whose all of these are (`Type/id`)."""

    refs: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Outside:
    """It is not theirs."""


Membership = Inside | Shared | NeedsOwners | Outside


def at(value: Any, path: str) -> Iterator[Any]:
    """Everything at a dotted JSON path, arrays flattened."""
    steps = path.split(".") if path else []
    found: list[Any] = [value]
    for step in steps:
        found = [
            item[step]
            for holder in found
            for item in (cast("list[Any]", holder) if isinstance(holder, list) else [holder])
            if isinstance(item, dict) and step in item
        ]
    for holder in found:
        yield from cast("list[Any]", holder) if isinstance(holder, list) else [holder]


def local(reference: Any, relative: Relative) -> tuple[str, str] | None:
    """Type and id of a Reference object to this EHR, relative or absolute; None for anything else (contained, logical, foreign, malformed)."""
    if not isinstance(reference, dict):
        return None
    text = cast("dict[str, Any]", reference).get("reference")
    return relative_reference(text, relative) if isinstance(text, str) else None


def membership(resource: Mapping[str, Any], patients: frozenset[str], row: CompartmentRow, relative: Relative) -> Membership:
    """Where the resource stands with regard to these patients."""
    match row.kind:
        case "shared":
            return Shared()
        case "record":
            return Inside(frozenset({resource["id"]})) if resource.get("id") in patients else Outside()
        case "owners":
            return _owners(resource, row, relative)
        case "patient":
            return _by_elements(resource, patients, row, relative)
        case _:
            return Outside()


def _owners(resource: Mapping[str, Any], row: CompartmentRow, relative: Relative) -> Membership:
    refs: list[str] = []
    for path in row.paths:
        for reference in at(resource, path):
            found = local(reference, relative)
            if found is None:  # an owner that cannot be judged is somebody else's
                return Outside()
            refs.append("/".join(found))
    return NeedsOwners(tuple(dict.fromkeys(refs))) if refs else Outside()


def _by_elements(resource: Mapping[str, Any], patients: frozenset[str], row: CompartmentRow, relative: Relative) -> Membership:
    if row.subject:
        subjects = list(at(resource, row.subject))
        for subject in subjects:
            found = local(subject, relative)
            if found is None or (found[0] == "Patient" and found[1] not in patients):
                return Outside()
    named = {found[1] for path in row.paths for reference in at(resource, path) if (found := local(reference, relative)) and found[0] == "Patient"}
    inside = named & patients
    return Inside(frozenset(inside)) if inside else Outside()


def patients_of(resource: Mapping[str, Any], row: CompartmentRow, relative: Relative) -> frozenset[str]:
    """All patients that the resource belongs to by its elements, whoever asks: whose cached answers a write changes."""
    if row.kind == "record":
        id_ = resource.get("id")
        return frozenset({id_}) if isinstance(id_, str) else frozenset()
    found = (local(reference, relative) for path in row.paths for reference in at(resource, path))
    return frozenset(one[1] for one in found if one and one[0] == "Patient")


def matches(resource: Mapping[str, Any], pairs: tuple[tuple[str, str], ...], tables: Tables) -> bool | None:
    """Whether all `name=value` token conditions hold; None when one cannot be judged here."""
    resource_type = str(resource.get("resourceType"))
    for name, value in pairs:
        if not tables.can_evaluate(resource_type, name):
            return None
        param = tables.search[resource_type][name]
        wanted = [split_token(alternative) for alternative in split_or(value)]
        tokens = [token for path in param.paths for item in at(resource, path) for token in _tokens(item)]
        if not any(_same(token, one) for token in tokens for one in wanted):
            return False
    return True


def _tokens(item: Any) -> Iterator[tuple[str | None, str]]:
    """The (system, code) pairs of a value that a token parameter can search (search.html 3.1.1.4.10)."""
    if isinstance(item, bool):
        yield None, "true" if item else "false"
    elif isinstance(item, str):
        yield None, item
    elif isinstance(item, dict):
        value = cast("dict[str, Any]", item)
        for coding in at(value, "coding"):
            if isinstance(coding, dict):
                yield from _tokens({k: v for k, v in cast("dict[str, Any]", coding).items() if k != "coding"})
        code = value.get("code", value.get("value"))
        if isinstance(code, str):
            system = value.get("system")
            yield (system if isinstance(system, str) else ""), code


def _same(token: tuple[str | None, str], wanted: tuple[str | None, str]) -> bool:
    """`code` any system, `system|code`, `|code` no system, `system|` any code. A code element has its system by definition, so it is not compared."""
    (system, code), (wanted_system, wanted_code) = token, wanted
    if wanted_system is not None and system is not None and system != wanted_system:
        return False
    return wanted_code in ("", code) if wanted_system else wanted_code == code
