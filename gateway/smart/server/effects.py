"""What a decision about a request has to have committed before its answer is given: each by compare-and-set, so that it can be lost."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from gateway.store.oauth_rows import AccessToken, Grant, RefreshToken


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
