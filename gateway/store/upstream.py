"""What persons allowed the gateway at EHRs that let in nobody else (ADR 0011): their access, and requests for one that are under way."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime

from sqlalchemy import Column, ColumnElement, ForeignKey, Integer, LargeBinary, String, Table, Text, UniqueConstraint, delete, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.store.base import UtcDateTime, metadata
from gateway.store.row_values import as_row, as_value, changed

_NAME = String(255)

grant = Table(
    "upstream_grant",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("account_id", String(32), ForeignKey("account.id", ondelete="CASCADE"), nullable=False),
    Column("ehr", _NAME, nullable=False),
    Column("scope", Text, nullable=False),
    Column("sealed", LargeBinary, nullable=False),
    Column("version", Integer, nullable=False),
    Column("renew_at", UtcDateTime, nullable=False),
    Column("ends_at", UtcDateTime, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Column("ended_at", UtcDateTime),
    UniqueConstraint("account_id", "ehr"),
)

request = Table(
    "upstream_request",
    metadata,
    Column("hash", String(64), primary_key=True),
    Column("account_id", String(32), ForeignKey("account.id", ondelete="CASCADE"), nullable=False),
    Column("session_hash", String(64), nullable=False),
    Column("ehr", _NAME, nullable=False),
    Column("sealed", LargeBinary, nullable=False),
    Column("expires_at", UtcDateTime, nullable=False, index=True),
)


@dataclass(frozen=True, slots=True)
class UpstreamGrant:
    """The access of one account at one EHR. `sealed` holds the tokens; `version` counts their replacements; `ends_at` is the access token's."""

    id: str
    account_id: str
    ehr: str
    scope: str
    sealed: bytes = field(repr=False)
    version: int
    renew_at: datetime
    ends_at: datetime
    created_at: datetime
    ended_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class UpstreamRequest:
    """An authorization request that the EHR has not answered. `hash` is that of its state; `sealed` holds verifier, nonce and issuer."""

    hash: str
    account_id: str
    session_hash: str
    ehr: str
    sealed: bytes = field(repr=False)
    expires_at: datetime


async def grant_of(connection: AsyncConnection, account_id: str, ehr: str) -> UpstreamGrant | None:
    """The access of this account, also one that has ended."""
    row = (await connection.execute(select(grant).where(grant.c.account_id == account_id, grant.c.ehr == ehr))).first()
    return as_value(UpstreamGrant, row)


async def put_grant(connection: AsyncConnection, value: UpstreamGrant) -> None:
    """Keep a new access instead of the one that was there."""
    await remove_grant(connection, value.account_id, value.ehr)
    await connection.execute(insert(grant).values(**as_row(value)))


async def replace_tokens(connection: AsyncConnection, value: UpstreamGrant) -> bool:
    """Put new tokens in the place of those of the version before. False when others did, or the access is over."""
    row = as_row(value)
    values = {name: row[name] for name in ("scope", "sealed", "version", "renew_at", "ends_at")}
    return await changed(connection, update(grant).where(*_is(value.id, value.version - 1)).values(**values))


async def end_grant(connection: AsyncConnection, id_: str, version: int, at: datetime) -> bool:
    """The EHR renews it no more. False when it was renewed meanwhile, or is over already."""
    return await changed(connection, update(grant).where(*_is(id_, version)).values(ended_at=at))


async def remove_grant(connection: AsyncConnection, account_id: str, ehr: str) -> bool:
    """Forget it. False when there is none."""
    return await changed(connection, delete(grant).where(grant.c.account_id == account_id, grant.c.ehr == ehr))


async def add_request(connection: AsyncConnection, value: UpstreamRequest) -> None:
    """Remember what is under way."""
    await connection.execute(insert(request).values(**as_row(value)))


async def take_request(connection: AsyncConnection, hash_: str) -> UpstreamRequest | None:
    """The request of this state, once: it is gone with this."""
    row = (await connection.execute(select(request).where(request.c.hash == hash_))).first()
    found = as_value(UpstreamRequest, row)
    return found if found and await changed(connection, delete(request).where(request.c.hash == hash_)) else None


async def prune(connection: AsyncConnection, *, moment: datetime) -> None:
    """Forget requests that nobody answered in time."""
    await connection.execute(delete(request).where(request.c.expires_at < moment))


def _is(id_: str, version: int) -> tuple[ColumnElement[bool], ...]:
    return grant.c.id == id_, grant.c.version == version, grant.c.ended_at.is_(None)
