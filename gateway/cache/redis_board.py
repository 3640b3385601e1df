"""The board over publish and subscribe of Redis or Valkey."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, cast

import structlog
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import RedisError

from gateway.cache.board import Heard
from gateway.cache.redis import RedisStore

log = structlog.get_logger("gateway.cache")

_CHANNEL: Final = "gw:told:"


class RedisBoard:
    """`quiet`: seconds without a word after which the link is tried with a PING; twice as long without an answer, it is lost.

    The Redis user needs PUBLISH and SUBSCRIBE on `gw:told:*`. Messages hold names of generations, as the keys do.
    """

    def __init__(self, store: RedisStore, *, quiet: float) -> None:
        self._store, self._quiet = store, quiet

    async def say(self, to: str, message: bytes) -> bool:
        """Publish it."""
        return await self._store.publish(_CHANNEL + to, message)

    async def listen(self, own: str, linked: Callable[[], None], heard: Heard) -> None:
        """Subscribe, on a connection of its own, until that fails."""
        connection = await self._store.connection()
        if connection is None:
            return
        try:
            await self._hear(connection, own, linked, heard)
        except (RedisError, OSError, TimeoutError) as error:
            log.info("cache-board-lost", error=type(error).__name__)
        finally:
            await connection.disconnect(nowait=True)

    async def _hear(self, connection: AbstractConnection, own: str, linked: Callable[[], None], heard: Heard) -> None:
        await connection.send_command("SUBSCRIBE", _CHANNEL, _CHANNEL + own, check_health=False)
        asked = False
        while True:
            reply = cast("list[Any] | None", await connection.read_response(disable_decoding=True, timeout=self._quiet))
            if reply is None and asked:
                raise TimeoutError
            asked = reply is None
            if reply is None:
                await connection.send_command("PING", check_health=False)
            elif reply[0] == b"subscribe" and reply[2] == 2:  # both channels
                linked()
            elif reply[0] == b"message":
                heard(reply[2])
