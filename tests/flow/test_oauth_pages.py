"""Sign-in, picker and consent in a browser: what a person sees, and what an attacker gets (section C1)."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import timedelta
from urllib.parse import urlencode

import pytest
from starlette.requests import Request
from starlette.responses import PlainTextResponse

from gateway.errors import ConfigError, Unauthenticated, Unavailable
from gateway.smart.server.authorization.consent import CATEGORIES
from gateway.smart.server.authorization.launches import Wanted
from gateway.smart.server.people.accounts import Accounts, Attempts, Passwords, SignedIn, Wrong
from gateway.smart.server.people.sessions import SessionLives
from gateway.smart.server.values import Caller, Lifetimes
from gateway.store import oauth as rows
from gateway.store import people
from gateway.store.oauth_rows import digest
from tests.support import smart

CONSENT, PATIENT = "/auth/hapi/consent", "/auth/hapi/patient"


@dataclass
class Running:
    server: smart.Smart

    def browser(self, address: str = "192.0.2.1") -> smart.Browser:
        return smart.Browser(self.server.app(), address=address)

    async def at_consent(self, scope: str = "launch/patient patient/Observation.rs openid", username: str = "ann", **more: str) -> smart.Browser:
        browser = self.browser()
        await browser.authorize(smart.asking(scope=scope, **more))
        await browser.sign_in(username)
        return browser


@pytest.fixture
async def running(tmp_path) -> AsyncIterator[Running]:
    async with smart.smart_server(f"sqlite+aiosqlite:///{tmp_path}/store.db", attempts=Attempts(3, 8)) as server:
        await server.public_app()
        await server.person()
        await server.person("mum", fhir_user="Patient/m", patients=["kid", "kid2"])
        await server.person("doc", fhir_user="Practitioner/d", patients=["a", "kid"])
        await server.person("new-doc", fhir_user="Practitioner/n")
        await server.person("far", fhir_user="Patient/a", ehr="other")
        yield Running(server)


def no_code(browser: smart.Browser) -> None:
    """The browser never left with a code."""
    assert "code" not in browser.answer


def fields_of(browser: smart.Browser, action: str) -> dict[str, str]:
    return dict(smart.Form(browser.page.text).to(action))


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


async def test_consent_counts_once(running):
    """ATK-O17: the form sent again gives no second code."""
    browser = await running.at_consent()
    page = browser.page
    await browser.allow()
    assert browser.answer["code"]
    browser.page, browser.left_to = page, ""
    again = await browser.allow()
    assert again.status_code == 400
    no_code(browser)


async def test_denial_goes_back(running):
    """access_denied with the state; Cancel on the sign-in page says the same."""
    browser = await running.at_consent()
    await browser.deny()
    assert (browser.answer["error"], browser.answer["state"], browser.answer["iss"]) == ("access_denied", "st-1", smart.BASE)
    browser = running.browser()
    await browser.authorize(smart.asking())
    await browser.submit("/auth/hapi/cancel")
    assert browser.answer["error"] == "access_denied"


async def test_nothing_ticked_is_a_denial(running):
    """An app that would get nothing hears access_denied."""
    browser = await running.at_consent()
    await browser.allow(["launch/patient"])
    assert browser.answer["error"] == "access_denied"


@pytest.mark.parametrize(
    "scope",
    ["patient/Observation.cruds", "system/*.cruds", "patient/Condition.rs", "patient/Observation.rs?category=http://x|y", "launch", "<script>"],
)
async def test_a_tampered_consent_is_refused(running, scope):
    """ATK-O16: nothing beyond the request is ever granted."""
    browser = await running.at_consent()
    refused = await browser.allow(["launch/patient", "patient/Observation.rs", scope])
    assert refused.status_code == 403
    no_code(browser)


async def test_consent_grants_what_is_ticked(running):
    """A6.43: the token says so."""
    scope = "launch/patient patient/Observation.rs patient/Condition.rs patient/Patient.r"
    token = await _token(running, scope, ["launch/patient", "patient/Patient.r"])
    assert token["scope"] == "launch/patient patient/Patient.r"
    assert token["patient"] == "a"


async def test_categories_become_granular_scopes(running):
    """A10.60: chosen sub-choices come back instead of the whole."""
    laboratory, problems = CATEGORIES["Observation"]["Laboratory"], CATEGORIES["Condition"]["Problem List"]
    scope = "launch/patient patient/Condition.rs patient/Observation.rs patient/Patient.rs"
    parts = [f"patient/Condition.rs?category={problems}", f"patient/Observation.rs?category={laboratory}"]
    token = await _token(running, scope, [*scope.split(), *parts])
    assert token["scope"].split() == ["launch/patient", *parts, "patient/Patient.rs"]


async def _token(running: Running, scope: str, ticked: list[str]) -> dict[str, str]:
    browser, pkce = running.browser(), smart.Pkce()
    code = await smart.code_for(browser, smart.asking(scope=scope, pkce=pkce), scopes=ticked)
    form = {"grant_type": "authorization_code", "code": code, "redirect_uri": smart.APP, "code_verifier": pkce.verifier, "client_id": "app"}
    return (await smart.exchange(browser.http, form)).json()


async def test_all_kinds_are_listed_and_can_be_limited(running):
    """A10.57, A10.60: what a wildcard stands for, in words; chosen types and categories come back, and nothing whole beside them."""
    page = (await running.at_consent("launch/patient patient/*.rs")).page.text
    assert "test results and measurements;" in page
    assert "Test results and measurements: only Laboratory" in page
    granular = f"patient/Observation.rs?category={CATEGORIES['Observation']['Laboratory']}"
    boxes = [f"patient/*.rs>{one}" for one in (granular, "patient/Observation.rs", "patient/Immunization.rs")]
    token = await _token(running, "launch/patient patient/*.rs", ["launch/patient", "patient/*.rs", *boxes])
    assert set(token["scope"].split()) == {"launch/patient", "patient/Immunization.rs", granular}


async def test_more_boxes_than_machines_may_send(running):
    """An app may ask for much, and for each scope a box is ticked."""
    scopes = [f"patient/{name}.{letters}" for name in smart.TYPES for letters in ("r", "s", "c", "rs", "ru", "rus", "cruds")]
    assert len(scopes) > 64
    browser = await running.at_consent(" ".join(["launch/patient", *scopes]))
    await browser.allow()
    assert browser.answer["code"]


async def test_the_consent_page_says_what_it_is_about(running):
    """A17: one switch for each scope in words, whose record, and that access goes on when it does."""
    browser = await running.at_consent("launch/patient patient/Observation.rs patient/Patient.r offline_access openid")
    text = browser.page.text
    boxes = smart.Form(text).boxes
    assert [value for name, value in boxes if name == "scope" and "?" not in value] == [
        "patient/Observation.rs",
        "patient/Patient.r",
        "launch/patient",
        "offline_access",
        "openid",
    ]
    assert len([value for _, value in boxes if "?" in value]) == 6
    assert "while you are not signed in" in text
    until = running.server.clock() + timedelta(seconds=Lifetimes().refresh)
    assert f"until {until.day} {until:%B %Y}" in text
    assert "Ann" in text
    without = await running.at_consent()
    assert "while you are not signed in" not in without.page.text


async def test_what_an_app_calls_itself_is_text(running):
    """ATK-O16: XSS by client_name, state and scope."""
    await running.server.public_app("xss", client_name="<script>alert(1)</script>")
    browser = running.browser()
    state = '"><script>alert(2)</script>'
    await browser.authorize(smart.asking("xss", f"patient/Observation.rs?category=<script>|x launch/patient {state}", state=state))
    assert "<script" not in browser.page.text
    await browser.sign_in()
    assert browser.page.request.url.path == CONSENT
    assert "<script" not in browser.page.text
    await browser.deny()
    assert browser.answer["state"] == state


async def test_picker_for_several_patients(running):
    """A patient scope needs a patient in context; she chooses whose record it is, and may choose again."""
    browser = await running.at_consent(username="mum")
    assert browser.page.request.url.path == PATIENT
    assert [value for _, value in smart.Form(browser.page.text).boxes] == ["m", "kid", "kid2"]
    await browser.pick("kid2")
    assert "Record of kid2" in browser.page.text
    await browser.get(f"{PATIENT}?{urlencode({'transaction': fields_of(browser, CONSENT)['transaction']})}")
    await browser.pick("kid")
    await browser.allow()
    async with running.server.database.read() as connection:
        code = await rows.code(connection, digest(browser.answer["code"]))
        assert code is not None
        grant = await rows.grant(connection, code.grant_id)
    assert grant is not None
    assert (grant.patient, grant.context) == ("kid", "picked")


@pytest.mark.parametrize("patient", ["a", "", "kid,a", "../a", "Patient/kid"])
async def test_only_her_patients_can_be_picked(running, patient):
    """ATK-O16: a foreign patient in the form."""
    browser = await running.at_consent(username="mum")
    assert (await browser.pick(patient)).status_code == 403
    no_code(browser)


async def test_the_patient_is_checked_again_at_the_end(running):
    """ATK-O16, F23: the relationship ended between picker and consent."""
    browser = await running.at_consent(username="mum")
    await browser.pick("kid")
    account = await running.server.accounts.named("mum")
    async with running.server.database.write() as connection:
        await people.set_listed(connection, account.id, ())
    refused = await browser.allow()
    assert refused.status_code == 403
    no_code(browser)


async def test_staff_picks_from_the_list(running):
    """A practitioner chooses among listed patients, and without any hears access_denied."""
    browser = await running.at_consent(username="doc")
    assert [value for _, value in smart.Form(browser.page.text).boxes] == ["a", "kid"]
    browser = await running.at_consent(username="new-doc")
    assert browser.answer["error"] == "access_denied"


async def test_no_patient_is_asked_for_when_none_is_needed(running):
    """user/ scopes and identity alone need no patient."""
    browser = await running.at_consent("openid user/Observation.rs", username="mum")
    assert browser.page.request.url.path == CONSENT
    await browser.allow()
    assert browser.answer["code"]


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


async def test_transactions_grow_old(running):
    """After ten minutes the person starts again from the app."""
    browser = await running.at_consent()
    running.server.clock.forward(600)
    refused = await browser.allow()
    assert refused.status_code == 400
    no_code(browser)


async def test_a_client_disabled_meanwhile_gets_nothing(running):
    """The request is judged again at the end."""
    browser = await running.at_consent()
    async with running.server.database.write() as connection:
        await rows.disable_client(connection, "app", running.server.clock())
    assert (await browser.allow()).status_code == 400
    no_code(browser)


async def test_forwarded_headers_change_nothing(running):
    """ATK-O31: issuer and addresses are from the configuration."""
    poison = {"X-Forwarded-Host": "evil.test", "X-Forwarded-Proto": "http", "Forwarded": "host=evil.test", "Host": "evil.test"}
    response = await running.browser().http.get("/auth/hapi/authorize", params=smart.asking(scope="email"), headers=poison)
    assert "iss=https%3A%2F%2Fgateway.test%2Ffhir%2Fhapi" in response.headers["location"]
    response = await running.browser().http.get("/auth/hapi/authorize", params=smart.asking(), headers=poison)
    assert response.headers["location"].startswith("/auth/hapi/consent?")


async def test_ehr_launch(running):
    """A5: the handle brings patient, encounter and banner, works once, and the code carries them."""
    await running.server.person("nurse", fhir_user="Practitioner/x")
    created = await running.server.launches.create(Wanted("hapi", "app", "zed", "enc-1", need_patient_banner=False))
    assert created.url.startswith("https://app.test/launch?iss=https%3A%2F%2Fgateway.test%2Ffhir%2Fhapi&launch=")
    scope = "launch openid fhirUser offline_access user/Observation.rs patient/Patient.rs"
    browser, pkce = running.browser(), smart.Pkce()
    code = await smart.code_for(browser, smart.asking(scope=scope, pkce=pkce, launch=created.launch), username="nurse")
    form = {"grant_type": "authorization_code", "code": code, "redirect_uri": smart.APP, "code_verifier": pkce.verifier, "client_id": "app"}
    token = (await smart.exchange(browser.http, form)).json()
    assert (token["patient"], token["encounter"], token["need_patient_banner"], token["scope"]) == ("zed", "enc-1", False, scope)
    browser.left_to = ""
    await browser.authorize(smart.asking(scope=scope, launch=created.launch))
    assert browser.answer["error"] == "invalid_request"
    introspected = await browser.http.post("/auth/hapi/introspect", data={"token": token["access_token"]}, headers=_bearer(token))
    assert (introspected.json()["patient"], introspected.json()["encounter"]) == ("zed", "enc-1")


async def test_everything_that_the_ehr_says_of_a_launch_reaches_the_app(running):
    """HL7@168-177, 277: intent, tenant, style and fhirContext are in the token response, in that of a refresh, and in introspection."""
    items = ({"reference": "ImagingStudy/i1", "role": "https://example.org/prior"}, {"canonical": "http://example.org/Questionnaire/q|1"})
    extra = {"intent": "compare", "tenant": "north", "smart_style_url": "https://ehr.test/style.json", "fhirContext": list(items)}
    wanted = Wanted("hapi", "app", "a", "enc-1", intent="compare", tenant="north", style_url=extra["smart_style_url"], fhir_context=items)
    launched, scope = await running.server.launches.create(wanted), "launch offline_access patient/Patient.rs"
    browser, pkce = running.browser(), smart.Pkce()
    code = await smart.code_for(browser, smart.asking(scope=scope, pkce=pkce, launch=launched.launch))
    form = {"grant_type": "authorization_code", "code": code, "redirect_uri": smart.APP, "code_verifier": pkce.verifier, "client_id": "app"}
    first = (await smart.exchange(browser.http, form)).json()
    refresh = {"grant_type": "refresh_token", "refresh_token": first["refresh_token"], "client_id": "app"}
    again = (await smart.exchange(browser.http, refresh)).json()
    seen = (await browser.http.post("/auth/hapi/introspect", data={"token": again["access_token"]}, headers=_bearer(again))).json()
    context = extra | {"patient": "a", "encounter": "enc-1", "need_patient_banner": True}
    for answer in (first, again, seen):
        assert {name: answer.get(name) for name in context} == context


def _bearer(token: dict[str, str]) -> dict[str, str]:
    return {"Authorization": f"Bearer {token['access_token']}"}


async def test_a_launch_belongs_to_its_user(running):
    """ATK-O15: another person signed in is asked to sign in as the one it was made for."""
    created = await running.server.launches.create(Wanted("hapi", "app", "a", username="doc"))
    browser = running.browser()
    await browser.authorize(smart.asking(scope="launch patient/Observation.rs", launch=created.launch))
    await browser.sign_in("new-doc")
    assert "started for somebody else" in browser.page.text
    await browser.sign_in("doc")
    await browser.allow()
    assert browser.answer["code"]


async def test_a_patient_cannot_use_a_launch_for_another_patient(running):
    """ATK-O15: an open launch is no way into a record that is not hers."""
    created = await running.server.launches.create(Wanted("hapi", "app", "kid"))
    for scope in ("launch patient/Observation.rs", "launch user/Observation.rs"):
        browser = running.browser()
        await browser.authorize(smart.asking(scope=scope, launch=created.launch))
        await browser.sign_in("ann")
        assert browser.answer["error"] == "access_denied"


async def test_a_launch_fixes_the_patient(running):
    """The picker's form does not change it."""
    created = await running.server.launches.create(Wanted("hapi", "app", "kid"))
    browser = running.browser()
    await browser.authorize(smart.asking(scope="launch patient/Observation.rs", launch=created.launch))
    await browser.sign_in("doc")
    handle, csrf = fields_of(browser, CONSENT)["transaction"], fields_of(browser, CONSENT)["csrf"]
    page = browser.page
    assert (await browser.post(PATIENT, [("transaction", handle), ("csrf", csrf), ("patient", "a")])).status_code == 403
    browser.page = page
    await browser.allow()
    async with running.server.database.read() as connection:
        code = await rows.code(connection, digest(browser.answer["code"]))
        assert code is not None
        grant = await rows.grant(connection, code.grant_id)
    assert grant is not None
    assert (grant.patient, grant.context) == ("kid", "launch")


async def test_launches_grow_old(running):
    """ATK-O15: five minutes from the EHR to the authorization request."""
    created = await running.server.launches.create(Wanted("hapi", "app", "a"))
    running.server.clock.forward(300)
    browser = running.browser()
    await browser.authorize(smart.asking(scope="launch patient/Observation.rs", launch=created.launch))
    assert browser.answer["error"] == "invalid_request"


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


async def test_a_launch_needs_what_it_names(running):
    """Each mistake of an operator is told with its fix."""
    await running.server.public_app("no-launch", launch_uri="")
    for wanted in (
        Wanted("hapi", "nobody", "a"),
        Wanted("hapi", "no-launch", "a"),
        Wanted("hapi", "app", "Patient/a"),
        Wanted("hapi", "app", ""),
        Wanted("hapi", "app", "a", "e/1"),
        Wanted("hapi", "app", "a", intent="a\nb"),
        Wanted("hapi", "app", "a", tenant=" "),
        Wanted("hapi", "app", "a", style_url="http://ehr.test/style.json"),
        Wanted("hapi", "app", "a", fhir_context=({"reference": "Patient/other"},)),
        Wanted("hapi", "app", "a", username="nobody"),
        Wanted("hapi", "app", "a", username="far"),
        Wanted("hapi", "app", "kid", username="ann"),
    ):
        with pytest.raises(ConfigError) as refused:
            await running.server.launches.create(wanted)
        assert refused.value.fix
    # For staff an EHR launch is enough: the record system chose the patient.
    assert (await running.server.launches.create(Wanted("hapi", "app", "zed", username="doc"))).launch


async def test_accounts_that_cannot_be_made(running):
    """A name that is taken (in any spelling), a short password, a fhirUser that is none."""
    for name, password, fhir_user in (
        ("ANN", smart.PASSWORD, "Patient/x"),
        ("", smart.PASSWORD, "Patient/x"),
        ("zoe", "short", "Patient/x"),
        ("zoe", smart.PASSWORD, "Group/x"),
        ("zoe", smart.PASSWORD, "Patient/x/y"),
    ):
        with pytest.raises(ConfigError) as refused:
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


async def test_a_person_takes_access_back_on_a_page(running):
    """A8.48: she sees what each app may do, and one button ends it; nobody else's is ended by a made-up form."""
    browser = running.browser()
    token = await smart.launch(browser, f"launch/patient offline_access patient/Observation.rs?category={CATEGORIES['Observation']['Survey']}")
    page = await browser.get("/apps")
    assert "app &amp; Co" in page.text
    assert "The record of Ann" in page.text
    assert "See test results and measurements: only survey" in page.text
    stranger = running.browser()
    await stranger.get("/apps")
    assert stranger.page.request.url.path == "/signin"
    await stranger.sign_in("mum")
    assert "No app has access" in stranger.page.text
    grant = fields_of(browser, "/apps")["grant"]
    await stranger.get("/signout")
    csrf = fields_of(stranger, "/signout")["csrf"]
    await stranger.post("/apps", [("grant", grant), ("csrf", csrf)])
    assert "was taken back" not in stranger.page.text
    assert (await browser.post("/apps", [("grant", grant), ("csrf", "wrong")])).status_code == 403
    assert await running.server.authenticator.principal("hapi", [f"Bearer {token['access_token']}"])
    browser.page = page
    await browser.submit("/apps")
    assert "was taken back" in browser.page.text
    assert "No app has access" in browser.page.text
    with pytest.raises(Unauthenticated):
        await running.server.authenticator.principal("hapi", [f"Bearer {token['access_token']}"])


async def test_only_access_that_counts_is_listed(running):
    """An hour after the last token of an app without offline access there is nothing left to take back."""
    await smart.launch(running.browser(), "launch/patient patient/Observation.rs")
    account = await running.server.accounts.named("ann")
    (connected,) = await running.server.grants.of(account)
    assert not connected.offline
    running.server.clock.forward(3600)
    assert await running.server.grants.of(account) == ()
