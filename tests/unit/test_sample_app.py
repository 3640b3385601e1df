"""The sample app: what its server sends. The page itself is tried in a browser (e2e/test_sample_app_browser)."""

from __future__ import annotations

import json

import httpx
import pytest

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
