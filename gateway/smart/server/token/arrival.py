"""The answer of a refresh has arrived where the access token in it is seen for the first time, at the FHIR facade or by who asks about it."""

from __future__ import annotations

from datetime import datetime

from gateway.smart.record import Caller, Event, RecordIn
from gateway.store import oauth as rows
from gateway.store.base import Database
from gateway.store.oauth_rows import Bearer


async def still_counts(database: Database, record_in: RecordIn, bearer: Bearer, moment: datetime) -> bool:
    """Note the first use of a token that counts. False when it ends the family: the refresh token before it is in two hands (ATK-O13)."""
    if not bearer.token.replaces:
        return True
    grant = bearer.grant
    async with database.write() as connection:
        if await rows.first_use(connection, bearer.token):
            return True
        if await rows.revoke_grant(connection, grant.id, moment, "refresh-reused"):
            event = Event(grant.ehr, Caller(), moment, bearer.client, bearer.account)
            await record_in(connection, event.record("revoke", 200, patient=grant.patient, detail="family-revoked"))
    return False
