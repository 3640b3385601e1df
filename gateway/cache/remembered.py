"""What one process remembers: the first level of the cache. No I/O; whether it may be used now is said by `circle`."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")

_DROPS: Final = 20_000
"""Names whose last drop is known. What began before the oldest of them is not kept: it may be about a name that nobody knows of any more."""


@dataclass(frozen=True, slots=True)
class _Entry(Generic[V]):
    value: V
    size: int
    names: tuple[str, ...]
    until: float


class Remembered(Generic[K, V]):
    """At most `max_bytes` of values, each of which depends on names; what was used longest ago goes first. 0: nothing is kept.

    `mark` before whatever a value is made of is read, `put` afterwards with the names that it depends on, which may be known only then. A name
    that was dropped in between has changed, and the value is not kept. Dropping a name takes as long as it has values.
    """

    def __init__(self, max_bytes: int, *, clock: Callable[[], float] = time.time) -> None:
        self._max, self._clock = max_bytes, clock
        self._bytes = 0
        self._entries: OrderedDict[K, _Entry[V]] = OrderedDict()
        self._by_name: dict[str, set[K]] = {}
        self._turn = 0  # grows with each drop
        self._dropped: OrderedDict[str, int] = OrderedDict()  # name: the turn of its last drop, oldest first
        self._horizon = 0  # turns up to here are not known in full

    @property
    def mark(self) -> int:
        """This moment, for `put`."""
        return self._turn

    @property
    def size(self) -> int:
        """Bytes."""
        return self._bytes

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: K) -> V | None:
        """The value, or None when there is none or its time is over."""
        found = self._entries.get(key)
        if found is None:
            return None
        if found.until <= self._clock():
            self.forget(key)
            return None
        self._entries.move_to_end(key)
        return found.value

    def put(self, key: K, value: V, *, size: int, names: Iterable[str], mark: int, until: float) -> bool:
        """Remember it until then (epoch seconds). False when it is too large, or one of the names has been dropped since `mark`."""
        wanted = tuple(dict.fromkeys(names))
        self.forget(key)
        if size > self._max or mark < self._horizon or any(self._dropped.get(name, 0) > mark for name in wanted):
            return False
        self._entries[key] = _Entry(value, size, wanted, until)
        self._bytes += size
        for name in wanted:
            self._by_name.setdefault(name, set()).add(key)
        while self._bytes > self._max:
            self.forget(next(iter(self._entries)))
        return True

    def drop(self, names: Iterable[str]) -> int:
        """Forget whatever depends on one of these names, also what is just being read. Says how many values went."""
        self._turn += 1
        gone = 0
        for name in names:
            self._dropped[name] = self._turn
            self._dropped.move_to_end(name)
            for key in tuple(self._by_name.get(name, ())):
                self.forget(key)
                gone += 1
        while len(self._dropped) > _DROPS:
            _, self._horizon = self._dropped.popitem(last=False)
        return gone

    def forget(self, key: K) -> None:
        """This one."""
        entry = self._entries.pop(key, None)
        if entry is None:
            return
        self._bytes -= entry.size
        for name in entry.names:
            keys = self._by_name[name]
            keys.discard(key)
            if not keys:
                del self._by_name[name]

    def clear(self) -> None:
        """Everything, also what is just being read."""
        self._entries.clear()
        self._by_name.clear()
        self._dropped.clear()
        self._bytes = 0
        self._turn += 1
        self._horizon = self._turn
