"""Who sent a message, judged again at delivery: the scopes are those of the receipt, as far as the client is still registered for them."""

from __future__ import annotations

from gateway.errors import Forbidden
from gateway.smart.principal import Principal, PrincipalKind, Push
from gateway.smart.scopes import Scope, clinical
from gateway.store import oauth
from gateway.store.base import Database
from gateway.store.inbox_rows import Message
from gateway.store.oauth_rows import Client


class RegisteredSenders:
    """The registered clients."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def principal(self, message: Message) -> Principal:
        """The sender as a caller. Raises Forbidden when it may not push here any more."""
        async with self._database.read() as connection:
            client = await oauth.client(connection, message.client_id)
        return principal_of(message, client)


def principal_of(message: Message, client: Client | None) -> Principal:
    """Pure. Raises Forbidden."""
    if client is None or not client.may_use(message.ehr):
        raise Forbidden("The sender is not registered any more.", reason="client-disabled")
    push = client.push or {}
    if push.get("mode", "") != message.mode or (message.mode == "deliver" and push.get("ehr", "") != message.ehr):
        raise Forbidden("The sender is not registered to push here any more.", reason="push-not-registered")
    return Principal(
        kind=PrincipalKind.SYSTEM,
        ehr=message.ehr,
        client_id=client.id,
        client_name=client.name,
        scopes=_still_registered(clinical(message.scopes), client),
        push=Push(push.get("mode", ""), push.get("ehr", ""), push.get("source_ehr", "")),
    )


def _still_registered(scopes: tuple[Scope, ...], client: Client) -> tuple[Scope, ...]:
    registered = clinical(client.scope)
    return tuple(scope for scope in scopes if any(one.covers(scope) for one in registered)) if client.scope else scopes
