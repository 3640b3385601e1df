"""How long answers live."""

from __future__ import annotations

import pytest

from gateway.cache.policy import BY_TYPE, DEFAULT, KEPT, LONGEST, Lives, life_for, life_of_answer
from gateway.errors import ConfigError
from gateway.fhir.interaction import WRITES, Kind


@pytest.mark.parametrize("type_", sorted(BY_TYPE))
def test_each_life_has_a_reason_and_a_bound(type_: str):
    """Every line of the table says why, and none is longer than a day."""
    life = BY_TYPE[type_]
    assert 0 <= life.seconds <= LONGEST
    assert len(life.reason) > 10


def test_only_reads_and_searches_are_kept():
    """Writes and the CapabilityStatement are not."""
    lives = Lives()
    for kind in Kind:
        assert (life_for(kind, "Observation", lives) > 0) == (kind in KEPT)
    assert not KEPT & WRITES


@pytest.mark.parametrize("type_", ["Slot", "Consent", "AuditEvent"])
def test_what_decides_is_never_kept(type_: str):
    """Free slots, consents and the record of accesses are always fresh."""
    assert life_for(Kind.SEARCH, type_, Lives()) == 0


@pytest.mark.parametrize("status", [201, 204, 206, 301, 304, 400, 401, 403, 404, 410, 429, 500, 502, 503, 504])
def test_only_a_200_is_kept(status: int):
    """Errors are never stored, nor anything half (FAULT-U13, U15, U21, U22)."""
    assert life_of_answer(Kind.READ, ("Observation",), status, Lives()) == 0


def test_an_answer_lives_as_long_as_its_shortest_type():
    """An include that must be fresh makes the whole answer so."""
    lives = Lives()
    assert life_of_answer(Kind.SEARCH, ("Observation", "Practitioner"), 200, lives) == BY_TYPE["Observation"].seconds
    assert life_of_answer(Kind.SEARCH, ("Practitioner", "Slot"), 200, lives) == 0
    assert life_of_answer(Kind.SEARCH, (), 200, lives) == 0


def test_an_ehr_has_lives_of_its_own():
    """Configuration changes a type, or all that have no line; the others stay."""
    lives = Lives().overridden({"Observation": 5, "*": 0}, where="ehr.hapi.lives")
    assert life_for(Kind.READ, "Observation", lives) == 5
    assert life_for(Kind.READ, "Basic", lives) == 0
    assert life_for(Kind.READ, "Patient", lives) == BY_TYPE["Patient"].seconds
    assert life_for(Kind.READ, "Basic", Lives()) == DEFAULT.seconds
    assert "ehr.hapi.lives" in lives.of("Observation").reason


@pytest.mark.parametrize("life", [-1, LONGEST + 1, float("nan"), float("inf")])
def test_a_life_without_sense_is_refused(life: float):
    """Between nothing and a day, else a sentence with where and the fix."""
    with pytest.raises(ConfigError, match="Observation") as caught:
        Lives().overridden({"Observation": life}, where="ehr.hapi.lives")
    assert caught.value.where == "ehr.hapi.lives"
