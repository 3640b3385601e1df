"""Client libraries for Python, in an environment of their own, against a gateway: launch, read, page, refresh, and what is refused."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from joserfc import jwk

from tests.clients.programs import run
from tests.clients.scene import NAME, PATIENT, RESULTS, Scene


def check(found: Mapping[str, Any]) -> None:
    """The patient's name before and after a refresh, and all her results, each once, on three pages."""
    assert (found["name"], found["again"], found["refreshed"]) == (NAME, NAME, True)
    assert [len(one) for one in found["pages"]] == [10, 10, 5]
    assert {id_ for one in found["pages"] for id_ in one} == {f"{PATIENT}-{number}" for number in range(RESULTS)}


def test_fhirclient(running: Scene, interpreter: Path):
    """Endpoints from oauth-uris in /metadata (A1.10); Basic and client_id together, a stray state, launch/patient twice; it refreshes at a 401."""
    found = run(interpreter, "fhirclient_py", "fhirclient-py", running)
    check(found)
    assert found["forbidden"].startswith("FHIRNotFoundException")
    assert found["type"].startswith("FHIRPermissionDeniedException")
    assert found["slash"] == ""
    assert found["audience"] == "Exception: The parameter aud must be the address of this FHIR server."
    assert running.on_record("fhirclient-py", tokens=2, reads=2, searches=3)


def test_authlib(running: Scene, interpreter: Path):
    """It proves itself by a key, and refreshes what expired by its own clock. An assertion of an hour, its default, is refused."""
    found = run(interpreter, "authlib_httpx", "authlib", running, key=running.keys["authlib"])
    check(found)
    assert found["forbidden"].startswith("HTTPStatusError: Client error '404")
    assert found["audience"].startswith("OAuthError: unauthorized_client")
    assert found["unknown"].startswith("OAuthError: invalid_grant")
    assert found["as_it_comes"].startswith("OAuthError: invalid_client")
    assert running.on_record("authlib", tokens=2, reads=2, searches=3)


def test_requests_oauthlib_and_fhirpy(running: Scene, interpreter: Path):
    """The granted scope is the one that was asked for; less is an error of oauthlib's. With fhirpy they count and page."""
    found = run(interpreter, "requests_oauthlib_fhirpy", "requests-oauthlib", running)
    check(found)
    assert (found["count"], found["status"]) == (RESULTS, 200)
    assert found["expired"].startswith("AuthorizationError")
    assert found["forbidden"].startswith("ResourceNotFound")
    assert "aud must be the address" in found["audience"]
    assert found["less"].startswith("Warning: Scope has changed")
    assert running.on_record("requests-oauthlib", tokens=3, reads=3, searches=3)


def test_cumulus(running: Scene, interpreter: Path):
    """A backend service with version 1 scopes and its own assertion; at a 401 it asks for a new token."""
    wrong = jwk.ECKey.generate_key("P-384", private=True).as_dict(private=True)
    key = running.keys["cumulus"]
    found = run(interpreter, "cumulus", "cumulus", running, key=key, wrong={name: wrong[name] for name in ("x", "y", "d")})
    check(found)
    assert found["forbidden"].startswith("FatalNetworkError")
    assert "[403]" in found["forbidden"]
    assert found["key"].startswith("AuthFailed")
    assert found["scope"].startswith("AuthFailed")
    assert found["mixed"].startswith("AuthFailed")
    assert running.on_record("cumulus", tokens=2, reads=2, searches=3)
