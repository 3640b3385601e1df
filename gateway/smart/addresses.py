"""Addresses of the web as apps, EHRs and developers name them. Pure."""

from __future__ import annotations

from urllib.parse import urlsplit

from gateway.config.settings import is_loopback


def is_web(url: str, *, http: bool = False) -> bool:
    """Whether this is the address of a page or document that every reader takes apart in the same way: https, or http on this machine.

    `http`: also elsewhere. No user, no fragment, no spaces: what follows would be read differently by different programs.
    """
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        return False
    safe = parts.scheme == "https" or (parts.scheme == "http" and (http or is_loopback(parts.hostname or "")))
    return safe and bool(parts.hostname) and "@" not in parts.netloc and "#" not in url and url.isascii() and url.isprintable() and " " not in url


def is_safe(url: str, *, loopback: bool) -> bool:
    """Whether a credential may go there: an absolute https URL without user name and fragment. `loopback`: http on this machine too."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        return False
    if not host or port == 0 or "@" in parts.netloc or parts.fragment or not (url.isascii() and url.isprintable()) or " " in url or "\\" in url:
        return False
    return parts.scheme == "https" or (parts.scheme == "http" and loopback and is_loopback(host))
