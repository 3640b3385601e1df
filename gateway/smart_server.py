"""Builds the authorization server, once: for `compose`, and for tests that let it stand by itself."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from gateway.config import Settings
from gateway.local import Ground, rules
from gateway.seal import Seals
from gateway.smart.server.authorization.driver import Authorizations
from gateway.smart.server.authorization.grants import Grants
from gateway.smart.server.authorization.launches import Launches
from gateway.smart.server.authorization.pushed import PushedRequests
from gateway.smart.server.clients.admin import Clients
from gateway.smart.server.clients.authentication import ClientAuthentication
from gateway.smart.server.clients.jwks import ClientKeys, FetchJwks
from gateway.smart.server.clients.own_registration import OwnRegistrations, Policy
from gateway.smart.server.clients.registration import Rules
from gateway.smart.server.keys import SigningKeys
from gateway.smart.server.people.accounts import Accounts, Passwords, normalised
from gateway.smart.server.people.developers import Developers
from gateway.smart.server.people.ending import Endings
from gateway.smart.server.people.factors import Factors
from gateway.smart.server.people.passkeys import Passkeys
from gateway.smart.server.people.sessions import Sessions
from gateway.smart.server.people.verification import Notifier, Verification
from gateway.smart.server.token.authenticator import Authenticator
from gateway.smart.server.token.driver import TokenDriver
from gateway.smart.server.token.inspection import Inspector
from gateway.smart.server.trial import OFF
from gateway.smart.server.trials import Trials


@dataclass(frozen=True, slots=True)
class Terms:
    """What the operator decides. `types`: the resource types that scopes may name. `service`: what it is called in messages to people.

    `registration`, `registration_rate`: of clients that register themselves. `developers`: the users of the launcher; None where it is off.
    """

    rules: Rules
    types: tuple[str, ...]
    service: str
    must_push: bool = False
    registration: Policy = Policy()  # noqa: RUF009  # a frozen value
    registration_rate: int = 20
    developers: tuple[str, ...] | None = None

    @property
    def ehrs(self) -> tuple[str, ...]:
        """The names in the configuration."""
        return tuple(self.rules.ehrs)


def terms(settings: Settings, *, types: Iterable[str], service: str) -> Terms:
    """As the settings say."""
    return Terms(
        rules(settings),
        tuple(types),
        service,
        must_push=settings.require_pushed_requests,
        registration=Policy(settings.registration, settings.registration_review),
        registration_rate=settings.registration_rate,
        developers=tuple(settings.launcher_users) if settings.launcher_enabled else None,
    )


@dataclass(frozen=True, slots=True)
class Means:
    """By what it works: the hashing of passwords, messages to people, the key sets of clients, and the seal of what developers see."""

    passwords: Passwords
    notifier: Notifier
    fetch: FetchJwks
    seals: Seals


@dataclass(frozen=True, slots=True)
class AuthorizationServer:
    """Its parts. `trials`: None where the launcher is off."""

    sessions: Sessions
    launches: Launches
    trials: Trials | None
    authenticator: Authenticator
    keys: SigningKeys
    tokens: TokenDriver
    inspector: Inspector
    authorizations: Authorizations
    pushed: PushedRequests
    grants: Grants
    accounts: Accounts
    factors: Factors
    passkeys: Passkeys
    verification: Verification
    endings: Endings
    clients: Clients
    own_registrations: OwnRegistrations


def authorization_server(on: Ground, said: Terms, by: Means) -> AuthorizationServer:
    """Every part, in the order in which each needs the ones before it."""
    database, url, lifetimes, clock, record_in = on.database, on.public_url, on.lifetimes, on.clock, on.record_in

    # The launcher, which sees what the others do
    sessions = Sessions(database, record_in=record_in, developers=map(normalised, said.developers or ()), clock=clock)
    launches = on.launches()
    trials = _trials(on, said, by, sessions, launches)
    watch = trials or OFF

    # Apps: their requests, their tokens, and what they may do with them
    keys = on.signing_keys()
    authentication = ClientAuthentication(database, ClientKeys(by.fetch), public_url=url, clock=clock)
    tokens = TokenDriver(
        database, public_url=url, keys=keys, authentication=authentication, record_in=record_in, lifetimes=lifetimes, watch=watch, clock=clock
    )
    authorizations = Authorizations(
        database,
        public_url=url,
        types=said.types,
        keys=keys,
        must_push=said.must_push,
        record_in=record_in,
        lifetimes=lifetimes,
        watch=watch,
        clock=clock,
    )
    pushed = PushedRequests(database, authentication, authorizations, record_in=record_in, lifetimes=lifetimes, watch=watch, clock=clock)

    # People
    limited = on.attempts
    verification = Verification(
        database, by.passwords, on.secrets, by.notifier, service=said.service, record_in=record_in, attempts=limited, clock=clock
    )
    return AuthorizationServer(
        sessions=sessions,
        launches=launches,
        trials=trials,
        authenticator=Authenticator(database, record_in=record_in, watch=watch, clock=clock),
        keys=keys,
        tokens=tokens,
        inspector=Inspector(database, authentication, public_url=url, record_in=record_in, watch=watch, clock=clock),
        authorizations=authorizations,
        pushed=pushed,
        grants=Grants(database, record_in=record_in, lifetimes=lifetimes, clock=clock),
        accounts=on.accounts(by.passwords),
        factors=on.factors(),
        passkeys=Passkeys(database, public_url=url, service=said.service, record_in=record_in, attempts=limited, clock=clock),
        verification=verification,
        endings=Endings(database, record_in=record_in, lifetimes=lifetimes, clock=clock),
        clients=on.clients(),
        own_registrations=own_registrations(on, said),
    )


def own_registrations(on: Ground, said: Terms) -> OwnRegistrations:
    """Clients that register themselves."""
    most = said.registration_rate
    return OwnRegistrations(on.database, said.rules, said.registration, public_url=on.public_url, record_in=on.record_in, clock=on.clock, most=most)


def _trials(on: Ground, said: Terms, by: Means, sessions: Sessions, launches: Launches) -> Trials | None:
    """Trials of the launcher; None where it is off."""
    if said.developers is None:
        return None
    developers = Developers(on.database, sessions, said.developers, record_in=on.record_in, clock=on.clock)
    return Trials(on.database, launches, developers, by.seals, ehrs=said.ehrs, public_url=on.public_url, record_in=on.record_in, clock=on.clock)
