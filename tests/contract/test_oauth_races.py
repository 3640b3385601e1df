"""What may happen once happens once, however many ask at the same time. One suite over SQLite and PostgreSQL."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import select

from gateway.audit import AuditRecord
from gateway.errors import Unauthenticated
from gateway.smart.record import Caller
from gateway.smart.server.authorization.decide import Back, Page
from gateway.smart.server.authorization.driver import Ask, At, Begun, SignIn
from gateway.smart.server.authorization.launches import Wanted
from gateway.smart.server.authorization.memory import Choice
from gateway.smart.server.authorization.operator import GivenAccess, Whose
from gateway.smart.server.clients.invites import Terms
from gateway.smart.server.clients.own_registration import OwnRegistrations, Policy
from gateway.smart.server.clients.registration import Rules
from gateway.smart.server.keys import SigningKeys
from gateway.smart.server.people.sessions import Visitor
from gateway.store import oauth as rows
from gateway.store import oauth_tables as tables
from gateway.store import people
from gateway.store.base import Database
from gateway.store.oauth_rows import digest
from tests.support import smart

PARALLEL = 6
SCOPE = "launch/patient offline_access patient/Observation.rs"


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
async def server(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[smart.Smart]:
    """A server with one app, one backend client and one person."""
    url = f"sqlite+aiosqlite:///{tmp_path}/store.db" if request.param == "sqlite" else request.getfixturevalue("postgres_url")
    async with smart.smart_server(url) as found:
        await found.public_app()
        await found.person()
        yield found


async def at_once(http: httpx.AsyncClient, form: dict[str, str]) -> list[httpx.Response]:
    return list(await asyncio.gather(*(smart.exchange(http, form) for _ in range(PARALLEL))))


def statuses(responses: list[httpx.Response]) -> list[int]:
    return sorted(response.status_code for response in responses)


async def test_a_code_is_exchanged_once(server):
    """ATK-O6, AUTHLIB-E8: at most one 200; the reuse that was seen ends the family, so no token is left."""
    browser, pkce = smart.Browser(server.app()), smart.Pkce()
    code = await smart.code_for(browser, smart.asking(scope=SCOPE, pkce=pkce))
    form = {"grant_type": "authorization_code", "code": code, "redirect_uri": smart.APP, "code_verifier": pkce.verifier, "client_id": "app"}
    found = await at_once(browser.http, form)
    assert statuses(found) == [200] + [400] * (PARALLEL - 1)
    token = next(response.json() for response in found if response.status_code == 200)
    with pytest.raises(Unauthenticated):
        await server.authenticator.principal("hapi", [f"Bearer {token['access_token']}"])
    async with server.database.read() as connection:
        issued = (await connection.execute(tables.access_token.select())).all()
    assert len(issued) == 1


async def test_a_refresh_token_is_rotated_once(server):
    """ATK-O13: one 200 at most. Nobody was robbed: a client that sent its request many times has one answer, and what is in it counts."""
    browser = smart.Browser(server.app())
    token = await smart.launch(browser, SCOPE)
    form = {"grant_type": "refresh_token", "refresh_token": token["refresh_token"], "client_id": "app"}
    found = await at_once(browser.http, form)
    assert statuses(found) == [200] + [400] * (PARALLEL - 1)
    new = next(response.json() for response in found if response.status_code == 200)
    assert (await smart.exchange(browser.http, form | {"refresh_token": new["refresh_token"]})).status_code == 200
    assert (await smart.exchange(browser.http, form)).json()["error"] == "invalid_grant"


async def test_a_token_used_before_and_after_the_first_use_of_its_successor(server):
    """ATK-O13: reuse and first use at once; whichever is first, a reuse after it ends the family."""
    browser = smart.Browser(server.app())
    token = await smart.launch(browser, SCOPE)
    form = {"grant_type": "refresh_token", "refresh_token": token["refresh_token"], "client_id": "app"}
    new = (await smart.exchange(browser.http, form)).json()
    bearer = [f"Bearer {new['access_token']}"]
    await asyncio.gather(*(server.authenticator.principal("hapi", bearer) for _ in range(PARALLEL)))
    assert statuses(await at_once(browser.http, form)) == [400] * PARALLEL
    with pytest.raises(Unauthenticated):
        await server.authenticator.principal("hapi", bearer)


@pytest.mark.parametrize("used", ["access_token", "refresh_token"])
async def test_a_dispute_and_the_first_use_of_the_successor_at_once(server, used):
    """ATK-O13: whichever is first, the two together end the family."""
    browser = smart.Browser(server.app())
    token = await smart.launch(browser, SCOPE)
    form = {"grant_type": "refresh_token", "refresh_token": token["refresh_token"], "client_id": "app"}
    new = (await smart.exchange(browser.http, form)).json()
    server.clock.forward(3000)

    async def use() -> None:
        if used == "refresh_token":
            await smart.exchange(browser.http, form | {"refresh_token": new["refresh_token"]})
        else:
            with contextlib.suppress(Unauthenticated):
                await server.authenticator.principal("hapi", [f"Bearer {new['access_token']}"])

    await asyncio.gather(*(one for _ in range(3) for one in (smart.exchange(browser.http, form), use())))
    with pytest.raises(Unauthenticated):
        await server.authenticator.principal("hapi", [f"Bearer {new['access_token']}"])
    assert sum("family-revoked" in one.detail for one in server.records) >= 1


REUSED: dict[str, tuple[bool, Callable[[_Both], list[Awaitable[Any]]]]] = {
    "twice": (False, lambda both: [both.reuse(number) for number in range(4)]),
    "narrowed": (True, lambda both: [both.reuse(0), both.refresh(1, scope="patient/Observation.s"), both.refresh(0), both.reuse(1)]),
    "revoked": (True, lambda both: [both.reuse(0), both.revoke(1), both.reuse(1), both.refresh(0)]),
    "ended by the operator": (True, lambda both: [both.reuse(0), both.end(), both.refresh(1)]),
}


@dataclass
class _Both:
    """Two servers on one store, and a family whose first refresh token was replaced minutes ago; nobody used yet what replaced it."""

    servers: tuple[smart.Smart, smart.Smart]
    https: tuple[httpx.AsyncClient, httpx.AsyncClient]
    old: dict[str, Any]
    new: dict[str, Any]
    grant: str

    def reuse(self, at: int) -> Awaitable[httpx.Response]:
        return self.refresh(at, self.old)

    def refresh(self, at: int, token: dict[str, Any] | None = None, **more: str) -> Awaitable[httpx.Response]:
        form = {"grant_type": "refresh_token", "refresh_token": (token or self.new)["refresh_token"], "client_id": "app"}
        return smart.exchange(self.https[at % 2], form | more)

    def revoke(self, at: int) -> Awaitable[httpx.Response]:
        return self.https[at].post("/auth/hapi/revoke", data={"token": self.new["refresh_token"], "client_id": "app"})

    def end(self) -> Awaitable[Any]:
        return _given(self.servers[1]).end(self.grant)

    async def works(self, token: dict[str, Any]) -> bool:
        """Whether anything of this answer counts anywhere."""
        for at, server in enumerate(self.servers):
            with contextlib.suppress(Unauthenticated):
                await server.authenticator.principal("hapi", [f"Bearer {token['access_token']}"])
                return True
            if (await self.refresh(at, token)).status_code == 200:
                return True
        return False


@pytest.mark.postgres
async def test_a_disputed_family_at_two_servers(postgres_url):
    """ATK-O13: whatever comes at once, at most one refresh token lives; who only lost an answer keeps the family; what has ended gives nothing."""
    async with smart.smart_server(postgres_url) as server:
        await server.public_app()
        await server.person()
        other, browser = smart.Smart(Database(postgres_url), clock=server.clock), smart.Browser(server.app())
        https, known = (browser.http, smart.Browser(other.app()).http), set[str]()
        for name, (ends, work) in REUSED.items():
            old = await smart.launch(browser, SCOPE)
            new = (await smart.exchange(https[0], {"grant_type": "refresh_token", "refresh_token": old["refresh_token"], "client_id": "app"})).json()
            (grant,) = (one.id for one in await _grants(server) if one.id not in known)
            known.add(grant)
            server.clock.forward(600)
            both = _Both((server, other), https, old, new, grant)
            told = [one.json() for one in await asyncio.gather(*work(both)) if isinstance(one, httpx.Response) and one.status_code == 200]
            given = [one for one in told if "access_token" in one]
            assert len(given) <= 1, name
            async with server.database.read() as connection:
                table = tables.refresh_token
                states = (await connection.execute(select(table.c.state).where(table.c.grant_id == grant))).scalars().all()
            assert states.count("active") <= 1, name
            (ended,) = (one.revoked_at is not None for one in await _grants(server) if one.id == grant)
            assert ended is ends, name
            if ends:
                assert [await both.works(one) for one in (old, new, *given)] == [False] * (2 + len(given)), name
        await other.database.close()


async def test_an_assertion_is_used_once(server):
    """ATK-O23: the jti is consumed atomically."""
    key = await server.backend()
    found = await at_once(smart.Browser(server.app()).http, smart.asserted(key.assertion("lab", moment=server.clock())))
    assert statuses(found) == [200] + [401] * (PARALLEL - 1)


async def test_an_assertion_pushes_one_request(server):
    """ATK-O23, RFC 9126: whoever replays the proof at the same moment pushes nothing."""
    key = smart.BackendKey()
    await server.public_app("keys", token_endpoint_auth_method="private_key_jwt", jwks={"keys": [key.public]})
    proof = smart.asserted(key.assertion("keys", moment=server.clock()))
    request = smart.asking("keys", scope=SCOPE) | {name: proof[name] for name in ("client_assertion", "client_assertion_type")}
    http = smart.Browser(server.app()).http
    found = await asyncio.gather(*(http.post("/auth/hapi/par", data=request) for _ in range(PARALLEL)))
    assert statuses(found) == [201] + [401] * (PARALLEL - 1)
    async with server.database.read() as connection:
        assert len((await connection.execute(tables.pushed_request.select())).all()) == 1


async def test_a_consent_is_answered_once(server):
    """ATK-O17: one transaction, one code."""
    at = await _at_consent(server, smart.asking(scope=SCOPE))
    ticked = frozenset(SCOPE.split())
    found = await asyncio.gather(*(server.authorizations.answer(at, Choice(ticked)) for _ in range(PARALLEL)))
    assert sum(isinstance(one, Back) and not one.error for one in found) == 1
    assert sum(isinstance(one, Page) for one in found) == PARALLEL - 1
    async with server.database.read() as connection:
        assert len((await connection.execute(tables.code.select())).all()) == 1


async def test_a_pushed_request_is_used_once(server):
    """RFC 9126 section 7.3: of many browsers that bring it at once, one goes on."""
    pushed = await smart.Browser(server.app()).http.post("/auth/hapi/par", data=smart.asking(scope=SCOPE))
    pairs = (("client_id", "app"), ("request_uri", pushed.json()["request_uri"]))
    found = await asyncio.gather(*(server.authorizations.begin("hapi", pairs, browser="b" * 43) for _ in range(PARALLEL)))
    assert sum(isinstance(one, Begun) for one in found) == 1
    assert {one.reason for one in found if isinstance(one, Page)} == {"request-uri-unknown"}


async def test_a_choice_taken_back_counts_no_more(server):
    """Whoever asks while she takes it back gets a code or the page, and afterwards the page; two who remember at once leave one choice."""
    request, choice = smart.asking(scope=SCOPE), Choice(frozenset(SCOPE.split()), remember=True)
    waiting = [await _at_consent(server, request) for _ in range(PARALLEL)]
    told = await asyncio.gather(*(server.authorizations.answer(at, choice) for at in waiting))
    assert [one.error for one in told if isinstance(one, Back)] == [""] * PARALLEL
    account = await server.accounts.named("ann")
    (kept,) = await server.grants.unasked(account)

    async def ask() -> object:
        at = await _begun(server, request, waiting[0].visitor)
        return await server.authorizations.step(at)

    *found, forgotten = await asyncio.gather(*(ask() for _ in range(PARALLEL)), server.grants.forget(account, kept.kept.id, Caller()))
    assert forgotten
    assert all(isinstance(one, Ask) or (isinstance(one, Back) and not one.error) for one in found)
    assert isinstance(await ask(), Ask)


async def test_a_launch_is_used_once(server):
    """ATK-O15: two transactions with the same handle end in one code; the other app hears invalid_request."""
    created = await server.launches.create(Wanted("hapi", "app", "a"))
    request = smart.asking(scope="launch patient/Observation.rs", launch=created.launch)
    waiting = [await _at_consent(server, request) for _ in range(PARALLEL)]
    ticked = frozenset({"patient/Observation.rs"})
    found = await asyncio.gather(*(server.authorizations.answer(at, Choice(ticked)) for at in waiting))
    errors = sorted(one.error for one in found if isinstance(one, Back))
    assert errors == ["", *["invalid_request"] * (PARALLEL - 1)]


@pytest.mark.parametrize("change", ["unlisted", "closed"])
async def test_the_last_moment_counts(server, change):
    """ATK-O16, F23: what ends between the reading of the session and the commit is seen within the commit."""
    account = await server.person("mum", fhir_user="RelatedPerson/r", patients=["kid"])
    at = await _at_consent(server, smart.asking(scope=SCOPE), "mum")
    async with server.database.write() as connection:
        if change == "unlisted":
            await people.set_listed(connection, account.id, ())
        else:
            await people.disable_account(connection, account.id, server.clock())
    found = await server.authorizations.answer(at, Choice(frozenset(SCOPE.split())))
    assert isinstance(found, Page)
    assert found.status == 403


async def test_only_the_session_that_read_the_page_answers(server):
    """ATK-O17: another person, or the same one in another session, has to be asked first."""
    at = await _at_consent(server, smart.asking(scope=SCOPE))
    account = await server.accounts.named("ann")
    other = await server.sessions.current(await server.sessions.begin(account))
    found = await server.authorizations.answer(replace(at, visitor=other), Choice(frozenset(SCOPE.split())))
    assert isinstance(found, SignIn)
    assert isinstance(await server.authorizations.answer(at, Choice(frozenset(SCOPE.split()))), Back)


async def test_a_session_that_ended_answers_nothing(server):
    """She signed out in another tab after this request was let in: no grant, and she is asked to sign in. So it is where she is not asked."""
    at, choice = await _at_consent(server, smart.asking(scope=SCOPE)), Choice(frozenset(SCOPE.split()), remember=True)
    assert isinstance(await server.authorizations.answer(at, choice), Back)  # remembered
    for ask in (smart.asking(scope=SCOPE, prompt="consent"), smart.asking(scope=SCOPE)):
        account = await server.accounts.named("ann")
        secret = await server.sessions.begin(account)
        visitor = await server.sessions.current(secret)
        at = await _begun(server, ask, visitor)
        if "prompt" in ask:
            assert isinstance(await server.authorizations.step(at), Ask)
        before = await _grants(server)
        await server.sessions.end(secret, Caller())
        found = await (server.authorizations.answer(at, choice) if "prompt" in ask else server.authorizations.step(at))
        assert isinstance(found, SignIn)
        assert await _grants(server) == before


ENDS: dict[str, Callable[[smart.Smart, Visitor], Awaitable[Any]]] = {
    "client disabled": lambda server, _: server.clients.disable("app"),
    "client deleted": lambda server, _: server.clients.delete("app"),
    "by the operator": lambda server, _: _given(server).end_all(Whose("ann")),
    "of the client": lambda server, _: _given(server).end_all(Whose(client_id="app")),
    "signed out everywhere": lambda server, visitor: server.sessions.end_all(visitor, Caller()),
    "new password": lambda server, visitor: server.accounts.change_password(visitor, "correct horse staple", Caller()),
}


@pytest.mark.parametrize("name", ENDS)
async def test_an_end_and_a_consent_do_not_cross(server, name):
    """A consent that is at its commit when the access ends: the end waits for it, and takes it along."""
    scope = "launch/patient online_access patient/Observation.rs"
    at = await _at_consent(server, smart.asking(scope=scope))
    assert at.visitor is not None
    record_in, there, go_on = server._record_in, asyncio.Event(), asyncio.Event()

    async def paused(connection: Any, record: AuditRecord) -> None:
        there.set()
        await go_on.wait()
        await record_in(connection, record)

    server.authorizations._record_in = paused
    consent = asyncio.create_task(server.authorizations.answer(at, Choice(frozenset(scope.split()))))
    await there.wait()
    end = asyncio.create_task(ENDS[name](server, at.visitor))
    await asyncio.wait({end}, timeout=0.3)
    go_on.set()
    assert isinstance(await consent, Back)
    await end
    (grant,) = await _grants(server)
    assert grant.revoked_at is not None


CROSSING: dict[str, Callable[[smart.Smart, Visitor, str], Awaitable[Any]]] = {
    "sign out": lambda server, _, secret: server.sessions.end(secret, Caller()),
    "sign out everywhere": lambda server, visitor, _: server.sessions.end_all(visitor, Caller()),
    "factors reset": lambda server, visitor, _: server.factors.reset(visitor.account),
    "another person signs in": lambda server, _, secret: _as_another(server, secret),
}


ON_POSTGRES = pytest.mark.parametrize("server", [pytest.param("postgres", marks=pytest.mark.postgres)], indirect=True)
"""SQLite has one writer at a time anyway."""


@ON_POSTGRES
@pytest.mark.parametrize("of", ["account", "client"])
async def test_an_exchange_waits_for_an_end_to_all(server, of):
    """It may end an unsettled family too: else each of the two has a grant that the other wants, and PostgreSQL ends one of them."""
    account, browser, pkce = await server.accounts.named("ann"), smart.Browser(server.app()), smart.Pkce()
    code = await smart.code_for(browser, smart.asking(scope=SCOPE, pkce=pkce))
    form = {"grant_type": "authorization_code", "code": code, "redirect_uri": smart.APP, "code_verifier": pkce.verifier, "client_id": "app"}
    async with server.database.write() as connection:
        await (rows.lock_client(connection, "app") if of == "client" else people.lock_account(connection, account.id))
        exchange = asyncio.create_task(smart.exchange(browser.http, form))
        assert not (await asyncio.wait({exchange}, timeout=0.1))[0]
        await rows.end_access(connection, server.clock(), "test", account_id=account.id)
    assert (await exchange).json()["error"] == "invalid_grant"


@ON_POSTGRES
async def test_what_touches_several_of_hers_goes_by_the_account(server):
    """Two that end things of one person take their turns, as an exchange does."""
    await server.person("bob")
    account = await server.accounts.named("ann")
    secrets = [await server.sessions.begin(account) for _ in CROSSING]
    visitors = [await server.sessions.current(one) for one in secrets]
    async with server.database.write() as connection:
        await people.lock_account(connection, account.id)
        ends = {name: asyncio.ensure_future(end(server, *mine)) for (name, end), *mine in zip(CROSSING.items(), visitors, secrets, strict=True)}
        await asyncio.wait(ends.values(), timeout=0.1)
        assert [name for name, end in ends.items() if end.done()] == []
    await asyncio.gather(*ends.values())


async def _as_another(server: smart.Smart, secret: str) -> str:
    """Somebody else signs in at the same browser."""
    other = await server.accounts.named("bob")
    assert other is not None
    return await server.sessions.begin(other, replaces=secret)


def _given(server: smart.Smart) -> GivenAccess:
    return GivenAccess(server.database, record_in=server._record_in, lifetimes=server.lifetimes, clock=server.clock)


async def _grants(server: smart.Smart) -> list[Any]:
    async with server.database.read() as connection:
        return list((await connection.execute(tables.grant.select())).all())


async def _at_consent(server: smart.Smart, request: dict[str, str], username: str = "ann") -> At:
    """Somebody at the consent page."""
    account = await server.accounts.named(username)
    assert account is not None
    at = await _begun(server, request, await server.sessions.current(await server.sessions.begin(account)))
    await server.authorizations.step(at)
    return at


async def _begun(server: smart.Smart, request: dict[str, str], visitor: Visitor | None) -> At:
    """An app sent a browser."""
    begun = await server.authorizations.begin("hapi", tuple(request.items()), browser="b" * 43)
    assert isinstance(begun, Begun)
    return At("hapi", begun.handle, "b" * 43, visitor)


async def test_processes_that_start_at_once_sign_with_one_key(server):
    """The first to fill the slot wins; the others read what is there."""
    async with server.database.write() as connection:
        await connection.execute(tables.signing_key.delete())
    many = [SigningKeys(server.database, smart.SEALER, lifetimes=server.lifetimes) for _ in range(4)]
    keys = await asyncio.gather(*(one.signing() for one in many))
    assert len({key.kid for key in keys}) == 1
    assert (await many[0].public())["keys"][0]["kid"] == keys[0].kid
    assert "d" not in (await many[0].public())["keys"][0]
    (row,) = await rows.signing_keys(server.database.derive)
    assert keys[0].as_dict(private=False)["n"].encode() not in row.sealed


async def test_of_rotations_at_once_one_is_done(server):
    """The slot is filled once: the others are told, and there is one new key."""
    many = [SigningKeys(server.database, smart.SEALER, lifetimes=server.lifetimes, clock=server.clock) for _ in range(3)]
    found = await asyncio.gather(*(one.rotate() for one in many), return_exceptions=True)
    assert sorted(type(one).__name__ for one in found) == ["Listed", "NotDone", "NotDone"]
    assert len(await rows.signing_keys(server.database.derive)) == 2


async def test_of_new_secrets_at_once_one_is_given(server):
    """A secret that is printed is one that counts; where another came after it, it is the old one of that, and was not written over unseen."""
    await server.secret_app()
    first = digest("secret-of-web")
    day = timedelta(days=1)
    found = await asyncio.gather(*(server.clients.rotate_secret("web", overlap=day) for _ in range(3)), return_exceptions=True)
    given = [digest(one) for one in found if isinstance(one, str)]
    async with server.database.read() as connection:
        client = await rows.client(connection, "web")
    assert client is not None
    assert client.secret_hash in given
    assert client.old_secret_hash in ([one for one in given if one != client.secret_hash] or [first])


async def test_an_invite_is_used_as_often_as_it_says(server):
    """ATK-O27: of six registrations at once with an invite for two, two are."""
    own = OwnRegistrations(
        server.database, Rules(("hapi",)), Policy("token"), public_url=smart.PUBLIC_URL, record_in=server._record_in, clock=server.clock
    )
    _, token = await server.invites.make(Terms("hapi", uses=2))
    asked = (own.register("hapi", {"redirect_uris": [smart.APP]}, [f"Bearer {token}"], Caller(address="192.0.2.1")) for _ in range(PARALLEL))
    found = await asyncio.gather(*asked)
    assert sorted(one.status for one in found) == [201, 201, 401, 401, 401, 401]


async def test_a_registration_token_is_replaced_once(server):
    """Of changes at once with one token one is made, and a client that was disabled meanwhile stays so."""
    own = OwnRegistrations(
        server.database, Rules(("hapi",)), Policy("open"), public_url=smart.PUBLIC_URL, record_in=server._record_in, clock=server.clock
    )
    told = (await own.register("hapi", {"redirect_uris": [smart.APP]}, [], Caller())).body
    sent = {"client_id": told["client_id"], "redirect_uris": [smart.APP]}
    token = [f"Bearer {told['registration_access_token']}"]
    asked = [own.update("hapi", told["client_id"], sent | {"client_name": f"app {n}"}, token, Caller()) for n in range(PARALLEL)]
    *found, _ = await asyncio.gather(*asked, server.clients.disable(told["client_id"]))
    assert [one.status for one in found].count(200) <= 1
    assert {one.status for one in found} <= {200, 401, 403}
    assert (await server.clients.named(told["client_id"])).disabled_at is not None


async def test_attempts_at_once_all_count(server):
    """A parallel guesser gets no more attempts than a patient one."""
    from_one = [server.accounts.sign_in("ann", f"guess number {number}", Caller(address=f"192.0.2.{number}")) for number in range(14)]
    found = [type(one).__name__ for one in await asyncio.gather(*from_one)]
    assert (found.count("Wrong"), found.count("Locked")) == (10, 4)


async def test_rows_come_back_as_they_were(server):
    """Every kind of row survives the round trip on both stores, JSON and zones included."""
    await server.backend(push={"mode": "deliver", "ehr": "hapi", "source_ehr": "other"})
    account = await server.person("mum", fhir_user="Patient/m", patients=["kid"])
    token = await smart.issue(server.database, client_id="app", scope="patient/*.rs", account=account, patient="kid")
    async with server.database.read() as connection:
        lab, app = await rows.client(connection, "lab"), await rows.client(connection, "app")
    bearer = await rows.bearer(server.database.derive, digest(token))
    assert await rows.origin_registered(server.database.derive, "https://app.test")
    assert lab is not None
    assert app is not None
    assert bearer is not None
    assert (lab.push, lab.redirect_uris, app.jwks) == ({"mode": "deliver", "ehr": "hapi", "source_ehr": "other"}, (), None)
    assert lab.created_at == server.clock()
    assert (bearer.account, bearer.client, bearer.grant.patient) == (account, app, "kid")
    assert [one.patient for one in bearer.listed] == ["kid"]


async def test_pruning_forgets_what_has_no_effect(server):
    """Old rows go; what proves reuse stays as long as it is asked to."""
    browser = smart.Browser(server.app())
    token = await smart.launch(browser, SCOPE)
    form = {"grant_type": "refresh_token", "refresh_token": token["refresh_token"], "client_id": "app"}
    second = (await smart.exchange(browser.http, form)).json()
    await server.authenticator.principal("hapi", [f"Bearer {second['access_token']}"])
    server.clock.forward(7200)
    moment = server.clock()
    async with server.database.write() as connection:
        await rows.prune(connection, now=moment, kept_until=moment.replace(year=moment.year - 1), idle_since=moment)
        assert await rows.access_token(connection, digest(token["access_token"])) is None
        assert await rows.refresh_token(connection, digest(token["refresh_token"])) is not None
    assert (await smart.exchange(browser.http, form)).json()["error"] == "invalid_grant"
    assert (await smart.exchange(browser.http, form | {"refresh_token": second["refresh_token"]})).json()["error"] == "invalid_grant"
