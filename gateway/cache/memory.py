"""A cache within this process, for a gateway of one process. `single_process_lock` refuses a second one."""

from __future__ import annotations

import fcntl
import os
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from gateway.errors import ConfigError

_OVERHEAD = 200
"""Bytes that an entry costs besides its key and value."""
_GENERATIONS = 100_000
"""How many are kept; forgetting one only begins a new life for what hangs on it."""


class MemoryStore:
    """A CacheStore of at most `max_bytes`; what was used longest ago goes first."""

    def __init__(self, max_bytes: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._max, self._clock = max_bytes, clock
        self._bytes = 0
        self._values: OrderedDict[str, tuple[bytes, float]] = OrderedDict()  # value, when it ends
        self._generations: OrderedDict[str, str] = OrderedDict()

    async def generations(self, names: Sequence[str]) -> tuple[str, ...] | None:
        """The current token for each name."""
        return tuple(self._generation(name) for name in names)

    async def get(self, key: str) -> bytes | None:
        """The value, or None."""
        found = self._values.get(key)
        if found is None:
            return None
        if found[1] <= self._clock():
            self._drop(key)
            return None
        self._values.move_to_end(key)
        return found[0]

    async def put(self, key: str, value: bytes, life: float) -> None:
        """Keep it, unless it alone is too large."""
        self._drop(key)
        size = _size(key, value)
        if size > self._max or life <= 0:
            return
        self._values[key] = (value, self._clock() + life)
        self._bytes += size
        while self._bytes > self._max:
            self._drop(next(iter(self._values)))

    async def renew(self, names: Sequence[str]) -> bool:
        """Forget these generations (and, for the name of a value, the value)."""
        for name in names:
            self._generations.pop(name, None)
            self._drop(name)
        return True

    async def ping(self) -> bool:
        """It is always there."""
        return True

    async def close(self) -> None:
        """Forget everything."""
        self._values.clear()
        self._generations.clear()
        self._bytes = 0

    def _generation(self, name: str) -> str:
        token = self._generations.get(name) or secrets.token_hex(8)
        self._generations[name] = token
        self._generations.move_to_end(name)
        if len(self._generations) > _GENERATIONS:
            self._generations.popitem(last=False)
        return token

    def _drop(self, key: str) -> None:
        if found := self._values.pop(key, None):
            self._bytes -= _size(key, found[0])


def _size(key: str, value: bytes) -> int:
    return len(key) + len(value) + _OVERHEAD


class Held:
    """A lock of this process, until `close` or the end of the process, in whatever way."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Let another process begin."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def single_process_lock(path: Path) -> Held:
    """Take the lock that stands for "the only process with a cache in memory on this store". Raises ConfigError when another one has it.

    With a cache in each of two processes, one would go on giving answers that a write through the other has made old (promise 4).
    """
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise ConfigError(f"The lock file cannot be made: {error.strerror}.", where=str(path), fix="check the path and its permissions") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        owner = os.pread(descriptor, 20, 0).decode("ascii", "replace").strip()
        os.close(descriptor)
        raise ConfigError(
            f"Another gateway process ({owner or 'unknown'}) runs on this store, and the cache in memory is for a single process only.",
            where=str(path),
            fix="name a Redis with --redis URL, or stop the other process",
        ) from error
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, str(os.getpid()).encode(), 0)
    return Held(descriptor)
