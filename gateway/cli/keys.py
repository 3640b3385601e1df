"""`gateway keys list|rotate`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import TypeVar

import click

from gateway import local
from gateway.cli import options, output
from gateway.cli.state import with_state
from gateway.smart.server.keys import SigningKeys

T = TypeVar("T")

EXAMPLE = """\b
Examples:
  gateway keys list
  gateway keys rotate
  gateway keys rotate --at-once --json
"""


@click.group()
def keys() -> None:
    """List and rotate the keys that sign id_tokens: what `jwks_uri` publishes."""


@keys.command("list", epilog=EXAMPLE)
@options.common
@options.as_json
def list_(json_: bool, config: Path | None, store: str | None, ehr: tuple[str, ...]) -> None:  # noqa: FBT001  # click passes by name
    """List the published keys: the one that signs, the one that will, and those whose id_tokens may still be in use."""
    found = _with(config, store, ehr, lambda keys: keys.listed())
    if json_:
        output.show_json([asdict(one) for one in found])
        return
    rows = [(one.kid, one.state, _moment(one.created_at), _moment(one.signs_at), _moment(one.until)) for one in found]
    output.show_table(("kid", "state", "made", "signs from", "published until"), rows)


@keys.command(epilog=EXAMPLE)
@click.option("--at-once", is_flag=True, help="A key was stolen: the new one signs now, and no other counts any more.")
@options.common
@options.as_json
def rotate(at_once: bool, json_: bool, config: Path | None, store: str | None, ehr: tuple[str, ...]) -> None:  # noqa: FBT001  # click passes by name
    """Make a new signing key. It is published now, signs in two minutes, and the old one stays published while what it signed may be in use.

    Every process of the gateway takes part; nothing is to be restarted.
    """
    made = _with(config, store, ehr, lambda keys: keys.rotate(at_once=at_once))
    if json_:
        output.show_json(asdict(made))
    else:
        click.echo(f"{made.kid} is published, and signs from {_moment(made.signs_at)} on.")


def _with(config: Path | None, store: str | None, ehr: tuple[str, ...], work: Callable[[SigningKeys], Awaitable[T]]) -> T:
    return with_state(options.settings(config, store, ehr).settings, lambda state: work(local.signing_keys(state)), {"keys": "gateway keys rotate"})


def _moment(moment: datetime | None) -> str:
    return f"{moment:%Y-%m-%d %H:%M:%S} UTC" if moment else "-"
