"""Invites: by one of them a developer registers a client of his own (the initial access token of RFC 7591 section 1.2)."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from gateway.errors import NotDone
from gateway.smart.record import Caller, Event, RecordIn
from gateway.smart.scopes import parse_scope, split
from gateway.store import registrations
from gateway.store.base import Clock, Database, now
from gateway.store.oauth_rows import Invite, digest, new_id, new_secret


@dataclass(frozen=True, slots=True)
class Terms:
    """What an invite allows. `scope`: the system scopes that a backend client may have at most; "" for apps alone."""

    ehr: str
    uses: int = 1
    days: int = 7
    scope: str = ""


class Invites:
    """Made, listed and withdrawn by the operator. The store has only the hash of a token."""

    def __init__(self, database: Database, *, record_in: RecordIn, clock: Clock = now) -> None:
        self._database, self._record_in, self._clock = database, record_in, clock

    async def make(self, terms: Terms) -> tuple[Invite, str]:
        """A new one and its token, this once. Raises NotDone for a scope that is none of a system's."""
        scopes = split(terms.scope)
        if not all((scope := parse_scope(one)) and scope.level == "system" for one in scopes):
            fix = 'write it like "system/Observation.rs system/Patient.r"'
            raise NotDone("That is no list of system scopes", what="scope-malformed", about="scope", fix=fix)
        token, moment = new_secret(), self._clock()
        invite = Invite(new_id(), digest(token), terms.ehr, " ".join(scopes), terms.uses, moment, moment + timedelta(days=terms.days))
        async with self._database.write() as connection:
            await registrations.add_invite(connection, invite)
            detail = f"{invite.id}, {terms.uses} uses, until {invite.expires_at:%Y-%m-%d}{', ' + invite.scope if scopes else ''}"
            await self._record_in(connection, Event(terms.ehr, Caller(), moment).record("invite-add", 201, detail=detail))
        return invite, token

    async def usable(self) -> tuple[Invite, ...]:
        """Those that can still be used, the last made first."""
        async with self._database.read() as connection:
            return await registrations.invites(connection, self._clock())

    async def withdraw(self, id_: str) -> None:
        """It cannot be used any more. Raises NotDone when there is no usable one of that id."""
        moment = self._clock()
        async with self._database.write() as connection:
            if not await registrations.withdraw_invite(connection, id_, moment):
                raise NotDone(f"There is no invite {id_} that could be used", what="invite-unknown", about="id")
            await self._record_in(connection, Event("", Caller(), moment).record("invite-withdraw", 200, detail=id_))
