"""The state on this machine: what opens a door is sealed, whatever is set."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway import local
from gateway.config import Settings
from gateway.seal import Plain


@pytest.mark.parametrize("seal", [True, False])
async def test_what_opens_a_door_is_sealed_even_where_content_is_not(tmp_path: Path, seal: bool):
    """`seal = false` is for disks that are encrypted anyway; a copy of the store must let nobody in all the same."""
    settings = Settings(data_dir=tmp_path, store=f"sqlite+aiosqlite:///{tmp_path / 'store.db'}", seal=seal)
    async with local.opened(settings) as state:
        assert isinstance(state.seals, Plain) is not seal
        await local.signing_keys(state).rotate()
    stored = b"".join(file.read_bytes() for file in tmp_path.glob("store.db*"))  # noqa: ASYNC240  # nothing else runs
    assert b"signing_key" in stored
    assert b'"d"' not in stored  # of a JWK: the private part
