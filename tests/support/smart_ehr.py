"""The EHR double behind SMART Backend Services: discovery, a token endpoint that judges assertions as an EHR would, and failures on demand."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs

from joserfc import jwk, jwt
from joserfc.errors import JoseError

from gateway.sandbox.double import Double

BASE = "http://127.0.0.1:9/fhir"  # loopback, so that http may be; nobody listens there
TOKEN = "http://127.0.0.1:9/token"


@dataclass(frozen=True)
class Asked:
    """One token request: its form, its headers, and the assertion's header and claims."""

    form: Mapping[str, str]
    headers: Mapping[str, str]
    header: Mapping[str, Any]
    claims: Mapping[str, Any]


@dataclass
class Reply:
    """What the token endpoint says instead of the truth."""

    status: int = 200
    body: Any = b""  # bytes as they are, anything else as JSON
    headers: Mapping[str, str] = field(default_factory=dict)
    delay: float = 0.0


@dataclass
class SmartEhr:
    """The app. `keys` are the public keys of the one client, "gateway"; `replies` are used up first, one a request."""

    keys: list[Mapping[str, Any]]
    double: Double = field(default_factory=Double)
    token_endpoint: str = TOKEN
    more: dict[str, Any] = field(default_factory=dict)  # members of the SMART configuration
    configuration_headers: dict[str, str] = field(default_factory=dict)
    configuration_status: int = 200
    replies: list[Reply] = field(default_factory=list)
    life: Any = 300
    scope: str = ""
    clock: Callable[[], float] = time.time
    asked: list[Asked] = field(default_factory=list)
    discovered: list[Mapping[str, str]] = field(default_factory=list)
    live: set[str] = field(default_factory=set)
    jtis: set[str] = field(default_factory=set)
    delay: float = 0.0

    def revoke(self) -> None:
        """No token counts any more."""
        self.live.clear()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        headers = {name.decode().lower(): value.decode() for name, value in scope["headers"]}
        match scope["path"]:
            case "/fhir/.well-known/smart-configuration":
                self.discovered.append(headers)
                document = {"token_endpoint": self.token_endpoint, "capabilities": ["client-confidential-asymmetric"]} | self.more
                await answer(send, Reply(self.configuration_status, document, self.configuration_headers))
            case "/token" | "/new/token":
                form = {name: values[0] for name, values in parse_qs((await body(receive)).decode()).items()}
                await answer(send, await self._token(form, headers))
            case _ if headers.get("authorization", "").removeprefix("Bearer ") in self.live:
                await self.double(scope, receive, send)
            case _:
                await answer(send, Reply(401, {"resourceType": "OperationOutcome", "issue": []}))

    async def _token(self, form: Mapping[str, str], headers: Mapping[str, str]) -> Reply:
        header, claims = self._judged(form.get("client_assertion", ""))
        self.asked.append(Asked(form, headers, header, claims))
        reply = self.replies.pop(0) if self.replies else None
        await asyncio.sleep(reply.delay if reply else self.delay)
        if reply and (reply.body or reply.status != 200):
            return reply
        if not claims:
            return Reply(400, {"error": "invalid_client", "error_description": "the EHR's own words"})
        token = f"token-{len(self.asked)}"
        self.live.add(token)
        given = {"access_token": token, "token_type": "bearer", "scope": self.scope or form["scope"]}
        return Reply(200, given | ({} if self.life is None else {"expires_in": self.life}))

    def _judged(self, assertion: str) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
        """Header and claims of an assertion that counts; no claims for one that does not."""
        keys = jwk.KeySet.import_key_set({"keys": [dict(one) for one in self.keys]})
        try:
            token = jwt.decode(assertion, keys, algorithms=["RS384", "ES384"])
        except (JoseError, ValueError):
            return {}, {}
        claims, moment = token.claims, self.clock()
        right = claims["iss"] == claims["sub"] == "gateway" and claims["aud"] == self.token_endpoint and moment < claims["exp"] <= moment + 300
        if not right or claims["jti"] in self.jtis or token.header.get("typ") != "JWT":
            return token.header, {}
        self.jtis.add(claims["jti"])
        return token.header, claims


async def body(receive: Any) -> bytes:
    """All of it."""
    found = b""
    while True:
        message = await receive()
        found += message.get("body", b"")
        if not message.get("more_body"):
            return found


async def answer(send: Any, reply: Reply) -> None:
    """Send it."""
    content = reply.body if isinstance(reply.body, bytes) else json.dumps(reply.body).encode()
    headers = {"content-type": "application/json"} | dict(reply.headers)
    start = {"type": "http.response.start", "status": reply.status}
    await send({**start, "headers": [(name.lower().encode(), value.encode()) for name, value in headers.items()]})
    await send({"type": "http.response.body", "body": content})
