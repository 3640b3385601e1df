"""When an EHR is left alone: after failures in a row, or because it asked for it. Pure; `now` in seconds of any one clock.

closed --threshold failures--> open (doubling, jittered) --time--> half-open: one message tries --> closed, or open again
any    --Retry-After--> open until then (FAULT-U5, U6: no call before that time)
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field, replace

_RANDOM = secrets.SystemRandom()


@dataclass(frozen=True, slots=True)
class _State:
    failures: int = 0
    until: float = 0.0
    probing: bool = False  # half-open, and the one message is on its way


@dataclass(slots=True)
class Pauses:
    """`threshold` failures in a row open it for `first` seconds, doubled each time up to `longest` (FAULT-U1)."""

    threshold: int = 5
    first: float = 1.0
    longest: float = 30.0
    _states: dict[str, _State] = field(default_factory=dict[str, _State])

    def paused(self, now: float) -> frozenset[str]:
        """The EHRs to which nothing new is sent now."""
        return frozenset(ehr for ehr, state in self._states.items() if state.until > now or state.probing)

    @property
    def is_probing_next(self) -> bool:
        """Whether some EHR is half-open: then messages are taken one by one."""
        return any(state.until > 0 and not state.probing for state in self._states.values())

    def taken(self, ehr: str) -> None:
        """A message for this EHR is on its way."""
        state = self._states.get(ehr)
        if state is not None and state.until > 0:
            self._states[ehr] = replace(state, probing=True)

    def succeeded(self, ehr: str) -> None:
        """It answered, be it with a refusal."""
        self._states.pop(ehr, None)

    def abandoned(self, ehr: str) -> None:
        """The message came back without having told anything about the EHR."""
        if (state := self._states.get(ehr)) is not None:
            self._states[ehr] = replace(state, probing=False)

    def failed(self, ehr: str, now: float, *, retry_after: float | None = None) -> bool:
        """It failed, or asks for a pause of that many seconds. True when this closed the way to it."""
        state = self._states.get(ehr, _State())
        failures = state.failures + 1
        pause = retry_after or 0.0
        if failures >= self.threshold:
            longest = min(self.longest, self.first * 2 ** min(failures - self.threshold, 10))
            pause = max(pause, longest * _RANDOM.uniform(0.5, 1.0))
        self._states[ehr] = _State(failures, max(state.until, now + pause) if pause else state.until)
        return pause > 0 and state.until <= now
