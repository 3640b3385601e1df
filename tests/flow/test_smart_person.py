"""A person lets the outer gateway in at the inner one, which is her EHR (A18.84 to 89): connect, read, refresh, end, take back, and every forgery."""

from __future__ import annotations

import asyncio
import html
import json
import re
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from urllib.parse import parse_qs, parse_qsl, urlencode, urlsplit

import httpx
import pytest
from joserfc import jwk
from sqlalchemy import select, update

from gateway import compose, local
from gateway.smart.client.user import UserEndpoints
from gateway.smart.server.authorization.launches import Wanted
from gateway.smart.server.people.accounts import Passwords
from gateway.store import oauth as oauth_rows
from gateway.store import oauth_tables, people, upstream
from gateway.store.base import now
from gateway.store.oauth_rows import Account, Client, ListedPatient
from tests.support import smart
from tests.support.inner_gateway import Inner, inner_gateway
from tests.support.smart import Browser
from tests.support.whole_in_process import PUBLIC_URL, Whole, whole

KEY = jwk.ECKey.generate_key("P-384", {"kid": "k1"}, private=True)
SCOPE = "launch/patient openid fhirUser offline_access patient/*.cruds"
CALLBACK = f"{PUBLIC_URL}/auth/st/upstream/callback"
PASSWORD = smart.PASSWORD
METHODS = {
    "public": {"token_endpoint_auth_method": "none"},
    "secret": {"client_secret": "s+cret/of the outer=one"},
    "key": {"token_endpoint_auth_method": "private_key_jwt", "jwks": {"keys": [KEY.as_dict(private=False)]}},
}


@pytest.fixture(scope="module", autouse=True)
def cheap():
    """Real argon2id, as cheap as it gets."""
    with pytest.MonkeyPatch.context() as patch:
        for module in (compose, local):
            patch.setattr(module, "Passwords", lambda: Passwords(time_cost=1, memory=64))
        yield


@pytest.fixture(scope="module")
def inner(tmp_path_factory, cheap):
    """The EHR, where Ann is patient a and Bob is patient b, and the outer gateway is registered in three ways."""

    async def fill(found: Inner) -> None:
        for username, fhir_user in (("ann", "Patient/a"), ("bob", "Patient/b")):
            await found.person(username, PASSWORD, fhir_user)
        for name, method in METHODS.items():
            await found.register(client_id=name, redirect_uris=[CALLBACK], launch_uri=f"{PUBLIC_URL}/auth/st/upstream/launch", **method)

    with inner_gateway(tmp_path_factory.mktemp("inner")) as found:
        asyncio.run(fill(found))
        yield found


@dataclass
class Scene:
    """The outer gateway, Ann's account there and her browser."""

    inner: Inner
    at: Whole
    account: Account
    browser: Browser

    def abroad(self) -> Browser:
        """A browser at the EHR, over the network."""
        found = Browser(None, public_url=self.inner.url)
        found.http = httpx.AsyncClient(base_url=self.inner.url, trust_env=False)
        return found

    async def sign_in(self) -> None:
        await self.browser.get("/auth/st/upstream")
        await self.browser.sign_in("ann-outside")

    async def asked(self, path: str = "/auth/st/upstream/connect") -> dict[str, str]:
        """The authorization request with which the browser leaves for the EHR."""
        self.browser.left_to = ""
        await self.browser.get(path)
        return dict(parse_qsl(urlsplit(self.browser.left_to).query, keep_blank_values=True))

    async def allowed(self, username: str = "ann", path: str = "/auth/st/upstream/connect") -> str:
        """Sign in at the EHR and allow it there; gives where the EHR sends the browser."""
        await self.asked(path)
        abroad = self.abroad()
        await abroad.get(self.browser.left_to.removeprefix(self.inner.url))
        await abroad.sign_in(username)
        await abroad.allow()
        await abroad.http.aclose()
        assert abroad.left_to.startswith(CALLBACK)
        return abroad.left_to

    async def back(self, url: str) -> httpx.Response:
        return await self.browser.get(url.removeprefix(PUBLIC_URL))

    async def connect(self) -> httpx.Response:
        await self.sign_in()
        return await self.back(await self.allowed())

    async def token(self, scope: str = "patient/*.rs") -> str:
        """Of an app that Ann let in at the outer gateway."""
        database = self.at.gateway.state.database
        client = Client("an-app", "App", "none", ("authorization_code",), ("https://app.test/cb",), "", ("*",), now())
        async with database.write() as connection:
            await oauth_rows.put_client(connection, client, frozenset({"https://app.test"}))
        return await smart.issue(database, client_id="an-app", scope=scope, ehr="st", account=self.account, patient="a")

    async def read(self, path: str = "Patient/a", **headers: str) -> httpx.Response:
        return await self.at.fhir(await self.token(), "GET", path, **headers)

    async def row(self) -> upstream.UpstreamGrant | None:
        async with self.at.gateway.state.database.read() as connection:
            return await upstream.grant_of(connection, self.account.id, "st")

    async def age(self, **values: object) -> None:
        """Let the access token end now, or whatever is given."""
        async with self.at.gateway.state.database.write() as connection:
            await connection.execute(update(upstream.grant).values(**(values or {"ends_at": now() - timedelta(seconds=1)})))

    async def records(self, action: str) -> list[tuple[int, str]]:
        await self.at.gateway.state.audit.load()
        return [(one.status, one.reason) for one in await self.at.gateway.state.audit.search(action=action)]


@asynccontextmanager
async def scene(inner: Inner, folder: Path, method: str = "secret"):
    key = folder / "key.json"
    key.write_text(json.dumps(KEY.as_dict(private=True)))
    environ = {"AUTH": "smart", "CLIENT_ID": method, "SCOPE": SCOPE, "TOKEN_LOOPBACK": "true"}
    environ |= {"secret": {"CLIENT_SECRET": METHODS["secret"]["client_secret"]}, "key": {"KEY_FILE": str(key)}}.get(method, {})
    inner.token_requests.clear()
    async with whole(inner.base, folder, ehr="st", environ={f"GATEWAY_EHR_ST_{name}": value for name, value in environ.items()}) as at:
        accounts = local.accounts(at.gateway.state)
        account = await accounts.add("ann-outside", PASSWORD, ehr="st", fhir_user="Patient/a", display_name="Ann")
        browser = Browser(at.asgi)
        yield Scene(inner, at, account, browser)
        await browser.http.aclose()


@pytest.mark.parametrize("method", METHODS)
async def test_a_person_connects_and_her_token_opens_her_record(inner, tmp_path, method):
    """As a public client, with a secret, with a key; before that there is a sentence, and no answer."""
    async with scene(inner, tmp_path, method) as at:
        refused = await at.read()
        assert (refused.status_code, refused.json()["issue"][0]["code"]) == (403, "forbidden")
        assert "/auth/st/upstream" in refused.text
        page = await at.connect()
        assert "You are connected" in page.text
        assert (await at.read()).json()["name"] == [{"family": "Inner"}]
        found = (await at.read("Observation?patient=a")).json()
        assert {one["resource"]["id"] for one in found["entry"]} >= {f"o{number}" for number in range(7)}
        assert (await at.read("Observation/p0")).status_code == 404
        assert await at.records("upstream-connect") == [(303, "")]
        row = await at.row()
        assert row is not None
        assert "offline_access" in row.scope
        token = at.at.gateway.state.secrets.open(row.sealed, f"upstream-grant:{row.id}".encode())
        assert json.loads(token)["access_token"].encode() not in row.sealed


async def test_the_authorization_request_is_what_smart_asks_for(inner, tmp_path):
    """A18.84: state of its own each time, PKCE, aud, the registered address, no launch in a standalone one; HL7@13, 40, 44, 45, 61."""
    async with scene(inner, tmp_path) as at:
        await at.sign_in()
        first, second = await at.asked(), await at.asked()
        assert first["response_type"] == "code"
        assert (first["client_id"], first["redirect_uri"], first["scope"], first["aud"]) == ("secret", CALLBACK, SCOPE, inner.base)
        assert first["code_challenge_method"] == "S256"
        assert "launch" not in first
        assert len(first["state"]) >= 43
        assert {first[name] for name in ("state", "nonce", "code_challenge")}.isdisjoint(second.values())


async def test_an_ehr_launch_passes_its_launch_on_as_it_came(inner, tmp_path):
    """A18.84: byte by byte; `launch` instead of `launch/patient`; and the whole way with a launch of the inner gateway."""
    async with scene(inner, tmp_path) as at:
        await at.sign_in()
        odd = "a+b/c=%20é ~&x=1"
        found = await at.asked(f"/auth/st/upstream/launch?{urlencode({'iss': inner.base, 'launch': odd})}")
        assert found["launch"] == odd
        assert found["scope"].split()[0] == "launch"
        assert "launch/patient" not in found["scope"].split()
        async with local.opened(inner.settings) as state:
            made = await local.launches(state).create(Wanted("hapi", "secret", patient="a"))
        page = await at.back(await at.allowed(path=f"/auth/st/upstream/launch?{urlsplit(made.url).query}"))
        assert "You are connected" in page.text
        assert (await at.read()).status_code == 200


async def test_a_launch_from_elsewhere_is_refused(inner, tmp_path):
    """Only this EHR opens the gateway as its app."""
    async with scene(inner, tmp_path) as at:
        await at.sign_in()
        for iss, launch in (("https://evil.test/fhir", "x"), ("", "x"), (inner.base, ""), (f"{inner.base}/../x", "x")):
            found = await at.browser.get("/auth/st/upstream/launch", iss=iss, launch=launch)
            assert (found.status_code, at.browser.left_to) == (400, "")


def changed(url: str, **values: str | None) -> str:
    """The address that the EHR gave, with parameters replaced or (None) left out."""
    sent = {name: value[0] for name, value in parse_qs(urlsplit(url).query).items()} | values
    return f"{CALLBACK}?{urlencode({name: value for name, value in sent.items() if value is not None})}"


FORGED = {
    "unknown state": {"state": "x" * 43},
    "no state": {"state": None},
    "another issuer": {"iss": "https://evil.test/fhir"},
    "no issuer": {"iss": None},
    "an error": {"error": "access_denied", "code": None},
    "no code": {"code": None},
    "a wrong code": {"code": "BAD"},
}


async def test_an_answer_that_is_not_right_connects_nobody(inner, tmp_path):
    """A18.85, ATK-O20: whatever is wrong with it; each refusal is on record, and a state that was sent once is used up."""
    async with scene(inner, tmp_path) as at:
        await at.sign_in()
        for number, (name, values) in enumerate(FORGED.items(), 1):
            url = await at.allowed()
            found = await at.back(changed(url, **values))
            assert found.status_code in (403, 502), name
            assert (await at.row(), len(await at.records("upstream-connect"))) == (None, number), name
        assert "upstream-state" in (await at.back(url)).text


async def test_an_answer_counts_once_and_in_its_session_only(inner, tmp_path):
    """HL7@40: another browser, another person and a second time are refused; the words of an EHR are on no page."""
    async with scene(inner, tmp_path) as at:
        await at.sign_in()
        url = await at.allowed()
        stranger = Browser(at.at.asgi)
        assert (await stranger.get(url.removeprefix(PUBLIC_URL))).status_code == 400
        await local.accounts(at.at.gateway.state).add("eve", PASSWORD, ehr="st", fhir_user="Patient/b")
        await stranger.get("/auth/st/upstream")
        await stranger.sign_in("eve")
        assert "upstream-state" in (await stranger.get(url.removeprefix(PUBLIC_URL))).text
        assert "upstream-state" in (await at.back(url)).text, "whoever sent it first used it up"
        await stranger.http.aclose()
        fine = await at.allowed()
        assert "You are connected" in (await at.back(fine)).text
        assert "upstream-state" in (await at.back(fine)).text
        repeated = await at.allowed()
        assert "upstream-state" in (await at.back(repeated + "&state=other")).text


async def test_who_signs_out_while_the_ehr_is_asked_is_not_connected(inner, tmp_path, monkeypatch):
    """The session is looked at again in the commit; the tokens that came all the same are given back to the EHR."""
    exchange, revoke, given = UserEndpoints.exchange, UserEndpoints.revoke, []

    async with scene(inner, tmp_path) as found:

        async def asked(self, *arguments):
            answer = await exchange(self, *arguments)
            async with found.at.gateway.state.database.write() as connection:
                await people.end_web_sessions_of(connection, found.account.id, now())
            return answer

        async def gave_back(self, token):
            given.append(token)
            await revoke(self, token)

        await found.sign_in()
        url = await found.allowed()
        monkeypatch.setattr(UserEndpoints, "exchange", asked)
        monkeypatch.setattr(UserEndpoints, "revoke", gave_back)
        assert (await found.back(url)).status_code == 403
        assert await found.row() is None
        assert len(given) == 1
        assert await found.records("upstream-connect") == [(403, "upstream-state")]


async def test_somebody_else_who_signs_in_at_the_ehr_is_not_she(inner, tmp_path):
    """A18.87: Bob's access does not go under Ann's name."""
    async with scene(inner, tmp_path) as at:
        await at.sign_in()
        found = await at.back(await at.allowed("bob"))
        assert (found.status_code, await at.row()) == (403, None)
        assert "That is another person" in found.text
        assert await at.records("upstream-connect") == [(403, "upstream-identity")]


async def test_a_token_that_is_over_is_renewed_once(inner, tmp_path):
    """A18.89: ten requests, one refresh; the rotated refresh token is kept, and works the next time."""
    async with scene(inner, tmp_path) as at:
        await at.connect()
        for version in (2, 3):
            await at.age()
            token = await at.token()
            found = await asyncio.gather(*(at.at.fhir(token, "GET", f"Observation?patient=a&_count={n + version * 20}") for n in range(10)))
            assert {one.status_code for one in found} == {200}
            row = await at.row()
            assert row is not None
            assert (row.version, len(inner.token_requests)) == (version, version)


async def test_a_token_that_gets_old_is_renewed_beside_the_requests(inner, tmp_path):
    """Nobody waits while it is still good."""
    async with scene(inner, tmp_path) as at:
        await at.connect()
        await at.age(renew_at=now() - timedelta(seconds=1))
        assert (await at.read()).status_code == 200
        for _ in range(50):
            row = await at.row()
            if row and row.version == 2:
                break
            await asyncio.sleep(0.05)
        assert row is not None
        assert row.version == 2


async def test_an_app_that_she_lets_in_leads_her_to_connect_first(inner, tmp_path):
    """Else the app would have her consent and get nothing. She comes back to the same question; or says not now, and is asked it at once."""
    async with scene(inner, tmp_path) as at:
        await at.token()  # the app is registered
        asked = smart.asking("an-app", "launch/patient patient/*.rs", redirect_uri="https://app.test/cb", aud=at.at.base)
        await at.browser.authorize(asked, ehr="st")
        page = await at.browser.sign_in("ann-outside")
        assert str(page.url).startswith(f"{PUBLIC_URL}/auth/st/upstream?transaction=")
        connect, later = re.findall(r'href="(/auth/st/(?:upstream/connect|consent)[^"]+)"', page.text)
        assert 'name="decision"' in (await at.browser.get(html.unescape(later))).text
        page = await at.back(await at.allowed(path=html.unescape(connect)))
        assert str(page.url).startswith(f"{PUBLIC_URL}/auth/st/consent?transaction=")
        await at.browser.allow(ehr="st")
        assert at.browser.left_to.startswith("https://app.test/cb?code=")
        await at.browser.authorize(asked | {"state": "again"}, ehr="st")
        assert 'name="decision"' in at.browser.page.text, "who is connected is asked at once"


async def test_access_that_the_ehr_ended_says_connect_again(inner, tmp_path):
    """To apps as a 403, to her on a page with the way back; nothing comes from the cache; then she connects again."""
    async with scene(inner, tmp_path, "public") as at:
        await at.connect()
        assert (await at.read()).status_code == 200
        await inner.revoke("public")
        await at.age()
        refused = await at.read()
        assert refused.status_code == 403
        assert "connect to the health record system again" in refused.text
        assert await at.records("upstream-end") == [(200, "")]
        assert (await at.read()).status_code == 403
        page = await at.browser.get("/portal/results")
        assert page.status_code == 403
        assert 'href="/auth/st/upstream"' in page.text
        assert "Connect again" in (await at.browser.get("/auth/st/upstream")).text
        assert "You are connected" in (await at.back(await at.allowed())).text
        assert (await at.read()).status_code == 200


async def test_a_401_of_the_ehr_is_answered_by_one_refresh(inner, tmp_path):
    """The token was taken back there and the refresh token was not: she notices nothing."""
    async with scene(inner, tmp_path) as at:
        await at.connect()
        async with local.opened(inner.settings) as state, state.database.write() as connection:
            await connection.execute(update(oauth_tables.access_token).values(expires_at=now() - timedelta(seconds=1)))
        assert (await at.read()).status_code == 200
        row = await at.row()
        assert row is not None
        assert row.version == 2


async def test_she_takes_it_back(inner, tmp_path):
    """Gone here at once, and the EHR is told; what was cached under it is nobody's."""
    async with scene(inner, tmp_path) as at:
        await at.connect()
        assert (await at.read("Observation?patient=a")).headers["cache-status"].startswith("gateway; fwd=miss")
        assert (await at.read("Observation?patient=a")).headers["cache-status"].startswith("gateway; hit")
        kept = await at.row()
        assert kept is not None
        await at.browser.get("/auth/st/upstream")
        page = await at.browser.submit("/auth/st/upstream")
        assert "The access was taken back" in page.text
        assert await at.row() is None
        assert (await at.read("Observation?patient=a")).status_code == 403
        assert await at.records("upstream-disconnect") == [(303, "")]
        token = json.loads(at.at.gateway.state.secrets.open(kept.sealed, f"upstream-grant:{kept.id}".encode()))["access_token"]
        async with httpx.AsyncClient(trust_env=False) as http:
            assert (await http.get(f"{inner.base}/Patient/a", headers={"Authorization": f"Bearer {token}"})).status_code == 401
        await at.back(await at.allowed())
        assert (await at.read("Observation?patient=a")).headers["cache-status"].startswith("gateway; fwd=miss"), "a new access is another view"


async def test_two_persons_have_two_views(inner, tmp_path):
    """Bob, who may see Ann's record at the outer gateway, is not answered with what the EHR gave to Ann."""
    async with scene(inner, tmp_path) as at:
        await at.connect()
        await at.read()
        database = at.at.gateway.state.database
        bob = await local.accounts(at.at.gateway.state).add("bob-outside", PASSWORD, ehr="st", fhir_user="Patient/b")
        async with database.write() as connection:
            await people.set_listed(connection, bob.id, (ListedPatient("a"),))
        await at.token()
        token = await smart.issue(database, client_id="an-app", scope="patient/*.rs", ehr="st", account=bob, patient="a")
        assert (await at.at.fhir(token, "GET", "Patient/a")).status_code == 403


async def test_systems_are_refused_where_only_persons_are_let_in(inner, tmp_path):
    """Reads and pushes, at the door; /metadata goes without anybody."""
    async with scene(inner, tmp_path) as at:
        system = await at.at.token("system/*.cruds", push={"mode": "deliver", "ehr": "st"})
        body = {"resourceType": "Observation", "status": "final", "code": {"text": "x"}, "subject": {"reference": "Patient/a"}}
        for answer in (await at.at.fhir(system, "GET", "Patient/a"), await at.at.fhir(system, "POST", "Observation", body)):
            assert answer.status_code == 403
            assert "persons only" in answer.text
        assert (await at.at.http.get(f"{at.at.base}/metadata")).status_code == 200


async def test_an_app_writes_with_the_persons_own_token(inner, tmp_path):
    """And it is on record at the EHR as hers."""
    async with scene(inner, tmp_path) as at:
        await at.connect()
        body = {
            "resourceType": "Communication",
            "status": "in-progress",
            "subject": {"reference": "Patient/a"},
            "sender": {"reference": "Patient/a"},
            "payload": [{"contentString": "Hello"}],
        }
        answer = await at.at.fhir(await at.token("patient/Communication.crs"), "POST", "Communication", body)
        assert answer.status_code == 201, answer.text


async def test_pages_are_there_only_where_persons_have_their_own_access(inner, tmp_path):
    """Nobody signed in: sign in first. Another EHR, another method: no page. A form without its key: refused."""
    async with scene(inner, tmp_path) as at:
        assert (await at.at.http.get(f"{PUBLIC_URL}/auth/other/upstream")).status_code == 404
        assert (await at.at.http.get(f"{PUBLIC_URL}/auth/st/upstream/connect")).status_code == 303
        await at.connect()
        assert (await at.browser.post("/auth/st/upstream", [("csrf", "x")])).status_code == 403
        assert await at.row() is not None
        assert (await at.browser.post("/auth/st/upstream/callback", [])).status_code == 405


def test_rows_are_values():
    """Nothing of a token shows in a log."""
    row = upstream.UpstreamGrant("i", "a", "e", "s", b"sealed-bytes", 1, now(), now(), now())
    assert "sealed-bytes" not in repr(replace(row, version=2))
    assert select(upstream.grant) is not None
