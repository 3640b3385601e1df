"""Reading OAuth parameters: strictly, once, each at most once (RFC 6749 section 3.1 and 3.2)."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import parse_qsl, unquote, unquote_plus

from gateway.smart.server.token.assertion import Peeked, peek
from gateway.smart.server.values import Pairs, TokenRequest

_MOST = 64  # parameters


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


@dataclass(frozen=True, slots=True)
class Basic:
    """HTTP Basic credentials. RFC 6749 section 2.3.1 has them form-encoded, and many clients send them as they are: both count."""

    client_id: str
    raw_secret: str = field(repr=False)

    @property
    def secrets(self) -> tuple[str, str]:
        """The two readings of the secret."""
        return self.raw_secret, unquote_plus(self.raw_secret, errors="replace")


def basic(authorization: str) -> Basic | None:
    """The credentials of a Basic header, or None when it is not one."""
    scheme, _, rest = authorization.partition(" ")
    if scheme.lower() != "basic":
        return None
    try:
        text = base64.b64decode(rest.strip(), validate=True).decode()
    except (ValueError, binascii.Error):
        return None
    client_id, colon, secret = text.partition(":")
    if not colon or not client_id:
        return None
    return Basic(unquote(client_id, errors="replace"), secret)


@dataclass(frozen=True, slots=True)
class Presented:
    """What a request to the token endpoint names: the keys of the snapshot. `problem` is an OAuth error when it contradicts itself."""

    form: Mapping[str, str]
    client_id: str = ""
    basic: Basic | None = None
    assertion: Peeked | None = None
    problem: str = ""


def presented(request: TokenRequest) -> Presented:
    """Read the request. At most one way to authenticate, and one client named by all that names one (AUTHLIB-E3)."""
    form = given(request.pairs)
    if repeated(request.pairs) or len(request.authorization) > 1:
        return Presented(form, problem="invalid_request")
    header = request.authorization[0] if request.authorization else ""
    credentials = basic(header)
    assertion = peek(form["client_assertion"]) if "client_assertion" in form else None
    ways = (bool(credentials), "client_secret" in form, "client_assertion" in form)
    if sum(ways) > 1:
        return Presented(form, problem="invalid_request")
    if (header and credentials is None) or ("client_assertion" in form and assertion is None):
        return Presented(form, problem="invalid_client")
    names = {name for name in (credentials and credentials.client_id, assertion and assertion.subject, form.get("client_id")) if name}
    if len(names) > 1:
        return Presented(form, problem="invalid_client")
    return Presented(form, next(iter(names), ""), credentials, assertion)
