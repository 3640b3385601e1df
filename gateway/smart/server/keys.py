"""The RSA keys that sign id_tokens: made at the first start, kept sealed in the store, the same for every process."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from typing import Any, Protocol

from joserfc import jwk

from gateway.errors import ConfigError
from gateway.smart.server.values import Clock
from gateway.store import oauth as rows
from gateway.store.base import Database, now
from gateway.store.oauth_rows import SigningKey, new_id

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


class SigningKeys:
    """A KeySource. Whoever comes first fills slot 1 of the table; everybody reads what is there then, so all sign with one key."""

    def __init__(self, database: Database, seals: Seals, *, clock: Clock = now) -> None:
        self._database, self._seals, self._clock = database, seals, clock
        self._kept: tuple[Mapping[str, Any], ...] = ()
        self._lock = asyncio.Lock()

    async def signing(self) -> Mapping[str, Any]:
        """The private JWK of the newest slot."""
        return (await self._all())[0]

    async def public(self) -> Mapping[str, Any]:
        """The public JWK Set: no private member ever leaves."""
        return {"keys": [{name: key[name] for name in _PUBLIC} for key in await self._all()]}

    async def _all(self) -> tuple[Mapping[str, Any], ...]:
        async with self._lock:
            if not self._kept:
                self._kept = await self._read() or await self._made()
            return self._kept

    async def _read(self) -> tuple[Mapping[str, Any], ...]:
        async with self._database.read() as connection:
            return tuple(self._opened(row) for row in await rows.signing_keys(connection))

    async def _made(self) -> tuple[Mapping[str, Any], ...]:
        key = await asyncio.to_thread(_new_key)
        sealed = self._seals.seal(json.dumps(key).encode(), _context(1))
        async with self._database.write() as connection:
            await rows.add_signing_key(connection, SigningKey(1, sealed, self._clock()))
        return await self._read()

    def _opened(self, row: SigningKey) -> Mapping[str, Any]:
        try:
            return json.loads(self._seals.open(row.sealed, _context(row.slot)))
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
