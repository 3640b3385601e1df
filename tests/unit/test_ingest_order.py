"""What a message is about: the keys in whose order it is delivered, and the patients whose data it changes."""

from __future__ import annotations

import json

from gateway import shipped
from gateway.fhir.interaction import Conditions, Interaction, Kind, Param
from gateway.ingest import order
from gateway.store.inbox_rows import Entry


def keys(*resources: dict, client: str = "lab", kind: Kind = Kind.CREATE, condition: tuple[Param, ...] = ()) -> frozenset[str]:
    parts = []
    for position, resource in enumerate(resources):
        type_ = resource["resourceType"]
        id_ = resource.get("id", "") if kind is Kind.UPDATE else ""
        asked = Interaction(kind, type_, id_, body=json.dumps(resource).encode(), conditions=Conditions(if_none_exist=condition))
        parts.append((asked, Entry(position, str(kind), type_, id_ or f"gw{position}"), resource))
    return order.keys(client, "hapi", parts)


def of(patient: str, **more) -> dict:
    return {"resourceType": "Observation", "subject": {"reference": patient}} | more


def test_messages_about_one_patient_share_a_key():
    """However the reference is written."""
    mine = keys(of("Patient/p1"))
    assert mine & keys(of("Patient/p1/_history/3"))
    assert mine & keys(of("http://ehr.example/fhir/Patient/p1"))
    assert mine & keys({"resourceType": "Appointment", "participant": [{"actor": {"reference": "Patient/p1"}}]})
    assert mine & keys({"resourceType": "Patient", "id": "p1"}, kind=Kind.UPDATE)
    assert not mine & keys(of("Patient/p2"))
    assert not mine & keys(of("Patient/p1"), client="other lab")


def test_a_bundle_has_the_keys_of_all_its_patients():
    """It waits for each of them."""
    assert keys(of("Patient/p1"), of("Patient/p2")) == keys(of("Patient/p1")) | keys(of("Patient/p2"))


def test_an_identifier_counts_with_its_system_only():
    """Two authorities with one value are two people; without a system it is nobody."""

    def logical(**identifier) -> frozenset[str]:
        return keys({"resourceType": "Observation", "subject": {"type": "Patient", "identifier": identifier}})

    patient = keys({"resourceType": "Patient", "identifier": [{"system": "urn:a", "value": "1"}]})
    assert patient & logical(system="urn:a", value="1")
    assert not patient & logical(system="urn:b", value="1")
    assert logical(value="1") == keys({"resourceType": "Observation"})


def test_what_is_about_nobody_goes_through_the_senders_one_channel():
    """Organizations, say, and conditions of creates have keys of their own."""
    organization = keys({"resourceType": "Organization"})
    assert organization == keys({"resourceType": "Location"})
    assert len(organization) == 1
    assert organization != keys({"resourceType": "Organization"}, client="other")
    once = (Param("identifier", "", "urn:a|1"),)
    assert keys({"resourceType": "Organization"}, condition=once) == keys({"resourceType": "Organization"}, condition=once) != organization


def test_an_updated_resource_is_a_key():
    """Two versions of one resource keep their order even when its patient changed between them."""
    assert keys(of("Patient/p1", id="o1"), kind=Kind.UPDATE) & keys(of("Patient/p2", id="o1"), kind=Kind.UPDATE)


def test_no_identifier_of_a_person_stands_in_a_key():
    """They are digests."""
    assert all(len(key) == 32 and int(key, 16) >= 0 for key in keys(of("Patient/p1")))


def test_the_patients_are_those_whose_data_it_is():
    """By the compartment table: a performer is not touched."""
    resource = of("Patient/p1", performer=[{"reference": "Patient/p9"}])
    assert order.patients([resource, {"resourceType": "Patient", "id": "p2"}, {"resourceType": "Unheard"}], shipped.tables())[:1] == ("p1",)
    assert "p2" in order.patients([{"resourceType": "Patient", "id": "p2"}], shipped.tables())
