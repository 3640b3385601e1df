"""A1: discovery."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import urlsplit

from tests.conformance.check import Group, Outcome, Skip, lacking, verdict
from tests.conformance.context import Context, brief

GROUP = Group("discovery")
STANDALONE = [
    "launch-standalone",
    "client-public",
    "client-confidential-symmetric",
    "client-confidential-asymmetric",
    "sso-openid-connect",
    "context-standalone-patient",
    "permission-offline",
    "permission-patient",
    "authorize-post",
    "permission-v2",
    "permission-v1",
]
EHR = [
    "launch-ehr",
    "client-confidential-symmetric",
    "client-confidential-asymmetric",
    "sso-openid-connect",
    "context-banner",
    "context-style",
    "context-ehr-patient",
    "context-ehr-encounter",
    "permission-offline",
    "permission-user",
    "authorize-post",
    "permission-v2",
    "permission-v1",
]
CLINICAL = re.compile(r"(patient|user|system|\*)/([a-zA-Z*]+)\.([cruds]+)(\?\w+=[^\s&]+(&\w+=[^\s&]+)*)?")
OAUTH_URIS = "http://fhir-registry.smarthealthit.org/StructureDefinition/oauth-uris"


@GROUP.check("A1.1", "well_known_endpoint", 30, 372, 374, 377)
def well_known(at: Context) -> Outcome:
    """The SMART configuration is JSON at the well-known address, whatever Accept says."""
    problems = []
    for accept in ("application/json", "text/html", "application/fhir+xml"):
        answer = at.get(f"{at.config.root}/.well-known/smart-configuration", Accept=accept)
        kind = answer.headers.get("content-type", "")
        if answer.status_code != 200 or not kind.startswith("application/json"):
            problems.append(f"Accept: {accept} -> {answer.status_code} {kind}")
        elif not isinstance(answer.json(), dict):
            problems.append("it is no JSON object")
    return verdict(problems)


@GROUP.check("A1.2", "well_known_capabilities_stu2", 378)
def members(at: Context) -> Outcome:
    """Its required members are there and of the right type, its addresses absolute, and PKCE is S256 and never plain."""
    document = at.smart
    problems = [f"{name} is no text" for name in ("authorization_endpoint", "token_endpoint") if not _is_text(document.get(name))]
    problems += [f"{name} is no list of texts" for name in _LISTS if not _is_texts(document.get(name))]
    problems += lacking(document, *_LISTS)
    if "authorization_code" not in _list(document, "grant_types_supported"):
        problems.append("grant_types_supported lacks authorization_code")
    methods = _list(document, "code_challenge_methods_supported")
    problems += ["S256 is not offered"] * ("S256" not in methods) + ["plain is offered"] * ("plain" in methods)
    if signs_in := "sso-openid-connect" in _list(document, "capabilities"):
        problems += [f"{name} is no text" for name in ("issuer", "jwks_uri") if not _is_text(document.get(name))]
    problems += list(_relative(document))
    return verdict(problems, ["issuer without sso-openid-connect"] if not signs_in and "issuer" in document else ())


@GROUP.check("A1.3", "smart_cors_well_known_endpoint")
def cors_well_known(at: Context) -> Outcome:
    """A web page of another origin may read the SMART configuration."""
    return allows_origin(at, f"{at.config.root}/.well-known/smart-configuration")


@GROUP.check("A1.4", "smart_cors_metadata_request")
def cors_metadata(at: Context) -> Outcome:
    """A web page of another origin may read the CapabilityStatement without a token."""
    return allows_origin(at, f"{at.config.root}/metadata")


@GROUP.check("A1.5", "g10_smart_well_known_capabilities (standalone)")
def standalone(at: Context) -> Outcome:
    """The capabilities of a standalone launch are listed."""
    return verdict(f"{one} is not listed" for one in STANDALONE if one not in _list(at.smart, "capabilities"))


@GROUP.check("A1.6", "g10_smart_well_known_capabilities (EHR)")
def ehr(at: Context) -> Outcome:
    """The capabilities of an EHR launch are listed."""
    return verdict(f"{one} is not listed" for one in EHR if one not in _list(at.smart, "capabilities"))


@GROUP.check("A1.7", "us_core_smart_well_known_capabilities")
def us_core(at: Context) -> Outcome:
    """It lists clinical scopes in the syntax of version 2, and where tokens are introspected."""
    found = [one for one in _list(at.smart, "scopes_supported") if isinstance(one, str) and CLINICAL.fullmatch(one)]
    return verdict(["scopes_supported has no clinical scope"] * (not found) + lacking(at.smart, "introspection_endpoint"))


@GROUP.check("A1.8", "bulk_data_smart_discovery_v101_contents", 285, 286, 287, 288, 289)
def backend(at: Context) -> Outcome:
    """It says what a backend service needs: private_key_jwt, RS384 or ES384, and scopes."""
    at.offered("client-confidential-asymmetric")
    algorithms = _list(at.smart, "token_endpoint_auth_signing_alg_values_supported")
    problems = ["token_endpoint is no http address"] * (not str(at.smart.get("token_endpoint")).startswith("http"))
    problems += ["private_key_jwt is not listed"] * ("private_key_jwt" not in _list(at.smart, "token_endpoint_auth_methods_supported"))
    problems += ["neither RS384 nor ES384 is listed"] * (not {"RS384", "ES384"} & set(algorithms))
    return verdict(problems + ["scopes_supported is no list"] * (not isinstance(at.smart.get("scopes_supported"), list)))


@GROUP.check("A1.9", "(HL7: should be published)")
def more(at: Context) -> Outcome:
    """It also names the other endpoints, the brands, and client_credentials."""
    names = (
        "management_endpoint revocation_endpoint introspection_endpoint registration_endpoint response_types_supported "
        "user_access_brand_bundle user_access_brand_identifier"
    )
    missing = lacking(at.smart, *names.split())
    missing += ["grant_types_supported lacks client_credentials"] * ("client_credentials" not in _list(at.smart, "grant_types_supported"))
    return verdict((), missing)


@GROUP.check("A1.10", "(fhirclient 4.4, fhirclient-js 2.6)")
def older_clients(at: Context) -> Outcome:
    """Older clients find the endpoints in /metadata, and the search parameters by which they look for a patient's data."""
    rest = next(iter(at.metadata.get("rest") or ()), {})
    extensions = (rest.get("security") or {}).get("extension") or ()
    uris = {one.get("url"): one.get("valueUri") for ext in extensions if ext.get("url") == OAUTH_URIS for one in ext.get("extension") or ()}
    wanted = {"authorize": at.smart.get("authorization_endpoint"), "token": at.smart.get("token_endpoint")}
    problems = [f"oauth-uris: {name} is {uris.get(name)}" for name, url in wanted.items() if uris.get(name) != url]
    searched = [one for one in rest.get("resource") or () if any(code.get("code") == "search-type" for code in one.get("interaction") or ())]
    if not searched:
        return Skip("the server lists no search")
    return verdict(problems + [f"{one.get('type')} lists no searchParam" for one in searched if not one.get("searchParam")])


def allows_origin(at: Context, url: str, token: str = "") -> Outcome:
    """GET with Origin, as a browser sends it from the app's page."""
    answer = at.fhir(url, token, Origin=at.config.origin)
    allowed = answer.headers.get("access-control-allow-origin")
    problems = [f"{answer.status_code} {brief(answer)}"] * (answer.status_code != 200)
    return verdict(problems + [f"Access-Control-Allow-Origin is {allowed}"] * (allowed not in ("*", at.config.origin)))


_LISTS = ("capabilities", "grant_types_supported", "code_challenge_methods_supported")


def _list(document: Mapping[str, Any], name: str) -> list[Any]:
    found = document.get(name)
    return found if isinstance(found, list) else []


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and value != ""


def _is_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(one, str) for one in value)


def _relative(document: Mapping[str, Any]) -> Iterator[str]:
    for name, value in document.items():
        if name.endswith(("_endpoint", "_uri")) or name == "issuer":
            parts = urlsplit(str(value))
            if parts.scheme not in ("http", "https") or not parts.netloc:
                yield f"{name} is not absolute"
