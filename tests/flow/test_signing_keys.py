"""Signing keys and their rotation, with two processes on one store and a clock that the tests move."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from joserfc import jwk, jwt
from joserfc.errors import JoseError

from gateway.errors import NotDone
from gateway.smart.server.keys import KEPT, SigningKeys
from gateway.smart.server.lifetimes import Lifetimes
from gateway.store import oauth as rows
from gateway.store.base import Database
from tests.support import smart

APART = 60
LIFE = Lifetimes().access


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
async def server(request: pytest.FixtureRequest, tmp_path) -> AsyncIterator[smart.Smart]:
    url = f"sqlite+aiosqlite:///{tmp_path}/store.db" if request.param == "sqlite" else request.getfixturevalue("postgres_url")
    async with smart.smart_server(url) as found:
        yield found


@pytest.fixture
async def other(server: smart.Smart) -> AsyncIterator[SigningKeys]:
    """A second process on the same store, with a connection and a clock of its own."""
    database = Database(server.database.url)
    yield SigningKeys(database, smart.SEALER, lifetimes=Lifetimes(), clock=smart.Clock(server.clock.at))
    await database.close()


async def signed(keys: SigningKeys) -> str:
    key = await keys.signing()
    return jwt.encode({"alg": "RS256", "kid": key.kid}, {"sub": "ann"}, key, algorithms=["RS256"])


def holds(token: str, keys: Any) -> bool:
    try:
        jwt.decode(token, jwk.KeySet.import_key_set(keys), algorithms=["RS256"])
    except (JoseError, ValueError):
        return False
    return True


async def test_every_id_token_verifies_with_every_key_set_that_a_client_may_hold(server, other):
    """Through two rotations, at any moment: signed by one process, verified with the key set of the other, old or new, while the token lives."""
    for clock_apart in (-APART, APART):
        ours, theirs = server.keys, other
        begin = server.clock.at
        sets: list[tuple[int, Any]] = []
        tokens: list[tuple[int, str]] = []
        for second in range(0, LIFE + 900, 40):
            server.clock.at = begin
            server.clock.forward(second)
            theirs._clock.at = begin  # the other process's own clock
            theirs._clock.forward(second + clock_apart)  # as above
            if second in (80, 680):
                await (ours if second == 80 else theirs).rotate()
            sets.append((second, await theirs.public()))
            if second < 1200:
                tokens.append((second, await signed(ours)))
        assert len({token.partition(".")[0] for _, token in tokens}) == 3  # three kids signed
        for issued, token in tokens:
            usable = [keys for fetched, keys in sets if issued - KEPT <= fetched < issued + LIFE]
            distinct = {str(keys): keys for keys in usable}.values()
            assert all(holds(token, keys) for keys in distinct), issued
        server.clock.forward(2 * LIFE)


async def test_a_new_key_is_published_at_once_and_signs_later(server, other):
    """And the one before it is gone when what it signed is over; then the row is gone as well, at the next rotation."""
    old = (await server.keys.signing()).kid
    made = await server.keys.rotate()
    assert [one.state for one in await server.keys.listed()] == ["waiting", "signing"]
    assert (await server.keys.signing()).kid == old
    assert [key["kid"] for key in (await other.public())["keys"]] == [made.kid, old]
    server.clock.forward(KEPT + APART)
    assert (await server.keys.signing()).kid == made.kid
    assert [one.state for one in await server.keys.listed()] == ["signing", "replaced"]
    server.clock.forward(LIFE + APART)
    assert [one.kid for one in await server.keys.listed()] == [made.kid]
    await server.keys.rotate()
    assert [one.slot for one in await rows.signing_keys(server.database.derive)] == [3, 2]
    told = [(one.action, one.detail.partition(",")[0]) for one in server.records if one.action == "key-rotate"]
    assert told[0] == ("key-rotate", made.kid)
    assert len(told) == 2


async def test_a_rotation_at_a_time(server, other):
    """A second one while the new key waits is refused in words; of two at once one is done."""
    await server.keys.rotate()
    with pytest.raises(NotDone, match="does not sign yet"):
        await other.rotate()
    assert len(await server.keys.listed()) == 2


async def test_a_stolen_key_is_out_of_use_at_once(server, other):
    """In every process: it signs nothing, and nobody is told to trust it."""
    token = await signed(other)
    await server.keys.rotate()
    made = await server.keys.rotate(at_once=True)
    assert [key["kid"] for key in (await other.public())["keys"]] == [made.kid]
    assert not holds(token, await other.public())
    assert holds(await signed(other), await server.keys.public())


async def test_the_key_set_says_how_long_it_may_be_kept(server):
    """As long as a new key waits before it signs, and no longer; the private part is never in it."""
    async with httpx.AsyncClient(transport=httpx.ASGITransport(server.app()), base_url=smart.PUBLIC_URL) as http:
        answer = await http.get("/auth/hapi/jwks")
    assert answer.headers["cache-control"] == f"max-age={KEPT}"
    assert set(answer.json()["keys"][0]) == {"kty", "n", "e", "kid", "use", "alg"}
    assert answer.json()["keys"][0]["alg"] == "RS256"
