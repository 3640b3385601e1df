"""A person's token for each call to her EHR: renewed in time and once among all processes; what her view is called in the cache (ADR 0011).

It implements the `Auth` of `adapters.ehr` and the `Upstream` of `proxy.pipeline`.
"""

from __future__ import annotations

import asyncio
import math
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import structlog

from gateway.errors import FhirError, Forbidden, Unavailable
from gateway.seal import Seals
from gateway.smart.client.connections import Kept, opened, renewed
from gateway.smart.client.tokens import PAUSE, SPACING
from gateway.smart.client.user import Ended, UserEndpoints
from gateway.smart.client.values import Failure, Granted
from gateway.smart.record import Caller, Event, RecordIn
from gateway.store import people
from gateway.store import upstream as rows
from gateway.store.base import Clock, Database, now
from gateway.store.oauth_rows import digest
from gateway.store.upstream import UpstreamGrant

_LOOK = 0.1  # seconds between two looks at what another process does
_PATIENCE = 20.0  # seconds to wait for it
_MANY = 10_000  # persons whose refused tokens are remembered
_SAVES = 5  # tries to keep tokens that cannot be asked for again

log = structlog.get_logger("gateway.ehr")


class Turns(Protocol):
    """Whose turn it is, among all processes (`store.turns`)."""

    async def take(self, key: str, holder: str) -> bool:
        """Take it, if nobody has it."""
        ...

    async def leave(self, key: str, holder: str) -> None:
        """Let the next one go."""
        ...


@dataclass(frozen=True, slots=True)
class _Paused:
    """After a failure: until when (monotonic) nothing is asked, and why."""

    until: float
    failure: Failure


@dataclass(frozen=True, slots=True)
class _Refused:
    """A token that the EHR refused, and when."""

    hash: str
    at: float


class PersonTokens:
    """At one EHR. `where` is the address at which a person connects."""

    def __init__(
        self, endpoints: UserEndpoints, database: Database, seals: Seals, turns: Turns, *, where: str, record_in: RecordIn, clock: Clock = now
    ) -> None:
        self.endpoints = endpoints
        self._database, self._seals, self._turns = database, seals, turns
        self._where, self._record_in, self._clock = where, record_in, clock
        self._flights: dict[str, asyncio.Task[Kept | FhirError]] = {}
        self._refused: dict[str, _Refused] = {}
        self._paused: dict[str, _Paused] = {}

    async def view(self, person: str) -> str:
        """What her view of the EHR is called: of this access alone. Raises Forbidden when there is none, UpstreamFault while it cannot be told.

        A token that is over is renewed first: what is cached is given only to somebody who could have it fresh.
        """
        grant = await self._grant(person)
        if self._clock() >= grant.ends_at:
            await self._new(grant, opened(self._seals, grant))
        return f"upstream:{grant.id}"

    async def headers(self, person: str = "") -> Mapping[str, str]:
        """Her token; nothing for what anybody may ask (/metadata). Raises Forbidden when she has to connect, UpstreamFault while there is none."""
        if not person:
            return {}
        grant = await self._grant(person)
        kept, moment = opened(self._seals, grant), self._clock()
        if moment >= grant.ends_at or self._is_refused(person, kept):
            kept = await self._new(grant, kept)
        elif moment >= grant.renew_at and kept.refresh_token and self._paused_for(grant.id) <= 0:
            self._begun(grant)
        return _sent(kept)

    def refused(self, headers: Mapping[str, str], person: str = "") -> bool:
        """The EHR answered 401: her token is replaced, but not more often than every few seconds."""
        known, moment = self._refused.get(person), time.monotonic()
        hash_ = digest(headers.get("Authorization", ""))
        if not person or (known and known.hash != hash_ and moment < known.at + SPACING):
            return False
        if known is None or known.hash != hash_:
            if len(self._refused) >= _MANY:
                self._refused.clear()
            self._refused[person] = _Refused(hash_, moment)
        return True

    async def close(self) -> None:
        """End the refreshes that are under way."""
        running = {one for one in self._flights.values() if not one.done()}
        for one in running:
            one.cancel()
        if running:
            await asyncio.wait(running)

    # Which access -----------------------------------------------------------------------------------------------------------

    async def _grant(self, person: str) -> UpstreamGrant:
        found = await self._row(person)
        if found is None:
            raise self._over("upstream-not-connected")
        if found.ended_at is not None:
            raise self._over("upstream-ended")
        return found

    async def _row(self, person: str) -> UpstreamGrant | None:
        async with self._database.read() as connection:
            return await rows.grant_of(connection, person, self.endpoints.client.name)

    def _over(self, reason: str) -> Forbidden:
        return Forbidden(f"The person has to connect to the health record system again: {self._where}", reason=reason)

    def _is_refused(self, person: str, kept: Kept) -> bool:
        known = self._refused.get(person)
        return known is not None and known.hash == digest(_sent(kept)["Authorization"])

    def _paused_for(self, id_: str) -> float:
        return self._paused[id_].until - time.monotonic() if id_ in self._paused else 0.0

    # Renewing ---------------------------------------------------------------------------------------------------------------

    async def _new(self, grant: UpstreamGrant, kept: Kept) -> Kept:
        """The refresh that is on its way, or a new one; at once a fault in the pause after a failure."""
        if not kept.refresh_token:
            if self._clock() < grant.ends_at:
                return kept  # refused, and all there is: what the EHR says to it is the answer
            await self._ended(grant)
            raise self._over("upstream-ended")
        if grant.id not in self._flights and (wait := self._paused_for(grant.id)) > 0:
            raise self._paused[grant.id].failure.fault(retry_after=max(1, math.ceil(wait)))
        flight = self._begun(grant)
        await asyncio.wait({flight})  # who gives up does not end it for the others
        found = Failure(reason="ehr-token-down").fault() if flight.cancelled() else flight.result()
        if isinstance(found, FhirError):
            raise found
        return found

    def _begun(self, grant: UpstreamGrant) -> asyncio.Task[Kept | FhirError]:
        """One for each access in this process."""
        if grant.id not in self._flights:
            flight = asyncio.create_task(self._renewed(grant), name="token of a person")
            self._flights[grant.id] = flight
            flight.add_done_callback(lambda _: self._flights.pop(grant.id, None))
        return self._flights[grant.id]

    async def _renewed(self, grant: UpstreamGrant) -> Kept | FhirError:
        """One among all processes: by turns, and whoever waited finds what the other did."""
        key, holder = digest(f"upstream:{grant.id}"), uuid.uuid4().hex
        deadline = time.monotonic() + _PATIENCE
        try:
            while not await self._turns.take(key, holder):
                if time.monotonic() > deadline:
                    return Failure(reason="ehr-token-timeout", timeout=True).fault()
                await asyncio.sleep(_LOOK)
            try:
                return await self._in_turn(grant)
            finally:
                await self._turns.leave(key, holder)
        except FhirError as error:  # a value, since nobody may be waiting for it
            return error

    async def _in_turn(self, grant: UpstreamGrant) -> Kept:
        current = await self._grant(grant.account_id)
        kept = opened(self._seals, current)
        if (current.id, current.version) != (grant.id, grant.version):
            return kept
        found = await self.endpoints.refresh(kept.refresh_token)
        match found:
            case Ended():
                await self._ended(current)
                raise self._over("upstream-ended")
            case Failure():
                self._paused[grant.id] = _Paused(time.monotonic() + (found.retry_after or PAUSE), found)
                log.warning("ehr-token", ehr=grant.ehr, reason_id=found.reason, told=found.told)
                raise found.fault()
            case Granted():
                self._paused.pop(grant.id, None)
                return await self._saved(renewed(current, found, self._seals, self._clock()))

    async def _saved(self, grant: UpstreamGrant) -> Kept:
        """Tokens that cannot be asked for again: a store that is away for a moment is tried again."""
        for left in reversed(range(_SAVES)):
            try:
                async with self._database.write() as connection:
                    mine = await rows.replace_tokens(connection, grant)
                break
            except Unavailable:
                if not left:
                    raise
                await asyncio.sleep(_LOOK)
        else:
            raise AssertionError  # the last one raises or breaks
        # She connected anew or took it back meanwhile: what is there now counts. A commit whose confirmation was lost is found by its version.
        return opened(self._seals, grant) if mine else opened(self._seals, await self._grant(grant.account_id))

    async def _ended(self, grant: UpstreamGrant) -> None:
        moment = self._clock()
        async with self._database.write() as connection:
            if not await rows.end_grant(connection, grant.id, grant.version, moment):
                return
            account = await people.account(connection, grant.account_id)
            await self._record_in(connection, Event(grant.ehr, Caller(), moment, account=account).record("upstream-end", 200))


def _sent(kept: Kept) -> dict[str, str]:
    return {"Authorization": f"Bearer {kept.access_token}"}
