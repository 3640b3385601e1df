"""private_key_jwt as a client: the key from its file, and an assertion for one request (SMART 2.2 "Client Authentication: Asymmetric")."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from joserfc import jwk, jwt
from joserfc.errors import JoseError

ASSERTION_TYPE = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
LIFE = 120
"""Seconds that an assertion counts. At most 300 are allowed; so a server whose clock is up to three minutes behind still takes it."""
_MIN_RSA_BITS = 2048


class KeyUnusable(Exception):
    """No key can be taken from the file. The message says why, and nothing of what is in it."""


@dataclass(frozen=True, slots=True)
class SigningKey:
    """A private key with the id under which its public half is registered, and its algorithm: RS384 or ES384."""

    key: jwk.RSAKey | jwk.ECKey = field(repr=False)
    kid: str
    algorithm: str

    @property
    def public(self) -> Mapping[str, Any]:
        """The public JWK, as it is registered at the EHR."""
        return dict(self.key.as_dict(private=False)) | {"kid": self.kid, "alg": self.algorithm, "use": "sig"}


def signed(client_id: str, key: SigningKey, audience: str, *, skew: float = 0.0) -> str:
    """An assertion for one request: its jti is made here and nowhere kept, so none is ever sent twice (AUTHLIB-E16).

    `skew`: seconds that the server's clock is ahead of ours.
    """
    claims = {"iss": client_id, "sub": client_id, "aud": audience, "exp": int(time.time() + skew) + LIFE, "jti": secrets.token_urlsafe(32)}
    header = {"alg": key.algorithm, "kid": key.kid, "typ": "JWT"}
    return jwt.encode(header, claims, key.key, algorithms=[key.algorithm])


def form(client_id: str, key: SigningKey, audience: str, *, skew: float = 0.0) -> Mapping[str, str]:
    """The parameters that authenticate one token request."""
    return {"client_assertion_type": ASSERTION_TYPE, "client_assertion": signed(client_id, key, audience, skew=skew)}


def read_key(path: Path, kid: str = "") -> SigningKey:
    """The private key that signs: the one in the file (JWK or PEM), or the first of a set. `kid`: its id, or which one. Raises KeyUnusable."""
    keys = [key for key in _private(path) if not kid or (key.kid or kid) == kid]
    if not keys:
        raise KeyUnusable("it holds no private RSA or P-384 key of that kid")
    return _checked(keys[0], kid or keys[0].kid or "")


def public_keys(path: Path, kid: str = "") -> tuple[Mapping[str, Any], ...]:
    """The public halves of all keys in a file. `kid`: the id of one that says none. Raises KeyUnusable."""
    return tuple(_checked(key, key.kid or kid).public for key in _private(path))


def _private(path: Path) -> list[jwk.RSAKey | jwk.ECKey]:
    try:
        text = path.read_text("utf-8")
        found = _of_jwk(json.loads(text)) if text.lstrip().startswith("{") else [_of_pem(text)]
    except (JoseError, OSError, ValueError, TypeError, KeyError, AttributeError) as error:  # a file that is no text is a ValueError too
        raise KeyUnusable("it holds no private RSA or P-384 key") from error
    keys = [key for key in found if key.is_private]
    if not keys:
        raise KeyUnusable("it holds no private RSA or P-384 key")
    return keys


def _checked(key: jwk.RSAKey | jwk.ECKey, kid: str) -> SigningKey:
    if not kid:
        raise KeyUnusable("it does not say the key's id (kid)")
    if isinstance(key, jwk.ECKey):
        if key.curve_name != "P-384":
            raise KeyUnusable("its curve is not P-384, which ES384 needs")
        return SigningKey(key, kid, "ES384")
    if cast("Any", key).private_key.key_size < _MIN_RSA_BITS:
        raise KeyUnusable(f"it is an RSA key of less than {_MIN_RSA_BITS} bits")
    return SigningKey(key, kid, "RS384")


def _of_jwk(document: Mapping[str, Any]) -> list[jwk.RSAKey | jwk.ECKey]:
    keys = cast("list[dict[str, Any]]", document.get("keys", [document]))
    return [jwk.RSAKey.import_key(key) if key.get("kty") == "RSA" else jwk.ECKey.import_key(key) for key in keys if "d" in key]


def _of_pem(text: str) -> jwk.RSAKey | jwk.ECKey:
    try:
        return jwk.RSAKey.import_key(text)
    except (JoseError, ValueError):
        return jwk.ECKey.import_key(text)
