"""The sealed event log on a real disk."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from gateway.seal import Plain, Sealer
from gateway.store.events import EventLog


@pytest.fixture
def events(tmp_path: Path):
    made = EventLog(tmp_path / "events", Sealer([bytes(32)]))
    yield made
    made.close()


def _files(tmp_path: Path) -> list[Path]:
    return sorted((tmp_path / "events").iterdir())


def test_gives_the_events_of_one_request_in_order(events: EventLog):
    """Only those of the request that is asked for, as they were written."""
    events.write("r1", "ehr-diagnostics", "first\nline \u00e9")
    events.write("r2", "screened", "other")
    events.write("r1", "ehr-lied", "second")
    assert events.read("r1") == [("ehr-diagnostics", "first\nline \u00e9"), ("ehr-lied", "second")]
    assert events.read("r3") == []


def test_nothing_is_readable_on_disk(events: EventLog, tmp_path: Path):
    """Neither the text, nor the kind, nor the request id; the file is private."""
    events.write("request-4711", "ehr-diagnostics", "Erika Mustermann")
    (path,) = _files(tmp_path)
    raw = path.read_bytes()
    assert b"Erika" not in raw
    assert b"4711" not in raw
    assert b"diagnostics" not in raw
    assert path.stat().st_mode & 0o077 == 0


def test_another_key_reads_nothing(events: EventLog, tmp_path: Path):
    """What was sealed with a lost key is left out, not an error."""
    events.write("r1", "k", "text")
    assert EventLog(tmp_path / "events", Sealer([b"\1" * 32])).read("r1") == []


def test_stays_within_its_bound_and_keeps_the_newest(tmp_path: Path):
    """Old files go, whichever process wrote them; the last events are there."""
    first, second = (EventLog(tmp_path / "events", Plain(), limit=40_000, file_limit=10_000) for _ in range(2))
    for number in range(300):
        (first, second)[number % 2].write(f"r{number}", "k", "x" * 500)
        assert sum(path.stat().st_size for path in _files(tmp_path)) <= 50_000  # each process may have a file that is not full
    assert first.read("r299") == [("k", "x" * 500)]
    assert first.read("r298") == [("k", "x" * 500)]
    assert first.read("r0") == []
    first.close()
    second.close()


def test_torn_and_foreign_lines_are_left_out(events: EventLog, tmp_path: Path):
    """A line cut by a kill, or rubbish, does not hide the others."""
    events.write("r1", "k", "one")
    (path,) = _files(tmp_path)
    line = path.read_bytes()
    path.write_bytes(line[:-10] + b"\n\xff\xfe garbage\n" + line + line[:30])
    assert events.read("r1") == [("k", "one")]


def test_a_removed_file_is_begun_anew(events: EventLog, tmp_path: Path):
    """An operator who deletes the files loses the past only."""
    events.write("r1", "k", "one")
    _files(tmp_path)[0].unlink()
    events.write("r1", "k", "two")
    assert events.read("r1") == [("k", "two")]


def test_a_place_that_cannot_be_written_stops_no_request(tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    """A failing disk costs the event, and is said once."""
    (tmp_path / "file").write_text("")
    events = EventLog(tmp_path / "file" / "events", Plain())
    for _ in range(3):
        events.write("r1", "k", "text")
    assert events.read("r1") == []
    assert capfd.readouterr().out.count("events-not-written") == 1


def test_a_long_event_is_cut_and_odd_text_is_kept(events: EventLog):
    """64 k characters at most; a lone surrogate, which UTF-8 cannot hold, is written as its escape."""
    events.write("r\ud800", "k", "x" * 100_000)
    events.write("r2\n", "k", "a\ud800b\0")
    assert len(events.read("r\ud800")[0][1]) == 64 * 1024
    assert events.read("r2\n") == [("k", "a\\ud800b\0")]


@pytest.mark.fault
def test_events_of_a_killed_process_are_there(tmp_path: Path):
    """write(2) survives SIGKILL."""
    program = (
        "import os, sys; from pathlib import Path; from gateway.seal import Plain; from gateway.store.events import EventLog\n"
        "EventLog(Path(sys.argv[1]), Plain()).write('r1', 'k', 'last words'); os.kill(os.getpid(), 9)"
    )
    ended = subprocess.run([sys.executable, "-c", program, str(tmp_path / "events")], check=False, env=dict(os.environ))
    assert ended.returncode == -9
    assert EventLog(tmp_path / "events", Plain()).read("r1") == [("k", "last words")]
