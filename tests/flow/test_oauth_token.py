"""The token endpoint under attack: codes, refresh tokens, client authentication, introspection, revocation (section C2)."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import httpx
import pytest

from gateway.errors import ConfigError, Unauthenticated, Unavailable
from gateway.smart.server.authorization.operator import GivenAccess, Whose
from gateway.smart.server.token.authenticator import Authenticator
from gateway.smart.server.values import Caller
from gateway.store import oauth as rows
from gateway.store import people
from gateway.store.base import Database
from gateway.store.oauth_rows import digest
from tests.support import smart

SCOPE = "launch/patient openid fhirUser offline_access patient/Observation.rs patient/Patient.r"
BASIC = ("web", "secret-of-web")


@dataclass
class Running:
    """A server, a browser with Ann's clients registered, and ways to get what the tests attack."""

    server: smart.Smart
    browser: smart.Browser

    @property
    def http(self) -> httpx.AsyncClient:
        return self.browser.http

    async def code(self, client_id: str = "web", scope: str = SCOPE) -> dict[str, str]:
        """The form that exchanges a new code."""
        pkce = smart.Pkce()
        code = await smart.code_for(self.browser, smart.asking(client_id, scope, pkce))
        return {"grant_type": "authorization_code", "code": code, "redirect_uri": smart.APP, "code_verifier": pkce.verifier}

    async def post(self, form: dict[str, str], auth: Any = BASIC, **more: Any) -> httpx.Response:
        return await smart.exchange(self.http, form, auth=auth, **more)

    async def tokens(self) -> dict[str, Any]:
        response = await self.post(await self.code())
        assert response.status_code == 200
        return response.json()

    async def counts(self, token: str) -> bool:
        """Whether an access token counts at the FHIR facade."""
        try:
            await self.server.authenticator.principal("hapi", [f"Bearer {token}"])
        except Unauthenticated:
            return False
        return True


@pytest.fixture
async def running(tmp_path) -> AsyncIterator[Running]:
    async with smart.smart_server(f"sqlite+aiosqlite:///{tmp_path}/store.db") as server:
        await server.secret_app()
        await server.secret_app("other-web")
        await server.public_app()
        await server.person()
        yield Running(server, smart.Browser(server.app()))


def error(response: httpx.Response) -> str:
    """The OAuth error of a refusal; the body is JSON and never the framework's."""
    body = response.json()
    assert "detail" not in body
    assert "no-store" in response.headers["cache-control"]
    return body["error"]


async def test_a_code_works_once(running):
    """ATK-O6: the second use is refused and ends every token of the first."""
    form = await running.code()
    first = (await running.post(form)).json()
    assert await running.counts(first["access_token"])
    second = await running.post(form)
    assert (second.status_code, error(second)) == (400, "invalid_grant")
    assert not await running.counts(first["access_token"])
    refresh = await running.post({"grant_type": "refresh_token", "refresh_token": first["refresh_token"]})
    assert error(refresh) == "invalid_grant"


async def test_a_code_is_bound_to_its_client(running):
    """ATK-O7: another client's attempt is refused, and does not cost the owner her code."""
    form = await running.code()
    assert error(await running.post(form, auth=("other-web", "secret-of-other-web"))) == "invalid_grant"
    assert (await running.post(form)).status_code == 200


@pytest.mark.parametrize("uri", ["https://evil.test/cb", "https://app.test/cb/", ""])
async def test_a_code_is_bound_to_its_redirect(running, uri):
    """ATK-O8: another or a missing redirect_uri."""
    form = await running.code() | {"redirect_uri": uri}
    assert error(await running.post(form)) in ("invalid_grant", "invalid_request")


async def test_a_code_lives_a_minute(running):
    """ATK-O9."""
    form = await running.code()
    running.server.clock.forward(60)
    assert error(await running.post(form)) == "invalid_grant"


@pytest.mark.parametrize("verifier", [None, "", "   ", "x" * 43, "short", "challenge"])
async def test_the_verifier_is_always_checked(running, verifier):
    """ATK-O5, A9.51-54, AUTHLIB-E5: missing, blank, wrong, or the challenge itself (plain)."""
    pkce = smart.Pkce()
    code = await smart.code_for(running.browser, smart.asking("web", SCOPE, pkce))
    form = {"grant_type": "authorization_code", "code": code, "redirect_uri": smart.APP}
    sent = pkce.challenge if verifier == "challenge" else verifier
    response = await running.post(form | ({} if sent is None else {"code_verifier": sent}))
    assert response.status_code == 400
    assert error(response) in ("invalid_grant", "invalid_request")
    assert (await running.post(form | {"code_verifier": pkce.verifier})).status_code == 200


async def test_bad_code_and_bad_client(running):
    """A9.50."""
    form = await running.code()
    assert (await running.post(form | {"code": "BAD_CODE"})).status_code == 400
    assert (await running.post(form, auth=("BAD_CLIENT_ID", "x"))).status_code == 401


async def test_confidential_clients_prove_themselves(running):
    """ATK-O10: no secret, a wrong one, one in the address, or two ways at once."""
    form = await running.code()
    for auth, more in (
        (None, {"client_id": "web"}),
        (("web", "wrong"), {}),
        (("web", ""), {}),
        (None, {"client_id": "web", "client_secret": "wrong"}),
        (BASIC, {"client_id": "other-web"}),
    ):
        response = await running.post(form | more, auth=auth)
        assert (response.status_code, error(response)) == (401, "invalid_client")
        assert response.headers["www-authenticate"].startswith("Basic ")
    response = await running.http.post("/auth/hapi/token?client_id=web&client_secret=secret-of-web", data=form)
    assert (response.status_code, error(response)) == (401, "invalid_client")
    both = await running.post(form | {"client_id": "web", "client_secret": "secret-of-web"})
    assert both.status_code == 400


async def test_public_clients_have_no_secret(running):
    """ATK-O10: a public client that sends one, whatever it is, is not the one that was registered."""
    form = await running.code("app")
    for auth, more in ((("app", "x"), {}), (("app", ""), {}), (None, {"client_id": "app", "client_secret": "x"})):
        assert error(await running.post(form | more, auth=auth)) == "invalid_client"
    assert (await running.post(form | {"client_id": "app"}, auth=None)).status_code == 200


async def test_secret_by_post_and_encoded_basic_count(running):
    """B: Python fhirclient sends Basic and client_id together; secrets may be form-encoded or not (RFC 6749 section 2.3.1)."""
    assert (await running.post(await running.code() | {"client_id": "web"})).status_code == 200
    assert (await running.post(await running.code() | {"client_id": "web", "client_secret": "secret-of-web"}, auth=None)).status_code == 200
    await running.server.secret_app("odd", client_secret="a%2Bb c+d:e")
    raw = base64.b64encode(b"odd:a%2Bb c+d:e").decode()
    encoded = base64.b64encode(b"odd:a%252Bb+c%2Bd%3Ae").decode()
    for value in (raw, encoded):
        response = await running.post(await running.code("odd"), auth=None, headers={"Authorization": f"Basic {value}"})
        assert response.status_code == 200


@pytest.mark.parametrize(
    ("form", "code"),
    [
        ({"grant_type": "password", "username": "ann", "password": "x"}, "unsupported_grant_type"),
        ({"grant_type": "urn:ietf:params:oauth:grant-type:token-exchange"}, "unsupported_grant_type"),
        ({"grant_type": "not_a_grant_type"}, "unsupported_grant_type"),
        ({"grant_type": ""}, "invalid_request"),
        ({"scope": "x"}, "invalid_request"),
        ({"grant_type": "authorization_code"}, "invalid_request"),
        ({"grant_type": "refresh_token"}, "invalid_request"),
    ],
)
async def test_other_grants_are_not_offered(running, form, code):
    """ATK-O11."""
    response = await running.post(form)
    assert (response.status_code, error(response)) == (400, code)


@pytest.mark.parametrize("endpoint", ["token", "introspect", "revoke"])
async def test_only_form_posts(running, endpoint):
    """ATK-O11, O25: 405 for other methods, 415 for other media, 400 for what is said twice; OAuth JSON each time."""
    http, path = running.http, f"/auth/hapi/{endpoint}"
    for method in ("GET", "PUT", "DELETE", "PATCH"):
        response = await http.request(method, path)
        assert (response.status_code, response.headers["allow"]) == (405, "POST, OPTIONS")
        assert error(response) == "invalid_request"
    assert (await http.head(path)).status_code == 405
    response = await http.post(path, json={"grant_type": "client_credentials"})
    assert (response.status_code, error(response)) == (415, "invalid_request")
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    for body, status in (("token=a&token=b&grant_type=x&grant_type=x", 400), ("%FF=%FF", 400), ("a=b&c", 400), ("x" * 70_000, 413)):
        response = await http.post(path, content=body, headers=form, auth=BASIC)
        assert (response.status_code, error(response)) == (status, "invalid_request"), body[:50]
    assert error(await http.post("/auth/nowhere/token", data={"grant_type": "x"})) == "invalid_request"


async def test_browsers_of_registered_apps_may_call(running):
    """ATK-O29, A2.17: their origin and no other, never with credentials."""
    good = await running.http.options("/auth/hapi/token", headers={"Origin": "https://app.test", "Access-Control-Request-Method": "POST"})
    assert good.headers["access-control-allow-origin"] == "https://app.test"
    assert (await running.post(await running.code(), headers={"Origin": "https://app.test"})).headers[
        "access-control-allow-origin"
    ] == "https://app.test"
    for origin in ("null", "https://evil.test", "https://app.test.evil.test", "http://app.test", "https://app.test:8443"):
        response = await running.http.options("/auth/hapi/token", headers={"Origin": origin})
        assert "access-control-allow-origin" not in response.headers
    assert "access-control-allow-credentials" not in good.headers
    assert "access-control-allow-origin" not in (await running.http.options("/auth/hapi/authorize", headers={"Origin": "https://app.test"})).headers


async def test_public_documents(running):
    """A5.40, A3.25: style and keys are readable from anywhere, and the keys are public ones."""
    style = await running.http.get("/auth/smart-style.json", headers={"Origin": "https://anywhere.test"})
    assert style.json()["color_text"]
    assert style.headers["access-control-allow-origin"] == "*"
    keys = (await running.http.get("/auth/hapi/jwks")).json()["keys"]
    assert [set(key) for key in keys] == [{"kty", "n", "e", "kid", "use", "alg"}]
    assert (await running.http.get("/auth/nowhere/jwks")).status_code == 404
    assert (await running.http.post("/auth/hapi/jwks")).status_code == 405


async def test_refresh_rotates_and_reuse_ends_the_family(running):
    """ATK-O13, AUTHLIB-E7: an old refresh token is proof of theft."""
    first = await running.tokens()
    second = (await running.post({"grant_type": "refresh_token", "refresh_token": first["refresh_token"]})).json()
    assert await running.counts(second["access_token"])
    reused = await running.post({"grant_type": "refresh_token", "refresh_token": first["refresh_token"]})
    assert (reused.status_code, error(reused)) == (400, "invalid_grant")
    assert not await running.counts(second["access_token"])
    assert error(await running.post({"grant_type": "refresh_token", "refresh_token": second["refresh_token"]})) == "invalid_grant"


async def test_an_answer_that_was_lost_is_no_theft(running):
    """ATK-O13: whoever never used what replaced a token may have lost the answer; the token is over, and the family lives."""
    first = await running.tokens()
    form = {"grant_type": "refresh_token", "refresh_token": first["refresh_token"]}
    lost = (await running.post(form)).json()
    for _ in range(2):
        assert error(await running.post(form)) == "invalid_grant"
    assert await running.counts(first["access_token"])
    second = (await running.post(form | {"refresh_token": lost["refresh_token"]})).json()  # it was not lost after all
    assert await running.counts(second["access_token"])
    assert error(await running.post(form)) == "invalid_grant"
    assert not await running.counts(second["access_token"])


@pytest.mark.parametrize("used", ["access_token", "refresh_token"])
@pytest.mark.parametrize("seconds", [60, 61])
async def test_a_token_that_came_again_before_its_successor_was_used(running, used, seconds):
    """ATK-O13: a thief who lets the owner rotate first, or the owner after a thief did. Later than a retry, the next use ends the family."""
    first = await running.tokens()
    form = {"grant_type": "refresh_token", "refresh_token": first["refresh_token"]}
    second = (await running.post(form)).json()
    running.server.clock.forward(seconds)
    for _ in range(2):
        assert error(await running.post(form)) == "invalid_grant"
    assert running.server.records[-1].detail == "a replaced token came again"
    assert await running.counts(first["access_token"])  # nobody who lost an answer is harmed by it
    if used == "access_token":
        assert await running.counts(second["access_token"]) is (seconds == 60)
    else:
        response = await running.post(form | {"refresh_token": second["refresh_token"]})
        assert response.status_code == (200 if seconds == 60 else 400)
    assert await running.counts(first["access_token"]) is (seconds == 60)
    ended = [one for one in running.server.records if "family-revoked" in one.detail]
    assert [one.patients for one in ended] == ([] if seconds == 60 else [("a",)])


@pytest.mark.parametrize("seconds", [0, 61])
async def test_to_let_an_app_in_again_ends_what_nobody_holds_honestly(running, seconds):
    """ATK-O13: a thief rotated, and the owner, who got invalid_grant for it, connects the app again. Families at peace go on."""
    first, peaceful = await running.tokens(), await running.tokens()
    form = {"grant_type": "refresh_token", "refresh_token": first["refresh_token"]}
    stolen = (await running.post(form)).json()
    running.server.clock.forward(seconds)
    assert error(await running.post(form)) == "invalid_grant"
    again = await running.tokens()
    assert not await running.counts(stolen["access_token"])
    assert error(await running.post(form | {"refresh_token": stolen["refresh_token"]})) == "invalid_grant"
    assert await running.counts(peaceful["access_token"])
    assert await running.counts(again["access_token"])


@pytest.mark.parametrize("used", ["access_token", "refresh_token"])
async def test_the_first_use_of_a_successor_is_proof(running, used):
    """ATK-O13: by the access token that came with it or by the next refresh, the answer had arrived; after that a reuse is theft."""
    first = await running.tokens()
    form = {"grant_type": "refresh_token", "refresh_token": first["refresh_token"]}
    second = (await running.post(form)).json()
    if used == "access_token":
        assert await running.counts(second["access_token"])
    else:
        assert (await running.post(form | {"refresh_token": second["refresh_token"]})).status_code == 200
    assert error(await running.post(form)) == "invalid_grant"
    assert not await running.counts(second["access_token"])
    assert not await running.counts(first["access_token"])


@pytest.mark.parametrize(
    "scope", ["patient/Observation.cruds", "patient/*.rs", "patient/Observation.rs patient/Condition.rs", "user/Observation.rs", "email"]
)
async def test_refresh_never_widens(running, scope):
    """ATK-O13, AUTHLIB-E7: scope is compared as SMART scopes are, and the token is still good afterwards."""
    first = await running.tokens()
    form = {"grant_type": "refresh_token", "refresh_token": first["refresh_token"]}
    assert error(await running.post(form | {"scope": scope})) == "invalid_scope"
    narrowed = (await running.post(form | {"scope": "patient/Observation.s"})).json()
    assert narrowed["scope"] == "patient/Observation.s"
    again = (await running.post({"grant_type": "refresh_token", "refresh_token": narrowed["refresh_token"]})).json()
    assert again["scope"] == SCOPE


async def test_refresh_tokens_are_bound_and_of_one_kind(running):
    """ATK-O13, HL7@104: another client's, an access token, garbage, without the secret."""
    first = await running.tokens()
    form = {"grant_type": "refresh_token", "refresh_token": first["refresh_token"]}
    assert error(await running.post(form, auth=("other-web", "secret-of-other-web"))) == "invalid_grant"
    assert error(await running.post(form | {"client_id": "web"}, auth=None)) == "invalid_client"
    assert error(await running.post(form, auth=None)) == "invalid_client"
    assert error(await running.post(form | {"refresh_token": first["access_token"]})) == "invalid_grant"
    assert error(await running.post(form | {"refresh_token": "random"})) == "invalid_grant"
    assert not await running.counts(first["refresh_token"])
    assert not await running.counts(first["id_token"])


async def test_public_clients_may_refresh_without_their_name(running):
    """B: fhirclient-js sends no client_id; the token itself names a public client."""
    token = await smart.launch(running.browser, SCOPE)
    response = await running.post({"grant_type": "refresh_token", "refresh_token": token["refresh_token"]}, auth=None)
    assert response.status_code == 200


async def test_no_refresh_token_without_offline_access(running):
    """HL7: access ends with the token."""
    token = await smart.launch(running.browser, "launch/patient patient/Observation.rs")
    assert "refresh_token" not in token
    assert "id_token" not in token


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


async def _told(running, form: dict[str, str], auth: tuple[str, str] | None = BASIC) -> str:
    response = await running.http.post("/auth/hapi/token", data=form, auth=auth)
    assert response.status_code >= 400
    return response.json().get("error_description", "")


async def test_a_client_is_told_what_is_wrong_with_its_own_request(running):
    """A developer sees which member it is; what another client holds and what nobody does are one answer, and so is every failed authentication."""
    form, clock = await running.code(), running.server.clock
    assert "redirect_uri" in await _told(running, form | {"redirect_uri": "https://app.test/other"})
    assert "code_verifier" in await _told(running, form | {"code_verifier": "w" * 43})
    assert "Missing" in await _told(running, {name: value for name, value in form.items() if name != "code_verifier"})
    clock.forward(60)
    assert await _told(running, form) == "code is too old: it lives 60 seconds."
    form = await running.code()
    tokens = (await running.post(form)).json()
    assert "used before" in await _told(running, form)
    refresh = {"grant_type": "refresh_token", "refresh_token": tokens["refresh_token"]}
    assert "ended" in await _told(running, refresh)  # with the code's second use
    tokens = await running.tokens()
    refresh = {"grant_type": "refresh_token", "refresh_token": tokens["refresh_token"]}
    assert "scope may be less" in await _told(running, refresh | {"scope": "patient/*.cruds"})
    new = (await running.post(refresh)).json()
    assert "was replaced by another one" in await _told(running, refresh)
    assert await running.counts(new["access_token"])
    assert "somebody uses both" in await _told(running, refresh)
    tokens = await running.tokens()
    clock.forward(101 * 86400)
    assert "too old" in await _told(running, {"grant_type": "refresh_token", "refresh_token": tokens["refresh_token"]})


async def test_what_is_anothers_and_what_is_nobodys_is_one_answer(running):
    """ATK-O5, O13: no client learns whether a code or token of somebody else exists, nor how it fares."""
    theirs, used = await running.code("app"), await running.code("app")
    await running.http.post("/auth/hapi/token", data=used | {"client_id": "app"})
    nobodys = theirs | {"code": "x" * 43}
    codes = {await _told(running, {n: v for n, v in one.items() if n != "client_id"}) for one in (theirs, used, nobodys)}
    assert len(codes) == 1
    form = await running.code("app")
    tokens = (await running.http.post("/auth/hapi/token", data=form | {"client_id": "app"})).json()
    refresh = {"grant_type": "refresh_token"}
    assert len({await _told(running, refresh | {"refresh_token": one}) for one in (tokens["refresh_token"], "x" * 43)}) == 1
    wrong = {await _told(running, refresh | {"refresh_token": "x"}, auth) for auth in (("web", "wrong"), ("nobody", "x"), None)}
    assert wrong == {"Client authentication failed."}


async def test_an_operator_ends_what_was_allowed(running):
    """One grant, all of a person's, or all of a client's, codes on their way too; the client and the account go on, and what is unknown is said."""
    given, server = GivenAccess(running.server.database, record_in=running.server._record_in, clock=running.server.clock), running.server
    first = await running.tokens()
    server.clock.forward(1)
    second = await running.tokens()
    newest, oldest = await given.listed(Whose("ANN"))
    assert (newest.username, newest.grant.client_id, newest.client_name) == ("ann", "web", "web & Co")
    await given.end(oldest.grant.id)
    assert [await running.counts(one["access_token"]) for one in (first, second)] == [False, True]
    with pytest.raises(ConfigError, match="no such access"):
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
        with pytest.raises(ConfigError):
            await given.end_all(whose)
    told = [(one.client_id, one.user_id != "", one.detail) for one in server.records if one.action == "revoke"]
    counted = "grants, by the operator"
    assert told == [("web", True, "by the operator"), ("web", True, f"2 {counted}"), ("web", False, f"1 {counted}")]


async def test_an_operators_end_asks_the_person_anew(running):
    """What she chose once and for all is forgotten with it."""
    server, browser = running.server, running.browser
    given = GivenAccess(server.database, record_in=server._record_in, clock=server.clock)
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
    with pytest.raises(ConfigError, match="no secret"):
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
    with pytest.raises(ConfigError, match="no client"):
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
