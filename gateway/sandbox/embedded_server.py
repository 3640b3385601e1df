"""What runs in the embedded EHR's own process: the server of `sekmet-fhir`, with the settings and the changes that a demo needs.

As the package comes it reads numbers as floats, so that `1.10` turns into `1.1`: `keep_numbers` gives it a JSON that remembers how each number was
written. Its simulator is off (it books proposed appointments by itself), a bearer token is required, its traffic log stays empty, and only the
FHIR paths are open (its console asks nobody who he is). How it behaves otherwise stands in docs/ehrs.md, "The embedded EHR".
"""

from __future__ import annotations

import argparse
import logging
import socket
import sys
import threading
from collections.abc import Generator
from decimal import Decimal
from functools import partial
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Self

import uvicorn

from gateway.api.asgi import Receive, Scope, Send
from gateway.sandbox.embedded import READY, TOKEN

_HOST = "127.0.0.1"


class Written(Decimal):
    """A JSON number that is written again as it was read: `1.10`, `1.0e3`, `0.000000010`."""

    __slots__ = ("text",)
    text: str

    def __new__(cls, text: str) -> Self:
        """Take the text of the number."""
        number = super().__new__(cls, text)
        number.text = text
        return number

    def __str__(self) -> str:
        return self.text

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: dict[int, Any], /) -> Self:
        return self


def keep_numbers() -> None:
    """Replace the JSON of the modules through which resources pass: requests and answers, the store, searches and histories."""
    simplejson: Any = import_module("simplejson")
    exact = SimpleNamespace(
        loads=partial(simplejson.loads, parse_float=Written),
        dumps=partial(simplejson.dumps, use_decimal=True, ensure_ascii=False),
        JSONDecodeError=simplejson.JSONDecodeError,
    )
    for name in ("router", "store", "search"):
        module: Any = import_module(f"sekmet.fhir.{name}")
        module.json = exact
    _keep_numbers_in_histories(import_module("sekmet.fhir.service").FhirService)
    _index_numbers(import_module("sekmet.fhir.indexer"))


def _keep_numbers_in_histories(service: Any) -> None:
    """A history imports the standard JSON inside its function: take each of its versions from the store instead."""
    original = service.history

    def history(self: Any, *args: Any) -> Any:
        found = original(self, *args)
        for entry in found.body.get("entry", ()):
            if shown := entry.get("resource"):
                entry["resource"] = self.store.vread(shown["resourceType"], shown["id"], shown["meta"]["versionId"])
        return found

    service.history = history


def _index_numbers(indexer: Any) -> None:
    """The index knows int and float alone, and would leave out what `Written` holds (`value-quantity`)."""
    original = indexer.walk

    def walk(resource: Any, path: str) -> Generator[Any]:
        return (float(value) if isinstance(value, Written) else value for value in original(resource, path))

    indexer.walk = walk


def settings(data: Path, port: int, token: str) -> Any:
    """The package's settings for a server at that port over that folder."""
    return import_module("sekmet.config").Settings.model_validate(
        {
            "base_url": f"http://{_HOST}:{port}/fhir",
            "host": _HOST,
            "port": port,
            "data_dir": str(data),
            "facility_name": "Alder Street Clinic",
            "server_auth": {"types": ["bearer"], "tokens": [token]},
            "simulator": {"enabled": False},
            "log_inbound": False,
        }
    )


class OnlyFhir:
    """Answers 404 for everything that is not below /fhir."""

    def __init__(self, app: Any) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a FHIR request on, refuse any other."""
        if scope["type"] != "http" or scope["path"] == "/fhir" or scope["path"].startswith("/fhir/"):
            await self._app(scope, receive, send)
            return
        await send({"type": "http.response.start", "status": 404, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body", "body": b""})


class _Server(uvicorn.Server):
    """Says when it answers, and ends with its parent."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started and sockets:
            print(f"{READY}http://{_HOST}:{sockets[0].getsockname()[1]}/fhir", flush=True)
            threading.Thread(target=self._end_with_parent, daemon=True).start()

    def _end_with_parent(self) -> None:
        sys.stdin.buffer.read()
        self.should_exit = True


def serve(data: Path, port: int, token: str) -> None:
    """Serve until the parent is gone."""
    listener = socket.create_server((_HOST, port))
    keep_numbers()
    app = import_module("sekmet.main").create_app(settings(data, listener.getsockname()[1], token))
    logging.getLogger().setLevel(logging.WARNING)  # the package sets INFO, which names resources
    config = uvicorn.Config(OnlyFhir(app), log_level="warning", access_log=False, timeout_graceful_shutdown=5, server_header=False)
    _Server(config).run(sockets=[listener])


def main() -> None:
    """`python -m gateway.sandbox.embedded_server --data FOLDER --port PORT`; the token is in the folder."""
    parser = argparse.ArgumentParser(description="The embedded EHR. It is started by gateway.sandbox.embedded.")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--port", type=int, default=0)
    chosen = parser.parse_args()
    serve(chosen.data, chosen.port, (chosen.data / TOKEN).read_text().strip())


if __name__ == "__main__":
    main()
