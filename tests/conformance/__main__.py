"""The command line: scripts/conformance."""

from __future__ import annotations

import argparse
import json
import shlex
import ssl
import subprocess
import sys
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import httpx

from tests.conformance.check import Check, Missing
from tests.conformance.checks import CHECKS, GROUPS
from tests.conformance.config import App, Config, ServedKeys, SignIn
from tests.conformance.context import Context
from tests.conformance.forms import Forms
from tests.conformance.jose import Key
from tests.conformance.manual import Manual
from tests.conformance.runner import run

EXAMPLES = """examples:
  scripts/conformance --base https://ehr.example/fhir --list
  scripts/conformance --base https://ehr.example/fhir --group discovery --group capability
  scripts/conformance --base https://ehr.example/fhir --symmetric my-app my-secret --public my-public-app
  scripts/conformance --base https://ehr.example/fhir --config server.toml --json report.json
  scripts/conformance --base http://127.0.0.1:8080/fhir/hapi --person form --config gateway-test.toml \\
      --launch-command 'gateway launch create --ehr hapi --client suite --patient p1 --encounter e1 --user dr.bone --json'

With --person manual (the default) it prints the address to open, and waits at the redirect URI, which the clients have registered.
docs/conformance.md tells what the file holds. Exit code: 0, or 1 when a check failed, or 2 when the suite was not told enough to start.
"""


def main(arguments: list[str] | None = None) -> int:
    """Exit code of the run."""
    options = parser().parse_args(arguments)
    chosen = [check for check in CHECKS if _wanted(check, options)]
    if options.list:
        for check in chosen:
            print(f"{check.id:<7} {check.group:<14} {check.sentence}\n{'':<22} {check.published}")
        return 0
    try:
        config = configured(options)
        person_kind = options.person or ("form" if config.people else "manual")
        browser = clients(config)
        person = Forms(config.people, browser) if person_kind == "form" else Manual(config.redirect_uri, config.launch_uri)
    except (OSError, ValueError, KeyError, TypeError) as error:
        print(f"conformance: {error}", file=sys.stderr)
        return 2
    with browser() as http:
        report = run(Context(config, person, http), chosen, lambda line: print(line, flush=True))
    person.close()
    print(f"\n{report.summary}")
    if options.json:
        options.json.write_text(json.dumps(report.json(), indent=1) + "\n", "utf-8")
    return 1 if report.failed else 0


def configured(options: argparse.Namespace) -> Config:
    """The file, and what was said on the command line over it. Raises OSError, ValueError, KeyError or TypeError for what cannot be used."""
    found = tomllib.loads(options.config.read_text("utf-8")) if options.config else {}
    folder = options.config.parent if options.config else Path()
    base = options.base or found.get("base")
    if not base:
        raise ValueError("name the server: --base URL")
    apps = {name: _app(entry, folder) for name, entry in found.get("clients", {}).items()}
    apps |= {name: App(*values) for name in ("symmetric", "public") if (values := getattr(options, name))}
    apps |= {name: App(values[0], key=Key.read(Path(values[1]))) for name in ("asymmetric", "backend") if (values := getattr(options, name))}
    command = options.launch_command or found.get("launch_command")
    plain = {name: found[name] for name in ("redirect_uri", "launch_uri", "introspection_authorization", "bulk_group", "timeout") if name in found}
    plain |= {name: value for name in ("redirect_uri", "launch_uri") if (value := getattr(options, name))}
    ca = options.ca or (folder / found["ca"] if "ca" in found else None)
    people = {name: SignIn(**entry) for name, entry in found.get("people", {}).items()}
    served = apps.pop("by_url", None)
    keys_at = found.get("clients", {}).get("by_url", {}).get("serve", "")
    return Config(
        base=base, clients=apps, people=people, launch=_launcher(command) if command else None, ca=ca,
        served_keys=_served(served, keys_at) if served else None, **plain,
    )  # fmt: skip


def _app(entry: Mapping[str, Any], folder: Path) -> App:
    key = Key.read(folder / entry["key"], entry.get("kid", "")) if "key" in entry else None
    return App(entry["id"], entry.get("secret", ""), key, entry.get("scope", ""))


def _served(app: App, where: str) -> ServedKeys:
    """`host:port/path` at which this suite listens."""
    place, _, path = where.partition("/")
    host, _, port = place.rpartition(":")
    return ServedKeys(app, host, int(port), f"/{path}")


def _launcher(command: str | list[str]) -> Callable[[], Mapping[str, Any]]:
    words = shlex.split(command) if isinstance(command, str) else command

    def launch() -> Mapping[str, Any]:
        done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=60)
        if done.returncode:
            raise Missing(f"the launch command failed: {done.stderr.strip()[:200]}")
        return json.loads(done.stdout)

    return launch


def clients(config: Config) -> Callable[[], httpx.Client]:
    """Makes browsers and clients: no redirect is followed unless a check does."""
    verify = ssl.create_default_context(cafile=str(config.ca)) if config.ca else True
    loopback = httpx.URL(config.base).host in ("127.0.0.1", "localhost", "::1")
    return lambda: httpx.Client(verify=verify, trust_env=not loopback, timeout=config.timeout)


def _wanted(check: Check, options: argparse.Namespace) -> bool:
    return (not options.group or check.group in options.group) and (not options.check or check.id in options.check)


def parser() -> argparse.ArgumentParser:
    """The options."""
    made = argparse.ArgumentParser(
        prog="scripts/conformance",
        description="The published checks of a SMART App Launch 2.2 server (A1 to A15), asked of any server.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument("--base", metavar="URL", help="the FHIR base, as an app would be given it")
    made.add_argument("--config", type=Path, metavar="FILE.toml", help="clients, people and addresses (docs/conformance.md)")
    made.add_argument("--group", action="append", choices=list(GROUPS), metavar="NAME", help="only this chapter; may be repeated")
    made.add_argument("--check", action="append", metavar="ID", help="only this check, such as A2.14; may be repeated")
    made.add_argument("--symmetric", nargs=2, metavar=("ID", "SECRET"), help="the client with a secret")
    made.add_argument("--public", nargs=1, metavar="ID", help="the client without one")
    made.add_argument("--asymmetric", nargs=2, metavar=("ID", "KEYFILE"), help="the client with a key (JWK or JWK Set)")
    made.add_argument("--backend", nargs=2, metavar=("ID", "KEYFILE"), help="the backend service")
    made.add_argument("--redirect-uri", metavar="URL", help="where the clients are sent back to; default http://127.0.0.1:8765/callback")
    made.add_argument("--launch-uri", metavar="URL", help="where an EHR starts them; default http://127.0.0.1:8765/launch")
    made.add_argument("--launch-command", metavar="COMMAND", help="makes an EHR launch: prints JSON with iss, launch and url")
    made.add_argument("--person", choices=["manual", "form"], help="who signs in: you, in a browser, or the suite, by forms over HTTP")
    made.add_argument("--ca", type=Path, metavar="FILE", help="certificates to trust (PEM)")
    made.add_argument("--json", type=Path, metavar="FILE", help="write the results there")
    made.add_argument("--list", action="store_true", help="say which checks there are, and ask nothing")
    return made


if __name__ == "__main__":
    sys.exit(main())
