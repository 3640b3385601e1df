"""`gateway config`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

from gateway.cli import options, output

EXAMPLE = """\b
Example:
  gateway config
  GATEWAY_LISTEN=0.0.0.0:80 gateway config --json
"""


@click.command(epilog=EXAMPLE)
@options.common
@options.as_json
@click.option("--changed", is_flag=True, help="Only what is no default.")
def config(config: Path | None, store: str | None, ehr: tuple[str, ...], json_: bool, changed: bool) -> None:  # noqa: FBT001  # click passes by name
    """Show every setting with its value and its source: the file's line, the variable, the flag or the default.

    A flag wins over a GATEWAY_* variable, a variable over the file. Secrets are shown as "(set)".
    """
    listed = [one for one in options.settings(config, store, ehr).listed() if not changed or one.source != "default"]
    if json_:
        output.show_json([asdict(one) for one in listed])
        return
    output.show_table(("setting", "value", "source", "meaning"), [(one.name, one.value or "-", one.source, one.help) for one in listed])
