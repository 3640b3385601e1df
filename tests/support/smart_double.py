"""A small SMART server that signs everybody in at once, refuses what a strict one refuses, and fails as it is told to."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from time import time
from typing import Any
from urllib.parse import parse_qsl, urlencode

from joserfc import jwk, jws

KEY = jwk.RSAKey.generate_key(2048, {"kid": "k1"})
PATIENT = '{"resourceType":"Patient","id":"p1","name":[{"family":"Okafor","given":["Amara"]}],"birthDate":"1974-03-14"}'


def observation(number: int, value: str, more: str = "") -> str:
    """A Bundle entry; the day is of the laboratory's time zone."""
    date = f"2026-11-{20 - number:02d}T23:50:00-05:00"
    head = f'"resourceType":"Observation","id":"o{number}","status":"final","code":{{"text":"Test {number}"}},"effectiveDateTime":"{date}"'
    return f'{{"resource":{{{head},{value}{more}}}}}'


RESULTS = [
    observation(
        0,
        '"valueQuantity":{"value":1.10,"unit":"mg/dL"}',
        ',"referenceRange":[{"low":{"value":0.60,"unit":"mg/dL"},"high":{"value":1.10,"unit":"mg/dL"}}]',
    ),
    observation(1, '"valueQuantity":{"value":5,"comparator":"<","unit":"mg/L"}', ',"interpretation":[{"coding":[{"code":"H"}]}]'),
    observation(2, '"valueString":"<img src=x onerror=alert(1)>"'),
    observation(3, '"component":[{"code":{"text":"Upper"},"valueQuantity":{"value":120}}]'),
    *[observation(number, '"valueQuantity":{"value":2.50}') for number in range(4, 12)],
]


@dataclass(frozen=True)
class Fails:
    """An answer in place of the right one: its status, how long it asks to wait, and seconds until it comes. Status 200: the right one, late."""

    status: int
    wait: str = ""
    after: float = 0.0


@dataclass
class SmartServer:
    """An ASGI app. `fails`: by the last part of a path, what its next answers are; `signed`: the id_token, "" for none."""

    requests: list[tuple[str, str, dict[str, str]]] = field(default_factory=list)
    challenges: dict[str, dict[str, str]] = field(default_factory=dict)
    fails: dict[str, list[Fails]] = field(default_factory=dict)
    scope: str = "patient/Patient.r patient/Observation.rs"
    deny: str = ""
    issuer: str = ""
    base: str = ""
    tokens: int = 0
    results: bool = True
    signed: Any = None
    keys: Any = field(default_factory=lambda: {"keys": [KEY.as_dict(private=False)]})

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        body = (await receive()).get("body", b"").decode()
        path, query = scope["path"], scope["query_string"].decode()
        given = dict(parse_qsl(body or query))
        planned = self.fails.get(path.rpartition("/")[2], []) if scope["method"] != "OPTIONS" else []
        told = planned.pop(0) if planned else Fails(200)
        await asyncio.sleep(told.after)
        self.requests.append((scope["method"], path, given))
        auth = dict(scope["headers"]).get(b"authorization", b"").decode()
        status, more, text = (
            (told.status, [(b"retry-after", told.wait.encode())], "") if told.status != 200 else self.answer(scope["method"], path, given, auth)
        )
        cors = [
            (b"access-control-allow-origin", b"*"),
            (b"access-control-allow-headers", b"authorization, content-type"),
            (b"access-control-expose-headers", b"retry-after"),
        ]
        await send({"type": "http.response.start", "status": status, "headers": [(b"content-type", b"application/json"), *cors, *more]})
        await send({"type": "http.response.body", "body": text.encode()})

    def answer(self, method: str, path: str, given: dict[str, str], auth: str) -> tuple[int, list[tuple[bytes, bytes]], str]:
        """The right one: status, headers, body."""
        if method == "OPTIONS":
            return 204, [], ""
        if path.endswith("/.well-known/smart-configuration"):
            return 200, [], json.dumps(self.discovery())
        if path == "/jwks":
            return 200, [], json.dumps(self.keys)
        if path == "/authorize":
            return 302, [(b"location", self.authorize(given).encode())], ""
        if path == "/token":
            status, text = self.token(given)
            return status, [], text
        if auth != f"Bearer access-{self.tokens}":
            return 401, [], '{"resourceType":"OperationOutcome","issue":[{"code":"login"}]}'
        if path == "/fhir/x/Patient/p1":
            return 200, [], PATIENT
        if path == "/fhir/x/Observation" and self.results:
            return 200, [], f'{{"resourceType":"Bundle","entry":[{",".join(RESULTS)}]}}'
        return 403, [], '{"resourceType":"OperationOutcome"}'

    def discovery(self) -> dict[str, Any]:
        """SMART 2.2 "Conformance"."""
        return {
            "issuer": f"{self.base}/fhir/x",
            "authorization_endpoint": f"{self.base}/authorize",
            "token_endpoint": f"{self.base}/token",
            "jwks_uri": f"{self.base}/jwks",
            "revocation_endpoint": f"{self.base}/revoke",
            "code_challenge_methods_supported": ["S256"],
            "authorization_response_iss_parameter_supported": True,
        }

    def authorize(self, given: dict[str, str]) -> str:
        """Where the browser goes back to."""
        answer = {"state": given["state"], "iss": self.issuer or f"{self.base}/fhir/x"}
        if self.deny:
            return f"{given['redirect_uri']}?{urlencode(answer | {'error': self.deny, 'error_description': 'said so'})}"
        code = f"code-{len(self.challenges)}"
        self.challenges[code] = given
        return f"{given['redirect_uri']}?{urlencode(answer | {'code': code})}"

    def token(self, given: dict[str, str]) -> tuple[int, str]:
        """Status and body."""
        nonce = ""
        if given["grant_type"] == "authorization_code":
            asked = self.challenges.pop(given["code"], {})
            proof = base64.urlsafe_b64encode(hashlib.sha256(given["code_verifier"].encode()).digest()).decode().rstrip("=")
            if proof != asked.get("code_challenge") or given["redirect_uri"] != asked["redirect_uri"] or given["client_id"] != "sample-app":
                return 400, '{"error":"invalid_grant"}'
            nonce = asked.get("nonce", "")
        elif given.get("refresh_token") != f"refresh-{self.tokens}":
            return 400, '{"error":"invalid_grant"}'
        self.tokens += 1
        found = {"access_token": f"access-{self.tokens}", "refresh_token": f"refresh-{self.tokens}", "token_type": "Bearer", "expires_in": 300}
        more = {"id_token": self.signed(self.claims(nonce)) if callable(self.signed) else self.signed} if self.signed else {}
        return 200, json.dumps(found | more | {"scope": self.scope, "patient": "p1"})

    def claims(self, nonce: str) -> dict[str, Any]:
        """Those of an id_token that is right."""
        return {"iss": f"{self.base}/fhir/x", "aud": "sample-app", "sub": "amara", "exp": int(time()) + 300, "nonce": nonce}


def signed(claims: Any, key: jwk.RSAKey = KEY, **header: Any) -> str:
    """A JWS of any JSON, by that key."""
    return jws.serialize_compact({"alg": "RS256", "kid": "k1"} | header, json.dumps(claims), key)


def without(claims: Mapping[str, Any], name: str) -> dict[str, Any]:
    """All but one."""
    return {one: value for one, value in claims.items() if one != name}
