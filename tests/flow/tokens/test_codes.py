"""The token endpoint under attack: codes, client authentication, the edge (section C2)."""

from __future__ import annotations

import base64

import pytest

from tests.support import smart
from tests.support.token_scene import BASIC, SCOPE, error


async def test_a_code_works_once(running):
    """ATK-O6: the second use is refused and ends every token of the first."""
    form = await running.code()
    first = (await running.post(form)).json()
    assert await running.counts(first["access_token"])
    second = await running.post(form)
    assert (second.status_code, error(second)) == (400, "invalid_grant")
    assert not await running.counts(first["access_token"])
    refresh = await running.post({"grant_type": "refresh_token", "refresh_token": first["refresh_token"]})
    assert error(refresh) == "invalid_grant"


async def test_a_code_is_bound_to_its_client(running):
    """ATK-O7: another client's attempt is refused, and does not cost the owner her code."""
    form = await running.code()
    assert error(await running.post(form, auth=("other-web", "secret-of-other-web"))) == "invalid_grant"
    assert (await running.post(form)).status_code == 200


@pytest.mark.parametrize("uri", ["https://evil.test/cb", "https://app.test/cb/", ""])
async def test_a_code_is_bound_to_its_redirect(running, uri):
    """ATK-O8: another or a missing redirect_uri."""
    form = await running.code() | {"redirect_uri": uri}
    assert error(await running.post(form)) in ("invalid_grant", "invalid_request")


async def test_a_code_lives_a_minute(running):
    """ATK-O9."""
    form = await running.code()
    running.server.clock.forward(60)
    assert error(await running.post(form)) == "invalid_grant"


@pytest.mark.parametrize("verifier", [None, "", "   ", "x" * 43, "short", "challenge"])
async def test_the_verifier_is_always_checked(running, verifier):
    """ATK-O5, A9.51-54, AUTHLIB-E5: missing, blank, wrong, or the challenge itself (plain)."""
    pkce = smart.Pkce()
    code = await smart.code_for(running.browser, smart.asking("web", SCOPE, pkce))
    form = {"grant_type": "authorization_code", "code": code, "redirect_uri": smart.APP}
    sent = pkce.challenge if verifier == "challenge" else verifier
    response = await running.post(form | ({} if sent is None else {"code_verifier": sent}))
    assert response.status_code == 400
    assert error(response) in ("invalid_grant", "invalid_request")
    assert (await running.post(form | {"code_verifier": pkce.verifier})).status_code == 200


async def test_bad_code_and_bad_client(running):
    """A9.50."""
    form = await running.code()
    assert (await running.post(form | {"code": "BAD_CODE"})).status_code == 400
    assert (await running.post(form, auth=("BAD_CLIENT_ID", "x"))).status_code == 401


async def test_confidential_clients_prove_themselves(running):
    """ATK-O10: no secret, a wrong one, one in the address, or two ways at once."""
    form = await running.code()
    for auth, more in (
        (None, {"client_id": "web"}),
        (("web", "wrong"), {}),
        (("web", ""), {}),
        (None, {"client_id": "web", "client_secret": "wrong"}),
        (BASIC, {"client_id": "other-web"}),
    ):
        response = await running.post(form | more, auth=auth)
        assert (response.status_code, error(response)) == (401, "invalid_client")
        assert response.headers["www-authenticate"].startswith("Basic ")
    response = await running.http.post("/auth/hapi/token?client_id=web&client_secret=secret-of-web", data=form)
    assert (response.status_code, error(response)) == (401, "invalid_client")
    both = await running.post(form | {"client_id": "web", "client_secret": "secret-of-web"})
    assert both.status_code == 400


async def test_public_clients_have_no_secret(running):
    """ATK-O10: a public client that sends one, whatever it is, is not the one that was registered."""
    form = await running.code("app")
    for auth, more in ((("app", "x"), {}), (("app", ""), {}), (None, {"client_id": "app", "client_secret": "x"})):
        assert error(await running.post(form | more, auth=auth)) == "invalid_client"
    assert (await running.post(form | {"client_id": "app"}, auth=None)).status_code == 200


async def test_secret_by_post_and_encoded_basic_count(running):
    """B: Python fhirclient sends Basic and client_id together; secrets may be form-encoded or not (RFC 6749 section 2.3.1)."""
    assert (await running.post(await running.code() | {"client_id": "web"})).status_code == 200
    assert (await running.post(await running.code() | {"client_id": "web", "client_secret": "secret-of-web"}, auth=None)).status_code == 200
    await running.server.secret_app("odd", client_secret="a%2Bb c+d:e")
    raw = base64.b64encode(b"odd:a%2Bb c+d:e").decode()
    encoded = base64.b64encode(b"odd:a%252Bb+c%2Bd%3Ae").decode()
    for value in (raw, encoded):
        response = await running.post(await running.code("odd"), auth=None, headers={"Authorization": f"Basic {value}"})
        assert response.status_code == 200


@pytest.mark.parametrize(
    ("form", "code"),
    [
        ({"grant_type": "password", "username": "ann", "password": "x"}, "unsupported_grant_type"),
        ({"grant_type": "urn:ietf:params:oauth:grant-type:token-exchange"}, "unsupported_grant_type"),
        ({"grant_type": "not_a_grant_type"}, "unsupported_grant_type"),
        ({"grant_type": ""}, "invalid_request"),
        ({"scope": "x"}, "invalid_request"),
        ({"grant_type": "authorization_code"}, "invalid_request"),
        ({"grant_type": "refresh_token"}, "invalid_request"),
    ],
)
async def test_other_grants_are_not_offered(running, form, code):
    """ATK-O11."""
    response = await running.post(form)
    assert (response.status_code, error(response)) == (400, code)


@pytest.mark.parametrize("endpoint", ["token", "introspect", "revoke"])
async def test_only_form_posts(running, endpoint):
    """ATK-O11, O25: 405 for other methods, 415 for other media, 400 for what is said twice; OAuth JSON each time."""
    http, path = running.http, f"/auth/hapi/{endpoint}"
    for method in ("GET", "PUT", "DELETE", "PATCH"):
        response = await http.request(method, path)
        assert (response.status_code, response.headers["allow"]) == (405, "POST, OPTIONS")
        assert error(response) == "invalid_request"
    assert (await http.head(path)).status_code == 405
    response = await http.post(path, json={"grant_type": "client_credentials"})
    assert (response.status_code, error(response)) == (415, "invalid_request")
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    for body, status in (("token=a&token=b&grant_type=x&grant_type=x", 400), ("%FF=%FF", 400), ("a=b&c", 400), ("x" * 70_000, 413)):
        response = await http.post(path, content=body, headers=form, auth=BASIC)
        assert (response.status_code, error(response)) == (status, "invalid_request"), body[:50]
    assert error(await http.post("/auth/nowhere/token", data={"grant_type": "x"})) == "invalid_request"


async def test_browsers_of_registered_apps_may_call(running):
    """ATK-O29, A2.17: their origin and no other, never with credentials."""
    good = await running.http.options("/auth/hapi/token", headers={"Origin": "https://app.test", "Access-Control-Request-Method": "POST"})
    assert good.headers["access-control-allow-origin"] == "https://app.test"
    assert (await running.post(await running.code(), headers={"Origin": "https://app.test"})).headers[
        "access-control-allow-origin"
    ] == "https://app.test"
    for origin in ("null", "https://evil.test", "https://app.test.evil.test", "http://app.test", "https://app.test:8443"):
        response = await running.http.options("/auth/hapi/token", headers={"Origin": origin})
        assert "access-control-allow-origin" not in response.headers
    assert "access-control-allow-credentials" not in good.headers
    assert "access-control-allow-origin" not in (await running.http.options("/auth/hapi/authorize", headers={"Origin": "https://app.test"})).headers


async def test_public_documents(running):
    """A5.40, A3.25: style and keys are readable from anywhere, and the keys are public ones."""
    style = await running.http.get("/auth/smart-style.json", headers={"Origin": "https://anywhere.test"})
    assert style.json()["color_text"]
    assert style.headers["access-control-allow-origin"] == "*"
    keys = (await running.http.get("/auth/hapi/jwks")).json()["keys"]
    assert [set(key) for key in keys] == [{"kty", "n", "e", "kid", "use", "alg"}]
    assert (await running.http.get("/auth/nowhere/jwks")).status_code == 404
    assert (await running.http.post("/auth/hapi/jwks")).status_code == 405


async def _told(running, form: dict[str, str], auth: tuple[str, str] | None = BASIC) -> str:
    response = await running.http.post("/auth/hapi/token", data=form, auth=auth)
    assert response.status_code >= 400
    return response.json().get("error_description", "")


async def test_a_client_is_told_what_is_wrong_with_its_own_request(running):
    """A developer sees which member it is; what another client holds and what nobody does are one answer, and so is every failed authentication."""
    form, clock = await running.code(), running.server.clock
    assert "redirect_uri" in await _told(running, form | {"redirect_uri": "https://app.test/other"})
    assert "code_verifier" in await _told(running, form | {"code_verifier": "w" * 43})
    assert "Missing" in await _told(running, {name: value for name, value in form.items() if name != "code_verifier"})
    clock.forward(60)
    assert await _told(running, form) == "code is too old: it lives 60 seconds."
    form = await running.code()
    tokens = (await running.post(form)).json()
    assert "used before" in await _told(running, form)
    refresh = {"grant_type": "refresh_token", "refresh_token": tokens["refresh_token"]}
    assert "ended" in await _told(running, refresh)  # with the code's second use
    tokens = await running.tokens()
    refresh = {"grant_type": "refresh_token", "refresh_token": tokens["refresh_token"]}
    assert "scope may be less" in await _told(running, refresh | {"scope": "patient/*.cruds"})
    new = (await running.post(refresh)).json()
    assert "was replaced by another one" in await _told(running, refresh)
    assert await running.counts(new["access_token"])
    assert "somebody uses both" in await _told(running, refresh)
    tokens = await running.tokens()
    clock.forward(101 * 86400)
    assert "too old" in await _told(running, {"grant_type": "refresh_token", "refresh_token": tokens["refresh_token"]})


async def test_what_is_anothers_and_what_is_nobodys_is_one_answer(running):
    """ATK-O5, O13: no client learns whether a code or token of somebody else exists, nor how it fares."""
    theirs, used = await running.code("app"), await running.code("app")
    await running.http.post("/auth/hapi/token", data=used | {"client_id": "app"})
    nobodys = theirs | {"code": "x" * 43}
    codes = {await _told(running, {n: v for n, v in one.items() if n != "client_id"}) for one in (theirs, used, nobodys)}
    assert len(codes) == 1
    form = await running.code("app")
    tokens = (await running.http.post("/auth/hapi/token", data=form | {"client_id": "app"})).json()
    refresh = {"grant_type": "refresh_token"}
    assert len({await _told(running, refresh | {"refresh_token": one}) for one in (tokens["refresh_token"], "x" * 43)}) == 1
    wrong = {await _told(running, refresh | {"refresh_token": "x"}, auth) for auth in (("web", "wrong"), ("nobody", "x"), None)}
    assert wrong == {"Client authentication failed."}
