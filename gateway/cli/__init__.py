"""The command line. One file for each group of commands; `COMMANDS` lists them in the order in which `gateway --help` does.

Exit codes: 0 done; 1 it did not work, or something was found to be wrong; 2 the command line or a setting is wrong.
Answers go to stdout, and with `--json` they are JSON alone; everything else goes to stderr.
"""

from __future__ import annotations

import importlib
import os
import sys
from typing import Any

import click

from gateway.cli import output
from gateway.errors import ConfigError, GatewayError, NotDone

COMMANDS = {
    # name: (module under gateway.cli, one line of help), so that `gateway --help` imports nothing
    "demo": ("demo", "The whole thing on this machine: EHR, people, gateway, worker, sample app."),
    "serve": ("serve", "Serve the gateway over HTTP."),
    "worker": ("serve", "Deliver what was pushed: the inbox's other half."),
    "doctor": ("doctor", "Check every dependency, one line each, with the fix."),
    "config": ("config", "Show every setting, its value and where it comes from."),
    "ehr": ("ehr", "Find out what a FHIR server can do."),
    "client": ("client", "Register apps and backend systems, list, approve and disable them; make a token for one."),
    "grant": ("grant", "See what apps were allowed, and end it."),
    "keys": ("keys", "List and rotate the keys that sign id_tokens."),
    "user": ("user", "Add and list the people who sign in, give new passwords, close accounts."),
    "launch": ("launch", "Make an EHR launch for an app."),
    "inbox": ("inbox", "Look at pushed messages, send them again or drop them."),
    "audit": ("audit", "Read the record of accesses."),
    "store": ("store", "Bring the store's schema up to date."),
}


class Commands(click.Group):
    """A group that imports a command when it is used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """In the order of the table."""
        del ctx
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import it."""
        del ctx
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"gateway.cli.{COMMANDS[cmd_name][0]}")
        command: click.Command = getattr(module, cmd_name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The table, without importing anything."""
        del ctx
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])

    def main(self, *args: Any, **kwargs: Any) -> Any:
        """Errors of ours are one line with the fix, never a stack trace. What is made here is for this user alone."""
        os.umask(0o077)
        try:
            return super().main(*args, **kwargs)
        except (ConfigError, NotDone) as error:
            output.complain(error)
            sys.exit(2)
        except GatewayError as error:
            output.complain(error)
            sys.exit(1)


@click.command(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="fhir-portal-gateway", prog_name="gateway")
def main() -> None:
    """A SMART on FHIR gateway and patient portal in front of an EHR.

    Try it: `gateway demo`. Against a server of your own: `gateway ehr check URL`, then `gateway serve --ehr NAME=URL`.
    """
