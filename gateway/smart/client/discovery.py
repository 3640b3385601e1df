"""An EHR's SMART configuration: where its endpoints are, from there and nowhere else (A18.83, HL7@29), kept for as long as it says."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, cast

from gateway.smart.client.values import Failure
from gateway.smart.http import Http, NoAnswer, life_of


@dataclass(frozen=True, slots=True)
class Configuration:
    """What is used of the document. Lists are empty where it says nothing."""

    document: Mapping[str, Any]
    skew: float = 0.0  # seconds that the EHR's clock is ahead of ours

    def text(self, name: str) -> str:
        """A member that is a text, or ""."""
        found = self.document.get(name)
        return found if isinstance(found, str) else ""

    def listed(self, name: str) -> tuple[str, ...]:
        """A member that is a list of texts."""
        found = self.document.get(name)
        return tuple(one for one in cast("list[Any]", found) if isinstance(one, str)) if isinstance(found, list) else ()


class Discovery:
    """The configuration of one EHR, kept for its Cache-Control: an hour at most, and not at all where it says so."""

    def __init__(self, base_url: str, http: Http, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._url, self._http, self._clock = base_url.rstrip("/") + "/.well-known/smart-configuration", http, clock
        self._kept: Configuration | None = None
        self._until = 0.0

    async def configuration(self) -> Configuration | Failure:
        """The document, asked for when the one that is kept is too old. What was known counts on while a new one cannot be had."""
        if self._kept is not None and self._clock() < self._until:
            return self._kept
        found = await self._asked()
        return self._kept if isinstance(found, Failure) and self._kept is not None else found

    def forget(self) -> None:
        """Ask anew next time: a token endpoint that refuses may have moved."""
        self._until = 0.0

    async def _asked(self) -> Configuration | Failure:
        try:
            answer = await self._http.get(self._url)
        except NoAnswer as error:
            return Failure(reason="ehr-smart-configuration", timeout=error.timeout)
        if answer.status != 200 or answer.document is None:
            return Failure(reason="ehr-smart-configuration")
        self._kept = Configuration(answer.document, answer.skew)
        self._until = self._clock() + life_of(answer.headers.get("cache-control", ""))
        return self._kept
