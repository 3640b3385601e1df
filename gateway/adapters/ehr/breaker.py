"""A circuit breaker for one EHR: while it is down, calls fail at once instead of each waiting for its deadline (FAULT-U1)."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Generator
from math import ceil

from gateway.errors import UpstreamFault

LIMIT = 5
"""Failures in a row that open it."""
PAUSE = 2.0
"""Seconds until the first probe; each probe that fails doubles it."""
LONGEST = 30.0
"""Seconds; an EHR that is back is noticed within this time."""

Notify = Callable[[str], None]
"""Takes "open" or "closed" whenever that changes."""


class Breaker:
    """Closed: calls pass. Open: they fail at once. After a pause one call passes as a probe, and decides.

    What counts as a failure is said by the caller of `attempt`.
    """

    def __init__(self, notify: Notify = lambda _state: None, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._notify = notify
        self._clock = clock
        self._failures = 0
        self._pause = PAUSE
        self._opens_at = 0.0
        self._probing = False

    @property
    def is_open(self) -> bool:
        """Whether the EHR counts as down."""
        return self._failures >= LIMIT

    @contextlib.contextmanager
    def attempt(self) -> Generator[Attempt]:
        """One call. Raises UpstreamFault with the time to wait while it is open. A call that says nothing, cancelled, changes nothing."""
        probe = self._enter()
        attempt = Attempt()
        try:
            yield attempt
        finally:
            if probe:
                self._probing = False
            if attempt.up is not None:
                self._learn(up=attempt.up, probe=probe)

    def _enter(self) -> bool:
        if not self.is_open:
            return False
        wait = self._opens_at - self._clock()
        if self._probing or wait > 0:
            raise UpstreamFault(reason="ehr-down", retry_after=max(1, ceil(wait)))
        self._probing = True
        return True

    def _learn(self, *, up: bool, probe: bool) -> None:
        if up:
            self._close()
        elif probe:
            self._open(min(2 * self._pause, LONGEST))
        elif not self.is_open:  # calls that began before it opened say nothing new
            self._failures += 1
            if self.is_open:
                self._open(PAUSE)
                self._notify("open")

    def _open(self, pause: float) -> None:
        self._pause = pause
        self._opens_at = self._clock() + pause

    def _close(self) -> None:
        was_open = self.is_open
        self._failures = 0
        if was_open:
            self._notify("closed")


class Attempt:
    """What a call found out: `up` is True when the EHR answered, False when it did not."""

    up: bool | None = None
