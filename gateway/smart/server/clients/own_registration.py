"""Clients that register themselves: RFC 7591 at `/register`, RFC 7592 below it. `judge_own` is pure; `OwnRegistrations` reads and commits.

What an operator may say of a client (`registration`) is more than a client may say of itself: its id and its secret are made here, it counts
at the EHR that it asked, and at no other, it pushes nothing, and a system scope is only for who has an invite that names it (ATK-O27).
Nothing that it names is ever fetched here: not logo_uri, nor any other URL.
"""

from __future__ import annotations

import hmac
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, cast

from gateway.errors import OAuthError
from gateway.smart.record import Caller, Event, RecordIn
from gateway.smart.scopes import is_subset
from gateway.smart.server.answers import Decided, refused
from gateway.smart.server.attempts import Limit, count, limits_of_registration
from gateway.smart.server.clients.admin import forget
from gateway.smart.server.clients.authentication import bearer, manages
from gateway.smart.server.clients.registration import Registration, Rules, judge
from gateway.smart.server.endpoints import Endpoints
from gateway.store import oauth as rows
from gateway.store import registrations
from gateway.store.base import Clock, Database, now
from gateway.store.oauth_rows import Client, Invite, digest, new_secret

_LONGEST_NAME = 100  # characters: it stands on pages
_MOST_URIS = 20
_MOST_KEYS = 10
_MADE_HERE = ("client_id", "client_secret")
_ANSWERED = ("registration_access_token", "registration_client_uri", "client_secret_expires_at", "client_id_issued_at")
"""What a client must not send back when it changes its registration (RFC 7592 section 2.2)."""
_INVITE_MISSING = "An invite of the operator's is needed: 'Authorization: Bearer ...'."
_NOT_INVITED = "That invite is not known here, or it is used up."


@dataclass(frozen=True, slots=True)
class Policy:
    """`mode`: closed, token (an invite is needed), open. `review`: what registered itself waits for the operator."""

    mode: str = "closed"
    review: bool = True


@dataclass(frozen=True, slots=True)
class Own:
    """What a client may say of itself: where it counts, and its system scopes at most ("" for none)."""

    ehr: str
    system_scope: str = ""


class _RefusedError(Exception):
    """Nothing is stored, and this is the answer."""

    def __init__(self, decided: Decided) -> None:
        super().__init__(decided.error)
        self.decided = decided


def judge_own(metadata: Any, own: Own, rules: Rules, now: datetime, known: Client | None = None) -> Registration:
    """The client that this metadata describes, or the change of `known`. Raises OAuthError with an error code of RFC 7591 section 3.2.2."""
    if not isinstance(metadata, dict):
        raise _refused("A registration is a JSON object.")
    found = cast("dict[str, Any]", metadata)
    _check_terms(found, own)
    _check_sizes(found)
    # The id of a new client is made by `judge`: one that is asked for would let anybody take over another's registration.
    said = {name: value for name, value in found.items() if name not in _MADE_HERE} | {"ehrs": [own.ehr]}
    registration = judge(said | ({"client_id": known.id} if known else {}), rules, now, known)
    client = registration.client
    if not client.redirect_uris and not own.system_scope:
        raise _refused("A backend client is registered by the operator, or with an invite of the operator's that names its system scopes.")
    if not client.redirect_uris and not is_subset(client.scope, own.system_scope):
        raise _refused("scope: more than the operator allows this client.")
    return registration


def _check_terms(found: Mapping[str, Any], own: Own) -> None:
    if "software_statement" in found:
        raise OAuthError("unapproved_software_statement", "Software statements are not taken here: leave it out, and send the metadata itself.")
    if "push" in found:
        raise _refused("push is for clients that the operator registers.")
    if found.get("ehrs", [own.ehr]) != [own.ehr]:
        raise _refused("ehrs: a client that registers itself counts at the EHR where it does.")


def _check_sizes(found: Mapping[str, Any]) -> None:
    if len(_text(found.get("client_name"))) > _LONGEST_NAME:
        raise _refused(f"client_name has {_LONGEST_NAME} characters at most.")
    if len(_list(found.get("redirect_uris"))) > _MOST_URIS:
        raise OAuthError("invalid_redirect_uri", f"redirect_uris: {_MOST_URIS} at most.")
    keys = cast("dict[str, Any]", found["jwks"]).get("keys") if isinstance(found.get("jwks"), dict) else None
    if len(_list(keys)) > _MOST_KEYS:
        raise _refused(f"jwks: {_MOST_KEYS} keys at most.")


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _list(value: Any) -> list[Any]:
    return cast("list[Any]", value) if isinstance(value, list) else []


def _refused(description: str) -> OAuthError:
    return OAuthError("invalid_client_metadata", description)


def needs_review(before: Client, after: Client) -> bool:
    """Whether a change is one that the operator has to see. New keys and a new secret are the client's own business."""
    kept = {"jwks": None, "registered": None, "secret_hash": "", "old_secret_hash": "", "old_secret_until": None, "registration_hash": ""}
    return replace(before, **kept, pending_since=None) != replace(after, **kept, pending_since=None)


class OwnRegistrations:
    """The registration endpoints of every EHR. `most` within `window` seconds may be asked for from one address."""

    def __init__(
        self,
        database: Database,
        rules: Rules,
        policy: Policy,
        *,
        public_url: str,
        record_in: RecordIn,
        clock: Clock = now,
        most: int = 20,
        window: int = 3600,
    ) -> None:
        self._database, self._rules, self._policy = database, rules, policy
        self._public_url, self._record_in, self._clock = public_url, record_in, clock
        self._most, self._window = most, window

    @property
    def offered(self) -> bool:
        """Whether there are such endpoints at all."""
        return self._policy.mode != "closed"

    async def register(self, ehr: str, metadata: Any, authorization: Sequence[str], caller: Caller) -> Decided:
        """RFC 7591 section 3: a new client. Counted by address, before anything is judged."""
        moment = self._clock()
        async with self._database.write() as connection:
            wait = await count(connection, self._limits(caller), moment)
        if wait:
            words = f"Too many registrations from this address. Try again in {wait} seconds."
            return Decided(429, {"error": "temporarily_unavailable", "error_description": words}, headers=(("Retry-After", str(wait)),))
        try:
            return await self._registered(Endpoints(self._public_url, ehr), metadata, bearer(authorization) or "", caller)
        except _RefusedError as error:
            return error.decided
        except OAuthError as error:
            return refused(error.error, error.message)

    async def _registered(self, endpoints: Endpoints, metadata: Any, token: str, caller: Caller) -> Decided:
        moment, manage = self._clock(), new_secret()
        async with self._database.write() as connection:
            invite = await self._invited(connection, endpoints.ehr, token, moment)
            own = Own(endpoints.ehr, invite.scope if invite else "")
            registration = judge_own(metadata, own, self._rules, moment)
            pending = moment if self._policy.review else None
            client = replace(registration.client, registration_hash=digest(manage), pending_since=pending)
            await rows.put_client(connection, client, registration.origins)
            event = Event(endpoints.ehr, caller, moment, client)
            await self._record_in(connection, event.record("client-register", 201, detail=f"invite {invite.id}" if invite else "by itself"))
        return Decided(201, answer(registration.answer, client, endpoints, manage), recorded=True)

    async def _invited(self, connection: Any, ehr: str, token: str, moment: datetime) -> Invite | None:
        """The invite, used once more in the caller's transaction."""
        if self._policy.mode != "token":
            return None
        invite = await registrations.invite(connection, digest(token)) if token else None
        if invite is None or invite.ehr != ehr or not await registrations.use_invite(connection, invite.hash, moment):
            raise _RefusedError(unauthorized(_NOT_INVITED if token else _INVITE_MISSING))
        return invite

    async def read(self, ehr: str, client_id: str, authorization: Sequence[str], caller: Caller) -> Decided:
        """RFC 7592 section 2.1. The secret is not kept, so it is not in the answer; the token is the one that was sent."""
        token = bearer(authorization) or ""
        async with self._database.read() as connection:
            client = await rows.client(connection, client_id)
        if not manages(client, ehr, token):
            return _noted(_UNKNOWN, self._asking(ehr, client_id, caller), "client-read")
        asking = Event(ehr, caller, self._clock(), client)
        if client.disabled_at is not None:
            return _noted(_DISABLED, asking, "client-read")
        body = answer(client.registered or {}, client, Endpoints(self._public_url, ehr), token)
        return _noted(Decided(200, body), asking, "client-read")

    async def update(self, ehr: str, client_id: str, metadata: Any, authorization: Sequence[str], caller: Caller) -> Decided:
        """RFC 7592 section 2.2: what is sent replaces what was registered, and the token is replaced too."""
        try:
            return await self._updated(Endpoints(self._public_url, ehr), client_id, metadata, bearer(authorization) or "", caller)
        except _RefusedError as error:
            decided = error.decided
        except OAuthError as error:
            decided = refused(error.error, error.message)
        return _noted(decided, self._asking(ehr, client_id, caller), "client-update")

    async def _updated(self, endpoints: Endpoints, client_id: str, metadata: Any, token: str, caller: Caller) -> Decided:
        moment, manage = self._clock(), new_secret()
        async with self._database.write() as connection:
            # The row is held from here on: nobody disables it, and no other update is judged, before this one ends.
            held = token != "" and await registrations.rotate_registration(connection, client_id, digest(token), digest(manage))
            known = await rows.client(connection, client_id) if held else None
            if known is None or not manages(known, endpoints.ehr, manage):
                raise _RefusedError(_UNKNOWN)
            if known.disabled_at is not None:
                raise _RefusedError(_DISABLED)
            _check_names(metadata, known)
            own = Own(endpoints.ehr, known.scope if not known.redirect_uris else "")  # a backend client may narrow what it was allowed
            registration = judge_own(metadata, own, self._rules, moment, known)
            pending = known.pending_since
            if self._policy.review and needs_review(known, registration.client):
                pending = moment
            client = replace(registration.client, registration_hash=digest(manage), pending_since=pending)
            if client.secret_hash == known.secret_hash:
                client = replace(client, old_secret_hash=known.old_secret_hash, old_secret_until=known.old_secret_until)
            await rows.put_client(connection, client, registration.origins)
            await self._record_in(connection, Event(endpoints.ehr, caller, moment, client).record("client-update", 200))
        return Decided(200, answer(registration.answer, client, endpoints, manage), recorded=True)

    async def delete(self, ehr: str, client_id: str, authorization: Sequence[str], caller: Caller) -> Decided:
        """RFC 7592 section 2.3: it is forgotten, and all its access ends."""
        token, moment = bearer(authorization) or "", self._clock()
        async with self._database.write() as connection:
            client = await rows.client(connection, client_id)
            ended = await forget(connection, client, moment) if manages(client, ehr, token) else None
            if client is None or ended is None:
                return _noted(_UNKNOWN, self._asking(ehr, client_id, caller), "client-delete")
            event = Event(ehr, caller, moment, client)
            await self._record_in(connection, event.record("client-delete", 204, detail=f"{ended} grants ended, by itself"))
        return Decided(204, {}, recorded=True)

    def _asking(self, ehr: str, client_id: str, caller: Caller) -> Event:
        """Who asks, as the address says, whether that is so or not."""
        return Event(ehr, caller, self._clock(), client_id=client_id[:255])

    def _limits(self, caller: Caller) -> tuple[Limit, ...]:
        return tuple(limits_of_registration(caller.address, self._most, self._window))


def _check_names(metadata: Any, known: Client) -> None:
    """RFC 7592 section 2.2: the client says who it is, and sends back nothing of what only the server says."""
    found = cast("dict[str, Any]", metadata) if isinstance(metadata, dict) else {}
    if found.get("client_id") != known.id:
        raise _refused("client_id is the one of this registration.")
    if said := [name for name in _ANSWERED if name in found]:
        raise _refused(f"{said[0]} is not for a client to say: leave it out.")
    secret = found.get("client_secret", "")
    if secret and not (isinstance(secret, str) and hmac.compare_digest(digest(secret), known.secret_hash)):
        raise _refused("client_secret is not the one of this client. A client does not choose its secret.")


def answer(said: Mapping[str, Any], client: Client, endpoints: Endpoints, token: str) -> dict[str, Any]:
    """The client information response (RFC 7592 section 3), and whether it waits for the operator."""
    members = dict(said) | {"registration_access_token": token, "registration_client_uri": f"{endpoints.register}/{client.id}"}
    return members | ({"approval": "pending"} if client.pending_since else {})


def unauthorized(description: str) -> Decided:
    """RFC 6750 section 3."""
    body = {"error": "invalid_token", "error_description": description}
    return Decided(401, body, headers=(("WWW-Authenticate", 'Bearer realm="register", error="invalid_token"'),))


_UNKNOWN = unauthorized("That registration access token is not one of this client.")
_DISABLED = Decided(403, {"error": "access_denied", "error_description": "The operator took this client out of use."})


def _noted(decided: Decided, asking: Event, action: str) -> Decided:
    return replace(decided, record=asking.record(action, decided.status, reason=decided.error))
