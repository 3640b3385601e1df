"""`/metadata`: the EHR's CapabilityStatement, reduced to what this gateway really allows."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Mapping

from gateway.adapters.ehr.base import Ehr, EhrCall
from gateway.fhir import capability
from gateway.fhir.capability import Claim
from gateway.fhir.interaction import Kind
from gateway.fhir.json import parse_trusted
from gateway.fhir.tables import Tables
from gateway.proxy.answer import Answer, RequestContext
from gateway.proxy.reads import Events, refusal

LIFE = 60.0
"""Seconds that a statement is kept in the process: it is asked for by anybody, without a token."""


class Capabilities:
    """One statement for each EHR. `endpoints`: its OAuth endpoints, for the security block; `claims`: what the operator vouches for."""

    def __init__(
        self,
        tables: Tables,
        events: Events,
        *,
        public_url: str,
        endpoints: Mapping[str, Mapping[str, str]],
        claims: Mapping[str, Claim] | None = None,
    ) -> None:
        self._tables, self._events = tables, events
        self._public_url, self._endpoints, self._claims = public_url, endpoints, claims or {}
        self._kept: dict[str, tuple[float, bytes]] = {}
        self._locks: dict[str, asyncio.Lock] = {}

    async def answer(self, ehr: Ehr, context: RequestContext) -> Answer:
        """The statement. Raises what the EHR's fault becomes."""
        async with self._locks.setdefault(ehr.name, asyncio.Lock()):
            until, body = self._kept.get(ehr.name, (0.0, b""))
            if time.monotonic() >= until:
                body = await self._fetch(ehr, context)
                self._kept[ehr.name] = (time.monotonic() + LIFE, body)
        return Answer(200, body, (("Cache-Control", f"public, max-age={int(LIFE)}"),))

    async def _fetch(self, ehr: Ehr, context: RequestContext) -> bytes:
        reply = await ehr.send(EhrCall(Kind.CAPABILITIES, request_id=context.request_id))
        if reply.status != 200:
            raise refusal(reply, ehr, context, self._events)
        statement = capability.reduce(
            parse_trusted(reply.body),
            self._tables,
            base=f"{self._public_url}/fhir/{ehr.name}",
            endpoints=self._endpoints[ehr.name],
            transactions=(await ehr.offers()).transactions,
            claim=self._claims.get(ehr.name, Claim()),
        )
        return json.dumps(statement).encode()
