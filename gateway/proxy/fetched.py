"""What one read or search brought back, after screening: the value that is cached. Bytes of resources are the EHR's own."""

from __future__ import annotations

import time

import msgspec


class Entry(msgspec.Struct, array_like=True, frozen=True):
    """One entry of a searchset: `resource` is the raw JSON of the resource, `mode` is match, include or outcome."""

    resource: bytes
    type: str
    id: str
    mode: str = "match"


class Fetched(msgspec.Struct, array_like=True, frozen=True):
    """`entries` for a search, `body` for a read. `link` is the EHR's next link relative to its base. `at` in epoch seconds."""

    at: float
    body: bytes = b""
    etag: str = ""
    last_modified: str = ""
    entries: tuple[Entry, ...] = ()
    link: str = ""
    total: int | None = None
    patients: tuple[str, ...] = ()
    life: float = 0.0  # seconds for which it is fresh (cache.policy.Keep)
    stale: float = 0.0  # seconds beyond that for which it may be given while the EHR fails

    @property
    def age(self) -> int:
        """Whole seconds since the EHR gave this."""
        return max(0, int(time.time() - self.at))


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Fetched).decode


def stamped(value: Fetched, life: float, stale: float) -> Fetched:
    """As it is kept."""
    return msgspec.structs.replace(value, life=life, stale=stale)


def again(value: Fetched, patients: tuple[str, ...]) -> Fetched:
    """The same, which the EHR said just now is unchanged."""
    return msgspec.structs.replace(value, at=time.time(), patients=patients)


def pack(value: Fetched) -> bytes:
    """For the cache."""
    return _encode(value)


def unpack(data: bytes) -> Fetched:
    """Raises msgspec.DecodeError or ValidationError (both ValueError) for what is no such value."""
    return _decode(data)
