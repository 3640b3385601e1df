"""The ways to sign in, as the pages of sign-in and of "Sign-in and security" are given them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from gateway.smart.server.people.accounts import Accounts
from gateway.smart.server.people.ending import Endings
from gateway.smart.server.people.factors import Factors
from gateway.smart.server.people.passkeys import Passkeys
from gateway.smart.server.people.providers import Provider
from gateway.smart.server.people.sessions import Sessions
from gateway.smart.server.people.verification import Verification


@dataclass(frozen=True, slots=True)
class Doors:
    """Password, second factor, passkey, a code to a verified address, outside providers; the sessions that they begin; an end to all."""

    accounts: Accounts
    sessions: Sessions
    factors: Factors
    passkeys: Passkeys
    verification: Verification
    endings: Endings
    providers: Mapping[str, Provider] = field(default_factory=dict[str, Provider])
