"""Registered clients, for the operator: what there is, letting one in, taking one out of use, a new secret."""

from __future__ import annotations

import json
from datetime import datetime, timedelta

from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.errors import NotDone
from gateway.smart.record import Caller, Event, RecordIn
from gateway.store import oauth as rows
from gateway.store import registrations
from gateway.store.base import Clock, Database, now
from gateway.store.oauth_rows import Client, digest, new_secret

_PATIENCE = timedelta(days=30)
"""How long a client that registered itself waits for the operator."""
_AT_ONCE = 1000


class Clients:
    """Lists, and changes what a registration is worth. Each change is on record, and counts for every request that starts after it."""

    def __init__(self, database: Database, *, record_in: RecordIn, clock: Clock = now) -> None:
        self._database, self._record_in, self._clock = database, record_in, clock

    async def all(self) -> tuple[Client, ...]:
        """Every client, disabled ones too, by id."""
        async with self._database.read() as connection:
            return await rows.clients(connection)

    async def named(self, client_id: str) -> Client:
        """Raises NotDone when there is none of that id."""
        async with self._database.read() as connection:
            found = await rows.client(connection, client_id)
        if found is None:
            raise NotDone(f"There is no client {client_id}", what="client-unknown", about="client_id")
        return found

    async def disable(self, client_id: str) -> int:
        """From the next request on, nothing is done in its name. What it was allowed ends for good; gives how many grants that were.

        Raises NotDone when there is no such client, or it is disabled already.
        """
        client, moment = await self.named(client_id), self._clock()
        async with self._database.write() as connection:
            if not await rows.disable_client(connection, client.id, moment):
                raise NotDone(f"{client_id} is disabled already", what="client-disabled", about="client_id")
            ended = await rows.end_access(connection, moment, "client-disabled", client_id=client.id)
            await self._on_record(connection, client, "client-disable", f"{ended} grants ended")
        return ended

    async def enable(self, client_id: str) -> None:
        """It may ask for access again; what it had does not come back. Raises NotDone when there is no such client, or it is in use."""
        client = await self.named(client_id)
        async with self._database.write() as connection:
            if not await rows.enable_client(connection, client.id):
                raise NotDone(f"{client_id} is not disabled", what="client-in-use", about="client_id")
            await self._on_record(connection, client, "client-enable")

    async def approve(self, client_id: str, version: str = "") -> None:
        """Let a client in that registered itself, as it was when somebody looked at it: `version` is the one of what was seen.

        Raises NotDone when there is no such client, it does not wait, or what is registered now has another version.
        """
        client = await self.named(client_id)
        if client.pending_since is None:
            raise NotDone(f"{client_id} does not wait for anybody", what="client-not-waiting", about="client_id")
        if version != version_of(client):
            problem = "What was looked at is not registered any more" if version else "Say what you looked at"
            facts = {"client_id": client_id, "version": version_of(client)}
            raise NotDone(f"{problem}. Registered now: {_reviewed(client)}", what="client-not-as-seen", about="version", **facts)
        async with self._database.write() as connection:
            if not await registrations.approve(connection, client):
                raise NotDone(f"{client_id} was changed at the same moment", what="client-moved", about="client_id")
            await self._on_record(connection, client, "client-approve")

    async def rotate_secret(self, client_id: str, *, overlap: timedelta = timedelta()) -> str:
        """Its new secret, this once. The old one counts for `overlap` longer, and by default no longer.

        Raises NotDone when there is no such client, it has no secret, or somebody else is giving it one.
        """
        client, secret = await self.named(client_id), new_secret()
        if not client.secret_hash:
            fix = "its keys are replaced at its jwks_uri, or by registering it again"
            raise NotDone(f"{client_id} has no secret", what="client-without-secret", about="client_id", fix=fix)
        until = self._clock() + overlap if overlap else None
        async with self._database.write() as connection:
            if not await registrations.replace_secret(connection, client, digest(secret), old_until=until):
                raise NotDone(f"{client_id} was changed at the same moment", what="client-moved", about="client_id")
            await self._on_record(connection, client, "client-secret", f"the old one until {until:%Y-%m-%dT%H:%MZ}" if until else "")
        return secret

    async def delete(self, client_id: str) -> int:
        """Forget it. What it was allowed ends for good; gives how many grants that were. Raises NotDone when there is no such client."""
        client, moment = await self.named(client_id), self._clock()
        async with self._database.write() as connection:
            ended = await forget(connection, client, moment)
            if ended is None:
                raise NotDone(f"There is no client {client_id}", what="client-unknown", about="client_id")
            await self._on_record(connection, client, "client-delete", f"{ended} grants ended")
        return ended

    async def prune(self) -> int:
        """Forget what registered itself and waited for a month, and nobody ever let in. How many."""
        before, ended = self._clock() - _PATIENCE, 0
        async with self._database.read() as connection:
            old = await registrations.waiting(connection, before, most=_AT_ONCE)
        for client in old:  # one by one: nobody waits for all of them
            async with self._database.write() as connection:
                if await registrations.forget_waiting(connection, client):
                    await self._on_record(connection, client, "client-delete", f"waited {_PATIENCE.days} days for the operator")
                    ended += 1
        return ended

    async def _on_record(self, connection: AsyncConnection, client: Client, action: str, detail: str = "") -> None:
        event = Event(",".join(client.ehrs), Caller(), self._clock(), client)
        await self._record_in(connection, event.record(action, 200, detail=detail))


def version_of(client: Client) -> str:
    """Names one state of a registration, so that what is approved is what was seen.

    The token with which the client manages itself is made here anew at each change. With its hash in it, no client can choose its metadata so that
    what it changes to has the version of what was seen, though eight characters are few.
    """
    return digest(f"{client.registration_hash} {client.id} {_reviewed(client)}")[:8]


def _reviewed(client: Client) -> str:
    """What the operator looks at, in one line of ASCII: it was written by a stranger."""
    found = {
        "client_name": client.name,
        "token_endpoint_auth_method": client.auth_method,
        "grant_types": client.grant_types,
        "redirect_uris": client.redirect_uris,
        "scope": client.scope,
        "ehrs": client.ehrs,
        "launch_uri": client.launch_uri,
        "jwks_uri": client.jwks_uri,
    }
    return json.dumps({name: value for name, value in found.items() if value})


async def forget(connection: AsyncConnection, client: Client, moment: datetime) -> int | None:
    """Delete it and end its grants, in the caller's transaction. How many; None when somebody else deleted it.

    The grants stay on file, ended: a client that is registered under the same id later gets none of them.
    """
    if not await registrations.forget(connection, client.id):
        return None
    return await rows.end_access(connection, moment, "client-deleted", client_id=client.id)
