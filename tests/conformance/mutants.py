"""Servers that are wrong in one thing each: what stands between the suite and a right one changes a request or an answer.

Each names the checks that must fail. A check that no wrong server fails would prove nothing.
"""

from __future__ import annotations

import base64
import hashlib
import json
import secrets
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import cache
from typing import Any

import httpx
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from tests.conformance.changes import (
    CODE,
    METADATA,
    OPENID,
    REFRESH,
    SMART,
    SYSTEM,
    Answer,
    Fields,
    Mutant,
    answered,
    asks,
    edited,
    fields_of,
    having,
    is_at,
    is_grant,
    redirected,
    replied,
    scope,
    with_fields,
    with_token,
    without,
)
from tests.conformance.config import Config
from tests.conformance.jose import Key, Opened, assertion, encode

# ---- wrong in more than one message ----


class NoPkce:
    """PKCE is for show: the server's own verifier goes instead of the app's."""

    def __init__(self) -> None:
        self.verifier = secrets.token_urlsafe(48)

    def ask(self, request: httpx.Request) -> httpx.Request:
        fields = fields_of(request) if is_at(request, "/authorize", "/token") else {}
        if is_at(request, "/authorize") and "client_id" in fields:
            digest = hashlib.sha256(self.verifier.encode()).digest()
            challenge = base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
            return with_fields(request, fields | {"code_challenge": challenge, "code_challenge_method": "S256"})
        if fields.get("grant_type") == "authorization_code":
            return with_fields(request, fields | {"code_verifier": self.verifier})
        return request


@cache
def forged_key() -> Key:
    """One for all: making one takes as long as a launch."""
    return Key.new("RSA", "forged")


class Forger:
    """id_tokens with other claims or another header, signed by a key that the server publishes as its own."""

    def __init__(self, *, published: bool = True, header: Mapping[str, Any] | None = None, **claims: Any) -> None:
        self.key, self.published, self.header, self.claims = forged_key(), published, dict(header or {}), claims

    def answer(self, request: httpx.Request, response: httpx.Response) -> httpx.Response:
        if is_at(request, "/jwks") and self.published:
            return answered(response, {"keys": [self.key.public, *response.json()["keys"]]})
        if not is_at(request, "/token") or response.status_code != 200 or "id_token" not in response.json():
            return response
        found = response.json()
        opened = Opened.of(found["id_token"])
        return answered(response, found | {"id_token": self.signed({**opened.claims, **self.claims})})

    def signed(self, claims: Mapping[str, Any]) -> str:
        parts = ({"alg": "RS256", "kid": "forged", "typ": "JWT"} | self.header, {name: value for name, value in claims.items() if value is not None})
        content = ".".join(encode(json.dumps(part).encode()) for part in parts)
        assert isinstance(self.key.private, rsa.RSAPrivateKey)
        return f"{content}.{encode(self.key.private.sign(content.encode(), padding.PKCS1v15(), hashes.SHA256()))}"


class Credulous:
    """Whatever a backend service signs, if anything, counts: a good assertion is put in its place."""

    def __init__(self, told: Config) -> None:
        self.app = told.clients["backend"]

    def ask(self, request: httpx.Request) -> httpx.Request:
        fields = fields_of(request) if is_at(request, "/token") else {}
        if fields.get("grant_type") != "client_credentials" or not self.app.key:
            return request
        good = assertion(self.app.key, self.app.id, str(request.url))
        kind = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
        return with_fields(request, fields | {"client_assertion": good, "client_assertion_type": kind, "scope": "system/Patient.rs"})


class Deaf:
    """All that the app asked for is granted, whatever the person says."""

    def __init__(self) -> None:
        self.asked = ""

    def ask(self, request: httpx.Request) -> httpx.Request:
        if is_at(request, "/authorize"):
            self.asked = fields_of(request).get("scope", "")
        return request

    def answer(self, request: httpx.Request, response: httpx.Response) -> httpx.Response:
        return edited("/token", having(scope=self.asked), CODE)(request, response)


class Wide:
    """Granular scopes are printed in the token response and not enforced: FHIR requests go with a wide token."""

    def __init__(self) -> None:
        self.token = ""

    def answer(self, request: httpx.Request, response: httpx.Response) -> httpx.Response:
        if is_at(request, "/token") and response.status_code == 200 and "patient/Observation.rs " in response.json().get("scope", ""):
            self.token = self.token or response.json()["access_token"]
        return response

    def ask(self, request: httpx.Request) -> httpx.Request:
        return with_token(request, self.token) if self.token and "/fhir/" in request.url.path else request


def first_entry_lost(request: httpx.Request, response: httpx.Response) -> httpx.Response:
    """Every search by POST loses a resource."""
    if not is_at(request, "/_search") or response.status_code != 200:
        return response
    found = response.json()
    return answered(response, found | {"entry": found.get("entry", [])[1:]})


def empty_for_denied(request: httpx.Request, response: httpx.Response) -> httpx.Response:
    """What no scope allows is answered with an empty list."""
    if response.status_code != 403:
        return response
    return answered(response, {"resourceType": "Bundle", "type": "searchset", "total": 0}, status=200)


def no_origin(end: str) -> Answer:
    return lambda request, response: answered(response, access_control_allow_origin=None) if is_at(request, end) else response


def html_for_browsers(request: httpx.Request, response: httpx.Response) -> httpx.Response:
    """Who accepts HTML gets a page."""
    page = is_at(request, "smart-configuration") and request.headers.get("accept") == "text/html"
    return answered(response, content_type="text/html") if page else response


def elsewhere(request: httpx.Request, response: httpx.Response) -> httpx.Response:
    """The patient that is read is another one."""
    if "/Patient/" not in request.url.path or response.status_code != 200:
        return response
    return answered(response, response.json() | {"id": "somebody-else"})


def launched_with(told: Config, change: Callable[[dict[str, Any]], dict[str, Any]]) -> Config:
    launch = told.launch
    assert launch
    return replace(told, launch=lambda: change(dict(launch())))


def fhir_status(kind: str, status: int) -> Answer:
    """Another status for one type."""
    refusal = {"resourceType": "OperationOutcome", "issue": []}
    return lambda request, response: answered(response, refusal, status=status) if f"/{kind}" in request.url.path else response


_REFUSED = {"error": "access_denied"}
_ALIVE = {"access_token": "made-up", "token_type": "Bearer", "expires_in": 300, "scope": "system/*.rs"}


def mutants(told: Config) -> Iterator[Mutant]:
    """Made anew for each run: some remember what they saw."""
    yield from _discovery()
    yield from _launches(told)
    yield from _identity()
    yield from _tokens(told)
    yield from _scopes()
    yield from _data()


def _discovery() -> Iterator[Mutant]:
    def lists(**members: Any) -> Answer:
        return edited(SMART, having(**members))

    def lacks(*capabilities: str) -> Answer:
        return edited(SMART, lambda found: found.update(capabilities=[one for one in found["capabilities"] if one not in capabilities]))

    yield Mutant("HTML for browsers", ("A1.1",), answer=html_for_browsers)
    yield Mutant("lists plain", ("A1.2",), answer=lists(code_challenge_methods_supported=["S256", "plain"]))
    yield Mutant("a relative address", ("A1.2",), answer=lists(revocation_endpoint="/revoke"))
    yield Mutant("no CORS at the configuration", ("A1.3",), answer=no_origin(SMART))
    yield Mutant("no CORS at /metadata", ("A1.4",), answer=no_origin(METADATA))
    yield Mutant("no authorize-post", ("A1.5", "A1.6"), answer=lacks("authorize-post"))
    yield Mutant("no scopes in the configuration", ("A1.7", "A1.8"), answer=edited(SMART, without("scopes_supported")))
    yield Mutant("no oauth-uris", ("A1.10",), answer=edited(METADATA, lambda found: found["rest"][0]["security"].pop("extension")))
    yield Mutant("R5", ("A14.81",), answer=edited(METADATA, having(fhirVersion="5.0.0")), says="fhirVersion is 5.0.0")


def _launches(told: Config) -> Iterator[Mutant]:
    pkce = NoPkce()
    yield Mutant("drops state", ("A2.12",), answer=redirected(lambda fields: fields | {"state": "other"}))
    yield Mutant("an error beside the code", ("A2.13",), answer=redirected(lambda fields: fields | {"error": "none"}))
    yield Mutant("any aud", ("A9.49",), ask=asks("/authorize", lambda fields: fields | ({"aud": told.base} if "aud" in fields else {})))
    yield Mutant("accepts plain, no verifier, any verifier", ("A9.51", "A9.52", "A9.53", "A9.54"), ask=pkce.ask)
    yield Mutant("401 for a bad code", ("A9.50",), answer=replied("/token", 401, when=lambda request: fields_of(request).get("code") == "BAD_CODE"))

    def fresh(fields: Fields) -> Fields:
        assert told.launch
        return fields | ({"launch": str(told.launch()["launch"])} if "launch" in fields else {})

    yield Mutant("any launch", ("A9.55",), ask=asks("/authorize", fresh))
    yield Mutant(
        "iss with a slash", ("A5.36",), config=lambda it: launched_with(it, lambda made: made | {"url": made["url"].replace("&", "%2F&", 1)})
    )
    deaf = Deaf()
    yield Mutant("what the person took away is granted", ("A6.43", "A10.60"), ask=deaf.ask, answer=deaf.answer)


def _identity() -> Iterator[Mutant]:
    yield Mutant("an id_token that is none", ("A3.22",), answer=edited("/token", having(id_token="none")))
    yield Mutant("no OpenID configuration", ("A3.23",), answer=replied(OPENID, 404))
    yield Mutant("no RS256", ("A3.24",), answer=edited(OPENID, having(id_token_signing_alg_values_supported=["ES256"])))
    yield Mutant("no RSA keys", ("A3.25",), answer=edited("/jwks", having(keys=[Key.new().public])))
    yield Mutant("another alg", ("A3.26",), answer=Forger(header={"alg": "HS256"}).answer)
    yield Mutant("a key that is not published", ("A3.27",), answer=Forger(published=False).answer)
    yield Mutant("another aud", ("A3.27",), answer=Forger(aud="somebody-else").answer)
    yield Mutant("another iss", ("A3.23",), answer=Forger(iss="https://localhost:1/nowhere").answer)
    yield Mutant("an id_token of yesterday", ("A3.27",), answer=Forger(exp=1).answer)
    yield Mutant("fhirUser is no person", ("A3.28",), answer=Forger(fhirUser="Device/x").answer)
    yield Mutant("fhirUser cannot be read", ("A3.28", "A5.42"), answer=Forger(fhirUser="Practitioner/nobody").answer)
    yield Mutant("no CORS for data", ("A3.29",), answer=no_origin(""))


def _tokens(told: Config) -> Iterator[Mutant]:
    def at_code(edit: Callable[[dict[str, Any]], object]) -> Answer:
        return edited("/token", edit, CODE)

    credulous = Credulous(told)
    yield Mutant("201 for a code", ("A2.14",), answer=replied("/token", 201, when=CODE))
    yield Mutant("another token_type", ("A2.15",), answer=at_code(having(token_type="mac")))
    yield Mutant("expires_in is a text", ("A2.15",), answer=at_code(having(expires_in="3600")))
    yield Mutant("fhirContext of texts", ("A2.15",), answer=at_code(having(fhirContext=["ImagingStudy/1"])))
    yield Mutant("drops no-store", ("A2.16",), answer=replied("/token", 200, when=CODE, cache_control="private"))
    yield Mutant("drops no-cache on refresh", ("A4.33",), answer=replied("/token", 200, when=REFRESH, pragma=None))
    yield Mutant("no CORS at the token endpoint", ("A2.17",), answer=no_origin("/token"))
    yield Mutant("no refresh", ("A4.30", "A4.31", "A4.34", "A7.46"), answer=replied("/token", 401, _REFUSED, REFRESH))
    yield Mutant("any refresh token", ("A4.35",), answer=replied("/token", 200, _ALIVE, REFRESH))
    yield Mutant("a refresh widens", ("A4.32",), answer=edited("/token", scope(lambda found: [*found, "patient/*.cruds"]), REFRESH))
    yield Mutant("no encounter", ("A5.39",), answer=at_code(without("encounter")))
    yield Mutant("no style", ("A5.40",), answer=replied("/smart-style.json", 404))
    yield Mutant("the banner is a text", ("A5.41",), answer=at_code(having(need_patient_banner="true")))
    yield Mutant("no id_token", ("A7.45", "A7.46"), answer=at_code(without("id_token")))
    yield Mutant("no patient", ("A7.47", "A2.20"), answer=at_code(without("patient")))
    yield Mutant("introspection fails", ("A11.62",), answer=replied("/introspect", 500))
    yield Mutant("introspection forgets the patient", ("A11.63",), answer=edited("/introspect", without("patient")))
    yield Mutant("introspection forgets the banner", ("A11.63",), answer=edited("/introspect", without("need_patient_banner")))
    yield Mutant("active: true for garbage", ("A11.64",), answer=edited("/introspect", having(active=True)))
    bearer = replied("/introspect", 401, when=lambda request: request.headers.get("authorization", "Bearer").startswith("Bearer"))
    yield Mutant("no Bearer at introspection", ("A11.65",), answer=bearer)
    yield Mutant("401 for another grant_type", ("A12.66",), answer=replied("/token", 401, when=is_grant("not_a_grant_type")))
    yield Mutant("any assertion", ("A12.67", "A12.68", "A12.71", "A12.73"), ask=credulous.ask)
    yield Mutant("no tokens for systems", ("A12.69", "A12.70"), answer=replied("/token", 403, _REFUSED, SYSTEM))
    yield Mutant("a refresh token for systems", ("A12.70",), answer=edited("/token", having(refresh_token="x"), SYSTEM))
    kept = replied("/token", 200, _ALIVE, SYSTEM)
    yield Mutant("keys are kept for ever", ("A12.72",), answer=kept, config=lambda it: replace(it, served_keys=replace(it.served_keys, life=0)))
    yield Mutant("nothing can be taken back", ("A8.48",), answer=replied("/apps", 200, ""))
    yield Mutant("refreshing goes on after taking back", ("A8.48",), answer=replied("/token", 200, _ALIVE, REFRESH))


def _scopes() -> Iterator[Mutant]:
    def grants(change: Callable[[list[str]], list[str]]) -> Answer:
        return edited("/token", scope(change), CODE)

    yield Mutant("one scope is missing", ("A2.18", "A10.56"), answer=grants(lambda found: [one for one in found if "/Goal." not in one]))
    yield Mutant("user scopes at another level", ("A5.38",), answer=grants(lambda found: [one.replace("user/", "patient/") for one in found]))
    yield Mutant("no tokens at all", ("A5.37",), answer=replied("/token", 400, when=CODE))
    yield Mutant("odd scopes are granted", ("A10.61",), answer=grants(lambda found: [*found, "patient/Observation.dus"]))
    wider = grants(lambda found: [*found, "patient/Observation.rs"])
    yield Mutant("a wide scope beside granular ones", ("A10.57", "A10.60"), answer=wider)


def _data() -> Iterator[Mutant]:
    wide = Wide()
    yield Mutant("403 without a token", ("A2.19",), answer=lambda _request, it: answered(it, status=403) if it.status_code == 401 else it)
    yield Mutant("another patient", ("A2.20", "A4.34"), answer=elsewhere)
    yield Mutant("no goals", ("A2.21",), answer=fhir_status("Goal", 400))
    yield Mutant("an empty list for what was taken away", ("A6.44",), answer=empty_for_denied)
    yield Mutant("granular scopes are not enforced", ("A10.58", "A10.59"), ask=wide.ask, answer=wide.answer)
    yield Mutant("searches by POST lose one", ("A10.58",), answer=first_entry_lost)
