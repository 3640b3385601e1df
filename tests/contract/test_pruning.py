"""What has no effect any more is forgotten: which table ends how, that nobody waits for it, and that nothing counts a second time by it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import JSON, Boolean, Column, Integer, LargeBinary, Table, insert, select

from gateway import worker
from gateway.store import oauth as rows
from gateway.store import oauth_tables, people_tables, schema
from gateway.store.base import Database, UtcDateTime, now
from tests.support import smart

MOMENT = now()
ANCIENT = MOMENT - timedelta(days=1000)
ENDS = {
    "access_token", "assertion_jti", "authorization_code", "authorization_transaction", "known_browser", "launch", "oauth_grant", "pending_step",
    "pushed_request", "refresh_token", "registration_invite", "remembered_consent", "sign_in_attempt", "trial", "trial_event", "turn",
    "upstream_request", "web_session",
}  # fmt: skip
KEPT = {
    "account": "made by the operator",
    "account_patient": "as above",
    "account_contact": "one for an account",
    "totp_factor": "one for an account",
    "recovery_code": "ten for an account",
    "passkey": "ten for an account",
    "upstream_grant": "one for an account and EHR",
    "oauth_client": "what waits for a month goes with `clients.prune`; how many come is limited by address, and by the policy",
    "oauth_client_origin": "with its client",
    "signing_key": "goes when a rotation is over",
    "audit": "every access is on record",
    "audit_patient": "as above",
    "inbox_message": "nothing acknowledged is lost",
    "inbox_entry": "as above",
    "inbox_key": "as above",
    "pending_invalidation": "goes when the cache confirmed",
    "cache_member": "one row for each process; that of a dead one goes with the next writes",
}


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return f"sqlite+aiosqlite:///{tmp_path}/store.db" if request.param == "sqlite" else request.getfixturevalue("postgres_url")


ONE_STORE = pytest.mark.parametrize("url", ["sqlite"], indirect=True)


@pytest.fixture
async def database(url: str) -> AsyncIterator[Database]:
    """An empty store as the gateway makes it."""
    made = Database(url)
    await schema.prepare(made)
    yield made
    await made.close()


def _value(column: Column[Any], text: str, at: datetime) -> Any:
    for kind, value in ((UtcDateTime, at), (JSON, {}), (Boolean, False), (Integer, 1), (LargeBinary, b"x")):
        if isinstance(column.type, kind):
            return value
    return text


async def _fill(database: Database, table: Table, text: str = "x", at: datetime = ANCIENT, **more: str) -> None:
    """A row in which every word is the same, and every moment."""
    values = {column.name: _value(column, "x" if column.foreign_keys else text, at) for column in table.c} | more
    async with database.write() as connection:
        await connection.execute(insert(table).values(**values))


async def _count(database: Database, table: Table) -> int:
    async with database.read() as connection:
        return len((await connection.execute(select(table.primary_key.columns[0]))).all())


async def test_every_table_has_an_end(database: Database):
    """Old rows are gone where they end by themselves; of each other table it is said why it does not grow with what strangers send."""
    found = schema.tables().tables
    assert set(found) == ENDS | KEPT.keys()
    for table in (people_tables.account, oauth_tables.grant):
        await _fill(database, table)
    await _fill(database, oauth_tables.client, registration_hash="")
    for name in sorted(ENDS - {"oauth_grant"}):
        await _fill(database, found[name])
    await worker.forget(database, MOMENT)
    assert {name: await _count(database, found[name]) for name in ENDS} == dict.fromkeys(ENDS, 0)


async def test_what_is_in_force_stays(database: Database):
    """Rows of this moment, an old grant with a token that counts, and a new one whose code was never exchanged."""
    found = schema.tables().tables
    for table in (people_tables.account, oauth_tables.client, oauth_tables.grant):
        await _fill(database, table)
    await _fill(database, oauth_tables.grant, "new", MOMENT)
    for name in sorted(ENDS - {"oauth_grant"}):
        await _fill(database, found[name], at=MOMENT + timedelta(minutes=1))
    await worker.forget(database, MOMENT)
    assert {name: await _count(database, found[name]) for name in ENDS} == dict.fromkeys(ENDS, 1) | {"oauth_grant": 2}


async def test_of_a_client_that_registered_itself_the_newest_grant_stays(database: Database):
    """It says that somebody let that client in: what waits for the operator, and was never let in, is forgotten after a month."""
    await _fill(database, oauth_tables.client, "own")
    await _fill(database, oauth_tables.client, "ours", registration_hash="")
    for number, client_id in ((1, "own"), (2, "own"), (1, "ours"), (2, "ours")):
        await _fill(database, oauth_tables.grant, client_id, ANCIENT + timedelta(days=number), id=f"{client_id} {number}")
    await worker.forget(database, MOMENT)
    async with database.read() as connection:
        assert list((await connection.execute(select(oauth_tables.grant.c.id))).scalars()) == ["own 2"]


@ONE_STORE
async def test_a_stranger_s_rows_are_forgotten_few_at_a_time(database: Database):
    """However many there are: on SQLite everybody who writes waits for each transaction."""
    for number in range(5):
        await _fill(database, oauth_tables.transaction, str(number))
    left = []
    more = True
    while more:
        async with database.write() as connection:
            more = await rows.prune(connection, now=MOMENT, kept_until=ANCIENT, idle_since=ANCIENT, most=2)
        left.append(await _count(database, oauth_tables.transaction))
    assert left == [3, 1, 0]


@pytest.mark.postgres
async def test_nobody_waits_for_it(postgres_url: str):
    """What somebody changes at this moment is left for the next time."""
    database = Database(postgres_url)
    await schema.prepare(database)
    for text in ("held", "free"):
        await _fill(database, people_tables.pending, text)
    async with database.write() as connection:
        held = people_tables.pending.c.hash == "held"
        await connection.execute(people_tables.pending.update().where(held).values(tries=2))
        await worker.forget(database, MOMENT)
        assert await _count(database, people_tables.pending) == 1
    await worker.forget(database, MOMENT)
    assert await _count(database, people_tables.pending) == 0
    await database.close()


@ONE_STORE
async def test_an_assertion_that_was_forgotten_elsewhere_too_early_is_none(url: str):
    """ATK-O23: a process whose clock is ahead forgets what is over; at one whose clock is behind, the assertion still does not count again."""
    async with smart.smart_server(url) as server:
        key, http = await server.backend(), smart.Browser(server.app()).http
        form = smart.asserted(key.assertion("lab", moment=server.clock()))
        assert (await smart.exchange(http, form)).status_code == 200
        ahead = server.clock() + timedelta(minutes=10)
        async with server.database.write() as connection:
            await rows.prune(connection, now=ahead, kept_until=ahead - timedelta(days=1), idle_since=ahead - timedelta(hours=12))
        server.clock.forward(200)
        assert (await smart.exchange(http, form)).json()["error"] == "invalid_client"


@ONE_STORE
async def test_a_code_used_twice_is_seen_after_pruning(url: str):
    """ATK-O6: the grant of a code, and what it gave, are still there to be ended."""
    async with smart.smart_server(url) as server:
        await server.public_app()
        await server.person()
        browser, pkce = smart.Browser(server.app()), smart.Pkce()
        code = await smart.code_for(browser, smart.asking(scope="launch/patient offline_access patient/Observation.rs", pkce=pkce))
        form = {"grant_type": "authorization_code", "code": code, "redirect_uri": smart.APP, "code_verifier": pkce.verifier, "client_id": "app"}
        token = (await smart.exchange(browser.http, form)).json()
        server.clock.forward(23 * 3600)
        moment = server.clock()
        async with server.database.write() as connection:
            await rows.prune(connection, now=moment, kept_until=moment - timedelta(days=1), idle_since=moment)
            await rows.forget_grants(connection, await rows.empty_grants(connection, moment))
        await smart.exchange(browser.http, form)
        refresh = {"grant_type": "refresh_token", "refresh_token": token["refresh_token"], "client_id": "app"}
        assert (await smart.exchange(browser.http, refresh)).json()["error"] == "invalid_grant"
