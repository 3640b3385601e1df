"""A3: OpenID Connect. Each check is asked of the standalone launch, and of the EHR launch again (A5.42)."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

from tests.conformance.check import Group, Outcome, lacking, verdict
from tests.conformance.checks.discovery import allows_origin
from tests.conformance.context import Context, Json, brief, json_of, text

GROUP = Group("openid")
_LEEWAY = 60  # seconds


@GROUP.check("A3.22", "smart_openid_decode_id_token")
def is_jwt(at: Context, on: str = "standalone") -> Outcome:
    """The id_token is a JWT."""
    opened = _identity(at, on)
    return verdict(lacking(opened.header, "alg") + ["it has no claims"] * (not opened.claims))


@GROUP.check("A3.23", "smart_openid_retrieve_configuration")
def configuration(at: Context, on: str = "standalone") -> Outcome:
    """The issuer that it names publishes its OpenID configuration."""
    issuer = text(_identity(at, on).claims, "iss")
    answer = at.get(f"{issuer.rstrip('/')}/.well-known/openid-configuration", Accept="application/json")
    kind = answer.headers.get("content-type", "")
    return verdict([f"{answer.status_code} {kind}"] * (answer.status_code != 200 or not kind.startswith("application/json")))


@GROUP.check("A3.24", "smart_openid_required_configuration_fields")
def fields(at: Context, on: str = "standalone") -> Outcome:
    """The configuration has its required members, and RS256."""
    del on
    texts = ("issuer", "authorization_endpoint", "token_endpoint", "jwks_uri")
    lists = ("response_types_supported", "subject_types_supported", "id_token_signing_alg_values_supported")
    problems = [f"{name} is no text" for name in texts if not isinstance(at.openid.get(name), str)]
    problems += [f"{name} is no list" for name in lists if not isinstance(at.openid.get(name), list)]
    return verdict(problems + ["RS256 is not listed"] * ("RS256" not in (at.openid.get(lists[-1]) or ())))


@GROUP.check("A3.25", "smart_openid_retrieve_jwks")
def keys(at: Context, on: str = "standalone") -> Outcome:
    """Its keys can be fetched; one at least is RSA."""
    del on
    answer = at.get(text(at.openid, "jwks_uri"), Accept="application/json")
    if answer.status_code != 200:
        return verdict([f"{answer.status_code} {brief(answer)}"])
    return verdict(["there is no RSA key"] * (not _rsa(json_of(answer))))


@GROUP.check("A3.26", "smart_openid_token_header")
def header(at: Context, on: str = "standalone") -> Outcome:
    """The id_token is signed with RS256, and says by which key when there are several."""
    head, known = _identity(at, on).header, [one.get("kid") for one in _rsa(at.jwks)]
    problems = [f"alg is {head.get('alg')}"] * (head.get("alg") != "RS256")
    return verdict(problems + [f"kid is {head.get('kid')}"] * (len(known) > 1 and head.get("kid") not in known))


@GROUP.check("A3.27", "smart_openid_token_payload")
def payload(at: Context, on: str = "standalone") -> Outcome:
    """Its signature verifies; iss, aud, exp, iat and sub are right."""
    opened, launched = _identity(at, on), at.launch(on)
    tried = [one for one in _rsa(at.jwks) if one.get("kid") == opened.header.get("kid")] or _rsa(at.jwks)
    problems = ["the signature does not verify"] * (not any(opened.signed_by(one) for one in tried))
    return verdict(problems + list(_wrong_claims(opened.claims, issuer=at.openid.get("issuer"), client_id=launched.app.id)))


@GROUP.check("A3.28", "smart_openid_fhir_user_claim")
def fhir_user(at: Context, on: str = "standalone") -> Outcome:
    """The claim fhirUser names a resource of a person, which the token may read."""
    user = text(_identity(at, on).claims, "fhirUser")
    kind = user.rstrip("/").split("/")[-2] if user.count("/") else ""
    if kind not in ("Patient", "Practitioner", "PractitionerRole", "RelatedPerson", "Person"):
        return verdict([f"{kind or 'it'} is no type of a person"])
    answer = at.fhir(user, at.launch(on).access)
    if answer.status_code != 200:
        return verdict([f"{answer.status_code} {brief(answer)}"])
    problems = [f"it is a {json_of(answer).get('resourceType')}"] * (json_of(answer).get("resourceType") != kind)
    return verdict(problems, ["PractitionerRole is not in the published check's list"] * (kind == "PractitionerRole"))


@GROUP.check("A3.29", "smart_cors_openid_fhir_user_claim")
def cors(at: Context, on: str = "standalone") -> Outcome:
    """A web page of another origin may read it too."""
    user = text(_identity(at, on).claims, "fhirUser")
    return allows_origin(at, user if user.startswith("http") else f"{at.config.root}/{user}", at.launch(on).access)


def _identity(at: Context, on: str) -> Any:
    at.offered("sso-openid-connect")
    return at.identity(at.launch(on))


def _rsa(jwks: Json) -> list[dict[str, Any]]:
    return [one for one in jwks.get("keys") or () if isinstance(one, dict) and one.get("kty") == "RSA" and one.get("n") and one.get("e")]


def _wrong_claims(claims: Json, *, issuer: Any, client_id: str) -> Iterator[str]:
    audience = claims.get("aud")
    if claims.get("iss") != issuer:
        yield f"iss is {claims.get('iss')}"
    if client_id not in (audience if isinstance(audience, list) else [audience]):
        yield f"aud is {audience}"
    if not isinstance(claims.get("exp"), int | float) or claims["exp"] <= time.time() - _LEEWAY:
        yield "exp is missing or past"
    if not isinstance(claims.get("iat"), int | float):
        yield "iat is missing"
    if not isinstance(claims.get("sub"), str) or not 1 <= len(claims["sub"]) <= 255:
        yield "sub has not 1 to 255 characters"
