"""The pages of an authorization in a browser: what each is guarded with, and what an attacker gets (section C1)."""

from __future__ import annotations

import re
from urllib.parse import urlencode

import pytest

from gateway.errors import Unavailable
from tests.support import smart
from tests.support.pages_scene import CONSENT, PATIENT, fields_of, no_code


async def test_errors_before_the_redirect_is_known_are_pages(running):
    """ATK-O1, O2: an HTML page with 400, and no Location."""
    browser = running.browser()
    for changes in ({"redirect_uri": "https://evil.test/"}, {"client_id": "nobody"}, {"redirect_uri": "https://app.test\\@evil.test/"}):
        response = await browser.http.get("/auth/hapi/authorize", params=smart.asking(**changes))
        assert response.status_code == 400
        assert "location" not in response.headers
        assert "evil" not in response.text
    assert (await browser.http.get("/auth/nowhere/authorize", params=smart.asking())).status_code == 404
    assert (await browser.http.put("/auth/hapi/authorize")).status_code == 405
    assert (await browser.http.get("/auth/hapi/authorize?%FF=1")).status_code == 400
    assert (await browser.http.post("/auth/hapi/authorize", json=smart.asking())).status_code == 400


async def test_requests_may_be_posted(running):
    """HL7@49: the same parameters as a form; what is said in both places is said twice."""
    browser = running.browser()
    await browser.post("/auth/hapi/authorize", smart.asking().items())
    assert browser.page.request.url.path == "/signin"
    await browser.sign_in()
    await browser.allow()
    assert browser.answer["code"]
    twice = await running.browser().post(f"/auth/hapi/authorize?{urlencode(smart.asking())}", smart.asking().items())
    assert twice.status_code == 400


@pytest.mark.parametrize("path", ["/signin", "/signout", CONSENT, "/auth/hapi/authorize"])
async def test_every_page_has_its_guards(running, path):
    """ATK-O18, O34: no framing, no referrer, no storage, nothing inline."""
    response = await running.browser().http.get(path)
    headers = response.headers
    assert "frame-ancestors 'none'" in headers["content-security-policy"]
    assert "unsafe" not in headers["content-security-policy"]
    assert (headers["x-frame-options"], headers["referrer-policy"], headers["x-content-type-options"]) == ("DENY", "no-referrer", "nosniff")
    assert "no-store" in headers["cache-control"]
    assert not re.search(r"<script|style=|\son\w+=", response.text)


async def test_redirects_are_not_stored_and_are_303(running):
    """ATK-O34: after a form comes a GET, so no form is posted on to the app."""
    browser = await running.at_consent()
    fields = smart.Form(browser.page.text).to(CONSENT)
    response = await browser.http.post(CONSENT, data={**dict(fields), "decision": "allow"})
    assert response.status_code == 303
    assert (response.headers["referrer-policy"], response.headers["cache-control"]) == ("no-referrer", "no-store")
    signing = running.browser()
    await signing.get("/signin")
    form = fields_of(signing, "/signin") | {"username": "ann", "password": smart.PASSWORD}
    assert (await signing.http.post("/signin", data=form)).status_code == 303


async def test_the_app_may_be_redirected_to_from_forms(running):
    """Browsers apply form-action to redirects too: the app's origin is in it, and only on these pages."""
    browser = await running.at_consent()
    assert "form-action 'self' https://app.test;" in browser.page.headers["content-security-policy"]
    assert "app.test" not in (await running.browser().get("/signin")).headers["content-security-policy"]


async def test_cookies_are_guarded(running):
    """ATK-O18: HttpOnly, SameSite, Secure, for this host alone."""
    browser = running.browser()
    await browser.get("/signin")
    form = fields_of(browser, "/signin") | {"username": "ann", "password": smart.PASSWORD}
    before = await running.browser().http.get("/signin")
    for response in (before, await browser.http.post("/signin", data=form)):
        for cookie in response.headers.get_list("set-cookie"):
            assert cookie.startswith("__Host-gw_")
            assert {"HttpOnly", "SameSite=lax", "Secure", "Path=/"} <= {part.strip() for part in cookie.split(";")}


async def test_the_browser_that_began_goes_on(running):
    """ATK-O17: the handle in another browser, or without its cookie, is worth nothing."""
    victim, attacker = running.browser(), running.browser()
    await attacker.authorize(smart.asking())
    link = str(attacker.page.request.url)
    await victim.get(link)
    assert victim.page.status_code == 400
    signed_in = running.browser()  # with cookies of her own, and somebody signed in
    await signed_in.get("/signin")
    await signed_in.sign_in("mum")
    for path in (link, link.replace("/signin?", "/auth/hapi/consent?")):
        refused = await signed_in.get(path)
        assert (refused.status_code, "app &amp; Co" in refused.text) == (400, False)
    signed = await running.at_consent()
    stolen = await victim.get(str(signed.page.request.url))
    assert (stolen.status_code, stolen.request.url.path) == (400, CONSENT)
    assert "app &amp; Co" not in stolen.text


@pytest.mark.parametrize("csrf", [None, "", "wrong", "of-another-session"])
async def test_forms_need_their_token(running, csrf):
    """ATK-O17: sign-in (login CSRF), picker, consent and sign-out; another session's token is as good as none."""
    other = await running.at_consent()
    token = fields_of(other, CONSENT)["csrf"] if csrf == "of-another-session" else csrf
    change = {} if token is None else {"csrf": token}
    browser = running.browser()
    await browser.get("/signin")
    refused = await browser.submit("/signin", without=["csrf"], username="ann", password=smart.PASSWORD, **change)
    assert refused.status_code == 403
    assert "__Host-gw_session" not in browser.http.cookies
    browser = await running.at_consent()
    page = browser.page
    for action in (CONSENT, "/signout"):
        browser.page = page if action == CONSENT else await browser.get("/signout")
        refused = await browser.submit(action, without=["csrf"], decision="allow", **change)
        assert refused.status_code == 403
        no_code(browser)
    assert (await browser.post(PATIENT, [("patient", "a"), *change.items()])).status_code == 403


async def test_without_cookies_no_form_counts(running):
    """ATK-O17: a cross-site POST comes without them (SameSite)."""
    browser = await running.at_consent()
    fields = smart.Form(browser.page.text).to(CONSENT)
    bare = running.browser()
    for action in (CONSENT, PATIENT, "/auth/hapi/cancel", "/signin"):
        response = await bare.post(action, [*fields, ("decision", "allow"), ("username", "ann"), ("password", smart.PASSWORD)])
        assert response.status_code == 403
        no_code(bare)


async def test_another_transaction_of_the_same_browser_is_another(running):
    """Two apps in two tabs do not disturb each other, and each handle ends once."""
    browser = await running.at_consent(state="one")
    first = browser.page
    await browser.authorize(smart.asking(state="two"))
    second = browser.page
    assert second.request.url.path == CONSENT
    browser.page = first
    await browser.allow()
    assert browser.answer["state"] == "one"
    browser.page = second
    await browser.allow()
    assert browser.answer["state"] == "two"


async def test_consent_is_about_the_patient_on_the_page(running):
    """ATK-O16: another patient chosen in another tab: Allow on the old page grants nothing and shows the other; nor does a changed field."""
    browser = await running.at_consent(username="mum")
    await browser.pick("kid")
    shown = browser.page
    await browser.get(PATIENT, transaction=fields_of(browser, CONSENT)["transaction"])
    await browser.pick("m")
    browser.page = shown
    for page in (shown, None):
        await (browser.allow() if page else browser.submit(CONSENT, decision="allow", patient=""))
        assert browser.page.request.url.path == CONSENT
        assert fields_of(browser, CONSENT)["patient"] == "m"
        assert not browser.left_to
        assert not [one for one in running.server.records if one.action.startswith("grant")]
    await browser.allow()
    assert browser.answer["code"]
    assert [one.patients for one in running.server.records if one.action == "grant"] == [("m",)]


async def test_forwarded_headers_change_nothing(running):
    """ATK-O31: issuer and addresses are from the configuration."""
    poison = {"X-Forwarded-Host": "evil.test", "X-Forwarded-Proto": "http", "Forwarded": "host=evil.test", "Host": "evil.test"}
    response = await running.browser().http.get("/auth/hapi/authorize", params=smart.asking(scope="email"), headers=poison)
    assert "iss=https%3A%2F%2Fgateway.test%2Ffhir%2Fhapi" in response.headers["location"]
    response = await running.browser().http.get("/auth/hapi/authorize", params=smart.asking(), headers=poison)
    assert response.headers["location"].startswith("/auth/hapi/consent?")


async def test_a_store_that_is_down_is_said(running, monkeypatch):
    """503 as a page, and as OAuth JSON with Retry-After; never a stack trace."""
    browser = running.browser()

    def down() -> None:
        raise Unavailable(reason="store-down", retry_after=2)

    monkeypatch.setattr(running.server.database, "read", down)
    monkeypatch.setattr(running.server.database, "write", down)
    page = await browser.http.get("/auth/hapi/authorize", params=smart.asking())
    assert (page.status_code, page.headers["retry-after"]) == (503, "2")
    assert "Please try again" in page.text
    answer = await smart.exchange(browser.http, {"grant_type": "refresh_token", "refresh_token": "x"})
    assert (answer.status_code, answer.json()["error"], answer.headers["retry-after"]) == (503, "temporarily_unavailable", "2")
