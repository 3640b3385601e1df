"""JSON Web Signatures by hand: a suite that sends wrong ones must be able to make them."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature


def encode(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def decode(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def _number(text: str) -> int:
    return int.from_bytes(decode(text))


def _octets(number: int, length: int = 0) -> str:
    return encode(number.to_bytes(length or (number.bit_length() + 7) // 8))


@dataclass(frozen=True)
class Key:
    """A private key with its id. RSA signs with RS384, an elliptic curve key with ES384."""

    private: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey
    kid: str

    @staticmethod
    def new(kind: str = "EC", kid: str = "") -> Key:
        made = ec.generate_private_key(ec.SECP384R1()) if kind == "EC" else rsa.generate_private_key(65537, 2048)
        return Key(made, kid or secrets.token_hex(8))

    @staticmethod
    def read(path: Path, kid: str = "") -> Key:
        """A JWK, the first private key of a JWK Set, or PEM (then with `kid`). Raises ValueError."""
        data = path.read_bytes()
        if data.lstrip().startswith(b"-----"):
            loaded = serialization.load_pem_private_key(data, None)
            if not isinstance(loaded, rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey) or not kid:
                raise ValueError(f"{path}: an RSA or EC key is needed, and its kid beside it")
            return Key(loaded, kid)
        document = json.loads(data)
        found = next((one for one in document.get("keys", [document]) if "d" in one and (not kid or one.get("kid", kid) == kid)), None)
        if found is None:
            raise ValueError(f"{path}: there is no private key")
        return Key(_private(found), kid or found["kid"])

    @property
    def algorithm(self) -> str:
        return "RS384" if isinstance(self.private, rsa.RSAPrivateKey) else "ES384"

    @property
    def public(self) -> dict[str, Any]:
        """The public JWK."""
        numbers = self.private.public_key().public_numbers()
        more = {"kid": self.kid, "use": "sig", "alg": self.algorithm}
        if isinstance(numbers, rsa.RSAPublicNumbers):
            return {"kty": "RSA", "n": _octets(numbers.n), "e": _octets(numbers.e), **more}
        return {"kty": "EC", "crv": "P-384", "x": _octets(numbers.x, 48), "y": _octets(numbers.y, 48), **more}

    def signature(self, content: bytes) -> bytes:
        if isinstance(self.private, rsa.RSAPrivateKey):
            return self.private.sign(content, padding.PKCS1v15(), hashes.SHA384())
        pair = decode_dss_signature(self.private.sign(content, ec.ECDSA(hashes.SHA384())))
        return b"".join(number.to_bytes(48) for number in pair)


def _private(found: Mapping[str, str]) -> rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey:
    if found["kty"] == "EC":
        return ec.derive_private_key(_number(found["d"]), ec.SECP384R1())
    public, d = rsa.RSAPublicNumbers(_number(found["e"]), _number(found["n"])), _number(found["d"])
    p, q = rsa.rsa_recover_prime_factors(public.n, public.e, d)
    return rsa.RSAPrivateNumbers(p, q, d, rsa.rsa_crt_dmp1(d, p), rsa.rsa_crt_dmq1(d, q), rsa.rsa_crt_iqmp(p, q), public).private_key()


def compact(header: Mapping[str, Any], claims: Mapping[str, Any], sign: Key | bytes | None) -> str:
    """A compact JWS: signed by a key, by HMAC with these bytes, or not at all. The header says what it likes."""
    content = ".".join(encode(json.dumps(dict(part)).encode()) for part in (header, claims))
    match sign:
        case Key():
            signature = sign.signature(content.encode())
        case bytes():
            signature = hmac.new(sign, content.encode(), hashlib.sha256 if header.get("alg") == "HS256" else hashlib.sha384).digest()
        case None:
            signature = b""
    return f"{content}.{encode(signature)}"


def assertion(key: Key, client_id: str, audience: str, *, header: Mapping[str, Any] | None = None, signer: Any = ..., **claims: Any) -> str:
    """A client assertion, good unless told otherwise. A member given as None is left out."""
    made = {"iss": client_id, "sub": client_id, "aud": audience, "exp": int(time.time()) + 300, "jti": secrets.token_hex(32)} | claims
    head = {"alg": key.algorithm, "kid": key.kid, "typ": "JWT"} | dict(header or {})
    kept = [{name: value for name, value in part.items() if value is not None} for part in (head, made)]
    return compact(*kept, key if signer is ... else signer)


@dataclass(frozen=True, slots=True)
class Opened:
    """A JWS taken apart; nothing is verified."""

    header: Mapping[str, Any]
    claims: Mapping[str, Any]
    content: bytes
    signature: bytes

    @staticmethod
    def of(token: str) -> Opened:
        """Raises ValueError when it is none."""
        header, claims, signature = token.split(".")
        parts = [json.loads(decode(part)) for part in (header, claims)]
        if not all(isinstance(part, dict) for part in parts):
            raise ValueError("header and payload are objects")
        return Opened(parts[0], parts[1], f"{header}.{claims}".encode(), decode(signature))

    def signed_by(self, jwk: Mapping[str, Any]) -> bool:
        """Whether this RSA key signed it with RS256."""
        public = rsa.RSAPublicNumbers(_number(jwk["e"]), _number(jwk["n"])).public_key()
        try:
            public.verify(self.signature, self.content, padding.PKCS1v15(), hashes.SHA256())
        except InvalidSignature:
            return False
        return True
