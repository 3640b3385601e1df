"""Start and stop the embedded EHR: `sekmet-fhir`, an R4 server in Python, as a child process on loopback with its data in one folder.

What runs in the child, and what is changed there, is in `embedded_server`. The child ends when its parent does: it reads its standard input to the
end, which the system closes with the parent, however that one died.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import select
import subprocess
import sys
import time
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from gateway.errors import ConfigError

READY = "READY "
"""What the child prints before its base URL, once it answers."""
TOKEN = "token"  # noqa: S105 - the name of the file that holds the token
LOG = "embedded.log"


@dataclass(frozen=True, slots=True)
class EmbeddedEhr:
    """A running embedded EHR. `token` is the bearer token that it asks for."""

    base_url: str
    token: str
    process: subprocess.Popen[bytes]

    @property
    def headers(self) -> Mapping[str, str]:
        """What a request to it must carry."""
        return {"Authorization": f"Bearer {self.token}"}

    @property
    def pid(self) -> int:
        """The child process."""
        return self.process.pid

    def wait(self) -> int:
        """Its exit code, when it ends."""
        return self.process.wait()

    def stop(self, timeout: float = 10.0) -> None:
        """End it in good order, by force after `timeout` seconds; again is harmless. What it answered is on disk either way."""
        _end(self.process, timeout)


def start(data: Path, *, port: int = 0, timeout: float = 60.0) -> EmbeddedEhr:
    """Start it over the folder `data`, made where it is missing; port 0 takes a free one. Gives it back when it answers.

    The same folder gives the same data and the same token. Raises ConfigError when the package is missing or the child does not come up.
    """
    if find_spec("sekmet") is None or find_spec("simplejson") is None:
        raise ConfigError("The embedded EHR is not installed.", where="sekmet-fhir", fix="pip install 'fhir-portal-gateway[demo]'")
    data.mkdir(parents=True, exist_ok=True, mode=0o700)
    token = _token(data / TOKEN)
    with (data / LOG).open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "gateway.sandbox.embedded_server", "--data", str(data), "--port", str(port)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            start_new_session=True,  # Ctrl-C reaches the parent, which ends the child when its own work is over
        )
    try:
        return EmbeddedEhr(_wait_ready(process, data / LOG, timeout), token, process)
    except BaseException:
        _end(process, 0)
        raise


@contextlib.contextmanager
def running(data: Path, *, port: int = 0, timeout: float = 60.0) -> Generator[EmbeddedEhr]:
    """An embedded EHR for the length of a `with` block."""
    ehr = start(data, port=port, timeout=timeout)
    try:
        yield ehr
    finally:
        ehr.stop()


def _end(process: subprocess.Popen[bytes], timeout: float) -> None:
    """Let it end by closing what it reads, or make it end."""
    with contextlib.suppress(OSError):
        if process.stdin:
            process.stdin.close()
    try:
        process.wait(timeout)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    if process.stdout:
        process.stdout.close()


def _token(path: Path) -> str:
    """The folder's bearer token, made at the first start and readable by its owner alone."""
    with contextlib.suppress(FileExistsError), os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(secrets.token_urlsafe(32))
    return path.read_text().strip()


def _wait_ready(process: subprocess.Popen[bytes], log: Path, timeout: float) -> str:
    """The base URL that the child prints. Raises ConfigError when it ends before, or says nothing for `timeout` seconds."""
    output = process.stdout
    if output is None:
        raise ConfigError("The embedded EHR was started without its output.", where="embedded")
    os.set_blocking(output.fileno(), False)
    deadline, seen = time.monotonic() + timeout, b""
    while not seen.endswith(b"\n"):
        if not select.select([output], [], [], max(0.0, deadline - time.monotonic()))[0]:
            raise ConfigError(f"The embedded EHR was not ready after {timeout:.0f} s.", where=str(log), fix="read that log")
        chunk = output.read()
        if not chunk:
            raise ConfigError(f"The embedded EHR ended with code {process.wait()}.", where=str(log), fix="read that log")
        seen += chunk
    return seen.decode().strip().removeprefix(READY)
