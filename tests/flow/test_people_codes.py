"""Codes to a verified address: confirm it, forget the password; and what a stranger learns by asking, which is nothing."""

from __future__ import annotations

import asyncio
import re
import statistics
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest

from gateway.errors import NotSent, Unauthenticated
from gateway.smart.record import Caller
from gateway.smart.server.attempts import Attempts
from gateway.smart.server.people.accounts import Passwords
from gateway.smart.server.people.factors import FactorLocked
from gateway.smart.server.people.verification import NoNotifier, Verification, kind_of, tidy
from gateway.store import known_browsers, people_factors
from tests.support import smart

FORGOTTEN, CODE = "/signin/forgotten", "/signin/forgotten/code"
NEW = "quite another password"


@dataclass
class Running:
    server: smart.Smart

    def browser(self, address: str = "192.0.2.1") -> smart.Browser:
        return smart.Browser(self.server.app(), address=address)

    async def signed_in(self, username: str = "ann") -> smart.Browser:
        browser = self.browser()
        await browser.get("/signin", next="/security")
        await browser.sign_in(username)
        return browser

    async def confirm(self, to: str = "ann@example.com", username: str = "ann") -> smart.Browser:
        browser = await self.signed_in(username)
        await browser.get("/security/contact")
        await browser.submit("/security/contact", contact=to)
        await self.server.verification.settled()
        await browser.submit("/security/contact/code", code=self.server.mailbox.code)
        return browser

    async def asked(self, username: str, address: str = "192.0.2.1") -> smart.Browser:
        """A browser that asked for a code in this name."""
        browser = self.browser(address)
        await browser.get(FORGOTTEN)
        await browser.submit(FORGOTTEN, username=username)
        await self.server.verification.settled()
        return browser


@pytest.fixture
async def running(tmp_path) -> AsyncIterator[Running]:
    async with smart.smart_server(f"sqlite+aiosqlite:///{tmp_path}/store.db", attempts=Attempts(20, 40)) as server:
        await server.public_app()
        await server.person()
        await server.person("mum", fhir_user="Patient/m")
        yield Running(server)


def cookie(browser: smart.Browser) -> str:
    return next((one.value or "" for one in reversed(list(browser.http.cookies.jar)) if one.name == "__Host-gw_session"), "")


def without(page: str, *names: str) -> str:
    """The page but for what was typed and the form's token."""
    text = re.sub(r'name="csrf" value="[^"]*"', "", page)
    for name in names:
        text = text.replace(name, "")
    return text


@pytest.mark.parametrize(
    ("entered", "kind"),
    [
        ("ann@example.com", "email"),
        ("a.n+n@mail.example.co", "email"),
        (" ann@example.com ", "email"),
        ("+1 (555) 010-0100", "phone"),
        ("+15550100100", "phone"),
        ("5550100100", ""),
        ("+0550100100", ""),
        ("ann@example", ""),
        ("ann@@example.com", ""),
        ("ann@example..com", ""),
        ("ann@example.com\r\nBcc: all@example.com", ""),
        ("Ann <ann@example.com>", ""),
        ("ann@example.com,bob@example.com", ""),
        ("a" * 250 + "@example.com", ""),
        ("", ""),
    ],
)
def test_addresses(entered, kind):
    """One address, with nothing in it that a mail program reads as more."""
    assert kind_of(tidy(entered)) == kind


async def test_an_address_counts_once_its_code_confirmed_it(running):
    """Until then it is nobody's; it rests sealed, is shown in part, and is in no record."""
    browser = await running.signed_in()
    await browser.get("/security/contact")
    assert (await browser.submit("/security/contact", contact="no address")).status_code == 422
    assert "no e-mail address and no phone number" in browser.page.text
    await browser.submit("/security/contact", contact="ann@example.com")
    await running.server.verification.settled()
    account = await running.server.accounts.named("ann")
    assert await running.server.verification.contact(account) == ""
    assert (await browser.submit("/security/contact/code", code="00000000")).status_code == 403
    before = cookie(browser)
    await browser.submit("/security/contact/code", code=running.server.mailbox.code)
    assert "The address is confirmed" in browser.page.text
    assert "a…@example.com" in browser.page.text
    assert "ann@example.com" not in browser.page.text
    assert cookie(browser) != before
    assert await running.server.sessions.current(before) is None
    assert await running.server.verification.contact(account) == "ann@example.com"
    async with running.server.database.read() as connection:
        row = await people_factors.contact(connection, account.id)
    assert row is not None
    assert b"ann" not in row.sealed
    assert "example.com" not in repr(running.server.records)
    assert [one.detail for one in running.server.records if one.action == "contact-set"] == ["email"]


async def test_messages_say_nothing_about_anybody(running):
    """No name, no health data, no link: a code and what it is for. A changed address is told to the old one."""
    await running.confirm()
    ((to, subject, text),) = running.server.mailbox.messages
    assert to == "ann@example.com"
    assert re.search(r"is \d{8}\. Enter it to confirm this address\. It works for 10 minutes", text)
    assert not re.search(r"http|www|Ann|Patient", subject + text)
    await running.confirm("+15550100100")
    assert [one[0] for one in running.server.mailbox.messages] == ["ann@example.com", "+15550100100", "ann@example.com"]
    assert "was changed" in running.server.mailbox.messages[-1][2]


async def test_codes_rest_hashed_and_grow_old(running):
    """argon2id: eight digits are quickly tried. Ten minutes, five tries, and the newest code only."""
    browser = await running.signed_in()
    await browser.get("/security/contact")
    await browser.submit("/security/contact", contact="ann@example.com")
    await running.server.verification.settled()
    first = running.server.mailbox.code
    async with running.server.database.read() as connection:
        (row,) = (await connection.execute(people_factors.t.pending.select())).all()
    assert row.secret.startswith("$argon2id$")
    await browser.get("/security/contact")
    await browser.submit("/security/contact", contact="ann@example.com")
    await running.server.verification.settled()
    assert (await browser.submit("/security/contact/code", code=first)).status_code == 403
    page = browser.page
    running.server.clock.forward(600)
    await browser.get("/security")  # the sign-in is too old by now as well
    await browser.get("/signin", again="1", next="/security/contact")
    await browser.sign_in()
    csrf = dict(smart.Form(browser.page.text).to("/security/contact"))["csrf"]
    late = await browser.post("/security/contact/code", [("csrf", csrf), ("code", running.server.mailbox.code)])
    assert (page.status_code, late.status_code) == (403, 403)
    assert "Start again" in late.text


async def test_a_forgotten_password(running):
    """The code, a new password: all sessions end, the old password is none any more, the person is told, and signs in with the new one."""
    other = cookie(await running.confirm())
    browser = await running.asked("Ann")
    assert browser.page.request.url.path == CODE
    await browser.submit(CODE, code=running.server.mailbox.code, password="short")
    assert browser.page.status_code == 422
    await browser.submit(CODE, code=running.server.mailbox.code, password=NEW)
    await running.server.verification.settled()
    assert "Your password was changed" in browser.page.text
    assert "password was changed" in running.server.mailbox.messages[-1][2]
    assert not cookie(browser)
    assert await running.server.sessions.current(other) is None
    assert (await browser.sign_in()).status_code == 403
    await browser.sign_in(password=NEW)
    assert cookie(browser)
    again = await running.browser().http.get(CODE)
    assert again.headers["location"].startswith(FORGOTTEN)


async def _standing(running: Running) -> tuple[str, smart.Browser]:
    """Ann with an app that has offline access and does not ask again, a passkey and an authenticator app: the app's token, and her browser."""
    server = running.server
    browser = await running.confirm()
    pkce = smart.Pkce()
    await browser.authorize(smart.asking(scope="launch/patient offline_access patient/Observation.rs", pkce=pkce))
    await browser.submit("/auth/hapi/consent", decision="allow", remember="yes")
    form = {"grant_type": "authorization_code", "code": browser.answer["code"], "redirect_uri": smart.APP, "code_verifier": pkce.verifier}
    token = (await smart.exchange(browser.http, form | {"client_id": "app"})).json()["access_token"]
    account = await server.accounts.named("ann")
    async with server.database.write() as connection:
        await people_factors.add_passkey(connection, people_factors.Passkey("h", account.id, b"c", b"k", 0, "Phone", server.clock()))
    return token, browser


async def _counts(running: Running, token: str) -> bool:
    try:
        await running.server.authenticator.principal("hapi", [f"Bearer {token}"])
    except Unauthenticated:
        return False
    return True


async def test_after_a_forgotten_password_what_stays_is_said_and_can_be_ended(running):
    """Who forgot it keeps her apps and passkeys; who was robbed ends all of it with one button, once she signed in. Online access ends always."""
    token, browser = await _standing(running)
    online = await smart.launch(browser, "launch/patient online_access patient/Patient.rs")
    browser = await running.asked("ann")
    await browser.submit(CODE, code=running.server.mailbox.code, password=NEW)
    assert "1 app that may open the record" in browser.page.text
    assert "1 app that may do so without asking" in browser.page.text
    assert "1 passkey, which signs in" in browser.page.text
    assert "uthenticator" not in browser.page.text
    assert await _counts(running, token)
    assert not await _counts(running, online["access_token"])
    assert 'href="/signin?next=/security/access"' in browser.page.text
    await browser.get("/signin", next="/security/access")
    await browser.sign_in(password=NEW)
    before = cookie(browser)
    await browser.submit("/security/access")
    assert "All of it was ended" in browser.page.text
    assert cookie(browser) != before
    assert not await _counts(running, token)
    account = await running.server.accounts.named("ann")
    assert not await running.server.endings.of(account)
    assert await running.server.verification.contact(account) == "ann@example.com"
    await running.server.verification.settled()
    assert "were removed from your account" in running.server.mailbox.messages[-1][2]
    (record,) = [one for one in running.server.records if one.action == "access-end"]
    assert record.detail == "1 apps, 1 remembered, 1 passkeys, 0 authenticator"
    await browser.get("/security/access")
    assert "no app has access" in browser.page.text


async def test_all_access_is_ended_by_who_signed_in_just_now_only(running):
    """An open session on a shared computer is not enough; another session of hers ends with it, and its forms change nothing."""
    token, browser = await _standing(running)
    await browser.get("/security/access")
    running.server.clock.forward(301)
    form = smart.Form(browser.page.text).to("/security/access")
    await browser.post("/security/access", form)
    assert browser.page.request.url.path == "/signin"
    assert await _counts(running, token)
    other = await running.signed_in()
    await other.get("/security/access")
    await browser.get("/signin", again="1", next="/security/access")
    await browser.sign_in()
    await browser.submit("/security/access")
    assert not await _counts(running, token)
    assert await running.server.sessions.current(cookie(other)) is None


async def test_a_code_changes_a_password_once(running):
    """Sent again, it changes nothing."""
    await running.confirm()
    browser = await running.asked("ann")
    page, code = browser.page, running.server.mailbox.code
    await browser.submit(CODE, code=code, password=NEW)
    browser.page = page
    assert (await browser.submit(CODE, code=code, password="a third password")).status_code == 403
    await browser.get("/signin")
    await browser.sign_in(password=NEW)
    assert cookie(browser)


async def test_an_authorization_goes_on_after_a_forgotten_password(running):
    """The app's request waits."""
    await running.confirm()
    browser = running.browser()
    await browser.authorize(smart.asking())
    link = re.search(r'href="(/signin/forgotten[^"]*)"', browser.page.text)
    assert link
    await browser.get(link[1].replace("&amp;", "&"))
    await browser.submit(FORGOTTEN, username="ann")
    await running.server.verification.settled()
    await browser.submit(CODE, code=running.server.mailbox.code, password=NEW)
    await browser.sign_in(password=NEW)
    await browser.allow()
    assert browser.answer["code"]


async def test_asking_tells_nothing(running):
    """C1, user enumeration: a name with an address, one without, a closed account and nobody get the same pages, through wrong codes to the end."""
    await running.confirm()
    await running.server.person("gone", fhir_user="Patient/g")
    await running.confirm("gone@example.com", "gone")
    await running.server.accounts.disable(await running.server.accounts.named("gone"))
    sent = len(running.server.mailbox.messages)
    pages = []
    for name in ("ann", "mum", "gone", "nobody"):
        browser = await running.asked(name)
        walk = [(browser.page.status_code, without(browser.page.text, name))]
        for _ in range(6):
            await browser.submit(CODE if CODE in browser.page.text else FORGOTTEN, code="00000000", password=NEW, username=name)
            walk.append((browser.page.status_code, without(browser.page.text, name)))
        pages.append(walk)
    assert pages[0] == pages[1] == pages[2] == pages[3]
    assert [status for status, _ in pages[0]] == [200, 403, 403, 403, 403, 403, 200]
    assert {to for to, _, _ in running.server.mailbox.messages[sent:]} == {"ann@example.com"}


async def test_limits_tell_nothing(running):
    """C1: how many codes are sent in a name from one network, and from all, and how many tries one has, is the same for who is there and who not."""
    await running.confirm()
    found = []
    for name in ("ann", "nobody"):
        running.server.verification._attempts = Attempts(sends_of_strangers=8)
        statuses = [(await running.asked(name, "192.0.2.1")).page.status_code for _ in range(4)]  # three in a quarter of an hour
        running.server.clock.forward(901)
        statuses += [(await running.asked(name, "192.0.2.1")).page.status_code for _ in range(4)]
        running.server.clock.forward(901)
        statuses += [(await running.asked(name, "192.0.2.1")).page.status_code]  # six in a day
        browsers = [await running.asked(name, f"198.51.100.{number}") for number in range(3)]  # eight from all
        assert browsers[-1].page.headers["retry-after"]
        statuses += [browser.page.status_code for browser in browsers]
        for _ in range(6):
            await browsers[0].submit(CODE if CODE in browsers[0].page.text else FORGOTTEN, code="00000000", password=NEW, username=name)
            statuses.append(browsers[0].page.status_code)
        found.append(statuses)
        running.server.clock.forward(90_000)
    assert found[0] == found[1]
    assert found[0] == [200, 200, 200, 429] * 2 + [429] + [200, 200, 429] + [403] * 5 + [429]


async def test_a_stranger_denies_nobody_her_recovery(running):
    """He asks in her name from everywhere and enters wrong codes all day; the code of her browser counts, and so do new ones, and her password."""
    hers = await running.confirm()  # a browser in which she signed in
    for number in range(40):
        strange = await running.asked("ann", f"198.51.100.{number}")
        if CODE in strange.page.text:
            await strange.submit(CODE, code="00000000", password=NEW)
    sent = len(running.server.mailbox.messages) - 1
    assert sent == 30
    other = await running.asked("ann", "203.0.113.1")
    assert other.page.status_code == 429  # a browser that is nobody's
    await hers.post("/signout", smart.Form((await hers.get("/signout")).text).to("/signout"))
    await hers.get(FORGOTTEN)
    await hers.submit(FORGOTTEN, username="ann")
    await running.server.verification.settled()
    code = running.server.mailbox.code
    for number in range(3):  # meanwhile
        await running.asked("ann", f"198.51.100.{number + 50}")
    assert len(running.server.mailbox.messages) - 1 == sent + 1
    await hers.submit(CODE, code="00000000", password=NEW)
    await hers.submit(CODE, code=code, password=NEW)
    assert "Your password was changed" in hers.page.text


async def test_a_stranger_locks_nobody_out_of_her_own_browser(running):
    """Wrong passwords from elsewhere count apart from hers; her own browser's wrong ones count, and it is hers for no other name."""
    running.server.accounts._attempts = Attempts()
    hers = await running.signed_in()
    await running.signed_in("mum")
    for number in range(11):
        stranger = running.browser(f"198.51.100.{number}")
        await stranger.get("/signin")
        await stranger.sign_in(password="not it at all")
    assert stranger.page.status_code == 429
    await hers.get("/signin", again="1", next="/security")
    assert (await hers.sign_in(password="not it at all")).status_code == 403
    assert (await hers.sign_in()).status_code == 200
    assert "__Host-gw_known" in {one.name for one in hers.http.cookies.jar}
    await hers.get("/signin", again="1")
    for _ in range(11):
        await hers.sign_in(password="not it at all")
    assert hers.page.status_code == 429
    await hers.sign_in("mum", password="not it at all")
    assert hers.page.status_code == 403


async def test_whoever_signs_out_everywhere_is_known_nowhere(running):
    """A browser that somebody else used is no more than a stranger's afterwards."""
    browser = await running.signed_in()
    account = await running.server.accounts.named("ann")
    secret = next(one.value for one in browser.http.cookies.jar if one.name == "__Host-gw_known")
    for known in (True, False):
        async with running.server.database.read() as connection:
            assert await known_browsers.knows(connection, "ann", smart.digest(secret)) is known
            assert not await known_browsers.knows(connection, "mum", smart.digest(secret))
        visitor = await running.server.sessions.current(await running.server.sessions.begin(account))
        await running.server.sessions.end_all(visitor, Caller())
    for _ in range(25):
        await running.server.sessions.remember_browser(account)
    async with running.server.database.write() as connection:
        table = known_browsers._table
        assert len((await connection.execute(table.select())).all()) == 20
        await known_browsers.prune(connection, moment=running.server.clock() + known_browsers.KEPT * 2)
        assert not (await connection.execute(table.select())).all()


async def test_one_address_asks_for_so_many(running):
    """C1: in whichever names."""
    running.server.verification._attempts = Attempts(sends_of_address=4)
    statuses = [(await running.asked(f"name{number}")).page.status_code for number in range(5)]
    assert statuses == [200] * 4 + [429]


async def test_what_is_refused_costs_nothing(running, monkeypatch):
    """C1: hashing has one queue, and sign-ins wait in it: whoever asks too often, in nobody's name or to any address, is refused before."""
    server, hashed, real = running.server, [], smart.PASSWORDS.hash

    async def counting(password: str) -> str:
        hashed.append(password)
        return await real(password)

    account = await server.accounts.named("ann")
    visitor = await server.sessions.current(await server.sessions.begin(account))
    monkeypatch.setattr(smart.PASSWORDS, "hash", counting)
    asked = [await server.verification.forgot("nobody", "x" * 43, Caller("r", "198.51.100.9")) for _ in range(9)]
    assert ([isinstance(one, FactorLocked) for one in asked], len(hashed)) == ([False] * 3 + [True] * 6, 3)
    sent = [await server.verification.begin_contact(visitor, "ann@example.com", Caller("r", "198.51.100.10")) for _ in range(9)]
    assert ([isinstance(one, FactorLocked) for one in sent], len(hashed)) == ([False] * 3 + [True] * 6, 6)
    await server.verification.settled()


async def test_asking_takes_the_same_time(running):
    """C1, user enumeration by time: a code is hashed, and a try is judged, for nobody too; sending happens beside the answer.

    The quickest of many, taken in turns, with a hash that costs something: the machine has other work.
    """
    await running.confirm()
    passwords = Passwords(time_cost=2, memory=8192)

    class Slow(smart.Mailbox):
        async def send(self, to: str, subject: str, text: str) -> None:
            del to, subject, text
            await asyncio.sleep(0.2)

    server = running.server
    slow = Verification(
        server.database,
        passwords,
        smart.SEALER,
        Slow(),
        service="T",
        record_in=server._record_in,
        attempts=Attempts(sends=999, of_factor=999, sends_a_day=999, sends_of_strangers=999),
    )
    caller = Caller()

    async def took(name: str) -> tuple[float, float]:
        began = time.perf_counter()
        await slow.forgot(name, name, caller)
        asked = time.perf_counter()
        await slow.reset(name, "00000000", NEW, caller)
        return asked - began, time.perf_counter() - asked

    tries = [(await took("ann"), await took("nobody")) for _ in range(15)]
    await slow.settled()
    passwords.close()
    for part in (0, 1):
        known, unknown = (statistics.median(sorted(one[who][part] for one in tries)[:5]) for who in (0, 1))
        assert 0.5 < known / unknown < 2


async def test_without_a_notifier_nothing_is_offered(running):
    """No page asks for an address that nothing is sent to."""
    running.server.verification = Verification(
        running.server.database, smart.PASSWORDS, smart.SEALER, NoNotifier(), service="T", record_in=running.server._record_in
    )
    browser = await running.signed_in()
    assert "address" not in browser.page.text
    assert (await browser.get("/security/contact")).status_code == 404
    assert (await browser.get(FORGOTTEN)).status_code == 404
    assert "Your clinic can help" in (await running.browser().get("/signin")).text
    with pytest.raises(NotSent):
        await NoNotifier().send("ann@example.com", "", "")


async def test_a_message_that_is_not_sent_changes_no_answer(running):
    """The answer does not wait, and the log does not say for whom it was."""

    class Broken(smart.Mailbox):
        async def send(self, to: str, subject: str, text: str) -> None:
            del to, subject, text
            raise NotSent("the mail server refused it (550)")

    running.server.verification._notifier = Broken()
    browser = await running.signed_in()
    await browser.get("/security/contact")
    await browser.submit("/security/contact", contact="ann@example.com")
    await running.server.verification.settled()
    assert browser.page.request.url.path == "/security/contact/code"


async def test_an_address_can_be_taken_away(running):
    """And it hears of it."""
    browser = await running.confirm()
    await browser.submit("/security/contact/remove")
    await running.server.verification.settled()
    assert "The address was removed" in browser.page.text
    assert "was removed" in running.server.mailbox.messages[-1][2]
    browser = await running.asked("ann")
    assert len(running.server.mailbox.messages) == 2
