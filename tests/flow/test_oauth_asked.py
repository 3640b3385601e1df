"""How an app asks: requests pushed ahead (RFC 9126), how the person is to be met (OpenID Connect), and a choice that is not asked again."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from typing import Any

import httpx
import pytest
from joserfc import jwk, jwt

from gateway.smart.server.authorization.consent import CATEGORIES
from gateway.smart.server.authorization.launches import Wanted
from gateway.smart.server.lifetimes import Lifetimes
from gateway.store import oauth as rows
from tests.support import smart

CONSENT, PATIENT, PAR = "/auth/hapi/consent", "/auth/hapi/patient", "/auth/hapi/par"
SCOPE = "launch/patient patient/Observation.rs openid"
YEAR = Lifetimes().consent


@pytest.fixture
async def server(tmp_path) -> AsyncIterator[smart.Smart]:
    """One app, one with a secret, a person with one record, one with three."""
    async with smart.smart_server(f"sqlite+aiosqlite:///{tmp_path}/store.db") as found:
        await found.public_app()
        await found.secret_app()
        await found.person()
        await found.person("mum", fhir_user="Patient/m", patients=["kid", "kid2"])
        yield found


@pytest.fixture
async def browser(server: smart.Smart) -> smart.Browser:
    return smart.Browser(server.app())


async def push(browser: smart.Browser, request: Mapping[str, str], *, ehr: str = "hapi", **more: Any) -> httpx.Response:
    return await browser.http.post(f"/auth/{ehr}/par", data=dict(request), **more)


async def signed_in(server: smart.Smart, username: str = "ann", **request: Any) -> smart.Browser:
    """At the consent page, or the picker."""
    browser = smart.Browser(server.app())
    await browser.authorize(smart.asking(**({"scope": SCOPE} | request)))
    await browser.sign_in(username)
    return browser


async def token_of(browser: smart.Browser, pkce: smart.Pkce, client_id: str = "app") -> dict[str, Any]:
    form = {"grant_type": "authorization_code", "code": browser.answer["code"], "redirect_uri": smart.APP, "code_verifier": pkce.verifier}
    return (await smart.exchange(browser.http, form | {"client_id": client_id})).json()


# Pushed requests -----------------------------------------------------------------------------------------------------------------------


async def test_a_pushed_request_is_the_request(server, browser):
    """RFC 9126: 201 with a request_uri of 256 random bits for 90 seconds; with it and client_id alone the launch goes on."""
    pkce = smart.Pkce()
    pushed = await push(browser, smart.asking(scope=SCOPE, pkce=pkce))
    assert (pushed.status_code, pushed.headers["cache-control"]) == (201, "no-store")
    told = pushed.json()
    prefix, _, handle = told["request_uri"].rpartition(":")
    assert (prefix, len(handle), told["expires_in"]) == ("urn:ietf:params:oauth:request_uri", 43, 90)
    await browser.authorize({"client_id": "app", "request_uri": told["request_uri"]})
    await browser.sign_in()
    await browser.allow()
    assert (browser.answer["state"], browser.answer["iss"]) == ("st-1", smart.BASE)
    assert (await token_of(browser, pkce))["scope"] == SCOPE
    assert ("par", 201, "app") in [(one.action, one.status, one.client_id) for one in server.records]
    assert handle not in repr(server.records)


async def test_what_stands_beside_a_pushed_request_is_not_looked_at(browser):
    """RFC 9101 section 5: whoever changes the address changes nothing (ATK-O1, O14, O16)."""
    uri = (await push(browser, smart.asking(scope="openid"))).json()["request_uri"]
    beside = smart.asking(scope="patient/*.cruds launch/patient", redirect_uri="https://evil.test/", aud="https://evil.test", state="evil")
    await browser.authorize(beside | {"request_uri": uri, "request": "x.y.z"})
    await browser.sign_in()
    assert [value for name, value in smart.Form(browser.page.text).boxes if name == "scope"] == ["openid"]
    await browser.allow()
    assert browser.left_to.startswith(smart.APP)
    assert browser.answer["state"] == "st-1"


async def test_a_pushed_request_counts_once_in_time_and_for_its_client(server, browser):
    """RFC 9126 section 7.3: used, too old, another client's, another EHR's, made up: the same page, which leads nowhere."""
    good = smart.asking(scope=SCOPE)
    used = (await push(browser, good)).json()["request_uri"]
    await browser.authorize({"client_id": "app", "request_uri": used})
    assert browser.page.request.url.path == "/signin"
    fresh = (await push(browser, good)).json()["request_uri"]
    old = (await push(browser, good)).json()["request_uri"]
    tries = [
        await browser.authorize({"client_id": "app", "request_uri": used}),
        await browser.authorize({"client_id": "web", "request_uri": fresh}),
        await browser.authorize({"request_uri": fresh}),
        await browser.authorize({"client_id": "app", "request_uri": fresh}, ehr="other"),
        await browser.authorize({"client_id": "app", "request_uri": "urn:ietf:params:oauth:request_uri:" + "x" * 43}),
    ]
    server.clock.forward(90)
    tries.append(await browser.authorize({"client_id": "app", "request_uri": old}))
    assert {one.status_code for one in tries} == {400}
    assert {"request-uri-unknown" in one.text for one in tries} == {True}
    assert browser.left_to == ""


async def test_who_pushes_has_to_prove_it(server, browser):
    """As at the token endpoint: a secret, an assertion (for this endpoint too, once), or nothing for a public client."""
    asked = smart.asking("web", scope=SCOPE)
    assert (await push(browser, asked)).status_code == 401
    assert (await push(browser, asked, auth=("web", "wrong"))).status_code == 401
    assert (await push(browser, asked | {"client_secret": "secret-of-web"})).status_code == 201
    named_once = {name: value for name, value in asked.items() if name != "client_id"}
    told = await push(browser, named_once, auth=("web", "secret-of-web"))
    assert told.status_code == 201
    await browser.authorize({"client_id": "web", "request_uri": told.json()["request_uri"]})
    assert browser.page.request.url.path == "/signin"
    for stranger in ({"client_id": "nobody"}, {"client_id": ""}, {"client_id": "app", "client_secret": "x"}):
        refused = await push(browser, asked | stranger)
        assert (refused.status_code, refused.json()["error"]) == (401, "invalid_client")
    key = smart.BackendKey()
    await server.public_app("keys", token_endpoint_auth_method="private_key_jwt", jwks={"keys": [key.public]})
    proof = {"client_assertion_type": smart.asserted("")["client_assertion_type"]}
    proof["client_assertion"] = key.assertion("keys", moment=server.clock(), audience=f"{smart.PUBLIC_URL}{PAR}")
    assert [(await push(browser, smart.asking("keys", scope=SCOPE) | proof)).status_code for _ in range(2)] == [201, 401]
    async with server.database.read() as connection:
        kept = (await connection.exec_driver_sql("SELECT request FROM pushed_request")).all()
    assert "secret-of-web" not in repr(kept)
    assert "client_assertion" not in repr(kept)


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"redirect_uri": "https://evil.test/"}, "invalid_request"),
        ({"redirect_uri": None}, "invalid_request"),
        ({"response_type": "token"}, "unsupported_response_type"),
        ({"code_challenge": None}, "invalid_request"),
        ({"code_challenge_method": "plain"}, "invalid_request"),
        ({"aud": "https://evil.test"}, "invalid_request"),
        ({"resource": "https://evil.test"}, "invalid_target"),
        ({"scope": "system/*.rs"}, "invalid_scope"),
        ({"launch": "made-up", "scope": "launch patient/Observation.rs"}, "invalid_request"),
        ({"prompt": "none login"}, "invalid_request"),
        ({"request": "x.y.z"}, "request_not_supported"),
        ({"request_uri": "http://169.254.169.254/"}, "invalid_request"),
        ({"request_uri": "urn:ietf:params:oauth:request_uri:x"}, "invalid_request"),
    ],
)
async def test_a_push_is_judged_at_once(server, browser, changes, error):
    """RFC 9126 section 2.3: the app hears by JSON what a browser would have brought back; nothing is kept, or fetched (ATK-O22)."""
    refused = await push(browser, smart.asking(**changes))
    assert (refused.status_code, refused.json()["error"]) == (400, error)
    assert "evil" not in refused.text
    assert server.keysets.asked == []
    assert (server.records[-1].action, server.records[-1].reason) == ("par", error)


async def test_the_endpoint_speaks_as_the_others_do(browser):
    """405, 415, 404, 413 for what is too long, 400 for a parameter that is there twice: OAuth's JSON each time."""
    assert (await browser.http.get(PAR)).status_code == 405
    assert (await browser.http.post(PAR, json={})).status_code == 415
    assert (await push(browser, smart.asking(), ehr="nowhere")).status_code == 404
    refused = await push(browser, smart.asking(state="x" * 20_000))
    assert (refused.status_code, refused.json()["error"]) == (413, "invalid_request")
    refused = await browser.post(PAR, [*smart.asking().items(), ("scope", "x")])
    assert (refused.status_code, refused.json()["error"]) == (400, "invalid_request")


@pytest.mark.parametrize("uri", ["http://169.254.169.254/", "https://app.test/request.jwt", "urn:other:x", "URN:ietf:params:oauth:request_uri:x"])
async def test_other_request_uris_are_not_looked_at(server, browser, uri):
    """ATK-O22: refused by name, and nothing is fetched."""
    await browser.authorize(smart.asking(request_uri=uri))
    assert browser.answer["error"] == "request_uri_not_supported"
    assert (await browser.authorize({"client_id": "app", "request_uri": uri})).status_code == 400
    assert server.keysets.asked == []


async def test_apps_can_have_to_push(server, browser, tmp_path):
    """RFC 9126 sections 5 and 6: all of them by a setting, one by its registration."""
    await server.public_app("careful", require_pushed_authorization_requests=True)
    await browser.authorize(smart.asking("careful", scope=SCOPE))
    assert (browser.answer["error"], browser.answer["iss"]) == ("invalid_request", smart.BASE)
    uri = (await push(browser, smart.asking("careful", scope=SCOPE))).json()["request_uri"]
    await browser.authorize({"client_id": "careful", "request_uri": uri})
    assert browser.page.request.url.path == "/signin"
    async with smart.smart_server(f"sqlite+aiosqlite:///{tmp_path}/strict.db", must_push=True) as strict:
        await strict.public_app()
        other = smart.Browser(strict.app())
        await other.authorize(smart.asking(scope=SCOPE))
        assert other.answer["error"] == "invalid_request"


# How the person is met -------------------------------------------------------------------------------------------------------------------


async def test_a_login_hint_fills_the_name_and_says_nothing(browser):
    """OpenID Connect Core 3.1.2.1: whether somebody has that name is not to be seen."""
    pages = []
    for hint in ("ann", "nobody"):
        await browser.authorize(smart.asking(login_hint=hint))
        assert dict(smart.Form(browser.page.text).to("/signin"))["username"] == hint
        handle = browser.page.request.url.params["transaction"]
        pages.append(browser.page.text.replace(hint, "HINT").replace(handle, "HANDLE"))
    assert pages[0] == pages[1]
    await browser.authorize(smart.asking(login_hint='"><script>alert(1)</script>'))
    assert "<script" not in browser.page.text


async def test_prompt_none_says_what_is_missing(server):
    """ATK-O21, OpenID Connect Core 3.1.2.6: a session, a consent, a choice; no page is shown and nothing waits."""
    browser = smart.Browser(server.app())
    for wanted, username in (("login_required", ""), ("consent_required", "ann"), ("interaction_required", "mum")):
        browser = await signed_in(server, username) if username else browser
        await browser.authorize(smart.asking(scope=SCOPE, prompt="none"))
        assert (browser.answer["error"], browser.answer["state"], browser.answer["iss"]) == (wanted, "st-1", smart.BASE)
        assert server.records[-1].reason == wanted
    server.clock.forward(60)
    browser = await signed_in(server)
    server.clock.forward(61)
    await browser.authorize(smart.asking(scope=SCOPE, prompt="none", max_age="60"))
    assert browser.answer["error"] == "login_required"


async def test_max_age_and_account_choice_ask_for_a_new_sign_in(server):
    """OpenID Connect Core 3.1.2.1 and 2: auth_time in the id_token is when that was."""
    browser, pkce = await signed_in(server), smart.Pkce()
    server.clock.forward(120)
    await browser.authorize(smart.asking(scope=SCOPE, max_age="300"))
    assert browser.page.request.url.path == CONSENT
    await browser.authorize(smart.asking(scope=SCOPE, prompt="select_account"))
    assert browser.page.request.url.path == "/signin"
    await browser.authorize(smart.asking(scope=SCOPE, max_age="60", pkce=pkce, ui_locales="fr", display="popup"))
    assert browser.page.request.url.path == "/signin"
    await browser.sign_in()
    await browser.allow()
    token = await token_of(browser, pkce)
    claims = jwt.decode(token["id_token"], jwk.KeySet.import_key_set(await server.keys.public()), algorithms=["RS256"]).claims
    assert claims["auth_time"] == int(server.clock().timestamp())


async def test_an_id_token_names_the_person_who_is_meant(server):
    """OpenID Connect Core 3.1.2.1: she goes on; for anybody else, or with a token that is not ours, login_required."""
    browser, pkce = await signed_in(server), smart.Pkce()
    await browser.authorize(smart.asking(scope=SCOPE, pkce=pkce))
    await browser.allow()
    hint = (await token_of(browser, pkce))["id_token"]
    head, body, signature = hint.split(".")
    server.clock.forward(800)  # it is over by the time it is shown, and says who was meant all the same
    browser = await signed_in(server)
    await browser.authorize(smart.asking(scope=SCOPE, id_token_hint=hint))
    assert browser.page.request.url.path == CONSENT
    for other in (f"{head}.{body}.{signature[::-1]}", "garbage", "..", body):
        await browser.authorize(smart.asking(scope=SCOPE, id_token_hint=other))
        assert browser.answer["error"] == "login_required"
        browser.left_to = ""
    await browser.authorize(smart.asking("web", scope=SCOPE, id_token_hint=hint))  # another client's
    assert browser.answer["error"] == "login_required"
    stranger = await signed_in(server, "mum", id_token_hint=hint)
    assert stranger.answer["error"] == "login_required"
    for prompt in ("none", "consent"):
        await stranger.authorize(smart.asking(scope=SCOPE, id_token_hint=hint, prompt=prompt))
        assert stranger.answer["error"] == "login_required"
    server.clock.forward(1)
    await stranger.authorize(smart.asking(scope=SCOPE, id_token_hint=hint, prompt="login"))
    await stranger.sign_in("ann")
    assert stranger.page.request.url.path == CONSENT


# Not asked again -------------------------------------------------------------------------------------------------------------------------


async def remembering(server: smart.Smart, username: str = "ann", scopes: list[str] | None = None, **request: Any) -> smart.Browser:
    """She allowed, and ticked the box."""
    browser = await signed_in(server, username, **request)
    if username == "mum":
        await browser.pick("kid")
    await browser.submit(CONSENT, decision="allow", remember="yes", **({"scope": scopes} if scopes else {}))
    assert "code" in browser.answer
    browser.left_to = ""
    return browser


async def again(browser: smart.Browser, **request: Any) -> str:
    """Where she is after the app asked once more: "code" when she was not asked."""
    browser.left_to = ""
    await browser.authorize(smart.asking(**({"scope": SCOPE} | request)))
    return "code" if "code" in browser.answer else browser.answer.get("error") or str(browser.page.request.url.path)


async def test_nothing_is_remembered_unless_she_says_so(server):
    """Off by default; a denial is remembered in no case."""
    browser = await signed_in(server)
    assert ("remember", "yes") in smart.Form(browser.page.text).boxes
    assert "remember" not in dict(smart.Form(browser.page.text).to(CONSENT))
    await browser.allow()
    assert await again(browser) == CONSENT
    await browser.submit(CONSENT, decision="deny", remember="yes")
    assert await again(browser) == CONSENT
    assert await again(browser, prompt="none") == "consent_required"


@pytest.mark.parametrize("decision", ["deny", "less"])
async def test_what_she_presses_goes_before_what_she_chose_in_another_tab(server, decision):
    """A no is a no, and less is less, though "do not ask me again" was ticked elsewhere since the page was shown."""
    browser = await signed_in(server)
    page = browser.page
    await browser.authorize(smart.asking(scope=SCOPE))
    await browser.submit(CONSENT, decision="allow", remember="yes")
    before, browser.page, browser.left_to = len(server.records), page, ""
    ticked = {"scope": ["launch/patient", "patient/Observation.rs"]} if decision == "less" else {}
    await browser.submit(CONSENT, decision="deny" if decision == "deny" else "allow", **ticked)
    assert browser.answer.get("error", "") == ("access_denied" if decision == "deny" else "")
    said = [(one.action, one.detail) for one in server.records[before:]]
    assert said == [("grant-refused", "") if decision == "deny" else ("grant", "launch/patient patient/Observation.rs")]


async def test_the_patient_whom_she_picks_goes_before_another_whom_she_let_in_elsewhere(server):
    """Likewise: what she chose for the one says nothing of the other."""
    browser = await signed_in(server, "mum")
    await browser.pick("m")
    await browser.get(str(browser.page.request.url).removeprefix(smart.PUBLIC_URL).replace("consent", "patient"))
    page = browser.page
    await browser.authorize(smart.asking(scope=SCOPE))
    await browser.pick("m")
    await browser.submit(CONSENT, decision="allow", remember="yes")
    browser.page, browser.left_to = page, ""
    await browser.pick("kid")
    assert browser.left_to == ""
    assert dict(smart.Form(browser.page.text).to(CONSENT))["patient"] == "kid"


async def test_a_choice_can_be_remembered(server):
    """For what she allowed and less, by prompt=none too; each use is on record as one that nobody was asked about."""
    browser = await remembering(server)
    pkce = smart.Pkce()
    assert await again(browser, pkce=pkce) == "code"
    assert (await token_of(browser, pkce))["scope"] == SCOPE
    assert await again(browser, prompt="none") == "code"
    assert await again(browser, scope="patient/Observation.r openid") == "code"
    server.clock.forward(1)
    assert await again(browser, prompt="login") == "/signin"
    told = [(one.action, one.patients) for one in server.records if "grant" in one.action or "consent" in one.action]
    assert told == [("grant", ("a",)), ("consent-remember", ("a",)), *[("grant-as-before", ("a",))] * 3]


@pytest.mark.parametrize(
    "request_",
    [
        {"scope": f"{SCOPE} patient/Condition.rs"},
        {"scope": "launch/patient patient/Observation.cruds openid"},
        {"scope": "patient/*.rs"},
        {"scope": f"{SCOPE} offline_access"},
        {"prompt": "consent"},
        {"client_id": "web"},
    ],
)
async def test_for_more_she_is_asked(server, request_):
    """Another scope, another app, or an app that wants her to be asked."""
    browser = await remembering(server)
    assert await again(browser, **request_) == CONSENT


async def test_a_choice_is_about_one_person_one_patient_and_one_address(server):
    """Another patient, another person at this browser, and an app that moved to another address."""
    browser = await remembering(server, "mum")
    await browser.authorize(smart.asking(scope=SCOPE))
    await browser.pick("kid2")
    assert browser.page.request.url.path == CONSENT
    await browser.authorize(smart.asking(scope=SCOPE))
    await browser.pick("kid")
    assert "code" in browser.answer
    assert await again(browser, prompt="none") == "interaction_required"
    other = await signed_in(server)
    assert other.page.request.url.path == CONSENT
    moved = "https://other.test/cb"
    ann = await remembering(server)
    await server.public_app(redirect_uris=[smart.APP, moved])
    assert [await again(ann), await again(ann, redirect_uri=moved)] == ["code", CONSENT]


async def test_what_she_left_out_stays_out(server):
    """Her choice is repeated, categories and all, and not what the app asked for."""
    scope = "launch/patient patient/Observation.rs patient/Condition.rs openid"
    part = f"patient/Observation.rs?category={CATEGORIES['Observation']['Laboratory']}"
    browser = await remembering(server, scopes=["launch/patient", "patient/Observation.rs", part], scope=scope)
    pkce = smart.Pkce()
    assert await again(browser, scope=scope, pkce=pkce) == "code"
    assert (await token_of(browser, pkce))["scope"] == f"launch/patient {part}"
    assert await again(browser, scope="patient/Condition.rs") == CONSENT  # nothing of it was allowed, so there is nothing to repeat


async def test_a_remembered_choice_ends(server):
    """After a year; with the app's access; when she says so; when the app is disabled."""
    browser = await remembering(server)
    server.clock.forward(YEAR)
    browser = await signed_in(server)
    assert browser.page.request.url.path == CONSENT
    pkce = smart.Pkce()
    browser = await remembering(server, pkce=pkce)
    await again(browser, pkce=pkce)
    await token_of(browser, pkce)
    await browser.get("/apps")
    assert "Apps that do not ask you again" in browser.page.text
    grant = next(fields for _, fields in smart.Form(browser.page.text).forms if "grant" in dict(fields))
    await browser.post("/apps", grant)
    assert "Apps that do not ask you again" not in browser.page.text
    assert await again(browser) == CONSENT
    await browser.submit(CONSENT, decision="allow", remember="yes")
    await browser.get("/apps")
    kept = next(fields for _, fields in smart.Form(browser.page.text).forms if "consent" in dict(fields))
    stranger = await signed_in(server, "mum")
    await stranger.get("/apps")
    csrf = dict(smart.Form((await stranger.get("/signout")).text).to("/signout"))["csrf"]
    await stranger.post("/apps", [("consent", dict(kept)["consent"]), ("csrf", csrf)])
    assert await again(browser) == "code"
    await browser.post("/apps", kept)
    assert "has to ask you again" in browser.page.text
    assert await again(browser) == CONSENT
    assert [one.action for one in server.records].count("consent-forget") == 1
    await browser.submit(CONSENT, decision="allow", remember="yes")
    async with server.database.write() as connection:
        await rows.end_access(connection, server.clock(), "client-disabled", client_id="app")
    assert await again(browser) == CONSENT


async def test_where_another_program_could_pose_as_the_app_she_is_always_asked(server):
    """RFC 8252 section 8.6: no credentials and an address on her own device. A form that says otherwise changes nothing."""
    for uri in ("http://127.0.0.1:8765/cb", "com.example.app:/cb"):
        await server.public_app("native", redirect_uris=[uri])
        browser = await signed_in(server, client_id="native", redirect_uri=uri)
        assert "remember" not in dict(smart.Form(browser.page.text).boxes)
        await browser.submit(CONSENT, decision="allow", remember="yes")
        assert await again(browser, client_id="native", redirect_uri=uri) == CONSENT


async def test_an_app_that_gives_up_its_secret_is_asked_about_again(server):
    """RFC 8252 section 8.6: what she chose counts only while the app can still prove that it is the one."""
    uri = "http://127.0.0.1:8765/cb"
    await server.secret_app("desk", redirect_uris=[uri])
    browser = await remembering(server, client_id="desk", redirect_uri=uri)
    assert await again(browser, client_id="desk", redirect_uri=uri) == "code"
    await server.public_app("desk", redirect_uris=[uri])
    assert await again(browser, client_id="desk", redirect_uri=uri) == CONSENT


async def test_a_launch_uses_a_remembered_choice_and_is_used_up(server):
    """An EHR launch that nobody is asked about is one launch all the same (ATK-O15)."""
    scope = "launch patient/Observation.rs"
    first, second = [(await server.launches.create(Wanted("hapi", "app", "a"))).launch for _ in range(2)]
    browser = await remembering(server, scope=scope, launch=first)
    assert [await again(browser, scope=scope, launch=second) for _ in range(2)] == ["code", "invalid_request"]
    assert await again(browser, scope=scope, launch=first) == "invalid_request"
    assert json.dumps([one.detail for one in server.records if one.action == "grant-as-before"]) == json.dumps([scope])
