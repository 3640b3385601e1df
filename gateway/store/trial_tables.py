"""The tables of the launcher: what a developer chose for a launch, and what was seen of it. `label` is the SHA-256 of the trial's id."""

from __future__ import annotations

from sqlalchemy import JSON, Column, ForeignKey, Integer, LargeBinary, String, Table

from gateway.store.base import UtcDateTime, metadata

_HASH = String(64)
_NAME = String(255)

# `events` counts what was seen, and gives each its number: the row is held until they are committed, so a number that is there has all before it.
trial = Table(
    "trial",
    metadata,
    Column("label", _HASH, primary_key=True),
    Column("ehr", _NAME, nullable=False),
    Column("client_id", _NAME, nullable=False),
    Column("wanted", JSON, nullable=False),
    Column("created_at", UtcDateTime, nullable=False, index=True),
    Column("expires_at", UtcDateTime, nullable=False, index=True),
    Column("events", Integer, nullable=False, default=0),
)

# One thing that was seen, sealed: it holds the parameters of requests.
trial_event = Table(
    "trial_event",
    metadata,
    Column("label", _HASH, ForeignKey("trial.label", ondelete="CASCADE"), primary_key=True),
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("at", UtcDateTime, nullable=False),
    Column("sealed", LargeBinary, nullable=False),
)
