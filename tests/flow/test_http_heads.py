"""Heads that come slowly, without end or twice: the server closes, and others do not wait (FAULT-S14, FAULT-S15)."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from urllib.parse import urlsplit

import httpx
import pytest

from gateway import http_heads
from gateway.http_heads import BYTES, BoundedHeads
from tests.support.threaded_server import served

GET = b"GET / HTTP/1.1\r\nHost: gateway\r\n"


class Quick(BoundedHeads):
    """Ten seconds are long for a test."""

    seconds = 0.5


async def app(scope, receive, send):
    """Reads the body, and says how long it was."""
    length, more = 0, scope["path"] != "/early"
    while more:
        message = await receive()
        length, more = length + len(message.get("body", b"")), message.get("more_body", False)
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(str(length)))]})
    await send({"type": "http.response.body", "body": str(length).encode()})


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with served(app, http=Quick, loop="uvloop") as found:
        yield found


def connected(url: str) -> socket.socket:
    return socket.create_connection((urlsplit(url).hostname, urlsplit(url).port), timeout=5)


def told(connection: socket.socket) -> bytes:
    """Everything until the server closes."""
    found = b""
    while piece := connection.recv(65536):
        found += piece
    return found


def is_refused(connection: socket.socket) -> bool:
    """Closed with 431. What was not read any more may cost the answer (TCP resets), but never the closing."""
    try:
        return told(connection).startswith(b"HTTP/1.1 431 ")
    except ConnectionResetError:
        return True


def test_a_slow_head_is_closed_however_often_a_byte_comes(url):
    """A byte every tenth of a second keeps nothing open."""
    sent = 0
    with connected(url) as connection, suppress(BrokenPipeError, ConnectionResetError):
        for byte in GET * 100:
            connection.sendall(bytes([byte]))
            sent += 1
            time.sleep(0.1)
    assert sent < len(GET)


def test_a_slow_head_is_told_so(url):
    """408; a connection on which nothing came is closed without a word."""
    with connected(url) as connection, connected(url) as silent:
        connection.sendall(GET)
        assert told(connection).startswith(b"HTTP/1.1 408 ")
        assert told(silent) == b""


def test_the_second_head_of_a_connection_has_its_time_too(url):
    """Also when empty lines come before it, which begin no request."""
    for drip in (b"GET / HT", b"\r\n"):
        with connected(url) as connection:
            connection.sendall(GET + b"\r\n")
            answer = b""
            while not answer.endswith(b"\r\n\r\n0"):
                answer += connection.recv(65536)
            connection.sendall(drip)
            assert b"408" in told(connection)


@pytest.mark.parametrize("pieces", [1, 7, 400])
def test_a_large_head_is_431(url, pieces):
    """FAULT-S15: in one piece, in several, and as one header without an end."""
    head = GET + b"".join(b"X-%d: %b\r\n" % (number, b"x" * 100) for number in range(BYTES // 100)) + b"\r\n"
    with connected(url) as connection:
        for begin in range(0, len(head), size := len(head) // pieces + 1):
            try:
                connection.sendall(head[begin : begin + size])
            except (BrokenPipeError, ConnectionResetError):
                break
        assert is_refused(connection)
    with connected(url) as connection:
        connection.sendall(GET + b"X: " + b"x" * (BYTES + 1))
        assert is_refused(connection)


@pytest.mark.parametrize("lines", [b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n", b"Content-Length: 3\r\nContent-Length: 4\r\n"])
def test_two_lengths_are_refused(url, lines):
    """FAULT-S15: no proxy before us and we can disagree on where a request ends."""
    with connected(url) as connection:
        connection.sendall(b"POST / HTTP/1.1\r\nHost: gateway\r\n" + lines + b"\r\nabcGET /smuggled HTTP/1.1\r\nHost: gateway\r\n\r\n")
        answer = told(connection)
        assert answer.startswith(b"HTTP/1.1 400 ")
        assert answer.count(b"HTTP/1.1 ") == 1


def test_a_head_of_usual_size_and_a_slow_body_go_through(url):
    """The limits are the head's: 60 kB of headers, and a body that takes longer than a head may."""
    with connected(url) as connection:
        connection.sendall(b"POST / HTTP/1.1\r\nHost: gateway\r\nConnection: close\r\nContent-Length: 4\r\nX: " + b"x" * 60_000 + b"\r\n\r\n")
        for byte in b"slow":
            time.sleep(0.2)
            connection.sendall(bytes([byte]))
        assert told(connection).endswith(b"\r\n\r\n4")


@pytest.mark.parametrize(
    "endless", [b"X-Trailer: " + b"x" * 8000 + b"\r\n", b"y" * 8000, b"1;" + b"e" * 8000 + b"\r\n"], ids=["trailers", "one trailer", "extension"]
)
def test_what_comes_after_a_body_has_an_end(url, endless):
    """Trailers are read by nobody, and never stand in for headers; without an end the connection has one."""
    begin = b"POST / HTTP/1.1\r\nHost: gateway\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n"
    sent = 0
    with connected(url) as connection, suppress(BrokenPipeError, ConnectionResetError):
        connection.sendall(begin + (b"" if endless.startswith(b"1;") else b"0\r\n"))
        for _ in range(200):
            connection.sendall(endless if not endless.startswith(b"1;") else endless[:-2])
            sent += len(endless)
            time.sleep(0.005)
    assert sent < 4 * BYTES


def test_an_answer_before_the_end_of_the_request_ends_the_connection(url, monkeypatch):
    """However slowly the rest goes on coming; the answer has arrived."""
    monkeypatch.setattr(http_heads, "LINGER", 0.3)
    with connected(url) as connection:
        connection.sendall(b"GET /early HTTP/1.1\r\nHost: gateway\r\nContent-Length: 100000000\r\n\r\n")
        with suppress(BrokenPipeError, ConnectionResetError):
            for _ in range(30):
                connection.sendall(b"x")
                time.sleep(0.1)
            pytest.fail("still open")
        with suppress(ConnectionResetError):
            assert told(connection).startswith(b"HTTP/1.1 200 ")


def test_two_hundred_slow_ones_keep_nobody_waiting(url):
    """Others are answered all the time, and all of the slow ones are closed."""
    with ExitStack() as stack:
        slow = [stack.enter_context(connected(url)) for _ in range(200)]
        for one in slow:
            one.sendall(GET)
        with httpx.Client(trust_env=False) as http:
            assert {http.get(url).status_code for _ in range(20)} == {200}
        assert all(told(one).startswith(b"HTTP/1.1 408 ") for one in slow)
