"""What a person allowed, for her list of connected apps, and taking it back (A8.48: at the next request)."""

from __future__ import annotations

from dataclasses import dataclass

from gateway.smart.record import Caller, Event, RecordIn
from gateway.smart.scopes import split
from gateway.smart.server.lifetimes import Lifetimes, is_alive
from gateway.store import consents, people
from gateway.store import oauth as rows
from gateway.store.base import Clock, Database, now
from gateway.store.oauth_rows import Account, Grant, RememberedConsent


@dataclass(frozen=True, slots=True)
class Connected:
    """One app with access."""

    grant: Grant
    client_name: str

    @property
    def scopes(self) -> tuple[str, ...]:
        """What was granted."""
        return split(self.grant.scope)

    @property
    def offline(self) -> bool:
        """Whether it goes on when nobody is signed in."""
        return "offline_access" in self.scopes


@dataclass(frozen=True, slots=True)
class Unasked:
    """An app that does not ask her again."""

    kept: RememberedConsent
    client_name: str


class Grants:
    """Lists and takes back: access that is in force, and what she does not want to be asked again."""

    def __init__(self, database: Database, *, record_in: RecordIn, lifetimes: Lifetimes, clock: Clock = now) -> None:
        self._database, self._record_in = database, record_in
        self._lifetimes, self._clock = lifetimes, clock

    async def of(self, account: Account) -> tuple[Connected, ...]:
        """What is in force, newest first."""
        moment = self._clock()
        found: list[Connected] = []
        async with self._database.read() as connection:
            for grant in await rows.grants_of(connection, account.id):
                client = await rows.client(connection, grant.client_id)
                if client and client.may_use(grant.ehr):
                    found.append(Connected(grant, client.name))
        return tuple(one for one in found if is_alive(one.grant, self._lifetimes, moment))

    async def unasked(self, account: Account) -> tuple[Unasked, ...]:
        """The apps that get what she chose once without asking again, newest first."""
        found: list[Unasked] = []
        async with self._database.read() as connection:
            for kept in await consents.remembered_of(connection, account.id, self._clock()):
                client = await rows.client(connection, kept.client_id)
                if client and client.may_use(kept.ehr):
                    found.append(Unasked(kept, client.name))
        return tuple(found)

    async def forget(self, account: Account, consent_id: str, caller: Caller) -> bool:
        """Ask her again. What is in force stays. False when there is no such choice of hers."""
        moment = self._clock()
        async with self._database.write() as connection:
            kept = next((one for one in await consents.remembered_of(connection, account.id, moment) if one.id == consent_id), None)
            if kept is None or not await consents.forget(connection, kept.id, account.id):
                return False
            event = Event(kept.ehr, caller, moment, await rows.client(connection, kept.client_id), account)
            await self._record_in(connection, event.record("consent-forget", 303, patient=kept.patient))
        return True

    async def revoke(self, account: Account, grant_id: str, caller: Caller) -> bool:
        """End a grant of this person and all its tokens, and ask her again from now on. False when there is none of hers in force."""
        moment = self._clock()
        async with self._database.write() as connection:
            grant = await rows.grant(connection, grant_id)
            await people.lock_account(connection, account.id)  # what she chose once and for all gives nothing from here on
            if grant is None or not await rows.revoke_grant(connection, grant_id, moment, "person", account_id=account.id):
                return False
            event = Event(grant.ehr, caller, moment, await rows.client(connection, grant.client_id), account)
            forgotten = await consents.forget_app(connection, account_id=account.id, client_id=grant.client_id, ehr=grant.ehr)
            detail = "asked again from now on" if forgotten else ""
            await self._record_in(connection, event.record("revoke", 303, patient=grant.patient, detail=detail))
        return True
