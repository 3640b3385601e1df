"""`gateway demo`."""

from __future__ import annotations

from pathlib import Path

import click

EXAMPLE = """\b
Example:
  gateway demo
  gateway demo --ehr hapi --fresh
  gateway demo --check
"""


@click.command(epilog=EXAMPLE)
@click.option("--ehr", default="embedded", show_default=True, metavar="embedded|hapi|URL", help="Which EHR: ours, a real HAPI, or any R4 server.")
@click.option("--fresh", is_flag=True, help="Begin anew: forget what an earlier demo stored here.")
@click.option("--check", is_flag=True, help="Walk all three jobs once, print each step with its time, end everything.")
@click.option("--yes", is_flag=True, help="With --ehr URL: that server may be written to. Do not ask.")
@click.option("--port", default=0, type=click.IntRange(0, 65535), metavar="PORT", help="Of the gateway; without it, one that is free.")
@click.option(
    "--data-dir", default=".demo", show_default=True, type=click.Path(path_type=Path, file_okay=False), help="Where the demo keeps its state."
)
def demo(ehr: str, fresh: bool, check: bool, yes: bool, port: int, data_dir: Path) -> None:  # noqa: FBT001  # click passes by name
    """Start an EHR with synthetic people, the gateway, a worker and a sample SMART app on this machine, and say how to try them.

    Ctrl-C ends everything. Started again, it goes on with the same data.
    """
    from gateway.sandbox import demo as running  # noqa: PLC0415  # it starts half the world; `--help` does not
    from gateway.sandbox import walk  # noqa: PLC0415  # as above

    wanted = running.Wanted(ehr, data_dir.absolute(), fresh=fresh, yes=yes, port=port)
    raise SystemExit(walk.check(wanted) if check else running.run(wanted))
