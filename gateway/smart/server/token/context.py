"""What a token response says besides the token: launch context (SMART 2.2 "Launch context arrives with your access_token") and id_token."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from joserfc import jwt

from gateway.smart.scopes import split
from gateway.smart.server.endpoints import Endpoints
from gateway.smart.server.token.snapshot import Snapshot
from gateway.store.oauth_rows import Account, Grant, new_id


def launch_context(grant: Grant, endpoints: Endpoints) -> dict[str, Any]:
    """patient, encounter, banner, style and what else the EHR said of the launch. Introspection repeats them (HL7@277)."""
    found: dict[str, Any] = {}
    if grant.patient:
        found = {"patient": grant.patient, "need_patient_banner": grant.need_patient_banner, "smart_style_url": endpoints.style}
    if grant.encounter:
        found["encounter"] = grant.encounter
    return found | dict(grant.extra or {})


def context_members(snapshot: Snapshot) -> dict[str, Any]:
    """The launch context of the grant in question."""
    if snapshot.grant is None:
        return {}
    told = replace(snapshot.grant, patient="") if snapshot.simulates("no-patient") else snapshot.grant
    return launch_context(told, snapshot.endpoints)


def fhir_user_url(account: Account, endpoints: Endpoints) -> str:
    """The fhirUser claim: absolute, so that it means the same wherever it is read."""
    return f"{endpoints.base}/{account.fhir_user}"


def signed_identity(snapshot: Snapshot) -> dict[str, Any]:
    """The id_token, when openid was granted: RS256 (OpenID Connect Core 2, SMART "Scopes for requesting identity data")."""
    grant, account, code, key = snapshot.grant, snapshot.account, snapshot.code, snapshot.signing_key
    if grant is None or account is None or code is None or key is None:
        return {}
    scopes = split(grant.scope)
    if "openid" not in scopes:
        return {}
    issued = int(snapshot.now.timestamp())
    claims: dict[str, Any] = {
        "iss": snapshot.endpoints.base,
        "sub": account.id,
        "aud": grant.client_id,
        "iat": issued,
        "exp": issued + snapshot.lifetimes.access,
        "auth_time": int(code.auth_time.timestamp()),
    }
    if code.nonce:
        claims["nonce"] = code.nonce
    if "fhirUser" in scopes or "profile" in scopes:
        claims["fhirUser"] = fhir_user_url(account, snapshot.endpoints)
    if snapshot.simulates("id-token-expired"):
        claims |= {"iat": issued - 7200, "exp": issued - 3600, "auth_time": issued - 7200}
    if snapshot.simulates("id-token-other-aud"):
        claims["aud"] = new_id()
    if snapshot.simulates("id-token-other-nonce"):
        claims["nonce"] = new_id()
    header = {"alg": "RS256", "kid": str(key.kid), "typ": "JWT"}
    return {"id_token": jwt.encode(header, claims, key, algorithms=["RS256"])}
