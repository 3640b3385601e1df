"""Sign-in and sign-out. For the portal, or as a step of an authorization.

The form carries the csrf token of the session or, before there is one, of the browser.
"""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from gateway.smart.server.accounts import Accounts, Locked, SignedIn, Wrong
from gateway.smart.server.authorize import Back, Page
from gateway.smart.server.authorizer import Authorizations, SignIn
from gateway.smart.server.requests import given, parse_form
from gateway.smart.server.sessions import Sessions
from gateway.store.oauth_rows import new_secret
from gateway.web.edge import WebEdge, see
from gateway.web.people import check, csrf_of
from gateway.web.sent import sent_form
from gateway.web.steps import Destination, ended, go, step_at, step_path


def router(edge: WebEdge, sessions: Sessions, accounts: Accounts, authorizations: Authorizations) -> APIRouter:
    """Routes /signin and /signout."""
    pages = _SignIn(edge, sessions, accounts, authorizations)
    return edge.routes(
        {
            "/signin": {"GET": pages.signin_page, "POST": pages.signin},
            "/signout": {"GET": pages.signout_page, "POST": pages.signout},
        }
    )


class _SignIn:
    """One method for each page and each form."""

    def __init__(self, edge: WebEdge, sessions: Sessions, accounts: Accounts, authorizations: Authorizations) -> None:
        self._edge, self._sessions, self._accounts, self._authorizations = edge, sessions, accounts, authorizations

    async def signin_page(self, request: Request) -> Response:
        """The form, for the portal (`next`) or for an authorization (`ehr`, `transaction`)."""
        asked = Destination.of(given(parse_form(request.scope["query_string"]) or ()), self._edge.ehrs)
        if not asked.handle:
            return see(asked.next) if await self._edge.people.current(request) else self._form(request, asked)
        step = await self._authorizations.step(await step_at(self._edge, request, asked.ehr, asked.handle))
        return self._form(request, asked, step) if isinstance(step, SignIn) else go(self._edge, step, asked)

    async def signin(self, request: Request) -> Response:
        """Judge name and password. A new session begins, whatever the browser had before (ATK-O19)."""
        form, people = await sent_form(request), self._edge.people
        browser = people.browser_secret(request)
        check(csrf_of(browser) if browser else "", form.one)
        asked = Destination.of(form.one, self._edge.ehrs)
        judged = await self._accounts.sign_in(form.one.get("username", ""), form.one.get("password", ""), self._edge.caller(request))
        if not isinstance(judged, SignedIn):
            return await self._form_again(request, asked, judged, form.one.get("username", ""))
        secret = await self._sessions.begin(judged.account, replaces=people.session_secret(request))
        response = see(step_path(asked.ehr, "consent", asked.handle) if asked.handle else asked.next)
        people.keep_session(response, secret)
        return response

    async def signout_page(self, request: Request) -> Response:
        """That she is signed out; or the button, for a link never signs anybody out."""
        person = await self._edge.people.current(request)
        return self._edge.pages.render("signed_out.html", person=person)

    async def signout(self, request: Request) -> Response:
        """End the session."""
        form, people = await sent_form(request), self._edge.people
        if person := await people.current(request):
            people.check_csrf(person, form.one)
            await self._sessions.end(people.session_secret(request), self._edge.caller(request))
        response = see("/signout")
        people.forget_session(response)
        return response

    async def _form_again(self, request: Request, asked: Destination, judged: Wrong | Locked, username: str) -> Response:
        step = await self._authorizations.step(await step_at(self._edge, request, asked.ehr, asked.handle)) if asked.handle else None
        if isinstance(step, Back | Page):
            return ended(self._edge, step)
        wait = judged.retry_after if isinstance(judged, Locked) else 0
        shown = step if isinstance(step, SignIn) else None
        response = self._form(request, asked, shown, status=429 if wait else 403, problem="locked" if wait else "wrong", username=username, wait=wait)
        if wait:
            response.headers["Retry-After"] = str(wait)
        return response

    def _form(
        self,
        request: Request,
        asked: Destination,
        step: SignIn | None = None,
        *,
        status: int = 200,
        problem: str = "",
        username: str = "",
        wait: int = 0,
    ) -> Response:
        browser = self._edge.people.browser_secret(request) or new_secret()
        response = self._edge.pages.render(
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
        self._edge.people.keep_browser(response, browser)
        return response
