"""One suite for both transports: what they send, and what becomes of every way in which a server can fail (FAULT-U1 to U20)."""

from __future__ import annotations

import asyncio
import math
import resource
import ssl
import time

import pytest
import trustme

from gateway.adapters.ehr.aiohttp_transport import AiohttpTransport
from gateway.adapters.ehr.base import HttpRequest, TransportError
from gateway.adapters.ehr.httpx_transport import HttpxTransport
from tests.support import parts
from tests.support.faults import OK, fault_server

CAP = 1_000_000
TRANSPORTS = {"aiohttp": AiohttpTransport, "httpx": HttpxTransport}


@pytest.fixture(params=TRANSPORTS)
def make(request):
    """The class under test."""
    return TRANSPORTS[request.param]


@pytest.fixture
async def transport(make):
    transport = make()
    yield transport
    await transport.close()


@pytest.fixture
async def server():
    async with fault_server(elsewhere="http://127.0.0.1:1") as server:
        yield server


async def get(transport, url, *, deadline=5.0, cap=CAP, method="GET", headers=(), body=None):
    return await transport.send(HttpRequest(method, url, tuple(headers), body), deadline=deadline, cap=cap)


async def failure(transport, url, **given) -> TransportError:
    with pytest.raises(TransportError) as caught:
        await get(transport, url, **given)
    return caught.value


async def test_a_whole_answer_comes_back(transport, server):
    """Status, headers in lower case with repeated ones joined, and the body."""
    response = await get(transport, server.url + "/headers")
    assert (response.status, response.body) == (200, OK)
    assert response.headers["etag"] == 'W/"3"'
    assert response.headers["x-twice"] == "a, b"


async def test_what_is_sent_is_what_was_given(transport, server):
    """Method, path and query as written, headers, body; no header that tells of the library."""
    url = server.url + "/ok?name=a%2Cb%20c&_id=%7B%7D&x=%2F..%2F&code=http%3A%2F%2Floinc.org%7C1-8"
    await get(transport, url, method="PUT", headers=[("X-Request-ID", "r-1"), ("Content-Type", "application/fhir+json")], body=OK)
    (asked,) = server.asked
    assert (asked.method, asked.body) == ("PUT", OK)
    assert asked.path == url.removeprefix(server.url)
    assert asked.headers.pop("host") == server.url.removeprefix("http://")
    for hop in ("connection", "accept-encoding", "content-length"):
        asked.headers.pop(hop, None)
    assert asked.headers == {"x-request-id": "r-1", "content-type": "application/fhir+json"}


async def test_no_encoding_is_asked_for(transport, server):
    """`Accept-Encoding: identity`: what comes is as large as it says."""
    await get(transport, server.url + "/ok")
    assert server.asked[0].headers["accept-encoding"] == "identity"


async def test_a_post_without_body_has_length_zero(transport, server):
    """An empty body is a body (RFC 9110 8.6)."""
    await get(transport, server.url + "/ok", method="POST", body=b"")
    assert server.asked[0].headers["content-length"] == "0"


async def test_connections_are_kept(transport, server):
    """Twenty requests, one after the other, take one connection."""
    for _ in range(20):
        await get(transport, server.url + "/ok")
    assert server.connections == 1


async def test_cookies_are_not_kept(transport, server):
    """One person's cookie would go with the next person's request."""
    await get(transport, server.url + "/headers")
    await get(transport, server.url + "/ok")
    assert "cookie" not in server.asked[1].headers


async def test_proxies_of_the_environment_are_not_used(make, server, monkeypatch):
    """A variable set for another program must not lead patient data through a proxy."""
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    transport = make()
    assert (await get(transport, server.url + "/ok")).status == 200
    await transport.close()


@pytest.mark.parametrize(("path", "status"), [("/redirect", 302), ("/loop", 307)])
async def test_redirects_are_not_followed(transport, path, status):
    """No request, and so no credential, reaches the other host (FAULT-U18, U19)."""
    async with fault_server() as other, fault_server(elsewhere=other.url) as server:
        response = await get(transport, server.url + path, headers=[("Authorization", "Bearer secret")])
        assert response.status == status
        assert other.asked == []
        assert len(server.asked) == 1


@pytest.mark.parametrize("limit", ["deadline", "not_after"])
async def test_a_process_that_stood_still_sends_nothing_late(transport, server, limit):
    """FAULT-P3: the connection is there before its timers have had a chance."""
    late = time.monotonic() + 0.2 if limit == "not_after" else math.inf
    asyncio.get_running_loop().call_soon(time.sleep, 0.3)
    with pytest.raises(TransportError) as caught:
        await transport.send(HttpRequest("PUT", server.url + "/ok", body=OK, not_after=late), deadline=0.2 if limit == "deadline" else 5.0, cap=CAP)
    assert (caught.value.timeout, caught.value.sent) == (True, False)
    await asyncio.sleep(0.05)
    assert server.asked == []
    assert (await get(transport, server.url + "/ok", method="PUT", body=OK)).status == 200


async def test_a_kept_connection_takes_nothing_late_either(transport, server):
    """There is no wait at all before it is sent."""
    await get(transport, server.url + "/ok")
    with pytest.raises(TransportError) as caught:
        await transport.send(HttpRequest("PUT", server.url + "/ok", body=OK, not_after=time.monotonic() - 0.001), deadline=5.0, cap=CAP)
    assert (caught.value.timeout, caught.value.sent) == (True, False)
    assert [one.method for one in server.asked] == ["GET"]


async def test_a_closed_port_is_an_error_of_a_request_that_was_not_sent(transport):
    """FAULT-U1."""
    error = await failure(transport, f"http://127.0.0.1:{parts.free_port()}/ok")
    assert (error.sent, error.timeout) == (False, False)


async def test_an_unknown_host_was_not_sent(transport):
    """A name that does not resolve."""
    error = await failure(transport, "http://no-such-host.invalid/ok")
    assert error.sent is False


async def test_a_connection_that_is_not_taken_was_not_sent(transport):
    """The server's queue is full: the deadline passes before there is a connection."""
    with parts.socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        fillers = [asyncio.create_task(asyncio.open_connection(*full.getsockname())) for _ in range(4)]
        await asyncio.sleep(0.05)
        error = await failure(transport, f"http://127.0.0.1:{full.getsockname()[1]}/ok", deadline=0.3)
        assert (error.sent, error.timeout) == (False, True)
        for filler in fillers:
            filler.cancel()
        for opened in await asyncio.gather(*fillers, return_exceptions=True):
            if not isinstance(opened, BaseException):
                opened[1].close()


@pytest.mark.parametrize("path", ["/slow-head", "/slow-body"])
async def test_the_deadline_is_for_everything(transport, server, path):
    """One byte now and then does not stretch it (FAULT-U2, U3)."""
    begun = time.monotonic()
    error = await failure(transport, server.url + path, deadline=0.5)
    assert (error.sent, error.timeout) == (True, True)
    assert time.monotonic() - begun < 5


@pytest.mark.parametrize(
    "path", ["/reset", "/reset-in-body", "/closed", "/short-body", "/bad-chunk", "/cut-chunks", "/garbage", "/two-lengths", "/endless-head"]
)
@pytest.mark.parametrize("method", ["GET", "PUT", "POST"])
async def test_a_broken_answer_is_an_error_of_a_request_that_was_sent(transport, server, path, method):
    """And it is asked for once: no transport repeats it by itself (FAULT-U7 to U12)."""
    error = await failure(transport, server.url + path, method=method, body=None if method == "GET" else OK)
    assert (error.sent, error.timeout) == (True, False)
    assert server.paths() == [path]


@pytest.mark.parametrize("method", ["GET", "PUT", "POST"])
async def test_a_kept_connection_that_breaks_is_not_tried_again(transport, server, method):
    """The server closes a used connection as the request arrives: it may have carried the request out (FAULT-U7)."""
    await get(transport, server.url + "/ok")
    error = await failure(transport, server.url + "/closed", method=method, body=None if method == "GET" else OK)
    assert error.sent is True
    assert server.paths() == ["/ok", "/closed"]


@pytest.mark.parametrize("path", ["/endless-body", "/large"])
async def test_a_body_over_the_cap_is_given_up(transport, server, path):
    """At the cap, not at the end (FAULT-U16)."""
    begun = time.monotonic()
    error = await failure(transport, server.url + path)
    assert (error.sent, error.too_large) == (True, True)
    assert time.monotonic() - begun < 4


async def test_a_body_of_just_the_cap_passes(transport, server):
    """The cap counts bytes of body."""
    assert len((await get(transport, server.url + "/large", cap=3_000_000)).body) == 3_000_000


async def test_a_compressed_body_is_not_inflated(transport, server):
    """What was not asked for stays as it came, and small (FAULT-U17)."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    response = await get(transport, server.url + "/gzip-bomb")
    assert response.headers["content-encoding"] == "gzip"
    assert len(response.body) < 100_000
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 30_000  # kB


@pytest.mark.parametrize(("path", "status"), [("/html", 200), ("/no-content", 204), ("/unavailable", 503)])
async def test_what_an_answer_means_is_not_judged_here(transport, server, path, status):
    """Whole HTTP answers come back as they are."""
    assert (await get(transport, server.url + path)).status == status


async def test_after_a_failure_the_next_request_is_well(transport, server):
    """A broken, slow or too large answer leaves nothing behind in its connection."""
    for path in ("/slow-body", "/large", "/short-body", "/bad-chunk", "/endless-body"):
        await failure(transport, server.url + path, deadline=0.3)
        assert (await get(transport, server.url + "/ok")).body == OK


async def test_cancelling_is_no_error_of_the_transport(transport, server):
    """The caller's cancellation passes, and the connection is not used again."""
    task = asyncio.create_task(get(transport, server.url + "/slow-body"))
    await asyncio.sleep(0.2)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (await get(transport, server.url + "/ok")).body == OK
    assert server.connections == 2


async def test_many_at_once_each_get_their_own(transport, server):
    """A hundred requests over few connections."""
    responses = await asyncio.gather(*(get(transport, f"{server.url}/ok?n={n}", deadline=20) for n in range(100)))
    assert {response.status for response in responses} == {200}
    assert sorted(server.paths()) == sorted(f"/ok?n={n}" for n in range(100))
    assert server.connections <= 64


@pytest.mark.parametrize("header", ["a\r\nX-Other: b", "a\x00b"])
async def test_a_header_cannot_smuggle_another(transport, server, header):
    """Refused before anything is sent."""
    error = await failure(transport, server.url + "/ok", headers=[("X-Request-ID", header)])
    assert error.sent is False or server.asked == []


async def test_the_error_holds_nothing_of_the_answer(transport, server):
    """Messages end in logs."""
    for path in ("/garbage", "/two-lengths", "/bad-chunk"):
        error = await failure(transport, server.url + path)
        assert "Patient" not in str(error)
        assert "no HTTP" not in str(error)
        assert server.url not in str(error)


# ---- TLS (FAULT-U20) ----


@pytest.fixture(scope="session")
def authority():
    return trustme.CA()


def server_context(authority, name="127.0.0.1", **given) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(name, **given).configure_cert(context)
    return context


def trusting(authority) -> ssl.SSLContext:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context


async def test_a_trusted_server_is_spoken_to(make, authority):
    """With a context that trusts its authority."""
    transport = make(trusting(authority))
    async with fault_server(server_context(authority)) as server:
        assert (await get(transport, server.url + "/ok")).body == OK
    await transport.close()


@pytest.mark.parametrize("fault", ["unknown authority", "other name", "expired"])
async def test_an_untrusted_server_is_not_spoken_to(make, authority, fault):
    """Nothing is sent, and the error says why."""
    match fault:
        case "unknown authority":
            context = server_context(trustme.CA())
        case "other name":
            context = server_context(authority, "ehr.example.org")
        case _:
            context = server_context(authority, not_after=trustme.datetime.datetime(2020, 1, 1, tzinfo=trustme.datetime.UTC))
    transport = make(trusting(authority))
    async with fault_server(context) as server:
        error = await failure(transport, server.url + "/ok", headers=[("Authorization", "Bearer secret")])
        assert (error.sent, error.untrusted) == (False, True)
        assert server.asked == []
    await transport.close()


async def test_https_is_never_spoken_in_plain_text(make, server):
    """A port that answers without TLS."""
    transport = make()
    error = await failure(transport, server.url.replace("http:", "https:") + "/ok", deadline=0.5)
    assert error.sent is False
    assert server.asked == []
    await transport.close()
