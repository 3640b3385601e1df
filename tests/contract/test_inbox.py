"""The inbox table, on SQLite and on PostgreSQL: order, leases, fencing, repeats, what waits behind a dead message, accounting."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from datetime import UTC, datetime, timedelta

import pytest

from gateway.store import inbox, inbox_admin, schema
from gateway.store.base import Database
from gateway.store.inbox_rows import OTHERS, UNCONFIRMED, Added, Claimed, Entry, Fenced, NewMessage, State

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
async def database(request, tmp_path):
    """An empty store with its schema."""
    url = request.getfixturevalue("postgres_url") if request.param == "postgres" else f"sqlite+aiosqlite:///{tmp_path / 'store.db'}"
    made = Database(url)
    await schema.prepare(made)
    yield made
    await made.close()


def new(**changes) -> NewMessage:
    values = {
        "id": secrets.token_hex(8),
        "ehr": "hapi",
        "client_id": "lab",
        "client_name": "The lab",
        "subject": "hapi|system|lab||",
        "scopes": "system/Observation.cu",
        "mode": "deliver",
        "kind": "create",
        "type": "Observation",
        "target": "gw1",
        "sha256": "0" * 64,
        "size": 2,
        "request": b"sealed",
        "request_id": "r1",
        "received_at": NOON,
    }
    return NewMessage(**(values | changes))


async def put(database: Database, *keys: str, **changes) -> Added:
    async with database.write() as connection:
        return await inbox.add(connection, new(**changes), [Entry(0, "create", "Observation", "gw1")], keys or ("k",))


async def claim(database: Database, *, at: datetime = NOON, limit: int = 10, paused=(), lease: int = 10) -> list[Claimed]:
    async with database.write() as connection:
        return list(
            await inbox.claim(
                connection, holder="h", token=secrets.token_hex(8), now=at, until=at + timedelta(seconds=lease), limit=limit, paused=paused
            )
        )


async def finish(database: Database, claimed: Claimed, state: State = State.DONE, **more) -> None:
    async with database.write() as connection:
        await inbox.finish(connection, claimed.message, state, at=NOON, **more)


async def states(database: Database) -> dict[str, str]:
    async with database.read() as connection:
        return {one.id: one.state for one in await inbox_admin.listing(connection)}


async def test_messages_of_one_key_go_one_after_the_other(database):
    """The second waits for the first; another key does not."""
    await put(database, "a", id="a1")
    await put(database, "a", id="a2")
    await put(database, "b", id="b1")

    first = await claim(database)
    assert [one.message.id for one in first] == ["a1", "b1"]
    assert await claim(database) == []

    await finish(database, first[0])
    assert [one.message.id for one in await claim(database)] == ["a2"]


async def test_a_message_of_two_keys_waits_for_both(database):
    """A Bundle about two patients keeps the order of each."""
    await put(database, "a", id="a1")
    await put(database, "b", id="b1")
    await put(database, "a", "b", id="ab")
    await put(database, "b", id="b2")

    a1, b1 = await claim(database)
    await finish(database, a1)
    assert await claim(database) == []
    await finish(database, b1)
    assert [one.message.id for one in await claim(database)] == ["ab"]


async def test_a_claim_carries_request_and_entries(database):
    """Everything that delivery needs comes with the lease."""
    entries = [Entry(0, "create", "Observation", "gw1"), Entry(1, "update", "Patient", "p1")]
    async with database.write() as connection:
        await inbox.add(connection, new(request=b"\x00sealed\xff", kind="transaction"), entries, ("k",))

    (found,) = await claim(database)
    assert (found.request, found.entries, found.message.attempts, found.message.state) == (b"\x00sealed\xff", tuple(entries), 1, State.CLAIMED)


async def test_a_lease_that_ran_out_is_taken_over_and_the_late_worker_is_fenced(database):
    """FAULT-P3: a zombie's write changes nothing."""
    await put(database, id="m")
    (zombie,) = await claim(database, lease=10)
    assert await claim(database, at=NOON + timedelta(seconds=9)) == []
    (heir,) = await claim(database, at=NOON + timedelta(seconds=11))
    assert (heir.message.id, heir.message.attempts) == ("m", 2)

    with pytest.raises(Fenced):
        await finish(database, zombie)
    async with database.write() as connection:
        with pytest.raises(Fenced):
            await inbox.sending(connection, zombie.message, {0: "9"})
    async with database.write() as connection:
        assert await inbox.renew(connection, {zombie.message.seq: zombie.message.attempt_token}, NOON) == frozenset()
    assert await states(database) == {"m": State.CLAIMED}

    await finish(database, heir)
    with pytest.raises(Fenced):
        await finish(database, heir, State.REJECTED)
    assert await states(database) == {"m": State.DONE}


async def test_a_renewed_lease_stays(database):
    """A long delivery keeps its message."""
    await put(database)
    (mine,) = await claim(database, lease=10)
    async with database.write() as connection:
        kept = await inbox.renew(connection, {mine.message.seq: mine.message.attempt_token}, NOON + timedelta(seconds=20))
    assert kept == {mine.message.seq}
    assert await claim(database, at=NOON + timedelta(seconds=15)) == []


async def test_what_was_seen_before_sending_is_there_for_the_next_attempt(database):
    """The version read before the first attempt is committed before anything goes out."""
    await put(database)
    (first,) = await claim(database)
    async with database.write() as connection:
        await inbox.sending(connection, first.message, {0: 'W/"3"'})
    (second,) = await claim(database, at=NOON + timedelta(seconds=11))
    assert (second.entries[0].tried, second.entries[0].seen) == (True, 'W/"3"')
    async with database.write() as connection:
        await inbox.sending(connection, second.message, {0: None})
    (third,) = await claim(database, at=NOON + timedelta(seconds=30))
    assert third.entries[0].seen == 'W/"3"'


async def put_posts(database: Database) -> Claimed:
    """Three creates of one message, one of them with a fixed id; claimed."""
    async with database.write() as connection:
        entries = [Entry(0, "create", "Observation", "gw1"), Entry(1, "create", "Observation", ""), Entry(2, "create", "Observation", "")]
        await inbox.add(connection, new(id="m", kind="batch", target=""), entries, ["k"])
    (claimed,) = await claim(database)
    return claimed


async def marks(database: Database, at: int = 11) -> list[tuple[str, bool, str | None]]:
    """What the next attempt finds, once the lease has run out."""
    (found,) = await claim(database, at=NOON + timedelta(seconds=at))
    return [(one.target, one.tried, one.seen) for one in found.entries]


async def test_only_what_has_a_fixed_id_counts_as_tried_without_having_been_marked(database):
    """A look costs a read there; elsewhere nobody could tell any more."""
    first = await put_posts(database)
    async with database.write() as connection:
        await inbox.sending(connection, first.message, {1: OTHERS})
        await inbox.again(connection, first.message, at=NOON, error="ehr-503")
    assert await marks(database) == [("gw1", True, None), ("", True, "others"), ("", False, None)]


async def test_a_refusal_takes_the_mark_back(database):
    """As if it had not been sent."""
    first = await put_posts(database)
    async with database.write() as connection:
        await inbox.sending(connection, first.message, {1: "", 2: None})
        await inbox.unsent(connection, first.message, [1])
    assert await marks(database) == [("gw1", False, None), ("", False, None), ("", True, None)]


async def test_an_id_that_is_given_up_is_gone_for_good(database):
    """For the entry and for the message; not without the lease."""
    first = await put_posts(database)
    async with database.write() as connection:
        await inbox.give_up_ids(connection, first.message, [0])
    assert (await marks(database))[0] == ("", False, None)
    async with database.write() as connection:
        for change in (inbox.give_up_ids, inbox.unsent):
            with pytest.raises(Fenced):
                await change(connection, first.message, [0])


@pytest.mark.parametrize(("error", "left"), [(UNCONFIRMED, [True, False, False]), ("ehr-500", [True, True, True])])
async def test_a_second_chance_sends_again_what_nobody_could_find(database, error, left):
    """When that is what it died of. What can be looked for is looked for all the same."""
    first = await put_posts(database)
    async with database.write() as connection:
        await inbox.sending(connection, first.message, {0: None, 1: None, 2: OTHERS})
    await finish(database, first, State.DEAD, error=error)
    async with database.write() as connection:
        assert await inbox_admin.retry(connection, "m", NOON)
    assert [tried for _, tried, _ in await marks(database)] == left


async def test_another_attempt_waits_for_its_time_and_keeps_its_place(database):
    """A message in backoff holds back the later ones of its key."""
    await put(database, "a", id="a1")
    await put(database, "a", id="a2")
    (first,) = await claim(database)
    later = NOON + timedelta(seconds=60)
    async with database.write() as connection:
        await inbox.again(connection, first.message, at=later, error="ehr-503")

    assert await claim(database, at=NOON + timedelta(seconds=30)) == []
    (again,) = await claim(database, at=later)
    assert (again.message.id, again.message.attempts, again.message.error) == ("a1", 2, "ehr-503")
    async with database.write() as connection:
        await inbox.again(connection, again.message, at=later, counts=False)
    assert [one.message.attempts for one in await claim(database, at=later)] == [2]


async def test_a_paused_ehr_is_left_alone(database):
    """Messages for other EHRs flow."""
    await put(database, "a", id="a1", ehr="down")
    await put(database, "b", id="b1", ehr="up")
    assert [one.message.id for one in await claim(database, paused={"down"})] == ["b1"]


async def test_fifty_at_once_under_one_identity_are_one_row(database):
    """FAULT-S1: one row, however they race; everyone is told of the same one."""
    added = await asyncio.gather(*(put(database, id=f"m{n}", identity="i", repeat_key="r") for n in range(50)))
    assert sum(one.first for one in added) == 1
    assert len({one.message.seq for one in added}) == 1
    async with database.read() as connection:
        assert (await inbox_admin.accounting(connection)).acknowledged == 1


async def test_one_identity_with_other_content_is_stored_and_flagged(database):
    """FAULT-S2."""
    first = await put(database, identity="i", repeat_key="r1")
    second = await put(database, identity="i", repeat_key="r2")
    assert (first.message.identity_reused, second.first, second.message.identity_reused) == (False, True, True)


async def test_without_identity_equal_bytes_are_two_messages(database):
    """PUT A, PUT B, PUT A ends as A."""
    assert [(await put(database, id=f"m{n}")).first for n in range(3)] == [True, True, True]


async def test_behind_a_dead_one_everything_of_its_keys_is_held_until_it_is_retried(database):
    """Held directly, held through another held one, and held when it comes later; then delivered in order."""
    for id_, keys in {"a1": "a", "ab": "ab", "b1": "b", "c1": "c"}.items():
        await put(database, *keys, id=id_)
    a1, c1 = await claim(database)
    await finish(database, c1)
    await finish(database, a1, State.DEAD, error="ehr-500")
    await put(database, "b", id="b2")
    assert await states(database) == {"a1": "dead", "ab": "held", "b1": "held", "b2": "held", "c1": "done"}
    assert await claim(database) == []

    async with database.write() as connection:
        assert await inbox_admin.retry(connection, "a1", NOON)
        assert not await inbox_admin.retry(connection, "b1", NOON)
    order = []
    while found := await claim(database):
        order += [one.message.id for one in found]
        for one in found:
            await finish(database, one)
    assert order == ["a1", "ab", "b1", "b2"]


async def test_two_dead_ones_hold_until_both_are_gone(database):
    """Dropping one lets go only what it alone held."""
    await put(database, "a", id="a1")
    await put(database, "b", id="b1")
    await put(database, "a", id="a2")
    await put(database, "a", "b", id="ab")
    for one in await claim(database):
        await finish(database, one, State.DEAD)
    async with database.write() as connection:
        assert await inbox_admin.drop(connection, "a1", NOON, b"dropped")
    assert await states(database) == {"a1": "rejected", "b1": "dead", "a2": "received", "ab": "held"}
    async with database.read() as connection:
        counted = await inbox_admin.accounting(connection)
    assert (counted.rejected, counted.dead, counted.pending, counted.held, counted.holds) == (1, 1, 1, 1, True)


async def test_with_policy_skip_what_is_behind_a_dead_one_goes_on(database):
    """The operator may choose flow over order."""
    await put(database, "a", id="a1")
    await put(database, "a", id="a2")
    (a1,) = await claim(database)
    await finish(database, a1, State.DEAD, block=False)
    assert [one.message.id for one in await claim(database)] == ["a2"]


async def test_a_message_under_lease_cannot_be_dropped(database):
    """What may be on its way to the EHR is not given up behind its back."""
    await put(database, id="m")
    await claim(database)
    async with database.write() as connection:
        assert not await inbox_admin.drop(connection, "m", NOON, b"")


async def test_entries_keep_their_own_state(database):
    """FAULT-U24: what is through is not sent again."""
    async with database.write() as connection:
        await inbox.add(connection, new(kind="batch"), [Entry(0, "create", "Observation", "g0"), Entry(1, "create", "Observation", "g1")], ("k",))
    (first,) = await claim(database)
    async with database.write() as connection:
        await inbox.finish_entry(connection, first.message, 0, State.DONE, b"answer")
        await inbox.again(connection, first.message, at=NOON)
    (second,) = await claim(database)
    assert [(one.state, one.answer) for one in second.entries] == [(State.DONE, b"answer"), (State.RECEIVED, None)]


async def test_several_workers_never_hold_one_key_at_once(database):
    """FAULT-P4: twenty claims side by side, and every key has one owner, in order."""
    for n in range(60):
        await put(database, f"k{n % 7}", id=f"{n:02}")
    delivered: list[tuple[int, str]] = []
    owned: set[int] = set()

    async def work() -> None:
        while found := await claim(database, limit=2):
            for one in found:
                lane = int(one.message.id) % 7
                assert lane not in owned
                owned.add(lane)
                await asyncio.sleep(0)
                delivered.append((lane, one.message.id))
                owned.discard(lane)
                await finish(database, one)

    while len(delivered) < 60:
        await asyncio.gather(*(work() for _ in range(6)))
    for lane in range(7):
        mine = [id_ for at, id_ in delivered if at == lane]
        assert mine == sorted(mine)
    assert len({id_ for _, id_ in delivered}) == 60


async def test_a_rolled_back_receipt_leaves_nothing(database):
    """No row, no key: the sender was told 503."""
    with contextlib.suppress(ZeroDivisionError):
        async with database.write() as connection:
            await inbox.add(connection, new(), [Entry(0, "create", "Observation", "g")], ("k",))
            raise ZeroDivisionError
    async with database.read() as connection:
        assert (await inbox_admin.accounting(connection)).acknowledged == 0
    assert await claim(database) == []


async def test_accounting_of_an_empty_store(database):
    """All zero, and the identity holds."""
    async with database.read() as connection:
        counted = await inbox_admin.accounting(connection)
    assert counted.holds
    assert (counted.acknowledged, counted.oldest_pending) == (0, None)


async def test_the_oldest_pending_message_is_told(database):
    """How far behind delivery is."""
    await put(database, "a", received_at=NOON - timedelta(hours=1))
    await put(database, "b")
    async with database.read() as connection:
        assert (await inbox_admin.accounting(connection)).oldest_pending == NOON - timedelta(hours=1)
