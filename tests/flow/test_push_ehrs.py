"""A laboratory pushes into an EHR through the whole gateway: what arrives, what is answered, and what a patient then sees.

The same on the real HAPI, on the embedded EHR and on the double; what only one of them does is said at the test.
"""

from __future__ import annotations

import asyncio
import json
import secrets
from dataclasses import dataclass
from typing import Any

import httpx
import pytest

from gateway.ingest import admin
from tests.support.jobs_scene import upstream
from tests.support.whole_in_process import Whole, whole

SCOPE = "system/Patient.cu system/Observation.cu system/DiagnosticReport.cu system/Organization.cus"
DELIVER = {"mode": "deliver", "ehr": "hapi"}
JSON = {"Content-Type": "application/fhir+json"}


@dataclass
class Lab:
    """A sender, its patient, and a way to look into the EHR without the gateway."""

    gateway: Whole
    direct: httpx.AsyncClient
    token: str
    patient: str
    kind: str  # of EHR

    def result(self, **more: Any) -> dict[str, Any]:
        code = {"coding": [{"system": "http://loinc.org", "code": "2345-7"}]}
        return {"resourceType": "Observation", "status": "final", "code": code, "subject": {"reference": f"Patient/{self.patient}"}} | more

    async def push(self, method: str, path: str, body: Any, **headers: str) -> httpx.Response:
        return await self.gateway.fhir(self.token, method, path, body, **headers)

    async def post(self, **more: Any) -> httpx.Response:
        return await self.push("POST", "Observation", self.result(**more))

    async def bundle(self, kind: str, *entries: tuple[str, str, str, dict[str, Any]], **more: Any) -> httpx.Response:
        listed = [
            ({"fullUrl": full_url} if full_url else {}) | {"resource": resource, "request": {"method": method, "url": url}}
            for full_url, method, url, resource in entries
        ]
        return await self.push("POST", "", {"resourceType": "Bundle", "type": kind, "entry": listed} | more)

    async def stored(self, target: str) -> dict[str, Any]:
        found = await self.direct.get(f"/{target}")
        assert found.status_code == 200, found.text
        return found.json()

    def target(self, answer: httpx.Response) -> str:
        return self.place(answer.headers["Location"])

    def place(self, location: str) -> str:
        """`Type/id`; some EHRs give whole addresses in a response Bundle."""
        return location.removeprefix(f"{self.gateway.base}/").split("/_history/")[0]

    async def correct(self, target: str, **changes: Any) -> None:
        corrected = await self.stored(target) | changes
        answer = await self.direct.put(f"/{target}", content=json.dumps(corrected), headers=JSON)
        assert answer.status_code == 200, answer.text


@pytest.fixture(scope="module", params=[pytest.param("hapi", marks=pytest.mark.hapi), "embedded", "double"])
def ehr(request, tmp_path_factory):
    """One EHR for the module."""
    url = request.getfixturevalue("hapi_url") if request.param == "hapi" else ""
    with upstream(request.param, tmp_path_factory.mktemp("ehr"), url) as running:
        yield running


@pytest.fixture
async def lab(ehr, tmp_path):
    """A gateway over the EHR, a registered sender, and a patient that the EHR knows."""
    patient = f"push-{secrets.token_hex(4)}"
    if bearer := ehr.headers.get("Authorization", "").removeprefix("Bearer "):
        (tmp_path / "bearer").write_text(bearer)
        (tmp_path / "gateway.toml").write_text(f'[ehr.hapi]\nurl = "{ehr.url}"\nauth = "bearer"\nbearer_file = "{tmp_path / "bearer"}"\n')
    headers = {"Cache-Control": "no-cache", **ehr.headers}
    async with whole(ehr.url, tmp_path) as gateway, httpx.AsyncClient(base_url=ehr.url, headers=headers, trust_env=False, timeout=30) as direct:
        body = json.dumps({"resourceType": "Patient", "id": patient})
        assert (await direct.put(f"/Patient/{patient}", content=body, headers=JSON)).status_code == 201
        yield Lab(gateway, direct, await gateway.token(SCOPE, push=DELIVER), patient, ehr.kind)


async def test_a_result_arrives_with_its_digits(lab):
    """201 with the Location, and 1.10 stays 1.10 in HAPI."""
    raw = json.dumps(lab.result()).encode()[:-1] + b',"valueQuantity":{"value":1.10,"unit":"mmol/L"}}'
    answer = await lab.push("POST", "Observation", raw)
    assert answer.status_code == 201, answer.text
    assert answer.headers["ETag"] == 'W/"1"'
    found = await lab.direct.get(f"/{lab.target(answer)}")
    assert '"value":1.10' in found.text.replace(" ", "")


async def test_an_update_and_one_with_a_stale_condition(lab):
    """Made, changed, and refused with 412 when the sender's own version is old."""
    id_ = f"o-{secrets.token_hex(4)}"
    made = await lab.push("PUT", f"Observation/{id_}", lab.result(id=id_))
    changed = await lab.push("PUT", f"Observation/{id_}", lab.result(id=id_, status="amended"))
    stale = await lab.push("PUT", f"Observation/{id_}", lab.result(id=id_, status="cancelled"), If_Match='W/"1"')
    assert [made.status_code, changed.status_code, stale.status_code] == [201, 200, 412]
    assert stale.json()["resourceType"] == "OperationOutcome"
    assert (await lab.stored(f"Observation/{id_}"))["status"] == "amended"


async def test_a_transaction_arrives_whole_with_its_references(lab):
    """A report with its result and a new patient, by urn:uuid; the answer names each in order."""
    patient, result, report = (f"urn:uuid:0000000{n}-0000-4000-8000-000000000000" for n in range(3))
    mine = {"reference": patient}
    answer = await lab.bundle(
        "transaction",
        (report, "POST", "DiagnosticReport", _report(mine, result)),
        (patient, "POST", "Patient", {"resourceType": "Patient", "name": [{"family": "New"}]}),
        (result, "POST", "Observation", lab.result(subject=mine)),
        ("", "PUT", f"Patient/{lab.patient}", {"resourceType": "Patient", "id": lab.patient, "active": True}),
    )
    assert answer.status_code == 200, answer.text
    told = answer.json()
    assert told["type"] == "transaction-response"
    assert [entry["response"]["status"][:3] for entry in told["entry"]] == ["201", "201", "201", "200"]
    places = [lab.place(entry["response"]["location"]) for entry in told["entry"]]
    stored = await lab.stored(places[0])
    assert stored["subject"]["reference"] == places[1]
    assert stored["result"][0]["reference"] == places[2]
    assert (await lab.stored(f"Patient/{lab.patient}"))["active"] is True
    assert "127.0.0.1" not in answer.text, "the EHR's address does not show"


def _report(subject: dict[str, str], result: str) -> dict[str, Any]:
    return {
        "resourceType": "DiagnosticReport",
        "status": "final",
        "code": {"text": "panel"},
        "subject": subject,
        "result": [{"reference": result}],
    }


async def test_a_transaction_with_one_refused_entry_leaves_nothing(lab):
    """All or nothing: the sender's own condition does not hold for one entry, and the other is not there either."""
    listed = [
        {"resource": lab.result(), "request": {"method": "POST", "url": "Observation"}},
        _stale(lab),
    ]
    answer = await lab.push("POST", "", {"resourceType": "Bundle", "type": "transaction", "entry": listed})
    assert (answer.status_code, answer.json()["resourceType"]) == (412, "OperationOutcome"), answer.text
    found = await lab.direct.get("/Observation", params={"subject": f"Patient/{lab.patient}"})
    assert found.json().get("entry", []) == []


def _stale(lab: Lab) -> dict[str, Any]:
    resource = {"resourceType": "Patient", "id": lab.patient, "active": True}
    return {"resource": resource, "request": {"method": "PUT", "url": f"Patient/{lab.patient}", "ifMatch": 'W/"99"'}}


async def test_a_conditional_create_in_a_transaction_is_made_once(lab):
    """HAPI resolves it; sent twice, there is one."""
    word = secrets.token_hex(6)
    organization = {"resourceType": "Organization", "identifier": [{"system": "urn:test", "value": word}]}
    patient = {"resourceType": "Patient", "managingOrganization": {"reference": "urn:uuid:00000001-0000-4000-8000-000000000000"}}
    listed = [
        {
            "fullUrl": "urn:uuid:00000001-0000-4000-8000-000000000000",
            "resource": organization,
            "request": {"method": "POST", "url": "Organization", "ifNoneExist": f"identifier=urn:test|{word}"},
        },
        {"resource": patient, "request": {"method": "POST", "url": "Patient"}},
    ]
    for _ in range(2):
        answer = await lab.push("POST", "", {"resourceType": "Bundle", "type": "transaction", "entry": listed})
        assert answer.status_code == 200, answer.text
        made = lab.place(answer.json()["entry"][1]["response"]["location"])
        assert (await lab.stored(made))["managingOrganization"]["reference"].startswith("Organization/")
    found = await lab.direct.get("/Organization", params={"identifier": f"urn:test|{word}"})
    assert len(found.json()["entry"]) == 1


async def test_the_entries_of_a_batch_are_on_their_own(lab):
    """FAULT-S18: only the one that is refused fails."""
    listed = [
        {"resource": lab.result(status="preliminary"), "request": {"method": "POST", "url": "Observation"}},
        _stale(lab),
        {"resource": lab.result(status="final"), "request": {"method": "POST", "url": "Observation"}},
    ]
    answer = await lab.push("POST", "", {"resourceType": "Bundle", "type": "batch", "entry": listed})
    assert answer.status_code == 200, answer.text
    told = [entry["response"] for entry in answer.json()["entry"]]
    assert [one["status"] for one in told] == ["201", "412", "201"]
    assert told[1]["outcome"]["issue"][0]["severity"] == "error"
    assert (await lab.stored(lab.place(told[0]["location"])))["status"] == "preliminary"


async def test_a_dangling_reference_is_the_senders_error(lab):
    """HAPI's refusal, in our words: no host, no software, no stack. The other two take such a reference."""
    if lab.kind != "hapi":
        assert (await lab.post(subject={"reference": "Patient/nobody-there"})).status_code == 201
        return
    answer = await lab.post(subject={"reference": "Patient/nobody-there"})
    assert answer.status_code in (400, 422), answer.text
    assert answer.json()["resourceType"] == "OperationOutcome"
    assert "HAPI" not in answer.text


async def test_an_asynchronous_push_and_its_status(lab):
    """202, Content-Location, then the async-bundle."""
    answer = await lab.push("POST", "Observation", lab.result(), Prefer="respond-async")
    assert answer.status_code == 202
    path = answer.headers["Content-Location"].removeprefix(f"{lab.gateway.base}/")
    async with asyncio.timeout(10):
        while (told := await lab.gateway.fhir(lab.token, "GET", path)).status_code == 202:
            assert told.headers["Retry-After"]
            await asyncio.sleep(0.05)
    assert told.status_code == 200
    (entry,) = told.json()["entry"]
    assert entry["response"]["status"] == "201"
    other = await lab.gateway.token(SCOPE, push=DELIVER)
    assert (await lab.gateway.fhir(other, "GET", path)).status_code == 404


async def test_a_repeat_under_one_key_is_one_resource(lab):
    """200 with the first Location, also side by side."""
    answers = await asyncio.gather(*(lab.push("POST", "Observation", lab.result(), Idempotency_Key="k1") for _ in range(10)))
    assert sorted(answer.status_code for answer in answers) == [200] * 9 + [201]
    assert len({answer.headers["Location"] for answer in answers}) == 1


async def test_what_may_not_be_pushed_leaves_no_row(lab):
    """401, 403 and bad input at the door, each an OperationOutcome, none stored."""
    narrow = await lab.gateway.token("system/Observation.c", push=DELIVER)
    unregistered = await lab.gateway.token(SCOPE)
    elsewhere = await lab.gateway.token(SCOPE, push={"mode": "deliver", "ehr": "stmarys"})
    itself = await lab.gateway.token(SCOPE, push={"mode": "deliver", "ehr": "hapi", "source_ehr": "hapi"})
    tried = [
        (401, await lab.gateway.fhir("wrong", "POST", "Observation", lab.result())),
        (403, await lab.gateway.fhir(narrow, "POST", "Patient", {"resourceType": "Patient"})),
        (403, await lab.gateway.fhir(unregistered, "POST", "Observation", lab.result())),
        (403, await lab.gateway.fhir(elsewhere, "POST", "Observation", lab.result())),
        (403, await lab.gateway.fhir(itself, "POST", "Observation", lab.result())),
        (400, await lab.push("POST", "Observation", b"{")),
        (422, await lab.push("POST", "Observation", lab.result(status="bogus"))),
        (400, await lab.bundle("transaction", *[("", "PUT", "Patient/x", {"resourceType": "Patient", "id": "x"})] * 2)),
    ]
    assert [answer.status_code for _, answer in tried] == [status for status, _ in tried]
    assert all(answer.json()["resourceType"] == "OperationOutcome" for _, answer in tried)
    assert (await admin.accounting(lab.gateway.gateway.state.database)).acknowledged == 0


async def test_a_patient_sees_what_was_pushed_at_her_next_request(lab):
    """Read, read again (from the cache), push, read: new. The correction too."""
    hers = await lab.gateway.token("patient/Observation.rs", patient=lab.patient)

    async def seen() -> httpx.Response:
        return await lab.gateway.fhir(hers, "GET", "Observation?_sort=-date")

    first, second = await seen(), await seen()
    assert first.json().get("entry", []) == second.json().get("entry", []) == []
    assert "hit" in second.headers.get("Cache-Status", "")
    answer = await lab.post(valueString="new")
    (entry,) = (await seen()).json()["entry"]
    assert entry["resource"]["valueString"] == "new"

    target = lab.target(answer)
    await lab.push("PUT", target, lab.result(id=target.split("/")[1], valueString="corrected"))
    (entry,) = (await seen()).json()["entry"]
    assert entry["resource"]["valueString"] == "corrected"


async def test_the_ehr_of_record_notifies(lab):
    """It changed something itself and tells: nothing is written, and nobody reads the old answer any more."""
    teller = await lab.gateway.token(SCOPE, push={"mode": "notify"})
    hers = await lab.gateway.token("patient/Observation.rs", patient=lab.patient)
    target = lab.target(await lab.post(valueString="old"))
    for _ in range(2):
        await lab.gateway.fhir(hers, "GET", "Observation")
    await lab.correct(target, valueString="changed at the source")
    resource = await lab.stored(target)
    answer = await lab.gateway.fhir(teller, "PUT", target, resource)
    assert (answer.status_code, answer.json()["resourceType"]) == (200, "OperationOutcome")
    (entry,) = (await lab.gateway.fhir(hers, "GET", "Observation")).json()["entry"]
    assert entry["resource"]["valueString"] == "changed at the source"
    assert (await lab.stored(target))["meta"]["versionId"] == "2"


async def test_every_step_is_on_record(lab):
    """The push, the delivery, its write: all under the id of the message, and the patient can see who wrote."""
    await lab.post()
    audit = lab.gateway.gateway.state.audit
    records = await audit.of_patient("hapi", lab.patient)
    assert {record.action for record in records} >= {"push"}
    (pushed,) = [record for record in records if record.action == "push"]
    async with lab.gateway.gateway.state.database.read() as connection:
        rows = await connection.exec_driver_sql("SELECT action FROM audit WHERE message_id = ?", (pushed.message_id,))
        assert {row[0] for row in rows} == {"push", "push-done", "create"}
    assert "sha256" in pushed.detail
