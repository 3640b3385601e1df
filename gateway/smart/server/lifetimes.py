"""How long what the server gives counts."""

from __future__ import annotations

from dataclasses import dataclass


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
