"""Choices that people do not want to be asked again. As in `store.oauth`, none of these functions commits."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import delete, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.store.oauth_rows import RememberedConsent
from gateway.store.oauth_tables import remembered_consent as table
from gateway.store.row_values import add_once, as_row, as_value, changed


async def remember(connection: AsyncConnection, value: RememberedConsent) -> None:
    """In place of what this person chose before for this app and patient."""
    row = as_row(value)
    if not await add_once(connection, table, row):
        same = (table.c[name] == row[name] for name in ("account_id", "client_id", "ehr", "patient"))
        await connection.execute(update(table).where(*same).values(**row))


async def remembered(connection: AsyncConnection, *, account_id: str, client_id: str, ehr: str, patient: str) -> RememberedConsent | None:
    """What this person chose for this app and patient, whether it still counts or not."""
    wanted = (table.c.account_id == account_id, table.c.client_id == client_id, table.c.ehr == ehr, table.c.patient == patient)
    return as_value(RememberedConsent, (await connection.execute(select(table).where(*wanted))).first())


async def remembered_of(connection: AsyncConnection, account_id: str, at: datetime) -> tuple[RememberedConsent, ...]:
    """All that counts of this person, the newest first."""
    wanted = select(table).where(table.c.account_id == account_id, table.c.expires_at > at)
    rows = await connection.execute(wanted.order_by(table.c.created_at.desc(), table.c.id))
    return tuple(found for row in rows if (found := as_value(RememberedConsent, row)) is not None)


async def forget(connection: AsyncConnection, consent_id: str, account_id: str) -> bool:
    """One choice of this person. True when it was there."""
    return await changed(connection, delete(table).where(table.c.id == consent_id, table.c.account_id == account_id))


async def forget_app(connection: AsyncConnection, *, account_id: str, client_id: str, ehr: str) -> int:
    """All that this person chose for an app, whichever the patient. How many."""
    chosen = (table.c.account_id == account_id, table.c.client_id == client_id, table.c.ehr == ehr)
    return (await connection.execute(delete(table).where(*chosen))).rowcount
