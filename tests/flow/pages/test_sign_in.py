"""Signing in with a password: sessions, wrong passwords, where it leads, and accounts."""

from __future__ import annotations

import pytest
from starlette.requests import Request
from starlette.responses import PlainTextResponse

from gateway.errors import NotDone
from gateway.smart.record import Caller
from gateway.smart.server.people.accounts import Accounts, Passwords, SignedIn, Wrong
from gateway.smart.server.people.sessions import SessionLives
from tests.support import smart
from tests.support.pages_scene import CONSENT, fields_of


async def test_session_is_new_at_each_sign_in(running):
    """ATK-O19: what the browser had before, planted or not, is worth nothing afterwards."""
    browser = running.browser()
    browser.http.cookies.set("__Host-gw_session", "x" * 43, domain="gateway.test")
    await browser.get("/signin")
    await browser.sign_in()
    first = _session(browser)
    assert first != "x" * 43
    assert await running.server.sessions.current(first)
    running.server.clock.forward(1)
    await browser.authorize(smart.asking(prompt="login"))
    await browser.sign_in()
    second = _session(browser)
    assert second != first
    assert await running.server.sessions.current(first) is None


def _session(browser: smart.Browser) -> str:
    return next(cookie.value or "" for cookie in reversed(list(browser.http.cookies.jar)) if cookie.name == "__Host-gw_session")


async def test_sessions_end(running):
    """F43: idle for 15 minutes, 12 hours at most, at sign-out, when the account is closed."""
    account, sessions, clock = await running.server.accounts.named("ann"), running.server.sessions, running.server.clock
    secret = await sessions.begin(account)
    clock.forward(14 * 60)
    assert await sessions.current(secret)
    clock.forward(15 * 60)
    assert await sessions.current(secret) is None
    secret = await sessions.begin(account)
    for _ in range(SessionLives().absolute // 600 - 1):
        clock.forward(600)
        assert await sessions.current(secret)
    clock.forward(600)
    assert await sessions.current(secret) is None
    browser = running.browser()
    await browser.get("/signin")
    await browser.sign_in()
    secret = _session(browser)
    await browser.get("/signout")
    await browser.submit("/signout")
    assert "You are signed out" in browser.page.text
    assert await sessions.current(secret) is None
    secret = await sessions.begin(account)
    await running.server.accounts.disable(account)
    assert await sessions.current(secret) is None
    assert await sessions.current("") is None
    assert await sessions.current("unknown") is None


async def test_a_link_signs_nobody_out(running):
    """GET shows the button only."""
    browser = running.browser()
    await browser.get("/signin")
    await browser.sign_in()
    page = await browser.get("/signout")
    assert "Sign out?" in page.text
    assert await running.server.sessions.current(_session(browser))


async def test_wrong_name_and_wrong_password_are_alike(running):
    """C1, user enumeration: the same status, the same page but for the name that was typed."""
    pages = []
    for name, password in (("ann", "wrong password"), ("nobody", "wrong password"), ("nobody", smart.PASSWORD)):
        browser = running.browser()
        await browser.get("/signin")
        response = await browser.sign_in(name, password)
        csrf = fields_of(browser, "/signin")["csrf"]
        pages.append((response.status_code, response.text.replace(csrf, "").replace(name, "")))
        assert "__Host-gw_session" not in browser.http.cookies
    assert pages[0] == pages[1] == pages[2]
    assert pages[0][0] == 403


async def test_unknown_and_closed_accounts_cost_a_hash_too(running):
    """C1, user enumeration by time: `None` makes the same work for nothing, and every attempt goes that way."""
    asked: list[bool] = []

    class Watched(Passwords):
        async def verify(self, encoded: str | None, password: str) -> bool:
            asked.append(encoded is None)
            return await super().verify(encoded, password)

    watched = Watched(time_cost=1, memory=64)
    accounts = Accounts(running.server.database, watched, record_in=running.server._record_in, clock=running.server.clock)
    await running.server.accounts.disable(await running.server.accounts.named("mum"))
    found = [type(await accounts.sign_in(name, smart.PASSWORD, Caller())) for name in ("ann", "nobody", "", "mum")]
    watched.close()
    assert found == [SignedIn, Wrong, Wrong, Wrong]
    assert asked == [False, True, True, True]


async def test_too_many_attempts_lock_a_name(running):
    """C1, brute force: 429 with Retry-After, for known and unknown names alike, the right password included; then it opens again."""
    for name in ("ann", "nobody"):
        browser = running.browser(f"192.0.2.{len(name)}")
        for attempt in range(4):
            await browser.get("/signin")
            response = await browser.sign_in(name.upper() if attempt % 2 else name, "wrong password")
        assert response.status_code == 429
        assert 890 <= int(response.headers["retry-after"]) <= 901
        assert "Too many attempts" in response.text
        await browser.get("/signin")
        assert (await browser.sign_in(name)).status_code == 429
    running.server.clock.forward(901)
    browser = running.browser("192.0.2.3")
    await browser.get("/signin")
    assert (await browser.sign_in()).status_code != 429


async def test_too_many_attempts_lock_an_address(running):
    """C1: one address trying many names; another address is not disturbed, and success gives the attacker nothing back."""
    for number in range(8):
        browser = running.browser("2001:db8::1")
        await browser.get("/signin")
        await browser.sign_in(f"name{number}", "wrong password")
    browser = running.browser("2001:db8::ffff")  # the same subscriber
    await browser.get("/signin")
    assert (await browser.sign_in()).status_code == 429
    browser = running.browser("2001:db8:0:1::1")
    await browser.get("/signin")
    assert (await browser.sign_in()).status_code != 429


async def test_a_success_gives_the_others_nothing_back(running):
    """C1: a guesser with one account of his own does not clear his address by signing in with it."""
    await running.server.person("guesser", fhir_user="Patient/g")
    for name in ("n1", "n2", "n3", "n4", "guesser", "n5", "n6", "n7", "n8", "n9"):
        browser = running.browser()
        await browser.get("/signin")
        response = await browser.sign_in(name, smart.PASSWORD)
    assert response.status_code == 429


async def test_success_is_not_counted(running):
    """A clinic behind one address signs in as often as it likes."""
    for _ in range(12):
        browser = running.browser()
        await browser.get("/signin")
        assert (await browser.sign_in()).status_code != 429


async def test_no_name_or_password_is_recorded(running):
    """Audit records say that somebody failed, never with what."""
    browser = running.browser()
    await browser.get("/signin")
    await browser.sign_in("secret-name", "secret-password")
    (record,) = [one for one in running.server.records if one.action == "login"]
    assert (record.status, record.reason, record.outcome, record.address) == (403, "sign-in-wrong", "4", "192.0.2.1")
    assert "secret" not in repr(record)


@pytest.mark.parametrize("path", ["//evil.test", "https://evil.test", "/\\evil.test", "/%0d%0aX:y"])
async def test_sign_in_never_leads_elsewhere(running, path):
    """C1, open redirect."""
    browser = running.browser()
    await browser.get("/signin", next=path)
    form = fields_of(browser, "/signin") | {"username": "ann", "password": smart.PASSWORD, "next": path}
    response = await browser.http.post("/signin", data=form)
    assert response.headers["location"] == "/portal/"


async def test_sign_in_leads_where_she_wanted(running):
    """The page of the portal that asked."""
    browser = running.browser()
    await browser.get("/signin", next="/portal/results?page=2")
    form = fields_of(browser, "/signin") | {"username": "ann", "password": smart.PASSWORD}
    assert (await browser.http.post("/signin", data=form)).headers["location"] == "/portal/results?page=2"
    browser = running.browser()
    await browser.get("/signin")
    await browser.sign_in()
    assert (await browser.http.get("/signin?next=/portal/x")).headers["location"] == "/portal/x"


async def test_prompt_none_and_login(running):
    """ATK-O21: no page with prompt=none; prompt=login asks again although she is signed in."""
    browser = running.browser()
    await browser.authorize(smart.asking(prompt="none"))
    assert (browser.answer["error"], browser.answer["state"]) == ("login_required", "st-1")
    await browser.get("/signin")
    await browser.sign_in()
    await browser.authorize(smart.asking(prompt="none"))
    assert browser.answer["error"] == "consent_required"
    await browser.authorize(smart.asking())
    assert browser.page.request.url.path == CONSENT
    running.server.clock.forward(5)
    await browser.authorize(smart.asking(prompt="login"))
    assert browser.page.request.url.path == "/signin"
    await browser.sign_in()
    assert browser.page.request.url.path == CONSENT


async def test_accounts_of_another_ehr_do_not_count(running):
    """Each EHR has its own people."""
    browser = await running.at_consent(username="far")
    assert browser.page.request.url.path == "/signin"
    assert "no record where this app asks" in browser.page.text
    await browser.sign_in("ann")
    await browser.allow()
    assert browser.answer["code"]


async def test_pages_of_the_portal_ask_for_sign_in(running):
    """A page that needs a person sends her to sign in and back; a form whose session ended leads home, and a forged one is refused."""
    app, people = running.server.app(), running.server.people

    async def page(request: Request) -> PlainTextResponse:
        person = await people.require(request)
        if request.method == "POST":
            people.check_csrf(person, dict(request.query_params))
            return PlainTextResponse(str(await people.open_record(person, request.query_params["patient"])))
        return PlainTextResponse(f"{person.account.username} {person.patient} {[one.patient for one in person.patients]} {person.csrf}")

    app.add_api_route("/portal/page", page, methods=["GET", "POST"], response_model=None)
    browser = smart.Browser(app)
    await browser.get("/portal/page?x=1%202")
    assert browser.page.request.url.path == "/signin"
    assert fields_of(browser, "/signin")["next"] == "/portal/page?x=1%202"
    assert (await browser.http.post("/portal/page")).headers["location"] == "/signin?next=%2Fportal%2F"
    await browser.sign_in("mum")
    name, patient, *_, csrf = browser.page.text.split()
    assert (name, patient) == ("mum", "m")
    assert (await browser.http.post("/portal/page?patient=kid&csrf=wrong")).status_code == 403
    assert (await browser.http.post(f"/portal/page?patient=a&csrf={csrf}")).text == "False"
    assert (await browser.http.post(f"/portal/page?patient=kid&csrf={csrf}")).text == "True"
    assert (await browser.get("/portal/page")).text.split()[1] == "kid"


async def test_accounts_that_cannot_be_made(running):
    """A name that is taken (in any spelling), a short password, a fhirUser that is none."""
    for name, password, fhir_user in (
        ("ANN", smart.PASSWORD, "Patient/x"),
        ("", smart.PASSWORD, "Patient/x"),
        ("zoe", "short", "Patient/x"),
        ("zoe", smart.PASSWORD, "Group/x"),
        ("zoe", smart.PASSWORD, "Patient/x/y"),
    ):
        with pytest.raises(NotDone) as refused:
            await running.server.accounts.add(name, password, ehr="hapi", fhir_user=fhir_user)
        assert refused.value.fix


async def test_a_new_password_ends_sessions(running):
    """Whoever was signed in with the old one is out."""
    account = await running.server.accounts.named("ann")
    secret = await running.server.sessions.begin(account)
    await running.server.accounts.set_password(account, "another password")
    assert await running.server.sessions.current(secret) is None
    browser = running.browser()
    await browser.get("/signin")
    assert (await browser.sign_in("ann")).status_code == 403
    await browser.get("/signin")
    await browser.sign_in("ann", "another password")
    assert await running.server.sessions.current(_session(browser))
