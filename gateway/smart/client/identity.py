"""Who signed in at the EHR: its id_token verified, and the `fhirUser` in it (A18.87). Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any, cast

from joserfc import jwk, jws, jwt
from joserfc.errors import JoseError

_LEEWAY = 60  # seconds
_LONGEST = 16_384  # characters
_FHIR_USER = re.compile(r"(Patient|Practitioner|PractitionerRole|RelatedPerson|Person)/[A-Za-z0-9.-]{1,64}", re.ASCII)


def verified(
    token: str, keys: Mapping[str, Any], *, issuer: str, client_id: str, nonce: str, moment: datetime, skew: float = 0.0
) -> Mapping[str, Any] | None:
    """The claims of an id_token, or None for one that is not from this issuer, for this client, about this request and in force.

    OpenID Connect Core 1.0 section 3.1.3.7; RS256 alone, as SMART has it. `skew`: seconds that the EHR's clock is ahead of ours.
    """
    claims = _signed(token, keys)
    if claims is None:
        return None
    audience, now = claims.get("aud"), moment.timestamp() + skew
    audiences = cast("list[Any]", audience) if isinstance(audience, list) else [audience]
    expires, subject = claims.get("exp"), claims.get("sub")
    valid = (
        bool(issuer)
        and claims.get("iss") == issuer
        and client_id in audiences
        and (len(audiences) == 1 or claims.get("azp") == client_id)
        and isinstance(expires, int | float)
        and now < expires + _LEEWAY
        and isinstance(subject, str)
        and 0 < len(subject) <= 255
        and claims.get("nonce") == nonce
    )
    return claims if valid else None


def _signed(token: str, keys: Mapping[str, Any]) -> Mapping[str, Any] | None:
    try:
        header = jws.extract_compact(token.encode()).headers() if len(token) <= _LONGEST else {}
        return dict(jwt.decode(token, _key(keys, header), algorithms=["RS256"]).claims)
    except (JoseError, ValueError, TypeError, KeyError):
        return None


def _key(keys: Mapping[str, Any], header: Mapping[str, Any]) -> jwk.RSAKey:
    """The key that the header names, or the only one."""
    listed = [cast("dict[str, Any]", one) for one in keys.get("keys", ()) if isinstance(one, dict)]
    signing = [one for one in listed if one.get("kty") == "RSA" and one.get("use", "sig") == "sig"]
    named = [one for one in signing if one.get("kid") == header.get("kid")] if "kid" in header else signing
    if len(named) != 1:
        raise ValueError("no key, or several")
    return jwk.RSAKey.import_key({name: named[0][name] for name in ("kty", "n", "e")})


def fhir_user(claims: Mapping[str, Any], base_url: str) -> str:
    """`Patient/a` of the claim: relative, or below the EHR's base. "" for anything else."""
    said = claims.get("fhirUser")
    text = said.removeprefix(f"{base_url}/") if isinstance(said, str) else ""
    return text if _FHIR_USER.fullmatch(text) else ""
