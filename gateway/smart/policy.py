"""May this principal do this? Pure: principal, interaction and tables in, a Decision out. The default is Deny.

Scopes are necessary and never sufficient: what they allow is narrowed to the patients within reach (SMART 2.2 "scopes and
underlying permissions"), and writes need a row of profiles/fhir/writes.json besides.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType

from gateway.fhir.interaction import Interaction, Kind, Param
from gateway.fhir.tables import Tables
from gateway.smart.constraint import Allow, Constraint, Decision, Deny, Reach
from gateway.smart.principal import Principal, PrincipalKind
from gateway.smart.scopes import Scope

_WRITE_LETTERS = frozenset("cud")
# Whatever a system sends waits its turn behind what it pushed for the same patient; these would overtake it.
_NOT_PUSHED = frozenset({Kind.PATCH, Kind.DELETE})
LETTER = {
    Kind.READ: "r",
    Kind.VREAD: "r",
    Kind.SEARCH: "s",
    Kind.CREATE: "c",
    Kind.UPDATE: "u",
    Kind.PATCH: "u",
    Kind.DELETE: "d",
}

# Parameters that answer questions about data which is not in the answer (ATK-F3, F5), or that would change the shape of a resource.
_NOT_OFFERED = {
    "_has": "reverse chains are not offered",
    "_filter": "_filter is not offered",
    "_query": "named queries are not offered",
    "_list": "_list is not offered",
    "_contained": "_contained is not offered",
    "_containedType": "_containedType is not offered",
    "_content": "_content is not offered",
    "_text": "_text is not offered",
    "_type": "searching several types at once is not offered",
    "_elements": "_elements is not offered",
    "_summary": "_summary is not offered",
    "_method": "methods are not taken from parameters",
    "_security": "_security is not offered",
    "_source": "_source is not offered",
}
# What any search may carry. Everything else must be a search parameter of the type in our table.
RESULT_PARAMETERS = frozenset({"_count", "_sort", "_total", "_include", "_revinclude"})
_MODIFIERS = {
    "token": frozenset({"", "not", "missing"}),
    "string": frozenset({"", "exact", "contains", "missing"}),
    "reference": frozenset({"", "missing"}),
    "date": frozenset({"", "missing"}),
    "uri": frozenset({"", "missing"}),
    "number": frozenset({"", "missing"}),
    "quantity": frozenset({"", "missing"}),
}


@dataclass(frozen=True, slots=True)
class AccessRules:
    """What the operator chose. `writes`: "table" (profiles/fhir/writes.json decides) or "scopes" (a sandbox: scopes alone decide)."""

    writes: str = "table"
    practitioner_access: str = "listed"  # launched | listed | all


def decide(principal: Principal, interaction: Interaction, *, tables: Tables, rules: AccessRules) -> Decision:
    """Allow with a constraint, or Deny with the answer's status and a reason id."""
    letter = LETTER.get(interaction.kind)
    if letter is None:
        return Deny(501, "not-supported", "interaction-not-offered", "That interaction is not offered.")
    row = tables.compartment.get(interaction.type)
    if row is None or not (row.for_persons or principal.kind is PrincipalKind.SYSTEM):
        return Deny(403, "forbidden", "type-not-offered", f"{interaction.type} is not offered.")
    if row.kind == "gateway" and interaction.kind in (Kind.READ, Kind.VREAD) and principal.kind is not PrincipalKind.SYSTEM:
        # The EHR's own events may be about several people; a system that reaches everyone reads back what it delivered.
        return Deny(501, "not-supported", "interaction-not-offered", f"{interaction.type} is searched by patient here.")
    if principal.kind is PrincipalKind.SYSTEM and (interaction.kind in _NOT_PUSHED or interaction.by_condition):
        return Deny(501, "not-supported", "push-whole-resources", "A system pushes whole resources under their ids: POST, or PUT of an id.")
    allowed = _allowed(principal, interaction.type, letter, tables, rules)
    if allowed is None:
        return Deny(403, "forbidden", "scope-missing", f"The token has no scope that allows {interaction.kind} on {interaction.type}.")
    if interaction.kind is Kind.SEARCH and (refusal := _check_search(interaction, tables)):
        return refusal
    if refusal := _check_condition(interaction, tables):
        return refusal
    return allowed


@lru_cache(maxsize=512)
def _allowed(principal: Principal, resource_type: str, letter: str, tables: Tables, rules: AccessRules) -> Allow | None:
    """What the scopes alone allow; None: nothing. Kept, because a token asks often, and `*` speaks of seventy types each time."""
    match = reach(principal, resource_type, letter, tables=tables, rules=rules)
    others = MappingProxyType(_others(principal, tables=tables, rules=rules))
    return Allow(Constraint(match, others), f"{resource_type}.{letter}") if match else None


def reach(principal: Principal, resource_type: str, letters: str, *, tables: Tables, rules: AccessRules) -> tuple[Reach, ...]:
    """The alternatives of what the principal's scopes reach of one type with any of the letters. Empty: nothing."""
    found: list[Reach] = []
    for scope in principal.scopes:
        if not any(scope.allows(resource_type, letter) for letter in letters):
            continue
        if scope.type == "*" and _named_only(resource_type, letters, tables):
            continue
        patients = _patients(principal, scope, rules)
        if patients is not None and not patients:
            continue  # patient/ without a patient in context grants nothing (HL7@164)
        if any(not tables.can_evaluate(resource_type, name) for name, _ in scope.query):
            continue  # a condition that we cannot judge ourselves is never dropped: the scope counts for nothing here
        if scope.query and _is_gateway_s_own(resource_type, tables):
            continue  # nor where nobody looks at it: the record of accesses is searched by patient only
        found.append(Reach(patients, scope.query))
    return tuple(dict.fromkeys(found))


def _named_only(resource_type: str, letters: str, tables: Tables) -> bool:
    """A wildcard does not change how the EHR works: whoever writes definitions has a scope that names them."""
    row = tables.compartment.get(resource_type)
    return row is not None and row.kind == "definition" and bool(_WRITE_LETTERS & set(letters))


def _is_gateway_s_own(resource_type: str, tables: Tables) -> bool:
    row = tables.compartment.get(resource_type)
    return row is not None and row.kind == "gateway"


def _patients(principal: Principal, scope: Scope, rules: AccessRules) -> frozenset[str] | None:
    """Whose data a scope reaches; None is everyone's."""
    if scope.level == "system":
        return None if principal.kind is PrincipalKind.SYSTEM else frozenset()
    if principal.kind is PrincipalKind.SYSTEM:
        return frozenset()
    launched = frozenset({principal.patient}) if principal.patient else frozenset[str]()
    if scope.level == "patient":
        return launched
    # user/: the EHR cannot tell who asks, so the gateway's own list is the underlying permission.
    if principal.kind is PrincipalKind.USER and rules.practitioner_access == "all":
        return None
    if rules.practitioner_access == "launched" and principal.kind is PrincipalKind.USER:
        return launched
    return launched | principal.listed


def _others(principal: Principal, *, tables: Tables, rules: AccessRules) -> dict[str, tuple[Reach, ...]]:
    """What may come along with an answer: every type that the principal could read or search by itself (ATK-F4, F28)."""
    found: dict[str, tuple[Reach, ...]] = {}
    types = {scope.type for scope in principal.scopes}
    wanted = tables.compartment.keys() if "*" in types else types & tables.compartment.keys()
    for resource_type in sorted(wanted):
        row = tables.compartment[resource_type]
        if row.kind == "gateway" or not (row.for_persons or principal.kind is PrincipalKind.SYSTEM):
            continue
        if reaches := reach(principal, resource_type, "rs", tables=tables, rules=rules):
            found[resource_type] = reaches
    return found


def _check_search(interaction: Interaction, tables: Tables) -> Deny | None:
    for param in interaction.params:
        if refusal := _check_param(interaction.type, param, tables):
            return refusal
    return None


def _check_condition(interaction: Interaction, tables: Tables) -> Deny | None:
    """A condition is a search whose answer is whether something was done: what no search may ask, it may not ask either (ATK-F3, F10).

    Nothing in it is dropped as in a search: with one condition less it would hold for other resources, and a create would be lost.
    """
    for param in interaction.conditions.if_none_exist:
        if refusal := _check_one_condition(interaction.type, param, tables):
            return refusal
    if not interaction.by_condition:
        return None
    for param in interaction.params:
        if refusal := _check_one_condition(interaction.type, param, tables) or _check_decidable(interaction.type, param, tables):
            return refusal
    return None


def _check_one_condition(resource_type: str, param: Param, tables: Tables) -> Deny | None:
    if refusal := _check_param(resource_type, param, tables):
        return refusal
    if param.name in RESULT_PARAMETERS or (param.name.startswith("_") and param.name not in tables.search.get(resource_type, {})):
        return _refuse("parameter-not-offered", f"{param.name} is no condition.")
    return None


def _check_decidable(resource_type: str, param: Param, tables: Tables) -> Deny | None:
    """What is changed or deleted is found by what the gateway checks itself: an EHR that passes over a condition finds another (ATK-F26)."""
    known = tables.search[resource_type][param.name]
    if param.name == "_id" or (known.type == "reference" and "Patient" in known.targets and param.modifier in ("", "Patient")):
        return None
    if not param.modifier and tables.can_evaluate(resource_type, param.name):
        return None
    return _refuse("condition-not-decidable", f"{param.name} is no condition for a change: identifiers, codes, ids and the patient are.")


def _check_param(resource_type: str, param: Param, tables: Tables) -> Deny | None:
    if text := _NOT_OFFERED.get(param.name):
        return _refuse("parameter-not-offered", f"{text}.")
    if "." in param.name or "." in param.modifier:
        return _refuse("chain-not-offered", "Chained parameters are not offered.")
    if param.name in ("_include", "_revinclude"):
        allowed = tables.includes if param.name == "_include" else tables.revincludes
        if param.modifier or param.value not in allowed:
            return _refuse("include-not-offered", f"That {param.name} is not offered.")
        return None
    if param.name == "_count":
        return None if param.value.isdecimal() and len(param.value) < 7 else _refuse("count-invalid", "_count is a whole number.", "invalid")
    if param.name == "_sort" and not param.modifier:
        return _check_sort(resource_type, param.value, tables)
    if param.name in RESULT_PARAMETERS:
        return _refuse("modifier-not-offered", "That modifier is not offered.") if param.modifier else None
    if param.name == "_id":
        # `_id:not` beside `_id` makes some servers drop one of them (ATK-F26).
        return _refuse("modifier-not-offered", "_id takes no modifier.") if param.modifier else None
    known = tables.search.get(resource_type, {}).get(param.name)
    if known is None:
        if param.name.startswith("_"):
            return None if param.name == "_lastUpdated" or not param.modifier else _refuse("modifier-not-offered", "That modifier is not offered.")
        return _refuse("parameter-unknown", f"{resource_type} has no search parameter of that name here.")
    if known.type == "reference" and param.modifier in known.targets:
        return None
    if param.modifier not in _MODIFIERS.get(known.type, frozenset({""})):
        return _refuse("modifier-not-offered", f"That modifier is not offered on {param.name}.")
    return None


def _check_sort(resource_type: str, value: str, tables: Tables) -> Deny | None:
    """Only own parameters of the type: a chain in `_sort` would order one's list by other people's data."""
    known = tables.search.get(resource_type, {})
    if all(key.removeprefix("-") in known for key in value.split(",")):
        return None
    return _refuse("sort-not-offered", f"{resource_type} cannot be sorted by that here.")


def _refuse(reason: str, message: str, code: str = "not-supported") -> Deny:
    return Deny(400, code, reason, message)
