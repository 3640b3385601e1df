"""One world for the tests of a file: the launcher on, over the EHR double."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest

from gateway import compose
from gateway.sandbox.double import Double, served
from gateway.smart.server import faults
from gateway.smart.server.people.accounts import Passwords
from tests.support import smart
from tests.support.launcher_world import ENCOUNTERS, TWO, TWO_OWN, A, World, furnish
from tests.support.whole_in_process import whole


@pytest.fixture(scope="module", autouse=True)
def quick() -> Iterator[None]:
    """Real argon2id, as cheap as it gets; slow servers that are a little less slow."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compose, "Passwords", lambda: Passwords(time_cost=1, memory=64))
        patch.setattr(faults, "TOKEN_SLOW", 0.1)
        patch.setattr(faults, "FHIR_SLOW", 0.1)
        yield


@pytest.fixture(scope="module")
def ehr_url() -> Iterator[str]:
    double = Double()
    double.seed(*TWO.resources(), *ENCOUNTERS)
    with served(double) as url:
        yield url


@pytest.fixture(scope="module")
async def world(tmp_path_factory: pytest.TempPathFactory, ehr_url: str) -> AsyncIterator[World]:
    folder, key = tmp_path_factory.mktemp("gateway"), smart.BackendKey()
    async with whole(ehr_url, folder, deliver=False, launcher_enabled=True, launcher_users="dora, ann-dev") as at:
        await furnish(at, key)
        assert at.gateway.trials is not None
        yield World(at, at.gateway.trials, key)


@pytest.fixture(scope="module")
async def honest(world: World) -> set[str]:
    """What a launch without a fault gives."""
    ride = await world.ride(await world.start())
    assert ride.refreshed is not None
    assert ride.refreshed.status_code == 200
    assert ride.got == {f"Patient/{A}", *(TWO_OWN)}
    return ride.got
