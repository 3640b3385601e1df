"""SMART Backend Services as the client of an EHR: one token request (SMART 2.2 "Backend Services"). `tokens` says when one is made."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import structlog

from gateway.smart.addresses import is_safe
from gateway.smart.client import assertion
from gateway.smart.client.discovery import Discovery
from gateway.smart.client.values import Failure, Granted, granted, unanswered
from gateway.smart.http import Http, NoAnswer

log = structlog.get_logger("gateway.ehr")


@dataclass(frozen=True, slots=True)
class BackendClient:
    """How the gateway is registered at one EHR. `base_url` is that of the EHR; `scope` is asked for with every token.

    `token_endpoint` stands in for the EHR's own SMART configuration, where that is wrong or missing. `loopback` lets it be plain http on this
    machine: for development.
    """

    name: str
    base_url: str
    client_id: str
    key_file: Path
    kid: str
    scope: str
    token_endpoint: str = ""
    loopback: bool = False


class Backend:
    """Asks for tokens. Raises KeyUnusable when it is made with a key that cannot be used."""

    def __init__(self, client: BackendClient, http: Http, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.client, self._http = client, http
        self.discovery = Discovery(client.base_url, http, clock=clock)
        self.key = assertion.read_key(client.key_file, client.kid)
        self._skew = 0.0

    async def __call__(self) -> Granted | Failure:
        """One token, or why there is none. What went wrong with the EHR's configuration is found anew next time."""
        endpoint = await self.endpoint()
        if isinstance(endpoint, Failure):
            return self._noted(endpoint)
        found = await self._ask(endpoint)
        return self._noted(found) if isinstance(found, Failure) else found

    async def endpoint(self) -> str | Failure:
        """Where tokens are asked for: the EHR's own word (HL7@29), or the setting's."""
        endpoint = self.client.token_endpoint
        if not endpoint:
            found = await self.discovery.configuration()
            if isinstance(found, Failure):
                return found
            endpoint, self._skew = found.text("token_endpoint"), found.skew
        return endpoint if is_safe(endpoint, loopback=self.client.loopback) else Failure(reason="ehr-smart-configuration")

    async def _ask(self, endpoint: str) -> Granted | Failure:
        """A connection that broke is no answer: once more, with an assertion of its own. Nothing can happen twice by it."""
        for again in (True, False):
            try:
                answer = await self._http.post(endpoint, self._form(endpoint))
            except NoAnswer as error:
                if again and not error.timeout and not error.untrusted:
                    continue
                return unanswered(error)
            self._skew = answer.skew
            return granted(answer, self.client.scope)
        raise AssertionError  # the second time always returns

    def _form(self, endpoint: str) -> dict[str, str]:
        """The key is read anew each time: one that was replaced counts without a restart, one that is broken does not replace the last."""
        try:
            self.key = assertion.read_key(self.client.key_file, self.client.kid)
        except assertion.KeyUnusable:
            log.warning("ehr-key-unusable", ehr=self.client.name)
        asked = {"grant_type": "client_credentials", "scope": self.client.scope}
        return asked | dict(assertion.form(self.client.client_id, self.key, endpoint, skew=self._skew))

    def _noted(self, failure: Failure) -> Failure:
        self.discovery.forget()
        log.warning("ehr-token", ehr=self.client.name, reason_id=failure.reason, told=failure.told)
        return failure
