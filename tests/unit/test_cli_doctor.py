"""`gateway doctor` and `gateway ehr check`: what each finding is made of, against small servers that say what we want."""

from __future__ import annotations

import contextlib
import json
import threading
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import trustme

from gateway.cli import doctor, ehr_report
from gateway.config import EhrSettings, Settings

STATEMENT = {
    "resourceType": "CapabilityStatement",
    "fhirVersion": "4.0.1",
    "software": {"name": "Small", "version": "1"},
    "rest": [
        {
            "mode": "server",
            "interaction": [{"code": "transaction"}],
            "resource": [
                {
                    "type": "Patient",
                    "interaction": [{"code": "read"}, {"code": "search-type"}, {"code": "create"}],
                    "versioning": "versioned-update",
                    "updateCreate": True,
                    "searchParam": [{"name": "name"}, {"name": "_id"}],
                }
            ],
        }
    ],
}


@contextlib.contextmanager
def server(answers, headers=()):
    """An HTTP server on loopback: path to (status, JSON)."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            status, body = answers(self)
            self.send_response_only(status)
            for name, value in headers or [("Date", self.date_time_string())]:
                self.send_header(name, value)
            data = json.dumps(body).encode()
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *args):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        threading.Thread(target=http.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{http.server_port}/fhir"
        http.shutdown()


def open_to_all(request):
    return (200, STATEMENT) if "metadata" in request.path else (200, {"resourceType": "Bundle"})


def closed(request):
    if "metadata" in request.path or request.headers.get("Authorization"):
        return open_to_all(request)
    return 401, {"resourceType": "OperationOutcome"}


def test_an_ehr_that_serves_strangers_on_the_network_is_a_warning(monkeypatch):
    """Callers can go around the gateway; on loopback nobody can."""
    with server(open_to_all) as url:
        ehr = EhrSettings("e", url)
        assert doctor.door(ehr).state == "ok"
        monkeypatch.setattr("gateway.config.settings.is_loopback", lambda _: False)
        found = doctor.door(ehr)
    assert found.state == "warning"
    assert "callers can go around the gateway" in found.found


def test_the_gateways_own_credential_does_not_open_the_door(monkeypatch):
    """The door is tried as a stranger, the EHR itself is reached with the credential."""
    monkeypatch.setattr("gateway.config.settings.is_loopback", lambda _: False)
    with server(closed) as url:
        ehr = EhrSettings("e", url, auth="bearer", bearer="s3cret")
        assert doctor.door(ehr).found == "strangers get 401"
        assert doctor.reach(ehr).state == "ok"


@pytest.mark.parametrize(
    ("answer", "state", "found"),
    [
        ((200, STATEMENT), "ok", "Small 1, FHIR 4.0.1, 1 types"),
        ((200, {**STATEMENT, "fhirVersion": "5.0.0"}), "failed", "speaks FHIR 5.0.0"),
        ((200, {"resourceType": "Patient"}), "failed", "no CapabilityStatement"),
        ((404, {}), "failed", "no CapabilityStatement"),
        ((401, {}), "failed", "answers 401"),
    ],
)
def test_an_ehr_is_reached_or_the_reason_is_named(answer, state, found):
    """Version, address, credential: each wrong one has its sentence."""
    with server(lambda _: answer) as url:
        finding = doctor.reach(EhrSettings("e", url))
    assert finding.state == state
    assert found in finding.found
    assert bool(finding.fix) == (state != "ok")


def test_a_clock_that_differs_is_a_warning():
    """Assertions and tokens live for minutes."""
    past = datetime.now(UTC) - timedelta(hours=1)
    with server(open_to_all, headers=[("Date", past.strftime("%a, %d %b %Y %H:%M:%S GMT"))]) as url:
        finding = doctor.reach(EhrSettings("e", url))
    assert finding.state == "warning"
    assert "clock differs by -3" in finding.found


def test_what_lies_open_is_a_warning(tmp_path):
    """Folder and key are for the gateway alone; sealing is on; the address is https."""
    settings = Settings(data_dir=tmp_path, public_url="http://gateway.example", store=f"sqlite+aiosqlite:///{tmp_path}/x.db")
    tmp_path.chmod(0o755)
    assert doctor.data_folder(settings).fix == f"chmod 700 {tmp_path}"
    tmp_path.chmod(0o700)
    assert doctor.data_folder(settings).state == "ok"
    (tmp_path / "key").write_text("A" * 43 + "=")
    (tmp_path / "key").chmod(0o644)
    assert doctor.key(settings).fix == f"chmod 600 {tmp_path}/key"
    (tmp_path / "key").write_text("nonsense")
    assert doctor.key(settings).state == "failed"
    assert doctor.key(Settings(seal=False)).state == "warning"
    assert "https" in doctor.public_url(settings).fix


def test_open_registration_without_review_is_a_warning():
    """On a gateway that others reach; on this machine alone it is a sandbox."""

    def said(**more) -> list[str]:
        settings = Settings(registration="open", **more)
        return [one().state for one in doctor.checks(settings) if "registration" in one.__code__.co_names]

    assert said(public_url="https://gateway.example", registration_review=False) == ["warning"]
    assert said(public_url="https://gateway.example") == ["ok"]
    assert said(public_url="http://127.0.0.1:8080", registration_review=False) == []


def test_a_launcher_that_others_reach_is_a_warning():
    """It signs browsers in without a password."""

    def said(**more) -> list[str]:
        return [one().state for one in doctor.checks(Settings(**more)) if "launcher" in one.__code__.co_names]

    assert said(public_url="https://gateway.example", launcher_enabled=True) == ["warning"]
    assert said(public_url="http://127.0.0.1:8080", launcher_enabled=True) == []
    assert said(public_url="https://gateway.example") == []


def test_redis_that_is_down_is_a_warning_and_no_more():
    """The gateway works without it, slower."""
    assert doctor.cache(Settings(redis="redis://127.0.0.1:9/0")).state == "warning"
    assert doctor.cache(Settings()).state == "ok"


def test_a_store_that_is_down_or_foreign_fails(tmp_path):
    """And an SQLite file that is not there is made at the first start, not by the doctor."""
    settings = Settings(store=f"sqlite+aiosqlite:///{tmp_path}/x.db")
    assert "will be made" in doctor.the_store(settings).found
    assert not (tmp_path / "x.db").exists()
    (tmp_path / "x.db").write_bytes(b"")
    assert "empty" in doctor.the_store(settings).found
    assert doctor.the_store(Settings(store="postgresql+asyncpg://u:hidden@127.0.0.1:9/x")).state == "failed"
    assert "hidden" not in doctor.the_store(Settings(store="postgresql+asyncpg://u:hidden@127.0.0.1:9/x")).found


def test_a_certificate_that_ends_is_named_before(tmp_path):
    """Two weeks before, and after."""
    authority = trustme.CA()
    path = tmp_path / "chain.pem"
    for until, state in ((400, "ok"), (5, "warning"), (-1, "failed")):
        certificate = authority.issue_cert(
            "gw.example", not_after=datetime.now(UTC) + timedelta(days=until), not_before=datetime(2020, 1, 1, tzinfo=UTC)
        )
        path.write_bytes(certificate.cert_chain_pems[0].bytes())
        assert doctor.certificate(path).state == state
    path.write_text("nonsense")
    assert doctor.certificate(path).state == "failed"


def test_the_report_of_a_statement():
    """What it declares, and what the gateway will offer; a probe counts more than a claim."""
    report = ehr_report.read("http://e/fhir", STATEMENT)
    assert report.types[0].search_params == ("_id", "name")
    offers = {one.feature: one for one in ehr_report.offers(report)}
    assert offers["deliver pushes"].level == "ok"
    assert offers["portal writes"].level == "limited"
    tried = (ehr_report.Tried("client ids", "refused"), ehr_report.Tried("If-None-Exist", "works"), ehr_report.Tried("If-Match", "ignored"))
    offers = {one.feature: one for one in ehr_report.offers(report, tried)}
    assert offers["deliver pushes"].level == "limited"
    assert "conditional create" in offers["deliver pushes"].sentence
    assert offers["updates"].level == "limited"


@pytest.mark.parametrize(
    ("software", "said", "level"),
    [("HAPI FHIR Server", None, "ok"), ("Epic", None, "limited"), ("Epic", True, "ok"), ("HAPI FHIR Server", False, "limited")],
)
def test_a_silent_statement_leaves_it_to_what_is_known_of_the_platform(software, said, level):
    """As the gateway itself decides: HAPI takes ids of clients and does not mention it."""
    resource = {"type": "Patient"} | ({} if said is None else {"updateCreate": said})
    report = ehr_report.read("http://e/fhir", {"software": {"name": software}, "rest": [{"mode": "server", "resource": [resource]}]})
    assert {one.feature: one.level for one in ehr_report.offers(report)}["deliver pushes"] == level


@pytest.mark.parametrize("statement", [{}, {"rest": None}, {"rest": [{"mode": "server", "resource": [None, {"type": 3}]}]}, {"software": []}])
def test_a_malformed_statement_says_little_and_breaks_nothing(statement):
    """Absent is what is not there as it should be."""
    report = ehr_report.read("http://e/fhir", statement)
    assert not report.is_r4
    assert ehr_report.offers(report)[0].level == "limited"
