"""Backend services: assertions that count, and all that do not (A12, ATK-O23, O24, AUTHLIB-E1 to E4)."""

from __future__ import annotations

import base64
import hmac
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
from joserfc import jws, jwt

from gateway.smart.server.clients.admin import Clients
from tests.support import smart

TOKEN = f"{smart.PUBLIC_URL}/auth/hapi/token"
ES = smart.BackendKey("ES384", "es")
RS = smart.BackendKey("RS384", "rs")
PEM = RS.key.as_pem(private=False)


@dataclass
class Running:
    server: smart.Smart
    http: httpx.AsyncClient

    async def token(self, assertion: str, **more: str) -> httpx.Response:
        return await smart.exchange(self.http, smart.asserted(assertion, **more))

    def seconds(self, ahead: int = 0) -> int:
        return int(self.server.clock().timestamp()) + ahead


@pytest.fixture
async def running(tmp_path) -> AsyncIterator[Running]:
    async with smart.smart_server(f"sqlite+aiosqlite:///{tmp_path}/store.db") as server:
        keys = {"keys": [ES.public, RS.public]}
        common = {"grant_types": ["client_credentials"], "scope": "system/Observation.cruds system/Patient.rs"}
        await server.registrar.register(common | {"client_id": "lab", "jwks": keys})
        await server.registrar.register(common | {"client_id": "url", "jwks_uri": "https://keys.test/jwks"})
        server.keysets.sets["https://keys.test/jwks"] = keys
        yield Running(server, smart.Browser(server.app()).http)


@pytest.mark.parametrize("key", [ES, RS], ids=["ES384", "RS384"])
@pytest.mark.parametrize("client", ["lab", "url"])
async def test_a_sender_gets_a_token(running, key, client):
    """A12.69-72, AUTHLIB-E1, AUTHLIB-E4, AUTHLIB-E6: keys by value (HL7@297) and by URL (HL7@296); five minutes, no refresh token."""
    response = await running.token(key.assertion(client, moment=running.server.clock()))
    body = response.json()
    assert response.status_code == 200
    assert body["token_type"].lower() == "bearer"
    assert (body["expires_in"], body["scope"]) == (300, "system/Observation.rs")
    assert not {"refresh_token", "id_token", "patient"} & body.keys()
    principal = await running.server.authenticator.principal("hapi", [f"Bearer {body['access_token']}"])
    assert (principal.kind, principal.client_id, principal.patient) == ("system", client, "")


Claims = Callable[[Running], dict[str, Any]]
BAD_CLAIMS: dict[str, Claims] = {
    "aud-wrong": lambda _: {"aud": "https://evil.test/token"},
    "aud-missing": lambda _: {"aud": None},
    "aud-several": lambda _: {"aud": [TOKEN, "https://evil.test"]},
    "aud-other-ehr": lambda _: {"aud": f"{smart.PUBLIC_URL}/auth/other/token"},
    "iss-missing": lambda _: {"iss": None},
    "iss-other": lambda _: {"iss": "url"},
    "sub-missing": lambda _: {"sub": None},
    "sub-unknown": lambda _: {"sub": "nobody", "iss": "nobody"},
    "sub-number": lambda _: {"sub": 7, "iss": 7},
    "exp-missing": lambda _: {"exp": None},
    "exp-past": lambda running: {"exp": running.seconds()},
    "exp-far": lambda running: {"exp": running.seconds(310)},
    "exp-text": lambda running: {"exp": str(running.seconds(60))},
    "exp-true": lambda _: {"exp": True},
    "exp-huge": lambda _: {"exp": 10**400},
    "nbf-future": lambda running: {"nbf": running.seconds(60)},
    "nbf-text": lambda _: {"nbf": "now"},
    "iat-future": lambda running: {"iat": running.seconds(60)},
    "jti-missing": lambda _: {"jti": None},
    "jti-empty": lambda _: {"jti": ""},
    "jti-number": lambda _: {"jti": 7},
    "jti-long": lambda _: {"jti": "x" * 256},
}
BAD_HEADERS: dict[str, dict[str, Any]] = {
    "kid-unknown": {"kid": "other"},
    "kid-missing": {"kid": None},
    "kid-of-the-other-type": {"kid": "rs"},
    "typ-missing": {"typ": None},
    "typ-other": {"typ": "at+jwt"},
    "embedded-jwk": {"jwk": ES.public},
    "jku-evil": {"jku": "https://evil.test/jwks"},
    "jku-metadata": {"jku": "http://169.254.169.254/"},
    "x5u": {"x5u": "https://evil.test/cert"},
    "crit": {"crit": ["exp"], "exp": 1},
}


async def test_a_client_disabled_while_it_asks_gets_nothing(running, monkeypatch):
    """Else the token would come to life when the client is enabled again."""
    clients = Clients(running.server.database, record_in=running.server._record_in)
    snapshot, moments = running.server.tokens.snapshot, [None]

    async def overtaken(*given):
        found = await snapshot(*given)
        if moments:
            moments.pop()
            await clients.disable("lab")
        return found

    monkeypatch.setattr(running.server.tokens, "snapshot", overtaken)
    refused(await running.token(ES.assertion("lab", moment=running.server.clock())))


def refused(response: httpx.Response) -> None:
    assert (response.status_code, response.json()["error"]) == (401, "invalid_client")
    assert response.headers["www-authenticate"].startswith("Basic ")


@pytest.mark.parametrize("claims", BAD_CLAIMS.values(), ids=BAD_CLAIMS.keys())
async def test_claims_that_are_refused(running, claims):
    """ATK-O23, HL7@335-340, AUTHLIB-E2."""
    refused(await running.token(ES.assertion("lab", moment=running.server.clock(), **claims(running))))


@pytest.mark.parametrize("header", BAD_HEADERS.values(), ids=BAD_HEADERS.keys())
async def test_headers_that_are_refused(running, header):
    """ATK-O23: no header brings a key of its own, and nothing is asked of an address that is not registered."""
    refused(await running.token(_signed(ES.key, {"alg": "ES384", "kid": "es", "typ": "JWT"} | header, running)))
    assert running.server.keysets.asked == []


def _signed(key: Any, header: dict[str, Any], running: Running, client: str = "lab") -> str:
    """A JWS made by hand: libraries refuse to make some of these. `key` is a JWK for ES384, or the bytes of an HMAC secret."""
    content = {"iss": client, "sub": client, "aud": TOKEN, "exp": running.seconds(60), "jti": "j-1"}
    chosen = {name: value for name, value in header.items() if value is not None}
    signing_input = b".".join(base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=") for part in (chosen, content))
    if isinstance(key, bytes):
        signature = hmac.digest(key, signing_input, {"HS256": "sha256", "HS384": "sha384"}[header["alg"]])
    else:
        signature = jws.JWSRegistry(algorithms=["ES384"]).get_alg("ES384").sign(signing_input, key)
    return (signing_input + b"." + base64.urlsafe_b64encode(signature).rstrip(b"=")).decode()


@pytest.mark.parametrize("algorithm", ["HS256", "HS384"])
async def test_a_public_key_is_no_shared_secret(running, algorithm):
    """ATK-O23: HMAC keyed with the RSA public key."""
    refused(await running.token(_signed(PEM, {"alg": algorithm, "kid": "rs", "typ": "JWT"}, running)))


@pytest.mark.parametrize("algorithm", ["none", "RS256", "PS384", "ES256", "RS512", "EdDSA", ""])
async def test_other_algorithms_are_refused(running, algorithm):
    """ATK-O23, AUTHLIB-E1: RS384 and ES384, and no others, whatever the signature."""
    good = ES.assertion("lab", moment=running.server.clock())
    header, claims, signature = good.split(".")
    changed = json.loads(base64.urlsafe_b64decode(header + "==")) | {"alg": algorithm}
    forged = base64.urlsafe_b64encode(json.dumps(changed).encode()).rstrip(b"=").decode()
    refused(await running.token(f"{forged}.{claims}.{signature}"))
    assert (await running.token(f"{forged}.{claims}.")).status_code == 401


async def test_somebody_elses_key_is_refused(running):
    """ATK-O23: the right kid on the wrong key, and a claim changed after signing."""
    attacker = smart.BackendKey("ES384", "es")
    refused(await running.token(attacker.assertion("lab", moment=running.server.clock())))
    header, claims, signature = ES.assertion("lab", moment=running.server.clock()).split(".")
    changed = json.loads(base64.urlsafe_b64decode(claims + "==")) | {"jti": "another"}
    refused(await running.token(f"{header}.{base64.urlsafe_b64encode(json.dumps(changed).encode()).rstrip(b'=').decode()}.{signature}"))


@pytest.mark.parametrize("garbage", ["x", "a.b.c", "..", "e30.e30.e30", "e30.W10.e30", "x" * 9000, "ü.ü.ü"])
async def test_garbage_is_refused(running, garbage):
    """ATK-O23."""
    refused(await running.token(garbage))


async def test_an_assertion_works_once(running):
    """ATK-O23, AUTHLIB-E16: per issuer, for as long as it could be used again; also when the request failed otherwise."""
    once = ES.assertion("lab", moment=running.server.clock(), jti="j-1")
    assert (await running.token(once)).status_code == 200
    refused(await running.token(once))
    assert (await running.token(ES.assertion("url", moment=running.server.clock(), jti="j-1"))).status_code == 200
    spent = ES.assertion("lab", moment=running.server.clock())
    assert (await running.token(spent, scope="system/*.cruds")).json()["error"] == "invalid_scope"
    refused(await running.token(spent))


async def test_client_id_must_agree(running):
    """AUTHLIB-E3: a form that names another client than the assertion."""
    assertion = ES.assertion("lab", moment=running.server.clock())
    refused(await running.token(assertion, client_id="url"))
    assert (await running.token(ES.assertion("lab", moment=running.server.clock()), client_id="lab")).status_code == 200


async def test_the_assertion_type_must_be_named(running):
    """A12.67."""
    assertion = ES.assertion("lab", moment=running.server.clock())
    refused(await running.token(assertion, client_assertion_type="not_an_assertion_type"))
    response = await smart.exchange(running.http, smart.asserted(assertion, grant_type="not_a_grant_type"))
    assert (response.status_code, response.json()["error"]) == (400, "unsupported_grant_type")


@pytest.mark.parametrize(
    "scope",
    [
        "system/Observation.cruds system/Condition.rs",
        "system/*.rs",
        "patient/Observation.rs",
        "user/Observation.rs",
        "openid",
        "",
        "system/Observation.dus",
    ],
)
async def test_scopes_beyond_the_registration(running, scope):
    """ATK-O24, A12.73: the whole request is refused (HL7@250)."""
    form = {name: value for name, value in smart.asserted(ES.assertion("lab", moment=running.server.clock()), scope=scope).items() if value}
    response = await smart.exchange(running.http, form)
    assert (response.status_code, response.json()["error"]) == (400, "invalid_scope")


async def test_client_credentials_is_for_keys_only(running):
    """ATK-O24, HL7@344: no public client, no shared secret; and no code grant for a backend."""
    await running.server.secret_app()
    await running.server.public_app()
    form = {"grant_type": "client_credentials", "scope": "system/Observation.rs"}
    with_secret = await smart.exchange(running.http, form, auth=("web", "secret-of-web"))
    public = await smart.exchange(running.http, form | {"client_id": "app"})
    assert {with_secret.json()["error"], public.json()["error"]} <= {"invalid_client", "unauthorized_client"}
    code = await running.token(ES.assertion("lab", moment=running.server.clock()), grant_type="authorization_code", code="x", redirect_uri=smart.APP)
    assert code.json()["error"] == "unauthorized_client"


async def test_a_jku_may_repeat_the_registration(running):
    """SMART: jku equal to the registered URL is allowed; it is never followed."""
    assertion = _signed(ES.key, {"alg": "ES384", "kid": "es", "typ": "JWT", "jku": "https://keys.test/jwks"}, running, "url")
    assert (await running.token(assertion)).status_code == 200
    assert running.server.keysets.asked == ["https://keys.test/jwks"]


async def test_duplicate_kids_are_refused(running):
    """ATK-O23: two keys with one name are no key."""
    running.server.keysets.sets["https://keys.test/jwks"] = {"keys": [ES.public, smart.BackendKey("ES384", "es").public]}
    refused(await running.token(ES.assertion("url", moment=running.server.clock())))


async def test_keys_that_cannot_be_had(running):
    """A key set that is away is a refusal, not an error."""
    running.server.keysets.sets.clear()
    refused(await running.token(ES.assertion("url", moment=running.server.clock())))


async def test_asymmetric_apps_prove_themselves_each_time(running):
    """A7.46: at the code and at each refresh, with a fresh jti; without it the refresh is refused (B: fhirclient-js)."""
    await running.server.registrar.register({"client_id": "sharp", "redirect_uris": [smart.APP], "jwks": {"keys": [ES.public]}})
    await running.server.person()
    browser, pkce = smart.Browser(running.server.app()), smart.Pkce()
    code = await smart.code_for(browser, smart.asking("sharp", "launch/patient openid offline_access patient/Patient.r", pkce))
    proof = {"client_assertion_type": smart.asserted("")["client_assertion_type"]}
    form = proof | {"grant_type": "authorization_code", "code": code, "redirect_uri": smart.APP, "code_verifier": pkce.verifier}
    token = (await smart.exchange(browser.http, form | {"client_assertion": ES.assertion("sharp", moment=running.server.clock())})).json()
    assert token["id_token"]
    refresh = {"grant_type": "refresh_token", "refresh_token": token["refresh_token"]}
    assert (await smart.exchange(browser.http, refresh)).status_code == 401
    again = await smart.exchange(browser.http, proof | refresh | {"client_assertion": ES.assertion("sharp", moment=running.server.clock())})
    assert again.status_code == 200


async def test_an_unverifiable_token_of_ours_is_no_assertion(running):
    """An id_token signed by the gateway is not a client's assertion."""
    forged = jwt.encode({"alg": "RS384", "kid": "rs", "typ": "JWT"}, {"iss": "lab", "sub": "lab"}, RS.key, algorithms=["RS384"])
    refused(await running.token(forged))
