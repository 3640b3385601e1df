"""What commands print: JSON for programs, tables for people, one line with the fix for what went wrong."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import Any

import click

from gateway.errors import ConfigError, GatewayError, NotDone


def show_json(value: Any) -> None:
    """The answer, as JSON alone."""
    click.echo(json.dumps(value, indent=2, ensure_ascii=False, default=str))


def show_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Columns as wide as they need to be; nothing when there are no rows but a sentence."""
    if not rows:
        click.echo("(none)")
        return
    widths = [max(len(str(cell)) for cell in column) for column in zip(header, *rows, strict=True)]
    for row in (header, *rows):
        click.echo("  ".join(str(cell).ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def note(text: str) -> None:
    """Progress and remarks, for people: on stderr."""
    click.echo(text, err=True)


def complain(error: GatewayError) -> None:
    """One line: where, what, and the fix."""
    where = f"{error.where}: " if isinstance(error, ConfigError) and error.where else ""
    fix = f". Fix: {error.fix}" if isinstance(error, ConfigError | NotDone) and error.fix else ""
    click.echo(f"gateway: {where}{error.message.rstrip('.') if fix else error.message}{fix}", err=True)


def is_terminal() -> bool:
    """Whether somebody can answer a question."""
    return sys.stdin.isatty()


def say(told: Any, sentence: str, *, json_: bool) -> None:
    """What was done: as JSON, or in a sentence."""
    if json_:
        show_json(told)
    else:
        click.echo(sentence)


def confirm(question: str) -> None:
    """Ask, and go on only after a yes. Raises ConfigError where nobody can answer."""
    if not is_terminal():
        raise ConfigError("There is nobody to ask", where="--yes", fix="add --yes if you are sure")
    click.confirm(question, abort=True, err=True)
