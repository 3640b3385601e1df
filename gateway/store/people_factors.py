"""Reads and writes of how people sign in besides the password: second factors, passkeys, contact, and steps that wait for the next form.

As in `store.oauth`, a change that may happen once only says whether this caller was the one, and none of these functions commits.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import delete, func, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.store import people_tables as t
from gateway.store.row_values import add_once, as_row, as_value, changed, one_row


@dataclass(frozen=True, slots=True)
class Totp:
    """An authenticator app. It counts from `confirmed_at` on."""

    account_id: str
    sealed: bytes
    created_at: datetime
    confirmed_at: datetime | None = None
    last_step: int = 0


@dataclass(frozen=True, slots=True)
class Passkey:
    """A WebAuthn credential. `hash` is the SHA-256 of its id."""

    hash: str
    account_id: str
    credential_id: bytes
    public_key: bytes
    sign_count: int
    name: str
    created_at: datetime
    used_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Contact:
    """A verified e-mail address or phone number, sealed."""

    account_id: str
    sealed: bytes
    verified_at: datetime


@dataclass(frozen=True, slots=True)
class Pending:
    """A step that waits: whose (`account_id`, "" for nobody's), what it is judged by, how often it was tried."""

    hash: str
    began_at: datetime
    expires_at: datetime
    account_id: str = ""
    secret: str = ""
    sealed: bytes | None = None
    tries: int = 0


# Authenticator app -----------------------------------------------------------------------------------------------------


async def totp(connection: AsyncConnection, account_id: str) -> Totp | None:
    """The account's, confirmed or not."""
    return await one_row(connection, Totp, t.totp, account_id, "account_id")


async def begin_totp(connection: AsyncConnection, value: Totp) -> bool:
    """Replace one that was never confirmed. False when a confirmed one is there."""
    await connection.execute(delete(t.totp).where(t.totp.c.account_id == value.account_id, t.totp.c.confirmed_at.is_(None)))
    return await add_once(connection, t.totp, as_row(value))


async def confirm_totp(connection: AsyncConnection, value: Totp, *, at: datetime, step: int) -> bool:
    """It counts from now on; the step that confirmed it is used. False when it is another one by now, or confirmed already."""
    mine = (t.totp.c.account_id == value.account_id, t.totp.c.created_at == value.created_at, t.totp.c.confirmed_at.is_(None))
    return await changed(connection, update(t.totp).where(*mine).values(confirmed_at=at, last_step=step))


async def use_totp_step(connection: AsyncConnection, account_id: str, step: int) -> bool:
    """Use the code of a step. False: that one, or a later one, was used before."""
    mine = (t.totp.c.account_id == account_id, t.totp.c.confirmed_at.is_not(None), t.totp.c.last_step < step)
    return await changed(connection, update(t.totp).where(*mine).values(last_step=step))


async def remove_totp(connection: AsyncConnection, account_id: str) -> bool:
    """Take it away. False when there was none."""
    return await changed(connection, delete(t.totp).where(t.totp.c.account_id == account_id))


# Recovery codes --------------------------------------------------------------------------------------------------------


async def set_recovery_codes(connection: AsyncConnection, account_id: str, hashes: Iterable[str]) -> None:
    """These, and none of the earlier ones."""
    await connection.execute(delete(t.recovery_code).where(t.recovery_code.c.account_id == account_id))
    for one in hashes:
        await connection.execute(insert(t.recovery_code).values(hash=one, account_id=account_id))


async def use_recovery_code(connection: AsyncConnection, account_id: str, hash_: str) -> bool:
    """Use one. False when it is none of this account's, or was used."""
    return await changed(connection, delete(t.recovery_code).where(t.recovery_code.c.hash == hash_, t.recovery_code.c.account_id == account_id))


async def recovery_codes_left(connection: AsyncConnection, account_id: str) -> int:
    """How many there are."""
    counted = await connection.execute(select(func.count()).select_from(t.recovery_code).where(t.recovery_code.c.account_id == account_id))
    return int(counted.scalar_one())


# Passkeys --------------------------------------------------------------------------------------------------------------


async def passkey(connection: AsyncConnection, hash_: str) -> Passkey | None:
    """By the hash of its credential id."""
    return await one_row(connection, Passkey, t.passkey, hash_)


async def passkeys(connection: AsyncConnection, account_id: str) -> tuple[Passkey, ...]:
    """The account's, the oldest first."""
    rows = await connection.execute(select(t.passkey).where(t.passkey.c.account_id == account_id).order_by(t.passkey.c.created_at, t.passkey.c.hash))
    return tuple(found for row in rows if (found := as_value(Passkey, row)) is not None)


async def add_passkey(connection: AsyncConnection, value: Passkey) -> bool:
    """False when that credential is there already, whoever's it is."""
    return await add_once(connection, t.passkey, as_row(value))


async def use_passkey(connection: AsyncConnection, hash_: str, *, count: int, at: datetime) -> bool:
    """Remember the counter. False when it did not grow: a copy of the key may be in use. 0 means that the authenticator keeps none."""
    grew = t.passkey.c.sign_count < count if count else t.passkey.c.sign_count == 0
    return await changed(connection, update(t.passkey).where(t.passkey.c.hash == hash_, grew).values(sign_count=count, used_at=at))


async def remove_passkey(connection: AsyncConnection, account_id: str, hash_: str) -> bool:
    """Take one away. False when it is none of this account's."""
    return await changed(connection, delete(t.passkey).where(t.passkey.c.hash == hash_, t.passkey.c.account_id == account_id))


async def remove_factors(connection: AsyncConnection, account_id: str) -> None:
    """Everything besides the password."""
    for table in (t.totp, t.recovery_code, t.passkey):
        await connection.execute(delete(table).where(table.c.account_id == account_id))


# Contact ---------------------------------------------------------------------------------------------------------------


async def contact(connection: AsyncConnection, account_id: str) -> Contact | None:
    """The verified one."""
    return await one_row(connection, Contact, t.contact, account_id, "account_id")


async def set_contact(connection: AsyncConnection, value: Contact) -> None:
    """Instead of the one that was there."""
    await connection.execute(delete(t.contact).where(t.contact.c.account_id == value.account_id))
    await connection.execute(insert(t.contact).values(**as_row(value)))


async def remove_contact(connection: AsyncConnection, account_id: str) -> bool:
    """False when there was none."""
    return await changed(connection, delete(t.contact).where(t.contact.c.account_id == account_id))


# Steps that wait -------------------------------------------------------------------------------------------------------


async def put_pending(connection: AsyncConnection, value: Pending) -> None:
    """Instead of the one that waited under this hash."""
    await connection.execute(delete(t.pending).where(t.pending.c.hash == value.hash))
    await add_once(connection, t.pending, as_row(value))


async def pending(connection: AsyncConnection, hash_: str, at: datetime) -> Pending | None:
    """The one under this hash that is not over."""
    found = await one_row(connection, Pending, t.pending, hash_)
    return found if found and found.expires_at > at else None


async def try_pending(connection: AsyncConnection, value: Pending, *, most: int) -> int:
    """Count a try, before it is judged. Returns its number, from 1; 0 when there were `most`, or when another step waits there by now."""
    same = (t.pending.c.hash == value.hash, t.pending.c.began_at == value.began_at, t.pending.c.tries < most)
    counted = update(t.pending).where(*same).values(tries=t.pending.c.tries + 1).returning(t.pending.c.tries)
    return int((await connection.execute(counted)).scalar() or 0)


async def take_pending(connection: AsyncConnection, value: Pending) -> bool:
    """End the step. True for one caller."""
    same = (t.pending.c.hash == value.hash, t.pending.c.began_at == value.began_at)
    return await changed(connection, delete(t.pending).where(*same))


async def end_pending_of(connection: AsyncConnection, account_id: str) -> None:
    """Nothing that was begun for this account goes on."""
    await connection.execute(delete(t.pending).where(t.pending.c.account_id == account_id))
