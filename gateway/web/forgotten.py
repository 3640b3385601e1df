"""A forgotten password: a code to the verified address, then a new password. Nobody learns here who has an account, or an address."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from gateway.errors import NotDone
from gateway.smart.server.people.factors import FactorLocked, Over, WrongCode
from gateway.smart.server.people.verification import Changed
from gateway.smart.server.requests import given, parse_form
from gateway.store.oauth_rows import new_secret
from gateway.web.doors import Doors
from gateway.web.edge import WebEdge, see
from gateway.web.people import check, csrf_of
from gateway.web.sent import Sent, sent_form
from gateway.web.steps import Destination


def router(edge: WebEdge, doors: Doors) -> APIRouter:
    """Routes /signin/forgotten and /signin/forgotten/code; none where nothing can be sent."""
    pages = _Forgotten(edge, doors)
    if not doors.verification.kinds:
        return edge.routes({})
    return edge.routes(
        {
            "/signin/forgotten": {"GET": pages.name_page, "POST": pages.name},
            "/signin/forgotten/code": {"GET": pages.code_page, "POST": pages.code},
        }
    )


class _Forgotten:
    """Two forms: the name, then the code with the new password."""

    def __init__(self, edge: WebEdge, doors: Doors) -> None:
        self._edge, self._verification, self._endings = edge, doors.verification, doors.endings

    async def name_page(self, request: Request) -> Response:
        """Whose password."""
        return self._page(request, "forgotten.html", self._asked(request))

    async def name(self, request: Request) -> Response:
        """The same answer for every name."""
        form, asked, browser = await self._sent(request)
        known = self._edge.people.known_secret(request)
        done = await self._verification.forgot(form.one.get("username", ""), browser, self._edge.caller(request), known=known)
        if isinstance(done, FactorLocked):
            return self._page(request, "forgotten.html", asked, problem="locked", status=429, wait=done.retry_after)
        return see(f"/signin/forgotten/code?{asked.query}")

    async def code_page(self, request: Request) -> Response:
        """The code, and the new password."""
        asked = self._asked(request)
        if not await self._verification.is_resetting(self._edge.people.browser_secret(request)):
            return see(f"/signin/forgotten?{asked.query}")
        return self._page(request, "forgotten_code.html", asked)

    async def code(self, request: Request) -> Response:
        """Change it. She signs in with it afterwards, with her second factor where she has one."""
        form, asked, browser = await self._sent(request)
        try:
            judged = await self._verification.reset(browser, form.one.get("code", ""), form.one.get("password", ""), self._edge.caller(request))
        except NotDone:
            return self._page(request, "forgotten_code.html", asked, problem="password", status=422)
        match judged:
            case Changed():
                return await self._changed(asked, judged)
            case WrongCode():
                return self._page(request, "forgotten_code.html", asked, problem="wrong", status=403)
            case Over():
                return self._page(request, "forgotten.html", asked, problem="over", status=403)
            case FactorLocked():
                return self._page(request, "forgotten.html", asked, problem="locked", status=429, wait=judged.retry_after)

    async def _changed(self, asked: Destination, changed: Changed) -> Response:
        """What still has access, where anything does: somebody who only forgot her password keeps it, somebody who was robbed does not want to."""
        standing = await self._endings.of(changed.account)
        if not standing:
            return see(f"/signin?{asked.query}&changed=1")
        return self._edge.pages.render("forgotten_changed.html", asked=asked, standing=standing)

    def _asked(self, request: Request) -> Destination:
        return Destination.of(given(parse_form(request.scope["query_string"]) or ()), self._edge.ehrs)

    async def _sent(self, request: Request) -> tuple[Sent, Destination, str]:
        form, browser = await sent_form(request), self._edge.people.browser_secret(request)
        check(csrf_of(browser) if browser else "", form.one)
        return form, Destination.of(form.one, self._edge.ehrs), browser

    def _page(self, request: Request, name: str, asked: Destination, *, problem: str = "", status: int = 200, wait: int = 0) -> Response:
        browser = self._edge.people.browser_secret(request) or new_secret()
        response = self._edge.pages.render(name, status=status, csrf=csrf_of(browser), asked=asked, problem=problem, minutes=-(-wait // 60))
        if wait:
            response.headers["Retry-After"] = str(wait)
        self._edge.people.keep_browser(response, browser)
        return response
