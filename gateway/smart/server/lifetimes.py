"""How long what the server gives counts."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from gateway.smart.scopes import split
from gateway.store.oauth_rows import Grant


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


def is_alive(grant: Grant, lifetimes: Lifetimes, moment: datetime) -> bool:
    """Whether some token of it can still count: its last one was issued not too long ago."""
    if grant.online_until:
        return moment < grant.online_until
    life = lifetimes.refresh if "offline_access" in split(grant.scope) else lifetimes.access
    return grant.exchanged_at is not None and moment < grant.exchanged_at + timedelta(seconds=life)
