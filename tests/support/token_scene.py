"""A server, clients with and without a secret, and ways to get what the tests attack."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import httpx

from gateway.errors import Unauthenticated
from tests.support import smart

SCOPE = "launch/patient openid fhirUser offline_access patient/Observation.rs patient/Patient.r"
BASIC = ("web", "secret-of-web")


@dataclass
class Running:
    """A server, a browser with Ann's clients registered, and ways to get what the tests attack."""

    server: smart.Smart
    browser: smart.Browser

    @property
    def http(self) -> httpx.AsyncClient:
        return self.browser.http

    async def code(self, client_id: str = "web", scope: str = SCOPE) -> dict[str, str]:
        """The form that exchanges a new code."""
        pkce = smart.Pkce()
        code = await smart.code_for(self.browser, smart.asking(client_id, scope, pkce))
        return {"grant_type": "authorization_code", "code": code, "redirect_uri": smart.APP, "code_verifier": pkce.verifier}

    async def post(self, form: dict[str, str], auth: Any = BASIC, **more: Any) -> httpx.Response:
        return await smart.exchange(self.http, form, auth=auth, **more)

    async def tokens(self) -> dict[str, Any]:
        response = await self.post(await self.code())
        assert response.status_code == 200
        return response.json()

    async def counts(self, token: str) -> bool:
        """Whether an access token counts at the FHIR facade."""
        try:
            await self.server.authenticator.principal("hapi", [f"Bearer {token}"])
        except Unauthenticated:
            return False
        return True


def error(response: httpx.Response) -> str:
    """The OAuth error of a refusal; the body is JSON and never the framework's."""
    body = response.json()
    assert "detail" not in body
    assert "no-store" in response.headers["cache-control"]
    return body["error"]
