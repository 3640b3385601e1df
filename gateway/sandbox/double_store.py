"""What the EHR double remembers: every version of every resource, as bytes."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from email.utils import format_datetime
from typing import Any

from gateway.fhir import splice
from gateway.fhir.json import parse_trusted


@dataclass(frozen=True, slots=True)
class Version:
    """One version of a resource. `raw` is b"" and `resource` empty for a deletion."""

    type: str
    id: str
    number: int
    raw: bytes
    resource: dict[str, Any]
    at: datetime

    @property
    def deleted(self) -> bool:
        """Whether this version is a deletion."""
        return not self.raw

    @property
    def etag(self) -> str:
        """`W/"3"`."""
        return f'W/"{self.number}"'

    @property
    def last_modified(self) -> str:
        """As an HTTP date."""
        return format_datetime(self.at, usegmt=True)

    @property
    def ref(self) -> str:
        """`Patient/1`."""
        return f"{self.type}/{self.id}"


@dataclass
class Store:
    """`versions` by `Type/id`, oldest first. `stamp` says whether id and meta are written into the bytes, as R4 asks of a server."""

    clock: Callable[[], datetime]
    stamp: bool = True
    versions: dict[str, list[Version]] = field(default_factory=dict[str, list[Version]])

    def current(self, ref: str) -> Version | None:
        """The newest version, a deletion too, or None."""
        found = self.versions.get(ref)
        return found[-1] if found else None

    def version(self, ref: str, number: str) -> Version | None:
        """One version."""
        return next((one for one in self.versions.get(ref, []) if str(one.number) == number), None)

    def of_type(self, resource_type: str) -> Iterator[Version]:
        """What there is of a type, newest first, as servers usually give it."""
        found = [each[-1] for ref, each in self.versions.items() if ref.startswith(f"{resource_type}/")]
        return reversed([one for one in sorted(found, key=lambda one: one.at) if not one.deleted])

    def put(self, resource_type: str, id_: str, raw: bytes) -> Version:
        """A new version. Everything but id, meta.versionId and meta.lastUpdated stays byte for byte."""
        number = self._next(f"{resource_type}/{id_}")
        at = self.clock()
        if self.stamp:
            raw = stamped(raw, id_, number, at)
        return self._add(Version(resource_type, id_, number, raw, parse_trusted(raw), at))

    def delete(self, resource_type: str, id_: str) -> Version:
        """A deletion, as a version of its own."""
        return self._add(Version(resource_type, id_, self._next(f"{resource_type}/{id_}"), b"", {}, self.clock()))

    def new_id(self) -> str:
        """An id that no client chooses."""
        return f"d{secrets.token_hex(6)}"

    def snapshot(self) -> dict[str, list[Version]]:
        """What to give back to `restore`."""
        return {ref: list(versions) for ref, versions in self.versions.items()}

    def restore(self, snapshot: dict[str, list[Version]]) -> None:
        """Everything since the snapshot did not happen."""
        self.versions = snapshot

    def _next(self, ref: str) -> int:
        current = self.current(ref)
        return current.number + 1 if current else 1

    def _add(self, version: Version) -> Version:
        self.versions.setdefault(version.ref, []).append(version)
        return version


def stamped(raw: bytes, id_: str, number: int, at: datetime) -> bytes:
    """The bytes with id, meta.versionId and meta.lastUpdated set, and nothing else changed."""
    raw = splice.set_id(raw, id_)
    if splice.member(raw, splice.root(raw), "meta") is None:
        raw = splice.replace_member(raw, "meta", b"{}")
    for name, value in (("lastUpdated", at.isoformat(timespec="milliseconds")), ("versionId", str(number))):
        meta = splice.member(raw, splice.root(raw), "meta")
        if meta is not None:
            raw = splice.apply(raw, [splice.setting(raw, meta, name, splice.string(value))])
    return raw
