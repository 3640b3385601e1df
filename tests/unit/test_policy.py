"""May this principal do this? Scopes, granular conditions, search parameters: default deny."""

from __future__ import annotations

import pytest

from gateway.fhir.interaction import Conditions, Interaction, Kind, Param
from gateway.shipped import tables
from gateway.smart.constraint import Allow, Deny, Reach
from gateway.smart.policy import AccessRules, decide
from gateway.smart.principal import Principal, PrincipalKind
from gateway.smart.scopes import clinical


def who(scope: str, kind: PrincipalKind = PrincipalKind.PATIENT, patient: str = "A", listed: tuple[str, ...] = ()) -> Principal:
    return Principal(kind, "ehr", "app", clinical(scope), patient=patient, fhir_user="Patient/A", listed=frozenset(listed))


def ask(kind: Kind, type_: str = "Observation", *params: tuple[str, str, str]) -> Interaction:
    return Interaction(kind, type_, "o1" if kind is not Kind.SEARCH else "", params=tuple(Param(*p) for p in params))


def judge(principal: Principal, interaction: Interaction, **rules):
    return decide(principal, interaction, tables=tables(), rules=AccessRules(**rules))


LETTERS = [
    ("patient/Observation.r", {Kind.READ, Kind.VREAD}),
    ("patient/Observation.s", {Kind.SEARCH}),
    ("patient/Observation.c", {Kind.CREATE}),
    ("patient/Observation.u", {Kind.UPDATE, Kind.PATCH}),
    ("patient/Observation.d", {Kind.DELETE}),
    ("patient/Observation.read", {Kind.READ, Kind.VREAD, Kind.SEARCH}),
    ("patient/Observation.write", {Kind.CREATE, Kind.UPDATE, Kind.PATCH, Kind.DELETE}),
    ("patient/*.cruds", {Kind.READ, Kind.VREAD, Kind.SEARCH, Kind.CREATE, Kind.UPDATE, Kind.PATCH, Kind.DELETE}),
    ("patient/Observation.dus", set()),
    ("patient/Observation.", set()),
    ("patient/Condition.cruds", set()),
    ("system/Observation.cruds", set()),
    ("openid fhirUser launch/patient", set()),
    ("", set()),
]


@pytest.mark.parametrize(("scope", "allowed"), LETTERS)
def test_each_letter_allows_its_own_interactions_only(scope, allowed):
    """ATK-F17: r, s, c, u, d imply nothing else (peers' faults 6 and 7)."""
    for kind in (Kind.READ, Kind.VREAD, Kind.SEARCH, Kind.CREATE, Kind.UPDATE, Kind.PATCH, Kind.DELETE):
        assert isinstance(judge(who(scope), ask(kind)), Allow) == (kind in allowed), kind


def test_a_patient_scope_without_a_patient_grants_nothing():
    """HL7@164: refuse patient/ with no patient in context."""
    assert judge(who("patient/*.cruds", patient=""), ask(Kind.SEARCH)).reason == "scope-missing"


def test_user_scopes_reach_the_launched_and_listed_patients():
    """The EHR cannot tell who asks: the gateway's list is the permission."""
    doctor = who("user/*.rs", PrincipalKind.USER, patient="A", listed=("B", "C"))
    assert judge(doctor, ask(Kind.SEARCH)).constraint.match == (Reach(frozenset({"A", "B", "C"})),)
    assert judge(doctor, ask(Kind.SEARCH), practitioner_access="launched").constraint.match == (Reach(frozenset({"A"})),)
    assert judge(doctor, ask(Kind.SEARCH), practitioner_access="all").constraint.match == (Reach(None),)


def test_system_scopes_are_for_systems():
    """A person's token never reaches everyone by a system/ scope, nor a system's by a patient/ one."""
    assert isinstance(judge(who("system/*.cruds"), ask(Kind.READ)), Deny)
    assert isinstance(judge(who("patient/*.cruds user/*.cruds", PrincipalKind.SYSTEM), ask(Kind.READ)), Deny)
    assert judge(who("system/*.rs", PrincipalKind.SYSTEM, patient=""), ask(Kind.READ)).constraint.match == (Reach(None),)


def test_granular_scopes_narrow():
    """ATK-F16: the condition goes into the constraint; a condition that cannot be judged counts for nothing."""
    lab = "http://terminology.hl7.org/CodeSystem/observation-category|laboratory"
    allowed = judge(who(f"patient/Observation.rs?category={lab}"), ask(Kind.SEARCH))
    assert allowed.constraint.match == (Reach(frozenset({"A"}), (("category", lab),)),)
    assert isinstance(judge(who("patient/Observation.rs?value-quantity=5"), ask(Kind.SEARCH)), Deny)
    assert isinstance(judge(who("patient/Observation.rs?category:in=x"), ask(Kind.SEARCH)), Deny)


def test_a_condition_on_the_record_of_accesses_grants_nothing():
    """ATK-F16: that record is searched by patient only, so nobody would look at the condition."""
    assert judge(who("patient/AuditEvent.rs?action=C"), ask(Kind.SEARCH, "AuditEvent")).reason == "scope-missing"
    assert isinstance(judge(who("patient/AuditEvent.rs"), ask(Kind.SEARCH, "AuditEvent")), Allow)


def test_includes_pass_their_own_types_scope():
    """ATK-F28: what comes along is limited to the types that could be read by themselves."""
    allowed = judge(who("patient/MedicationRequest.rs patient/Medication.r"), ask(Kind.SEARCH, "MedicationRequest"))
    assert set(allowed.constraint.others) == {"MedicationRequest", "Medication"}


@pytest.mark.parametrize("type_", ["Group", "List", "Person", "Binary", "Slot", "Bundle", "Subscription", "Nonsense"])
def test_types_without_an_owner_are_no_persons(type_):
    """A type without a subject-like parameter, or that names several patients, is not offered to persons, whatever the app was granted."""
    for scope in ("patient/*.cruds", f"patient/{type_}.cruds", f"user/{type_}.cruds"):
        for kind in (Kind.READ, Kind.SEARCH, Kind.CREATE, Kind.UPDATE):
            assert judge(who(scope), ask(kind, type_)).reason == "type-not-offered"
    user = who(f"user/*.cruds user/{type_}.cruds", PrincipalKind.USER)
    assert judge(user, ask(Kind.READ, type_), practitioner_access="all").reason == "type-not-offered"
    everything = judge(who("patient/*.cruds"), ask(Kind.SEARCH, "Observation"))
    assert type_ not in everything.constraint.others


def test_systems_have_the_types_without_an_owner():
    """Who reaches everyone needs no rule about whose it is; a type that R4 does not know is nobody's."""
    system = who("system/*.cruds", PrincipalKind.SYSTEM, patient="")
    for type_ in ("Group", "List", "Schedule", "Bundle"):
        for kind in (Kind.READ, Kind.SEARCH, Kind.CREATE, Kind.UPDATE):
            assert judge(system, ask(kind, type_)).constraint.match == (Reach(None),)
    assert judge(system, ask(Kind.READ, "Nonsense")).reason == "type-not-offered"


@pytest.mark.parametrize("type_", ["SearchParameter", "Subscription", "StructureDefinition"])
def test_definitions_are_written_by_those_whose_scope_names_them(type_):
    """A wildcard reads them; it does not change how the EHR searches, checks, or whom it notifies."""
    wildcard, named = who("system/*.cruds", PrincipalKind.SYSTEM), who(f"system/{type_}.cu", PrincipalKind.SYSTEM)
    assert isinstance(judge(wildcard, ask(Kind.READ, type_)), Allow)
    assert isinstance(judge(wildcard, ask(Kind.SEARCH, type_)), Allow)
    for kind in (Kind.CREATE, Kind.UPDATE):
        assert judge(wildcard, ask(kind, type_)).reason == "scope-missing"
        assert isinstance(judge(named, ask(kind, type_)), Allow)


REFUSED = [
    ("_has", "Observation:patient:code", "1"),
    ("patient.name", "", "x"),
    ("subject", "Patient.family", "x"),
    ("_filter", "", "x"),
    ("_query", "", "x"),
    ("_list", "", "x"),
    ("_contained", "", "true"),
    ("_content", "", "x"),
    ("_text", "", "x"),
    ("_type", "", "Patient"),
    ("_elements", "", "subject"),
    ("_summary", "", "count"),
    ("_security", "", "R"),
    ("_id", "not", "x"),
    ("subject", "identifier", "x"),
    ("code", "in", "http://vs"),
    ("code", "text", "x"),
    ("PATIENT", "", "B"),
    ("patient[]", "", "B"),
    ("nonsense", "", "x"),
    ("_include", "", "*"),
    ("_include", "", "Observation:subject"),
    ("_include", "iterate", "MedicationRequest:medication"),
    ("_revinclude", "", "*"),
    ("_revinclude", "iterate", "Provenance:target"),
    ("_revinclude", "", "Group:member"),
    ("_count", "", "-1"),
    ("_count", "", "x"),
    ("_sort", "", "patient.name"),
    ("_sort", "", "-subject:Patient.birthdate"),
]


@pytest.mark.parametrize("param", REFUSED, ids=lambda p: f"{p[0]}:{p[1]}={p[2]}")
def test_parameters_that_answer_questions_about_others_are_refused(param):
    """ATK-F2, F3, F4, F5: chains, reverse chains, filters and unlisted joins are a 400 that says so."""
    refusal = judge(who("patient/*.rs"), ask(Kind.SEARCH, "Observation", param))
    assert isinstance(refusal, Deny)
    assert refusal.status == 400
    assert refusal.message


@pytest.mark.parametrize(
    "param", [*REFUSED, ("_count", "", "1"), ("_sort", "", "date"), ("_pretty", "", "true"), ("_include", "", "Observation:has-member")]
)
@pytest.mark.parametrize("kind", [PrincipalKind.PATIENT, PrincipalKind.SYSTEM])
def test_a_conditional_create_asks_no_more_than_a_search_may(param, kind):
    """ATK-F3, F10: whether something was created tells as much as a total. What a search drops is refused: without it the condition is another."""
    scope = "system/*.cs" if kind is PrincipalKind.SYSTEM else "patient/*.cs"
    asked = Interaction(Kind.CREATE, "Observation", conditions=Conditions(if_none_exist=(Param("identifier", "", "u|1"), Param(*param))))
    refusal = judge(who(scope, kind), asked)
    assert isinstance(refusal, Deny)
    assert refusal.status == 400


def test_a_conditional_create_by_parameters_of_the_type():
    """What a search may ask, it may."""
    condition = (Param("identifier", "", "u|1"), Param("patient", "", "A"), Param("_tag", "", "x"), Param("_lastUpdated", "", "ge2020"))
    asked = Interaction(Kind.CREATE, "Observation", conditions=Conditions(if_none_exist=condition))
    assert isinstance(judge(who("patient/*.cs"), asked), Allow)


ALLOWED = [
    ("patient", "", "A"),
    ("subject", "Patient", "A"),
    ("code", "", "http://loinc.org|1"),
    ("code", "not", "x"),
    ("date", "", "ge2020"),
    ("_lastUpdated", "", "ge2020"),
    ("_sort", "", "-date,code"),
    ("_count", "", "0"),
    ("_total", "", "accurate"),
    ("_totalMethod", "", "count"),
    ("_pretty", "", "true"),
    ("_tag", "", "x"),
    ("_revinclude", "", "Provenance:target"),
]


@pytest.mark.parametrize("param", ALLOWED, ids=lambda p: f"{p[0]}:{p[1]}={p[2]}")
def test_ordinary_parameters_are_allowed(param):
    """US Core searches, and unknown harmless result parameters (seen in fhirpy)."""
    assert isinstance(judge(who("patient/*.rs"), ask(Kind.SEARCH, "Observation", param)), Allow)
