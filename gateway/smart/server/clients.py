"""Registered clients, for the operator: what there is, and taking one out of use."""

from __future__ import annotations

from gateway.errors import ConfigError
from gateway.smart.server.values import Caller, Clock, Event, RecordIn
from gateway.store import oauth as rows
from gateway.store.base import Database, now
from gateway.store.oauth_rows import Client


class Clients:
    """Lists, disables and enables. Each change is on record."""

    def __init__(self, database: Database, *, record_in: RecordIn, clock: Clock = now) -> None:
        self._database, self._record_in, self._clock = database, record_in, clock

    async def all(self) -> tuple[Client, ...]:
        """Every client, disabled ones too, by id."""
        async with self._database.read() as connection:
            return await rows.clients(connection)

    async def named(self, client_id: str) -> Client:
        """Raises ConfigError when there is none of that id."""
        async with self._database.read() as connection:
            found = await rows.client(connection, client_id)
        if found is None:
            raise ConfigError(f"There is no client {client_id}", where="ID", fix="gateway client list shows them")
        return found

    async def disable(self, client_id: str) -> int:
        """From the next request on, nothing is done in its name. What it was allowed ends for good; gives how many grants that were.

        Raises ConfigError when there is no such client, or it is disabled already.
        """
        client, moment = await self.named(client_id), self._clock()
        async with self._database.write() as connection:
            if not await rows.disable_client(connection, client.id, moment):
                raise ConfigError(f"{client_id} is disabled already", where="ID", fix="gateway client show tells since when")
            ended = await rows.revoke_grants_of_client(connection, client.id, moment, "client-disabled")
            event = Event(",".join(client.ehrs), Caller(), moment, client)
            await self._record_in(connection, event.record("client-disable", 200, detail=f"{ended} grants ended"))
        return ended

    async def enable(self, client_id: str) -> None:
        """It may ask for access again; what it had does not come back. Raises ConfigError when there is no such client, or it is in use."""
        client = await self.named(client_id)
        async with self._database.write() as connection:
            if not await rows.enable_client(connection, client.id):
                raise ConfigError(f"{client_id} is not disabled", where="ID", fix="gateway client list shows which are")
            event = Event(",".join(client.ehrs), Caller(), self._clock(), client)
            await self._record_in(connection, event.record("client-enable", 200))
