"""`gateway store upgrade`."""

from __future__ import annotations

import asyncio
from pathlib import Path

import click

from gateway.cli import options, output
from gateway.config import Settings
from gateway.store import schema
from gateway.store.base import Database

EXAMPLE = """\b
Example:
  gateway store upgrade --store postgresql://gateway@db/gateway
"""


@click.group()
def store() -> None:
    """Bring the store's schema up to date."""


@store.command(epilog=EXAMPLE)
@options.common
@options.as_json
def upgrade(config: Path | None, store: str | None, ehr: tuple[str, ...], json_: bool) -> None:  # noqa: FBT001  # click passes by name
    """Change the schema to the one that this version of the gateway needs. Stop the older gateways first, and keep a backup."""
    settings = options.settings(config, store, ehr).settings
    before = asyncio.run(_upgrade(settings))
    if json_:
        output.show_json({"before": before.value, "now": schema.State.CURRENT.value})
    else:
        click.echo("The store is up to date." if before is schema.State.CURRENT else f"The store was {before.value} and is up to date now.")


async def _upgrade(settings: Settings) -> schema.State:
    settings.data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    database = Database(settings.store)
    try:
        before = await schema.state(database)
        await schema.upgrade(database)
    finally:
        await database.close()
    return before
