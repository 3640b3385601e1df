"""FHIR values in words: dates with their zone, names, codes, money; odd data never fail."""

from __future__ import annotations

from zoneinfo import ZoneInfo

import pytest

from gateway.fhir.json import parse_trusted
from gateway.portal import words

NEW_YORK = ZoneInfo("America/New_York")


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("2026-12-01T09:00:00-05:00", "1 December 2026, 9:00 am (UTC\N{MINUS SIGN}5)"),
        ("2026-12-01T00:05:00+05:30", "1 December 2026, 12:05 am (UTC+5:30)"),
        ("2026-12-01T12:00:00Z", "1 December 2026, 12:00 pm (UTC)"),
        ("2026-12-01T12:00:00.123Z", "1 December 2026, 12:00 pm (UTC)"),
        ("2026-12-01", "1 December 2026"),
        ("2026-12", "December 2026"),
        ("2026", "2026"),
        ("2026-13", "2026-13"),
        ("soon", "soon"),
        ("", ""),
    ],
)
def test_a_moment_names_its_zone_and_is_as_precise_as_the_data(value, shown):
    """Nothing is made more exact than it was written."""
    assert words.moment(value) == shown


def test_a_clinics_zone_is_used_and_named():
    """The same instant in winter and in summer."""
    assert words.moment("2026-12-01T14:00:00Z", NEW_YORK) == "1 December 2026, 9:00 am (EST)"
    assert words.moment("2026-06-01T14:00:00Z", NEW_YORK) == "1 June 2026, 10:00 am (EDT)"
    assert words.day("2026-12-01T03:00:00Z", NEW_YORK) == "30 November 2026"


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ({"start": "2026-12-01", "end": "2026-12-15"}, "From 1 December 2026 to 15 December 2026"),
        ({"start": "2026-12-01", "end": "2026-12-01"}, "1 December 2026"),
        ({"start": "2026-12-01"}, "From 1 December 2026"),
        ({"end": "2026-12-15"}, "Until 15 December 2026"),
        ({}, ""),
        (None, ""),
    ],
)
def test_periods(value, shown):
    """Both sides, one, or none."""
    assert words.period(value) == shown


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(0, "just now"), (59, "just now"), (60, "1 minute ago"), (185, "3 minutes ago"), (7200, "2 hours ago"), (90000, "1 day ago")],
)
def test_ages(seconds, shown):
    """In the largest unit that fits."""
    assert words.ago(seconds) == shown


@pytest.mark.parametrize(
    ("raw", "shown"),
    [
        (b'{"value":120.00,"currency":"USD"}', "$120.00"),
        (b'{"value":-5.50,"currency":"EUR"}', "\N{MINUS SIGN}\N{EURO SIGN}5.50"),
        (b'{"value":120.0,"currency":"SEK"}', "120.0 SEK"),
        (b'{"value":3}', "3"),
        (b'{"currency":"USD"}', ""),
        (b"null", ""),
    ],
)
def test_money_is_shown_as_written(raw, shown):
    """No digit is added or taken away."""
    assert words.money(parse_trusted(raw)) == shown


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ({"text": "Dr A"}, "Dr A"),
        ([{"use": "nickname", "text": "Nick"}, {"use": "official", "prefix": ["Dr"], "given": ["Ann", "B"], "family": "Lee"}], "Dr Ann B Lee"),
        ([{"given": "odd", "family": ["x"]}], "x"),
        ([], ""),
        ("odd", ""),
    ],
)
def test_names(value, shown):
    """The official one first; data of the wrong shape give nothing."""
    assert words.human_name(value) == shown


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ({"text": "T", "coding": [{"display": "D"}]}, "T"),
        ({"coding": [{"code": "c"}, {"display": "D"}]}, "D"),
        ({"coding": [{"code": "c"}]}, "c"),
        ([{"text": "first"}, {"text": "second"}], "first"),
        ({}, ""),
        (7, ""),
        (None, ""),
    ],
)
def test_concepts(value, shown):
    """Text, display, code, in that order."""
    assert words.concept(value) == shown


@pytest.mark.parametrize(
    ("value", "target"),
    [
        ("Patient/p1", "Patient/p1"),
        ("Patient/p1/_history/3", "Patient/p1"),
        ("http://gateway.test/fhir/clinic/Patient/p1", "Patient/p1"),
        ("#c1", ""),
        ("urn:uuid:1", ""),
        ("", ""),
    ],
)
def test_references(value, target):
    """Type and id, whatever stands around them."""
    assert words.reference({"reference": value}) == target
