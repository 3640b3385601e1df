"""Signed-in browsers. The cookie holds 256 random bits; the store holds their hash.

A new one is made at every sign-in, and whenever what signs a person in was changed (ATK-O19).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.smart.record import Caller, Event, RecordIn
from gateway.smart.server.people.relationships import may_act_on
from gateway.store import known_browsers, people, people_factors
from gateway.store.base import Clock, Database, now
from gateway.store.oauth_rows import Account, ListedPatient, WebSession, digest, new_secret

BY_LAUNCHER = "launcher"
"""The method of a session that the launcher began without a password (`people.developers`)."""
BY_PROVIDER, BY_PROVIDER_ANEW = "provider", "provider-anew"
"""The methods of a session that an outside provider began: as it knew her, whenever she signed in there; or after it was told to ask her anew."""
_TOUCH = 30  # seconds: a session's last use is not written more often


class SessionOver(Exception):
    """It was ended meanwhile: nothing of what was to be changed counts. The transaction that it leaves is rolled back."""


@dataclass(frozen=True, slots=True)
class SessionLives:
    """In seconds (portal feature F43)."""

    idle: int = 15 * 60
    absolute: int = 12 * 3600
    fresh: int = 5 * 60  # how recent a sign-in has to be for what changes how she signs in


@dataclass(frozen=True, slots=True)
class Visitor:
    """Who sits at a browser: the session, the person, and the patients that are listed for her."""

    session: WebSession
    account: Account
    listed: tuple[ListedPatient, ...]

    @property
    def patients(self) -> tuple[ListedPatient, ...]:
        """Whose record she may open, her own first."""
        return patients_of(self.account, self.listed)

    @property
    def patient(self) -> str:
        """Whose record is open: the one she chose, if she still may; else the first. Staff has to choose."""
        chosen = self.session.patient
        if chosen and may_act_on(self.account, self.listed, chosen, launched=False):
            return chosen
        return "" if self.account.is_practitioner or not self.patients else self.patients[0].patient


def patients_of(account: Account, listed: Iterable[ListedPatient]) -> tuple[ListedPatient, ...]:
    """Whose record an account may open, its own first."""
    own = account.own_patient
    mine = (ListedPatient(own, account.display_name),) if own else ()
    return (*mine, *(one for one in listed if one.patient != own))


class Sessions:
    """Begin, look up, end."""

    def __init__(
        self, database: Database, *, record_in: RecordIn, developers: Iterable[str] = (), lives: SessionLives | None = None, clock: Clock = now
    ) -> None:
        """`developers`: the normalised names of the accounts whose sessions the launcher may begin. Empty where it is off."""
        self._database, self._record_in, self._developers = database, record_in, frozenset(developers)
        self._lives, self._clock = lives or SessionLives(), clock

    async def begin(self, account: Account, *, replaces: str = "", method: str = "password", passkey: str = "") -> str:
        """The secret of a new session, or "" when the account is not any more what was judged: another password, closed, or without that `passkey`.

        `replaces` is the one that the browser had until now; the same person goes on with the same record.
        """
        secret, moment = new_secret(), self._clock()
        async with self._database.write() as connection:
            if not await people.hold_account(connection, account):
                return ""  # else a sign-in with the old password, judged before it was replaced, would outlive it
            if passkey and await people_factors.passkey(connection, passkey) is None:
                return ""  # likewise with one that she took away
            before = await people.web_session(connection, digest(replaces)) if replaces else None
            patient = before.patient if before and before.account_id == account.id else ""
            if before and before.account_id != account.id:
                await people.lock_account(connection, before.account_id)  # before the session and what apps had by it, as in `end`
            if replaces:
                await people.end_web_session(connection, digest(replaces))
            if before and before.account_id != account.id:
                await people.end_online_access(connection, before.account_id, moment)
            await people.add_web_session(connection, WebSession(digest(secret), account.id, moment, moment, patient, method))
        return secret

    async def remember_browser(self, account: Account, secret: str = "") -> str:
        """She signed in there: from now on strangers do not lock her out of this browser. The secret that it keeps, the one it had or a new one."""
        kept = secret or new_secret()
        async with self._database.write() as connection:
            await known_browsers.remember(connection, account.id, digest(kept), self._clock())
        return kept

    def is_fresh(self, visitor: Visitor) -> bool:
        """Whether she signed in just now, herself: what changes how she signs in needs that."""
        if visitor.session.method == BY_LAUNCHER:
            return False
        return self._clock() - visitor.session.created_at < timedelta(seconds=self._lives.fresh)

    async def current(self, secret: str) -> Visitor | None:
        """The visitor with this cookie, while the session is alive and the account may be used."""
        if not secret:
            return None
        moment, hash_ = self._clock(), digest(secret)
        async with self._database.read() as connection:
            session = await people.web_session(connection, hash_)
            account = await people.account(connection, session.account_id) if session else None
            listed = await people.listed(connection, account.id) if account else ()
        if session is None or account is None or account.disabled_at is not None or not self._alive(session, moment):
            return None
        if session.method == BY_LAUNCHER and account.username not in self._developers:
            return None  # the launcher is off now, or she is none of its users any more
        if moment - session.seen_at >= timedelta(seconds=_TOUCH):
            async with self._database.write() as connection:
                await people.touch_web_session(connection, hash_, moment)
        return Visitor(session, account, listed)

    async def pick(self, visitor: Visitor, patient: str) -> bool:
        """Open this patient's record from now on. False when it is not hers to open."""
        if not may_act_on(visitor.account, visitor.listed, patient, launched=False):
            return False
        async with self._database.write() as connection:
            return await people.pick_session_patient(connection, visitor.session.hash, patient)

    async def all_of(self, account: Account) -> tuple[WebSession, ...]:
        """Where this person is signed in, the latest first."""
        moment = self._clock()
        async with self._database.read() as connection:
            found = await people.web_sessions_of(connection, account.id)
        return tuple(one for one in found if self._alive(one, moment))

    async def end_all(self, visitor: Visitor, caller: Caller) -> None:
        """Sign out everywhere, here too."""
        account, moment = visitor.account, self._clock()
        async with self._database.write() as connection:
            await people.lock_account(connection, account.id)  # first, as `renew_in` does: none of the two waits for the other
            await people.end_web_sessions_of(connection, account.id, moment)
            await people_factors.end_pending_of(connection, account.id)
            await self._record_in(connection, Event(account.ehr, caller, moment, account=account).record("logout", 303, detail="everywhere"))

    async def end(self, secret: str, caller: Caller) -> None:
        """Sign out."""
        async with self._database.write() as connection:
            session = await people.web_session(connection, digest(secret))
            if session is None:
                return
            account = await people.account(connection, session.account_id)
            moment = self._clock()
            await people.lock_account(connection, session.account_id)  # client, account, session, grants: in this order everywhere
            await people.end_web_session(connection, session.hash)
            await people.end_online_access(connection, session.account_id, moment)
            event = Event(account.ehr if account else "", caller, moment, account=account)
            await self._record_in(connection, event.record("logout", 303))

    def _alive(self, session: WebSession, moment: datetime) -> bool:
        idle, absolute = timedelta(seconds=self._lives.idle), timedelta(seconds=self._lives.absolute)
        return moment - session.seen_at < idle and moment - session.created_at < absolute


async def renew_in(connection: AsyncConnection, visitor: Visitor, at: datetime) -> str:
    """The new secret of this session, in the caller's transaction; all other sessions of the person end, and what apps had for as long as they last.

    Raises SessionOver when it was ended since the visitor was read: somebody whose session is over changes nothing.
    """
    secret = new_secret()
    await people.lock_account(connection, visitor.account.id)  # whoever renews another of her sessions waits
    if not await people.rename_web_session(connection, visitor.session.hash, digest(secret)):
        raise SessionOver
    await people.end_other_web_sessions(connection, visitor.account.id, keep=digest(secret))
    await people.end_online_access(connection, visitor.account.id, at)  # last: a consent that was under way in one of them is there by now
    return secret
