"""The base address of an EHR, and which URLs lie below it. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import SplitResult, quote, urlsplit

from gateway.errors import ConfigError

_PORTS = {"http": 80, "https": 443}
_STRANGE = re.compile(r"[\x00-\x20\x7f\\#]")
"""Control characters, spaces, backslashes: readers differ on what they mean. A fragment never goes to a server."""
_ENCODED_PATH = re.compile(r"%(2[ef]|5c|00)", re.IGNORECASE)
_PAGE_SAFE = "%!$&'()*+,;=:@/?-._~"


@dataclass(frozen=True, slots=True)
class Address:
    """`text` has no trailing slash: `https://ehr.example/r4`."""

    text: str
    scheme: str
    host: str
    port: int
    path: str  # "/r4" or ""

    def relative(self, url: str) -> str | None:
        """What follows the base, without a leading slash, when `url` lies below it: scheme, host, port and path prefix are equal.

        `https://ehr.example/r4?page=2` gives `?page=2`. None for the base itself, for anything elsewhere, and for URLs that two readers
        could understand in two ways: user names, dot segments, encoded slashes, fragments (ATK-F14, ATK-F21).
        """
        if url.startswith(self.text) and url[len(self.text) : len(self.text) + 1] in ("/", "?"):
            return _below(url[len(self.text) :])
        return self._compared(url)

    def _compared(self, url: str) -> str | None:
        """The same by parts: host names ignore case, and a default port may be left out (RFC 3986 6.2)."""
        if _STRANGE.search(url):
            return None
        try:
            parts = urlsplit(url)
            port = parts.port or _PORTS.get(parts.scheme, 0)
        except ValueError:  # a port that is no number, a bracket without its pair
            return None
        if (parts.scheme, parts.hostname, port) != (self.scheme, self.host, self.port) or "@" in parts.netloc:
            return None
        return _below(_after_host(url, parts)[len(self.path) :]) if _after_host(url, parts).startswith(self.path) else None

    def page(self, link: str) -> str:
        """The URL of a page link that `relative` gave. Raises ValueError for one that would lead elsewhere."""
        if _below(link if link.startswith("?") else f"/{link}") is None:
            raise ValueError("this is no page link of the EHR")
        return f"{self.text}{'' if link.startswith('?') else '/'}{quote(link, safe=_PAGE_SAFE)}"


def _after_host(url: str, parts: SplitResult) -> str:
    return url[len(parts.scheme) + 3 + len(parts.netloc) :]


def _below(rest: str) -> str | None:
    """`/Patient/1` as `Patient/1`, `?page=2` as it is; None when it does not stay below, or not surely."""
    path = rest.partition("?")[0]
    if rest[:1] not in ("/", "?") or rest == "/" or _STRANGE.search(rest) or _ENCODED_PATH.search(path):
        return None
    if any(segment in ("", ".", "..") for segment in path.split("/")[1:]):
        return None
    return rest.removeprefix("/")


def address(base_url: str) -> Address:
    """Read a base URL. Raises ConfigError for what cannot be one."""
    text = base_url.rstrip("/")
    try:
        parts = urlsplit(text)
        port = parts.port or _PORTS[parts.scheme]
    except (ValueError, KeyError) as error:
        raise _wrong("an EHR's address begins with https:// or http://") from error
    if not parts.hostname or "@" in parts.netloc:
        raise _wrong("it needs a host, and no user name or password in it")
    if parts.query or parts.fragment or _STRANGE.search(text):
        raise _wrong("it ends with the path of the FHIR base")
    return Address(text, parts.scheme, parts.hostname, port, parts.path)


def _wrong(why: str) -> ConfigError:
    return ConfigError(f"This is no base URL of an EHR: {why}.", where="url", fix="write it like https://ehr.example/r4")
