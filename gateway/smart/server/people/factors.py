"""The second factor: an authenticator app, and recovery codes for the day on which it is lost.

After the right password of a person with a second factor no session begins. What waits is a row that belongs to the browser: five minutes, five
tries. A code is judged and used in one transaction, so it counts once however many send it at the same time.
"""

from __future__ import annotations

import re
import secrets
from dataclasses import dataclass
from datetime import timedelta

from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.seal import Seals
from gateway.smart.record import Caller, Event, RecordIn
from gateway.smart.server.attempts import Attempts, count, forgive, limits_of_factor
from gateway.smart.server.people import totp
from gateway.smart.server.people.sessions import Visitor, renew_in
from gateway.store import people, people_factors
from gateway.store.base import Clock, Database, now
from gateway.store.oauth_rows import Account, digest
from gateway.store.people_factors import Passkey, Pending, Totp

RECOVERY_CODES = 10
_ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"  # Crockford's base 32: no I, L, O, U
_LENGTH = 16  # characters: 80 random bits, so that a plain hash is enough
_LIFE = timedelta(minutes=5)
_TRIES = 5


@dataclass(frozen=True, slots=True)
class Factored:
    """How a person signs in besides her password."""

    app: bool
    codes_left: int
    passkeys: tuple[Passkey, ...]


@dataclass(frozen=True, slots=True)
class Enrolled:
    """Recovery codes for an authenticator app that counts. They are shown once; `secret` is the session's new one."""

    codes: tuple[str, ...]
    secret: str


@dataclass(frozen=True, slots=True)
class Passed:
    """Somebody may sign in. `method` is how, as `WebSession` lists it; `passkey`: the hash of the one that was used, or ""."""

    account: Account
    method: str
    passkey: str = ""


@dataclass(frozen=True, slots=True)
class WrongCode:
    """Not the code, or one that was used."""


@dataclass(frozen=True, slots=True)
class Over:
    """Too late, too many tries, or nothing was begun in this browser: she begins anew."""


@dataclass(frozen=True, slots=True)
class FactorLocked:
    """Too many wrong codes. Seconds until the next one counts."""

    retry_after: int


class Factors:
    """Enrol, judge, take away."""

    def __init__(self, database: Database, seals: Seals, *, record_in: RecordIn, attempts: Attempts | None = None, clock: Clock = now) -> None:
        self._database, self._seals, self._record_in = database, seals, record_in
        self._attempts, self._clock = attempts or Attempts(), clock

    async def of(self, account: Account) -> Factored:
        """What this person has."""
        async with self._database.read() as connection:
            app = await people_factors.totp(connection, account.id)
            left = await people_factors.recovery_codes_left(connection, account.id)
            return Factored(app is not None and app.confirmed_at is not None, left, await people_factors.passkeys(connection, account.id))

    # Enrolment

    async def begin_app(self, account: Account) -> bool:
        """Make a secret for an app; it counts once a code confirmed it. False when the person has an app: it is taken away first."""
        row = Totp(account.id, self._seals.seal(totp.new_secret(), _context(account.id)), self._clock())
        async with self._database.write() as connection:
            return await people_factors.begin_totp(connection, row)

    async def waiting_secret(self, account: Account) -> bytes | None:
        """The secret that waits for its first code."""
        async with self._database.read() as connection:
            row = await people_factors.totp(connection, account.id)
        return self._opened(row) if row and row.confirmed_at is None else None

    async def confirm_app(self, visitor: Visitor, entered: str, caller: Caller) -> Enrolled | None:
        """The first code. None: it is not right, or nothing waits for one."""
        account, moment = visitor.account, self._clock()
        async with self._database.write() as connection:
            row = await people_factors.totp(connection, account.id)
            step = totp.step_of(self._opened(row), entered, moment) if row and row.confirmed_at is None else None
            if row is None or step is None or not await people_factors.confirm_totp(connection, row, at=moment, step=step):
                return None
            codes = await self._new_codes(connection, account)
            await self._record_in(connection, Event(account.ehr, caller, moment, account=account).record("factor-add", 303, detail="totp"))
            return Enrolled(codes, await renew_in(connection, visitor, moment))

    async def renew_codes(self, visitor: Visitor, caller: Caller) -> Enrolled | None:
        """Ten new recovery codes; the old ones are worth nothing any more. None for who has no app."""
        account, moment = visitor.account, self._clock()
        async with self._database.write() as connection:
            row = await people_factors.totp(connection, account.id)
            if row is None or row.confirmed_at is None:
                return None
            codes = await self._new_codes(connection, account)
            await self._record_in(connection, Event(account.ehr, caller, moment, account=account).record("recovery-codes", 200))
            return Enrolled(codes, await renew_in(connection, visitor, moment))

    async def remove_app(self, visitor: Visitor, caller: Caller) -> str:
        """The password is enough again. The session's new secret, or "" when there was no app."""
        account, moment = visitor.account, self._clock()
        async with self._database.write() as connection:
            if not await people_factors.remove_totp(connection, account.id):
                return ""
            await people_factors.set_recovery_codes(connection, account.id, ())
            event = Event(account.ehr, caller, moment, account=account)
            await self._record_in(connection, event.record("factor-remove", 303, detail="totp"))
            return await renew_in(connection, visitor, moment)

    async def reset(self, account: Account) -> None:
        """The operator takes app, codes and passkeys away, and signs the person out everywhere."""
        moment = self._clock()
        async with self._database.write() as connection:
            await people.lock_account(connection, account.id)  # first, as whoever changes several things of hers does: none waits for the other
            await people_factors.remove_factors(connection, account.id)
            await people_factors.end_pending_of(connection, account.id)
            await people.end_web_sessions_of(connection, account.id, moment)
            await self._record_in(connection, Event(account.ehr, Caller(), moment, account=account).record("factor-remove", 200, detail="all"))

    # Sign-in

    async def wait(self, account: Account, browser: str) -> bool:
        """The password was right: this browser may now give the second factor. False when the account is not any more what was judged."""
        moment = self._clock()
        async with self._database.write() as connection:
            if not await people.hold_account(connection, account):
                return False  # else a sign-in with the old password, judged before it was replaced, would go on with the new one
            await people_factors.put_pending(connection, Pending(_half_way(browser), moment, moment + _LIFE, account.id))
        return True

    async def half_way(self, browser: str) -> Account | None:
        """Whose second factor this browser may give."""
        if not browser:
            return None
        async with self._database.read() as connection:
            waiting = await people_factors.pending(connection, _half_way(browser), self._clock())
            account = await people.account(connection, waiting.account_id) if waiting and waiting.tries < _TRIES else None
        return account if account and account.disabled_at is None else None

    async def sign_in(self, browser: str, entered: str, caller: Caller) -> Passed | WrongCode | Over | FactorLocked:
        """Judge a code of the app or a recovery code. It counts as a try before it is looked at."""
        moment = self._clock()
        async with self._database.write() as connection:
            waiting = await people_factors.pending(connection, _half_way(browser), moment) if browser else None
            account = await people.account(connection, waiting.account_id) if waiting else None
            if waiting is None or account is None or account.disabled_at is not None:
                return Over()
            if not (tried := await people_factors.try_pending(connection, waiting, most=_TRIES)):
                return Over()
            event = Event(account.ehr, caller, moment, account=account)
            limits = limits_of_factor(self._attempts, account.id, caller.address)
            if wait := await count(connection, limits, moment):
                await self._record_in(connection, event.record("login", 429, reason="factor-locked"))
                return FactorLocked(wait)
            method = await self._used(connection, account, entered)
            if not method or not await people_factors.take_pending(connection, waiting):
                await self._record_in(connection, event.record("login", 403, reason="factor-wrong"))
                return WrongCode() if tried < _TRIES else Over()
            await forgive(connection, limits)
            await self._record_in(connection, event.record("login", 303, detail=method))
            return Passed(account, method)

    async def _used(self, connection: AsyncConnection, account: Account, entered: str) -> str:
        """How the code was right, "" when it was not. It is used up with that."""
        row = await people_factors.totp(connection, account.id)
        step = totp.step_of(self._opened(row), entered, self._clock()) if row and row.confirmed_at else None
        if step is not None:
            return "totp" if await people_factors.use_totp_step(connection, account.id, step) else ""
        hash_ = _hashed(account.id, entered)
        return "recovery" if hash_ and await people_factors.use_recovery_code(connection, account.id, hash_) else ""

    async def _new_codes(self, connection: AsyncConnection, account: Account) -> tuple[str, ...]:
        codes = tuple(_new_code() for _ in range(RECOVERY_CODES))
        await people_factors.set_recovery_codes(connection, account.id, [_hashed(account.id, one) for one in codes])
        return codes

    def _opened(self, row: Totp) -> bytes:
        return self._seals.open(row.sealed, _context(row.account_id))


def _context(account_id: str) -> bytes:
    return b"totp:" + account_id.encode()


def _half_way(browser: str) -> str:
    return digest(f"half-way:{browser}")


def _new_code() -> str:
    text = "".join(secrets.choice(_ALPHABET) for _ in range(_LENGTH))
    return "-".join(text[at : at + 4] for at in range(0, _LENGTH, 4))


def _hashed(account_id: str, entered: str) -> str:
    """How a recovery code is kept, however it was typed. "" for what is none."""
    text = re.sub(r"[\s-]", "", entered[:64]).upper().translate(str.maketrans("OIL", "011"))
    return digest(f"recovery:{account_id}:{text}") if len(text) == _LENGTH and set(text) <= set(_ALPHABET) else ""
