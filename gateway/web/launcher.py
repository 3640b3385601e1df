"""The launcher: a page for developers that starts an app with what they chose, and one that shows what the app does (ADR 0013).

`GET /launcher?...` is the form, filled in by its address: that address is the link to share. `POST /launcher` starts a trial, signs the browser in as
the developer's account where that is allowed, and opens the app. `/launcher/trials/{id}` is the live view. Off, none of these addresses is there.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from fastapi import APIRouter, Request, Response

from gateway.errors import ConfigError
from gateway.fhir.names import is_id
from gateway.portal.visits import Visit
from gateway.proxy.answer import RequestContext
from gateway.smart.record import Caller
from gateway.smart.server.faults import FAULTS
from gateway.smart.server.people.accounts import normalised
from gateway.smart.server.people.relationships import may_act_on
from gateway.smart.server.requests import given, parse_form
from gateway.smart.server.trial import Seen, Started, TooManyTrials, Trial, TrialWanted
from gateway.store.oauth_rows import Account, Client, ListedPatient, new_secret
from gateway.web import launcher_form as forms
from gateway.web.authorize import KnowsFaces
from gateway.web.edge import WebEdge, see
from gateway.web.launcher_form import Problem, Who
from gateway.web.launcher_view import view_of
from gateway.web.people import check, csrf_of
from gateway.web.picker import choice_of
from gateway.web.sent import sent_form

_MOST = 50
"""Patients of one account that are offered by name; any other can be typed."""
_EVENTS = 1000
"""Events that the page shows; all of them are at the address for programs."""


class KnowsTrials(Protocol):
    """smart.server.trials.Trials."""

    async def start(self, wanted: TrialWanted, caller: Caller, by: str = "") -> Started:
        """A new trial. Raises ConfigError, whose `where` is the name of a field, and TooManyTrials."""
        ...

    async def named(self, trial_id: str) -> Trial | None:
        """The trial, while it lives."""
        ...

    async def seen(self, trial_id: str, after: int = 0) -> Sequence[Seen]:
        """What was seen of it, beyond a number, in order, at most 200."""
        ...

    async def session_for(self, username: str, ehr: str, caller: Caller, *, replaces: str = "") -> str:
        """The secret of a session for a developer's account, or ""."""
        ...

    async def developers(self, ehr: str) -> Listed:
        """Their accounts at this EHR, each with the patients whom she may see."""
        ...


class KnowsClients(Protocol):
    """smart.server.clients.admin.Clients."""

    async def all(self) -> Sequence[Client]:
        """Every registered client."""
        ...


class KnowsVisits(Protocol):
    """portal.visits.Visits."""

    async def of(self, account: Account, ehr: str, patient: str, context: RequestContext) -> Sequence[Visit] | None:
        """The newest encounters of a patient whom this person may see; None when they cannot be had now."""
        ...

    async def has(self, account: Account, ehr: str, patient: str, encounter: str, context: RequestContext) -> bool | None:
        """Whether an encounter is there and is this patient's; None when the EHR cannot say now."""
        ...


Listed = Sequence[tuple[Account, Sequence[ListedPatient]]]
"""Developers' accounts at an EHR, each with the patients whom she may see."""


@dataclass(frozen=True, slots=True)
class Shows:
    """What the pages show besides trials. `titles`: the EHRs' names for people; `discovery`: each one's SMART configuration."""

    clients: KnowsClients
    faces: KnowsFaces
    visits: KnowsVisits
    titles: Mapping[str, str]
    discovery: Mapping[str, Callable[[], Mapping[str, Any]]]
    public_url: str


def router(edge: WebEdge, trials: KnowsTrials, shows: Shows) -> APIRouter:
    """Routes /launcher, /launcher/latest and /launcher/trials/{trial_id}."""
    pages = _Launcher(edge, trials, shows)
    return edge.routes(
        {
            "/launcher": {"GET": pages.page, "HEAD": pages.page, "POST": pages.launch},
            "/launcher/latest": {"GET": pages.latest, "HEAD": pages.latest},
            "/launcher/trials/{trial_id}": {"GET": pages.trial, "HEAD": pages.trial},
        }
    )


class _Launcher:
    """One method for each page and each form."""

    def __init__(self, edge: WebEdge, trials: KnowsTrials, shows: Shows) -> None:
        self._edge, self._trials, self._shows = edge, trials, shows

    async def page(self, request: Request) -> Response:
        """The form."""
        return await self._form(request, given(parse_form(request.scope["query_string"]) or ()))

    async def launch(self, request: Request) -> Response:
        """Start it, and open the app. A page and no redirect: an app may be anywhere, and the form of this page goes nowhere else."""
        sent, people, caller = (await sent_form(request)).one, self._edge.people, self._edge.caller(request)
        check(csrf_of(people.browser_secret(request)), sent)
        values = {name: sent.get(name, "") for name in forms.FIELDS}
        wanted = forms.wanted(values, await self._shows.clients.all())
        if sent.get("look"):  # which encounters there are
            return await self._form(request, sent)
        problem = wanted if isinstance(wanted, Problem) else await self._problem_of_encounter(wanted, caller)
        if isinstance(wanted, Problem) or problem:
            return await self._form(request, sent, problem)
        try:
            started = await self._trials.start(wanted, caller)
        except ConfigError as error:
            return await self._form(request, sent, Problem(_FIELD.get(error.where, error.where), error.message, error.fix))
        except TooManyTrials as error:
            response = await self._form(request, sent, Problem("", error.message), status=429)
            response.headers["Retry-After"] = str(error.wait)
            return response
        watch = f"/launcher/trials/{started.trial_id}"
        response = self._edge.pages.render("launcher_open.html", url=started.url, watch=watch) if started.url else see(watch)
        secret = await self._trials.session_for(wanted.user, wanted.ehr, caller, replaces=people.session_secret(request)) if wanted.user else ""
        if secret:
            people.keep_session(response, secret)
        if wanted.kind == "standalone":
            people.keep_trial(response, started.trial_id)
        people.keep_latest_trial(response, started.trial_id)
        return response

    async def latest(self, request: Request) -> Response:
        """The live view of what this browser started last."""
        trial_id = self._edge.people.latest_trial(request)
        return see(f"/launcher/trials/{trial_id}" if trial_id else "/launcher")

    async def trial(self, request: Request) -> Response:
        """The live view."""
        trial_id = request.path_params["trial_id"]
        found = await self._trials.named(trial_id)
        if found is None:
            return self._edge.pages.render(
                "refused.html", status=404, title="There is no such trial", text="It is over after a day; start it again.", reason="trial-unknown"
            )
        wanted = found.wanted
        client = next((one for one in await self._shows.clients.all() if one.id == wanted.client_id), None)
        discovery = self._shows.discovery[wanted.ehr]()
        return self._edge.pages.render(
            "launcher_trial.html",
            script="launcher.js",
            reads=True,
            trial_id=trial_id,
            wanted=wanted,
            fault=FAULTS.get(wanted.fault),
            app=client.name if client else wanted.client_id,
            title=self._shows.titles[wanted.ehr],
            base=f"{self._shows.public_url}/fhir/{wanted.ehr}",
            discovery=discovery,
            discovery_text=json.dumps(discovery, indent=2),
            view=view_of(await self._events(trial_id), wanted, client, discovery),
            again=forms.link(_values(wanted), f"{self._shows.public_url}/launcher"),
        )

    async def _events(self, trial_id: str) -> list[Seen]:
        found: list[Seen] = []
        while len(found) < _EVENTS:
            more = await self._trials.seen(trial_id, found[-1].number if found else 0)
            found += more
            if not more:
                break
        return found

    async def _form(self, request: Request, sent: Mapping[str, str], problem: Problem | None = None, *, status: int = 400) -> Response:
        ehr = sent.get("ehr", "") if sent.get("ehr", "") in self._shows.titles else next(iter(self._shows.titles))
        browser, context = self._edge.people.browser_secret(request) or new_secret(), _context(self._edge.caller(request))
        listed = await self._trials.developers(ehr)
        people, apps = await self._people(listed, ehr, context), forms.apps_of(await self._shows.clients.all(), ehr)
        values = forms.chosen(sent, ehr=ehr, apps=apps, people=people)
        account, patient = _visited(listed, *forms.whose(values))
        visits = await self._shows.visits.of(account, ehr, patient, context) if account else ()
        values = forms.with_visit(values, [one.id for one in visits or ()])
        response = self._edge.pages.render(
            "launcher.html",
            status=status if problem else 200,
            script="launcher.js",
            reads=True,
            problem=problem,
            values=values,
            titles=self._shows.titles,
            apps=apps,
            kinds=forms.KINDS,
            people=people,
            visits=visits,
            looked=bool(sent.get("look")),
            patient=next((one.words for one in people if one.patient == patient), patient) if account else "",
            faults=forms.faults(),
            link=forms.link(values, f"{self._shows.public_url}/launcher"),
            csrf=csrf_of(browser),
            latest=bool(self._edge.people.latest_trial(request)),
        )
        self._edge.people.keep_browser(response, browser)
        return response

    async def _problem_of_encounter(self, wanted: TrialWanted, caller: Caller) -> Problem | None:
        """Whether the encounter is the patient's, as far as this developer may see him: what else is wrong is said by who starts the trial."""
        if wanted.kind != "ehr" or not is_id(wanted.encounter) or wanted.ehr not in self._shows.titles:
            return None
        account, patient = _visited(await self._trials.developers(wanted.ehr), wanted.user, wanted.patient)
        found = await self._shows.visits.has(account, wanted.ehr, patient, wanted.encounter, _context(caller)) if account else True
        if found is None:
            return Problem("encounter", "The record system could not be asked about that encounter.", "try again in a moment, or leave it empty")
        return None if found else Problem("encounter", "That patient has no such encounter.", "choose one that is offered, or leave it empty")

    async def _people(self, developers: Listed, ehr: str, context: RequestContext) -> tuple[Who, ...]:
        listed = [(account, tuple(patients)[:_MOST]) for account, patients in developers]
        faces = await asyncio.gather(
            *(self._shows.faces.of(account, ehr, [one.patient for one in patients], context) for account, patients in listed)
        )
        found: list[Who] = []
        for (account, patients), known in zip(listed, faces, strict=True):
            for one in patients:
                choice = choice_of(one, known)
                hint = f", {choice.hint}" if choice.hint else ""
                found.append(Who(account.username, account.display_name or account.username, one.patient, f"{choice.name}{hint}"))
        return tuple(found)


def _context(caller: Caller) -> RequestContext:
    return RequestContext(caller.request_id, caller.address, via="portal")


def _visited(listed: Listed, user: str, patient: str) -> tuple[Account | None, str]:
    """The developer of that name who may be launched with that patient, and the patient; None and "" when there is no such one."""
    for account, patients in listed:
        if account.username == normalised(user) and is_id(patient) and may_act_on(account, tuple(patients), patient, launched=True):
            return account, patient
    return None, ""


_FIELD = {"style_url": "launch_url", "fhir_context": "launch_url", "tenant": "intent"}
"""Fields of a trial that the form has not: beside which one its problem stands."""


def _values(wanted: TrialWanted) -> dict[str, str]:
    """A trial as the form has it."""
    lives = {name: str(getattr(wanted, name) or "") for name in ("access_life", "refresh_life")}
    same = {name: getattr(wanted, name) for name in ("ehr", "client_id", "launch_url", "kind", "encounter", "scopes", "fault", "intent")}
    who = f"{wanted.user}|{wanted.patient}" if wanted.user else ""
    return {**same, **lives, "who": who, "patient": "" if who else wanted.patient, "banner": "yes" if wanted.need_patient_banner else ""}
