"""Authlib's authorization-server core, made framework-free: requests from parsed pairs, answers as values, clients from a snapshot.

Overrides: AUTHLIB-E12 and ATK-O1 (exact redirect match), E13 (a description with forbidden characters is
an answer and no crash), E15 (the address seen behind a proxy plays no part).
"""
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gateway.smart.scopes import is_subset
from gateway.smart.server.answers import Decided
from gateway.smart.server.authlib_core import AuthorizationServer, ClientMixin, OAuth2Payload, OAuth2Request
from gateway.smart.server.requests import Pairs
from gateway.store.oauth_rows import Client


class Payload(OAuth2Payload):
    """Parameters from parsed pairs; empty ones count as omitted."""

    def __init__(self, pairs: Pairs) -> None:
        self._pairs = pairs

    @property
    def data(self) -> dict[str, str]:
        """Each name with its value."""
        return {name: value for name, value in self._pairs if value}

    @property
    def datalist(self) -> dict[str, list[str]]:
        """Each name with all its values."""
        found: dict[str, list[str]] = {}
        for name, value in self._pairs:
            found.setdefault(name, []).append(value)
        return found


class Request(OAuth2Request):
    """One request to the core. TLS is the edge's business: the address here is a constant (AUTHLIB-E15)."""

    def __init__(self, method: str, pairs: Pairs, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(method, "https://authorization-server.invalid/", headers=dict(headers or {}))
        self.payload = Payload(pairs)

    @property
    def form(self) -> dict[str, str]:
        """The parameters."""
        return self.payload.data

    @property
    def args(self) -> dict[str, str]:
        """The parameters."""
        return self.payload.data


class OAuthClient(ClientMixin):
    """What the core asks about a client, but for how it proves itself (`clients.authentication`)."""

    def __init__(self, row: Client) -> None:
        self.row = row

    def get_client_id(self) -> str:
        """Its id."""
        return self.row.id

    def get_default_redirect_uri(self) -> None:
        """There is none: redirect_uri is always required."""
        return

    def get_allowed_scope(self, scope: str | None) -> str:
        """The part of the scope that it is registered for."""
        wanted = (scope or "").split()
        return " ".join(part for part in wanted if not self.row.scope or is_subset(part, self.row.scope))

    def check_redirect_uri(self, redirect_uri: str) -> bool:
        """Exact string comparison (RFC 9700 section 2.1)."""
        return redirect_uri in self.row.redirect_uris

    def check_response_type(self, response_type: str) -> bool:
        """Only code, and only for clients that may use it."""
        return response_type == "code" and "authorization_code" in self.row.grant_types

    def check_grant_type(self, grant_type: str) -> bool:
        """As registered."""
        return grant_type in self.row.grant_types


class Core(AuthorizationServer):
    """The core over one client. Both decisions (authorize, token) are a Core of their own for each request."""

    def __init__(self, client: Client | None, ehr: str) -> None:
        super().__init__()
        self._row = client if client and client.may_use(ehr) else None

    def query_client(self, client_id: str) -> OAuthClient | None:
        """The client of the snapshot, if that is the one asked for."""
        return OAuthClient(self._row) if self._row and self._row.id == client_id else None

    def create_oauth2_request(self, request: Request) -> Request:
        """It is one already."""
        return request

    def handle_response(self, status: int, body: Any, headers: Any) -> Decided:
        """An answer as a value."""
        del headers  # the edge sets no-store for all of them
        return Decided(status, dict(body) if body else {})

    def send_signal(self, name: str, *args: Any, **kwargs: Any) -> None:
        """Nobody listens: effects are returned, not signalled."""
