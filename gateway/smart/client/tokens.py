"""The gateway's own token at one EHR: kept in this process, renewed in time and once, and never waited for while a good one is there.

It implements the `Auth` of `adapters.ehr`. Why in memory and not in the store: ADR 0009.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field

from gateway.smart.client.values import Failure, Granted

RENEW = 0.75
"""The part of its life after which a new one is asked for, beside the requests that go on with it."""
MARGIN = 0.05
"""The part of its life before its end in which it is not sent any more: it would run out on the way."""
LEAST = 1.0
"""Seconds that each token is used, whatever it says: one that is over at once may not cost a token request for each FHIR request."""
SPACING = 10.0
"""Seconds in which one refusal is answered by a new token. An EHR that says 401 where it means 403 costs no more than that."""
PAUSE = 2.0
"""Seconds until a failed request is repeated; each further failure doubles it."""
LONGEST = 30.0

Fetch = Callable[[], Awaitable[Granted | Failure]]


@dataclass(frozen=True, slots=True)
class Token:
    """`headers` go with each call. From `renew_at` on a new one is wanted, from `ends_at` on it is not sent; both on the monotonic clock."""

    headers: Mapping[str, str] = field(repr=False)
    renew_at: float
    ends_at: float


def token(found: Granted, *, asked_at: float) -> Token:
    """Its life counts from when it was asked for: what the answer took on the way is not added."""
    life = max(found.life, LEAST)
    return Token({"Authorization": f"Bearer {found.access_token}"}, asked_at + RENEW * life, asked_at + (1 - MARGIN) * life)


class Tokens:
    """One at a time. `fetch` makes one token request."""

    def __init__(self, fetch: Fetch, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._fetch, self._clock = fetch, clock
        self._token: Token | None = None
        self._flight: asyncio.Task[Token | Failure] | None = None
        self._failure = Failure(reason="ehr-token-down")
        self._pause = 0.0
        self._not_before = -math.inf
        self._refused_at = -math.inf

    async def headers(self, person: str = "") -> Mapping[str, str]:
        """The Authorization header, the same for everybody. Raises UpstreamFault while there is no token to be had."""
        del person
        found, moment = self._token, self._clock()
        if found is None or moment >= found.ends_at:
            found = await self._new()
        elif moment >= found.renew_at and moment >= self._not_before:
            self._begun()
        return found.headers

    def refused(self, headers: Mapping[str, str], person: str = "") -> bool:
        """The EHR answered 401 to these. True: ask again, another token is there or on its way."""
        del person
        found, moment = self._token, self._clock()
        if found is None or found.headers != headers:
            return True
        if moment < self._refused_at + SPACING:
            return False
        self._refused_at, self._token = moment, None
        return True

    async def close(self) -> None:
        """End the request that is under way."""
        if self._flight is not None and not self._flight.done():
            self._flight.cancel()
            await asyncio.wait({self._flight})

    async def _new(self) -> Token:
        """The one that is on its way, or a new one; at once a fault in the pause after a failure."""
        if self._flight is None or self._flight.done():
            wait = self._not_before - self._clock()
            if wait > 0:
                raise self._failure.fault(retry_after=max(1, math.ceil(wait)))
        flight = self._begun()
        await asyncio.wait({flight})  # who gives up does not end it for the others
        found = Failure(reason="ehr-token-down") if flight.cancelled() else flight.result()
        if isinstance(found, Failure):
            raise found.fault()
        return found

    def _begun(self) -> asyncio.Task[Token | Failure]:
        if self._flight is None or self._flight.done():
            self._flight = asyncio.create_task(self._renewed(), name="token of an EHR")
        return self._flight

    async def _renewed(self) -> Token | Failure:
        asked_at = self._clock()
        found = await self._fetch()
        if isinstance(found, Failure):
            return self._failed(found)
        self._token = token(found, asked_at=asked_at)
        self._pause = 0.0
        return self._token

    def _failed(self, failure: Failure) -> Failure:
        """The EHR's own Retry-After counts; else each pause is twice the last."""
        self._pause = min(max(2 * self._pause, PAUSE), LONGEST)
        wait = self._pause if failure.retry_after is None else max(float(failure.retry_after), PAUSE)
        self._not_before = self._clock() + wait
        self._failure = failure
        return Failure(failure.reason, failure.told, math.ceil(wait), failure.timeout)
