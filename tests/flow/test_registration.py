"""Clients that register themselves: RFC 7591 and 7592 over HTTP, every refusal, and the operator's review (ATK-O27, A1.9)."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import httpx
import pytest

from gateway.cli.fixes import explained
from gateway.errors import NotDone
from gateway.smart.server.clients.admin import version_of
from gateway.smart.server.clients.invites import Terms
from gateway.smart.server.clients.own_registration import Policy
from gateway.smart.server.discovery import Offered, openid_configuration, smart_configuration
from gateway.store import oauth as rows
from gateway.store import registrations
from gateway.store.oauth_rows import Client
from tests.support import smart

PATH = "/auth/hapi/register"
APP = {"client_name": "Chart", "redirect_uris": [smart.APP], "token_endpoint_auth_method": "none", "scope": "launch/patient patient/*.rs"}
SECRET = APP | {"token_endpoint_auth_method": "client_secret_basic"}
KEY = smart.BackendKey()
BACKEND = {"client_name": "Lab", "grant_types": ["client_credentials"], "scope": "system/Observation.rs", "jwks": {"keys": [KEY.public]}}
OPEN, INVITED = Policy("open", review=False), Policy("token", review=False)
SCOPE = "launch/patient patient/Observation.rs"


class Developer:
    """Somebody at the registration endpoint, and what happened to the server."""

    def __init__(self, server: smart.Smart) -> None:
        self.server, self.app = server, server.app()
        self.http = httpx.AsyncClient(transport=httpx.ASGITransport(self.app, client=("192.0.2.7", 1)), base_url=smart.PUBLIC_URL)

    async def register(self, metadata: Any, token: str = "", **more: Any) -> httpx.Response:
        return await self.http.post(PATH, json=metadata, headers=bearer(token), **more)

    async def registered(self, metadata: Any = APP, token: str = "") -> dict[str, Any]:
        answer = await self.register(metadata, token)
        assert answer.status_code == 201, answer.text
        return answer.json()

    async def manage(self, method: str, told: Mapping[str, Any], body: Any = None, *, token: str = "") -> httpx.Response:
        headers = bearer(token or told["registration_access_token"])
        return await self.http.request(method, told["registration_client_uri"], json=body, headers=headers)

    async def client(self, client_id: str) -> Client | None:
        async with self.server.database.read() as connection:
            return await rows.client(connection, client_id)

    async def approve(self, told: Mapping[str, Any]) -> None:
        await self.server.clients.approve(told["client_id"], version_of(await self.server.clients.named(told["client_id"])))

    async def launch(self, client_id: str, **more: Any) -> dict[str, Any]:
        return await smart.launch(smart.Browser(self.app), SCOPE, client_id=client_id, **more)

    def actions(self) -> list[tuple[str, int]]:
        return [(one.action, one.status) for one in self.server.records if one.action.startswith("client-")]


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"} if token else {}


@asynccontextmanager
async def developer(tmp_path: Any, policy: Policy) -> AsyncIterator[Developer]:
    async with smart.smart_server(f"sqlite+aiosqlite:///{tmp_path}/store.db", policy=policy) as server:
        await server.person()
        yield Developer(server)


@pytest.fixture
def at(tmp_path) -> Any:
    def at(policy: Policy = OPEN) -> AbstractAsyncContextManager[Developer]:
        return developer(tmp_path, policy)

    return at


async def test_an_app_registers_itself_and_launches(at):
    """RFC 7591 section 3.2.1: id and secret are made here; the secret and the token are kept as hashes alone."""
    async with at() as dev:
        told = await dev.registered(SECRET)
        assert told["client_secret_expires_at"] == 0
        assert len(told["client_secret"]) == len(told["registration_access_token"]) == 43
        assert told["registration_client_uri"] == f"{smart.PUBLIC_URL}{PATH}/{told['client_id']}"
        assert (told["client_name"], told["ehrs"], told["scope"]) == ("Chart", ["hapi"], APP["scope"])
        assert "approval" not in told
        assert (await dev.launch(told["client_id"], secret=told["client_secret"]))["patient"] == "a"
        kept = repr(await dev.client(told["client_id"])) + repr(dev.server.records)
        assert told["client_secret"] not in kept
        assert told["registration_access_token"] not in kept
        answer = await dev.register(APP)
        assert answer.headers["cache-control"] == "no-store"
        assert "client_secret" not in answer.json()
        assert dev.actions() == [("client-register", 201)] * 2


async def test_it_counts_at_its_own_ehr_alone(at):
    """Neither authorize nor the token endpoint of another EHR knows it, nor does its registration there."""
    async with at() as dev:
        told = await dev.registered()
        page = await smart.Browser(dev.app).authorize(smart.asking(told["client_id"], aud=f"{smart.PUBLIC_URL}/fhir/other"), ehr="other")
        assert (page.status_code, "not known here" in page.text) == (400, True)
        elsewhere = told | {"registration_client_uri": told["registration_client_uri"].replace("hapi", "other")}
        assert (await dev.manage("GET", elsewhere)).status_code == 401


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    # ATK-O27, AUTHLIB-E12: what the metadata changes, and the error code of RFC 7591 section 3.2.2
    "javascript": ({"redirect_uris": ["javascript:alert(1)"]}, "invalid_redirect_uri"),
    "data": ({"redirect_uris": ["data:text/html,x"]}, "invalid_redirect_uri"),
    "http": ({"redirect_uris": ["http://evil.test/cb"]}, "invalid_redirect_uri"),
    "metadata address": ({"redirect_uris": ["http://169.254.169.254/"]}, "invalid_redirect_uri"),
    "fragment": ({"redirect_uris": ["https://app.test/cb#x"]}, "invalid_redirect_uri"),
    "user name": ({"redirect_uris": ["https://app.test@evil.test/cb"]}, "invalid_redirect_uri"),
    "wildcard host": ({"redirect_uris": ["https://*.a.test/cb"]}, "invalid_redirect_uri"),
    "wildcard path": ({"redirect_uris": ["https://app.test/*"]}, "invalid_redirect_uri"),
    "dot segments": ({"redirect_uris": ["https://app.test/a/../cb"]}, "invalid_redirect_uri"),
    "line break": ({"redirect_uris": ["https://app.test/cb\r\nSet-Cookie: x"]}, "invalid_redirect_uri"),
    "no redirects": ({"redirect_uris": []}, "invalid_redirect_uri"),
    "too many redirects": ({"redirect_uris": [f"https://app.test/{n}" for n in range(21)]}, "invalid_redirect_uri"),
    "redirect too long": ({"redirect_uris": ["https://app.test/" + "x" * 2000]}, "invalid_redirect_uri"),
    "jwks_uri metadata address": ({"jwks_uri": "https://169.254.169.254/latest"}, "invalid_client_metadata"),
    "jwks_uri file": ({"jwks_uri": "file:///etc/passwd"}, "invalid_client_metadata"),
    "jwks_uri http": ({"jwks_uri": "http://keys.test/jwks"}, "invalid_client_metadata"),
    "jwks_uri loopback": ({"jwks_uri": "https://localhost/jwks"}, "invalid_client_metadata"),
    "jwks_uri decimal": ({"jwks_uri": "https://2852039166/jwks"}, "invalid_client_metadata"),
    "jwks and jwks_uri": ({"jwks_uri": "https://keys.test/jwks", "jwks": {"keys": [KEY.public]}}, "invalid_client_metadata"),
    "private key": ({"jwks": {"keys": [dict(KEY.key.as_dict(private=True))]}}, "invalid_client_metadata"),
    "symmetric key": ({"jwks": {"keys": [{"kty": "oct", "k": "c2VjcmV0", "kid": "1"}]}}, "invalid_client_metadata"),
    "weak key": ({"jwks": {"keys": [{"kty": "RSA", "n": "u" * 171, "e": "AQAB", "kid": "1"}]}}, "invalid_client_metadata"),
    "curve of ES256": ({"jwks": {"keys": [{"kty": "EC", "crv": "P-256", "x": "x" * 43, "y": "y" * 43, "kid": "1"}]}}, "invalid_client_metadata"),
    "too many keys": ({"jwks": {"keys": [KEY.public] * 11}}, "invalid_client_metadata"),
    "grant password": ({"grant_types": ["password"]}, "invalid_client_metadata"),
    "grant implicit": ({"grant_types": ["implicit"], "response_types": ["token"]}, "invalid_client_metadata"),
    "grant jwt-bearer": ({"grant_types": ["urn:ietf:params:oauth:grant-type:jwt-bearer"]}, "invalid_client_metadata"),
    "response type": ({"response_types": ["code", "id_token"]}, "invalid_client_metadata"),
    "method": ({"token_endpoint_auth_method": "client_secret_jwt"}, "invalid_client_metadata"),
    "system scope of an app": ({"scope": "patient/*.rs system/*.cruds"}, "invalid_client_metadata"),
    "backend": (BACKEND | {"redirect_uris": []}, "invalid_client_metadata"),
    "backend and app": ({"grant_types": ["authorization_code", "client_credentials"]}, "invalid_client_metadata"),
    "unknown scope": ({"scope": "admin"}, "invalid_client_metadata"),
    "push": ({"push": {"mode": "notify"}}, "invalid_client_metadata"),
    "every EHR": ({"ehrs": ["*"]}, "invalid_client_metadata"),
    "another EHR": ({"ehrs": ["other"]}, "invalid_client_metadata"),
    "software statement": ({"software_statement": "eyJhbGciOiJub25lIn0.e30."}, "unapproved_software_statement"),
    "long name": ({"client_name": "x" * 101}, "invalid_client_metadata"),
    "name that turns the page": ({"client_name": "evil\u202etset"}, "invalid_client_metadata"),
    "logo": ({"logo_uri": "javascript:alert(1)"}, "invalid_client_metadata"),
    "policy": ({"policy_uri": "file:///etc/passwd"}, "invalid_client_metadata"),
    "launch": ({"launch_uri": "http://evil.test/launch"}, "invalid_client_metadata"),
    "name that is no text": ({"client_name": ["x"]}, "invalid_client_metadata"),
    "redirects that are no list": ({"redirect_uris": smart.APP}, "invalid_client_metadata"),
}


async def test_what_is_refused(at):
    """ATK-O27, AUTHLIB-E12: 400 with the code and a sentence; nothing is stored, each is on record, nothing is fetched."""
    async with at() as dev:
        dev.server.own_registrations._most = len(REFUSED) + 1  # the limit has a test of its own
        found: dict[str, tuple[int, str]] = {}
        for name, (changes, _) in REFUSED.items():
            base = {} if changes.keys() & {"jwks", "jwks_uri"} else {"token_endpoint_auth_method": "none"}
            answer = await dev.register({"client_name": "Chart", "redirect_uris": [smart.APP]} | base | changes)
            found[name] = (answer.status_code, answer.json().get("error", ""))
            assert answer.json()["error_description"]
        assert found == {name: (400, error) for name, (_, error) in REFUSED.items()}
        assert await dev.server.clients.all() == ()
        assert dev.server.keysets.asked == []
        assert dev.actions() == [("client-register", 400)] * len(REFUSED)


async def test_an_id_is_made_here(at):
    """One that is asked for would take over another's registration; nor does a client choose its secret."""
    async with at() as dev:
        await dev.server.secret_app("web")
        told = await dev.registered(SECRET | {"client_id": "web", "client_secret": "secret-of-web"})
        assert told["client_id"] != "web"
        assert told["client_secret"] != "secret-of-web"
        web = await dev.client("web")
        assert web is not None
        assert web.name == "web & Co"


async def test_how_it_must_be_sent(at):
    """JSON, one object, small, each member once; POST alone; and no web page may read the answer."""
    async with at() as dev:
        post, json_ = dev.http.post, {"Content-Type": "application/json"}
        assert (await post(PATH, data=APP)).status_code == 415
        assert (await post(PATH, content="{", headers=json_)).status_code == 400
        assert (await post(PATH, content='{"client_name": "a", "client_name": "b"}', headers=json_)).status_code == 400
        assert (await post(PATH, content="[" * 5000, headers=json_)).status_code == 400
        assert (await post(PATH, content=json.dumps([APP]), headers=json_)).json()["error"] == "invalid_client_metadata"
        assert (await post(PATH, content="x" * 70_000, headers=json_)).status_code == 413
        assert (await dev.http.get(PATH)).headers["allow"] == "POST"
        answer = await post(PATH, json=APP, headers={"Origin": "https://evil.test"})
        assert "access-control-allow-origin" not in answer.headers


async def test_one_address_registers_so_many(at):
    """429 with the time to wait, refused ones counted too; another address goes on; afterwards this one too."""
    async with at() as dev:
        dev.server.own_registrations._most = 3
        statuses = [(await dev.register(one)).status_code for one in (APP, {"redirect_uris": ["x"]}, APP, APP)]
        assert statuses == [201, 400, 201, 429]
        assert int((await dev.register(APP)).headers["retry-after"]) > 3000
        other = httpx.AsyncClient(transport=httpx.ASGITransport(dev.app, client=("192.0.2.8", 1)), base_url=smart.PUBLIC_URL)
        assert (await other.post(PATH, json=APP)).status_code == 201
        dev.server.clock.forward(3601)
        assert (await dev.register(APP)).status_code == 201


async def test_who_waits_for_a_month_is_forgotten(at):
    """On record, and only what nobody ever let in: not what changed itself since, nor what people gave anything, nor the operator's own."""
    async with at(Policy("open")) as dev:
        old, changed, used = [await dev.registered() for _ in range(3)]
        await dev.approve(used)
        await dev.launch(used["client_id"])
        sent = {"client_id": used["client_id"], **APP, "client_name": "Other"}
        assert (await dev.manage("PUT", used, sent)).json()["approval"] == "pending"
        await dev.server.public_app("ours")
        dev.server.clock.forward(29 * 86400)
        moment = dev.server.clock()
        async with dev.server.database.write() as connection:  # of what people gave, no token is left
            await rows.prune(connection, now=moment, kept_until=moment, idle_since=moment)
            await rows.forget_grants(connection, await rows.empty_grants(connection, moment))
        assert await dev.server.clients.prune() == 0
        sent = {"client_id": changed["client_id"], **APP, "client_name": "Another"}
        assert (await dev.manage("PUT", changed, sent)).status_code == 200
        dev.server.clock.forward(86400 + 1)
        dev.server.records.clear()
        assert await dev.server.clients.prune() == 1
        assert {one.id for one in await dev.server.clients.all()} == {changed["client_id"], used["client_id"], "ours"}
        (record,) = dev.server.records
        assert (record.action, record.client_id, record.detail) == ("client-delete", old["client_id"], "waited 30 days for the operator")
        assert await dev.server.clients.prune() == 0


async def test_closed_is_the_default(at):
    """There is no such address, for what was registered before neither, and discovery does not name it."""
    async with at(Policy()) as dev:
        answers = [await dev.register(APP), await dev.http.get(f"{PATH}/x", headers=bearer("x")), await dev.http.delete(f"{PATH}/x")]
        assert [answer.status_code for answer in answers] == [404, 404, 404]
        assert (await dev.http.post("/auth/nowhere/register", json=APP)).status_code == 404
    for document in (smart_configuration, openid_configuration):
        named: dict[str, Any] = {"public_url": smart.PUBLIC_URL, "ehr": "hapi", "types": ["Patient"]}
        assert "registration_endpoint" not in document(**named)
        assert document(**named, offered=Offered(registration=True))["registration_endpoint"] == f"{smart.PUBLIC_URL}{PATH}"


async def test_an_invite_is_needed_where_it_is(at):
    """Hashed, for one EHR, counted, with an end; without one, or with a wrong one, 401 and nothing is stored."""
    async with at(INVITED) as dev:
        _, token = await dev.server.invites.make(Terms("hapi", uses=2))
        _, elsewhere = await dev.server.invites.make(Terms("other"))
        for wrong in ("", "made-up", elsewhere):
            answer = await dev.register(APP, wrong)
            assert (answer.status_code, answer.headers["www-authenticate"][:6]) == (401, "Bearer")
        assert (await dev.register({"redirect_uris": ["x"]}, token)).status_code == 400  # a refusal uses nothing up
        await dev.registered(APP, token)
        await dev.registered(APP, token)
        assert (await dev.register(APP, token)).status_code == 401
        _, late = await dev.server.invites.make(Terms("hapi", days=1))
        dev.server.clock.forward(86400)
        assert (await dev.register(APP, late)).status_code == 401
        withdrawn, token = await dev.server.invites.make(Terms("hapi"))
        await dev.server.invites.withdraw(withdrawn.id)
        assert (await dev.register(APP, token)).status_code == 401
        assert len(await dev.server.clients.all()) == 2


async def test_system_scopes_are_those_of_the_invite(at):
    """ATK-O27: nobody gives them to himself; what the invite names may be had in part, and never widened afterwards."""
    async with at(INVITED) as dev:
        _, plain = await dev.server.invites.make(Terms("hapi", uses=9))
        _, token = await dev.server.invites.make(Terms("hapi", uses=9, scope="system/Observation.rs system/Patient.r"))
        assert (await dev.register(BACKEND, plain)).status_code == 400
        for scope in ("system/*.rs", "system/Observation.cruds", "system/Observation.rs system/Condition.r", "patient/*.rs", ""):
            assert (await dev.register(BACKEND | {"scope": scope}, token)).json()["error"] == "invalid_client_metadata"
        told = await dev.registered(BACKEND, token)
        form = smart.asserted(KEY.assertion(told["client_id"], moment=dev.server.clock()))
        assert (await smart.exchange(dev.http, form)).json()["scope"] == "system/Observation.rs"
        wider = BACKEND | {"client_id": told["client_id"], "scope": "system/Observation.rs system/Patient.r"}
        assert (await dev.manage("PUT", told, wider)).status_code == 400
        app = await dev.registered(APP, token)
        assert (await dev.manage("PUT", app, BACKEND | {"client_id": app["client_id"]})).status_code == 400


async def test_a_client_reads_its_registration(at):
    """RFC 7592 section 2.1: with its own token, which comes back; never the secret, which is not kept."""
    async with at() as dev:
        told, other = await dev.registered(SECRET), await dev.registered(SECRET)
        answer = await dev.manage("GET", told)
        expected = {name: value for name, value in told.items() if not name.startswith("client_secret")}
        assert (answer.status_code, answer.json()) == (200, expected)
        for wrong in (other["registration_access_token"], told["client_secret"], "x"):
            assert (await dev.manage("GET", told, token=wrong)).status_code == 401
        assert (await dev.http.get(told["registration_client_uri"])).headers["www-authenticate"].startswith("Bearer")
        await dev.server.secret_app("web")  # registered by the operator: nobody manages it from outside
        assert (await dev.http.get(f"{PATH}/web", headers=bearer(""))).status_code == 401
        assert (await dev.http.post(told["registration_client_uri"])).headers["allow"] == "GET, PUT, DELETE"


async def test_a_client_changes_its_registration(at):
    """RFC 7592 section 2.2: what is sent replaces what was there; the token is new, the old one is over; the secret stays."""
    async with at() as dev:
        told = await dev.registered(SECRET)
        wanted = {"client_id": told["client_id"], "client_name": "Chart 2", "redirect_uris": [smart.APP, "https://app.test/two"]}
        changed = (await dev.manage("PUT", told, wanted)).json()
        assert (changed["client_name"], changed["redirect_uris"], changed["scope"]) == ("Chart 2", wanted["redirect_uris"], "")
        assert changed["registration_access_token"] != told["registration_access_token"]
        assert (await dev.manage("GET", told)).status_code == 401
        assert (await dev.manage("GET", changed)).status_code == 200
        await dev.launch(told["client_id"], secret=told["client_secret"])
        for wrong in (
            {"client_id": "web"},
            {"client_id": None},
            {"client_secret": "chosen"},
            {"registration_access_token": "x"},
            {"client_id_issued_at": 0},
            {"redirect_uris": ["javascript:x"]},
            {"software_statement": "x"},
            {"ehrs": ["*"]},
            {"push": {"mode": "notify"}},
        ):
            assert (await dev.manage("PUT", changed, wanted | wrong)).status_code == 400, wrong
        again = await dev.manage("PUT", changed, wanted | {"client_secret": told["client_secret"]})  # a refusal did not use the token up
        assert again.status_code == 200
        assert ("client-update", 200) in dev.actions()


async def test_a_client_deletes_itself(at):
    """RFC 7592 section 2.3: 204, all its access ends, and the token with it."""
    async with at() as dev:
        told = await dev.registered()
        token = (await dev.launch(told["client_id"]))["access_token"]
        answer = await dev.manage("DELETE", told)
        assert (answer.status_code, answer.content) == (204, b"")
        assert [(await dev.manage(method, told, APP)).status_code for method in ("GET", "PUT", "DELETE")] == [401, 401, 401]
        response = await dev.http.post("/auth/hapi/introspect", data={"token": token}, headers=bearer(token))
        assert response.status_code == 401
        assert await dev.client(told["client_id"]) is None


async def test_a_disabled_client_manages_nothing(at):
    """What the operator took out of use does not change itself back; nor may it enable itself by a change."""
    async with at() as dev:
        told = await dev.registered()
        await dev.server.clients.disable(told["client_id"])
        assert [(await dev.manage(method, told, APP | {"client_id": told["client_id"]})).status_code for method in ("GET", "PUT")] == [403, 403]
        client = await dev.client(told["client_id"])
        assert client is not None
        assert client.disabled_at is not None
        assert (await dev.manage("DELETE", told)).status_code == 204


async def test_what_registered_itself_waits_for_the_operator(at):
    """A page in words, `invalid_client` in JSON, no CORS; after the approval it launches, in every process at once."""
    async with at(Policy("open")) as dev:
        told = await dev.registered(SECRET | {"redirect_uris": ["https://new.test/cb"]})
        assert told["approval"] == "pending"
        browser = smart.Browser(dev.app)
        page = await browser.authorize(smart.asking(told["client_id"], redirect_uri="https://new.test/cb"))
        assert (page.status_code, "waiting for approval" in page.text, browser.left_to) == (403, True, "")
        form = {"grant_type": "authorization_code", "code": "x", "redirect_uri": "https://new.test/cb"}
        answer = await smart.exchange(dev.http, form, auth=(told["client_id"], told["client_secret"]), headers={"Origin": "https://new.test"})
        assert (answer.status_code, answer.json()["error"]) == (401, "invalid_client")
        assert "access-control-allow-origin" not in answer.headers
        assert (await dev.manage("GET", told)).json()["approval"] == "pending"
        await dev.approve(told)
        page = await smart.Browser(dev.app).authorize(smart.asking(told["client_id"], redirect_uri="https://new.test/cb"))
        assert page.status_code == 200
        assert "approval" not in (await dev.manage("GET", told)).json()
        assert dev.actions()[-2:] == [("client-approve", 200), ("client-read", 200)]


async def test_a_change_is_looked_at_again(at):
    """What was approved harmless is not made harmful afterwards; new keys and the same again need nobody."""
    async with at(Policy("open")) as dev:
        keyed = {"client_name": "Chart", "redirect_uris": [smart.APP], "jwks": {"keys": [KEY.public]}}
        told = await dev.registered(keyed)
        named = keyed | {"client_id": told["client_id"]}
        await dev.approve(told)
        told = (await dev.manage("PUT", told, named | {"jwks": {"keys": [smart.BackendKey().public]}})).json()
        assert "approval" not in told
        changes: tuple[dict[str, Any], ...] = (
            {"client_name": "Your bank"},
            {"redirect_uris": ["https://evil.test/cb"]},
            {"scope": "patient/*.rs"},
            {"launch_uri": "https://evil.test/launch"},
            {"jwks": {"keys": [KEY.public]}, "token_endpoint_auth_method": "private_key_jwt", "grant_types": ["authorization_code"]},
        )
        for change in changes:
            answer = await dev.manage("PUT", told, named | change)
            told = answer.json()
            assert (answer.status_code, told["approval"]) == (200, "pending"), change
            await dev.approve(told)
            told = (await dev.manage("PUT", told, named)).json()
            await dev.approve(told)


async def test_only_what_was_seen_is_approved(at):
    """A client that changes itself between the look and the approval stays out, also when it changes back, and in the very moment between."""
    async with at(Policy("open")) as dev:
        told = await dev.registered()
        seen = await dev.server.clients.named(told["client_id"])
        named = APP | {"client_id": told["client_id"]}
        evil = (await dev.manage("PUT", told, named | {"client_name": "Your clinic\x1b[2J", "redirect_uris": ["https://evil.test/cb"]})).json()
        evil = evil if "client_id" in evil else (await dev.manage("PUT", told, named | {"redirect_uris": ["https://evil.test/cb"]})).json()
        for version in (version_of(seen), ""):
            with pytest.raises(NotDone, match=r"https://evil\.test/cb") as refused:
                await dev.server.clients.approve(told["client_id"], version)
        current = await dev.server.clients.named(told["client_id"])
        assert f"approve {current.id} --version {version_of(current)}" in explained(refused.value, {}).fix
        assert len(version_of(current)) == 8
        async with dev.server.database.write() as connection:
            assert not await registrations.approve(connection, seen)
        await dev.manage("PUT", evil, named)
        assert version_of(await dev.server.clients.named(told["client_id"])) not in (version_of(seen), version_of(current))
        assert ("client-approve", 200) not in dev.actions()
        await dev.approve(told)
        assert dev.actions()[-1] == ("client-approve", 200)


async def test_nothing_is_ever_fetched(at, monkeypatch):
    """ATK-O27: neither logo_uri nor jwks_uri nor any other address, when a client registers, changes, or is looked at."""
    asked: list[str] = []

    async def noticed(loop: Any, host: str, *args: Any, **more: Any) -> Any:
        del loop, args, more
        asked.append(host)
        raise OSError(host)

    monkeypatch.setattr(asyncio.BaseEventLoop, "getaddrinfo", noticed)
    monkeypatch.setattr(asyncio.BaseEventLoop, "create_connection", noticed)
    pages = {name: f"https://{name.replace('_', '-')}.test/x" for name in ("logo_uri", "client_uri", "policy_uri", "tos_uri")}
    async with at() as dev:
        told = await dev.registered({"redirect_uris": [smart.APP], "jwks_uri": "https://keys.test/jwks", "contacts": ["dev@app.test"]} | pages)
        assert {name: told[name] for name in pages} == pages
        await dev.manage("PUT", told, {"client_id": told["client_id"], "redirect_uris": [smart.APP], "jwks_uri": "https://keys.test/2"} | pages)
        await dev.server.clients.named(told["client_id"])
        assert (asked, dev.server.keysets.asked) == ([], [])
