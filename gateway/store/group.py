"""Group commit: what several tasks of a process want to write at the same moment goes into one transaction, with one fsync for all.

On SQLite, which has one writer at a time; on PostgreSQL each goes its own way, side by side. Nobody is told that it is stored before the
transaction of its group is durable.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.errors import Unavailable
from gateway.store.base import Database

T = TypeVar("T")
Work = Callable[[AsyncConnection], Awaitable[T]]

LARGEST = 64
"""Writes in one transaction: the first of them waits for the last."""


@dataclass(frozen=True, slots=True)
class _Waiting:
    work: Work[Any]
    done: asyncio.Future[Any]


class Group:
    """Writes for one database. One for each event loop."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._waiting: list[_Waiting] = []
        self._task: asyncio.Task[None] | None = None

    async def write(self, work: Work[T]) -> T:
        """Run `work` in a transaction and give its result once that is durable. Raises what `work` raises, and Unavailable as `Database.write`.

        What `work` changed before it raised is undone. It may be run a second time, when another one of its group failed.
        """
        if not self._database.is_sqlite:
            return await self._alone(work)
        waiting = _Waiting(work, asyncio.get_running_loop().create_future())
        self._waiting.append(waiting)
        if self._task is None:
            self._task = asyncio.create_task(self._run())
        return await waiting.done

    async def _alone(self, work: Work[T]) -> T:
        async with self._database.write() as connection:
            return await work(connection)

    async def _run(self) -> None:
        try:
            while self._waiting:
                group, self._waiting = self._waiting[:LARGEST], self._waiting[LARGEST:]
                await self._together(group)
        finally:
            self._task = None

    async def _together(self, group: list[_Waiting]) -> None:
        """All at once; when one of them raises, each by itself, so that only that one fails."""
        try:
            async with self._database.write() as connection:
                results = [await one.work(connection) for one in group]
        except Unavailable as error:  # nobody's fault, and trying each would wait as long for each
            for one in group:
                _settle(one, error=error)
            return
        except Exception as error:  # noqa: BLE001  # whatever it is, it belongs to whoever asked for that write
            if len(group) == 1:
                _settle(group[0], error=error)
                return
            for one in group:
                await self._together([one])
            return
        for one, result in zip(group, results, strict=True):
            _settle(one, result)


def _settle(one: _Waiting, result: Any = None, *, error: Exception | None = None) -> None:
    if one.done.done():  # whoever asked has gone away
        return
    if error is not None:
        one.done.set_exception(error)
    else:
        one.done.set_result(result)
