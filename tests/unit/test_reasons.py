"""docs/decisions.md lists every reason id that the code can give, and no other."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
POSITIONAL = {"Deny": 2, "Page": 0, "_refuse": 0, "_deny": 0, "_Unusable": 0, "OutcomeUnknown": 0, "lied": 0, "Later": 0, "Dead": 0}
"""Where a reason is given without its name."""
RETURNED = ("refusal", "_reason")
"""Functions whose result is a reason."""
ELSEWHERE = {"access_denied"}
"""A code of RFC 6749."""


def texts(node: ast.expr) -> Iterator[str]:
    """The strings that an expression may be; `*` for what is put into one."""
    match node:
        case ast.Constant(value=str(text)) if text:
            yield text
        case ast.IfExp(body=one, orelse=other):
            yield from texts(one)
            yield from texts(other)
        case ast.JoinedStr(values=parts):
            yield "".join(part.value if isinstance(part, ast.Constant) else "*" for part in parts)


def reasons(tree: ast.AST) -> Iterator[str]:
    """The reason ids of one file."""
    for node in ast.walk(tree):
        match node:
            case ast.Call(func=ast.Name(id=name) | ast.Attribute(attr=name), args=args, keywords=keywords):
                yield from (text for one in keywords if one.arg == "reason" for text in texts(one.value))
                place = POSITIONAL.get(name, len(args))
                yield from (text for one in args[place : place + 1] for text in texts(one))
            case ast.FunctionDef(name=name) if name in RETURNED:
                yield from (text for one in ast.walk(node) if isinstance(one, ast.Return) and one.value for text in texts(one.value))
            case _:
                pass


def sources() -> Iterator[ast.AST]:
    """The code that answers: the sandbox and the command line give none."""
    for path in sorted((ROOT / "gateway").rglob("*.py")):
        if not {"sandbox", "cli"} & set(path.parts):
            yield ast.parse(path.read_text("utf-8"))


def documented() -> set[str]:
    """The ids in the first column of the tables."""
    rows = re.findall(r"^\| (`.*?) \|", (ROOT / "docs" / "decisions.md").read_text("utf-8"), re.MULTILINE)
    return {name for row in rows for name in re.findall(r"`([^`]+)`", row)}


def test_every_reason_is_on_the_page():
    """Whoever finds one in the record of accesses finds it there."""
    found = {text for tree in sources() for text in reasons(tree)} - ELSEWHERE
    assert len(found) > 100
    assert found - documented() == set()


def test_every_reason_on_the_page_is_in_the_code():
    """What was renamed or taken away does not stay on the page."""
    written = {text for tree in sources() for node in ast.walk(tree) if isinstance(node, ast.Constant | ast.JoinedStr) for text in texts(node)}
    assert documented() - written == set()
