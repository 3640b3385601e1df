"""Ann, and her clients."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.support import smart
from tests.support.token_scene import Running


@pytest.fixture
async def running(tmp_path) -> AsyncIterator[Running]:
    async with smart.smart_server(f"sqlite+aiosqlite:///{tmp_path}/store.db") as server:
        await server.secret_app()
        await server.secret_app("other-web")
        await server.public_app()
        await server.person()
        yield Running(server, smart.Browser(server.app()))
