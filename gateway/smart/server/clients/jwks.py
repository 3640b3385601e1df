"""A client's keys: by value from its registration, or by URL under the rules of ATK-O27.

A URL is fetched over https only, from an address that is public and is the one connected to (so DNS rebinding gains nothing), without
redirects, within 5 seconds and 64 KiB, and kept no longer than its Cache-Control says (HL7@341).
"""

from __future__ import annotations

import asyncio
import ipaddress
import json
import socket
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, cast
from urllib.parse import urlsplit

import anyio
import httpx

from gateway.smart.http import life_of
from gateway.store.oauth_rows import Client

MAX_BYTES = 64 * 1024
MAX_SECONDS = 5.0
_MAX_CACHED = 1024  # URLs
_PAUSE = 5.0  # seconds before a set is asked for again that could not be had, or that lacks a key id

Resolve = Callable[[str, int], Awaitable[list[str]]]


@dataclass(frozen=True, slots=True)
class FetchedKeys:
    """A JWK Set and how many seconds it may be kept."""

    keys: Mapping[str, Any]
    life: int


class FetchJwks(Protocol):
    """Gets a client's key set. None when it cannot be had."""

    async def __call__(self, url: str) -> FetchedKeys | None:
        """Fetch it now."""
        ...


async def resolve(host: str, port: int) -> list[str]:
    """The addresses of a host name."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


def is_public(address: str) -> bool:
    """Whether an address belongs to the public internet: no private, loopback, link-local, multicast, reserved or translated one."""
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return False
    if isinstance(found, ipaddress.IPv6Address):
        inner = found.ipv4_mapped or found.sixtofour or (found.teredo[1] if found.teredo else None)
        if inner is not None:
            return is_public(str(inner))
        if found in ipaddress.ip_network("64:ff9b::/96"):  # NAT64 (RFC 6052)
            return is_public(str(ipaddress.IPv4Address(int(found) & 0xFFFFFFFF)))
    return found.is_global and not found.is_multicast


class JwksFetcher:
    """Fetches key sets. `allow_loopback` is for development: http and loopback addresses then count too, and nothing else."""

    def __init__(self, *, allow_loopback: bool = False, resolve: Resolve = resolve, transport: httpx.AsyncBaseTransport | None = None) -> None:
        self._allow_loopback, self._resolve, self._transport = allow_loopback, resolve, transport

    async def __call__(self, url: str) -> FetchedKeys | None:
        """The key set at this URL, or None."""
        try:
            with anyio.fail_after(MAX_SECONDS):
                return await self._fetch(url)
        except (OSError, ValueError, TimeoutError, RecursionError, httpx.HTTPError):
            return None

    async def _fetch(self, url: str) -> FetchedKeys | None:
        target = urlsplit(url)
        host, plain = target.hostname or "", target.scheme == "http"
        port = target.port or (80 if plain else 443)
        address = await self._address(host, port)
        if address is None or target.scheme not in ("https", "http") or (plain and not ipaddress.ip_address(address).is_loopback):
            return None
        netloc = f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
        pinned = target._replace(netloc=netloc, fragment="").geturl()
        headers = {"Host": target.netloc.rpartition("@")[2], "Accept": "application/json"}
        async with (
            httpx.AsyncClient(transport=self._transport, follow_redirects=False, trust_env=False, timeout=MAX_SECONDS) as client,
            client.stream("GET", pinned, headers=headers, extensions={"sni_hostname": host}) as response,
        ):
            return await _read(response)

    async def _address(self, host: str, port: int) -> str | None:
        """One address to connect to; None unless every address of the name is allowed."""
        addresses = await self._resolve(host, port)
        allowed = all(is_public(one) or (self._allow_loopback and ipaddress.ip_address(one).is_loopback) for one in addresses)
        return addresses[0] if addresses and allowed else None


async def _read(response: httpx.Response) -> FetchedKeys | None:
    if response.status_code != 200:  # a redirect is no answer
        return None
    body = b""
    async for chunk in response.aiter_bytes(MAX_BYTES):
        body += chunk
        if len(body) > MAX_BYTES:
            return None
    found = json.loads(body)
    if not isinstance(found, dict) or not isinstance(cast("dict[str, Any]", found).get("keys"), list):
        return None
    return FetchedKeys(cast("dict[str, Any]", found), life_of(response.headers.get("cache-control", "")))


@dataclass(frozen=True, slots=True)
class _Kept:
    """A key set, or None where it could not be had; since when and until when it counts, on the monotonic clock."""

    keys: Mapping[str, Any] | None
    since: float
    until: float


class ClientKeys:
    """The keys of clients, those by URL kept in the process for as long as they may be. One fetch at a time for each URL.

    A key id that is not in a kept set is a reason to look again, since clients replace their keys, but not more often than every few seconds:
    assertions are made up by anybody, and each would cost the client's server a request.
    """

    def __init__(self, fetch: FetchJwks, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._fetch, self._clock = fetch, clock
        self._kept: dict[str, _Kept] = {}
        self._locks: dict[str, asyncio.Lock] = {}

    async def of(self, client: Client, key_id: str = "") -> Mapping[str, Any] | None:
        """The client's JWK Set, or None when it has none or it cannot be had. `key_id` is the one that is wanted."""
        url = client.jwks_uri
        if not url:
            return client.jwks
        if kept := self._fresh(url, key_id):
            return kept.keys
        async with self._locks.setdefault(url, asyncio.Lock()):
            kept = self._fresh(url, key_id) or await self._renewed(url)
            return kept.keys

    def _fresh(self, url: str, key_id: str) -> _Kept | None:
        kept, moment = self._kept.get(url), self._clock()
        if kept is None or moment >= kept.until:
            return None
        known = kept.keys is None or not key_id or any(_key_id(key) == key_id for key in kept.keys["keys"])
        return kept if known or moment < kept.since + _PAUSE else None

    async def _renewed(self, url: str) -> _Kept:
        fetched, moment = await self._fetch(url), self._clock()
        kept = _Kept(fetched.keys, moment, moment + fetched.life) if fetched else _Kept(None, moment, moment + _PAUSE)
        if len(self._kept) >= _MAX_CACHED:
            self._kept.clear()
        self._kept[url] = kept
        return kept


def _key_id(key: Any) -> Any:
    return cast("dict[str, Any]", key).get("kid") if isinstance(key, dict) else None
