"""Sealing: what comes back, what must not."""

from __future__ import annotations

import multiprocessing
import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import ConfigError
from gateway.seal import Plain, SealBroken, Sealer, load_or_make_key, parse_key

KEY, OTHER = bytes(range(32)), bytes(range(1, 33))


@given(data=st.binary(max_size=5000), context=st.binary(max_size=100))
def test_opens_what_it_sealed(data: bytes, context: bytes):
    """Any bytes come back, for the same context."""
    sealer = Sealer([KEY])
    assert sealer.open(sealer.seal(data, context), context) == data


@given(place=st.integers(min_value=0), bit=st.integers(0, 7))
def test_one_changed_bit_breaks_it(place: int, bit: int):
    """No bit of a sealed value can be changed: version, key id, nonce, text or tag."""
    sealer = Sealer([KEY])
    sealed = bytearray(sealer.seal(b"value", b"c"))
    sealed[place % len(sealed)] ^= 1 << bit
    with pytest.raises(SealBroken):
        sealer.open(bytes(sealed), b"c")


def test_any_shortening_breaks_it():
    """A value cut short anywhere, down to nothing, is broken and nothing else."""
    sealer = Sealer([KEY])
    sealed = sealer.seal(b"value", b"c")
    for length in range(len(sealed)):
        with pytest.raises(SealBroken):
            sealer.open(sealed[:length], b"c")


def test_another_context_does_not_open_it():
    """A value moved to another key or row is a broken one."""
    sealer = Sealer([KEY])
    with pytest.raises(SealBroken):
        sealer.open(sealer.seal(b"value", b"cache:a"), b"cache:b")


def test_a_replaced_key_still_opens():
    """After a rotation the new key seals, and the old one opens what it sealed; without it nothing opens."""
    old = Sealer([KEY]).seal(b"value", b"c")
    both = Sealer([OTHER, KEY])
    assert both.open(old, b"c") == b"value"
    assert Sealer([OTHER]).open(both.seal(b"new", b"c"), b"c") == b"new"
    with pytest.raises(SealBroken):
        Sealer([OTHER]).open(old, b"c")


def test_the_text_does_not_show_and_never_repeats():
    """The data is not in the sealed bytes, and the same data seals differently each time."""
    sealer = Sealer([KEY])
    first, second = sealer.seal(b"Erika Mustermann", b"c"), sealer.seal(b"Erika Mustermann", b"c")
    assert b"Erika" not in first
    assert first != second


@pytest.mark.parametrize("keys", [[], [b"short"], [KEY, b""], [KEY + b"x"]])
def test_a_wrong_key_is_refused(keys: list[bytes]):
    """A key is 32 bytes; the sentence does not repeat it."""
    with pytest.raises(ConfigError, match="32 bytes"):
        Sealer(keys)


def test_plain_changes_nothing():
    """Sealing switched off gives the bytes as they are."""
    assert Plain().open(Plain().seal(b"value", b"a"), b"b") == b"value"


def test_a_key_is_read_from_base64_and_hexadecimal():
    """Both spellings of base64, and hexadecimal, as tools print them."""
    assert parse_key("__________________________________________8=") == b"\xff" * 32
    assert parse_key(" //////////////////////////////////////////8=\n") == b"\xff" * 32
    assert parse_key("FF" * 32) == b"\xff" * 32


@pytest.mark.parametrize("text", ["", "secret words", "AAAA", "zz" * 32, "é" * 44])
def test_a_wrong_text_is_refused_and_not_repeated(text: str):
    """The sentence says what is wrong, and not what was there."""
    with pytest.raises(ConfigError) as caught:
        parse_key(text, where="GATEWAY_SEAL_KEY")
    assert caught.value.where == "GATEWAY_SEAL_KEY"
    assert not text or text not in caught.value.message


def test_a_key_is_made_once_and_is_private(tmp_path: Path):
    """The first start makes it with mode 0600, the next ones read it; nothing else is left behind."""
    path = tmp_path / "state" / "seal.key"
    key = load_or_make_key(path)
    assert load_or_make_key(path) == key
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [found.name for found in path.parent.iterdir()] == ["seal.key"]


def test_a_file_without_a_key_is_refused(tmp_path: Path):
    """An emptied or foreign file is never replaced: what was sealed with the lost key would be lost with it."""
    path = tmp_path / "seal.key"
    path.write_text("")
    with pytest.raises(ConfigError):
        load_or_make_key(path)
    assert path.read_text() == ""


def test_an_unusable_place_is_a_sentence(tmp_path: Path):
    """A path below a file cannot be made."""
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot be read"):
        load_or_make_key(tmp_path / "file" / "seal.key")


def _load(path: str) -> bytes:
    return load_or_make_key(Path(path))


def test_processes_that_start_at_once_agree(tmp_path: Path):
    """Eight processes, one key."""
    with multiprocessing.get_context("spawn").Pool(8) as pool:
        keys = set(pool.map(_load, [str(tmp_path / "seal.key")] * 8))
    assert len(keys) == 1
