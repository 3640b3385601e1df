"""The machine endpoints of the authorization server: token, pushed requests, introspection, revocation, keys, style.

Forms in, JSON out. Every answer, the refusals of the framework's kind included (method, media type, size), is JSON of RFC 6749 section 5.2.
Each request that asks for something is on record before it is answered: with what it changed, or else here (`_on_record`), whatever became of it.
"""

from __future__ import annotations

import ipaddress
import json
import uuid
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import structlog
from fastapi import APIRouter, Request, Response

from gateway.api.asgi import ClientGone, Limits, client_address, read_body, value, values
from gateway.audit import AuditRecord
from gateway.errors import FhirError, Unavailable
from gateway.smart.record import Caller, Event
from gateway.smart.server.answers import Decided, failed, refused
from gateway.smart.server.discovery import STYLE
from gateway.smart.server.keys import KEPT, KeySource
from gateway.smart.server.requests import TokenRequest, parse_form
from gateway.store.base import now

log = structlog.get_logger("gateway.oauth")

_LIMITS = Limits(cap=64 * 1024)
_LONGEST_NAME = 64
"""Characters of an unknown EHR's name on record: it is whatever somebody wrote into the address."""
_EVERY = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]
_NEVER_STORED = {"Cache-Control": "no-store", "Pragma": "no-cache", "X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer"}
_FORM = "application/x-www-form-urlencoded"

Answer = Callable[[str, TokenRequest, Caller], Awaitable[Decided]]


class Tokens(Protocol):
    """smart.server.token.driver.TokenDriver."""

    async def token(self, ehr: str, request: TokenRequest, caller: Caller) -> Decided:
        """The token endpoint."""
        ...


class Inspects(Protocol):
    """smart.server.token.inspection.Inspector."""

    async def introspect(self, ehr: str, request: TokenRequest, caller: Caller) -> Decided:
        """RFC 7662."""
        ...

    async def revoke(self, ehr: str, request: TokenRequest, caller: Caller) -> Decided:
        """RFC 7009."""
        ...


class Pushes(Protocol):
    """smart.server.authorization.pushed.PushedRequests."""

    async def push(self, ehr: str, request: TokenRequest, caller: Caller) -> Decided:
        """RFC 9126."""
        ...


@dataclass(frozen=True, slots=True)
class OAuthEdge:
    """What the routes need besides the server itself.

    `ehrs`: the names in the configuration. `append` puts a record where it survives SIGKILL, or raises Unavailable.
    """

    ehrs: Collection[str]
    allowed_origin: Callable[[str], Awaitable[bool]]
    append: Callable[[AuditRecord], None]
    trusted_proxies: Sequence[ipaddress.IPv4Network | ipaddress.IPv6Network] = ()


def router(tokens: Tokens, inspector: Inspects, pushed: Pushes, keys: KeySource, edge: OAuthEdge) -> APIRouter:
    """Routes /auth/{ehr}/{token,par,introspect,revoke,jwks} and /auth/smart-style.json."""
    routes = APIRouter(include_in_schema=False)

    async def token(request: Request, ehr: str) -> Response:
        return await _form_endpoint(request, ehr, "token", tokens.token, edge)

    async def par(request: Request, ehr: str) -> Response:
        return await _form_endpoint(request, ehr, "par", pushed.push, edge)

    async def introspect(request: Request, ehr: str) -> Response:
        return await _form_endpoint(request, ehr, "introspect", inspector.introspect, edge)

    async def revoke(request: Request, ehr: str) -> Response:
        return await _form_endpoint(request, ehr, "revoke", inspector.revoke, edge)

    async def jwks(request: Request, ehr: str) -> Response:
        return _document(request, await keys.public()) if ehr in edge.ehrs else _json(404, {"error": "not_found"})

    async def style(request: Request) -> Response:
        return _document(request, STYLE)

    for name, endpoint in (("token", token), ("par", par), ("introspect", introspect), ("revoke", revoke), ("jwks", jwks)):
        routes.add_api_route(f"/auth/{{ehr}}/{name}", endpoint, methods=_EVERY, response_model=None)
    routes.add_api_route("/auth/smart-style.json", style, methods=_EVERY, response_model=None)
    return routes


async def _form_endpoint(request: Request, ehr: str, action: str, answer: Answer, edge: OAuthEdge) -> Response:
    response = await answered(request, ehr, action, edge, lambda caller: _answered(request, ehr, answer, edge, caller))
    await _cors(request, response, edge)
    return response


async def answered(request: Request, ehr: str, action: str, edge: OAuthEdge, answer: Callable[[Caller], Awaitable[Decided]]) -> Response:
    """The answer as OAuth's JSON, whatever happens, and on record before it is given."""
    caller = Caller(uuid.uuid4().hex, client_address(request.scope, edge.trusted_proxies), request.method)
    decided = await _decided(answer, caller, ehr)
    if request.method != "OPTIONS":  # a preflight asks for nothing yet
        decided = _on_record(decided, Event(ehr[:_LONGEST_NAME], caller, now()), action, edge)
    response = _rendered(decided)
    response.headers["X-Request-Id"] = caller.request_id
    return response


async def _decided(answer: Callable[[Caller], Awaitable[Decided]], caller: Caller, ehr: str) -> Decided:
    try:
        return await answer(caller)
    except ClientGone:
        return refused("invalid_request")
    except FhirError as error:
        return failed(error)
    except Exception:  # the edge: whatever happened, the answer is OAuth's JSON and says nothing of it
        log.exception("unexpected", request_id=caller.request_id, ehr=ehr)
        return refused("server_error", status=500)


def _on_record(decided: Decided, event: Event, action: str, edge: OAuthEdge) -> Decided:
    """The answer, once it is on record: what cannot be recorded is not given."""
    if decided.recorded:
        return decided
    try:
        edge.append(decided.record or event.record(action, decided.status, reason=decided.error))
    except Unavailable as error:
        return failed(error)
    return decided


async def _answered(request: Request, ehr: str, answer: Answer, edge: OAuthEdge, caller: Caller) -> Decided:
    if request.method == "OPTIONS":
        return Decided(204, {})
    if ehr not in edge.ehrs:
        return refused("invalid_request", "There is no such server.", status=404)
    if request.method != "POST":
        return Decided(405, {"error": "invalid_request", "error_description": "Send a POST."}, headers=(("Allow", "POST, OPTIONS"),))
    headers = request.scope["headers"]
    if value(headers, b"content-type").partition(";")[0].strip().lower() != _FORM:
        return refused("invalid_request", f"Send {_FORM}.", status=415)
    # What stands in the address is not looked at: secrets there end up in logs (ATK-O10).
    pairs = parse_form(await read_body(headers, request.receive, _LIMITS))
    if pairs is None:
        return refused("invalid_request", "The form cannot be read.")
    return await answer(ehr, TokenRequest(pairs, tuple(values(headers, b"authorization"))), caller)


def _rendered(decided: Decided) -> Response:
    if decided.status == 204:
        return Response(status_code=204, headers=_NEVER_STORED)
    return _json(decided.status, decided.body, dict(decided.headers))


def _json(status: int, body: Mapping[str, Any], headers: Mapping[str, str] | None = None) -> Response:
    return Response(json.dumps(dict(body)), status, media_type="application/json", headers={**_NEVER_STORED, **(headers or {})})


def _document(request: Request, body: Mapping[str, Any]) -> Response:
    """What anybody may read from anywhere, like the discovery documents that name it."""
    if request.method == "OPTIONS":
        return Response(status_code=204, headers={"Access-Control-Allow-Origin": "*", "Access-Control-Allow-Methods": "GET, HEAD"})
    if request.method not in ("GET", "HEAD"):
        return _json(405, {"error": "invalid_request", "error_description": "Send a GET."}, {"Allow": "GET, HEAD, OPTIONS"})
    headers = {"Access-Control-Allow-Origin": "*", "Cache-Control": f"max-age={KEPT}", "X-Content-Type-Options": "nosniff"}
    return Response("" if request.method == "HEAD" else json.dumps(dict(body)), media_type="application/json", headers=headers)


async def _cors(request: Request, response: Response, edge: OAuthEdge) -> None:
    """For the web origins of registered clients, and never with credentials (ATK-O29, A2.17)."""
    response.headers["Vary"] = "Origin"
    origins = values(request.scope["headers"], b"origin")
    if len(origins) != 1 or not await edge.allowed_origin(origins[0]):
        return
    response.headers["Access-Control-Allow-Origin"] = origins[0]
    # Not WWW-Authenticate: openid-client then tells its developer of a challenge in place of the error in the body.
    response.headers["Access-Control-Expose-Headers"] = "Retry-After"
    if request.method == "OPTIONS":
        response.headers["Access-Control-Allow-Methods"] = "POST"
        response.headers["Access-Control-Allow-Headers"] = "authorization, content-type, accept"
        response.headers["Access-Control-Max-Age"] = "600"
