"""What a person allowed, for her list of connected apps, and taking it back (A8.48: at the next request)."""

from __future__ import annotations

from dataclasses import dataclass

from gateway.smart.server.values import Caller, Clock, Event, RecordIn
from gateway.store import oauth as rows
from gateway.store.base import Database, now
from gateway.store.oauth_rows import Account, Grant


@dataclass(frozen=True, slots=True)
class Connected:
    """One app with access."""

    grant: Grant
    client_name: str


class Grants:
    """Lists and revokes."""

    def __init__(self, database: Database, *, record_in: RecordIn, clock: Clock = now) -> None:
        self._database, self._record_in, self._clock = database, record_in, clock

    async def of(self, account: Account) -> tuple[Connected, ...]:
        """What is in force, newest first."""
        async with self._database.read() as connection:
            found: list[Connected] = []
            for grant in await rows.grants_of(connection, account.id):
                client = await rows.client(connection, grant.client_id)
                found.append(Connected(grant, client.name if client else grant.client_id))
            return tuple(found)

    async def revoke(self, account: Account, grant_id: str, caller: Caller) -> bool:
        """End a grant of this person and all its tokens. False when there is none of hers in force."""
        moment = self._clock()
        async with self._database.write() as connection:
            grant = await rows.grant(connection, grant_id)
            if grant is None or not await rows.revoke_grant(connection, grant_id, moment, "person", account_id=account.id):
                return False
            event = Event(grant.ehr, caller, moment, await rows.client(connection, grant.client_id), account)
            await self._record_in(connection, event.record("revoke", 303, patient=grant.patient))
        return True
