"""`gateway ehr check`."""

from __future__ import annotations

import os
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import click

from gateway.cli import ehr_report, options, output, upstream
from gateway.cli.ehr_probe import Probe
from gateway.config import EhrSettings, Settings, load
from gateway.errors import ConfigError

EXAMPLE = """\b
Example:
  gateway ehr check http://127.0.0.1:8090/fhir
  gateway ehr check https://ehr.example/r4 --bearer-file token.txt --probe
"""

KEY = """\b
Example:
  gateway ehr key /etc/gateway/stmarys-key.json
"""


@click.group()
def ehr() -> None:
    """Find out what a FHIR server can do."""


@ehr.command(epilog=EXAMPLE)
@click.argument("url")
@click.option("--config", type=click.Path(path_type=Path), metavar="FILE", help="Settings: then URL may be the name of an EHR in them.")
@click.option("--bearer-file", type=click.Path(path_type=Path, exists=True, dir_okay=False), help="File with a token for this server.")
@click.option("--ca", type=click.Path(path_type=Path, exists=True, dir_okay=False), help="Certificates to trust (PEM).")
@click.option("--probe", is_flag=True, help="Try it too: writes a few resources of its own and removes them. Asks first.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@options.as_json
def check(url: str, config: Path | None, bearer_file: Path | None, ca: Path | None, probe: bool, yes: bool, json_: bool) -> None:  # noqa: FBT001  # by name
    """Print what the server at URL can do, and what the gateway will therefore offer.

    It reads the server's CapabilityStatement. With --probe it tries conditional writes, If-Match, ids of clients and transactions.
    Exits with 1 when the server is no FHIR R4 server.
    """
    loaded, target = _target(url, config, bearer_file, ca)
    if probe and not yes:
        _ask(target.url)
    signed_in = _signed_in(loaded, target)
    with upstream.open_client(target) as client:
        report = ehr_report.read(target.url, upstream.capability_statement(client, target.url))
        probes = Probe(client, output.note).run() if probe else ()
    found = ehr_report.Check(report, probes, ehr_report.offers(report, probes))
    if json_:
        output.show_json(asdict(found) | ({"sign_in": signed_in.told()} if signed_in else {}))
    else:
        _show(found)
        if signed_in:
            click.echo(f"\nsign-in: {signed_in.found}" + (f". Fix: {signed_in.fix}" if signed_in.fix else ""))
    if not report.is_r4:
        raise SystemExit(1)


def _signed_in(settings: Settings, target: EhrSettings) -> Any:
    if target.auth not in ("smart-backend", "smart"):
        return None
    from gateway.cli import ehr_smart  # noqa: PLC0415  # it comes with much of the gateway

    return ehr_smart.sign_in(target) if target.auth == "smart-backend" else ehr_smart.app_fits(settings, target)


@ehr.command(epilog=KEY)
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--kid", default="", metavar="TEXT", help="The key's id. Needed for PEM files, which do not say one.")
@options.as_json
def key(file: Path, kid: str, json_: bool) -> None:  # noqa: FBT001  # by name
    """Print the public half of the private key in FILE, as an EHR registers it (JWK Set). Where there is no FILE, a new key is made first.

    It is what auth = smart-backend signs in with: key_file in the settings names FILE.
    """
    from gateway.cli import ehr_smart  # noqa: PLC0415  # it comes with much of the gateway

    found = ehr_smart.public_keys(file, kid)
    if not json_:
        output.note("Register this at the EHR, under the client_id that it gives to the gateway:")
    output.show_json(found)


def _target(url: str, config: Path | None, bearer_file: Path | None, ca: Path | None) -> tuple[Settings, EhrSettings]:
    if "://" in url:
        settings = load(config=None, environ={}, flags={"ehr": [f"target={url}"]}, cwd=Path(os.devnull).parent).settings
        found = settings.ehrs[0]
    else:
        settings = load(config=config, environ=os.environ).settings
        found = settings.ehr(url)
    if bearer_file:
        found = replace(found, auth="bearer", bearer_file=bearer_file, bearer="")
    return settings, replace(found, ca=ca or found.ca)


def _ask(url: str) -> None:
    if not output.is_terminal():
        raise ConfigError("--probe writes to the server", where="--probe", fix="add --yes, when that server may be written to")
    click.confirm(f"Write a few resources to {url} and remove them again?", abort=True, err=True)


def _show(found: ehr_report.Check) -> None:
    report = found.report
    click.echo(f"{report.url}: {report.software or 'unnamed software'} {report.software_version}, FHIR {report.fhir_version or '?'}")
    click.echo(f"system: {', '.join(report.system) or 'nothing declared'}; sign-in declared: {', '.join(report.security) or 'none'}")
    click.echo(f"\n{len(report.types)} resource types")
    output.show_table(
        ("type", "interactions", "versions", "conditional", "search parameters"),
        [(one.type, " ".join(one.interactions), one.versioning or "-", _conditional(one), _shortened(one.search_params)) for one in report.types],
    )
    if found.probes:
        click.echo("\ntried")
        output.show_table(("what", "result", "seen"), [(one.name, one.outcome, one.detail) for one in found.probes])
    click.echo("\nthe gateway will offer")
    output.show_table(("what", "", "how"), [(one.feature, one.level, one.sentence) for one in found.offers])
    if not found.probes:
        click.echo("\nA CapabilityStatement only claims. Add --probe to try conditional writes, If-Match, ids of clients and transactions.")


def _conditional(one: ehr_report.TypeReport) -> str:
    parts = (("create", one.conditional_create), ("client ids", one.update_create), ("read", one.conditional_read not in ("", "not-supported")))
    return ", ".join(name for name, there in parts if there) or "-"


def _shortened(names: tuple[str, ...], most: int = 6) -> str:
    rest = len(names) - most
    return ", ".join(names[:most]) + (f" and {rest} more" if rest > 0 else "")
