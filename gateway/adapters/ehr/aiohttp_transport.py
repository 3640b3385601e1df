"""The transport by aiohttp: the default, for its speed (ADR 0003)."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import time
from collections.abc import AsyncIterator
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import aiohttp
from aiohttp.connector import Connection
from aiohttp.tracing import Trace
from yarl import URL

from gateway.adapters.ehr.base import HttpRequest, HttpResponse, TransportError
from gateway.adapters.ehr.limits import CONNECTIONS, IDLE, joined, over, system_trust


class AiohttpTransport:
    """HTTP/1.1 by aiohttp. Used from one event loop; the session is made by the first request.

    `tls` is the context for https; None trusts what the system trusts.
    """

    def __init__(self, tls: ssl.SSLContext | None = None, *, connections: int = CONNECTIONS) -> None:
        self._tls = tls
        self._connections = connections
        self._session: aiohttp.ClientSession | None = None

    async def send(self, request: HttpRequest, *, deadline: float, cap: int) -> HttpResponse:
        """See the Protocol `Transport`."""
        state = _State(min(request.not_after, time.monotonic() + deadline))
        _STATE.set(state)
        with _translated(state):
            async with asyncio.timeout(deadline), self._exchange(request) as response:
                return HttpResponse(response.status, joined(response.headers.items()), await _body(response, cap))

    def _exchange(self, request: HttpRequest) -> contextlib.AbstractAsyncContextManager[aiohttp.ClientResponse]:
        self._session = self._session or self._open()
        return self._session.request(
            request.method,
            URL(request.url, encoded=True),  # as the adapter wrote it: nothing is decoded and quoted again
            headers=(*request.headers, ("Accept-Encoding", "identity")),
            data=request.body,
            allow_redirects=False,
        )

    def _open(self) -> aiohttp.ClientSession:
        return aiohttp.ClientSession(
            connector=_Connector(limit=self._connections, ssl=self._tls or system_trust(), keepalive_timeout=IDLE),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            trust_env=False,
            skip_auto_headers=("User-Agent", "Content-Type", "Accept"),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=None),
            middlewares=(_no_second_try,),
        )

    async def close(self) -> None:
        """Give the connections back."""
        if self._session is not None:
            await self._session.close()
            self._session = None


@dataclass
class _State:
    """One request on its way. `until`: time.monotonic() after which it is not sent any more."""

    until: float
    sent: bool = False


_STATE: ContextVar[_State] = ContextVar("request")


class _Connector(aiohttp.TCPConnector):
    """From the moment that a request has a connection it may reach the server; one that is late gets none."""

    async def connect(self, req: aiohttp.ClientRequest, traces: list[Trace], timeout: aiohttp.ClientTimeout) -> Connection:  # noqa: ASYNC109 (aiohttp's)
        connection = await super().connect(req, traces, timeout)
        state = _STATE.get()
        if time.monotonic() > state.until:  # the timer of one that stood still runs only after what was ready
            connection.close()
            raise TimeoutError
        state.sent = True
        return connection


async def _no_second_try(request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType) -> aiohttp.ClientResponse:
    """Keep aiohttp from repeating a PUT by itself when the connection breaks: the first may have been carried out (FAULT-U7)."""
    try:
        return await handler(request)
    except aiohttp.ClientConnectorError:
        raise
    except (aiohttp.ClientOSError, aiohttp.ServerDisconnectedError) as error:
        raise _Broken from error


class _Broken(Exception):
    """The connection broke after it was made."""


async def _body(response: aiohttp.ClientResponse, cap: int) -> bytes:
    if (response.content_length or 0) > cap:
        response.close()
        raise over(cap)
    if response.content_length is not None:
        return await response.read()
    return b"".join([chunk async for chunk in _capped(response, cap)])


async def _capped(response: aiohttp.ClientResponse, cap: int) -> AsyncIterator[bytes]:
    """The pieces of a body whose length is not known beforehand."""
    size = 0
    async for chunk in response.content.iter_any():
        size += len(chunk)
        if size > cap:
            response.close()
            raise over(cap)
        yield chunk


@contextlib.contextmanager
def _translated(state: _State) -> Any:
    """Every failure of aiohttp as a TransportError. Cancellation passes."""
    try:
        yield
    except TimeoutError as error:
        raise TransportError("no whole answer in time", sent=state.sent, timeout=True) from error
    except (aiohttp.ClientConnectorCertificateError, aiohttp.ClientConnectorSSLError) as error:
        raise TransportError("the server is not trusted", sent=False, untrusted=True) from error
    except aiohttp.ClientConnectorError as error:
        raise TransportError("no connection", sent=False) from error
    except (_Broken, aiohttp.ClientError, OSError, ValueError) as error:  # ValueError: a URL or header that cannot be sent
        raise TransportError(type(error).__name__, sent=state.sent) from error
