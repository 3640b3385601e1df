"""A circuit breaker: after some failures in a row, nothing is tried for a moment, then one attempt at a time (FAULT-R2)."""

from __future__ import annotations

import time
from collections.abc import Callable


class Breaker:
    """Opens after `failures` in a row; lets one attempt through every `pause` seconds until one succeeds."""

    def __init__(self, *, failures: int = 5, pause: float = 1.0, clock: Callable[[], float] = time.monotonic) -> None:
        self._limit, self._pause, self._clock = failures, pause, clock
        self._failures = 0
        self._next = 0.0

    @property
    def open(self) -> bool:
        """Whether attempts are held back."""
        return self._failures >= self._limit

    def allows(self) -> bool:
        """Whether to try now. While open, a yes is given once in `pause`, so ask only when the attempt follows."""
        if not self.open:
            return True
        now = self._clock()
        if now < self._next:
            return False
        self._next = now + self._pause
        return True

    def succeeded(self) -> bool:
        """Close. True when it was open."""
        was_open, self._failures = self.open, 0
        return was_open

    def failed(self) -> bool:
        """Count one. True when this one opened it."""
        self._failures += 1
        if self._failures == self._limit:
            self._next = self._clock() + self._pause
            return True
        return False
