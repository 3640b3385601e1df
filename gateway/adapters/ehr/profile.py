"""What is known about a platform beforehand: one TOML file each in `profiles/ehr`."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cache
from typing import Any

import msgspec

from gateway.errors import ConfigError
from gateway.shipped import profiles

PLATFORMS = ("generic", "hapi", "epic", "oracle")


@dataclass(frozen=True, slots=True)
class Profile:
    """One platform. What it says of a server is a starting point: the server's own CapabilityStatement and answers come after it."""

    name: str
    software: tuple[str, ...] = ()  # CapabilityStatement.software.name begins with one of these
    client_ids: bool = False  # PUT of an id that does not exist creates it
    transactions: bool = False
    conditional_create: bool = False  # If-None-Exist is understood. It is a lock nowhere that we know
    url_limit: int = 2000  # longer searches go by POST _search


@cache
def load(name: str) -> Profile:
    """Read a profile. Raises ConfigError for an unknown one, or one with a member that does not exist."""
    path = profiles() / "ehr" / f"{name}.toml"
    if name not in PLATFORMS or not path.is_file():
        raise ConfigError(f"There is no platform {name!r}.", where="platform", fix=f"take one of {', '.join(PLATFORMS)}")
    return make(name, tomllib.loads(path.read_text("utf-8")))


def make(name: str, values: Mapping[str, Any]) -> Profile:
    """A profile of parsed TOML."""
    known = {one.name for one in fields(Profile)} - {"name"}
    if unknown := sorted(set(values) - known):
        raise ConfigError(f"A profile has no member {unknown[0]!r}.", where=f"profiles/ehr/{name}.toml", fix=f"one of {', '.join(sorted(known))}")
    return msgspec.convert({**values, "name": name}, Profile)


def of_software(software: str) -> str:
    """The platform whose profile claims this CapabilityStatement.software.name, else "generic"."""
    return next((name for name in PLATFORMS if any(software.startswith(mark) for mark in load(name).software)), "generic")
