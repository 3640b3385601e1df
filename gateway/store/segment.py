"""Append-only segments: files of lines that survive SIGKILL, one in use for each process.

A line is in the page cache once write(2) returned, so it outlives the process; `sync` makes it outlive the machine. The owner holds flock(2)
on its segment, which the kernel releases when the process ends in whatever way: a segment whose lock can be had belongs to nobody alive.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
from collections.abc import Generator
from datetime import UTC, datetime
from pathlib import Path

_SUFFIX = ".segment"
_CHUNK = 64 * 1024
"""Bytes taken at once: some 150 records, which hold the loop for a few milliseconds."""


class Segment:
    """One file, open and locked. Made by `create` (to append) or `adopt` (somebody's leftovers)."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self.path = path
        self.offset = 0  # bytes that were taken
        self.damaged = 0  # whole lines that could not be understood
        self._descriptor = descriptor
        self._size = os.fstat(descriptor).st_size
        self._dirty = False
        self._broken = False

    @classmethod
    def create(cls, directory: Path) -> Segment:
        """A new, empty segment of this process. Raises OSError, also when the directory is gone: it may be a volume that is not mounted."""
        while True:
            stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%f")
            path = directory / f"{stamp}-{os.getpid()}-{secrets.token_hex(4)}{_SUFFIX}"
            descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_EXCL, 0o600)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            segment = cls(path, descriptor)
            if segment.in_place:  # another process may have taken it for a leftover before it was locked
                return segment
            segment.close()

    @classmethod
    def adopt(cls, path: Path) -> Segment | None:
        """Somebody's segment, when its owner lives no more; else None."""
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_APPEND)
        except FileNotFoundError:
            return None
        segment = cls(path, descriptor)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            segment.close()
            return None
        if segment.in_place:
            return segment
        segment.close()
        return None

    @property
    def in_place(self) -> bool:
        """Whether the name still leads to this file. A file that was removed, or moved with its directory, would never be loaded."""
        try:
            there = os.stat(self.path)  # noqa: PTH116  # two microseconds less than Path.stat, on the way of every read
        except FileNotFoundError:
            return False
        here = os.fstat(self._descriptor)
        return (there.st_ino, there.st_dev) == (here.st_ino, here.st_dev)

    @property
    def usable(self) -> bool:
        """Whether a line may be appended: it is in place, and the disk never lied about it."""
        return not self._broken and self.in_place

    @property
    def unread(self) -> int:
        """Bytes that were not taken yet."""
        return self._size - self.offset

    def append(self, line: bytes) -> None:
        """Write one line, its newline included, whole or not at all. Raises OSError (disk full): then it is not there."""
        written = 0
        try:
            while written < len(line):  # a disk that is nearly full takes a part
                written += os.write(self._descriptor, line[written:])
        except OSError:
            self._cut()
            raise
        self._size += len(line)
        self._dirty = True

    def sync(self) -> None:
        """Let it survive power loss. Raises OSError."""
        if not self._dirty:
            return
        self._dirty = False  # before: what is appended meanwhile needs another one
        try:
            os.fdatasync(self._descriptor)
        except OSError:
            self._broken = True  # the kernel forgets pages that it could not write: a second fdatasync would say that all is well
            raise

    def _cut(self) -> None:
        """Take a part of a line back, so that the next one does not continue it."""
        try:
            os.ftruncate(self._descriptor, self._size)
        except OSError:
            self._broken = True

    def lines(self) -> tuple[list[bytes], int]:
        """The next whole lines, and the offset behind them; `taken` goes there. A torn last line is not a whole one."""
        data = os.pread(self._descriptor, _CHUNK, self.offset)
        while (end := data.rfind(b"\n") + 1) == 0:
            more = os.pread(self._descriptor, _CHUNK, self.offset + len(data))
            if not more:
                return [], self.offset
            data += more
        return data[: end - 1].split(b"\n"), self.offset + end

    def discard(self) -> None:
        """Remove the file when all of it was taken; keep it under another name when some of it was not understood."""
        if not self.in_place:
            return
        if self.damaged:
            self.path.rename(self.path.with_suffix(".damaged"))
        else:
            self.path.unlink()

    def close(self) -> None:
        """Give up the file and its lock."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def leftovers(directory: Path, *, but: frozenset[Path]) -> Generator[Segment]:
    """The segments of processes that live no more, the oldest first, each locked for this process until the caller goes on."""
    with contextlib.suppress(FileNotFoundError):
        for path in sorted(directory.glob(f"*{_SUFFIX}")):
            if path in but:
                continue
            if segment := Segment.adopt(path):
                try:
                    yield segment
                finally:
                    segment.close()
