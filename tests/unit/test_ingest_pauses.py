"""When an EHR is left alone, walked through as a transcript."""

from __future__ import annotations

from gateway.ingest.pauses import Pauses


def test_five_failures_in_a_row_close_the_way_and_one_probe_opens_it():
    """Closed -> open -> half-open -> open, longer -> half-open -> closed."""
    pauses = Pauses(threshold=5, first=1.0, longest=30.0)
    for _ in range(4):
        assert not pauses.failed("hapi", 100.0)
    assert pauses.paused(100.0) == frozenset()
    assert pauses.failed("hapi", 100.0)
    assert pauses.paused(100.4) == {"hapi"}
    assert pauses.paused(101.1) == frozenset()
    assert pauses.is_probing_next

    pauses.taken("hapi")
    assert pauses.paused(101.1) == {"hapi"}, "one message tries, the others wait"
    assert not pauses.is_probing_next
    assert pauses.failed("hapi", 101.1)
    assert pauses.paused(102.0) == {"hapi"}
    assert pauses.paused(103.2) == frozenset()

    pauses.taken("hapi")
    pauses.succeeded("hapi")
    assert pauses.paused(103.2) == frozenset()
    assert not pauses.is_probing_next


def test_a_success_between_failures_keeps_the_way_open():
    """Poison is not an outage."""
    pauses = Pauses(threshold=3)
    for _ in range(20):
        pauses.failed("hapi", 1.0)
        pauses.failed("hapi", 1.0)
        pauses.succeeded("hapi")
    assert pauses.paused(1.0) == frozenset()


def test_retry_after_is_kept_to_the_second():
    """FAULT-U5: no call before that time, also when a shorter pause is asked for later."""
    pauses = Pauses()
    assert pauses.failed("hapi", 10.0, retry_after=60)
    pauses.failed("hapi", 11.0, retry_after=2)
    assert pauses.paused(69.9) == {"hapi"}
    assert pauses.paused(70.1) == frozenset()


def test_pauses_grow_to_a_limit():
    """An EHR that is down for a day is asked every half minute."""
    pauses = Pauses(threshold=1, first=1.0, longest=30.0)
    now = 0.0
    for _ in range(30):
        pauses.failed("hapi", now)
        assert "hapi" not in pauses.paused(now + 30.1)
        now += 31
    assert "hapi" in pauses.paused(now - 31 + 14.9)


def test_a_probe_that_told_nothing_lets_the_next_one_try():
    """A lease that was lost says nothing about the EHR."""
    pauses = Pauses(threshold=1)
    pauses.failed("hapi", 0.0)
    pauses.taken("hapi")
    pauses.abandoned("hapi")
    assert pauses.paused(5.0) == frozenset()
    pauses.abandoned("never heard of")
    assert pauses.is_probing_next


def test_ehrs_do_not_suffer_for_each_other():
    """Bulkheads (G7)."""
    pauses = Pauses(threshold=1)
    pauses.failed("down", 0.0)
    assert pauses.paused(0.1) == {"down"}
