"""Commands that work on the state of this machine: opened for one piece of work, and closed again."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import TypeVar

from gateway import local
from gateway.cli.fixes import explaining
from gateway.config import Settings
from gateway.local import State

T = TypeVar("T")


def with_state(settings: Settings, work: Callable[[State], Awaitable[T]], flags: Mapping[str, str]) -> T:
    """What `work` makes of it. `flags`: how the command calls what may be wrong (`fixes`)."""

    async def do() -> T:
        async with local.opened(settings) as state:
            return await work(state)

    with explaining(flags):
        return asyncio.run(do())
