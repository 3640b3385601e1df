"""What runs beside requests, and the process that does nothing else: the worker that delivers the inbox."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncGenerator, Coroutine
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from typing import Any

import structlog
from sqlalchemy.exc import SQLAlchemyError

from gateway import compose, local
from gateway.compose import Gateway
from gateway.config import Settings
from gateway.errors import Unavailable
from gateway.store import known_browsers, schema, trials, turns, upstream
from gateway.store import oauth as rows
from gateway.store.base import Database, now

log = structlog.get_logger("gateway.worker")

_PRUNE = 600.0
"""Seconds between two clean-ups of what can have no effect any more."""
_KEPT = timedelta(days=1)
"""Used codes and rotated tokens stay as long, so that a second use is seen."""
_IDLE = timedelta(hours=12)


def serve_forever(settings: Settings) -> None:
    """`gateway worker`: deliver until SIGTERM or Ctrl-C; what is on its way is finished first."""
    asyncio.run(_serve(settings))


async def _serve(settings: Settings) -> None:
    gateway = compose.gateway(settings)
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with running(gateway, deliver=False):
        log.info("delivering", pid=os.getpid())
        await gateway.worker.run(stop)


@asynccontextmanager
async def running(gateway: Gateway, *, deliver: bool) -> AsyncGenerator[None]:
    """Make or check the schema, repeat what a crash interrupted, then run everything that runs beside requests. Ends it all in good order.

    `deliver`: the inbox too, from within this process.
    """
    stop = asyncio.Event()
    try:
        await schema.prepare(gateway.state.database)
        await gateway.cache.recover()
        tasks = [_begun("cache", gateway.cache.run()), _begun("audit", gateway.state.audit.run()), _begun("prune", _prune(gateway.state))]
        worker = _begun("worker", gateway.worker.run(stop)) if deliver else None
        try:
            yield
        finally:
            stop.set()
            if worker:
                await asyncio.wait([worker])
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
    finally:
        await gateway.close()


def _begun(name: str, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
    task = asyncio.create_task(work, name=name)
    task.add_done_callback(_ended)
    return task


def _ended(task: asyncio.Task[None]) -> None:
    """None of them ends by itself. One that did leaves promises unkept: the process ends too, and whoever watches it starts another."""
    if task.cancelled() or (error := task.exception()) is None:
        return
    log.critical("background-failed", what=task.get_name(), exc_info=error)
    os.kill(os.getpid(), signal.SIGTERM)


async def _prune(state: local.State) -> None:
    database, clients = state.database, local.clients(state)
    while True:
        moment = now()
        try:
            await forget(database, moment)
            await clients.prune()
        except (Unavailable, SQLAlchemyError):
            log.warning("prune-failed")
        await asyncio.sleep(_PRUNE)


async def forget(database: Database, moment: datetime) -> None:
    """What can have no effect any more: every row that somebody without an account can leave, and more.

    In many short transactions: strangers can leave a million rows in an hour, and on SQLite everybody who writes waits for each.
    """
    more = True
    while more:
        async with database.write() as connection:
            more = await rows.prune(connection, now=moment, kept_until=moment - _KEPT, idle_since=moment - _IDLE)
    empty: tuple[str, ...] = ("",)
    while empty:
        async with database.read() as connection:  # to look through all that are in force takes a while, and nobody waits for a reader
            empty = await rows.empty_grants(connection, moment - _KEPT, after=empty[-1])
        async with database.write() as connection:
            await rows.forget_grants(connection, empty)
    async with database.write() as connection:
        await turns.prune(connection, moment=moment)
        await upstream.prune(connection, moment=moment)
        await trials.prune(connection, moment=moment)
        await known_browsers.prune(connection, moment=moment)
