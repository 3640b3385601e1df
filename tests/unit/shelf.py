"""An EHR of a few lines behind the pipeline's interface: it keeps every version, honours If-Match, and loses answers on demand."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field

from gateway.adapters.ehr.base import EhrReply, OutcomeUnknown
from gateway.errors import PreconditionFailed
from gateway.fhir.interaction import Interaction, Kind
from gateway.proxy.answer import Answer

LOST = "lost"  # the EHR did it, and the answer never came
NEVER = "never"  # the EHR did not do it, and no answer came


@dataclass
class Shelf:
    """`faults` are used up by writes, in order: LOST, NEVER, an exception, or a function to call before the write."""

    versions: dict[str, list[bytes | None]] = field(default_factory=dict)
    faults: list[object] = field(default_factory=list)
    log: list[str] = field(default_factory=list)

    def put(self, target: str, body: bytes | None) -> None:
        """Somebody else writes (None: deletes)."""
        self.versions.setdefault(target, []).append(body)

    def now(self, target: str) -> dict | None:
        """What is there."""
        body = self.versions.get(target, [None])[-1]
        return None if body is None else json.loads(body)

    def admit(self, principal, interaction) -> None:
        """Everything is allowed here."""

    async def handle(self, principal, interaction: Interaction, context) -> Answer:
        """Write."""
        del principal, context
        self.log.append(f"{interaction.kind} {interaction.target}".strip())
        fault = self.faults.pop(0) if self.faults else None
        if fault is NEVER:
            raise OutcomeUnknown
        if isinstance(fault, Exception):
            raise fault
        if isinstance(fault, Callable):
            fault()
        answer = self._bundle(interaction) if interaction.kind in (Kind.TRANSACTION, Kind.BATCH) else self._one(interaction)
        if fault is LOST:
            raise OutcomeUnknown
        return answer

    async def stored(self, principal, interaction: Interaction, context) -> EhrReply | None:
        """Read or vread."""
        del principal, context
        self.log.append(f"{interaction.kind} {interaction.target}" + (f" {interaction.version}" if interaction.version else ""))
        versions = self.versions.get(interaction.target, [])
        number = int(interaction.version) if interaction.version else len(versions)
        if not 1 <= number <= len(versions) or versions[number - 1] is None:
            return None
        return EhrReply(200, {"etag": f'W/"{number}"'}, versions[number - 1] or b"")

    def _bundle(self, interaction: Interaction) -> Answer:
        entries = json.loads(interaction.body)["entry"]
        for part, entry in zip(interaction.entries, entries, strict=True):
            self._check(part.target, entry["request"].get("ifMatch", ""))
        for part in interaction.entries:
            self.put(part.target, part.body)
        return Answer(200, b'{"resourceType":"Bundle","type":"transaction-response"}')

    def _one(self, interaction: Interaction) -> Answer:
        self._check(interaction.target, interaction.conditions.if_match)
        made = not self.versions.get(interaction.target)
        self.put(interaction.target, interaction.body)
        version = len(self.versions[interaction.target])
        location = f"https://gw/fhir/hapi/{interaction.target}/_history/{version}"
        return Answer(201 if made else 200, headers=(("Location", location), ("ETag", f'W/"{version}"')))

    def _check(self, target: str, if_match: str) -> None:
        if if_match and if_match != f'W/"{len(self.versions.get(target, []))}"':
            raise PreconditionFailed(reason="ehr-412")
