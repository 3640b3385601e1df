"""User-access brands (SMART App Launch 2.2, "User-access Brands and Endpoints"): who offers access to records here, and at which addresses. Pure.

One primary brand names every endpoint. Where a gateway stands in front of several EHRs, each has a brand of its own below it, two levels in
all. The resources are checked by the R4B models, which are close enough to R4 for these three types.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from urllib.parse import urlsplit

URI = "urn:ietf:rfc:3986"
_HERE = "http://hl7.org/fhir/StructureDefinition"
_PROFILES = "http://hl7.org/fhir/smart-app-launch/StructureDefinition"
_TERMS = "http://terminology.hl7.org/CodeSystem"
CATEGORIES = {"prov": "Healthcare Provider", "ins": "Insurance Company"}
_ADDRESS = {"line": "line", "city": "city", "state": "state", "postal_code": "postalCode", "country": "country"}
_PRIMARY = "primary"


class BrandWrong(ValueError):
    """The brands cannot be published as they are configured."""


@dataclass(frozen=True, slots=True)
class Brand:
    """What the operator says of it. `website` is the public one, not the portal; `identifier` is SYSTEM|VALUE, or "" for the website's."""

    name: str
    website: str
    identifier: str = ""
    aliases: tuple[str, ...] = ()
    category: str = "prov"
    addresses: tuple[Mapping[str, str], ...] = ()
    logo: str = ""
    logo_license: str = ""
    portal: str = ""
    portal_url: str = ""
    portal_description: str = ""
    portal_logo: str = ""
    developers: str = ""  # where developers read how to get access


@dataclass(frozen=True, slots=True)
class Site:
    """One EHR: `ehr` is its name in the configuration, `base` the gateway's FHIR base for it."""

    ehr: str
    base: str
    name: str
    website: str = ""
    identifier: str = ""


@dataclass(frozen=True, slots=True)
class Brands:
    """What is published: the document, its validator, and each EHR's identifier in it."""

    body: bytes
    etag: str
    identifiers: Mapping[str, Mapping[str, str]] = field(default_factory=dict[str, Mapping[str, str]])


def identifier_of(text: str, website: str) -> dict[str, str]:
    """SYSTEM|VALUE taken apart; else the website without "www." and path, as the guide recommends."""
    system, bar, value = text.rpartition("|")
    if text:
        return {"system": system, "value": value} if bar and system else {"value": value}
    parts = urlsplit(website)
    return {"system": URI, "value": f"https://{parts.netloc.lower().removeprefix('www.')}"}


def etag_of(brand: Brand, sites: Sequence[Site], base: str) -> str:
    """A weak validator of what is published, whenever it was first."""
    content = json.dumps([one["resource"] for one in _entries(brand, sites, base)], sort_keys=True)
    return f'W/"{hashlib.sha256(content.encode()).hexdigest()[:24]}"'


def make(brand: Brand, sites: Sequence[Site], base: str, changed_at: datetime) -> Brands:
    """The Bundle. `base` is the address below which its resources are named; `changed_at` when its content changed last. Raises BrandWrong."""
    moment = changed_at.isoformat(timespec="seconds")
    entries = list(_entries(brand, sites, base))
    for one in entries:
        one["resource"]["meta"]["lastUpdated"] = moment  # what changed last is known of all of them together only
    bundle: dict[str, Any] = {
        "resourceType": "Bundle",
        "id": "brands",
        "meta": {"lastUpdated": moment, "profile": [f"{_PROFILES}/user-access-brands-bundle"]},
        "type": "collection",
        "timestamp": moment,
        "entry": entries,
    }
    _check(bundle)
    return Brands(json.dumps(bundle, ensure_ascii=False).encode(), etag_of(brand, sites, base), _identifiers(brand, sites))


def _identifiers(brand: Brand, sites: Sequence[Site]) -> dict[str, Mapping[str, str]]:
    if len(sites) == 1:
        return {sites[0].ehr: identifier_of(brand.identifier, brand.website)}
    return {one.ehr: _own_identifier(one) for one in sites}


def _own_identifier(site: Site) -> dict[str, str]:
    return identifier_of(site.identifier, site.website) if site.identifier or site.website else {"system": URI, "value": site.base}


def _entries(brand: Brand, sites: Sequence[Site], base: str) -> Iterator[dict[str, Any]]:
    below = [_below(brand, one) for one in sites] if len(sites) > 1 else []
    for resource in (_primary(brand, sites), *below, *(_endpoint(brand, one, sites) for one in sites)):
        yield {"fullUrl": f"{base}/{resource['resourceType']}/{resource['id']}", "resource": resource}


def _primary(brand: Brand, sites: Sequence[Site]) -> dict[str, Any]:
    made = _organization(_PRIMARY, brand.name, brand.website, identifier_of(brand.identifier, brand.website), brand, sites)
    made |= {"alias": list(brand.aliases)} if brand.aliases else {}
    addresses = [_address(one) for one in brand.addresses]
    return made | ({"address": addresses} if addresses else {})


def _below(brand: Brand, site: Site) -> dict[str, Any]:
    made = _organization(f"ehr-{site.ehr}", site.name, site.website or brand.website, _own_identifier(site), brand, [site])
    return made | {"partOf": {"reference": f"Organization/{_PRIMARY}"}}


def _organization(id_: str, name: str, website: str, identifier: Mapping[str, str], brand: Brand, sites: Sequence[Site]) -> dict[str, Any]:
    endpoints = [_reference(one) for one in sites]
    logo = _extension("organization-brand", {"brandLogo": brand.logo, "brandLogoLicense": brand.logo_license}, "valueUrl")
    return {
        "resourceType": "Organization",
        "id": id_,
        "meta": {"profile": [f"{_PROFILES}/user-access-brand"]},
        "extension": [*logo, _portal(brand, endpoints)],
        "identifier": [dict(identifier)],
        "active": True,
        "type": [{"coding": [{"system": f"{_TERMS}/organization-type", "code": brand.category, "display": CATEGORIES[brand.category]}]}],
        "name": name,
        "telecom": [{"system": "url", "value": website}],
        "endpoint": endpoints,
    }


def _portal(brand: Brand, endpoints: Iterable[Mapping[str, str]]) -> dict[str, Any]:
    said = [
        {"url": "portalName", "valueString": brand.portal or brand.name},
        *({"url": "portalDescription", "valueMarkdown": text} for text in [brand.portal_description] if text),
        {"url": "portalUrl", "valueUrl": brand.portal_url},
        *({"url": "portalLogo", "valueUrl": url} for url in [brand.portal_logo] if url),
        *({"url": "portalEndpoint", "valueReference": dict(one)} for one in endpoints),
    ]
    return {"url": f"{_HERE}/organization-portal", "extension": said}


def _extension(name: str, members: Mapping[str, str], kind: str) -> list[dict[str, Any]]:
    said = [{"url": url, kind: value} for url, value in members.items() if value]
    return [{"url": f"{_HERE}/{name}", "extension": said}] if said else []


def _address(given: Mapping[str, str]) -> dict[str, Any]:
    return {_ADDRESS[name]: [value] if name == "line" else value for name, value in given.items()}


def _reference(site: Site) -> dict[str, str]:
    return {"reference": f"Endpoint/{site.ehr}-r4"}


def _endpoint(brand: Brand, site: Site, sites: Sequence[Site]) -> dict[str, Any]:
    owner = f"ehr-{site.ehr}" if len(sites) > 1 else _PRIMARY
    return {
        "resourceType": "Endpoint",
        "id": f"{site.ehr}-r4",
        "meta": {"profile": [f"{_PROFILES}/user-access-endpoint"]},
        "extension": [{"url": f"{_HERE}/endpoint-fhir-version", "valueCode": "4.0.1"}],
        "status": "active",
        "connectionType": {"system": f"{_TERMS}/endpoint-connection-type", "code": "hl7-fhir-rest"},
        "name": f"FHIR R4: {site.name}",
        "managingOrganization": {"reference": f"Organization/{owner}"},
        "contact": [{"system": "url", "value": brand.developers or brand.website}],
        "payloadType": [{"coding": [{"system": f"{_TERMS}/endpoint-payload-type", "code": "none"}]}],
        "address": site.base,
    }


def _check(bundle: dict[str, Any]) -> None:
    from fhir.resources.R4B.bundle import Bundle  # noqa: PLC0415  # 0.1 s that only who publishes brands pays at start
    from fhir.resources.R4B.endpoint import Endpoint  # noqa: PLC0415  # as above
    from fhir.resources.R4B.organization import Organization  # noqa: PLC0415  # as above
    from pydantic import ValidationError  # noqa: PLC0415  # as above

    resources = [one["resource"] for one in bundle["entry"]]
    try:
        Bundle.model_validate(bundle)
        for one in resources:
            (Organization if one["resourceType"] == "Organization" else Endpoint).model_validate(one)
    except ValidationError as error:
        where = ".".join(str(part) for part in error.errors()[0]["loc"])
        raise BrandWrong(f"{where}: {error.errors()[0]['msg']}") from error
    values = [one["identifier"][0]["value"] for one in resources if one["resourceType"] == "Organization"]
    if len(set(values)) != len(values):  # HL7@432: the identifier in the discovery document is that of exactly one brand
        raise BrandWrong("two brands have the same identifier")
