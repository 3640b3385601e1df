"""An EHR whose platform and offers are found out from its own CapabilityStatement, when it is first spoken to."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from gateway.adapters.ehr.base import EhrCall, EhrReply, Offers
from gateway.adapters.ehr.generic import GenericEhr
from gateway.adapters.ehr.offers import Statement, statement
from gateway.adapters.ehr.profile import Profile
from gateway.errors import UpstreamFault, UpstreamTimeout
from gateway.fhir.interaction import Kind
from gateway.fhir.outcome import pause

PATIENCE = 2.0
"""Seconds that a call waits for the platform; then it goes out as to a generic server. Some build a large statement for seconds."""
AGAIN = 30.0
"""Seconds until an EHR that did not give its statement is asked for it again, by those who can do without."""

_NO_STATEMENT = frozenset({"structure", "too-costly"})
"""Issue codes of a fault that is an answer all the same: the EHR is there, and its statement cannot be read."""


class AutoEhr:
    """Generic until the platform is known. See the Protocol `Ehr`."""

    def __init__(self, generic: GenericEhr, choose: Callable[[Statement], GenericEhr]) -> None:
        self._ehr = generic
        self._choose = choose
        self._known = False
        self._search: asyncio.Task[None] | None = None
        self._fault: UpstreamFault | None = None  # why the last search found nothing
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
    def aliases(self) -> tuple[str, ...]:
        """Other base URLs by which it names itself."""
        return self._ehr.aliases

    @property
    def profile(self) -> Profile:
        """What is known so far."""
        return self._ehr.profile

    @property
    def offered(self) -> Offers:
        """What it takes from those who write, as far as it is known now."""
        return self._ehr.offered

    def relative(self, url: str) -> str | None:
        """The part of `url` after the base, or None."""
        return self._ehr.relative(url)

    async def offers(self, *, patience: float | None = None) -> Offers:
        """What it takes. Raises UpstreamFault while the EHR is away, UpstreamTimeout when it cannot tell within `patience` seconds.

        An EHR that is there and whose statement cannot be read takes what a generic server takes.
        """
        if not self._known:
            await self._find(patience)
        if not self._known and (self._fault is None or _is_away(self._fault)):
            raise self._fault or UpstreamTimeout(reason="ehr-statement-slow")
        return self._ehr.offered

    async def send(self, call: EhrCall) -> EhrReply:
        """Make the call. Raises UpstreamFault, UpstreamTimeout or OutcomeUnknown."""
        if not self._known:
            await self._find(PATIENCE)
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

    async def _find(self, patience: float | None) -> None:
        """Wait for the statement. Who has no patience to lose asks each time an EHR that was away."""
        if self._search is None or self._search.done():
            waits = patience is not None or (self._fault is not None and not _is_away(self._fault))
            if waits and time.monotonic() < self._not_before:
                return
            self._search = asyncio.create_task(self._ask(), name=f"platform of {self.name}")
        await asyncio.wait({self._search}, timeout=patience)

    async def _ask(self) -> None:
        self._not_before = time.monotonic() + AGAIN
        try:
            said = await self._statement()
        except UpstreamFault as fault:
            self._fault = fault  # the call itself will say so
            return
        self._ehr = self._choose(said)
        self._known = True

    async def _statement(self) -> Statement:
        """The whole one: a summary leaves out what is asked for here."""
        reply = await self._ehr.send(EhrCall(Kind.CAPABILITIES))
        if reply.status in (429, 503):
            raise UpstreamFault(reason=f"ehr-{reply.status}", retry_after=pause(reply.headers.get("retry-after", "")))
        return statement(reply.body) if reply.status == 200 else Statement()


def _is_away(fault: UpstreamFault) -> bool:
    """Whether a fault says nothing about the EHR but that it is not there now. A 500 may be about the statement alone."""
    return fault.issue_code not in _NO_STATEMENT and fault.reason != "ehr-500"
