"""The processes that the kill test kills: the real server and the real worker, composed as the commands compose them.

They are forked from a process that has imported everything, because a hundred starts from nothing would be three minutes of imports. Added for
the test: kill points where the code has none of its own (a request on its way, half of an answer, half of a schema).
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import uvicorn
from sqlalchemy import event

from gateway import app, compose, config, worker
from gateway.adapters.ehr.base import Ehr, EhrCall, EhrReply
from gateway.compose import Gateway
from gateway.fhir.interaction import Kind
from gateway.http_heads import BoundedHeads
from gateway.ingest.points import point
from gateway.store import schema
from gateway.store.base import Database

LEASE = 1.5
"""Seconds: a killed worker's messages are taken over that soon. The default is ten."""


def serve(flags: Mapping[str, Any], environ: Mapping[str, str], port: int) -> None:
    """`gateway serve`, without a worker."""
    _begin(flags, environ)

    def make() -> Any:
        return _HalfAnswers(app.app(_composed(flags), deliver=False))

    uvicorn.run(make, factory=True, host="127.0.0.1", port=port, loop="uvloop", http=BoundedHeads, lifespan="on", interface="asgi3", log_config=None)


def deliver(flags: Mapping[str, Any], environ: Mapping[str, str]) -> None:
    """`gateway worker`."""
    _begin(flags, environ)
    asyncio.run(_deliver(flags))


def deliver_slowly(flags: Mapping[str, Any], environ: Mapping[str, str]) -> None:
    """`gateway worker` over a network where a connection for a PUT takes 0.3 seconds. It says in GATEWAY_TEST_REACHED when it waits for one."""
    _begin(flags, environ)
    connect = aiohttp.TCPConnector.connect

    async def slow(self: Any, req: Any, *more: Any) -> Any:
        if req.method == "PUT":
            Path(environ["GATEWAY_TEST_REACHED"]).touch()  # noqa: ASYNC240 (one file, for the test)
            await asyncio.sleep(0.3)
        return await connect(self, req, *more)

    aiohttp.TCPConnector.connect = slow
    asyncio.run(_deliver(flags))


async def _deliver(flags: Mapping[str, Any]) -> None:
    gateway = _composed(flags)
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    async with worker.running(gateway, deliver=False):
        await gateway.worker.run(stop)


def migrate(flags: Mapping[str, Any], environ: Mapping[str, str]) -> None:
    """The first start, on an empty store."""
    _begin(flags, environ)
    asyncio.run(_migrate(str(flags["store"])))


async def _migrate(url: str) -> None:
    database = Database(url.replace("sqlite://", "sqlite+aiosqlite://"))

    @event.listens_for(database.engine.sync_engine, "before_cursor_execute")
    def half(*arguments: Any) -> None:
        if "CREATE TABLE inbox_entry" in str(arguments[2]):
            point("during-migration")

    await schema.prepare(database)
    await database.close()


def _begin(flags: Mapping[str, Any], environ: Mapping[str, str]) -> None:
    os.environ.update(environ)
    log = os.open(Path(str(flags["data_dir"])).parent / "children.log", os.O_CREAT | os.O_APPEND | os.O_WRONLY, 0o600)
    os.dup2(log, 1)
    os.dup2(log, 2)


def _composed(flags: Mapping[str, Any]) -> Gateway:
    gateway = compose.gateway(config.load(environ={}, flags=flags, cwd=Path.cwd()).settings)
    ehrs: Any = gateway.ehrs
    for name, ehr in gateway.ehrs.items():
        ehrs[name] = _OnTheWay(ehr)
    gateway.worker._policy = replace(gateway.worker._policy, lease=LEASE, backoff=0.1)
    return gateway


class _OnTheWay:
    """An EHR with a kill point while a write is on its way there."""

    def __init__(self, ehr: Ehr) -> None:
        self._ehr = ehr

    def __getattr__(self, name: str) -> Any:
        return getattr(self._ehr, name)

    async def send(self, call: EhrCall) -> EhrReply:
        if call.kind not in (Kind.CREATE, Kind.UPDATE, Kind.TRANSACTION):
            return await self._ehr.send(call)
        sent = asyncio.create_task(self._ehr.send(call))
        await asyncio.sleep(0.004)
        point("after-send")
        return await sent


class _HalfAnswers:
    """An app with a kill point between the head of an answer and its body."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        async def halved(message: Any) -> None:
            await send(message)
            if message["type"] == "http.response.start" and scope["method"] in ("POST", "PUT"):
                point("during-ack")

        await self._inner(scope, receive, halved if scope["type"] == "http" else send)
