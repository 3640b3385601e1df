"""What callers get wrong at each door, and the answer that each mistake gets. `{t}` is the tag of the record, `{canary}` its canary."""

from __future__ import annotations

import json
import re

from tests.support import smart
from tests.support.jobs_scene import APP, EHR, PASSWORD

INSIDE = re.compile(rb"Traceback|HAPI|sekmet|Jetty|Hibernate|ca\.uhn|sqlalchemy|uvicorn|File \"", re.IGNORECASE)
"""What no answer may show."""

JSON_TYPE, FORM_TYPE = "application/fhir+json", "application/x-www-form-urlencoded"
MESSAGE = '{"resourceType":"Communication","status":"in-progress","subject":{"reference":"Patient/%s"}'

BAD_FHIR: list[tuple[int, str, str, bytes | None, dict[str, str]]] = [
    (404, "GET", "Observation/nothing-there", None, {}),
    (404, "GET", "Observation/ben-lab-{t}", None, {}),
    (404, "GET", "Nonsense/x", None, {}),
    (400, "GET", "Observation?nonsense=1", None, {}),
    (400, "GET", "Observation?patient.name={canary}", None, {}),
    (400, "GET", "Observation?_page=forged", None, {}),
    (400, "GET", "Observation?date=yesterday", None, {}),
    (400, "GET", "Observation?_count=many", None, {}),
    (400, "GET", "Observation?_id=%ff%fe", None, {}),
    (406, "GET", "Observation?_format=xml", None, {}),
    (406, "GET", "Patient/ann-{t}", None, {"Accept": "application/fhir+xml"}),
    (403, "GET", "Group/x", None, {}),
    (501, "GET", "Patient/ann-{t}/$everything", None, {}),
    (403, "DELETE", "Observation/crp-{t}", None, {}),
    (400, "PATCH", "Observation/crp-{t}", b"[]", {"Content-Type": "application/json-patch+json"}),
    (400, "POST", "Communication", b"{", {}),
    (400, "POST", "Communication", b"\xff\xfe{}", {}),
    (400, "POST", "Communication", b"[" * 5000, {}),
    (400, "POST", "Communication", b'{"resourceType":"Communication","status":NaN}', {}),
    (400, "POST", "Communication", b'{"resourceType":"Communication","status":"a","status":"b"}', {}),
    (400, "POST", "Communication", b"", {}),
    (415, "POST", "Communication", b"<Communication/>", {"Content-Type": "application/fhir+xml"}),
    (415, "POST", "Communication", b"{}", {"Content-Encoding": "gzip"}),
    (400, "POST", "Communication", b'{"resourceType":"Patient"}', {}),
    (422, "POST", "Communication", b'{"resourceType":"Communication","status":"bogus"}', {}),
    (403, "POST", "Communication", (MESSAGE % "ben-{t}" + "}").encode(), {}),
    (403, "POST", "Patient", b'{"resourceType":"Patient"}', {}),
    (400, "PUT", "Communication/other", b'{"resourceType":"Communication","id":"another","status":"completed"}', {}),
    (404, "PUT", "Communication/ben-message-{t}", b'{"resourceType":"Communication","id":"ben-message-{t}","status":"completed"}', {}),
    (412, "PUT", "Communication/first-{t}", b'{"resourceType":"Communication","id":"first-{t}","status":"completed"}', {"If-Match": 'W/"99"'}),
    (400, "POST", "Observation/_search", b"_page=%%%", {"Content-Type": FORM_TYPE}),
    (401, "GET", "Patient/ann-{t}", None, {"Authorization": "Bearer forged"}),
    (401, "GET", "Patient/ann-{t}", None, {"Authorization": "Basic YTpi"}),
    (401, "GET", "Patient/ann-{t}?access_token=x", None, {}),
    (404, "GET", "_async/nothing", None, {}),
    (404, "GET", ".well-known/nothing", None, {}),
]  # fmt: skip

BAD_OAUTH: list[tuple[int, str, str, dict[str, str], dict[str, str]]] = [
    (400, "token", "unsupported_grant_type", {"grant_type": "password", "username": "ann", "password": PASSWORD}, {}),
    (400, "token", "invalid_grant", {"grant_type": "authorization_code", "code": "forged", "redirect_uri": APP, "code_verifier": "v" * 43}, {}),
    (400, "token", "invalid_grant", {"grant_type": "refresh_token", "refresh_token": "forged"}, {}),
    (400, "token", "invalid_request", {}, {}),
    (400, "token", "invalid_request", {"grant_type": "authorization_code"}, {}),
    (401, "token", "invalid_client", {"grant_type": "refresh_token", "refresh_token": "x"}, {"Authorization": "Basic YXBwOndyb25n"}),
    (401, "token", "invalid_client", smart.asserted("a.b.c", scope="system/*.rs"), {"Authorization": ""}),
    (401, "introspect", "invalid_client", {"token": "x"}, {"Authorization": "Basic YXBwOndyb25n"}),
    (400, "introspect", "invalid_request", {}, {}),
    (401, "revoke", "invalid_client", {"token": "x"}, {"Authorization": "Basic YXBwOndyb25n"}),
    (400, "revoke", "invalid_request", {}, {}),
    (415, "token", "invalid_request", {"grant_type": "refresh_token"}, {"Content-Type": "application/json"}),
]  # fmt: skip

BAD_PAGES: list[tuple[int, str, str, dict[str, str] | None]] = [
    (404, "GET", "/nowhere", None),
    (404, "GET", "/portal/nowhere", None),
    (404, "GET", "/portal/results/observation/nothing-there", None),
    (404, "GET", "/portal/results/observation/ben-lab-{t}", None),
    (404, "GET", "/portal/results/observation/..%2f..%2fPatient", None),
    (404, "GET", "/portal/appointments/ben-visit-{t}/cancel", None),
    (404, "GET", "/portal/messages/ben-message-{t}", None),
    (404, "GET", "/portal/bills/claim/%00", None),
    (400, "GET", "/portal/messages/new?about=Patient/ben-{t}", None),
    (404, "GET", "/portal/messages/new?about=Observation/ben-lab-{t}", None),
    (405, "DELETE", "/portal/results", None),
    (403, "POST", "/portal/messages/new", {"text": "forged"}),
    (403, "POST", "/portal/messages/new", {"csrf": "forged", "text": "x"}),
    (403, "POST", "/signin", {"username": "ann", "password": "x"}),
    (403, "POST", f"/auth/{EHR}/consent", {"decision": "allow"}),
    (404, "GET", "/auth/nowhere/authorize", None),
]

ELSEWHERE = json.dumps(
    {
        "grant_types": ["client_credentials"],
        "scope": "system/*.c",
        "jwks_uri": "https://keys.test/jwks",
        "push": {"mode": "deliver", "ehr": "nowhere"},
    }
)
BAD_COMMANDS: list[tuple[tuple[str, ...], str, str]] = [
    (("client", "register", "--from", "-"), "{", "--from"),
    (("client", "register", "--from", "-"), '{"redirect_uris": ["http://evil.test/cb"]}', "loopback"),
    (("client", "register", "--from", "-"), ELSEWHERE, "push.ehr"),
    (("client", "register", "--from", "missing.json"), "", "missing.json"),
    (("client", "token", "--client", "lab", "--key", "gateway.db", "--ehr", EHR), "", "--key"),
    (("user", "add", "eve", "--ehr", EHR, "--fhir-user", "Patient/x", "--password-stdin"), "short\n", "password"),
    (("user", "add", "eve", "--ehr", EHR, "--fhir-user", "Nonsense", "--password-stdin"), f"{PASSWORD}\n", "fhir-user"),
    (("user", "add", "ann", "--ehr", EHR, "--fhir-user", "Patient/x", "--password-stdin"), f"{PASSWORD}\n", "taken"),
    (("launch", "create", "--ehr", EHR, "--client", "nobody", "--patient", "x"), "", "--client"),
    (("launch", "create", "--ehr", "nowhere", "--client", "app", "--patient", "x"), "", "nowhere"),
    (("inbox", "show", "nothing"), "", "nothing"),
    (("serve", "--ehr", "x=ftp://y"), "", "ehr"),
    (("serve", "--listen", "nonsense"), "", "listen"),
    (("serve", "--config", "missing.toml"), "", "missing.toml"),
    (("ehr", "check", "nowhere"), "", "nowhere"),
]  # fmt: skip
