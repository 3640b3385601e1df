"""What travels in the client: a failure, a token, and what a token endpoint said. Pure."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from gateway.errors import UpstreamFault, UpstreamTimeout
from gateway.fhir.outcome import pause
from gateway.smart.http import Answer, NoAnswer

_CODES = frozenset({
    "invalid_client", "invalid_grant", "invalid_request", "invalid_scope", "unauthorized_client", "unsupported_grant_type",
    "access_denied", "server_error", "temporarily_unavailable",
})  # fmt: skip
"""Codes of RFC 6749 sections 4.1.2.1 and 5.2: all that is kept of what an EHR says about a refusal."""
_VISIBLE = re.compile(r"[!-~]{1,8000}", re.ASCII)
"""What may follow `Bearer ` in a header (RFC 6749 appendix A.12, without the space)."""
_UNSAID = 60
"""Seconds that a token counts whose life is not said. RFC 6749 only recommends expires_in."""
_LONGEST = 86_400


@dataclass(frozen=True, slots=True)
class Failure:
    """Why there is no token. `told` is the OAuth error code, when the EHR gave one that is known; `retry_after` in seconds."""

    reason: str
    told: str = ""
    retry_after: int | None = None
    timeout: bool = False

    def fault(self, retry_after: int | None = None) -> UpstreamFault:
        """As an error for a caller: nothing of the EHR's words. `login`: the trouble is the gateway's own sign-in (FAULT-U21)."""
        kind = UpstreamTimeout if self.timeout else UpstreamFault
        return kind(reason=self.reason, code="login", retry_after=self.retry_after if retry_after is None else retry_after)


@dataclass(frozen=True, slots=True)
class Granted:
    """What a token endpoint gave. `life` in seconds; `scope` as granted."""

    access_token: str = field(repr=False)
    life: float
    scope: str
    refresh_token: str = field(default="", repr=False)
    more: Mapping[str, Any] = field(default_factory=dict[str, Any], repr=False)


def unanswered(error: NoAnswer) -> Failure:
    """No whole answer, as a failure of the token endpoint."""
    if error.timeout:
        return Failure(reason="ehr-token-timeout", timeout=True)
    return Failure(reason="ehr-token-untrusted") if error.untrusted else Failure(reason="ehr-token-down")


def granted(answer: Answer, asked: str) -> Granted | Failure:
    """What a token endpoint's answer means (RFC 6749 sections 5.1 and 5.2). `asked` is the scope that was asked for."""
    if answer.status in (200, 201) and answer.document is not None:
        return _token(answer.document, asked)
    wait = pause(answer.headers.get("retry-after", ""))
    if answer.status == 429:
        return Failure(reason="ehr-token-throttled", retry_after=wait)
    if answer.status >= 500:
        return Failure(reason="ehr-token-down", retry_after=wait)
    if answer.status in (400, 401, 403):  # an expired refresh token is a 403 at one launcher
        said = answer.document.get("error") if answer.document else None
        return Failure(reason="ehr-token-refused", told=said if isinstance(said, str) and said in _CODES else "")
    return Failure(reason="ehr-token-unusable")


def _token(document: Mapping[str, Any], asked: str) -> Granted | Failure:
    token, kind, scope = document.get("access_token"), document.get("token_type"), document.get("scope")
    life, refresh = _life(document.get("expires_in")), document.get("refresh_token")
    if not isinstance(token, str) or not _VISIBLE.fullmatch(token) or not isinstance(kind, str) or kind.lower() != "bearer" or life is None:
        return Failure(reason="ehr-token-unusable")
    return Granted(
        access_token=token,
        life=life,
        scope=scope if isinstance(scope, str) else asked,  # RFC 6749 section 5.1: absent when it is what was asked for
        refresh_token=refresh if isinstance(refresh, str) else "",
        more=document,
    )


def _life(said: Any) -> float | None:
    """Seconds; a number in quotes is seen too. None for what is no length of time."""
    if said is None:
        return _UNSAID
    if isinstance(said, str) and said.isascii() and said.isdecimal():
        said = int(said[:9])
    if isinstance(said, bool) or not isinstance(said, int | float) or not math.isfinite(said):
        return None
    return float(min(max(said, 0), _LONGEST))
