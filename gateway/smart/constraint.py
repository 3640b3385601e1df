"""What narrows an allowed interaction: for each type, whose resources and which of them. Pure values."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property


@dataclass(frozen=True, slots=True)
class Reach:
    """One alternative of what may be seen: the patients (None: everyone) and the granular condition, all pairs of which must hold."""

    patients: frozenset[str] | None
    query: tuple[tuple[str, str], ...] = ()

    def canonical(self) -> object:
        """Plain values in one fixed order, for cache keys."""
        return [None if self.patients is None else sorted(self.patients), sorted(self.query)]


@dataclass(frozen=True)  # no slots: what is worked out once is kept beside the fields
class Constraint:
    """For each resource type, the alternatives of which one must hold. A type that is not in the mapping may not leave.

    `match` speaks of the type that was asked for with the letter it was asked with; `others` of everything that may come along
    (includes, owners), where read or search is enough.
    """

    match: tuple[Reach, ...]
    others: Mapping[str, tuple[Reach, ...]] = field(default_factory=dict[str, tuple[Reach, ...]])

    @cached_property
    def patients(self) -> frozenset[str] | None:
        """All patients named anywhere, or None when some alternative reaches everyone."""
        found: set[str] = set()
        for reaches in (self.match, *self.others.values()):
            for reach in reaches:
                if reach.patients is None:
                    return None
                found |= reach.patients
        return frozenset(found)

    def canonical(self) -> str:
        """The same text for the same constraint, whatever the order in which scopes were granted."""
        return self._canonical

    @cached_property
    def _canonical(self) -> str:
        def flat(reaches: tuple[Reach, ...]) -> list[str]:
            return sorted({json.dumps(reach.canonical(), separators=(",", ":")) for reach in reaches})

        return json.dumps([flat(self.match), {t: flat(r) for t, r in sorted(self.others.items())}], separators=(",", ":"))


@dataclass(frozen=True, slots=True)
class Allow:
    """The interaction may go on, within the constraint. `reason` names the scopes that allowed it."""

    constraint: Constraint
    reason: str


@dataclass(frozen=True, slots=True)
class Deny:
    """The interaction ends here. `status` and `code` are those of the answer; `reason` is the stable id (docs/decisions.md)."""

    status: int
    code: str
    reason: str
    message: str


Decision = Allow | Deny
