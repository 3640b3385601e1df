"""A15: TLS. Old versions are offered by a ClientHello of our own, because an up-to-date OpenSSL cannot be made to speak them all."""

from __future__ import annotations

import os
import socket
import ssl
import struct
from collections.abc import Iterator
from urllib.parse import urlsplit

from tests.conformance.check import Group, Outcome, Skipped, verdict
from tests.conformance.context import Context, text

GROUP = Group("tls")
OLD = {"SSL 3.0": (3, 0), "TLS 1.0": (3, 1), "TLS 1.1": (3, 2)}
_SUITES = bytes.fromhex("c009c00ac013c014c007c011c008c01200330039002f00350005000a00160032003800130004")
"""What servers of those days chose from: ECDHE and DHE with AES, RC4 and 3DES, and plain RSA."""
_EXTENSIONS = bytes.fromhex("000a000a0008001d001700180019" + "000b00020100")  # supported groups, point formats
_HANDSHAKE, _SERVER_HELLO = 22, 2


@GROUP.check("A15.82", "tls_version_test", 231)
def encrypted(at: Context) -> Outcome:
    """The base and both endpoints refuse SSL and TLS before 1.2, and have a certificate that can be verified."""
    return judged(at, "authorization_endpoint", "token_endpoint", "base")


def judged(at: Context, *names: str) -> Outcome:
    """Each host and port once."""
    urls = [at.config.base if name == "base" else text(at.smart, name) for name in names]
    if all(_plain_on_loopback(url) for url in urls):
        raise Skipped("http on loopback: there is nothing to encrypt")
    places = {(urlsplit(url).hostname or "", urlsplit(url).port or 443) for url in urls if url.startswith("https://")}
    problems = [f"{url} is not https" for url in urls if not url.startswith("https://")]
    for host, port in sorted(places):
        problems += [f"{host}:{port}: {one}" for one in (*_old(host, port), *_new(at, host, port))]
    return verdict(problems)


def _plain_on_loopback(url: str) -> bool:
    return url.startswith("http://") and (urlsplit(url).hostname or "") in ("127.0.0.1", "localhost", "::1")


def _old(host: str, port: int) -> Iterator[str]:
    """Problems: a ServerHello to an offer of an old version."""
    yield from (f"{name} is spoken" for name, version in OLD.items() if _speaks(host, port, _hello(version), version))
    if _speaks_ssl2(host, port):
        yield "SSL 2.0 is spoken"


def _new(at: Context, host: str, port: int) -> Iterator[str]:
    """Problems: no TLS 1.2 or later, or a certificate that does not verify."""
    context = ssl.create_default_context(cafile=str(at.config.ca) if at.config.ca else None)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        with socket.create_connection((host, port), timeout=10) as plain, context.wrap_socket(plain, server_hostname=host):
            pass
    except (OSError, ssl.SSLError) as error:
        yield f"TLS 1.2 or later fails: {error}"


def _hello(version: tuple[int, int]) -> bytes:
    """A record with the ClientHello of this version (RFC 2246 section 7.4.1.2); extensions since TLS 1.0."""
    extensions = struct.pack("!H", len(_EXTENSIONS)) + _EXTENSIONS if version > (3, 0) else b""
    body = bytes(version) + os.urandom(32) + b"\0" + struct.pack("!H", len(_SUITES)) + _SUITES + b"\1\0" + extensions
    message = b"\1" + len(body).to_bytes(3) + body
    return bytes([_HANDSHAKE, *version]) + struct.pack("!H", len(message)) + message


def _speaks(host: str, port: int, hello: bytes, version: tuple[int, int]) -> bool:
    answer = _answer(host, port, hello)
    return len(answer) > 10 and answer[0] == _HANDSHAKE and answer[5] == _SERVER_HELLO and tuple(answer[9:11]) == version


def _speaks_ssl2(host: str, port: int) -> bool:
    """A ClientHello of SSL 2.0 in a record of its own kind; a server that knows it answers with message 4."""
    suites = bytes.fromhex("0100800200800300800400800500800600400700c0")
    body = b"\1\0\2" + struct.pack("!HHH", len(suites), 0, 16) + suites + os.urandom(16)
    answer = _answer(host, port, struct.pack("!H", 0x8000 | len(body)) + body)
    return len(answer) > 2 and answer[0] & 0x80 != 0 and answer[2] == 4


def _answer(host: str, port: int, hello: bytes) -> bytes:
    """The first bytes that come back; none when the server hangs up."""
    try:
        with socket.create_connection((host, port), timeout=10) as plain:
            plain.sendall(hello)
            return plain.recv(64)
    except (ConnectionError, TimeoutError):
        return b""
