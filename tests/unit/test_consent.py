"""What the consent page offers, and what a submitted form grants."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gateway.smart.scopes import is_subset, parse_scope
from gateway.smart.server.authorization.consent import CATEGORIES, granted, remembered, switches, worth_granting

OFFERED = ("launch/patient", "openid", "patient/Condition.rs", "patient/Observation.read", "patient/Patient.r", "user/Observation.cruds")
TYPES = ("Condition", "Observation", "Patient")


def test_categories_are_offered_for_whole_scopes():
    """Condition and Observation can be limited, each with the categories of US Core (A10.60)."""
    shown = {
        switch.scope: [part.label for part in switch.parts] for switch in switches((*OFFERED, "patient/Observation.rs?category=http://x|lab"), TYPES)
    }
    assert shown["patient/Condition.rs"] == ["Encounter Diagnosis", "Health Concern", "Problem List"]
    assert len(shown["patient/Observation.read"]) == 6
    assert shown["patient/Patient.r"] == []
    assert shown["patient/Observation.rs?category=http://x|lab"] == []


def test_chosen_parts_replace_the_whole():
    """Sub-choices come back as granular scopes, and no resource-level one beside them (A10.60)."""
    laboratory = CATEGORIES["Observation"]["Laboratory"]
    part = f"patient/Observation.rs?category={laboratory}"
    assert granted(OFFERED, frozenset({"patient/Observation.read", part, "patient/Patient.r"}), TYPES) == (part, "patient/Patient.r")


def test_all_types_can_be_limited_to_some_and_these_to_categories():
    """As whole types and granular scopes, with neither the wildcard nor a whole type beside its own categories (A10.57, A10.60)."""
    (switch,) = switches(("patient/*.read",), TYPES)
    boxes = {(part.type, part.label): part.box for part in switch.parts}
    assert [part.type for part in switch.parts if not part.label] == list(TYPES)
    assert len(boxes) == 3 + 3 + 6
    chosen = frozenset({"patient/*.read", boxes["Patient", ""], boxes["Observation", ""], boxes["Observation", "Laboratory"]})
    found = granted(("patient/*.read",), chosen, TYPES)
    assert found == (f"patient/Observation.rs?category={CATEGORIES['Observation']['Laboratory']}", "patient/Patient.rs")
    assert is_subset(" ".join(found), "patient/*.read")
    assert granted(("patient/*.read",), frozenset({"patient/*.read"}), TYPES) == ("patient/*.read",)
    assert granted(("patient/*.read",), chosen - {"patient/*.read"}, TYPES) == ()


def test_a_type_beside_all_types_has_boxes_of_its_own():
    """Its switch, and its categories, limit nothing but itself."""
    asked = ("patient/*.rs", "patient/Observation.rs")
    laboratory = f"patient/Observation.rs?category={CATEGORIES['Observation']['Laboratory']}"
    assert granted(asked, frozenset(asked), TYPES) == asked
    assert granted(asked, frozenset({*asked, laboratory}), TYPES) == ("patient/*.rs", laboratory)


def test_parts_of_a_switch_that_is_off_grant_nothing():
    """A switch that is off is off."""
    part = f"patient/Observation.rs?category={CATEGORIES['Observation']['Survey']}"
    assert granted(OFFERED, frozenset({part, "openid"}), TYPES) == ("openid",)


def test_what_was_not_offered_refuses_the_form():
    """A tampered form grants nothing at all (ATK-O16)."""
    assert granted(OFFERED, frozenset({"openid", "patient/Patient.cruds"}), TYPES) is None
    assert granted(OFFERED, frozenset({"patient/Condition.rs?category=http://x|y"}), TYPES) is None


def test_launch_cannot_be_switched_off():
    """The launch is what the person is here for."""
    assert granted(("launch", "patient/Patient.r"), frozenset(), TYPES) == ("launch",)
    assert not worth_granting(("launch", "offline_access"))
    assert worth_granting(("openid",))


def _tickable() -> list[str]:
    offered = switches(OFFERED, TYPES)
    return [switch.scope for switch in offered] + [part.box for switch in offered for part in switch.parts]


@given(st.frozensets(st.sampled_from(_tickable())))
def test_a_grant_never_exceeds_the_request(ticked):
    """Whatever is ticked, the grant is within what was asked, and every clinical part of it parses."""
    found = granted(OFFERED, ticked, TYPES)
    assert found is not None
    assert is_subset(" ".join(found), " ".join(OFFERED))
    assert all(parse_scope(text) for text in found if "/" in text and text != "launch/patient")


_SCOPES = (
    *OFFERED,
    "launch",
    "offline_access",
    "patient/Observation.rs",
    "patient/*.rs",
    f"patient/Observation.rs?category={CATEGORIES['Observation']['Survey']}",
)
_SOME = st.lists(st.sampled_from(_SCOPES), unique=True).map(tuple)


@given(st.data())
def test_a_remembered_choice_never_grants_more_than_it_did(data):
    """Whatever is asked now: what is given without asking lies within what was granted then, and within what is asked."""
    asked, now = data.draw(_SOME), data.draw(_SOME)
    boxes = sorted({box for one in switches(asked, TYPES) for box in (one.scope, *(part.box for part in one.parts))})
    ticked = frozenset(data.draw(st.lists(st.sampled_from(boxes)))) if boxes else frozenset()
    before, found = granted(asked, ticked, TYPES), remembered(now, asked, ticked, TYPES)
    assert before is not None
    if found is None:
        assert not set(now) <= set(asked)
        return
    given_now = granted(now, found, TYPES)
    assert given_now is not None
    assert is_subset(" ".join(given_now), " ".join(before))
    assert is_subset(" ".join(given_now), " ".join(now))
    assert remembered(asked, asked, ticked, TYPES) == ticked


def test_a_remembered_choice_that_makes_no_sense_is_none():
    """Ticks that were never offered, whoever wrote them."""
    assert remembered(("openid",), ("openid",), frozenset({"patient/*.cruds"}), TYPES) is None
