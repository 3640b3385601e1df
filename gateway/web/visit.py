"""What every page of the portal is given: who asks, whose record is open, what was sent; and lists cut to what a page shows."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar
from urllib.parse import urlencode

from starlette.requests import Request

from gateway.portal.chart import Chart
from gateway.portal.features import Account
from gateway.web.forms import new_key, record_token

STEP = 20
"""Items of a list before "show more"."""
MOST = 5000

Row = TypeVar("Row")


class Listed(Protocol):
    """A record that the person may open."""

    @property
    def patient(self) -> str:
        """The patient's id."""
        ...

    @property
    def display(self) -> str:
        """The patient's name, or ""."""
        ...


class PortalAccount(Account, Protocol):
    """The signed-in person's account."""

    @property
    def ehr(self) -> str:
        """At which EHR."""
        ...

    @property
    def display_name(self) -> str:
        """As the header says it."""
        ...


class Person(Protocol):
    """The signed-in person."""

    @property
    def account(self) -> PortalAccount:
        """Who."""
        ...

    @property
    def patient(self) -> str:
        """Whose record is open, "" for none."""
        ...

    @property
    def patients(self) -> Sequence[Listed]:
        """Whose record she may open, her own first."""
        ...

    @property
    def csrf(self) -> str:
        """Guards the forms of this session."""
        ...


P = TypeVar("P", bound=Person)


class People(Protocol[P]):
    """Sign-in, as far as the pages need it."""

    async def require(self, request: Request) -> P:
        """The person. Raises what the application turns into the sign-in page."""
        ...

    def check_csrf(self, person: P, form: Mapping[str, Any]) -> None:
        """Raises what the application turns into a refusal."""
        ...

    async def open_record(self, person: P, patient: str) -> bool:
        """Show this patient's record from now on. False when it is not hers to open."""
        ...


@dataclass(frozen=True, slots=True)
class Visit:
    """One request of one person about one record."""

    request: Request
    person: Person
    chart: Chart
    form: Mapping[str, str] = field(default_factory=dict[str, str])

    def path(self, name: str) -> str:
        """A part of the path."""
        return str(self.request.path_params[name])

    def asked(self, name: str) -> str:
        """A value of the query, or ""."""
        return self.request.query_params.get(name, "")

    @property
    def token(self) -> str:
        """Names the open record in forms."""
        return record_token(self.person.csrf, self.chart.principal.patient)

    @property
    def values(self) -> Mapping[str, str]:
        """What was entered, "" where nothing was: a form that is shown again keeps it."""
        return defaultdict(str, self.form)

    def values_or(self, **first: str) -> Mapping[str, str]:
        """What was entered; before anything was, `first`."""
        return self.values if self.form else defaultdict(str, first)

    def hidden(self, key: str = "") -> dict[str, str]:
        """The fields that every form carries."""
        return {"csrf": self.person.csrf, "record": self.token, "key": key or new_key()}


@dataclass(frozen=True, slots=True)
class Shown:
    """A list cut to what the page shows. `more` is the link to the next step, `all` to everything, each or ""."""

    items: Sequence[Any]
    total: int
    more: str = ""
    all: str = ""
    step: int = STEP

    @property
    def last(self) -> int:
        """The number of the last one shown."""
        return len(self.items)


def cut(visit: Visit, items: Sequence[Row], **keep: str) -> Shown:
    """The first `show` items, and a link that shows one step more; another shows all, to print them."""
    asked = visit.asked("show")
    count = min(int(asked), MOST) if asked.isascii() and asked.isdigit() and len(asked) < 6 else STEP
    count = max(STEP, count)
    if len(items) <= count:
        return Shown(items, len(items))
    kept = {name: value for name, value in keep.items() if value}
    next_, all_ = (f"{visit.request.url.path}?{urlencode(kept | {'show': str(show)})}" for show in (count + STEP, MOST))
    return Shown(items[:count], len(items), f"{next_}#n{count + 1}", all_, min(STEP, len(items) - count))
