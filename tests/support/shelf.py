"""An EHR of a few lines behind the pipeline's interface: it keeps every version, honours If-Match, and loses answers on demand."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from urllib.parse import unquote

from gateway.adapters.ehr.base import ByType, EhrReply, Offers, OutcomeUnknown
from gateway.errors import MethodNotAllowed, PreconditionFailed
from gateway.fhir.bundle import Found, FoundEntry
from gateway.fhir.interaction import Interaction, Kind
from gateway.fhir.search import split_token
from gateway.proxy.answer import Answer

LOST = "lost"  # the EHR did it, and the answer never came
NEVER = "never"  # the EHR did not do it, and no answer came


def offering(*, client_ids: bool = True, conditional_create: bool = True, transactions: bool = True) -> Offers:
    """What an EHR takes, the same for every type."""
    return Offers(ByType(client_ids), ByType(conditional_create), transactions)


@dataclass
class Shelf:
    """`faults` are used up by writes, in order: LOST, NEVER, an exception, or a function to call before the write.

    `takes` is what it takes, `says` what it says of that (an exception: it cannot be asked). `searches` is False for one that has no search by
    identifier.
    """

    versions: dict[str, list[bytes | None]] = field(default_factory=dict)
    faults: list[object] = field(default_factory=list)
    log: list[str] = field(default_factory=list)
    takes: Offers = field(default_factory=offering)
    says: Offers | Exception | None = None
    searches: bool = True
    keeps: bool = True  # old versions can be read
    bundles: list[bytes] = field(default_factory=list)

    def put(self, target: str, body: bytes | None) -> None:
        """Somebody else writes (None: deletes)."""
        self.versions.setdefault(target, []).append(body)

    def now(self, target: str) -> dict | None:
        """What is there."""
        body = self.versions.get(target, [None])[-1]
        return None if body is None else json.loads(body)

    def admit(self, principal, interaction) -> None:
        """Everything is allowed here."""

    async def offers(self, ehr, *, patience=None) -> Offers:
        """What it says that it takes."""
        del ehr, patience
        if isinstance(self.says, Exception):
            raise self.says
        return self.says or self.takes

    async def found(self, principal, interaction: Interaction, context) -> Found | None:
        """All of the type with an identifier, read from the bodies."""
        del principal, context
        wanted = split_token(interaction.params[0].value)
        self.log.append(f"search {interaction.type} {wanted[1]}")
        return Found(tuple(self._with(interaction.type, wanted)), {}, None) if self.searches else None

    def _with(self, resource_type: str, wanted: tuple[str | None, str]):
        for target in self.versions:
            kind, _, id_ = target.partition("/")
            resource = self.now(target)
            if kind == resource_type and resource and wanted in [(one.get("system"), one.get("value")) for one in resource.get("identifier", [])]:
                yield FoundEntry(self.versions[target][-1], resource | {"id": id_})

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
        if not 1 <= number <= len(versions) or (interaction.version and not self.keeps):
            return None
        if versions[number - 1] is None:
            return EhrReply(410)
        return EhrReply(200, {"etag": f'W/"{number}"'}, versions[number - 1] or b"")

    def _bundle(self, interaction: Interaction) -> Answer:
        self.bundles.append(interaction.body)
        entries = json.loads(interaction.body)["entry"]
        for part, entry in zip(interaction.entries, entries, strict=True):
            self._check(part.target, entry["request"].get("ifMatch", ""))
        if not self.takes.transactions:
            raise MethodNotAllowed(reason="ehr-405")
        told = []
        for part, entry in zip(interaction.entries, entries, strict=True):
            there = self._held(part.type, entry["request"].get("ifNoneExist", "")) if part.kind is Kind.CREATE and not part.id else ""
            target = there or part.target or self._new(part.type)
            if not there:
                self.put(target, part.body)
            told.append({"response": {"status": "200" if there else "201", "location": f"{target}/_history/1"}})
        return Answer(200, json.dumps({"resourceType": "Bundle", "type": "transaction-response", "entry": told}).encode())

    def _held(self, resource_type: str, condition: str) -> str:
        """What the condition finds, or ""."""
        value = unquote(condition).partition("identifier=")[2]
        found = [entry.resource["id"] for entry in self._with(resource_type, split_token(value))] if value else []
        if len(found) > 1:
            raise PreconditionFailed(reason="ehr-412")
        return f"{resource_type}/{found[0]}" if found else ""

    def _new(self, resource_type: str) -> str:
        return f"{resource_type}/s{len(self.versions) + 1}"

    def _one(self, interaction: Interaction) -> Answer:
        self._check(interaction.target, interaction.conditions.if_match)
        if interaction.kind is Kind.CREATE and not interaction.id:
            if (guard := interaction.conditions.guard) and self._held(interaction.type, f"identifier={guard[0].value}"):
                raise PreconditionFailed(reason="made-since")
            interaction = replace(interaction, id=self._new(interaction.type).partition("/")[2])
        elif interaction.target not in self.versions and not self.takes.client_ids.of(interaction.type):
            raise MethodNotAllowed(reason="ehr-405")
        made = not self.versions.get(interaction.target)
        self.put(interaction.target, interaction.body)
        version = len(self.versions[interaction.target])
        location = f"https://gw/fhir/hapi/{interaction.target}/_history/{version}"
        return Answer(201 if made else 200, headers=(("Location", location), ("ETag", f'W/"{version}"')))

    def _check(self, target: str, if_match: str) -> None:
        if if_match and if_match != f'W/"{len(self.versions.get(target, []))}"':
            raise PreconditionFailed(reason="ehr-412")
