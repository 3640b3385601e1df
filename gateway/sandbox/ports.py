"""Loopback ports that are free, and the same at the next start: addresses are part of what apps and tokens remember."""

from __future__ import annotations

import json
import socket
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

from gateway.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Ports:
    """One for each part that listens."""

    gateway: int
    app: int
    ehr: int


def chosen(path: Path, *, gateway: int = 0) -> Ports:
    """Those kept in this file where they are still free, else others. `gateway`: the one that somebody asked for. Raises ConfigError."""
    kept = _kept(path)
    if gateway and not is_free(gateway):
        raise ConfigError(f"Port {gateway} is in use", where="--port", fix="choose another one, or leave it out for one that is free")
    found = Ports(gateway or _same_or_other(kept.get("gateway", 0)), _same_or_other(kept.get("app", 0)), _same_or_other(kept.get("ehr", 0)))
    path.write_text(json.dumps(asdict(found)))
    return found


def _same_or_other(port: int) -> int:
    if port and is_free(port):
        return port
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def is_free(port: int) -> bool:
    """Whether one may listen there now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a port that was in use a moment ago is free, as servers see it
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def _kept(path: Path) -> dict[str, int]:
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    known = cast("dict[str, Any]", found if isinstance(found, dict) else {})
    return {name: port for name, port in known.items() if isinstance(port, int) and 0 < port < 65536}
