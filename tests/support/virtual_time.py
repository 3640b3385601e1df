"""An event loop whose time passes only while everybody waits: hours in milliseconds, in an order that is the same every time."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any

_TURN = 1e-6
"""Seconds that a turn of the loop takes by itself: what waits until a moment would else wait for ever just before it."""


class _Selector(selectors.SelectSelector):
    """Waits for nothing: the time until the next timer has passed."""

    passed = 0.0

    def select(self, timeout: float | None = None) -> list[Any]:
        if timeout is None:
            raise RuntimeError("everybody waits, and nothing will happen")
        self.passed += max(_TURN, timeout)
        return []


class VirtualLoop(asyncio.SelectorEventLoop):
    """For code that does no I/O. `now` in seconds; `monotonic` and `time` as those of the module `time`."""

    def __init__(self, epoch: float = 1_800_000_000.0) -> None:
        self._waits = _Selector()
        self._epoch = epoch
        super().__init__(self._waits)

    def time(self) -> float:  # of the loop and of the world
        return self._waits.passed

    def monotonic(self) -> float:
        return self._waits.passed

    def epoch(self) -> float:
        return self._epoch + self._waits.passed

    def do(self, work: Coroutine[Any, Any, Any]) -> Any:
        return self.run_until_complete(work)
