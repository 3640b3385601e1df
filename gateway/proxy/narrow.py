"""Narrow a search to what the constraint reaches, before the EHR sees it. Pure.

Narrowing keeps other people's data from being asked for and keeps totals, pages and times honest; `proxy.screen` re-judges whatever comes back.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from gateway.fhir.interaction import Interaction, Param
from gateway.fhir.search import split_or
from gateway.fhir.tables import CompartmentRow, Tables
from gateway.smart.constraint import Reach

MAX_COUNT = 200
_RESULT = frozenset({"_count", "_include", "_revinclude", "_sort", "_total"})


@dataclass(frozen=True, slots=True)
class Narrowed:
    """`interaction` None: nothing can match, the EHR need not be asked. `exact`: the EHR's own count counts only what may be seen.

    `patients`: whose data is asked for, None for everyone's. `pointed`: it names single resources that may be somebody else's.
    """

    interaction: Interaction | None
    exact: bool
    patients: frozenset[str] | None
    pointed: bool = False


def understood(interaction: Interaction, tables: Tables) -> Interaction:
    """The search that is really made, which its self link tells (search.html 3.1.1.6): pages have an end, and what nobody here knows is gone.

    Only result parameters can be unknown here (`_pretty`, `_totalMethod`, ...): harmless, and not for the EHR. All others were refused.
    """
    known = tables.search.get(interaction.type, {})
    kept = (param for param in interaction.params if not param.name.startswith("_") or param.name in _RESULT or param.name in known)
    return interaction.with_params(tuple(_clamped(param) for param in kept))


def _clamped(param: Param) -> Param:
    return replace(param, value=str(min(int(param.value), MAX_COUNT))) if param.name == "_count" else param


def narrow(interaction: Interaction, reaches: tuple[Reach, ...], tables: Tables) -> Narrowed:
    """The same search, within the reaches."""
    row = tables.compartment[interaction.type]
    params = interaction.params
    patients = None if row.kind == "shared" else _union(reaches)
    pointed = False
    if patients is not None:
        params, patients = _confine(params, interaction.type, patients, tables)
        if not patients:
            return Narrowed(None, exact=True, patients=patients)
        pointed = any(_points(param, interaction.type, tables) for param in params)
        params += _bound(row, patients)
    condition, exact = _condition(reaches)
    inside = patients is None or bool(row.narrow)
    return Narrowed(interaction.with_params(params + condition), exact=exact and inside and row.kind != "owners", patients=patients, pointed=pointed)


def _union(reaches: tuple[Reach, ...]) -> frozenset[str] | None:
    found: set[str] = set()
    for reach in reaches:
        if reach.patients is None:
            return None
        found |= reach.patients
    return frozenset(found)


def _confine(params: tuple[Param, ...], resource_type: str, patients: frozenset[str], tables: Tables) -> tuple[tuple[Param, ...], frozenset[str]]:
    """Take every parameter that says whose data is wanted, and the patients that are left when all of them are obeyed (ATK-F2).

    Done here and not left to the EHR: some drop one of two contradictory parameters (ATK-F26).
    """
    kept: list[Param] = []
    for param in params:
        named = _named_patients(resource_type, param, tables)
        if named is None:
            kept.append(param)
        else:
            patients &= named
    return tuple(kept), patients


def _named_patients(resource_type: str, param: Param, tables: Tables) -> frozenset[str] | None:
    """The patients that the parameter wants, when it looks at the element that makes the resource a patient's, and names patients only.

    Parameters on other elements, or that name other types too, only filter what is within reach anyway.
    """
    row = tables.compartment[resource_type]
    if param.modifier == "missing":
        return None
    if row.narrow == "_id":
        return frozenset(split_or(param.value)) if param.name == "_id" else None
    search = tables.search.get(resource_type, {})
    known = search.get(param.name)
    deciding = search[row.narrow].paths if row.narrow in search else ()
    if known is None or known.type != "reference" or "Patient" not in known.targets or not set(known.paths) & set(deciding):
        return None
    ids = [_patient_id(value, param.modifier, known.targets) for value in split_or(param.value)]
    return None if None in ids else frozenset(id_ for id_ in ids if id_ is not None)


def _points(param: Param, resource_type: str, tables: Tables) -> bool:
    """Whether it asks for one resource by its id, its identifier or another one that it refers to. What says whose, is not here any more."""
    known = tables.search.get(resource_type, {}).get(param.name)
    return param.name in ("_id", "identifier") or (known is not None and known.type == "reference")


def _patient_id(value: str, modifier: str, targets: tuple[str, ...]) -> str | None:
    """`A`, `Patient/A`, or `A` with `:Patient`. None when it names another type that the parameter may point to.

    A bare id may be of any target type: it is judged as a patient's. An absolute reference was made relative when it was parsed, or is nobody's.
    """
    head, slash, tail = value.rpartition("/")
    if not slash:
        return value if modifier in ("", "Patient") else None
    if head == "Patient":
        return tail
    return None if head in targets else value


def _bound(row: CompartmentRow, patients: frozenset[str]) -> tuple[Param, ...]:
    """The parameter that keeps the search inside the compartment. Never `Patient/{id}/{Type}`: some servers refuse it for some types."""
    if not row.narrow:
        return ()
    prefix = "" if row.narrow == "_id" else "Patient/"
    return (Param(row.narrow, "", ",".join(prefix + patient for patient in sorted(patients))),)


def _condition(reaches: tuple[Reach, ...]) -> tuple[tuple[Param, ...], bool]:
    """The granular condition as parameters, where one search can say it; and whether it says it exactly."""
    same_patients = len({reach.patients for reach in reaches}) == 1
    if any(not reach.query for reach in reaches):
        return (), same_patients
    names = {tuple(name for name, _ in reach.query) for reach in reaches}
    if len(names) == 1 and len(next(iter(names))) == 1:
        name = next(iter(names))[0]
        values = dict.fromkeys(value for reach in reaches for _, value in reach.query)
        return (Param(name, "", ",".join(values)),), same_patients
    if len(reaches) == 1:
        return tuple(Param(name, "", value) for name, value in reaches[0].query), True
    return (), False
