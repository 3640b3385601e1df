"""Re-judge everything that an EHR gave back: each match, include and write result. Pure.

The EHR may be wrong or hostile (ATK-F21): what does not pass is not there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from gateway.fhir.compartment import Inside, NeedsOwners, Outside, Shared, matches, membership, patients_of
from gateway.fhir.references import Relative
from gateway.fhir.tables import Tables
from gateway.smart.constraint import Constraint, Reach


@dataclass(frozen=True, slots=True)
class Keep:
    """The resource may leave. `patients` are those within reach that it belongs to; without a limit to the reach, all of them."""

    patients: frozenset[str]


@dataclass(frozen=True, slots=True)
class Drop:
    """The resource may not leave, for this reason (a stable id)."""

    reason: str


@dataclass(frozen=True, slots=True)
class Ask:
    """Whether it may leave depends on these resources (`Type/id`), which must be judged first: Provenance, Binary."""

    owners: tuple[str, ...]


Verdict = Keep | Drop | Ask


def judge(resource: Mapping[str, Any], reaches: tuple[Reach, ...], tables: Tables, relative: Relative) -> Verdict:
    """Whether one of the reaches holds for the resource."""
    row = tables.compartment.get(str(resource.get("resourceType")))
    if row is None:
        return Drop("type-unknown")
    if not reaches:
        return Drop("scope-missing")
    verdict: Verdict = Drop("outside-compartment")
    for reach in reaches:
        if reach.query and matches(resource, reach.query, tables) is not True:
            continue
        if reach.patients is None:
            return Keep(patients_of(resource, row, relative))  # on her record it is, whoever saw it
        match membership(resource, reach.patients, row, relative):
            case Shared():
                return Keep(frozenset())
            case Inside(patients):
                return Keep(patients)
            case NeedsOwners(refs):
                verdict = Ask(refs)
            case Outside():
                pass
    return verdict


def reaches_for(resource_type: str, searched: str, mode: str, constraint: Constraint) -> tuple[Reach, ...]:
    """Which reaches speak of an entry: a match is what was asked for, an include passes its own type's scope."""
    if mode == "match" and resource_type == searched:
        return constraint.match
    return constraint.others.get(resource_type, ())
