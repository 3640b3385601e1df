"""The serving process: the FHIR facade in front of FastAPI, and the HTTP server around both. Thin: `compose` builds, `worker` runs the rest."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import threading
import time
import uuid
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

import structlog
import uvicorn
from fastapi import FastAPI, Request
from starlette.exceptions import HTTPException
from starlette.responses import Response
from uvicorn.supervisors import Multiprocess

from gateway import compose, local, logs, worker
from gateway.api.asgi import client_address
from gateway.compose import Gateway
from gateway.config import Settings
from gateway.errors import ConfigError, FhirError, Unavailable
from gateway.http_heads import BoundedHeads
from gateway.sockets import listening
from gateway.web.people import exception_handlers

log = structlog.get_logger("gateway.app")

_HANGS = 30
"""Seconds without a sign of life after which a serving process is replaced. On a busy machine one needs more than uvicorn's five to start, and
would be killed over and over before it serves."""
_GRACE = 20  # seconds for requests under way after SIGTERM; a push waits ten at most


@dataclass(frozen=True, slots=True)
class AppFactory:
    """Makes the ASGI app within the server's own process and loop. A value, so that it can be handed to other processes.

    `parent`: the process that starts the others where several serve, else 0. Told by the parent itself: a child that asked would hear of another
    one when its own was killed while it was still importing.
    """

    settings: Settings
    parent: int = 0

    def __call__(self) -> Any:
        """The app."""
        logs.configure(self.settings.log_format)
        if self.parent:
            threading.Thread(target=_end_with, args=(self.parent,), daemon=True).start()
        return app(compose.gateway(self.settings), deliver=self.settings.with_worker)


def _end_with(parent: int) -> None:
    """A process whose parent was killed would serve on, unseen by whoever starts the next one."""
    while os.getppid() == parent:
        time.sleep(0.5)
    os.kill(os.getpid(), signal.SIGTERM)


def app(gateway: Gateway, *, deliver: bool = False) -> Any:
    """The ASGI app over what was composed. `deliver`: the inbox too, from within this process."""

    @asynccontextmanager
    async def lifespan(rest: FastAPI) -> AsyncGenerator[None]:
        del rest
        async with worker.running(gateway, deliver=deliver):
            log.info("ready", url=gateway.state.settings.public_url, ehrs=",".join(gateway.ehrs))
            yield

    # No documents: the framework's own pages would describe everything to anybody, and load scripts from elsewhere.
    rest = FastAPI(openapi_url=None, docs_url=None, redoc_url=None, lifespan=lifespan)
    for router in gateway.routers:
        rest.include_router(router)
    rest.mount("/static", gateway.pages.static(), name="static")
    _handle_errors(rest, gateway)
    return gateway.facade(rest)


def _handle_errors(rest: FastAPI, gateway: Gateway) -> None:
    """Whatever goes wrong outside FHIR and OAuth is a page with a sentence (never the framework's JSON, never a stack trace)."""
    pages = gateway.pages

    def address(request: Request) -> str:
        return client_address(request.scope, gateway.edge.trusted_proxies)

    async def absent(request: Request, error: HTTPException) -> Response:
        del request
        text = "The address is not complete, or the page has moved." if error.status_code == 404 else "The address is not meant to be used like that."
        return pages.render("refused.html", status=error.status_code, title="There is no such page", text=text, reason=f"http-{error.status_code}")

    async def refused(request: Request, error: FhirError) -> Response:
        del request
        response = pages.render("refused.html", status=error.status, title="That did not work", text=error.message, reason=error.reason)
        if error.retry_after is not None:
            response.headers["Retry-After"] = str(error.retry_after)
        return response

    async def failed(request: Request, error: Exception) -> Response:
        del request, error  # the server logs it: types and places, no messages (logs.without_messages)
        id_ = uuid.uuid4().hex
        log.error("page-failed", request_id=id_)
        text = "Something is not working here. Nothing was changed that you did not see. Please try again in a moment."
        return pages.render("refused.html", status=500, title="That did not work", text=text, reason=id_)

    handlers: dict[Any, Any] = {
        HTTPException: absent,
        FhirError: refused,
        Exception: failed,
        **exception_handlers(pages, gateway.state.audit.append, address),
    }
    for kind, handler in handlers.items():
        rest.add_exception_handler(kind, handler)


# The HTTP server -------------------------------------------------------------------------------------------------------------------------


def serve(settings: Settings) -> None:
    """`gateway serve`: until SIGTERM or Ctrl-C. Raises ConfigError for what is wrong before anything is served."""
    logs.configure(settings.log_format)
    listener = _listener(settings)
    settings = _with_port(settings, listener.getsockname()[1])
    asyncio.run(_check(settings))
    config = _config(settings)
    try:
        if settings.workers > 1:
            Multiprocess(config, sockets=[listener]).run()
        else:
            uvicorn.Server(config).run(sockets=[listener])
    except KeyboardInterrupt:
        log.info("stopped")


def _config(settings: Settings) -> uvicorn.Config:
    return uvicorn.Config(
        AppFactory(settings, os.getpid() if settings.workers > 1 else 0),
        factory=True,
        loop="uvloop",
        http=BoundedHeads,
        ws="none",
        lifespan="on",
        interface="asgi3",
        log_config=None,
        access_log=False,  # the record of accesses is the audit log
        server_header=False,
        proxy_headers=False,  # X-Forwarded-For is judged by api.asgi.client_address alone (ATK-O31)
        workers=settings.workers,
        timeout_worker_healthcheck=_HANGS,
        timeout_graceful_shutdown=_GRACE,
        ssl_certfile=settings.tls_cert,
        ssl_keyfile=str(settings.tls_key) if settings.tls_key else None,
    )


async def _check(settings: Settings) -> None:
    """Make or check the schema before the port answers anybody; a store that is down is told here and not in a log."""
    try:
        async with local.opened(settings):
            pass
    except Unavailable as error:
        raise ConfigError("The store does not answer", where="store", fix="start it, or run gateway doctor") from error


def _listener(settings: Settings) -> socket.socket:
    """Bound here, so that an address in use is one line, and every worker process shares it."""
    try:
        return listening(settings.host, settings.port)
    except OSError as error:
        raise ConfigError(
            f"{settings.listen} cannot be listened on ({error.strerror})", where="listen", fix="choose another port, or end what uses this one"
        ) from error


def _with_port(settings: Settings, port: int) -> Settings:
    """Port 0 is any free one: what was said with 0 now says which."""
    if settings.port:
        return settings
    return replace(settings, listen=f"{settings.listen.rpartition(':')[0]}:{port}", public_url=settings.public_url.removesuffix(":0") + f":{port}")
