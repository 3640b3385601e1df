"""The tables of the inbox. Requests and answers are kept sealed."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from sqlalchemy import BigInteger, Boolean, Column, ForeignKey, Index, Integer, LargeBinary, Row, String, Table, Text, text

from gateway.store.base import UtcDateTime, metadata
from gateway.store.inbox_rows import Entry, Message

_SEQ = BigInteger().with_variant(Integer(), "sqlite")
_NAME = String(255)
OPEN = "state IN ('received', 'claimed', 'sent')"
"""The condition of the partial index, written out so that both databases can use it: `inbox_rows.PENDING`."""

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
Index("ix_inbox_message_open", message.c.seq, sqlite_where=text(OPEN), postgresql_where=text(OPEN))
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

MESSAGE = tuple(message.c[item.name] for item in fields(Message))
"""The columns of a `Message`, in its order."""
ENTRY = tuple(entry.c[item.name] for item in fields(Entry))
"""The columns of an `Entry`, in its order."""


def as_message(row: Row[Any]) -> Message:
    """From the first columns of a row, which are `MESSAGE`."""
    return Message(*row[: len(MESSAGE)])


def as_entry(row: Row[Any]) -> Entry:
    """From the first columns of a row, which are `ENTRY`."""
    return Entry(*row[: len(ENTRY)])
