"""The embedded EHR as the demo starts it: what we changed in it, and the habits of it that docs/ehrs.md describes."""

from __future__ import annotations

import threading
from pathlib import Path

import httpx
import pytest

from gateway.errors import ConfigError
from gateway.sandbox import embedded
from gateway.sandbox.embedded_server import settings

FHIR = {"Content-Type": "application/fhir+json"}
NUMBERS = ["1.10", "5.0", "1.0e3", "0.000000010", "12345678901234567890.123456789", "100", "-0.50"]


@pytest.fixture(scope="module")
def ehr(tmp_path_factory):
    with embedded.running(tmp_path_factory.mktemp("embedded")) as running:
        yield running


@pytest.fixture
def client(ehr):
    with httpx.Client(base_url=ehr.base_url, headers={**ehr.headers, **FHIR}, timeout=20) as client:
        yield client


def observation(number: str = "1", *, id_: str = "", patient: str = "", text: str = "µg") -> str:
    """An Observation as text, so that the number stays as it is written here."""
    head = f'"id":"{id_}",' if id_ else ""
    subject = f',"subject":{{"reference":"Patient/{patient}"}}' if patient else ""
    value = f'"valueQuantity":{{"value":{number},"unit":"{text}"}}'
    return f'{{"resourceType":"Observation",{head}"status":"final","code":{{"text":"t"}},{value}{subject}}}'


@pytest.mark.parametrize("number", NUMBERS)
def test_a_number_comes_back_as_written(client, number):
    """Fidelity: in the answer to a write, a read, a search, a version and a history."""
    id_ = f"number-{NUMBERS.index(number)}"
    written = client.put(f"/Observation/{id_}", content=observation(number, id_=id_))
    found = [written] + [client.get(url) for url in _ways_to(id_)]
    assert [f'"value":{number},' in answer.text for answer in found] == [True] * 5
    assert all("µg" in answer.text for answer in found)


def _ways_to(id_: str) -> list[str]:
    return [f"/Observation/{id_}", f"/Observation?_id={id_}", f"/Observation/{id_}/_history/1", f"/Observation/{id_}/_history"]


def test_a_number_in_a_transaction_comes_back_as_written(client):
    """The people of the demo are loaded this way."""
    entry = f'{{"resource":{observation("1.10", id_="in-bundle")},"request":{{"method":"PUT","url":"Observation/in-bundle"}}}}'
    answer = client.post("", content=f'{{"resourceType":"Bundle","type":"transaction","entry":[{entry}]}}')
    assert answer.status_code == 200
    assert '"value":1.10,' in client.get("/Observation/in-bundle").text


def test_numbers_are_still_found_by_value(client):
    """value-quantity is indexed although the number is no float any more."""
    client.put("/Observation/by-value", content=observation("7.250", id_="by-value"))
    assert client.get("/Observation?value-quantity=7.25&_id=by-value").json()["total"] == 1


def test_a_token_is_required(ehr):
    """Only what a server tells everybody is open."""
    assert httpx.get(f"{ehr.base_url}/Observation").status_code == 401
    assert httpx.get(f"{ehr.base_url}/Observation", headers={"Authorization": "Bearer wrong"}).status_code == 401
    assert httpx.get(f"{ehr.base_url}/metadata").status_code == 200


@pytest.mark.parametrize("path", ["/ui", "/", "/api/openapi.json", "/hooks/x", "/fhirs", "/auth/token"])
def test_nothing_but_fhir_is_open(ehr, path):
    """The package's console asks nobody for a token, so it is closed."""
    assert httpx.get(ehr.base_url.removesuffix("/fhir") + path).status_code == 404


def test_it_listens_on_loopback_and_keeps_its_token_private(ehr, tmp_path):
    """A demo is nobody else's business."""
    assert ehr.base_url.startswith("http://127.0.0.1:")
    with embedded.running(tmp_path) as other:
        assert (tmp_path / embedded.TOKEN).stat().st_mode & 0o777 == 0o600
        assert other.token != ehr.token


def test_a_restart_keeps_data_and_token(tmp_path):
    """In good order and after a kill: what was answered is on disk."""
    first = embedded.start(tmp_path)
    httpx.put(f"{first.base_url}/Observation/kept", content=observation("1.10", id_="kept"), headers={**first.headers, **FHIR})
    first.process.kill()
    first.stop()
    with embedded.running(tmp_path) as second:
        assert second.token == first.token
        assert '"value":1.10,' in httpx.get(f"{second.base_url}/Observation/kept", headers=second.headers).text


def test_stop_ends_the_child_and_a_chosen_port_is_used_again(tmp_path):
    """Nothing is left behind."""
    first = embedded.start(tmp_path)
    first.stop()
    assert first.process.returncode == 0
    port = httpx.URL(first.base_url).port
    with embedded.running(tmp_path, port=port or 0) as second:
        assert second.base_url == first.base_url


def test_a_child_that_cannot_start_is_a_sentence_with_its_log(ehr, tmp_path):
    """The port is taken."""
    taken = httpx.URL(ehr.base_url).port
    with pytest.raises(ConfigError, match="ended with code") as raised:
        embedded.start(tmp_path, port=taken or 0)
    assert raised.value.where.endswith(embedded.LOG)


def test_a_proposed_appointment_stays_proposed(client):
    """The package's simulator would book it."""
    client.put("/Patient/p-sim", content='{"resourceType":"Patient","id":"p-sim"}')
    body = (
        '{"resourceType":"Appointment","id":"a-sim","status":"proposed","participant":[{"actor":{"reference":"Patient/p-sim"},"status":"accepted"}]}'
    )
    client.put("/Appointment/a-sim", content=body)
    assert client.get("/Appointment/a-sim").headers["etag"] == 'W/"1"'
    assert not settings(Path("unused"), 1, "t").simulator.enabled


# Its habits -------------------------------------------------------------------------------------------------------------------


def test_an_unknown_search_parameter_is_ignored_and_said(client):
    """Everything of the type comes back, with a warning as an entry and without the parameter in the self link."""
    client.put("/Observation/unknown-1", content=observation(id_="unknown-1"))
    found = client.get("/Observation?nonsense=1&_id=unknown-1").json()
    assert [entry["search"]["mode"] for entry in found["entry"]] == ["match", "outcome"]
    assert "nonsense" not in found["link"][0]["url"]
    assert client.get("/Observation?nonsense=1", headers={"Prefer": "handling=strict"}).status_code == 400


def test_a_stale_if_match_is_412_and_if_none_match_on_put_is_ignored(client):
    """And a PUT of the same content makes a new version."""
    client.put("/Observation/versions", content=observation(id_="versions"))
    assert client.put("/Observation/versions", content=observation(id_="versions")).headers["etag"] == 'W/"2"'
    assert client.put("/Observation/versions", content=observation(id_="versions"), headers={"If-Match": 'W/"1"'}).status_code == 412
    assert client.put("/Observation/versions", content=observation(id_="versions"), headers={"If-None-Match": "*"}).status_code == 200
    assert client.put("/Observation/versions", content=observation(id_="versions"), headers={"If-Match": 'W/"3"'}).status_code == 200
    assert client.get("/Observation/versions/_history/1").status_code == 200


def test_if_none_exist_finds_what_is_there(client):
    """One after the other it works; at the same time it is no lock."""
    body = observation().replace('"status"', '"identifier":[{"system":"urn:t","value":"once"}],"status"')
    answers = [client.post("/Observation", content=body, headers={"If-None-Exist": "identifier=urn:t|once"}) for _ in range(2)]
    assert [answer.status_code for answer in answers] == [201, 200]
    assert answers[0].headers["location"] == answers[1].headers["location"]


def test_if_none_exist_never_loses_a_create(client):
    """Twenty at once: at least one is stored, and every answer names one that is."""
    body = observation().replace('"status"', '"identifier":[{"system":"urn:t","value":"race"}],"status"')
    answers: list[httpx.Response] = []
    post = lambda: answers.append(client.post("/Observation", content=body, headers={"If-None-Exist": "identifier=urn:t|race"}))  # noqa: E731
    threads = [threading.Thread(target=post) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    stored = client.get("/Observation?identifier=urn:t|race&_count=100").json()["total"]
    assert stored >= 1
    assert {answer.status_code for answer in answers} <= {200, 201, 412}


def test_a_transaction_is_all_or_nothing(client):
    """A stale ifMatch fails it whole, with 412; references to missing resources pass."""
    client.put("/Observation/tx-old", content=observation(id_="tx-old"))
    entries = [
        f'{{"resource":{observation(id_="tx-new", patient="nobody")},"request":{{"method":"PUT","url":"Observation/tx-new"}}}}',
        f'{{"resource":{observation(id_="tx-old")},"request":{{"method":"PUT","url":"Observation/tx-old","ifMatch":"W/\\"9\\""}}}}',
    ]
    bundle = '{"resourceType":"Bundle","type":"transaction","entry":[%s]}'
    assert client.post("", content=bundle % ",".join(entries)).status_code == 412
    assert client.get("/Observation/tx-new").status_code == 404
    assert client.post("", content=bundle % entries[0]).status_code == 200
    assert client.get("/Observation/tx-new").status_code == 200


def test_pages_are_offsets_and_the_total_is_always_there(client):
    """`next` repeats the search with `_offset`; numeric client ids are taken."""
    for number in range(5):
        client.put(f"/Observation/{9000 + number}", content=observation(id_=str(9000 + number), patient="paged"))
    found = client.get("/Observation?patient=paged&_count=2").json()
    links = {link["relation"]: link["url"] for link in found["link"]}
    assert found["total"] == 5
    assert "_offset=2" in links["next"]
    assert len(client.get(links["next"]).json()["entry"]) == 2


def test_missing_true_works_and_deleted_is_410(client):
    """`part-of:missing=true` is how thread headers are found (F20)."""
    body = '{"resourceType":"Communication","id":"head","status":"in-progress","subject":{"reference":"Patient/talks"}}'
    client.put("/Communication/head", content=body)
    client.put(
        "/Communication/reply",
        content=body.replace('"head"', '"reply"').replace('"status"', '"partOf":[{"reference":"Communication/head"}],"status"'),
    )
    found = client.get("/Communication?patient=talks&part-of:missing=true").json()
    assert [entry["resource"]["id"] for entry in found["entry"]] == ["head"]
    assert client.delete("/Communication/reply").status_code == 200
    assert client.get("/Communication/reply").status_code == 410
    assert client.delete("/Communication/never-was").status_code == 200


def test_what_it_does_not_check(client):
    """Structure is checked, codes and references are not."""
    assert client.post("/Observation", content='{"resourceType":"Observation","status":"final"}').status_code == 400
    assert client.post("/Observation", content=observation(patient="nobody-at-all").replace("final", "bogus")).status_code == 201


def test_conditional_reads_and_compartment_urls(client):
    """If-None-Match gives a full answer's 304; a `Patient/{id}/{Type}` search of an unknown patient is 404."""
    tag = client.put("/Observation/cond", content=observation(id_="cond")).headers["etag"]
    assert client.get("/Observation/cond", headers={"If-None-Match": tag}).status_code == 304
    assert client.get("/Patient/not-there/Observation").status_code == 404
