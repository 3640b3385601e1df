"""How a setting's value is read from TOML, from a variable or from a flag, and checked. Pure, but that files must be there."""

from __future__ import annotations

import base64
import binascii
import difflib
import ipaddress
import json
import re
import zoneinfo
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_RESOURCE_TYPE = re.compile(r"[A-Z][A-Za-z]{1,60}")


class Wrong(ValueError):
    """A value cannot be taken: the problem, and what to write instead."""

    def __init__(self, problem: str, fix: str) -> None:
        super().__init__(problem)
        self.fix = fix


@dataclass(frozen=True, slots=True)
class Place:
    """Where a value stands: `label` for people ("gateway.toml:3", "GATEWAY_LISTEN", "--listen"), `base` for relative paths."""

    label: str
    base: Path


Parse = Callable[[Any, Place], Any]


def text(raw: Any, place: Place) -> str:
    """A text."""
    del place
    if not isinstance(raw, str):
        raise Wrong("is not a text", "put it in quotes")
    return raw


def one_of(*choices: str) -> Parse:
    """One of a few words."""

    def parse(raw: Any, place: Place) -> str:
        del place
        if raw not in choices:
            near = difflib.get_close_matches(str(raw), choices, 1)
            raise Wrong(f"{raw!r} is not a choice", f"write {_or(near or choices)}")
        return str(raw)

    return parse


def boolean(raw: Any, place: Place) -> bool:
    """True or false; as text, yes, on and 1 too."""
    del place
    words = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}
    found = raw if isinstance(raw, bool) else words.get(str(raw).lower())
    if found is None:
        raise Wrong(f"{raw!r} is neither true nor false", "write true or false")
    return found


def number(lowest: float, highest: float, unit: str = "") -> Parse:
    """A number within bounds, both included."""

    def parse(raw: Any, place: Place) -> float:
        del place
        try:
            found = float(raw) if not isinstance(raw, bool) else None
        except (TypeError, ValueError):
            found = None
        if found is None or not lowest <= found <= highest:
            raise Wrong(f"{raw!r} is not between {lowest:g} and {highest:g}{unit}", f"write a number from {lowest:g} to {highest:g}")
        return found

    return parse


def count(lowest: int, highest: int, unit: str = "") -> Parse:
    """A whole number within bounds."""
    within = number(lowest, highest, unit)

    def parse(raw: Any, place: Place) -> int:
        found = within(raw, place)
        if found != int(found):
            raise Wrong(f"{raw!r} is not a whole number", "write it without a fraction")
        return int(found)

    return parse


def url(raw: Any, place: Place) -> str:
    """An http or https URL without credentials and without a trailing slash."""
    given = text(raw, place).rstrip("/")
    try:
        parts = urlsplit(given)
        usable = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        usable = False
        parts = urlsplit("")
    if not usable:
        raise Wrong(f"{raw!r} is not an http or https URL", "write it like https://host:port/path")
    if parts.username or parts.password:
        raise Wrong("holds a user name or password", "leave them out of the URL; for an EHR set auth = 'basic' with username and password_file")
    if parts.query or parts.fragment:
        raise Wrong(f"{raw!r} has a query or fragment", "end it with the path")
    return given


def urls(raw: Any, place: Place) -> tuple[str, ...]:
    """A list of such URLs; as text, with commas."""
    parts = [part.strip() for part in raw.split(",")] if isinstance(raw, str) else raw
    if not isinstance(parts, list | tuple):
        raise Wrong(f"{raw!r} is no list", 'write it like ["https://ehr.example/r4"]')
    return tuple(url(part, place) for part in cast("list[Any]", parts) if part)


def endpoint(raw: Any, place: Place) -> str:
    """An http or https URL, as it is: a trailing slash belongs to it, since others compare it letter by letter."""
    given = text(raw, place)
    url(re.split("[?#]", given)[0], place)
    if "#" in given or not (given.isascii() and given.isprintable()) or " " in given:
        raise Wrong(f"{raw!r} is not an endpoint's URL", "write it like https://ehr.example/oauth2/token")
    return given


def addresses(raw: Any, place: Place) -> tuple[Mapping[str, str], ...]:
    """Postal addresses, each a table; by variable as JSON."""
    del place
    known = ("line", "city", "state", "postal_code", "country")
    wrong = Wrong("these are no addresses", 'write it like [{ city = "Boston", state = "MA", postal_code = "02111", country = "US" }]')
    try:
        found: Any = json.loads(raw) if isinstance(raw, str) else raw
    except ValueError as error:
        raise wrong from error
    if not isinstance(found, list | tuple):
        raise wrong
    for one in cast("list[Any]", found):
        parts = cast("dict[Any, Any]", one) if isinstance(one, dict) else {}
        if not parts or not all(name in known and isinstance(value, str) and value for name, value in parts.items()):
            raise wrong
    return tuple(cast("list[Mapping[str, str]]", found))


def texts(raw: Any, place: Place) -> tuple[str, ...]:
    """A list of texts; as text, with commas."""
    parts = [part.strip() for part in raw.split(",")] if isinstance(raw, str) else raw
    if not isinstance(parts, list | tuple):
        raise Wrong(f"{raw!r} is no list", 'write it like ["one", "two"]')
    return tuple(text(part, place) for part in cast("list[Any]", parts) if part)


def page(raw: Any, place: Place) -> str:
    """The https address of a web page or a picture, as it is; "" for none."""
    given = text(raw, place)
    if given:
        url(given.partition("?")[0].partition("#")[0], place)
    if given and (not given.startswith("https://") or not (given.isascii() and given.isprintable()) or " " in given):
        raise Wrong(f"{raw!r} is not an https address", "write it like https://www.clinic.example")
    return given


def identifier(raw: Any, place: Place) -> str:
    """SYSTEM|VALUE, or VALUE alone; "" for none."""
    given = text(raw, place)
    if given and (not given.rpartition("|")[2] or " " in given):
        raise Wrong(f"{raw!r} is no identifier", "write it like urn:ietf:rfc:3986|https://clinic.example")
    return given


def public_url(raw: Any, place: Place) -> str:
    """A URL without a path: the gateway has a host name of its own."""
    found = url(raw, place)
    if urlsplit(found).path:
        raise Wrong(f"{raw!r} has a path", "give the gateway a host name of its own: https://gateway.example")
    return found


def listen(raw: Any, place: Place) -> str:
    """HOST:PORT."""
    given = text(raw, place)
    host, colon, port = given.rpartition(":")
    if not colon or not host or not port.isdecimal() or int(port) > 65535:
        raise Wrong(f"{raw!r} is not HOST:PORT", "write it like 127.0.0.1:8080 (or 0.0.0.0:8080 for every address of this machine)")
    return given


def mail_server(raw: Any, place: Place) -> str:
    """smtp://HOST:PORT (STARTTLS) or smtps://HOST:PORT (TLS from the start)."""
    given = text(raw, place)
    fix = "write it like smtp://mail.example:587 or smtps://mail.example:465"
    try:
        parts = urlsplit(given)
        port = parts.port
    except ValueError as error:
        raise Wrong(f"{raw!r} is no mail server", fix) from error
    if parts.scheme not in ("smtp", "smtps") or not parts.hostname or not port or parts.path.strip("/") or parts.query or parts.fragment:
        raise Wrong(f"{raw!r} is no mail server", fix)
    if "@" in parts.netloc:
        raise Wrong("a user name does not belong into the address", "use smtp_username and smtp_password_file")
    return f"{parts.scheme}://{parts.netloc}"


def mail_address(raw: Any, place: Place) -> str:
    """NAME@HOST."""
    given = text(raw, place)
    if not re.fullmatch(r"[A-Za-z0-9._%+-]{1,64}@[A-Za-z0-9.-]{1,253}", given, re.ASCII):
        raise Wrong(f"{raw!r} is no e-mail address", "write it like no-reply@clinic.example")
    return given


def path(raw: Any, place: Place) -> Path:
    """A path; a relative one counts from where the setting stands."""
    return (place.base / Path(text(raw, place)).expanduser()).absolute()


def file(raw: Any, place: Place) -> Path:
    """A file that is there."""
    found = path(raw, place)
    if not found.is_file():
        raise Wrong(f"there is no file {found}", "name one that exists and that the gateway may read")
    return found


def networks(raw: Any, place: Place) -> tuple[Network, ...]:
    """A list of addresses and networks; as text, with commas."""
    del place
    parts = [part.strip() for part in raw.split(",")] if isinstance(raw, str) else raw
    if not isinstance(parts, list | tuple):
        raise Wrong(f"{raw!r} is no list", 'write it like ["10.0.0.0/8", "192.0.2.7"]')
    try:
        return tuple(ipaddress.ip_network(str(part)) for part in cast("list[Any]", parts) if part)
    except ValueError as error:
        raise Wrong(str(error), "write addresses or networks such as 10.0.0.0/8") from error


def timezone(raw: Any, place: Place) -> str:
    """A time zone of the IANA database, or "" for none."""
    given = text(raw, place)
    if given and given not in zoneinfo.available_timezones():
        near = difflib.get_close_matches(given, zoneinfo.available_timezones(), 1)
        raise Wrong(f"{given!r} is no time zone", f"write {_or(near or ('Europe/Paris', 'America/Chicago'))}")
    return given


def lives(raw: Any, place: Place) -> Mapping[str, float]:
    """A table of seconds by resource type; "*" stands for all others."""
    if not isinstance(raw, dict):
        raise Wrong(f"{raw!r} is no table", "write it like lives = { Observation = 60 }")
    seconds = number(0, 86400, " seconds")
    found = cast("dict[str, Any]", raw)
    for name in found:
        if name != "*" and not _RESOURCE_TYPE.fullmatch(name):
            raise Wrong(f"{name!r} is no resource type", 'write a FHIR type such as Observation, or "*" for all others')
    return {name: float(seconds(value, place)) for name, value in found.items()}


def store(raw: Any, place: Place) -> str:
    """An SQLAlchemy URL with the async driver; the plain spellings are taken too."""
    given = text(raw, place)
    scheme, colon, rest = given.partition("://")
    driver = _DRIVERS.get(scheme)
    if not colon or driver is None:
        raise Wrong(f"{given.partition('@')[2] or given!r} is no store", "write sqlite:///gateway.db or postgresql://user@host/database")
    if ":memory:" in rest or (driver.startswith("sqlite") and not rest.strip("/")):
        raise Wrong("SQLite in memory loses what was acknowledged", "name a file: sqlite:////var/lib/gateway/gateway.db")
    if driver.startswith("sqlite"):
        return f"{driver}:///{(place.base / rest.removeprefix('/')).absolute()}"
    return f"{driver}://{rest}"


_DRIVERS = {
    "sqlite": "sqlite+aiosqlite",
    "sqlite+aiosqlite": "sqlite+aiosqlite",
    "postgres": "postgresql+asyncpg",
    "postgresql": "postgresql+asyncpg",
    "postgresql+asyncpg": "postgresql+asyncpg",
}


def redis(raw: Any, place: Place) -> str:
    """A Redis URL, or "" for none."""
    given = text(raw, place)
    if given and not given.startswith(("redis://", "rediss://", "unix://")):
        raise Wrong(f"{given.rpartition('@')[2]!r} is no Redis URL", "write redis://host:6379/0, rediss://... for TLS or unix:///path/to/socket")
    return given


def keys(raw: Any, place: Place) -> tuple[bytes, ...]:
    """Base64 or hexadecimal keys of 32 bytes, separated by commas. The first seals, all of them open."""
    found = tuple(_one_key(part.strip()) for part in text(raw, place).split(",") if part.strip())
    if not found:
        raise Wrong("holds no key", "make one with: openssl rand -base64 32")
    return found


def _one_key(text: str) -> bytes:
    try:
        key = bytes.fromhex(text) if re.fullmatch(r"[0-9a-fA-F]{64}", text) else base64.b64decode(text, validate=True)
    except (ValueError, binascii.Error):
        key = b""
    if len(key) != 32:
        raise Wrong("is not a key of 32 bytes", "make one with: openssl rand -base64 32")
    return key


def _or(choices: Any) -> str:
    return " or ".join(f'"{choice}"' for choice in choices)
