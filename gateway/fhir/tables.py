"""The tables that rules are made of: search parameters, the patient compartment, includes and writes. Pure: made from parsed JSON.

The documents are those of `profiles/fhir`: the R4 definitions, and beside each our own decisions with their reasons. `gateway.shipped` reads them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, cast

Json = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class SearchParam:
    """One search parameter of one type. `paths` are dotted JSON paths; `exact`: the paths say all that its definition says."""

    type: str
    paths: tuple[str, ...] = ()
    targets: tuple[str, ...] = ()
    exact: bool = True


@dataclass(frozen=True, slots=True)
class CompartmentRow:
    """How one type belongs to patients.

    `kind`: `record` (Patient itself) | `patient` (by the elements in `paths`) | `owners` (by the resources named in `paths`) |
    `gateway` (answered by the gateway itself) | `shared` (everyone's) | `system` (nothing tells whose it is, or it is several people's:
    for systems that reach everyone) | `definition` (as `system`, and it changes how the EHR works: only a scope that names the type writes it).
    """

    kind: str
    paths: tuple[str, ...] = ()
    subject: str = ""  # the element that decides whose the resource is, or ""
    narrow: str = ""  # the search parameter that keeps a search inside
    others: tuple[str, ...] = ()  # elements other than the subject that may name a patient
    reason: str = ""

    @property
    def for_persons(self) -> bool:
        """Whether persons and their apps may have the type at all."""
        return self.kind not in ("system", "definition")


@dataclass(frozen=True, slots=True)
class WriteRow:
    """What one kind of principal may write of one type. Whatever no row allows is refused.

    `require` maps a dotted path to what must stand there: a tuple of allowed codes, or `self` (every reference there is the caller).
    `become` maps a stored status to the statuses that an update may give it; `change` lists the members that an update may change.
    `delete` lists the stored statuses in which it may be deleted.
    """

    kind: str
    type: str
    create: bool = False
    require: Mapping[str, tuple[str, ...]] = field(default_factory=dict[str, tuple[str, ...]])
    become: Mapping[str, tuple[str, ...]] = field(default_factory=dict[str, tuple[str, ...]])
    change: tuple[str, ...] = ()
    delete: tuple[str, ...] = ()
    reason: str = ""


@dataclass(frozen=True, slots=True, eq=False)  # the same only as itself, so that what follows from them can be kept by them
class Tables:
    """All of them."""

    search: Mapping[str, Mapping[str, SearchParam]]
    compartment: Mapping[str, CompartmentRow]
    includes: frozenset[str]
    revincludes: frozenset[str]
    writes: tuple[WriteRow, ...]
    never: tuple[str, ...]  # members that no person writes, as `Type.path` or `*.path`

    def can_evaluate(self, resource_type: str, name: str) -> bool:
        """Whether the gateway can judge by itself if a resource matches `name=...`: plain tokens with exact paths."""
        types = [resource_type] if resource_type != "*" else [t for t, row in self.compartment.items() if row.for_persons]
        return all(self._evaluable(t, name) for t in types)

    def _evaluable(self, resource_type: str, name: str) -> bool:
        param = self.search.get(resource_type, {}).get(name)
        return param is not None and param.type == "token" and param.exact and bool(param.paths)

    def for_persons(self, resource_type: str) -> bool:
        """Whether persons and their apps may have the type at all."""
        row = self.compartment.get(resource_type)
        return row is not None and row.for_persons

    def write_rows(self, kind: str, resource_type: str) -> tuple[WriteRow, ...]:
        """The rows that speak of a principal's kind and a type."""
        return tuple(row for row in self.writes if row.kind == kind and row.type in ("*", resource_type))


def make(documents: Mapping[str, Json]) -> Tables:
    """From the parsed documents of profiles/fhir, by file name. An override replaces members of the definition's row, never the whole row."""
    search = _search(documents["search-parameters.json"]["types"])
    definition = cast("Mapping[str, Json]", documents["compartment-patient.json"]["types"])
    decided = cast("Mapping[str, Json]", documents["compartment-decisions.json"]["types"])
    unknown = decided.keys() - definition.keys() - search.keys()
    if unknown:
        raise ValueError(f"compartment-decisions.json names unknown types: {sorted(unknown)}")
    includes = documents["includes.json"]
    writes = documents["writes.json"]
    return Tables(
        search=search,
        compartment={name: _row({**definition.get(name, {}), **decided.get(name, {})}) for name in sorted(definition.keys() | decided.keys())},
        includes=frozenset(row["value"] for row in includes["include"]),
        revincludes=frozenset(row["value"] for row in includes["revinclude"]),
        writes=tuple(_write_row(row) for row in writes["rows"]),
        never=tuple(row["path"] for row in writes["never"]),
    )


def _search(types: Mapping[str, Mapping[str, Json]]) -> dict[str, dict[str, SearchParam]]:
    common = {name: _param(row) for name, row in types["Resource"].items()}
    return {
        resource_type: common | {name: _param(row) for name, row in rows.items()}
        for resource_type, rows in types.items()
        if resource_type != "Resource"
    }


def _param(row: Json) -> SearchParam:
    return SearchParam(row["type"], tuple(row.get("paths", ())), tuple(row.get("targets", ())), bool(row.get("exact", True)))


def _row(row: Json) -> CompartmentRow:
    return CompartmentRow(
        kind=row["kind"],
        paths=tuple(row.get("paths") or ()),
        subject=row.get("subject") or "",
        narrow=row.get("narrow") or "",
        others=tuple(row.get("others") or ()),
        reason=row.get("reason", ""),
    )


def _write_row(row: Json) -> WriteRow:
    return WriteRow(
        kind=row["kind"],
        type=row["type"],
        create=bool(row.get("create", False)),
        require={path: _tuple(allowed) for path, allowed in row.get("require", {}).items()},
        become={status: tuple(after) for status, after in row.get("become", {}).items()},
        change=tuple(row.get("change", ())),
        delete=tuple(row.get("delete", ())),
        reason=row["reason"],
    )


def _tuple(value: Any) -> tuple[str, ...]:
    return (value,) if isinstance(value, str) else tuple(value)
