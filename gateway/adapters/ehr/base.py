"""The port to an EHR: what the pipeline asks of it, and what comes back. Implementations differ by platform; see `generic`, `hapi`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from gateway.fhir.interaction import Kind, Param


@dataclass(frozen=True, slots=True)
class EhrCall:
    """One call to an EHR, made of parsed parts only. Ids and versions are FHIR ids; `body` goes as it is."""

    kind: Kind
    type: str = ""
    id: str = ""
    version: str = ""
    params: tuple[Param, ...] = ()
    page: str = ""  # a `next` link that this EHR gave, relative to its base ("?_getpages=..." or "Observation?page=2"); kind is SEARCH
    body: bytes = b""
    if_match: str = ""
    updated: str = ""  # meta.lastUpdated of the version in `if_match`, for a DELETE where the EHR does not look at that header
    if_none_match: str = ""  # "*": only where nothing is there (RFC 9110 13.1.2). HAPI does not look at it on a PUT. A read: 304 if still so
    if_none_exist: tuple[Param, ...] = ()
    request_id: str = ""
    person: str = ""  # the account in whose name it is made, at an EHR that lets in nobody but persons (ADR 0011)
    not_after: float = math.inf  # time.monotonic() after which it is not sent any more: a process may stand still in between (FAULT-P3)


@dataclass(frozen=True, slots=True)
class EhrReply:
    """A whole answer of an EHR. Statuses are normalized: a stale If-Match is 412 whatever the EHR says.

    Header names are lower case. `body` is FHIR JSON or empty; anything else became UpstreamFault before it got here.
    """

    status: int
    headers: Mapping[str, str] = field(default_factory=dict[str, str])
    body: bytes = b""

    @property
    def etag(self) -> str:
        """`W/"3"` or ""."""
        return self.headers.get("etag", "")


@dataclass(frozen=True, slots=True)
class ByType:
    """Yes or no for each resource type: what is `said` of it, else what holds for most."""

    usually: bool
    said: Mapping[str, bool] = field(default_factory=dict[str, bool])

    def of(self, resource_type: str) -> bool:
        """Whether it holds for this type."""
        return self.said.get(resource_type, self.usually)


@dataclass(frozen=True, slots=True)
class Offers:
    """What an EHR takes from those who write (R4 capabilitystatement.html, rest.resource.updateCreate and conditionalCreate)."""

    client_ids: ByType  # PUT of an id that does not exist creates it
    conditional_create: ByType  # If-None-Exist is understood. It is a lock nowhere that we know
    transactions: bool


class OutcomeUnknown(Exception):
    """A write was sent and its answer was lost: it may or may not have taken effect (FAULT-U7 to U15).

    `reason` is a stable id for logs and records, such as `ehr-timeout`; it holds nothing of the answer.
    """

    def __init__(self, reason: str = "ehr-answer-lost") -> None:
        super().__init__(reason)
        self.reason = reason


class Ehr(Protocol):
    """One upstream FHIR server.

    `send` raises UpstreamFault or UpstreamTimeout (never an HTTP library's error) when there is no usable answer, OutcomeUnknown when that
    happened after a write may have reached the EHR, Unavailable when `not_after` had passed and nothing was sent. 4xx answers come back as
    replies, and so does 503, with its Retry-After (FAULT-U4, U5); a 401 does not, because the credential it refuses is the gateway's own
    (FAULT-U21).
    """

    @property
    def name(self) -> str:
        """The name in the configuration, as in `/fhir/{name}`."""
        ...

    @property
    def base_url(self) -> str:
        """Without a trailing slash."""
        ...

    @property
    def aliases(self) -> tuple[str, ...]:
        """Other base URLs by which this EHR names itself, without trailing slashes."""
        ...

    async def send(self, call: EhrCall) -> EhrReply:
        """Make the call. Searches ask for a fresh result (`Cache-Control: no-cache`)."""
        ...

    async def offers(self, *, patience: float | None = None) -> Offers:
        """What it takes from those who write; it may have to be asked for that first.

        Raises UpstreamFault when it cannot be, UpstreamTimeout when that takes longer than `patience` seconds.
        """
        ...

    def relative(self, url: str) -> str | None:
        """The part after the base when `url` lies below `base_url` or an alias (scheme, host, port and path prefix equal), else None."""
        ...

    async def close(self) -> None:
        """Give the connections back."""
        ...


@dataclass(frozen=True, slots=True)
class HttpRequest:
    """What a Transport sends: an absolute URL built by the adapter. No redirect is ever followed."""

    method: str
    url: str
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes | None = None
    not_after: float = math.inf  # as in EhrCall


@dataclass(frozen=True, slots=True)
class HttpResponse:
    """What came back, whole and not decoded (`Accept-Encoding: identity` is asked for). Header names are lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class TransportError(Exception):
    """No whole answer. The message names a kind of failure and nothing of the answer.

    `sent` tells whether the request may have reached the server, `timeout` whether the deadline passed, `too_large` whether the body went over
    the cap, `untrusted` whether the server could not show by TLS that it is the one asked for (FAULT-U20).
    """

    def __init__(self, message: str, *, sent: bool, timeout: bool = False, too_large: bool = False, untrusted: bool = False) -> None:
        super().__init__(message)
        self.sent = sent
        self.timeout = timeout
        self.too_large = too_large
        self.untrusted = untrusted


class Transport(Protocol):
    """HTTP to an EHR, under one contract suite: a total deadline, a body cap, no redirects, no cookies, no proxies from the environment."""

    async def send(self, request: HttpRequest, *, deadline: float, cap: int) -> HttpResponse:
        """Raises TransportError only. `deadline` in seconds for everything; `cap` in bytes of body.

        Nothing is begun to be sent after the deadline or `not_after`, also when no timer had a chance to say so.
        """
        ...

    async def close(self) -> None:
        """Give the connections back."""
        ...
