"""What the decision about one token request may look at."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from joserfc.jwk import RSAKey

from gateway.smart.server.endpoints import Endpoints
from gateway.smart.server.lifetimes import Lifetimes
from gateway.store.oauth_rows import Account, Client, Code, Grant, ListedPatient, RefreshToken


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Everything that the decision about one token request may look at, read before it."""

    now: datetime
    endpoints: Endpoints
    lifetimes: Lifetimes
    client: Client | None = None
    client_keys: Mapping[str, Any] | None = None  # the client's JWK Set, by value or fetched
    jti_seen: bool = False
    code: Code | None = None
    refresh: RefreshToken | None = None
    replaced: RefreshToken | None = None  # the one that `refresh` replaced
    rotated_at: datetime | None = None  # when `refresh` was replaced itself
    grant: Grant | None = None  # of the code or the refresh token
    account: Account | None = None  # of the grant
    listed: tuple[ListedPatient, ...] = ()
    signing_key: RSAKey | None = None
    trial: str = ""  # the label of the trial that the request belongs to
    fault: str = ""  # what is simulated in it

    def simulates(self, fault: str) -> bool:
        """Whether this is to be pretended."""
        return self.fault == fault
