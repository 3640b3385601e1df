"""How often the cache answered, and why not: counted in this process, logged once a minute while it changes (`cache-counts`)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping


class Counts:
    """Counts by reason, since this process started.

    Look-ups: `found-process`, `found-shared`, `found-nothing`, `around-incoherent`, `around-pending`, `around-down`, `broken`.
    Answers: `given-fresh`, `given-stale`, `given-unchanged` (a 304), and `fetched-` with the reason of `policy.Fetch`; `joined`: those of others.
    Beside them: `kept`, `left` (not kept), `evicted` (the EHR refused what was kept), `dropped` (names that changed elsewhere).
    Writes: `waited-in-vain` for a process that did not say that it forgot, `waited-for-all` where it was not known who remembers.
    """

    def __init__(self) -> None:
        self._counts = Counter[str]()
        self._logged = 0

    def add(self, what: str, times: int = 1) -> None:
        """Count."""
        self._counts[what] += times

    def shown(self) -> Mapping[str, int]:
        """All of them, by name."""
        return dict(sorted(self._counts.items()))

    def news(self) -> Mapping[str, int]:
        """All of them when any has changed since they were last asked for here, else nothing."""
        total = self._counts.total()
        if total == self._logged:
            return {}
        self._logged = total
        return self.shown()
