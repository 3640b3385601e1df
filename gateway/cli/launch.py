"""`gateway launch create`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

import click

from gateway import local
from gateway.cli import options, output
from gateway.cli.state import with_state
from gateway.errors import ConfigError
from gateway.smart.server.authorization.launches import Wanted

_FLAGS = {
    "client_id": "--client",
    "patient": "--patient",
    "encounter": "--encounter",
    "username": "--user",
    "intent": "--intent",
    "tenant": "--tenant",
    "style_url": "--style-url",
    "fhir_context": "--fhir-context",
}

EXAMPLE = """\b
Example:
  gateway launch create --ehr hapi --client growth-chart --patient p1
  gateway launch create --ehr hapi --client growth-chart --patient p1 --user dr.bone --json
  gateway launch create --ehr hapi --client viewer --patient p1 --intent compare-images --fhir-context '{"reference": "ImagingStudy/i7"}'
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
@click.option("--intent", default="", metavar="TEXT", help="What the user wants to do, in a word that the app knows.")
@click.option("--tenant", default="", metavar="TEXT", help="The organization, by the name that the app knows it by.")
@click.option("--style-url", default="", metavar="URL", help="Colours and sizes for the app (JSON). Without it, those of the gateway.")
@click.option("--fhir-context", multiple=True, metavar="JSON", help='One more resource in context: {"reference": "ImagingStudy/1"}. May be repeated.')
@options.common
@options.as_json
def create(
    client_id: str,
    patient: str,
    encounter: str,
    user: str,
    no_banner: bool,  # noqa: FBT001  # click passes by name
    intent: str,
    tenant: str,
    style_url: str,
    fhir_context: tuple[str, ...],
    json_: bool,  # noqa: FBT001  # likewise
    config: Path | None,
    store: str | None,
    ehr: tuple[str, ...],
) -> None:
    """Make a launch: print iss, launch and the full URL to open. It works once, within five minutes."""
    loaded = options.settings(config, store, ehr)
    wanted = Wanted(
        options.chosen(loaded, ehr),
        client_id,
        patient,
        encounter,
        user,
        need_patient_banner=not no_banner,
        intent=intent,
        tenant=tenant,
        style_url=style_url,
        fhir_context=_items(fhir_context),
    )
    created = with_state(loaded.settings, lambda state: local.launches(state).create(wanted), _FLAGS)
    if json_:
        output.show_json(asdict(created))
    else:
        click.echo(f"iss     {created.iss}\nlaunch  {created.launch}\nurl     {created.url}")


def _items(texts: tuple[str, ...]) -> tuple[Mapping[str, Any], ...]:
    """Each text is an object, or a list of them."""
    found: list[Any] = []
    for text in texts:
        try:
            parsed: Any = json.loads(text)
        except ValueError as error:
            raise ConfigError("That is not JSON.", where="--fhir-context", fix='{"reference": "ImagingStudy/1"}, in quotes for the shell') from error
        found += cast("list[Any]", parsed) if isinstance(parsed, list) else [parsed]
    return tuple(found)
