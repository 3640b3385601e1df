"""The FHIR facade: a pure ASGI app in front of the rest. `/fhir/{ehr}` is one FHIR base; everything else goes on to `rest`.

One function, `_answer`, shows the order: who calls, what is asked, and then the pipeline (or, for a system that pushes, the inbox).
"""

from __future__ import annotations

import asyncio
import ipaddress
import json
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn, Protocol, TypeVar

import structlog

from gateway.adapters.ehr.base import OutcomeUnknown
from gateway.api import noticed
from gateway.api.asgi import ClientGone, Headers, Limits, Receive, Scope, Send, client_address, read_body, respond, values
from gateway.audit import new_id
from gateway.cache.policy import wish_of
from gateway.errors import FhirError, NotFound, Unauthenticated, Unavailable, UpstreamTimeout
from gateway.fhir import outcome, request
from gateway.fhir.interaction import PUSHED, Interaction
from gateway.proxy.answer import Answer, RequestContext
from gateway.proxy.pipeline import Pipeline
from gateway.smart.principal import Principal, PrincipalKind
from gateway.smart.server.trial import OFF, Watch

log = structlog.get_logger("gateway.fhir")

T = TypeVar("T")

FHIR_JSON = "application/fhir+json"
_LONGEST_NAME = 64
"""Characters of an unknown base's name on record: it is whatever somebody wrote into the address."""
_LARGE = 256 * 1024
"""Bytes of body above which a request is understood in a thread: a Bundle of 1.6 MB takes 0.3 s, and everybody else would wait for it."""
_OPEN = "*"  # CORS for documents that anybody may read without a token (A1.3, A1.4)
_ASKED = "authorization, accept, cache-control, content-type, if-match, if-modified-since, if-none-exist, if-none-match, prefer"
_EXPOSED = "Age, Cache-Status, Content-Location, ETag, Last-Modified, Location, Retry-After, Warning, WWW-Authenticate, X-Request-Id"


class Authenticator(Protocol):
    """Bearer token to Principal."""

    async def principal(self, ehr: str, authorization: Sequence[str]) -> Principal:
        """Raises Unauthenticated."""
        ...


class Inbox(Protocol):
    """Where writes of systems go: durable before they are acknowledged."""

    async def receive(self, principal: Principal, interaction: Interaction, headers: Headers, body: bytes, context: RequestContext) -> Answer:
        """Judge, commit, wait for the result or give a status URL."""
        ...

    async def status(self, principal: Principal, token: str, context: RequestContext) -> Answer:
        """What became of a message."""
        ...


@dataclass(frozen=True, slots=True)
class Edge:
    """What the facade needs besides the pipeline."""

    public_url: str
    discovery: Mapping[str, Mapping[str, Callable[[], Mapping[str, Any]]]]  # by EHR, then by document name under .well-known/
    allowed_origin: Callable[[str], Awaitable[bool]]
    limits: Limits = field(default_factory=Limits)
    trusted_proxies: Sequence[ipaddress.IPv4Network | ipaddress.IPv6Network] = ()
    watch: Watch = OFF


@dataclass(slots=True)
class Known:
    """What was found out about a request, as far as it came."""

    principal: Principal | None = None
    interaction: Interaction | None = None


@dataclass(frozen=True, slots=True)
class Incoming:
    """One request at the facade. `path` is raw and below the base, without its leading slash."""

    ehr: str
    method: str
    path: str
    query: bytes
    headers: Headers
    context: RequestContext
    origin: str
    known: Known


class FhirFacade:
    """ASGI."""

    def __init__(self, pipeline: Pipeline, authenticator: Authenticator, inbox: Inbox, edge: Edge, rest: Any) -> None:
        self._pipeline = pipeline
        self._authenticator = authenticator
        self._inbox = inbox
        self._edge = edge
        self._rest = rest

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One ASGI call: FHIR here, everything else further on."""
        raw = bytes(scope.get("raw_path") or b"") if scope["type"] == "http" else b""
        if not raw.startswith(b"/fhir/"):
            await self._rest(scope, receive, send)
            return
        incoming, began, refused = self._incoming(scope, raw), time.monotonic(), None
        try:
            answer = await self._answer(incoming, receive)
        except ClientGone:
            return
        except OutcomeUnknown:
            refused = UpstreamTimeout(
                "The record system did not confirm this. It may or may not have been stored: look before you send it again.",
                reason="outcome-unknown",
            )
            answer = self._refusal(refused, incoming)
        except FhirError as error:
            refused = error
            answer = self._refusal(error, incoming)
        except Exception:  # the last line of defence: whatever happened, a caller sees an OperationOutcome and no stack trace
            log.exception("unexpected", request_id=incoming.context.request_id)
            refused = Unavailable(reason="unexpected")
            answer = self._refusal(refused, incoming)
        self._note(incoming, answer, refused, 1000 * (time.monotonic() - began))
        await respond(send, answer.status, await self._headers(answer, incoming), answer.body, head=incoming.method == "HEAD")

    async def _answer(self, incoming: Incoming, receive: Receive) -> Answer:
        if incoming.ehr not in self._edge.discovery:
            raise self._noted(incoming, NotFound("There is no such FHIR base.", reason="ehr-unknown"))
        if incoming.method == "OPTIONS":
            return Answer(204)
        if (document := self._document(incoming)) is not None:
            return document
        if incoming.path == "metadata" and incoming.method in ("GET", "HEAD"):
            self._understood(incoming, b"")  # a format that is not offered is refused here as everywhere
            return await self._pipeline.capabilities(incoming.ehr, incoming.context)
        principal = incoming.known.principal = await self._principal(incoming)
        body = await self._on_record(incoming, principal, read_body(incoming.headers, receive, self._edge.limits))
        if incoming.path.startswith("_async/") and incoming.method in ("GET", "HEAD"):
            return await self._inbox.status(principal, incoming.path.removeprefix("_async/"), incoming.context)
        interaction = incoming.known.interaction = await self._on_record(incoming, principal, self._parse(incoming, body))
        if principal.kind is PrincipalKind.SYSTEM and interaction.kind in PUSHED and not interaction.by_condition:
            return await self._inbox.receive(principal, interaction, incoming.headers, body, incoming.context)
        return await self._pipeline.handle(principal, interaction, incoming.context)

    def _note(self, incoming: Incoming, answer: Answer, refused: FhirError | None, ms: float) -> None:
        """For the developer whose trial it is. Nothing of all other requests is looked at."""
        known = incoming.known
        trial = known.principal.trial if known.principal else refused.trial if refused else ""
        if trial:
            self._edge.watch.note(trial, noticed.call(incoming, known.principal, known.interaction, answer, refused, ms))
        elif incoming.path.startswith(".well-known/") and answer.status == 200:
            self._edge.watch.note_discovery(incoming.ehr, incoming.origin, noticed.document(incoming, answer, ms))

    def _noted(self, incoming: Incoming, error: FhirError) -> FhirError:
        """The refusal of somebody who did not have to say who he is, put on record."""
        self._pipeline.refused(incoming.ehr[:_LONGEST_NAME], incoming.context, error)
        return error

    async def _on_record(self, incoming: Incoming, principal: Principal, step: Awaitable[T]) -> T:
        """A refusal of somebody who is known is on record like any other, though there is no interaction yet."""
        try:
            return await step
        except FhirError as error:
            self._pipeline.refused(incoming.ehr, incoming.context, error, principal)
            raise

    async def _parse(self, incoming: Incoming, body: bytes) -> Interaction:
        if len(body) > _LARGE:
            return await asyncio.to_thread(self._understood, incoming, body)
        return self._understood(incoming, body)

    def _understood(self, incoming: Incoming, body: bytes) -> Interaction:
        return request.parse(
            method=incoming.method,
            path=incoming.path,
            query=incoming.query,
            headers=incoming.headers,
            body=body,
            own_bases=(self._base(incoming.ehr),),
        )

    async def _principal(self, incoming: Incoming) -> Principal:
        try:
            if b"access_token=" in incoming.query:
                self._token_in_query()
            return await self._authenticator.principal(incoming.ehr, values(incoming.headers, b"authorization"))
        except Unauthenticated as error:
            self._pipeline.refused(incoming.ehr, incoming.context, error)
            raise

    @staticmethod
    def _token_in_query() -> NoReturn:
        """RFC 6750 section 2.3 is not offered: URLs end up in logs (ATK-O30)."""
        raise Unauthenticated("Send the token in the Authorization header.", reason="token-in-query")

    def _document(self, incoming: Incoming) -> Answer | None:
        if incoming.method not in ("GET", "HEAD") or not incoming.path.startswith(".well-known/"):
            return None
        maker = self._edge.discovery[incoming.ehr].get(incoming.path.removeprefix(".well-known/"))
        if maker is None:
            raise self._noted(incoming, NotFound())
        return Answer(
            200,
            json.dumps(maker()).encode(),
            (("Content-Type", "application/json"), ("Access-Control-Allow-Origin", _OPEN), ("Cache-Control", "max-age=60")),
        )

    def _incoming(self, scope: Scope, raw: bytes) -> Incoming:
        ehr, _, path = raw.removeprefix(b"/fhir/").decode("latin-1").partition("/")
        headers: Headers = scope["headers"]
        wish = wish_of(values(headers, b"cache-control"))
        context = RequestContext(new_id(), client_address(scope, self._edge.trusted_proxies), wish=wish)
        return Incoming(ehr, scope["method"], path, scope["query_string"], headers, context, "".join(values(headers, b"origin")[:1]), Known())

    def _base(self, ehr: str) -> str:
        return f"{self._edge.public_url}/fhir/{ehr}"

    def _refusal(self, error: FhirError, incoming: Incoming) -> Answer:
        log.info("refused", reason_id=error.reason, status=error.status, request_id=incoming.context.request_id, ehr=incoming.ehr)
        headers: list[tuple[str, str]] = []
        if error.status == 401:
            # RFC 6750 section 3: no error code when no token was sent at all.
            sent = bool(values(incoming.headers, b"authorization"))
            headers.append(("WWW-Authenticate", 'Bearer realm="fhir"' + (', error="invalid_token"' if sent else "")))
        if error.reason == "scope-missing":
            headers.append(("WWW-Authenticate", 'Bearer realm="fhir", error="insufficient_scope"'))
        if error.retry_after is not None:
            headers.append(("Retry-After", str(error.retry_after)))
        return Answer(error.status, outcome.outcome(error, incoming.context.request_id), tuple(headers))

    async def _headers(self, answer: Answer, incoming: Incoming) -> list[tuple[str, str]]:
        headers = list(answer.headers)
        present = {name.lower() for name, _ in headers}
        if answer.body and "content-type" not in present:
            headers.append(("Content-Type", FHIR_JSON))
        if "cache-control" not in present:
            headers.append(("Cache-Control", "private, no-cache"))
        headers += [("X-Request-Id", incoming.context.request_id), ("X-Content-Type-Options", "nosniff")]
        if incoming.origin and "access-control-allow-origin" not in present:
            headers += await self._cors(incoming)
        return headers

    async def _cors(self, incoming: Incoming) -> list[tuple[str, str]]:
        """CORS for origins that a registered client has, and never with credentials (ATK-O29)."""
        if incoming.path == "metadata" or incoming.path.startswith(".well-known/"):
            return [("Access-Control-Allow-Origin", _OPEN)]
        if not await self._edge.allowed_origin(incoming.origin):
            return [("Vary", "Origin")]
        headers = [
            ("Access-Control-Allow-Origin", incoming.origin),
            ("Vary", "Origin"),
            ("Access-Control-Expose-Headers", _EXPOSED),
        ]
        if incoming.method == "OPTIONS":
            headers += [
                ("Access-Control-Allow-Methods", "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"),
                ("Access-Control-Allow-Headers", _ASKED),
                ("Access-Control-Max-Age", "600"),
            ]
        return headers
