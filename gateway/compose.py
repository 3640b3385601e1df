"""Builds every object once, in one visible, ordered list. The only place that names concrete classes.

`State` is what a command on this machine needs (the store, keys, the record of accesses); `Gateway` (in `compose_gateway`) is all of it.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from gateway.config import Settings
from gateway.seal import Plain, Sealer, Seals, load_or_make_key
from gateway.smart.server.accounts import Accounts, Passwords
from gateway.smart.server.keys import SigningKeys
from gateway.smart.server.launches import Launches
from gateway.smart.server.registration import Registrar, Rules
from gateway.store import schema
from gateway.store.audit import AuditLog
from gateway.store.base import Database
from gateway.store.events import EventLog


@dataclass(frozen=True, slots=True)
class State:
    """What is on disk and in the database."""

    settings: Settings
    database: Database
    seals: Seals
    audit: AuditLog
    events: EventLog

    async def close(self) -> None:
        """Load what is still in the segment, and let go."""
        await self.audit.close()
        self.events.close()
        await self.database.close()


def state(settings: Settings) -> State:
    """Everything that has no network but the database's. Nothing is opened yet."""
    settings.data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    database = Database(settings.store)
    seals = _seals(settings)
    return State(
        settings,
        database,
        seals,
        AuditLog(database, settings.data_dir / "audit"),
        EventLog(settings.data_dir / "events", seals),
    )


@asynccontextmanager
async def opened(settings: Settings) -> AsyncGenerator[State]:
    """The state with its schema made or checked, for the length of a block."""
    found = state(settings)
    try:
        await schema.prepare(found.database)
        yield found
    finally:
        await found.close()


def _seals(settings: Settings) -> Seals:
    if not settings.seal:
        return Plain()
    return Sealer(settings.key or (load_or_make_key(settings.key_file or settings.data_dir / "key"),))


def registrar(found: State, ehrs: tuple[str, ...] = ()) -> Registrar:
    """Registers clients. `ehrs` stands in where no EHR is set."""
    known = tuple(one.name for one in found.settings.ehrs) or ehrs
    return Registrar(found.database, Rules(known, found.settings.jwks_loopback), record_in=found.audit.record_in)


def accounts(found: State) -> Accounts:
    """People who sign in."""
    return Accounts(found.database, Passwords(), record_in=found.audit.record_in)


def launches(found: State) -> Launches:
    """EHR launches."""
    return Launches(found.database, public_url=found.settings.public_url, record_in=found.audit.record_in)


def signing_keys(found: State) -> SigningKeys:
    """Keys of id_tokens."""
    return SigningKeys(found.database, found.seals)
