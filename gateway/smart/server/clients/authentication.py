"""How a client proves who it is: at the token endpoint, when it pushes a request, at introspection and revocation, and at its own registration.

One road for all of them: `presented` reads what a request says of its sender, `ClientAuthentication` reads what is known about that client, and
`ClientCore` (Authlib's core, pure) lets it pass by the method that it registered, or not. The client's signature is judged in `assertion`, its keys
come from `jwks`. What a client may do with its own registration it shows by another token (RFC 7592): `bearer` and `manages`.
Whom an access token speaks for is another question, which `token.authenticator` answers.

Overrides: AUTHLIB-E4 (client authentication methods).
"""
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false

from __future__ import annotations

import base64
import binascii
import hmac
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, TypeGuard
from urllib.parse import unquote, unquote_plus

from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.smart.server.answers import refused
from gateway.smart.server.authlib_core import InvalidClientError
from gateway.smart.server.clients.assertion import ALGORITHMS, ClientAssertion, Peeked, peek
from gateway.smart.server.clients.jwks import ClientKeys
from gateway.smart.server.core import Core, OAuthClient, Request
from gateway.smart.server.effects import RememberJti
from gateway.smart.server.endpoints import Endpoints
from gateway.smart.server.requests import Pairs, TokenRequest, given, repeated
from gateway.store import oauth as rows
from gateway.store.base import Clock, Database, now
from gateway.store.oauth_rows import SECRET_METHODS, AuthMethod, Client, digest

AUTH_METHODS = (AuthMethod.KEY, *SECRET_METHODS, AuthMethod.NONE)
"""In the order in which they are tried; a request that brings more than one is refused before."""
CLIENT_REFUSED = refused("invalid_client", "Client authentication failed.", status=401)
"""The one answer to whoever did not prove who it is, for whatever reason."""


# What a request says ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Basic:
    """HTTP Basic credentials. RFC 6749 section 2.3.1 has them form-encoded, and many clients send them as they are: both count."""

    client_id: str
    raw_secret: str = field(repr=False)

    @property
    def secrets(self) -> tuple[str, str]:
        """The two readings of the secret."""
        return self.raw_secret, unquote_plus(self.raw_secret, errors="replace")


def basic(authorization: str) -> Basic | None:
    """The credentials of a Basic header, or None when it is not one."""
    scheme, _, rest = authorization.partition(" ")
    if scheme.lower() != "basic":
        return None
    try:
        text = base64.b64decode(rest.strip(), validate=True).decode()
    except (ValueError, binascii.Error):
        return None
    client_id, colon, secret = text.partition(":")
    if not colon or not client_id:
        return None
    return Basic(unquote(client_id, errors="replace"), secret)


@dataclass(frozen=True, slots=True)
class Presented:
    """What a request names: the keys of what is read about it. `problem` is an OAuth error when it contradicts itself."""

    form: Mapping[str, str]
    client_id: str = ""
    basic: Basic | None = None
    assertion: Peeked | None = None
    problem: str = ""

    @property
    def method(self) -> AuthMethod:
        """The way in which the client says who it is, whether that holds or not."""
        if self.basic:
            return AuthMethod.BASIC
        if "client_assertion" in self.form:
            return AuthMethod.KEY
        return AuthMethod.POST if "client_secret" in self.form else AuthMethod.NONE


def presented(request: TokenRequest) -> Presented:
    """Read the request. At most one way to authenticate, and one client named by all that names one (AUTHLIB-E3)."""
    form = given(request.pairs)
    if repeated(request.pairs) or len(request.authorization) > 1:
        return Presented(form, problem="invalid_request")
    header = request.authorization[0] if request.authorization else ""
    credentials = basic(header)
    assertion = peek(form["client_assertion"]) if "client_assertion" in form else None
    ways = (bool(credentials), "client_secret" in form, "client_assertion" in form)
    if sum(ways) > 1:
        return Presented(form, problem="invalid_request")
    if (header and credentials is None) or ("client_assertion" in form and assertion is None):
        return Presented(form, problem="invalid_client")
    names = {name for name in (credentials and credentials.client_id, assertion and assertion.subject, form.get("client_id")) if name}
    if len(names) > 1:
        return Presented(form, problem="invalid_client")
    return Presented(form, next(iter(names), ""), credentials, assertion)


# Whether it holds: pure ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Evidence:
    """What is known about the client that a request names, read before it is judged."""

    now: datetime
    endpoints: Endpoints
    client: Client | None = None
    keys: Mapping[str, Any] | None = None  # its JWK Set, by value or fetched
    jti_seen: bool = False


@dataclass(frozen=True, slots=True)
class Proven:
    """`client`: who it is, None when it did not prove that. `used`: its assertion, which is used up whatever becomes of the request."""

    client: Client | None
    used: tuple[RememberJti, ...] = ()


class ProvingClient(OAuthClient):
    """A client at the moment `at`, as the core asks about what it proves itself by."""

    def __init__(self, row: Client, at: datetime) -> None:
        super().__init__(row)
        self._at = at

    def check_client_secret(self, client_secret: str) -> bool:
        """In constant time, and against a secret that was given at all."""
        sent = digest(client_secret)
        return any(hmac.compare_digest(one, sent) for one in self.row.secret_hashes(self._at) if one)

    def check_endpoint_auth_method(self, method: str, endpoint: str) -> bool:
        """One registered method, where the two that send a secret count as one."""
        del endpoint
        registered = self.row.auth_method
        return method == registered or (method in SECRET_METHODS and registered in SECRET_METHODS)


class ClientCore(Core):
    """Authlib's core over what a request presents and what is known about its client."""

    def __init__(self, evidence: Evidence, asked: Presented) -> None:
        super().__init__(evidence.client, evidence.endpoints.ehr)
        self._at, self._asked = evidence.now, asked
        self.assertion = ClientAssertion(
            now=evidence.now,
            # RFC 7523: the endpoint, or the issuer; RFC 9126 section 2: the other endpoint too.
            audiences=(evidence.endpoints.token, evidence.endpoints.base, evidence.endpoints.par),
            keys=evidence.keys,
            jwks_uri=evidence.client.jwks_uri if evidence.client else "",
            jti_seen=evidence.jti_seen,
        )
        # AuthMethod.POST is as Authlib has it.
        self.register_client_auth_method(AuthMethod.KEY, self.assertion)
        self.register_client_auth_method(AuthMethod.BASIC, self._by_basic)
        self.register_client_auth_method(AuthMethod.NONE, self._by_name)

    def query_client(self, client_id: str) -> OAuthClient | None:
        """The client that is known, if that is the one asked for, able to prove itself."""
        found = super().query_client(client_id)
        return ProvingClient(found.row, self._at) if found else None

    def _by_basic(self, query_client: Any, request: Request) -> OAuthClient | None:
        del request
        found, sent = query_client(self._asked.client_id), self._asked.basic
        return found if found and sent and any(found.check_client_secret(secret) for secret in sent.secrets) else None

    def _by_name(self, query_client: Any, request: Request) -> OAuthClient | None:
        """A public client."""
        form = request.form
        if "client_secret" in form or "client_assertion" in form or self._asked.basic:
            return None
        return query_client(self._asked.client_id)


def authenticate(asked: Presented, pairs: Pairs, evidence: Evidence, *, public: bool) -> Proven:
    """Who sent a request that is not for tokens. `public`: whether a client without a secret or key may send it too."""
    if asked.problem:
        return Proven(None)
    core = ClientCore(evidence, asked)
    methods = [method for method in AUTH_METHODS if public or method != AuthMethod.NONE]
    try:
        found = core.authenticate_client(Request("POST", pairs), methods)
    except (InvalidClientError, ValueError):
        return Proven(None, tuple(core.assertion.remembered))
    return Proven(found.row, tuple(core.assertion.remembered))


# With the store -----------------------------------------------------------------------------------------------------------


class ClientAuthentication:
    """Reads what is known about the client of a request, and says who it is. For every EHR."""

    def __init__(self, database: Database, client_keys: ClientKeys, *, public_url: str, clock: Clock = now) -> None:
        self._database, self._client_keys, self._public_url, self._clock = database, client_keys, public_url, clock

    async def client(self, ehr: str, request: TokenRequest, *, public: bool) -> Client | None:
        """Who sent this; None when it did not prove that, or its assertion was used before. Its assertion is used up here."""
        proven = await self.proven(ehr, request, public=public)
        if not proven.used:
            return proven.client
        async with self._database.write() as connection:
            return proven.client if await use_up(connection, proven.used) else None

    async def proven(self, ehr: str, request: TokenRequest, *, public: bool) -> Proven:
        """The same for a caller who uses the assertion up in its own transaction (`use_up`), and else answers CLIENT_REFUSED."""
        asked = presented(request)
        async with self._database.read() as connection:
            client = await rows.client(connection, asked.client_id) if asked.client_id else None
            seen = await was_used(connection, asked)
        evidence = Evidence(self._clock(), Endpoints(self._public_url, ehr), client, await self.keys(client, asked), seen)
        return authenticate(asked, request.pairs, evidence, public=public)

    async def keys(self, client: Client | None, asked: Presented) -> Mapping[str, Any] | None:
        """The keys by which the assertion of a request is judged; None where there is none that could hold. Fetched outside of any transaction."""
        if client is None or asked.problem or asked.assertion is None or asked.assertion.header.get("alg") not in ALGORITHMS:
            return None
        return await self._client_keys.of(client, asked.assertion.key_id)


async def was_used(connection: AsyncConnection, asked: Presented) -> bool:
    """Whether the assertion of a request was used before."""
    return asked.assertion is not None and await rows.jti_seen(connection, asked.assertion.jti_hash)


async def use_up(connection: AsyncConnection, used: Sequence[RememberJti]) -> bool:
    """Use an assertion, in the caller's transaction. False: somebody else was first."""
    return all([await rows.remember_jti(connection, one.hash, one.expires_at) for one in used])


# Its own registration -----------------------------------------------------------------------------------------------------


def bearer(authorization: Sequence[str]) -> str | None:
    """The token of the one Authorization header, None where there is no such header, or it is of another kind."""
    scheme, _, token = (authorization[0] if len(authorization) == 1 else "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else None


def manages(client: Client | None, ehr: str, token: str) -> TypeGuard[Client]:
    """Whether this is the token of a client that registered itself at this EHR. An unknown client and a wrong token are one answer."""
    if client is None or client.registration_hash == "" or not client.is_of(ehr):
        return False
    return hmac.compare_digest(client.registration_hash, digest(token))
