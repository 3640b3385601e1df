"""Measure the transports: the gateway's two, and pyreqwest where it is installed. `python bench/transports.py`; ADR 0003 cites it.

The server is a bare asyncio protocol in another process that answers 3 kB, at once or after 20 ms. Given are requests per second and the CPU
time that one request costs in this process, at 1, 32 and 200 clients.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import time
from collections.abc import Awaitable, Callable

import uvloop

from gateway.adapters.ehr.aiohttp_transport import AiohttpTransport
from gateway.adapters.ehr.base import HttpRequest
from gateway.adapters.ehr.httpx_transport import HttpxTransport

BODY = b'{"resourceType":"Observation","id":"o1","note":"' + b"x" * 3000 + b'"}'
ANSWER = b'HTTP/1.1 200 OK\r\nContent-Type: application/fhir+json\r\nETag: W/"1"\r\nContent-Length: %d\r\n\r\n' % len(BODY) + BODY
HEADERS = (("Accept", "application/fhir+json"), ("X-Request-ID", "0123456789abcdef"), ("Cache-Control", "no-cache"))
SECONDS = 3.0


class Upstream(asyncio.Protocol):
    """Answers each request head with the same bytes."""

    delay = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep it."""
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        """One request at a time on a connection: every client here waits for its answer."""
        if data.endswith(b"\r\n\r\n"):
            asyncio.get_running_loop().call_later(self.delay, self.transport.write, ANSWER) if self.delay else self.transport.write(ANSWER)


def serve(ports: multiprocessing.Queue[int]) -> None:
    """Two ports: at once, and after 20 ms."""

    async def run() -> None:
        loop = asyncio.get_running_loop()
        for delay in (0.0, 0.02):
            server = await loop.create_server(type("Delayed", (Upstream,), {"delay": delay}), "127.0.0.1", 0, backlog=1000)
            ports.put(server.sockets[0].getsockname()[1])
        await asyncio.Event().wait()

    uvloop.run(run())


async def measured(send: Callable[[], Awaitable[object]], clients: int) -> tuple[float, float]:
    """Requests per second, and CPU microseconds per request."""
    done = 0
    end = time.monotonic() + SECONDS

    async def client() -> None:
        nonlocal done
        while time.monotonic() < end:
            await send()
            done += 1

    cpu, begun = time.process_time(), time.monotonic()
    await asyncio.gather(*(client() for _ in range(clients)))
    return done / (time.monotonic() - begun), (time.process_time() - cpu) / done * 1e6


def senders(url: str) -> dict[str, tuple[Callable[[], Awaitable[object]], Callable[[], Awaitable[object]]]]:
    """Name -> (send once, close)."""
    request = HttpRequest("GET", url, HEADERS)
    found = {}
    for name, transport in {"aiohttp": AiohttpTransport(connections=256), "httpx": HttpxTransport(connections=256)}.items():
        found[name] = (lambda transport=transport: transport.send(request, deadline=10, cap=1 << 24), transport.close)
    try:
        from pyreqwest.client import ClientBuilder  # noqa: PLC0415 (not a dependency)
    except ImportError:
        return found
    client = ClientBuilder().build()

    async def pyreqwest() -> bytes:
        response = await client.get(url).headers(dict(HEADERS)).build().send()
        return await response.bytes()

    return {**found, "pyreqwest": (pyreqwest, client.close)}


async def main() -> None:
    """Print a table in Markdown."""
    ports: multiprocessing.Queue[int] = multiprocessing.Queue()
    server = multiprocessing.Process(target=serve, args=(ports,), daemon=True)
    server.start()
    print("| transport | upstream | clients | requests/s | CPU µs/request |\n|---|---|---:|---:|---:|")
    for delay in ("at once", "20 ms"):
        url = f"http://127.0.0.1:{ports.get()}/Observation/o1"
        for name, (send, close) in senders(url).items():
            for clients in (1, 32, 200):
                rate, cpu = await measured(send, clients)
                print(f"| {name} | {delay} | {clients} | {rate:.0f} | {cpu:.0f} |", flush=True)
            await close()
    server.terminate()


if __name__ == "__main__":
    os.environ.setdefault("PYTHONHASHSEED", "0")
    uvloop.run(main())
