"""Key sets by URL: what is fetched, from where, and for how long it is kept (ATK-O27, HL7@341)."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from datetime import UTC, datetime

import httpx
import pytest

from gateway.smart.http import life_of
from gateway.smart.server.clients.jwks import ClientKeys, FetchedKeys, JwksFetcher, is_public
from gateway.store.oauth_rows import Client

KEYS = {"keys": [{"kty": "EC", "kid": "k"}]}
CLIENT = Client("lab", "Lab", "private_key_jwt", (), (), "", ("*",), datetime(2026, 1, 1, tzinfo=UTC), jwks_uri="https://keys.test/jwks")


class Web:
    """The network: names with their addresses, and what is asked there."""

    def __init__(self, addresses: list[str], response: httpx.Response | None = None) -> None:
        self.addresses, self.response, self.asked = addresses, response or httpx.Response(200, json=KEYS), list[httpx.Request]()

    async def resolve(self, host: str, port: int) -> list[str]:
        del host, port
        return self.addresses

    def answer(self, request: httpx.Request) -> httpx.Response:
        self.asked.append(request)
        return self.response

    def fetcher(self, *, allow_loopback: bool = False) -> JwksFetcher:
        return JwksFetcher(allow_loopback=allow_loopback, resolve=self.resolve, transport=httpx.MockTransport(self.answer))


async def test_a_public_key_set_is_fetched():
    """By the address that was judged, with the name in Host and TLS (DNS rebinding gains nothing)."""
    web = Web(["93.184.216.34"])
    found = await web.fetcher()("https://keys.test/jwks")
    assert found is not None
    assert found.keys == KEYS
    request = web.asked[0]
    assert (request.url.host, request.headers["host"], request.extensions["sni_hostname"]) == ("93.184.216.34", "keys.test", "keys.test")
    assert request.headers["accept"] == "application/json"


@pytest.mark.parametrize(
    "addresses",
    [
        ["127.0.0.1"],
        ["169.254.169.254"],
        ["10.1.2.3"],
        ["93.184.216.34", "10.1.2.3"],
        ["::1"],
        ["::ffff:127.0.0.1"],
        ["fd00::1"],
        ["100.64.0.1"],
        ["0.0.0.0"],
        [],
    ],
)
async def test_nothing_is_asked_of_addresses_that_are_not_public(addresses):
    """ATK-O27, O23: every address of the name has to be public."""
    web = Web(addresses)
    assert await web.fetcher()("https://keys.test/jwks") is None
    assert web.asked == []


async def test_plain_http_is_for_loopback_in_development():
    """Http never leaves the machine."""
    assert await Web(["93.184.216.34"]).fetcher(allow_loopback=True)("http://keys.test/jwks") is None
    assert await Web(["127.0.0.1"]).fetcher()("http://localhost/jwks") is None
    assert await Web(["127.0.0.1"]).fetcher(allow_loopback=True)("http://localhost:9/jwks") is not None


@pytest.mark.parametrize(
    "response",
    [
        httpx.Response(302, headers={"location": "http://169.254.169.254/"}),
        httpx.Response(404),
        httpx.Response(200, text="no json"),
        httpx.Response(200, json=[]),
        httpx.Response(200, json={"keys": {}}),
        httpx.Response(200, content=json.dumps({"keys": [], "x": "y" * 70_000})),
    ],
)
async def test_what_is_no_key_set_counts_as_none(response):
    """No redirect is followed, nothing above 64 KiB is read."""
    web = Web(["93.184.216.34"], response)
    assert await web.fetcher()("https://keys.test/jwks") is None
    assert len(web.asked) == 1


@pytest.mark.parametrize("address", ["8.8.8.8", "2001:4860:4860::8888", "64:ff9b::808:808"])
def test_public_addresses(address):
    """Also one that is reached through NAT64."""
    assert is_public(address)


@pytest.mark.parametrize("address", ["64:ff9b::a00:1", "2002:a00:1::", "224.0.0.1", "240.0.0.1", "fe80::1%eth0", "nonsense"])
def test_addresses_that_are_not_public(address):
    """Translated, multicast, reserved and link-local ones."""
    assert not is_public(address)


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("", 60),
        ("max-age=30", 30),
        ("public, max-age=999999", 3600),
        ("no-store", 0),
        ("max-age=60, no-cache", 0),
        ('max-age="5"', 5),
        ("s-maxage=9", 60),
    ],
)
def test_keys_are_kept_no_longer_than_allowed(header, seconds):
    """HL7@341."""
    assert life_of(header) == seconds


class Asked:
    """A fetch that counts, over a clock that stands still."""

    def __init__(self, found: FetchedKeys | None) -> None:
        self.found, self.times, self.moment = found, 0, 100.0

    async def __call__(self, url: str) -> FetchedKeys | None:
        del url
        self.times += 1
        return self.found

    def keys(self) -> ClientKeys:
        return ClientKeys(self, clock=lambda: self.moment)


async def test_keys_are_asked_for_again_when_they_are_old():
    """HL7@342: within its life a set is asked for once, by many at the same time too."""
    asked = Asked(FetchedKeys(KEYS, 30))
    keys = asked.keys()
    assert await asyncio.gather(*(keys.of(CLIENT, "k") for _ in range(5))) == [KEYS] * 5
    assert asked.times == 1
    asked.moment += 30
    await keys.of(CLIENT, "k")
    assert asked.times == 2


async def test_a_new_key_is_looked_for():
    """A client replaced its key: its set is read again, though not for every made-up key id."""
    asked = Asked(FetchedKeys(KEYS, 3600))
    keys = asked.keys()
    await keys.of(CLIENT, "k")
    await keys.of(CLIENT, "new")
    assert asked.times == 1
    asked.moment += 5
    await keys.of(CLIENT, "new")
    await keys.of(CLIENT, "newer")
    assert asked.times == 2


async def test_a_set_that_is_away_is_left_in_peace():
    """Neither is a failure asked for by every assertion."""
    asked = Asked(None)
    keys = asked.keys()
    assert [await keys.of(CLIENT), await keys.of(CLIENT)] == [None, None]
    assert asked.times == 1
    asked.moment += 5
    await keys.of(CLIENT)
    assert asked.times == 2


async def test_keys_by_value_need_no_network():
    """Jwks in the registration."""
    asked = Asked(None)
    assert await asked.keys().of(replace(CLIENT, jwks_uri="", jwks=KEYS), "k") == KEYS
    assert asked.times == 0
