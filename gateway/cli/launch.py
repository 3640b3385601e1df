"""`gateway launch create`."""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from pathlib import Path

import click

from gateway import compose
from gateway.cli import options, output
from gateway.config import Settings
from gateway.smart.server.launches import Created, Wanted

EXAMPLE = """\b
Example:
  gateway launch create --ehr hapi --client growth-chart --patient p1
  gateway launch create --ehr hapi --client growth-chart --patient p1 --user dr.bone --json
"""


@click.group()
def launch() -> None:
    """Make an EHR launch for an app."""


@launch.command(epilog=EXAMPLE)
@click.option("--client", "client_id", required=True, metavar="ID", help="The app. Its registration has a launch_uri.")
@click.option("--patient", required=True, metavar="ID", help="The patient in context.")
@click.option("--encounter", default="", metavar="ID", help="The encounter in context.")
@click.option("--user", default="", metavar="NAME", help="The only person who may use it. Without it, anybody who may see the patient.")
@click.option("--no-banner", is_flag=True, help="Tell the app that the patient's banner is already shown.")
@options.common
@options.as_json
def create(
    client_id: str,
    patient: str,
    encounter: str,
    user: str,
    no_banner: bool,  # noqa: FBT001  # click passes by name
    json_: bool,  # noqa: FBT001  # likewise
    config: Path | None,
    store: str | None,
    ehr: tuple[str, ...],
) -> None:
    """Make a launch: print iss, launch and the full URL to open. It works once, within five minutes."""
    loaded = options.settings(config, store, ehr)
    wanted = Wanted(options.chosen(loaded, ehr), client_id, patient, encounter, user, need_patient_banner=not no_banner)
    created = asyncio.run(_create(loaded.settings, wanted))
    if json_:
        output.show_json(asdict(created))
    else:
        click.echo(f"iss     {created.iss}\nlaunch  {created.launch}\nurl     {created.url}")


async def _create(settings: Settings, wanted: Wanted) -> Created:
    async with compose.opened(settings) as state:
        return await compose.launches(state).create(wanted)
