"""What both transports have in common."""

from __future__ import annotations

import ssl
from collections.abc import Iterable
from functools import cache

from gateway.adapters.ehr.base import TransportError

CONNECTIONS = 64
"""To one EHR at the same time. More than that waits here, within its deadline."""

IDLE = 4.0
"""Seconds that an unused connection is kept: less than the shortest usual time of servers (uvicorn 5 s, Jetty 30 s, nginx 75 s).

A connection that the server closes while a write is on its way makes the outcome of that write unknown.
"""


@cache
def system_trust() -> ssl.SSLContext:
    """The context for https when none is given: TLS 1.2 or later, trusting what the system trusts. Reading that takes 50 ms, so once."""
    return ssl.create_default_context()


def joined(headers: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Names in lower case; repeated ones joined by commas (RFC 9110 5.3)."""
    found: dict[str, str] = {}
    for name, value in headers:
        key = name.lower()
        found[key] = f"{found[key]}, {value}" if key in found else value
    return found


def over(cap: int) -> TransportError:
    """The body is larger than `cap` bytes (FAULT-U16, FAULT-U17)."""
    return TransportError(f"more than {cap} bytes", sent=True, too_large=True)
