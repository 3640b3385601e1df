"""Persons who let the gateway in at their EHR: connect, come back, take it back (ADR 0011). `persons` uses what they allowed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta

from gateway.errors import UpstreamFault
from gateway.seal import Seals
from gateway.smart.client.tokens import RENEW
from gateway.smart.client.user import Asked, UserEndpoints
from gateway.smart.client.values import Failure, Granted
from gateway.smart.record import Caller, Event, RecordIn
from gateway.store import people
from gateway.store import upstream as rows
from gateway.store.base import Clock, Database, now
from gateway.store.oauth_rows import Account, digest, new_id
from gateway.store.upstream import UpstreamGrant, UpstreamRequest

PATIENCE = timedelta(minutes=15)
"""How long a person may take at the EHR."""


@dataclass(frozen=True, slots=True)
class Kept:
    """The tokens of one access, as they lie sealed in its row."""

    access_token: str
    refresh_token: str


@dataclass(frozen=True, slots=True)
class Refused:
    """Coming back from the EHR did not connect her; `reason` says why."""

    reason: str


@dataclass(frozen=True, slots=True)
class Connected:
    """She is. `then`: what `begin` was given, for where she goes on."""

    then: str = ""


class Connections:
    """At one EHR."""

    def __init__(self, endpoints: UserEndpoints, database: Database, seals: Seals, *, record_in: RecordIn, clock: Clock = now) -> None:
        self.endpoints = endpoints
        self._database, self._seals, self._record_in, self._clock = database, seals, record_in, clock

    @property
    def ehr(self) -> str:
        """Its name."""
        return self.endpoints.client.name

    async def of(self, account: Account) -> UpstreamGrant | None:
        """What she allowed; also what has ended since."""
        async with self._database.read() as connection:
            return await rows.grant_of(connection, account.id, self.ehr)

    async def has(self, account: Account) -> bool:
        """Whether there is one in force."""
        found = await self.of(account)
        return found is not None and found.ended_at is None

    async def begin(self, account: Account, session_hash: str, *, launch: str = "", then: str = "") -> str:
        """Where the browser goes. `then` comes back with `finish`. Raises UpstreamFault while the EHR cannot be asked."""
        asked = await self.endpoints.ask(launch)
        if isinstance(asked, Failure):
            raise asked.fault()
        hash_ = digest(asked.state)
        sealed = self._seals.seal(json.dumps(asdict(asked) | {"then": then}).encode(), _request_context(hash_))
        async with self._database.write() as connection:
            await rows.add_request(connection, UpstreamRequest(hash_, account.id, session_hash, self.ehr, sealed, self._clock() + PATIENCE))
        return asked.url

    async def finish(self, account: Account, session_hash: str, answer: Mapping[str, str], caller: Caller) -> Connected | Refused:
        """The EHR's answer, good or not, on record."""
        asked, then = await self._taken(answer.get("state", ""), account, session_hash)
        found = await self._judged(account, asked, answer)
        if isinstance(found, Granted):
            if await self._kept(account, session_hash, found, caller):
                return Connected(then)
            await self.endpoints.revoke(found.refresh_token or found.access_token)
            found = Refused(reason="upstream-state")
        async with self._database.write() as connection:
            event = Event(self.ehr, caller, self._clock(), account=account)
            await self._record_in(connection, event.record("upstream-connect", 403, reason=found.reason))
        return found

    async def _judged(self, account: Account, asked: Asked | None, answer: Mapping[str, str]) -> Granted | Refused:
        if asked is None:
            return Refused(reason="upstream-state")
        if not await self.endpoints.is_from(asked.issuer, answer.get("iss")):
            return Refused(reason="upstream-issuer")
        if "error" in answer or not answer.get("code"):
            return Refused(reason="upstream-declined")
        found = await self.endpoints.exchange(answer["code"], asked)
        if isinstance(found, Failure):
            return Refused(found.reason)
        if found.fhir_user != account.fhir_user:
            return Refused(reason="upstream-identity")
        return found.tokens

    async def disconnect(self, account: Account, caller: Caller) -> bool:
        """Forget it, and tell the EHR. False when there was nothing."""
        moment = self._clock()
        async with self._database.write() as connection:
            found = await rows.grant_of(connection, account.id, self.ehr)
            if found is None or not await rows.remove_grant(connection, account.id, self.ehr):
                return False
            await self._record_in(connection, Event(self.ehr, caller, moment, account=account).record("upstream-disconnect", 303))
        kept = opened(self._seals, found)
        await self.endpoints.revoke(kept.refresh_token or kept.access_token)
        return True

    async def _taken(self, state: str, account: Account, session_hash: str) -> tuple[Asked | None, str]:
        """What was asked with this state, and what was to come then. It is used up before anything else is looked at (A18.85)."""
        hash_ = digest(state)
        async with self._database.write() as connection:
            row = await rows.take_request(connection, hash_)
        if row is None or (row.account_id, row.session_hash, row.ehr) != (account.id, session_hash, self.ehr) or row.expires_at <= self._clock():
            return None, ""
        kept = json.loads(self._seals.open(row.sealed, _request_context(hash_)))
        then = str(kept.pop("then", ""))
        return Asked(**kept), then

    async def _kept(self, account: Account, session_hash: str, tokens: Granted, caller: Caller) -> bool:
        """False when she signed out, or was closed, while the EHR was asked."""
        moment, id_ = self._clock(), new_id()
        made = renewed(UpstreamGrant(id_, account.id, self.ehr, "", b"", 0, moment, moment, moment), tokens, self._seals, moment)
        async with self._database.write() as connection:
            current = await people.account_held(connection, account.id)
            if current is None or current.disabled_at is not None or not await people.hold_web_session(connection, session_hash, account.id):
                return False
            await rows.put_grant(connection, made)
            await self._record_in(connection, Event(self.ehr, caller, moment, account=account).record("upstream-connect", 303))
        return True


def renewed(grant: UpstreamGrant, tokens: Granted, seals: Seals, moment: datetime) -> UpstreamGrant:
    """The row with new tokens, of the next version. Where no refresh token came the old one stays (A18.89)."""
    old = opened(seals, grant).refresh_token if grant.sealed else ""
    kept = Kept(tokens.access_token, tokens.refresh_token or old)
    return UpstreamGrant(
        grant.id,
        grant.account_id,
        grant.ehr,
        tokens.scope or grant.scope,
        seals.seal(json.dumps(asdict(kept)).encode(), _grant_context(grant.id)),
        grant.version + 1,
        moment + timedelta(seconds=RENEW * tokens.life),
        moment + timedelta(seconds=tokens.life),
        grant.created_at,
    )


def opened(seals: Seals, grant: UpstreamGrant) -> Kept:
    """The tokens of a row. Raises UpstreamFault when they cannot be opened with the keys that are set."""
    try:
        return Kept(**json.loads(seals.open(grant.sealed, _grant_context(grant.id))))
    except ValueError as error:
        raise UpstreamFault(reason="upstream-seal-broken", code="login") from error


def _grant_context(id_: str) -> bytes:
    return f"upstream-grant:{id_}".encode()


def _request_context(hash_: str) -> bytes:
    return f"upstream-request:{hash_}".encode()
