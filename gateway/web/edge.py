"""What the pages of sign-in, of an authorization and of connected apps share: who calls, how a refusal looks, how a route answers.

Every redirect is a 303, so no form is ever posted again to somebody else (ATK-O34).
"""

from __future__ import annotations

import uuid
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass

from fastapi import APIRouter, Request, Response

from gateway.errors import FhirError
from gateway.smart.record import Caller
from gateway.smart.server.authorization.decide import Page
from gateway.web.pages import Pages
from gateway.web.people import People

_EVERY = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]
_SEE_OTHER = {"Cache-Control": "no-store", "Referrer-Policy": "no-referrer"}

_REASONS = {
    "client-pending": (
        "This app is waiting for approval",
        "It was registered, and the people who run this service have not approved it yet. Nothing was shared.",
    ),
    "client-unknown": ("This app is not known here", "The app that sent you is not registered with this service. Nothing was shared."),
    "redirect-not-registered": (
        "This app is not known here",
        "The app gave an address that is not registered here. Nothing was shared.",
    ),
    "request-uri-unknown": (
        "Start again from the app",
        "The request that the app announced was used already, is too old, or is another app's. Nothing was shared.",
    ),
    "transaction-unknown": ("Start again from the app", "This page belongs to another browser, or its address is not complete. Nothing was shared."),
    "transaction-over": ("This request is over", "It was answered already, or it is too old. Nothing more was shared. Start again from the app."),
    "patient-not-listed": ("That record is not yours to share", "You may not open the record that was chosen. Nothing was shared."),
    "scope-not-offered": ("That cannot be shared", "The form asked for more than the app did. Nothing was shared."),
    "upstream-state": (
        "Start again",
        "This answer is not to anything that was begun here in this session, or it came too late. Nothing was connected.",
    ),
    "upstream-issuer": ("This is not who was asked", "The answer came from somebody else than your clinic's record system. Nothing was connected."),
    "upstream-launch": ("This page was opened from elsewhere", "It was not your clinic's own record system that opened it. Nothing was connected."),
    "upstream-declined": ("Nothing was connected", "Your clinic's record system did not give access. You can try again."),
    "upstream-identity": (
        "That is another person",
        "Whoever signed in at your clinic's record system is not the person who is signed in here. Sign out there, and try again.",
    ),
    "account-disabled": ("This account is closed", "Ask your clinic for help."),
    "ehr-unknown": ("There is no such page", "The address is not complete."),
    "method": ("There is no such page", "The address is not meant to be used like that."),
}
_BROKEN = ("Something is not working here", "Nothing was shared. Please try again in a moment.")
_UNREADABLE = ("The request cannot be read", "The app sent a request that is not complete or contradicts itself. Nothing was shared.")

Endpoint = Callable[[Request], Awaitable[Response]]
Table = Mapping[str, Mapping[str, Endpoint]]
"""Path and method to what answers."""


@dataclass(frozen=True, slots=True)
class WebEdge:
    """What the routes need besides their subject. `ehrs`: the names in the configuration; `address`: the caller's, as the edge knows it."""

    pages: Pages
    people: People
    ehrs: Collection[str]
    address: Callable[[Request], str]

    def routes(self, table: Table) -> APIRouter:
        """Whatever is asked of these paths, the answer is a page."""
        routes = APIRouter(include_in_schema=False)
        for path, endpoints in table.items():
            routes.add_api_route(path, self._route(endpoints), methods=_EVERY, response_model=None)
        return routes

    def _route(self, endpoints: Mapping[str, Endpoint]) -> Endpoint:
        async def answer(request: Request) -> Response:
            try:
                if "ehr" in request.path_params and request.path_params["ehr"] not in self.ehrs:
                    return self.refused(Page("ehr-unknown", 404))
                endpoint = endpoints.get(request.method)
                return await endpoint(request) if endpoint else self.refused(Page("method", 405))
            except FhirError as error:  # the store cannot be reached, or too many sign in at once
                response = self.refused(Page(error.reason, error.status))
                if error.retry_after is not None:
                    response.headers["Retry-After"] = str(error.retry_after)
                return response

        return answer

    def refused(self, page: Page) -> Response:
        """A refusal in words. It never redirects."""
        title, text = _REASONS.get(page.reason, _BROKEN if page.status >= 500 else _UNREADABLE)
        return self.pages.render("refused.html", status=page.status, title=title, text=text, reason=page.reason)

    def caller(self, request: Request) -> Caller:
        """One request, by a name of its own and its network address."""
        return Caller(uuid.uuid4().hex, self.address(request), request.method)


def see(url: str) -> Response:
    """303: the next request is a GET, whatever this one was (RFC 9700 section 4.12)."""
    return Response(status_code=303, headers={"Location": url, **_SEE_OTHER})
