"""The RSA keys that sign id_tokens: made at the first start, kept sealed in the store, the same for every process.

A rotation makes the next key. It is published at once and signs later, when no key set that a client may still keep lacks it; the one before
it stays published until the last id_token that it signed is over. Which key signs, and which are published, follows from the rows and the
moment alone, so processes agree without a word to each other.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Protocol

from joserfc import jwk

from gateway.errors import ConfigError, NotDone
from gateway.smart.record import Caller, Event, RecordIn
from gateway.smart.server.lifetimes import Lifetimes
from gateway.store import oauth as rows
from gateway.store.base import Clock, Database, now
from gateway.store.oauth_rows import SigningKey, new_id

KEPT = 60
"""Seconds that a client may keep the key set: `Cache-Control` of the jwks answer."""
_APART = 60
"""Seconds by which the clocks of two nodes may differ."""
_BITS = 2048
_PUBLIC = ("kty", "n", "e", "kid", "use", "alg")


class Seals(Protocol):
    """gateway.seal.Sealer or Plain."""

    def seal(self, data: bytes, context: bytes) -> bytes:
        """Make it unreadable."""
        ...

    def open(self, sealed: bytes, context: bytes) -> bytes:
        """The inverse. Raises ValueError."""
        ...


class KeySource(Protocol):
    """Where the keys that sign id_tokens come from. RSA, RS256, each with a `kid` (OpenID Connect Core 10.1)."""

    async def signing(self) -> jwk.RSAKey:
        """The private key to sign with now."""
        ...

    async def public(self) -> Mapping[str, Any]:
        """The JWK Set of public keys: those in use and those that signed id_tokens still alive."""
        ...


@dataclass(frozen=True, slots=True)
class Listed:
    """One published key, for the operator. `until`: when it is published no longer; None for as long as nothing follows it."""

    kid: str
    created_at: datetime
    signs_at: datetime
    state: str  # waiting | signing | replaced
    until: datetime | None


def signs_at(key: SigningKey) -> datetime:
    """From when on this key signs."""
    return key.signs_at or key.created_at


def signing(keys: Sequence[SigningKey], moment: datetime) -> SigningKey:
    """The one that signs now: the newest whose time has come. `keys` are all there are, the newest first, and at least one."""
    return next((one for one in keys if signs_at(one) <= moment), keys[-1])


def published(keys: Sequence[SigningKey], moment: datetime, life: int) -> tuple[SigningKey, ...]:
    """The ones that a client may need, the newest first: those that sign or will, and those that signed an id_token of `life` seconds still alive."""
    until = ends(keys, life)
    return tuple(one for one in keys if (end := until[one.slot]) is None or moment < end)


def ends(keys: Sequence[SigningKey], life: int) -> Mapping[int, datetime | None]:
    """When each slot's key is published no longer: some time after the next one began to sign."""
    kept = timedelta(seconds=life + _APART)
    after = [None, *(signs_at(one) for one in keys)]
    return {one.slot: follower + kept if follower else None for one, follower in zip(keys, after, strict=False)}


class SigningKeys:
    """A KeySource. Whoever comes first fills slot 1 of the table; everybody reads what is there then, so all sign with one key."""

    def __init__(self, database: Database, seals: Seals, *, record_in: RecordIn | None = None, lifetimes: Lifetimes, clock: Clock = now) -> None:
        self._database, self._seals, self._record_in, self._clock = database, seals, record_in, clock
        self._life = lifetimes.access  # an id_token lives as long as the access token beside it
        self._opened: dict[bytes, jwk.RSAKey] = {}
        self._lock = asyncio.Lock()

    async def signing(self) -> jwk.RSAKey:
        """The private key to sign with now, always the same object: to check and load one takes as long as ten signatures."""
        return self._open(signing(await self._all(), self._clock()))

    async def public(self) -> Mapping[str, Any]:
        """The public JWK Set: no private member ever leaves."""
        found = published(await self._all(), self._clock(), self._life)
        keys = (self._open(one).as_dict(private=False) for one in found)
        return {"keys": [{name: key[name] for name in _PUBLIC} for key in keys]}

    async def listed(self) -> tuple[Listed, ...]:
        """Those that are published, the newest first."""
        keys, moment = await self._all(), self._clock()
        now_signing, until = signing(keys, moment), ends(keys, self._life)
        return tuple(
            Listed(
                str(self._open(one).kid),
                one.created_at,
                signs_at(one),
                "signing" if one is now_signing else "waiting" if one.slot > now_signing.slot else "replaced",
                until[one.slot],
            )
            for one in published(keys, moment, self._life)
        )

    async def rotate(self, *, at_once: bool = False) -> Listed:
        """Make the next key. `at_once` is for keys that somebody may have stolen: the new one signs now, and no other is published any more.

        Raises NotDone when another rotation is under way.
        """
        keys, moment = await self._all(), self._clock()
        new = await self._made(keys[0].slot + 1, moment if at_once else moment + timedelta(seconds=KEPT + _APART))
        gone = keys if at_once else [one for one in keys if one not in published(keys, moment, self._life)]
        busy = not at_once and keys[0].signs_at is not None and keys[0].signs_at > moment
        async with self._database.write() as connection:
            if busy or not await rows.add_signing_key(connection, new):
                raise NotDone("The keys were rotated just now, and the new one does not sign yet", what="keys-rotating", about="keys")
            await rows.delete_signing_keys(connection, [one.slot for one in gone])
            if self._record_in:
                kid = self._open(new).kid
                event = Event("", Caller(), moment)
                await self._record_in(connection, event.record("key-rotate", 200, detail=f"{kid}{', at once' if at_once else ''}"))
        return (await self.listed())[0]

    async def _all(self) -> tuple[SigningKey, ...]:
        found = await rows.signing_keys(self._database.derive)
        if found:
            return found
        async with self._lock:
            first = await self._made(1, None)
            async with self._database.write() as connection:
                await rows.add_signing_key(connection, first)
        return await rows.signing_keys(self._database.derive)

    async def _made(self, slot: int, signs_from: datetime | None) -> SigningKey:
        key = await asyncio.to_thread(_new_key)
        return SigningKey(slot, self._seals.seal(json.dumps(key).encode(), _context(slot)), self._clock(), signs_from)

    def _open(self, row: SigningKey) -> jwk.RSAKey:
        if row.sealed not in self._opened:
            self._opened[row.sealed] = self._unsealed(row)
        return self._opened[row.sealed]

    def _unsealed(self, row: SigningKey) -> jwk.RSAKey:
        try:
            return jwk.RSAKey.import_key(json.loads(self._seals.open(row.sealed, _context(row.slot))))
        except ValueError as error:  # SealBroken is one
            raise ConfigError(
                "The signing key in the store cannot be opened with this sealing key.",
                where="seal key",
                fix="use the key with which the store was made",
            ) from error


def _context(slot: int) -> bytes:
    return b"signing-key:%d" % slot


def _new_key() -> dict[str, Any]:
    key = jwk.RSAKey.generate_key(_BITS, {"kid": new_id(), "use": "sig", "alg": "RS256"}, private=True)
    return dict(key.as_dict(private=True))
