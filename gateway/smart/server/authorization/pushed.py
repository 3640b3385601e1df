"""Pushed authorization requests (RFC 9126): the app sends its request itself, proves who it is, and gives the browser a reference to it."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.smart.record import Caller, Event, RecordIn
from gateway.smart.server.answers import Decided, refused
from gateway.smart.server.authorization import noticed
from gateway.smart.server.authorization.decide import Back, Page, Validated, validate
from gateway.smart.server.authorization.driver import PUSHED, Authorizations, is_too_long
from gateway.smart.server.clients.authentication import CLIENT_REFUSED, ClientAuthentication, presented, use_up
from gateway.smart.server.lifetimes import Lifetimes
from gateway.smart.server.requests import Pairs, TokenRequest, given, repeated
from gateway.smart.server.trial import OFF, Watch
from gateway.store import oauth as rows
from gateway.store.base import Clock, Database, now
from gateway.store.oauth_rows import Client, PushedRequest, digest, new_secret

_CREDENTIALS = frozenset({"client_secret", "client_assertion", "client_assertion_type"})
_PAGES = {"redirect-not-registered": "redirect_uri is not one that this client registered.", "parameter-repeated": "A parameter is there twice."}


class PushedRequests:
    """The endpoint of every EHR. What it lets through waits under 256 random bits, for one use, for this client."""

    def __init__(
        self,
        database: Database,
        authentication: ClientAuthentication,
        authorizations: Authorizations,
        *,
        record_in: RecordIn,
        lifetimes: Lifetimes,
        watch: Watch = OFF,
        clock: Clock = now,
    ) -> None:
        self._database, self._authentication, self._authorizations, self._watch = database, authentication, authorizations, watch
        self._record_in, self._lifetimes, self._clock = record_in, lifetimes, clock

    async def push(self, ehr: str, request: TokenRequest, caller: Caller) -> Decided:
        """A request_uri, or why there is none. A public client is its client_id, as at the token endpoint."""
        proven = await self._authentication.proven(ehr, request, public=True)
        event = Event(ehr, caller, self._clock(), proven.client, client_id=presented(request).client_id[:255])
        async with self._database.write() as connection:
            if repeated(request.pairs):  # RFC 6749 section 3.1: then it does not even say who asks
                decided = _refused(Page("parameter-repeated"))
            elif await use_up(connection, proven.used) and proven.client:
                decided = await self._pushed(connection, event, _request(request.pairs, proven.client))
            else:
                decided = CLIENT_REFUSED
            record = event.record("par", decided.status, reason=decided.error)
            await self._record_in(connection, record)
        return replace(decided, recorded=True)

    async def _pushed(self, connection: AsyncConnection, event: Event, pairs: Pairs) -> Decided:
        if "request_uri" in given(pairs):  # RFC 9126 section 2.1
            return refused("invalid_request", "A request_uri cannot be pushed.")
        if is_too_long(pairs):
            return refused("invalid_request", "The request is too long.", status=413)
        snapshot = await self._authorizations.snapshot(connection, event.ehr, pairs, event.now)
        judged, launch = validate(pairs, snapshot), snapshot.launch
        if launch and launch.client_id == event.client_id and await self._watch.of(launch.trial):
            self._watch.note(launch.trial, noticed.pushed(event.ehr, pairs, None if isinstance(judged, Validated) else _refused(judged)))
        if not isinstance(judged, Validated):
            return _refused(judged)
        handle, life = new_secret(), self._lifetimes.pushed
        until = event.now + timedelta(seconds=life)
        row = PushedRequest(digest(handle), event.ehr, judged.client.id, {"pairs": [list(pair) for pair in pairs]}, until)
        await rows.add_pushed(connection, row)
        return Decided(201, {"request_uri": PUSHED + handle, "expires_in": life})


def _request(pairs: Pairs, client: Client) -> Pairs:
    """The authorization request without what proved the client; its name may stand in the credentials alone."""
    kept = tuple((name, value) for name, value in pairs if name not in _CREDENTIALS)
    return kept if "client_id" in given(kept) else (*kept, ("client_id", client.id))


def _refused(judged: Back | Page) -> Decided:
    """What a browser would have been told, as OAuth's JSON."""
    if isinstance(judged, Back):
        return refused(judged.error, judged.description)
    return refused("invalid_request", _PAGES.get(judged.reason, "The request cannot be read."))
