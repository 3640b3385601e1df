"""What the operator does with registered clients, and the invites by which developers register their own. No function commits."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import delete, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.store import oauth_tables as t
from gateway.store.oauth_rows import Client, Invite
from gateway.store.row_values import as_row, as_value, changed, one_row


async def approve(connection: AsyncConnection, client: Client) -> bool:
    """Somebody looked at this. True when this call let it in; False when it does not wait, or changed itself meanwhile (a new token each time)."""
    waiting = update(t.client).where(t.client.c.id == client.id, t.client.c.pending_since.is_not(None))
    same = waiting.where(t.client.c.registration_hash == client.registration_hash)
    return await changed(connection, same.values(pending_since=None))


async def replace_secret(connection: AsyncConnection, client: Client, hash_: str, *, old_until: datetime | None) -> bool:
    """The hash of its new secret; the one it has counts until then, or no longer. False when it was replaced, or the client deleted, meanwhile."""
    same = update(t.client).where(t.client.c.id == client.id, t.client.c.secret_hash == client.secret_hash)
    old = client.secret_hash if old_until else ""
    return await changed(connection, same.values(secret_hash=hash_, old_secret_hash=old, old_secret_until=old_until))


async def rotate_registration(connection: AsyncConnection, client_id: str, hash_: str, new_hash: str) -> bool:
    """Replace the token with which it manages itself. True once for each: then nobody else changes the client in this transaction."""
    held = update(t.client).where(t.client.c.id == client_id, t.client.c.registration_hash == hash_)
    return await changed(connection, held.values(registration_hash=new_hash))


async def forget(connection: AsyncConnection, client_id: str) -> bool:
    """Forget it, with its origins and whatever waits in its name. Grants are ended by the caller, and stay on file. True when this call did."""
    return await changed(connection, delete(t.client).where(t.client.c.id == client_id))


async def waiting(connection: AsyncConnection, before: datetime, *, most: int) -> tuple[Client, ...]:
    """Clients that registered themselves before that moment, wait since, and to which nobody ever gave anything; the oldest first."""
    given = select(t.grant.c.id).where(t.grant.c.client_id == t.client.c.id).exists()
    old = select(t.client).where(t.client.c.pending_since < before, t.client.c.registration_hash != "", ~given)
    found = await connection.execute(old.order_by(t.client.c.pending_since, t.client.c.id).limit(most))
    return tuple(one for row in found if (one := as_value(Client, row)) is not None)


async def forget_waiting(connection: AsyncConnection, client: Client) -> bool:
    """Forget one of them. False when it was let in, or changed itself, meanwhile."""
    same = (t.client.c.id == client.id, t.client.c.pending_since == client.pending_since)
    return await changed(connection, delete(t.client).where(*same))


async def add_invite(connection: AsyncConnection, value: Invite) -> None:
    """Somebody may register."""
    await connection.execute(insert(t.invite).values(**as_row(value)))


async def invites(connection: AsyncConnection, at: datetime) -> tuple[Invite, ...]:
    """Those that can still be used, the last made first."""
    usable = select(t.invite).where(t.invite.c.uses_left > 0, t.invite.c.expires_at > at).order_by(t.invite.c.created_at.desc(), t.invite.c.id)
    return tuple(found for row in await connection.execute(usable) if (found := as_value(Invite, row)) is not None)


async def invite(connection: AsyncConnection, hash_: str) -> Invite | None:
    """By the hash of its token, used up or not."""
    return await one_row(connection, Invite, t.invite, hash_)


async def use_invite(connection: AsyncConnection, hash_: str, at: datetime) -> bool:
    """Use it once more. False when it is used up or over."""
    usable = update(t.invite).where(t.invite.c.hash == hash_, t.invite.c.uses_left > 0, t.invite.c.expires_at > at)
    return await changed(connection, usable.values(uses_left=t.invite.c.uses_left - 1))


async def withdraw_invite(connection: AsyncConnection, id_: str, at: datetime) -> bool:
    """It cannot be used any more. True when this call ended it."""
    usable = update(t.invite).where(t.invite.c.id == id_, t.invite.c.uses_left > 0, t.invite.c.expires_at > at)
    return await changed(connection, usable.values(uses_left=0))
