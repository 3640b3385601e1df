"""Small ASGI tools shared by the HTTP edges: read a request within limits, send an answer, tell the caller's address."""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import Awaitable, Callable, Iterable, MutableMapping, Sequence
from dataclasses import dataclass
from typing import Any

from gateway.errors import BadRequest, RequestTimeout, TooLarge, UnsupportedMedia

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Headers = Sequence[tuple[bytes, bytes]]


class ClientGone(Exception):
    """The caller hung up before the request was whole."""


@dataclass(frozen=True, slots=True)
class Limits:
    """`cap` in bytes of body, `deadline` in seconds for the whole body (FAULT-S11, S14)."""

    cap: int = 16 * 1024 * 1024
    deadline: float = 10.0


def values(headers: Headers, name: bytes) -> list[str]:
    """Every value of a header, as sent. Names are lower case in ASGI."""
    return [value.decode("latin-1") for key, value in headers if key == name]


def value(headers: Headers, name: bytes) -> str:
    """The one value of a header, or "". Raises BadRequest when it was sent twice with different values."""
    found = set(values(headers, name))
    if len(found) > 1:
        raise BadRequest(f"The header {name.decode()} was sent more than once.", reason="header-repeated")
    return found.pop() if found else ""


async def read_body(headers: Headers, receive: Receive, limits: Limits) -> bytes:
    """The whole body. Raises TooLarge (413), UnsupportedMedia (415), RequestTimeout (408) or ClientGone."""
    announced = value(headers, b"content-length")
    if announced.isdecimal() and int(announced) > limits.cap:
        raise TooLarge(reason="body-too-large")
    if value(headers, b"content-encoding").lower() not in ("", "identity"):  # a small body could grow without end (FAULT-S12)
        raise UnsupportedMedia("Send the body without a content encoding.", reason="content-encoding")
    chunks: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(limits.deadline):
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise ClientGone
                chunk: bytes = message.get("body", b"")
                size += len(chunk)
                if size > limits.cap:
                    raise TooLarge(reason="body-too-large")
                chunks.append(chunk)
                if not message.get("more_body", False):
                    return b"".join(chunks)
    except TimeoutError:
        raise RequestTimeout(reason="body-too-slow") from None


async def respond(send: Send, status: int, headers: Iterable[tuple[str, str]], body: bytes, *, head: bool = False) -> None:
    """One whole answer."""
    raw = [(name.lower().encode("latin-1"), text.encode("latin-1")) for name, text in headers]
    if status not in (204, 304):
        raw.append((b"content-length", str(len(body)).encode()))
    await send({"type": "http.response.start", "status": status, "headers": raw})
    await send({"type": "http.response.body", "body": b"" if head or status in (204, 304) else body})


def client_address(scope: Scope, trusted: Sequence[ipaddress.IPv4Network | ipaddress.IPv6Network]) -> str:
    """The caller's address: the peer, or what a trusted proxy says in the last X-Forwarded-For entry that is not itself trusted (ATK-O31)."""
    peer = (scope.get("client") or ("", 0))[0]
    if not _within(peer, trusted):
        return peer
    forwarded = ",".join(values(scope["headers"], b"x-forwarded-for")).split(",")
    for candidate in reversed([part.strip() for part in forwarded if part.strip()]):
        if not _within(candidate, trusted):
            return candidate if _is_address(candidate) else peer
    return peer


def _within(address: str, networks: Sequence[ipaddress.IPv4Network | ipaddress.IPv6Network]) -> bool:
    return _is_address(address) and any(ipaddress.ip_address(address) in network for network in networks)


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True
