"""The gateway as an app of an EHR, for one person: the authorization request, the exchange of its code, the refresh (A18.84 to 89)."""

from __future__ import annotations

import base64
import hashlib
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import urlencode

from gateway.smart import id_token
from gateway.smart.addresses import is_safe
from gateway.smart.client import assertion, identity
from gateway.smart.client.discovery import Configuration, Discovery
from gateway.smart.client.values import Failure, Granted, granted, unanswered
from gateway.smart.http import Http, NoAnswer, basic

MISCONFIGURED = Failure(reason="ehr-smart-configuration")


@dataclass(frozen=True, slots=True)
class UserClient:
    """How the gateway is registered as an app at one EHR: with neither `secret` nor `key_file` as a public one. `loopback` as in BackendClient."""

    name: str
    base_url: str
    client_id: str
    scope: str
    redirect_uri: str
    secret: str = field(default="", repr=False)
    key_file: Path | None = None
    kid: str = ""
    loopback: bool = False


@dataclass(frozen=True, slots=True)
class Asked:
    """An authorization request that is under way: where the browser goes, and what has to be known when it comes back."""

    url: str
    state: str = field(repr=False)
    verifier: str = field(repr=False)
    nonce: str = field(repr=False)
    issuer: str


@dataclass(frozen=True, slots=True)
class SignedIn:
    """What the EHR gave, and who it says that this is: `Patient/a`."""

    tokens: Granted
    fhir_user: str


@dataclass(frozen=True, slots=True)
class Ended:
    """The EHR renews the access no more."""


class UserEndpoints:
    """Speaks to the authorization server of one EHR. Raises KeyUnusable when it is made with a key that cannot be used."""

    def __init__(self, client: UserClient, http: Http) -> None:
        self.client, self._http = client, http
        self.discovery = Discovery(client.base_url, http)
        if client.key_file:
            assertion.read_key(client.key_file, client.kid)

    async def ask(self, launch: str = "") -> Asked | Failure:
        """The authorization request (A18.84). `launch` is the EHR's, byte by byte, in an EHR launch and absent else."""
        found = await self._configuration("authorization_endpoint")
        if isinstance(found, Failure):
            return found
        endpoint, state, verifier, nonce = found.text("authorization_endpoint"), *(secrets.token_urlsafe(32) for _ in range(3))
        challenge = base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).rstrip(b"=").decode()
        sent = {
            "response_type": "code",
            "client_id": self.client.client_id,
            "redirect_uri": self.client.redirect_uri,
            "scope": _scope(self.client.scope, launch),
            "state": state,
            "aud": self.client.base_url,
            "nonce": nonce,
            "code_challenge": challenge,
            "code_challenge_method": "S256",
        } | ({"launch": launch} if launch else {})
        url = f"{endpoint}{'&' if '?' in endpoint else '?'}{urlencode(sent)}"
        return Asked(url, state, verifier, nonce, found.text("issuer"))

    async def is_from(self, asked_issuer: str, iss: str | None) -> bool:
        """Whether an answer comes from whom was asked (RFC 9207): it has to say so where the EHR tells that it does."""
        found = await self.discovery.configuration()
        told = isinstance(found, Configuration) and found.document.get("authorization_response_iss_parameter_supported") is True
        return iss == asked_issuer if iss is not None else not told

    async def exchange(self, code: str, asked: Asked) -> SignedIn | Failure:
        """The tokens for a code (A18.86), with the person that the id_token names; that she is there is read with the new token (A18.87)."""
        sent = {"grant_type": "authorization_code", "code": code, "redirect_uri": self.client.redirect_uri, "code_verifier": asked.verifier}
        found = await self._tokens(sent)
        if isinstance(found, Failure | Ended):
            return found if isinstance(found, Failure) else Failure(reason="ehr-token-refused", told="invalid_grant")
        who = await self._who(found, asked)
        return SignedIn(found, who) if who else Failure(reason="upstream-identity")

    async def refresh(self, refresh_token: str) -> Granted | Failure | Ended:
        """New tokens (A18.89). The scope is left out: it stays what it is."""
        return await self._tokens({"grant_type": "refresh_token", "refresh_token": refresh_token})

    async def revoke(self, token: str) -> None:
        """Tell the EHR that it is not needed any more (RFC 7009), where it takes that. Whatever comes of it."""
        found = await self._configuration("revocation_endpoint")
        if isinstance(found, Failure):
            return
        endpoint = found.text("revocation_endpoint")
        form, headers = self._authenticated(endpoint, found.skew)
        try:
            await self._http.post(endpoint, {"token": token} | dict(form), headers)
        except NoAnswer:
            return

    async def _configuration(self, *names: str) -> Configuration | Failure:
        """The EHR's document, when it names these endpoints and a credential may go there."""
        found = await self.discovery.configuration()
        if isinstance(found, Failure) or all(is_safe(found.text(name), loopback=self.client.loopback) for name in names):
            return found
        return MISCONFIGURED

    async def _tokens(self, sent: Mapping[str, str]) -> Granted | Failure | Ended:
        found = await self._configuration("token_endpoint")
        if isinstance(found, Failure):
            return found
        endpoint = found.text("token_endpoint")
        form, headers = self._authenticated(endpoint, found.skew)
        try:
            answer = await self._http.post(endpoint, dict(sent) | dict(form), headers)
        except NoAnswer as error:
            return unanswered(error)
        judged = granted(answer, self.client.scope)
        if isinstance(judged, Failure):
            self.discovery.forget()
            # smart-launcher-v2 answers an expired refresh token with 403 and no code
            if judged.told == "invalid_grant" or (answer.status == 403 and not judged.told):
                return Ended()
        return judged

    def _authenticated(self, endpoint: str, skew: float) -> tuple[Mapping[str, str], Mapping[str, str]]:
        """Parameters and headers (A18.86): an assertion, or Basic without client_id in the form, or client_id alone."""
        client = self.client
        if client.key_file:
            return assertion.form(client.client_id, assertion.read_key(client.key_file, client.kid), endpoint, skew=skew), {}
        if client.secret:
            return {}, {"Authorization": basic(client.client_id, client.secret)}
        return {"client_id": client.client_id}, {}

    async def _who(self, tokens: Granted, asked: Asked) -> str:
        """`Patient/a`, or "" when the id_token does not hold or the EHR does not know her."""
        found = await self._configuration("jwks_uri")
        token = tokens.more.get("id_token")
        if isinstance(found, Failure) or not isinstance(token, str):
            return ""
        try:
            keys = (await self._http.get(found.text("jwks_uri"))).document or {}
            claims = id_token.verified(
                token,
                keys,
                issuer=asked.issuer,
                client_id=self.client.client_id,
                nonce=asked.nonce,
                moment=datetime.now(UTC),
                skew=found.skew,
            )
            user = identity.fhir_user(claims, self.client.base_url)
            return user if user and await self._is_there(user, tokens.access_token) else ""
        except (NoAnswer, id_token.NotBelieved):
            return ""

    async def _is_there(self, user: str, token: str) -> bool:
        headers = {"Authorization": f"Bearer {token}", "Accept": "application/fhir+json"}
        answer = await self._http.get(f"{self.client.base_url}/{user}", headers)
        found = answer.document or {}
        return answer.status == 200 and f"{found.get('resourceType')}/{found.get('id')}" == user


def _scope(scope: str, launch: str) -> str:
    """In an EHR launch the EHR says which patient: `launch` stands where `launch/patient` did."""
    if not launch:
        return scope
    return " ".join(["launch", *(one for one in scope.split(" ") if one not in ("launch", "launch/patient"))])
