"""Introspection (RFC 7662, SMART 2.2 "Token introspection") and revocation (RFC 7009)."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from typing import Any

from gateway.smart.record import Caller, Event, RecordIn
from gateway.smart.scopes import split
from gateway.smart.server.answers import Decided, refused
from gateway.smart.server.clients.authentication import CLIENT_REFUSED, ClientAuthentication, bearer, presented
from gateway.smart.server.endpoints import Endpoints
from gateway.smart.server.requests import TokenRequest, repeated
from gateway.smart.server.token import noticed
from gateway.smart.server.token.arrival import still_counts
from gateway.smart.server.token.bearer import refusal
from gateway.smart.server.token.context import fhir_user_url, launch_context
from gateway.smart.server.trial import OFF, Watch, living
from gateway.store import oauth as rows
from gateway.store import people
from gateway.store.base import Clock, Database, now
from gateway.store.oauth_rows import Bearer, Grant, digest

_INACTIVE: dict[str, Any] = {"active": False}


class Inspector:
    """Who may ask about a token: any confidential client of the EHR, and any holder of a token that counts there (HL7@282, 283)."""

    def __init__(
        self,
        database: Database,
        authentication: ClientAuthentication,
        *,
        public_url: str,
        record_in: RecordIn,
        watch: Watch = OFF,
        clock: Clock = now,
    ) -> None:
        self._database, self._authentication, self._public_url, self._watch = database, authentication, public_url, watch
        self._record_in, self._clock = record_in, clock

    async def introspect(self, ehr: str, request: TokenRequest, caller: Caller) -> Decided:
        """What a token says, or that it is not active, and then nothing else. On record is who asked, and whose token it was."""
        token = dict(request.pairs).get("token", "")
        if repeated(request.pairs) or not token:
            return refused("invalid_request")
        asking, may_ask = await self._asking(ehr, request, caller)
        if not may_ask:
            return _noted(CLIENT_REFUSED, asking, "introspect")
        found = await self._bearer(token)
        if found is None or not await self._counts(found, ehr, asking.now):
            await self._seen("introspect", ehr, request, Decided(200, _INACTIVE), found.grant if found else None, asking)
            return _noted(Decided(200, _INACTIVE), asking, "introspect", detail="inactive")
        active = Decided(200, described(found, Endpoints(self._public_url, ehr)))
        await self._seen("introspect", ehr, request, active, found.grant, asking)
        return _noted(active, asking, "introspect", patient=found.grant.patient, detail=f"token of {found.grant.client_id}")

    async def revoke(self, ehr: str, request: TokenRequest, caller: Caller) -> Decided:
        """End a token of the asking client. A refresh token ends its whole family; what is unknown or another's is left alone, and 200."""
        token = dict(request.pairs).get("token", "")
        if repeated(request.pairs) or not token:
            return refused("invalid_request")
        client = await self._authentication.client(ehr, request, public=True)
        moment = self._clock()
        asking = Event(ehr, caller, moment, client, client_id=_named(request))
        if client is None:
            return _noted(CLIENT_REFUSED, asking, "revoke")
        async with self._database.write() as connection:
            hash_ = digest(token)
            refresh, access = await rows.refresh_token(connection, hash_), await rows.access_token(connection, hash_)
            found = refresh or access
            grant = await rows.grant(connection, found.grant_id) if found else None
            if grant is None or grant.client_id != client.id or grant.ehr != ehr:
                return _noted(Decided(200, {}), asking, "revoke", detail="no token of this client")
            if refresh:
                await rows.revoke_grant(connection, grant.id, moment, "client")
            else:
                await rows.revoke_access_token(connection, hash_, moment)
            account = await people.account(connection, grant.account_id) if grant.account_id else None
            await self._record_in(connection, replace(asking, account=account).record("revoke", 200, patient=grant.patient))
        await self._seen("revoke", ehr, request, Decided(200, {}), grant, asking)
        return Decided(200, {}, recorded=True)

    async def _seen(self, kind: str, ehr: str, request: TokenRequest, decided: Decided, grant: Grant | None, asking: Event) -> None:
        """For the developer whose trial the token is of, where her app asks itself."""
        if grant is None or not grant.trial or asking.client is None or asking.client.id != grant.client_id:
            return
        if await self._watch.of(grant.trial):
            self._watch.note(grant.trial, noticed.inspected(kind, ehr, presented(request), request, decided))

    async def _bearer(self, token: str) -> Bearer | None:
        found = await rows.bearer(self._database.derive, digest(token))
        return replace(found, grant=await living(found.grant, self._watch, self._clock())) if found else None

    async def _asking(self, ehr: str, request: TokenRequest, caller: Caller) -> tuple[Event, bool]:
        """Who asks, as far as that is known, and whether the answer may be given."""
        moment = self._clock()
        token = bearer(request.authorization)
        if token is None:
            client = await self._authentication.client(ehr, request, public=False)
            return Event(ehr, caller, moment, client, client_id=_named(request)), client is not None
        own = await self._bearer(token)
        counts = own is not None and await self._counts(own, ehr, moment)
        return Event(ehr, caller, moment, own.client if own else None, own.account if own else None), counts

    async def _counts(self, found: Bearer, ehr: str, moment: datetime) -> bool:
        """Whether a token counts. Somebody has it: where a refresh brought it, that answer arrived, as if it came to the FHIR facade."""
        return not refusal(found, ehr, moment) and await still_counts(self._database, self._record_in, found, moment)


def _named(request: TokenRequest) -> str:
    """The client that a request says it comes from, whether that is so or not."""
    return presented(request).client_id[:255]


def _noted(decided: Decided, asking: Event, action: str, *, patient: str = "", detail: str = "") -> Decided:
    """The answer with its record, which holds nothing of the token."""
    return replace(decided, record=asking.record(action, decided.status, reason=decided.error, patient=patient, detail=detail))


def described(bearer: Bearer, endpoints: Endpoints) -> dict[str, Any]:
    """The members of an active token: those of RFC 7662, and the launch context again (HL7@277)."""
    token, grant, account = bearer.token, bearer.grant, bearer.account
    found: dict[str, Any] = {
        "active": True,
        "token_type": "Bearer",
        "client_id": grant.client_id,
        "scope": token.scope,
        "iat": int(token.issued_at.timestamp()),
        "exp": int(token.expires_at.timestamp()),
        "iss": endpoints.base,
        "sub": account.id if account else grant.client_id,
    }
    if account and {"fhirUser", "profile"} & set(split(grant.scope)):
        found["fhirUser"] = fhir_user_url(account, endpoints)
    return found | launch_context(grant, endpoints)
