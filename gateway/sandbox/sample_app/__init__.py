"""The sample SMART app: one static page in plain JavaScript, served from a port of its own, as a stranger's app would be.

It does a standalone and an EHR launch (SMART App Launch 2.2, public client, PKCE S256), and shows the patient's name, the ten latest results and the
scopes that it was given. This module serves the files and tells the page which FHIR servers it knows: `/config.json`.
"""

from __future__ import annotations

import argparse
import json
import mimetypes
import socket
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import uvicorn

from gateway.api.asgi import Receive, Scope, Send
from gateway.errors import ConfigError
from gateway.sockets import listening

HOST = "127.0.0.1"
CLIENT_ID = "sample-app"
NAME = "Latest results (sample app)"
STATIC = Path(__file__).parent / "static"
SCOPES = "openid fhirUser offline_access patient/Patient.r patient/Observation.rs"
"""What both launches ask for; a standalone launch adds launch/patient, an EHR launch adds launch."""
_PAGES = ("/", "/launch", "/callback")
"""One page for all three: the script tells them apart by the query."""


def registration(base_url: str, *, client_id: str = CLIENT_ID) -> dict[str, Any]:
    """RFC 7591 metadata of the app as served at `base_url`. A public client: it has no secret to keep."""
    base = base_url.rstrip("/")
    return {
        "client_id": client_id,
        "client_name": NAME,
        "client_uri": f"{base}/",
        "redirect_uris": [f"{base}/callback"],
        "launch_uri": f"{base}/launch",
        "grant_types": ["authorization_code", "refresh_token"],
        "response_types": ["code"],
        "token_endpoint_auth_method": "none",
        "scope": f"launch launch/patient {SCOPES}",
    }


def configuration(servers: Sequence[str], *, client_id: str = CLIENT_ID) -> dict[str, Any]:
    """What the page asks for first. `servers` are FHIR base URLs: the app launches from no others, and may connect to no others."""
    return {"client_id": client_id, "name": NAME, "scope": SCOPES, "servers": [server.rstrip("/") for server in servers]}


def headers(servers: Sequence[str]) -> list[tuple[bytes, bytes]]:
    """For every answer: nothing inline, nothing from elsewhere, no framing, no referrer (the code is in the address for a moment), no store."""
    origins = " ".join(sorted({f"{urlsplit(server).scheme}://{urlsplit(server).netloc}" for server in servers}))
    policy = (
        f"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self' {origins}; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    found = {
        "content-security-policy": policy,
        "x-content-type-options": "nosniff",
        "referrer-policy": "no-referrer",
        "cache-control": "no-store",
        "cross-origin-opener-policy": "same-origin",
    }
    return [(name.encode(), value.encode()) for name, value in found.items()]


class SampleApp:
    """An ASGI app that serves the page, its files and `/config.json`."""

    def __init__(self, servers: Sequence[str], *, client_id: str = CLIENT_ID) -> None:
        self._headers = headers(servers)
        self._files = dict(_files())
        self._files["/config.json"] = ("application/json", json.dumps(configuration(servers, client_id=client_id)).encode())

    async def __call__(self, scope: Scope, _receive: Receive, send: Send) -> None:
        """Answer GET and HEAD for what there is, 404 and 405 for the rest."""
        if scope["type"] != "http":
            return
        kind, body = self._files.get(scope["path"], ("", b""))
        if scope["method"] not in ("GET", "HEAD"):
            await self._answer(send, 405, "text/plain", b"Only GET is offered here.\n", [(b"allow", b"GET, HEAD")])
        elif not kind:
            await self._answer(send, 404, "text/plain", b"There is nothing at this address.\n")
        else:
            await self._answer(send, 200, kind, body, silent=scope["method"] == "HEAD")

    async def _answer(
        self, send: Send, status: int, kind: str, body: bytes, more: Sequence[tuple[bytes, bytes]] = (), *, silent: bool = False
    ) -> None:
        text = f"{kind}; charset=utf-8" if kind.startswith("text/") else kind
        sizes = [(b"content-type", text.encode()), (b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": status, "headers": [*self._headers, *sizes, *more]})
        await send({"type": "http.response.body", "body": b"" if silent else body})


def _files() -> Mapping[str, tuple[str, bytes]]:
    """Path to content type and bytes. There are five small files, read once."""
    found = {f"/{path.name}": (_kind(path), path.read_bytes()) for path in sorted(STATIC.iterdir())}
    return found | dict.fromkeys(_PAGES, found["/index.html"])


def _kind(path: Path) -> str:
    """A module needs this type whatever the machine's own table says."""
    return "text/javascript" if path.suffix == ".js" else mimetypes.guess_type(path.name)[0] or "application/octet-stream"


@dataclass(frozen=True, slots=True)
class RunningApp:
    """The app being served from a thread of this process."""

    base_url: str
    server: uvicorn.Server
    thread: threading.Thread

    def stop(self) -> None:
        """End it; again is harmless."""
        self.server.should_exit = True
        self.thread.join(10)


def listen(port: int = 0) -> socket.socket:
    """A loopback port of its own, 0 for a free one: taken first, because the registration of the app names it. Raises ConfigError."""
    try:
        return listening(HOST, port)
    except OSError as error:
        raise ConfigError(f"The sample app cannot have port {port}.", where="sample app", fix="choose another port") from error


def base_url(listener: socket.socket) -> str:
    """Where the app will be."""
    return f"http://{HOST}:{listener.getsockname()[1]}"


def start(servers: Sequence[str], listener: socket.socket, *, client_id: str = CLIENT_ID) -> RunningApp:
    """Serve the app on that socket from a thread, until `stop`."""
    config = uvicorn.Config(SampleApp(servers, client_id=client_id), log_level="warning", access_log=False, server_header=False, lifespan="off")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, name="sample-app", daemon=True)
    thread.start()
    return RunningApp(base_url(listener), server, thread)


def main() -> None:
    """`python -m gateway.sandbox.sample_app --fhir URL [--fhir URL] [--port PORT] [--client-id ID]`: serve it by itself."""
    parser = argparse.ArgumentParser(description="Serve the sample SMART app on 127.0.0.1.")
    parser.add_argument("--fhir", action="append", required=True, metavar="URL", help="FHIR base URL of a SMART server; may be given again")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--client-id", default=CLIENT_ID)
    chosen = parser.parse_args()
    listener = listen(chosen.port)
    print(json.dumps(registration(base_url(listener), client_id=chosen.client_id), indent=2))
    print(f"The sample app is at {base_url(listener)}/ - register it with the metadata above. Ctrl-C ends it.", flush=True)
    running = start(chosen.fhir, listener, client_id=chosen.client_id)
    try:
        running.thread.join()
    except KeyboardInterrupt:
        running.stop()
