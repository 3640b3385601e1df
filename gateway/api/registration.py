"""The registration endpoint (RFC 7591) and, below it, what a client does with its own registration (RFC 7592). JSON in, JSON out.

Where the operator does not offer it, there is no such address.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol

from fastapi import APIRouter, Request, Response

from gateway.api.asgi import Limits, read_body, value, values
from gateway.api.oauth import OAuthEdge, answered
from gateway.errors import BadRequest
from gateway.smart.record import Caller
from gateway.smart.server.answers import Decided, refused

_LIMITS = Limits(cap=64 * 1024)
_EVERY = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]
_JSON = "application/json"
_ACTIONS = {"GET": "client-read", "PUT": "client-update", "DELETE": "client-delete"}
_ABSENT = Decided(404, {"error": "not_found", "error_description": "There is no such address."})


class Registers(Protocol):
    """smart.server.clients.own_registration.OwnRegistrations."""

    @property
    def offered(self) -> bool:
        """Whether there are such endpoints at all."""
        ...

    async def register(self, ehr: str, metadata: Any, authorization: Sequence[str], caller: Caller) -> Decided:
        """A new client."""
        ...

    async def read(self, ehr: str, client_id: str, authorization: Sequence[str], caller: Caller) -> Decided:
        """What is registered."""
        ...

    async def update(self, ehr: str, client_id: str, metadata: Any, authorization: Sequence[str], caller: Caller) -> Decided:
        """Something else instead."""
        ...

    async def delete(self, ehr: str, client_id: str, authorization: Sequence[str], caller: Caller) -> Decided:
        """Nothing any more."""
        ...


def router(registrations: Registers, edge: OAuthEdge) -> APIRouter:
    """Routes /auth/{ehr}/register and /auth/{ehr}/register/{client_id}."""
    routes = APIRouter(include_in_schema=False)

    async def register(request: Request, ehr: str) -> Response:
        return await answered(request, ehr, "client-register", edge, lambda caller: _registered(request, ehr, registrations, edge, caller))

    async def manage(request: Request, ehr: str, client_id: str) -> Response:
        async def managed(caller: Caller) -> Decided:
            return await _managed(request, ehr, client_id, registrations, edge, caller)

        return await answered(request, ehr, _ACTIONS.get(request.method, "client-read"), edge, managed)

    routes.add_api_route("/auth/{ehr}/register", register, methods=_EVERY, response_model=None)
    routes.add_api_route("/auth/{ehr}/register/{client_id}", manage, methods=_EVERY, response_model=None)
    return routes


async def _registered(request: Request, ehr: str, registrations: Registers, edge: OAuthEdge, caller: Caller) -> Decided:
    if not registrations.offered or ehr not in edge.ehrs:
        return _ABSENT
    if request.method != "POST":
        return _not_offered("POST")
    authorization = values(request.scope["headers"], b"authorization")
    return await _with_metadata(request, lambda metadata: registrations.register(ehr, metadata, authorization, caller))


async def _managed(request: Request, ehr: str, client_id: str, registrations: Registers, edge: OAuthEdge, caller: Caller) -> Decided:
    if not registrations.offered or ehr not in edge.ehrs:
        return _ABSENT
    authorization = values(request.scope["headers"], b"authorization")
    match request.method:
        case "GET" | "HEAD":
            return await registrations.read(ehr, client_id, authorization, caller)
        case "PUT":
            return await _with_metadata(request, lambda metadata: registrations.update(ehr, client_id, metadata, authorization, caller))
        case "DELETE":
            return await registrations.delete(ehr, client_id, authorization, caller)
        case _:
            return _not_offered("GET, PUT, DELETE")


def _not_offered(methods: str) -> Decided:
    return Decided(405, {"error": "invalid_request", "error_description": f"Send one of {methods}."}, headers=(("Allow", methods),))


async def _with_metadata(request: Request, answer: Callable[[Any], Awaitable[Decided]]) -> Decided:
    headers = request.scope["headers"]
    if value(headers, b"content-type").partition(";")[0].strip().lower() != _JSON:
        return refused("invalid_client_metadata", f"Send {_JSON}.", status=415)
    return await answer(_parsed(await read_body(headers, request.receive, _LIMITS)))


def _parsed(body: bytes) -> Any:
    """The JSON. A member twice would be read in one way here and in another by whoever looked at it before (RFC 8259 section 4)."""
    try:
        return json.loads(body, object_pairs_hook=_once, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise BadRequest("The body is no JSON.", reason="json-malformed") from error


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a member twice")
    return found


def _no_constant(text: str) -> Any:
    raise ValueError(text)
