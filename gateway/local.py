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
from gateway.smart.record import RecordIn
from gateway.smart.server.attempts import Attempts
from gateway.smart.server.authorization.launches import Launches
from gateway.smart.server.authorization.operator import GivenAccess
from gateway.smart.server.clients.admin import Clients
from gateway.smart.server.clients.invites import Invites
from gateway.smart.server.clients.registration import Registrar, Rules
from gateway.smart.server.keys import SigningKeys
from gateway.smart.server.lifetimes import Lifetimes
from gateway.smart.server.people.accounts import Accounts, Passwords
from gateway.smart.server.people.factors import Factors
from gateway.store import schema
from gateway.store.audit import AuditLog
from gateway.store.base import Clock, Database, now
from gateway.store.events import EventLog


@dataclass(frozen=True, slots=True)
class Ground:
    """What every part of the authorization server stands on; and those of its parts that commands work with too, each made here alone.

    `secrets` seals what opens doors. `must_name_user`: whether each launch has to say whose it is.
    """

    database: Database
    record_in: RecordIn
    secrets: Seals
    public_url: str
    lifetimes: Lifetimes
    must_name_user: bool = False
    attempts: Attempts = Attempts()  # noqa: RUF009  # a frozen value
    clock: Clock = now

    def signing_keys(self) -> SigningKeys:
        """Keys of id_tokens."""
        return SigningKeys(self.database, self.secrets, record_in=self.record_in, lifetimes=self.lifetimes, clock=self.clock)

    def registrar(self, rules: Rules) -> Registrar:
        """Registers clients."""
        return Registrar(self.database, rules, record_in=self.record_in, clock=self.clock)

    def clients(self) -> Clients:
        """Registered clients."""
        return Clients(self.database, record_in=self.record_in, clock=self.clock)

    def invites(self) -> Invites:
        """What developers register their clients with."""
        return Invites(self.database, record_in=self.record_in, clock=self.clock)

    def accounts(self, passwords: Passwords) -> Accounts:
        """People who sign in."""
        return Accounts(self.database, passwords, record_in=self.record_in, attempts=self.attempts, clock=self.clock)

    def factors(self) -> Factors:
        """Their second factors."""
        return Factors(self.database, self.secrets, record_in=self.record_in, attempts=self.attempts, clock=self.clock)

    def given_access(self) -> GivenAccess:
        """What apps were allowed, for the operator."""
        return GivenAccess(self.database, record_in=self.record_in, lifetimes=self.lifetimes, clock=self.clock)

    def launches(self) -> Launches:
        """EHR launches."""
        must, url = self.must_name_user, self.public_url
        return Launches(self.database, public_url=url, record_in=self.record_in, must_name_user=must, lifetimes=self.lifetimes, clock=self.clock)


@dataclass(frozen=True, slots=True)
class State:
    """What is on disk and in the database. `seals`: for content that rests, none with `seal = false`; `secrets`: for what opens doors, always."""

    settings: Settings
    database: Database
    seals: Seals
    secrets: Sealer
    audit: AuditLog
    events: EventLog

    @property
    def ground(self) -> Ground:
        """What the authorization server stands on. How long what it gives counts, is said here for everybody: no setting changes it."""
        settings, must_name_user = self.settings, self.settings.launch_user == "required"
        return Ground(self.database, self.audit.record_in, self.secrets, settings.public_url, Lifetimes(), must_name_user=must_name_user)

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
    return found.ground.registrar(rules(found.settings, ehrs))


def rules(settings: Settings, ehrs: tuple[str, ...] = ()) -> Rules:
    """What registrations are judged by."""
    return Rules(tuple(one.name for one in settings.ehrs) or ehrs, settings.jwks_loopback)


def clients(found: State) -> Clients:
    """Registered clients, for the operator."""
    return found.ground.clients()


def accounts(found: State) -> Accounts:
    """People who sign in."""
    return found.ground.accounts(Passwords())


def factors(found: State) -> Factors:
    """Their second factors, for the operator."""
    return found.ground.factors()


def given_access(found: State) -> GivenAccess:
    """What apps were allowed, for the operator."""
    return found.ground.given_access()


def launches(found: State) -> Launches:
    """EHR launches."""
    return found.ground.launches()


def signing_keys(found: State) -> SigningKeys:
    """Keys of id_tokens."""
    return found.ground.signing_keys()


def invites(found: State) -> Invites:
    """What developers register their clients with."""
    return found.ground.invites()
