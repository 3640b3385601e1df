"""Servers that are wrong in one thing each: what stands between the suite and a right one changes a request or an answer.

Each names the checks that must fail. A check that no wrong server fails would prove nothing.
"""

from __future__ import annotations

import base64
import hashlib
import json
import secrets
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

import httpx
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from tests.conformance.config import Config
from tests.conformance.jose import Key, Opened, assertion, encode

Fields = dict[str, str]
Ask = Callable[[httpx.Request], httpx.Request]
Answer = Callable[[httpx.Request, httpx.Response], httpx.Response]


class Between(httpx.BaseTransport):
    """The network, with one thing changed on the way."""

    def __init__(self, network: httpx.BaseTransport, ask: Ask, answer: Answer) -> None:
        self._network, self._ask, self._answer = network, ask, answer

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        asked = self._ask(request)
        response = self._network.handle_request(asked)
        response.read()
        response.request = asked
        return self._answer(request, response)

    def close(self) -> None:
        """The network is others' too."""


@dataclass(frozen=True)
class Mutant:
    """`kills`: the checks that fail. What is not given is left as it is."""

    name: str
    kills: tuple[str, ...]
    ask: Ask = lambda request: request
    answer: Answer = lambda _request, response: response
    config: Callable[[Config], Config] = lambda told: told
    says: str = ""  # a part of the reason, where the check fails anyway


# ---- changes of requests and answers ----


def is_at(request: httpx.Request, *ends: str) -> bool:
    return request.url.path.endswith(ends)


def fields_of(request: httpx.Request) -> Fields:
    """The form that was posted, or the query."""
    text = request.content.decode() if request.method == "POST" else request.url.query.decode()
    return dict(parse_qsl(text, keep_blank_values=True))


def with_fields(request: httpx.Request, fields: Mapping[str, str]) -> httpx.Request:
    """The same request with other fields."""
    headers = {name: value for name, value in request.headers.items() if name.lower() != "content-length"}
    if request.method == "POST":
        return httpx.Request("POST", request.url, headers=headers, content=urlencode(fields), extensions=request.extensions)
    return httpx.Request("GET", request.url.copy_with(query=urlencode(fields).encode()), headers=headers, extensions=request.extensions)


def with_token(request: httpx.Request, token: str) -> httpx.Request:
    """The same request of somebody else."""
    headers = {**request.headers, "authorization": f"Bearer {token}"}
    return httpx.Request(request.method, request.url, headers=headers, content=request.content, extensions=request.extensions)


def answered(response: httpx.Response, content: Any = ..., *, status: int = 0, **headers: str | None) -> httpx.Response:
    """The same answer with other content (JSON values), status or headers. A header given as None is left out."""
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    gone = {"content-length", "content-encoding", "transfer-encoding", *given}
    kept = [(name, value) for name, value in response.headers.multi_items() if name.lower() not in gone]
    kept += [(name, value) for name, value in given.items() if value is not None]
    body = response.content if content is ... else json.dumps(content).encode()
    return httpx.Response(status or response.status_code, headers=kept, content=body, request=response.request)


def edited(end: str, edit: Callable[[dict[str, Any]], object], when: Callable[[httpx.Request], bool] = lambda _request: True) -> Answer:
    """JSON of 200 at paths with this end, changed in place."""

    def answer(request: httpx.Request, response: httpx.Response) -> httpx.Response:
        if not is_at(request, end) or response.status_code != 200 or not when(request):
            return response
        found = response.json()
        edit(found)
        return answered(response, found)

    return answer


def replied(
    end: str, status: int, content: Any = ..., when: Callable[[httpx.Request], bool] = lambda _request: True, **headers: str | None
) -> Answer:
    """Another status, content or header at paths with this end."""

    def answer(request: httpx.Request, response: httpx.Response) -> httpx.Response:
        return answered(response, content, status=status, **headers) if is_at(request, end) and when(request) else response

    return answer


def is_grant(kind: str) -> Callable[[httpx.Request], bool]:
    return lambda request: fields_of(request).get("grant_type") == kind


CODE, REFRESH, SYSTEM = (is_grant(kind) for kind in ("authorization_code", "refresh_token", "client_credentials"))


def without(*names: str) -> Callable[[dict[str, Any]], object]:
    return lambda found: [found.pop(name, None) for name in names]


def having(**members: Any) -> Callable[[dict[str, Any]], object]:
    return lambda found: found.update(members)


def scope(change: Callable[[list[str]], list[str]]) -> Callable[[dict[str, Any]], object]:
    return lambda found: found.update(scope=" ".join(change(found["scope"].split())))


def redirected(change: Callable[[Fields], Fields]) -> Answer:
    """The address with which the browser goes back to the app."""

    def answer(_request: httpx.Request, response: httpx.Response) -> httpx.Response:
        where = urlsplit(response.headers.get("location", ""))
        if where.port != 8765:
            return response
        query = urlencode(change(dict(parse_qsl(where.query))))
        return answered(response, location=urlunsplit(where._replace(query=query)))

    return answer


def asks(end: str, change: Callable[[Fields], Fields]) -> Ask:
    """Other fields at paths with this end."""
    return lambda request: with_fields(request, change(fields_of(request))) if is_at(request, end) else request


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


SMART, METADATA, OPENID = "/.well-known/smart-configuration", "/metadata", "/.well-known/openid-configuration"
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


# ---- what our gateway does not have: servers that have it, right and wrong ----

_EXTENSION = "http://hl7.org/fhir/uv/smart-app-launch/StructureDefinition/organization-portal"
_NONE = {"coding": [{"system": "http://terminology.hl7.org/CodeSystem/endpoint-payload-type", "code": "none"}]}


def brand_bundle(base: str) -> dict[str, Any]:
    """A user-access brands bundle as it should be."""
    endpoint = {
        "resourceType": "Endpoint",
        "id": "r4",
        "extension": [{"url": "http://hl7.org/fhir/StructureDefinition/endpoint-fhir-version", "valueCode": "4.0.1"}],
        "status": "active",
        "connectionType": {"system": "http://terminology.hl7.org/CodeSystem/endpoint-connection-type", "code": "hl7-fhir-rest"},
        "contact": [{"system": "url", "value": "https://clinic.example/developers"}],
        "payloadType": [_NONE],
        "address": base,
    }
    portal = [{"url": "portalName", "valueString": "Portal"}, {"url": "portalEndpoint", "valueReference": {"reference": "Endpoint/r4"}}]
    brand = {
        "resourceType": "Organization",
        "id": "clinic",
        "extension": [{"url": _EXTENSION, "extension": portal}],
        "identifier": [{"system": "urn:ietf:rfc:3986", "value": "https://clinic.example"}],
        "name": "Clinic",
        "telecom": [{"system": "url", "value": "https://clinic.example"}],
        "endpoint": [{"reference": "Endpoint/r4"}],
    }
    entries = [{"fullUrl": f"https://clinic.example/{one['resourceType']}/{one['id']}", "resource": one} for one in (brand, endpoint)]
    meta = {"lastUpdated": "2026-01-01T00:00:00Z"}
    return {"resourceType": "Bundle", "type": "collection", "meta": meta, "timestamp": "2026-01-01T00:00:00Z", "entry": entries}


def branded(told: Config, edit: Callable[[dict[str, Any]], object] = lambda _bundle: None, **headers: str | None) -> Answer:
    """A server with a brands bundle, changed by `edit`."""
    url = f"{told.base}/brands.json"
    names = having(user_access_brand_bundle=url, user_access_brand_identifier={"value": "https://clinic.example"})

    def answer(request: httpx.Request, response: httpx.Response) -> httpx.Response:
        if not is_at(request, "/brands.json"):
            return edited(SMART, names)(request, response)
        bundle = brand_bundle(told.base)
        edit(bundle)
        given = {"content_type": "application/fhir+json", "access_control_allow_origin": "*", "etag": 'W/"1"'} | headers
        return answered(response, bundle, status=200, **given)

    return answer


def wrong_brands(told: Config) -> Iterator[Mutant]:
    """Each breaks one check of A13."""
    brand, endpoint = (lambda bundle: bundle["entry"][0]["resource"]), (lambda bundle: bundle["entry"][1]["resource"])
    yield Mutant("no CORS for brands", ("A13.75",), answer=branded(told, access_control_allow_origin=None))
    yield Mutant("a searchset of brands", ("A13.76",), answer=branded(told, having(type="searchset")))
    yield Mutant("an endpoint without contact", ("A13.77",), answer=branded(told, lambda bundle: endpoint(bundle).pop("contact")))
    yield Mutant("an endpoint of nobody", ("A13.77", "A13.79"), answer=branded(told, lambda bundle: endpoint(bundle).update(id="other")))
    nowhere = f"{told.base}/nowhere"
    yield Mutant("an address of nothing", ("A13.78",), answer=branded(told, lambda bundle: endpoint(bundle).update(address=nowhere)))
    yield Mutant("two ways to call", ("A13.79",), answer=branded(told, lambda bundle: brand(bundle)["telecom"].append({"value": "x"})))
    yield Mutant("an identifier of nobody", ("A13.80",), answer=branded(told, lambda bundle: brand(bundle).pop("identifier")))


class Exports:
    """A server with a bulk export, as it should be or wrong in `wrong`: a status, or "patients"."""

    def __init__(self, told: Config, wrong: str = "") -> None:
        self.base, self.wrong, self.jobs, self.polls = told.base, wrong, set[str](), 0

    def answer(self, request: httpx.Request, response: httpx.Response) -> httpx.Response:
        path = request.url.path
        if is_at(request, METADATA):
            return edited(METADATA, self._listed)(request, response)
        if "authorization" not in request.headers and ("/$export" in path or "/bulk/" in path):
            return answered(response, {}, status=401)
        if path.endswith("/$export"):
            self.jobs.add(job := f"{self.base}/bulk/{len(self.jobs)}")
            return answered(response, {}, status=200 if self.wrong == "kick-off" else 202, content_location=job)
        if path.endswith(".ndjson"):
            lines = ['{"resourceType":"Patient"}'] * (1 if self.wrong == "patients" else 2)
            return httpx.Response(200, content="\n".join(lines), request=request)
        return self._status(request, response) if "/bulk/" in path else response

    def _listed(self, found: dict[str, Any]) -> None:
        patient = next(one for one in found["rest"][0]["resource"] if one["type"] == "Patient")
        patient["operation"] = [{"name": "export", "definition": "http://hl7.org/fhir/uv/bulkdata/OperationDefinition/patient-export"}]

    def _status(self, request: httpx.Request, response: httpx.Response) -> httpx.Response:
        job = str(request.url)
        if request.method == "DELETE":
            if self.wrong != "delete":
                self.jobs.discard(job)
            return answered(response, {}, status=202)
        if job not in self.jobs:
            return answered(response, {"resourceType": "OperationOutcome"}, status=404)
        self.polls += 1
        if self.polls == 1:
            return answered(response, {}, status=202, retry_after="0")
        files = [{"type": "Patient", "url": f"{job}/1.ndjson"}]
        status = {"transactionTime": "2026-01-01T00:00:00Z", "request": job, "requiresAccessToken": True, "output": files, "error": []}
        return answered(response, status, status=200)
