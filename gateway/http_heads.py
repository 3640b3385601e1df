"""The HTTP/1.1 protocol of the serving process: uvicorn's, with the two limits that it lacks. A request's head comes in time, and is not too long.

Without them a few hundred connections that send a byte now and then hold everything a process has, and one head without an end fills its memory
(FAULT-S14, S15). What comes after the head is bounded by `api.asgi.read_body`.
"""

from __future__ import annotations

import asyncio

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

SECONDS = 10.0
"""From the first byte of a request (on a new connection: from its beginning) to the end of its head."""
BYTES = 64 * 1024
"""Of request line and headers together. A page link is the longest thing that the gateway itself makes: 2 kB."""
LINGER = 2.0
"""Seconds that the rest of a request may take once it was answered: what is still coming then is of no use to anybody."""


_TOO_LARGE = b"431 Request Header Fields Too Large", b"The headers are too long."
_TOO_SLOW = b"408 Request Timeout", b"The request did not come in time."


class HeadTooLarge(Exception):
    """Raised within the parser, which then takes nothing more from the connection."""


class BoundedHeads(HttpToolsProtocol):
    """uvicorn's protocol; a head that is too slow is answered with 408, one that is too large with 431, and the connection is closed."""

    seconds = SECONDS

    def connection_made(self, transport: asyncio.Transport) -> None:
        """The time of the first head begins."""
        super().connection_made(transport)
        self._waits = True  # for the end of a head
        self._came = 0  # bytes of the head, as they came
        self._idle = 0  # bytes after the head since the last byte of body: framing of chunks, and trailers
        self._too_large = False
        self._timer: asyncio.TimerHandle | None = None
        self._arm()

    def connection_lost(self, exc: Exception | None) -> None:
        """Nothing to wait for any more."""
        self._disarm()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """The time of a later head begins with its first byte."""
        begins = self._waits
        if begins:
            self._came += len(data)
            self._arm()
        self._idle += len(data)
        super().data_received(data)
        if self._waits and self._came > BYTES:
            self._refuse(*_TOO_LARGE)
        elif not self._waits and not begins and self._idle > BYTES:  # trailers, or extensions of chunks, without an end
            self.transport.close()

    def on_headers_complete(self) -> None:
        """The head is there; one that came in a single piece is measured now."""
        self._waits, self._came, self._idle = False, 0, 0
        self._disarm()
        if len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers) > BYTES:
            self._too_large = True
            raise HeadTooLarge
        super().on_headers_complete()

    def on_header(self, name: bytes, value: bytes) -> None:
        """Of the head. A trailer is passed over: nothing here asks for one, and none may stand in for a header."""
        if self._waits:
            super().on_header(name, value)

    def on_body(self, body: bytes) -> None:
        """What belongs to the body is bounded by who reads it."""
        self._idle = 0
        super().on_body(body)

    def on_response_complete(self) -> None:
        """Answered before the request was whole: the rest has a moment, so that the answer arrives before the end of the connection."""
        queued = bool(self.pipeline)
        super().on_response_complete()
        if not queued and not self._waits and self._timer is None:
            self._timer = self.loop.call_later(LINGER, self.transport.close)

    def on_message_complete(self) -> None:
        """What comes next is a head again."""
        self._waits = True
        self._disarm()
        super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        """What uvicorn calls when the parser gave up; it gave up for us, when the head was too large."""
        if self._too_large:
            self._refuse(*_TOO_LARGE)
        else:
            super().send_400_response(msg)

    def _arm(self) -> None:
        if self._timer is None:
            self._timer = self.loop.call_later(self.seconds, self._too_slow)

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _too_slow(self) -> None:
        self._timer = None
        if self._came:
            self._refuse(*_TOO_SLOW)
        else:
            self.transport.close()  # a browser that opened a connection to have one expects no answer on it

    def _refuse(self, status: bytes, text: bytes) -> None:
        if self.transport.is_closing():
            return
        head = b"HTTP/1.1 %b\r\ncontent-type: text/plain; charset=utf-8\r\ncontent-length: %d\r\nconnection: close\r\n\r\n%b"
        self.transport.write(head % (status, len(text), text))
        self.transport.close()
