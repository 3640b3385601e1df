"""`gateway inbox list|show|retry|drop`."""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from gateway import local
from gateway.cli import options, output
from gateway.config import Settings
from gateway.errors import ConfigError
from gateway.ingest import admin
from gateway.ingest.admin import Listed, Shown
from gateway.seal import SealBroken
from gateway.store.inbox_rows import Accounting, Entry, State

LIST = """\b
Example:
  gateway inbox list --state dead
  gateway inbox list --json
"""
SHOW = """\b
Example:
  gateway inbox show 3b1f... --body
"""
RETRY = """\b
Example:
  gateway inbox retry 3b1f...
"""
DROP = """\b
Example:
  gateway inbox drop 3b1f... --yes
"""
_STATES = ("pending", *(state.value for state in State))


@click.group()
def inbox() -> None:
    """Look at pushed messages, send them again or drop them."""


@inbox.command("list", epilog=LIST)
@click.option("--state", default="", type=click.Choice(["", *_STATES]), help="Only those in this state; pending: received, claimed or sent.")
@click.option("--source", default="", metavar="ID", help="Only those of this client.")
@click.option("--limit", default=100, show_default=True, type=click.IntRange(1, 100_000))
@options.common
@options.as_json
def list_(state: str, source: str, limit: int, json_: bool, config: Path | None, store: str | None, ehr: tuple[str, ...]) -> None:  # noqa: FBT001  # by name
    """List messages, newest first."""
    found, accounting = asyncio.run(_listed(options.settings(config, store, ehr).settings, state, source, limit))
    if json_:
        output.show_json([asdict(one) for one in found])
        return
    header = ("id", "source", "state", "attempts", "received", "error")
    rows = [(one.id, one.source, one.state, str(one.attempts), one.received_at, one.error or "-") for one in found]
    output.show_table(header, rows)
    counts = {name: count for name, count in asdict(accounting).items() if name != "oldest_pending"}
    output.note(", ".join(f"{count} {name}" for name, count in counts.items()))


@inbox.command(epilog=SHOW)
@click.argument("id_", metavar="ID")
@click.option("--body", is_flag=True, help="Also the request as it came. It holds patients' data: mind who sees the screen.")
@options.common
@options.as_json
def show(id_: str, body: bool, json_: bool, config: Path | None, store: str | None, ehr: tuple[str, ...]) -> None:  # noqa: FBT001  # by name
    """Show one message: its state, its pieces, and the answer that its sender gets."""
    shown = asyncio.run(_shown(options.settings(config, store, ehr).settings, id_))
    message, request, answer = shown.message, shown.request, shown.answer
    found: dict[str, Any] = {
        "id": message.id,
        "source": message.client_id,
        "state": message.state,
        "attempts": message.attempts,
        "received_at": message.received_at,
        "error": message.error,
        "kind": message.kind,
        "type": message.type,
        "target": message.target,
        "mode": message.mode,
        "ehr": message.ehr,
        "request_id": message.request_id,
        "size": message.size,
        "sha256": message.sha256,
        "next_attempt_at": message.next_attempt_at,
        "ended_at": message.ended_at,
        "entries": [_entry_json(one) for one in shown.entries],
        "answer": answer.status if answer else None,
    }
    if body:
        found |= {"request": request.body.decode("utf-8", "replace"), "answer_body": answer.body.decode("utf-8", "replace") if answer else ""}
    if json_:
        output.show_json(found)
        return
    for name, value in found.items():
        click.echo(f"{name:<16} {value}")


@inbox.command(epilog=RETRY)
@click.argument("id_", metavar="ID")
@options.common
@options.as_json
def retry(id_: str, json_: bool, config: Path | None, store: str | None, ehr: tuple[str, ...]) -> None:  # noqa: FBT001  # click passes by name
    """Deliver a dead message again. It keeps its place: what waits behind it for the same patient goes on after it."""
    asyncio.run(_retry(options.settings(config, store, ehr).settings, id_))
    _done(id_, State.RECEIVED, json_=json_)


@inbox.command(epilog=DROP)
@click.argument("id_", metavar="ID")
@click.option("--yes", is_flag=True, help="Do not ask.")
@options.common
@options.as_json
def drop(id_: str, yes: bool, json_: bool, config: Path | None, store: str | None, ehr: tuple[str, ...]) -> None:  # noqa: FBT001  # by name
    """Give a message up: it counts as rejected, its sender is told so, and its row stays. What waited behind it goes on."""
    if not yes:
        if not output.is_terminal():
            raise ConfigError("A dropped message is not delivered, ever", where="--yes", fix="add --yes when that is meant")
        click.confirm(f"Drop {id_}? It will not be delivered.", abort=True, err=True)
    asyncio.run(_drop(options.settings(config, store, ehr).settings, id_))
    _done(id_, State.REJECTED, json_=json_)


async def _listed(settings: Settings, state: str, source: str, limit: int) -> tuple[list[Listed], Accounting]:
    async with local.opened(settings) as found:
        return await admin.listed(found.database, state=state, source=source, limit=limit), await admin.accounting(found.database)


async def _shown(settings: Settings, id_: str) -> Shown:
    async with local.opened(settings) as found:
        try:
            shown = await admin.shown(found.database, found.seals, id_)
        except SealBroken as error:
            raise ConfigError("This message was sealed with another key", where="key", fix="use the key with which it was received") from error
    if shown is None:
        raise ConfigError(f"There is no message {id_}", where="ID", fix="gateway inbox list shows them")
    return shown


async def _retry(settings: Settings, id_: str) -> None:
    async with local.opened(settings) as found:
        if not await admin.retry(found.database, found.audit, id_):
            raise ConfigError(f"{id_} is not dead", where="ID", fix="only a dead message can be sent again; gateway inbox list shows them")


async def _drop(settings: Settings, id_: str) -> None:
    async with local.opened(settings) as found:
        if not await admin.drop(found.database, found.audit, found.seals, id_):
            raise ConfigError(f"{id_} cannot be dropped", where="ID", fix="it is under way, through, or unknown; gateway inbox show tells")


def _entry_json(one: Entry) -> dict[str, Any]:
    return {"position": one.position, "kind": one.kind, "type": one.type, "target": one.target}


def _done(id_: str, state: State, *, json_: bool) -> None:
    if json_:
        output.show_json({"id": id_, "state": state.value})
    else:
        click.echo(f"{id_} is {state.value} now.")
