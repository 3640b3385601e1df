"""`/auth/{ehr}/upstream/jwks`: the public keys that the gateway signs with at an EHR, for that EHR to fetch (SMART 2.2, jwks_uri)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from fastapi import APIRouter, Response
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse

LIFE = 300
"""Seconds that a copy may be used unasked: as long as an EHR may need to see a new key."""

Keys = Callable[[], Sequence[Mapping[str, Any]]]
"""The public JWKs as they are now."""


def router(keys: Mapping[str, Keys]) -> APIRouter:
    """The route, for the EHRs at which the gateway has keys."""
    routes = APIRouter(include_in_schema=False)

    async def published(ehr: str) -> Response:
        if ehr not in keys:
            raise HTTPException(404)
        headers = {"Cache-Control": f"public, max-age={LIFE}", "X-Content-Type-Options": "nosniff"}
        return JSONResponse({"keys": [dict(key) for key in keys[ehr]()]}, headers=headers)

    routes.add_api_route("/auth/{ehr}/upstream/jwks", published, methods=["GET", "HEAD"], response_model=None)
    return routes
