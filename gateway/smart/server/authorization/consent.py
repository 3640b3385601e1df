"""What a person can choose on the consent page, and what her choice grants. Pure.

One switch for each scope that may be granted; a whole Condition or Observation scope can be limited to some categories (SMART 2.2 "Finer-grained
resource constraints", US Core "SMART scopes"): then the granular scopes are granted and the whole one is not. A scope for all types can be limited to
some types, and these to categories.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from gateway.smart.scopes import Scope, is_subset, parse_scope

_HL7 = "http://terminology.hl7.org/CodeSystem"
_US_CORE = "http://hl7.org/fhir/us/core/CodeSystem"

# label -> system|code. The labels are those of US Core's own lists.
CATEGORIES: Mapping[str, Mapping[str, str]] = {
    "Condition": {
        "Encounter Diagnosis": f"{_HL7}/condition-category|encounter-diagnosis",
        "Health Concern": f"{_US_CORE}/condition-category|health-concern",
        "Problem List": f"{_HL7}/condition-category|problem-list-item",
    },
    "Observation": {
        "Clinical Test": f"{_US_CORE}/us-core-observation-category|clinical-test",
        "Laboratory": f"{_HL7}/observation-category|laboratory",
        "Social Determinants of Health (SDOH)": f"{_US_CORE}/us-core-category|sdoh",
        "Social History": f"{_HL7}/observation-category|social-history",
        "Survey": f"{_HL7}/observation-category|survey",
        "Vital Signs": f"{_HL7}/observation-category|vital-signs",
    },
}


@dataclass(frozen=True, slots=True)
class Part:
    """What a whole scope can be limited to: a category, or a type of all types (without a label). `scope` is what is granted then.

    `box` is what the form sends for it: not the scope, where that may stand on the page as a switch of its own.
    """

    label: str
    scope: str
    type: str
    box: str


@dataclass(frozen=True, slots=True)
class Switch:
    """One scope on the consent page. `fixed`: it is what the person is here for, and no choice of hers."""

    scope: str
    clinical: Scope | None
    parts: tuple[Part, ...] = ()
    fixed: bool = False


def switches(scopes: tuple[str, ...], types: Collection[str]) -> tuple[Switch, ...]:
    """The switches of a request, in its order. `types`: those that `*` stands for here."""
    return tuple(_switch(text, types) for text in scopes)


def granted(scopes: tuple[str, ...], ticked: frozenset[str], types: Collection[str]) -> tuple[str, ...] | None:
    """The scopes that a submitted form grants, in the request's order. None: it names what was never offered (ATK-O16).

    `ticked` holds what was offered: the scopes of switches, the boxes of parts. A part counts only while its switch is on.
    """
    offered = switches(scopes, types)
    known = {switch.scope for switch in offered} | {part.box for switch in offered for part in switch.parts}
    if not ticked <= known:
        return None
    found: list[str] = []
    for switch in offered:
        if switch.fixed or switch.scope in ticked:
            found += _limited([part for part in switch.parts if part.box in ticked]) or [switch.scope]
    return tuple(dict.fromkeys(found))


def _limited(parts: list[Part]) -> list[str]:
    """The scopes of the parts; a whole type is left out where some of its categories are chosen (A10.57: no whole scope beside granular ones)."""
    narrowed = {part.type for part in parts if part.label}
    return [part.scope for part in parts if part.label or part.type not in narrowed]


def remembered(scopes: tuple[str, ...], asked: tuple[str, ...], ticked: frozenset[str], types: Collection[str]) -> frozenset[str] | None:
    """The boxes that an earlier choice ticks for this request; None when it does not speak of all that is asked now.

    What was `asked` then is answered as then, a refusal included; beyond it nothing is, but what lies within the scopes that were granted.
    """
    had = granted(asked, ticked, types)
    if had is None:
        return None
    found: set[str] = set()
    for switch in switches(scopes, types):
        if switch.scope in asked:
            found |= ticked & {switch.scope, *(part.box for part in switch.parts)}
        elif is_subset(switch.scope, " ".join(had)):
            found.add(switch.scope)
        else:
            return None
    return frozenset(found)


def worth_granting(scopes: tuple[str, ...]) -> bool:
    """Whether anything is left that an app can use: data, or knowing who signed in."""
    return "openid" in scopes or any(parse_scope(text) for text in scopes)


def _switch(text: str, types: Collection[str]) -> Switch:
    scope = parse_scope(text)
    if scope is None:
        return Switch(text, None, fixed=text == "launch")
    if scope.query:
        return Switch(text, scope)
    if scope.type != "*":
        return Switch(text, scope, _categories(scope, scope.type))
    return Switch(text, scope, tuple(part for name in sorted(types) for part in (_whole(scope, name), *_categories(scope, name, f"{text}>"))))


def _whole(scope: Scope, name: str) -> Part:
    wanted = f"{scope.level}/{name}.{scope.letters}"
    return Part("", wanted, name, f"{scope}>{wanted}")


def _categories(scope: Scope, name: str, before: str = "") -> tuple[Part, ...]:
    whole = f"{scope.level}/{name}.{scope.letters}"
    found = ((label, f"{whole}?category={code}") for label, code in CATEGORIES.get(name, {}).items())
    return tuple(Part(label, wanted, name, before + wanted) for label, wanted in found)
