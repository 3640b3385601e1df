"""`gateway user add`."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Any

import click

from gateway import compose
from gateway.cli import options, output
from gateway.config import Settings
from gateway.errors import ConfigError
from gateway.store.oauth_rows import Account, ListedPatient

EXAMPLE = """\b
Example:
  echo "$PASSWORD" | gateway user add alice --ehr hapi --fhir-user Patient/p1 --password-stdin
  gateway user add dr.bone --ehr hapi --fhir-user Practitioner/7 --patient p1 --patient p2
"""


@click.group()
def user() -> None:
    """Add the people who sign in."""


@user.command(epilog=EXAMPLE)
@click.argument("name")
@click.option("--fhir-user", required=True, metavar="TYPE/ID", help="Who this is in the EHR: Patient/ID, RelatedPerson/ID, Practitioner/ID.")
@click.option("--patient", multiple=True, metavar="ID[=NAME]", help="A patient whose record this person may open. May be repeated.")
@click.option("--display-name", default="", metavar="TEXT", help="How the pages call this person.")
@click.option("--password-stdin", is_flag=True, help="Read the password from standard input (its first line).")
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
    account = asyncio.run(_add(loaded.settings, name, _password(stdin=password_stdin), facts))
    if json_:
        output.show_json({"id": account.id, "name": account.username, "ehr": account.ehr, "fhir_user": account.fhir_user, "patients": list(patient)})
    else:
        click.echo(f"{account.username} may sign in at {account.ehr} as {account.fhir_user}.")


async def _add(settings: Settings, name: str, password: str, facts: dict[str, Any]) -> Account:
    async with compose.opened(settings) as state:
        return await compose.accounts(state).add(name, password, **facts)


def _password(*, stdin: bool) -> str:
    if stdin:
        return sys.stdin.readline().rstrip("\r\n")
    if not output.is_terminal():
        raise ConfigError("There is nobody to ask for the password.", where="--password-stdin", fix="add it, and send the password on standard input")
    password: str = click.prompt("Password", hide_input=True, confirmation_prompt=True, err=True)
    return password
