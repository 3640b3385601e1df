"""Passkeys (WebAuthn level 3): discoverable credentials with user verification, so that one of them is a whole sign-in.

py_webauthn (`ceremonies`) checks the answers: challenge, origin, RP id, signature, flags. What is here: the challenge belongs to one browser and
counts once, a counter that does not grow refuses, and the answer's user handle is the account's.
"""

from __future__ import annotations

import json
from base64 import urlsafe_b64decode, urlsafe_b64encode
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, cast
from urllib.parse import urlsplit

from gateway.config.settings import is_loopback
from gateway.smart.record import Caller, Event, RecordIn
from gateway.smart.server.attempts import Attempts, count, forgive, limits_of_sign_in
from gateway.smart.server.people.factors import FactorLocked, Over, Passed, WrongCode
from gateway.smart.server.people.sessions import Visitor, renew_in
from gateway.store import people, people_factors
from gateway.store.base import Clock, Database, now
from gateway.store.oauth_rows import digest
from gateway.store.people_factors import Passkey, Pending

_LIFE = timedelta(minutes=5)
_MOST = 10  # passkeys of one person
_LONGEST = 32_768  # characters of an answer


@dataclass(frozen=True, slots=True)
class _Site:
    """What browsers bind a passkey to, from configuration and never from a request (ATK-O31)."""

    origin: str
    rp_id: str

    @classmethod
    def of(cls, public_url: str) -> _Site:
        parts = urlsplit(public_url)
        return cls(f"{parts.scheme}://{parts.netloc}", parts.hostname or "")

    @property
    def offered(self) -> bool:
        """Browsers take passkeys for names only, over https; and for localhost."""
        numeric = self.rp_id.replace(".", "").isdigit() or ":" in self.rp_id
        return not numeric and (self.origin.startswith("https://") or is_loopback(self.rp_id))


class Passkeys:
    """Enrol, sign in, take away. `service`: how browsers call this site when they ask for a passkey."""

    def __init__(
        self,
        database: Database,
        *,
        public_url: str,
        service: str,
        record_in: RecordIn,
        attempts: Attempts | None = None,
        clock: Clock = now,
    ) -> None:
        self._database, self._record_in, self._clock = database, record_in, clock
        self._site, self._service, self._attempts = _Site.of(public_url), service, attempts or Attempts()

    @property
    def offered(self) -> bool:
        """Whether browsers can have passkeys for this address at all."""
        return self._site.offered

    async def adding(self, visitor: Visitor) -> str:
        """What the browser needs to make a passkey, as JSON. It waits for the answer of this session."""
        account = visitor.account
        async with self._database.read() as connection:
            have = await people_factors.passkeys(connection, account.id)
        asked = _ceremonies().make(
            rp_id=self._site.rp_id,
            rp_name=self._service,
            user_name=account.username,
            user_id=account.id.encode(),
            display_name=account.display_name,
            have=[one.credential_id for one in have],
        )
        await self._wait(_adding(visitor), asked.challenge, account.id)
        return asked.options

    async def add(self, visitor: Visitor, answer: str, name: str, caller: Caller) -> str:
        """Keep the passkey that the browser made. The session's new secret, or "" when the answer is not right."""
        account, moment = visitor.account, self._clock()
        async with self._database.write() as connection:
            challenge = await self._challenge(connection, _adding(visitor))
            made = _judged(self._made, answer, challenge) if challenge else None
            if made is None or len(await people_factors.passkeys(connection, account.id)) >= _MOST:
                return ""
            row = Passkey(
                hash=_hash(made.credential_id),
                account_id=account.id,
                credential_id=made.credential_id,
                public_key=made.public_key,
                sign_count=made.sign_count,
                name=_name(name),
                created_at=moment,
            )
            if not await people_factors.add_passkey(connection, row):
                return ""
            await self._record_in(connection, Event(account.ehr, caller, moment, account=account).record("factor-add", 303, detail="passkey"))
            return await renew_in(connection, visitor, moment)

    async def signing_in(self, browser: str) -> str:
        """What the browser needs to use a passkey, as JSON. No credential is named: the person's device knows hers, we say nothing of who exists."""
        asked = _ceremonies().use(rp_id=self._site.rp_id)
        await self._wait(_signing_in(browser), asked.challenge)
        return asked.options

    async def sign_in(self, browser: str, answer: str, caller: Caller) -> Passed | WrongCode | Over | FactorLocked:
        """Judge the answer. The challenge counts once, whatever becomes of it."""
        moment = self._clock()
        async with self._database.write() as connection:
            challenge = await self._challenge(connection, _signing_in(browser))
            if challenge is None:
                return Over()
            limits = limits_of_sign_in(self._attempts, f"passkey:{browser}", caller.address)
            if wait := await count(connection, limits, moment):
                await self._record_in(connection, Event("", caller, moment).record("login", 429, reason="sign-in-locked"))
                return FactorLocked(wait)
            key = await people_factors.passkey(connection, _credential_hash(answer))
            account = await people.account(connection, key.account_id) if key else None
            count_now = _judged(self._used, answer, challenge, key) if key else None
            right = key is not None and count_now is not None and await people_factors.use_passkey(connection, key.hash, count=count_now, at=moment)
            if not right or key is None or account is None or account.disabled_at is not None:
                event = Event(account.ehr if account else "", caller, moment, account=account)
                await self._record_in(connection, event.record("login", 403, reason="passkey-wrong"))
                return WrongCode()
            await forgive(connection, limits)
            await self._record_in(connection, Event(account.ehr, caller, moment, account=account).record("login", 303, detail="passkey"))
            return Passed(account, "passkey", key.hash)

    async def remove(self, visitor: Visitor, hash_: str, caller: Caller) -> str:
        """Take one away. The session's new secret, or "" when it is none of hers."""
        account, moment = visitor.account, self._clock()
        async with self._database.write() as connection:
            if not await people_factors.remove_passkey(connection, account.id, hash_):
                return ""
            event = Event(account.ehr, caller, moment, account=account)
            await self._record_in(connection, event.record("factor-remove", 303, detail="passkey"))
            return await renew_in(connection, visitor, moment)

    async def _wait(self, hash_: str, challenge: bytes, account_id: str = "") -> None:
        moment = self._clock()
        async with self._database.write() as connection:
            row = Pending(hash_, moment, moment + _LIFE, account_id, _base64url(challenge))
            await people_factors.put_pending(connection, row)

    async def _challenge(self, connection: Any, hash_: str) -> bytes | None:
        """The challenge that waits, for one caller."""
        waiting = await people_factors.pending(connection, hash_, self._clock())
        if waiting is None or not await people_factors.take_pending(connection, waiting):
            return None
        return _bytes(waiting.secret)

    def _made(self, answer: Any, challenge: bytes) -> Any:
        return _ceremonies().made(answer, challenge=challenge, rp_id=self._site.rp_id, origin=self._site.origin)

    def _used(self, answer: Any, challenge: bytes, key: Passkey) -> int:
        if answer["response"].get("userHandle") != _base64url(key.account_id.encode()):
            raise ValueError("another person's handle")
        site = self._site
        return _ceremonies().used(answer, challenge=challenge, rp_id=site.rp_id, origin=site.origin, public_key=key.public_key)


def _ceremonies():  # noqa: ANN202  # the module itself: its type is inferred
    """Loaded when the first passkey is asked for: its libraries are dear, and not everybody has passkeys."""
    from gateway.smart.server.people import ceremonies  # noqa: PLC0415  # as said

    return ceremonies


def _judged(judge: Any, answer: str, *more: Any) -> Any:
    """What the library makes of an answer, None for one that is not right."""
    try:
        return judge(_parsed(answer), *more)
    except Exception:  # noqa: BLE001  # JSON, CBOR, ASN.1 and X.509 that a stranger made up, through four libraries: whatever they raise, it is a no
        return None


def _parsed(answer: str) -> dict[str, Any]:
    if len(answer) > _LONGEST:
        raise ValueError("too long")
    found = json.loads(answer)
    if not isinstance(found, dict):
        raise TypeError("no object")
    return cast("dict[str, Any]", found)


def _credential_hash(answer: str) -> str:
    try:
        return _hash(_bytes(_parsed(answer)["id"]))
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return ""


def _hash(credential_id: bytes) -> str:
    return digest(_base64url(credential_id))


def _base64url(data: bytes) -> str:
    return urlsafe_b64encode(data).decode().rstrip("=")


def _bytes(text: str) -> bytes:
    return urlsafe_b64decode(f"{text}===")  # more padding than needed is ignored


def _name(text: str) -> str:
    shown = "".join(char for char in text if char.isprintable()).strip()[:64]
    return shown or "Passkey"


def _adding(visitor: Visitor) -> str:
    return digest(f"passkey-add:{visitor.session.hash}")


def _signing_in(browser: str) -> str:
    return digest(f"passkey:{browser}")
