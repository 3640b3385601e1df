"""gateway.fhir.capability: the statement lists what works through the gateway, and the EHR does not show."""

from __future__ import annotations

import json

import pytest
from fhir.resources.R4B.capabilitystatement import CapabilityStatement
from hypothesis import given
from hypothesis import strategies as st

from gateway.config.settings import US_CORE
from gateway.errors import UpstreamFault
from gateway.fhir.capability import INTERACTIONS, OAUTH_URIS, SYSTEMS_ONLY, reduce
from gateway.fhir.names import RESOURCE_TYPES
from gateway.shipped import tables, us_core

BASE = "https://gw.example/fhir/hapi"
ENDPOINTS = {name: f"https://gw.example/auth/hapi/{name}" for name in ("authorize", "token", "introspect", "revoke")}
ALL = [{"code": code} for code in ("read", "vread", "update", "patch", "delete", "history-instance", "history-type", "create", "search-type")]
STATEMENT = {
    "resourceType": "CapabilityStatement",
    "status": "active",
    "date": "2026-11-24",
    "publisher": "Secret Hospital",
    "kind": "instance",
    "software": {"name": "HAPI FHIR Server", "version": "8.8.0"},
    "implementation": {"description": "HAPI", "url": "http://10.0.0.7:8080/fhir"},
    "instantiates": ["http://hl7.org/fhir/us/core/CapabilityStatement/us-core-server", "http://10.0.0.7:8080/fhir/CapabilityStatement/x"],
    "fhirVersion": "4.0.1",
    "format": ["application/fhir+xml", "json"],
    "rest": [
        {"mode": "client"},
        {
            "mode": "server",
            "interaction": [{"code": "transaction"}, {"code": "history-system"}],
            "operation": [{"name": "export", "definition": "http://10.0.0.7:8080/fhir/OperationDefinition/x"}],
            "resource": [
                {
                    "type": "Observation",
                    "profile": "http://10.0.0.7:8080/fhir/StructureDefinition/x",
                    "supportedProfile": ["http://hl7.org/fhir/us/core/StructureDefinition/us-core-vital-signs", "http://10.0.0.7:8080/x"],
                    "documentation": "HAPI",
                    "interaction": ALL,
                    "versioning": "versioned-update",
                    "conditionalCreate": True,
                    "conditionalUpdate": True,
                    "conditionalDelete": "multiple",
                    "searchInclude": ["*", "Observation:subject", "Observation:has-member"],
                    "searchRevInclude": ["Provenance:target", "List:item"],
                    "searchParam": [
                        {
                            "name": "patient",
                            "type": "reference",
                            "definition": "http://10.0.0.7:8080/fhir/SearchParameter/x",
                            "documentation": "HAPI",
                        },
                        {"name": "code", "type": "token"},
                        {"name": "_content", "type": "special"},
                        {"name": "_security", "type": "token"},
                        {"name": "x-own", "type": "string"},
                    ],
                    "operation": [{"name": "lastn", "definition": "x"}],
                },
                {"type": "Patient", "interaction": [{"code": "read"}]},
                {"type": "Group", "interaction": ALL},
                {"type": "Nothing", "interaction": ALL},
                {"type": "Condition", "interaction": [{"code": "delete"}]},
            ],
        },
    ],
}


def made(statement=STATEMENT, **more):
    return reduce(statement, tables(), base=BASE, endpoints=ENDPOINTS, **more)


def test_the_statement_is_valid_and_complete() -> None:
    """R4, kind instance, JSON only, our name and our base (peers' fault 8)."""
    found = made()
    assert CapabilityStatement.model_validate(found)
    assert (found["kind"], found["fhirVersion"], found["format"]) == ("instance", "4.0.1", ["application/fhir+json", "json"])
    assert found["implementation"]["url"] == BASE
    assert found["instantiates"] == ["http://hl7.org/fhir/us/core/CapabilityStatement/us-core-server"]


def test_the_ehr_does_not_show() -> None:
    """No software, host, publisher or operation of the EHR's."""
    text = json.dumps(made()).replace(BASE, "").replace("/auth/hapi", "")
    assert not any(word in text for word in ("HAPI", "hapi", "10.0.0.7", "Secret", "export", "lastn", "x-own", "List:item"))


def test_the_security_block_is_smart() -> None:
    """HL7@15: the service, and the endpoints where older clients look for them."""
    security = made()["rest"][0]["security"]
    assert security["cors"] is True
    assert security["service"][0]["coding"][0]["code"] == "SMART-on-FHIR"
    assert security["extension"] == [{"url": OAUTH_URIS, "extension": [{"url": name, "valueUri": url} for name, url in ENDPOINTS.items()]}]


def test_only_types_and_interactions_of_both_sides() -> None:
    """What the EHR has and the gateway offers, in the order of names; the gateway's own record of accesses besides."""
    rows = made()["rest"][0]["resource"]
    found = {row["type"]: [item["code"] for item in row["interaction"]] for row in rows}
    hers = [*INTERACTIONS, "patch", "delete"]
    assert found == {"AuditEvent": ["search-type"], "Group": list(INTERACTIONS), "Observation": hers, "Patient": ["read"]}
    assert [(row["type"], row["documentation"]) for row in rows if "documentation" in row] == [("Group", SYSTEMS_ONLY)]


def test_only_what_the_policy_takes_is_listed() -> None:
    """HL7@348-371: parameters and joins that work, conditional interactions as they are."""
    row = next(row for row in made()["rest"][0]["resource"] if row["type"] == "Observation")
    assert row["searchParam"] == [{"name": "code", "type": "token"}, {"name": "patient", "type": "reference"}]
    assert (row["searchInclude"], row["searchRevInclude"]) == (["Observation:has-member"], ["Provenance:target"])
    assert row["supportedProfile"] == ["http://hl7.org/fhir/us/core/StructureDefinition/us-core-vital-signs"]
    assert (row["conditionalCreate"], row["conditionalUpdate"], row["conditionalDelete"]) == (True, True, "single")
    assert row["profile"] == "http://hl7.org/fhir/StructureDefinition/Observation"


def test_bundles_are_offered_when_the_ehr_takes_them() -> None:
    """Absence of batch says nothing (seen: HAPI lists only transaction, and batch works)."""
    assert [row["code"] for row in made()["rest"][0]["interaction"]] == ["transaction", "batch"]


def test_transactions_are_listed_where_they_are_taken() -> None:
    """What is known of the EHR counts more than its statement: nothing is listed that does not work."""
    assert "interaction" not in made(transactions=False)["rest"][0]
    without = {**STATEMENT, "rest": [{**STATEMENT["rest"][0], "interaction": []}]}
    assert "interaction" not in made(without)["rest"][0]
    assert [row["code"] for row in made(without, transactions=True)["rest"][0]["interaction"]] == ["transaction", "batch"]
    assert "interaction" not in made({**STATEMENT, "rest": [{"mode": "server"}]})["rest"][0]


@pytest.mark.parametrize(
    "statement", [None, [], {}, {"resourceType": "Patient"}, {**STATEMENT, "fhirVersion": "5.0.0"}, {**STATEMENT, "fhirVersion": 4}]
)
def test_what_is_no_r4_statement_is_the_ehrs_fault(statement) -> None:
    """502, and a sentence."""
    with pytest.raises(UpstreamFault):
        made(statement)


def test_urls_that_are_none_are_left_out() -> None:
    """An EHR may write anything where a URL belongs."""
    found = made({**STATEMENT, "implementation": {"url": "http://["}, "instantiates": ["http://[", "http://x.example/y"]})
    assert found["instantiates"] == ["http://x.example/y"]


def test_every_type_of_the_tables_is_one_of_r4() -> None:
    """The names that requests and references are read with are those of the definitions."""
    assert tables().compartment.keys() <= RESOURCE_TYPES
    assert RESOURCE_TYPES - tables().compartment.keys() <= {"OperationOutcome", "Parameters", "Bundle", "Binary"}


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from(["server", "Observation", "read", "search-type", "patient", "http://[", "http://x/y", "*"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["mode", "type", "interaction", "code", "resource", "searchParam", "name", "searchInclude", "supportedProfile", "versioning"]
            ),
            inner,
            max_size=5,
        )
    ),
    max_leaves=20,
)


@given(VALUES, VALUES, VALUES)
def test_any_statement_gives_a_valid_one(rest, implementation, instantiates) -> None:
    """An EHR's statement may have any shape inside."""
    given_ = {
        "resourceType": "CapabilityStatement",
        "fhirVersion": "4.0.1",
        "rest": rest,
        "implementation": implementation,
        "instantiates": instantiates,
    }
    assert CapabilityStatement.model_validate(made(given_))


def test_what_the_operator_vouches_for_is_added():
    """A14.81: US Core by the operator's word alone, for the types that are offered, and nothing that the EHR says is said twice."""
    claim = us_core("8.0.0")
    made = reduce(STATEMENT, tables(), base=BASE, endpoints=ENDPOINTS, claim=claim)
    assert made["instantiates"] == ["http://hl7.org/fhir/us/core/CapabilityStatement/us-core-server"]
    offered = {one["type"]: one.get("supportedProfile", []) for one in made["rest"][0]["resource"]}
    assert "Condition" not in offered  # this EHR has none, so nothing is claimed of it
    known = [one.partition("|")[0].rpartition("/")[2] for one in offered["Observation"]]
    assert offered["Observation"][0] == "http://hl7.org/fhir/us/core/StructureDefinition/us-core-vital-signs"  # the EHR's own words
    assert "http://hl7.org/fhir/us/core/StructureDefinition/us-core-observation-lab|8.0.0" in offered["Observation"]
    assert len(known) == len(set(known)) > 20
    CapabilityStatement.model_validate(made)


def test_without_a_word_nothing_is_claimed():
    """A facade cannot know whether data conform."""
    silent = json.loads(json.dumps(STATEMENT))
    del silent["instantiates"]
    made = reduce(silent, tables(), base=BASE, endpoints=ENDPOINTS)
    assert "instantiates" not in made
    assert reduce(silent, tables(), base=BASE, endpoints=ENDPOINTS, claim=us_core("6.1.0"))["instantiates"] == list(us_core("6.1.0").instantiates)


@pytest.mark.parametrize("version", US_CORE)
def test_each_version_of_us_core_is_there(version):
    """Those that the setting takes, with the profiles that every server has to know."""
    profiles = {name: [one.partition("|")[0] for one in found] for name, found in us_core(version).profiles.items()}
    assert profiles["Patient"] == ["http://hl7.org/fhir/us/core/StructureDefinition/us-core-patient"]
    assert len(profiles["Condition"]) == 2
    assert set(profiles) <= RESOURCE_TYPES
    suffixes = {one.partition("|")[2] for found in us_core(version).profiles.values() for one in found}
    assert suffixes == {"" if version == "6.1.0" else version}
