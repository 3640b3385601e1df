"""The table of features: its scopes parse, its pages exist, and the portal's principal holds just what it says."""

from __future__ import annotations

from dataclasses import replace

import pytest

from gateway.fhir.words import TYPES, type_words
from gateway.portal.features import FEATURES, declared_scopes, feature, portal_principal, sections
from gateway.smart.principal import PrincipalKind
from gateway.smart.scopes import parse_scope
from tests.support.portal_app import Account


def test_each_row_is_whole_and_each_scope_is_one():
    """Ids are unique; scopes are the patient's, without conditions."""
    assert len({row.id for row in FEATURES}) == len(FEATURES)
    for row in FEATURES:
        assert row.path.startswith("/portal/")
        assert row.title
        assert row.sentence.endswith(".")
        for text in row.scopes:
            scope = parse_scope(text)
            assert scope is not None
            assert (scope.level, scope.query) == ("patient", ())
        assert set(row.types) <= {text.partition("/")[2].partition(".")[0] for text in row.scopes}


def test_the_principal_is_the_patients_and_holds_just_the_declared_scopes():
    """One scope for each type, with the letters of all rows; nothing may be deleted."""
    principal = portal_principal(Account(), "p1", "clinic")
    assert (principal.kind, principal.client_id, principal.patient, principal.user_id) == (PrincipalKind.PATIENT, "portal", "p1", "acc-1")
    letters = {scope.type: scope.letters for scope in principal.scopes}
    assert letters["Communication"] == "crs"
    assert letters["Appointment"] == "crus"
    assert letters["Task"] == "crs"
    assert letters["Observation"] == "rs"
    assert not any("d" in found for found in letters.values())
    assert principal.scopes == declared_scopes()


def test_a_row_with_a_wrong_scope_is_refused():
    """A slip in the table is an error at once, not a page that is always empty."""
    with pytest.raises(ValueError, match=r"user/Observation\.rs"):
        declared_scopes([replace(FEATURES[0], scopes=("user/Observation.rs",))])


def test_the_navigation_has_no_two_sections_of_one_name():
    """Each section has a word and a page of its own."""
    rows = sections()
    assert len({row.short for row in rows}) == len({row.path for row in rows}) == len(rows)
    assert feature("F10") in rows


def test_each_declared_type_has_words():
    """What can be opened has a name in the access log."""
    for scope in declared_scopes():
        assert scope.type in TYPES
    assert type_words("Nothing") == "Nothing"
