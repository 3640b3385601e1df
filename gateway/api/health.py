"""Is it alive, and can it do its work? For load balancers and container platforms; nothing here needs a token or says anything about patients."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping

from fastapi import APIRouter
from starlette.responses import JSONResponse

Probe = Callable[[], Awaitable[bool]]
"""True when the part answers. Does not raise."""


def router(*, needed: Mapping[str, Probe], wanted: Mapping[str, Probe]) -> APIRouter:
    """`/healthz` and `/readyz`. `needed` parts decide about readiness; without a `wanted` one it is "degraded": the gateway works, slower.

    That is FAULT-R1's word for a Redis that is away. EHRs are in neither: one that is down is its own 502s, and no reason to take the gateway
    out of service for the others.
    """
    routes = APIRouter()

    @routes.get("/healthz")
    async def healthz() -> JSONResponse:
        return _answer(200, {"status": "ok"})

    @routes.get("/readyz")
    async def readyz() -> JSONResponse:
        parts = {name: await probe() for name, probe in {**needed, **wanted}.items()}
        ready = all(parts[name] for name in needed)
        shown = {name: "ok" if up else "down" for name, up in parts.items()}
        status = "unavailable" if not ready else "ok" if all(parts.values()) else "degraded"
        return _answer(200 if ready else 503, {"status": status, "parts": shown})

    return routes


def _answer(status: int, body: Mapping[str, object]) -> JSONResponse:
    return JSONResponse(dict(body), status, headers={"Cache-Control": "no-store"})
