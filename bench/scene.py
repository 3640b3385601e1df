"""The servers that the bench compares, started for it: Valkey, an EHR, `gateway serve` in one process, nginx where it is found."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import httpx

from bench.ehr import PATIENT, resources
from bench.load import Target
from gateway.store import oauth as rows
from gateway.store import people
from gateway.store.base import Database, now
from gateway.store.oauth_rows import Account, Client, new_id
from tests.support import parts, smart
from tests.support.processes import Served, serving

READ = "Observation/bench-o1"
SEARCH = f"Observation?patient={PATIENT}&_count=10"
SCOPE = "patient/*.rs openid fhirUser"


@dataclass(frozen=True)
class Cores:
    """Where what is measured runs, and where the rest does. One core: everything on it."""

    measured: frozenset[int]
    rest: frozenset[int]

    @classmethod
    def found(cls) -> Cores:
        """The first core for what is measured, the others for the rest."""
        first, *others = sorted(os.sched_getaffinity(0))
        return cls(frozenset({first}), frozenset(others or [first]))

    @contextlib.contextmanager
    def on(self, cores: frozenset[int]) -> Iterator[None]:
        """Processes that are started in the block inherit these cores."""
        os.sched_setaffinity(0, cores)
        try:
            yield
        finally:
            os.sched_setaffinity(0, self.rest)


@dataclass(frozen=True)
class Server:
    """Where it answers, and its process; 0: it is not ours."""

    url: str
    pid: int = 0

    def target(self, name: str, path: str = "", headers: tuple[tuple[str, str], ...] = ()) -> Target:
        """One thing to ask it."""
        return Target(name, f"{self.url}/{path}", headers, self.pid)


@dataclass(frozen=True)
class Scene:
    """What is running. `nginx` is None where there is none; `floor` is a bare ASGI app that says the same 3 kB."""

    ehr: Server
    gateway: Served
    token: str
    floor: Server
    nginx: Server | None

    def targets(self) -> list[Target]:
        """Everything that is measured, by name."""
        mine = (("Authorization", f"Bearer {self.token}"), ("Accept", "application/fhir+json"))
        fresh = (*mine, ("Cache-Control", "no-cache"))
        gateway = Server(f"{self.gateway.url}/fhir/ehr", self.gateway.process.pid)
        found = [
            gateway.target("gateway: cached read", READ, mine),
            gateway.target("gateway: cached search", SEARCH, mine),
            gateway.target("gateway: cold read", READ, fresh),
            gateway.target("gateway: cold search", SEARCH, fresh),
            self.ehr.target("EHR: read", READ),
            self.ehr.target("EHR: search", SEARCH),
            self.floor.target("bare uvicorn"),
        ]
        if self.nginx:
            found += [
                self.nginx.target("nginx proxy_cache hit: read", f"cached/{READ}"),
                self.nginx.target("nginx proxy_cache hit: search", f"cached/{SEARCH}"),
                self.nginx.target("nginx proxy_pass: read", f"passed/{READ}"),
                self.nginx.target("nginx proxy_pass: search", f"passed/{SEARCH}"),
            ]
        return found


@contextlib.contextmanager
def scene(folder: Path, cores: Cores, ehr: str = "") -> Iterator[Scene]:
    """Everything up and filled. `ehr`: the base URL of one that runs already, which is written to; else the package's double."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(cores.on(cores.rest))
        upstream = Server(ehr) if ehr else stack.enter_context(_double())
        _fill(upstream.url)
        valkey = stack.enter_context(parts.valkey())
        with cores.on(cores.measured):
            served = stack.enter_context(serving(folder, f"ehr={upstream.url}", extra=("--redis", valkey.url)))
            floor = stack.enter_context(_floor())
            nginx = stack.enter_context(_nginx(folder / "nginx", upstream.url)) if shutil.which("nginx") else None
        yield Scene(upstream, served, asyncio.run(_token(folder)), floor, nginx)


async def _token(folder: Path) -> str:
    """The patient's own, straight into the gateway's store."""
    database = Database(f"sqlite+aiosqlite:///{folder / 'gateway.db'}")
    moment = now()
    client = Client("bench", "Bench", "none", ("authorization_code",), ("https://app.test/cb",), "", ("*",), moment)
    account = Account(new_id(), new_id(), "", "ehr", f"Patient/{PATIENT}", "Bench", moment)
    async with database.write() as connection:
        await rows.put_client(connection, client, frozenset())
        await people.put_account(connection, account, ())
    try:
        return await smart.issue(database, client_id="bench", scope=SCOPE, ehr="ehr", account=account, patient=PATIENT)
    finally:
        await database.close()


def _fill(base: str) -> None:
    with httpx.Client(base_url=base, trust_env=False, timeout=30) as http:
        for one in resources():
            http.put(f"/{one['resourceType']}/{one['id']}", json=one, headers={"Content-Type": "application/fhir+json"}).raise_for_status()


# Servers -----------------------------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _double() -> Iterator[Server]:
    port = parts.free_port()
    with _running([sys.executable, "-m", "bench.ehr", str(port)], f"http://127.0.0.1:{port}/fhir/metadata") as pid:
        yield Server(f"http://127.0.0.1:{port}/fhir", pid)


@contextlib.contextmanager
def _floor() -> Iterator[Server]:
    port = parts.free_port()
    command = [sys.executable, "-m", "uvicorn", "bench.scene:floor", "--port", str(port), "--loop", "uvloop", "--http", "httptools"]
    url = f"http://127.0.0.1:{port}"
    with _running([*command, "--lifespan", "off", "--no-access-log", "--log-level", "critical"], url) as pid:
        yield Server(url, pid)


_BODY = b'{"resourceType":"Observation","text":"' + b"x" * 3000 + b'"}'


async def floor(scope, receive, send) -> None:  # noqa: ANN001 (ASGI)
    """What uvicorn alone can do with 3 kB."""
    del scope, receive
    headers = [(b"content-type", b"application/fhir+json"), (b"content-length", str(len(_BODY)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": _BODY})


_NGINX = """
worker_processes 1; daemon off; pid {folder}/pid; error_log {folder}/error.log warn;
events {{ worker_connections 1024; }}
http {{
  access_log off;
  client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/f; uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
  proxy_cache_path {folder}/cache keys_zone=bench:8m;
  upstream ehr {{ server {host}; keepalive 64; }}
  server {{
    listen 127.0.0.1:{port}; keepalive_requests 1000000000;
    proxy_http_version 1.1; proxy_set_header Connection ""; proxy_set_header Host {host};
    location /cached/ {{
      proxy_pass http://ehr{path}/; proxy_cache bench; proxy_cache_valid 200 1h;
      proxy_ignore_headers Cache-Control Expires Vary Set-Cookie; add_header X-Nginx-Cache $upstream_cache_status;
    }}
    location /passed/ {{ proxy_pass http://ehr{path}/; }}
  }}
}}
"""


@contextlib.contextmanager
def _nginx(folder: Path, base: str) -> Iterator[Server]:
    port, upstream = parts.free_port(), urlsplit(base)
    folder.mkdir()
    (folder / "nginx.conf").write_text(_NGINX.format(folder=folder, port=port, host=upstream.netloc, path=upstream.path))
    user = ["-g", "user root;"] if os.geteuid() == 0 else []  # its worker must get into our folder
    command = ["nginx", "-c", str(folder / "nginx.conf"), "-e", str(folder / "error.log"), *user]
    with _running(command, f"http://127.0.0.1:{port}/passed/metadata") as pid:
        yield Server(f"http://127.0.0.1:{port}", pid)


@contextlib.contextmanager
def _running(command: list[str], url: str) -> Iterator[int]:
    """The command while the block runs, from the moment when `url` answers; gives its process id."""
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        _wait(process, url)
        yield process.pid
    finally:
        process.terminate()
        process.wait(10)


def _wait(process: subprocess.Popen, url: str) -> None:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(httpx.HTTPError):
            if httpx.get(url, trust_env=False).status_code == 200:
                return
        time.sleep(0.05)
    raise SystemExit(f"bench: {process.args[0]} does not answer")
