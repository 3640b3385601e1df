"""What has access to a person's record, or signs her in, besides her password; and an end to all of it, for who fears that somebody else got in."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.smart.record import Caller, Event, RecordIn
from gateway.smart.server.lifetimes import Lifetimes, is_alive
from gateway.smart.server.people.sessions import Visitor, renew_in
from gateway.store import consents, people_factors
from gateway.store import oauth as rows
from gateway.store.base import Clock, Database, now
from gateway.store.oauth_rows import Account


@dataclass(frozen=True, slots=True)
class Standing:
    """How many apps have access, how many get it without asking, how many passkeys there are, and whether there is an authenticator app."""

    apps: int
    unasked: int
    passkeys: int
    app: bool

    def __bool__(self) -> bool:
        """Whether there is anything."""
        return bool(self.apps or self.unasked or self.passkeys or self.app)


class Endings:
    """Counts it, and ends it."""

    def __init__(self, database: Database, *, record_in: RecordIn, lifetimes: Lifetimes, clock: Clock = now) -> None:
        self._database, self._record_in = database, record_in
        self._lifetimes, self._clock = lifetimes, clock

    async def of(self, account: Account) -> Standing:
        """What there is."""
        async with self._database.read() as connection:
            return await self._standing(connection, account)

    async def end_all(self, visitor: Visitor, caller: Caller) -> str:
        """End all of it, and her other sessions. The session's new secret. Her address for messages stays: by it she was reached."""
        account, moment = visitor.account, self._clock()
        async with self._database.write() as connection:
            secret = await renew_in(connection, visitor, moment)  # first: it waits for a consent that is under way
            found = await self._standing(connection, account)
            await rows.end_access(connection, moment, "person", account_id=account.id)
            await people_factors.remove_factors(connection, account.id)
            await people_factors.end_pending_of(connection, account.id)
            detail = f"{found.apps} apps, {found.unasked} remembered, {found.passkeys} passkeys, {int(found.app)} authenticator"
            await self._record_in(connection, Event(account.ehr, caller, moment, account=account).record("access-end", 303, detail=detail))
        return secret

    async def _standing(self, connection: AsyncConnection, account: Account) -> Standing:
        moment = self._clock()
        apps = [one for one in await rows.grants_of(connection, account.id) if is_alive(one, self._lifetimes, moment)]
        unasked = await consents.remembered_of(connection, account.id, moment)
        passkeys, totp = await people_factors.passkeys(connection, account.id), await people_factors.totp(connection, account.id)
        return Standing(len(apps), len(unasked), len(passkeys), totp is not None and totp.confirmed_at is not None)
