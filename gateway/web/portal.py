"""The portal's pages under /portal/: each a URL of its own that works without JavaScript; each form a POST that ends in a 303.

A page is: who is signed in -> whose record is open -> the feature's view -> a template. `Portal.page` shows that order for all of them.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote, urlencode

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from gateway.adapters.ehr.base import OutcomeUnknown
from gateway.audit import new_id
from gateway.errors import Conflict, FhirError, Forbidden, NotFound
from gateway.portal import access_log, appointments, bills, conditions, medicines, messages, results
from gateway.portal.chart import Chart, Handler, Source
from gateway.portal.features import feature, portal_principal, sections
from gateway.proxy.answer import RequestContext
from gateway.web.forms import Claims, Turns, key_of, read_form
from gateway.web.home import home
from gateway.web.pages import Pages
from gateway.web.problems import Problem, problem_of
from gateway.web.visit import People, Person, Visit, cut

Page = Callable[[Visit], Awaitable[Response]]


def router(
    *,
    pages: Pages,
    people: People[Any],
    pipeline: Handler,
    sources: Mapping[str, Source],
    address: Callable[[Request], str] = lambda _: "",
    now: Callable[[], datetime] = lambda: datetime.now(UTC),
    claims: Claims | None = None,
) -> APIRouter:
    """Routes /portal/... . `sources`: each EHR by its name in the configuration. `address`: the caller's, as the edge knows it.

    `claims`: whose turn it is with a form, where several processes serve.
    """
    portal = Portal(pages, people, pipeline, sources, address, now, Turns(claims))
    routes = APIRouter(include_in_schema=False)
    for path, get, post in portal.table():
        routes.add_route(path, portal.page(get), methods=["GET"])
        if post:
            routes.add_route(path, portal.page(post, form=True), methods=["POST"])
    routes.add_route("/", _to_home, methods=["GET"])
    routes.add_route("/portal", _to_home, methods=["GET"])
    routes.add_route("/portal/{rest:path}", portal.page(portal.nothing), methods=["GET"])
    return routes


async def _to_home(_: Request) -> Response:
    return RedirectResponse("/portal/", 303)


class Portal:
    """The pages. Each method is one of them; `table` lists all."""

    def __init__(
        self,
        pages: Pages,
        people: People[Any],
        pipeline: Handler,
        sources: Mapping[str, Source],
        address: Callable[[Request], str],
        now: Callable[[], datetime],
        turns: Turns,
    ) -> None:
        self._pages = pages
        self._people = people
        self._pipeline = pipeline
        self._sources = sources
        self._address = address
        self._now = now
        self._turns = turns

    def table(self) -> tuple[tuple[str, Page, Page | None], ...]:
        """Path, page, and what its form does."""
        return (
            ("/portal/", self.home, None),
            ("/portal/records", self.records, self.open_record),
            ("/portal/results", self.results, None),
            ("/portal/results/observation/{id}", self.observation, None),
            ("/portal/results/report/{id}", self.report, None),
            ("/portal/conditions", self.conditions, None),
            ("/portal/medicines", self.medicines, None),
            ("/portal/medicines/{id}", self.medicine, None),
            ("/portal/medicines/{id}/more", self.more_form, self.more),
            ("/portal/appointments", self.appointments, None),
            ("/portal/appointments/new", self.wish_form, self.wish),
            ("/portal/appointments/{id}", self.appointment, None),
            ("/portal/appointments/{id}/cancel", self.cancel_form, self.cancel),
            ("/portal/messages", self.messages, None),
            ("/portal/messages/new", self.message_form, self.message),
            ("/portal/messages/{id}", self.thread, self.reply),
            ("/portal/bills", self.bills, None),
            ("/portal/bills/plan/{id}", self.benefit, None),
            ("/portal/bills/claim/{id}", self.claim, None),
            ("/portal/access", self.access, None),
        )

    def page(self, handler: Page, *, form: bool = False) -> Callable[[Request], Awaitable[Response]]:
        """The order of every page: person, record, (form,) view. An error becomes a page in words."""

        async def endpoint(request: Request) -> Response:
            person = await self._people.require(request)
            visit = Visit(request, person, self._chart(request, person))
            try:
                if person.account.fhir_user.startswith(("Practitioner/", "PractitionerRole/")):
                    raise Forbidden(reason="staff-account")
                if form:
                    visit = await self._guarded(visit)
                if not person.patient and handler not in (self.records, self.open_record):
                    return await self.records(visit)
                return await handler(visit)
            except (FhirError, OutcomeUnknown) as error:
                return self._problem(visit, problem_of(error))

        return endpoint

    async def _guarded(self, visit: Visit) -> Visit:
        """A form of this session, made for the record that is open now."""
        form = await read_form(visit.request)
        self._people.check_csrf(visit.person, form)
        if form.get("record") != visit.token:
            raise Conflict(reason="record-switched")
        return Visit(visit.request, visit.person, visit.chart, form)

    def _chart(self, request: Request, person: Person) -> Chart:
        ehr = person.account.ehr
        principal = portal_principal(person.account, person.patient, ehr)
        context = RequestContext(new_id(), self._address(request), via="portal")
        source = self._sources.get(ehr) or Source(ehr, "your clinic")
        return Chart(self._pipeline, principal, context, source, self._now(), f"{self._pages.public_url}/fhir/{ehr}")

    # -- answers

    def _render(self, visit: Visit, name: str, current: str, *, status: int = 200, **context: Any) -> Response:
        path = feature(current).path if current else ""
        nav = [{"path": row.path, "short": row.short, "title": row.title, "current": row.path == path} for row in sections()]
        shared: dict[str, Any] = {"nav": nav, "record": self._record(visit), "done": visit.asked("done"), "source": visit.chart.source}
        shared["whom"] = "you" if shared["record"] is None or shared["record"]["own"] else shared["record"]["name"]
        return self._pages.render(name, status=status, person=visit.person, **{**shared, **context})

    def _record(self, visit: Visit) -> dict[str, Any] | None:
        """What the banner says while somebody has several records, or another's, to open."""
        person = visit.person
        listed = next((item for item in person.patients if item.patient == person.patient), None)
        own = person.account.fhir_user == f"Patient/{person.patient}"
        if not person.patient or (own and len(person.patients) < 2):
            return None
        name = person.account.display_name if own else (listed.display if listed else "")
        return {"name": name or "Another person", "own": own, "several": len(person.patients) > 1}

    def _problem(self, visit: Visit, problem: Problem) -> Response:
        again = visit.request.url.path if visit.request.method == "GET" and problem.again else ""
        return self._render(visit, "portal/problem.html", "", status=problem.status, problem=problem, again=again)

    def _back_to(self, path: str, done: str = "") -> Response:
        query = f"?{urlencode({'done': done})}" if done else ""
        return RedirectResponse(f"{path}{query}", 303, {"Cache-Control": "no-store"})

    async def nothing(self, visit: Visit) -> Response:
        """An address that is no page."""
        del visit
        raise NotFound

    # -- home and records

    async def home(self, visit: Visit) -> Response:
        """What needs attention, and where everything is."""
        return self._render(visit, "portal/home.html", "F08", view=await home(visit.chart))

    async def records(self, visit: Visit) -> Response:
        """Whose record to open."""
        return self._render(visit, "portal/records.html", "", patients=visit.person.patients, form=visit.hidden())

    async def open_record(self, visit: Visit) -> Response:
        """Open it."""
        if not await self._people.open_record(visit.person, visit.form.get("patient", "")):
            raise Forbidden(reason="record-not-listed")
        return self._back_to("/portal/")

    # -- results, conditions

    async def results(self, visit: Visit) -> Response:
        """All results, or those of one kind."""
        view = await results.listing(visit.chart)
        kind = visit.asked("kind") if visit.asked("kind") in dict(view.kinds) else ""
        return self._render(visit, "portal/results.html", "F10", view=view, kind=kind, shown=cut(visit, view.of_kind(kind), kind=kind))

    async def observation(self, visit: Visit) -> Response:
        """One result."""
        return self._result(visit, await results.observation(visit.chart, visit.path("id")))

    async def report(self, visit: Visit) -> Response:
        """One report."""
        return self._result(visit, await results.report(visit.chart, visit.path("id")))

    def _result(self, visit: Visit, view: results.Detail) -> Response:
        return self._render(visit, "portal/result.html", "F10", view=view, shown=cut(visit, view.earlier))

    async def conditions(self, visit: Visit) -> Response:
        """All conditions."""
        return self._render(visit, "portal/conditions.html", "F01", view=await conditions.listing(visit.chart))

    # -- medicines

    async def medicines(self, visit: Visit) -> Response:
        """All medicines."""
        return self._render(visit, "portal/medicines.html", "F09", view=await medicines.listing(visit.chart))

    async def medicine(self, visit: Visit) -> Response:
        """One medicine and what was asked for."""
        view = await medicines.listing(visit.chart)
        return self._render(visit, "portal/medicine.html", "F09", item=view.one(visit.path("id")), standing=view.standing)

    async def more_form(self, visit: Visit, failure: Problem | None = None) -> Response:
        """Ask for more of it."""
        view = await medicines.listing(visit.chart)
        item = view.one(visit.path("id"))
        if not item.may_ask and failure is None:
            raise Conflict(reason="refill-open" if item.waiting else "medicine-not-current")
        form = visit.hidden(visit.form.get("key", ""))
        status = failure.status if failure else 200
        return self._render(
            visit, "portal/more.html", "F09", status=status, item=item, form=form, failure=failure, values=visit.values, standing=view.standing
        )

    async def more(self, visit: Visit) -> Response:
        """Send the request."""
        key = key_of(visit.form)
        try:
            async with self._turns.turn(f"{visit.person.csrf}{visit.path('id')}"):
                await medicines.ask_for_more(visit.chart, visit.path("id"), key, visit.form.get("note", ""))
        except OutcomeUnknown as error:
            return await self.more_form(visit, problem_of(error))
        except FhirError as error:
            if error.status < 500:
                raise
            return await self.more_form(visit, problem_of(error))
        return self._back_to(f"/portal/medicines/{quote(visit.path('id'))}", "asked")

    # -- appointments

    async def appointments(self, visit: Visit) -> Response:
        """Requests, coming and past."""
        view = await appointments.listing(visit.chart)
        return self._render(visit, "portal/appointments.html", "F26", view=view, past=cut(visit, view.past))

    async def appointment(self, visit: Visit) -> Response:
        """One."""
        item, standing = await appointments.one(visit.chart, visit.path("id"))
        return self._render(visit, "portal/appointment.html", "F26", item=item, standing=standing)

    async def wish_form(self, visit: Visit, errors: Mapping[str, str] | None = None, failure: Problem | None = None) -> Response:
        """Ask for one."""
        status = failure.status if failure else 422 if errors else 200
        return self._render(
            visit,
            "portal/wish.html",
            "F26",
            status=status,
            form=visit.hidden(visit.form.get("key", "")),
            values=visit.values,
            errors=errors or {},
            failure=failure,
            today=visit.chart.now.date().isoformat(),
        )

    async def wish(self, visit: Visit) -> Response:
        """Send the request."""
        key = key_of(visit.form)
        wish = appointments.Wish(*(visit.form.get(name, "") for name in ("what", "start", "end", "comment")))
        if errors := wish.errors(visit.chart.now.date()):
            return await self.wish_form(visit, errors)
        try:
            async with self._turns.turn(key):
                id_ = await appointments.ask(visit.chart, wish, key)
        except (FhirError, OutcomeUnknown) as error:
            return await self.wish_form(visit, failure=problem_of(error))
        return self._back_to(f"/portal/appointments/{id_}", "asked")

    async def cancel_form(self, visit: Visit, errors: Mapping[str, str] | None = None) -> Response:
        """Cancel one: what it is, and why."""
        item, standing = await appointments.one(visit.chart, visit.path("id"), fresh=True)
        if not item.can_cancel:
            raise Conflict(reason="appointment-not-open")
        return self._render(
            visit,
            "portal/cancel.html",
            "F26",
            status=422 if errors else 200,
            item=item,
            standing=standing,
            form=visit.hidden(),
            reasons=appointments.REASONS,
            errors=errors or {},
        )

    async def cancel(self, visit: Visit) -> Response:
        """Cancel the version that she saw."""
        if visit.form.get("reason") not in dict(appointments.REASONS):
            return await self.cancel_form(visit, {"reason": "Choose why you are cancelling"})
        async with self._turns.turn(key_of(visit.form)):
            await appointments.cancel(visit.chart, visit.path("id"), visit.form.get("etag", ""), visit.form["reason"])
        return self._back_to(f"/portal/appointments/{quote(visit.path('id'))}", "cancelled")

    # -- messages

    async def messages(self, visit: Visit) -> Response:
        """All threads."""
        view = await messages.listing(visit.chart)
        return self._render(visit, "portal/messages.html", "F20", view=view, shown=cut(visit, view.threads))

    async def thread(self, visit: Visit, errors: Mapping[str, str] | None = None, failure: Problem | None = None) -> Response:
        """One thread, with a form to answer."""
        view = await messages.listing(visit.chart)
        status = failure.status if failure else 422 if errors else 200
        return self._render(
            visit,
            "portal/thread.html",
            "F20",
            status=status,
            thread=view.one(visit.path("id")),
            standing=view.standing,
            form=visit.hidden(visit.form.get("key", "")),
            values=visit.values,
            errors=errors or {},
            failure=failure,
        )

    async def reply(self, visit: Visit) -> Response:
        """Answer in a thread."""
        key, body = key_of(visit.form), visit.form.get("text", "")
        if errors := messages.text_errors(body):
            return await self.thread(visit, errors)
        try:
            async with self._turns.turn(key):
                await messages.reply(visit.chart, visit.path("id"), body, key)
        except (FhirError, OutcomeUnknown) as error:
            if isinstance(error, FhirError) and error.status < 500:
                raise
            return await self.thread(visit, failure=problem_of(error))
        return self._back_to(f"/portal/messages/{quote(visit.path('id'))}", "sent")

    async def message_form(self, visit: Visit, errors: Mapping[str, str] | None = None, failure: Problem | None = None) -> Response:
        """A new message."""
        about = visit.form.get("about", visit.asked("about"))
        status = failure.status if failure else 422 if errors else 200
        return self._render(
            visit,
            "portal/message.html",
            "F20",
            status=status,
            recipients=await messages.recipients(visit.chart),
            categories=messages.CATEGORIES,
            about=about,
            about_words=await messages.about_words(visit.chart, about) if about else "",
            about_path=messages.about_path(about),
            form=visit.hidden(visit.form.get("key", "")),
            values=visit.values_or(category=messages.about_category(about)),
            errors=errors or {},
            failure=failure,
        )

    async def message(self, visit: Visit) -> Response:
        """Send a new message."""
        key = key_of(visit.form)
        draft = messages.Draft(*(visit.form.get(name, "") for name in ("to", "topic", "category", "text", "about")))
        if errors := draft.errors(await messages.recipients(visit.chart)):
            return await self.message_form(visit, errors)
        if draft.about:
            await messages.about_words(visit.chart, draft.about)
        try:
            async with self._turns.turn(key):
                thread_id = await messages.send_new(visit.chart, draft, key)
        except (FhirError, OutcomeUnknown) as error:
            return await self.message_form(visit, failure=problem_of(error))
        return self._back_to(f"/portal/messages/{thread_id}", "sent")

    # -- bills, access

    async def bills(self, visit: Visit) -> Response:
        """All bills."""
        view = await bills.listing(visit.chart)
        return self._render(visit, "portal/bills.html", "F36", view=view, shown=cut(visit, view.bills))

    async def benefit(self, visit: Visit) -> Response:
        """What the plan decided."""
        return await self._bill(visit, "ExplanationOfBenefit")

    async def claim(self, visit: Visit) -> Response:
        """What was sent to the plan."""
        return await self._bill(visit, "Claim")

    async def _bill(self, visit: Visit, resource_type: str) -> Response:
        bill, standing = await bills.one(visit.chart, resource_type, visit.path("id"))
        return self._render(visit, "portal/bill.html", "F36", bill=bill, standing=standing)

    async def access(self, visit: Visit) -> Response:
        """Who looked."""
        view = await access_log.listing(visit.chart)
        others = visit.asked("who") == "others"
        view = view.of_others() if others else view
        rows = [(day.title, item) for day in view.days for item in day.accesses]
        return self._render(visit, "portal/access.html", "F45", view=view, others=others, shown=cut(visit, rows, who=visit.asked("who")))
