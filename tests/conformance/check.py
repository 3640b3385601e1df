"""What a check is, and what it may say."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Pass:
    """As it should be."""

    reason: str = ""


@dataclass(frozen=True, slots=True)
class Fail:
    """Not as it must be, and how it is instead."""

    reason: str


@dataclass(frozen=True, slots=True)
class Warn:
    """Not as it should be; no requirement is broken."""

    reason: str


@dataclass(frozen=True, slots=True)
class Skip:
    """Not judged: the server does not offer it, or nobody asked for it."""

    reason: str


Outcome = Pass | Fail | Warn | Skip


class Skipped(Exception):
    """Something that the check needs is not offered by this server, or was not asked for."""


class Missing(Exception):
    """An earlier step did not bring what this check needs."""


def verdict(problems: Iterable[str], warnings: Iterable[str] = ()) -> Outcome:
    """Fail with all problems, else Warn with all warnings, else Pass."""
    found, less = list(dict.fromkeys(problems)), list(dict.fromkeys(warnings))
    if found:
        return Fail("; ".join(found))
    return Warn("; ".join(less)) if less else Pass()


@dataclass(frozen=True, slots=True)
class Check:
    """One numbered check. `published`: the name of the test that it ports; `requirements`: numbers of HL7@n."""

    id: str
    published: str
    requirements: tuple[int, ...]
    run: Callable[..., Outcome]
    group: str

    @property
    def sentence(self) -> str:
        """What is so when it passes."""
        return (self.run.__doc__ or "").strip().splitlines()[0]


@dataclass
class Group:
    """The checks of one chapter, in order."""

    name: str
    checks: list[Check] = field(default_factory=list)

    def check(self, id_: str, published: str, *requirements: int) -> Callable[[Callable[..., Outcome]], Callable[..., Outcome]]:
        """Register the function below as a check."""

        def register(function: Callable[..., Outcome]) -> Callable[..., Outcome]:
            self.checks.append(Check(id_, published, requirements, function, self.name))
            return function

        return register


def lacking(values: Any, *names: str) -> list[str]:
    """The problems of members that are not there, or blank."""
    return [f"{name} is missing" for name in names if not values.get(name)]
