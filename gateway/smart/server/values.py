"""Values that the parts of the authorization server hand to each other."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol

from joserfc.jwk import RSAKey
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.audit import AuditRecord
from gateway.errors import FhirError
from gateway.store.oauth_rows import AccessToken, Account, Client, Code, Grant, ListedPatient, RefreshToken, new_id

Pairs = tuple[tuple[str, str], ...]

RecordIn = Callable[[AsyncConnection, AuditRecord], Awaitable[None]]
"""Writes an audit record in the caller's transaction."""

Clock = Callable[[], datetime]


class KeySource(Protocol):
    """Where the keys that sign id_tokens come from. RSA, RS256, each with a `kid` (OpenID Connect Core 10.1)."""

    async def signing(self) -> RSAKey:
        """The private key to sign with now."""
        ...

    async def public(self) -> Mapping[str, Any]:
        """The JWK Set of public keys: those in use and those that signed id_tokens still alive."""
        ...


@dataclass(frozen=True, slots=True)
class Lifetimes:
    """In seconds. A refresh token's life begins anew at each rotation."""

    code: int = 60
    access: int = 3600
    backend: int = 300  # SMART Backend Services: at most five minutes
    refresh: int = 100 * 86400  # (g)(10): at least three months, and as long again at each renewal
    online: int = 12 * 3600  # the longest that a person stays signed in
    launch: int = 300
    transaction: int = 600
    pushed: int = 90  # a pushed authorization request waits that long for the browser (RFC 9126)
    consent: int = 365 * 86400  # a choice that a person does not want to be asked again


@dataclass(frozen=True, slots=True)
class Endpoints:
    """All addresses of one EHR's authorization server, from configuration and never from a request (ATK-O31)."""

    public_url: str  # without a trailing slash
    ehr: str

    @property
    def base(self) -> str:
        """The FHIR base, which is the issuer too."""
        return f"{self.public_url}/fhir/{self.ehr}"

    @property
    def _auth(self) -> str:
        return f"{self.public_url}/auth/{self.ehr}"

    @property
    def authorize(self) -> str:
        """Authorization endpoint."""
        return f"{self._auth}/authorize"

    @property
    def token(self) -> str:
        """Token endpoint."""
        return f"{self._auth}/token"

    @property
    def par(self) -> str:
        """Pushed authorization requests (RFC 9126)."""
        return f"{self._auth}/par"

    @property
    def introspect(self) -> str:
        """Introspection endpoint (RFC 7662)."""
        return f"{self._auth}/introspect"

    @property
    def revoke(self) -> str:
        """Revocation endpoint (RFC 7009)."""
        return f"{self._auth}/revoke"

    @property
    def register(self) -> str:
        """Where clients register themselves (RFC 7591)."""
        return f"{self._auth}/register"

    @property
    def jwks(self) -> str:
        """Public keys of id_tokens."""
        return f"{self._auth}/jwks"

    @property
    def manage(self) -> str:
        """Where a person sees the apps that she connected, and takes their access back."""
        return f"{self.public_url}/apps"

    @property
    def style(self) -> str:
        """SMART styling (`smart_style_url`)."""
        return f"{self.public_url}/auth/smart-style.json"


@dataclass(frozen=True, slots=True)
class Caller:
    """What the edge knows about an HTTP request, for the audit record."""

    request_id: str = ""
    address: str = ""
    method: str = ""  # of HTTP


@dataclass(frozen=True, slots=True)
class TokenRequest:
    """A form POST to the token, revocation or introspection endpoint, as sent."""

    pairs: Pairs
    authorization: tuple[str, ...] = ()  # the Authorization header's values


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Everything that the decision about one token request may look at, read before it."""

    now: datetime
    endpoints: Endpoints
    lifetimes: Lifetimes
    client: Client | None = None
    client_keys: Mapping[str, Any] | None = None  # the client's JWK Set, by value or fetched
    jti_seen: bool = False
    code: Code | None = None
    refresh: RefreshToken | None = None
    replaced: RefreshToken | None = None  # the one that `refresh` replaced
    rotated_at: datetime | None = None  # when `refresh` was replaced itself
    grant: Grant | None = None  # of the code or the refresh token
    account: Account | None = None  # of the grant
    listed: tuple[ListedPatient, ...] = ()
    signing_key: RSAKey | None = None
    trial: str = ""  # the label of the trial that the request belongs to
    fault: str = ""  # what is simulated in it

    def simulates(self, fault: str) -> bool:
        """Whether this is to be pretended."""
        return self.fault == fault


@dataclass(frozen=True, slots=True)
class RememberJti:
    """Use the assertion. Lost: it was used before."""

    hash: str
    expires_at: datetime


@dataclass(frozen=True, slots=True)
class ConsumeCode:
    """Use the code. Lost: it was used before."""

    hash: str


@dataclass(frozen=True, slots=True)
class RotateRefresh:
    """Use the refresh token. Lost: it was used before."""

    token: RefreshToken


@dataclass(frozen=True, slots=True)
class PresentAgain:
    """Note that a replaced refresh token came again. Lost: what replaced it was used meanwhile."""

    token: RefreshToken
    state: str  # retried | disputed


@dataclass(frozen=True, slots=True)
class RevokeFamily:
    """End a grant and all its tokens: something that works once was used twice."""

    grant_id: str
    reason: str


@dataclass(frozen=True, slots=True)
class IssueTokens:
    """Store new tokens. `grant` is given when the family begins here (client_credentials)."""

    grant_id: str
    access: AccessToken
    refresh: RefreshToken | None = None
    grant: Grant | None = None


Effect = RememberJti | ConsumeCode | RotateRefresh | PresentAgain | RevokeFamily | IssueTokens


@dataclass(frozen=True, slots=True)
class Decided:
    """An OAuth answer, and what must be committed before it is given.

    `record` is what goes on record about it, where more is known than who called; `recorded`: that is committed already, with the effects.
    `simulated`: the fault of a trial for which this is no real answer.
    """

    status: int
    body: Mapping[str, Any]
    effects: tuple[Effect, ...] = ()
    headers: tuple[tuple[str, str], ...] = ()
    record: AuditRecord | None = None
    recorded: bool = False
    simulated: str = ""

    @property
    def error(self) -> str:
        """The OAuth error code, or ""."""
        return str(self.body.get("error", ""))


def refused(error: str, description: str = "", *, status: int = 400, effects: tuple[Effect, ...] = ()) -> Decided:
    """An error of RFC 6749 section 5.2. 401 names Basic as the scheme (there), whatever the client tried."""
    body = {"error": error} | ({"error_description": description} if description else {})
    headers = (("WWW-Authenticate", f'Basic realm="token", error="{error}"'),) if status == 401 else ()
    return Decided(status, body, effects, headers)


def failed(error: FhirError) -> Decided:
    """What an OAuth caller is told when something else than his request is wrong."""
    code = "temporarily_unavailable" if error.status >= 500 else "invalid_request"
    retry = (("Retry-After", str(error.retry_after)),) if error.retry_after is not None else ()
    return Decided(error.status, {"error": code, "error_description": error.message}, headers=retry)


CLIENT_REFUSED = refused("invalid_client", "Client authentication failed.", status=401)


def may_act_on(account: Account, listed: tuple[ListedPatient, ...], patient: str, *, launched: bool) -> bool:
    """Whether this person may (still) have this patient in context. For staff an EHR's launch is enough; nobody else gets by without the list."""
    if account.is_practitioner and launched:
        return True
    return patient == account.own_patient != "" or any(patient == one.patient for one in listed)


@dataclass(frozen=True, slots=True)
class Event:
    """What is common to the audit records of one request here."""

    ehr: str
    caller: Caller
    now: datetime
    client: Client | None = None
    account: Account | None = None
    client_id: str = ""

    def record(self, action: str, status: int, *, reason: str = "", patient: str = "", detail: str = "") -> AuditRecord:
        """One record of it."""
        account, client = self.account, self.client
        return AuditRecord(
            id=new_id(),
            recorded=self.now,
            request_id=self.caller.request_id,
            ehr=self.ehr,
            action=action,
            outcome="0" if status < 400 else "4" if status < 500 else "8",  # HTTP: refusals begin there, failures of ours there
            status=status,
            reason=reason,
            principal=_kind(account) if account else ("system" if client and not client.redirect_uris else "anonymous"),
            client_id=client.id if client else self.client_id,
            client_name=client.name if client else "",
            fhir_user=account.fhir_user if account else "",
            user_id=account.id if account else "",
            patients=(patient,) if patient else (),
            address=self.caller.address,
            detail=detail,
        )


def _kind(account: Account) -> str:
    return "user" if account.is_practitioner else "patient"
