"""The port to what carries messages between processes. See `redis_board`; `Hub` is one within a process, for tests."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol

Heard = Callable[[bytes], None]


class Board(Protocol):
    """Messages may be lost, and a link may be dead without anybody noticing for a while. Nothing true hangs on it: only how long a write takes."""

    async def say(self, to: str, message: bytes) -> bool:
        """To one process, or to all that listen (""). True when it was handed over. Does not raise."""
        ...

    async def listen(self, own: str, linked: Callable[[], None], heard: Heard) -> None:
        """Calls `linked` once it hears, and `heard` for each message to all and to `own`. Returns when the link is lost. Does not raise."""
        ...


class Hub:
    """A board for several processes that are none."""

    def __init__(self) -> None:
        self._listeners: dict[str, list[Heard]] = {}

    async def say(self, to: str, message: bytes) -> bool:
        """To all of them at once."""
        for heard in [*self._listeners.get(to, ())]:
            asyncio.get_running_loop().call_soon(heard, message)
        return True

    async def listen(self, own: str, linked: Callable[[], None], heard: Heard) -> None:
        """Until cancelled."""
        for name in ("", own):
            self._listeners.setdefault(name, []).append(heard)
        linked()
        try:
            await asyncio.Event().wait()
        finally:
            for name in ("", own):
                self._listeners[name].remove(heard)
