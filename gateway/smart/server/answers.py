"""The answers of the machine endpoints: OAuth's JSON, as values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from gateway.audit import AuditRecord
from gateway.errors import FhirError
from gateway.smart.server.effects import Effect


@dataclass(frozen=True, slots=True)
class Decided:
    """An OAuth answer, and what must be committed before it is given.

    `record` is what goes on record about it, where more is known than who called; `recorded`: that is committed already, with the effects.
    `simulated`: the fault of a trial for which this is no real answer.
    """

    status: int
    body: Mapping[str, Any]
    effects: tuple[Effect, ...] = ()
    headers: tuple[tuple[str, str], ...] = ()
    record: AuditRecord | None = None
    recorded: bool = False
    simulated: str = ""

    @property
    def error(self) -> str:
        """The OAuth error code, or ""."""
        return str(self.body.get("error", ""))


def refused(error: str, description: str = "", *, status: int = 400, effects: tuple[Effect, ...] = ()) -> Decided:
    """An error of RFC 6749 section 5.2. 401 names Basic as the scheme (there), whatever the client tried."""
    body = {"error": error} | ({"error_description": description} if description else {})
    headers = (("WWW-Authenticate", f'Basic realm="token", error="{error}"'),) if status == 401 else ()
    return Decided(status, body, effects, headers)


def failed(error: FhirError) -> Decided:
    """What an OAuth caller is told when something else than his request is wrong."""
    code = "temporarily_unavailable" if error.status >= 500 else "invalid_request"
    retry = (("Retry-After", str(error.retry_after)),) if error.retry_after is not None else ()
    return Decided(error.status, {"error": code, "error_description": error.message}, headers=retry)
