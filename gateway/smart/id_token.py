"""An id_token that another server signed: believed, or not (OpenID Connect Core 1.0 section 3.1.3.7). Pure.

One verifier for both roads on which somebody else says who a person is: the EHR of an app session, and an outside provider of the sign-in.
"""

from __future__ import annotations

import hmac
import math
from collections.abc import Mapping
from datetime import datetime
from typing import Any, cast

from joserfc import jwk, jws, jwt
from joserfc.errors import JoseError

from gateway.errors import GatewayError

_LEEWAY = 60  # seconds that two clocks may differ
_LONGEST = 16_384  # characters
_KINDS = {"RS256": "RSA", "ES256": "EC"}
_MEMBERS = {"RSA": ("kty", "n", "e"), "EC": ("kty", "crv", "x", "y")}


class NotBelieved(GatewayError):
    """What an id_token says does not count. The message is a short word of ours: which rule it is."""


def verified(
    token: str,
    keys: Mapping[str, Any],
    *,
    issuer: str,
    client_id: str,
    nonce: str,
    moment: datetime,
    algorithms: tuple[str, ...] = ("RS256",),
    skew: float = 0.0,
) -> Mapping[str, Any]:
    """The claims of a token that is from this issuer, for this client, about this request and in force. Raises NotBelieved for any other.

    `algorithms`: of RS256 and ES256. `skew`: seconds that the issuer's clock is ahead of ours.
    """
    try:
        key = _key(token, keys, {_KINDS[one] for one in algorithms})
        claims: Mapping[str, Any] = jwt.decode(token, key, algorithms=list(algorithms)).claims
    except (JoseError, ValueError, TypeError, KeyError, RecursionError) as error:
        raise NotBelieved("signature") from error
    if not issuer or claims.get("iss") != issuer:
        raise NotBelieved("iss")
    _check_audience(claims, client_id)
    _check_times(claims, moment.timestamp() + skew)
    said, subject = claims.get("nonce"), claims.get("sub")
    if not isinstance(said, str) or not hmac.compare_digest(said.encode("utf-8", "replace"), nonce.encode()):
        raise NotBelieved("nonce")
    if not isinstance(subject, str) or not 0 < len(subject) <= 255:
        raise NotBelieved("sub")
    return claims


def key_id(token: str) -> str:
    """The key that a token names, "" when it names none, or is no token: which key it is decides the signature."""
    try:
        found = _header(token).get("kid")
    except (JoseError, ValueError, TypeError, RecursionError):
        return ""
    return found if isinstance(found, str) else ""


def _header(token: str) -> Mapping[str, Any]:
    if len(token) > _LONGEST:
        raise ValueError("too long")
    return jws.extract_compact(token.encode()).headers()


def _key(token: str, keys: Mapping[str, Any], kinds: set[str]) -> jwk.Key:
    """The one key that the token names, or the only one there is. Keys of kinds that do not sign here are not looked at."""
    header = _header(token)
    found = [cast("dict[str, Any]", one) for one in cast("list[Any]", keys["keys"]) if isinstance(one, dict)]
    usable = [one for one in found if one.get("kty") in kinds and one.get("use", "sig") == "sig"]
    fits = [one for one in usable if one.get("kid") == header["kid"]] if "kid" in header else usable
    if len(fits) != 1:
        raise NotBelieved("key")
    return jwk.import_key({name: fits[0][name] for name in _MEMBERS[fits[0]["kty"]]})


def _check_audience(claims: Mapping[str, Any], client_id: str) -> None:
    """For this client; and where another party is named as the one it was made for, it is not ours, however few are listed."""
    audience = claims.get("aud")
    audiences = cast("list[Any]", audience) if isinstance(audience, list) else [audience]
    if client_id not in audiences or ((len(audiences) > 1 or "azp" in claims) and claims.get("azp") != client_id):
        raise NotBelieved("aud")


def _check_times(claims: Mapping[str, Any], seconds: float) -> None:
    expires, issued = _seconds(claims.get("exp")), _seconds(claims.get("iat"))
    if expires is None or expires <= seconds - _LEEWAY:
        raise NotBelieved("exp")
    if issued is None or issued > seconds + _LEEWAY:
        raise NotBelieved("iat")


def _seconds(value: Any) -> float | None:
    return value if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) else None
