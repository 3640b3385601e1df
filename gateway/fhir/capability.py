"""An EHR's CapabilityStatement, reduced to what this gateway offers in front of it (FHIR R4 capabilitystatement.html). Pure.

Made anew from known parts: nothing of the EHR's is copied but codes, R4's own parameter names and published canonicals, so that its software,
host and operations never show, and nothing is listed that does not work (HL7@348-371).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, cast
from urllib.parse import urlsplit

from gateway import __version__
from gateway.errors import UpstreamFault
from gateway.fhir.tables import Tables

SOFTWARE = "FHIR portal gateway"
OAUTH_URIS = "http://fhir-registry.smarthealthit.org/StructureDefinition/oauth-uris"
"""Where clients from before `.well-known/smart-configuration` look for the endpoints (SMART 1; Python fhirclient 4)."""
SYSTEMS_ONLY = "For registered systems only."
INTERACTIONS = ("read", "vread", "search-type", "create", "update")
"""What is passed on where the EHR has it. To these come, for what persons write, `patch` (made here, sent as an update) and `delete`."""

_OAUTH_NAMES = ("authorize", "token", "introspect", "revoke", "register", "manage")
_VERSIONING = frozenset({"no-version", "versioned", "versioned-update"})
# Parameters of every type that the policy refuses: what they answer is not in the answer (ATK-F5).
_NEVER = frozenset({"_content", "_filter", "_has", "_list", "_query", "_security", "_source", "_text", "_type"})

Json = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Claim:
    """What the operator says of an EHR's data beyond its own statement: canonicals of CapabilityStatements, and of profiles by type."""

    instantiates: tuple[str, ...] = ()
    profiles: Mapping[str, tuple[str, ...]] = field(default_factory=dict[str, tuple[str, ...]])


_NOTHING = Claim()


def reduce(
    statement: Any, tables: Tables, *, base: str, endpoints: Mapping[str, str], transactions: bool | None = None, claim: Claim = _NOTHING
) -> dict[str, Any]:
    """The gateway's statement, as plain JSON values.

    `statement` is the EHR's, parsed; `base` the gateway's FHIR base for this EHR; `endpoints` maps authorize, token, introspect, revoke
    (and register, manage) to absolute URLs. `transactions` says whether the EHR takes them, where more is known than its statement says.
    `claim` adds what the operator vouches for: whether data conform to a profile cannot be seen from here.
    Raises UpstreamFault when the EHR's is none, or not of R4.
    """
    given = _statement(statement)
    rest = next((row for row in _objects(given.get("rest")) if row.get("mode") == "server"), _object(None))
    transactions = "transaction" in _codes(rest.get("interaction")) if transactions is None else transactions
    made: dict[str, Any] = {
        "resourceType": "CapabilityStatement",
        "status": "active",
        "date": given["date"] if isinstance(given.get("date"), str) else "2026-01-01",
        "kind": "instance",
        "software": {"name": SOFTWARE, "version": __version__},
        "implementation": {"description": f"{SOFTWARE}: SMART on FHIR in front of a health record system", "url": base},
        "fhirVersion": "4.0.1",
        "format": ["application/fhir+json", "json"],
        "rest": [_rest(rest, tables, _host(given), endpoints, claim, transactions=transactions)],
    }
    if instantiates := _together(_published(given.get("instantiates"), _host(given)), claim.instantiates):
        made["instantiates"] = instantiates
    return made


def _statement(value: Any) -> Json:
    given = _object(value)
    if given.get("resourceType") != "CapabilityStatement":
        raise UpstreamFault(reason="ehr-no-capabilities", code="structure")
    version = given.get("fhirVersion")
    if not isinstance(version, str) or not version.startswith("4.0"):
        raise UpstreamFault("The health record system does not speak FHIR R4.", reason="ehr-not-r4", code="not-supported")
    return given


def _host(given: Json) -> str:
    url = _object(given.get("implementation")).get("url")
    return _netloc(url) if isinstance(url, str) else ""


def _rest(rest: Json, tables: Tables, host: str, endpoints: Mapping[str, str], claim: Claim, *, transactions: bool) -> dict[str, Any]:
    made: dict[str, Any] = {"mode": "server", "security": security(endpoints), "resource": list(_resources(rest, tables, host, claim))}
    if transactions:
        # Servers that take a transaction take a batch, whether they list it or not (seen: HAPI 8.8).
        made["interaction"] = [{"code": code, "documentation": SYSTEMS_ONLY} for code in ("transaction", "batch")]
    return made


def security(endpoints: Mapping[str, str]) -> dict[str, Any]:
    """`rest.security`: SMART-on-FHIR, with the endpoints for older clients (HL7@15, HL7@18)."""
    uris = [{"url": name, "valueUri": endpoints[name]} for name in _OAUTH_NAMES if endpoints.get(name)]
    coding = {"system": "http://terminology.hl7.org/CodeSystem/restful-security-service", "code": "SMART-on-FHIR", "display": "SMART-on-FHIR"}
    made: dict[str, Any] = {"cors": True, "service": [{"coding": [coding], "text": "OAuth 2.0 by the SMART App Launch framework"}]}
    return {"extension": [{"url": OAUTH_URIS, "extension": uris}], **made} if uris else made


def _resources(rest: Json, tables: Tables, host: str, claim: Claim) -> Iterator[dict[str, Any]]:
    offered = {name: row for row in _objects(rest.get("resource")) if isinstance(name := row.get("type"), str)}
    for name, row in sorted(tables.compartment.items()):
        if row.kind == "gateway":
            yield _own(name)
        elif name in offered and (made := _resource(name, offered[name], tables, host, claim)):
            yield made if row.for_persons else {**made, "documentation": SYSTEMS_ONLY}


def _own(name: str) -> dict[str, Any]:
    """A type that the gateway answers by itself: searched by patient, nothing else."""
    return {"type": name, "interaction": [{"code": "search-type"}], "searchParam": [{"name": "patient", "type": "reference"}]}


def _resource(name: str, given: Json, tables: Tables, host: str, claim: Claim) -> dict[str, Any] | None:
    codes = _codes(given.get("interaction"))
    kept = [code for code in INTERACTIONS if code in codes]
    if not kept:
        return None
    writable = tables.compartment[name].kind == "patient"  # by persons; systems push whole resources under their ids
    kept += [code for code, needed in (("patch", "update"), ("delete", "delete")) if writable and needed in codes]
    made: dict[str, Any] = {"type": name, "profile": f"http://hl7.org/fhir/StructureDefinition/{name}"}
    if profiles := _together(_published(given.get("supportedProfile"), host), claim.profiles.get(name, ())):
        made["supportedProfile"] = profiles
    made["interaction"] = [{"code": code} for code in kept]
    if isinstance(versioning := given.get("versioning"), str) and versioning in _VERSIONING:
        made["versioning"] = versioning
    made |= {"readHistory": False, "conditionalCreate": "create" in kept and given.get("conditionalCreate") is True}
    found = writable and "search-type" in kept
    made |= {"conditionalRead": "full-support", "conditionalUpdate": found and "update" in kept}
    made |= {"conditionalDelete": "single" if found and "delete" in kept else "not-supported"}
    if "search-type" in kept:
        made |= _search(name, given, tables)
    return made


def _search(name: str, given: Json, tables: Tables) -> dict[str, Any]:
    known = tables.search.get(name, {})
    listed = {param for row in _objects(given.get("searchParam")) if isinstance(param := row.get("name"), str)}
    made: dict[str, Any] = {
        "searchInclude": _joins(tables.includes, given.get("searchInclude"), f"{name}:"),
        "searchRevInclude": _joins(tables.revincludes, given.get("searchRevInclude"), ""),
        "searchParam": [{"name": param, "type": known[param].type} for param in sorted(listed & known.keys() - _NEVER)],
    }
    return {element: values for element, values in made.items() if values}


def _joins(ours: Iterable[str], theirs: Any, prefix: str) -> list[str]:
    """A join that is listed brings all its targets, so one that names a target is there as well."""
    listed = set(_strings(theirs))
    return sorted(join for join in ours if join.startswith(prefix) and {"*", join, ":".join(join.split(":")[:2])} & listed)


def _published(value: Any, host: str) -> list[str]:
    """Canonicals that are published somewhere else than at the EHR."""
    return [text for text in _strings(value) if text.startswith(("http://", "https://")) and _netloc(text) not in ("", host)]


def _together(theirs: list[str], claimed: Iterable[str]) -> list[str]:
    """The EHR's own first; a canonical that it names in any version, or without one, is not named again."""
    known = {one.partition("|")[0] for one in theirs}
    return [*theirs, *(one for one in claimed if one.partition("|")[0] not in known)]


def _netloc(text: str) -> str:
    try:
        return urlsplit(text).netloc.lower()
    except ValueError:
        return ""


def _codes(interactions: Any) -> frozenset[str]:
    return frozenset(code for row in _objects(interactions) if isinstance(code := row.get("code"), str))


def _object(value: Any) -> Json:
    return cast("Json", value) if isinstance(value, dict) else {}


def _objects(value: Any) -> list[Json]:
    return [cast("Json", item) for item in cast("list[Any]", value) if isinstance(item, dict)] if isinstance(value, list) else []


def _strings(value: Any) -> list[str]:
    return [item for item in cast("list[Any]", value) if isinstance(item, str)] if isinstance(value, list) else []
