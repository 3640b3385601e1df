"""`gateway inbox list|show|retry|drop`."""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from gateway import compose
from gateway.cli import options, output
from gateway.config import Settings
from gateway.errors import ConfigError, FhirError
from gateway.ingest import stored, trail
from gateway.ingest.stored import StoredAnswer, StoredRequest, Vault
from gateway.seal import SealBroken
from gateway.store import inbox as rows
from gateway.store.base import now
from gateway.store.inbox import Entry, Message, State

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


class Dropped(FhirError):
    """The operator of this gateway gave this message up. It was not delivered."""

    status = 422
    code = "suppressed"


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
        output.show_json([_listed_json(one) for one in found])
        return
    header = ("id", "source", "for", "what", "state", "attempts", "received", "error")
    output.show_table(header, [_row(one) for one in found])
    counts = {name: count for name, count in asdict(accounting).items() if name != "oldest_pending"}
    output.note(", ".join(f"{count} {name}" for name, count in counts.items()))


@inbox.command(epilog=SHOW)
@click.argument("id_", metavar="ID")
@click.option("--body", is_flag=True, help="Also the request as it came. It holds patients' data: mind who sees the screen.")
@options.common
@options.as_json
def show(id_: str, body: bool, json_: bool, config: Path | None, store: str | None, ehr: tuple[str, ...]) -> None:  # noqa: FBT001  # by name
    """Show one message: its state, its pieces, and the answer that its sender gets."""
    message, entries, request, answer = asyncio.run(_one(options.settings(config, store, ehr).settings, id_))
    found: dict[str, Any] = _listed_json(message) | {
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
        "entries": [_entry_json(one) for one in entries],
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


async def _listed(settings: Settings, state: str, source: str, limit: int) -> tuple[tuple[Message, ...], rows.Accounting]:
    async with compose.opened(settings) as found, found.database.read() as connection:
        return await rows.listing(connection, state=state, client_id=source, limit=limit), await rows.accounting(connection)


async def _one(settings: Settings, id_: str) -> tuple[Message, tuple[Entry, ...], StoredRequest, StoredAnswer | None]:
    async with compose.opened(settings) as found, found.database.read() as connection:
        message = _there(await rows.get(connection, id_), id_)
        vault = Vault(found.seals)
        sealed = await rows.answer(connection, message.seq)
        try:
            request = vault.request(id_, await rows.request(connection, message.seq))
            answer = vault.answer(id_, sealed) if sealed else None
        except SealBroken as error:
            raise ConfigError("This message was sealed with another key", where="key", fix="use the key with which it was received") from error
        return message, await rows.entries(connection, message.seq), request, answer


async def _retry(settings: Settings, id_: str) -> None:
    async with compose.opened(settings) as found, found.database.write() as connection:
        message = _there(await rows.get(connection, id_), id_)
        if not await rows.retry(connection, id_, now()):
            raise ConfigError(f"{id_} is {message.state}", where="ID", fix="only a dead message can be sent again")
        await found.audit.record_in(connection, trail.moved(message, "retry", status=200))


async def _drop(settings: Settings, id_: str) -> None:
    async with compose.opened(settings) as found, found.database.write() as connection:
        message = _there(await rows.get(connection, id_), id_)
        error = Dropped(reason="dropped")
        sealed = Vault(found.seals).close(id_, stored.refusal(error, message.request_id))
        if not await rows.drop(connection, id_, now(), sealed):
            raise ConfigError(f"{id_} is {message.state}", where="ID", fix="a message under way or through cannot be dropped")
        await found.audit.record_in(connection, trail.moved(message, "dropped", status=error.status, reason="dropped"))


def _there(message: Message | None, id_: str) -> Message:
    if message is None:
        raise ConfigError(f"There is no message {id_}", where="ID", fix="gateway inbox list shows them")
    return message


def _listed_json(one: Message) -> dict[str, Any]:
    """The shape of `inbox list --json`, which programs rely on."""
    return {
        "id": one.id,
        "source": one.client_id,
        "state": one.state,
        "attempts": one.attempts,
        "received_at": one.received_at.isoformat(),
        "error": one.error or None,
    }


def _entry_json(one: Entry) -> dict[str, Any]:
    return {"position": one.position, "kind": one.kind, "type": one.type, "target": one.target}


def _row(one: Message) -> tuple[str, ...]:
    what = f"{one.kind} {one.type}" + (f"/{one.target}" if one.target else "")
    received = one.received_at.isoformat(timespec="seconds")
    return (one.id, one.client_id, one.ehr, what, one.state, str(one.attempts), received, one.error or "-")


def _done(id_: str, state: State, *, json_: bool) -> None:
    if json_:
        output.show_json({"id": id_, "state": state.value})
    else:
        click.echo(f"{id_} is {state.value} now.")
