"""A server with people who have one record, several, or a list."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from gateway.smart.server.attempts import Attempts
from tests.support import smart
from tests.support.pages_scene import Running


@pytest.fixture
async def running(tmp_path) -> AsyncIterator[Running]:
    async with smart.smart_server(f"sqlite+aiosqlite:///{tmp_path}/store.db", attempts=Attempts(3, 8)) as server:
        await server.public_app()
        await server.person()
        await server.person("mum", fhir_user="Patient/m", patients=["kid", "kid2"])
        await server.person("doc", fhir_user="Practitioner/d", patients=["a", "kid"])
        await server.person("new-doc", fhir_user="Practitioner/n")
        await server.person("far", fhir_user="Patient/a", ehr="other")
        yield Running(server)
