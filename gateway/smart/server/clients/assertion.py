"""private_key_jwt: SMART 2.2 "Client Authentication: Asymmetric", RFC 7523. Pure: keys and used assertions are in the snapshot.

Authlib's class is kept for its place in the core and overridden where it is too lenient or too strict for SMART: AUTHLIB-E1 (it refuses
RS384 and ES384), E2 (lifetime, expiry leeway, jku, typ, audience lists), E3 (client_id beside another sub), E4 (the method's name).
"""
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, cast

from joserfc import jwk, jwt
from joserfc.errors import JoseError

from gateway.smart.server.authlib_core import InvalidClientError, JWTBearerClientAssertion
from gateway.smart.server.effects import RememberJti
from gateway.store.oauth_rows import AuthMethod

ALGORITHMS = ("RS384", "ES384")
_KEY_TYPE = {"RS384": "RSA", "ES384": "EC"}
_LONGEST = 8192  # characters; a deeply nested payload is cheap to send and dear to parse
_MAX_LIFE = 300  # seconds (HL7: "no more than five minutes in the future")
_SKEW = 5  # seconds that a client's clock may be ahead
_MIN_RSA_BITS = 2048
_COMPACT = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+", re.ASCII)


@dataclass(frozen=True, slots=True)
class Peeked:
    """Header and claims of an assertion before anything is verified: enough to look up the client, its keys and the jti."""

    header: Mapping[str, Any]
    claims: Mapping[str, Any]

    @property
    def subject(self) -> str:
        """The client that it claims to be, or ""."""
        return _text(self.claims, "sub")

    @property
    def key_id(self) -> str:
        """The kid, or ""."""
        return _text(self.header, "kid")

    @property
    def jti_hash(self) -> str:
        """The name under which its use is remembered: per issuer."""
        return hashlib.sha256(f"{self.subject}\0{_text(self.claims, 'jti')}".encode("utf-8", "surrogatepass")).hexdigest()


def peek(assertion: str) -> Peeked | None:
    """The parts of a compact JWS with JSON objects inside, or None."""
    if len(assertion) > _LONGEST or not _COMPACT.fullmatch(assertion):
        return None
    header, claims, _ = assertion.split(".")
    parts = (_json_object(header), _json_object(claims))
    return None if parts[0] is None or parts[1] is None else Peeked(parts[0], parts[1])


def select_key(keys: Mapping[str, Any] | None, header: Mapping[str, Any]) -> jwk.Key | None:
    """The one public key that the header names, fit for its algorithm; None when there is none, or more than one."""
    algorithm, key_id = _text(header, "alg"), _text(header, "kid")
    listed = cast("Any", keys.get("keys")) if keys else None
    if algorithm not in ALGORITHMS or not key_id or not isinstance(listed, list):
        return None
    found = [cast("dict[str, Any]", key) for key in cast("list[Any]", listed) if isinstance(key, dict) and key.get("kid") == key_id]
    return _usable(found[0], algorithm) if len(found) == 1 else None


def _usable(key: dict[str, Any], algorithm: str) -> jwk.Key | None:
    if key.get("kty") != _KEY_TYPE[algorithm] or key.get("use", "sig") != "sig" or key.get("alg", algorithm) != algorithm:
        return None
    if algorithm == "ES384" and key.get("crv") != "P-384":
        return None
    if "verify" not in key.get("key_ops", ["verify"]):
        return None
    try:
        # Only the public members: a key set that gives its private parts away still verifies, and nothing of them is kept.
        imported = jwk.import_key({name: key[name] for name in ("kty", "n", "e", "crv", "x", "y", "kid") if name in key})
        strong = algorithm == "ES384" or cast("Any", imported).public_key.key_size >= _MIN_RSA_BITS
    except (JoseError, ValueError, TypeError, KeyError):
        return None
    return imported if strong else None


class ClientAssertion(JWTBearerClientAssertion):
    """Authenticates one request. `remembered` receives the effect that uses the assertion up."""

    CLIENT_AUTH_METHOD = AuthMethod.KEY  # AUTHLIB-E4

    def __init__(self, *, now: datetime, audiences: tuple[str, ...], keys: Mapping[str, Any] | None, jwks_uri: str, jti_seen: bool) -> None:
        super().__init__(leeway=0)
        self._now, self._audiences, self._keys, self._jwks_uri, self._jti_seen = now, audiences, keys, jwks_uri, jti_seen
        self._peeked: Peeked | None = None
        self.remembered: list[RememberJti] = []

    def extract_assertion(self, assertion: str) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
        """Header and claims, unverified."""
        self._peeked = peek(assertion)
        if self._peeked is None:
            raise InvalidClientError
        return self._peeked.header, self._peeked.claims

    def resolve_client_public_key(self, client: Any) -> jwk.Key:
        """The registered key that the header names. No header ever brings a key or an address of its own (ATK-O23)."""
        del client
        header = self._peeked.header if self._peeked else {}
        if {"jwk", "x5c", "x5u", "crit", "b64"} & header.keys() or str(header.get("typ", "")).upper() != "JWT":
            raise InvalidClientError
        if "jku" in header and header["jku"] != (self._jwks_uri or None):
            raise InvalidClientError
        key = select_key(self._keys, header)
        if key is None:
            raise InvalidClientError
        return key

    def process_assertion_claims(self, assertion: str, resolve_key: Any) -> Any:
        """Verify the signature with SMART's two algorithms (AUTHLIB-E1), then the claims."""
        try:
            token = jwt.decode(assertion, resolve_key, algorithms=list(ALGORITHMS))
        except (JoseError, ValueError, TypeError) as error:
            raise InvalidClientError from error
        self.verify_claims(token.claims)
        return token.claims

    def verify_claims(self, claims: Any) -> None:
        """Every claim that SMART demands, with its type (AUTHLIB-E2)."""
        audience = claims.get("aud")
        if isinstance(audience, list) and len(cast("list[Any]", audience)) == 1:
            audience = audience[0]
        subject, jti = _text(claims, "sub"), _text(claims, "jti")
        moment = self._now.timestamp()
        expires, not_before, issued = (_number(claims, name) for name in ("exp", "nbf", "iat"))
        valid = (
            subject != ""
            and claims.get("iss") == subject
            and isinstance(audience, str)
            and audience in self._audiences
            and 0 < len(jti) <= 255  # longer than any sane identifier
            and expires is not None
            and moment < expires <= moment + _MAX_LIFE + _SKEW
            and ("nbf" not in claims or (not_before is not None and not_before <= moment + _SKEW))
            and ("iat" not in claims or (issued is not None and issued <= moment + _SKEW))
        )
        if not valid or self._jti_seen or self._peeked is None:
            raise InvalidClientError
        # Kept longer than the assertion lives, and never less than five minutes.
        until = datetime.fromtimestamp(max(cast("float", expires), moment + _MAX_LIFE), UTC) + timedelta(seconds=60)
        self.remembered.append(RememberJti(self._peeked.jti_hash, until))


def _json_object(part: str) -> Mapping[str, Any] | None:
    try:
        found = json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))
    except (ValueError, binascii.Error, RecursionError):
        return None
    return cast("dict[str, Any]", found) if isinstance(found, dict) else None


def _text(values: Mapping[str, Any], name: str) -> str:
    found = values.get(name)
    return found if isinstance(found, str) else ""


def _number(values: Mapping[str, Any], name: str) -> float | None:
    """NumericDate of RFC 7519: a JSON number; true is none, "1" is none, NaN is none."""
    found = values.get(name)
    if isinstance(found, bool) or not isinstance(found, int | float):
        return None
    return float(found) if -(2**53) < found < 2**53 else None
