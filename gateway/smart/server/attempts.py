"""How often one may try: to sign in, to give a second factor, to have a code sent, to start a trial. Names and addresses are known only as hashes."""

from __future__ import annotations

import hashlib
import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.store import people


@dataclass(frozen=True, slots=True)
class Attempts:
    """How many failures are too many, within how many seconds. Codes have a window of their own: who tries them had the password already."""

    of_name: int = 10
    of_address: int = 100  # a clinic may sit behind one address
    window: int = 900
    of_factor: int = 10
    factor_window: int = 3600
    sends: int = 3  # codes that are sent to one person, or asked for in one name from one place
    sends_of_address: int = 20
    day: int = 86400
    sends_a_day: int = 6  # asked for in one name from one place: a browser in which she signed in before, or else a network
    sends_of_strangers: int = 30  # in a day, in one name, from all places that are no browser of hers


@dataclass(frozen=True, slots=True)
class Limit:
    """At most `most` within `window` seconds, counted under `key`."""

    key: str
    most: int
    window: int


def limits_of_sign_in(attempts: Attempts, name: str, address: str, known: str = "") -> tuple[Limit, ...]:
    """Of one name (there or not), and of the address it comes from. `known`: a browser of hers, which counts apart from all strangers."""
    own = Limit(_hashed(f"name:{name}:{known}" if known else f"name:{name}"), attempts.of_name, attempts.window)
    return (own, *_of_address(address, attempts.of_address, attempts.window))


def limits_of_factor(attempts: Attempts, account_id: str, address: str) -> tuple[Limit, ...]:
    """Of the second factor of one account. The address counts together with its sign-ins."""
    own = Limit(_hashed(f"factor:{account_id}"), attempts.of_factor, attempts.factor_window)
    return (own, *_of_address(address, attempts.of_address, attempts.window))


def limits_of_sending(attempts: Attempts, whom: str, address: str) -> tuple[Limit, ...]:
    """Of codes sent to one person."""
    return (
        Limit(_hashed(f"send:{whom}"), attempts.sends, attempts.window),
        *_of_address(address, attempts.sends_of_address, attempts.window, "send-"),
    )


def limits_of_forgotten(attempts: Attempts, name: str, address: str, known: str = "") -> tuple[Limit, ...]:
    """Of codes asked for in one name, there or not; each is counted where the one before lets pass.

    From one place, a browser of hers (`known`) or a network; from one address; from everywhere but her own browsers: all that a guesser has.
    """
    place = f"forgotten:{name}:{known or _network(address)}"
    return (
        Limit(_hashed(place), attempts.sends, attempts.window),
        *_of_address(address, attempts.sends_of_address, attempts.window, "send-"),
        Limit(_hashed(f"day-{place}"), attempts.sends_a_day, attempts.day),
        *(() if known else (Limit(_hashed(f"strangers:{name}"), attempts.sends_of_strangers, attempts.day),)),
    )


def limits_of_code(attempts: Attempts, code: str, most: int, address: str) -> tuple[Limit, ...]:
    """Of the tries of one code that was sent, and of the address they come from."""
    return (Limit(_hashed(f"code:{code}"), most, attempts.factor_window), *_of_address(address, attempts.of_address, attempts.window))


def limits_of_registration(address: str, most: int, window: int) -> Iterable[Limit]:
    """Of clients that are registered from one address."""
    return _of_address(address, most, window, "register-")


def limits_of_trials(by: str, address: str, *, most: int, most_of_system: int, window: int) -> Iterable[Limit]:
    """Of trials that one system starts, `by` its id; or, without one, that are started from one address."""
    return (Limit(_hashed(f"trials:{by}"), most_of_system, window),) if by else _of_address(address, most, window, "trial-")


def _of_address(address: str, most: int, window: int, kind: str = "") -> Iterable[Limit]:
    """None when it is not known."""
    return (Limit(_hashed(f"{kind}address:{_network(address)}"), most, window),) if address else ()


async def count(connection: AsyncConnection, limits: Iterable[Limit], moment: datetime) -> int:
    """Count one more attempt, before it is judged, so that many at once count too. Seconds to wait, or 0.

    The last limit first, which is the address's: one that may not try any more locks nobody else's name.
    """
    for limit in reversed(tuple(limits)):
        window = timedelta(seconds=limit.window)
        counted, since = await people.count_attempt(connection, limit.key, moment, moment - window)
        if counted > limit.most:
            return int((since + window - moment).total_seconds()) + 1
    return 0


async def forgive(connection: AsyncConnection, limits: tuple[Limit, ...]) -> None:
    """A success clears the name. The address only gets this one back: an attacker with one account of his own gains nothing."""
    for limit in reversed(limits[1:]):  # in the order in which they were counted: of two at once none waits for the other
        await people.uncount_attempt(connection, limit.key)
    await people.forget_attempts(connection, limits[0].key)


def _hashed(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _network(address: str) -> str:
    """The address, or for IPv6 the /64 that one subscriber has."""
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return address
    return str(ipaddress.ip_network(f"{found}/64", strict=False)) if isinstance(found, ipaddress.IPv6Address) else str(found)
