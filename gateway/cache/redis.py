"""A cache in Redis or Valkey, shared by all processes. It may be down, stopped, flushed or full at any time (FAULT-R1 to R5).

Commands go over connections that this module keeps itself, for three reasons. One deadline holds for a whole operation, connecting included. A
connection whose reply was not read (a deadline, a cancelled request) is closed and never used again, so that nobody gets another's reply. And
each connection knows the run of the server that it leads to: the run id is part of every generation, so that a Redis that restarted from an old
snapshot, or a replica that was promoted before it had the last deletions, brings back nothing that anybody will look up.
"""

from __future__ import annotations

import asyncio
import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import structlog
from redis.asyncio.connection import AbstractConnection, ConnectionPool
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import OutOfMemoryError, RedisError, ResponseError

from gateway.cache.breaker import Breaker
from gateway.cache.deadline import Deadline
from gateway.errors import ConfigError

log = structlog.get_logger("gateway.cache")

_TOKEN = re.compile(rb"[0-9a-f]{16}")
_GENERATION_LIFE = 86400
"""Seconds after which a generation ends by itself: the day is the longest life of a value (policy.LONGEST)."""
_LINKS = 16
"""Connections at most. A burst of cold reads that each opened its own would take longer over that than the deadline allows."""


@dataclass(slots=True)
class _Link:
    """A connection, and the run of the server behind it."""

    connection: AbstractConnection
    run: str


class RedisStore:
    """A CacheStore at a `redis://`, `rediss://` or `unix://` URL. `timeout` bounds each operation in seconds, connecting included.

    The Redis user needs GET, MGET, SET, UNLINK, PING and INFO, and what `redis_board` needs. Values in Redis are sealed by the caller; the names
    of generations hold ids of patients as the EHR numbers them, so its memory, logs and network are to be protected like the EHR's.
    """

    def __init__(self, url: str, *, timeout: float = 0.1, breaker: Breaker | None = None) -> None:
        try:
            options: dict[str, Any] = {"socket_timeout": timeout, "socket_connect_timeout": timeout, "retry": Retry(NoBackoff(), 0), "protocol": 2}
            self._factory: ConnectionPool = ConnectionPool.from_url(url, **options)  # pyright: ignore[reportUnknownMemberType]
        except ValueError as error:
            raise ConfigError("The Redis URL cannot be read.", where="redis", fix="redis://host:6379/0, rediss://... or unix:///path") from error
        self._timeout = timeout
        self._breaker = breaker or Breaker()
        self._idle: list[_Link] = []
        self._slots = asyncio.Semaphore(_LINKS)
        self._closed = False
        self._full = False

    async def generations(self, names: Sequence[str]) -> tuple[str, ...] | None:
        """The current token for each name, as one server run gave them; missing ones are made with SET NX. None: go uncached."""
        found = await self._do(self._generations, names) if self._breaker.allows() else None
        return found or None

    async def get(self, key: str) -> bytes | None:
        """The value, or None."""
        return await self._do(self._get, key) if self._breaker.allows() else None

    async def put(self, key: str, value: bytes, life: float) -> None:
        """Keep it, when there is room."""
        if life > 0 and self._breaker.allows():
            await self._do(self._put, key, value, life)

    async def renew(self, names: Sequence[str]) -> bool:
        """Delete these. True when Redis confirmed it. Tried while the breaker is open too: a write that is not confirmed has to wait."""
        return bool(names) and await self._do(self._unlink, names) is not None

    async def publish(self, channel: str, message: bytes) -> bool:
        """Hand a message over. True when Redis took it. Tried while the breaker is open too, as `renew`."""
        return await self._do(self._publish, channel, message) is not None

    async def connection(self) -> AbstractConnection | None:
        """A connection for the caller alone, who closes it; None when Redis does not answer."""
        try:
            async with Deadline(self._timeout):
                return (await self._connect()).connection
        except (RedisError, OSError, TimeoutError):
            return None

    async def ping(self) -> bool:
        """Whether Redis answers now."""
        return await self._do(self._ping) is not None

    async def close(self) -> None:
        """Close the connections; operations under way close theirs."""
        self._closed = True
        idle, self._idle = self._idle, []
        for link in idle:
            await link.connection.disconnect()

    # Operations over one link: each gives None for "no", and raises RedisError only for a server that fails ----------------------

    async def _generations(self, link: _Link, names: Sequence[str]) -> tuple[str, ...]:
        found = _tokens((await _call(link, ("MGET", *names)))[0], names)
        if missing := [name for name, token in found.items() if token is None]:
            made = [("SET", name, secrets.token_hex(8), "NX", "EX", _GENERATION_LIFE) for name in missing]
            *done, again = await _call(link, *made, ("MGET", *names))  # read again: another reader's may have been first
            self._note_full(done)
            found = _tokens(again, names)
        strange = [name for name, token in found.items() if not _is_token(token)]
        if strange and not self._full:  # a value of another kind or shape (FAULT-R5): deleted, and made anew by the next reader
            await _call(link, ("UNLINK", *strange))
        return () if strange else tuple(f"{found[name].decode()}@{link.run}" for name in names)

    async def _get(self, link: _Link, key: str) -> bytes | None:
        (found,) = await _call(link, ("GET", key))
        if isinstance(found, ResponseError):  # WRONGTYPE (FAULT-R5)
            await _call(link, ("UNLINK", key))
            return None
        return found

    async def _put(self, link: _Link, key: str, value: bytes, life: float) -> bool:
        done = await _call(link, ("SET", key, value, "PX", max(1, int(life * 1000))))
        self._note_full(done)
        return True

    async def _unlink(self, link: _Link, names: Sequence[str]) -> bool:
        (done,) = await _call(link, ("UNLINK", *names))
        if isinstance(done, ResponseError):
            raise done
        return True

    async def _publish(self, link: _Link, channel: str, message: bytes) -> bool:
        (done,) = await _call(link, ("PUBLISH", channel, message))
        if isinstance(done, ResponseError):
            raise done
        return True

    async def _ping(self, link: _Link) -> bool:
        (done,) = await _call(link, ("PING",))
        if isinstance(done, ResponseError):
            raise done
        return True

    def _note_full(self, replies: Sequence[Any]) -> None:
        """FAULT-R4: a full Redis is served around, and said when it begins and when it ends."""
        full = any(isinstance(reply, OutOfMemoryError) for reply in replies)
        if full != self._full and replies:
            (log.warning if full else log.info)("cache-full" if full else "cache-has-room")
            self._full = full

    # Links -------------------------------------------------------------------------------------------------------------------

    async def _do(self, operation: Any, *arguments: Any) -> Any:
        """The operation's result, or None when Redis did not give one in time."""
        link: _Link | None = None
        try:
            async with Deadline(self._timeout), self._slots:
                link = self._idle.pop() if self._idle else await self._connect()
                result = await operation(link, *arguments)
        except (RedisError, OSError, TimeoutError) as error:
            await self._lost(link, error)
            return None
        except BaseException:  # a cancelled request: its reply may still come
            await _drop(link)
            raise
        if self._closed:
            await _drop(link)
        else:
            self._idle.append(link)
        if self._breaker.succeeded():
            log.info("cache-up")
        return result

    async def _connect(self) -> _Link:
        connection = self._factory.make_connection()
        try:
            await connection.connect()
            await connection.send_command("INFO", "server", check_health=False)
            return _Link(connection, _run_id(await connection.read_response()))
        except BaseException:
            await connection.disconnect(nowait=True)
            raise

    async def _lost(self, link: _Link | None, error: Exception) -> None:
        await _drop(link)
        idle, self._idle = self._idle, []  # they lead to the same server
        for other in idle:
            await _drop(other)
        if self._breaker.failed():
            log.warning("cache-down", error=type(error).__name__)


async def _call(link: _Link, *commands: tuple[Any, ...]) -> list[Any]:
    """Send all, then read all. A reply that is an error stands in the list as one."""
    await link.connection.send_packed_command(link.connection.pack_commands(commands), check_health=False)
    replies: list[Any] = []
    for _ in commands:
        try:
            replies.append(await link.connection.read_response(disable_decoding=True))
        except ResponseError as error:
            replies.append(error)
    return replies


async def _drop(link: _Link | None) -> None:
    if link is not None:
        await link.connection.disconnect(nowait=True)


def _tokens(reply: Any, names: Sequence[str]) -> dict[str, Any]:
    """What MGET gave for each name: bytes or None. Raises the error that it gave instead."""
    if isinstance(reply, ResponseError):
        raise reply
    return dict(zip(names, reply, strict=True))


def _is_token(value: Any) -> bool:
    return isinstance(value, bytes) and _TOKEN.fullmatch(value) is not None


def _run_id(info: Any) -> str:
    """The random id of this run of the server (INFO, field run_id). Raises RedisError when it is not told: then nothing may be cached."""
    text = info.decode("utf-8", "replace") if isinstance(info, bytes) else str(info)
    found = re.search(r"^run_id:([0-9a-f]{8,})", text, re.MULTILINE)
    if found is None:
        raise RedisError("INFO server gives no run_id")
    return found[1][:16]
