"""Scopes: what parses, what it grants, and the algebra that narrowing relies on."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.smart.scopes import CONTEXT_SCOPES, LETTERS, Scope, clinical, is_subset, parse_scope, split

TYPES = ["*", "Observation", "Condition", "Patient"]
CODES = ["http://x|lab", "http://x|vital-signs", "http://y|lab"]

letters = st.sets(st.sampled_from(LETTERS), min_size=1).map(lambda found: "".join(letter for letter in LETTERS if letter in found))
levels = st.sampled_from(["patient", "user"])
pairs = st.tuples(st.sampled_from(["category", "status"]), st.sampled_from(CODES))
queries = st.lists(pairs, max_size=2, unique=True).map(tuple)
scopes = st.builds(Scope, levels, st.sampled_from(TYPES), letters, queries)
lists = st.lists(scopes, max_size=4).map(lambda found: " ".join(scope.render() for scope in found))


@pytest.mark.parametrize(
    ("text", "granted"),
    [
        ("patient/Observation.read", "rs"),
        ("patient/Observation.write", "cud"),
        ("patient/Observation.*", "cruds"),
        ("patient/*.rs", "rs"),
        ("system/Patient.c", "c"),
        ("user/Condition.cruds", "cruds"),
    ],
)
def test_letters_of_both_versions(text, granted):
    """v1 words mean what SMART 2.2 says (HL7@128), v2 letters stand for themselves."""
    scope = parse_scope(text)
    assert scope is not None
    assert scope.letters == granted
    assert str(scope) == text


@pytest.mark.parametrize(
    "text",
    [
        "patient/Observation.dus",
        "patient/Observation.rr",
        "patient/Observation.",
        "patient/Observation",
        "patient/.rs",
        "patient/observation.rs",
        "Patient/Observation.rs",
        "practitioner/Observation.rs",
        "patient/Observation.rs?",
        "patient/Observation.rs?category",
        "patient/Observation.rs?category=",
        "patient/Observation.rs?category=%FF",
        'patient/Observation.rs?category="',
        "patient/Observation.rs?category=\\",
        "patient/Observation.read?category=x",
        "patient/Observation.rs\n",
        "patient/Observation.rs ",
        "patient/*.*.rs",
        "patient/Observation.readwrite",
        "",
    ],
)
def test_what_does_not_parse_is_no_scope(text):
    """Malformed scopes are never read as more (HL7@129, A10.61)."""
    assert parse_scope(text) is None
    assert clinical(text.strip() + " patient/Patient.r")[-1].type == "Patient"


def test_condition_is_kept_to_the_letter():
    """A granular scope keeps its spelling, and its condition is decoded once."""
    scope = parse_scope("patient/Observation.rs?category=http://x%2Fy#z|lab&status=final")
    assert scope is not None
    assert scope.query == (("category", "http://x/y#z|lab"), ("status", "final"))
    assert str(scope) == "patient/Observation.rs?category=http://x%2Fy#z|lab&status=final"


def test_context_scopes_that_are_granted():
    """Only scopes that this server can honour are known."""
    assert {"openid", "fhirUser", "launch", "launch/patient", "offline_access", "online_access"} <= CONTEXT_SCOPES
    assert not any(text in CONTEXT_SCOPES or parse_scope(text) for text in ("launch/encounter", "email", "OPENID"))


def test_split_keeps_order_and_drops_repeats():
    """A repeated scope (Python fhirclient repeats launch/patient) is one."""
    assert split("launch/patient  openid launch/patient") == ("launch/patient", "openid")


@given(scopes)
def test_rendering_and_parsing_agree(scope):
    """What is rendered parses to the same scope."""
    found = parse_scope(scope.render())
    assert found is not None
    assert (found.level, found.type, found.letters, found.query) == (scope.level, scope.type, scope.letters, scope.query)


@given(scopes, scopes, scopes)
def test_covering_is_a_preorder(one, two, three):
    """Covers is reflexive and transitive."""
    assert one.covers(one)
    if one.covers(two) and two.covers(three):
        assert one.covers(three)


@given(
    scopes,
    scopes,
    st.sampled_from(TYPES[1:]),
    st.sampled_from(LETTERS),
    st.sets(st.tuples(st.sampled_from(["category", "status"]), st.sampled_from(CODES))),
)
def test_covering_never_widens(one, two, type_, letter, facts):
    """Whatever the covered scope grants on any resource, the covering one grants too."""

    def grants(scope: Scope) -> bool:
        return scope.allows(type_, letter) and set(scope.query) <= facts

    if one.covers(two) and grants(two):
        assert grants(one)


@given(lists, lists, lists)
def test_subset_is_a_preorder(one, two, three):
    """is_subset is reflexive and transitive, and the empty scope is in all."""
    assert is_subset(one, one)
    assert is_subset("", one)
    if is_subset(one, two) and is_subset(two, three):
        assert is_subset(one, three)


@pytest.mark.parametrize(
    ("wanted", "granted"),
    [
        ("patient/Observation.cruds", "patient/Observation.rs"),
        ("patient/*.rs", "patient/Observation.rs"),
        ("patient/Condition.rs", "patient/Observation.rs"),
        ("user/Observation.rs", "patient/Observation.rs"),
        ("patient/Observation.rs", "patient/Observation.rs?category=http://x|lab"),
        ("patient/Observation.rs?category=http://x|vital-signs", "patient/Observation.rs?category=http://x|lab"),
        ("openid", "patient/*.cruds"),
        ("patient/Observation.rs nonsense", "patient/Observation.rs"),
    ],
)
def test_widening_is_seen(wanted, granted):
    """Each of these asks for more than there is (ATK-O13)."""
    assert not is_subset(wanted, granted)
