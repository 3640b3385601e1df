"""What the token endpoint answers, and what must be committed for it. Pure but for the random bits of new tokens."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

from gateway.errors import Unavailable
from gateway.smart.scopes import split
from gateway.smart.server.answers import Decided, failed, refused
from gateway.smart.server.clients.authentication import CLIENT_REFUSED, ClientCore, Evidence, Presented
from gateway.smart.server.core import OAuthClient, Request
from gateway.smart.server.effects import Effect, IssueTokens, PresentAgain, RememberJti, RevokeFamily
from gateway.smart.server.faults import PAUSE
from gateway.smart.server.pkce import S256Always
from gateway.smart.server.requests import Pairs
from gateway.smart.server.token.snapshot import Snapshot
from gateway.smart.server.token.token_grants import BackendGrant, CodeGrant, RefreshGrant
from gateway.store.oauth_rows import AccessToken, Grant, RefreshToken, digest, new_id, new_secret


class TokenCore(ClientCore):
    """Authlib's core over one snapshot."""

    def __init__(self, snapshot: Snapshot, asked: Presented) -> None:
        evidence = Evidence(snapshot.now, snapshot.endpoints, snapshot.client, snapshot.client_keys, snapshot.jti_seen)
        super().__init__(evidence, _named(asked, snapshot))
        self.snapshot = snapshot
        self._effects: list[Effect] = []
        self.register_token_generator("default", self._new_token)
        self.register_grant(CodeGrant, [S256Always(required=True)])
        self.register_grant(RefreshGrant)
        self.register_grant(BackendGrant)

    def query_client(self, client_id: str) -> OAuthClient | None:
        """The client of the snapshot, if that is the one asked for."""
        return None if self.snapshot.simulates("client-refused") else super().query_client(client_id)

    def add(self, effect: Effect) -> None:
        """Something must be committed."""
        self._effects.append(effect)

    @property
    def effects(self) -> tuple[Effect, ...]:
        """All of them. A verified assertion is used up whatever became of the request."""
        return (*self.assertion.remembered, *self._effects)

    def save_token(self, token: dict[str, Any], request: Request) -> None:
        """Make the rows of a generated token."""
        snapshot, now = self.snapshot, self.snapshot.now
        grant = snapshot.grant or Grant(
            id=new_id(),
            ehr=snapshot.endpoints.ehr,
            client_id=request.client.row.id,
            scope=token["scope"],
            created_at=now,
            exchanged_at=now,
            trial=snapshot.trial,
        )
        replaces = snapshot.refresh.hash if snapshot.refresh else ""
        until = now + timedelta(seconds=token["expires_in"])
        access = AccessToken(digest(token["access_token"]), grant.id, token["scope"], now, until, replaces=replaces)
        refresh = None
        if "refresh_token" in token:
            longest = now + timedelta(seconds=snapshot.lifetimes.refresh)
            until = min(longest, grant.online_until) if grant.online_until else longest
            refresh = RefreshToken(digest(token["refresh_token"]), grant.id, "active", now, until, replaces)
        self.add(IssueTokens(grant.id, access, refresh, None if snapshot.grant else grant))

    def _new_token(self, *, grant_type: str, scope: str, include_refresh_token: bool, **_: Any) -> dict[str, Any]:
        lifetimes = self.snapshot.lifetimes
        grant = self.snapshot.grant
        life = lifetimes.backend if grant_type == "client_credentials" else lifetimes.access  # AUTHLIB-E6
        if grant and grant.online_until:
            life = min(life, max(1, int((grant.online_until - self.snapshot.now).total_seconds())))
        token: dict[str, Any] = {
            "access_token": new_secret(),
            "token_type": "Bearer",
            "expires_in": life,
            "scope": " ".join(split(scope)),
        }
        if include_refresh_token and grant and (grant.online_until or "offline_access" in split(grant.scope)):
            token["refresh_token"] = new_secret()
        return token


def _named(asked: Presented, snapshot: Snapshot) -> Presented:
    """A public client may leave its name out when it refreshes: the token tells (seen in fhirclient-js 2.6)."""
    unnamed = not asked.client_id and snapshot.client is not None and snapshot.refresh is not None
    return replace(asked, client_id=snapshot.client.id) if unnamed and snapshot.client else asked


def decide(asked: Presented, pairs: Pairs, snapshot: Snapshot) -> Decided:
    """The answer to a POST at the token endpoint. What is really wrong goes before a fault: it is met by a request only that would have succeeded."""
    real = _decided(asked, pairs, replace(snapshot, fault=""))
    if real.error or not snapshot.fault:
        return real
    pretended = _decided(asked, pairs, snapshot)
    used = tuple(one for one in real.effects if isinstance(one, RememberJti) and one not in pretended.effects)
    return replace(pretended, effects=(*used, *pretended.effects), simulated=snapshot.fault)


def _decided(asked: Presented, pairs: Pairs, snapshot: Snapshot) -> Decided:
    if snapshot.simulates("token-down"):
        return failed(Unavailable(retry_after=PAUSE))
    if asked.problem:
        return CLIENT_REFUSED if asked.problem == "invalid_client" else refused(asked.problem)
    if "grant_type" not in asked.form:
        return refused("invalid_request", "Missing 'grant_type'.")
    core = TokenCore(snapshot, asked)
    try:
        answer: Decided = core.create_token_response(Request("POST", pairs))
    except ValueError:  # AUTHLIB-E13: a description with characters that RFC 6749 forbids
        answer = refused("invalid_request")
    return _as_answered(answer, core)


def _as_answered(answer: Decided, core: TokenCore) -> Decided:
    """One face for all failures of client authentication, and no words of the caller's in ours."""
    if answer.error == "invalid_client":
        return replace(CLIENT_REFUSED, effects=core.effects)
    if answer.error == "unsupported_grant_type":
        return refused("unsupported_grant_type", "Offered: authorization_code, refresh_token, client_credentials.", effects=core.effects)
    if answer.error:
        return replace(answer, effects=tuple(effect for effect in core.effects if isinstance(effect, RememberJti | RevokeFamily | PresentAgain)))
    return replace(answer, effects=core.effects)
