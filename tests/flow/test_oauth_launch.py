"""A whole launch, step by step, over ASGI."""

from __future__ import annotations

import json

import pytest
from joserfc import jwk, jwt

from gateway.errors import Unauthenticated
from tests.support import smart


async def test_standalone_launch_from_request_to_revocation(tmp_path):
    """Authorize, sign in, consent, code, token, refresh, introspect, revoke: each step says what SMART and OAuth say it does."""
    async with smart.smart_server(f"sqlite+aiosqlite:///{tmp_path}/store.db") as server:
        await server.secret_app()
        account = await server.person()
        browser, pkce = smart.Browser(server.app()), smart.Pkce()
        wanted = "launch/patient openid fhirUser offline_access patient/Observation.rs patient/Patient.r"

        await browser.authorize(smart.asking("web", wanted, pkce, nonce="n-1", state="ünï ~+&="))
        assert browser.page.url.path == "/signin"
        assert "web &amp; Co" in browser.page.text

        await browser.sign_in()
        assert browser.page.url.path == "/auth/hapi/consent"

        await browser.allow()
        assert browser.left_to.startswith(f"{smart.APP}?")
        assert browser.page.status_code == 303
        assert browser.answer["state"] == "ünï ~+&="
        assert browser.answer["iss"] == smart.BASE

        form = {"grant_type": "authorization_code", "code": browser.answer["code"], "redirect_uri": smart.APP, "code_verifier": pkce.verifier}
        response = await smart.exchange(browser.http, form, auth=("web", "secret-of-web"))
        assert response.status_code == 200
        assert "no-store" in response.headers["cache-control"]
        assert "no-cache" in response.headers["pragma"]
        token = response.json()
        assert token["token_type"].lower() == "bearer"
        assert token["expires_in"] == 3600
        assert token["scope"] == wanted
        assert token["patient"] == "a"
        assert token["need_patient_banner"] is True
        assert token["smart_style_url"] == f"{smart.PUBLIC_URL}/auth/smart-style.json"

        keys = jwk.KeySet.import_key_set((await browser.http.get("/auth/hapi/jwks")).json())
        identity = jwt.decode(token["id_token"], keys, algorithms=["RS256"])
        assert identity.claims["iss"] == smart.BASE
        assert identity.claims["aud"] == "web"
        assert identity.claims["sub"] == account.id
        assert identity.claims["nonce"] == "n-1"
        assert identity.claims["fhirUser"] == f"{smart.BASE}/Patient/a"

        principal = await server.authenticator.principal("hapi", [f"Bearer {token['access_token']}"])
        assert (principal.kind, principal.patient, principal.fhir_user) == ("patient", "a", "Patient/a")
        assert [str(scope) for scope in principal.scopes] == ["patient/Observation.rs", "patient/Patient.r"]

        refreshing = {"grant_type": "refresh_token", "refresh_token": token["refresh_token"]}
        second = (await smart.exchange(browser.http, refreshing, auth=("web", "secret-of-web"))).json()
        assert second["scope"] == wanted
        assert second["refresh_token"] != token["refresh_token"]
        assert second["patient"] == "a"

        asked = await browser.http.post("/auth/hapi/introspect", data={"token": second["access_token"]}, auth=("web", "secret-of-web"))
        body = asked.json()
        assert body["active"] is True
        assert (body["client_id"], body["patient"], body["sub"], body["iss"]) == ("web", "a", account.id, smart.BASE)
        assert body["fhirUser"] == f"{smart.BASE}/Patient/a"
        assert body["scope"] == wanted

        revoked = await browser.http.post("/auth/hapi/revoke", data={"token": second["refresh_token"]}, auth=("web", "secret-of-web"))
        assert revoked.status_code == 200
        with pytest.raises(Unauthenticated):
            await server.authenticator.principal("hapi", [f"Bearer {second['access_token']}"])
        again = await browser.http.post("/auth/hapi/introspect", data={"token": second["access_token"]}, auth=("web", "secret-of-web"))
        assert json.loads(again.content) == {"active": False}
        assert [record.action for record in server.records if record.action not in ("client-register", "account-add")] == [
            "login",
            "grant",
            "token",
            "token",
            "introspect",
            "revoke",
            "introspect",
        ]
