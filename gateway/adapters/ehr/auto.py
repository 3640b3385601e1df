"""An EHR whose platform is found out from its own CapabilityStatement, when it is first spoken to."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import msgspec

from gateway.adapters.ehr.base import EhrCall, EhrReply
from gateway.adapters.ehr.generic import GenericEhr
from gateway.adapters.ehr.profile import Profile, of_software
from gateway.errors import UpstreamFault
from gateway.fhir.interaction import Kind, Param

PATIENCE = 2.0
"""Seconds that a call waits for the platform; then it goes out as to a generic server. Some build a large statement for seconds."""
AGAIN = 30.0
"""Seconds until an EHR that did not answer is asked for its platform again."""


class AutoEhr:
    """Generic until the platform is known. See the Protocol `Ehr`."""

    def __init__(self, generic: GenericEhr, choose: Callable[[str], GenericEhr]) -> None:
        self._ehr = generic
        self._choose = choose
        self._known = False
        self._search: asyncio.Task[None] | None = None
        self._not_before = 0.0

    @property
    def name(self) -> str:
        """The name in the configuration."""
        return self._ehr.name

    @property
    def base_url(self) -> str:
        """Without a trailing slash."""
        return self._ehr.base_url

    @property
    def profile(self) -> Profile:
        """What is known so far."""
        return self._ehr.profile

    def relative(self, url: str) -> str | None:
        """The part of `url` after the base, or None."""
        return self._ehr.relative(url)

    async def send(self, call: EhrCall) -> EhrReply:
        """Make the call. Raises UpstreamFault, UpstreamTimeout or OutcomeUnknown."""
        if not self._known:
            await self._find()
        return await self._ehr.send(call)

    async def capabilities(self) -> EhrReply:
        """Its CapabilityStatement."""
        return await self.send(EhrCall(Kind.CAPABILITIES))

    async def close(self) -> None:
        """Give the connections back."""
        if self._search is not None:
            self._search.cancel()
            await asyncio.wait({self._search})
        await self._ehr.close()

    async def _find(self) -> None:
        if self._search is None or self._search.done():
            if time.monotonic() < self._not_before:
                return
            self._search = asyncio.create_task(self._ask(), name=f"platform of {self.name}")
        await asyncio.wait({self._search}, timeout=PATIENCE)

    async def _ask(self) -> None:
        self._not_before = time.monotonic() + AGAIN
        try:
            reply = await self._ehr.send(EhrCall(Kind.CAPABILITIES, params=(Param("_summary", "", "true"),)))
        except UpstreamFault:
            return  # the call itself will say so
        self._ehr = self._choose(of_software(_software(reply)))
        self._known = True


def _software(reply: EhrReply) -> str:
    """CapabilityStatement.software.name, or ""."""
    if reply.status != 200:
        return ""
    statement: dict[str, Any] = msgspec.json.decode(reply.body)
    software = statement.get("software")
    name = software.get("name") if isinstance(software, dict) else ""  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
    return name if isinstance(name, str) else ""
