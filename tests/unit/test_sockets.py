"""What listens answers at once."""

from __future__ import annotations

import asyncio
import socket

import pytest

from gateway.sockets import listening


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
async def test_connections_do_not_wait_for_acknowledgements(host: str):
    """Nagle's algorithm is off on what is accepted, also on asyncio's own loop, which asks the socket what it is."""
    accepted: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    class Server(asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            accepted.set_result(transport.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
            transport.close()

    listener = listening(host)
    server = await asyncio.get_running_loop().create_server(Server, sock=listener)
    try:
        _, writer = await asyncio.open_connection(host, listener.getsockname()[1])
        assert await asyncio.wait_for(accepted, 5) == 1
        writer.close()
        await writer.wait_closed()
    finally:
        server.close()
        await server.wait_closed()


def test_an_address_in_use_is_an_error():
    """It is not shared with whoever has it."""
    with listening("127.0.0.1") as first, pytest.raises(OSError, match="in use"):
        listening("127.0.0.1", first.getsockname()[1])
