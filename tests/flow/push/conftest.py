"""A gateway whose worker is not running."""

from __future__ import annotations

import pytest

from gateway.store import oauth, schema
from gateway.store.base import Database, now
from gateway.store.oauth_rows import Client
from tests.support.push_scene import SCOPE, Gateway


@pytest.fixture
async def gateway(tmp_path):
    """A gateway whose worker is not running."""
    database = Database(f"sqlite+aiosqlite:///{tmp_path / 'store.db'}")
    await schema.prepare(database)
    async with database.write() as connection:
        for name, push in (("lab", {"mode": "deliver", "ehr": "hapi"}), ("teller", {"mode": "notify"})):
            client = Client(name, "The lab", "private_key_jwt", ("client_credentials",), (), SCOPE, ("hapi",), now(), push=push)
            await oauth.put_client(connection, client, frozenset())
    yield Gateway(database)
    await database.close()
