"""A gateway as people run it: the command line, real processes, real HTTP. For flow tests."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import httpx
from joserfc import jwk

from tests.support import parts, smart


@dataclass
class Served:
    """A running `gateway serve`, and the command line on the same state."""

    folder: Path
    url: str
    ehrs: tuple[str, ...]
    process: subprocess.Popen
    log: Path
    extra: tuple[str, ...] = ()
    env: dict[str, str] = field(default_factory=dict)
    store: str = ""

    def cli(self, *arguments: str, text: str = "", check: bool = True) -> subprocess.CompletedProcess:
        """Run a command of `gateway` on the same store."""
        flags = [word for ehr in self.ehrs for word in ("--ehr", ehr)]
        done = gateway(*arguments, "--store", self.store, *flags, cwd=self.folder, text=text, env=self.env)
        assert not check or done.returncode == 0, done.stderr
        return done

    def json(self, *arguments: str, text: str = ""):
        """The JSON that a command prints."""
        return json.loads(self.cli(*arguments, "--json", text=text).stdout)

    def backend(self, client_id: str, scope: str, ehr: str, **more: object) -> str:
        """Register a backend client with a new key, and return a token for it, by the command line alone."""
        key = jwk.ECKey.generate_key("P-384", {"kid": f"{client_id}-1", "use": "sig", "alg": "ES384"}, private=True)
        private = self.folder / f"{client_id}.json"
        private.write_text(json.dumps(key.as_dict(private=True)))
        metadata = {
            "client_id": client_id,
            "client_name": client_id.title(),
            "grant_types": ["client_credentials"],
            "token_endpoint_auth_method": "private_key_jwt",
            "jwks": {"keys": [key.as_dict(private=False)]},
            "scope": scope,
            "ehrs": [ehr],
            **more,
        }
        self.cli("client", "register", "--from", "-", text=json.dumps(metadata))
        return self.token(client_id)

    def token(self, client_id: str, *more: str) -> str:
        """A new token of a registered backend client, for all that it is registered for."""
        key = str(self.folder / f"{client_id}.json")
        return self.cli("client", "token", "--client", client_id, "--key", key, "--public-url", self.url, *more).stdout.strip()


class Browser(smart.Browser):
    """A browser that reaches one of several processes at the address of all, with the cookies of another if it is given."""

    def __init__(self, at: Served, public_url: str, other: smart.Browser | None = None) -> None:
        super().__init__(None, public_url=at.url)
        self.http = httpx.AsyncClient(base_url=at.url, trust_env=False)
        self.issuer = f"{public_url}/fhir/hapi"
        if other:
            self.http.cookies = other.http.cookies


def gateway(*arguments: str, cwd: Path, text: str = "", env: dict[str, str] | None = None) -> subprocess.CompletedProcess:
    """Run `gateway` to its end."""
    return subprocess.run(
        [sys.executable, "-m", "gateway", *arguments],
        cwd=cwd, env=_environment(env or {}), input=text, capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip


@contextlib.contextmanager
def serving(
    folder: Path, *ehrs: str, extra: tuple[str, ...] = (), env: dict[str, str] | None = None, port: int = 0, ready: bool = True, store: str = ""
) -> Iterator[Served]:
    """`gateway serve`, ready to answer, over a SQLite store in `folder` if no other is named. `ehrs` are NAME=URL."""
    port, store = port or parts.free_port(), store or f"sqlite:///{folder / 'gateway.db'}"
    flags = [word for ehr in ehrs for word in ("--ehr", ehr)]
    command = [sys.executable, "-m", "gateway", "serve", "--listen", f"127.0.0.1:{port}", "--store", store]
    log = folder / "serve.log"
    with log.open("ab") as file:
        process = subprocess.Popen(
            [*command, *flags, *extra], cwd=folder, env=_environment(env or {}), stdin=subprocess.DEVNULL, stdout=file, stderr=file
        )
    served = Served(folder, f"http://127.0.0.1:{port}", ehrs, process, log, extra, env or {}, store)
    try:
        if ready:
            _wait_ready(served)
        yield served
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_ready(served: Served) -> None:
    deadline = time.monotonic() + 90  # two seconds on a machine of its own
    with httpx.Client(trust_env=False) as http:
        while time.monotonic() < deadline:
            if served.process.poll() is not None:
                raise AssertionError(f"gateway serve ended with {served.process.returncode}: {served.log.read_text()}")
            with contextlib.suppress(httpx.HTTPError):
                if http.get(f"{served.url}/readyz").status_code == 200:
                    return
            time.sleep(0.1)
    raise AssertionError(f"not ready: {served.log.read_text()}")


def _environment(more: dict[str, str]) -> dict[str, str]:
    """This environment without a gateway's settings, so that the developer's own do not leak in."""
    return {name: value for name, value in os.environ.items() if not name.startswith("GATEWAY_")} | more
