"""`/brands`: the user-access brands of this gateway, for anybody, from any web page, with a weak ETag (SMART App Launch 2.2, A13.75)."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any, cast

from fastapi import APIRouter, Request, Response

from gateway.api.asgi import values
from gateway.fhir.brands import Brands

LIFE = 3600
"""Seconds that a copy may be used unasked: brands change when the configuration does."""
_EVERY = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]
_CORS = {"Access-Control-Allow-Origin": "*", "Access-Control-Expose-Headers": "ETag"}


def router(brands: Brands) -> APIRouter:
    """The route /brands."""
    routes = APIRouter(include_in_schema=False)
    headers = {**_CORS, "ETag": brands.etag, "Cache-Control": f"public, max-age={LIFE}", "X-Content-Type-Options": "nosniff"}

    async def bundle(request: Request) -> Response:
        if request.method == "OPTIONS":
            asked = {"Access-Control-Allow-Methods": "GET, HEAD", "Access-Control-Allow-Headers": "if-none-match, accept"}
            return Response(status_code=204, headers={**_CORS, **asked, "Access-Control-Max-Age": "600"})
        if request.method not in ("GET", "HEAD"):
            return Response(status_code=405, headers={"Allow": "GET, HEAD, OPTIONS"})
        if _is_known(request, brands.etag):
            return Response(status_code=304, headers=headers)
        return Response(b"" if request.method == "HEAD" else brands.body, media_type="application/fhir+json", headers=headers)

    routes.add_api_route("/brands", bundle, methods=_EVERY, response_model=None)
    return routes


def _is_known(request: Request, etag: str) -> bool:
    """If-None-Match compares weakly (RFC 9110 section 13.1.2)."""
    opaque = etag.removeprefix("W/")
    asked = [part.strip().removeprefix("W/") for value in values(request.scope["headers"], b"if-none-match") for part in value.split(",")]
    return "*" in asked or opaque in asked


def changed_at(file: Path, etag: str, clock: Callable[[], datetime]) -> datetime:
    """When the brands became what they are now: kept in `file`, so that a restart is no change (Bundle.timestamp)."""
    moment = clock().replace(microsecond=0)
    try:
        kept = cast("dict[str, Any]", json.loads(file.read_text("utf-8")))
        if kept["etag"] == etag:
            return datetime.fromisoformat(kept["changed_at"])
    except (OSError, ValueError, KeyError, TypeError):
        pass  # the first time, or nothing that could be read: it changes now
    beside = file.with_suffix(".new")
    beside.write_text(json.dumps({"etag": etag, "changed_at": moment.isoformat()}), "utf-8")
    beside.replace(file)
    return moment
