"""A small HTTP server that misbehaves, one way for each first segment of the path.

It counts what it was asked, so that a test can see a second try.
"""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field

OK = b'{"resourceType":"Patient","id":"a"}'


@dataclass
class Asked:
    """One request that arrived."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes


@dataclass
class FaultServer:
    """`url` has no trailing slash."""

    url: str
    asked: list[Asked] = field(default_factory=list)
    connections: int = 0

    def paths(self) -> list[str]:
        """The paths asked for, in order."""
        return [one.path for one in self.asked]


def _answer(body: bytes = OK, *headers: str, status: str = "200 OK", length: int | None = None) -> bytes:
    lines = [f"HTTP/1.1 {status}", "Content-Type: application/fhir+json", f"Content-Length: {len(body) if length is None else length}", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def _plain(raw: bytes) -> Callable[[asyncio.StreamWriter], Awaitable[None]]:
    async def write(writer: asyncio.StreamWriter) -> None:
        writer.write(raw)
        await writer.drain()

    return write


def _closing(raw: bytes) -> Callable[[asyncio.StreamWriter], Awaitable[None]]:
    async def write(writer: asyncio.StreamWriter) -> None:
        writer.write(raw)
        await writer.drain()
        writer.close()

    return write


async def _slow_head(writer: asyncio.StreamWriter) -> None:
    await asyncio.sleep(30)
    writer.write(_answer())


async def _slow_body(writer: asyncio.StreamWriter) -> None:
    writer.write(_answer(b"", length=1000))
    for _ in range(1000):
        writer.write(b" ")
        await writer.drain()
        await asyncio.sleep(0.2)


async def _endless_body(writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/fhir+json\r\nTransfer-Encoding: chunked\r\n\r\n")
    with contextlib.suppress(OSError):
        while True:
            writer.write(b"10000\r\n" + b" " * 0x10000 + b"\r\n")
            await writer.drain()


async def _endless_head(writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\n")
    with contextlib.suppress(OSError):
        while True:
            writer.write(b"X-Filler: " + b"x" * 1000 + b"\r\n")
            await writer.drain()
            await asyncio.sleep(0)


async def _reset(writer: asyncio.StreamWriter) -> None:
    sock = writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


async def _reset_in_body(writer: asyncio.StreamWriter) -> None:
    writer.write(_answer(b'{"resou', length=500))
    await writer.drain()
    await asyncio.sleep(0.02)
    await _reset(writer)


PATHS: dict[str, Callable[[asyncio.StreamWriter], Awaitable[None]]] = {
    "/ok": _plain(_answer()),
    "/headers": _plain(_answer(OK, 'ETag: W/"3"', "X-Twice: a", "X-Twice: b", "Set-Cookie: one=1; Path=/")),
    "/slow-head": _slow_head,
    "/slow-body": _slow_body,
    "/reset": _reset,
    "/reset-in-body": _reset_in_body,
    "/closed": _closing(b""),
    "/short-body": _closing(_answer(b'{"resou', length=500)),
    "/bad-chunk": _closing(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nabc\r\n0\r\n\r\n"),
    "/cut-chunks": _closing(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n"),
    "/garbage": _closing(b"\x00\xff\x13 this is no HTTP\r\n\r\n"),
    "/two-lengths": _closing(_answer(OK, "Content-Length: 5")),
    "/endless-body": _endless_body,
    "/endless-head": _endless_head,
    "/large": _plain(_answer(b" " * 3_000_000)),
    "/gzip-bomb": _plain(_answer(gzip.compress(b" " * 50_000_000), "Content-Encoding: gzip")),
    "/html": _plain(_answer(b"<html><body>Sign in</body></html>").replace(b"application/fhir+json", b"text/html")),
    "/no-content": _plain(b"HTTP/1.1 204 No Content\r\n\r\n"),
    "/unavailable": _plain(_answer(b"", "Retry-After: 7", status="503 Service Unavailable")),
}  # fmt: skip


@contextlib.asynccontextmanager
async def fault_server(tls: ssl.SSLContext | None = None, *, elsewhere: str = "") -> AsyncIterator[FaultServer]:
    """Serve PATHS on a free port of 127.0.0.1; `/redirect` leads to `elsewhere`, `/loop` to itself."""
    handlers: set[asyncio.Task[None]] = set()
    paths = {**PATHS, "/redirect": _plain(_answer(b"", f"Location: {elsewhere}/stolen", status="302 Found")),
             "/loop": _plain(_answer(b"", "Location: /loop", status="307 Temporary Redirect"))}  # fmt: skip
    running = FaultServer("")

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        running.connections += 1
        handlers.add(task := asyncio.current_task())
        task.add_done_callback(handlers.discard)
        with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            while not writer.is_closing():
                asked = await _read(reader)
                running.asked.append(asked)
                await paths.get("/" + asked.path.partition("?")[0].split("/")[1], PATHS["/ok"])(writer)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=tls)
    port = server.sockets[0].getsockname()[1]
    running.url = f"{'https' if tls else 'http'}://127.0.0.1:{port}"
    try:
        yield running
    finally:
        server.close()
        for task in handlers:
            task.cancel()
        await asyncio.gather(*handlers, return_exceptions=True)
        await server.wait_closed()
        await asyncio.sleep(0.01)  # what was accepted or refused a moment ago is closed in the next turns of the loop


async def _read(reader: asyncio.StreamReader) -> Asked:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    first, *lines = head.strip().split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    method, path, _ = first.split(" ")
    return Asked(method, path, headers, await reader.readexactly(int(headers.get("content-length", 0))))
