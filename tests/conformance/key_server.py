"""The keys of a backend client by URL, from this machine."""

from __future__ import annotations

import http.server
import json
import threading
from dataclasses import dataclass, field
from typing import Any, Self

from tests.conformance.config import ServedKeys


@dataclass
class KeyServer:
    """Serves a JWK Set on this machine and remembers how it was asked for."""

    at: ServedKeys
    keys: list[dict[str, Any]] = field(default_factory=list)
    accepts: list[str] = field(default_factory=list)

    def __enter__(self) -> Self:
        served = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                served.accepts.append(self.headers.get("Accept", ""))
                body = json.dumps({"keys": served.keys}).encode()
                self.send_response(200 if self.path == served.at.path else 404)
                self.send_header("Content-Type", "application/json")
                self.send_header("Cache-Control", f"max-age={served.at.life}")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                """The terminal belongs to the checks."""

        self._server = http.server.ThreadingHTTPServer((self.at.host, self.at.port), Handler)
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
