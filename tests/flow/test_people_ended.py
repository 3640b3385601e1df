"""What is over stays over: a password that was replaced, a session that was ended, and what apps had for as long as it lasted."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from gateway.errors import Unauthenticated
from gateway.smart.record import Caller
from gateway.smart.server.people.accounts import SignedIn
from gateway.smart.server.people.sessions import SessionOver, Visitor
from tests.support import smart

ONLINE = "launch/patient online_access patient/Patient.r"
NEW = "quite another password"
COOKIE = "__Host-gw_session"


@pytest.fixture
async def server(tmp_path) -> AsyncIterator[smart.Smart]:
    async with smart.smart_server(f"sqlite+aiosqlite:///{tmp_path}/store.db") as found:
        await found.public_app()
        await found.person()
        await found.person("mum", fhir_user="RelatedPerson/mum", patients=["a"])
        yield found


async def signed_in(server: smart.Smart, username: str = "ann", then: str = "/security") -> smart.Browser:
    browser = smart.Browser(server.app())
    await browser.get("/signin", next=then)
    await browser.sign_in(username)
    return browser


async def visitor_of(server: smart.Smart, browser: smart.Browser) -> Visitor:
    found = await server.sessions.current(browser.http.cookies[COOKIE])
    assert found is not None
    return found


async def reset(server: smart.Smart) -> None:
    """Ann's password is replaced, as by the operator; a reset by code does the same."""
    account = await server.accounts.named("ann")
    assert account is not None
    await server.accounts.set_password(account, NEW)


async def online(browser: smart.Browser) -> dict[str, Any]:
    pkce = smart.Pkce()
    code = await smart.code_for(browser, smart.asking(scope=ONLINE, pkce=pkce))
    form = {"grant_type": "authorization_code", "code": code, "redirect_uri": smart.APP, "code_verifier": pkce.verifier, "client_id": "app"}
    return (await smart.exchange(browser.http, form)).json()


async def refreshed(browser: smart.Browser, token: str) -> httpx.Response:
    return await smart.exchange(browser.http, {"grant_type": "refresh_token", "refresh_token": token, "client_id": "app"})


async def test_a_sign_in_with_the_old_password_does_not_outlive_its_end(server: smart.Smart, monkeypatch: pytest.MonkeyPatch):
    """The old password is judged right, and replaced before the session begins."""
    real = smart.PASSWORDS.verify

    async def verify(encoded: str | None, password: str) -> bool:
        monkeypatch.setattr(smart.PASSWORDS, "verify", real)
        right = await real(encoded, password)
        await reset(server)
        return right

    monkeypatch.setattr(smart.PASSWORDS, "verify", verify)
    thief = await signed_in(server)
    assert COOKIE not in thief.http.cookies
    judged = await server.accounts.sign_in("ann", smart.PASSWORD, Caller())
    assert not isinstance(judged, SignedIn)


async def test_no_session_begins_for_what_was_judged_before(server: smart.Smart):
    """Also when the change comes between the judgement and the session."""
    judged = await server.accounts.sign_in("ann", smart.PASSWORD, Caller())
    assert isinstance(judged, SignedIn)
    await reset(server)
    assert await server.sessions.begin(judged.account) == ""


async def test_an_ended_session_changes_nothing(server: smart.Smart):
    """It was read, and then all were ended: what it asks for is rolled back, and the page leads to the sign-in."""
    thief = await signed_in(server, then="/security/password")
    visitor = await visitor_of(server, thief)
    page = thief.page
    await reset(server)
    with pytest.raises(SessionOver):
        await server.accounts.change_password(visitor, "the password of a thief", Caller())
    assert isinstance(await server.accounts.sign_in("ann", NEW, Caller()), SignedIn)
    thief.page = page
    await thief.submit("/security/password", password="the password of a thief")
    assert "/signin" in str(thief.page.request.url)


async def test_online_access_ends_with_a_new_password(server: smart.Smart):
    """All other sessions end, and with them what apps had for as long as they lasted."""
    other = await signed_in(server)
    token = await online(other)
    ann = await signed_in(server, then="/security/password")
    await ann.submit("/security/password", password=NEW)
    assert "done=password" in str(ann.page.request.url)
    assert (await refreshed(other, token["refresh_token"])).json()["error"] == "invalid_grant"


async def test_online_access_ends_when_somebody_else_signs_in(server: smart.Smart):
    """In the same browser."""
    browser = await signed_in(server)
    token = await online(browser)
    await browser.get("/signin", again="1")
    await browser.sign_in("mum")
    assert (await refreshed(browser, token["refresh_token"])).json()["error"] == "invalid_grant"


async def test_no_token_of_online_access_lives_longer(server: smart.Smart):
    """One that is issued five seconds before the end ends with it."""
    browser = await signed_in(server)
    token = await online(browser)
    server.clock.forward(12 * 3600 - 5)
    last = (await refreshed(browser, token["refresh_token"])).json()
    assert last["expires_in"] <= 5
    server.clock.forward(6)
    with pytest.raises(Unauthenticated):
        await server.authenticator.principal("hapi", [f"Bearer {last['access_token']}"])
