"""The inbox: one row for everything that was pushed, and the queue that it is delivered from. No other queue exists.

States: received -> claimed -> sent -> done | rejected | dead, or back to received for another attempt; held while an earlier message of the same
order key is dead. A lease says who works on a row; its attempt token fences what a worker writes after the lease was lost (FAULT-P3).

`inbox_key` holds the order keys of messages that are not through: a message may be claimed when it is the first of each of its keys.
None of these functions commits. What an operator does with messages is in `store.inbox_admin`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import fields, replace
from datetime import datetime
from typing import Any, cast

from sqlalchemy import String, and_, bindparam, case, delete, exists, insert, literal, or_, select, text, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import CursorResult
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.store import inbox_tables as t
from gateway.store.inbox_rows import Added, Claimed, Entry, Fenced, Message, NewMessage, State
from gateway.store.inbox_tables import as_entry, as_message

# The statements that every message needs are made once: building them anew costs more than running them.
_UNDER_LEASE = update(t.message).where(
    t.message.c.seq == bindparam("of_seq"),
    t.message.c.attempt_token == bindparam("of_token"),
    t.message.c.state.in_([State.CLAIMED, State.SENT]),
)
_SENDING = _UNDER_LEASE.values(state=State.SENT)
_FINISHING = _UNDER_LEASE.values(
    state=bindparam("state_"),
    answer=bindparam("answer_"),
    error=bindparam("error_"),
    ended_at=bindparam("at_"),
    lease_until=None,
    lease_holder="",
)
_AGAIN = _UNDER_LEASE.values(
    state=State.RECEIVED,
    attempts=t.message.c.attempts - bindparam("less_"),
    next_attempt_at=bindparam("at_"),
    error=case((bindparam("error_") == "", t.message.c.error), else_=bindparam("error_", type_=String())),
    lease_until=None,
    lease_holder="",
)
_OF_MESSAGE = t.entry.c.seq == bindparam("of_seq")
_OF_PIECE = and_(_OF_MESSAGE, t.entry.c.position == bindparam("of_position"))
_TRIED = update(t.entry).where(_OF_PIECE).values(tried=True)
_SEEN = update(t.entry).where(_OF_PIECE).values(tried=True, seen=bindparam("seen_"))
_ALL_TRIED = update(t.entry).where(_OF_MESSAGE, t.entry.c.target != "").values(tried=True)  # others are marked one by one, before they go out
_UNSENT = update(t.entry).where(_OF_PIECE).values(tried=False, seen=None)
_WITHOUT_ID = update(t.entry).where(_OF_PIECE).values(target="", tried=False, seen=None)
_END_PIECE = update(t.entry).where(_OF_PIECE).values(state=bindparam("state_"), answer=bindparam("answer_"))
_END_PIECES = update(t.entry).where(_OF_MESSAGE, t.entry.c.state == State.RECEIVED).values(state=bindparam("state_"))
_FREE = delete(t.key).where(t.key.c.seq == bindparam("of_seq"))
_BY_ID = select(*t.MESSAGE).where(t.message.c.id == bindparam("of_id"))
_RESULT = select(t.message.c.state, t.message.c.answer).where(t.message.c.id == bindparam("of_id"))
_TAKE = (
    update(t.message)
    .where(t.message.c.seq.in_(bindparam("of_seqs", expanding=True)))
    .values(
        state=State.CLAIMED,
        attempts=t.message.c.attempts + 1,
        lease_until=bindparam("until_"),
        lease_holder=bindparam("holder_"),
        attempt_token=bindparam("token_"),
    )
    .returning(*t.MESSAGE, t.message.c.request)
)
_PIECES = select(*t.ENTRY, t.entry.c.seq).where(t.entry.c.seq.in_(bindparam("of_seqs", expanding=True))).order_by(t.entry.c.seq, t.entry.c.position)


# Receipt ---------------------------------------------------------------------------------------------------------------


async def add(connection: AsyncConnection, new: NewMessage, entries: Sequence[Entry], keys: Collection[str]) -> Added:
    """Store a message, or find the first one of the same identity and content (FAULT-S1). A message behind a dead one is held at once."""
    stored = await _insert(connection, new)
    if stored is None:
        row = (await connection.execute(select(*t.MESSAGE).where(t.message.c.repeat_key == new.repeat_key))).one()
        return Added(as_message(row), first=False)
    if entries:
        await connection.execute(insert(t.entry), [_values(item) | {"seq": stored.seq} for item in entries])
    await connection.execute(insert(t.key), [{"key": item, "seq": stored.seq} for item in sorted(set(keys))])
    held = await connection.execute(_HOLD_ONE, {"of_seq": stored.seq, "held_": State.HELD})
    return Added(replace(stored, state=State.HELD) if changed(held) else stored, first=True)


async def _insert(connection: AsyncConnection, new: NewMessage) -> Message | None:
    values = _values(new) | {
        "identity_reused": await _identity_used(connection, new),
        "state": State.RECEIVED,
        "attempts": 0,
        "next_attempt_at": new.received_at,
        "lease_holder": "",
        "attempt_token": "",
        "error": "",
    }
    statement = _INSERT_POSTGRES if connection.dialect.name == "postgresql" else _INSERT_SQLITE
    row = (await connection.execute(statement, values)).first()
    return as_message(row) if row is not None else None


async def _identity_used(connection: AsyncConnection, new: NewMessage) -> bool:
    """The same identity came with other content: both are processed, the second one is flagged (FAULT-S2)."""
    if not new.identity:
        return False
    other = select(literal(1)).where(t.message.c.identity == new.identity, t.message.c.repeat_key != new.repeat_key).limit(1)
    return (await connection.execute(other)).first() is not None


_INSERT_SQLITE = sqlite.insert(t.message).on_conflict_do_nothing(index_elements=["repeat_key"]).returning(*t.MESSAGE)
_INSERT_POSTGRES = postgresql.insert(t.message).on_conflict_do_nothing(index_elements=["repeat_key"]).returning(*t.MESSAGE)


def _values(value: NewMessage | Entry) -> dict[str, Any]:
    return {item.name: getattr(value, item.name) for item in fields(value)}


# Claim -----------------------------------------------------------------------------------------------------------------


async def claim(
    connection: AsyncConnection, *, holder: str, token: str, now: datetime, until: datetime, limit: int, paused: Collection[str] = ()
) -> tuple[Claimed, ...]:
    """Lease up to `limit` messages that are due and first of all their keys, oldest first; EHRs in `paused` are left alone.

    A lease that has run out counts as none: its message is claimed again with a new token (FAULT-P1).
    """
    found = [row.seq for row in await connection.execute(_DUE, {"now_": now, "paused_": list(paused), "limit_": limit})]
    if not found:
        return ()
    leased = {"of_seqs": found, "until_": until, "holder_": holder, "token_": token}
    rows = (await connection.execute(_TAKE, leased)).all()
    pieces: dict[int, list[Entry]] = {seq: [] for seq in found}
    for row in await connection.execute(_PIECES, {"of_seqs": found}):
        pieces[row.seq].append(as_entry(row))
    return tuple(Claimed(as_message(row), row.request, tuple(pieces[row.seq])) for row in sorted(rows, key=lambda row: row.seq))


def _first_of_its_keys() -> Any:
    mine, earlier = t.key.alias(), t.key.alias()
    return ~exists().where(mine.c.seq == t.message.c.seq, earlier.c.key == mine.c.key, earlier.c.seq < mine.c.seq)


_DUE = (
    select(t.message.c.seq)
    .where(
        text(f"inbox_message.{t.OPEN}"),
        t.message.c.next_attempt_at <= bindparam("now_"),
        or_(t.message.c.lease_until.is_(None), t.message.c.lease_until < bindparam("now_")),
        t.message.c.ehr.not_in(bindparam("paused_", expanding=True)),
        _first_of_its_keys(),
    )
    .order_by(t.message.c.seq)
    .limit(bindparam("limit_"))
    .with_for_update(skip_locked=True)
)


# Under lease -----------------------------------------------------------------------------------------------------------


async def renew(connection: AsyncConnection, held: Mapping[int, str], until: datetime) -> frozenset[int]:
    """Extend leases (seq to token). Returns those that are still this worker's."""
    mine = or_(*(and_(t.message.c.seq == seq, t.message.c.attempt_token == token) for seq, token in held.items()))
    statement = update(t.message).where(t.message.c.state.in_((State.CLAIMED, State.SENT)), mine).values(lease_until=until).returning(t.message.c.seq)
    return frozenset(row.seq for row in await connection.execute(statement))


async def sending(connection: AsyncConnection, claimed: Message, seen: Mapping[int, str | None]) -> None:
    """From here on the EHR may have it: position to the version that was read before. Committed before the first byte goes out."""
    await _under_lease(connection, _SENDING, claimed)
    for position, version in seen.items():
        piece = {"of_seq": claimed.seq, "of_position": position}
        if version is None:
            await connection.execute(_TRIED, piece)
        else:
            await connection.execute(_SEEN, piece | {"seen_": version})


async def unsent(connection: AsyncConnection, claimed: Message, positions: Collection[int]) -> None:
    """The EHR refused these, or never got them: as if they had not been sent."""
    await _under_lease(connection, _SENDING, claimed)
    for position in positions:
        await connection.execute(_UNSENT, {"of_seq": claimed.seq, "of_position": position})


async def give_up_ids(connection: AsyncConnection, claimed: Message, positions: Collection[int]) -> None:
    """The EHR takes no ids of clients: these creates have no target any more."""
    await _under_lease(connection, _UNDER_LEASE.values(target=""), claimed)
    for position in positions:
        await connection.execute(_WITHOUT_ID, {"of_seq": claimed.seq, "of_position": position})


async def finish_entry(connection: AsyncConnection, claimed: Message, position: int, state: State, answer: bytes) -> None:
    """One entry of a batch is through: it is not sent again when others are (FAULT-U24)."""
    await _under_lease(connection, _SENDING, claimed)
    await connection.execute(_END_PIECE, {"of_seq": claimed.seq, "of_position": position, "state_": state, "answer_": answer})


async def finish(
    connection: AsyncConnection,
    claimed: Message,
    state: State,
    *,
    at: datetime,
    answer: bytes | None = None,
    error: str = "",
    block: bool = True,
) -> None:
    """Done, rejected or dead. What waited behind it may go on; behind a dead one it is held, unless `block` is False."""
    ended = None if state is State.DEAD else at
    await _under_lease(connection, _FINISHING, claimed, state_=state, answer_=answer, error_=error, at_=ended)
    if state is State.DEAD:
        await connection.execute(_ALL_TRIED, {"of_seq": claimed.seq})
    else:
        await connection.execute(_END_PIECES, {"of_seq": claimed.seq, "state_": state})
    if state is State.DEAD and block:
        await _hold(connection)
    else:
        await connection.execute(_FREE, {"of_seq": claimed.seq})


async def again(connection: AsyncConnection, claimed: Message, *, at: datetime, error: str = "", counts: bool = True) -> None:
    """Give the lease back for another attempt at that time. `counts` is False when the EHR was not to blame, or asked for a pause.

    Whatever was to be sent may have been: the next attempt looks first, also when this one did not count.
    """
    await _under_lease(connection, _AGAIN, claimed, at_=at, error_=error, less_=0 if counts else 1)
    await connection.execute(_ALL_TRIED, {"of_seq": claimed.seq})


async def _under_lease(connection: AsyncConnection, statement: Any, claimed: Message, **values: Any) -> None:
    """Change a message under its lease. Raises Fenced when the lease is another's, or the message is through."""
    found = await connection.execute(statement, {"of_seq": claimed.seq, "of_token": claimed.attempt_token, **values})
    if changed(found) != 1:
        raise Fenced


def changed(result: Any) -> int:
    """Rows that an UPDATE changed."""
    return int(cast("CursorResult[Any]", result).rowcount)


# Behind a dead one -----------------------------------------------------------------------------------------------------


def _behind_dead() -> Any:
    mine, earlier, dead = t.key.alias(), t.key.alias(), t.message.alias()
    return exists().where(
        mine.c.seq == t.message.c.seq,
        earlier.c.key == mine.c.key,
        earlier.c.seq < mine.c.seq,
        dead.c.seq == earlier.c.seq,
        dead.c.state.in_((State.DEAD, State.HELD)),
    )


_HOLD = update(t.message).where(t.message.c.state == State.RECEIVED, _behind_dead()).values(state=bindparam("held_"))
_HOLD_ONE = _HOLD.where(t.message.c.seq == bindparam("of_seq"))


async def _hold(connection: AsyncConnection) -> None:
    """Hold what waits behind a dead message, and what waits behind that."""
    while changed(await connection.execute(_HOLD, {"held_": State.HELD})):
        pass


async def let_go(connection: AsyncConnection) -> None:
    """A dead message went away or back: what only it held may go on."""
    await connection.execute(update(t.message).where(t.message.c.state == State.HELD).values(state=State.RECEIVED))
    await _hold(connection)


# What became of one ----------------------------------------------------------------------------------------------------


async def get(connection: AsyncConnection, id_: str) -> Message | None:
    """By id."""
    row = (await connection.execute(_BY_ID, {"of_id": id_})).first()
    return as_message(row) if row is not None else None


async def answer(connection: AsyncConnection, seq: int) -> bytes | None:
    """The stored answer, sealed."""
    return (await connection.execute(select(t.message.c.answer).where(t.message.c.seq == seq))).scalar_one_or_none()


async def result(connection: AsyncConnection, id_: str) -> tuple[str, bytes | None]:
    """The state of a message and its stored answer, sealed; ("", None) for none."""
    row = (await connection.execute(_RESULT, {"of_id": id_})).first()
    return (str(row[0]), row[1]) if row is not None else ("", None)
