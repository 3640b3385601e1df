"""An id_token that another server signed: each rule alone, for the EHR of an app session and for a provider of the sign-in alike."""

from __future__ import annotations

import base64
import hmac
import json
from datetime import UTC, datetime

import pytest
from joserfc import jwk, jwt

from gateway.smart.id_token import NotBelieved, key_id, verified

ISSUER = "https://ehr.test/fhir"
SIGNER = jwk.RSAKey.generate_key(2048, {"kid": "s1"}, private=True)
OTHER = jwk.RSAKey.generate_key(2048, {"kid": "r1"}, private=True)
CURVE = jwk.ECKey.generate_key("P-256", {"kid": "e1"}, private=True)
KEYS = {"keys": [SIGNER.as_dict(private=False) | {"use": "sig"}, CURVE.as_dict(private=False)]}
TWO = {"keys": [SIGNER.as_dict(private=False), OTHER.as_dict(private=False)]}
MOMENT = datetime(2026, 11, 25, tzinfo=UTC)
NOW = MOMENT.timestamp()
CLAIMS = {"iss": ISSUER, "sub": "u1", "aud": "gateway", "exp": NOW + 60, "iat": NOW, "nonce": "n"}


def told(key=SIGNER, header=None, keys=KEYS, algorithm="RS256", allowed=("RS256",), skew=0.0, **claims):
    """What is believed of a token with these claims; one given as ... is left out."""
    content = {name: value for name, value in (CLAIMS | claims).items() if value is not ...}
    made = jwt.encode({"alg": algorithm} | ({"kid": "s1"} if header is None else header), content, key, algorithms=[algorithm])
    return verified(made, keys, issuer=ISSUER, client_id="gateway", nonce="n", moment=MOMENT, algorithms=allowed, skew=skew)


RIGHT = {
    "as it is": {},
    "the only key, unnamed": {"header": {}},
    "several audiences, made for us": {"aud": ["gateway", "other"], "azp": "gateway"},
    "one audience, made for us": {"azp": "gateway"},
    "a list of one": {"aud": ["gateway"]},
    "over for less than a minute": {"exp": NOW - 59},
    "a minute ahead": {"iat": NOW + 60},
    "a clock that is ahead": {"iat": NOW + 3600, "exp": NOW + 3900, "skew": 3600.0},
    "the other algorithm": {"key": CURVE, "header": {"kid": "e1"}, "algorithm": "ES256", "allowed": ("RS256", "ES256")},
}


@pytest.mark.parametrize("values", RIGHT.values(), ids=RIGHT)
def test_a_token_that_holds(values):
    """A18.87: the claims as they are."""
    assert told(**values)["sub"] == "u1"


WRONG = {
    "another issuer": ({"iss": "https://evil.test"}, "iss"),
    "a slash at the issuer's end": ({"iss": f"{ISSUER}/"}, "iss"),
    "no issuer": ({"iss": ...}, "iss"),
    "another client": ({"aud": "other"}, "aud"),
    "for nobody": ({"aud": ...}, "aud"),
    "several audiences, and for whom": ({"aud": ["gateway", "other"]}, "aud"),
    "several audiences, made for another": ({"aud": ["gateway", "other"], "azp": "other"}, "aud"),
    "one audience, made for another": ({"azp": "other"}, "aud"),
    "over": ({"exp": NOW - 60}, "exp"),
    "over where the clock is ahead": ({"skew": 3600.0}, "exp"),
    "no end": ({"exp": ...}, "exp"),
    "an end in words": ({"exp": "tomorrow"}, "exp"),
    "an end that is no number": ({"exp": float("nan")}, "exp"),
    "never over": ({"exp": float("inf")}, "exp"),
    "no beginning": ({"iat": ...}, "iat"),
    "an hour ahead": ({"iat": NOW + 3600, "exp": NOW + 7200}, "iat"),
    "a beginning that is a truth value": ({"iat": True}, "iat"),
    "another request": ({"nonce": "m"}, "nonce"),
    "no request": ({"nonce": ...}, "nonce"),
    "a request that is a number": ({"nonce": 7}, "nonce"),
    "nobody": ({"sub": ""}, "sub"),
    "a subject that is too long": ({"sub": "u" * 256}, "sub"),
    "no subject": ({"sub": ...}, "sub"),
    "an unknown key": ({"header": {"kid": "other"}}, "key"),
    "a key without a name": ({"header": {"kid": ""}}, "key"),
    "two keys and no name": ({"header": {}, "keys": TWO}, "key"),
    "a key that encrypts": ({"keys": {"keys": [SIGNER.as_dict(private=False) | {"use": "enc"}]}}, "key"),
    "an empty set": ({"keys": {"keys": []}}, "key"),
    "no set": ({"keys": {}}, "signature"),
    "another key of that name": ({"key": OTHER}, "signature"),
    "another algorithm": ({"algorithm": "RS384"}, "signature"),
    "an algorithm that is not taken here": ({"key": CURVE, "header": {"kid": "e1"}, "algorithm": "ES256"}, "key"),
}


@pytest.mark.parametrize(("values", "why"), WRONG.values(), ids=WRONG)
def test_a_token_that_does_not_hold(values, why):
    """OpenID Connect Core 3.1.3.7: signed as it should be but for the last, and not believed."""
    with pytest.raises(NotBelieved, match=f"^{why}$"):
        told(**values)


@pytest.mark.parametrize("token", ["", "a.b.c", "x" * 20_000, "é.é.é"])
def test_what_is_no_token(token):
    """Whatever it is: no claims, and no key."""
    with pytest.raises(NotBelieved):
        verified(token, KEYS, issuer=ISSUER, client_id="gateway", nonce="n", moment=MOMENT)
    assert key_id(token) == ""


def test_an_issuer_that_nobody_named():
    """It is not the same as one that says nothing."""
    made = jwt.encode({"alg": "RS256", "kid": "s1"}, CLAIMS | {"iss": ""}, SIGNER, algorithms=["RS256"])
    with pytest.raises(NotBelieved, match="iss"):
        verified(made, KEYS, issuer="", client_id="gateway", nonce="n", moment=MOMENT)


def test_signed_with_the_public_key_as_a_secret():
    """The oldest trick."""
    parts = [base64.urlsafe_b64encode(json.dumps(one).encode()).rstrip(b"=") for one in ({"alg": "HS256", "kid": "s1"}, CLAIMS)]
    signature = hmac.digest(SIGNER.as_pem(private=False), b".".join(parts), "sha256")
    made = b".".join([*parts, base64.urlsafe_b64encode(signature).rstrip(b"=")]).decode()
    assert key_id(made) == "s1"
    with pytest.raises(NotBelieved, match="signature"):
        verified(made, KEYS, issuer=ISSUER, client_id="gateway", nonce="n", moment=MOMENT)
