"""A pytest plugin: which tests name a case of docs/cases.md (`ATK-O6`, `HL7@77`, `A2.14`, ...), and how they went.

A test names a case in its id, its docstring or the values that it is run with; one that judges several by itself says so with
`record_property("cases", "A1.1 A1.2")`. What is found goes, for each case, to the file named in GATEWAY_TEST_CASES; a second run adds to it.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

_LISTS = ("ATK-", "[OF]"), ("FAULT-", "[BCDPRSU]"), ("AUTHLIB-", "E")
FAMILIES = [re.compile(rf"\b({family})({kind}\d+(?:(?:, | and ){kind}\d+)*)(?!\w)") for family, kind in _LISTS]
NUMBERED = re.compile(r"\b(HL7@|A1?\d\.)(\d+(?:(?:, | and |-)\d+)*)(?!\w|\.\d)")


def named(text: str) -> set[str]:
    """The cases in a text, also as in `ATK-O5, O7`, `HL7@128 and 129` and `HL7@348-371` (those and all between)."""
    found = {family + one for pattern in FAMILIES for family, listed in pattern.findall(text) for one in re.split(", | and ", listed)}
    for family, listed in NUMBERED.findall(text):
        for part in re.split(", | and ", listed):
            first, _, last = part.partition("-")
            found |= {f"{family}{number}" for number in range(int(first), int(last or first) + 1)}
    return found


def pytest_collection_modifyitems(items) -> None:
    """Note on each test what it names; with several processes the notes travel with its report."""
    for item in items:
        texts = [item.name, getattr(getattr(item, "obj", None), "__doc__", None) or ""]
        if cases := sorted(named(" ".join(texts))):
            item.user_properties.append(("cases", " ".join(cases)))


class Cases:
    """Gathers outcomes where the reports come together."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.found: dict[str, dict[str, str]] = json.loads(path.read_text("utf-8")) if path.exists() else {}

    def pytest_runtest_logreport(self, report) -> None:
        """The worst of setup, call and teardown."""
        for name, value in report.user_properties:
            for case in value.split() if name == "cases" else ():
                tests = self.found.setdefault(case, {})
                if report.outcome != "passed" or report.nodeid not in tests:
                    tests[report.nodeid] = report.outcome

    def pytest_sessionfinish(self) -> None:
        """Write what is known."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.write_text(json.dumps(self.found, indent=1, sort_keys=True), "utf-8")


def pytest_configure(config) -> None:
    """Gather in the main process alone."""
    if (path := os.environ.get("GATEWAY_TEST_CASES")) and not hasattr(config, "workerinput"):
        config.pluginmanager.register(Cases(Path(path)), "cases")
