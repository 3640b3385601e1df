"""Reads what a token request names, lets `decide` judge it, and commits the effects in one transaction, each by compare-and-set.

Between reading and committing anything may have happened: then an effect is lost, nothing of the decision is stored, and the answer is
that of a request that came later.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from functools import cache

from joserfc.jwk import RSAKey
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.errors import Unavailable
from gateway.smart.record import Caller, Event, RecordIn
from gateway.smart.server import faults
from gateway.smart.server.answers import Decided
from gateway.smart.server.clients.authentication import ClientAuthentication, Presented, presented, was_used
from gateway.smart.server.effects import ConsumeCode, Effect, IssueTokens, PresentAgain, RememberJti, RevokeFamily, RotateRefresh
from gateway.smart.server.endpoints import Endpoints
from gateway.smart.server.keys import KeySource
from gateway.smart.server.lifetimes import Lifetimes
from gateway.smart.server.requests import TokenRequest
from gateway.smart.server.token import noticed
from gateway.smart.server.token.decide import decide
from gateway.smart.server.token.snapshot import Snapshot
from gateway.smart.server.trial import OFF, Trial, Watch, living
from gateway.store import oauth as rows
from gateway.store import people
from gateway.store.base import Clock, Database, now
from gateway.store.oauth_rows import AuthMethod, digest

_TRIES = 5  # each loss means that somebody else won, and what can be won once is won
_ORDER: tuple[type[Effect], ...] = (RememberJti, ConsumeCode, RotateRefresh, PresentAgain, RevokeFamily, IssueTokens)

_SAID: dict[type[Effect], str] = {RevokeFamily: "family-revoked", PresentAgain: "a replaced token came again"}
"""What the record says of an effect."""


class _LostError(Exception):
    """Somebody else was first."""


class TokenDriver:
    """The token endpoint of every EHR."""

    def __init__(
        self,
        database: Database,
        *,
        public_url: str,
        keys: KeySource,
        authentication: ClientAuthentication,
        record_in: RecordIn,
        lifetimes: Lifetimes,
        watch: Watch = OFF,
        clock: Clock = now,
    ) -> None:
        self._database, self._public_url, self._watch = database, public_url, watch
        self._keys, self._authentication, self._record_in = keys, authentication, record_in
        self._lifetimes, self._clock = lifetimes, clock

    async def token(self, ehr: str, request: TokenRequest, caller: Caller) -> Decided:
        """The answer to a POST at the token endpoint."""
        began, asked = time.monotonic(), presented(request)
        for _ in range(_TRIES):
            snapshot = await self.snapshot(ehr, asked)
            decided = decide(asked, request.pairs, snapshot)
            if decided.simulated == "token-slow":
                await asyncio.sleep(faults.TOKEN_SLOW)
            event = Event(ehr, caller, snapshot.now, snapshot.client, snapshot.account, asked.client_id[:255])
            try:
                answer = await self._commit(decided, snapshot, event)
            except _LostError:
                continue  # somebody else was first: what he did is there to be read
            if snapshot.trial:
                self._watch.note(snapshot.trial, noticed.token(asked, request, snapshot, answer, 1000 * (time.monotonic() - began)))
            return answer
        raise Unavailable(reason="token-contended", retry_after=1)

    async def snapshot(self, ehr: str, asked: Presented) -> Snapshot:
        """Read everything that the request names. Keys are fetched outside of any transaction."""
        found = Snapshot(self._clock(), Endpoints(self._public_url, ehr), self._lifetimes)
        async with self._database.read() as connection:
            found = await _read(connection, found, asked)
        found = replace(found, client_keys=await self._authentication.keys(found.client, asked))
        if found.code:
            found = replace(found, signing_key=await self._keys.signing())
        if found.grant:
            found = replace(found, grant=await living(found.grant, self._watch, found.now))
        return await self._in_trial(found, asked)

    async def _in_trial(self, found: Snapshot, asked: Presented) -> Snapshot:
        """What a developer chose for the launch that this is about. It counts for the client alone whose launch that is."""
        trial, lifetimes = await self._trial_of(found, asked), found.lifetimes
        if trial is None:
            return found
        fault = faults.of_token_request(trial.fault, asked.form.get("grant_type", ""))
        if fault == "id-token-unknown-key" and found.signing_key:
            found = replace(found, signing_key=await asyncio.to_thread(_unpublished, str(found.signing_key.kid)))
        ends = max(1, int((trial.expires_at - found.now).total_seconds()))  # what is had in a trial ends with it
        access = min(lifetimes.access, trial.wanted.access_life or lifetimes.access, ends)
        refresh = min(lifetimes.refresh, trial.wanted.refresh_life or lifetimes.refresh, ends)
        shorter = replace(lifetimes, access=access, refresh=refresh, backend=min(lifetimes.backend, access))
        return replace(found, trial=trial.label, fault=fault, lifetimes=shorter)

    async def _trial_of(self, found: Snapshot, asked: Presented) -> Trial | None:
        """By the code or refresh token; a backend service, which has neither, names its trial itself."""
        if found.grant is not None:
            return await self._watch.of(found.grant.trial) if found.client and found.client.id == found.grant.client_id else None
        if asked.form.get("grant_type") != "client_credentials" or "trial" not in asked.form:
            return None
        trial = await self._watch.of(digest(asked.form["trial"]))
        named = (found.endpoints.ehr, asked.client_id, "backend")
        return trial if trial and (trial.ehr, trial.client_id, trial.wanted.kind) == named else None

    async def _commit(self, decided: Decided, snapshot: Snapshot, event: Event) -> Decided:
        patient = snapshot.grant.patient if snapshot.grant else ""
        said = [_SAID[type(effect)] for effect in decided.effects if type(effect) in _SAID]
        async with self._database.write() as connection:
            if snapshot.code and snapshot.grant:  # before any grant, as all do who end several: none waits for the other
                await rows.hold_client(connection, snapshot.grant.client_id)
                await people.account_held(connection, snapshot.grant.account_id)
            for effect in sorted(decided.effects, key=lambda effect: _ORDER.index(type(effect))):
                if not await _apply(connection, effect, snapshot):
                    raise _LostError
            if snapshot.code and snapshot.grant and not decided.error and await rows.revoke_unsettled(connection, snapshot.grant, snapshot.now):
                said.append("an unsettled family was ended")
            detail = "; ".join(part for part in (*said, faults.said(decided.simulated)) if part)
            record = event.record("token", decided.status, reason=decided.error, patient=patient, detail=detail)
            await self._record_in(connection, record)
        return replace(decided, recorded=True)


@cache
def _unpublished(kid: str) -> RSAKey:
    """A key that pretends to be the one of that name."""
    return RSAKey.generate_key(2048, {"kid": kid, "use": "sig", "alg": "RS256"}, private=True)


async def _read(connection: AsyncConnection, found: Snapshot, asked: Presented) -> Snapshot:
    form = asked.form
    code = await rows.code(connection, digest(form["code"])) if "code" in form else None
    refresh = await rows.refresh_token(connection, digest(form["refresh_token"])) if "refresh_token" in form and code is None else None
    grant_id = code.grant_id if code else refresh.grant_id if refresh else ""
    grant = await rows.grant(connection, grant_id) if grant_id else None
    client = await rows.client(connection, asked.client_id) if asked.client_id else None
    if client is None and not asked.client_id and refresh and grant:
        family = await rows.client(connection, grant.client_id)
        client = family if family and family.auth_method == AuthMethod.NONE else None
    return replace(
        found,
        client=client,
        code=code,
        refresh=refresh,
        replaced=await rows.refresh_token(connection, refresh.replaces) if refresh and refresh.replaces else None,
        rotated_at=await rows.rotated_at(connection, refresh) if refresh and refresh.state != "active" else None,
        grant=grant,
        account=await people.account(connection, grant.account_id) if grant and grant.account_id else None,
        listed=await people.listed(connection, grant.account_id) if grant and grant.account_id else (),
        jti_seen=await was_used(connection, asked),
    )


async def _apply(connection: AsyncConnection, effect: Effect, snapshot: Snapshot) -> bool:
    """Do it. False: lost."""
    moment = snapshot.now
    match effect:
        case RememberJti(hash_, expires_at):
            return await rows.remember_jti(connection, hash_, expires_at)
        case ConsumeCode(hash_):
            return await rows.consume_code(connection, hash_, moment)
        case RotateRefresh(token):
            return await rows.rotate_refresh_token(connection, token, moment)
        case PresentAgain(token, state):
            return await rows.present_again(connection, token, state)
        case RevokeFamily(grant_id, reason):
            await rows.revoke_grant(connection, grant_id, moment, reason)
            return True
        case IssueTokens(grant_id, access, refresh, grant):
            if grant:  # a new family: nothing but its client can have ended it meanwhile
                if not await rows.hold_client(connection, grant.client_id):
                    return False
                await rows.add_grant(connection, grant)
            elif not await rows.use_grant(connection, grant_id, moment):
                return False
            await rows.add_access_token(connection, access)
            if refresh:
                await rows.add_refresh_token(connection, refresh)
            return True
