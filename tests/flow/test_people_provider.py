"""An outside OpenID provider signs people in: a second gateway as one, and one that lies."""

from __future__ import annotations

import base64
import hmac
import json
import ssl
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from functools import cache
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import httpx
import pytest
from joserfc import jwk, jwt
from starlette.requests import Request
from starlette.responses import JSONResponse

from gateway.smart.http import Http
from gateway.smart.server.attempts import Attempts
from gateway.smart.server.discovery import openid_configuration
from gateway.smart.server.people.providers import Provider, ProviderConfig
from tests.support import smart

ISSUER = "https://idp.test"
WITH = "/signin/with/idp"


async def nothing(url: str) -> None:
    """No keys from anywhere else."""
    del url


@cache
def key(kid: str, kind: str = "RSA") -> Any:
    if kind == "RSA":
        return jwk.RSAKey.generate_key(2048, {"kid": kid}, private=True)
    return jwk.ECKey.generate_key("P-256", {"kid": kid}, private=True)


@dataclass
class Lying:
    """A small provider. What it says can be anything."""

    clock: smart.Clock
    claims: dict[str, Any] = field(default_factory=dict)
    header: dict[str, Any] = field(default_factory=dict)
    document: dict[str, Any] = field(default_factory=dict)
    keys: list[Any] = field(default_factory=lambda: [key("k1").as_dict(private=False)])
    signing: Any = field(default_factory=lambda: key("k1"))
    token: str | None = None
    status: int = 200
    forms: list[dict[str, str]] = field(default_factory=list)
    nonce: str = ""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        request = Request(scope, receive)
        answer = await self._answer(request.url.path, await request.body(), request.headers.get("authorization", ""))
        await answer(scope, receive, send)

    async def _answer(self, path: str, body: bytes, authorization: str) -> JSONResponse:
        if path == "/.well-known/openid-configuration":
            return JSONResponse(self._document())
        if path == "/jwks":
            return JSONResponse({"keys": self.keys})
        assert path == "/token"
        self.forms.append(dict(parse_qsl(body.decode())) | {"authorization": authorization})
        return JSONResponse({"access_token": "x", "token_type": "Bearer", "id_token": self.token or self._token()}, self.status)

    def _document(self) -> dict[str, Any]:
        endpoints = {"authorization_endpoint": f"{ISSUER}/authorize", "token_endpoint": f"{ISSUER}/token", "jwks_uri": f"{ISSUER}/jwks"}
        return {"issuer": ISSUER, "authorization_response_iss_parameter_supported": True} | endpoints | self.document

    def _token(self) -> str:
        seconds = int(self.clock().timestamp())
        claims = {"iss": ISSUER, "sub": "s-1", "aud": "gw", "exp": seconds + 300, "iat": seconds, "nonce": self.nonce, "fhirUser": "Patient/a"}
        said = {name: value for name, value in (claims | self.claims).items() if value is not None}
        header = {name: value for name, value in ({"alg": "RS256", "kid": "k1"} | self.header).items() if value is not None}
        return jwt.encode(header, said, self.signing, algorithms=[header["alg"]])


@dataclass
class Running:
    server: smart.Smart
    idp: Lying

    def browser(self) -> smart.Browser:
        return smart.Browser(self.server.app())

    async def away(self, browser: smart.Browser, **asked: str) -> dict[str, str]:
        """Send the browser to the provider: what it was sent with."""
        await browser.get(WITH, **(asked or {"next": "/security"}))
        assert browser.left_to.startswith(f"{ISSUER}/authorize?"), browser.page.text
        sent = browser.answer
        self.idp.nonce = sent["nonce"]
        return sent

    async def signed_in(self, **changes: str | None) -> smart.Browser:
        """There and back; `changes` to the parameters of the way back."""
        browser = self.browser()
        sent = await self.away(browser)
        answer: dict[str, str | None] = {"code": "c-1", "state": sent["state"], "iss": ISSUER} | changes
        await browser.get(f"{WITH}/back", **{name: value for name, value in answer.items() if value is not None})
        return browser


def made(server: smart.Smart, config: ProviderConfig, transport: httpx.AsyncBaseTransport) -> Provider:
    http = Http(ssl.create_default_context(), transport=transport)
    more: dict[str, Any] = {"record_in": server._record_in, "attempts": server.attempts, "clock": server.clock}
    return Provider(config, server.database, smart.SEALER, http, nothing, public_url=smart.PUBLIC_URL, **more)


@pytest.fixture
async def running(tmp_path) -> AsyncIterator[Running]:
    async with smart.smart_server(f"sqlite+aiosqlite:///{tmp_path}/store.db", attempts=Attempts(of_address=6)) as server:
        await server.public_app()
        idp = Lying(server.clock)
        bases = ("https://ehr.test/fhir", smart.BASE)
        config = ProviderConfig("idp", "City account", ISSUER, "gw", "s3cret/+", smart.EHR, bases=bases)
        server.providers["idp"] = made(server, config, httpx.ASGITransport(idp))
        yield Running(server, idp)


def cookie(browser: smart.Browser) -> str:
    return next((one.value or "" for one in reversed(list(browser.http.cookies.jar)) if one.name == "__Host-gw_session"), "")


def refused(running: Running, browser: smart.Browser) -> str:
    """Nobody is signed in, the page says so; why stands in the record."""
    assert not cookie(browser)
    assert browser.page.status_code == 403
    assert "The other service did not sign you in" in browser.page.text
    last = running.server.records[-1]
    assert (last.action, last.status, last.reason) == ("login", 403, "provider-refused")
    return last.detail.removeprefix("idp: ")


async def test_a_provider_signs_somebody_in(running):
    """With PKCE, state and nonce; the code is exchanged with the secret as RFC 6749 spells it; an account is made once, and has no password."""
    browser = running.browser()
    assert "Sign in with City account" in (await browser.get("/signin")).text
    sent = await running.away(browser)
    assert (sent["client_id"], sent["scope"], sent["code_challenge_method"]) == ("gw", "openid fhirUser", "S256")
    assert sent["redirect_uri"] == f"{smart.PUBLIC_URL}{WITH}/back"
    await browser.get(f"{WITH}/back", code="c-1", state=sent["state"], iss=ISSUER)
    assert browser.page.request.url.path == "/security"
    assert "Another service signs you in here" in browser.page.text
    assert "Change my password" not in browser.page.text
    (form,) = running.idp.forms
    assert base64.b64decode(form["authorization"].removeprefix("Basic ")) == b"gw:s3cret%2F%2B"
    assert smart.Pkce(form["code_verifier"]).challenge == sent["code_challenge"]
    again = await running.signed_in()
    accounts = await running.server.accounts.all()
    assert [(one.fhir_user, one.ehr, one.password_hash) for one, _ in accounts] == [("Patient/a", "hapi", "")]
    assert [one.action for one in running.server.records][1:] == ["account-add", "login", "login"]
    for path in ("/security/password", "/security/contact", "/security/passkey"):
        assert (await again.get(path)).request.url.path == "/security"
    stranger = running.browser()
    await stranger.get("/signin")
    for password in ("", "x" * 8):
        assert (await stranger.sign_in(accounts[0][0].username, password)).status_code == 403


LIES: dict[str, tuple[dict[str, Any], str]] = {
    "other-audience": ({"aud": "another"}, "aud"),
    "many-audiences-without-azp": ({"aud": ["gw", "another"]}, "aud"),
    "another-azp": ({"azp": "another"}, "aud"),
    "no-audience": ({"aud": None}, "aud"),
    "other-nonce": ({"nonce": "n"}, "nonce"),
    "no-nonce": ({"nonce": None}, "nonce"),
    "odd-nonce": ({"nonce": 7}, "nonce"),
    "other-issuer": ({"iss": "https://evil.test"}, "iss"),
    "issuer-with-a-slash": ({"iss": f"{ISSUER}/"}, "iss"),
    "expired": ({"exp": 1}, "exp"),
    "no-expiry": ({"exp": None}, "exp"),
    "odd-expiry": ({"exp": "tomorrow"}, "exp"),
    "from-the-future": ({"iat": 9_999_999_999}, "iat"),
    "no-subject": ({"sub": None}, "sub"),
    "no-claim": ({"fhirUser": None}, "claim"),
    "another-kind": ({"fhirUser": "Device/1"}, "claim"),
    "another-server": ({"fhirUser": "https://evil.test/fhir/Patient/a"}, "claim"),
    "a-look-alike": ({"fhirUser": "https://ehr.test/fhirPatient/a"}, "claim"),
    "below-a-base": ({"fhirUser": "https://ehr.test/fhir/../other/Patient/a"}, "claim"),
    "two-lines": ({"fhirUser": "Patient/a\n"}, "claim"),
}


@pytest.mark.parametrize("lie", LIES)
async def test_an_id_token_that_is_not_right(running, lie):
    """OpenID Connect Core 3.1.3.7, each rule alone: signed as it should be, and nobody is signed in."""
    running.idp.claims, why = LIES[lie]
    assert refused(running, await running.signed_in()) == why


@pytest.mark.parametrize("forgery", ["none", "hs256", "other-key", "other-kid", "no-kid", "rs512", "cut", "no-jwt"])
async def test_a_signature_that_does_not_hold(running, forgery):
    """Without one, with a MAC by the public key, another key, another algorithm, a token in pieces."""
    idp = running.idp
    idp.keys.append(key("k2", "EC").as_dict(private=False))
    browser = running.browser()
    sent = await running.away(browser)
    good = idp._token()
    head, body, signature = good.split(".")

    def encoded(header: dict[str, Any]) -> str:
        return base64.urlsafe_b64encode(json.dumps(header).encode()).rstrip(b"=").decode()

    match forgery:
        case "none":
            idp.token = f"{encoded({'alg': 'none', 'kid': 'k1'})}.{body}."
        case "hs256":
            signed = f"{encoded({'alg': 'HS256', 'kid': 'k1'})}.{body}"
            mac = hmac.digest(key("k1").as_pem(private=False), signed.encode(), "sha256")
            idp.token = f"{signed}.{base64.urlsafe_b64encode(mac).rstrip(b'=').decode()}"
        case "other-key":
            idp.signing = key("other")
        case "other-kid":
            idp.header = {"kid": "k9"}
        case "no-kid":
            idp.header = {"kid": None}
        case "rs512":
            idp.token = jwt.encode({"alg": "RS512", "kid": "k1"}, {"iss": ISSUER}, key("k1"), algorithms=["RS512"])
        case "cut":
            idp.token = f"{head}.{body}.{signature[:-8]}"
        case _:
            idp.token = "no token"
    await browser.get(f"{WITH}/back", code="c-1", state=sent["state"], iss=ISSUER)
    assert refused(running, browser) in ("signature", "key")


async def test_keys_of_both_kinds_count(running):
    """ES256 as well as RS256; a key of another kind in the set disturbs nobody."""
    running.idp.keys = [{"kty": "AKP", "kid": "x"}, 7, *running.idp.keys, key("k2", "EC").as_dict(private=False)]
    running.idp.signing, running.idp.header = key("k2", "EC"), {"alg": "ES256", "kid": "k2"}
    assert cookie(await running.signed_in())
    running.idp.claims = {"aud": ["gw"], "fhirUser": "https://ehr.test/fhir/Patient/a"}
    assert cookie(await running.signed_in())


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"iss": "https://evil.test"}, "answer-iss"),
        ({"iss": None}, "answer-iss"),
        ({"code": None, "error": "access_denied"}, "error"),
        ({"code": None}, "error"),
    ],
)
async def test_an_answer_that_is_not_right(running, changes, why):
    """ATK-O20 (RFC 9207): an answer of another provider, or one without a name where names are promised; a refusal."""
    browser = await running.signed_in(**changes)
    assert refused(running, browser) == why
    assert running.idp.forms == []


async def test_the_way_back_is_the_browsers_and_counts_once(running):
    """ATK-O17, login CSRF: an attacker's answer in a victim's browser, a state that was not given, and the same one again."""
    attacker, victim = running.browser(), running.browser()
    sent = await running.away(attacker)
    for state in (sent["state"], "x", ""):
        await running.away(victim)
        await victim.get(f"{WITH}/back", code="c-1", state=state, iss=ISSUER)
        assert (victim.page.status_code, cookie(victim)) == (403, "")
    await running.browser().get(f"{WITH}/back", code="c-1", state=sent["state"], iss=ISSUER)
    assert running.idp.forms == []
    running.idp.nonce = sent["nonce"]
    await attacker.get(f"{WITH}/back", code="c-1", state=sent["state"], iss=ISSUER)
    assert cookie(attacker)
    again = await attacker.get(f"{WITH}/back", code="c-1", state=sent["state"], iss=ISSUER)
    assert again.status_code == 403
    late = running.browser()
    sent = await running.away(late)
    running.server.clock.forward(600)
    assert (await late.get(f"{WITH}/back", code="c-1", state=sent["state"], iss=ISSUER)).status_code == 403
    assert (await late.http.get(f"{WITH}/back?state=a&state=b")).status_code == 403


@pytest.mark.parametrize(
    "document",
    [
        {"issuer": "https://evil.test"},
        {"authorization_endpoint": "http://idp.test/authorize"},
        {"authorization_endpoint": "javascript:alert(1)"},
        {"authorization_endpoint": None},
    ],
)
async def test_metadata_that_are_not_its_own(running, document):
    """OpenID Connect Discovery 4.3: nobody is sent anywhere."""
    running.idp.document = document
    browser = running.browser()
    await browser.get(WITH)
    assert (browser.page.status_code, browser.left_to) == (502, "")
    assert "does not answer" in browser.page.text


@pytest.mark.parametrize("member", ["token_endpoint", "jwks_uri"])
async def test_a_secret_goes_nowhere_in_the_clear(running, member):
    """Nor are keys fetched there."""
    running.idp.document = {member: f"http://idp.test/{member}"}
    assert refused(running, await running.signed_in()) == ("jwks" if member == "jwks_uri" else "token-endpoint")
    assert len(running.idp.forms) == (member == "jwks_uri")


async def test_keys_elsewhere_are_fetched_with_care(running):
    """Another host than the issuer's: by the fetch that looks at addresses, and here has none."""
    running.idp.document = {"jwks_uri": "https://keys.test/jwks"}
    assert refused(running, await running.signed_in()) == "jwks"


async def test_a_subject_is_one_person_for_good(running):
    """A claim that now names somebody else signs nobody in; nor does a closed account; another subject is another account."""
    assert cookie(await running.signed_in())
    running.idp.claims = {"fhirUser": "Patient/b"}
    assert refused(running, await running.signed_in()) == "other-person"
    running.idp.claims = {"sub": "s-2", "fhirUser": "Patient/b"}
    assert cookie(await running.signed_in())
    (first, _), (second, _) = await running.server.accounts.all()
    assert first.username != second.username
    await running.server.accounts.disable(second if second.fhir_user == "Patient/b" else first)
    assert refused(running, await running.signed_in()) == "closed"


async def test_too_many_wrong_answers_wait(running):
    """C1: one address."""
    running.idp.claims = {"nonce": "n"}
    for _ in range(6):
        browser = await running.signed_in()
        assert browser.page.status_code == 403
    browser = await running.signed_in()
    assert browser.page.status_code == 429
    assert browser.page.headers["retry-after"]
    assert len(running.idp.forms) == 6


async def test_an_authorization_goes_on_after_a_provider(running):
    """The app's request waits; where it wants a new sign-in, the provider is asked for one."""
    browser = running.browser()
    await browser.authorize(smart.asking(prompt="login"))
    query = dict(parse_qsl(str(browser.page.request.url.query, "ascii")))
    sent = await running.away(browser, **query)
    assert sent["prompt"] == "login"  # nobody is signed in here, and somebody may be there
    await browser.get(f"{WITH}/back", code="c-1", state=sent["state"], iss=ISSUER)
    assert browser.page.request.url.path == "/auth/hapi/consent"
    browser.left_to = ""
    running.server.clock.forward(5)
    await browser.authorize(smart.asking(prompt="login"))
    query = dict(parse_qsl(str(browser.page.request.url.query, "ascii")))
    assert (await running.away(browser, **query))["prompt"] == "login"


@pytest.mark.parametrize("wish", [{"prompt": "login"}, {"prompt": "select_account"}, {"max_age": "3600"}, {"prompt": "none", "max_age": "3600"}, {}])
async def test_coming_back_from_a_provider_is_no_new_sign_in(running, wish):
    """OpenID Connect Core 3.1.2.1: a session that began without a question there, even after the app asked, is none that the app asked for."""
    browser = running.browser()
    await browser.authorize(smart.asking(**wish))
    waiting = str(browser.page.request.url)
    sent = await running.away(browser, next="/security")
    assert "prompt" not in sent
    await browser.get(f"{WITH}/back", code="c-1", state=sent["state"], iss=ISSUER)
    browser.left_to = ""
    if "none" in wish.values():
        await browser.authorize(smart.asking(**wish))
        assert browser.answer["error"] == "login_required"
        return
    await browser.get(waiting.removeprefix(smart.PUBLIC_URL))
    assert browser.page.request.url.path == ("/signin" if wish else "/auth/hapi/consent")


async def test_a_second_gateway_as_the_provider(tmp_path):
    """Its discovery, its authorization with consent, its token endpoint, its keys and its fhirUser, as they are."""
    async with AsyncExitStack() as stack:
        here = await stack.enter_async_context(smart.smart_server(f"sqlite+aiosqlite:///{tmp_path}/here.db"))
        there = await stack.enter_async_context(smart.smart_server(f"sqlite+aiosqlite:///{tmp_path}/there.db", public_url="https://other.test"))
        issuer = "https://other.test/fhir/hapi"
        await there.person("ann", fhir_user="Patient/zoe")
        await there.secret_app("gw", redirect_uris=[f"{smart.PUBLIC_URL}{WITH}/back"])
        app = there.app()
        document = openid_configuration(public_url="https://other.test", ehr="hapi", types=tuple(smart.TYPES))
        app.add_api_route("/fhir/hapi/.well-known/openid-configuration", lambda: document)
        config = ProviderConfig("idp", "Other", issuer, "gw", "secret-of-gw", smart.EHR, aud=issuer, bases=(issuer,))
        here.providers["idp"] = made(here, config, httpx.ASGITransport(app))
        browser, outside = smart.Browser(here.app()), smart.Browser(app, public_url="https://other.test")
        await browser.get(WITH, next="/security")
        await outside.get(browser.left_to.removeprefix("https://other.test"))
        await outside.sign_in()
        await outside.allow()
        await browser.get(f"{urlsplit(outside.left_to).path}?{urlsplit(outside.left_to).query}")
        assert browser.page.request.url.path == "/security", browser.page.text
        ((account, _),) = await here.accounts.all()
        assert account.fhir_user == "Patient/zoe"
