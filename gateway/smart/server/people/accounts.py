"""People who sign in: passwords, and how often one may try.

A wrong name and a wrong password cost the same time and give the same words. What counts attempts knows names and addresses only as hashes.
"""

from __future__ import annotations

import asyncio
import re
import secrets
import unicodedata
from base64 import b64encode
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

from argon2 import PasswordHasher, Type
from argon2.exceptions import InvalidHashError, VerificationError

from gateway.errors import NotDone, Unavailable
from gateway.smart.record import Caller, Event, RecordIn
from gateway.smart.server.attempts import Attempts, count, forgive, limits_of_sign_in
from gateway.smart.server.people.sessions import Visitor, renew_in
from gateway.store import known_browsers, people, people_factors
from gateway.store.base import Clock, Database, now
from gateway.store.oauth_rows import Account, ListedPatient, digest, new_id

_LONGEST_NAME = 255
_LONGEST_PASSWORD = 1024
SHORTEST_PASSWORD = 8  # NIST SP 800-63B section 3.1.1
_WAITING = 64  # sign-ins that may wait for the executor; more get a 503 at once
_FHIR_USER = re.compile(r"(Patient|RelatedPerson|Practitioner|PractitionerRole)/[A-Za-z0-9.-]{1,64}", re.ASCII)

T = TypeVar("T")


def normalised(username: str) -> str:
    """The one spelling of a user name: compatibility forms and case are folded together. "" when it holds what cannot be seen."""
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", username).casefold()).strip()
    return folded if folded.isprintable() else ""


class Passwords:
    """argon2id in threads of its own, so that a sign-in never stalls the loop. `memory` in KiB; parallelism is 1 (RFC 9106 section 4)."""

    def __init__(self, *, time_cost: int = 3, memory: int = 65536, threads: int = 1) -> None:
        self._hasher = PasswordHasher(time_cost=time_cost, memory_cost=memory, parallelism=1, type=Type.ID)
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix="argon2")
        self._nobody = _of_nobody(self._hasher)
        self._waiting = 0

    async def hash(self, password: str) -> str:
        """The encoded hash of a new password."""
        return await self._run(lambda: self._hasher.hash(_spelled(password)))

    async def verify(self, encoded: str | None, password: str) -> bool:
        """Whether this is the password. Without a hash the same work is done, for nothing."""
        return await self._run(lambda: self._verify(encoded, password))

    def close(self) -> None:
        """End the threads."""
        self._executor.shutdown(wait=False, cancel_futures=True)

    async def _run(self, work: Callable[[], T]) -> T:
        """Raises Unavailable when too many wait already: memory and patience are finite."""
        if self._waiting >= _WAITING:
            raise Unavailable(reason="sign-in-busy", retry_after=5)
        self._waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._executor, work)
        finally:
            self._waiting -= 1

    def _verify(self, encoded: str | None, password: str) -> bool:
        try:
            self._hasher.verify(encoded or self._nobody, _spelled(password[:_LONGEST_PASSWORD]))
        except (VerificationError, InvalidHashError):
            return False
        return encoded is not None and len(password) <= _LONGEST_PASSWORD


def _of_nobody(hasher: PasswordHasher) -> str:
    """A hash that no password has: random salt and digest, written as argon2 1.3 (v=19). To check against it is as much work as ever."""
    salt, digest = (b64encode(secrets.token_bytes(length)).rstrip(b"=").decode() for length in (hasher.salt_len, hasher.hash_len))
    return f"$argon2id$v=19$m={hasher.memory_cost},t={hasher.time_cost},p={hasher.parallelism}${salt}${digest}"


def _spelled(password: str) -> bytes:
    """NFKC, as NIST SP 800-63B section 3.1.1.2 says: the same keys on another device are the same password."""
    return unicodedata.normalize("NFKC", password).encode("utf-8", "surrogatepass")


@dataclass(frozen=True, slots=True)
class SignedIn:
    """The right password. `second`: the session begins only after her second factor."""

    account: Account
    second: bool = False


@dataclass(frozen=True, slots=True)
class Wrong:
    """The wrong name or the wrong password: nobody learns which."""


@dataclass(frozen=True, slots=True)
class Locked:
    """Too many attempts. Seconds until the next one counts."""

    retry_after: int


class Accounts:
    """Sign-in, and what an operator does to accounts."""

    def __init__(
        self, database: Database, passwords: Passwords, *, record_in: RecordIn, attempts: Attempts | None = None, clock: Clock = now
    ) -> None:
        self._database, self._passwords, self._record_in = database, passwords, record_in
        self._attempts, self._clock = attempts or Attempts(), clock

    async def sign_in(self, username: str, password: str, caller: Caller, *, known: str = "") -> SignedIn | Wrong | Locked:
        """Judge one attempt. It counts before the password is looked at, so that many at once count too; a success takes it back.

        `known`: the secret by which the browser shows that this person signed in there before; strangers do not lock her out of it.
        """
        moment, name = self._clock(), normalised(username)
        async with self._database.write() as connection:
            hers = digest(known) if known and await known_browsers.knows(connection, name, digest(known)) else ""
            limits = limits_of_sign_in(self._attempts, name, caller.address, hers)
            locked = await count(connection, limits, moment)
            account = await people.account_named(connection, name) if name and not locked else None
        if account and account.disabled_at is not None:
            account = None
        right = not locked and await self._passwords.verify(account.password_hash if account else None, password)
        async with self._database.write() as connection:
            right = right and account is not None and await people.hold_account(connection, account)  # it may have been replaced meanwhile
            factor = await people_factors.totp(connection, account.id) if right and account else None
            second = factor is not None and factor.confirmed_at is not None
            if right:
                await forgive(connection, limits)
            status, reason = (303, "") if right else (429, "sign-in-locked") if locked else (403, "sign-in-wrong")
            event = Event(account.ehr if account else "", caller, moment, account=account)
            await self._record_in(connection, event.record("login-password" if second else "login", status, reason=reason))
        if locked:
            return Locked(locked)
        return SignedIn(account, second) if right and account else Wrong()

    async def add(
        self,
        username: str,
        password: str,
        *,
        ehr: str,
        fhir_user: str,
        display_name: str = "",
        patients: Iterable[ListedPatient] = (),
    ) -> Account:
        """A new account. Raises NotDone with the fix when something is wrong or the name is taken."""
        name = normalised(username)
        _check(name, password, fhir_user)
        account = Account(new_id(), name, await self._passwords.hash(password), ehr, fhir_user, display_name or username.strip(), self._clock())
        async with self._database.write() as connection:
            if not await people.put_account(connection, account, tuple(patients)):
                raise NotDone("That user name is taken.", what="name-taken", about="username", fix="choose another name")
            await self._record_in(connection, Event(ehr, Caller(), account.created_at, account=account).record("account-add", 201))
        return account

    async def named(self, username: str) -> Account | None:
        """The account with this name."""
        async with self._database.read() as connection:
            return await people.account_named(connection, normalised(username))

    async def all(self) -> tuple[tuple[Account, tuple[ListedPatient, ...]], ...]:
        """Every account with the patients listed for it, closed ones too, by name."""
        async with self._database.read() as connection:
            return tuple([(one, await people.listed(connection, one.id)) for one in await people.accounts(connection)])

    async def set_password(self, account: Account, password: str) -> None:
        """A new password, by the operator, ends all sessions."""
        check_password(password)
        encoded, moment = await self._passwords.hash(password), self._clock()
        async with self._database.write() as connection:
            await people.set_password(connection, account.id, encoded)
            await people.end_web_sessions_of(connection, account.id, moment)
            await people_factors.end_pending_of(connection, account.id)
            await self._record_in(connection, Event(account.ehr, Caller(), moment, account=account).record("password-set", 200))

    async def change_password(self, visitor: Visitor, password: str, caller: Caller) -> str:
        """A new password, by the person, ends all other sessions; hers goes on under the secret that is returned. Raises NotDone."""
        check_password(password)
        account, encoded = visitor.account, await self._passwords.hash(password)
        moment = self._clock()
        async with self._database.write() as connection:
            await people.set_password(connection, account.id, encoded)
            await people_factors.end_pending_of(connection, account.id)
            event = Event(account.ehr, caller, moment, account=account)
            await self._record_in(connection, event.record("password-set", 303))
            return await renew_in(connection, visitor, moment)

    async def disable(self, account: Account) -> None:
        """From the next request on, nothing is done in this person's name."""
        moment = self._clock()
        async with self._database.write() as connection:
            await people.disable_account(connection, account.id, moment)
            await people.end_web_sessions_of(connection, account.id, moment)
            await people_factors.end_pending_of(connection, account.id)
            await self._record_in(connection, Event(account.ehr, Caller(), moment, account=account).record("account-disable", 200))


def _check(name: str, password: str, fhir_user: str) -> None:
    if not name or len(name) > _LONGEST_NAME:
        raise NotDone("A user name has 1 to 255 printable characters.", what="name-malformed", about="username", fix="choose another name")
    check_password(password)
    if not _FHIR_USER.fullmatch(fhir_user):
        kinds = "A FHIR user is Patient/ID, RelatedPerson/ID, Practitioner/ID or PractitionerRole/ID."
        raise NotDone(kinds, what="fhir-user-malformed", about="fhir_user", fix="for example: Patient/p1")


def check_password(password: str) -> None:
    """Raises NotDone for one that is too short or too long: the only rules (NIST SP 800-63B section 3.1.1.2)."""
    if not SHORTEST_PASSWORD <= len(password) <= _LONGEST_PASSWORD:
        raise NotDone("A password has 8 to 1024 characters.", what="password-length", about="password", fix="choose another password")
