"""The inbox: one row for everything that was pushed, and the queue that it is delivered from. No other queue exists.

States: received -> claimed -> sent -> done | rejected | dead, or back to received for another attempt; held while an earlier message of the same
order key is dead. A lease says who works on a row; its attempt token fences what a worker writes after the lease was lost (FAULT-P3).

`inbox_key` holds the order keys of messages that are not through: a message may be claimed when it is the first of each of its keys.
None of these functions commits.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from datetime import datetime
from enum import StrEnum
from typing import Any, cast

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    Row,
    String,
    Table,
    Text,
    and_,
    bindparam,
    case,
    delete,
    exists,
    func,
    insert,
    literal,
    or_,
    select,
    text,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import CursorResult
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.store.base import UtcDateTime, metadata

_SEQ = BigInteger().with_variant(Integer(), "sqlite")
_NAME = String(255)
_OPEN = "state IN ('received', 'claimed', 'sent')"  # written out, so that both databases can use the partial index

message = Table(
    "inbox_message",
    metadata,
    Column("seq", _SEQ, primary_key=True, autoincrement=True),  # the order of receipt
    Column("id", String(64), nullable=False, unique=True),
    Column("ehr", _NAME, nullable=False),
    Column("client_id", _NAME, nullable=False),
    Column("client_name", _NAME, nullable=False),
    Column("subject", Text, nullable=False),
    Column("scopes", Text, nullable=False),
    Column("mode", String(8), nullable=False),
    Column("kind", String(16), nullable=False),
    Column("type", String(64), nullable=False),
    Column("target", String(64), nullable=False),
    Column("sha256", String(64), nullable=False),
    Column("size", Integer, nullable=False),
    Column("request", LargeBinary, nullable=False),
    Column("request_id", String(64), nullable=False),
    Column("identity", String(64), nullable=False, index=True),
    Column("repeat_key", String(64), unique=True),  # NULL without an explicit identity: bytes alone never make a repeat
    Column("identity_reused", Boolean, nullable=False),
    Column("received_at", UtcDateTime, nullable=False),
    Column("state", String(8), nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("next_attempt_at", UtcDateTime, nullable=False),
    Column("lease_until", UtcDateTime),
    Column("lease_holder", _NAME, nullable=False),
    Column("attempt_token", String(32), nullable=False),
    Column("error", String(64), nullable=False),
    Column("answer", LargeBinary),
    Column("ended_at", UtcDateTime),
)
Index("ix_inbox_message_open", message.c.seq, sqlite_where=text(_OPEN), postgresql_where=text(_OPEN))
Index("ix_inbox_message_state", message.c.state, message.c.seq)

# What a message asks for, piece by piece: one row for a resource, one for each entry of a Bundle.
entry = Table(
    "inbox_entry",
    metadata,
    Column("seq", _SEQ, ForeignKey("inbox_message.seq", ondelete="CASCADE"), primary_key=True),
    Column("position", Integer, primary_key=True),
    Column("kind", String(16), nullable=False),
    Column("type", String(64), nullable=False),
    Column("target", String(64), nullable=False),
    Column("tried", Boolean, nullable=False),
    Column("seen", String(64)),
    Column("state", String(8), nullable=False),
    Column("answer", LargeBinary),
)

key = Table(
    "inbox_key",
    metadata,
    Column("key", String(32), primary_key=True),
    Column("seq", _SEQ, ForeignKey("inbox_message.seq", ondelete="CASCADE"), primary_key=True, index=True),
)


class State(StrEnum):
    """Where a message is. `sent`: a request of this lease may have reached the EHR."""

    RECEIVED = "received"
    CLAIMED = "claimed"
    SENT = "sent"
    DONE = "done"
    REJECTED = "rejected"
    DEAD = "dead"
    HELD = "held"


OTHERS = "others"
"""See `Entry.seen`."""
UNCONFIRMED = "outcome-unknown"
"""The error of a dead message that was sent once, that nobody can find again, and whose answer was lost: a person decides."""

PENDING = (State.RECEIVED, State.CLAIMED, State.SENT)
FINAL = (State.DONE, State.REJECTED, State.DEAD)


class Fenced(Exception):
    """The worker's lease on the message was lost: another one may have it, and nothing may be written in its name."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One piece of a message. `target` is the id in the EHR: the sender's own, or one fixed before the first attempt ("" where none can be).

    `seen` of a create without a target: "" when nothing stood under its identifier before, `OTHERS` when something did, None when that cannot
    be found out.
    """

    position: int
    kind: str  # create | update
    type: str
    target: str
    tried: bool = False  # a request for it may have reached the EHR
    seen: str | None = None  # the version read before the first attempt; "" when there was none; None when nothing was read
    state: str = State.RECEIVED  # received | done | rejected
    answer: bytes | None = None  # sealed, of a batch entry


@dataclass(frozen=True, slots=True)
class NewMessage:
    """What is committed before a sender gets an answer. `request` and `answer` are sealed; digests are SHA-256, hexadecimal."""

    id: str  # also the name in the status URL: 256 random bits
    ehr: str
    client_id: str
    client_name: str
    subject: str  # of the principal: whose status URL it is
    scopes: str  # as judged on receipt
    mode: str  # deliver | notify
    kind: str  # create | update | transaction | batch
    type: str
    target: str
    sha256: str  # of the sender's bytes
    size: int
    request: bytes
    request_id: str
    received_at: datetime
    identity: str = ""  # digest of sender and explicit identity
    repeat_key: str | None = None  # digest of the identity with the whole request


@dataclass(frozen=True, slots=True)
class Message:
    """A row without its large values."""

    seq: int
    id: str
    ehr: str
    client_id: str
    client_name: str
    subject: str
    scopes: str
    mode: str
    kind: str
    type: str
    target: str
    sha256: str
    size: int
    request_id: str
    identity_reused: bool
    received_at: datetime
    state: str
    attempts: int
    next_attempt_at: datetime
    lease_until: datetime | None
    lease_holder: str
    attempt_token: str
    error: str
    ended_at: datetime | None

    @property
    def is_final(self) -> bool:
        """Whether nothing more happens to it by itself."""
        return self.state in FINAL


@dataclass(frozen=True, slots=True)
class Claimed:
    """A message under lease, with all that its delivery needs."""

    message: Message
    request: bytes
    entries: tuple[Entry, ...]


@dataclass(frozen=True, slots=True)
class Added:
    """What became of an insert. `first` is False when the same request of the same identity was there before."""

    message: Message
    first: bool


@dataclass(frozen=True, slots=True)
class Accounting:
    """Everything that was acknowledged is in exactly one of the other five."""

    acknowledged: int
    done: int
    rejected: int
    dead: int
    held: int
    pending: int
    oldest_pending: datetime | None = None

    @property
    def holds(self) -> bool:
        """Acknowledged = done + rejected + dead + held + pending."""
        return self.acknowledged == self.done + self.rejected + self.dead + self.held + self.pending


_PLAIN = tuple(message.c[item.name] for item in fields(Message))
_PIECE = tuple(entry.c[item.name] for item in fields(Entry))

# The statements that every message needs are made once: building them anew costs more than running them.
_UNDER_LEASE = update(message).where(
    message.c.seq == bindparam("of_seq"),
    message.c.attempt_token == bindparam("of_token"),
    message.c.state.in_([State.CLAIMED, State.SENT]),
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
    attempts=message.c.attempts - bindparam("less_"),
    next_attempt_at=bindparam("at_"),
    error=case((bindparam("error_") == "", message.c.error), else_=bindparam("error_", type_=String())),
    lease_until=None,
    lease_holder="",
)
_OF_MESSAGE = entry.c.seq == bindparam("of_seq")
_OF_PIECE = and_(_OF_MESSAGE, entry.c.position == bindparam("of_position"))
_TRIED = update(entry).where(_OF_PIECE).values(tried=True)
_SEEN = update(entry).where(_OF_PIECE).values(tried=True, seen=bindparam("seen_"))
_ALL_TRIED = update(entry).where(_OF_MESSAGE, entry.c.target != "").values(tried=True)  # others are marked one by one, before they go out
_UNSENT = update(entry).where(_OF_PIECE).values(tried=False, seen=None)
_WITHOUT_ID = update(entry).where(_OF_PIECE).values(target="", tried=False, seen=None)
_UNDECIDED = (
    update(entry)
    .where(_OF_MESSAGE, entry.c.kind == "create", entry.c.target == "", or_(entry.c.seen.is_(None), entry.c.seen == OTHERS))
    .values(tried=False, seen=None)
)
_END_PIECE = update(entry).where(_OF_PIECE).values(state=bindparam("state_"), answer=bindparam("answer_"))
_END_PIECES = update(entry).where(_OF_MESSAGE, entry.c.state == State.RECEIVED).values(state=bindparam("state_"))
_FREE = delete(key).where(key.c.seq == bindparam("of_seq"))
_BY_ID = select(*_PLAIN).where(message.c.id == bindparam("of_id"))
_RESULT = select(message.c.state, message.c.answer).where(message.c.id == bindparam("of_id"))
_TAKE = (
    update(message)
    .where(message.c.seq.in_(bindparam("of_seqs", expanding=True)))
    .values(
        state=State.CLAIMED,
        attempts=message.c.attempts + 1,
        lease_until=bindparam("until_"),
        lease_holder=bindparam("holder_"),
        attempt_token=bindparam("token_"),
    )
    .returning(*_PLAIN, message.c.request)
)
_PIECES = select(*_PIECE, entry.c.seq).where(entry.c.seq.in_(bindparam("of_seqs", expanding=True))).order_by(entry.c.seq, entry.c.position)


def _message(row: Row[Any]) -> Message:
    """From the first columns of a row, which are `_PLAIN`."""
    return Message(*row[: len(_PLAIN)])


def _entry(row: Row[Any]) -> Entry:
    """From the first columns of a row, which are `_PIECE`."""
    return Entry(*row[: len(_PIECE)])


# Receipt -----------------------------------------------------------------------------------------------------------------


async def add(connection: AsyncConnection, new: NewMessage, entries: Sequence[Entry], keys: Collection[str]) -> Added:
    """Store a message, or find the first one of the same identity and content (FAULT-S1). A message behind a dead one is held at once."""
    stored = await _insert(connection, new)
    if stored is None:
        row = (await connection.execute(select(*_PLAIN).where(message.c.repeat_key == new.repeat_key))).one()
        return Added(_message(row), first=False)
    if entries:
        await connection.execute(insert(entry), [_values(item) | {"seq": stored.seq} for item in entries])
    await connection.execute(insert(key), [{"key": item, "seq": stored.seq} for item in sorted(set(keys))])
    held = await connection.execute(_HOLD_ONE, {"of_seq": stored.seq, "held_": State.HELD})
    return Added(replace(stored, state=State.HELD) if _count(held) else stored, first=True)


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
    return _message(row) if row is not None else None


async def _identity_used(connection: AsyncConnection, new: NewMessage) -> bool:
    """The same identity came with other content: both are processed, the second one is flagged (FAULT-S2)."""
    if not new.identity:
        return False
    other = select(literal(1)).where(message.c.identity == new.identity, message.c.repeat_key != new.repeat_key).limit(1)
    return (await connection.execute(other)).first() is not None


_INSERT_SQLITE = sqlite.insert(message).on_conflict_do_nothing(index_elements=["repeat_key"]).returning(*_PLAIN)
_INSERT_POSTGRES = postgresql.insert(message).on_conflict_do_nothing(index_elements=["repeat_key"]).returning(*_PLAIN)


def _values(value: NewMessage | Entry) -> dict[str, Any]:
    return {item.name: getattr(value, item.name) for item in fields(value)}


# The queue ---------------------------------------------------------------------------------------------------------------


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
        pieces[row.seq].append(_entry(row))
    return tuple(Claimed(_message(row), row.request, tuple(pieces[row.seq])) for row in sorted(rows, key=lambda row: row.seq))


def _first_of_its_keys() -> Any:
    mine, earlier = key.alias(), key.alias()
    return ~exists().where(mine.c.seq == message.c.seq, earlier.c.key == mine.c.key, earlier.c.seq < mine.c.seq)


_DUE = (
    select(message.c.seq)
    .where(
        text(f"inbox_message.{_OPEN}"),
        message.c.next_attempt_at <= bindparam("now_"),
        or_(message.c.lease_until.is_(None), message.c.lease_until < bindparam("now_")),
        message.c.ehr.not_in(bindparam("paused_", expanding=True)),
        _first_of_its_keys(),
    )
    .order_by(message.c.seq)
    .limit(bindparam("limit_"))
    .with_for_update(skip_locked=True)
)


async def renew(connection: AsyncConnection, held: Mapping[int, str], until: datetime) -> frozenset[int]:
    """Extend leases (seq to token). Returns those that are still this worker's."""
    mine = or_(*(and_(message.c.seq == seq, message.c.attempt_token == token) for seq, token in held.items()))
    statement = update(message).where(message.c.state.in_((State.CLAIMED, State.SENT)), mine).values(lease_until=until).returning(message.c.seq)
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
    if _count(found) != 1:
        raise Fenced


def _count(result: Any) -> int:
    """Rows that an UPDATE changed."""
    return int(cast("CursorResult[Any]", result).rowcount)


# Behind a dead one ---------------------------------------------------------------------------------------------------------


def _behind_dead() -> Any:
    mine, earlier, dead = key.alias(), key.alias(), message.alias()
    return exists().where(
        mine.c.seq == message.c.seq,
        earlier.c.key == mine.c.key,
        earlier.c.seq < mine.c.seq,
        dead.c.seq == earlier.c.seq,
        dead.c.state.in_((State.DEAD, State.HELD)),
    )


_HOLD = update(message).where(message.c.state == State.RECEIVED, _behind_dead()).values(state=bindparam("held_"))
_HOLD_ONE = _HOLD.where(message.c.seq == bindparam("of_seq"))


async def _hold(connection: AsyncConnection) -> None:
    """Hold what waits behind a dead message, and what waits behind that."""
    while _count(await connection.execute(_HOLD, {"held_": State.HELD})):
        pass


async def _let_go(connection: AsyncConnection) -> None:
    """A dead message went away or back: what only it held may go on."""
    await connection.execute(update(message).where(message.c.state == State.HELD).values(state=State.RECEIVED))
    await _hold(connection)


async def retry(connection: AsyncConnection, id_: str, at: datetime) -> bool:
    """The operator's second chance for a dead message: it keeps its place in the order. False when it is not dead.

    One whose outcome was not known is sent again: the operator has looked, and it is not there.
    """
    found = (await connection.execute(_BY_ID, {"of_id": id_})).first()
    if found is not None and found.state == State.DEAD and found.error == UNCONFIRMED:
        await connection.execute(_UNDECIDED, {"of_seq": found.seq})
    statement = (
        update(message)
        .where(message.c.id == id_, message.c.state == State.DEAD)
        .values(state=State.RECEIVED, attempts=0, next_attempt_at=at, error="")
    )
    if _count(await connection.execute(statement)) != 1:
        return False
    await _let_go(connection)
    return True


async def drop(connection: AsyncConnection, id_: str, at: datetime, answer: bytes) -> bool:
    """The operator gives a message up: it counts as rejected, and its row stays. False when it is under lease or through."""
    statement = (
        update(message)
        .where(message.c.id == id_, message.c.state.in_((State.RECEIVED, State.DEAD, State.HELD)))
        .values(state=State.REJECTED, error="dropped", ended_at=at, answer=answer)
        .returning(message.c.seq)
    )
    seq = (await connection.execute(statement)).scalar_one_or_none()
    if seq is None:
        return False
    await connection.execute(update(entry).where(entry.c.seq == seq, entry.c.state == State.RECEIVED).values(state=State.REJECTED))
    await connection.execute(delete(key).where(key.c.seq == seq))
    await _let_go(connection)
    return True


# Looking -----------------------------------------------------------------------------------------------------------------


async def get(connection: AsyncConnection, id_: str) -> Message | None:
    """By id."""
    row = (await connection.execute(_BY_ID, {"of_id": id_})).first()
    return _message(row) if row is not None else None


async def answer(connection: AsyncConnection, seq: int) -> bytes | None:
    """The stored answer, sealed."""
    return (await connection.execute(select(message.c.answer).where(message.c.seq == seq))).scalar_one_or_none()


async def result(connection: AsyncConnection, id_: str) -> tuple[str, bytes | None]:
    """The state of a message and its stored answer, sealed; ("", None) for none."""
    row = (await connection.execute(_RESULT, {"of_id": id_})).first()
    return (str(row[0]), row[1]) if row is not None else ("", None)


async def request(connection: AsyncConnection, seq: int) -> bytes:
    """The stored request, sealed."""
    return (await connection.execute(select(message.c.request).where(message.c.seq == seq))).scalar_one()


async def entries(connection: AsyncConnection, seq: int) -> tuple[Entry, ...]:
    """The pieces of a message, in order."""
    rows = await connection.execute(select(*_PIECE).where(entry.c.seq == seq).order_by(entry.c.position))
    return tuple(_entry(row) for row in rows)


async def listing(
    connection: AsyncConnection, *, state: str = "", client_id: str = "", limit: int = 100, after: int | None = None
) -> tuple[Message, ...]:
    """Newest first; `after` is the seq to go on from."""
    statement = select(*_PLAIN).order_by(message.c.seq.desc()).limit(limit)
    if state == "pending":
        statement = statement.where(message.c.state.in_(PENDING))
    elif state:
        statement = statement.where(message.c.state == state)
    if client_id:
        statement = statement.where(message.c.client_id == client_id)
    if after is not None:
        statement = statement.where(message.c.seq < after)
    return tuple(_message(row) for row in await connection.execute(statement))


async def accounting(connection: AsyncConnection) -> Accounting:
    """The identity of ingest, counted by one statement: from one snapshot of the table."""

    def among(*states: State) -> Any:
        return func.coalesce(func.sum(case((message.c.state.in_(states), 1), else_=0)), 0)

    pending = case((message.c.state.in_(PENDING), message.c.received_at))
    row = (
        await connection.execute(
            select(
                func.count(message.c.seq),
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
