"""The operator's view of the inbox: what lies in it, a second chance for a dead message, and giving one up. None of these functions commits."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import bindparam, case, delete, func, or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.store import inbox_tables as t
from gateway.store.base import UtcDateTime
from gateway.store.inbox import changed, get, let_go
from gateway.store.inbox_rows import OTHERS, PENDING, UNCONFIRMED, Accounting, Entry, Message, State
from gateway.store.inbox_tables import as_entry, as_message

_UNDECIDED = (
    update(t.entry)
    .where(
        t.entry.c.seq == bindparam("of_seq"),
        t.entry.c.kind == "create",
        t.entry.c.target == "",
        or_(t.entry.c.seen.is_(None), t.entry.c.seen == OTHERS),
    )
    .values(tried=False, seen=None)
)


async def request(connection: AsyncConnection, seq: int) -> bytes:
    """The stored request, sealed."""
    return (await connection.execute(select(t.message.c.request).where(t.message.c.seq == seq))).scalar_one()


async def entries(connection: AsyncConnection, seq: int) -> tuple[Entry, ...]:
    """The pieces of a message, in order."""
    rows = await connection.execute(select(*t.ENTRY).where(t.entry.c.seq == seq).order_by(t.entry.c.position))
    return tuple(as_entry(row) for row in rows)


async def listing(
    connection: AsyncConnection, *, state: str = "", client_id: str = "", limit: int = 100, after: int | None = None
) -> tuple[Message, ...]:
    """Newest first; `after` is the seq to go on from."""
    statement = select(*t.MESSAGE).order_by(t.message.c.seq.desc()).limit(limit)
    if state == "pending":
        statement = statement.where(t.message.c.state.in_(PENDING))
    elif state:
        statement = statement.where(t.message.c.state == state)
    if client_id:
        statement = statement.where(t.message.c.client_id == client_id)
    if after is not None:
        statement = statement.where(t.message.c.seq < after)
    return tuple(as_message(row) for row in await connection.execute(statement))


async def accounting(connection: AsyncConnection) -> Accounting:
    """The identity of ingest, counted by one statement: from one snapshot of the table."""

    def among(*states: State) -> Any:
        return func.coalesce(func.sum(case((t.message.c.state.in_(states), 1), else_=0)), 0)

    pending = case((t.message.c.state.in_(PENDING), t.message.c.received_at))
    row = (
        await connection.execute(
            select(
                func.count(t.message.c.seq),
                among(State.DONE),
                among(State.REJECTED),
                among(State.DEAD),
                among(State.HELD),
                among(*PENDING),
                func.min(pending, type_=UtcDateTime()),
            )
        )
    ).one()
    return Accounting(*(int(count) for count in row[:6]), oldest_pending=row[6])


async def retry(connection: AsyncConnection, id_: str, at: datetime) -> bool:
    """The operator's second chance for a dead message: it keeps its place in the order. False when it is not dead.

    One whose outcome was not known is sent again: the operator has looked, and it is not there.
    """
    found = await get(connection, id_)
    if found is not None and found.state == State.DEAD and found.error == UNCONFIRMED:
        await connection.execute(_UNDECIDED, {"of_seq": found.seq})
    statement = (
        update(t.message)
        .where(t.message.c.id == id_, t.message.c.state == State.DEAD)
        .values(state=State.RECEIVED, attempts=0, next_attempt_at=at, error="")
    )
    if changed(await connection.execute(statement)) != 1:
        return False
    await let_go(connection)
    return True


async def drop(connection: AsyncConnection, id_: str, at: datetime, answer: bytes) -> bool:
    """The operator gives a message up: it counts as rejected, and its row stays. False when it is under lease or through."""
    statement = (
        update(t.message)
        .where(t.message.c.id == id_, t.message.c.state.in_((State.RECEIVED, State.DEAD, State.HELD)))
        .values(state=State.REJECTED, error="dropped", ended_at=at, answer=answer)
        .returning(t.message.c.seq)
    )
    seq = (await connection.execute(statement)).scalar_one_or_none()
    if seq is None:
        return False
    await connection.execute(update(t.entry).where(t.entry.c.seq == seq, t.entry.c.state == State.RECEIVED).values(state=State.REJECTED))
    await connection.execute(delete(t.key).where(t.key.c.seq == seq))
    await let_go(connection)
    return True
