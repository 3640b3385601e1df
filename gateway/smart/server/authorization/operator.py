"""What apps were allowed, for the operator: who let which app in, and an end to it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.errors import NotDone
from gateway.smart.record import Caller, Event, RecordIn
from gateway.smart.server.lifetimes import Lifetimes, is_alive
from gateway.smart.server.people.accounts import normalised
from gateway.store import consents, people
from gateway.store import oauth as rows
from gateway.store.base import Clock, Database, now
from gateway.store.oauth_rows import Account, Client, Grant


@dataclass(frozen=True, slots=True)
class Given:
    """Access in force. `username` is "" for a backend client's own."""

    grant: Grant
    username: str
    client_name: str


@dataclass(frozen=True, slots=True)
class Whose:
    """Which grants are meant: a person's, a client's, or those of both together."""

    username: str = ""
    client_id: str = ""


class GivenAccess:
    """Lists and ends. Each end is on record, and counts for every request that starts after it, in every process."""

    def __init__(self, database: Database, *, record_in: RecordIn, lifetimes: Lifetimes, clock: Clock = now) -> None:
        self._database, self._record_in = database, record_in
        self._lifetimes, self._clock = lifetimes, clock

    async def listed(self, whose: Whose) -> tuple[Given, ...]:
        """What is in force, the newest first; without a name, everybody's. Raises NotDone where a name is nobody's."""
        moment = self._clock()
        async with self._database.read() as connection:
            account, client = await _named(connection, whose)
            since = moment - timedelta(seconds=max(self._lifetimes.refresh, self._lifetimes.access, self._lifetimes.online))
            found = await rows.grants_used_since(connection, since, **_ids(account, client))
            names = {"": ""} | {one.id: one.username for one in await people.accounts(connection) if one.disabled_at is None}
            clients = {one.id: one for one in await rows.clients(connection)}
        return tuple(
            Given(grant, names[grant.account_id], clients[grant.client_id].name)
            for grant in found
            if grant.client_id in clients
            and clients[grant.client_id].may_use(grant.ehr)
            and grant.account_id in names
            and is_alive(grant, self._lifetimes, moment)
        )

    async def end(self, grant_id: str) -> Grant:
        """End one, with what the person chose for that app once and for all. Raises NotDone when there is none of that id in force."""
        moment = self._clock()
        async with self._database.write() as connection:
            grant = await rows.grant(connection, grant_id)
            if grant is None or not await self._ended(connection, grant):
                raise NotDone("There is no such access in force.", what="access-unknown", about="id")
            account = await people.account(connection, grant.account_id) if grant.account_id else None
            event = Event(grant.ehr, Caller(), moment, await rows.client(connection, grant.client_id), account)
            await self._record_in(connection, event.record("revoke", 200, patient=grant.patient, detail="by the operator"))
        return grant

    async def end_all(self, whose: Whose) -> int:
        """End all of a person's, or of a client's, codes on their way too, and what was chosen once and for all. How many grants.

        Raises NotDone where a name is nobody's. A client stays registered, a person keeps her account: both may begin anew.
        """
        moment = self._clock()
        async with self._database.write() as connection:
            account, client = await _named(connection, whose)
            await _hold(connection, account, client)
            if not (ids := _ids(account, client)):
                raise NotDone("Say whose.", what="whose-unsaid", about="username", fix="name a person, or a client, or both")
            ended = await rows.end_access(connection, moment, "operator", **ids)
            event = Event(account.ehr if account else ",".join(client.ehrs if client else ()), Caller(), moment, client, account)
            await self._record_in(connection, event.record("revoke", 200, detail=f"{ended} grants, by the operator"))
        return ended

    async def _ended(self, connection: AsyncConnection, grant: Grant) -> bool:
        if grant.account_id:
            await people.lock_account(connection, grant.account_id)
            await consents.forget_app(connection, account_id=grant.account_id, client_id=grant.client_id, ehr=grant.ehr)
        return await rows.revoke_grant(connection, grant.id, self._clock(), "operator")


async def _named(connection: AsyncConnection, whose: Whose) -> tuple[Account | None, Client | None]:
    account = await people.account_named(connection, normalised(whose.username)) if whose.username else None
    client = await rows.client(connection, whose.client_id) if whose.client_id else None
    if whose.username and account is None:
        raise NotDone("There is nobody of that name.", what="account-unknown", about="username")
    if whose.client_id and client is None:
        raise NotDone(f"There is no client {whose.client_id}", what="client-unknown", about="client_id")
    return account, client


def _ids(account: Account | None, client: Client | None) -> dict[str, str]:
    return ({"account_id": account.id} if account else {}) | ({"client_id": client.id} if client else {})


async def _hold(connection: AsyncConnection, account: Account | None, client: Client | None) -> None:
    """A consent that is under way is over, or waits until this is: none crosses."""
    if client:
        await rows.lock_client(connection, client.id)
    if account:
        await people.lock_account(connection, account.id)
