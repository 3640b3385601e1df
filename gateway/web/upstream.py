"""A person lets the gateway in at her EHR, comes back from there, and takes it back (ADR 0011)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from fastapi import APIRouter, Request, Response

from gateway.errors import UpstreamFault
from gateway.smart.client.connections import Connections, Refused
from gateway.smart.server.authorization.decide import Page
from gateway.smart.server.requests import given, parse_form, repeated
from gateway.web.edge import WebEdge, see
from gateway.web.people import HOME, Person
from gateway.web.sent import sent_form
from gateway.web.steps import step_path


def router(edge: WebEdge, connections: Mapping[str, Connections], titles: Mapping[str, str]) -> APIRouter:
    """Routes below /auth/{ehr}/upstream, for the EHRs where persons have their own access. `titles`: their names for people."""
    pages = _Upstream(edge, connections, titles)
    return edge.routes(
        {
            "/auth/{ehr}/upstream": {"GET": pages.page, "POST": pages.disconnect},
            "/auth/{ehr}/upstream/connect": {"GET": pages.connect},
            "/auth/{ehr}/upstream/launch": {"GET": pages.launch},
            "/auth/{ehr}/upstream/callback": {"GET": pages.callback},
        }
    )


@dataclass(frozen=True, slots=True)
class _Shown:
    """Her access as the page shows it. `since`: "" when there is none in force; `ended`: there was."""

    since: str
    ended: bool


class _Upstream:
    """One method for each page."""

    def __init__(self, edge: WebEdge, connections: Mapping[str, Connections], titles: Mapping[str, str]) -> None:
        self._edge, self._connections, self._titles = edge, connections, titles

    async def page(self, request: Request) -> Response:
        """Whether she is connected, and the way to change it."""
        here = self._here(request)
        if here is None:
            return self._absent()
        person = await self._edge.people.require(request)
        found = await here.of(person.account)
        since = f"{found.created_at.day} {found.created_at:%B %Y}" if found and found.ended_at is None else ""
        shown = _Shown(since, ended=bool(found and found.ended_at))
        said = request.scope["query_string"].decode("latin-1")
        waiting = _waiting(request)
        return self._edge.pages.render(
            "upstream.html", person=person, ehr=here.ehr, title=self._titles[here.ehr], access=shown, said=said, waiting=waiting
        )

    async def connect(self, request: Request) -> Response:
        """To the EHR. A link and not a form: browsers would hold back a form's redirects to whatever sign-in the EHR has."""
        here = self._here(request)
        if here is None:
            return self._absent()
        return await self._begun(here, await self._edge.people.require(request), then=_waiting(request))

    async def launch(self, request: Request) -> Response:
        """The EHR opens the gateway as its app (SMART "EHR launch"): only this EHR, and its launch goes on as it came (A18.84)."""
        here = self._here(request)
        if here is None:
            return self._absent()
        sent = given(parse_form(request.scope["query_string"]) or ())
        if sent.get("iss", "").rstrip("/") != here.endpoints.client.base_url or not sent.get("launch"):
            return self._edge.refused(Page("upstream-launch", 400))
        return await self._begun(here, await self._edge.people.require(request), launch=sent["launch"])

    async def callback(self, request: Request) -> Response:
        """Back from the EHR. Who is not signed in any more begins anew: a code goes nowhere but into the exchange."""
        here, person = self._here(request), await self._edge.people.current(request)
        if here is None:
            return self._absent()
        if person is None:
            return self._edge.refused(Page("upstream-state", 400))
        pairs = parse_form(request.scope["query_string"]) or ()
        answer: Mapping[str, str] = given(pairs if not repeated(pairs) else ())
        found = await here.finish(person.account, person.session_hash, answer, self._edge.caller(request))
        if isinstance(found, Refused):
            return self._edge.refused(Page(found.reason, 502 if found.reason.startswith("ehr-") else 403))
        return see(step_path(here.ehr, "consent", found.then) if found.then else f"/auth/{here.ehr}/upstream?connected")

    async def disconnect(self, request: Request) -> Response:
        """Take it back."""
        here = self._here(request)
        if here is None:
            return self._absent()
        form, people = await sent_form(request), self._edge.people
        person = await people.require(request)
        people.check_csrf(person, form.one)
        ended = await here.disconnect(person.account, self._edge.caller(request))
        return see(f"/auth/{here.ehr}/upstream" + ("?ended" if ended else ""))

    async def _begun(self, here: Connections, person: Person, *, launch: str = "", then: str = "") -> Response:
        if person.account.ehr != here.ehr:  # an account is for one EHR
            return see(HOME)
        try:
            return see(await here.begin(person.account, person.session_hash, launch=launch, then=then))
        except UpstreamFault as error:
            return self._edge.refused(Page(error.reason, error.status))

    def _here(self, request: Request) -> Connections | None:
        return self._connections.get(request.path_params["ehr"])

    def _absent(self) -> Response:
        """An EHR where the gateway has its own credential."""
        return self._edge.refused(Page("ehr-unknown", 404))


def _waiting(request: Request) -> str:
    """The authorization of an app that waits until she is connected, "" when none does."""
    return given(parse_form(request.scope["query_string"]) or ()).get("transaction", "")
