"""Starts the real parts once, says which they are, runs pytest on all of them, and says which cases lack a test. `scripts/test` calls it."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import httpx
import redis

from tests.support import parts

ROOT = Path(__file__).parents[1]
PARTS = ("hapi", "redis", "postgres", "browser", "corpus")
VARIABLES = {"hapi": "GATEWAY_TEST_HAPI", "redis": "GATEWAY_TEST_REDIS", "postgres": "GATEWAY_TEST_POSTGRES", "browser": "GATEWAY_TEST_CHROMIUM"}
# What kills, pauses or measures must have the machine to itself; the rest shares its cores.
ALONE = "fault or alone"


def main() -> int:
    """Exit code of the whole run."""
    options, rest = arguments()
    sys.stdout.reconfigure(line_buffering=True)  # a log of CI shows what is being waited for
    started = time.monotonic()
    with contextlib.ExitStack() as stack:
        try:
            used = {name: start(name, stack) for name in PARTS if name not in options.without}
        except parts.MissingPart as missing:
            say(f"{missing}\ntest: or leave it out with --without, which the last line will say")
            return 1
        for name, what in used.items():
            say(f"{name:<9} {what}")
        code = run(options.without, rest)
        if not rest and not options.without:
            code = max(code, traced())
    left_out = f"; WITHOUT {' '.join(options.without)}" if options.without else ""
    say(f"{'passed' if code == 0 else 'FAILED'} in {time.monotonic() - started:.0f} s on {', '.join(used.values())}{left_out}")
    return code


def arguments() -> tuple[argparse.Namespace, list[str]]:
    """Our own; whatever else is there goes to pytest."""
    parser = argparse.ArgumentParser(prog="scripts/test", description=__doc__)
    parser.add_argument("--without", action="append", default=[], choices=PARTS, help="leave this part and its tests out")
    return parser.parse_known_args()


def start(name: str, stack: contextlib.ExitStack) -> str:
    """Make the part available to the tests through its variable; returns its name and version."""
    say(f"{name:<9} starting ..." if not os.environ.get(VARIABLES.get(name, "")) else f"{name:<9} named by {VARIABLES[name]}")
    match name:
        case "hapi":
            return hapi_version(provided(name, lambda: stack.enter_context(parts.hapi())))
        case "redis":
            return redis_version(provided(name, lambda: stack.enter_context(parts.valkey()).url))
        case "postgres":
            return postgres_version(provided(name, lambda: stack.enter_context(parts.postgres()).url))
        case "browser":
            return version_of(provided(name, chromium))
        case _:
            return corpus()


def provided(name: str, make) -> str:
    """What is named by the variable, else what `make` starts."""
    if not os.environ.get(VARIABLES[name]):
        os.environ[VARIABLES[name]] = make()
    return os.environ[VARIABLES[name]]


def hapi_version(url: str) -> str:
    software = httpx.get(f"{url}/metadata", timeout=60, trust_env=False).json()["software"]
    return f"{software['name']} {software['version']}"


def redis_version(url: str) -> str:
    with redis.Redis.from_url(url) as client:
        info = client.info()
    return f"{info.get('server_name', 'redis')} {info.get('valkey_version') or info['redis_version']}"


def postgres_version(url: str) -> str:
    async def ask() -> str:
        connection = await asyncpg.connect(urlunsplit(urlsplit(url)._replace(scheme="postgresql")))
        try:
            return await connection.fetchval("show server_version")
        finally:
            await connection.close()

    return f"PostgreSQL {asyncio.run(ask())}"


def chromium() -> str:
    """The one that is there, else the system's package, else Playwright's download."""
    with contextlib.suppress(parts.MissingPart):
        return parts.chromium_path()
    if os.geteuid() == 0 and shutil.which("apt-get"):
        say("browser   installing the package chromium ...")
        for step in (["update"], ["install", "-y", "--no-install-recommends", "chromium", "fonts-liberation"]):
            quiet = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
            subprocess.run(["apt-get", "-qq", *step], check=False, env=quiet, stdout=subprocess.DEVNULL)
    else:
        say("browser   asking Playwright for Chromium ...")
        subprocess.run([sys.executable, "-m", "playwright", "install", "chromium"], check=False, stdout=subprocess.DEVNULL)
    return parts.chromium_path()


def version_of(program: str) -> str:
    return subprocess.run([program, "--version"], check=True, capture_output=True, text=True).stdout.strip()


def corpus() -> str:
    folder = os.environ.get("GATEWAY_TEST_CORPUS", "")
    if not folder or not Path(folder).is_dir():
        raise parts.MissingPart("The published examples are not here: name their folder in GATEWAY_TEST_CORPUS")
    return f"corpus with {sum(1 for path in Path(folder).rglob('*.json'))} JSON files"


def run(without: list[str], rest: list[str]) -> int:
    """Pytest twice: what may share the cores, then what may not. Exit code 5 (nothing was selected) of one of them is no failure."""
    os.environ["GATEWAY_TEST_WITHOUT"] = ",".join(without)
    cases = ROOT / ".cache" / "cases.json"
    cases.unlink(missing_ok=True)
    os.environ["GATEWAY_TEST_CASES"] = str(cases)
    base = [sys.executable, "-m", "pytest", "-p", "tests.support.without", "-p", "tests.support.cases", "--durations=8", "--durations-min=10", *rest]
    # In the order of the folders: the quick ones (unit) come last, so that no core idles at the end while the other has a long file.
    spread = ("-n", "2", "--dist", "loadfile", "--no-loadscope-reorder")
    shared = subprocess.run([*base, "-q", "-m", f"not ({ALONE})", *spread], check=False, cwd=ROOT).returncode
    alone = subprocess.run([*base, "-q", "-m", ALONE], check=False, cwd=ROOT).returncode
    codes = [code for code in (shared, alone) if code != 5]
    return max(codes, default=5)


def traced() -> int:
    """After all that there is: every case of the specification has a test, and each of its tests passed. 1 when not, and which."""
    done = subprocess.run([sys.executable, ROOT / "scripts" / "cases", "--short"], check=False, cwd=ROOT, capture_output=True, text=True)
    for line in (done.stdout + done.stderr).splitlines():
        say(line)
    return done.returncode


def say(text: str) -> None:
    print(f"test: {text}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
