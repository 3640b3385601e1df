"""What stands on the consent page and in the list of accesses: every type that a person may have is there in words."""

from __future__ import annotations

import pytest

from gateway.fhir.words import TYPES, type_words
from gateway.shipped import tables
from gateway.web.words import grant_words, scope_words


def test_every_type_of_a_person_has_words_and_each_its_own():
    """A60: none is named as programmers name it, and no two in the same words."""
    found = {name: type_words(name) for name in tables().compartment if tables().for_persons(name)}
    assert {name for name, words in found.items() if words == name} == set()
    assert len(set(TYPES.values())) == len(TYPES)


@pytest.mark.parametrize(
    ("scope", "words"),
    [
        ("patient/Observation.rs", "See test results and measurements"),
        ("patient/Condition.cruds", "See, add, change and delete health conditions"),
        ("patient/Appointment.c", "Add appointments"),
        ("user/*.r", "See all kinds of records, of everyone whose record you may open"),
        ("offline_access", "Keep this access when you are not using the app"),
    ],
)
def test_a_scope_says_what_the_app_may_do(scope, words):
    """v2 letters as verbs, the type in words, and whose."""
    assert scope_words(scope) == words


def test_what_was_granted_says_its_limits():
    """A granular scope names its category; context scopes are no records."""
    lab = "patient/Observation.rs?category=http://terminology.hl7.org/CodeSystem/observation-category|laboratory"
    assert grant_words(["openid", lab]) == ["See test results and measurements: only laboratory"]
