"""Pages of sign-in, of an authorization, and of the apps that were connected by it.

/auth/{ehr}/authorize -> /signin -> /auth/{ehr}/patient -> /auth/{ehr}/consent -> the app; /apps takes back what was allowed.

Thin: `Authorizations` says what comes next, this module shows it. Every form carries the csrf token of the session or, before there is one,
of the browser; every redirect is a 303, so no form is ever posted again to somebody else (ATK-O34).
"""

from __future__ import annotations

import uuid
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass, field
from urllib.parse import urlencode, urlsplit

from fastapi import APIRouter, Request, Response

from gateway.errors import FhirError
from gateway.smart.server.accounts import Accounts, Locked, SignedIn, Wrong
from gateway.smart.server.authorize import Back, Page
from gateway.smart.server.authorizer import Ask, At, Authorizations, Begun, Pick, SignIn, Step
from gateway.smart.server.consent import Switch
from gateway.smart.server.grants import Connected, Grants
from gateway.smart.server.requests import given, parse_form, repeated
from gateway.smart.server.sessions import Sessions, Visitor
from gateway.smart.server.values import Caller, Lifetimes, Pairs
from gateway.store.oauth_rows import ListedPatient, new_secret
from gateway.web.forms import form_body
from gateway.web.pages import Pages
from gateway.web.people import HOME, ForgedForm, People, check, csrf_of, local_path
from gateway.web.words import condition_words, grant_words, scope_words

_CAP = 128 * 1024  # bytes of a form: an authorization request may be posted
_EVERY = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]
_SEE_OTHER = {"Cache-Control": "no-store", "Referrer-Policy": "no-referrer"}

_REASONS = {
    "client-unknown": ("This app is not known here", "The app that sent you is not registered with this service. Nothing was shared."),
    "redirect-not-registered": (
        "This app is not known here",
        "The app gave an address that is not registered here. Nothing was shared.",
    ),
    "transaction-unknown": ("Start again from the app", "This page belongs to another browser, or its address is not complete. Nothing was shared."),
    "transaction-over": ("This request is over", "It was answered already, or it is too old. Nothing more was shared. Start again from the app."),
    "patient-not-listed": ("That record is not yours to share", "You may not open the record that was chosen. Nothing was shared."),
    "scope-not-offered": ("That cannot be shared", "The form asked for more than the app did. Nothing was shared."),
    "account-disabled": ("This account is closed", "Ask your clinic for help."),
    "ehr-unknown": ("There is no such page", "The address is not complete."),
    "method": ("There is no such page", "The address is not meant to be used like that."),
}
_BROKEN = ("Something is not working here", "Nothing was shared. Please try again in a moment.")
_UNREADABLE = ("The request cannot be read", "The app sent a request that is not complete or contradicts itself. Nothing was shared.")


Endpoint = Callable[[Request], Awaitable[Response]]


@dataclass(frozen=True, slots=True)
class SignPages:
    """What the routes are made from. `address`: the caller's network address, as the edge knows it."""

    pages: Pages
    people: People
    sessions: Sessions
    accounts: Accounts
    authorizations: Authorizations
    ehrs: Collection[str]
    address: Callable[[Request], str]
    grants: Grants
    lifetimes: Lifetimes = field(default_factory=Lifetimes)


def router(parts: SignPages) -> APIRouter:
    """Routes /signin, /signout, /apps, /auth/{ehr}/{authorize,patient,consent,cancel}."""
    routes, sign = APIRouter(include_in_schema=False), _Sign(parts)
    table: tuple[tuple[str, dict[str, Endpoint]], ...] = (
        ("/signin", {"GET": sign.signin_page, "POST": sign.signin}),
        ("/signout", {"GET": sign.signout_page, "POST": sign.signout}),
        ("/apps", {"GET": sign.apps, "POST": sign.disconnect}),
        ("/auth/{ehr}/authorize", {"GET": sign.authorize, "POST": sign.authorize}),
        ("/auth/{ehr}/patient", {"GET": sign.patient_page, "POST": sign.patient}),
        ("/auth/{ehr}/consent", {"GET": sign.consent_page, "POST": sign.consent}),
        ("/auth/{ehr}/cancel", {"POST": sign.cancel}),
    )
    for path, endpoints in table:
        routes.add_api_route(path, _route(sign, endpoints), methods=_EVERY, response_model=None)
    return routes


def _route(sign: _Sign, endpoints: dict[str, Endpoint]) -> Endpoint:
    async def answer(request: Request) -> Response:
        try:
            if "ehr" in request.path_params and request.path_params["ehr"] not in sign.parts.ehrs:
                return sign.page(Page("ehr-unknown", 404))
            endpoint = endpoints.get(request.method)
            return await endpoint(request) if endpoint else sign.page(Page("method", 405))
        except FhirError as error:  # the store cannot be reached, or too many sign in at once
            response = sign.page(Page(error.reason, error.status))
            if error.retry_after is not None:
                response.headers["Retry-After"] = str(error.retry_after)
            return response

    return answer


class _Sign:
    """One method for each page and each form."""

    def __init__(self, parts: SignPages) -> None:
        self.parts = parts

    async def authorize(self, request: Request) -> Response:
        """The app sends a browser, by GET or by POST (HL7@48, 49)."""
        pairs, people = await _request_pairs(request), self.parts.people
        if pairs is None:
            return self.page(Page("request-malformed"))
        browser = people.browser_secret(request) or new_secret()
        ehr = request.path_params["ehr"]
        signed_in = await people.current(request) is not None
        begun = await self.parts.authorizations.begin(ehr, pairs, browser=browser, signed_in=signed_in)
        if not isinstance(begun, Begun):
            return self._ended(begun)
        response = _see(_step_path(ehr, "consent", begun.handle))
        people.keep_browser(response, browser)
        return response

    async def signin_page(self, request: Request) -> Response:
        """The form, for the portal (`next`) or for an authorization (`ehr`, `transaction`)."""
        asked = _Destination.of(given(parse_form(request.scope["query_string"]) or ()), self.parts.ehrs)
        if not asked.handle:
            return _see(asked.next) if await self.parts.people.current(request) else self._signin(request, asked)
        step = await self.parts.authorizations.step(await self._at(request, asked.ehr, asked.handle))
        return self._signin(request, asked, step) if isinstance(step, SignIn) else self._go(step, asked)

    async def signin(self, request: Request) -> Response:
        """Judge name and password. A new session begins, whatever the browser had before (ATK-O19)."""
        form, people = await _form(request), self.parts.people
        browser = people.browser_secret(request)
        check(csrf_of(browser) if browser else "", form.one)
        asked = _Destination.of(form.one, self.parts.ehrs)
        judged = await self.parts.accounts.sign_in(form.one.get("username", ""), form.one.get("password", ""), self._caller(request))
        if not isinstance(judged, SignedIn):
            return await self._signin_again(request, asked, judged, form.one.get("username", ""))
        secret = await self.parts.sessions.begin(judged.account, replaces=people.session_secret(request))
        response = _see(_step_path(asked.ehr, "consent", asked.handle) if asked.handle else asked.next)
        people.keep_session(response, secret)
        return response

    async def signout_page(self, request: Request) -> Response:
        """That she is signed out; or the button, for a link never signs anybody out."""
        person = await self.parts.people.current(request)
        return self.parts.pages.render("signed_out.html", person=person)

    async def signout(self, request: Request) -> Response:
        """End the session."""
        form, people = await _form(request), self.parts.people
        if person := await people.current(request):
            people.check_csrf(person, form.one)
            await self.parts.sessions.end(people.session_secret(request), self._caller(request))
        response = _see("/signout")
        people.forget_session(response)
        return response

    async def patient_page(self, request: Request) -> Response:
        """The picker."""
        at, asked = await self._at_page(request)
        step = await self.parts.authorizations.step(at)
        if at.visitor and (isinstance(step, Pick) or (isinstance(step, Ask) and step.may_pick)):
            patients = step.patients if isinstance(step, Pick) else at.visitor.patients
            return self._picker(request, asked, step, patients)
        return self._go(step, asked)

    async def patient(self, request: Request) -> Response:
        """The choice."""
        at, asked, form = await self._at_form(request)
        return self._go(await self.parts.authorizations.pick(at, form.one.get("patient", "")), asked)

    async def consent_page(self, request: Request) -> Response:
        """What the app asks for, one switch for each scope."""
        at, asked = await self._at_page(request)
        step = await self.parts.authorizations.step(at)
        return self._consent(request, asked, step, at.visitor) if isinstance(step, Ask) and at.visitor else self._go(step, asked)

    async def consent(self, request: Request) -> Response:
        """The decision."""
        at, asked, form = await self._at_form(request)
        ticked = frozenset(form.all("scope")) if form.one.get("decision") == "allow" else None
        return self._go(await self.parts.authorizations.answer(at, ticked), asked)

    async def cancel(self, request: Request) -> Response:
        """Back to the app without signing in."""
        form, browser = await _form(request), self.parts.people.browser_secret(request)
        check(csrf_of(browser) if browser else "", form.one)
        at = await self._at(request, request.path_params["ehr"], form.one.get("transaction", ""))
        return self._ended(await self.parts.authorizations.cancel(at))

    async def apps(self, request: Request) -> Response:
        """The apps that this person connected (A8.48), each with what it may do and a button that ends it."""
        person = await self.parts.people.require(request)
        connected = await self.parts.grants.of(person.account)
        names = {one.patient: one.display for one in person.patients}
        shown = [_App.of(one, names.get(one.grant.patient, "")) for one in connected]
        ended = request.scope["query_string"] == b"ended"
        return self.parts.pages.render("apps.html", person=person, apps=shown, ended=ended)

    async def disconnect(self, request: Request) -> Response:
        """Take the access back: at the app's next request."""
        form, people = await _form(request), self.parts.people
        person = await people.require(request)
        people.check_csrf(person, form.one)
        ended = await self.parts.grants.revoke(person.account, form.one.get("grant", ""), self._caller(request))
        return _see("/apps?ended" if ended else "/apps")

    def page(self, page: Page) -> Response:
        """A refusal in words. It never redirects."""
        title, text = _REASONS.get(page.reason, _BROKEN if page.status >= 500 else _UNREADABLE)
        return self.parts.pages.render("refused.html", status=page.status, title=title, text=text, reason=page.reason)

    def _ended(self, end: Back | Page) -> Response:
        return _see(end.url) if isinstance(end, Back) else self.page(end)

    def _go(self, step: Step, asked: _Destination) -> Response:
        """The page of a step that is not the one asked for."""
        match step:
            case Back() | Page():
                return self._ended(step)
            case SignIn():
                return _see("/signin?" + urlencode({"ehr": asked.ehr, "transaction": asked.handle}))
            case Pick():
                return _see(_step_path(asked.ehr, "patient", asked.handle))
            case Ask():
                return _see(_step_path(asked.ehr, "consent", asked.handle))

    async def _at(self, request: Request, ehr: str, handle: str) -> At:
        person = await self.parts.people.current(request)
        return At(ehr, handle, self.parts.people.browser_secret(request), person.visitor if person else None, self._caller(request))

    async def _at_page(self, request: Request) -> tuple[At, _Destination]:
        handle = given(parse_form(request.scope["query_string"]) or ()).get("transaction", "")
        asked = _Destination(request.path_params["ehr"], handle)
        return await self._at(request, asked.ehr, asked.handle), asked

    async def _at_form(self, request: Request) -> tuple[At, _Destination, _Sent]:
        """Raises ForgedForm unless the form is of a page of this session (ATK-O17)."""
        form = await _form(request)
        asked = _Destination(request.path_params["ehr"], form.one.get("transaction", ""))
        check(csrf_of(self.parts.people.session_secret(request)), form.one)
        at = await self._at(request, asked.ehr, asked.handle)
        if at.visitor is None:
            raise ForgedForm
        return at, asked, form

    def _caller(self, request: Request) -> Caller:
        return Caller(uuid.uuid4().hex, self.parts.address(request))

    async def _signin_again(self, request: Request, asked: _Destination, judged: Wrong | Locked, username: str) -> Response:
        step = await self.parts.authorizations.step(await self._at(request, asked.ehr, asked.handle)) if asked.handle else None
        if isinstance(step, Back | Page):
            return self._ended(step)
        wait = judged.retry_after if isinstance(judged, Locked) else 0
        shown = step if isinstance(step, SignIn) else None
        response = self._signin(
            request, asked, shown, status=429 if wait else 403, problem="locked" if wait else "wrong", username=username, wait=wait
        )
        if wait:
            response.headers["Retry-After"] = str(wait)
        return response

    def _signin(
        self,
        request: Request,
        asked: _Destination,
        step: SignIn | None = None,
        *,
        status: int = 200,
        problem: str = "",
        username: str = "",
        wait: int = 0,
    ) -> Response:
        browser = self.parts.people.browser_secret(request) or new_secret()
        response = self.parts.pages.render(
            "signin.html",
            status=status,
            form_targets=[step.redirect_uri] if step else [],
            csrf=csrf_of(browser),
            asked=asked,
            client_name=step.client_name if step else "",
            notice=step.reason if step else "",
            problem=problem,
            username=username[:255],
            minutes=-(-wait // 60),
        )
        self.parts.people.keep_browser(response, browser)
        return response

    def _picker(self, request: Request, asked: _Destination, step: Pick | Ask, patients: tuple[ListedPatient, ...]) -> Response:
        return self.parts.pages.render(
            "patient.html",
            form_targets=[step.redirect_uri],
            csrf=csrf_of(self.parts.people.session_secret(request)),
            asked=asked,
            client_name=step.client_name,
            patients=[(one.patient, one.display or f"Patient {one.patient}") for one in patients],
        )

    def _consent(self, request: Request, asked: _Destination, step: Ask, visitor: Visitor) -> Response:
        shown = [_Shown.of(number, switch) for number, switch in enumerate(step.switches)]
        lifetimes = self.parts.lifetimes
        return self.parts.pages.render(
            "consent.html",
            form_targets=[step.redirect_uri],
            csrf=csrf_of(self.parts.people.session_secret(request)),
            asked=asked,
            account_name=visitor.account.display_name,
            client_name=step.client_name,
            site=_site(step.redirect_uri),
            patient=(step.patient.display or f"Patient {step.patient.patient}") if step.patient else "",
            may_pick=step.may_pick,
            records=[one for one in shown if one.clinical],
            identity=[one for one in shown if not one.clinical],
            minutes=lifetimes.access // 60,
            days=lifetimes.refresh // 86400,
        )


@dataclass(frozen=True, slots=True)
class _Destination:
    """Where the person is on her way to: an authorization, or a page of ours."""

    ehr: str = ""
    handle: str = ""
    next: str = HOME

    @classmethod
    def of(cls, sent: Mapping[str, str], ehrs: Collection[str]) -> _Destination:
        """From a query or a form."""
        ehr, handle = sent.get("ehr", ""), sent.get("transaction", "")
        if handle and ehr in ehrs:
            return cls(ehr, handle)
        return cls(next=local_path(sent.get("next", HOME)))


@dataclass(frozen=True, slots=True)
class _Shown:
    """A switch as the template shows it."""

    number: int
    switch: Switch
    words: str
    limit: str

    @property
    def clinical(self) -> bool:
        """Whether it is about records."""
        return self.switch.clinical is not None

    @classmethod
    def of(cls, number: int, switch: Switch) -> _Shown:
        """In words."""
        return cls(number, switch, scope_words(switch.scope), condition_words(switch.clinical) if switch.clinical else "")


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


@dataclass(frozen=True, slots=True)
class _Sent:
    """A form. `one` has each name's only value; a name that may come often is asked for by `all`."""

    pairs: Pairs

    @property
    def one(self) -> Mapping[str, str]:
        """Names that came once."""
        twice = repeated(self.pairs)
        return {name: value for name, value in self.pairs if value and name not in twice}

    def all(self, name: str) -> list[str]:
        """Every value of a name."""
        return [value for key, value in self.pairs if key == name]


async def _form(request: Request) -> _Sent:
    pairs = await _form_pairs(request)
    if pairs is None:
        raise ForgedForm
    return _Sent(pairs)


async def _form_pairs(request: Request) -> Pairs | None:
    try:
        return parse_form(await form_body(request, cap=_CAP))
    except FhirError:
        return None


async def _request_pairs(request: Request) -> Pairs | None:
    """The parameters of an authorization request: those of the address, and of the form when it is posted."""
    query = parse_form(request.scope["query_string"])
    form = await _form_pairs(request) if request.method == "POST" else ()
    return None if query is None or form is None else (*query, *form)


def _step_path(ehr: str, name: str, handle: str) -> str:
    return f"/auth/{ehr}/{name}?" + urlencode({"transaction": handle})


def _see(url: str) -> Response:
    """303: the next request is a GET, whatever this one was (RFC 9700 section 4.12)."""
    return Response(status_code=303, headers={"Location": url, **_SEE_OTHER})


def _site(redirect_uri: str) -> str:
    """The host that the app lives on, for the person to compare; "" for an app on her own device."""
    return urlsplit(redirect_uri).hostname or ""
