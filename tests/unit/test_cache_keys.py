"""Cache keys: whatever makes two answers differ makes two keys differ."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.cache.keys import Ask, everything, generation_names, key, names, widened

ASK = Ask("hapi", "gateway", "[]", "read Observation/o1", ("a",), ("Practitioner",))
GENERATIONS = ("g0", "g1", "g2")


@pytest.mark.parametrize(
    "other",
    [
        replace(ASK, ehr="stmarys"),
        replace(ASK, view="Practitioner/7"),
        replace(ASK, constraint="[1]"),
        replace(ASK, interaction="read Observation/o2"),
        replace(ASK, patients=("b",)),
        replace(ASK, patients=("a", "b")),
        replace(ASK, patients=()),
        replace(ASK, patients=None),
        replace(ASK, types=("Location",)),
    ],
)
def test_each_part_makes_its_own_key(other: Ask):
    """EHR, view, constraint, interaction, patients and types are all in the key (FAULT-C2, ATK-F15)."""
    assert key(other, GENERATIONS) != key(ASK, GENERATIONS)


@given(st.lists(st.text(max_size=5), min_size=1, max_size=4), st.lists(st.text(max_size=5), min_size=1, max_size=4))
def test_only_equal_generations_meet(one: list[str], other: list[str]):
    """One changed generation makes another key; where one ends and the next begins is part of it."""
    assert (key(ASK, one) == key(ASK, other)) == (one == other)


def test_fields_do_not_run_into_each_other():
    """Text moved from one field to the next is another ask."""
    assert key(replace(ASK, constraint="ab", interaction="c"), GENERATIONS) != key(replace(ASK, constraint="a", interaction="bc"), GENERATIONS)


def test_an_answer_depends_on_its_patients_types_and_ehr():
    """Each once, in one order, whatever the order in which they were named."""
    ask = replace(ASK, patients=("b", "a", "b"), types=("Location", "Device"))
    assert generation_names(ask) == ("gw:{hapi}:g:all", "gw:{hapi}:g:p:a", "gw:{hapi}:g:p:b", "gw:{hapi}:g:t:Device", "gw:{hapi}:g:t:Location")


def test_an_answer_about_everyone_depends_on_its_types():
    """Without patients, the types that were searched stand for them."""
    assert generation_names(replace(ASK, patients=None, types=("Observation",))) == ("gw:{hapi}:g:all", "gw:{hapi}:g:t:Observation")


def test_a_write_renews_what_answers_depend_on():
    """The names of a write are among those of the asks that it changes, and not those of other patients."""
    written = set(names("hapi", ["a"], ["Observation"]))
    assert written & set(generation_names(ASK))
    assert written & set(generation_names(replace(ASK, patients=None, types=("Observation",))))
    assert not written & set(generation_names(replace(ASK, patients=("b",))))
    assert not written & set(generation_names(replace(ASK, ehr="stmarys")))


def test_an_unknown_old_version_renews_the_whole_ehr():
    """Patients None: every answer of that EHR."""
    assert names("hapi", None, ["Observation"]) == (everything("hapi"),)
    assert everything("hapi") in generation_names(ASK)
    assert {widened(name) for name in names("hapi", ["a"], ["Observation"])} == {everything("hapi")}


def test_keys_say_nothing_and_stay_in_one_slot():
    """No search value stands in a key; all keys of an EHR have its hash tag, and an odd name cannot forge another's."""
    found = key(replace(ASK, interaction="search Patient?name=Mustermann"), GENERATIONS)
    assert "Mustermann" not in found
    assert found.startswith("gw:{hapi}:v:")
    assert everything("a}b{c") == "gw:{a%7Db%7Bc}:g:all"
    assert names("hapi", ["x}:g:all"], []) == ("gw:{hapi}:g:p:x%7D%3Ag%3Aall",)
