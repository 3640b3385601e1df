"""What is seen of a trial is numbered without gaps, whoever writes. One suite over SQLite and PostgreSQL."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from functools import partial
from pathlib import Path

import pytest
from sqlalchemy import func, select

from gateway.errors import ConfigError
from gateway.smart.record import Caller
from gateway.smart.server import faults
from gateway.smart.server.attempts import limits_of_trials
from gateway.smart.server.people.developers import Developers
from gateway.smart.server.trial import STANDALONE_WINDOW, Noted, Started, TooManyTrials, TrialWanted
from gateway.smart.server.trials import AT_ONCE, LIFE, Trials
from gateway.store import oauth_tables, trial_tables, trials
from gateway.store.base import Database
from gateway.store.oauth_rows import digest
from tests.support import smart

WRITERS = 4
EACH = 30


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
async def server(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[smart.Smart]:
    """A server with the launcher, one app and one person."""
    url = f"sqlite+aiosqlite:///{tmp_path}/store.db" if request.param == "sqlite" else request.getfixturevalue("postgres_url")
    async with smart.smart_server(url, developers=("dora",)) as found:
        await found.public_app()
        await found.person()
        yield found


def of(server: smart.Smart) -> Trials:
    assert server.trials is not None
    return server.trials


async def begun(server: smart.Smart, **more: str) -> Started:
    return await of(server).start(TrialWanted(smart.EHR, "app", patient="a", user="ann", **more), Caller(), "record")


def another(server: smart.Smart) -> Trials:
    """The same launcher in another process: a database of its own, and nothing in memory."""
    database = Database(server.database.url)
    common = {"record_in": server._record_in, "clock": server.clock}
    developers = Developers(database, server.sessions, (), **common)
    return Trials(database, server.launches, developers, smart.SEALER, ehrs=(smart.EHR,), public_url=smart.PUBLIC_URL, **common)


async def test_many_processes_number_what_they_saw(server):
    """Every event once, each writer's in its order, and no number is left out."""
    started, writers = await begun(server), [another(server) for _ in range(WRITERS)]
    label = digest(started.trial_id)

    async def write(place: int, writer: Trials) -> None:
        for number in range(EACH):
            writer.note(label, Noted("fhir", address=f"{place}/{number}"))
            await asyncio.sleep(0)
            if number % 7 == place:
                await writer.settled()
        await writer.settled()

    await asyncio.gather(*(write(place, writer) for place, writer in enumerate(writers)))
    seen = await of(server).seen(started.trial_id)
    assert [one.number for one in seen] == list(range(1, WRITERS * EACH + 1))
    for place in range(WRITERS):
        assert [one.address for one in seen if one.address.startswith(f"{place}/")] == [f"{place}/{number}" for number in range(EACH)]
    for writer in writers:
        await writer._database.close()


async def test_who_asks_for_what_came_after_misses_nothing(server):
    """While others write, the numbers that somebody sees only ever grow by those that follow."""
    started, writers = await begun(server), [another(server) for _ in range(2)]
    label, done = digest(started.trial_id), asyncio.Event()

    async def write(writer: Trials) -> None:
        for number in range(EACH):
            writer.note(label, Noted("fhir", address=str(number)))
            await writer.settled()

    async def look() -> list[int]:
        reader, found = another(server), list[int]()
        while True:
            last = done.is_set()
            found += [one.number for one in await reader.seen(started.trial_id, found[-1] if found else 0)]
            if last:
                await reader._database.close()
                return found
            await asyncio.sleep(0.002)

    looking = asyncio.create_task(look())
    await asyncio.gather(*(write(writer) for writer in writers))
    done.set()
    assert await looking == list(range(1, 2 * EACH + 1))
    for writer in writers:
        await writer._database.close()


async def test_there_is_an_end(server):
    """A trial keeps so many events, and answers with so many at once."""
    started = await begun(server)
    for number in range(trials.MOST + 100):
        of(server).note(digest(started.trial_id), Noted("fhir", address=str(number)))
        if number % 500 == 0:
            await of(server).settled()
    found: list[int] = []
    while more := await of(server).seen(started.trial_id, found[-1] if found else 0):
        assert len(more) <= AT_ONCE
        found += [one.number for one in more]
    assert found == list(range(1, len(found) + 1))
    assert trials.MOST - 50 < len(found) <= trials.MOST


async def test_a_trial_ends_and_is_forgotten(server):
    """After a day it is none any more, in this process and in any; and nothing of it stays."""
    started = await begun(server)
    of(server).note(digest(started.trial_id), Noted("fhir"))
    assert len(await of(server).seen(started.trial_id)) == 1
    server.clock.forward(LIFE + 1)
    assert await of(server).named(started.trial_id) is None
    assert await of(server).seen(started.trial_id) == ()
    async with server.database.write() as connection:
        await trials.prune(connection, moment=server.clock())
    of(server).note(digest(started.trial_id), Noted("fhir"))
    await of(server).settled()
    async with server.database.read() as connection:
        for table in (trial_tables.trial, trial_tables.trial_event):
            assert (await connection.execute(select(func.count()).select_from(table))).scalar() == 0


async def test_a_trial_is_the_same_in_every_process(server):
    """What the developer chose comes back whole."""
    wanted = {"intent": "x", "scopes": "patient/Observation.rs", "fault": "denied"}
    started, other = await begun(server, **wanted), another(server)
    assert await other.named(started.trial_id) == await of(server).named(started.trial_id)
    found = await other.named(started.trial_id)
    assert found is not None
    assert (found.wanted.intent, found.wanted.scopes, found.fault) == ("x", "patient/Observation.rs", "denied")
    assert found.expires_at == found.created_at + timedelta(seconds=LIFE)
    await other._database.close()


async def test_a_standalone_trial_is_of_one_app_at_one_ehr(server):
    """And for ten minutes; by a page's origin too, where the newest one counts."""
    first, second = await begun(server, kind="standalone"), await begun(server, kind="standalone")
    found = await of(server).brought(first.trial_id, smart.EHR, "app")
    assert found is not None
    assert found.label == digest(first.trial_id)
    assert await of(server).brought(first.trial_id, "other", "app") is None
    assert await of(server).brought(first.trial_id, smart.EHR, "web") is None
    server.clock.forward(STANDALONE_WINDOW / 2)
    third = await begun(server, kind="standalone")
    for ehr, origin in ((smart.EHR, "https://app.test"), ("other", "https://app.test"), (smart.EHR, "https://evil.test")):
        of(server).note_discovery(ehr, origin, Noted("discovery"))
    assert [len(await of(server).seen(one.trial_id)) for one in (first, second, third)] == [0, 0, 1]
    server.clock.forward(STANDALONE_WINDOW + 1)
    of(server).note_discovery(smart.EHR, "https://app.test", Noted("discovery"))
    assert [len(await of(server).seen(one.trial_id)) for one in (first, second, third)] == [0, 0, 1]
    assert await of(server).brought(third.trial_id, smart.EHR, "app") is None


async def test_what_is_kept_opens_at_its_own_place_alone(server):
    """A row that somebody moved to another trial shows nothing there."""
    first, second = await begun(server), await begun(server)
    of(server).note(digest(first.trial_id), Noted("fhir", address="/fhir/hapi/Patient/a"))
    await of(server).settled()
    async with server.database.write() as connection:
        row = (await trials.events(connection, digest(first.trial_id), 0, 1))[0]
        await trials.add_events(connection, [trials.EventRow(digest(second.trial_id), 1, row.at, row.sealed)])
    found = await of(server).seen(second.trial_id)
    assert [(one.kind, one.address) for one in found] == [("broken", "")]


async def test_only_so_many_are_started(server, monkeypatch):
    """From one address by the page, whoever they are for and right or not; by one system; until the window is over. Many at once count too."""
    monkeypatch.setattr(of(server), "_limits", partial(limits_of_trials, most=2, most_of_system=3, window=600))

    async def start(address: str = "192.0.2.1", by: str = "", client_id: str = "app", **more: str) -> int:
        """Seconds to wait, 0 when it was started or was a mistake."""
        try:
            await of(server).start(TrialWanted(smart.EHR, client_id, kind="standalone", **more), Caller("r", address), by)
        except TooManyTrials as error:
            return error.wait
        except ConfigError:
            return 0
        return 0

    waits = await asyncio.gather(*(start() for _ in range(6)))
    assert sorted(map(bool, waits)) == [False] * 2 + [True] * 4
    assert max(waits) <= 601
    assert await start("192.0.2.2", launch_url="ftp://x") == 0  # no trial by itself: it is not counted
    assert [bool(await start("192.0.2.2", client_id=one)) for one in ("nobody", "app", "app")] == [False, False, True]
    assert [bool(await start(by=one)) for one in ("lab", "lab", "lab", "lab", "other")] == [False, False, False, True, False]
    async with server.database.read() as connection:
        started = (await connection.execute(select(func.count()).select_from(trial_tables.trial))).scalar()
    assert started == 2 + 1 + 3 + 1
    server.clock.forward(601)
    assert await start() == await start(by="lab") == 0


async def test_what_is_refused_leaves_nothing(server):
    """Neither a trial nor a launch."""
    with pytest.raises(ConfigError):
        await begun(server, encounter="no id")
    async with server.database.read() as connection:
        assert (await connection.execute(select(func.count()).select_from(trial_tables.trial))).scalar() == 0


async def test_a_slow_token_endpoint_gives_one_token(server, monkeypatch):
    """ATK-O6: while it waits, others come with the same code; what happens once still happens once."""
    monkeypatch.setattr(faults, "TOKEN_SLOW", 0.05)
    started, pkce = await begun(server, fault="token-slow"), smart.Pkce()
    browser = smart.Browser(server.app())
    code = await smart.code_for(browser, smart.asking(scope="launch patient/Observation.rs", pkce=pkce, launch=started.launch))
    form = {"grant_type": "authorization_code", "code": code, "redirect_uri": smart.APP, "code_verifier": pkce.verifier, "client_id": "app"}
    answers = await asyncio.gather(*(smart.exchange(browser.http, form) for _ in range(6)))
    assert sorted(one.status_code for one in answers) == [200] + [400] * 5
    async with server.database.read() as connection:
        issued = (await connection.execute(oauth_tables.access_token.select())).all()
    assert len(issued) == 1
    seen = await of(server).seen(started.trial_id)
    assert sorted(one.status for one in seen if one.kind == "token") == [200] + [400] * 5
