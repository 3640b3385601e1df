"""`gateway serve` and `gateway worker`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from gateway.cli import options
from gateway.errors import ConfigError

SERVE = """\b
Example:
  gateway serve --ehr hapi=http://127.0.0.1:8090/fhir --with-worker
  gateway serve --config /etc/gateway.toml --listen 0.0.0.0:8443 --public-url https://gateway.example \\
      --tls-cert chain.pem --tls-key key.pem --redis redis://127.0.0.1:6379/0 --workers 2
"""
WORKER = """\b
Example:
  gateway worker --config /etc/gateway.toml
"""


@click.command(epilog=SERVE)
@options.common
@click.option("--listen", metavar="HOST:PORT", help="Where to listen; port 0 takes a free one.")
@click.option("--public-url", metavar="URL", help="The address at which callers find the gateway.")
@click.option("--redis", metavar="URL", help="Redis or Valkey for cached answers; needed for more than one process.")
@click.option("--with-worker", is_flag=True, default=None, help="Deliver the inbox from within this process too.")
@click.option("--writes", type=click.Choice(["table", "scopes"]), help="What a token may write: scopes alone are for sandboxes.")
@click.option("--workers", type=int, metavar="N", help="Processes that serve.")
@click.option("--tls-cert", metavar="FILE", help="Certificate chain (PEM) to serve https with.")
@click.option("--tls-key", metavar="FILE", help="Its private key (PEM).")
@click.option("--data-dir", metavar="DIR", help="Folder for keys, audit segments and the event log.")
def serve(config: Path | None, store: str | None, ehr: tuple[str, ...], **flags: Any) -> None:
    """Serve the gateway over HTTP until Ctrl-C or SIGTERM. A flag wins over a GATEWAY_* variable, that over the file."""
    from gateway import app  # noqa: PLC0415  # it is all of the gateway; `--help` needs none of it

    settings = options.settings(config, store, ehr, **flags).settings
    _need_ehrs(settings.ehrs)
    app.serve(settings)


@click.command(epilog=WORKER)
@options.common
@click.option("--redis", metavar="URL", help="The Redis of the gateways that serve.")
@click.option("--data-dir", metavar="DIR", help="Folder for keys, audit segments and the event log.")
def worker(config: Path | None, store: str | None, ehr: tuple[str, ...], **flags: Any) -> None:
    """Deliver what was pushed, until Ctrl-C or SIGTERM. Several may run, on one machine or on many.

    It needs the Redis of the gateways that serve. Without one, let the serving process deliver: gateway serve --with-worker.
    """
    from gateway import logs  # noqa: PLC0415  # as above
    from gateway import worker as process  # noqa: PLC0415

    settings = options.settings(config, store, ehr, **flags).settings
    _need_ehrs(settings.ehrs)
    logs.configure(settings.log_format)
    process.serve_forever(settings)


def _need_ehrs(ehrs: tuple[Any, ...]) -> None:
    if not ehrs:
        raise ConfigError("No EHR is set.", where="--ehr", fix="add --ehr NAME=URL, or [ehr.NAME] with its url to gateway.toml")
