"""What checks are given: the server's address, a way to ask it, the clients, the person, and what earlier steps obtained.

Everything is obtained when the first check needs it and kept from then on, so that any group can be run by itself.
"""

from __future__ import annotations

import base64
import hashlib
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar
from urllib.parse import parse_qsl, quote, urlencode, urljoin, urlsplit

import httpx

from tests.conformance.check import Missing, Skipped
from tests.conformance.config import App, Config
from tests.conformance.jose import Opened, assertion
from tests.conformance.launches import LAUNCHES, Wish
from tests.conformance.person import Arrived, Asked, Person

T = TypeVar("T")
Json = Mapping[str, Any]

ASSERTION_TYPE = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
_NOTHING: Mapping[str, str] = {}


@dataclass
class Launched:
    """A launch as far as it came. `exchanged` is the token endpoint's answer; `access` and `refresh` the newest tokens."""

    app: App
    wish: Wish
    asked: Mapping[str, str]
    verifier: str
    arrived: Arrived
    started: Mapping[str, str] = field(default_factory=dict)
    exchanged: httpx.Response | None = None
    renewed: list[httpx.Response] = field(default_factory=list)

    @property
    def code(self) -> str:
        """Raises Missing."""
        if "code" not in self.arrived.answer:
            raise Missing(f"no code came back: {self.arrived.page or dict(self.arrived.answer)}")
        return self.arrived.answer["code"]

    @property
    def tokens(self) -> Json:
        """The first token response. Raises Missing."""
        return _tokens(self.exchanged)

    @property
    def access(self) -> str:
        return self._newest("access_token")

    @property
    def refresh(self) -> str:
        return self._newest("refresh_token")

    @property
    def patient(self) -> str:
        """The patient in context. Raises Missing."""
        if not isinstance(found := self.tokens.get("patient"), str) or not found:
            raise Missing("no patient in context came with the token")
        return found

    def _newest(self, name: str) -> str:
        answers = [_tokens(one) for one in (*self.renewed, self.exchanged) if one is not None and one.status_code == 200]
        found = next((one[name] for one in answers if isinstance(one.get(name), str)), "")
        if not found:
            raise Missing(f"the token response has no {name}")
        return found


def _tokens(answer: httpx.Response | None) -> Json:
    if answer is None or answer.status_code != 200:
        raise Missing("the code was not exchanged" if answer is None else f"the token endpoint answered {answer.status_code}: {brief(answer)}")
    return json_of(answer)


def json_of(answer: httpx.Response) -> Json:
    """The JSON object of an answer. Raises Missing."""
    try:
        found = answer.json()
    except ValueError as error:
        raise Missing(f"{answer.request.url.path} did not answer with JSON") from error
    if not isinstance(found, dict):
        raise Missing(f"{answer.request.url.path} answered with JSON that is no object")
    return found


def brief(answer: httpx.Response) -> str:
    """What an error says of itself. Only of errors: other answers hold tokens or data."""
    try:
        found = answer.json()
        return str(found.get("error_description") or found.get("error") or found.get("resourceType"))[:120]
    except (ValueError, AttributeError):
        return answer.headers.get("content-type", "no body")


class Context:
    """One run against one server."""

    def __init__(self, config: Config, person: Person, http_: httpx.Client) -> None:
        self.config, self.person, self.http = config, person, http_
        self._memory: dict[str, Any] = {}

    # -- memory

    def once(self, name: str, make: Callable[[], T]) -> T:
        """What `make` gives, or raises, the first time."""
        if name not in self._memory:
            try:
                self._memory[name] = make()
            except (Missing, Skipped, httpx.HTTPError) as error:
                self._memory[name] = error
        if isinstance(found := self._memory[name], Exception):
            raise found
        return found

    def forget_launches(self) -> None:
        """After the person took everything back: later checks launch anew."""
        self._memory = {name: value for name, value in self._memory.items() if not name.startswith("launch:")}

    # -- documents

    @property
    def smart(self) -> Json:
        """.well-known/smart-configuration."""
        return self.once("smart", lambda: json_of(self.get(f"{self.config.root}/.well-known/smart-configuration", Accept="application/json")))

    @property
    def metadata(self) -> Json:
        """The CapabilityStatement."""
        return self.once("metadata", lambda: json_of(self.get(f"{self.config.root}/metadata", Accept="application/fhir+json")))

    @property
    def openid(self) -> Json:
        """The configuration of the issuer that the id_token names."""
        return self.once("openid", lambda: json_of(self.get(f"{self.issuer.rstrip('/')}/.well-known/openid-configuration")))

    @property
    def issuer(self) -> str:
        issuer = self.identity(self.launch("standalone")).claims.get("iss")
        if not isinstance(issuer, str):
            raise Missing("the id_token names no issuer")
        return issuer

    @property
    def jwks(self) -> Json:
        return self.once("jwks", lambda: json_of(self.get(text(self.openid, "jwks_uri"))))

    def identity(self, launched: Launched) -> Opened:
        """The id_token taken apart. Raises Missing."""
        try:
            return Opened.of(text(launched.tokens, "id_token"))
        except ValueError as error:
            raise Missing("the id_token is no JWT") from error

    def endpoint(self, name: str) -> str:
        """An address of the discovery document. Raises Missing."""
        return text(self.smart, name)

    def offered(self, capability: str) -> None:
        """Raises Skipped unless the server says that it does this."""
        if capability not in (self.smart.get("capabilities") or ()):
            raise Skipped(f"the server does not list {capability}")

    # -- requests

    def get(self, url: str, **headers: str) -> httpx.Response:
        return self.http.get(url, headers={name.replace("_", "-"): value for name, value in headers.items()})

    def fhir(self, path: str, token: str = "", **headers: str) -> httpx.Response:
        """GET below the base."""
        sent = {"Accept": "application/fhir+json"} | headers | ({"Authorization": f"Bearer {token}"} if token else {})
        return self.get(path if path.startswith("http") else f"{self.config.root}/{path}", **sent)

    def search(self, kind: str, params: Mapping[str, str], token: str, *, post: bool = False) -> httpx.Response:
        """One page of a search by GET or POST."""
        if not post:
            return self.fhir(f"{kind}?{urlencode(params, quote_via=quote)}", token)
        headers = {"Accept": "application/fhir+json", "Authorization": f"Bearer {token}"}
        return self.http.post(f"{self.config.root}/{kind}/_search", data=dict(params), headers=headers)

    def found(self, kind: str, params: Mapping[str, str], token: str, *, post: bool = False) -> list[Json]:
        """All resources of this type that a search gives, all pages. Raises Missing when a page is not 200."""
        answer, all_of_them = self.search(kind, params, token, post=post), []
        for _ in range(100):
            if answer.status_code != 200:
                raise Missing(f"{kind} by {', '.join(params)}: {answer.status_code} {brief(answer)}")
            bundle = json_of(answer)
            entries = [one.get("resource") or {} for one in bundle.get("entry") or ()]
            all_of_them += [one for one in entries if one.get("resourceType") == kind]
            following = next((one.get("url") for one in bundle.get("link") or () if one.get("relation") == "next"), None)
            if not following:
                return all_of_them
            answer = self.fhir(urljoin(f"{self.config.root}/", following), token)
        raise Missing(f"{kind}: the search has no last page")

    # -- clients

    def client(self, name: str) -> App:
        """Raises Skipped unless it is in the configuration."""
        if name not in self.config.clients:
            raise Skipped(f"no {name} client in the configuration")
        return self.config.clients[name]

    def authentication(self, app: App) -> tuple[dict[str, str], tuple[str, str] | None]:
        """How a client says who it is: fields of the form, and HTTP Basic (RFC 6749 section 2.3.1; RFC 7523 section 2.2)."""
        if app.key:
            signed = assertion(app.key, app.id, self.endpoint("token_endpoint"))
            return {"client_assertion_type": ASSERTION_TYPE, "client_assertion": signed}, None
        if app.secret:
            return {}, (quote(app.id, safe=""), quote(app.secret, safe=""))
        return {"client_id": app.id}, None

    def ask_token(self, app: App | None, form: Mapping[str, str], **more: Any) -> httpx.Response:
        """POST at the token endpoint, as this client."""
        fields, basic = self.authentication(app) if app else ({}, None)
        headers = {"Accept": "application/json"} | ({"Origin": self.config.origin} if app and not app.secret and not app.key else {})
        return self.http.post(self.endpoint("token_endpoint"), data={**form, **fields}, auth=more.pop("auth", basic), headers=headers)

    # -- launches

    def launch(self, name: str) -> Launched:
        """One of LAUNCHES, made once, its code exchanged. Raises Skipped or Missing."""
        return self.once(f"launch:{name}", lambda: self.exchange(self.begin(LAUNCHES[name])))

    def begin(self, wish: Wish) -> Launched:
        """Send a browser through an authorization."""
        self.offered("launch-ehr" if wish.ehr else "launch-standalone")
        app, verifier = self.client(wish.client), secrets.token_urlsafe(48)
        started = self.start() if wish.ehr else _NOTHING
        challenge = base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).rstrip(b"=").decode()
        asked: dict[str, str | None] = {
            "response_type": "code",
            "client_id": app.id,
            "redirect_uri": self.config.redirect_uri,
            "scope": wish.scope,
            "state": secrets.token_hex(16),
            "aud": self.config.base,
            "code_challenge": challenge,
            "code_challenge_method": "S256",
            "launch": started.get("launch"),
        } | dict(wish.more)
        fields = {name: value for name, value in asked.items() if value is not None}
        arrived = self.person.authorize(Asked(self.endpoint("authorization_endpoint"), fields, wish.method, wish.who, wish.choice))
        return Launched(app, wish, fields, verifier, arrived, started)

    def start(self) -> Mapping[str, str]:
        """An EHR launch, by the command or by the person: iss, launch, and the URL that the browser was sent to."""
        if self.config.launch is None:
            return self.person.started()
        return {name: str(value) for name, value in self.config.launch().items()}

    def exchange(self, launched: Launched) -> Launched:
        """Give the code for tokens, when there is one."""
        if "code" in launched.arrived.answer:
            launched.exchanged = self.ask_token(launched.app, self.code_form(launched))
        return launched

    def code_form(self, launched: Launched, **more: str | None) -> dict[str, str]:
        """What exchanges the code. A field given as None is left out."""
        form: dict[str, str | None] = {
            "grant_type": "authorization_code",
            "code": launched.code,
            "redirect_uri": launched.asked["redirect_uri"],
            "code_verifier": launched.verifier,
        } | more
        return {name: value for name, value in form.items() if value is not None}

    def renewed(self, name: str, *, with_scope: bool = False) -> httpx.Response:
        """A refresh, made once with and once without `scope`. Raises Skipped, or Missing when there is no refresh token."""
        self.offered("permission-offline")
        return self.once(f"launch:{name}:refresh:{with_scope}", lambda: self._renew(self.launch(name), with_scope=with_scope))

    def _renew(self, launched: Launched, *, with_scope: bool) -> httpx.Response:
        form = {"grant_type": "refresh_token", "refresh_token": launched.refresh}
        answer = self.ask_token(launched.app, form | ({"scope": launched.tokens["scope"]} if with_scope else {}))
        launched.renewed.insert(0, answer)
        return answer

    # -- backend services

    def backend_form(self, app: App, signed: str, **more: str) -> dict[str, str]:
        """What asks for a system's token."""
        scope = app.scope or "system/*.rs"
        return {"grant_type": "client_credentials", "scope": scope, "client_assertion_type": ASSERTION_TYPE, "client_assertion": signed} | more

    def backend(self) -> httpx.Response:
        """A good request of the backend client, made once. Raises Skipped."""
        app = self.keyed("backend")
        return self.once("backend", lambda: self.ask_token(None, self.backend_form(app, self.signed(app))))

    def keyed(self, name: str) -> App:
        """A client with a key. Raises Skipped."""
        self.offered("client-confidential-asymmetric")
        if (found := self.client(name)).key is None:
            raise Skipped(f"the {name} client has no key")
        return found

    def signed(self, app: App, **more: Any) -> str:
        """An assertion of this client at the token endpoint, good unless told otherwise."""
        if app.key is None:
            raise Skipped(f"{app.id} has no key")
        return assertion(more.pop("key", app.key), app.id, self.endpoint("token_endpoint"), **more)


def text(document: Json, name: str) -> str:
    """A member that is a text. Raises Missing."""
    if not isinstance(found := document.get(name), str) or not found:
        raise Missing(f"{name} is missing")
    return found


def parameters(url: str) -> dict[str, str]:
    """The query of an address."""
    return dict(parse_qsl(urlsplit(url).query, keep_blank_values=True))
