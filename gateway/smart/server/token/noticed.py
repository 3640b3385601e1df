"""What a developer sees of the token endpoint and its relatives in her trial. Pure; tokens and secrets only as their length."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from gateway.smart.scopes import split
from gateway.smart.server.answers import Decided
from gateway.smart.server.clients.authentication import Presented
from gateway.smart.server.requests import TokenRequest
from gateway.smart.server.token.snapshot import Snapshot
from gateway.smart.server.trial import Noted, hidden, holds_secret, redacted, shown

_SECRET = ("access_token", "refresh_token")
_ASKED = ("grant_type", "scope", "client_id", "redirect_uri", "resource", "token_type_hint")
"""Members of a request that are shown; of all others only the length."""


def token(asked: Presented, request: TokenRequest, snapshot: Snapshot, decided: Decided, ms: float) -> Noted:
    """A request to the token endpoint, and its answer decoded."""
    facts: dict[str, Any] = {
        "parameters": [[name, value if name in _ASKED and not holds_secret(value) else hidden(value)] for name, value in request.pairs],
        "grant_type": redacted(asked.form.get("grant_type", "")),
        "authenticated_by": asked.method,
        "answer": _answer(decided, snapshot),
    }
    if snapshot.grant:
        facts["allowed"] = list(split(snapshot.grant.scope))
    if decided.simulated:
        facts["simulated"] = decided.simulated
    return Noted("token", "POST", f"/auth/{snapshot.endpoints.ehr}/token", decided.status, ms, facts)


def inspected(kind: str, ehr: str, asked: Presented, request: TokenRequest, decided: Decided) -> Noted:
    """A request to introspection or revocation, and its answer."""
    facts: dict[str, Any] = {"parameters": shown(request.pairs), "authenticated_by": asked.method, "answer": dict(decided.body)}
    return Noted(kind, "POST", f"/auth/{ehr}/{kind}", decided.status, 0.0, facts)


def _answer(decided: Decided, snapshot: Snapshot) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in decided.body.items():
        if name in _SECRET:
            found[name] = hidden(value)
        elif name == "id_token":
            found[name] = decoded(value)
        else:
            found[name] = value
    if "expires_in" in decided.body:
        found["ends_at"] = (snapshot.now + timedelta(seconds=decided.body["expires_in"])).isoformat()
    if "refresh_token" in decided.body:
        found["refresh_ends_at"] = (snapshot.now + timedelta(seconds=snapshot.lifetimes.refresh)).isoformat()
    return found


def decoded(token: str) -> Mapping[str, Any]:
    """Header and claims of an id_token of ours, without what proves them."""
    try:
        header, claims, _ = token.split(".")
        return {"header": _part(header), "claims": _part(claims)}
    except (ValueError, binascii.Error):
        return {}


def _part(text: str) -> Any:
    return json.loads(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
