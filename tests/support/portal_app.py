"""The portal's own routes around the clinic in memory, with somebody signed in. Until a page needs more, no other part is there."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse

from gateway.portal.chart import Source
from gateway.web.pages import Pages
from gateway.web.portal import router
from tests.support.clinic import Clinic

NOW = datetime(2026, 11, 22, 15, 0, tzinfo=UTC)
URL = "http://gateway.test"


@dataclass(frozen=True)
class Account:
    """A signed-in person's account."""

    id: str = "acc-1"
    ehr: str = "clinic"
    fhir_user: str = "Patient/p1"
    display_name: str = "Amina Shaw"


@dataclass(frozen=True)
class Listed:
    """A record that may be opened."""

    patient: str
    display: str = ""


@dataclass(frozen=True)
class Person:
    """Somebody signed in."""

    account: Any = field(default_factory=Account)
    patient: str = "p1"
    patients: tuple[Listed, ...] = (Listed("p1", "Amina Shaw"),)
    csrf: str = "csrf-of-this-session"


class NotSignedIn(Exception):
    """Nobody is signed in."""


class Forged(Exception):
    """A form from elsewhere."""


class People:
    """One browser. `person` None: nobody is signed in."""

    def __init__(self, person: Person | None) -> None:
        self.person = person

    async def require(self, _: Request) -> Person:
        if self.person is None:
            raise NotSignedIn
        return self.person

    def check_csrf(self, person: Person, form: Any) -> None:
        if form.get("csrf") != person.csrf:
            raise Forged

    async def open_record(self, person: Person, patient: str) -> bool:
        if patient not in [item.patient for item in person.patients]:
            return False
        self.person = replace(person, patient=patient)
        return True


def make_app(clinic: Clinic, people: People, *, now: datetime = NOW, source: Source | None = None) -> FastAPI:
    """The application."""
    app, pages = FastAPI(), Pages(URL)
    source = source or Source("clinic", "Mercy Clinic", "555 0100", timezone(timedelta(hours=-5)))
    app.include_router(router(pages=pages, people=people, pipeline=clinic, sources={"clinic": source}, now=lambda: now))
    app.mount("/static", pages.static())

    async def sign_in(request: Request, error: Exception) -> RedirectResponse:
        return RedirectResponse("/signin", 303)

    async def forged(request: Request, error: Exception) -> PlainTextResponse:
        return PlainTextResponse("forged", 403)

    app.add_exception_handler(NotSignedIn, sign_in)
    app.add_exception_handler(Forged, forged)
    return app


FAMILY = Person(patients=(Listed("p1", "Amina Shaw"), Listed("p3", "Leo Shaw")))
