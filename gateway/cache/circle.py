"""The processes that remember, and how all of them forget together. Names in, names out: what depends on a name is none of its business.

A process may use what it remembers only while

- it is a *member*: a row in the database says so, which it has seen in its last successful poll, and
- less than `coherence` has passed since that poll began, and since the poll before it when it ended.

Each poll also reads the intents (`store.invalidation`): their names are dropped. So whatever a writer leaves in the database for `coherence` is
known to everybody who remembers, or he remembers nothing; that alone carries the promise (ADR 0016). To have to wait for it at every write would
be slow, so the writer reads the members once its intent is committed, tells them the names over the board, and waits until each has dropped
them and said so, at most as long. One that does not is marked in its row, finds that in its next poll and is out; it is not waited for any more
once everybody must have found it.

The lease is in the database and not in Redis: one that Redis forgot (flushed, restarted, evicted) would still be believed by who holds it.

Tokens may be remembered the same way: `memory = circle.memory(bytes)`; at a request `memory.get(digest)` if `circle.trusted`, else
`mark = memory.mark`, read the row, `memory.put(digest, row, names=(a name each for its grant, client and account), mark=mark, ...)`; whoever
takes access away does so within `Cache.touching` of those names, and answers when it is left.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Awaitable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec
import structlog

from gateway.cache.board import Board
from gateway.cache.counts import Counts
from gateway.cache.remembered import Remembered
from gateway.errors import Unavailable
from gateway.store import invalidation
from gateway.store.base import Database

log = structlog.get_logger("gateway.cache")

_RETRY: Final = 0.5
"""Seconds between two attempts to listen."""
_LOOKS: Final = 4
"""How often a writer that waits looks whether somebody has left, within `coherence`."""
_APART: Final = 5
"""Times `coherence` for which who was left out stays out: a process that cannot keep up would make every write slow."""


class _Drop(msgspec.Struct, tag="drop", array_like=True, frozen=True):
    """These names changed. `to`: where to say that they are forgotten; "": nowhere."""

    to: str
    turn: int
    names: tuple[str, ...]


class _Gone(msgspec.Struct, tag="gone", array_like=True, frozen=True):
    """This member has forgotten what turn `turn` was about."""

    turn: int
    member: str


_decode = msgspec.msgpack.Decoder(_Drop | _Gone).decode
_encode = msgspec.msgpack.Encoder().encode


@dataclass(frozen=True, slots=True)
class Others:
    """Who else may remember something, by member id, and whether they are left out already. `known` False: it could not be read."""

    members: Mapping[str, bool] = field(default_factory=dict[str, bool])
    known: bool = True

    def __bool__(self) -> bool:
        return bool(self.members) or not self.known


@dataclass(slots=True)
class _Round:
    """One announcement: who has not answered yet."""

    waiting: set[str]
    done: asyncio.Event = field(default_factory=asyncio.Event)


class Circle:
    """One process's part in it. Without a memory it never becomes a member, but still waits for those who are."""

    def __init__(self, board: Board, database: Database, *, coherence: float, margin: float = 0.05) -> None:
        self._board, self._database, self._coherence, self._margin = board, database, coherence, margin
        self.counts = Counts()
        self.wanted = False
        """Whether there is anything to remember; set by who does. A process that never reads is waited for by nobody."""
        self._node = secrets.token_hex(8)
        self._memories: list[Remembered[Any, Any]] = []
        self._linked, self._link = False, 0  # and how often that began
        self._member, self._joined, self._over = "", float("inf"), ""
        self._until = float("-inf")  # what is remembered counts until then
        self._not_before = float("-inf")
        self._turn = 0
        self._rounds: dict[int, _Round] = {}
        self._saying: set[asyncio.Task[bool]] = set()

    # Who remembers -------------------------------------------------------------------------------------------------------------

    def memory(self, max_bytes: int) -> Remembered[Any, Any]:
        """A memory whose names are dropped with all others'. Use it only while `trusted`, and say that there is something `wanted`."""
        made: Remembered[Any, Any] = Remembered(max_bytes)
        self._memories.append(made)
        return made

    @property
    def trusted(self) -> bool:
        """Whether what is remembered counts now. To be asked at each use, after the request began."""
        return time.monotonic() < self._until

    def drop(self, names: Iterable[str]) -> None:
        """Here and now."""
        wanted = tuple(names)
        for memory in self._memories:
            self.counts.add("dropped", memory.drop(wanted))

    def polled(self, began: float, pending: Iterable[str], members: Mapping[str, bool]) -> None:
        """A poll that began then (monotonic) found these names in intents and these members."""
        sound = self._linked and began > self._joined and members.get(self._member) is False
        if not sound or time.monotonic() >= self._until:  # an intent may have come and gone unseen
            self._forget()
        else:
            self.drop(pending)
        self._until = began + self._coherence if sound else float("-inf")
        if began > self._joined and not sound and self._linked:
            log.info("cache-left-out")
            self._over, self._member, self._joined = self._member, "", float("inf")
            self._not_before = began + _APART * self._coherence

    async def tend(self) -> None:
        """Become a member when there is reason to; who found to be out says that nobody has to wait any more. Raises Unavailable."""
        if self._over:
            async with self._database.write() as connection:
                await invalidation.leave(connection, self._over)
            self._over = ""
        if self.wanted and self._linked and not self._member and time.monotonic() >= self._not_before:
            member = secrets.token_hex(16)
            async with self._database.write() as connection:
                await invalidation.join(connection, member)
            self._member, self._joined = member, time.monotonic()

    async def run(self) -> None:
        """Listen, until cancelled. While nothing can be heard this process remembers nothing, so that nobody has to wait for it."""
        try:
            while True:
                await self._board.listen(self._node, self._hears, self._heard)
                await self.leave()
                await asyncio.sleep(min(_RETRY, self._coherence))
        finally:
            self._forget()

    async def leave(self) -> None:
        """Remember nothing, and say so: nobody waits for this process from then on."""
        self._linked = False
        self._forget()
        member, self._member, self._joined = self._member, "", float("inf")
        if member:
            try:
                async with self._database.write() as connection:
                    await invalidation.leave(connection, member)
            except Unavailable:  # whoever waits for it in vain will see to it
                log.info("cache-leave-failed")

    def _forget(self) -> None:
        self._until = float("-inf")
        for memory in self._memories:
            memory.clear()

    def _hears(self) -> None:
        self._linked, self._link = True, self._link + 1

    def _heard(self, message: bytes) -> None:
        try:
            said: _Drop | _Gone = _decode(message)
        except msgspec.MsgspecError:
            log.warning("cache-message-broken")
            return
        match said:
            case _Gone(turn, member):
                self._gone(turn, member)
            case _Drop(to, _, _) if to == self._node:
                pass
            case _Drop(to, turn, names):
                self.drop(names)
                if to and self._member:
                    self._say(self._board.say(to, _encode(_Gone(turn, self._member))))

    def tell(self, names: tuple[str, ...]) -> None:
        """All others, without waiting: what is dropped then was true, and is only not wanted any more."""
        self._say(self._board.say("", _encode(_Drop("", 0, names))))

    def _say(self, saying: Awaitable[bool]) -> None:
        task = asyncio.ensure_future(saying)
        self._saying.add(task)
        task.add_done_callback(self._saying.discard)

    # Who writes ----------------------------------------------------------------------------------------------------------------

    async def others(self) -> Others:
        """Who else may remember something. Asked after the intent is committed: whoever becomes a member later finds that."""
        try:
            return Others({one.id: one.out for one in await invalidation.members(self._database.derive) if one.id != self._member})
        except Unavailable:
            return Others(known=False)

    async def told(self, names: tuple[str, ...], others: Others, since: float) -> None:
        """Until nobody uses anything that depends on these names: all others have forgotten it, or `coherence` has passed since the intent.

        `since`: when `others` was read (monotonic). The intent stays in the database until this returns. Does not raise.
        """
        if not others:
            return
        until = since + self._coherence + self._margin
        link = self._link
        if not others.known or not self._linked:  # nobody can be waited for by name, or be heard
            self.tell(names)
            self.counts.add("waited-for-all")
            await asyncio.sleep(max(0.0, until - time.monotonic()))
            return
        self._turn += 1
        turn, round_ = self._turn, _Round(set(others.members))
        self._rounds[turn] = round_
        try:
            said = await self._board.say("", _encode(_Drop(self._node, turn, names)))
            while round_.waiting and time.monotonic() < until:
                await self._wait(round_, until)
        finally:
            del self._rounds[turn]
        self.counts.add("waited-in-vain", bool(round_.waiting))
        if said and round_.waiting and self._linked and self._link == link:  # else it may have been said, and not been heard
            await self._give_up(round_.waiting, others)

    async def _wait(self, round_: _Round, until: float) -> None:
        """For the last answer, or for a while; then for who is still a member. Who left remembers nothing."""
        try:
            async with asyncio.timeout(min(self._coherence / _LOOKS, max(0.0, until - time.monotonic()))):
                await round_.done.wait()
        except TimeoutError:
            now = await self.others()
            if now.known:
                round_.waiting &= set(now.members)

    def _gone(self, turn: int, member: str) -> None:
        if round_ := self._rounds.get(turn):
            round_.waiting.discard(member)
            if not round_.waiting:
                round_.done.set()

    async def _give_up(self, silent: Iterable[str], others: Others) -> None:
        """Leave out who says nothing; strike out who was left out for `coherence` already, and so must know."""
        log.info("cache-member-silent", members=len(set(silent)))
        try:
            async with self._database.write() as connection:
                await invalidation.leave(connection, *(one for one in silent if others.members.get(one)))
                await invalidation.leave_out(connection, *(one for one in silent if not others.members.get(one)))
        except Unavailable:
            log.info("cache-member-not-left-out")
