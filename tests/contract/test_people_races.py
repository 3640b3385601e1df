"""A code, a recovery code, a passkey's answer and a try count once, however many send them at the same time. Over SQLite and PostgreSQL."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from gateway.smart.record import Caller
from gateway.smart.server.attempts import Attempts
from gateway.smart.server.people import totp
from gateway.smart.server.people.accounts import Locked, SignedIn
from gateway.smart.server.people.factors import Over, Passed, WrongCode
from gateway.smart.server.people.sessions import Visitor
from gateway.smart.server.people.verification import Changed, Verified
from gateway.store import people_factors
from tests.support import smart
from tests.support.passkey import Authenticator

PARALLEL = 6
CALLER = Caller()
ONE_STORE = pytest.mark.parametrize("server", ["sqlite"], indirect=True)
"""Where nothing happens at once: the order counts, and not the store."""


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
async def server(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[smart.Smart]:
    """A server with one person."""
    url = f"sqlite+aiosqlite:///{tmp_path}/store.db" if request.param == "sqlite" else request.getfixturevalue("postgres_url")
    async with smart.smart_server(url, attempts=Attempts(of_factor=1000, sends=1000)) as found:
        await found.person()
        yield found


async def visitor(server: smart.Smart) -> Visitor:
    account = await server.accounts.named("ann")
    assert account is not None
    found = await server.sessions.current(await server.sessions.begin(account))
    assert found is not None
    return found


async def enrolled(server: smart.Smart) -> tuple[bytes, tuple[str, ...]]:
    """An app that counts: its secret, and the recovery codes."""
    who = await visitor(server)
    assert await server.factors.begin_app(who.account)
    secret = await server.factors.waiting_secret(who.account)
    assert secret is not None
    code = totp.code(secret, totp.step_at(server.clock()))
    found = await asyncio.gather(*(server.factors.confirm_app(who, code, CALLER) for _ in range(PARALLEL)))
    (made,) = [one for one in found if one is not None]  # confirmed once, so one set of recovery codes
    server.clock.forward(60)
    return secret, made.codes


async def at_once(server: smart.Smart, entered: str) -> list[Any]:
    """From as many browsers, each half-way."""
    account = await server.accounts.named("ann")
    assert account is not None
    browsers = [f"browser-{number}" for number in range(PARALLEL)]
    for browser in browsers:
        await server.factors.wait(account, browser)
    return list(await asyncio.gather(*(server.factors.sign_in(browser, entered, CALLER) for browser in browsers)))


async def test_a_code_of_the_app_counts_once(server):
    """RFC 6238 section 5.2."""
    secret, _ = await enrolled(server)
    found = await at_once(server, totp.code(secret, totp.step_at(server.clock())))
    assert sum(isinstance(one, Passed) for one in found) == 1
    assert sum(isinstance(one, WrongCode) for one in found) == PARALLEL - 1


async def test_a_recovery_code_counts_once(server):
    """And takes none of the others with it."""
    _, codes = await enrolled(server)
    found = await at_once(server, codes[0])
    assert sum(isinstance(one, Passed) for one in found) == 1
    assert (await server.factors.of((await visitor(server)).account)).codes_left == 9


async def test_tries_at_once_are_all_counted(server):
    """C1, brute force: five, not five times as many as one can send in a moment."""
    await enrolled(server)
    account = (await visitor(server)).account
    await server.factors.wait(account, "browser")
    found = await asyncio.gather(*(server.factors.sign_in("browser", "000000", CALLER) for _ in range(4 * PARALLEL)))
    assert sum(isinstance(one, WrongCode) for one in found) == 4
    assert sum(isinstance(one, Over) for one in found) == 4 * PARALLEL - 4
    assert len([one for one in server.records if one.reason == "factor-wrong"]) == 5


@ONE_STORE
async def test_an_old_password_goes_no_further(server):
    """ATK-O19: judged before the password was replaced, it does not even lead to the second factor."""
    _, codes = await enrolled(server)
    judged = await server.accounts.sign_in("ann", smart.PASSWORD, CALLER)
    await server.accounts.change_password(await visitor(server), "another long password", CALLER)
    assert not await server.factors.wait(judged.account, "browser")
    assert isinstance(await server.factors.sign_in("browser", codes[0], CALLER), Over)


@ONE_STORE
@pytest.mark.parametrize("how", ["changed", "removed"])
async def test_a_code_at_an_old_address_counts_no_more(server, how):
    """She leaves a mailbox that somebody else reads: what was sent there for a new password is worth nothing from then on."""
    who = await visitor(server)
    who = await server.sessions.current(await _confirmed(server, who, "ann@old.example"))
    await server.verification.forgot("ann", "thief", CALLER)
    await server.verification.settled()
    code = server.mailbox.code
    await (_confirmed(server, who, "ann@new.example") if how == "changed" else server.verification.remove_contact(who, CALLER))
    assert isinstance(await server.verification.reset("thief", code, "a password of his", CALLER), Over)


async def _confirmed(server: smart.Smart, who: Visitor, address: str) -> str:
    """Her address, and the session's new secret."""
    await server.verification.begin_contact(who, address, CALLER)
    await server.verification.settled()
    found = await server.verification.confirm_contact(who, server.mailbox.code, CALLER)
    await server.verification.settled()
    return found.secret


@ONE_STORE
async def test_an_address_that_may_not_try_any_more_locks_nobody(server):
    """C1, brute force: what is refused for its address does not count against the names that it gives, however many."""
    server.accounts._attempts = Attempts(of_name=3, of_address=4)
    for name in ("nobody", "nobody", *["ann"] * PARALLEL):
        await server.accounts.sign_in(name, "a guess", Caller(address="192.0.2.1"))
    assert isinstance(await server.accounts.sign_in("ann", smart.PASSWORD, Caller(address="192.0.2.1")), Locked)
    assert isinstance(await server.accounts.sign_in("ann", smart.PASSWORD, Caller(address="192.0.2.2")), SignedIn)


async def test_an_answer_of_a_passkey_counts_once(server):
    """One challenge, one sign-in; one credential, one row."""
    device, who = Authenticator(smart.PUBLIC_URL, "gateway.test", counts=False), await visitor(server)
    answer = device.make(_options(await server.passkeys.adding(who)))
    added = await asyncio.gather(*(server.passkeys.add(who, answer, "key", CALLER) for _ in range(PARALLEL)))
    assert sum(bool(secret) for secret in added) == 1
    used = device.use(_options(await server.passkeys.signing_in("browser")))
    found = await asyncio.gather(*(server.passkeys.sign_in("browser", used, CALLER) for _ in range(PARALLEL)))
    assert sum(isinstance(one, Passed) for one in found) == 1


@ONE_STORE
@pytest.mark.parametrize("how", ["taken away", "all access ended", "reset by the operator"])
async def test_a_passkey_that_is_gone_begins_no_session(server, how):
    """Its answer was judged just before; a session of it would outlive what she did against it."""
    device, who = Authenticator(smart.PUBLIC_URL, "gateway.test"), await visitor(server)
    secret = await server.passkeys.add(who, device.make(_options(await server.passkeys.adding(who))), "key", CALLER)
    judged = await server.passkeys.sign_in("browser", device.use(_options(await server.passkeys.signing_in("browser"))), CALLER)
    who = await server.sessions.current(secret)
    if how == "taken away":
        await server.passkeys.remove(who, judged.passkey, CALLER)
    elif how == "all access ended":
        await server.endings.end_all(who, CALLER)
    else:
        await server.factors.reset(who.account)
    assert await server.sessions.begin(judged.account, method=judged.method, passkey=judged.passkey) == ""


async def test_one_counter_signs_in_once(server):
    """Two answers with the same count, to two questions: a key and its copy."""
    device, who = Authenticator(smart.PUBLIC_URL, "gateway.test"), await visitor(server)
    await server.passkeys.add(who, device.make(_options(await server.passkeys.adding(who))), "key", CALLER)
    answers = []
    for browser in ("one", "two"):
        device.counter = 0
        answers.append((browser, device.use(_options(await server.passkeys.signing_in(browser)))))
    found = await asyncio.gather(*(server.passkeys.sign_in(browser, answer, CALLER) for browser, answer in answers))
    assert sorted(type(one).__name__ for one in found) == ["Passed", "WrongCode"]


async def test_a_code_from_a_message_counts_once(server):
    """For an address, and for a new password."""
    who = await visitor(server)
    await server.verification.begin_contact(who, "ann@example.com", CALLER)
    await server.verification.settled()
    code = server.mailbox.code
    found = await asyncio.gather(*(server.verification.confirm_contact(who, code, CALLER) for _ in range(PARALLEL)))
    assert sum(isinstance(one, Verified) for one in found) == 1
    await server.verification.forgot("ann", "browser", CALLER)
    await server.verification.settled()
    code = server.mailbox.code
    changed = await asyncio.gather(*(server.verification.reset("browser", code, f"new password {n}", CALLER) for n in range(PARALLEL)))
    await server.verification.settled()
    assert sum(isinstance(one, Changed) for one in changed) == 1
    assert len([one for one in server.records if one.action == "password-set"]) == 1


async def test_one_app_for_one_person(server):
    """Begun twice at once, one secret waits; a code of the other one confirms nothing."""
    who = await visitor(server)
    await asyncio.gather(*(server.factors.begin_app(who.account) for _ in range(PARALLEL)))
    async with server.database.read() as connection:
        rows = (await connection.execute(people_factors.t.totp.select())).all()
    assert len(rows) == 1


def _options(text: str) -> dict[str, Any]:
    return json.loads(text)
