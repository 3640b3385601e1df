"""Sign-in and sign-out. For the portal, or as a step of an authorization.

Password -> second factor, where the person has one -> a new session; or a passkey, which is both. Each form carries the csrf token of the session
or, before there is one, of the browser.
"""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request, Response

from gateway.smart.server.authorization.decide import Back, Page
from gateway.smart.server.authorization.driver import Authorizations, SignIn
from gateway.smart.server.people.accounts import Locked, SignedIn, Wrong
from gateway.smart.server.people.factors import FactorLocked, Over, Passed, WrongCode
from gateway.smart.server.people.providers import Unreachable
from gateway.smart.server.requests import given, parse_form, repeated
from gateway.store.oauth_rows import new_secret
from gateway.web.doors import Doors
from gateway.web.edge import WebEdge, see
from gateway.web.people import check, csrf_of
from gateway.web.sent import Sent, sent_form
from gateway.web.steps import Destination, ended, go, step_at


def router(edge: WebEdge, doors: Doors, authorizations: Authorizations) -> APIRouter:
    """Routes /signin, /signin/second, /signin/passkey, /signin/with/{provider} and /signout."""
    pages = _SignIn(edge, doors, authorizations)
    table = {
        "/signin": {"GET": pages.signin_page, "POST": pages.signin},
        "/signin/second": {"GET": pages.second_page, "POST": pages.second},
        "/signout": {"GET": pages.signout_page, "POST": pages.signout},
    }
    if doors.passkeys.offered:
        table["/signin/passkey"] = {"GET": pages.passkey_page, "POST": pages.passkey}
    if doors.providers:
        table |= {"/signin/with/{provider}": {"GET": pages.provider}, "/signin/with/{provider}/back": {"GET": pages.provider_back}}
    return edge.routes(table)


class _SignIn:
    """One method for each page and each form."""

    def __init__(self, edge: WebEdge, doors: Doors, authorizations: Authorizations) -> None:
        self._edge, self._doors, self._authorizations = edge, doors, authorizations

    async def signin_page(self, request: Request) -> Response:
        """The form, for the portal (`next`) or for an authorization (`ehr`, `transaction`). `again`: to somebody signed in, too."""
        sent = given(parse_form(request.scope["query_string"]) or ())
        asked = Destination.of(sent, self._edge.ehrs)
        if asked.handle:
            step = await self._step(request, asked)
            return step if isinstance(step, Response) else self._form(request, asked, step)
        person = await self._edge.people.current(request)
        if person is None:
            return self._form(request, asked, notice="changed" if "changed" in sent else "")
        return self._form(request, asked, notice="confirm", username=person.account.username) if "again" in sent else see(asked.next)

    async def signin(self, request: Request) -> Response:
        """Judge name and password. A new session begins, whatever the browser had before (ATK-O19); or the second factor is asked for."""
        form, asked, browser = await self._sent(request)
        name, known = form.one.get("username", ""), self._edge.people.known_secret(request)
        judged = await self._doors.accounts.sign_in(name, form.one.get("password", ""), self._edge.caller(request), known=known)
        if not isinstance(judged, SignedIn):
            return await self._form_again(request, asked, judged, name)
        if not judged.second:
            return await self._begin(request, asked, Passed(judged.account, "password"))
        if not await self._doors.factors.wait(judged.account, browser):
            return self._form(request, asked, status=403, problem="over")
        return see(f"/signin/second?{asked.query}")

    async def second_page(self, request: Request) -> Response:
        """The code of the authenticator app, or a recovery code."""
        asked = Destination.of(given(parse_form(request.scope["query_string"]) or ()), self._edge.ehrs)
        return await self._second(request, asked)

    async def second(self, request: Request) -> Response:
        """Judge it."""
        form, asked, browser = await self._sent(request)
        entered = form.one.get("code", "")
        judged = await self._doors.factors.sign_in(browser, entered, self._edge.caller(request))
        match judged:
            case Passed():
                return await self._begin(request, asked, judged)
            case WrongCode():
                return await self._second(request, asked, problem="wrong", status=403)
            case FactorLocked():
                return await self._second(request, asked, problem="locked", status=429, wait=judged.retry_after)
            case Over():
                return await self._over(request, asked)

    async def passkey_page(self, request: Request) -> Response:
        """The page whose script asks the browser for a passkey."""
        asked = Destination.of(given(parse_form(request.scope["query_string"]) or ()), self._edge.ehrs)
        return await self._passkey(request, asked)

    async def passkey(self, request: Request) -> Response:
        """Judge what the browser answered."""
        form, asked, browser = await self._sent(request)
        judged = await self._doors.passkeys.sign_in(browser, form.one.get("answer", ""), self._edge.caller(request))
        if isinstance(judged, Passed):
            return await self._begin(request, asked, judged)
        wait = judged.retry_after if isinstance(judged, FactorLocked) else 0
        return await self._passkey(request, asked, problem="locked" if wait else "wrong", status=429 if wait else 403, wait=wait)

    async def provider(self, request: Request) -> Response:
        """Off to an outside provider. What comes back counts in this browser only, so that a link signs nobody in as somebody else."""
        provider = self._doors.providers.get(request.path_params["provider"])
        asked = Destination.of(given(parse_form(request.scope["query_string"]) or ()), self._edge.ehrs)
        step = await self._step(request, asked)
        if isinstance(step, Response) or provider is None:
            return step if isinstance(step, Response) else see(f"/signin?{asked.query}")
        browser = self._edge.people.browser_secret(request) or new_secret()
        url = await provider.begin(browser, asked.query, anew=bool(step and step.anew))
        if isinstance(url, Unreachable):
            return self._form(request, asked, step, status=502, problem="provider-away")
        response = see(url)
        self._edge.people.keep_browser(response, browser)
        return response

    async def provider_back(self, request: Request) -> Response:
        """The provider's answer."""
        provider = self._doors.providers.get(request.path_params["provider"])
        pairs = parse_form(request.scope["query_string"]) or ()
        if provider is None or repeated(pairs):
            return self._form(request, Destination(), status=403, problem="provider")
        judged, query = await provider.back(self._edge.people.browser_secret(request), given(pairs), self._edge.caller(request))
        asked = Destination.of(given(parse_form(query.encode()) or ()), self._edge.ehrs)
        if isinstance(judged, Passed):
            return await self._begin(request, asked, judged)
        step = await self._step(request, asked)
        if isinstance(step, Response):
            return step
        wait = judged.retry_after if isinstance(judged, FactorLocked) else 0
        return self._form(request, asked, step, status=429 if wait else 403, problem="locked" if wait else "provider", wait=wait)

    async def signout_page(self, request: Request) -> Response:
        """That she is signed out; or the button, for a link never signs anybody out."""
        person = await self._edge.people.current(request)
        return self._edge.pages.render("signed_out.html", person=person)

    async def signout(self, request: Request) -> Response:
        """End the session."""
        form, people = await sent_form(request), self._edge.people
        if person := await people.current(request):
            people.check_csrf(person, form.one)
            await self._doors.sessions.end(people.session_secret(request), self._edge.caller(request))
        response = see("/signout")
        people.forget_session(response)
        return response

    async def _sent(self, request: Request) -> tuple[Sent, Destination, str]:
        """A form, where it leads, and the browser that it belongs to. Raises ForgedForm (ATK-O17, login CSRF)."""
        form, browser = await sent_form(request), self._edge.people.browser_secret(request)
        check(csrf_of(browser) if browser else "", form.one)
        return form, Destination.of(form.one, self._edge.ehrs), browser

    async def _begin(self, request: Request, asked: Destination, passed: Passed) -> Response:
        people = self._edge.people
        replaces = people.session_secret(request)
        secret = await self._doors.sessions.begin(passed.account, replaces=replaces, method=passed.method, passkey=passed.passkey)
        if not secret:
            return self._form(request, asked, status=403, problem="over")
        response = see(asked.path)
        people.keep_session(response, secret)
        people.keep_known(response, await self._doors.sessions.remember_browser(passed.account, people.known_secret(request)))
        return response

    async def _step(self, request: Request, asked: Destination) -> SignIn | Response | None:
        """The authorization that waits for a sign-in; None without one. Where something else comes next, that."""
        if not asked.handle:
            return None
        step = await self._authorizations.step(await step_at(self._edge, request, asked.ehr, asked.handle))
        return step if isinstance(step, SignIn) else go(self._edge, step, asked)

    async def _second(self, request: Request, asked: Destination, *, problem: str = "", status: int = 200, wait: int = 0) -> Response:
        account = await self._doors.factors.half_way(self._edge.people.browser_secret(request))
        if account is None:
            return await self._over(request, asked) if problem else see(f"/signin?{asked.query}")
        step = await self._step(request, asked)
        if isinstance(step, Response):
            return step
        return self._page(request, "second.html", asked, step, problem=problem, status=status, wait=wait, account_name=account.display_name)

    async def _passkey(self, request: Request, asked: Destination, *, problem: str = "", status: int = 200, wait: int = 0) -> Response:
        step = await self._step(request, asked)
        if isinstance(step, Response):
            return step
        browser = self._edge.people.browser_secret(request) or new_secret()
        options = await self._doors.passkeys.signing_in(browser)
        more = {"options": options, "script": "passkey.js", "browser": browser}
        return self._page(request, "passkey.html", asked, step, problem=problem, status=status, wait=wait, **more)

    async def _over(self, request: Request, asked: Destination) -> Response:
        step = await self._step(request, asked)
        return step if isinstance(step, Response) else self._form(request, asked, step, status=403, problem="over")

    async def _form_again(self, request: Request, asked: Destination, judged: Wrong | Locked, username: str) -> Response:
        step = await self._authorizations.step(await step_at(self._edge, request, asked.ehr, asked.handle)) if asked.handle else None
        if isinstance(step, Back | Page):
            return ended(self._edge, step)
        wait = judged.retry_after if isinstance(judged, Locked) else 0
        shown = step if isinstance(step, SignIn) else None
        return self._form(request, asked, shown, status=429 if wait else 403, problem="locked" if wait else "wrong", username=username, wait=wait)

    def _form(
        self,
        request: Request,
        asked: Destination,
        step: SignIn | None = None,
        *,
        status: int = 200,
        problem: str = "",
        notice: str = "",
        username: str = "",
        wait: int = 0,
    ) -> Response:
        return self._page(
            request,
            "signin.html",
            asked,
            step,
            status=status,
            problem=problem,
            wait=wait,
            notice=step.reason if step else notice,
            username=(username or (step.hint if step else ""))[:255],
            forgotten=bool(self._doors.verification.kinds),
            passkeys=self._doors.passkeys.offered,
            providers=[(name, one.config.title) for name, one in self._doors.providers.items()],
        )

    def _page(
        self,
        request: Request,
        name: str,
        asked: Destination,
        step: SignIn | None,
        *,
        status: int,
        problem: str,
        wait: int,
        browser: str = "",
        **more: Any,
    ) -> Response:
        browser = browser or self._edge.people.browser_secret(request) or new_secret()
        response = self._edge.pages.render(
            name,
            status=status,
            form_targets=[step.redirect_uri] if step else [],
            csrf=csrf_of(browser),
            asked=asked,
            client_name=step.client_name if step else "",
            problem=problem,
            minutes=-(-wait // 60),
            **more,
        )
        if wait:
            response.headers["Retry-After"] = str(wait)
        self._edge.people.keep_browser(response, browser)
        return response
