"""One fetch for many who ask for the same at once (FAULT-C1)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class Flights:
    """Shares work under way by cache key, which holds the caller's rights and the generations: who joins could have begun the same work.

    A write renews generations, so that who asks after it has another key and never joins a fetch that began before it.
    """

    def __init__(self) -> None:
        self._flying: dict[str, asyncio.Task[Any]] = {}

    async def share(self, key: str, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """The result of `work`, begun by the first who asks; its error reaches all who wait, and nobody later. Key "": not shared.

        Who is cancelled leaves; the work goes on for the others and for the cache.
        """
        if not key:
            return await work()
        task = self._flying.get(key)
        if task is None:
            task = self._flying[key] = asyncio.create_task(work())
            task.add_done_callback(lambda done: self._landed(key, done))
        return await asyncio.shield(task)

    def flying(self, key: str) -> bool:
        """Whether who asks now joins others."""
        return key in self._flying

    def _landed(self, key: str, task: asyncio.Task[Any]) -> None:
        self._flying.pop(key, None)
        if not task.cancelled():
            task.exception()  # seen, also when everybody has left

    async def close(self) -> None:
        """End what is under way."""
        flying = list(self._flying.values())
        for task in flying:
            task.cancel()
        await asyncio.gather(*flying, return_exceptions=True)
