"""The apps that a person connected, the button that takes back what was allowed, and the one that ends "do not ask me again"."""

from __future__ import annotations

from dataclasses import dataclass

from fastapi import APIRouter, Request, Response

from gateway.smart.server.authorization.grants import Connected, Grants, Unasked
from gateway.web.edge import WebEdge, see
from gateway.web.sent import sent_form
from gateway.web.words import day_words, grant_words


def router(edge: WebEdge, grants: Grants) -> APIRouter:
    """Route /apps."""
    pages = _Apps(edge, grants)
    return edge.routes({"/apps": {"GET": pages.apps, "POST": pages.disconnect}})


class _Apps:
    """The page and its form."""

    def __init__(self, edge: WebEdge, grants: Grants) -> None:
        self._edge, self._grants = edge, grants

    async def apps(self, request: Request) -> Response:
        """The apps that this person connected (A8.48), each with what it may do and a button that ends it."""
        person = await self._edge.people.require(request)
        connected, unasked = await self._grants.of(person.account), await self._grants.unasked(person.account)
        names = {one.patient: one.display for one in person.patients}
        shown = [_App.of(one, names.get(one.grant.patient, "")) for one in connected]
        told = request.scope["query_string"]
        return self._edge.pages.render(
            "apps.html",
            person=person,
            apps=shown,
            unasked=[_Unasked.of(one, names.get(one.kept.patient, "")) for one in unasked],
            ended=told == b"ended",
            forgotten=told == b"forgotten",
        )

    async def disconnect(self, request: Request) -> Response:
        """Take the access back, at the app's next request; or let it ask again."""
        form, people = await sent_form(request), self._edge.people
        person = await people.require(request)
        people.check_csrf(person, form.one)
        if kept := form.one.get("consent", ""):
            return see("/apps?forgotten" if await self._grants.forget(person.account, kept, self._edge.caller(request)) else "/apps")
        ended = await self._grants.revoke(person.account, form.one.get("grant", ""), self._edge.caller(request))
        return see("/apps?ended" if ended else "/apps")


@dataclass(frozen=True, slots=True)
class _App:
    """A connected app as the template shows it."""

    grant_id: str
    name: str
    patient: str
    since: str
    offline: bool
    online: bool
    may: tuple[str, ...]

    @classmethod
    def of(cls, connected: Connected, display: str) -> _App:
        """In words."""
        grant = connected.grant
        patient = (display or f"Patient {grant.patient}") if grant.patient else ""
        since = day_words(grant.created_at)
        return cls(
            grant.id,
            connected.client_name,
            patient,
            since,
            connected.offline,
            connected.grant.online_until is not None,
            tuple(grant_words(connected.scopes)),
        )


@dataclass(frozen=True, slots=True)
class _Unasked:
    """An app that does not ask again, as the template shows it."""

    id: str
    name: str
    patient: str
    until: str

    @classmethod
    def of(cls, unasked: Unasked, display: str) -> _Unasked:
        """In words."""
        kept = unasked.kept
        patient = (display or f"Patient {kept.patient}") if kept.patient else ""
        return cls(kept.id, unasked.client_name, patient, day_words(kept.expires_at))
