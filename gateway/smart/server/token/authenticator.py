"""Bearer token to Principal, for the FHIR facade. The store is read at every request, so a revocation counts at the next one."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

from gateway.errors import Unauthenticated
from gateway.smart.principal import Principal
from gateway.smart.record import RecordIn
from gateway.smart.server.token.arrival import still_counts
from gateway.smart.server.token.bearer import principal_of, refusal
from gateway.smart.server.trial import OFF, Watch, living
from gateway.store import oauth as rows
from gateway.store.base import Clock, Database, now
from gateway.store.oauth_rows import Bearer, digest

_BEARER = re.compile(r"bearer +([A-Za-z0-9._~+/-]{1,512}=*)", re.ASCII | re.IGNORECASE)  # RFC 6750 section 2.1


class Authenticator:
    """Asked by every request to an EHR's base."""

    def __init__(self, database: Database, *, record_in: RecordIn, watch: Watch = OFF, clock: Clock = now) -> None:
        self._database, self._record_in, self._watch, self._clock = database, record_in, watch, clock

    async def principal(self, ehr: str, authorization: Sequence[str]) -> Principal:
        """Who calls. `authorization` has every value of that header: exactly one, of one Bearer token (ATK-O30, F19). Raises Unauthenticated."""
        if not authorization:
            raise Unauthenticated(reason="token-missing")
        match = _BEARER.fullmatch(authorization[0].strip()) if len(authorization) == 1 else None
        if match is None:
            raise Unauthenticated(reason="token-malformed")
        bearer = await self._bearer(digest(match[1]))
        trial = await self._watch.of(bearer.grant.trial) if bearer else None
        label, fault = (trial.label, trial.fault) if trial else ("", "")
        real = refusal(bearer, ehr, self._clock())
        reason = real or refusal(bearer, ehr, self._clock(), fault)
        if reason or bearer is None:
            raise Unauthenticated("This access token does not count here.", reason=reason, trial=label, simulated="" if real else fault)
        if not await still_counts(self._database, self._record_in, bearer, self._clock()):
            raise Unauthenticated("This access token does not count here.", reason="token-disputed", trial=label)
        return principal_of(bearer, label, fault)

    async def allowed_origin(self, origin: str) -> bool:
        """Whether a registered client lives on this web origin (ATK-O29). `null` and unknown ones: no."""
        if not origin or origin == "null":
            return False
        return await rows.origin_registered(self._database.derive, origin)

    async def _bearer(self, hash_: str) -> Bearer | None:
        """The one place that looks a token up: in the store, at every request, so that what was taken back is over at once."""
        found = await rows.bearer(self._database.derive, hash_)
        return replace(found, grant=await living(found.grant, self._watch, self._clock())) if found else None
