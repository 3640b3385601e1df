"""The audit log on a real disk, over SQLite and PostgreSQL, with processes that are really killed."""

# ruff: noqa: ASYNC240  (the loop of a test may wait for a small local file or a mount)
from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import text

from gateway.audit import AuditRecord
from gateway.errors import Unavailable
from gateway.store import audit, schema, segment
from gateway.store.audit import AuditLog
from gateway.store.base import Database

MOMENT = datetime(2026, 5, 4, 12, 0, 0, 123456, tzinfo=UTC)


def _record(number: int, **changes: object) -> AuditRecord:
    base = AuditRecord(
        id=f"{number:032x}",
        recorded=MOMENT + timedelta(seconds=number),
        request_id=f"r{number}",
        ehr="hapi",
        action="read",
        outcome="0",
        status=200,
        principal="patient",
        client_id="app",
        client_name="An app",
        fhir_user="Patient/a",
        user_id="u1",
        patients=("a",),
        type="Observation",
        target=f"Observation/o{number}",
        query="code=1\n&x=\u00e9",
        address="127.0.0.1",
        resources=1,
        cached=True,
        message_id="m1",
        detail="d",
    )
    return replace(base, **changes)


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
async def database(request: pytest.FixtureRequest, tmp_path: Path):
    url = f"sqlite+aiosqlite:///{tmp_path}/store.db" if request.param == "sqlite" else request.getfixturevalue("postgres_url")
    made = Database(url)
    await schema.prepare(made)
    yield made
    await made.close()


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "audit"


@pytest.fixture
async def log(database: Database, directory: Path):
    made = AuditLog(database, directory)
    yield made
    await made.close()


async def _count(database: Database) -> int:
    async with database.read() as connection:
        return (await connection.execute(text("SELECT count(*) FROM audit"))).scalar_one()


def _segments(directory: Path) -> list[Path]:
    return sorted(directory.glob("*.segment"))


async def test_a_record_comes_back_as_it_was(log: AuditLog):
    """Every field, by whichever of the three ways it came in."""
    appended, committed = _record(1), _record(2, patients=("a", "b"))
    log.append(appended)
    await log.commit(committed)
    assert await log.of_patient("hapi", "a") == [committed, appended]
    assert await log.of_patient("hapi", "b") == [committed]
    assert await log.of_patient("stmarys", "a") == []


async def test_a_change_and_its_record_are_one(log: AuditLog, database: Database):
    """`record_in`: when the transaction fails, there is no record; when it is committed, there is."""

    async def change(number: int, *, fail: bool) -> None:
        async with database.write() as connection:
            await log.record_in(connection, _record(number))
            if fail:
                raise RuntimeError("half way")

    with pytest.raises(RuntimeError, match="half way"):
        await change(1, fail=True)
    await change(2, fail=False)
    assert await log.of_patient("hapi", "a") == [_record(2)]


async def test_a_record_is_loaded_once(log: AuditLog, database: Database, directory: Path):
    """The same segment again, as after a crash between commit and removal, adds nothing."""
    for number in range(700):
        log.append(_record(number))
    (path,) = _segments(directory)
    copy = path.read_bytes()
    await log.load()
    assert await _count(database) == 700
    await log.close()
    assert _segments(directory) == []
    (directory / "0-again.segment").write_bytes(copy)
    await AuditLog(database, directory).load()
    assert await _count(database) == 700
    assert _segments(directory) == []


async def test_the_history_has_pages_and_leaves_none_out(log: AuditLog):
    """The newest first; several records of one moment stay together, so the page after it begins before that moment."""
    for number in range(10):
        log.append(_record(number, recorded=MOMENT + timedelta(seconds=number // 3)))
    found: list[AuditRecord] = []
    before: datetime | None = None
    while page := await log.of_patient("hapi", "a", limit=2, before=before):
        found += page
        before = page[-1].recorded
    assert [record.id for record in found] == [_record(number).id for number in reversed(range(10))]


async def test_records_about_nobody_are_in_no_history(log: AuditLog):
    """A refusal before a patient was known is found by the search, and in no patient's history."""
    log.append(_record(1, patients=(), outcome="4", status=401))
    assert await log.of_patient("hapi", "a") == []
    assert [record.status for record in await log.search(outcome="4")] == [401]


@pytest.mark.parametrize(
    ("given", "numbers"),
    [
        ({}, [3, 2, 1, 0]),
        ({"limit": 2}, [3, 2]),
        ({"ehr": "stmarys"}, [1]),
        ({"patient": "b"}, [2]),
        ({"client_id": "lab"}, [3]),
        ({"user_id": "u2"}, [0]),
        ({"action": "create"}, [3]),
        ({"outcome": "8"}, [0]),
        ({"request_id": "r2"}, [2]),
        ({"message_id": "m9"}, [1]),
        ({"since": MOMENT + timedelta(seconds=1), "until": MOMENT + timedelta(seconds=3)}, [2, 1]),
        ({"ehr": "hapi", "patient": "a", "action": "read"}, [2, 0]),
    ],
)
async def test_the_search_agrees_with_all_that_is_given(log: AuditLog, given: dict, numbers: list[int]):
    """For `gateway audit`: the newest first, from `since` to before `until`."""
    log.append(_record(0, user_id="u2", outcome="8"))
    log.append(_record(1, ehr="stmarys", message_id="m9"))
    log.append(_record(2, patients=("a", "b")))
    await log.commit(_record(3, client_id="lab", action="create"))
    assert [int(record.id, 16) for record in await log.search(**given)] == numbers


async def test_who_looked_is_an_indexed_question(database: Database):
    """The patient's page reads an index, and does not go through all records."""
    if not database.is_sqlite:
        async with database.read() as connection:
            await connection.execute(text("SET enable_seqscan = off"))  # a table of a few rows is read whole otherwise
            plan = await connection.execute(
                text("EXPLAIN SELECT record_id FROM audit_patient WHERE ehr = 'e' AND patient = 'p' ORDER BY recorded DESC LIMIT 5")
            )
            assert "ix_audit_patient_history" in str(plan.all())
        return
    async with database.read() as connection:
        plan = await connection.execute(
            text("EXPLAIN QUERY PLAN SELECT record_id FROM audit_patient WHERE ehr = 'e' AND patient = 'p' ORDER BY recorded DESC")
        )
        assert "ix_audit_patient_history" in str(plan.all())


async def test_odd_text_is_kept(log: AuditLog):
    """What no text column holds is replaced, never lost: NUL and lone surrogates; a long query is not cut; a number too large is bounded."""
    log.append(_record(1, query="a\0b\ud800", target="x" * 100_000, patients=("a", "\ud800"), resources=2**40))
    (found,) = await log.of_patient("hapi", "a")
    assert found.query == "a\N{REPLACEMENT CHARACTER}b\\ud800"
    assert len(found.target) == 100_000
    assert found.patients == ("a", "\\ud800")
    assert found.resources == 2**31 - 1


def test_a_record_without_a_zone_is_a_mistake(directory: Path, tmp_path: Path):
    """Refused where it is made, not when it is loaded."""
    log = AuditLog(Database(f"sqlite+aiosqlite:///{tmp_path}/s.db"), directory)
    with pytest.raises(ValueError, match="zone"):
        log.append(_record(1, recorded=MOMENT.replace(tzinfo=None)))


async def test_in_the_background_it_is_synced_and_loaded_in_a_second(log: AuditLog, database: Database, monkeypatch: pytest.MonkeyPatch):
    """The disk follows within 100 ms, the store within a second; an idle log syncs nothing."""
    synced: list[float] = []
    real = os.fdatasync
    monkeypatch.setattr(os, "fdatasync", lambda descriptor: (synced.append(time.monotonic()), real(descriptor)))
    running = asyncio.create_task(log.run())
    began = time.monotonic()
    log.append(_record(1))
    while not await _count(database):  # noqa: ASYNC110  (the store is what is looked at)
        await asyncio.sleep(0.02)
    assert time.monotonic() - began < 1 + 0.5  # and a busy test machine
    await asyncio.sleep(0.3)
    assert len(synced) == 1
    assert synced[0] - began < 0.1 + 0.3
    for number in range(2, 12):
        log.append(_record(number))
    await asyncio.sleep(0.3)
    assert len(synced) == 2
    running.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await running


async def test_a_store_that_is_down_costs_no_record(
    log: AuditLog, database: Database, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
):
    """Reads go on, the background says so once and goes on trying; a state change is refused (G4)."""

    @contextlib.asynccontextmanager
    async def down():
        raise Unavailable(reason="store-down")
        yield

    monkeypatch.setattr(audit, "LOAD", 0.05)
    running = asyncio.create_task(log.run())
    with monkeypatch.context() as patched:
        patched.setattr(database, "write", down)
        log.append(_record(1))
        await asyncio.sleep(0.4)
        with pytest.raises(Unavailable):
            await log.commit(_record(2))
        with pytest.raises(Unavailable):
            await log.of_patient("hapi", "a")
    await asyncio.sleep(0.4)
    assert await _count(database) == 1
    assert not running.done()
    out = capfd.readouterr().out
    assert out.count("audit-down") == 1
    assert out.count("audit-up") == 1
    running.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await running


async def test_a_removed_directory_refuses_and_loses_nothing(log: AuditLog, database: Database, directory: Path):
    """Its file is written to no more, because nobody would find it: 503. What it held is loaded; when the directory is back, so is the log."""
    log.append(_record(1))
    _segments(directory)[0].unlink()
    directory.rmdir()
    with pytest.raises(Unavailable) as caught:
        log.append(_record(2))
    assert caught.value.reason == "audit-down"
    directory.mkdir()
    log.append(_record(3))
    assert [int(record.id, 16) for record in await log.of_patient("hapi", "a")] == [3, 1]
    assert await _count(database) == 2


async def test_a_moved_directory_refuses(log: AuditLog, directory: Path, tmp_path: Path):
    """A file that the next process would not find is as good as removed."""
    log.append(_record(1))
    directory.rename(tmp_path / "elsewhere")
    with pytest.raises(Unavailable):
        log.append(_record(2))


async def test_a_full_disk_refuses_and_keeps_whole_lines(log: AuditLog, directory: Path, monkeypatch: pytest.MonkeyPatch):
    """FAULT-D2: a disk that takes half a line and then no more: 503, the half is taken back, later records are whole."""
    log.append(_record(1))
    real = os.write
    given = iter([20])

    def full(descriptor: int, data: bytes) -> int:
        size = next(given, 0)
        if not size:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(descriptor, data[:size])

    with monkeypatch.context() as patched:
        patched.setattr(os, "write", full)
        with pytest.raises(Unavailable):
            log.append(_record(2))
    log.append(_record(3))
    assert _segments(directory)[0].read_bytes().count(b"\n") == 2
    assert [int(record.id, 16) for record in await log.of_patient("hapi", "a")] == [3, 1]


@pytest.mark.fault
async def test_a_full_file_system_refuses_and_recovers(database: Database, tmp_path: Path):
    """FAULT-D2, the kernel refusing at 64 kB: every record that was taken is there, and the log goes on when there is room again."""
    directory = tmp_path / "small"
    directory.mkdir()
    log = AuditLog(database, directory)
    with _small(directory) as enlarge:
        try:
            taken = _fill(log)
            if os.geteuid() != 0:  # the limit is the process's, and would meet the store as well
                enlarge()
            await log.load()
            assert await _count(database) == taken > 50
            enlarge()
            log.append(_record(20_000))
            await log.load()
            assert await _count(database) == taken + 1
        finally:
            await log.close()


@contextmanager
def _small(directory: Path) -> Iterator[Callable[[], object]]:
    """Room for 64 kB, and what makes it more: a file system of that size, or, for who may not mount one, a limit on the size of a file."""
    if os.geteuid() == 0:
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(directory)], check=True)
        try:
            yield lambda: subprocess.run(["mount", "-o", "remount,size=1m", str(directory)], check=True)
        finally:
            subprocess.run(["umount", str(directory)], check=True)
    else:
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (65_536, before[1]))
        try:
            yield lambda: resource.setrlimit(resource.RLIMIT_FSIZE, before)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)


def _fill(log: AuditLog) -> int:
    """Append until it is refused; how many were taken."""
    for number in range(10_000):
        try:
            log.append(_record(number))
        except Unavailable:
            return number
    return -1


async def test_a_disk_that_fails_to_sync_gets_another_segment(log: AuditLog, directory: Path, monkeypatch: pytest.MonkeyPatch):
    """After a failed fdatasync the kernel may have dropped the pages: that file is not trusted again, and what it holds is loaded now."""
    log.append(_record(1))
    with monkeypatch.context() as patched:
        patched.setattr(os, "fdatasync", _fail)
        with pytest.raises(OSError, match="disk"):
            await log.sync()
    log.append(_record(2))
    assert len(_segments(directory)) == 2
    assert len(await log.of_patient("hapi", "a")) == 2
    assert len(_segments(directory)) == 1


def _fail(descriptor: int) -> None:
    raise OSError(errno.EIO, "disk")


async def test_a_segment_is_replaced_when_it_is_large_and_loaded(log: AuditLog, directory: Path, database: Database, monkeypatch: pytest.MonkeyPatch):
    """Files do not grow for ever."""
    monkeypatch.setattr(audit, "_ROTATE", 5_000)
    for number in range(100):
        log.append(_record(number))
        if number % 10 == 0:
            await log.load()
            assert sum(path.stat().st_size for path in _segments(directory)) < 12_000
    await log.load()
    assert await _count(database) == 100


async def test_a_torn_last_line_is_tolerated(database: Database, directory: Path):
    """A killed process may leave half a line, also a very long one; its answer never left. Whole lines before it count."""
    directory.mkdir()
    whole = b"".join(audit._line(_record(number)) for number in range(3))
    for name, torn in (("1", audit._line(_record(9))[:-1]), ("2", b'{"id":"' + b"x" * 600_000), ("3", b"")):
        (directory / f"{name}.segment").write_bytes(whole + torn)
    await AuditLog(database, directory).load()
    assert await _count(database) == 3
    assert list(directory.iterdir()) == []


async def test_a_very_long_line_is_a_record(database: Database, directory: Path):
    """Longer than what is read at once."""
    directory.mkdir()
    (directory / "1.segment").write_bytes(audit._line(_record(1)) + audit._line(_record(2, query="x" * 700_000)) + audit._line(_record(3)))
    log = AuditLog(database, directory)
    assert [len(record.query) for record in await log.of_patient("hapi", "a")] == [11, 700_000, 11]


async def test_damaged_lines_are_kept_aside(database: Database, directory: Path, capfd: pytest.CaptureFixture[str]):
    """Whole lines that are no records: the others are loaded, the file stays under another name, and it is said."""
    directory.mkdir()
    naive = audit._line(_record(8)).replace(b"Z", b"", 1)
    (directory / "1.segment").write_bytes(audit._line(_record(1)) + b"\0\0\0\n" + b'{"id":1}\n' + naive + audit._line(_record(2)))
    await AuditLog(database, directory).load()
    assert await _count(database) == 2
    assert [path.name for path in directory.iterdir()] == ["1.damaged"]
    assert "audit-lines-damaged" in capfd.readouterr().out


async def test_a_living_process_keeps_its_segment(database: Database, directory: Path):
    """Another one loads only what nobody holds any more."""
    living, other = AuditLog(database, directory), AuditLog(database, directory)
    living.append(_record(1))
    await other.load()
    assert await _count(database) == 0
    await living.load()
    assert await _count(database) == 1
    await living.close()
    await other.close()
    assert _segments(directory) == []


async def test_closing_without_a_store_leaves_it_to_the_next(database: Database, directory: Path, monkeypatch: pytest.MonkeyPatch):
    """SIGTERM while the store is down: the segment stays, and the next process loads it."""

    @contextlib.asynccontextmanager
    async def down():
        raise Unavailable(reason="store-down")
        yield

    log = AuditLog(database, directory)
    log.append(_record(1))
    with monkeypatch.context() as patched:
        patched.setattr(database, "write", down)
        await log.close()
    assert len(_segments(directory)) == 1
    await AuditLog(database, directory).load()
    assert await _count(database) == 1


async def test_loading_at_once_loads_once(database: Database, directory: Path):
    """Three processes find the same leftovers: flock lets one have each, and none is lost."""
    directory.mkdir()
    for name in range(20):
        lines = b"".join(audit._line(_record(name * 100 + number)) for number in range(50))
        (directory / f"{name}.segment").write_bytes(lines)
    logs = [AuditLog(database, directory) for _ in range(3)]
    for _ in range(2):
        await asyncio.gather(*(log.load() for log in logs))
    assert await _count(database) == 1000
    assert _segments(directory) == []


async def test_a_new_segment_is_not_taken_for_a_leftover(directory: Path, monkeypatch: pytest.MonkeyPatch):
    """Between making the file and locking it, another process may take it and remove it: then another one is made."""
    directory.mkdir()
    real, stolen = segment.fcntl.flock, []

    def late(descriptor: int, how: int) -> None:
        if how == segment.fcntl.LOCK_EX and not stolen:
            stolen.extend(_segments(directory))
            stolen[0].unlink()
        real(descriptor, how)

    monkeypatch.setattr(segment.fcntl, "flock", late)
    made = segment.Segment.create(directory)
    assert stolen
    assert made.in_place
    made.close()


_READER = """
import asyncio, os, sys
from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4
from gateway.audit import AuditRecord
from gateway.store.audit import AuditLog
from gateway.store.base import Database

async def main():
    log = AuditLog(Database(sys.argv[1]), Path(sys.argv[2]))
    running = asyncio.create_task(log.run())
    while True:
        id = uuid4().hex
        log.append(AuditRecord(id, datetime.now(UTC), "r", "hapi", "read", "0", 200, patients=("a",)))
        os.write(1, id.encode() + b"\\n")  # the answer
        await asyncio.sleep(0)

asyncio.run(main())
"""


@pytest.mark.fault
@pytest.mark.timeout(300)
async def test_killed_fifty_times_no_answer_is_without_its_record(database: Database, directory: Path):
    """SIGKILL at random moments while records are appended and loaded: records >= answers, and each once (DESIGN, audit)."""
    answers: set[str] = set()
    kills = 50
    waiting = iter(_start(database.url, directory) for _ in range(kills))
    process = next(waiting)
    for kill in range(kills):
        following = next(waiting, None)  # starts while this one is at work, and loads what this one leaves
        assert process.stdout is not None
        first = await asyncio.to_thread(process.stdout.readline)
        await asyncio.sleep(0.011 * (kill % 17))
        process.send_signal(signal.SIGKILL)
        rest = await asyncio.to_thread(process.stdout.read)
        process.wait()
        process.stdout.close()
        answers.update(line.decode() for line in (first + rest).split(b"\n")[:-1])
        process = following or process
    log = AuditLog(database, directory)
    await log.load()
    async with database.read() as connection:
        recorded = {row.id for row in await connection.execute(text("SELECT id FROM audit"))}
        told = (await connection.execute(text("SELECT count(*) FROM audit_patient"))).scalar_one()
    assert len(answers) > kills
    assert answers <= recorded
    assert len(recorded) - len(answers) <= kills  # at most one in each process was recorded and not yet answered
    assert told == len(recorded)
    assert _segments(directory) == []


def _start(url: str, directory: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", _READER, url, str(directory)], stdout=subprocess.PIPE)
