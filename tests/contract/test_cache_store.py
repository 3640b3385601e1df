"""One suite over the stores of the cache: in memory, and a real Valkey or Redis. Then what only a real one can suffer (FAULT-R1 to R5)."""

from __future__ import annotations

import asyncio
import secrets
import signal
import time
from pathlib import Path

import pytest
from redis.asyncio import Redis

from gateway.cache.breaker import Breaker
from gateway.cache.memory import MemoryStore, single_process_lock
from gateway.cache.redis import RedisStore
from gateway.cache.store import CacheStore
from gateway.errors import ConfigError
from tests.support import parts

OP = 0.12
"""Seconds that an operation may take whatever happens (FAULT-R2)."""
SLACK = 0.5
"""Seconds for the scheduling of a busy test machine."""


@pytest.fixture(params=["memory", pytest.param("redis", marks=pytest.mark.redis)])
async def store(request: pytest.FixtureRequest):
    made: CacheStore = MemoryStore(10_000_000) if request.param == "memory" else RedisStore(request.getfixturevalue("redis_url"), timeout=2)
    yield made
    await made.close()


@pytest.fixture
def own() -> str:
    """A prefix that no other test uses."""
    return f"test:{secrets.token_hex(4)}:"


async def test_gives_back_what_was_put(store: CacheStore, own: str):
    """Any bytes, as they were; another key has nothing."""
    for value in (b"", b"\0\xff", b"x" * 300_000):
        await store.put(own + "a", value, 60)
        assert await store.get(own + "a") == value
    assert await store.get(own + "b") is None


async def test_a_value_ends(store: CacheStore, own: str):
    """After its life it is gone; a life of 0 is none."""
    await store.put(own + "a", b"v", 0.05)
    await store.put(own + "b", b"v", 0)
    assert await store.get(own + "a") == b"v"
    assert await store.get(own + "b") is None
    await asyncio.sleep(0.1)
    assert await store.get(own + "a") is None


async def test_generations_stay_until_renewed(store: CacheStore, own: str):
    """The same token for the same name at each reading; a renewed one is new, its neighbours stay."""
    names = [own + "a", own + "b", own + "c"]
    first = await store.generations(names)
    assert first is not None
    assert len(set(first)) == 3
    assert await store.generations(names) == first
    assert await store.renew([names[1]]) is True
    second = await store.generations(names)
    assert second is not None
    assert (second[0], second[2]) == (first[0], first[2])
    assert second[1] != first[1]


async def test_readers_at_once_agree_on_a_new_generation(store: CacheStore, own: str):
    """Of many who find none, one makes it (SET NX)."""
    found = await asyncio.gather(*(store.generations([own + "a", own + "b"]) for _ in range(50)))
    assert len(set(found)) == 1


async def test_a_generation_never_comes_back(store: CacheStore, own: str):
    """Tokens are random: no renewal brings an old one back."""
    seen: set[tuple[str, ...] | None] = set()
    for _ in range(50):
        seen.add(await store.generations([own + "a"]))
        await store.renew([own + "a"])
    assert len(seen) == 50


async def test_renewing_what_is_not_there_is_confirmed(store: CacheStore, own: str):
    """A deletion of nothing is a deletion; deleting a value's key removes the value (FAULT-R5)."""
    assert await store.renew([own + "none"]) is True
    await store.put(own + "v", b"v", 60)
    assert await store.renew([own + "v"]) is True
    assert await store.get(own + "v") is None


async def test_answers_pings(store: CacheStore):
    """It is there."""
    assert await store.ping() is True


async def test_memory_stays_within_its_bytes():
    """What was used longest ago goes first; what is alone too large is not kept."""
    store = MemoryStore(5_000)
    for name in "abcd":
        await store.put(name, b"x" * 1000, 60)
    await store.get("a")
    await store.put("e", b"x" * 1000, 60)
    assert await store.get("a") is not None
    assert await store.get("b") is None
    await store.put("a", b"x" * 10_000, 60)
    assert await store.get("a") is None
    assert await store.get("e") is not None


def test_a_second_process_with_a_cache_in_memory_is_refused(tmp_path: Path):
    """A sentence with the other's number and the fix; free again when the first ends."""
    path = tmp_path / "state" / "cache.lock"
    with single_process_lock(path), pytest.raises(ConfigError, match="single process") as caught:
        single_process_lock(path)
    assert "--redis" in caught.value.fix
    single_process_lock(path).close()


@pytest.mark.parametrize("url", ["http://localhost", "localhost:6379", "redis://localhost:port"])
def test_a_wrong_url_is_a_sentence(url: str):
    """Refused at start, without a stack trace."""
    with pytest.raises(ConfigError):
        RedisStore(url)


# What only a real server can suffer ----------------------------------------------------------------------------------------------


@pytest.fixture
def valkey():
    with parts.valkey("--maxmemory-policy", "noeviction") as server:
        yield server


@pytest.fixture
async def store_of(valkey: parts.Part):
    made = RedisStore(valkey.url)
    yield made
    await made.close()


@pytest.fixture
async def admin(valkey: parts.Part):
    async with Redis.from_url(valkey.url) as client:
        yield client


async def _each_in_time(store: RedisStore) -> None:
    """Every operation says no, none takes longer than it may, none raises."""
    for operation in (store.generations(["a", "b"]), store.get("k"), store.put("k", b"v", 60), store.renew(["a"]), store.ping()):
        began = time.monotonic()
        assert not await operation
        assert time.monotonic() - began < OP + SLACK


@pytest.mark.redis
@pytest.mark.fault
async def test_killed(valkey: parts.Part, store_of: RedisStore):
    """FAULT-R1: kill -9 while connections are open: misses, at once."""
    assert await store_of.generations(["a"])
    valkey.process.kill()
    valkey.process.wait()
    await _each_in_time(store_of)


@pytest.mark.redis
@pytest.mark.fault
@pytest.mark.parametrize("pause", ["client-pause", "sigstop"])
async def test_paused(valkey: parts.Part, store_of: RedisStore, admin: Redis, pause: str):
    """FAULT-R2: each operation ends in time, the breaker opens after five, then nothing is waited for; it is back without a human."""
    await store_of.put("k", b"v", 60)
    if pause == "client-pause":
        await admin.client_pause(3_000)
    else:
        valkey.process.send_signal(signal.SIGSTOP)
    await _each_in_time(store_of)
    began = time.monotonic()
    for _ in range(100):
        assert await store_of.get("k") is None
    assert time.monotonic() - began < 0.5  # at most one attempt among them
    if pause == "client-pause":
        await asyncio.sleep(3)
    else:
        valkey.process.send_signal(signal.SIGCONT)
    assert await _soon(store_of, "k") == b"v"


async def _soon(store: RedisStore, key: str) -> bytes | None:
    """The value, once the breaker lets through."""
    for _ in range(200):
        if found := await store.get(key):
            return found
        await asyncio.sleep(0.05)
    return None


@pytest.mark.redis
@pytest.mark.fault
async def test_paused_with_many_waiting(valkey: parts.Part, admin: Redis):
    """FAULT-R2: the wait for a connection counts: of two hundred at once none takes longer than one alone."""
    store = RedisStore(valkey.url, breaker=Breaker(failures=1000))
    await admin.client_pause(1_000)
    began = time.monotonic()
    assert set(await asyncio.gather(*(store.get("k") for _ in range(200)))) == {None}
    assert time.monotonic() - began < OP + 2 * SLACK
    await store.close()


@pytest.mark.redis
@pytest.mark.fault
async def test_a_reply_that_came_too_late_reaches_nobody(valkey: parts.Part, admin: Redis):
    """A deadline that passes, and a request that is cancelled, leave a reply behind: the next request on that connection must not get it."""
    store = RedisStore(valkey.url, breaker=Breaker(failures=1000))
    for name in ("a", "b"):
        await store.put(name, name.encode(), 60)
    await admin.client_pause(250)
    late = [asyncio.create_task(store.get("a")) for _ in range(10)]
    await asyncio.sleep(0.02)
    for task in late[:5]:
        task.cancel()
    await asyncio.gather(*late, return_exceptions=True)
    await asyncio.sleep(0.3)
    assert [await store.get("b") for _ in range(20)] == [b"b"] * 20
    await store.close()


@pytest.mark.redis
@pytest.mark.fault
async def test_flushed(store_of: RedisStore, admin: Redis):
    """FAULT-R3: after FLUSHALL there are new generations, and no value."""
    before = await store_of.generations(["a"])
    await store_of.put("k", b"v", 60)
    await admin.flushall()
    assert await store_of.get("k") is None
    assert await store_of.generations(["a"]) != before


@pytest.mark.redis
@pytest.mark.fault
async def test_full(store_of: RedisStore, admin: Redis):
    """FAULT-R4: nothing new is kept, generations that are there still count, and a renewal, being a deletion, is still confirmed."""
    before = await store_of.generations(["a"])
    await admin.config_set("maxmemory", "1")
    assert await store_of.generations(["a"]) == before
    await store_of.put("k", b"v", 60)
    assert await store_of.get("k") is None
    assert await store_of.renew(["a"]) is True
    assert await store_of.generations(["a"]) is None  # no new one can be made: go uncached
    await admin.config_set("maxmemory", "0")
    after = await store_of.generations(["a"])
    assert after is not None
    assert after != before


@pytest.mark.redis
@pytest.mark.fault
async def test_poisoned(store_of: RedisStore, admin: Redis):
    """FAULT-R5: values of another kind or shape are misses, and are deleted, for keys and for generations."""
    await admin.rpush("k", "x")
    await admin.rpush("g1", "x")
    await admin.set("g2", "no token")
    await admin.set("g3", b"\xff" * 5_000_000)
    assert await store_of.get("k") is None
    assert await admin.exists("k") == 0
    for name in ("g1", "g2", "g3"):
        assert await store_of.generations([name]) is None
        assert await store_of.generations([name]) is not None


@pytest.mark.redis
@pytest.mark.fault
async def test_a_server_that_restarts_from_an_old_snapshot_brings_nothing_back(tmp_path: Path):
    """FAULT-R1: a renewal that was confirmed and then lost with the server's memory stays in force: generations name the run they are of."""
    port = parts.free_port()
    saved = ("--dir", str(tmp_path), "--dbfilename", "dump.rdb")
    with parts.valkey(*saved, port=port) as first:
        store = RedisStore(first.url, timeout=1)
        before = await store.generations(["a"])
        async with Redis.from_url(first.url) as admin:
            await admin.save()
        assert await store.renew(["a"]) is True
        first.process.kill()
        first.process.wait()
    with parts.valkey(*saved, port=port) as second:
        async with Redis.from_url(second.url) as admin:
            assert await admin.exists("a") == 1  # the old token is back
        await store.generations(["a"])  # the old connection is found dead
        after = await store.generations(["a"])
        assert after is not None
        assert after != before
    await store.close()


@pytest.mark.redis
@pytest.mark.fault
async def test_a_server_that_hides_its_run_is_not_used(valkey: parts.Part, admin: Redis):
    """A user that may not ask INFO gets no cache rather than one that could bring old answers back."""
    await admin.execute_command("ACL", "SETUSER", "blind", "on", ">pw", "~*", "+@all", "-info")
    store = RedisStore(valkey.url.replace("unix://", "unix://blind:pw@"))
    assert await store.generations(["a"]) is None
    assert await store.ping() is False
    await store.close()


@pytest.mark.redis
async def test_a_burst_is_served_over_few_connections(valkey: parts.Part, admin: Redis):
    """Five hundred look-ups at once do not open five hundred connections."""
    store = RedisStore(valkey.url, timeout=5)
    await store.put("k", b"v", 60)
    assert set(await asyncio.gather(*(store.get("k") for _ in range(500)))) == {b"v"}
    assert len(await admin.client_list()) <= 20
    await store.close()
