"""`GET /launcher/trials/{id}/events?after=N`: what an app does in a developer's trial, for the launcher's page and for test harnesses.

Who may: whoever has the id, 256 random bits that only who started the trial was told. Where the launcher is off the address is not there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, Protocol

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse

from gateway.smart.server.trial import Seen, Trial

EVENTS = "/launcher/trials/{trial_id}/events"
_HEADERS = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer"}
_DIGITS = 9


class SeesTrials(Protocol):
    """smart.server.trials.Trials."""

    async def named(self, trial_id: str) -> Trial | None:
        """The trial, while it lives."""
        ...

    async def seen(self, trial_id: str, after: int = 0) -> Sequence[Seen]:
        """What was seen of it, beyond a number, in order."""
        ...


def router(trials: SeesTrials) -> APIRouter:
    """The route."""
    routes = APIRouter(include_in_schema=False)

    async def events(request: Request, trial_id: str) -> Response:
        after = request.query_params.get("after", "0")
        if not (after.isascii() and after.isdecimal() and len(after) <= _DIGITS):
            return _json(400, {"error": "invalid_request", "error_description": "after: a number of an event, or 0."})
        if await trials.named(trial_id) is None:
            return _json(404, {"error": "not_found"})
        return _json(200, {"events": [_shown(one) for one in await trials.seen(trial_id, int(after))]})

    routes.add_api_route(EVENTS, events, methods=["GET"], response_model=None)
    return routes


def _shown(one: Seen) -> dict[str, Any]:
    return asdict(one) | {"at": one.at.isoformat(), "ms": round(one.ms, 1)}


def _json(status: int, body: Any) -> Response:
    return JSONResponse(body, status, _HEADERS)
