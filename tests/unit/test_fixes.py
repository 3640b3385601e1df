"""What is not done is a fact in the library; what to do about it says the command line, always."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import gateway
from gateway.cli import fixes
from gateway.errors import NotDone


def raised() -> Iterator[tuple[str, bool]]:
    """Of each NotDone in the program: what it is, and whether it says itself what would be right."""
    for path in Path(gateway.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            match node:
                case ast.Call(func=ast.Name(id="NotDone"), keywords=keywords):
                    said = {one.arg: one.value for one in keywords}
                    yield ast.literal_eval(said["what"]), "fix" in said


def test_whatever_is_not_done_has_a_fix():
    """By its own words, or by a command; and the command line knows no fix for what nobody raises."""
    found = dict(raised())
    assert {what for what, fixed in found.items() if not fixed} <= fixes._FIXES.keys() <= found.keys()


def test_the_command_line_says_it_in_its_own_words():
    """The argument by the name that it has there; the library's fix where no command helps."""
    told = fixes.explained(NotDone("There is no client a", what="client-unknown", about="client_id"), {"client_id": "--client"})
    assert (told.where, told.message, told.fix) == ("--client", "There is no client a", "gateway client list shows them")
    own = fixes.explained(NotDone("Too short.", what="password-length", about="password", fix="choose another"), {})
    assert (own.where, own.fix) == ("", "choose another")
