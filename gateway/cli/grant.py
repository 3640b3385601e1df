"""`gateway grant list|end`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from gateway import local
from gateway.cli import options, output
from gateway.cli.state import with_state
from gateway.errors import ConfigError
from gateway.smart.server.authorization.operator import Given, GivenAccess, Whose

T = TypeVar("T")

_FLAGS = {"id": "ID", "username": "--user", "client_id": "--client"}

EXAMPLE = """\b
Examples:
  gateway grant list
  gateway grant list --user ann
  gateway grant end 5f0c2b9a1d4e07ba5f0c2b9a1d4e07ba
  gateway grant end --user ann
  gateway grant end --user ann --client growth-chart --yes --json
"""

of_user = click.option("--user", "username", default="", metavar="NAME", help="What this person allowed.")
of_client = click.option("--client", "client_id", default="", metavar="ID", help="What this client was allowed.")


@click.group()
def grant() -> None:
    """See what apps were allowed, and end it."""


@grant.command("list", epilog=EXAMPLE)
@of_user
@of_client
@options.common
@options.as_json
def list_(
    username: str,
    client_id: str,
    json_: bool,  # noqa: FBT001  # click passes by name
    config: Path | None,
    store: str | None,
    ehr: tuple[str, ...],
) -> None:
    """List the access that is in force, the newest first."""
    found = _with(config, store, ehr, lambda access: access.listed(Whose(username, client_id)))
    if json_:
        output.show_json([_told(one) for one in found])
        return
    rows = [(one.grant.id, one.grant.client_id, one.username or "-", one.grant.ehr, f"{one.grant.created_at:%Y-%m-%d}", _until(one)) for one in found]
    output.show_table(("id", "client", "person", "ehr", "since", "goes on"), rows)


@grant.command(epilog=EXAMPLE)
@click.argument("id_", metavar="[ID]", default="")
@of_user
@of_client
@click.option("--yes", is_flag=True, help="Do not ask.")
@options.common
@options.as_json
def end(
    id_: str,
    username: str,
    client_id: str,
    yes: bool,  # noqa: FBT001  # click passes by name
    json_: bool,  # noqa: FBT001  # likewise
    config: Path | None,
    store: str | None,
    ehr: tuple[str, ...],
) -> None:
    """End one grant by its ID, or all that a person allowed, or all that a client was allowed: for every request that starts after this.

    The app asks the person anew, also where she had said that it need not. Accounts and clients stay as they are.
    """
    if bool(id_) == bool(username or client_id):
        raise ConfigError("Say what ends.", where="ID", fix="give the ID of one grant, or --user NAME, or --client ID, or both of these")
    if id_:
        ended = _with(config, store, ehr, lambda access: access.end(id_))
        output.say({"ended": 1, "id": ended.id, "client_id": ended.client_id}, f"{ended.client_id} has no access any more by that.", json_=json_)
        return
    whose = Whose(username, client_id)
    if not yes:
        _confirm(whose)
    number = _with(config, store, ehr, lambda access: access.end_all(whose))
    output.say({"ended": number, "user": username, "client_id": client_id}, f"{number} grant{'' if number == 1 else 's'} ended.", json_=json_)


def _confirm(whose: Whose) -> None:
    words = [f"that {whose.username} allowed" if whose.username else "", f"that {whose.client_id} was allowed" if whose.client_id else ""]
    output.confirm(f"End all {' and '.join(one for one in words if one)}?")


def _with(config: Path | None, store: str | None, ehr: tuple[str, ...], work: Callable[[GivenAccess], Awaitable[T]]) -> T:
    return with_state(options.settings(config, store, ehr).settings, lambda state: work(local.given_access(state)), _FLAGS)


def _told(one: Given) -> dict[str, Any]:
    grant = one.grant
    return {
        "id": grant.id,
        "ehr": grant.ehr,
        "client_id": grant.client_id,
        "client_name": one.client_name,
        "user": one.username,
        "patient": grant.patient,
        "scope": grant.scope,
        "created_at": grant.created_at,
        "last_token_at": grant.exchanged_at,
        "goes_on": _until(one),
    }


def _until(one: Given) -> str:
    """Until when, in a word."""
    if one.grant.online_until:
        return "while signed in"
    return "offline" if "offline_access" in one.grant.scope.split() else "one token"
