"""An outside OpenID provider signs people in (OpenID Connect Core 1.0, code flow with PKCE): discovery, the way there, and what comes back.

What waits for the way back belongs to one browser, for ten minutes, once: state, nonce and verifier, sealed. The id_token is judged in one
place, `judged`, which is pure. Who the person is says one claim, named by configuration; it names a FHIR user at one EHR of ours, and the
account for her is made at her first sign-in: it has no password, and belongs to issuer and subject for good. Why none of it is Authlib's: ADR 0015.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import urlencode, urlsplit

from gateway.errors import GatewayError
from gateway.seal import Seals
from gateway.smart import id_token
from gateway.smart.addresses import is_safe
from gateway.smart.http import Http, NoAnswer, basic
from gateway.smart.record import Caller, Event, RecordIn
from gateway.smart.server.attempts import Attempts, count, forgive, limits_of_sign_in
from gateway.smart.server.clients.jwks import ClientKeys, FetchedKeys, FetchJwks
from gateway.smart.server.people.factors import FactorLocked, Over, Passed
from gateway.smart.server.people.sessions import BY_PROVIDER, BY_PROVIDER_ANEW
from gateway.store import people, people_factors
from gateway.store.base import Clock, Database, now
from gateway.store.oauth_rows import Account, AuthMethod, Client, digest, new_id, new_secret
from gateway.store.people_factors import Pending

_LIFE = timedelta(minutes=10)
_USER = re.compile(r"(?:Patient|RelatedPerson|Practitioner|PractitionerRole)/[A-Za-z0-9.-]{1,64}", re.ASCII)


@dataclass(frozen=True, slots=True)
class ProviderConfig:
    """One provider. `claim`: which claim of the id_token names the FHIR user, as `Patient/p1` or a URL below one of `bases`."""

    name: str
    title: str
    issuer: str
    client_id: str
    secret: str = field(repr=False)
    ehr: str
    claim: str = "fhirUser"
    scope: str = "openid fhirUser"
    aud: str = ""  # sent as `aud`: a SMART server wants to hear for which FHIR server it is
    bases: tuple[str, ...] = ()

    @property
    def loopback(self) -> bool:
        """Whether it is on this machine: then plain http does (development)."""
        return self.issuer.startswith("http://")


class Refused(GatewayError):
    """What the provider said cannot be believed. The message is a short word of ours for the log."""


@dataclass(frozen=True, slots=True)
class Unreachable:
    """The provider does not answer, or not as one does."""


@dataclass(frozen=True, slots=True)
class NotSignedIn:
    """The provider's answer signs nobody in."""


@dataclass(frozen=True, slots=True)
class Told:
    """What an id_token says, once it is believed."""

    subject: str
    fhir_user: str
    name: str


def judged(token: str, keys: Mapping[str, Any], config: ProviderConfig, *, nonce: str, moment: datetime) -> Told:
    """What the provider says of a person. Raises Refused for whatever is not as it must be."""
    try:
        claims = id_token.verified(
            token, keys, issuer=config.issuer, client_id=config.client_id, nonce=nonce, moment=moment, algorithms=("RS256", "ES256")
        )
    except id_token.NotBelieved as error:
        raise Refused(str(error)) from error
    name = claims.get("name")
    return Told(claims["sub"], _fhir_user(claims.get(config.claim), config), name[:255] if isinstance(name, str) and name.isprintable() else "")


def _fhir_user(value: Any, config: ProviderConfig) -> str:
    """`Patient/p1`: as it is, or below a base that is known to be this EHR. Another server's Patient/p1 is another person."""
    text = value if isinstance(value, str) else ""
    for base in config.bases:
        if text.startswith(f"{base}/"):
            text = text.removeprefix(f"{base}/")
            break
    if not _USER.fullmatch(text):
        raise Refused("claim")
    return text


@dataclass(frozen=True, slots=True)
class _Way:
    """What waits for the way back."""

    state: str
    nonce: str
    verifier: str
    query: str  # where the person wanted to go, as `Destination` spells it
    anew: bool = False


class Provider:
    """One provider, asked. `http`: with what is trusted for it; `fetch`: for keys that lie elsewhere."""

    def __init__(
        self,
        config: ProviderConfig,
        database: Database,
        seals: Seals,
        http: Http,
        fetch: FetchJwks,
        *,
        public_url: str,
        record_in: RecordIn,
        attempts: Attempts | None = None,
        clock: Clock = now,
    ) -> None:
        self.config = config
        self._database, self._seals, self._http, self._fetch = database, seals, http, fetch
        self._redirect_uri = f"{public_url}/signin/with/{config.name}/back"
        self._record_in, self._attempts, self._clock = record_in, attempts or Attempts(), clock
        self._keys = ClientKeys(self._fetched)

    async def begin(self, browser: str, query: str, *, anew: bool = False) -> str | Unreachable:
        """The address to send this browser to. `anew`: the person shall sign in there once more, signed in or not."""
        document = await self._document()
        endpoint = str((document or {}).get("authorization_endpoint", ""))
        if not self._is_safe(endpoint):
            return Unreachable()
        way, moment, hash_ = _Way(new_secret(), new_secret(), new_secret(), query, anew), self._clock(), self._hash(browser)
        sealed = self._seals.seal(json.dumps([way.state, way.nonce, way.verifier, way.query, way.anew]).encode(), hash_.encode())
        async with self._database.write() as connection:
            await people_factors.put_pending(connection, Pending(hash_, moment, moment + _LIFE, sealed=sealed))
        asked = {
            "response_type": "code",
            "client_id": self.config.client_id,
            "redirect_uri": self._redirect_uri,
            "scope": self.config.scope,
            "state": way.state,
            "nonce": way.nonce,
            "code_challenge": base64.urlsafe_b64encode(hashlib.sha256(way.verifier.encode()).digest()).rstrip(b"=").decode(),
            "code_challenge_method": "S256",
        }
        asked |= ({"aud": self.config.aud} if self.config.aud else {}) | ({"prompt": "login"} if anew else {})
        return endpoint + ("&" if "?" in endpoint else "?") + urlencode(asked)

    async def back(self, browser: str, sent: Mapping[str, str], caller: Caller) -> tuple[Passed | NotSignedIn | Over | FactorLocked, str]:
        """Judge what the browser came back with; and where the person wanted to go. What waited for it counts once."""
        way = await self._way(browser)
        if way is None or not hmac.compare_digest(sent.get("state", "").encode("utf-8", "replace"), way.state.encode()):
            return Over(), ""
        moment = self._clock()
        async with self._database.write() as connection:
            limits = limits_of_sign_in(self._attempts, f"provider:{self.config.name}:{browser}", caller.address)
            if wait := await count(connection, limits, moment):
                await self._record_in(connection, Event(self.config.ehr, caller, moment).record("login", 429, reason="sign-in-locked"))
                return FactorLocked(wait), way.query
        try:
            told = await self._told(sent, way)
            account = await self._account(told, caller)
        except Refused as error:
            async with self._database.write() as connection:
                event = Event(self.config.ehr, caller, moment)
                await self._record_in(connection, event.record("login", 403, reason="provider-refused", detail=f"{self.config.name}: {error}"))
            return NotSignedIn(), way.query
        async with self._database.write() as connection:
            await forgive(connection, limits)
            event = Event(account.ehr, caller, moment, account=account)
            await self._record_in(connection, event.record("login", 303, detail=f"provider {self.config.name}"))
        return Passed(account, BY_PROVIDER_ANEW if way.anew else BY_PROVIDER), way.query

    async def _told(self, sent: Mapping[str, str], way: _Way) -> Told:
        document = await self._document()
        if document is None:
            raise Refused("discovery")
        # RFC 9207 section 2.4: an answer of another provider that was mixed in (ATK-O20).
        if sent.get("iss", "") != self.config.issuer and ("iss" in sent or document.get("authorization_response_iss_parameter_supported") is True):
            raise Refused("answer-iss")
        if "error" in sent or not sent.get("code"):
            raise Refused("error")
        token = await self._exchanged(document, sent["code"], way.verifier)
        keys = await self._key_set(document, token)
        return judged(token, keys, self.config, nonce=way.nonce, moment=self._clock())

    async def _exchanged(self, document: Mapping[str, Any], code: str, verifier: str) -> str:
        """The id_token for a code."""
        endpoint, config = str(document.get("token_endpoint", "")), self.config
        if not self._is_safe(endpoint):
            raise Refused("token-endpoint")
        form = {"grant_type": "authorization_code", "code": code, "redirect_uri": self._redirect_uri, "code_verifier": verifier}
        headers: dict[str, str] = {}
        methods = document.get("token_endpoint_auth_methods_supported", [AuthMethod.BASIC])
        if AuthMethod.BASIC in methods:
            headers["Authorization"] = basic(config.client_id, config.secret)
        else:
            form |= {"client_id": config.client_id, "client_secret": config.secret}
        try:
            answer = await self._http.post(endpoint, form, headers)
        except NoAnswer as error:
            raise Refused("token-endpoint") from error
        token = (answer.document or {}).get("id_token")
        if answer.status != 200 or not isinstance(token, str):
            raise Refused("token-endpoint")
        return token

    async def _key_set(self, document: Mapping[str, Any], token: str) -> Mapping[str, Any]:
        url = str(document.get("jwks_uri", ""))
        if not self._is_safe(url):
            raise Refused("jwks")
        row = Client(
            self.config.name, self.config.title, AuthMethod.NONE, (), (), "", (), self._clock(), jwks_uri=url
        )  # a set of keys by URL, like a client's
        keys = await self._keys.of(row, id_token.key_id(token))
        if keys is None:
            raise Refused("jwks")
        return keys

    async def _fetched(self, url: str) -> FetchedKeys | None:
        """From the issuer's own host as the operator trusts it, which may be a private one; from elsewhere with the care that strangers' URLs get."""
        if urlsplit(url)[:2] != urlsplit(self.config.issuer)[:2]:
            return await self._fetch(url)
        try:
            answer = await self._http.get(url)
        except NoAnswer:
            return None
        found = answer.document if answer.status == 200 else None
        return FetchedKeys(found, 300) if found and isinstance(found.get("keys"), list) else None

    async def _document(self) -> Mapping[str, Any] | None:
        """The provider's metadata, if they are its own (OpenID Connect Discovery 4.3)."""
        try:
            answer = await self._http.get(self.config.issuer.rstrip("/") + "/.well-known/openid-configuration")
        except NoAnswer:
            return None
        found = answer.document if answer.status == 200 else None
        return found if found and found.get("issuer") == self.config.issuer else None

    async def _account(self, told: Told, caller: Caller) -> Account:
        """The person's account, made at her first sign-in. Raises Refused when it is closed, or the provider now says that she is somebody else."""
        config = self.config
        username = f"{config.name}:{digest(f'{config.issuer} {told.subject}')[:32]}"
        made = Account(new_id(), username, "", config.ehr, told.fhir_user, told.name or config.title, self._clock())
        async with self._database.write() as connection:
            if await people.put_account(connection, made, ()):
                event = Event(config.ehr, caller, made.created_at, account=made)
                await self._record_in(connection, event.record("account-add", 201, detail=f"provider {config.name}"))
                return made
            found = await people.account_named(connection, username)
        if found is None or found.disabled_at is not None:
            raise Refused("closed")
        if (found.ehr, found.fhir_user) != (config.ehr, told.fhir_user):
            raise Refused("other-person")
        return found

    async def _way(self, browser: str) -> _Way | None:
        hash_ = self._hash(browser)
        async with self._database.write() as connection:
            waiting = await people_factors.pending(connection, hash_, self._clock()) if browser else None
            if waiting is None or waiting.sealed is None or not await people_factors.take_pending(connection, waiting):
                return None
        return _Way(*json.loads(self._seals.open(waiting.sealed, hash_.encode())))

    def _hash(self, browser: str) -> str:
        return digest(f"provider:{self.config.name}:{browser}")

    def _is_safe(self, url: str) -> bool:
        return is_safe(url, loopback=self.config.loopback)
