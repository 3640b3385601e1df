"""The rows of the authorization server as frozen values. What is secret is here only as its SHA-256 (`digest`)."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any


def digest(secret: str) -> str:
    """How a secret of 256 random bits is kept: SHA-256, hexadecimal. Nothing slower is needed for a value nobody can guess."""
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()


def new_secret() -> str:
    """256 random bits, base64url, 43 characters."""
    return secrets.token_urlsafe(32)


def new_id() -> str:
    """A name for a row that is no secret: 32 hexadecimal digits."""
    return secrets.token_hex(16)


class AuthMethod(StrEnum):
    """How a client proves who it is: `token_endpoint_auth_method` (RFC 7591 section 2, OpenID Connect Core 9)."""

    NONE = "none"
    BASIC = "client_secret_basic"
    POST = "client_secret_post"
    KEY = "private_key_jwt"


SECRET_METHODS = (AuthMethod.BASIC, AuthMethod.POST)
"""A secret is a secret, in the header or in the form: the two count as one registration."""


@dataclass(frozen=True, slots=True)
class Client:
    """A registered client (RFC 7591). `ehrs` names the EHRs it may use, or ("*",)."""

    id: str
    name: str
    auth_method: str  # one of AuthMethod
    grant_types: tuple[str, ...]
    redirect_uris: tuple[str, ...]
    scope: str  # what it may ask for; "" for an app: whatever a person may grant
    ehrs: tuple[str, ...]
    created_at: datetime
    secret_hash: str = ""
    jwks: Mapping[str, Any] | None = None
    jwks_uri: str = ""
    launch_uri: str = ""
    push: Mapping[str, str] | None = None  # {"mode": "deliver", "ehr": ..., "source_ehr": ...}
    registered: Mapping[str, Any] | None = None  # the metadata as registered, without the secret
    disabled_at: datetime | None = None
    pending_since: datetime | None = None  # registered by itself, and nobody has looked at it yet
    registration_hash: str = ""  # of the token with which it manages its own registration (RFC 7592); "": the operator registered it
    old_secret_hash: str = ""  # of the secret before this one, which counts until `old_secret_until`
    old_secret_until: datetime | None = None

    def may_use(self, ehr: str) -> bool:
        """Whether this client counts at that EHR."""
        return self.disabled_at is None and self.pending_since is None and self.is_of(ehr)

    def is_of(self, ehr: str) -> bool:
        """Whether it is registered for that EHR, in use or not."""
        return "*" in self.ehrs or ehr in self.ehrs

    def secret_hashes(self, at: datetime) -> tuple[str, ...]:
        """Of the secrets that count at this moment."""
        old = self.old_secret_hash if self.old_secret_until is not None and at < self.old_secret_until else ""
        return tuple(one for one in (self.secret_hash, old) if one)


@dataclass(frozen=True, slots=True)
class Invite:
    """A permission to register clients at one EHR. `scope`: the system scopes that they may have at most; "" for none."""

    id: str
    hash: str
    ehr: str
    scope: str
    uses_left: int
    created_at: datetime
    expires_at: datetime


@dataclass(frozen=True, slots=True)
class Account:
    """A person who signs in. `fhir_user` is `Patient/p1`, `RelatedPerson/r1`, `Practitioner/7` or `PractitionerRole/8`."""

    id: str
    username: str
    password_hash: str
    ehr: str
    fhir_user: str
    display_name: str
    created_at: datetime
    disabled_at: datetime | None = None

    @property
    def is_practitioner(self) -> bool:
        """Whether it acts as staff, whose patients come from an EHR launch or a list."""
        return self.fhir_user.startswith(("Practitioner/", "PractitionerRole/"))

    @property
    def own_patient(self) -> str:
        """The id of this person's own record, or ""."""
        kind, _, id_ = self.fhir_user.partition("/")
        return id_ if kind == "Patient" else ""


@dataclass(frozen=True, slots=True)
class ListedPatient:
    """A patient whose data an account may see besides its own."""

    patient: str
    display: str = ""


@dataclass(frozen=True, slots=True)
class WebSession:
    """A signed-in browser."""

    hash: str
    account_id: str
    created_at: datetime
    seen_at: datetime
    patient: str = ""  # whose record the portal shows; "": nobody chose yet
    method: str = ""  # how the person signed in: password | totp | recovery | passkey | provider | provider-anew | launcher; "": before that was kept


@dataclass(frozen=True, slots=True)
class Transaction:
    """One authorization request on its way from the app to the consent. `request` is the validated request as plain JSON."""

    hash: str
    browser_hash: str
    ehr: str
    client_id: str
    request: Mapping[str, Any]
    state: str  # open | done
    expires_at: datetime
    launch_hash: str = ""
    session_hash: str = ""  # set at sign-in: from then on only that session goes on
    patient: str = ""
    trial: str = ""  # the label of the launcher's trial that it belongs to, or ""


@dataclass(frozen=True, slots=True)
class Launch:
    """An EHR launch handle (SMART 2.2 "EHR launch"): one use, a few minutes. `extra`: further members of the launch context, as apps get them."""

    hash: str
    ehr: str
    client_id: str
    patient: str
    encounter: str
    account_id: str  # the EHR user it is bound to, or ""
    need_patient_banner: bool
    state: str  # open | used
    expires_at: datetime
    extra: Mapping[str, Any] | None = None
    trial: str = ""  # as of a Transaction


@dataclass(frozen=True, slots=True)
class PushedRequest:
    """An authorization request that an app pushed ahead of the browser (RFC 9126). `request` is as that of a Transaction."""

    hash: str
    ehr: str
    client_id: str
    request: Mapping[str, Any]
    expires_at: datetime


@dataclass(frozen=True, slots=True)
class RememberedConsent:
    """A choice that a person does not want to be asked again. `asked` and `ticked` are scopes, as the consent page offers them."""

    id: str
    account_id: str
    client_id: str
    ehr: str
    patient: str
    redirect_uri: str
    asked: str
    ticked: str
    created_at: datetime
    expires_at: datetime


@dataclass(frozen=True, slots=True)
class SigningKey:
    """A private key, sealed, since when it is there (and published), and from when on it signs (without `signs_at`: from the start)."""

    slot: int
    sealed: bytes
    created_at: datetime
    signs_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Grant:
    """What one person (or, for a backend client, the operator) allowed one client: the family of tokens that a revocation ends."""

    id: str
    ehr: str
    client_id: str
    scope: str
    created_at: datetime
    account_id: str = ""
    patient: str = ""
    encounter: str = ""
    context: str = ""  # launch: the EHR chose the patient | picked: the person did | ""
    need_patient_banner: bool = True
    exchanged_at: datetime | None = None
    revoked_at: datetime | None = None
    revoked_reason: str = ""
    extra: Mapping[str, Any] | None = None  # further members of the launch context
    online_until: datetime | None = None  # with online_access: the end of the sign-in that it was granted in
    trial: str = ""  # as of a Transaction


@dataclass(frozen=True, slots=True)
class Code:
    """An authorization code: one use, a minute."""

    hash: str
    grant_id: str
    client_id: str
    redirect_uri: str
    code_challenge: str  # S256, always
    nonce: str
    auth_time: datetime
    state: str  # issued | used
    expires_at: datetime


@dataclass(frozen=True, slots=True)
class AccessToken:
    """An opaque bearer token. `replaces`: the hash of the refresh token that was given for it, until its first use; else ""."""

    hash: str
    grant_id: str
    scope: str
    issued_at: datetime
    expires_at: datetime
    revoked_at: datetime | None = None
    replaces: str = ""


@dataclass(frozen=True, slots=True)
class RefreshToken:
    """One link in the chain of rotated refresh tokens. Its scope is that of the grant (RFC 6749 section 6).

    `state`: `active`; `rotated`, an answer with its successors was sent; `spent`, that answer arrived: one of them was used. Before that it may be
    presented again: `retried`, at once, as who got no answer does; `disputed`, later, so that a use of the successors shows that two have it.
    `replaces`: the hash of its predecessor, or "".
    """

    hash: str
    grant_id: str
    state: str
    issued_at: datetime
    expires_at: datetime
    replaces: str = ""


@dataclass(frozen=True, slots=True)
class Bearer:
    """All that a request with an access token needs to know, read together."""

    token: AccessToken
    grant: Grant
    client: Client
    account: Account | None
    listed: tuple[ListedPatient, ...] = ()
