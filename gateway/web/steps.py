"""Where a person is on her way through an authorization, and the page that comes next.

/auth/{ehr}/authorize -> /signin -> /auth/{ehr}/patient -> /auth/{ehr}/consent -> the app.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from urllib.parse import urlencode

from fastapi import Request, Response

from gateway.smart.server.authorization.decide import Back, Page
from gateway.smart.server.authorization.driver import Ask, At, Pick, SignIn, Step
from gateway.web.edge import WebEdge, see
from gateway.web.people import HOME, local_path


@dataclass(frozen=True, slots=True)
class Destination:
    """Where the person is on her way to: an authorization, or a page of ours."""

    ehr: str = ""
    handle: str = ""
    next: str = HOME

    @classmethod
    def of(cls, sent: Mapping[str, str], ehrs: Collection[str]) -> Destination:
        """From a query or a form."""
        ehr, handle = sent.get("ehr", ""), sent.get("transaction", "")
        if handle and ehr in ehrs:
            return cls(ehr, handle)
        return cls(next=local_path(sent.get("next", HOME)))

    @property
    def query(self) -> str:
        """As `of` reads it."""
        return urlencode({"ehr": self.ehr, "transaction": self.handle} if self.handle else {"next": self.next})

    @property
    def path(self) -> str:
        """Where somebody who has signed in goes on."""
        return step_path(self.ehr, "consent", self.handle) if self.handle else self.next


async def step_at(edge: WebEdge, request: Request, ehr: str, handle: str) -> At:
    """Which step, of which browser, by whom."""
    person = await edge.people.current(request)
    return At(ehr, handle, edge.people.browser_secret(request), person.visitor if person else None, edge.caller(request))


def go(edge: WebEdge, step: Step, asked: Destination) -> Response:
    """The page of a step that is not the one asked for."""
    match step:
        case Back() | Page():
            return ended(edge, step)
        case SignIn():
            return see("/signin?" + urlencode({"ehr": asked.ehr, "transaction": asked.handle}))
        case Pick():
            return see(step_path(asked.ehr, "patient", asked.handle))
        case Ask():
            return see(step_path(asked.ehr, "consent", asked.handle))


def ended(edge: WebEdge, end: Back | Page) -> Response:
    """Back to the app, or a refusal that goes nowhere."""
    return see(end.url) if isinstance(end, Back) else edge.refused(end)


def step_path(ehr: str, name: str, handle: str) -> str:
    """The address of a step's page."""
    return f"/auth/{ehr}/{name}?" + urlencode({"transaction": handle})
