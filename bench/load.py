"""Load on one URL for some seconds: by `wrk` where it is installed, else by a small client of our own. What comes back is a `Sample`."""

from __future__ import annotations

import asyncio
import re
import shutil
import subprocess
import time
from dataclasses import dataclass, field
from typing import cast
from urllib.parse import urlsplit

import uvloop


@dataclass(frozen=True, slots=True)
class Target:
    """What is asked, over and over. `pid` is the server's process; 0: not one of ours."""

    name: str
    url: str
    headers: tuple[tuple[str, str], ...] = ()
    pid: int = 0


@dataclass(frozen=True, slots=True)
class Sample:
    """One run: requests per second, latencies in milliseconds, answers that were not 2xx."""

    rate: float
    p50: float
    p99: float
    failed: int


def generator() -> str:
    """The name of the load generator that is used here."""
    return "wrk" if shutil.which("wrk") else "bench/load.py"


def load(target: Target, *, connections: int, seconds: float) -> Sample:
    """One run."""
    if shutil.which("wrk"):
        return _wrk(target, connections, seconds)
    return uvloop.run(_own(target, connections, seconds))


# wrk ---------------------------------------------------------------------------------------------------------------------------------

_UNITS = {"us": 0.001, "ms": 1.0, "s": 1000.0, "m": 60_000.0}


def _wrk(target: Target, connections: int, seconds: float) -> Sample:
    headers = [word for name, value in target.headers for word in ("-H", f"{name}: {value}")]
    command = ["wrk", "-t1", f"-c{connections}", f"-d{max(1, round(seconds))}s", "--timeout", "10s", "--latency", *headers, target.url]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    bad = re.search(r"Non-2xx or 3xx responses: (\d+)", said)
    errors = re.search(r"Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)", said)
    failed = int(bad[1]) if bad else 0
    return Sample(
        float(_found(r"Requests/sec:\s+([\d.]+)", said)[1]),
        _percentile("50", said),
        _percentile("99", said),
        failed + (sum(map(int, errors.groups())) if errors else 0),
    )


def _percentile(which: str, said: str) -> float:
    number, unit = _found(rf"^\s+{which}%\s+([\d.]+)(us|ms|s|m)\s*$", said).groups()
    return float(number) * _UNITS[unit]


def _found(pattern: str, text: str) -> re.Match[str]:
    match = re.search(pattern, text, re.MULTILINE)
    if match is None:
        raise ValueError(f"wrk said something else:\n{text}")
    return match


# Ours --------------------------------------------------------------------------------------------------------------------------------


@dataclass
class _Tally:
    """What the connections of one run have seen."""

    until: float
    took: list[float] = field(default_factory=list)
    failed: int = 0


class _Client(asyncio.Protocol):
    """One connection that asks, waits for the whole answer, and asks again."""

    def __init__(self, request: bytes, tally: _Tally, done: asyncio.Future[None]) -> None:
        self._request, self._tally, self._done = request, tally, done
        self._buffer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        self._transport = cast("asyncio.WriteTransport", transport)  # TCP gives one that writes
        self._ask()

    def _ask(self) -> None:
        self._began = time.perf_counter()
        self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        """Count an answer once its body is whole."""
        self._buffer += data
        head, found, body = self._buffer.partition(b"\r\n\r\n")
        if not found or len(body) < _length(head):
            return
        self._buffer = b""
        now = time.perf_counter()
        self._tally.took.append(now - self._began)
        self._tally.failed += head[9:10] != b"2"
        if now < self._tally.until:
            self._ask()
        else:
            self._transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        """The end, in good order or not."""
        self._tally.failed += exc is not None
        if not self._done.done():
            self._done.set_result(None)


def _length(head: bytes) -> int:
    match = re.search(rb"(?i)\r\ncontent-length: *(\d+)", head)
    if match is None:
        raise ValueError("an answer without a length")
    return int(match[1])


async def _own(target: Target, connections: int, seconds: float) -> Sample:
    parts = urlsplit(target.url)
    lines = [f"GET {parts.path}{'?' if parts.query else ''}{parts.query} HTTP/1.1", f"Host: {parts.netloc}"]
    request = "\r\n".join([*lines, *(f"{name}: {value}" for name, value in target.headers), "", ""]).encode()
    loop = asyncio.get_running_loop()
    began = time.perf_counter()
    tally = _Tally(began + seconds)
    ends = [loop.create_future() for _ in range(connections)]
    for end in ends:
        await loop.create_connection(lambda end=end: _Client(request, tally, end), parts.hostname, parts.port)
    await asyncio.gather(*ends)
    elapsed = time.perf_counter() - began
    took = sorted(tally.took) or [0.0]
    return Sample(len(tally.took) / elapsed, took[len(took) // 2] * 1000, took[int(len(took) * 0.99)] * 1000, tally.failed)
