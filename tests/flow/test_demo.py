"""`gateway demo`: what it starts, says and ends."""

from __future__ import annotations

import contextlib
import io
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

from gateway.errors import ConfigError
from gateway.sandbox import demo, forms, ports, valkey

UP = "Ctrl-C ends everything"


@contextlib.contextmanager
def running(folder: Path, *extra: str):
    """`gateway demo` with its state in `folder`, once it says that everything is up; and what it said."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith("GATEWAY_")}
    command = [sys.executable, "-m", "gateway", "demo", "--data-dir", str(folder), *extra]
    log = folder.with_suffix(".log")
    with log.open("wb") as file:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=file, stderr=file, env=environ, start_new_session=True)
    try:
        deadline = time.monotonic() + 100
        while UP not in log.read_text():
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.2)
        yield process, log.read_text()
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
        process.wait(60)


def parts_of(folder: Path) -> dict[int, str]:
    """The processes whose command line names the folder, the demo itself and this one left out."""
    found = {}
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            text = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
            if str(folder) in text and " demo " not in text and int(path.parent.name) != os.getpid():
                found[int(path.parent.name)] = text
    return found


def gone(folder: Path, seconds: float = 30) -> bool:
    deadline = time.monotonic() + seconds
    while parts_of(folder):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.2)
    return True


@pytest.mark.fault
def test_ctrl_c_ends_everything_and_the_next_start_goes_on(tmp_path):
    """Portal, launch and push are printed with one address, which stays; so do the people and what was written."""
    folder = tmp_path / "demo"
    with running(folder) as (process, said):
        address = re.search(r"Portal +(\S+)/portal/", said)[1]
        assert httpx.get(f"{address}/readyz", trust_env=False).status_code == 200
        assert "alder-street-demo" in said
        assert re.search(r"EHR launch +http://127\.0\.0\.1:\d+/launch\?iss=", said)
        started = " ".join(parts_of(folder).values())
        assert all(part in started for part in ("embedded_server", "gateway serve", "gateway worker", "valkey"))
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0
    assert gone(folder)
    with running(folder) as (_, again):
        assert f"Portal         {address}/portal/" in again
        assert "Loading" not in again
    assert gone(folder)


@pytest.mark.fault
def test_a_killed_demo_leaves_nothing_running(tmp_path):
    """SIGKILL gives no chance to tidy up: its parts end by themselves."""
    folder = tmp_path / "demo"
    with running(folder) as (process, _):
        process.kill()
        process.wait(10)
        assert gone(folder)


@pytest.mark.fault
def test_a_part_that_dies_ends_the_demo(tmp_path):
    """It says which, and where the log is; everything else ends too."""
    folder = tmp_path / "demo"
    with running(folder) as (process, _):
        (worker,) = [pid for pid, text in parts_of(folder).items() if "gateway worker" in text]
        os.kill(worker, signal.SIGKILL)
        assert process.wait(60) == 1
    assert "worker ended by itself" in folder.with_suffix(".log").read_text()
    assert gone(folder)


@pytest.mark.browser
def test_the_walk_does_all_three_jobs(tmp_path, chromium):
    """`--check` prints each step with its time, uses the browser, ends everything, and exits with 0."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith("GATEWAY_")} | {"GATEWAY_TEST_CHROMIUM": chromium}
    command = [sys.executable, "-m", "gateway", "demo", "--check", "--data-dir", str(tmp_path / "demo")]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=110, env=environ)
    assert done.returncode == 0, done.stdout + done.stderr
    steps = re.findall(r"^ *[\d.]+ s  (\w+) +(patient|EHR|developer|browser):", done.stdout, re.MULTILINE)
    assert {who for _, who in steps} == {"patient", "EHR", "developer", "browser"}
    assert {state for state, _ in steps} == {"ok"}
    assert gone(tmp_path / "demo")


def test_an_ehr_of_somebody_else_is_not_written_to_without_a_word(monkeypatch, tmp_path):
    """Without a terminal to ask on, `--yes` is needed; a word that is no EHR is refused."""
    monkeypatch.setattr("sys.stdin", io.StringIO())
    with pytest.raises(ConfigError) as caught:
        demo.ask_first(demo.Wanted("https://ehr.example/fhir", tmp_path))
    assert "--yes" in caught.value.fix
    with pytest.raises(ConfigError):
        demo.ask_first(demo.Wanted("happy", tmp_path))
    assert demo.ask_first(demo.Wanted("https://ehr.example/fhir", tmp_path, yes=True)) is None


def test_ports_stay_while_they_are_free(tmp_path):
    """A port that somebody else took meanwhile is replaced; one that was asked for and is taken is refused."""
    first = ports.chosen(tmp_path / "ports.json")
    assert ports.chosen(tmp_path / "ports.json") == first
    with socket.create_server(("127.0.0.1", first.app)):
        second = ports.chosen(tmp_path / "ports.json")
        assert second.app != first.app
        assert second.gateway == first.gateway
        with pytest.raises(ConfigError):
            ports.chosen(tmp_path / "ports.json", gateway=first.app)
    (tmp_path / "ports.json").write_text("nonsense")
    assert ports.chosen(tmp_path / "ports.json").gateway > 0


def test_valkey_starts_on_a_socket_of_its_own(tmp_path):
    """Also where the folder's path is too long for a unix socket."""
    program = valkey.binary()
    assert program is not None
    for folder in (tmp_path / "v", tmp_path / ("x" * 90)):
        started = valkey.launch(program, folder)
        try:
            assert started.url.startswith("unix://")
            assert Path(started.url.removeprefix("unix://")).is_socket()
        finally:
            started.stop()
        assert started.process.poll() is not None


def test_forms_are_sent_as_a_browser_sends_them():
    """Hidden fields, what is checked, the first real choice, text areas; what is given replaces it."""
    (form,) = forms.forms(
        """<form action="/a"><input type=hidden name=csrf value="x&amp;y"><input type=radio name=r value=1><input type=radio name=r value=2>
        <select name=s><option value="">Choose</option><option value=b>B</option></select><textarea name=t>one
two</textarea><input type=checkbox name=c value=1 checked><input type=checkbox name=c value=2><button name=d value=yes>Go</button></form>"""
    )
    assert form.filled(t="new") == {"csrf": ["x&y"], "t": ["new"], "c": ["1"], "r": ["1"], "s": ["b"]}
    assert form.buttons == [("d", "yes")]
