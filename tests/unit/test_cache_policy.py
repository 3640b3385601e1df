"""The rules of the cache, state by state: what is kept, what is given, and what happens when the EHR does not answer."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.cache.policy import (
    ANY,
    BY_TYPE,
    DEFAULT,
    FRESH,
    KEPT,
    LONGEST,
    SKEW,
    STALE,
    Fetch,
    Fresh,
    Keep,
    Leave,
    Lives,
    Refuse,
    Stale,
    Stamp,
    Wish,
    failed,
    judge,
    keeping,
    wish_of,
)
from gateway.errors import ConfigError, FhirError, Forbidden, NotFound, Throttled, Unavailable, UpstreamFault, UpstreamTimeout
from gateway.fhir.interaction import WRITES, Kind

NOW = 1_000_000.0
NO_STORE = Wish(store=False)


# How long -------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("type_", sorted(BY_TYPE))
def test_each_life_has_a_reason_and_a_bound(type_: str):
    """Every line of the table says why, and none is longer than a day."""
    life = BY_TYPE[type_]
    assert 0 <= life.seconds <= LONGEST
    assert len(life.reason) > 10


def test_what_everybody_shares_lives_long():
    """Terminology for a day, the people and places of a clinic for an hour; a patient's own data for minutes."""
    lives = Lives()
    assert {lives.of(name).seconds for name in ("CodeSystem", "ConceptMap", "ValueSet")} == {LONGEST}
    assert {lives.of(name).seconds for name in ("Practitioner", "PractitionerRole", "Organization", "Location", "Medication")} == {3600}
    assert all(lives.of(name).seconds <= 300 for name in ("Patient", "Observation", "Condition", "Immunization", "Coverage"))


def test_an_ehr_has_lives_of_its_own():
    """Configuration changes a type, or all that have no line; the others stay, and what is never given stale stays so."""
    lives = Lives().overridden({"Observation": 5, "AllergyIntolerance": 90, "*": 0}, where="ehr.hapi.lives")
    assert lives.of("Observation").seconds == 5
    assert lives.of("Basic").seconds == 0
    assert lives.of("Patient").seconds == BY_TYPE["Patient"].seconds
    assert Lives().of("Basic") == DEFAULT
    assert "ehr.hapi.lives" in lives.of("Observation").reason
    assert not lives.of("AllergyIntolerance").stale


@pytest.mark.parametrize("life", [-1, LONGEST + 1, float("nan"), float("inf")])
def test_a_life_without_sense_is_refused(life: float):
    """Between nothing and a day, else a sentence with where and the fix."""
    with pytest.raises(ConfigError, match="Observation") as caught:
        Lives().overridden({"Observation": life}, where="ehr.hapi.lives")
    assert caught.value.where == "ehr.hapi.lives"


# What is kept ---------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", Kind)
def test_only_reads_and_searches_are_kept(kind: Kind):
    """Writes and the CapabilityStatement are not."""
    assert isinstance(keeping(kind, ["Observation"], Lives()), Keep) == (kind in KEPT)
    assert not KEPT & WRITES


@pytest.mark.parametrize(
    ("types", "wish", "why"),
    [
        (["Slot"], ANY, "type:Slot"),
        (["Consent"], ANY, "type:Consent"),
        (["AuditEvent"], ANY, "type:AuditEvent"),
        (["Practitioner", "Slot"], ANY, "type:Slot"),
        (["Observation"], NO_STORE, "asked"),
        ([], ANY, "interaction"),
    ],
)
def test_what_is_not_kept_has_a_reason(types: list[str], wish: Wish, why: str):
    """What decides is always fresh, an include of it makes the whole answer so; a caller's no-store is obeyed."""
    assert keeping(Kind.SEARCH, types, Lives(), wish=wish) == Leave(why)


@pytest.mark.parametrize(
    ("kind", "types", "etag", "kept"),
    [
        (Kind.SEARCH, ["Observation"], "", Keep(60, STALE, 60 + STALE)),
        (Kind.SEARCH, ["Observation", "Practitioner"], "", Keep(60, STALE, 60 + STALE)),
        (Kind.READ, ["Observation"], 'W/"1"', Keep(60, STALE, 60 + STALE)),
        (Kind.READ, ["Practitioner"], 'W/"1"', Keep(3600, STALE, 7200)),
        (Kind.VREAD, ["Practitioner"], 'W/"1"', Keep(3600, STALE, 3600 + STALE)),
        (Kind.READ, ["AllergyIntolerance"], 'W/"1"', Keep(30, 0, 60)),
        (Kind.SEARCH, ["Observation", "MedicationRequest"], "", Keep(30, 0, 30)),
        (Kind.READ, ["ValueSet"], 'W/"1"', Keep(LONGEST, STALE, LONGEST)),
    ],
)
def test_an_answer_is_kept_as_its_types_say(kind: Kind, types: list[str], etag: str, kept: Keep):
    """As long as the shortest-lived; not stale where one of them never is; longer where the instance can be revalidated; never beyond a day."""
    assert keeping(kind, types, Lives(), etag=etag) == kept


def test_the_operator_says_how_old_is_too_old():
    """No stale answers at all, when it is set so."""
    assert keeping(Kind.SEARCH, ["Observation"], Lives(), stale=0) == Keep(60, 0, 60)


# What is given --------------------------------------------------------------------------------------------------------------------------


def _stamp(age: float, **more: Any) -> Stamp:
    return Stamp(NOW - age, 60, **{"stale": 300, **more})


@pytest.mark.parametrize(
    ("stamp", "wish", "state"),
    [
        (None, ANY, Fetch("absent")),
        (_stamp(0), ANY, Fresh(0, 60)),
        (_stamp(59.5), ANY, Fresh(59, 0)),
        (_stamp(-1), ANY, Fresh(0, 60)),
        (_stamp(-SKEW - 1), ANY, Fetch("implausible")),
        (_stamp(60), ANY, Fetch("expired", usable=NOW + 300)),
        (_stamp(100, etag='W/"7"'), ANY, Fetch("expired", 'W/"7"', NOW + 260)),
        (_stamp(100, stale=0), ANY, Fetch("expired")),
        (_stamp(5, etag='W/"7"'), FRESH, Fetch("asked", 'W/"7"')),
        (_stamp(5), Wish(max_age=10), Fresh(5, 55)),
        (_stamp(15), Wish(max_age=10), Fetch("asked")),
        (_stamp(0), Wish(max_age=0), Fetch("asked")),
        (_stamp(100), Wish(max_age=200), Fetch("expired")),
    ],
)
def test_what_is_kept_is_fresh_or_the_ehr_is_asked(stamp: Stamp | None, wish: Wish, state: Fresh | Fetch):
    """Within its life, if the caller takes it; else with its ETag, and a fallback for who did not say how fresh it has to be."""
    assert judge(stamp, wish, NOW) == state


def _error(reason: str, kind: type[FhirError] = UpstreamFault, **more: Any) -> FhirError:
    return kind(reason=reason, **more)


DOWN = [
    _error("ehr-unreachable"),
    _error("ehr-broken-answer"),
    _error("ehr-down"),
    _error("ehr-500"),
    _error("ehr-502"),
    _error("ehr-503", Unavailable),
    _error("ehr-504", UpstreamTimeout),
    _error("ehr-timeout", UpstreamTimeout),
]
REFUSED = [_error("ehr-403", Forbidden), NotFound(), _error("ehr-410", NotFound), _error("ehr-credential", code="login")]
OTHER = [
    _error("ehr-429", Throttled),
    _error("ehr-untrusted", code="security"),
    _error("ehr-malformed"),
    _error("ehr-content-type"),
    _error("read-other-resource"),
    _error("ehr-too-large"),
    _error("store-down", Unavailable),
    _error("ehr-unreachable", simulated="fhir-down"),
]


@pytest.mark.parametrize("error", DOWN, ids=lambda error: error.reason)
def test_an_ehr_that_fails_is_covered_for(error: FhirError):
    """FAULT-U1 to U4, U7 to U12: an old answer, with its age and a negative ttl, until the configured age."""
    stamp = _stamp(100.5)
    wanted = judge(stamp, ANY, NOW)
    assert isinstance(wanted, Fetch)
    assert failed(wanted, stamp, error, NOW) == Stale(100, -41)
    assert failed(wanted, stamp, error, NOW + 259) == Stale(359, -300)
    assert failed(wanted, stamp, error, NOW + 260) == Refuse(evict=False)


@pytest.mark.parametrize("error", REFUSED, ids=lambda error: error.reason)
def test_an_ehr_that_refuses_is_not(error: FhirError):
    """FAULT-U21, U22: never after 401, 403, 404 or 410, which take away what is kept."""
    stamp = _stamp(100)
    wanted = judge(stamp, ANY, NOW)
    assert isinstance(wanted, Fetch)
    assert failed(wanted, stamp, error, NOW) == Refuse(evict=True)
    assert failed(Fetch("absent"), None, error, NOW) == Refuse(evict=True)


@pytest.mark.parametrize("error", OTHER, ids=lambda error: f"{error.reason}-{error.simulated}")
def test_an_ehr_that_lies_is_not_hidden(error: FhirError):
    """FAULT-U5, U13 to U20: a pause, no FHIR, another's resource, a certificate that is not its own; and a developer sees the fault she simulates."""
    stamp = _stamp(100)
    wanted = judge(stamp, ANY, NOW)
    assert isinstance(wanted, Fetch)
    assert failed(wanted, stamp, error, NOW) == Refuse(evict=False)


@pytest.mark.parametrize("wish", [FRESH, NO_STORE, Wish(max_age=0), Wish(max_age=1000)])
def test_who_says_how_fresh_it_has_to_be_gets_no_stale_answer(wish: Wish):
    """RFC 9111 section 5.2.1: no-cache, no-store, max-age."""
    stamp = _stamp(100)
    wanted = judge(stamp, wish, NOW)
    assert isinstance(wanted, Fetch)
    assert failed(wanted, stamp, DOWN[0], NOW) == Refuse(evict=False)


@given(
    age=st.floats(-120, 1000),
    life=st.floats(0.1, 500),
    stale=st.floats(0, 500),
    later=st.floats(0, 50),
    max_age=st.sampled_from([math.inf, 0.0, 20.0]),
)
def test_nothing_is_given_that_is_too_old(age: float, life: float, stale: float, later: float, max_age: float):
    """Whatever the numbers: fresh is within life and wish, and says so; stale is beyond life, within the allowance, and says so."""
    stamp, wish = Stamp(NOW - age, life, stale), Wish(max_age=max_age)
    state = judge(stamp, wish, NOW)
    if isinstance(state, Fresh):
        assert -SKEW - 1e-6 <= age < min(life, max_age) + 1e-6
        assert 0 <= state.ttl <= life
        return
    instead = failed(state, stamp, DOWN[0], NOW + later)
    if isinstance(instead, Stale):
        assert max_age == math.inf
        assert life <= age + later + 1e-6
        assert age + later <= life + stale + 1e-6
        assert instead.ttl < 0


# What callers say -----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "wish"),
    [
        ([], ANY),
        (["no-cache"], FRESH),
        (["No-Cache, max-age=0"], Wish(fresh=True, max_age=0)),
        (["no-store"], NO_STORE),
        (["private", "no-store ,no-cache"], Wish(fresh=True, store=False)),
        (["max-age=60"], Wish(max_age=60)),
        (['max-age="60"'], Wish(max_age=60)),
        (["max-age=-1"], Wish(max_age=0)),
        (["max-age"], Wish(max_age=0)),
        (["max-age=" + "9" * 40], Wish(max_age=999_999_999)),
        (["x-no-cache=1, xno-store, no-storex"], ANY),
        (["only-if-cached, max-stale=5, ,,"], ANY),
    ],
)
def test_cache_control_of_a_caller(values: list[str], wish: Wish):
    """RFC 9111 section 5.2.1: whole directives, in any case, over several headers; one that makes no sense is taken for the careful one."""
    assert wish_of(values) == wish
