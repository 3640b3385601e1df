"""The SMART server for tests: register a client, add a person, get a token.

`issue` is the shortest way to a token: rows in the store, no flow. `Browser` walks the pages as a person would, with cookies and forms.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import secrets
from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cache
from html.parser import HTMLParser
from typing import Any
from urllib.parse import parse_qsl, urlencode, urljoin, urlsplit

import httpx
from fastapi import FastAPI
from joserfc import jwk, jwt

from gateway.api import oauth as api_oauth
from gateway.api import registration as api_registration
from gateway.audit import AuditRecord
from gateway.local import Ground
from gateway.portal.faces import Face
from gateway.seal import Sealer
from gateway.smart.server.attempts import Attempts
from gateway.smart.server.clients.jwks import FetchedKeys
from gateway.smart.server.clients.own_registration import Policy
from gateway.smart.server.clients.registration import Rules
from gateway.smart.server.lifetimes import Lifetimes
from gateway.smart.server.people.accounts import Passwords
from gateway.smart.server.people.providers import Provider
from gateway.smart.server.people.verification import Notifier
from gateway.smart_server import Means, Terms, authorization_server
from gateway.store import oauth as rows
from gateway.store import oauth_tables, people_tables, trial_tables
from gateway.store.base import Database, metadata, now
from gateway.store.oauth_rows import AccessToken, Account, Grant, ListedPatient, SigningKey, digest, new_id, new_secret
from gateway.web import apps, authorize, forgotten, security, signin
from gateway.web.doors import Doors
from gateway.web.edge import WebEdge
from gateway.web.pages import Pages
from gateway.web.people import People, exception_handlers

PUBLIC_URL = "https://gateway.test"
EHR = "hapi"
BASE = f"{PUBLIC_URL}/fhir/{EHR}"
APP = "https://app.test/cb"
PASSWORD = "correct horse battery"
TYPES = [
    "AllergyIntolerance",
    "Appointment",
    "Communication",
    "Condition",
    "Encounter",
    "Immunization",
    "MedicationRequest",
    "Observation",
    "Organization",
    "Patient",
    "Practitioner",
]
SEALER = Sealer([b"k" * 32])
PASSWORDS = Passwords(time_cost=1, memory=64)  # real argon2id, as cheap as it gets


@dataclass
class Clock:
    """A moment that tests move."""

    at: datetime = field(default_factory=lambda: datetime.now(UTC).replace(microsecond=0))

    def __call__(self) -> datetime:
        return self.at

    def forward(self, seconds: float) -> None:
        self.at += timedelta(seconds=seconds)


class Keysets:
    """Key sets by URL, and which URLs were asked for."""

    def __init__(self) -> None:
        self.sets: dict[str, Mapping[str, Any]] = {}
        self.asked: list[str] = []

    async def __call__(self, url: str) -> FetchedKeys | None:
        self.asked.append(url)
        found = self.sets.get(url)
        return FetchedKeys(found, 0) if found else None


@dataclass
class Mailbox:
    """What was sent to people: to, subject, text."""

    messages: list[tuple[str, str, str]] = field(default_factory=list)
    kinds: tuple[str, ...] = ("email", "phone")

    async def send(self, to: str, subject: str, text: str) -> None:
        self.messages.append((to, subject, text))

    @property
    def code(self) -> str:
        """The code of the last message."""
        return re.findall(r"\d{8}", self.messages[-1][2])[0]


@dataclass
class Seen:
    """What an EHR says of patients: by id, without an EHR."""

    faces: dict[str, Face] = field(default_factory=dict)
    asked: list[tuple[str, ...]] = field(default_factory=list)

    async def of(self, account: Any, ehr: str, patients: Sequence[str], context: Any) -> Mapping[str, Face]:
        del account, ehr, context
        self.asked.append(tuple(patients))
        return {one: self.faces[one] for one in patients if one in self.faces}


@dataclass
class Smart:
    """The whole authorization server over one database, built as the application builds it, and its HTTP edge."""

    database: Database
    clock: Clock = field(default_factory=Clock)
    keysets: Keysets = field(default_factory=Keysets)
    records: list[AuditRecord] = field(default_factory=list)
    attempts: Attempts = field(default_factory=Attempts)
    public_url: str = PUBLIC_URL
    mailbox: Mailbox = field(default_factory=Mailbox)
    providers: dict[str, Provider] = field(default_factory=dict)
    must_push: bool = False
    policy: Policy = field(default_factory=Policy)
    faces: Seen = field(default_factory=Seen)
    developers: tuple[str, ...] | None = None
    lifetimes: Lifetimes = field(default_factory=Lifetimes)

    def __post_init__(self) -> None:
        ground = Ground(self.database, self._record_in, SEALER, self.public_url, self.lifetimes, attempts=self.attempts, clock=self.clock)
        notifier: Notifier = self.mailbox
        terms = Terms(Rules((EHR, "other")), tuple(TYPES), "Test", self.must_push, self.policy, developers=self.developers)
        made = authorization_server(ground, terms, Means(PASSWORDS, notifier, self.keysets, SEALER))
        self.launches, self.sessions, self.trials, self.keys = made.launches, made.sessions, made.trials, made.keys
        self.tokens, self.inspector, self.authorizations, self.pushed = made.tokens, made.inspector, made.authorizations, made.pushed
        self.accounts, self.factors, self.passkeys, self.verification = made.accounts, made.factors, made.passkeys, made.verification
        self.clients, self.own_registrations, self.authenticator = made.clients, made.own_registrations, made.authenticator
        self.grants, self.endings = made.grants, made.endings
        self.registrar, self.invites = ground.registrar(terms.rules), ground.invites()
        self.people = People(self.sessions, public_url=self.public_url)
        self.pages = Pages(self.public_url)

    async def _record_in(self, connection: Any, record: AuditRecord) -> None:
        del connection
        self.records.append(record)

    def append(self, record: AuditRecord) -> None:
        """What the HTTP edge puts on record by itself."""
        self.records.append(record)

    def app(self) -> FastAPI:
        """The HTTP edge."""
        app = FastAPI(openapi_url=None, exception_handlers=exception_handlers(self.pages, self.append, _address))
        edge = api_oauth.OAuthEdge((EHR, "other"), self.authenticator.allowed_origin, self.append)
        app.include_router(api_oauth.router(self.tokens, self.inspector, self.pushed, self.keys, edge))
        app.include_router(api_registration.router(self.own_registrations, edge))
        web_edge = WebEdge(self.pages, self.people, edge.ehrs, _address)
        doors = Doors(self.accounts, self.sessions, self.factors, self.passkeys, self.verification, self.endings, self.providers)
        app.include_router(signin.router(web_edge, doors, self.authorizations))
        app.include_router(forgotten.router(web_edge, doors))
        app.include_router(security.router(web_edge, doors))
        app.include_router(authorize.router(web_edge, self.authorizations, self.faces, {}, self.lifetimes))
        app.include_router(apps.router(web_edge, self.grants))
        return app

    async def person(self, username: str = "ann", *, fhir_user: str = "Patient/a", patients: Iterable[str] = (), ehr: str = EHR) -> Account:
        """An account with the password PASSWORD."""
        listed = [ListedPatient(one, f"Record of {one}") for one in patients]
        return await self.accounts.add(username, PASSWORD, ehr=ehr, fhir_user=fhir_user, display_name=username.title(), patients=listed)

    async def public_app(self, client_id: str = "app", **more: Any) -> Mapping[str, Any]:
        """A registered app without a secret."""
        return await self.registrar.register(_app(client_id, {"token_endpoint_auth_method": "none"} | more))

    async def secret_app(self, client_id: str = "web", **more: Any) -> Mapping[str, Any]:
        """A registered app with the secret `secret-of-web`."""
        return await self.registrar.register(_app(client_id, {"client_secret": f"secret-of-{client_id}"} | more))

    async def backend(
        self, client_id: str = "lab", scope: str = "system/Observation.cruds", key: BackendKey | None = None, **more: Any
    ) -> BackendKey:
        """A registered backend client, and its key."""
        made = key or BackendKey()
        wanted = {"client_id": client_id, "grant_types": ["client_credentials"], "scope": scope, "jwks": {"keys": [made.public]}}
        await self.registrar.register(wanted | more)
        return made


def _address(request: Any) -> str:
    return request.client.host


@asynccontextmanager
async def smart_server(url: str, **more: Any) -> AsyncGenerator[Smart]:
    """A server over an empty database: its tables, and a signing key, are made here."""
    database = Database(url)
    async with database.engine.begin() as connection:
        tables = [oauth_tables.client.metadata.tables[name] for name in _tables()]
        await connection.run_sync(lambda sync: metadata.create_all(sync, tables=tables))
        await rows.add_signing_key(connection, SigningKey(1, _signing_key(), now()))
    try:
        yield Smart(database, **more)
    finally:
        await database.close()


@cache
def _signing_key() -> bytes:
    """One RSA key for all tests: making one takes as long as ten tests."""
    key = jwk.RSAKey.generate_key(2048, {"kid": "test", "use": "sig", "alg": "RS256"}, private=True)
    return SEALER.seal(json.dumps(key.as_dict(private=True)).encode(), b"signing-key:1")


def _tables() -> list[str]:
    modules = [*vars(oauth_tables).values(), *vars(people_tables).values(), *vars(trial_tables).values()]
    found = [value.name for value in modules if hasattr(value, "primary_key") and hasattr(value, "metadata")]
    return [name for name in metadata.tables if name in found]


def _app(client_id: str, more: Mapping[str, Any]) -> dict[str, Any]:
    return {"client_id": client_id, "client_name": f"{client_id} & Co", "redirect_uris": [APP], "launch_uri": "https://app.test/launch"} | dict(more)


async def issue(
    database: Database,
    *,
    client_id: str,
    scope: str,
    ehr: str = EHR,
    account: Account | None = None,
    patient: str = "",
    encounter: str = "",
    context: str = "picked",
    seconds: int = 3600,
) -> str:
    """An access token, straight into the store. For a person: with `account`, and `patient` when a patient is in context."""
    token, moment = new_secret(), now()
    grant = Grant(
        id=new_id(),
        ehr=ehr,
        client_id=client_id,
        scope=scope,
        created_at=moment,
        account_id=account.id if account else "",
        patient=patient,
        encounter=encounter,
        context=context if patient else "",
        exchanged_at=moment,
    )
    async with database.write() as connection:
        await rows.add_grant(connection, grant)
        await rows.add_access_token(connection, AccessToken(digest(token), grant.id, scope, moment, moment + timedelta(seconds=seconds)))
    return token


@dataclass
class BackendKey:
    """A key pair of a backend client, and the assertions that it signs."""

    algorithm: str = "ES384"
    kid: str = "k1"

    def __post_init__(self) -> None:
        parameters = {"kid": self.kid}
        self.key: Any = (
            jwk.ECKey.generate_key("P-384", parameters) if self.algorithm == "ES384" else jwk.RSAKey.generate_key(2048, parameters, private=True)
        )

    @property
    def public(self) -> dict[str, Any]:
        return dict(self.key.as_dict(private=False))

    def assertion(self, client_id: str, *, moment: datetime, audience: str = f"{PUBLIC_URL}/auth/{EHR}/token", **claims: Any) -> str:
        """A signed client assertion. A claim given as None is left out; `header` replaces members of the header."""
        header = {"alg": self.algorithm, "kid": self.kid, "typ": "JWT"} | claims.pop("header", {})
        seconds = int(moment.timestamp())
        content = {"iss": client_id, "sub": client_id, "aud": audience, "exp": seconds + 300, "jti": secrets.token_hex(32)} | claims
        chosen = {name: value for name, value in content.items() if value is not None}
        return jwt.encode({k: v for k, v in header.items() if v is not None}, chosen, self.key, algorithms=[self.algorithm])


def asserted(assertion: str, **more: str) -> dict[str, str]:
    """The form of a backend client's token request."""
    return {
        "grant_type": "client_credentials",
        "client_assertion_type": "urn:ietf:params:oauth:client-assertion-type:jwt-bearer",
        "client_assertion": assertion,
        "scope": "system/Observation.rs",
    } | more


@dataclass(frozen=True)
class Pkce:
    """A verifier and its S256 challenge."""

    verifier: str = field(default_factory=lambda: secrets.token_urlsafe(48))

    @property
    def challenge(self) -> str:
        return base64.urlsafe_b64encode(hashlib.sha256(self.verifier.encode()).digest()).rstrip(b"=").decode()


def asking(
    client_id: str = "app", scope: str = "launch/patient patient/Observation.rs", pkce: Pkce | None = None, **more: str | None
) -> dict[str, str]:
    """The parameters of an authorization request. One given as None is left out."""
    wanted: dict[str, str | None] = {
        "response_type": "code",
        "client_id": client_id,
        "redirect_uri": APP,
        "scope": scope,
        "state": "st-1",
        "aud": BASE,
        "code_challenge": (pkce or Pkce()).challenge,
        "code_challenge_method": "S256",
    }
    return {name: value for name, value in (wanted | more).items() if value is not None}


class Form(HTMLParser):
    """The forms of a page: action, and fields in order. Boxes count when they are checked; of a list the option that is selected, or the first."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.forms: list[tuple[str, list[tuple[str, str]]]] = []
        self.boxes: list[tuple[str, str]] = []
        self._select = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        if tag == "form":
            self.forms.append((found.get("action") or "", []))
        if tag == "select":
            self._select = found.get("name") or ""
        if tag == "option" and self.forms:
            self._option(found.get("value") or "", selected="selected" in found)
        if tag != "input" or not self.forms or not found.get("name"):
            return
        pair = (found["name"] or "", found.get("value") or "")
        if found.get("type") in ("checkbox", "radio"):
            self.boxes.append(pair)
            if "checked" not in found:
                return
        self.forms[-1][1].append(pair)

    def _option(self, value: str, *, selected: bool) -> None:
        fields, name = self.forms[-1][1], self._select
        if selected or all(other != name for other, _ in fields):
            fields[:] = [pair for pair in fields if pair[0] != name] + [(name, value)]

    def to(self, action: str) -> list[tuple[str, str]]:
        """The fields of the form with this action."""
        return next(fields for where, fields in self.forms if where == action)


class Browser:
    """A browser with cookies at the gateway. It follows redirects within the gateway and stops where one leaves it."""

    def __init__(self, app: Any, *, address: str = "192.0.2.1", public_url: str = PUBLIC_URL) -> None:
        transport = httpx.ASGITransport(app, client=(address, 4711))
        self.public_url = public_url
        self.http = httpx.AsyncClient(transport=transport, base_url=public_url, follow_redirects=False)
        self.left_to = ""
        self.page = httpx.Response(200)

    async def get(self, path: str, **parameters: str) -> httpx.Response:
        return await self._follow(await self.http.get(path + (f"?{urlencode(parameters)}" if parameters else "")))

    async def post(self, path: str, fields: Iterable[tuple[str, str]]) -> httpx.Response:
        body = urlencode(list(fields))
        return await self._follow(await self.http.post(path, content=body, headers={"Content-Type": "application/x-www-form-urlencoded"}))

    async def submit(self, action: str, *, without: Iterable[str] = (), **fields: str | list[str]) -> httpx.Response:
        """Send the page's form, with fields replaced. A list gives a name several values."""
        replaced = [*fields, *without]
        pairs = [pair for pair in Form(self.page.text).to(action) if pair[0] not in replaced]
        for name, value in fields.items():
            pairs += [(name, one) for one in ([value] if isinstance(value, str) else value)]
        return await self.post(action, pairs)

    async def authorize(self, request: Mapping[str, str], *, ehr: str = EHR) -> httpx.Response:
        return await self.get(f"/auth/{ehr}/authorize", **request)

    async def sign_in(self, username: str = "ann", password: str = PASSWORD) -> httpx.Response:
        return await self.submit("/signin", username=username, password=password)

    async def pick(self, patient: str, *, ehr: str = EHR) -> httpx.Response:
        return await self.submit(f"/auth/{ehr}/patient", patient=patient)

    async def allow(self, scopes: list[str] | None = None, *, ehr: str = EHR) -> httpx.Response:
        """Press Allow, with the switches as they are or as given."""
        ticked = {} if scopes is None else {"scope": scopes}
        return await self.submit(f"/auth/{ehr}/consent", decision="allow", **ticked)

    async def deny(self, *, ehr: str = EHR) -> httpx.Response:
        return await self.submit(f"/auth/{ehr}/consent", decision="deny")

    @property
    def answer(self) -> dict[str, str]:
        """The parameters with which the browser went back to the app."""
        return dict(parse_qsl(urlsplit(self.left_to).query, keep_blank_values=True))

    async def _follow(self, response: httpx.Response) -> httpx.Response:
        while response.is_redirect:
            target = urljoin(str(response.request.url), response.headers["location"])
            if not target.startswith(f"{self.public_url}/"):
                self.left_to = target
                break
            response = await self.http.get(target)
        self.page = response
        return response


async def exchange(http: httpx.AsyncClient, form: Mapping[str, str], *, ehr: str = EHR, **more: Any) -> httpx.Response:
    """A POST at the token endpoint."""
    return await http.post(f"/auth/{ehr}/token", data=dict(form), **more)


async def code_for(browser: Browser, request: Mapping[str, str], *, username: str = "ann", scopes: list[str] | None = None) -> str:
    """The code of a person who signs in where she must, and allows."""
    await browser.authorize(request)
    if "/signin" in str(browser.page.request.url):
        await browser.sign_in(username)
    await browser.allow(scopes)
    return browser.answer["code"]


async def launch(browser: Browser, scope: str, *, client_id: str = "app", username: str = "ann", secret: str = "") -> dict[str, Any]:
    """A whole standalone launch: the token response."""
    pkce = Pkce()
    code = await code_for(browser, asking(client_id, scope, pkce), username=username)
    form = {"grant_type": "authorization_code", "code": code, "redirect_uri": APP, "code_verifier": pkce.verifier}
    response = await exchange(browser.http, form | ({} if secret else {"client_id": client_id}), auth=(client_id, secret) if secret else None)
    assert response.status_code == 200, response.text
    return json.loads(response.content)
