"""An EHR that names itself by another address, as one behind a proxy does: none of its addresses shows, and all of them are it."""

from __future__ import annotations

import json

import pytest

from gateway.sandbox.double import Double, served
from tests.support.two_people import Two
from tests.support.whole_in_process import whole

INTERNAL = "https://ehr.internal:8443/r4"


@pytest.fixture
def people() -> Two:
    return Two()


@pytest.fixture
async def behind(people, tmp_path):
    """A gateway before an EHR that calls itself INTERNAL in its references, and a token of A's."""
    double = Double(called=INTERNAL)
    for resource in people.resources():
        raw = json.dumps(resource).replace('"reference": "', f'"reference": "{INTERNAL}/')
        double.seed(raw.encode())
    with served(double) as url:
        async with whole(url, tmp_path, environ={"GATEWAY_EHR_HAPI_ALIASES": f"{INTERNAL}/, https://ehr.example"}) as gateway:
            token = await gateway.token("patient/*.rs", patient=people.a)
            yield gateway, double, token


async def test_references_by_another_address_are_the_patient_s_and_lead_to_the_gateway(behind, people):
    """Whose a resource is, is known from them; B's stay B's."""
    gateway, _, token = behind
    mine = await gateway.fhir(token, "GET", f"Observation/{people.id('lab-a')}")
    assert mine.status_code == 200, mine.text
    assert mine.json()["subject"]["reference"] == f"{gateway.base}/Patient/{people.a}"
    assert (await gateway.fhir(token, "GET", f"Observation/{people.id('lab-b')}")).status_code == 404
    listed = await gateway.fhir(token, "GET", "MedicationRequest?_include=MedicationRequest:medication")
    assert "ehr.internal" not in listed.text
    assert people.canary not in listed.text
    assert listed.json()["entry"][0]["resource"]["medicationReference"]["reference"] == f"{gateway.base}/Medication/{people.id('med')}"


async def test_a_page_link_by_another_address_is_followed(behind):
    """Page two comes from the one address that requests are sent to."""
    gateway, double, token = behind
    first = await gateway.fhir(token, "GET", "Observation?_count=1")
    (link,) = [one["url"] for one in first.json()["link"] if one["relation"] == "next"]
    assert link.startswith(gateway.base)
    second = await gateway.fhir(token, "GET", link.removeprefix(f"{gateway.base}/"))
    assert second.status_code == 200, second.text
    assert {len(page.json()["entry"]) for page in (first, second)} == {1}
    assert double.requests[-1].query.startswith("_page=")


async def test_a_push_is_told_where_it_is_at_the_gateway(behind, people):
    """Its Location and the places in a transaction's answer, whatever the EHR calls itself."""
    gateway, double, _ = behind
    token = await gateway.token("system/Observation.cru", push={"mode": "deliver", "ehr": "hapi"})
    body = {"resourceType": "Observation", "status": "final", "code": {"text": "x"}, "subject": {"reference": f"Patient/{people.a}"}}
    answer = await gateway.fhir(token, "POST", "Observation", body)
    assert answer.status_code == 201, answer.text
    assert answer.headers["Location"].startswith(f"{gateway.base}/Observation/gw")
    assert double.requests[-1].headers["host"].startswith("127.0.0.1")
    entry = {"resource": body, "request": {"method": "POST", "url": "Observation"}}
    answer = await gateway.fhir(token, "POST", "", {"resourceType": "Bundle", "type": "transaction", "entry": [entry]})
    assert answer.status_code == 200, answer.text
    assert "ehr.internal" not in answer.text


async def test_another_address_alike_is_somebody_else_s(behind, people):
    """Exactly these: a longer path, another port, http for https."""
    gateway, double, token = behind
    for number, base in enumerate(("https://ehr.internal:8443/r4x", "https://ehr.internal/r4", "http://ehr.internal:8443/r4")):
        subject = {"reference": f"{base}/Patient/{people.a}"}
        double.seed({"resourceType": "Observation", "id": f"odd{number}", "status": "final", "code": {"text": "x"}, "subject": subject})
        assert (await gateway.fhir(token, "GET", f"Observation/odd{number}")).status_code == 404
