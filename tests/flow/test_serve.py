"""`gateway serve` as a process on a real HAPI: it starts, refuses what it must, answers, records and ends in good order."""

from __future__ import annotations

import json
import secrets
import signal
import socket
import ssl
import time
from pathlib import Path

import httpx
import pytest
import trustme

from tests.support import parts
from tests.support.processes import gateway, serving

pytestmark = pytest.mark.hapi
FHIR = {"Content-Type": "application/fhir+json", "Accept": "application/fhir+json"}


@pytest.fixture(scope="module")
def patient(hapi_url):
    """A patient and an observation of this module's own in HAPI."""
    id_ = f"serve-{secrets.token_hex(4)}"
    observation = (
        f'{{"resourceType":"Observation","id":"{id_}-o","status":"final","code":{{"text":"Potassium"}},'
        f'"subject":{{"reference":"Patient/{id_}"}},"valueQuantity":{{"value":4.10,"unit":"mmol/L"}}}}'
    )
    with httpx.Client(base_url=hapi_url, headers=FHIR, trust_env=False) as ehr:
        assert ehr.put(f"/Patient/{id_}", json={"resourceType": "Patient", "id": id_, "name": [{"family": "Serve"}]}).status_code == 201
        assert ehr.put(f"/Observation/{id_}-o", content=observation).status_code == 201
    return id_


@pytest.fixture(scope="module")
def served(tmp_path_factory, hapi_url):
    with serving(tmp_path_factory.mktemp("serve"), f"hapi={hapi_url}") as running:
        yield running


@pytest.fixture(scope="module")
def token(served):
    return served.backend("reader", "system/Patient.r system/Observation.rs", "hapi")


def test_an_authorized_read_comes_back_whole_and_on_record(served, hapi_url, patient, token):
    """The bytes are HAPI's own; the record names client, resource and patient; a second read is a hit and on record as well."""
    url = f"{served.url}/fhir/hapi/Observation/{patient}-o"
    answer = httpx.get(url, headers={"Authorization": f"Bearer {token}"}, trust_env=False)
    assert answer.status_code == 200
    assert '"value":4.10' in answer.text
    assert answer.content == httpx.get(f"{hapi_url}/Observation/{patient}-o", headers=FHIR, trust_env=False).content
    assert answer.headers["cache-status"].startswith("gateway; fwd=miss")
    assert httpx.get(url, headers={"Authorization": f"Bearer {token}"}, trust_env=False).headers["cache-status"].startswith("gateway; hit")
    records = served.json("audit", "--patient", patient, "--client", "reader")
    assert [(one["action"], one["target"], one["outcome"]) for one in records] == [("read", f"Observation/{patient}-o", "0")] * 2
    assert [one["cached"] for one in records] == [True, False]


def test_without_a_token_nothing_is_said(served, patient):
    """401 with an OperationOutcome and the scheme; the refusal is on record."""
    answer = httpx.get(f"{served.url}/fhir/hapi/Patient/{patient}", trust_env=False)
    assert answer.status_code == 401
    assert answer.json()["resourceType"] == "OperationOutcome"
    assert answer.headers["www-authenticate"] == 'Bearer realm="fhir"'
    assert served.json("audit", "--request", answer.headers["x-request-id"])[0]["outcome"] == "4"


def test_discovery_names_the_configured_address(served):
    """The issuer is the configured base whatever the Host header says (ATK-O31), and /metadata names the same endpoints."""
    answer = httpx.get(f"{served.url}/fhir/hapi/.well-known/smart-configuration", headers={"Host": "evil.example"}, trust_env=False)
    assert answer.json()["token_endpoint"] == f"{served.url}/auth/hapi/token"
    statement = httpx.get(f"{served.url}/fhir/hapi/metadata", trust_env=False)
    assert statement.status_code == 200
    assert f"{served.url}/auth/hapi/token" in statement.text
    assert "HAPI" not in statement.text
    assert "server" not in statement.headers


def test_pages_have_no_framework_answers(served):
    """An unknown address and a wrong method are pages with a sentence; the framework's documents are not there."""
    for method, path in (("GET", "/docs"), ("GET", "/openapi.json"), ("GET", "/nowhere"), ("POST", "/static/portal.css")):
        answer = httpx.request(method, f"{served.url}{path}", trust_env=False)
        assert answer.status_code in (404, 405)
        assert answer.headers["content-type"].startswith("text/html")
        assert "default-src 'none'" in answer.headers["content-security-policy"]


def test_a_second_process_with_a_cache_in_memory_is_refused(served, hapi_url):
    """One would go on giving what a write through the other made old; the sentence says what to set."""
    done = served.cli("serve", "--listen", "127.0.0.1:0", check=False)
    assert done.returncode == 2
    assert "Redis" in done.stderr or "redis" in done.stderr
    assert "Traceback" not in done.stderr
    worker = served.cli("worker", check=False)
    assert worker.returncode == 2


def test_an_address_in_use_is_one_line(tmp_path, hapi_url):
    """The sentence names the setting and the fix."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        listen = f"127.0.0.1:{taken.getsockname()[1]}"
        done = gateway("serve", "--ehr", f"hapi={hapi_url}", "--listen", listen, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith(f"gateway: listen: {listen} cannot be listened on")


def test_sigterm_ends_it_in_good_order(tmp_path, hapi_url, patient):
    """What was read is in the store's record when the process is gone, and the next one starts over the same state."""
    with serving(tmp_path, f"hapi={hapi_url}") as first:
        token = first.backend("again", "system/Patient.r", "hapi")
        assert httpx.get(f"{first.url}/fhir/hapi/Patient/{patient}", headers={"Authorization": f"Bearer {token}"}, trust_env=False).status_code == 200
        first.process.send_signal(signal.SIGTERM)
        first.process.wait(30)
    with serving(tmp_path, f"hapi={hapi_url}") as second:
        assert [one["action"] for one in second.json("audit", "--client", "again", "--patient", patient)] == ["read"]
        headers = {"Authorization": f"Bearer {token}"}
        assert httpx.get(f"{second.url}/fhir/hapi/Patient/{patient}", headers=headers, trust_env=False).status_code == 200


def test_doctor_sees_every_part(served):
    """One line each, all well."""
    findings = served.json("doctor")
    assert {one["part"] for one in findings} >= {"store", "cache", "sealing", "ehr hapi", "ehr hapi door"}
    assert [one for one in findings if one["state"] != "ok"] == []


def test_ehr_check_tries_a_real_server(served, hapi_url):
    """HAPI's ways, tried: ids of clients are taken, a stale If-Match is refused, and nothing is left behind."""
    done = gateway("ehr", "check", hapi_url, "--probe", "--yes", "--json", cwd=served.folder)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert {one["name"]: one["outcome"] for one in found["probes"]} == dict.fromkeys(
        ("create", "client ids", "If-Match", "If-None-Exist", "transaction", "fresh search", "numbers", "clean up"), "works"
    )
    assert found["report"]["fhir_version"] == "4.0.1"
    refused = gateway("ehr", "check", hapi_url, "--probe", cwd=served.folder)
    assert refused.returncode == 2
    assert "--yes" in refused.stderr


@pytest.mark.redis
def test_several_processes_share_one_address_and_one_cache(tmp_path, hapi_url, redis_url, patient):
    """`--workers 2` with Redis: both answer, a separate worker may deliver, and the end of the parent ends them."""
    with serving(tmp_path, f"hapi={hapi_url}", extra=("--workers", "2", "--redis", redis_url)) as served:
        token = served.backend("several", "system/Patient.r", "hapi")
        headers = {"Authorization": f"Bearer {token}"}
        seen = [httpx.get(f"{served.url}/fhir/hapi/Patient/{patient}", headers=headers, trust_env=False) for _ in range(8)]
        assert {one.status_code for one in seen} == {200}
        assert sum("hit" in one.headers["cache-status"] for one in seen) == 7
        children = _children(served.process.pid)
        assert len(children) >= 2
        served.process.kill()
        served.process.wait()
        assert _gone(children)


@pytest.mark.redis
def test_a_parent_killed_while_its_children_start_leaves_none(tmp_path, hapi_url, redis_url):
    """A child that was still importing never had that parent; it ends all the same, before the next start finds its port taken."""
    with serving(tmp_path, f"hapi={hapi_url}", extra=("--workers", "2", "--redis", redis_url), ready=False) as served:
        deadline = time.monotonic() + 60
        while len(children := _children(served.process.pid)) < 3:  # two that will serve, and the one that multiprocessing keeps beside them
            assert time.monotonic() < deadline
            time.sleep(0.05)
        served.process.kill()
        served.process.wait()
        assert _gone(children)


def test_https_with_its_own_certificate(tmp_path, hapi_url):
    """`--tls-cert` and `--tls-key` serve https; cookies and issuers follow the public address."""
    authority = trustme.CA()
    certificate = authority.issue_cert("localhost")
    certificate.cert_chain_pems[0].write_to_path(tmp_path / "chain.pem")
    certificate.private_key_pem.write_to_path(tmp_path / "key.pem")
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    port = parts.free_port()
    extra = ("--tls-cert", "chain.pem", "--tls-key", "key.pem", "--public-url", f"https://localhost:{port}")
    trust = ssl.create_default_context(cafile=str(tmp_path / "ca.pem"))
    with serving(tmp_path, f"hapi={hapi_url}", extra=extra, port=port, ready=False), httpx.Client(verify=trust, trust_env=False) as client:
        answer = _when_up(client, f"https://localhost:{port}/fhir/hapi/.well-known/smart-configuration")
        assert answer.json()["issuer"] == f"https://localhost:{port}/fhir/hapi"
        page = client.get(f"https://localhost:{port}/signin")
        assert all(cookie.startswith("__Host-") and "Secure" in cookie for cookie in page.headers.get_list("set-cookie"))


def _children(pid: int) -> list[int]:
    found = [int(child) for task in Path(f"/proc/{pid}/task").iterdir() for child in (task / "children").read_text().split()]
    return found + [grandchild for child in found for grandchild in _children(child)]


def _gone(pids: list[int]) -> bool:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        if not any(Path(f"/proc/{pid}").exists() for pid in pids):
            return True
        time.sleep(0.2)
    return False


def _when_up(client: httpx.Client, url: str) -> httpx.Response:
    deadline = time.monotonic() + 40
    while True:
        try:
            return client.get(url)
        except httpx.TransportError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)
