"""`gateway user add`, `list`, `password`, `reset-factors` and `disable`."""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import click

from gateway import local
from gateway.cli import options, output
from gateway.cli.state import with_state
from gateway.config import Settings
from gateway.errors import ConfigError
from gateway.local import State
from gateway.smart.server.people.accounts import Accounts
from gateway.store.oauth_rows import Account, ListedPatient

_FLAGS = {"username": "NAME", "password": "--password-stdin", "fhir_user": "--fhir-user"}

EXAMPLE = """\b
Examples:
  echo "$PASSWORD" | gateway user add alice --ehr hapi --fhir-user Patient/p1 --password-stdin
  gateway user add dr.bone --ehr hapi --fhir-user Practitioner/7 --patient p1 --patient p2
  gateway user list
  echo "$PASSWORD" | gateway user password alice --password-stdin
  gateway user reset-factors alice
  gateway user disable alice
"""

from_stdin = click.option("--password-stdin", is_flag=True, help="Read the password from standard input (its first line).")


@click.group()
def user() -> None:
    """Add and list the people who sign in, help them in again, close their accounts."""


@user.command(epilog=EXAMPLE)
@click.argument("name")
@click.option("--fhir-user", required=True, metavar="TYPE/ID", help="Who this is in the EHR: Patient/ID, RelatedPerson/ID, Practitioner/ID.")
@click.option("--patient", multiple=True, metavar="ID[=NAME]", help="A patient whose record this person may open. May be repeated.")
@click.option("--display-name", default="", metavar="TEXT", help="How the pages call this person.")
@from_stdin
@options.common
@options.as_json
def add(
    name: str,
    fhir_user: str,
    patient: tuple[str, ...],
    display_name: str,
    password_stdin: bool,  # noqa: FBT001  # click passes by name
    json_: bool,  # noqa: FBT001  # likewise
    config: Path | None,
    store: str | None,
    ehr: tuple[str, ...],
) -> None:
    """Add NAME, who may then sign in. Without --password-stdin the password is asked for."""
    loaded = options.settings(config, store, ehr)
    facts: dict[str, Any] = {
        "ehr": options.chosen(loaded, ehr),
        "fhir_user": fhir_user,
        "display_name": display_name,
        "patients": tuple(ListedPatient(id_, shown) for id_, _, shown in (one.partition("=") for one in patient)),
    }
    account = _add(loaded.settings, name, _password(stdin=password_stdin), facts)
    _say(account, f"{account.username} may sign in at {account.ehr} as {account.fhir_user}.", json_=json_, patients=list(patient))


@user.command("list", epilog=EXAMPLE)
@options.common
@options.as_json
def list_(json_: bool, config: Path | None, store: str | None, ehr: tuple[str, ...]) -> None:  # noqa: FBT001  # click passes by name
    """List everybody who was added, closed accounts too. With --ehr NAME, those of that EHR."""
    loaded = options.settings(config, store, ehr)
    wanted = {one.partition("=")[0] for one in ehr}
    found = [(one, listed) for one, listed in _all(loaded.settings) if not wanted or one.ehr in wanted]
    if json_:
        output.show_json([_told(one, listed) for one, listed in found])
        return
    header = ("name", "ehr", "who", "may open", "closed")
    rows = [(one.username, one.ehr, one.fhir_user, " ".join(item.patient for item in listed) or "-", _day(one.disabled_at)) for one, listed in found]
    output.show_table(header, rows)


@user.command(epilog=EXAMPLE)
@click.argument("name")
@from_stdin
@options.common
@options.as_json
def password(
    name: str,
    password_stdin: bool,  # noqa: FBT001  # click passes by name
    json_: bool,  # noqa: FBT001  # likewise
    config: Path | None,
    store: str | None,
    ehr: tuple[str, ...],
) -> None:
    """Give NAME a new password; every session that was begun with the old one ends."""
    settings = options.settings(config, store, ehr).settings
    new = _password(stdin=password_stdin)
    account = _change(settings, name, lambda accounts, found: accounts.set_password(found, new))
    _say(account, f"{account.username} has a new password, and is signed out everywhere.", json_=json_)


@user.command("reset-factors", epilog=EXAMPLE)
@click.argument("name")
@options.common
@options.as_json
def reset_factors(name: str, json_: bool, config: Path | None, store: str | None, ehr: tuple[str, ...]) -> None:  # noqa: FBT001  # click passes by name
    """Take authenticator app, recovery codes and passkeys from NAME, who lost them: the password alone is enough again.

    Do it only for somebody of whom you know who it is. Every session ends.
    """
    settings = options.settings(config, store, ehr).settings
    account = _reset(settings, name)
    _say(account, f"{account.username} signs in with the password alone, and is signed out everywhere.", json_=json_)


@user.command(epilog=EXAMPLE)
@click.argument("name")
@options.common
@options.as_json
def disable(name: str, json_: bool, config: Path | None, store: str | None, ehr: tuple[str, ...]) -> None:  # noqa: FBT001  # click passes by name
    """Close the account of NAME: sessions and apps have no more access from their next request on."""
    settings = options.settings(config, store, ehr).settings
    account = _change(settings, name, lambda accounts, found: accounts.disable(found))
    _say(account, f"{account.username} is closed: nothing is done in this person's name any more.", json_=json_)


def _say(account: Account, sentence: str, *, json_: bool, **more: Any) -> None:
    if json_:
        output.show_json({"id": account.id, "name": account.username, "ehr": account.ehr, "fhir_user": account.fhir_user, **more})
    else:
        click.echo(sentence)


def _told(account: Account, listed: tuple[ListedPatient, ...]) -> dict[str, Any]:
    return {
        "id": account.id,
        "name": account.username,
        "ehr": account.ehr,
        "fhir_user": account.fhir_user,
        "display_name": account.display_name,
        "patients": [one.patient for one in listed],
        "created_at": account.created_at,
        "disabled_at": account.disabled_at,
    }


def _day(moment: datetime | None) -> str:
    return f"{moment:%Y-%m-%d}" if moment else "-"


def _all(settings: Settings) -> tuple[tuple[Account, tuple[ListedPatient, ...]], ...]:
    return with_state(settings, lambda state: local.accounts(state).all(), _FLAGS)


def _change(settings: Settings, name: str, change: Callable[[Accounts, Account], Awaitable[None]]) -> Account:
    async def changed(state: State) -> Account:
        accounts = local.accounts(state)
        found = await _found(accounts, name)
        await change(accounts, found)
        return found

    return with_state(settings, changed, _FLAGS)


def _reset(settings: Settings, name: str) -> Account:
    async def changed(state: State) -> Account:
        found = await _found(local.accounts(state), name)
        await local.factors(state).reset(found)
        return found

    return with_state(settings, changed, _FLAGS)


async def _found(accounts: Accounts, name: str) -> Account:
    if (found := await accounts.named(name)) is None:
        raise ConfigError("There is nobody of that name.", where="NAME", fix="gateway user list shows who there is")
    return found


def _add(settings: Settings, name: str, password: str, facts: dict[str, Any]) -> Account:
    return with_state(settings, lambda state: local.accounts(state).add(name, password, **facts), _FLAGS)


def _password(*, stdin: bool) -> str:
    if stdin:
        return sys.stdin.readline().rstrip("\r\n")
    if not output.is_terminal():
        raise ConfigError("There is nobody to ask for the password.", where="--password-stdin", fix="add it, and send the password on standard input")
    entered: str = click.prompt("Password", hide_input=True, confirmation_prompt=True, err=True)
    return entered
