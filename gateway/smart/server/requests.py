"""Reading OAuth parameters: strictly, once, each at most once (RFC 6749 section 3.1 and 3.2)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import parse_qsl

Pairs = tuple[tuple[str, str], ...]
"""Parameters in the order in which they were sent."""
_MOST = 64  # parameters


@dataclass(frozen=True, slots=True)
class TokenRequest:
    """A form POST to the token, revocation or introspection endpoint, as sent."""

    pairs: Pairs
    authorization: tuple[str, ...] = ()  # the Authorization header's values


def parse_form(text: bytes, *, most: int = _MOST) -> Pairs | None:
    """The pairs of an application/x-www-form-urlencoded text in order, or None when it is not one, or has more than `most`."""
    try:
        pairs = parse_qsl(
            text.decode("ascii"), keep_blank_values=True, strict_parsing=bool(text), errors="strict", max_num_fields=most, separator="&"
        )
    except ValueError:  # also of UTF-8 that is none
        return None
    return None if any("\0" in name or "\0" in value for name, value in pairs) else tuple(pairs)


def repeated(pairs: Pairs) -> frozenset[str]:
    """Names that are there more than once."""
    seen: set[str] = set()
    return frozenset(name for name, _ in pairs if name in seen or seen.add(name))


def given(pairs: Pairs) -> Mapping[str, str]:
    """The parameters with a value: an empty one counts as omitted (RFC 6749 section 3.1)."""
    return {name: value for name, value in pairs if value}
