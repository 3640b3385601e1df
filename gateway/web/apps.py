"""The apps that a person connected, and the button that takes back what was allowed."""

from __future__ import annotations

from dataclasses import dataclass

from fastapi import APIRouter, Request, Response

from gateway.smart.server.grants import Connected, Grants
from gateway.web.edge import WebEdge, see
from gateway.web.sent import sent_form
from gateway.web.words import grant_words


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
        connected = await self._grants.of(person.account)
        names = {one.patient: one.display for one in person.patients}
        shown = [_App.of(one, names.get(one.grant.patient, "")) for one in connected]
        ended = request.scope["query_string"] == b"ended"
        return self._edge.pages.render("apps.html", person=person, apps=shown, ended=ended)

    async def disconnect(self, request: Request) -> Response:
        """Take the access back: at the app's next request."""
        form, people = await sent_form(request), self._edge.people
        person = await people.require(request)
        people.check_csrf(person, form.one)
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
    may: tuple[str, ...]

    @classmethod
    def of(cls, connected: Connected, display: str) -> _App:
        """In words."""
        grant = connected.grant
        patient = (display or f"Patient {grant.patient}") if grant.patient else ""
        since = f"{grant.created_at.day} {grant.created_at:%B %Y}"
        return cls(grant.id, connected.client_name, patient, since, connected.offline, tuple(grant_words(connected.scopes)))
