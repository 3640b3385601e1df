"""Second factors in a browser: set up, sign in, lose the phone, take away; and what somebody gets who has the password only."""

from __future__ import annotations

import re
from base64 import b32decode
from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest

from gateway.smart.server.attempts import Attempts
from gateway.smart.server.people import totp
from gateway.store import people_factors
from gateway.store.oauth_rows import digest
from tests.support import smart

SECOND = "/signin/second"


@dataclass
class Running:
    server: smart.Smart
    secret: bytes = b""
    codes: tuple[str, ...] = ()

    def browser(self, address: str = "192.0.2.1") -> smart.Browser:
        return smart.Browser(self.server.app(), address=address)

    async def signed_in(self, username: str = "ann", *, at: str = "/security") -> smart.Browser:
        browser = self.browser()
        await browser.get("/signin", next=at)
        await browser.sign_in(username)
        return browser

    async def enrol(self, browser: smart.Browser) -> None:
        """Set up an app, as a person who types the key."""
        await browser.submit("/security/app")
        self.secret = _typed(browser.page.text)
        await browser.submit("/security/app/confirm", code=self.code())
        self.codes = tuple(re.findall(r"<code>([^<]+)</code>", browser.page.text))

    def code(self, steps: int = 0) -> str:
        return totp.code(self.secret, totp.step_at(self.server.clock()) + steps)


def _typed(page: str) -> bytes:
    found = re.search(r'class="key">([A-Z2-7 ]+)<', page)
    assert found
    return b32decode(found[1].replace(" ", ""))


@pytest.fixture
async def running(tmp_path) -> AsyncIterator[Running]:
    async with smart.smart_server(f"sqlite+aiosqlite:///{tmp_path}/store.db", attempts=Attempts(20, 40)) as server:
        await server.public_app()
        await server.person()
        await server.person("mum", fhir_user="Patient/m")
        yield Running(server)


@pytest.fixture
async def enrolled(running) -> Running:
    """Ann has an app; the step that confirmed it is over."""
    await running.enrol(await running.signed_in())
    running.server.clock.forward(60)
    return running


def cookie(browser: smart.Browser) -> str:
    return next((one.value or "" for one in reversed(list(browser.http.cookies.jar)) if one.name == "__Host-gw_session"), "")


async def half_way(running: Running, **more: str) -> smart.Browser:
    browser = running.browser(**more)
    await browser.get("/signin", next="/security")
    await browser.sign_in()
    assert browser.page.request.url.path == SECOND
    return browser


async def test_an_app_counts_once_its_code_confirmed_it(running):
    """Until then the password is enough; a wrong code confirms nothing; the ten recovery codes are shown once and kept as hashes."""
    browser = await running.signed_in()
    await browser.submit("/security/app")
    running.secret = _typed(browser.page.text)
    assert "<svg" in browser.page.text
    assert cookie(await running.signed_in())
    wrong = f"{(int(running.code()) + 1) % 10**6:06}"
    assert (await browser.submit("/security/app/confirm", code=wrong)).status_code == 403
    assert "not right" in browser.page.text
    await browser.submit("/security/app/confirm", code=running.code())
    codes = re.findall(r"<code>([^<]+)</code>", browser.page.text)
    assert len(set(codes)) == 10
    assert all(re.fullmatch(r"(?:[0-9A-HJKMNP-TV-Z]{4}-){3}[0-9A-HJKMNP-TV-Z]{4}", code) for code in codes)
    assert codes[0] not in (await browser.get("/security")).text
    assert "10 recovery codes left" in browser.page.text
    assert (await browser.get("/security/app")).request.url.path == "/security"  # nor can the key be seen again
    await half_way(running)


async def test_secrets_rest_sealed_and_hashed(enrolled):
    """The store holds neither the key nor a code; a record says what happened and nothing of what was entered."""
    account = await enrolled.server.accounts.named("ann")
    async with enrolled.server.database.read() as connection:
        row = await people_factors.totp(connection, account.id)
        kept = (await connection.execute(people_factors.t.recovery_code.select())).all()
    assert row is not None
    assert enrolled.secret not in row.sealed
    assert all(code.replace("-", "") not in str(kept) and code not in str(kept) for code in enrolled.codes)
    assert [(one.action, one.detail) for one in enrolled.server.records if one.action.startswith("factor")] == [("factor-add", "totp")]
    assert not any(code in repr(enrolled.server.records) for code in enrolled.codes)


METHODS = {
    "password": "with your password",
    "totp": "with your password and your app",
    "recovery": "with your password and a recovery code",
    "passkey": "with a passkey",
    "provider": "with another service",
    "launcher": "by the launcher, as part of a trial",
    "": "",  # a session that is older than this was kept
}


async def test_each_session_says_how_it_began(running):
    """Whatever signed her in: what she does not know she can end."""
    account = await running.server.accounts.named("ann")
    browser = await running.signed_in()
    for method in METHODS:
        await running.server.sessions.begin(account, method=method)
    page = (await browser.get("/security")).text
    found = re.findall(r"<li>Another browser, since [^<]* UTC(?:, ([^<]*))?</li>", page)
    assert sorted(found) == sorted(METHODS.values())


async def test_no_session_before_the_second_factor(enrolled):
    """The password alone opens nothing; with the code a session begins that was not there before (ATK-O19)."""
    browser = await half_way(enrolled)
    assert not cookie(browser)
    assert (await browser.get("/security")).request.url.path == "/signin"
    await browser.get(SECOND, next="/security")
    await browser.submit(SECOND, code=enrolled.code())
    assert browser.page.request.url.path == "/security"
    assert "with your password and your app" in browser.page.text
    logins = [(one.action, one.status, one.detail) for one in enrolled.server.records if one.action.startswith("login")][-2:]
    assert logins == [("login-password", 303, ""), ("login", 303, "totp")]


async def test_a_planted_session_is_not_the_one_that_begins(enrolled):
    """ATK-O19: what the browser had at any step is worth nothing after it."""
    browser = enrolled.browser()
    browser.http.cookies.set("__Host-gw_session", "x" * 43, domain="gateway.test")
    await browser.get("/signin")
    await browser.sign_in()
    assert cookie(browser) == "x" * 43
    await browser.submit(SECOND, code=enrolled.code())
    assert cookie(browser) != "x" * 43
    assert await enrolled.server.sessions.current("x" * 43) is None


async def test_a_code_counts_once(enrolled):
    """RFC 6238 section 5.2: neither the same code again, nor an older one; the next one does."""
    code, older = enrolled.code(), enrolled.code(-1)
    await (await half_way(enrolled)).submit(SECOND, code=code)
    for entered in (code, older):
        browser = await half_way(enrolled)
        assert (await browser.submit(SECOND, code=entered)).status_code == 403
        assert not cookie(browser)
    await browser.submit(SECOND, code=enrolled.code(1))
    assert cookie(browser)


async def test_a_recovery_code_counts_once(enrolled):
    """However it is typed; then it is used up, and the page says how many are left."""
    browser = await half_way(enrolled)
    await browser.submit(SECOND, code=enrolled.codes[3].lower().replace("-", " ").replace("0", "o").replace("1", "l"))
    assert cookie(browser)
    assert "9 recovery codes left" in browser.page.text
    browser = await half_way(enrolled)
    assert (await browser.submit(SECOND, code=enrolled.codes[3])).status_code == 403
    mum = await enrolled.server.accounts.named("mum")
    async with enrolled.server.database.write() as connection:
        used = await people_factors.use_recovery_code(connection, mum.id, digest(f"recovery:{mum.id}:{enrolled.codes[4].replace('-', '')}"))
    assert not used


async def test_the_half_way_state_is_the_browsers(enrolled):
    """ATK-O17: another browser, or a form without the browser's token, gets nowhere with the right code."""
    await half_way(enrolled)
    other = enrolled.browser()
    await other.get("/signin")
    fields = dict(smart.Form(other.page.text).to("/signin"))
    response = await other.http.post(SECOND, data={"csrf": fields["csrf"], "code": enrolled.code()})
    assert (response.status_code, cookie(other)) == (403, "")
    assert "Start again" in response.text
    browser = await half_way(enrolled)
    assert (await browser.submit(SECOND, without=["csrf"], code=enrolled.code())).status_code == 403
    assert not cookie(browser)


async def test_five_minutes_and_five_tries(enrolled):
    """Then the password comes first again; the right code does not help any more."""
    browser = await half_way(enrolled)
    for _ in range(4):
        assert "not right" in (await browser.submit(SECOND, code="000000")).text
    page = browser.page
    assert "Start again" in (await browser.submit(SECOND, code="000000")).text
    browser.page = page
    assert "Start again" in (await browser.submit(SECOND, code=enrolled.code())).text
    assert not cookie(browser)
    browser = await half_way(enrolled)
    enrolled.server.clock.forward(300)
    assert "Start again" in (await browser.submit(SECOND, code=enrolled.code())).text
    assert not cookie(browser)


async def test_too_many_wrong_codes_lock_the_factor(enrolled):
    """C1, brute force: from whichever browser and address; the right one does not count meanwhile, and then it does."""
    for number in range(10):
        browser = await half_way(enrolled, address=f"192.0.2.{number + 1}")
        await browser.submit(SECOND, code="000000")
    browser = await half_way(enrolled, address="198.51.100.1")
    locked = await browser.submit(SECOND, code=enrolled.code())
    assert locked.status_code == 429
    assert 3500 < int(locked.headers["retry-after"]) <= 3601
    assert not cookie(browser)
    enrolled.server.clock.forward(3601)
    browser = await half_way(enrolled, address="198.51.100.1")
    await browser.submit(SECOND, code=enrolled.code())
    assert cookie(browser)


async def test_an_authorization_goes_on_after_the_second_factor(enrolled):
    """The app's request waits through both steps, and the page may lead to the app."""
    browser = enrolled.browser()
    await browser.authorize(smart.asking())
    await browser.sign_in()
    assert browser.page.request.url.path == SECOND
    assert "app &amp; Co" in browser.page.text
    assert "https://app.test" in browser.page.headers["content-security-policy"]
    await browser.submit(SECOND, code="000000")
    await browser.submit(SECOND, code=enrolled.code())
    assert browser.page.request.url.path == "/auth/hapi/consent"
    await browser.allow()
    assert browser.answer["code"]


async def test_wrong_passwords_are_alike_with_and_without_an_app(enrolled):
    """C1, user enumeration: who has no right password does not learn who has a second factor, or who exists."""
    pages = []
    for name in ("ann", "mum", "nobody"):
        browser = enrolled.browser()
        await browser.get("/signin")
        response = await browser.sign_in(name, "wrong password")
        csrf = dict(smart.Form(response.text).to("/signin"))["csrf"]
        pages.append((response.status_code, response.text.replace(csrf, "").replace(name, "")))
    assert pages[0] == pages[1] == pages[2]


async def test_a_closed_account_does_not_get_through(enrolled):
    """Closed between the two steps."""
    browser = await half_way(enrolled)
    await enrolled.server.accounts.disable(await enrolled.server.accounts.named("ann"))
    await browser.submit(SECOND, code=enrolled.code())
    assert not cookie(browser)


STALE = [
    ("/security/password", {"password": "another password"}),
    ("/security/app", {}),
    ("/security/app/confirm", {"code": "000000"}),
    ("/security/app/remove", {}),
    ("/security/codes", {}),
    ("/security/access", {}),
    ("/security/passkey", {"answer": "{}"}),
    ("/security/passkey/remove", {"passkey": "x"}),
    ("/security/contact", {"contact": "ann@example.com"}),
    ("/security/contact/code", {"code": "00000000"}),
    ("/security/contact/remove", {}),
]


@pytest.mark.parametrize(("path", "fields"), STALE)
async def test_sensitive_acts_need_a_fresh_sign_in(running, path, fields):
    """Five minutes after the sign-in it is asked for again, whether a page is opened or a form is sent; then one comes back."""
    browser = await running.signed_in()
    csrf = dict(smart.Form(browser.page.text).to("/signout"))["csrf"]
    running.server.clock.forward(300)
    records = len(running.server.records)
    response = await browser.post(path, [("csrf", csrf), *fields.items()])
    assert response.request.url.path == "/signin"
    assert "Sign in once more" in response.text
    assert len(running.server.records) == records
    assert running.server.mailbox.messages == []
    before = cookie(browser)
    await browser.sign_in()
    assert browser.page.request.url.path == "/security"
    assert cookie(browser) != before
    assert await running.server.sessions.current(before) is None


async def test_pages_with_such_forms_ask_first(running):
    """Nobody fills in a form in vain."""
    browser = await running.signed_in()
    for path in ("/security/password", "/security/passkey", "/security/contact"):
        running.server.clock.forward(300)
        await browser.get(path)
        assert browser.page.request.url.path == "/signin"
        await browser.sign_in()
        assert browser.page.request.url.path == path


async def test_forms_of_the_security_page_need_their_token(running):
    """ATK-O17: nothing changes, and on record is which form was forged, and nothing else."""
    browser = await running.signed_in()
    records = len(running.server.records)
    for path in (*[path for path, _ in STALE], "/security/everywhere"):
        assert (await browser.post(path, [("csrf", "wrong"), ("password", "another password"), ("contact", "a@example.com")])).status_code == 403
        assert (await running.browser().post(path, [])).request.url.path == "/signin"
    new = running.server.records[records:]
    assert [(one.action, one.status, one.reason) for one in new] == [("form", 403, "form-forged")] * (len(STALE) + 1)


async def test_signing_in_again_keeps_the_record_that_is_open(running):
    """Step-up is no switch: the same person goes on with the same record."""
    await running.server.person("dad", fhir_user="Patient/d", patients=["kid"])
    browser = await running.signed_in("dad")
    visitor = await running.server.sessions.current(cookie(browser))
    assert await running.server.sessions.pick(visitor, "kid")
    await browser.get("/signin", again="1", next="/security")
    await browser.sign_in("dad")
    assert (await running.server.sessions.current(cookie(browser))).patient == "kid"
    await browser.get("/signin", again="1", next="/security")
    await browser.sign_in("ann")
    assert (await running.server.sessions.current(cookie(browser))).patient == "a"


async def test_each_change_gives_a_new_session_and_ends_the_others(running):
    """ATK-O19: app on, app off, password."""
    for act in ("app", "remove", "password"):
        other = cookie(await running.signed_in()) if act != "remove" else ""
        browser = await running.signed_in() if act != "remove" else browser  # noqa: F821  # the one of the turn before
        before = cookie(browser)
        if act == "app":
            await running.enrol(browser)
            await browser.get("/security")
        elif act == "remove":
            await browser.submit("/security/app/remove")
            assert "was removed" in browser.page.text
        else:
            await browser.get("/security/password")
            await browser.submit("/security/password", password="correct horse staple")
            assert "password was changed" in browser.page.text
        assert cookie(browser) != before
        assert await running.server.sessions.current(before) is None
        assert not other or await running.server.sessions.current(other) is None
        assert await running.server.sessions.current(cookie(browser))
    browser = running.browser()
    await browser.get("/signin", next="/security")
    assert (await browser.sign_in()).status_code == 403
    await browser.sign_in(password="correct horse staple")
    assert browser.page.request.url.path == "/security"


async def test_new_recovery_codes_end_the_old_ones(enrolled):
    """All ten. Like each change of what signs her in it gives this session a new id, ends the others, and is told to her address."""
    server = enrolled.server
    account = await server.accounts.named("ann")
    browser = await half_way(enrolled)
    await browser.submit(SECOND, code=enrolled.code())
    await browser.get("/security/contact")
    await browser.submit("/security/contact", contact="ann@example.com")
    await server.verification.settled()
    await browser.submit("/security/contact/code", code=server.mailbox.code)
    before, other = cookie(browser), await server.sessions.begin(account)
    await browser.submit("/security/codes")
    await server.verification.settled()
    assert "New recovery codes were made" in server.mailbox.messages[-1][2]
    assert cookie(browser) != before
    assert [await server.sessions.current(one) for one in (before, other)] == [None, None]
    fresh = re.findall(r"<code>([^<]+)</code>", browser.page.text)
    assert len(fresh) == 10
    browser = await half_way(enrolled)
    assert (await browser.submit(SECOND, code=enrolled.codes[0])).status_code == 403
    await browser.submit(SECOND, code=fresh[0])
    assert cookie(browser)


async def test_a_second_app_needs_the_first_one_gone(enrolled):
    """A thief at an open browser cannot quietly replace it; without an app there are no recovery codes to make."""
    browser = await half_way(enrolled)
    await browser.submit(SECOND, code=enrolled.code())
    csrf = dict(smart.Form(browser.page.text).to("/signout"))["csrf"]
    await browser.post("/security/app", [("csrf", csrf)])
    assert browser.page.request.url.path == "/security"
    mum = await enrolled.signed_in("mum")
    csrf = dict(smart.Form(mum.page.text).to("/signout"))["csrf"]
    await mum.post("/security/codes", [("csrf", csrf)])
    assert mum.page.request.url.path == "/security"
    await mum.post("/security/app/remove", [("csrf", csrf)])
    assert mum.page.request.url.path == "/security"


async def test_sign_out_everywhere(running):
    """All sessions, this one too; no fresh sign-in is needed to end something."""
    other = await running.signed_in()
    browser = await running.signed_in()
    assert browser.page.text.count("Another browser") == 1
    running.server.clock.forward(600)
    await browser.get("/security")
    await browser.submit("/security/everywhere")
    assert "You are signed out" in browser.page.text
    assert (await other.get("/security")).request.url.path == "/signin"
    assert running.server.records[-1].detail == "everywhere"


async def test_the_operator_resets_factors(enrolled):
    """For somebody who lost everything: signed out everywhere, the password is enough again, and it is on record."""
    waiting = await half_way(enrolled)
    await enrolled.server.factors.reset(await enrolled.server.accounts.named("ann"))
    await waiting.submit(SECOND, code=enrolled.code())
    assert not cookie(waiting)
    assert cookie(await enrolled.signed_in())
    assert ("factor-remove", "all") in [(one.action, one.detail) for one in enrolled.server.records]
