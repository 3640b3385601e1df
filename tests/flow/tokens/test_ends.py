"""How access ends: by time, by the person, the operator, the client; introspection, revocation, and the record of them."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from gateway.errors import NotDone, Unauthenticated, Unavailable
from gateway.smart.record import Caller
from gateway.smart.server.authorization.operator import GivenAccess, Whose
from gateway.smart.server.token.authenticator import Authenticator
from gateway.store import oauth as rows
from gateway.store import people
from gateway.store.base import Database
from gateway.store.oauth_rows import digest
from tests.support import smart
from tests.support.token_scene import BASIC, SCOPE, error


async def test_tokens_expire(running):
    """HL7@77, AUTHLIB-E6: an hour for people; a refresh token lives 100 days from its last use (A17: three months at least)."""
    token = await running.tokens()
    running.server.clock.forward(3599)
    assert await running.counts(token["access_token"])
    running.server.clock.forward(1)
    assert not await running.counts(token["access_token"])
    running.server.clock.forward(99 * 86400)
    second = (await running.post({"grant_type": "refresh_token", "refresh_token": token["refresh_token"]})).json()
    running.server.clock.forward(100 * 86400)
    assert error(await running.post({"grant_type": "refresh_token", "refresh_token": second["refresh_token"]})) == "invalid_grant"


async def test_a_person_takes_access_back(running):
    """A8.48: token and refresh are dead at once; nobody else can take it back for her."""
    token = await running.tokens()
    account, stranger = await running.server.accounts.named("ann"), await running.server.person("bob", fhir_user="Patient/b")
    (connected,) = await running.server.grants.of(account)
    assert (connected.client_name, connected.grant.patient) == ("web & Co", "a")
    assert not await running.server.grants.revoke(stranger, connected.grant.id, Caller())
    assert await running.counts(token["access_token"])
    assert await running.server.grants.revoke(account, connected.grant.id, Caller())
    assert not await running.counts(token["access_token"])
    assert error(await running.post({"grant_type": "refresh_token", "refresh_token": token["refresh_token"]})) == "invalid_grant"
    assert await running.server.grants.of(account) == ()


async def test_closed_accounts_and_ended_relations_end_tokens(running):
    """ATK-F23: asked at every request and every refresh."""
    await running.server.person("eve", fhir_user="RelatedPerson/e", patients=["a"])
    browser = smart.Browser(running.server.app())
    token = await smart.launch(browser, "launch/patient offline_access patient/Observation.rs", username="eve")
    assert await running.counts(token["access_token"])
    account = await running.server.accounts.named("eve")
    async with running.server.database.write() as connection:
        await people.set_listed(connection, account.id, ())
    assert not await running.counts(token["access_token"])
    assert (
        error(await running.post({"grant_type": "refresh_token", "refresh_token": token["refresh_token"], "client_id": "app"}, auth=None))
        == "invalid_grant"
    )
    own = await running.tokens()
    await running.server.accounts.disable(await running.server.accounts.named("ann"))
    assert not await running.counts(own["access_token"])


async def test_a_disabled_client_has_no_access_any_more(running):
    """At the next request, whatever it holds; and when it is enabled again, it begins anew."""
    held, form = await running.tokens(), await running.code()
    clients = running.server.clients
    assert await clients.disable("web") == 2  # the tokens' grant, and the code's
    refresh = {"grant_type": "refresh_token", "refresh_token": held["refresh_token"]}
    assert not await running.counts(held["access_token"])
    for asked in (refresh, form):
        assert (await running.post(asked)).status_code == 401
    await clients.enable("web")
    assert not await running.counts(held["access_token"])
    for asked in (refresh, form):
        response = await running.post(asked)
        assert (response.status_code, error(response)) == (400, "invalid_grant")
    assert await running.counts((await running.tokens())["access_token"])
    told = [(one.action, one.client_id, one.detail) for one in running.server.records if one.action.startswith("client-") and one.client_id == "web"]
    assert told[1:] == [("client-disable", "web", "2 grants ended"), ("client-enable", "web", "")]


async def test_an_operator_ends_what_was_allowed(running):
    """One grant, all of a person's, or all of a client's, codes on their way too; the client and the account go on, and what is unknown is said."""
    given, server = (
        GivenAccess(running.server.database, record_in=running.server._record_in, lifetimes=running.server.lifetimes, clock=running.server.clock),
        running.server,
    )
    first = await running.tokens()
    server.clock.forward(1)
    second = await running.tokens()
    newest, oldest = await given.listed(Whose("ANN"))
    assert (newest.username, newest.grant.client_id, newest.client_name) == ("ann", "web", "web & Co")
    await given.end(oldest.grant.id)
    assert [await running.counts(one["access_token"]) for one in (first, second)] == [False, True]
    with pytest.raises(NotDone, match="no such access"):
        await given.end(oldest.grant.id)
    form = await running.code()
    assert await given.end_all(Whose("ann", "web")) == 2
    assert (await running.post(form)).json()["error"] == "invalid_grant"
    assert not await running.counts(second["access_token"])
    assert await given.listed(Whose("ann")) == ()
    third = await running.tokens()
    assert await running.counts(third["access_token"])
    assert await given.end_all(Whose(client_id="web")) == 1
    assert not await running.counts(third["access_token"])
    for whose in (Whose("nobody"), Whose(client_id="nobody"), Whose()):
        with pytest.raises(NotDone):
            await given.end_all(whose)
    told = [(one.client_id, one.user_id != "", one.detail) for one in server.records if one.action == "revoke"]
    counted = "grants, by the operator"
    assert told == [("web", True, "by the operator"), ("web", True, f"2 {counted}"), ("web", False, f"1 {counted}")]


async def test_of_a_closed_account_nothing_is_in_force(running):
    """A list of what counts names nothing that is refused."""
    server = running.server
    given = GivenAccess(server.database, record_in=server._record_in, lifetimes=server.lifetimes, clock=server.clock)
    held = await running.tokens()
    assert [one.username for one in await given.listed(Whose())] == ["ann"]
    await server.accounts.disable(await server.accounts.named("ann"))
    assert not await running.counts(held["access_token"])
    assert await given.listed(Whose()) == await given.listed(Whose("ann")) == ()


async def test_an_operators_end_asks_the_person_anew(running):
    """What she chose once and for all is forgotten with it."""
    server, browser = running.server, running.browser
    given = GivenAccess(server.database, record_in=server._record_in, lifetimes=server.lifetimes, clock=server.clock)
    for end in (lambda: given.end_all(Whose("ann")), lambda: given.end_all(Whose(client_id="web"))):
        await browser.authorize(smart.asking("web", SCOPE))
        if "/signin" in str(browser.page.request.url):
            await browser.sign_in()
        await browser.submit("/auth/hapi/consent", decision="allow", remember="yes")
        assert await server.grants.unasked(await server.accounts.named("ann"))
        await end()
        assert not await server.grants.unasked(await server.accounts.named("ann"))


async def test_a_secret_is_replaced(running):
    """The old one counts no more, or for as long as was said; what the client was allowed stays."""
    clients = running.server.clients
    held = await running.tokens()

    async def counts(secret: str) -> bool:
        response = await running.http.post("/auth/hapi/introspect", data={"token": held["access_token"]}, auth=("web", secret))
        return response.status_code == 200

    first = await clients.rotate_secret("web")
    assert [await counts(one) for one in ("secret-of-web", first)] == [False, True]
    second = await clients.rotate_secret("web", overlap=timedelta(hours=2))
    assert [await counts(one) for one in ("secret-of-web", first, second)] == [False, True, True]
    running.server.clock.forward(7200)
    assert [await counts(one) for one in (first, second)] == [False, True]
    third = await clients.rotate_secret("web")  # within no overlap: the one before is over at once, and so is the one before that
    assert [await counts(one) for one in (first, second, third)] == [False, False, True]
    with pytest.raises(NotDone, match="no secret"):
        await clients.rotate_secret("app")
    told = [one for one in running.server.records if one.action == "client-secret"]
    assert len(told) == 3
    assert not any(secret in repr(told) for secret in (first, second, third))


async def test_a_deleted_client_leaves_nothing(running):
    """Its tokens, codes and grants are over, and stay so for whoever is registered under its name later."""
    clients = running.server.clients
    held, form = await running.tokens(), await running.code()
    elsewhere = Database(running.server.database.url)  # another process on this store
    theirs = Authenticator(elsewhere, record_in=running.server._record_in, clock=running.server.clock)
    assert (await theirs.principal("hapi", [f"Bearer {held['access_token']}"])).client_id == "web"
    assert await clients.delete("web") == 2
    with pytest.raises(Unauthenticated):
        await theirs.principal("hapi", [f"Bearer {held['access_token']}"])
    await elsewhere.close()
    refresh = {"grant_type": "refresh_token", "refresh_token": held["refresh_token"]}

    async def nothing_counts() -> bool:
        answers = [(await running.post(asked)).status_code for asked in (refresh, form)]
        return not await running.counts(held["access_token"]) and 200 not in answers

    assert await nothing_counts()
    with pytest.raises(NotDone, match="no client"):
        await clients.delete("web")
    await running.server.secret_app("web")
    assert await nothing_counts()
    assert await running.counts((await running.tokens())["access_token"])
    told = [(one.action, one.detail) for one in running.server.records if one.action == "client-delete"]
    assert told == [("client-delete", "2 grants ended")]


async def test_introspection_asks_who_asks(running):
    """ATK-O25, A11, AUTHLIB-E11: credentials or a Bearer token; an inactive token says nothing else."""
    token = await running.tokens()
    http, path, form = running.http, "/auth/hapi/introspect", {"token": token["access_token"]}
    for auth in (None, ("web", "wrong"), ("nobody", "x")):
        response = await http.post(path, data=form, auth=auth)
        assert (response.status_code, error(response)) == (401, "invalid_client")
    public = await http.post(path, data=form | {"client_id": "app"})
    assert public.status_code == 401
    by_bearer = await http.post(path, data=form, headers={"Authorization": f"Bearer {token['access_token']}"})
    assert by_bearer.json()["active"] is True
    other = await http.post(path, data=form, auth=("other-web", "secret-of-other-web"))
    assert other.json()["client_id"] == "web"
    for unknown in ("invalid_token_value", token["refresh_token"], token["id_token"]):
        response = await http.post(path, data={"token": unknown}, auth=BASIC)
        assert (response.status_code, response.json()) == (200, {"active": False})
    elsewhere = await http.post("/auth/other/introspect", data=form, auth=BASIC)
    assert elsewhere.json() == {"active": False}


async def test_introspection_is_on_record(running):
    """Who asked, about whose data, and what was answered; nothing of the token."""
    token, records = await running.tokens(), running.server.records
    http, path, form = running.http, "/auth/hapi/introspect", {"token": token["access_token"]}
    asked = [
        await http.post(path, data=form, auth=("other-web", "secret-of-other-web")),
        await http.post(path, data=form, headers={"Authorization": f"Bearer {token['access_token']}"}),
        await http.post(path, data={"token": "unknown"}, auth=BASIC),
        await http.post(path, data=form, auth=("web", "wrong")),
        await http.post(path, data={"other": "x"}, auth=BASIC),
    ]
    found = records[-len(asked) :]
    told = [(one.action, one.outcome, one.status, one.reason, one.client_id, one.patients, one.detail) for one in found]
    assert told == [
        ("introspect", "0", 200, "", "other-web", ("a",), "token of web"),
        ("introspect", "0", 200, "", "web", ("a",), "token of web"),
        ("introspect", "0", 200, "", "web", (), "inactive"),
        ("introspect", "4", 401, "invalid_client", "web", (), ""),
        ("introspect", "4", 400, "invalid_request", "", (), ""),
    ]
    assert found[1].fhir_user == "Patient/a"
    assert [one.request_id for one in found] == [one.headers["x-request-id"] for one in asked]
    assert token["access_token"] not in repr(records)


@pytest.mark.parametrize("action", ["token", "introspect", "revoke"])
async def test_every_request_is_on_record_once(running, action):
    """Also one that is refused before anybody looks at it: no such EHR, wrong method, wrong media type, no form, too large."""
    http, path, records = running.http, f"/auth/hapi/{action}", running.server.records
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    await running.tokens()
    records.clear()
    answers = [
        await http.post(f"/auth/{'n' * 300}/{action}", data={"token": "x"}),
        await http.get(path),
        await http.head(path),
        await http.post(path, json={}),
        await http.post(path, content="%FF=%FF", headers=form),
        await http.post(path, content="x" * 70_000, headers=form),
        await http.post(path, data={"token": "x", "grant_type": "x"}, auth=("nobody", "x")),
        await http.post(path, data={"token": "x", "grant_type": "x"}, auth=BASIC),
    ]
    assert [answer.status_code for answer in answers[:6]] == [404, 405, 405, 415, 400, 413]
    found = [(one.request_id, one.status, one.action, one.outcome) for one in records]
    assert found == [(answer.headers["x-request-id"], answer.status_code, action, "0" if answer.status_code < 400 else "4") for answer in answers]
    assert len(records[0].ehr) == 64
    await http.options(path)
    assert len(records) == len(answers)


async def test_what_cannot_be_recorded_is_not_answered(running, monkeypatch):
    """A token's description does not leave when nobody could read afterwards who asked for it."""
    token = await running.tokens()

    def full(_record: Any) -> None:
        raise Unavailable(reason="audit-down", retry_after=2)

    monkeypatch.setattr(running.server, "append", full)
    http = smart.Browser(running.server.app()).http
    response = await http.post("/auth/hapi/introspect", data={"token": token["access_token"]}, auth=BASIC)
    assert (response.status_code, error(response), response.headers["retry-after"]) == (503, "temporarily_unavailable", "2")
    assert "active" not in response.text


async def test_introspection_repeats_the_token_response(running):
    """A11.63, HL7@277."""
    token = await running.tokens()
    body = (await running.http.post("/auth/hapi/introspect", data={"token": token["access_token"]}, auth=BASIC)).json()
    for name in ("scope", "patient", "need_patient_banner", "smart_style_url"):
        assert body[name] == token[name]
    assert body["exp"] == int(running.server.clock().timestamp()) + 3600


async def test_revocation(running):
    """ATK-O26, RFC 7009: one's own only; unknown ones are 200 too; a refresh token takes its family with it."""
    token = await running.tokens()
    http, path = running.http, "/auth/hapi/revoke"
    foreign = await http.post(path, data={"token": token["access_token"]}, auth=("other-web", "secret-of-other-web"))
    unknown = await http.post(path, data={"token": "unknown"}, auth=BASIC)
    assert (foreign.status_code, unknown.status_code, foreign.content) == (200, 200, unknown.content)
    assert await running.counts(token["access_token"])
    assert (await http.post(path, data={"token": token["access_token"]}, auth=("web", "wrong"))).status_code == 401
    assert (await http.post(path, data={"token": token["access_token"]}, auth=BASIC)).status_code == 200
    assert not await running.counts(token["access_token"])
    second = (await running.post({"grant_type": "refresh_token", "refresh_token": token["refresh_token"]})).json()
    await http.post(path, data={"token": second["refresh_token"]}, auth=BASIC)
    assert not await running.counts(second["access_token"])


@pytest.mark.parametrize(
    "authorization",
    [
        [],
        [""],
        ["Bearer"],
        ["Bearer "],
        ["{token}"],
        ["Basic {token}"],
        ["Bearer {token}, Bearer {token}"],
        ["Bearer {token} {token}"],
        ["Bearer {token}", "Bearer {token}"],
        ["Bearer {token}", "Basic d2ViOng="],
        ["Bearer {token}x"],
        ["Bearer ü{token}"],
        ["Bearer {token}\x00"],
    ],
)
async def test_exactly_one_bearer_token(running, authorization):
    """ATK-O30, F19: anything but one well-formed Bearer header is refused."""
    await running.server.public_app("direct")
    account = await running.server.accounts.named("ann")
    token = await smart.issue(running.server.database, client_id="direct", scope="patient/*.rs", account=account, patient="a")
    with pytest.raises(Unauthenticated):
        await running.server.authenticator.principal("hapi", [text.format(token=token) for text in authorization])
    assert (await running.server.authenticator.principal("hapi", [f"bearer {token}"])).patient == "a"
    with pytest.raises(Unauthenticated):
        await running.server.authenticator.principal("other", [f"Bearer {token}"])


async def test_secrets_rest_as_hashes_only(running, tmp_path):
    """Neither code, token, secret nor password can be read from the store."""
    form = await running.code()
    token = (await running.post(form)).json()
    async with running.server.database.read() as connection:
        assert await rows.code(connection, digest(form["code"])) is not None
    stored = b"".join(path.read_bytes() for path in tmp_path.glob("store.db*"))
    for secret in (form["code"], token["access_token"], token["refresh_token"], "secret-of-web", smart.PASSWORD, form["code_verifier"]):
        assert secret.encode() not in stored
