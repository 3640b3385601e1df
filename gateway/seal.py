"""Sealing what rests outside the process: inbox bodies, cached values, the event log.

AES-256-GCM (NIST SP 800-38D) with a random nonce, under a key of its own for each context, derived by HKDF (RFC 5869). The context is also
authenticated: bytes that were sealed for one row or one cache key do not open for another, so a value that somebody moved is a broken one.
A context of its own for each row keeps every derived key far below the 2^32 messages that random nonces allow.
"""

from __future__ import annotations

import base64
import binascii
import os
import secrets
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

from gateway.errors import ConfigError

_VERSION = b"\x01"
_KEY, _NONCE, _ID = 32, 12, 4
_DERIVED = 4096  # ciphers kept at hand, about 1 kB each


class SealBroken(ValueError):
    """These bytes were not sealed here, not for this context, or were changed."""


class Seals(Protocol):
    """What the store and the cache ask of a sealer."""

    def seal(self, data: bytes, context: bytes) -> bytes:
        """Make `data` unreadable and unchangeable without the key."""
        ...

    def open(self, sealed: bytes, context: bytes) -> bytes:
        """The inverse. Raises SealBroken."""
        ...


class Sealer:
    """`keys` are 32 random bytes each. The first one seals; all of them open, so that a key can be replaced while old values live.

    A sealed value is: version (1 byte), key id (4), nonce (12), ciphertext with its tag (length of the data + 16).
    """

    def __init__(self, keys: Sequence[bytes]) -> None:
        if not keys or any(len(key) != _KEY for key in keys):
            raise ConfigError("A sealing key is 32 bytes.", fix="make one with: openssl rand -base64 32")
        self._ids = {_key_id(key): key for key in reversed(keys)}
        self._id = _key_id(keys[0])
        self._cipher = lru_cache(maxsize=_DERIVED)(self._derive)

    def seal(self, data: bytes, context: bytes) -> bytes:
        """Sealed for this context only. `context` names the row or key, such as b"inbox:" + id; it is no secret."""
        nonce = os.urandom(_NONCE)
        return b"".join((_VERSION, self._id, nonce, self._cipher(self._id, context).encrypt(nonce, data, context)))

    def open(self, sealed: bytes, context: bytes) -> bytes:
        """The data. Raises SealBroken when the bytes are not whole, of another key, or of another context."""
        id_, nonce, rest = sealed[1 : 1 + _ID], sealed[1 + _ID : 1 + _ID + _NONCE], sealed[1 + _ID + _NONCE :]
        if sealed[:1] != _VERSION or id_ not in self._ids:
            raise SealBroken("not sealed with a key that is known here")
        try:
            return self._cipher(id_, context).decrypt(nonce, rest, context)
        except (InvalidTag, ValueError) as error:  # ValueError: the nonce or the tag is cut short
            raise SealBroken("changed, cut short, or sealed for another context") from error

    def _derive(self, id_: bytes, context: bytes) -> AESGCM:
        # HKDF-Expand alone (RFC 5869 section 3.3): the key is already uniformly random.
        return AESGCM(HKDFExpand(SHA256(), _KEY, b"gateway seal 1\0" + context).derive(self._ids[id_]))


class Plain:
    """Sealing switched off: the same methods, the same bytes."""

    def seal(self, data: bytes, context: bytes) -> bytes:
        """`data`, as it is."""
        del context
        return data

    def open(self, sealed: bytes, context: bytes) -> bytes:
        """`sealed`, as it is."""
        del context
        return sealed


def _key_id(key: bytes) -> bytes:
    return HKDFExpand(SHA256(), _ID, b"gateway key id 1").derive(key)


def parse_key(text: str, *, where: str = "") -> bytes:
    """A key as it stands in a file or an environment variable: 32 bytes in base64 or hexadecimal. Raises ConfigError; never shows the text."""
    text = text.strip()
    try:
        key = bytes.fromhex(text) if len(text) == 2 * _KEY else base64.b64decode(text.translate(_URL_SAFE), validate=True)
    except (ValueError, binascii.Error):
        key = b""
    if len(key) != _KEY:
        raise ConfigError("The sealing key is not 32 bytes in base64.", where=where, fix="make one with: openssl rand -base64 32")
    return key


_URL_SAFE = str.maketrans("-_", "+/")


def load_or_make_key(path: Path) -> bytes:
    """The key in this file, made at the first start (mode 0600). Several processes that start at once all get the same one.

    Raises ConfigError when the file holds no key or can be neither read nor made.
    """
    try:
        if not path.exists():
            _make(path)
        return parse_key(path.read_text("ascii"), where=str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"The sealing key cannot be read: {error}.", where=str(path), fix="check the path and its permissions") from error


def _make(path: Path) -> None:
    """Written whole beside its place, then linked: link(2) fails when another process was first, and nobody sees half a key."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(base64.b64encode(secrets.token_bytes(_KEY)) + b"\n")
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(draft, path)
        except FileExistsError:
            return
        _sync_directory(path.parent)
    finally:
        draft.unlink()


def _sync_directory(path: Path) -> None:
    """Make the new name survive power loss: a key that vanished would take everything it sealed with it."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
