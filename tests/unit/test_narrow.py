"""A search is narrowed before the EHR sees it (ATK-F2, F26)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.fhir.interaction import Interaction, Kind, Param
from gateway.fhir.search import render, split_or, split_token
from gateway.proxy.narrow import narrow, understood
from gateway.shipped import tables
from gateway.smart.constraint import Reach

A = (Reach(frozenset({"A"})),)


def search(type_: str, *params: tuple[str, str, str]) -> Interaction:
    return Interaction(Kind.SEARCH, type_, params=tuple(Param(*p) for p in params))


CASES = [
    (search("Observation"), "patient=Patient/A"),
    (search("Observation", ("patient", "", "A")), "patient=Patient/A"),
    (search("Observation", ("patient", "", "Patient/A")), "patient=Patient/A"),
    (search("Observation", ("subject", "Patient", "A")), "patient=Patient/A"),
    (search("Observation", ("patient", "", "A,B")), "patient=Patient/A"),
    (search("Observation", ("patient", "", "B")), None),
    (search("Observation", ("subject", "", "Patient/B")), None),
    (search("Observation", ("patient", "", "A"), ("patient", "", "B")), None),
    (search("Observation", ("patient", "", "A"), ("subject", "", "B,A")), "patient=Patient/A"),
    (search("Observation", ("patient", "", "http://elsewhere/Patient/A")), None),
    (search("Patient"), "_id=A"),
    (search("Patient", ("_id", "", "A,B")), "_id=A"),
    (search("Patient", ("_id", "", "B")), None),
    (search("Patient", ("name", "", "x")), "name=x&_id=A"),
    (search("Task", ("subject", "", "Patient/A"), ("code", "", "y")), "code=y&patient=Patient/A"),
    (search("Appointment", ("actor", "", "Practitioner/7")), "actor=Practitioner/7&patient=Patient/A"),
    (search("Appointment", ("actor", "", "Patient/B")), None),
    (search("Practitioner", ("name", "", "x")), "name=x"),
    (search("Observation", ("patient", "missing", "true")), "patient:missing=true&patient=Patient/A"),
]


@pytest.mark.parametrize(("interaction", "expected"), CASES, ids=lambda v: v if isinstance(v, str) else "")
def test_searches_stay_within_reach(interaction, expected):
    """Whatever is asked for, the EHR is asked for A's data or for nothing."""
    found = narrow(interaction, A, tables()).interaction
    assert (render(found.params) if found else None) == expected


@pytest.mark.parametrize(
    ("params", "expected"),
    [
        ((("code", "", "x"), ("_totalMethod", "", "count")), "code=x"),
        ((("_count", "", "100000"),), "_count=200"),
        ((("_count", "", "5"), ("_sort", "", "-date"), ("_lastUpdated", "", "ge2020")), "_count=5&_sort=-date&_lastUpdated=ge2020"),
    ],
)
def test_a_search_is_what_is_really_made(params, expected):
    """What nobody here knows is gone, and a page has an end, before there is a self link that tells it."""
    assert render(understood(search("Observation", *params), tables()).params) == expected


def test_several_patients_are_asked_for_together():
    """A user with a list asks for all of them, or for the one named."""
    both = (Reach(frozenset({"A", "B"})),)
    assert render(narrow(search("Observation"), both, tables()).interaction.params) == "patient=Patient/A,Patient/B"
    one = narrow(search("Observation", ("patient", "", "B")), both, tables())
    assert render(one.interaction.params) == "patient=Patient/B"
    assert one.patients == {"B"}


def test_everyones_reach_is_not_narrowed():
    """A system's."""
    found = narrow(search("Observation", ("patient", "", "Z")), (Reach(None),), tables())
    assert render(found.interaction.params) == "patient=Z"
    assert found.patients is None


def test_granular_conditions_go_to_the_ehr_where_one_search_can_say_them():
    """ATK-F16; what one search cannot say is screened, and then there is no total."""
    p = frozenset({"A"})
    lab, vital = Reach(p, (("category", "c|lab"),)), Reach(p, (("category", "c|vital"),))
    assert render(narrow(search("Observation"), (lab, vital), tables()).interaction.params) == "patient=Patient/A&category=c|lab,c|vital"
    other = narrow(search("Observation"), (lab, Reach(p, (("code", "x"),))), tables())
    assert render(other.interaction.params) == "patient=Patient/A"
    assert not other.exact
    assert render(narrow(search("Observation"), (lab, Reach(p)), tables()).interaction.params) == "patient=Patient/A"


@pytest.mark.parametrize(
    ("query", "pointed"),
    [
        ("_id=x", True),
        ("identifier=urn:x|1", True),
        ("encounter=x", True),
        ("performer=Patient/B", True),
        ("patient=A", False),
        ("category=laboratory", False),
    ],
)
def test_whoever_names_one_resource_is_known(query, pointed):
    """An empty answer to such a search takes the floor (ATK-F1); one that only says whose data, or of which kind, names nobody's."""
    name, _, value = query.partition("=")
    search = Interaction(Kind.SEARCH, "Observation", params=(Param(name, "", value),))
    assert narrow(search, (Reach(frozenset({"A"})),), tables()).pointed is pointed
    assert not narrow(search, (Reach(None),), tables()).pointed


def test_a_count_is_exact_only_when_the_ehr_counts_what_may_be_seen():
    """Totals count only A's (ATK-F2); Provenance is judged by its targets, which no search says."""
    assert narrow(search("Observation"), A, tables()).exact
    assert not narrow(search("Provenance"), A, tables()).exact
    assert not narrow(search("Observation"), (*A, Reach(frozenset({"B"}), (("category", "x"),))), tables()).exact


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["patient", "subject", "performer", "code", "_id"]),
            st.sampled_from(["", "Patient"]),
            st.text("AB,/Patient\\", max_size=20),
        )
    )
)
def test_nothing_asked_for_ever_leaves_the_compartment(params):
    """Property: the EHR is asked with exactly one binding parameter, and it names A alone."""
    found = narrow(search("Observation", *params), A, tables()).interaction
    if found is not None:
        assert [p.value for p in found.params if p.name == "patient"] == ["Patient/A"]
        assert not [p for p in found.params if p.name == "subject" and "Patient/B" in p.value.split(",") and p.value.count(",") == 0]


def test_or_lists_and_escapes():
    r"""`\,` is no separator, `\|` no bar (search.html 3.1.1.4.10)."""
    assert split_or(r"a\,b,c") == [r"a\,b", "c"]
    assert split_or("a\\\\,b") == ["a\\\\", "b"]
    assert split_token(r"s\|x|c\,d") == ("s|x", "c,d")
    assert split_token("c") == (None, "c")
