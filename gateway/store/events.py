"""The sealed event log: what an operator may need to know about one request and no caller may see, such as an EHR's own diagnostics.

One line for each event in a file of this process; full files are closed and the oldest ones of all processes removed, so that the log never
takes more than its bound. An event is a help, not a record: when it cannot be written (a full disk), the request goes on.
"""

from __future__ import annotations

import base64
import hashlib
import os
import secrets
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import structlog

from gateway.seal import SealBroken, Seals

log = structlog.get_logger("gateway.events")

_LONGEST = 64 * 1024
"""Characters kept of one event."""


class Event(msgspec.Struct, array_like=True, frozen=True):
    """What is sealed. `at` in epoch seconds."""

    at: float
    request_id: str
    kind: str
    text: str


class EventLog:
    """`directory` is made when the first event is written. `limit` bounds the bytes of all files in it, `file_limit` those of one."""

    def __init__(self, directory: Path, sealer: Seals, *, limit: int = 64 * 2**20, file_limit: int = 4 * 2**20) -> None:
        self._directory, self._sealer = directory, sealer
        self._limit, self._file_limit = limit, min(file_limit, limit)
        self._descriptor = -1
        self._size = 0
        self._failing = False

    def write(self, request_id: str, kind: str, text: str) -> None:
        """Add an event with one system call. Never raises for a disk that fails; says so once in the log."""
        line = self._line(Event(time.time(), request_id, kind, text[:_LONGEST]))
        try:
            self._ensure(len(line))
            self._size += os.write(self._descriptor, line)
            self._failing = False
        except OSError as error:
            if not self._failing:
                log.error("events-not-written", error=error.strerror)  # noqa: TRY400  # the traceback says no more
            self._failing = True
            self.close()

    def read(self, request_id: str) -> list[tuple[str, str]]:
        """The (kind, text) of a request's events, in order of time. Lines that are torn or sealed with a lost key are left out."""
        found = sorted(self._events(request_id), key=lambda event: event.at)
        return [(event.kind, event.text) for event in found]

    def close(self) -> None:
        """Close this process's file; a later write begins another."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _line(self, event: Event) -> bytes:
        data = msgspec.msgpack.encode(Event(event.at, _printable(event.request_id), _printable(event.kind), _printable(event.text)))
        return b"%s %s\n" % (_label(event.request_id), base64.b64encode(self._sealer.seal(data, _context(event.request_id))))

    def _ensure(self, coming: int) -> None:
        """A file that is still there (an operator or another process may have removed it) and has room."""
        if self._descriptor >= 0 and self._size + coming <= self._file_limit and os.fstat(self._descriptor).st_nlink:
            return
        self.close()
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._make_room()
        stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%f")
        path = self._directory / f"{stamp}-{os.getpid()}-{secrets.token_hex(4)}.events"
        self._descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL, 0o600)
        self._size = 0

    def _make_room(self) -> None:
        """Remove the oldest files until one more may be filled. Names begin with the time."""
        sizes = {path: _size(path) for path in self._files()}
        total = sum(sizes.values())
        for path, size in sizes.items():
            if total + self._file_limit <= self._limit:
                return
            path.unlink(missing_ok=True)
            total -= size

    def _files(self) -> list[Path]:
        return sorted(self._directory.glob("*.events")) if self._directory.is_dir() else []

    def _events(self, request_id: str) -> Iterator[Event]:
        label = _label(request_id) + b" "
        for path in self._files():
            try:
                with path.open("rb") as file:
                    lines = [line for line in file if line.startswith(label)]
            except FileNotFoundError:  # rotated away meanwhile
                continue
            for line in lines:
                try:
                    sealed = base64.b64decode(line[len(label) :].strip(), validate=True)
                    yield msgspec.msgpack.decode(self._sealer.open(sealed, _context(request_id)), type=Event)
                except (SealBroken, ValueError):  # ValueError: base64 and msgspec, for a torn line
                    continue


def _label(request_id: str) -> bytes:
    """What finds a request's lines without opening the others. A hash, because a request id may come from a caller."""
    return hashlib.sha256(_bytes(request_id)).hexdigest()[:24].encode()


def _context(request_id: str) -> bytes:
    return b"event:" + _bytes(request_id)


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "backslashreplace")


def _printable(text: str) -> str:
    return _bytes(text).decode()  # a lone surrogate, which UTF-8 cannot hold, is written as its escape


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0
