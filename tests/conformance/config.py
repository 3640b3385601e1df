"""What the suite is told about a server: its address, the clients registered there, who signs in."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from tests.conformance.jose import Key


@dataclass(frozen=True, slots=True)
class App:
    """A registered client: with a secret, with a key, or with neither."""

    id: str
    secret: str = ""
    key: Key | None = None
    scope: str = ""


@dataclass(frozen=True, slots=True)
class SignIn:
    """How a person signs in, and whom she picks when she is asked."""

    username: str
    password: str
    patient: str = ""


@dataclass(frozen=True, slots=True)
class ServedKeys:
    """Where this suite serves the keys of a backend client that is registered with their URL."""

    app: App
    host: str
    port: int
    path: str = "/jwks.json"
    life: int = 1  # seconds for which the keys may be kept


@dataclass(frozen=True, slots=True)
class Config:
    """`base` as it was typed. `launch` makes an EHR launch and gives its iss, launch and url; None: the person starts it."""

    base: str
    redirect_uri: str = "http://127.0.0.1:8765/callback"
    launch_uri: str = "http://127.0.0.1:8765/launch"
    clients: Mapping[str, App] = field(default_factory=dict)
    served_keys: ServedKeys | None = None
    people: Mapping[str, SignIn] = field(default_factory=dict)
    launch: Callable[[], Mapping[str, Any]] | None = None
    introspection_authorization: str = ""
    bulk_group: str = ""
    ca: Path | None = None
    timeout: float = 30.0

    @property
    def root(self) -> str:
        """The base without a slash at its end."""
        return self.base.rstrip("/")

    @property
    def origin(self) -> str:
        """Where an app in a browser would be loaded from."""
        parts = urlsplit(self.redirect_uri)
        return f"{parts.scheme}://{parts.netloc}"
