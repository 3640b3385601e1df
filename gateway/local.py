"""What a command on this machine works with: the store, the keys, the record of accesses, and what changes them.

Nothing that speaks HTTP to callers (FastAPI, the pages, the API) is imported here, so that a command starts without it.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from gateway.config import Settings
from gateway.seal import Plain, Sealer, Seals, load_or_make_key
from gateway.smart.server.authorization.launches import Launches
from gateway.smart.server.authorization.operator import GivenAccess
from gateway.smart.server.clients.admin import Clients
from gateway.smart.server.clients.invites import Invites
from gateway.smart.server.clients.own_registration import OwnRegistrations, Policy
from gateway.smart.server.clients.registration import Registrar, Rules
from gateway.smart.server.keys import SigningKeys
from gateway.smart.server.people.accounts import Accounts, Passwords
from gateway.smart.server.people.factors import Factors
from gateway.store import schema
from gateway.store.audit import AuditLog
from gateway.store.base import Database
from gateway.store.events import EventLog


@dataclass(frozen=True, slots=True)
class State:
    """What is on disk and in the database. `seals`: for content that rests, none with `seal = false`; `secrets`: for what opens doors, always."""

    settings: Settings
    database: Database
    seals: Seals
    secrets: Sealer
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
    secrets = sealer(settings)
    seals = secrets if settings.seal else Plain()
    return State(
        settings,
        database,
        seals,
        secrets,
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


def has_store(settings: Settings) -> bool:
    """Whether there may be a store to open: an SQLite file that is not there is not made by a command that only looks."""
    return not settings.store.startswith("sqlite") or Path(settings.store.partition(":///")[2]).exists()


def sealer(settings: Settings) -> Sealer:
    """With the operator's keys, or with one of our own.

    Keys, tokens of people at their EHRs, authenticators and addresses are sealed even where content is not: whoever reads the store would be let in
    by them. So are page links: an open one could be rewritten to continue somebody else's search (ATK-F15).
    """
    return Sealer(settings.key or (load_or_make_key(settings.key_file or settings.data_dir / "key"),))


def registrar(found: State, ehrs: tuple[str, ...] = ()) -> Registrar:
    """Registers clients. `ehrs` stands in where no EHR is set."""
    known = tuple(one.name for one in found.settings.ehrs) or ehrs
    return Registrar(found.database, Rules(known, found.settings.jwks_loopback), record_in=found.audit.record_in)


def own_registrations(found: State) -> OwnRegistrations:
    """Clients that register themselves."""
    settings = found.settings
    rules = Rules(tuple(one.name for one in settings.ehrs), settings.jwks_loopback)
    policy = Policy(settings.registration, settings.registration_review)
    return OwnRegistrations(
        found.database, rules, policy, public_url=settings.public_url, record_in=found.audit.record_in, most=settings.registration_rate
    )


def clients(found: State) -> Clients:
    """Registered clients, for the operator."""
    return Clients(found.database, record_in=found.audit.record_in)


def accounts(found: State) -> Accounts:
    """People who sign in."""
    return Accounts(found.database, Passwords(), record_in=found.audit.record_in)


def factors(found: State) -> Factors:
    """Their second factors, for the operator."""
    return Factors(found.database, found.secrets, record_in=found.audit.record_in)


def given_access(found: State) -> GivenAccess:
    """What apps were allowed, for the operator."""
    return GivenAccess(found.database, record_in=found.audit.record_in)


def launches(found: State) -> Launches:
    """EHR launches."""
    settings = found.settings
    must = settings.launch_user == "required"
    return Launches(found.database, public_url=settings.public_url, record_in=found.audit.record_in, must_name_user=must)


def signing_keys(found: State) -> SigningKeys:
    """Keys of id_tokens."""
    return SigningKeys(found.database, found.secrets, record_in=found.audit.record_in)


def invites(found: State) -> Invites:
    """What developers register their clients with."""
    return Invites(found.database, record_in=found.audit.record_in)
