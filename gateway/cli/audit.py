"""`gateway audit`."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import click

from gateway import local
from gateway.audit import AuditRecord
from gateway.cli import options, output
from gateway.config import Settings

EXAMPLE = """\b
Example:
  gateway audit --patient p1 --since 7d
  gateway audit --request 5f2c... --events
  gateway audit --outcome 4 --json
"""

_UNITS = {"m": "minutes", "h": "hours", "d": "days"}


class Moment(click.ParamType[datetime]):
    """A moment: an ISO date or time (UTC without a zone), or so long ago: 30m, 12h, 7d."""

    name = "when"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> datetime:
        """Aware."""
        if isinstance(value, datetime):
            return value
        text = str(value)
        if text[:-1].isdecimal() and text[-1:] in _UNITS:
            return datetime.now(UTC) - timedelta(**{_UNITS[text[-1]]: int(text[:-1])})
        try:
            found = datetime.fromisoformat(text)
        except ValueError:
            self.fail(f"{text!r} is no moment: write 2026-11-24, 2026-11-24T08:00Z or 7d", param, ctx)
        return found if found.tzinfo else found.replace(tzinfo=UTC)


@click.command(epilog=EXAMPLE)
@click.option("--patient", default="", metavar="ID", help="Whose data.")
@click.option("--client", "client_id", default="", metavar="ID", help="Through which client.")
@click.option("--user", "user_id", default="", metavar="ID", help="By which account (its id).")
@click.option("--action", default="", help="read, search-type, create, update, login, grant, push, ...")
@click.option("--outcome", default="", type=click.Choice(["", "0", "4", "8"]), help="0 done, 4 refused, 8 failed.")
@click.option("--request", "request_id", default="", metavar="ID", help="One request: the X-Request-Id of its answer.")
@click.option("--message", "message_id", default="", metavar="ID", help="One pushed message.")
@click.option("--since", type=Moment(), help="From this moment on: 2026-11-24, or 7d ago.")
@click.option("--until", type=Moment(), help="Before this moment.")
@click.option("--limit", default=100, show_default=True, type=click.IntRange(1, 100_000))
@click.option("--events", is_flag=True, help="With --request: also the sealed event log, such as an EHR's own diagnostics.")
@options.common
@options.as_json
def audit(json_: bool, events: bool, config: Path | None, store: str | None, ehr: tuple[str, ...], **asked: Any) -> None:  # noqa: FBT001  # by name
    """Read the record of accesses, newest first: who did what to whose data, when, through which client, and how it ended."""
    settings = options.settings(config, store, ehr).settings
    named = next((one for one in ehr if "=" not in one), "")
    records, told = asyncio.run(_read(settings, {**asked, "ehr": named}, events=events))
    if json_:
        shown = [asdict(record) for record in records]
        output.show_json({"records": shown, "events": [{"kind": kind, "text": text} for kind, text in told]} if events else shown)
        return
    output.show_table(("recorded", "who", "did", "whose", "outcome", "client", "request"), [_row(record) for record in records])
    for kind, text in told:
        click.echo(f"\n{kind}:\n{text}")


async def _read(settings: Settings, asked: dict[str, Any], *, events: bool) -> tuple[Sequence[AuditRecord], list[tuple[str, str]]]:
    async with local.opened(settings) as state:
        return await state.audit.search(**asked), state.events.read(asked["request_id"]) if events else []


def _row(record: AuditRecord) -> tuple[str, ...]:
    patients = ", ".join(record.patients[:3]) + (f" and {len(record.patients) - 3} more" if len(record.patients) > 3 else "")
    ended = {"0": "done", "4": "refused", "8": "failed"}.get(record.outcome, record.outcome)
    return (
        record.recorded.isoformat(timespec="seconds"),
        record.fhir_user or record.principal,
        f"{record.action} {record.target or record.type}".strip(),
        patients or "-",
        f"{ended} {record.status}" + (f" {record.reason}" if record.reason else ""),
        record.client_id or "-",
        record.request_id,
    )
