"""Passkeys: make one, sign in with it, take it away; and every answer that is not the right one."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from itertools import product

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from gateway.smart.server.attempts import Attempts
from gateway.smart.server.people.passkeys import Passkeys
from gateway.store import people_factors
from tests.support import smart
from tests.support.passkey import PRESENT, VERIFIED, Authenticator, b64, options_of

PASSKEY, ADD = "/signin/passkey", "/security/passkey"


def device(**more: bool) -> Authenticator:
    return Authenticator(smart.PUBLIC_URL, "gateway.test", **more)


@dataclass
class Running:
    server: smart.Smart
    device: Authenticator = field(default_factory=device)

    def browser(self) -> smart.Browser:
        return smart.Browser(self.server.app())

    async def signed_in(self, username: str = "ann") -> smart.Browser:
        browser = self.browser()
        await browser.get("/signin", next="/security")
        await browser.sign_in(username)
        return browser

    async def add(self, one: Authenticator, username: str = "ann") -> smart.Browser:
        browser = await self.signed_in(username)
        await browser.get(ADD)
        await browser.submit(ADD, answer=one.make(options_of(browser.page.text)), name="My phone")
        return browser

    async def at_passkey(self) -> smart.Browser:
        browser = self.browser()
        await browser.get(PASSKEY, next="/security")
        return browser


@pytest.fixture
async def running(tmp_path) -> AsyncIterator[Running]:
    async with smart.smart_server(f"sqlite+aiosqlite:///{tmp_path}/store.db", attempts=Attempts(20, 40)) as server:
        await server.public_app()
        await server.person()
        await server.person("mum", fhir_user="Patient/m")
        yield Running(server)


@pytest.fixture
async def with_key(running) -> Running:
    """Ann has a passkey."""
    await running.add(running.device)
    return running


def cookie(browser: smart.Browser) -> str:
    return next((one.value or "" for one in reversed(list(browser.http.cookies.jar)) if one.name == "__Host-gw_session"), "")


async def test_a_passkey_signs_in(running):
    """Made on the security page, listed by its name, and a whole sign-in afterwards; each gives the session a new id (ATK-O19)."""
    browser = await running.signed_in()
    before = cookie(browser)
    await browser.get(ADD)
    asked = options_of(browser.page.text)
    assert (asked["rp"]["id"], asked["authenticatorSelection"]["residentKey"]) == ("gateway.test", "required")
    assert asked["authenticatorSelection"]["userVerification"] == "required"
    await browser.submit(ADD, answer=running.device.make(asked), name="My <phone>")
    assert "The passkey was added" in browser.page.text
    assert "My &lt;phone&gt;" in browser.page.text
    assert cookie(browser) != before
    assert await running.server.sessions.current(before) is None
    other = await running.at_passkey()
    wanted = options_of(other.page.text)
    assert (wanted["rpId"], wanted["userVerification"], wanted.get("allowCredentials", [])) == ("gateway.test", "required", [])
    await other.submit(PASSKEY, answer=running.device.use(wanted))
    assert other.page.request.url.path == "/security"
    assert "with a passkey" in other.page.text
    assert [(one.detail) for one in running.server.records if one.action == "login"] == ["", "passkey"]


async def test_only_these_pages_have_a_script(with_key):
    """One file of ours, by CSP; all others have none, and these say what to do without it."""
    browser = await with_key.at_passkey()
    assert "script-src 'self';" in browser.page.headers["content-security-policy"]
    assert browser.page.text.count("<script") == 1
    assert 'src="/static/passkey.js?v=' in browser.page.text
    assert "Sign in with a password" in browser.page.text
    for page in ("/signin", "/signin/forgotten"):
        found = await with_key.browser().get(page)
        assert "script" not in found.headers["content-security-policy"]
        assert "<script" not in found.text


async def test_an_authorization_goes_on_after_a_passkey(with_key):
    """As after a password, with the second factor or without: a passkey is both."""
    browser = with_key.browser()
    await browser.authorize(smart.asking())
    query = str(browser.page.request.url.query, "ascii")
    await browser.get(f"{PASSKEY}?{query}")
    assert "https://app.test" in browser.page.headers["content-security-policy"]
    await browser.submit(PASSKEY, answer=with_key.device.use(options_of(browser.page.text)))
    await browser.allow()
    assert browser.answer["code"]


LIES = {
    "origin": {"origin": "https://evil.test"},
    "rp": {"rp_id": "evil.test"},
    "challenge": {"challenge": b64(b"x" * 64)},
    "kind": {"kind": "webauthn.create"},
    "key": {"key": ec.generate_private_key(ec.SECP256R1())},
    "handle": {"handle": b64(b"0" * 32)},
    "no-handle": {"handle": ""},
    "not-verified": {"flags": PRESENT},
    "not-present": {"flags": VERIFIED},
}


@pytest.mark.parametrize("lie", LIES)
async def test_a_lie_signs_nobody_in(with_key, lie):
    """Another site's answer, another question's, another key's, another person's, or one without the finger: one page for all."""
    browser = await with_key.at_passkey()
    refused = await browser.submit(PASSKEY, answer=with_key.device.use(options_of(browser.page.text), **LIES[lie]))
    assert refused.status_code == 403
    assert "This passkey is not known here" in refused.text
    assert not cookie(browser)
    assert with_key.server.records[-1].reason == "passkey-wrong"


async def test_nonsense_signs_nobody_in(with_key):
    """Bytes that a stranger made up are judged like any other."""
    for answer in ("", "{}", "[]", "nonsense", "1" * 40_000, '{"id":"x"}', '{"id":7,"response":{}}', '{"id":null}', "[" * 30_000):
        browser = await with_key.at_passkey()
        assert (await browser.submit(PASSKEY, answer=answer)).status_code == 403
        assert not cookie(browser)


async def test_a_broken_member_signs_nobody_in(with_key):
    """Each of them cut short, of another kind, and missing."""
    for member, broken in product(["clientDataJSON", "authenticatorData", "signature", "userHandle"], ["AA", "!", 7, None]):
        browser = await with_key.at_passkey()
        answer = json.loads(with_key.device.use(options_of(browser.page.text)))
        answer["response"][member] = broken
        assert (await browser.submit(PASSKEY, answer=json.dumps(answer))).status_code == 403
        assert not cookie(browser)


async def test_a_challenge_is_the_browsers_and_counts_once(with_key):
    """ATK-O17: an answer to another browser's question, one that was sent before, and one that took too long."""
    with_key.device = device(counts=False)  # its counter would tell, too
    await with_key.add(with_key.device)
    mine, other = await with_key.at_passkey(), await with_key.at_passkey()
    answer = with_key.device.use(options_of(other.page.text))
    assert (await mine.submit(PASSKEY, answer=answer)).status_code == 403
    other_page = other.page
    await other.submit(PASSKEY, answer=answer)
    assert cookie(other)
    other.page = other_page
    assert (await other.submit(PASSKEY, answer=answer)).status_code == 403
    late = await with_key.at_passkey()
    answer = with_key.device.use(options_of(late.page.text))
    with_key.server.clock.forward(300)
    assert (await late.submit(PASSKEY, answer=answer)).status_code == 403
    forged = await with_key.at_passkey()
    assert (await forged.submit(PASSKEY, without=["csrf"], answer=with_key.device.use(options_of(forged.page.text)))).status_code == 403
    assert not cookie(late) + cookie(mine) + cookie(forged)


async def test_a_counter_that_does_not_grow_is_a_copy(with_key):
    """WebAuthn section 6.1.1: two devices with one key. One that keeps no counter says 0, always."""
    browser = await with_key.at_passkey()
    await browser.submit(PASSKEY, answer=with_key.device.use(options_of(browser.page.text)))
    assert cookie(browser)
    for copied in (0, -1):
        with_key.device.counter = with_key.device.counter + copied if copied else 0
        browser = await with_key.at_passkey()
        assert (await browser.submit(PASSKEY, answer=with_key.device.use(options_of(browser.page.text)))).status_code == 403
        with_key.device.counter = 1
    plain = device(counts=False)
    await with_key.add(plain, "mum")
    for _ in range(2):
        browser = await with_key.at_passkey()
        await browser.submit(PASSKEY, answer=plain.use(options_of(browser.page.text)))
        assert cookie(browser)


@pytest.mark.parametrize("lie", [{"origin": "https://evil.test"}, {"rp_id": "evil.test"}, {"challenge": b64(b"x" * 64)}, {"flags": PRESENT}])
async def test_a_lie_adds_no_passkey(running, lie):
    """And the page says that it may be tried again."""
    browser = await running.signed_in()
    await browser.get(ADD)
    refused = await browser.submit(ADD, answer=running.device.make(options_of(browser.page.text), **lie))
    assert refused.status_code == 403
    assert "The passkey was not added" in refused.text
    assert not [one for one in running.server.records if one.action == "factor-add"]


async def test_a_passkey_is_one_persons(with_key):
    """The same credential is not added again, by her or by anybody else; a challenge is one session's."""
    for username in ("mum", "ann"):
        browser = await with_key.signed_in(username)
        await browser.get(ADD)
        assert (await browser.submit(ADD, answer=with_key.device.make(options_of(browser.page.text)))).status_code == 403
    mum, ann = await with_key.signed_in("mum"), await with_key.signed_in()
    await mum.get(ADD)
    await ann.get(ADD)
    assert (await ann.submit(ADD, answer=device().make(options_of(mum.page.text)))).status_code == 403


async def test_a_removed_passkey_opens_nothing(with_key):
    """Nor does one of a closed account; and nobody removes another person's."""
    account = await with_key.server.accounts.named("ann")
    async with with_key.server.database.read() as connection:
        (key,) = await people_factors.passkeys(connection, account.id)
    mum = await with_key.signed_in("mum")
    csrf = dict(smart.Form(mum.page.text).to("/signout"))["csrf"]
    await mum.post("/security/passkey/remove", [("csrf", csrf), ("passkey", key.hash)])
    browser = await with_key.at_passkey()
    await browser.submit(PASSKEY, answer=with_key.device.use(options_of(browser.page.text)))
    await browser.submit("/security/passkey/remove")
    assert "The passkey was removed" in browser.page.text
    browser = await with_key.at_passkey()
    assert (await browser.submit(PASSKEY, answer=with_key.device.use(options_of(browser.page.text)))).status_code == 403
    second = device()
    await with_key.add(second)
    await with_key.server.accounts.disable(account)
    browser = await with_key.at_passkey()
    assert (await browser.submit(PASSKEY, answer=second.use(options_of(browser.page.text)))).status_code == 403


async def test_too_many_wrong_passkeys_wait(with_key):
    """C1, brute force: one address."""
    statuses = []
    with_key.server.passkeys._attempts = Attempts(of_address=5)
    for _ in range(6):
        browser = await with_key.at_passkey()
        statuses.append((await browser.submit(PASSKEY, answer="{}")).status_code)
    assert statuses == [403] * 5 + [429]
    assert browser.page.headers["retry-after"]


@pytest.mark.parametrize(
    ("public_url", "offered"),
    [
        ("https://gateway.example", True),
        ("https://gateway.example:8443", True),
        ("http://localhost:8080", True),
        ("http://127.0.0.1:8080", False),
        ("https://192.0.2.1", False),
        ("https://[2001:db8::1]", False),
        ("http://gateway.example", False),
    ],
)
def test_where_browsers_have_passkeys(public_url, offered):
    """For names, over https; and for localhost (WebAuthn section 5.1.2)."""
    never: smart.Database = object()
    assert Passkeys(never, public_url=public_url, service="T", record_in=None).offered is offered


async def test_without_passkeys_no_page_speaks_of_them(tmp_path):
    """A gateway at a bare address."""
    async with smart.smart_server(f"sqlite+aiosqlite:///{tmp_path}/store.db", public_url="http://127.0.0.1:8080") as server:
        await server.person()
        browser = smart.Browser(server.app(), public_url=server.public_url)
        assert "passkey" not in (await browser.get("/signin", next="/security")).text
        assert "asskey" not in (await browser.sign_in()).text
        assert (await browser.get(PASSKEY)).status_code == 404
