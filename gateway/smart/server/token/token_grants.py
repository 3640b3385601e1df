"""The three grants of the token endpoint over a snapshot. What they would store becomes an effect.

Overrides: AUTHLIB-E6 (lifetimes), E7 (rotation, reuse detection, narrowing by the scope algebra), E8 (a code is consumed by compare-and-set,
and its second use ends the family), E10 (the scope that was consented to is the code's).

A client that is who it says it is hears what is wrong with a code or token of its own. What is another's, or nobody's, is one answer.
"""
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false

from __future__ import annotations

from datetime import timedelta
from typing import Any

from gateway.smart.scopes import is_for_systems, is_subset, split
from gateway.smart.server.authlib_core import AuthorizationCodeGrant, ClientCredentialsGrant, InvalidGrantError, InvalidScopeError, RefreshTokenGrant
from gateway.smart.server.clients.authentication import AUTH_METHODS
from gateway.smart.server.core import OAuthClient
from gateway.smart.server.effects import ConsumeCode, PresentAgain, RevokeFamily, RotateRefresh
from gateway.smart.server.people.relationships import may_act_on
from gateway.smart.server.token.context import context_members, signed_identity
from gateway.smart.server.token.snapshot import Snapshot
from gateway.store.oauth_rows import Account, AuthMethod, Code, Grant, RefreshToken

_ENDED = "This access was ended: by the app, by the person, or because she may not give it any more. She has to let the app in again."
_SYSTEM = "scope has to name system/ scopes, and none beyond those that this client is registered for."
RETRY = timedelta(seconds=60)
"""How long after its rotation a refresh token may come again and still be the try of a client that got no answer, or asked twice at once."""


def holder(snapshot: Snapshot) -> Account | None:
    """The person behind the grant, while she may still do what it says (ATK-F23)."""
    grant, account = snapshot.grant, snapshot.account
    if grant is None or account is None or grant.revoked_at is not None:
        return None
    if account.disabled_at is not None or account.ehr != grant.ehr:
        return None
    if grant.patient and not may_act_on(account, snapshot.listed, grant.patient, launched=grant.context == "launch"):
        return None
    return account


class Issued:
    """A code or refresh token with its grant, as the core asks about it."""

    def __init__(self, row: Code | RefreshToken, grant: Grant) -> None:
        self.row, self.grant = row, grant

    @property
    def code_challenge(self) -> str:
        """PKCE."""
        return self.row.code_challenge if isinstance(self.row, Code) else ""

    @property
    def code_challenge_method(self) -> str:
        """PKCE."""
        return "S256"

    def get_redirect_uri(self) -> str:
        """The one of the authorization request."""
        return self.row.redirect_uri if isinstance(self.row, Code) else ""

    def get_scope(self) -> str:
        """What the person granted (AUTHLIB-E10)."""
        return self.grant.scope

    def check_client(self, client: OAuthClient) -> bool:
        """Whether it was issued to this client."""
        return self.grant.client_id == client.row.id


class CodeGrant(AuthorizationCodeGrant):
    """authorization_code."""

    TOKEN_ENDPOINT_AUTH_METHODS = list(AUTH_METHODS)  # noqa: RUF012  # Authlib's own shape

    def query_authorization_code(self, code: str, client: OAuthClient) -> Issued | None:
        """The code, if it is this client's and unused. A used one ends the family (RFC 6749 section 4.1.2, ATK-O6)."""
        del code
        snapshot: Snapshot = self.server.snapshot
        row, grant = snapshot.code, snapshot.grant
        if row is None or grant is None or row.client_id != client.row.id or grant.ehr != snapshot.endpoints.ehr:
            raise InvalidGrantError("code is none that was given to this client here.")
        if row.state != "issued":
            self.server.add(RevokeFamily(grant.id, "code-reused"))
            raise InvalidGrantError("code was used before. It counts once, and what it gave has ended now.")
        if snapshot.now >= row.expires_at or snapshot.simulates("code-expired"):
            raise InvalidGrantError(f"code is too old: it lives {snapshot.lifetimes.code} seconds.")
        if holder(snapshot) is None:
            raise InvalidGrantError(_ENDED)
        return Issued(row, grant)

    def authenticate_user(self, authorization_code: Issued) -> Account | None:
        """The person who consented."""
        del authorization_code
        return holder(self.server.snapshot)

    def delete_authorization_code(self, authorization_code: Issued) -> None:
        """Use it up (AUTHLIB-E8)."""
        self.server.add(ConsumeCode(authorization_code.row.hash))

    def create_token_response(self) -> Any:
        """The token, the launch context, and who signed in."""
        status, token, headers = super().create_token_response()
        snapshot: Snapshot = self.server.snapshot
        return status, token | context_members(snapshot) | signed_identity(snapshot), headers


class RefreshGrant(RefreshTokenGrant):
    """refresh_token, with rotation (RFC 9700 section 2.2.2)."""

    TOKEN_ENDPOINT_AUTH_METHODS = list(AUTH_METHODS)  # noqa: RUF012  # Authlib's own shape
    INCLUDE_NEW_REFRESH_TOKEN = True

    def authenticate_refresh_token(self, refresh_token: str) -> Issued | None:
        """The token, if it is this client's and was not used. A second use ends the family once the first one's answer had arrived (ATK-O13).

        Until then the answer may have been lost on the way, and the client that asks again is the one that was to have it. But who lost it has
        nothing that it brought: where a token came again later than a retry does, and then its successor is used, two have it, and the family ends.
        """
        del refresh_token
        snapshot: Snapshot = self.server.snapshot
        row, grant = snapshot.refresh, snapshot.grant
        if row is None or grant is None or grant.client_id != self.request.client.row.id or grant.ehr != snapshot.endpoints.ehr:
            raise InvalidGrantError("refresh_token is none that was given to this client here.")
        if row.state == "spent" or (row.state == "active" and snapshot.replaced and snapshot.replaced.state == "disputed"):
            self.server.add(RevokeFamily(grant.id, "refresh-reused"))
            raise InvalidGrantError("refresh_token was replaced, and somebody uses both: all tokens of this launch have ended now.")
        if row.state != "active":
            at_once = row.state != "disputed" and snapshot.rotated_at is not None and snapshot.now - snapshot.rotated_at <= RETRY
            self.server.add(PresentAgain(row, "retried" if at_once else "disputed"))
            raise InvalidGrantError("refresh_token was replaced by another one. If that answer was lost, the person has to let the app in again.")
        if snapshot.simulates("refresh-revoked"):
            self.server.add(RevokeFamily(grant.id, "simulated"))
        if holder(snapshot) is None or snapshot.simulates("refresh-revoked"):
            raise InvalidGrantError(_ENDED)
        if snapshot.now >= row.expires_at or snapshot.simulates("refresh-expired"):
            raise InvalidGrantError("refresh_token is too old: nobody used it in time. The person has to let the app in again.")
        return Issued(row, grant)

    def _validate_token_scope(self, token: Issued) -> None:
        """Refreshing may narrow and never widen (AUTHLIB-E7)."""
        scope = self.request.payload.scope
        if (scope and not is_subset(scope, token.get_scope())) or self.server.snapshot.simulates("refresh-scope"):
            raise InvalidScopeError("scope may be less than what was granted, and never more.")

    def authenticate_user(self, refresh_token: Issued) -> Account | None:
        """The person who consented."""
        del refresh_token
        return holder(self.server.snapshot)

    def revoke_old_credential(self, refresh_token: Issued) -> None:
        """Use it up."""
        del refresh_token
        snapshot: Snapshot = self.server.snapshot
        if snapshot.refresh:
            self.server.add(RotateRefresh(snapshot.refresh))

    def create_token_response(self) -> Any:
        """The token and the launch context."""
        status, token, headers = super().create_token_response()
        return status, token | context_members(self.server.snapshot), headers


class BackendGrant(ClientCredentialsGrant):
    """client_credentials, by private_key_jwt only (SMART Backend Services: a shared secret is not enough)."""

    TOKEN_ENDPOINT_AUTH_METHODS = [AuthMethod.KEY]  # noqa: RUF012  # Authlib's own shape

    def validate_requested_scope(self) -> None:
        """system/ scopes within the registration, at least one; anything beyond refuses the whole (HL7@250)."""
        if self.server.snapshot.simulates("token-scope"):
            raise InvalidScopeError(_SYSTEM)
        wanted = split(self.request.payload.scope or "")
        registered: str = self.client.row.scope
        if not wanted or not registered or not all(map(is_for_systems, wanted)) or not is_subset(" ".join(wanted), registered):
            raise InvalidScopeError(_SYSTEM)
