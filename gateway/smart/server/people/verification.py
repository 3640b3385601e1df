"""E-mail or phone, verified by a one-time code; and a forgotten password, replaced by a code to the verified address.

Whoever asks in somebody's name learns nothing: for a name that is not there, or has no address, the same row waits, the same hash is computed,
the same page is shown; what is sent is sent beside the answer. Messages hold no health data, no name of a person and no link.
"""

from __future__ import annotations

import asyncio
import re
import secrets
from collections.abc import Collection, Coroutine
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Protocol

import structlog
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.errors import NotSent
from gateway.seal import Seals
from gateway.smart.record import Caller, Event, RecordIn
from gateway.smart.server.attempts import (
    Attempts,
    Limit,
    count,
    forgive,
    limits_of_code,
    limits_of_factor,
    limits_of_forgotten,
    limits_of_sending,
)
from gateway.smart.server.people.accounts import Passwords, check_password, normalised
from gateway.smart.server.people.factors import FactorLocked, Over, WrongCode
from gateway.smart.server.people.sessions import Visitor, renew_in
from gateway.store import known_browsers, people, people_factors
from gateway.store.base import Clock, Database, now
from gateway.store.oauth_rows import Account, digest
from gateway.store.people_factors import Contact, Pending

log = structlog.get_logger("gateway.verification")

_LIFE = timedelta(minutes=10)
_TRIES = 5
_DIGITS = 8
_LONGEST = 254  # RFC 5321 section 4.5.3.1.3, less the angle brackets
_EMAIL = re.compile(r"[A-Za-z0-9.!#$%&'*+/=?^_`{|}~-]{1,64}@(?:[A-Za-z0-9-]{1,63}\.)+[A-Za-z][A-Za-z0-9-]{0,62}", re.ASCII)
_PHONE = re.compile(r"\+[1-9][0-9]{6,14}", re.ASCII)  # E.164


class Notifier(Protocol):
    """Sends a short text to a person. Raises NotSent."""

    @property
    def kinds(self) -> Collection[str]:
        """What it can send to: email, phone."""
        ...

    async def send(self, to: str, subject: str, text: str) -> None:
        """To an e-mail address or a phone number (E.164). `subject` is for e-mail alone."""
        ...


class NoNotifier:
    """Nothing can be sent: nothing of this is offered."""

    kinds: Collection[str] = ()

    async def send(self, to: str, subject: str, text: str) -> None:
        """Never asked."""
        del to, subject, text
        raise NotSent


@dataclass(frozen=True, slots=True)
class Sent:
    """A code is on its way, if there is a way."""


@dataclass(frozen=True, slots=True)
class Malformed:
    """No address that can be sent to."""


@dataclass(frozen=True, slots=True)
class Verified:
    """The address counts. `secret` is the session's new one."""

    secret: str


@dataclass(frozen=True, slots=True)
class Changed:
    """The password is another one; everybody is signed out. Whose it is."""

    account: Account


def kind_of(to: str) -> str:
    """`email`, `phone`, or "" for what is neither."""
    if len(to) <= _LONGEST and _EMAIL.fullmatch(to) and ".." not in to:
        return "email"
    return "phone" if _PHONE.fullmatch(to) else ""


def tidy(entered: str) -> str:
    """An address as it is kept: no spaces around, and a phone number without what people put between its digits."""
    text = entered.strip()
    return re.sub(r"[\s().-]", "", text) if text.startswith("+") and "@" not in text else text


class Verification:
    """Codes to people. `service`: how messages call this site."""

    def __init__(
        self,
        database: Database,
        passwords: Passwords,
        seals: Seals,
        notifier: Notifier,
        *,
        service: str,
        record_in: RecordIn,
        attempts: Attempts | None = None,
        clock: Clock = now,
    ) -> None:
        self._database, self._passwords, self._seals, self._notifier = database, passwords, seals, notifier
        self._service, self._record_in, self._clock = service, record_in, clock
        self._attempts = attempts or Attempts()
        self._sending: set[asyncio.Task[None]] = set()

    @property
    def kinds(self) -> Collection[str]:
        """What can be verified here."""
        return self._notifier.kinds

    async def contact(self, account: Account) -> str:
        """The verified address, or ""."""
        async with self._database.read() as connection:
            return await self._contact(connection, account.id)

    async def waiting_contact(self, visitor: Visitor) -> str:
        """The address to which a code is on its way, or ""."""
        async with self._database.read() as connection:
            waiting = await people_factors.pending(connection, _verifying(visitor.account.id), self._clock())
        return self._opened(waiting.sealed, _verifying(visitor.account.id)) if waiting and waiting.sealed and waiting.tries < _TRIES else ""

    async def begin_contact(self, visitor: Visitor, entered: str, caller: Caller) -> Sent | Malformed | FactorLocked:
        """Send a code to an address that the person says is hers."""
        to, moment, hash_ = tidy(entered), self._clock(), _verifying(visitor.account.id)
        if kind_of(to) not in self._notifier.kinds:
            return Malformed()
        account = visitor.account
        async with self._database.write() as connection:
            if wait := await count(connection, self._sends(account.id, caller), moment):
                await self._record_in(
                    connection, Event(account.ehr, caller, moment, account=account).record("contact-code", 429, reason="code-locked")
                )
                return FactorLocked(wait)
        code = _new_code()
        encoded = await self._passwords.hash(code)
        async with self._database.write() as connection:
            sealed = self._seals.seal(to.encode(), hash_.encode())
            await people_factors.put_pending(connection, Pending(hash_, moment, moment + _LIFE, account.id, encoded, sealed))
            await self._record_in(connection, Event(account.ehr, caller, moment, account=account).record("contact-code", 303))
        self._soon(self._notifier.send(to, *self._code_text(code, "confirm this address")))
        return Sent()

    async def confirm_contact(self, visitor: Visitor, entered: str, caller: Caller) -> Verified | WrongCode | Over | FactorLocked:
        """The code from the message."""
        hash_, account = _verifying(visitor.account.id), visitor.account
        judged = await self._judged(hash_, entered, caller)
        if not isinstance(judged, Pending):
            return judged
        moment = self._clock()
        old = await self.contact(account)
        async with self._database.write() as connection:
            if not judged.sealed or not await people_factors.take_pending(connection, judged):
                return Over()
            to = self._opened(judged.sealed, hash_)
            sealed = self._seals.seal(to.encode(), _context(account.id))
            await people_factors.set_contact(connection, Contact(account.id, sealed, moment))
            await self._record_in(connection, Event(account.ehr, caller, moment, account=account).record("contact-set", 303, detail=kind_of(to)))
            secret = await renew_in(connection, visitor, moment)
            await people_factors.end_pending_of(connection, account.id)  # a code for a new password is at the old address, whoever reads that
        if old and old != to:
            self._tell(old, "The address for messages about your account was changed.")
        return Verified(secret)

    async def remove_contact(self, visitor: Visitor, caller: Caller) -> str:
        """Forget the address. The session's new secret, or "" when there was none."""
        account, moment = visitor.account, self._clock()
        old = await self.contact(account)
        async with self._database.write() as connection:
            if not await people_factors.remove_contact(connection, account.id):
                return ""
            await self._record_in(connection, Event(account.ehr, caller, moment, account=account).record("contact-remove", 303))
            secret = await renew_in(connection, visitor, moment)
            await people_factors.end_pending_of(connection, account.id)  # as above
        self._tell(old, "The address for messages about your account was removed.")
        return secret

    async def tell(self, account: Account, what: str) -> None:
        """Tell a person at her verified address what was changed. `what` is one sentence without any secret."""
        self._tell(await self.contact(account), what)

    async def forgot(self, username: str, browser: str, caller: Caller, *, known: str = "") -> Sent | FactorLocked:
        """Somebody says that she forgot her password. A code goes to the verified address, if this is a person who has one.

        The code is this browser's: no other request ends it, nor counts its tries. `known`: the secret by which the browser shows that this person
        signed in there before; then what strangers ask for in her name does not count.
        """
        moment, name, hash_ = self._clock(), normalised(username), _resetting(browser)
        async with self._database.write() as connection:
            # Before anything is hashed: there is one queue for that, and sign-ins wait in it.
            if wait := await self._counted(connection, name, caller, known):
                account = await people.account_named(connection, name) if name else None
                event = Event(account.ehr if account else "", caller, moment, account=account)
                await self._record_in(connection, event.record("password-code", 429, reason="code-locked"))
                return FactorLocked(wait)
        code = _new_code()
        encoded = await self._passwords.hash(code)
        async with self._database.write() as connection:
            account = await people.account_named(connection, name) if name else None
            account = await people.account_held(connection, account.id if account else "")  # no other address comes before the code is there
            to = await self._contact(connection, account.id if account else "")
            usable = account is not None and account.disabled_at is None and bool(to)
            whose = account.id if account and usable else ""
            row = Pending(hash_, moment, moment + _LIFE, whose, encoded if usable else "")
            await people_factors.put_pending(connection, row)
            await self._record_in(connection, Event(account.ehr if account else "", caller, moment, account=account).record("password-code", 303))
        if usable:
            self._soon(self._notifier.send(to, *self._code_text(code, "choose a new password")))
        return Sent()

    async def _counted(self, connection: AsyncConnection, name: str, caller: Caller, known: str) -> int:
        """Seconds to wait, or 0. What one limit refuses uses up nothing of the next: least of all of what all strangers have together."""
        hers = digest(known) if known and await known_browsers.knows(connection, name, digest(known)) else ""
        for limit in limits_of_forgotten(self._attempts, name, caller.address, hers):
            if wait := await count(connection, (limit,), self._clock()):
                return wait
        return 0

    async def is_resetting(self, browser: str) -> bool:
        """Whether a code may be entered in this browser."""
        if not browser:
            return False
        async with self._database.read() as connection:
            return await people_factors.pending(connection, _resetting(browser), self._clock()) is not None

    async def reset(self, browser: str, entered: str, password: str, caller: Caller) -> Changed | WrongCode | Over | FactorLocked:
        """The code from the message, and the new password. Raises NotDone for a password that cannot be one, before anything counts."""
        check_password(password)
        judged = await self._judged(_resetting(browser), entered, caller) if browser else Over()
        if not isinstance(judged, Pending):
            return judged
        encoded, moment = await self._passwords.hash(password), self._clock()
        async with self._database.write() as connection:
            account = await people.account(connection, judged.account_id)
            if account is None or account.disabled_at is not None or not await people_factors.take_pending(connection, judged):
                return Over()
            await people.set_password(connection, account.id, encoded)
            await people.end_web_sessions_of(connection, account.id, moment)
            await people_factors.end_pending_of(connection, account.id)
            await self._record_in(connection, Event(account.ehr, caller, moment, account=account).record("password-set", 303, detail="code"))
        await self.tell(account, "Your password was changed. Apps and passkeys stay until you end them, on the page Sign-in and security.")
        return Changed(account)

    async def settled(self) -> None:
        """Wait for what is being sent: at the end of a process."""
        await asyncio.gather(*self._sending, return_exceptions=True)

    async def _judged(self, hash_: str, entered: str, caller: Caller) -> Pending | WrongCode | Over | FactorLocked:
        """The step that waits, when this is its code. The try counts before the code is looked at; nobody's code costs the same hash."""
        moment = self._clock()
        async with self._database.write() as connection:
            waiting = await people_factors.pending(connection, hash_, moment)
            tried = await people_factors.try_pending(connection, waiting, most=_TRIES) if waiting else 0
            if waiting is None or not tried:
                return Over()
            limits = self._tries(waiting, caller)
            if wait := await count(connection, limits, moment):
                await self._record_refused(connection, waiting, caller, 429, "code-locked")
                return FactorLocked(wait)
        right = await self._passwords.verify(waiting.secret or None, re.sub(r"\s", "", entered[:64]))
        if right:
            async with self._database.write() as connection:
                await forgive(connection, limits)
            return waiting
        async with self._database.write() as connection:
            await self._record_refused(connection, waiting, caller, 403, "code-wrong")
        return WrongCode() if tried < _TRIES else Over()

    async def _record_refused(self, connection: AsyncConnection, waiting: Pending, caller: Caller, status: int, reason: str) -> None:
        account = await people.account(connection, waiting.account_id)
        event = Event(account.ehr if account else "", caller, self._clock(), account=account)
        await self._record_in(connection, event.record("code-refused", status, reason=reason))

    def _tries(self, waiting: Pending, caller: Caller) -> tuple[Limit, ...]:
        """Of an address: counted for the person, who alone can try. Of a password: for the code, since anybody can have one in her name."""
        if waiting.hash == _verifying(waiting.account_id):
            return limits_of_factor(self._attempts, f"code:{waiting.account_id}", caller.address)
        return limits_of_code(self._attempts, f"{waiting.hash}:{waiting.began_at.timestamp()}", _TRIES, caller.address)

    def _sends(self, whom: str, caller: Caller) -> tuple[Limit, ...]:
        return limits_of_sending(self._attempts, whom, caller.address)

    async def _contact(self, connection: AsyncConnection, account_id: str) -> str:
        row = await people_factors.contact(connection, account_id)
        return self._opened(row.sealed, _context(account_id).decode()) if row else ""

    def _opened(self, sealed: bytes, context: str) -> str:
        return self._seals.open(sealed, context.encode()).decode()

    def _code_text(self, code: str, to_do: str) -> tuple[str, str]:
        text = (
            f"Your code for {self._service} is {code}. Enter it to {to_do}. It works for 10 minutes.\n\n"
            "Nobody from us will ever ask you for it. If you did not ask for a code, you need not do anything.\n"
        )
        return f"Your code for {self._service}", text

    def _tell(self, to: str, what: str) -> None:
        if to and kind_of(to) in self._notifier.kinds:
            text = f"{what}\n\nIf this was not you, call your clinic now: somebody else may be using your account.\n"
            self._soon(self._notifier.send(to, f"Your account for {self._service}", text))

    def _soon(self, sending: Coroutine[Any, Any, None]) -> None:
        """Beside the answer, so that the time of an answer says nothing."""
        task = asyncio.get_running_loop().create_task(_sent(sending))
        self._sending.add(task)
        task.add_done_callback(self._sending.discard)


async def _sent(sending: Coroutine[Any, Any, None]) -> None:
    try:
        await sending
    except NotSent as error:
        log.warning("not-sent", reason=str(error))


def _new_code() -> str:
    return f"{secrets.randbelow(10**_DIGITS):0{_DIGITS}}"


def _context(account_id: str) -> bytes:
    return b"contact:" + account_id.encode()


def _verifying(account_id: str) -> str:
    return digest(f"verify:{account_id}")


def _resetting(browser: str) -> str:
    return digest(f"reset:{browser}")
