"""The person in the middle: signs in, picks a patient, decides what an app may do.

`forms.Forms` drives HTML forms by HTTP, for servers whose pages need no JavaScript. `manual.Manual` asks a real person with a browser, as the
published suites do, and works with any server.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol
from urllib.parse import urlencode


@dataclass(frozen=True, slots=True)
class Choice:
    """What stays ticked: `ticked(value, offered)` for each box, where `offered` is whether the page ticked it. `words` tell a real person."""

    words: str
    ticked: Callable[[str, bool], bool]


AS_OFFERED = Choice("Allow all that the app asks for.", lambda _value, offered: offered)


@dataclass(frozen=True, slots=True)
class Asked:
    """An authorization request that a browser is sent with. `who`: "patient" or "clinician"."""

    endpoint: str
    fields: Mapping[str, str]
    method: str = "GET"
    who: str = "patient"
    choice: Choice = AS_OFFERED

    @property
    def url(self) -> str:
        """By GET; the endpoint may have a query of its own."""
        return self.endpoint + ("&" if "?" in self.endpoint else "?") + urlencode(self.fields)

    @property
    def redirect_uri(self) -> str:
        return self.fields["redirect_uri"]


@dataclass(frozen=True, slots=True)
class Arrived:
    """Where the browser ended: with these parameters at the app, or on a page of the server."""

    answer: Mapping[str, str]
    page: str = ""


class Person(Protocol):
    """Who answers what the server asks of people."""

    def authorize(self, asked: Asked) -> Arrived:
        """Go through an authorization to its end."""
        ...

    def started(self) -> Mapping[str, str]:
        """Start the app from the EHR; iss, launch and url that the browser came with. Raises Skipped when that cannot be done."""
        ...

    def take_back(self, management: str, client_id: str, done: Callable[[], bool]) -> None:
        """Take back what the app was allowed; `done` says whether it has no more access. Raises Skipped or Missing."""
        ...
