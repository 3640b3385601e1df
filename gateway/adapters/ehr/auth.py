"""How the gateway signs in at an EHR: a header on every call, or a certificate in the TLS context."""

from __future__ import annotations

import base64
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol


class Auth(Protocol):
    """Credentials for one EHR. Asked before every call, so that a token may change."""

    async def headers(self, person: str = "") -> Mapping[str, str]:
        """What to send, usually an Authorization header; `person` is the account that calls, where each has a credential of her own.

        Raises FhirError when there is none to be had; nothing was sent then.
        """
        ...

    def refused(self, headers: Mapping[str, str], person: str = "") -> bool:
        """The EHR answered 401 to these. Whether to ask for headers and send once more."""
        ...

    async def close(self) -> None:
        """Give back what it holds."""
        ...


class _Fixed:
    """A credential that stays as it is: refused once, it is refused again."""

    __slots__ = ()

    def refused(self, headers: Mapping[str, str], person: str = "") -> bool:
        """There is no other."""
        del headers, person
        return False

    async def close(self) -> None:
        """It holds nothing."""


@dataclass(frozen=True, slots=True)
class NoAuth(_Fixed):
    """Nothing: the EHR is open to this machine, or knows it by its certificate."""

    async def headers(self, person: str = "") -> Mapping[str, str]:
        """No header."""
        del person
        return {}


@dataclass(frozen=True, slots=True)
class Basic(_Fixed):
    """User name and password (RFC 7617), as UTF-8."""

    username: str
    password: str = field(repr=False)

    async def headers(self, person: str = "") -> Mapping[str, str]:
        """`Authorization: Basic ...`."""
        del person
        return {"Authorization": "Basic " + base64.b64encode(f"{self.username}:{self.password}".encode()).decode()}


@dataclass(frozen=True, slots=True)
class Bearer(_Fixed):
    """A token (RFC 6750)."""

    token: str = field(repr=False)

    async def headers(self, person: str = "") -> Mapping[str, str]:
        """`Authorization: Bearer ...`."""
        del person
        return {"Authorization": f"Bearer {self.token}"}


def tls_context(*, ca: Path | None = None, certificate: Path | None = None, key: Path | None = None) -> ssl.SSLContext:
    """A context for one EHR, of PEM files: `ca` is trusted instead of what the system trusts; `certificate` and `key` are our own (mTLS).

    Raises OSError or ssl.SSLError for files that cannot be read or do not fit.
    """
    context = ssl.create_default_context(cafile=ca)
    if certificate is not None:
        context.load_cert_chain(certificate, key)
    return context
