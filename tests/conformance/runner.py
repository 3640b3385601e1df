"""Runs checks in order, says each result as it comes, and counts them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from typing import Any

import httpx

from tests.conformance.check import Check, Fail, Missing, Outcome, Skip, Skipped
from tests.conformance.context import Context


@dataclass(frozen=True, slots=True)
class Result:
    """A check and what it said."""

    check: Check
    outcome: Outcome

    @property
    def word(self) -> str:
        return type(self.outcome).__name__.lower()

    @property
    def line(self) -> str:
        """id, result, sentence; then why."""
        word = self.word.upper() if isinstance(self.outcome, Fail) else self.word
        return f"{self.check.id:<7} {word:<4}  {self.check.sentence}" + (f"\n{'':<15}{self.outcome.reason}" if self.outcome.reason else "")


@dataclass
class Report:
    """All results of one run."""

    base: str
    results: list[Result] = field(default_factory=list)

    def ids(self, word: str) -> list[str]:
        """Which said so."""
        return [one.check.id for one in self.results if one.word == word]

    @property
    def failed(self) -> bool:
        return bool(self.ids("fail"))

    @property
    def summary(self) -> str:
        counts = [f"{len(self.ids(word))} {name}" for word, name in _NAMES.items()]
        return f"{len(self.results)} checks: {', '.join(counts)}"

    def json(self) -> dict[str, Any]:
        """For --json."""
        rows = [
            {key: value for key, value in asdict(one.check).items() if key != "run"}
            | {"sentence": one.check.sentence, "result": one.word, "reason": one.outcome.reason}
            for one in self.results
        ]
        return {"base": self.base, "summary": {word: len(self.ids(word)) for word in _NAMES}, "checks": rows}


_NAMES = {"pass": "passed", "fail": "failed", "warn": "warned", "skip": "skipped"}


def run(at: Context, checks: Iterable[Check], say: Callable[[str], None] = lambda _line: None) -> Report:
    """One after the other."""
    report = Report(at.config.base)
    for check in checks:
        result = Result(check, judge(at, check))
        report.results.append(result)
        say(result.line)
    return report


def judge(at: Context, check: Check) -> Outcome:
    """What a check says; what it could not find out is a Fail with the reason."""
    try:
        return check.run(at)
    except Skipped as reason:
        return Skip(str(reason))
    except Missing as reason:
        return Fail(f"not judged: {reason}")
    except httpx.HTTPError as error:
        return Fail(f"no answer: {type(error).__name__} {error}")
    except Exception as error:  # noqa: BLE001  # a server may answer anything: what its answer breaks here is a finding, and the rest goes on
        return Fail(f"the answer could not be read: {type(error).__name__}: {error}")
