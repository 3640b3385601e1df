"""The picture of one test over time: what is drawn, what is left out, and what its sentence says."""

from __future__ import annotations

from datetime import timedelta, timezone

import pytest

from gateway.fhir.json import parse_trusted
from gateway.portal.trend import HEIGHT, MOST, WIDTH, trend_of

ZONE = timezone(timedelta(hours=-5))


def result(value: str, when: str, more: str = "", unit: str = "mmol/L"):
    """A result, its numbers as text."""
    return parse_trusted(
        f'{{"resourceType": "Observation", "status": "final", "effectiveDateTime": "{when}", '
        f'"valueQuantity": {{"value": {value}, "unit": "{unit}"}}{more}}}'.encode()
    )


def between(low: str, high: str) -> str:
    """A range, as the next member."""
    return f', "referenceRange": [{{"low": {{"value": {low}, "unit": "mmol/L"}}, "high": {{"value": {high}, "unit": "mmol/L"}}}}]'


def flagged(code: str) -> str:
    """The lab's flag, as the next member."""
    return f', "interpretation": [{{"coding": [{{"code": "{code}"}}]}}]'


NEW = result("4.10", "2026-11-01")
OLDER, OLDEST = result("4.9", "2026-06-01"), result("3.6", "2026-01-01")


def test_marks_stand_in_time_and_on_an_even_scale():
    """Oldest left, whatever the order of the answer; the sentence has the numbers as written."""
    trend = trend_of(NEW, [OLDEST, OLDER], ZONE)
    assert trend is not None
    assert [mark.x for mark in trend.marks] == sorted(mark.x for mark in trend.marks)
    assert [label for label, _ in trend.scale] == ["5.0", "4.5", "4.0", "3.5"]
    assert [y for _, y in trend.scale] == [0, HEIGHT // 3, HEIGHT * 2 // 3, HEIGHT]
    assert [mark.now for mark in trend.marks] == [False, False, True]
    assert (trend.first, trend.last, trend.from_zero) == ("1 January 2026", "1 November 2026", False)
    assert trend.words == (
        "3 results: lowest 3.6 mmol/L on 1 January 2026, highest 4.9 mmol/L on 1 June 2026, newest 4.10 mmol/L on 1 November 2026."
    )


@pytest.mark.parametrize(
    "other",
    [
        result("88", "2026-01-01", unit="mg/dL"),
        result("3.6", "2026-01-01", ', "method": {"text": "another"}'),
        parse_trusted(b'{"status": "entered-in-error", "effectiveDateTime": "2026-01-01", "valueQuantity": {"value": 3, "unit": "mmol/L"}}'),
        parse_trusted(b'{"status": "final", "effectiveDateTime": "2026-01-01", "valueQuantity": {"value": 3, "unit": "mmol/L", "comparator": "<"}}'),
        parse_trusted(b'{"status": "final", "effectiveDateTime": "2026-01-01", "valueString": "lost", "valueQuantity": null}'),
        parse_trusted(b'{"status": "final", "valueQuantity": {"value": 3, "unit": "mmol/L"}}'),
    ],
)
def test_what_cannot_be_compared_is_not_drawn(other):
    """Another unit or method, a withdrawn one, a "less than", none, or none with a date: too few are left for a picture."""
    assert trend_of(NEW, [OLDER, other], ZONE) is None
    drawn = trend_of(NEW, [OLDER, OLDEST, other], ZONE)
    assert drawn is not None
    assert len(drawn.marks) == 3


def test_results_of_one_moment_are_no_course():
    """There is no time to draw along."""
    assert trend_of(NEW, [NEW, NEW], ZONE) is None


def test_shapes_come_from_the_labs_flag_and_bands_from_each_results_range():
    """Alike ranges in a row are one band; where the lab sent none there is none; a value without a flag is never marked."""
    rows = [
        result("9", "2026-05-01", between("3.5", "5.1")),
        result("6.1", "2026-04-01", between("3.5", "5.1") + flagged("HH")),
        result("3.0", "2026-03-01", between("3.4", "5.0") + flagged("L")),
        result("4", "2026-02-01", flagged("A")),
    ]
    trend = trend_of(rows[0], rows[1:], ZONE)
    assert trend is not None
    assert [mark.shape for mark in trend.marks] == ["odd", "low", "high", "even"]
    assert [bool(mark.corners) for mark in trend.marks] == [True, True, True, False]
    assert len(trend.bands) == 2
    assert trend.bands[0].x + trend.bands[0].width == trend.bands[1].x
    assert trend.bands[1].x + trend.bands[1].width == WIDTH


def test_a_range_open_on_one_side_reaches_the_edge():
    """A range such as "up to 200" has no lower bound to draw."""
    up_to = ', "referenceRange": [{"high": {"value": 4.5, "unit": "mmol/L"}}]'
    trend = trend_of(result("4.1", "2026-11-01", up_to), [OLDER, OLDEST], ZONE)
    assert trend is not None
    (band,) = trend.bands
    assert band.y + band.height == HEIGHT


def test_of_many_the_newest_are_drawn_and_the_sentence_says_so():
    """A picture of a hundred marks shows none of them."""
    rows = [result("4", f"20{year}-{month:02}-01") for year in range(20, 26) for month in range(1, 13)]
    trend = trend_of(rows[-1], rows[:-1], ZONE)
    assert trend is not None
    assert len(trend.marks) == MOST
    assert trend.words.startswith(f"The newest {MOST} of 72 results: lowest 4 mmol/L on ")


@pytest.mark.parametrize("value", ["0", "-3.5", "1e300", "0.00001", "5"])
def test_any_number_has_a_scale(value):
    """All alike, tiny, huge or below nothing: marks stay within the picture."""
    rows = [result(value, f"2026-0{month}-01") for month in (1, 2, 3)]
    trend = trend_of(rows[0], rows[1:], ZONE)
    assert trend is not None
    assert all(0 <= mark.y <= HEIGHT for mark in trend.marks)
    assert 2 <= len(trend.scale) <= 7
