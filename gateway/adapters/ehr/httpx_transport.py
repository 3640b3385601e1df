"""The transport by httpx: for tests with respx, for one-off calls of the command line, and for those who know httpx (ADR 0003)."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import time
from collections.abc import Generator
from typing import Any

import httpx

from gateway.adapters.ehr.base import HttpRequest, HttpResponse, TransportError
from gateway.adapters.ehr.limits import CONNECTIONS, IDLE, joined, over, system_trust


class HttpxTransport:
    """HTTP/1.1 by httpx's transport, without its client: so there are no redirects, cookies, proxies or decoding to switch off.

    `tls` is the context for https; None trusts what the system trusts. `transport` replaces the network (tests, an ASGI app).
    """

    def __init__(
        self, tls: ssl.SSLContext | None = None, *, connections: int = CONNECTIONS, transport: httpx.AsyncBaseTransport | None = None
    ) -> None:
        limits = httpx.Limits(max_connections=connections, max_keepalive_connections=connections, keepalive_expiry=IDLE)
        self._watched = transport is None
        self._transport = transport or httpx.AsyncHTTPTransport(verify=tls or system_trust(), trust_env=False, limits=limits)

    async def send(self, request: HttpRequest, *, deadline: float, cap: int) -> HttpResponse:
        """See the Protocol `Transport`."""
        watch = _Watch(min(request.not_after, time.monotonic() + deadline))
        with _translated(watch):
            async with asyncio.timeout(deadline):
                return await self._exchange(request, watch, deadline, cap)

    async def _exchange(self, request: HttpRequest, watch: _Watch, deadline: float, cap: int) -> HttpResponse:
        if not self._watched:
            watch.sending()
        response = await self._transport.handle_async_request(_as_httpx(request, watch, 0.95 * deadline))
        try:
            return HttpResponse(response.status_code, joined(response.headers.multi_items()), await _body(response, cap))
        finally:
            await response.aclose()

    async def close(self) -> None:
        """Give the connections back."""
        await self._transport.aclose()


class _Watch:
    """Notes when the first byte of a request is about to be sent (a trace of httpcore), and holds it back when that is too late.

    A transport without traces may send it at once. `until` is of time.monotonic().
    """

    def __init__(self, until: float) -> None:
        self.until = until
        self.sent = False

    async def __call__(self, event: str, _info: Any) -> None:
        if event.endswith("send_request_headers.started"):
            self.sending()

    def sending(self) -> None:
        """Raises TimeoutError. The timer of one that stood still runs only after what was ready."""
        if time.monotonic() > self.until:
            raise TimeoutError
        self.sent = True


def _as_httpx(request: HttpRequest, watch: _Watch, connect: float) -> httpx.Request:
    """The deadline is one for everything; connecting ends a little earlier, because httpcore leaks a TLS handshake that is cancelled."""
    headers = [*request.headers, ("Accept-Encoding", "identity")]
    timeout = {"connect": connect, "read": None, "write": None, "pool": None}
    return httpx.Request(request.method, request.url, headers=headers, content=request.body, extensions={"trace": watch, "timeout": timeout})


async def _body(response: httpx.Response, cap: int) -> bytes:
    """The raw bytes of the stream: nothing decodes them, so no compressed chunk grows (FAULT-U17)."""
    if int(response.headers.get("content-length", 0)) > cap:
        raise over(cap)
    assert isinstance(response.stream, httpx.AsyncByteStream)  # noqa: S101 (an asynchronous transport made it)
    chunks: list[bytes] = []
    size = 0
    async for chunk in response.stream:
        size += len(chunk)
        if size > cap:
            raise over(cap)
        chunks.append(chunk)
    return b"".join(chunks)


@contextlib.contextmanager
def _translated(watch: _Watch) -> Generator[None]:
    """Every failure of httpx as a TransportError. Cancellation passes."""
    try:
        yield
    except (TimeoutError, httpx.TimeoutException) as error:
        raise TransportError("no whole answer in time", sent=watch.sent, timeout=True) from error
    except httpx.ConnectError as error:
        raise TransportError("no connection", sent=False, untrusted=_is_tls(error)) from error
    except (httpx.HTTPError, httpx.InvalidURL, OSError, ValueError) as error:  # ValueError: a URL or header that cannot be sent
        raise TransportError(type(error).__name__, sent=watch.sent) from error


def _is_tls(error: BaseException | None) -> bool:
    """Whether an SSL error is behind it; httpx and httpcore wrap it twice."""
    while error is not None:
        if isinstance(error, ssl.SSLError):
            return True
        error = error.__cause__ or error.__context__
    return False
