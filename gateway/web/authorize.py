"""The pages of an authorization: the app's request, which record, what of it, and back to the app.

Thin: `Authorizations` says what comes next, this module shows it. Every form carries the csrf token of the session; the way back without signing in
that of the browser (ATK-O17).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Protocol
from urllib.parse import urlsplit

from fastapi import APIRouter, Request, Response

from gateway.fhir.words import type_words
from gateway.portal.faces import Face
from gateway.proxy.answer import RequestContext
from gateway.smart.server.authorization.consent import Part, Switch
from gateway.smart.server.authorization.decide import Page
from gateway.smart.server.authorization.driver import Ask, At, Authorizations, Begun, Pick
from gateway.smart.server.authorization.memory import NO, Choice
from gateway.smart.server.lifetimes import Lifetimes
from gateway.smart.server.people.sessions import Visitor
from gateway.smart.server.requests import Pairs, given, parse_form
from gateway.store.oauth_rows import Account, ListedPatient, new_secret
from gateway.web.edge import WebEdge, see
from gateway.web.people import ForgedForm, check, csrf_of
from gateway.web.picker import choice_of, picker
from gateway.web.sent import Sent, sent_form, sent_pairs
from gateway.web.steps import Destination, ended, go, step_at, step_path
from gateway.web.words import condition_words, day_words, scope_words

_READ_AT_MOST = 200
"""Patients of a list that are all read, so that all can be searched by what the EHR says of them."""


class KnowsFaces(Protocol):
    """portal.faces.Faces."""

    async def of(self, account: Account, ehr: str, patients: Sequence[str], context: RequestContext) -> Mapping[str, Face]:
        """Name, birth date and sex by id, as far as they can be had."""
        ...


class KnowsAccess(Protocol):
    """smart.client.connections.Connections: at an EHR that gives a record only to whom the person let in there."""

    async def has(self, account: Account) -> bool:
        """Whether the gateway has her access."""
        ...


def router(edge: WebEdge, authorizations: Authorizations, faces: KnowsFaces, upstreams: Mapping[str, KnowsAccess], lifetimes: Lifetimes) -> APIRouter:
    """Routes /auth/{ehr}/{authorize,patient,consent,cancel}. `lifetimes`: as the consent page tells them."""
    pages = _Authorize(edge, authorizations, faces, upstreams, lifetimes)
    return edge.routes(
        {
            "/auth/{ehr}/authorize": {"GET": pages.authorize, "POST": pages.authorize},
            "/auth/{ehr}/patient": {"GET": pages.patient_page, "POST": pages.patient},
            "/auth/{ehr}/consent": {"GET": pages.consent_page, "POST": pages.consent},
            "/auth/{ehr}/cancel": {"POST": pages.cancel},
        }
    )


class _Authorize:
    """One method for each page and each form."""

    def __init__(
        self, edge: WebEdge, authorizations: Authorizations, faces: KnowsFaces, upstreams: Mapping[str, KnowsAccess], lifetimes: Lifetimes
    ) -> None:
        self._edge, self._authorizations, self._faces, self._lifetimes = edge, authorizations, faces, lifetimes
        self._upstreams = upstreams

    async def authorize(self, request: Request) -> Response:
        """The app sends a browser, by GET or by POST (HL7@48, 49)."""
        pairs, people, ehr = await _request_pairs(request), self._edge.people, request.path_params["ehr"]
        browser = people.browser_secret(request) or new_secret()
        if pairs is None:
            at = At(ehr, "", browser, None, self._edge.caller(request))
            return self._edge.refused(await self._authorizations.refused(at, Page("request-malformed")))
        person = await people.current(request)
        visitor, caller = person.visitor if person else None, self._edge.caller(request)
        trial_id = people.trial_id(request)
        begun = await self._authorizations.begin(ehr, pairs, browser=browser, visitor=visitor, caller=caller, trial_id=trial_id)
        if not isinstance(begun, Begun):
            return ended(self._edge, begun)
        response = see(step_path(ehr, "consent", begun.handle))
        people.keep_browser(response, browser)
        return response

    async def patient_page(self, request: Request) -> Response:
        """The picker."""
        at, asked = await self._at_page(request)
        step = await self._authorizations.step(at)
        if at.visitor and (isinstance(step, Pick) or (isinstance(step, Ask) and step.may_pick)):
            patients = step.patients if isinstance(step, Pick) else at.visitor.patients
            return await self._picker(request, asked, step, at.visitor, patients)
        return go(self._edge, step, asked)

    async def patient(self, request: Request) -> Response:
        """The choice."""
        at, asked, form = await self._at_form(request)
        return go(self._edge, await self._authorizations.pick(at, form.one.get("patient", "")), asked)

    async def consent_page(self, request: Request) -> Response:
        """What the app asks for, one switch for each scope."""
        at, asked = await self._at_page(request)
        step = await self._authorizations.step(at)
        if not isinstance(step, Ask) or not at.visitor:
            return go(self._edge, step, asked)
        if await self._must_connect(request, asked.ehr, step, at.visitor):
            return see(step_path(asked.ehr, "upstream", asked.handle))
        return await self._consent(request, asked, step, at.visitor)

    async def consent(self, request: Request) -> Response:
        """The decision."""
        at, asked, form = await self._at_form(request)
        about = form.one.get("patient", "")
        allowed = Choice(frozenset(form.all("scope")), remember=form.one.get("remember") == "yes", patient=about)
        step = await self._authorizations.step(at, decides=True)
        if isinstance(step, Ask) and at.visitor and about != (step.patient.patient if step.patient else ""):
            return await self._consent(request, asked, step, at.visitor)  # another was chosen in another tab: she is asked about that one
        return go(self._edge, await self._authorizations.answer(at, allowed if form.one.get("decision") == "allow" else NO), asked)

    async def cancel(self, request: Request) -> Response:
        """Back to the app without signing in."""
        form, browser = await sent_form(request), self._edge.people.browser_secret(request)
        check(csrf_of(browser) if browser else "", form.one)
        at = await step_at(self._edge, request, request.path_params["ehr"], form.one.get("transaction", ""))
        return ended(self._edge, await self._authorizations.cancel(at))

    async def _must_connect(self, request: Request, ehr: str, step: Ask, visitor: Visitor) -> bool:
        """An app that she lets in would get nothing while the EHR gives the gateway nothing; she may go on all the same."""
        anyway = "anyway" in given(parse_form(request.scope["query_string"]) or ())
        if anyway or ehr not in self._upstreams or not any(one.clinical for one in step.switches):
            return False
        return not await self._upstreams[ehr].has(visitor.account)

    async def _at_page(self, request: Request) -> tuple[At, Destination]:
        handle = given(parse_form(request.scope["query_string"]) or ()).get("transaction", "")
        asked = Destination(request.path_params["ehr"], handle)
        return await step_at(self._edge, request, asked.ehr, asked.handle), asked

    async def _at_form(self, request: Request) -> tuple[At, Destination, Sent]:
        """Raises ForgedForm unless the form is of a page of this session (ATK-O17)."""
        form = await sent_form(request)
        asked = Destination(request.path_params["ehr"], form.one.get("transaction", ""))
        check(csrf_of(self._edge.people.session_secret(request)), form.one)
        at = await step_at(self._edge, request, asked.ehr, asked.handle)
        if at.visitor is None:
            raise ForgedForm
        return at, asked, form

    async def _seen(self, request: Request, visitor: Visitor, patients: Sequence[ListedPatient]) -> Mapping[str, Face]:
        """What the EHR says of them. Of a long list only names that are stored are searched: nobody waits for thousands to be read."""
        caller, ehr = self._edge.caller(request), request.path_params["ehr"]
        context = RequestContext(caller.request_id, caller.address, via="portal")
        return await self._faces.of(visitor.account, ehr, [one.patient for one in patients], context)

    async def _picker(
        self, request: Request, asked: Destination, step: Pick | Ask, visitor: Visitor, patients: tuple[ListedPatient, ...]
    ) -> Response:
        query = given(parse_form(request.scope["query_string"]) or ())
        words, page = query.get("q", ""), query.get("page", "")
        if len(patients) <= _READ_AT_MOST:
            shown = picker(patients, await self._seen(request, visitor, patients), asked=words, page=page)
        else:
            shown = picker(patients, {}, asked=words, page=page)
            ids = {one.id for one in shown.choices}
            here = [one for one in patients if one.patient in ids]
            faces = await self._seen(request, visitor, here)
            shown = replace(shown, choices=tuple(choice_of(one, faces) for one in here))
        return self._edge.pages.render(
            "patient.html",
            form_targets=[step.redirect_uri],
            csrf=csrf_of(self._edge.people.session_secret(request)),
            asked=asked,
            client_name=step.client_name,
            picker=shown,
            total=len(patients),
        )

    async def _consent(self, request: Request, asked: Destination, step: Ask, visitor: Visitor) -> Response:
        shown = [_Shown.of(number, switch) for number, switch in enumerate(step.switches)]
        lifetimes = self._lifetimes
        patient = choice_of(step.patient, await self._seen(request, visitor, (step.patient,))) if step.patient else None
        return self._edge.pages.render(
            "consent.html",
            form_targets=[step.redirect_uri],
            csrf=csrf_of(self._edge.people.session_secret(request)),
            asked=asked,
            account_name=visitor.account.display_name,
            client_name=step.client_name,
            site=_site(step.redirect_uri),
            patient=patient.name if patient else "",
            patient_id=step.patient.patient if step.patient else "",
            patient_hint=patient.hint if patient else "",
            may_pick=step.may_pick,
            records=[one for one in shown if one.clinical],
            identity=[one for one in shown if not one.clinical],
            minutes=lifetimes.access // 60,
            days=lifetimes.refresh // 86400,
            hours=lifetimes.online // 3600,
            until=day_words(step.at + timedelta(seconds=lifetimes.refresh)),
            may_remember=step.may_remember,
            remembered_until=day_words(step.at + timedelta(seconds=lifetimes.consent)),
            watched=step.watched,
        )


@dataclass(frozen=True, slots=True)
class _Shown:
    """A switch as the template shows it. `kinds`: what all types are, in words; `parts`: what can be ticked instead of all, box and words."""

    number: int
    switch: Switch
    words: str
    limit: str
    kinds: tuple[str, ...]
    parts: tuple[tuple[str, str], ...]

    @property
    def clinical(self) -> bool:
        """Whether it is about records."""
        return self.switch.clinical is not None

    @classmethod
    def of(cls, number: int, switch: Switch) -> _Shown:
        """In words."""
        limit = condition_words(switch.clinical) if switch.clinical else ""
        everything = switch.clinical is not None and switch.clinical.type == "*"
        kinds = tuple(sorted(type_words(part.type) for part in switch.parts if not part.label)) if everything else ()
        parts = tuple((part.box, _part_words(part, named=everything)) for part in switch.parts)
        return cls(number, switch, scope_words(switch.scope), limit, kinds, parts)


def _part_words(part: Part, *, named: bool) -> str:
    """A category by its label; among all types with the type before it."""
    if not part.label:
        words = type_words(part.type)
        return words[:1].upper() + words[1:]
    return f"{_part_words(replace(part, label=''), named=True)}: only {part.label}" if named else part.label


async def _request_pairs(request: Request) -> Pairs | None:
    """The parameters of an authorization request: those of the address, and of the form when it is posted."""
    query = parse_form(request.scope["query_string"])
    form = await sent_pairs(request) if request.method == "POST" else ()
    return None if query is None or form is None else (*query, *form)


def _site(redirect_uri: str) -> str:
    """The host that the app lives on, for the person to compare; "" for an app on her own device."""
    return urlsplit(redirect_uri).hostname or ""
