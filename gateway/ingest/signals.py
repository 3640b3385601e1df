"""Who waits for what within one process: the worker for new messages, a sender for its result. Other processes poll the store."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Generator


class Signals:
    """A bell for the worker and an event for each sender that waits. It only saves waiting: whoever misses one looks into the store."""

    def __init__(self) -> None:
        self.has_worker = False
        self._bell = asyncio.Event()
        self._waiting: dict[str, list[asyncio.Event]] = {}

    def ring(self) -> None:
        """There may be work."""
        self._bell.set()

    async def wait_for_work(self, seconds: float) -> None:
        """Until the bell rings, or that time has passed."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._bell.wait()
        self._bell.clear()

    def finished(self, id_: str) -> None:
        """A message is through."""
        for event in self._waiting.get(id_, ()):
            event.set()

    @contextlib.contextmanager
    def waiting(self, id_: str) -> Generator[asyncio.Event, None, None]:
        """An event that is set when this process has brought the message through."""
        event = asyncio.Event()
        self._waiting.setdefault(id_, []).append(event)
        try:
            yield event
        finally:
            events = self._waiting[id_]
            events.remove(event)
            if not events:
                del self._waiting[id_]
