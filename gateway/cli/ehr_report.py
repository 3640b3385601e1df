"""What a CapabilityStatement says that a server can do, and what the gateway will therefore offer. Pure: plain JSON in, values out.

A statement is a claim. HAPI lists no `batch`, which works; others list what they ignore. `gateway ehr check --probe` tries it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

from gateway.adapters.ehr.profile import load, of_software

_DELIVERED = ("Communication", "Appointment", "Task", "MedicationRequest", "Observation", "QuestionnaireResponse")


@dataclass(frozen=True, slots=True)
class TypeReport:
    """One resource type as the server declares it."""

    type: str
    interactions: tuple[str, ...]
    search_params: tuple[str, ...]
    versioning: str = ""
    conditional_create: bool = False
    conditional_read: str = ""
    update_create: bool | None = None  # None: it does not say


@dataclass(frozen=True, slots=True)
class Report:
    """One server."""

    url: str
    software: str
    software_version: str
    fhir_version: str
    formats: tuple[str, ...]
    system: tuple[str, ...]  # system interactions
    types: tuple[TypeReport, ...]
    security: tuple[str, ...] = ()

    @property
    def is_r4(self) -> bool:
        """R4 is 4.0.x: 4.0.1 and its errata."""
        return self.fhir_version.startswith("4.0")


@dataclass(frozen=True, slots=True)
class Tried:
    """One probe: `outcome` is works, ignored, refused or failed."""

    name: str
    outcome: str
    detail: str = ""

    @property
    def works(self) -> bool:
        """Whether the gateway may rely on it."""
        return self.outcome == "works"


@dataclass(frozen=True, slots=True)
class Offer:
    """What the gateway does with this server, in a sentence. `level` is ok or limited."""

    feature: str
    level: str
    sentence: str


@dataclass(frozen=True, slots=True)
class Check:
    """All that `gateway ehr check` found out."""

    report: Report
    probes: tuple[Tried, ...] = ()
    offers: tuple[Offer, ...] = field(default_factory=tuple[Offer, ...])


def read(url: str, statement: Mapping[str, Any]) -> Report:
    """The report of a CapabilityStatement (R4 capabilitystatement.html); what is malformed counts as absent."""
    software = _table(statement.get("software"))
    rest = next((one for one in _tables(statement.get("rest")) if one.get("mode") == "server"), _table(None))
    return Report(
        url=url,
        software=str(software.get("name", "")),
        software_version=str(software.get("version", "")),
        fhir_version=str(statement.get("fhirVersion", "")),
        formats=tuple(str(one) for one in _list(statement.get("format"))),
        system=_codes(rest.get("interaction")),
        types=tuple(_type(one) for one in _tables(rest.get("resource"))),
        security=tuple(
            str(coding.get("code", ""))
            for service in _tables(_table(rest.get("security")).get("service"))
            for coding in _tables(service.get("coding"))
        ),
    )


def _type(one: Mapping[str, Any]) -> TypeReport:
    return TypeReport(
        type=str(one.get("type", "")),
        interactions=_codes(one.get("interaction")),
        search_params=tuple(sorted(str(param.get("name", "")) for param in _tables(one.get("searchParam")))),
        versioning=str(one.get("versioning", "")),
        conditional_create=one.get("conditionalCreate") is True,
        conditional_read=str(one.get("conditionalRead", "")),
        update_create=said if isinstance(said := one.get("updateCreate"), bool) else None,
    )


def offers(report: Report, probes: Sequence[Tried] = ()) -> tuple[Offer, ...]:
    """What the gateway will offer with this server. A probe counts more than a claim."""
    tried = {one.name: one for one in probes}

    def has(name: str, *, claimed: bool) -> bool:
        return tried[name].works if name in tried else claimed

    said = [one.update_create for one in report.types if one.update_create is not None]
    client_ids = has("client ids", claimed=any(said) if said else load(of_software(report.software)).client_ids)
    versions = has("If-Match", claimed=any(one.versioning == "versioned-update" for one in report.types))
    conditional = has("If-None-Exist", claimed=any(one.conditional_create for one in report.types))
    transactions = has("transaction", claimed="transaction" in report.system)
    readable = [one.type for one in report.types if "read" in one.interactions and "search-type" in one.interactions]
    creatable = {one.type for one in report.types if "create" in one.interactions or "update" in one.interactions}
    missing = [name for name in _DELIVERED if name not in creatable]
    return (
        Offer("FHIR R4", *(("ok", "R4 4.0.1") if report.is_r4 else ("limited", f"the server says {report.fhir_version or 'nothing'}: R4 is needed"))),
        Offer(
            "read and search", "ok" if readable else "limited", f"{len(readable)} types are offered to apps, narrowed to the patient's compartment"
        ),
        Offer("deliver pushes", *_delivery(client_ids=client_ids, conditional=conditional)),
        Offer(
            "updates",
            *(("ok", "guarded by If-Match") if versions else ("limited", "not guarded by the server: the gateway compares versions itself")),
        ),
        Offer("push transactions", *(("ok", "go as one") if transactions else ("limited", "a pushed transaction is refused: the server has none"))),
        Offer(
            "portal writes",
            "limited" if missing else "ok",
            f"not possible for {', '.join(missing)}" if missing else "messages, appointments, refills and one's own readings",
        ),
    )


def _delivery(*, client_ids: bool, conditional: bool) -> tuple[str, str]:
    if client_ids:
        return "ok", "each once: ids are fixed before the first attempt and looked up before a second one"
    if conditional:
        return "limited", "in order for each patient, by conditional create and read back (the server takes no ids of clients)"
    return "limited", "only what carries an identifier can be sent again after a lost answer"


def _list(value: Any) -> list[Any]:
    return cast("list[Any]", value) if isinstance(value, list) else []


def _table(value: Any) -> Mapping[str, Any]:
    return cast("Mapping[str, Any]", value if isinstance(value, dict) else {})


def _tables(value: Any) -> list[Mapping[str, Any]]:
    return [_table(one) for one in _list(value)]


def _codes(value: Any) -> tuple[str, ...]:
    return tuple(str(one.get("code", "")) for one in _tables(value))
