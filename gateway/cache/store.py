"""The port to a cache: values with a life, and generations. See `redis` and `memory`; both pass tests/contract/test_cache_store.py."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol


class CacheStore(Protocol):
    """A cache may forget anything at any time and may fail at any time. No method raises: a failure is a miss, or False.

    A generation is the random token that names the current cache life of one patient's data, one type or one EHR. A change of generation is a
    delete, never a set: a full Redis refuses SET. A missing one is made by the next reader.
    """

    async def generations(self, names: Sequence[str]) -> tuple[str, ...] | None:
        """The current token for each name, missing ones made with set-if-absent; None when any could not be had (go uncached)."""
        ...

    async def get(self, key: str) -> bytes | None:
        """The value, or None. An undecodable value is deleted and is a miss (FAULT-R5)."""
        ...

    async def put(self, key: str, value: bytes, life: float) -> None:
        """Keep `value` for `life` seconds, if that is possible."""
        ...

    async def renew(self, names: Sequence[str]) -> bool:
        """Delete these generations. True only when the store confirmed it."""
        ...

    async def ping(self) -> bool:
        """Whether the store answers now."""
        ...

    async def close(self) -> None:
        """Give the connections back."""
        ...
