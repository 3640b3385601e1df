"""A13: user-access brands, where the discovery document names a bundle."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tests.conformance.check import Group, Outcome, Skipped, lacking, verdict
from tests.conformance.context import Context, Json, brief, json_of

GROUP = Group("brands")
_EXTENSIONS = "http://hl7.org/fhir/StructureDefinition/organization-"
_PORTAL, _BRAND = f"{_EXTENSIONS}portal", f"{_EXTENSIONS}brand"
_VERSION = "http://hl7.org/fhir/StructureDefinition/endpoint-fhir-version"
_ABSENT = "http://hl7.org/fhir/StructureDefinition/data-absent-reason"


@GROUP.check("A13.75", "smart_access_brands_retrieve_bundle")
def retrieved(at: Context) -> Outcome:
    """Anybody may fetch the bundle, from any web page; its ETag should be weak."""
    answer = at.get(_url(at), Accept="application/fhir+json", Origin=at.config.origin)
    etag = answer.headers.get("etag", "")
    problems = [f"{answer.status_code} {brief(answer)}"] * (answer.status_code != 200)
    problems += ["there is no Access-Control-Allow-Origin"] * ("access-control-allow-origin" not in answer.headers)
    problems += ["there is no ETag"] * (not etag)
    return verdict(problems, ["its ETag is not weak"] * (etag != "" and not etag.startswith("W/")))


@GROUP.check("A13.76", "smart_access_brands_valid_bundle")
def bundle(at: Context) -> Outcome:
    """It is a collection with a timestamp and meta.lastUpdated, and is not empty."""
    found = _bundle(at)
    problems = [f"it is a {found.get('resourceType')} of type {found.get('type')}"] * (_kind(found) != ("Bundle", "collection"))
    problems += lacking(found, "timestamp", "entry")
    return verdict(problems + lacking(found.get("meta") or {}, "lastUpdated"))


@GROUP.check("A13.77", "smart_access_brands_valid_endpoints")
def endpoints(at: Context) -> Outcome:
    """Each Endpoint says version, connection, contact and address as the profile demands, and belongs to a brand."""
    found = _of(at, "Endpoint")
    named = {_id(one) for brand in _of(at, "Organization") for one in _references(brand)}
    problems = ["there is no Endpoint"] * (not found) + [f"Endpoint {one.get('id')}: {wrong}" for one in found for wrong in _wrong_endpoint(one)]
    return verdict(problems + [f"Endpoint {one.get('id')} belongs to no Organization" for one in found if one.get("id") not in named])


@GROUP.check("A13.78", "smart_access_brands_valid_endpoint_urls")
def addresses(at: Context) -> Outcome:
    """Behind each address is a FHIR server."""
    problems = []
    for one in _of(at, "Endpoint"):
        answer = at.get(f"{str(one.get('address')).rstrip('/')}/metadata", Accept="application/fhir+json")
        if answer.status_code != 200 or json_of(answer).get("resourceType") != "CapabilityStatement":
            problems.append(f"{one.get('address')}: {answer.status_code} {brief(answer)}")
    return verdict(problems)


@GROUP.check("A13.79", "smart_access_brands_valid_brands")
def brands(at: Context) -> Outcome:
    """Each brand has a name and one contact, and the endpoints that it names are in the bundle."""
    known = {one.get("id") for one in _of(at, "Endpoint")}
    problems = ["there is no Organization"] * (not _of(at, "Organization"))
    for brand in _of(at, "Organization"):
        problems += [f"Organization {brand.get('id')}: {wrong}" for wrong in _wrong_brand(brand, known)]
    return verdict(problems)


@GROUP.check("A13.80", "(HL7: user_access_brand_identifier)", 412, 432)
def identifier(at: Context) -> Outcome:
    """The identifier in the discovery document is that of exactly one brand."""
    _url(at)
    value = (at.smart.get("user_access_brand_identifier") or {}).get("value")
    if not value:
        raise Skipped("the discovery document has no user_access_brand_identifier")
    matching = [brand for brand in _of(at, "Organization") for one in brand.get("identifier") or () if one.get("value") == value]
    reasons = {one.get("valueCode") for brand in _of(at, "Organization") for one in _extensions(brand) if one.get("url") == _ABSENT}
    problems = [f"{len(matching)} brands have it"] * (len(matching) != 1)
    return verdict(problems + [f"data-absent-reason is {one}" for one in sorted(map(str, reasons - {"asked-declined", "asked-unknown"}))])


def _url(at: Context) -> str:
    if not isinstance(found := at.smart.get("user_access_brand_bundle"), str):
        raise Skipped("the discovery document names no user_access_brand_bundle")
    return found


def _bundle(at: Context) -> Json:
    return at.once("brands", lambda: json_of(at.get(_url(at), Accept="application/fhir+json")))


def _kind(found: Json) -> tuple[Any, Any]:
    return found.get("resourceType"), found.get("type")


def _of(at: Context, kind: str) -> list[Json]:
    resources = [one.get("resource") or {} for one in _bundle(at).get("entry") or ()]
    return [one for one in resources if one.get("resourceType") == kind]


def _references(brand: Json) -> list[str]:
    return [str(one.get("reference")) for one in brand.get("endpoint") or ()]


def _id(reference: str) -> str:
    return reference.rpartition("/")[2]


def _wrong_endpoint(one: Json) -> Iterator[str]:
    if not any(extension.get("url") == _VERSION for extension in one.get("extension") or ()):
        yield "endpoint-fhir-version is missing"
    if (one.get("connectionType") or {}).get("code") != "hl7-fhir-rest":
        yield "connectionType is not hl7-fhir-rest"
    contacts = one.get("contact") or []
    if not contacts or any(contact.get("system") != "url" or not contact.get("value") for contact in contacts):
        yield "contact is no url"
    payloads = [coding.get("code") for concept in one.get("payloadType") or () for coding in concept.get("coding") or ()]
    if payloads != ["none"]:
        yield "payloadType is not none"
    yield from lacking(one, "address")


def _wrong_brand(brand: Json, known: set[Any]) -> Iterator[str]:
    yield from lacking(brand, "name")
    if len(brand.get("telecom") or ()) != 1:
        yield "it has not exactly one telecom"
    named = {_id(one) for one in _references(brand)}
    yield from (f"{one} is not in the bundle" for one in sorted(named - known))
    portals = [one for one in brand.get("extension") or () if one.get("url") == _PORTAL]
    for part in (part for portal in portals for part in portal.get("extension") or () if part.get("url") == "portalEndpoint"):
        reference = _id(str((part.get("valueReference") or {}).get("reference")))
        if reference not in named:
            yield f"portalEndpoint {reference} is none of its endpoints"


def _extensions(value: Any) -> Iterator[Json]:
    """All extensions, at any depth."""
    if isinstance(value, dict):
        for name, one in value.items():
            if name == "extension" and isinstance(one, list):
                yield from one
            yield from _extensions(one)
    elif isinstance(value, list):
        for one in value:
            yield from _extensions(one)
