"""A deadline for another server's answer that a busy loop of our own does not use up."""

from __future__ import annotations

import asyncio
import time
from types import TracebackType
from typing import Self


class Deadline:
    """As `asyncio.timeout`, raising TimeoutError, but in real time, and once more as long when this loop was held up itself.

    Under load the answer lies in the socket while other requests have their turn; a timeout that fires then would take a healthy Redis for one
    that is down, and the load that the cache carries would fall on the EHR at the worst moment. (uvloop's own clock stands still during an
    iteration, so that a timeout that begins late in a long one fires at once.) However busy the loop, it is over after the second time.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._limit = asyncio.timeout(None)
        self._again = True

    async def __aenter__(self) -> Self:
        """Begin."""
        await self._limit.__aenter__()
        self._loop = asyncio.get_running_loop()
        self._until = time.monotonic() + self._seconds
        self._timer = self._loop.call_later(self._seconds, self._check)
        return self

    def _check(self) -> None:
        now = time.monotonic()
        if self._again and now - self._until > self._seconds / 4:
            self._again, self._until = False, now + self._seconds
        if now < self._until:
            self._timer = self._loop.call_later(self._until - now, self._check)
        else:
            self._limit.reschedule(self._loop.time())

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> bool | None:
        """End; CancelledError becomes TimeoutError when it was the deadline."""
        self._timer.cancel()
        return await self._limit.__aexit__(kind, error, trace)
