"""A real person with a browser: she is told what to open, and comes back to a loopback address."""

from __future__ import annotations

import http.server
import select
import sys
import threading
from collections.abc import Callable, Mapping
from html import escape
from urllib.parse import parse_qsl, urlencode, urlsplit

from tests.conformance.check import Missing, Skipped
from tests.conformance.person import Arrived, Asked


class Manual:
    """Prints what is to be done, listens at the loopback redirect URI, and waits."""

    def __init__(self, redirect_uri: str, launch_uri: str, *, out: Callable[[str], None] = print, patience: float = 600.0) -> None:
        self._paths = {urlsplit(redirect_uri).path: "callback", urlsplit(launch_uri).path: "launch"}
        self._launch_uri, self._out, self._patience = launch_uri, out, patience
        self._pages: dict[str, str] = {}
        self._came = threading.Event()
        self._arrived: dict[str, Mapping[str, str]] = {}
        parts = urlsplit(redirect_uri)
        if parts.scheme != "http" or parts.hostname not in ("127.0.0.1", "localhost", "::1"):
            raise ValueError(f"{redirect_uri}: with --person manual the redirect URI is http on loopback, with a port")
        self._server = http.server.ThreadingHTTPServer((parts.hostname, parts.port or 80), self._handler())
        self.root = f"http://{parts.netloc}"
        threading.Thread(target=self._server.serve_forever, args=(0.1,), daemon=True).start()

    def authorize(self, asked: Asked) -> Arrived:
        self._out(f"\n  Sign in as the {asked.who}. {asked.choice.words}")
        self._out(f"  Open {asked.url if asked.method == 'GET' else self._posting(asked)}")
        self._out("  If the server shows an error and the browser does not come back, press Enter here.")
        answer = self._wait("callback")
        return Arrived({}, "the person says: it ended on a page") if answer is None else Arrived(answer)

    def started(self) -> Mapping[str, str]:
        self._out(f"\n  In the EHR, start the app whose launch URL is {self._launch_uri}. If there is no way to do that, press Enter here.")
        if (found := self._wait("launch")) is None:
            raise Skipped("EHR launch: the person did not start one")
        return {**found, "url": f"{self._launch_uri}?{urlencode(found)}"}

    def take_back(self, management: str, client_id: str, done: Callable[[], bool]) -> None:
        del done
        self._out(f"\n  Take back all access of the app {client_id}{f' at {management}' if management else ''}, then press Enter here.")
        sys.stdin.readline()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def _wait(self, what: str) -> Mapping[str, str] | None:
        """The parameters with which a browser comes; None when Enter is pressed instead. Raises Missing after `patience` seconds."""
        self._arrived.pop(what, None)
        for _ in range(int(self._patience / 0.2)):
            if self._came.wait(0.2) and what in self._arrived:
                self._came.clear()
                return self._arrived.pop(what)
            self._came.clear()
            if sys.stdin.isatty() and select.select([sys.stdin], [], [], 0)[0]:
                sys.stdin.readline()
                return None
        raise Missing(f"nobody came within {self._patience:.0f} s")

    def _posting(self, asked: Asked) -> str:
        """A page of ours whose button posts the request."""
        hidden = "".join(f'<input type="hidden" name="{escape(name)}" value="{escape(value)}">' for name, value in asked.fields.items())
        path = f"/start/{len(self._pages)}"
        self._pages[path] = f'<form method="post" action="{escape(asked.endpoint)}">{hidden}<button>Go to the server</button></form>'
        return self.root + path

    def _handler(self) -> type[http.server.BaseHTTPRequestHandler]:
        manual = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                parts = urlsplit(self.path)
                what = manual._paths.get(parts.path)
                if what is not None:
                    manual._arrived[what] = dict(parse_qsl(parts.query, keep_blank_values=True))
                    manual._came.set()
                body = manual._pages.get(parts.path) or ("Done: go back to the terminal." if what else "")
                self.send_response(200 if body else 404)
                self.send_header("Content-Type", "text/html; charset=utf-8")
                self.end_headers()
                self.wfile.write(body.encode())

            def log_message(self, *_: object) -> None:
                """The terminal belongs to the checks."""

        return Handler
