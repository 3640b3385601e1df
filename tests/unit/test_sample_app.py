"""The sample app: what its server sends, and in a real browser both launches against a small SMART server that checks every step."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, urlencode

import httpx
import pytest
import uvicorn
from axe_playwright_python.base import AXE_FILE_PATH
from playwright.sync_api import Page, sync_playwright

from gateway.errors import ConfigError
from gateway.sandbox import sample_app

SERVER = "https://gateway.example/fhir/hapi"


@pytest.fixture
async def client():
    transport = httpx.ASGITransport(sample_app.SampleApp([SERVER]))
    async with httpx.AsyncClient(transport=transport, base_url="http://app.example") as client:
        yield client


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/", "text/html; charset=utf-8"),
        ("/launch?iss=x&launch=y", "text/html; charset=utf-8"),
        ("/callback?code=c", "text/html; charset=utf-8"),
        ("/app.js", "text/javascript; charset=utf-8"),
        ("/app.css", "text/css; charset=utf-8"),
        ("/icon.svg", "image/svg+xml"),
        ("/config.json", "application/json"),
    ],
)
async def test_every_file_comes_with_strict_headers(client, path, kind):
    """Nothing inline, nothing from elsewhere, connections to the named servers only."""
    answer = await client.get(path)
    policy = dict(part.strip().partition(" ")[::2] for part in answer.headers["content-security-policy"].split(";"))
    assert (answer.status_code, answer.headers["content-type"]) == (200, kind)
    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == "'self'"
    assert policy["connect-src"] == "'self' https://gateway.example"
    assert policy["frame-ancestors"] == "'none'"
    assert answer.headers["referrer-policy"] == "no-referrer"
    assert answer.headers["cache-control"] == "no-store"


async def test_there_is_nothing_else(client):
    """No listing, no way out of the folder, no other method."""
    assert [(await client.get(path)).status_code for path in ("/static/app.js", "/../__init__.py", "/%2e%2e/__init__.py", "/x")] == [404] * 4
    refused = await client.post("/", content=b"x")
    assert (refused.status_code, refused.headers["allow"]) == (405, "GET, HEAD")
    assert (await client.head("/app.js")).content == b""


async def test_the_page_has_nothing_inline(client):
    """The policy would block it, and the page would silently lack it."""
    html = (await client.get("/")).text
    assert "style=" not in html
    assert "<style" not in html
    assert "onclick" not in html
    assert html.count("<script") == 1
    assert '<script type="module" src="/app.js"></script>' in html


def test_the_registration_is_of_a_public_client():
    """RFC 7591; one redirect URI, to be matched exactly."""
    found = sample_app.registration("http://127.0.0.1:9100/")
    assert found["redirect_uris"] == ["http://127.0.0.1:9100/callback"]
    assert found["launch_uri"] == "http://127.0.0.1:9100/launch"
    assert found["token_endpoint_auth_method"] == "none"
    assert found["grant_types"] == ["authorization_code", "refresh_token"]
    assert {"launch", "launch/patient"} <= set(found["scope"].split())
    assert json.dumps(found)


async def test_the_configuration_names_servers_and_client(client):
    """All that the page is told."""
    found = (await client.get("/config.json")).json()
    assert found == {"client_id": "sample-app", "name": sample_app.NAME, "scope": sample_app.SCOPES, "servers": [SERVER]}


def test_it_is_served_on_loopback_until_it_is_stopped():
    """On a port that was free; again is harmless, a port that is taken is a sentence."""
    listener = sample_app.listen()
    running = sample_app.start([SERVER], listener)
    try:
        assert running.base_url.startswith("http://127.0.0.1:")
        assert httpx.get(running.base_url).status_code == 200
        with pytest.raises(ConfigError, match="cannot have port"):
            sample_app.listen(listener.getsockname()[1])
    finally:
        running.stop()
        running.stop()
    assert not running.thread.is_alive()


# In a browser -----------------------------------------------------------------------------------------------------------------

PATIENT = '{"resourceType":"Patient","id":"p1","name":[{"family":"Okafor","given":["Amara"]}],"birthDate":"1974-03-14"}'


def observation(number: int, value: str, more: str = "") -> str:
    date = f"2026-11-{20 - number:02d}T23:50:00-05:00"
    head = f'"resourceType":"Observation","id":"o{number}","status":"final","code":{{"text":"Test {number}"}},"effectiveDateTime":"{date}"'
    return f'{{"resource":{{{head},{value}{more}}}}}'


RESULTS = [
    observation(
        0,
        '"valueQuantity":{"value":1.10,"unit":"mg/dL"}',
        ',"referenceRange":[{"low":{"value":0.60,"unit":"mg/dL"},"high":{"value":1.10,"unit":"mg/dL"}}]',
    ),
    observation(1, '"valueQuantity":{"value":5,"comparator":"<","unit":"mg/L"}', ',"interpretation":[{"coding":[{"code":"H"}]}]'),
    observation(2, '"valueString":"<img src=x onerror=alert(1)>"'),
    observation(3, '"component":[{"code":{"text":"Upper"},"valueQuantity":{"value":120}}]'),
    *[observation(number, '"valueQuantity":{"value":2.50}') for number in range(4, 12)],
]


@dataclass
class SmartServer:
    """An ASGI SMART server that signs everybody in at once, and refuses what a strict one refuses."""

    requests: list[tuple[str, str, dict[str, str]]] = field(default_factory=list)
    challenges: dict[str, dict[str, str]] = field(default_factory=dict)
    scope: str = "patient/Patient.r patient/Observation.rs"
    deny: str = ""
    issuer: str = ""
    base: str = ""
    tokens: int = 0
    results: bool = True

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        body = (await receive()).get("body", b"").decode()
        path, query = scope["path"], scope["query_string"].decode()
        given = dict(parse_qsl(body or query))
        self.requests.append((scope["method"], path, given))
        auth = dict(scope["headers"]).get(b"authorization", b"").decode()
        status, kind, text, more = 200, "application/json", "{}", []
        if scope["method"] == "OPTIONS":
            status, text = 204, ""
        elif path.endswith("/.well-known/smart-configuration"):
            text = json.dumps(self.discovery())
        elif path == "/authorize":
            status, more = 302, [(b"location", self.authorize(given).encode())]
        elif path == "/token":
            status, text = self.token(given)
        elif auth != f"Bearer access-{self.tokens}":
            status, text = 401, '{"resourceType":"OperationOutcome","issue":[{"code":"login"}]}'
        elif path == "/fhir/x/Patient/p1":
            text = PATIENT
        elif path == "/fhir/x/Observation":
            status = 200 if self.results else 403
            text = f'{{"resourceType":"Bundle","entry":[{",".join(RESULTS)}]}}' if self.results else '{"resourceType":"OperationOutcome"}'
        cors = [(b"access-control-allow-origin", b"*"), (b"access-control-allow-headers", b"authorization, content-type")]
        await send({"type": "http.response.start", "status": status, "headers": [(b"content-type", kind.encode()), *cors, *more]})
        await send({"type": "http.response.body", "body": text.encode()})

    def discovery(self) -> dict[str, Any]:
        return {
            "issuer": f"{self.base}/fhir/x",
            "authorization_endpoint": f"{self.base}/authorize",
            "token_endpoint": f"{self.base}/token",
            "code_challenge_methods_supported": ["S256"],
            "authorization_response_iss_parameter_supported": True,
        }

    def authorize(self, given: dict[str, str]) -> str:
        answer = {"state": given["state"], "iss": self.issuer or f"{self.base}/fhir/x"}
        if self.deny:
            return f"{given['redirect_uri']}?{urlencode(answer | {'error': self.deny, 'error_description': 'said so'})}"
        code = f"code-{len(self.challenges)}"
        self.challenges[code] = given
        return f"{given['redirect_uri']}?{urlencode(answer | {'code': code})}"

    def token(self, given: dict[str, str]) -> tuple[int, str]:
        if given["grant_type"] == "authorization_code":
            asked = self.challenges.pop(given["code"], {})
            proof = base64.urlsafe_b64encode(hashlib.sha256(given["code_verifier"].encode()).digest()).decode().rstrip("=")
            if proof != asked.get("code_challenge") or given["redirect_uri"] != asked["redirect_uri"] or given["client_id"] != "sample-app":
                return 400, '{"error":"invalid_grant"}'
        elif given.get("refresh_token") != f"refresh-{self.tokens}":
            return 400, '{"error":"invalid_grant"}'
        self.tokens += 1
        found = {"access_token": f"access-{self.tokens}", "refresh_token": f"refresh-{self.tokens}", "token_type": "Bearer", "expires_in": 300}
        return 200, json.dumps(found | {"scope": self.scope, "patient": "p1"})


@contextmanager
def served(app: Any) -> Iterator[str]:
    listener = sample_app.listen()
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", access_log=False, lifespan="off"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    try:
        yield sample_app.base_url(listener)
    finally:
        server.should_exit = True
        thread.join(10)


@dataclass
class Stage:
    """A browser page, the app and the server that it launches from."""

    page: Page
    app: str
    server: SmartServer
    problems: list[str]

    @property
    def fhir(self) -> str:
        return f"{self.server.base}/fhir/x"

    def connect(self) -> None:
        self.page.goto(self.app)
        self.page.get_by_role("button", name="Connect").click()

    def axe(self) -> list[str]:
        """Rule ids of every violation and every thing that axe could not settle."""
        self.page.evaluate(AXE_FILE_PATH.read_text())
        found = self.page.evaluate("axe.run({runOnly: ['wcag2a','wcag2aa','wcag21a','wcag21aa','wcag22aa','best-practice']})")
        return [item["id"] for item in found["violations"]]


@pytest.fixture
def stage(chromium) -> Iterator[Stage]:
    server = SmartServer()
    with served(server) as base, sync_playwright() as playwright:
        server.base = base
        running = sample_app.start([f"{base}/fhir/x"], sample_app.listen())
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_context(viewport={"width": 320, "height": 800}).new_page()
        page.set_default_timeout(10_000)
        problems: list[str] = []
        page.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: problems.append(str(error)))
        yield Stage(page, running.base_url, server, problems)
        browser.close()
        running.stop()


@pytest.mark.browser
def test_a_standalone_launch_shows_name_results_and_scopes(stage):
    """Ten results, numbers as written, text as text, the day as the laboratory wrote it; the address keeps no code."""
    stage.connect()
    page = stage.page
    page.get_by_role("heading", name="Latest results").wait_for()
    rows = page.get_by_role("row").all_inner_texts()
    asked = next(given for method, path, given in stage.server.requests if path == "/authorize")
    assert "Amara Okafor, born 14 Mar 1974" in page.inner_text("#patient")
    assert len(rows) == 11
    assert "1.10 mg/dL" in rows[1]
    assert "Usual: 0.60 mg/dL to 1.10 mg/dL" in rows[1]
    assert "20 Nov 2026" in rows[1]
    assert "<5 mg/L" in rows[2]
    assert "High" in rows[2]
    assert "<img src=x onerror=alert(1)>" in rows[3]
    assert "Upper 120" in rows[4]
    assert "2.50" in rows[5]
    assert "Read and search Observation resources of this patient" in page.inner_text("#scopes")
    assert page.url == f"{stage.app}/callback"
    assert asked["aud"] == stage.fhir
    assert asked["code_challenge_method"] == "S256"
    assert len(asked["state"]) >= 43
    assert "launch" not in asked
    assert asked["scope"].startswith("launch/patient openid")
    assert stage.problems == []


@pytest.mark.browser
def test_nothing_is_kept_in_the_browser(stage):
    """State and verifier go with their use; tokens are in memory alone."""
    stage.connect()
    stage.page.get_by_role("button", name="Refresh").wait_for()
    assert stage.page.evaluate("[sessionStorage.length, localStorage.length, document.cookie]") == [0, 0, ""]
    assert "access-1" not in stage.page.content()


@pytest.mark.browser
def test_refresh_takes_a_new_token_and_reads_again(stage):
    """Rotation: the second refresh sends the second refresh token, and a double click sends one."""
    stage.connect()
    button = stage.page.get_by_role("button", name="Refresh")
    for _ in range(2):
        button.wait_for()
        stage.page.evaluate("document.getElementById('refresh').click(); document.getElementById('refresh').click()")
        stage.page.locator("#status", has_text="Read at").wait_for()
    sent = [given.get("refresh_token") for _, path, given in stage.server.requests if path == "/token"]
    assert sent == [None, "refresh-1", "refresh-2"]
    assert stage.page.get_by_role("row").count() == 11


@pytest.mark.browser
def test_an_ehr_launch_begins_at_once(stage):
    """With the EHR's handle, and the scope launch."""
    stage.page.goto(f"{stage.app}/launch?{urlencode({'iss': stage.fhir, 'launch': 'handle 1/+'})}")
    stage.page.get_by_role("button", name="Refresh").wait_for()
    asked = next(given for method, path, given in stage.server.requests if path == "/authorize")
    assert asked["launch"] == "handle 1/+"
    assert asked["scope"].startswith("launch openid")
    assert stage.problems == []


@pytest.mark.browser
def test_a_launch_from_an_unknown_server_goes_nowhere(stage):
    """Else a stranger's server could ask this app's users to sign in."""
    stage.page.goto(f"{stage.app}/launch?iss=https://evil.example/fhir&launch=1")
    stage.page.get_by_role("heading", name="That did not work").wait_for()
    assert "does not know" in stage.page.inner_text("#problem-text")
    assert stage.server.requests == []


@pytest.mark.browser
def test_a_forged_answer_is_refused(stage):
    """A state that this tab never made; and an answer of another issuer (RFC 9207)."""
    stage.page.goto(f"{stage.app}/callback?code=stolen&state=forged")
    stage.page.get_by_role("heading", name="That did not work").wait_for()
    assert "did not start that sign-in" in stage.page.inner_text("#problem-text")
    stage.server.issuer = "https://evil.example/fhir"
    stage.connect()
    stage.page.get_by_role("heading", name="That did not work").wait_for()
    assert "another server" in stage.page.inner_text("#problem-text")
    assert not [path for _, path, _ in stage.server.requests if path == "/token"]


@pytest.mark.browser
@pytest.mark.parametrize(
    ("error", "sentence"),
    [("access_denied", "You did not allow this app"), ("invalid_scope", "does not give what"), ("something_new", "The health record said no")],
)
def test_a_refusal_is_a_sentence(stage, error, sentence):
    """And the code is there for developers."""
    stage.server.deny = error
    stage.connect()
    stage.page.get_by_role("heading", name="That did not work").wait_for()
    assert sentence in stage.page.inner_text("#problem-text")
    assert error in stage.page.inner_text("#problem-code")
    assert stage.axe() == []


@pytest.mark.browser
def test_results_that_may_not_be_seen_are_said(stage):
    """The name is still shown."""
    stage.server.results = False
    stage.connect()
    stage.page.get_by_role("button", name="Refresh").wait_for()
    assert "not given the right" in stage.page.inner_text("#no-results")
    assert "Amara" in stage.page.inner_text("#patient")


@pytest.mark.browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_is_accessible_and_fits_320_pixels(stage, scheme):
    """No finding of axe in both views, with everything unfolded; focus is on the heading; nothing scrolls sideways."""
    page = stage.page
    page.emulate_media(color_scheme=scheme)
    page.goto(stage.app)
    page.get_by_role("button", name="Connect").wait_for()
    page.locator("details").first.evaluate("node => { node.open = true }")
    assert stage.axe() == []
    page.get_by_role("button", name="Connect").click()
    page.get_by_role("button", name="Refresh").wait_for()
    assert page.evaluate("document.activeElement.id") == "record-title"
    page.locator("#record details").evaluate("node => { node.open = true }")
    assert stage.axe() == []
    assert page.evaluate("document.documentElement.scrollWidth") <= 320
    assert page.title().startswith("Latest results ·")
