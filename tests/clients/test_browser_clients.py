"""Client libraries for browsers, as their archives have them, in Chromium against a gateway: launch, read, page, refresh, and what is refused."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from playwright.async_api import Browser, Page

from tests.clients.scene import OTHER, PASSWORD, PATIENT, RESULTS, Scene

pytestmark = pytest.mark.browser


@pytest.fixture
async def page(browser: Browser) -> AsyncIterator[Page]:
    """A person's browser that knows nobody yet."""
    context = await browser.new_context()
    yield await context.new_page()
    await context.close()


async def leave(page: Page, script: str, *given: Any) -> None:
    """Run what ends with another page."""
    async with page.expect_navigation():
        await page.evaluate(f"given => {{ {script} }}", list(given))


async def allow(page: Page, app: str) -> None:
    """Sign in, allow all that is asked for, and arrive at the app."""
    await page.fill("#username", PATIENT)
    await page.fill("#password", PASSWORD)
    await page.click("form[action='/signin'] button")
    await page.click("button[value=allow]")
    await page.wait_for_url(f"{app}?*code=*")


async def call(page: Page, script: str, *given: Any) -> Any:
    """What the app's function gives."""
    return await page.evaluate(f"given => app.{script}(...given)", list(given))


def check_pages(found: list[list[str]]) -> None:
    """Three pages, with all results of the patient and nobody else's, each once."""
    assert [len(one) for one in found] == [10, 10, 5]
    assert {id_ for one in found for id_ in one} == {f"{PATIENT}-{number}" for number in range(RESULTS)}


async def test_fhirclient_js_standalone(page: Page, running: Scene):
    """Discovery by smart-configuration, patient.read, pages; its refresh sends no client_id; it renews by itself what expired."""
    app = f"{running.apps}/fhirclient.html"
    await page.goto(app)
    await leave(page, "app.standalone(...given)", running.base, "fhirclient-js")
    await allow(page, app)
    ready = await call(page, "ready")
    assert (ready["patient"], ready["user"]) == (PATIENT, f"Patient/{PATIENT}")
    assert await call(page, "read") == "Released"
    check_pages(await call(page, "results"))
    assert len(await call(page, "ofPatient")) == RESULTS  # needs the search parameters in /metadata
    first = await call(page, "token")
    await call(page, "refresh")
    second = await call(page, "token")
    assert second != first
    running.expire("fhirclient-js")
    await page.clock.set_system_time(datetime.now(UTC) + timedelta(hours=1))  # it goes by its own clock
    assert await call(page, "read") == "Released"
    assert await call(page, "token") not in (first, second)
    assert running.on_record("fhirclient-js", tokens=3, reads=2, searches=5)


async def test_fhirclient_js_is_refused(page: Page, running: Scene):
    """Its own errors: another patient's record, a type without a scope, and when nothing counts any more."""
    app = f"{running.apps}/fhirclient.html"
    await page.goto(app)
    await leave(page, "app.standalone(...given)", running.base, "fhirclient-js")
    await allow(page, app)
    await call(page, "ready")
    assert (await call(page, "refused", "Condition?patient=ann")).startswith("HttpError: 403 Forbidden")
    assert (await call(page, "refused", f"Patient/{OTHER}")).startswith("HttpError: 404 Not Found")
    running.revoke("fhirclient-js")
    assert "Session expired" in await call(page, "refused", f"Patient/{PATIENT}")


async def test_fhirclient_js_with_a_key(page: Page, running: Scene):
    """It proves itself for its first token; its refresh carries no assertion, so that anybody could have sent it."""
    app, key = f"{running.apps}/fhirclient.html", {**running.keys["fhirclient-js-keyed"], "key_ops": ["sign"]}
    await page.goto(app)
    await leave(page, "app.standalone(...given)", running.base, "fhirclient-js-keyed", key)
    await allow(page, app)
    assert (await call(page, "ready"))["patient"] == PATIENT
    check_pages(await call(page, "results"))
    assert "401" in await call(page, "refreshRefused")
    assert await call(page, "read") == "Released"
    assert running.on_record("fhirclient-js-keyed", tokens=1, reads=1, searches=3)


async def test_fhirclient_js_launched_by_the_ehr(page: Page, running: Scene):
    """The EHR opens the app's launch page with iss and launch; the patient comes from there."""
    app = f"{running.apps}/fhirclient.html"
    opened = running.launch_url("fhirclient-js-ehr")
    await page.goto(opened)
    await leave(page, "app.launched(...given)", "fhirclient-js-ehr")
    await allow(page, app)
    assert (await call(page, "ready"))["patient"] == PATIENT
    assert await call(page, "read") == "Released"
    check_pages(await call(page, "results"))
    await call(page, "refresh")
    assert await call(page, "read") == "Released"
    assert running.on_record("fhirclient-js-ehr", tokens=2, reads=2, searches=3)
    # The same launch again: used up.
    await page.goto(opened)
    await leave(page, "app.launched(...given)", "fhirclient-js-ehr")
    await page.wait_for_url(f"{app}?*error=*")
    assert "invalid_request" in await page.evaluate("app.ready().then(() => '', String)")


async def test_medplum(page: Page, running: Scene):
    """Its sign-in by redirect, readResource, searchResourcePages; at a 401 it refreshes by itself."""
    app = f"{running.apps}/medplum.html"
    await page.goto(app)
    await call(page, "open", running.base)
    await leave(page, "app.signIn()")
    await allow(page, app)
    await call(page, "open", running.base)
    await call(page, "finish")
    assert await call(page, "read", PATIENT) == "Released"
    check_pages(await call(page, "results", PATIENT))
    first = await call(page, "token")
    running.expire("medplum")
    assert await call(page, "read", PATIENT) == "Released"
    assert await call(page, "token") != first
    assert running.on_record("medplum", tokens=2, reads=2, searches=3)
    assert "Failed to fetch" in await call(page, "asItComes", "Patient", PATIENT)  # a header of its own, and credentials
    assert (await call(page, "refused", "Condition", "c")).startswith("OperationOutcomeError: The token has no scope")
    assert (await call(page, "refused", "Patient", OTHER)).startswith("OperationOutcomeError: There is no such resource")
    running.revoke("medplum")
    assert (await call(page, "refused", "Patient", PATIENT)).startswith("OperationOutcomeError: Failed to fetch tokens")


async def test_openid_client(page: Page, running: Scene):
    """OpenID Connect discovery, iss, nonce and the id_token's signature checked by the library; it proves itself by a key, aud is the issuer."""
    app, base = f"{running.apps}/openid-client.html", running.base
    key = running.keys["openid-client"]
    await page.goto(app)
    assert await call(page, "open", base, key) == f"{running.gateway.url}/auth/clinic/token"
    await leave(page, "app.start(...given)", base)
    await allow(page, app)
    await call(page, "open", base, key)
    assert await call(page, "finish") == {"patient": PATIENT, "user": f"{base}/Patient/{PATIENT}"}
    assert await call(page, "read", base) == "Released"
    check_pages(await call(page, "results", base))
    first = await call(page, "token")
    await call(page, "open", base, key, "")
    assert await call(page, "refreshRefused") == "ResponseBodyError OAUTH_RESPONSE_BODY_ERROR invalid_client"
    await call(page, "open", base, key)
    await call(page, "refresh")
    assert await call(page, "token") != first
    assert await call(page, "read", base) == "Released"
    assert running.on_record("openid-client", tokens=2, reads=2, searches=3)
    running.revoke("openid-client")
    assert await call(page, "refused", f"{base}/Patient/{PATIENT}") == "WWWAuthenticateChallengeError OAUTH_WWW_AUTHENTICATE_CHALLENGE"


async def test_openid_client_with_another_audience(page: Page, running: Scene):
    """The library's AuthorizationResponseError, and no code."""
    app = f"{running.apps}/openid-client.html"
    await page.goto(app)
    await call(page, "open", running.base, running.keys["openid-client"])
    await leave(page, "app.start(...given)", "https://elsewhere.example/fhir")
    await page.wait_for_url(f"{app}?*error=*")
    await call(page, "open", running.base, running.keys["openid-client"])
    assert await call(page, "finishRefused") == "AuthorizationResponseError OAUTH_AUTHORIZATION_RESPONSE_ERROR invalid_request"
