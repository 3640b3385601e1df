"""HTTP to an authorization server that is not ours: small JSON documents, without redirects, cookies or proxies from the environment.

Each answer is whole, within time and size. Requests are few (one every few minutes), so httpx does; what goes to the FHIR base of an EHR goes by
`adapters.ehr`, and URLs that strangers name are fetched by `server.clients.jwks`.
"""

from __future__ import annotations

import base64
import json
import re
import ssl
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import Any, cast
from urllib.parse import quote_plus, urlencode

import anyio
import httpx

from gateway import __version__

MAX_BYTES = 1024 * 1024  # a person's resource may hold a photograph
_AGREES = 5.0
"""Seconds by which two clocks may differ and count as one: a Date header has whole seconds, and it was on its way."""
_DEFAULT_LIFE = 60  # seconds, when the answer says nothing
_LONGEST_LIFE = 3600
_COMMON = {"Accept": "application/json", "Accept-Encoding": "identity", "User-Agent": f"fhir-portal-gateway/{__version__}"}


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer. `document` is the JSON object of its body, or None when it is none; `skew` how many seconds the server's clock is ahead of ours."""

    status: int
    headers: Mapping[str, str] = field(default_factory=dict[str, str])
    document: Mapping[str, Any] | None = field(default=None, repr=False)
    skew: float = 0.0


class NoAnswer(Exception):
    """No whole answer. `timeout`: the deadline passed; `untrusted`: the server could not show by TLS that it is the one asked for."""

    def __init__(self, *, timeout: bool = False, untrusted: bool = False) -> None:
        super().__init__("no whole answer")
        self.timeout = timeout
        self.untrusted = untrusted


def basic(client_id: str, secret: str) -> str:
    """The header Authorization of a client with a secret: both form-encoded before they are joined (RFC 6749 section 2.3.1)."""
    return "Basic " + base64.b64encode(f"{quote_plus(client_id)}:{quote_plus(secret)}".encode()).decode()


class Http:
    """`tls` is the context for https, `timeout` the seconds for one whole answer; `transport` replaces the network (tests)."""

    def __init__(self, tls: ssl.SSLContext, *, timeout: float = 10.0, transport: httpx.AsyncBaseTransport | None = None) -> None:
        self._tls, self._timeout, self._transport = tls, timeout, transport

    async def get(self, url: str, headers: Mapping[str, str] | None = None) -> Answer:
        """GET a JSON document. Raises NoAnswer."""
        return await self._send("GET", url, headers or {}, None)

    async def post(self, url: str, form: Mapping[str, str], headers: Mapping[str, str] | None = None) -> Answer:
        """POST a form (RFC 6749 section 4.4.2). Raises NoAnswer."""
        kind = {"Content-Type": "application/x-www-form-urlencoded"}
        return await self._send("POST", url, kind | dict(headers or {}), urlencode(form).encode())

    async def _send(self, method: str, url: str, headers: Mapping[str, str], body: bytes | None) -> Answer:
        try:
            with anyio.fail_after(self._timeout):
                return await self._exchange(method, url, _COMMON | dict(headers), body)
        except (TimeoutError, httpx.TimeoutException) as error:
            raise NoAnswer(timeout=True) from error
        except (httpx.HTTPError, httpx.InvalidURL, OSError, ValueError) as error:  # ValueError: a URL or header that cannot be sent
            raise NoAnswer(untrusted=_is_tls(error)) from error

    async def _exchange(self, method: str, url: str, headers: Mapping[str, str], body: bytes | None) -> Answer:
        # httpcore leaks a TLS handshake that is cancelled, so connecting ends a little before everything does.
        limits = httpx.Timeout(None, connect=0.95 * self._timeout)
        async with (
            httpx.AsyncClient(verify=self._tls, transport=self._transport, follow_redirects=False, trust_env=False, timeout=limits) as client,
            client.stream(method, url, headers=headers, content=body) as response,
        ):
            data = await _capped(response)
        named = {name.lower(): value for name, value in response.headers.items()}
        return Answer(response.status_code, named, _object(data), _skew(named.get("date", "")))


def life_of(cache_control: str) -> int:
    """How many seconds an answer may be kept: never longer than it says."""
    text = cache_control.lower()
    if "no-store" in text or "no-cache" in text:
        return 0
    match = re.search(r"(?:^|[,\s])max-age=\"?(\d{1,9})", text)
    return min(int(match[1]), _LONGEST_LIFE) if match else _DEFAULT_LIFE


async def _capped(response: httpx.Response) -> bytes:
    found = b""
    async for chunk in response.aiter_raw():
        found += chunk
        if len(found) > MAX_BYTES:
            return b""  # whatever it is, it is no such document
    return found


def _object(data: bytes) -> Mapping[str, Any] | None:
    try:
        found = json.loads(data)
    except (ValueError, RecursionError):
        return None
    return cast("dict[str, Any]", found) if isinstance(found, dict) else None


def _skew(date: str) -> float:
    try:
        told = parsedate_to_datetime(date)
    except ValueError:
        return 0.0
    found = (told if told.tzinfo else told.replace(tzinfo=UTC)).timestamp() - time.time()
    return found if abs(found) > _AGREES else 0.0


def _is_tls(error: BaseException | None) -> bool:
    """Whether an SSL error is behind it; httpx and httpcore wrap it twice."""
    while error is not None:
        if isinstance(error, ssl.SSLError):
            return True
        error = error.__cause__ or error.__context__
    return False
