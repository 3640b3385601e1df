"""Browsers in which a person signed in before: what strangers do in her name does not lock her out of them. No function commits."""

from __future__ import annotations

from datetime import datetime, timedelta

from sqlalchemy import delete, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.store import people_tables
from gateway.store.row_values import add_once

_MOST = 20  # of one person: the oldest is forgotten for the next
KEPT = timedelta(days=400)
"""How long one is known without a sign-in; as long as browsers keep a cookie (RFC 6265bis section 5.5)."""

_table = people_tables.known_browser


async def remember(connection: AsyncConnection, account_id: str, hash_: str, at: datetime) -> None:
    """This person signed in there."""
    mine = _table.c.account_id == account_id
    if not await add_once(connection, _table, {"hash": hash_, "account_id": account_id, "seen_at": at}):
        await connection.execute(update(_table).where(mine, _table.c.hash == hash_).values(seen_at=at))
    kept = select(_table.c.hash).where(mine).order_by(_table.c.seen_at.desc(), _table.c.hash).limit(_MOST)
    await connection.execute(delete(_table).where(mine, _table.c.hash.not_in(kept)))


async def knows(connection: AsyncConnection, username: str, hash_: str) -> bool:
    """Whether the person of this name signed in there."""
    account = people_tables.account
    found = select(_table.c.hash).join(account, account.c.id == _table.c.account_id).where(account.c.username == username, _table.c.hash == hash_)
    return (await connection.execute(found)).first() is not None


async def prune(connection: AsyncConnection, *, moment: datetime) -> None:
    """Forget those that nobody signed in from for long."""
    await connection.execute(delete(_table).where(_table.c.seen_at < moment - KEPT))
