"""Sockets to listen on."""

from __future__ import annotations

import socket


def listening(host: str, port: int = 0, *, backlog: int = 2048) -> socket.socket:
    """A TCP socket that listens at an address, IPv4 or IPv6; port 0 takes a free one. Raises OSError.

    Its protocol is named: asyncio turns Nagle's algorithm off only for sockets that say that they are TCP, and `socket.create_server` makes
    one that does not. With it an answer in two parts waits for the delayed acknowledgement of the first, 40 ms on Linux.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(backlog)
    except OSError:
        listener.close()
        raise
    return listener
