"""A person's token is renewed once, whichever processes want it at the same time, and never lost. One suite over SQLite and PostgreSQL."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from gateway.audit import AuditRecord
from gateway.errors import Forbidden, Unavailable, UpstreamFault
from gateway.seal import Sealer
from gateway.smart.client.connections import opened
from gateway.smart.client.persons import PersonTokens
from gateway.smart.client.tokens import SPACING
from gateway.smart.client.user import Ended
from gateway.smart.client.values import Failure, Granted
from gateway.store import people, schema
from gateway.store import upstream as rows
from gateway.store.base import Database, now
from gateway.store.oauth_rows import Account, digest
from gateway.store.turns import StoredTurns
from gateway.store.upstream import UpstreamGrant

SEALER = Sealer([b"k" * 32])
ANN = Account("ann", "ann", "", "st", "Patient/a", "Ann", now())


@dataclass
class Client:
    """How the gateway is called there."""

    name: str = "st"


@dataclass
class Endpoint:
    """The EHR: each refresh token works once, and is followed by another unless `keeps`."""

    client: Client = field(default_factory=Client)
    good: str = "r1"
    asked: list[str] = field(default_factory=list)
    answers: list[Any] = field(default_factory=list)
    keeps: bool = False
    life: float = 300.0
    delay: float = 0.1

    async def refresh(self, token: str) -> Granted | Failure | Ended:
        self.asked.append(token)
        await asyncio.sleep(self.delay)
        if self.answers:
            return self.answers.pop(0)
        if token != self.good:
            return Ended()
        number = len(self.asked) + 1
        self.good = self.good if self.keeps else f"r{number}"
        return Granted(f"a{number}", self.life, "", "" if self.keeps else self.good)


@dataclass
class Scene:
    database: Database
    endpoint: Endpoint = field(default_factory=Endpoint)
    records: list[AuditRecord] = field(default_factory=list)
    ahead: timedelta = timedelta()

    def process(self) -> PersonTokens:
        """One of several: they share the store and nothing else."""
        return PersonTokens(
            self.endpoint,
            self.database,
            SEALER,
            StoredTurns(self.database),
            where="https://gateway.test/auth/st/upstream",
            record_in=self._record_in,
            clock=lambda: now() + self.ahead,
        )

    async def _record_in(self, connection: Any, record: AuditRecord) -> None:
        del connection
        self.records.append(record)

    async def connected(self, *, refresh_token: str = "r1", ends_in: float = 300.0) -> None:
        moment = now()
        ends = moment + timedelta(seconds=ends_in)
        sealed = SEALER.seal(json.dumps({"access_token": "a1", "refresh_token": refresh_token}).encode(), b"upstream-grant:g1")
        grant = UpstreamGrant("g1", "ann", "st", "patient/*.rs", sealed, 1, moment + (ends - moment) * 0.75, ends, moment)
        async with self.database.write() as connection:
            await rows.put_grant(connection, grant)

    async def row(self) -> UpstreamGrant:
        async with self.database.read() as connection:
            found = await rows.grant_of(connection, "ann", "st")
        assert found is not None
        return found


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
async def scene(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Scene]:
    """A store with Ann in it."""
    url = f"sqlite+aiosqlite:///{tmp_path}/store.db" if request.param == "sqlite" else request.getfixturevalue("postgres_url")
    database = Database(url)
    await schema.prepare(database)
    async with database.write() as connection:
        await people.put_account(connection, ANN, ())
    yield Scene(database)
    await database.close()


def tokens_of(headers: list[Any]) -> set[str]:
    return {one["Authorization"] for one in headers}


async def test_many_requests_in_two_processes_make_one_refresh(scene):
    """And all of them go on with what it gave; the rotated token is what the next one is made with."""
    await scene.connected(ends_in=-1)
    one, other = scene.process(), scene.process()
    assert tokens_of(await asyncio.gather(*(each.headers("ann") for each in (one, other) * 10))) == {"Bearer a2"}
    assert scene.endpoint.asked == ["r1"]
    scene.ahead = timedelta(seconds=400)
    assert tokens_of(await asyncio.gather(*(each.headers("ann") for each in (one, other) * 10))) == {"Bearer a3"}
    assert scene.endpoint.asked == ["r1", "r2"]
    assert opened(SEALER, await scene.row()).refresh_token == "r3"
    assert (await scene.row()).version == 3


async def test_the_old_refresh_token_stays_where_none_is_given(scene):
    """A18.89: smart-launcher does not rotate."""
    scene.endpoint.keeps = True
    await scene.connected(ends_in=-1)
    one = scene.process()
    await one.headers("ann")
    scene.ahead = timedelta(seconds=400)
    await one.headers("ann")
    assert scene.endpoint.asked == ["r1", "r1"]


async def test_a_good_token_goes_on_while_it_is_renewed(scene):
    """Nobody waits; what fails then is tried again after a pause, and not with each request."""
    await scene.connected()
    one = scene.process()
    scene.ahead = timedelta(seconds=240)
    scene.endpoint.answers = [Failure(reason="ehr-token-down")] * 5
    for _ in range(5):
        assert tokens_of([await one.headers("ann")]) == {"Bearer a1"}
        await asyncio.sleep(0.15)
    assert len(scene.endpoint.asked) == 1
    await one.close()


async def test_an_ehr_that_is_away_ends_nothing(scene):
    """A fault with a reason; a refusal of the gateway's own client neither."""
    await scene.connected(ends_in=-1)
    for failure in (Failure(reason="ehr-token-down"), Failure(reason="ehr-token-refused", told="invalid_client")):
        scene.endpoint.answers = [failure]
        with pytest.raises(UpstreamFault) as caught:
            await scene.process().headers("ann")
        assert caught.value.reason == failure.reason
    assert tokens_of([await scene.process().headers("ann")]) == {"Bearer a4"}
    assert (await scene.row()).ended_at is None


async def test_a_refusal_ends_it_once_and_for_all_processes(scene):
    """One record; from then on nobody asks the EHR, neither for a token nor with one."""
    await scene.connected(ends_in=-1)
    scene.endpoint.good = "another"
    one, other = scene.process(), scene.process()
    found = await asyncio.gather(*(each.headers("ann") for each in (one, other) * 5), return_exceptions=True)
    assert {getattr(error, "reason", "") for error in found} == {"upstream-ended"}
    with pytest.raises(Forbidden):
        await other.view("ann")
    assert scene.endpoint.asked == ["r1"]
    assert [record.action for record in scene.records] == ["upstream-end"]


async def test_without_a_refresh_token_it_ends_when_the_token_does(scene):
    """No offline_access."""
    await scene.connected(refresh_token="")
    one = scene.process()
    assert tokens_of([await one.headers("ann")]) == {"Bearer a1"}
    scene.ahead = timedelta(seconds=301)
    with pytest.raises(Forbidden) as caught:
        await one.view("ann")
    assert caught.value.reason == "upstream-ended"
    assert scene.endpoint.asked == []


async def test_a_refresh_that_she_overtook_by_connecting_anew_is_dropped(scene):
    """What is in the row then counts; and one that she took back stays gone."""
    await scene.connected(ends_in=-1)
    one = scene.process()
    waiting = asyncio.create_task(one.headers("ann"))
    await asyncio.sleep(0.05)
    sealed = SEALER.seal(json.dumps({"access_token": "new", "refresh_token": "n"}).encode(), b"upstream-grant:g2")
    moment = now()
    later = moment + timedelta(seconds=300)
    async with scene.database.write() as connection:
        await rows.put_grant(connection, UpstreamGrant("g2", "ann", "st", "s", sealed, 1, later, later, moment))
    assert tokens_of([await waiting]) == {"Bearer new"}
    async with scene.database.write() as connection:
        assert await rows.remove_grant(connection, "ann", "st")
    with pytest.raises(Forbidden) as caught:
        await one.headers("ann")
    assert caught.value.reason == "upstream-not-connected"


async def test_a_store_that_is_away_for_a_moment_loses_no_token(scene, monkeypatch):
    """The EHR has rotated already: what it gave is kept as soon as the store is back."""
    await scene.connected(ends_in=-1)
    real, failures = rows.replace_tokens, [Unavailable(reason="store-down")] * 3

    async def replace_tokens(connection: Any, value: UpstreamGrant) -> bool:
        if failures:
            raise failures.pop()
        return await real(connection, value)

    monkeypatch.setattr(rows, "replace_tokens", replace_tokens)
    assert tokens_of([await scene.process().headers("ann")]) == {"Bearer a2"}
    assert opened(SEALER, await scene.row()).refresh_token == "r2"


async def test_a_process_that_died_in_its_turn_is_waited_for(scene):
    """Its turn is over after a while; then the other one asks."""
    await scene.connected(ends_in=-1)
    dead = StoredTurns(scene.database, life=0.3)
    assert await dead.take(digest("upstream:g1"), "somebody")
    begun: datetime = now()
    assert tokens_of([await scene.process().headers("ann")]) == {"Bearer a2"}
    assert now() - begun >= timedelta(seconds=0.3)


async def test_a_refused_token_is_replaced_but_not_again_and_again(scene, monkeypatch):
    """A 401 is one refresh; a second one within seconds is the EHR's last word."""
    await scene.connected()
    one = scene.process()
    old = await one.headers("ann")
    assert one.refused(old, "ann")
    new = await one.headers("ann")
    assert tokens_of([new]) == {"Bearer a2"}
    assert one.refused(old, "ann"), "who comes late with the old one takes the new one"
    assert not one.refused(new, "ann")
    assert tokens_of([await one.headers("ann")]) == {"Bearer a2"}
    monkeypatch.setattr("gateway.smart.client.persons.SPACING", -1.0)
    assert SPACING > 0
    assert one.refused(new, "ann")
    assert tokens_of([await one.headers("ann")]) == {"Bearer a3"}
    assert not one.refused({}, "")
    assert await one.headers("") == {}


async def test_tokens_moved_to_another_row_do_not_open(scene):
    """They are sealed under the row's own id."""
    await scene.connected()
    async with scene.database.write() as connection:
        found = await rows.grant_of(connection, "ann", "st")
        assert found is not None
        await rows.put_grant(connection, UpstreamGrant("g9", "ann", "st", "s", found.sealed, 1, found.renew_at, found.ends_at, found.created_at))
    with pytest.raises(UpstreamFault) as caught:
        await scene.process().headers("ann")
    assert caught.value.reason == "upstream-seal-broken"
