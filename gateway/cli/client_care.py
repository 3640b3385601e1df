"""What becomes of a registered client: `gateway client approve|disable|enable|rotate-secret|delete`, and invites to register one."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import click

from gateway import local
from gateway.cli import options, output
from gateway.cli.state import with_state
from gateway.smart.server.clients.admin import Clients
from gateway.smart.server.clients.invites import Terms
from gateway.store.oauth_rows import Invite

T = TypeVar("T")

_FLAGS = {"id": "ID", "client_id": "ID", "version": "--version", "scope": "--system-scope"}

_APPROVE = """\b
Example:
  gateway client show 5f0c2b9a
  gateway client approve 5f0c2b9a --version 1d4e07ba
"""
_SWITCH = """\b
Example:
  gateway client disable growth-chart
  gateway client enable growth-chart
"""
_ROTATE = """\b
Example:
  gateway client rotate-secret growth-chart
  gateway client rotate-secret growth-chart --overlap 24
"""
_DELETE = """\b
Example:
  gateway client delete growth-chart
  gateway client delete growth-chart --yes --json
"""
_INVITE = """\b
Example:
  gateway client invite --ehr hapi
  gateway client invite --ehr hapi --uses 5 --days 30 --json
  gateway client invite --ehr hapi --system-scope "system/Observation.rs"
  gateway client invites
  gateway client withdraw 0c5a
"""


@click.command(epilog=_APPROVE)
@click.argument("id_", metavar="ID")
@click.option("--version", default="", metavar="TEXT", help="Of what you looked at, as gateway client show says it. Without it, it is shown again.")
@options.common
@options.as_json
def approve(
    id_: str,
    version: str,
    json_: bool,  # noqa: FBT001  # click passes by name
    config: Path | None,
    store: str | None,
    ehr: tuple[str, ...],
) -> None:
    """Let a client in that registered itself, as it was when you looked at it: if it changed itself meanwhile, it is not let in."""
    with_clients(config, store, ehr, lambda clients: clients.approve(id_, version))
    output.say({"client_id": id_, "pending": False}, f"{id_} may ask for access.", json_=json_)


@click.command(epilog=_SWITCH)
@click.argument("id_", metavar="ID")
@options.common
@options.as_json
def disable(id_: str, json_: bool, config: Path | None, store: str | None, ehr: tuple[str, ...]) -> None:  # noqa: FBT001  # click passes by name
    """Take a client out of use. All its access ends, for every request that starts after this; what it pushed and is not delivered is rejected."""
    ended = with_clients(config, store, ehr, lambda clients: clients.disable(id_))
    told = {"client_id": id_, "disabled": True, "grants_ended": ended}
    output.say(told, f"{id_} is disabled: {_grants(ended)} ended, and nothing is done in its name any more.", json_=json_)


@click.command(epilog=_SWITCH)
@click.argument("id_", metavar="ID")
@options.common
@options.as_json
def enable(id_: str, json_: bool, config: Path | None, store: str | None, ehr: tuple[str, ...]) -> None:  # noqa: FBT001  # click passes by name
    """Let a disabled client in again. What it was allowed before stays ended: it asks anew."""
    with_clients(config, store, ehr, lambda clients: clients.enable(id_))
    output.say({"client_id": id_, "disabled": False}, f"{id_} may ask for access again.", json_=json_)


@click.command("rotate-secret", epilog=_ROTATE)
@click.argument("id_", metavar="ID")
@click.option("--overlap", default=0, type=click.IntRange(0, 720), metavar="HOURS", help="The old secret counts for so long. Without it, no longer.")
@options.common
@options.as_json
def rotate_secret(
    id_: str,
    overlap: int,
    json_: bool,  # noqa: FBT001  # click passes by name
    config: Path | None,
    store: str | None,
    ehr: tuple[str, ...],
) -> None:
    """Give a client a new secret and print it, this once. What the client was allowed stays."""
    secret = with_clients(config, store, ehr, lambda clients: clients.rotate_secret(id_, overlap=timedelta(hours=overlap)))
    if json_:
        output.show_json({"client_id": id_, "client_secret": secret, "overlap_hours": overlap})
        return
    click.echo(secret)
    output.note(f"Shown this once. The old secret counts for {overlap} more hours." if overlap else "Shown this once. The old secret counts no more.")


@click.command(epilog=_DELETE)
@click.argument("id_", metavar="ID")
@click.option("--yes", is_flag=True, help="Do not ask.")
@options.common
@options.as_json
def delete(
    id_: str,
    yes: bool,  # noqa: FBT001  # click passes by name
    json_: bool,  # noqa: FBT001  # likewise
    config: Path | None,
    store: str | None,
    ehr: tuple[str, ...],
) -> None:
    """Forget a client. All its access ends for good, as when it is disabled; it cannot be enabled again."""
    name = with_clients(config, store, ehr, lambda clients: clients.named(id_)).name
    if not yes:
        output.confirm(f'Delete {id_} ("{name}") and end all its access?')
    ended = with_clients(config, store, ehr, lambda clients: clients.delete(id_))
    told = {"client_id": id_, "deleted": True, "grants_ended": ended}
    output.say(told, f"{id_} is deleted: {_grants(ended)} ended.", json_=json_)


@click.command(epilog=_INVITE)
@click.option("--uses", default=1, show_default=True, type=click.IntRange(1, 1000), help="How many clients may be registered with it.")
@click.option("--days", default=7, show_default=True, type=click.IntRange(1, 365), help="How long it counts.")
@click.option("--system-scope", default="", metavar="TEXT", help="Backend clients may register too, with these system scopes at most.")
@options.common
@options.as_json
def invite(
    uses: int,
    days: int,
    system_scope: str,
    json_: bool,  # noqa: FBT001  # click passes by name
    config: Path | None,
    store: str | None,
    ehr: tuple[str, ...],
) -> None:
    """Make a token with which a developer registers a client at one EHR (registration = token), and print it, this once."""
    loaded = options.settings(config, store, ehr)
    terms = Terms(options.chosen(loaded, ehr), uses, days, system_scope)
    made, token = with_state(loaded.settings, lambda state: local.invites(state).make(terms), _FLAGS)
    if json_:
        output.show_json(_told(made) | {"initial_access_token": token})
        return
    click.echo(token)
    output.note(f"Shown this once. For {uses} client{'' if uses == 1 else 's'} at {made.ehr}, until {made.expires_at:%Y-%m-%d %H:%M} UTC.")
    if loaded.settings.registration != "token":
        output.note(f"It has no effect while registration = {loaded.settings.registration}: set it to token.")


@click.command(epilog=_INVITE)
@options.common
@options.as_json
def invites(json_: bool, config: Path | None, store: str | None, ehr: tuple[str, ...]) -> None:  # noqa: FBT001  # click passes by name
    """List the invites that can still be used."""
    found = with_state(options.settings(config, store, ehr).settings, lambda state: local.invites(state).usable(), _FLAGS)
    if json_:
        output.show_json([_told(one) for one in found])
        return
    rows = [(one.id, one.ehr, str(one.uses_left), f"{one.expires_at:%Y-%m-%d}", one.scope or "-") for one in found]
    output.show_table(("id", "ehr", "uses left", "until", "system scopes"), rows)


@click.command(epilog=_INVITE)
@click.argument("id_", metavar="ID")
@options.common
@options.as_json
def withdraw(id_: str, json_: bool, config: Path | None, store: str | None, ehr: tuple[str, ...]) -> None:  # noqa: FBT001  # click passes by name
    """End an invite before its time. Clients that were registered with it stay."""
    with_state(options.settings(config, store, ehr).settings, lambda state: local.invites(state).withdraw(id_), _FLAGS)
    output.say({"id": id_, "uses_left": 0}, f"The invite {id_} is withdrawn.", json_=json_)


COMMANDS: tuple[click.Command, ...] = (approve, disable, enable, rotate_secret, delete, invite, invites, withdraw)


def with_clients(config: Path | None, store: str | None, ehr: tuple[str, ...], work: Callable[[Clients], Awaitable[T]]) -> T:
    """What `work` makes of the registered clients."""
    return with_state(options.settings(config, store, ehr).settings, lambda state: work(local.clients(state)), _FLAGS)


def _grants(ended: int) -> str:
    return f"{ended} grant{'' if ended == 1 else 's'}"


def _told(one: Invite) -> dict[str, Any]:
    return {"id": one.id, "ehr": one.ehr, "uses_left": one.uses_left, "expires_at": one.expires_at, "system_scope": one.scope}
