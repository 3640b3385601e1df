"""Developers' accounts: those of `[launcher] users`, as which the launcher signs a browser in without a password. All others sign in as always."""

from __future__ import annotations

from collections.abc import Iterable

from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.smart.record import Caller, Event, RecordIn
from gateway.smart.server.people.accounts import normalised
from gateway.smart.server.people.sessions import BY_LAUNCHER, Sessions, patients_of
from gateway.store import people, people_factors
from gateway.store.base import Clock, Database, now
from gateway.store.oauth_rows import Account, ListedPatient


class Developers:
    """`users`: the names in the configuration. Empty where the launcher is off."""

    def __init__(self, database: Database, sessions: Sessions, users: Iterable[str], *, record_in: RecordIn, clock: Clock = now) -> None:
        self._database, self._sessions, self._users = database, sessions, frozenset(map(normalised, users)) - {""}
        self._record_in, self._clock = record_in, clock

    async def session_for(self, username: str, ehr: str, caller: Caller, *, replaces: str = "") -> str:
        """The secret of a new session, on record; "" for who is not listed, is closed, is of another EHR, or guards her account with more."""
        name = normalised(username)
        async with self._database.read() as connection:
            account = await people.account_named(connection, name) if name in self._users else None
            usable = account is not None and account.disabled_at is None and account.ehr == ehr and not await _guarded(connection, account)
        if account is None or not usable:
            return ""
        secret = await self._sessions.begin(account, replaces=replaces, method=BY_LAUNCHER)
        if not secret:
            return ""
        async with self._database.write() as connection:
            if not await _guarded(connection, account):  # she may have set up a second factor at this moment
                event = Event(ehr, caller, self._clock(), account=account)
                await self._record_in(connection, event.record("login", 303, detail="by the launcher, without a password"))
                return secret
        await self._sessions.end(secret, caller)
        return ""

    async def known(self, ehr: str) -> tuple[tuple[Account, tuple[ListedPatient, ...]], ...]:
        """The developers' accounts at an EHR by name, each with whom she may see, herself first. Without those that `session_for` refuses."""
        found: list[tuple[Account, tuple[ListedPatient, ...]]] = []
        async with self._database.read() as connection:
            for name in sorted(self._users):
                account = await people.account_named(connection, name)
                if account is None or account.disabled_at is not None or account.ehr != ehr or await _guarded(connection, account):
                    continue
                found.append((account, patients_of(account, await people.listed(connection, account.id))))
        return tuple(found)

    async def has(self, username: str, ehr: str) -> bool:
        """Whether this is one of them, at this EHR and not closed."""
        name = normalised(username)
        async with self._database.read() as connection:
            account = await people.account_named(connection, name) if name in self._users else None
        return account is not None and account.disabled_at is None and account.ehr == ehr


async def _guarded(connection: AsyncConnection, account: Account) -> bool:
    """Whether more than a password guards it: then it is somebody's own."""
    factor = await people_factors.totp(connection, account.id)
    return (factor is not None and factor.confirmed_at is not None) or bool(await people_factors.passkeys(connection, account.id))
