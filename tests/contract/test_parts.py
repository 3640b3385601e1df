"""The real parts start, answer and are told apart from missing ones."""

from __future__ import annotations

import socket

import asyncpg
import pytest
import redis.asyncio

from tests.support import parts


@pytest.mark.redis
async def test_valkey_answers_on_its_socket(redis_url):
    """The shared Valkey takes and gives a value."""
    client = redis.asyncio.Redis.from_url(redis_url)
    assert await client.set("test:parts", b"1", ex=5)
    assert await client.get("test:parts") == b"1"
    await client.aclose()


@pytest.mark.redis
async def test_valkey_answers_on_a_chosen_port_with_options():
    """Fault tests choose the port and the limits."""
    port = parts.free_port()
    with parts.valkey("--maxmemory", "3mb", port=port) as server:
        client = redis.asyncio.Redis.from_url(server.url)
        assert (await client.config_get("maxmemory"))["maxmemory"] == "3145728"
        await client.aclose()
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", port)) != 0


@pytest.mark.postgres
async def test_each_test_has_an_empty_database(postgres_url):
    """The database is ours alone and has no tables."""
    assert postgres_url.startswith("postgresql+asyncpg://")
    connection = await asyncpg.connect(postgres_url.replace("+asyncpg", ""))
    assert await connection.fetchval("select count(*) from information_schema.tables where table_schema = 'public'") == 0
    await connection.close()


def test_a_missing_chromium_says_what_to_install(monkeypatch, tmp_path):
    """An error with its remedy, not a skip."""
    monkeypatch.delenv("GATEWAY_TEST_CHROMIUM", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("PLAYWRIGHT_BROWSERS_PATH", str(tmp_path))
    with pytest.raises(parts.MissingPart, match="playwright install chromium"):
        parts.chromium_path()


def test_a_chromium_of_playwright_is_found(monkeypatch, tmp_path):
    """Where `playwright install` puts it."""
    program = tmp_path / "chromium-1228" / "chrome-linux64" / "chrome"
    program.parent.mkdir(parents=True)
    program.touch()
    monkeypatch.delenv("GATEWAY_TEST_CHROMIUM", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("PLAYWRIGHT_BROWSERS_PATH", str(tmp_path))
    assert parts.chromium_path() == str(program)
