"""What the pipeline hands to its callers: an HTTP answer without HTTP, and what is known about the request."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from gateway.cache.policy import ANY, Wish


@dataclass(frozen=True, slots=True)
class Answer:
    """`headers` holds FHIR and cache headers only, in canonical spelling (ETag, Last-Modified, Location, Cache-Status, Age, ...)."""

    status: int
    body: bytes = b""
    headers: tuple[tuple[str, str], ...] = ()
    location: str = ""  # "Observation/o1/_history/1" of a write, relative
    age: int = 0  # seconds since the EHR gave this

    def header(self, name: str) -> str:
        """The value of a header, or ""."""
        return next((value for key, value in self.headers if key.lower() == name.lower()), "")


@dataclass(frozen=True, slots=True)
class RequestContext:
    """What every stage may want to know about the request that is not part of the interaction."""

    request_id: str
    address: str = ""  # of the caller
    via: str = "api"  # api | portal | worker
    message_id: str = ""  # inbox row, when via == "worker"
    wish: Wish = ANY  # what the caller says of freshness (Cache-Control)
    simulated: str = ""  # what goes wrong in the developer's trial that the request belongs to
    until: Callable[[], float] = lambda: math.inf  # time.monotonic() at which the worker's lease runs out, as it was last renewed
