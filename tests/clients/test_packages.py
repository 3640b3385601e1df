"""How released packages come: pinned, checked, kept, and with a sentence when they cannot be had."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support import packages
from tests.support.parts import MissingPart

PINS = packages.pins(Path(__file__).parent / "npm.json")
ONE = {"oauth4webapi": PINS["oauth4webapi"]}


def test_a_package_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Fetched once; afterwards no registry is asked."""
    first = packages.npm(ONE, tmp_path)
    monkeypatch.setenv("npm_config_registry", "http://127.0.0.1:9")
    assert packages.npm(ONE, tmp_path) == first
    assert (first["oauth4webapi"] / "package.json").is_file()


def test_another_archive_than_the_pinned_one_is_not_used(tmp_path: Path):
    """The hash is compared here, whatever the registry says of it."""
    pin = packages.Pin(ONE["oauth4webapi"].version, PINS["jose"].integrity)
    with pytest.raises(MissingPart, match="hash is pinned"):
        packages.npm({"oauth4webapi": pin}, tmp_path)
    assert not (tmp_path / "npm").exists()


def test_a_registry_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A sentence, not a skip."""
    monkeypatch.setenv("npm_config_registry", "http://127.0.0.1:9")
    monkeypatch.setenv("npm_config_fetch_retries", "0")
    with pytest.raises(MissingPart, match=r"oauth4webapi@\S+ cannot be had"):
        packages.npm(ONE, tmp_path)
    requirements = tmp_path / "requirements.txt"
    requirements.write_text(f"nothing-of-that-name==1 --hash=sha256:{'0' * 64}\n")
    monkeypatch.setenv("UV_DEFAULT_INDEX", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("UV_HTTP_RETRIES", "0")
    with pytest.raises(MissingPart, match=r"requirements\.txt cannot be had"):
        packages.python(requirements, tmp_path)
