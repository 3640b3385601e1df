"""The breaker, with a clock of its own."""

from __future__ import annotations

import pytest

from gateway.cache.breaker import Breaker


class _Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> _Clock:
    return _Clock()


@pytest.fixture
def breaker(clock: _Clock) -> Breaker:
    return Breaker(failures=5, pause=1.0, clock=clock)


def test_opens_after_five_failures_in_a_row(breaker: Breaker):
    """Four change nothing, the fifth says that it opened it."""
    assert [breaker.failed() for _ in range(5)] == [False, False, False, False, True]
    assert breaker.open
    assert not breaker.allows()


def test_a_success_in_between_begins_anew(breaker: Breaker):
    """Only failures in a row count."""
    for _ in range(3):
        assert [breaker.failed() for _ in range(4)] == [False] * 4
        assert breaker.succeeded() is False
    assert breaker.allows()


def test_one_attempt_in_each_pause(breaker: Breaker, clock: _Clock):
    """While open, one request tries; the others do not wait for it."""
    for _ in range(5):
        breaker.failed()
    clock.now += 1.0
    assert [breaker.allows() for _ in range(3)] == [True, False, False]
    assert breaker.failed() is False
    clock.now += 1.0
    assert breaker.allows()
    assert breaker.succeeded() is True
    assert [breaker.allows() for _ in range(3)] == [True] * 3
