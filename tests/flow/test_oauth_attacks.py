"""Attacks on the authorization endpoint, line by line (section C1 of the cases): what is tried, and the answer that it must get, over HTTP.

A *page* is an HTML refusal without Location; an *error* goes back to the registered address with `state` and `iss`. Neither brings a code, and
nothing is ever fetched.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from urllib.parse import parse_qsl, urlencode, urlsplit

import httpx
import pytest

from gateway.smart.server.authorization.launches import Wanted
from gateway.store import oauth as rows
from gateway.store.oauth_rows import digest
from tests.support import smart

AUTHORIZE, CONSENT, PATIENT = "/auth/hapi/authorize", "/auth/hapi/consent", "/auth/hapi/patient"
LOOPBACK = "http://127.0.0.1:8765/cb"
PAGE = "page"


@pytest.fixture
async def server(tmp_path) -> AsyncIterator[smart.Smart]:
    """Apps of each kind, a backend client, and people."""
    async with smart.smart_server(f"sqlite+aiosqlite:///{tmp_path}/store.db") as found:
        await found.public_app()
        await found.secret_app()
        await found.public_app("native", redirect_uris=[LOOPBACK])
        await found.backend()
        await found.person()
        await found.person("mum", fhir_user="Patient/m", patients=["kid", "kid2"])
        await found.person("doc", fhir_user="Practitioner/d", patients=["a"])
        yield found


@dataclass(frozen=True)
class Case:
    """One attack. `changes`: parameters instead of a good request's (None: left out); `twice`: said once more, with this value."""

    id: str
    what: str
    wanted: str
    changes: dict[str, str | None]
    twice: tuple[str, str] | None = None

    def pairs(self) -> list[tuple[str, str]]:
        return [*smart.asking(**self.changes).items(), *([self.twice] if self.twice else [])]


def redirects() -> Iterator[Case]:
    """ATK-O1: every other address than the registered one."""
    for what, uri in {
        "other host": "https://evil.test/cb",
        "longer path": "https://app.test/cb/more",
        "query": "https://app.test/cb?x=1",
        "trailing slash": "https://app.test/cb/",
        "fragment": "https://app.test/cb#x",
        "empty fragment": "https://app.test/cb#",
        "user": "https://app.test@evil.test/cb",
        "user before our host": "https://evil.test@app.test/cb",
        "dots": "https://app.test/x/../cb",
        "encoded dots": "https://app.test/%2e%2e/cb",
        "encoded": "https://app.test/%63b",
        "other port": "https://app.test:8443/cb",
        "default port": "https://app.test:443/cb",
        "other scheme": "http://app.test/cb",
        "case of the scheme": "HTTPS://app.test/cb",
        "case of the host": "https://APP.test/cb",
        "case of the path": "https://app.test/CB",
        "script": "javascript:alert(1)",
        "data": "data:text/html,x",
        "without a scheme": "//evil.test/cb",
        "path alone": "/cb",
        "backslash": "https://app.test\\@evil.test/cb",
        "backslash for a slash": "https:\\\\app.test\\cb",
        "longer host": "https://app.test.evil.test/cb",
        "dot after the host": "https://app.test./cb",
        "header": "https://app.test/cb\r\nLocation: https://evil.test",
        "tab": "https://app.test/c\tb",
        "blank before": " https://app.test/cb",
        "blank after": "https://app.test/cb ",
        "wildcard": "https://*.test/cb",
        "zero width": "https://app.test/cb\u200b",
        "another app's": LOOPBACK,
        "our own": f"{smart.PUBLIC_URL}/apps",
    }.items():
        yield Case("ATK-O1", what, PAGE, {"redirect_uri": uri})
    yield Case("ATK-O1", "empty", PAGE, {"redirect_uri": ""})
    yield Case("ATK-O1", "missing", PAGE, {"redirect_uri": None})
    yield Case("ATK-O1", "twice, ours first", PAGE, {}, ("redirect_uri", "https://evil.test/cb"))
    yield Case("ATK-O1", "twice, ours last", PAGE, {"redirect_uri": "https://evil.test/cb"}, ("redirect_uri", smart.APP))
    yield Case("ATK-O1", "a bad one beside another error", PAGE, {"redirect_uri": "https://evil.test/cb", "response_type": "token"})
    for uri in ("http://localhost:8765/cb", "http://127.0.0.1:8766/cb", "http://127.0.0.1/cb", "http://[::1]:8765/cb", "http://127.1:8765/cb"):
        yield Case("ATK-O1", f"loopback by another name, {uri}", PAGE, {"client_id": "native", "redirect_uri": uri})


def requests() -> Iterator[Case]:
    """What is wrong with everything else in a request."""
    yield Case("ATK-O2", "unknown client", PAGE, {"client_id": "nobody"})
    yield Case("ATK-O2", "no client", PAGE, {"client_id": None})
    yield Case("ATK-O2", "two clients", PAGE, {}, ("client_id", "web"))
    yield Case("ATK-O2", "backend client", PAGE, {"client_id": "lab"})
    yield Case("ATK-O2", "injection", PAGE, {"client_id": "app' OR '1'='1"})
    for kind in ("token", "id_token", "code token", "code id_token", "none", "", None):
        yield Case("ATK-O3", f"response_type {kind}", "unsupported_response_type", {"response_type": kind})
    for what, changes in {
        "no challenge": {"code_challenge": None, "code_challenge_method": None},
        "a method alone": {"code_challenge": None},
        "plain": {"code_challenge_method": "plain"},
        "no method": {"code_challenge_method": None},
        "S512": {"code_challenge_method": "S512"},
        "lower case": {"code_challenge_method": "s256"},
        "short": {"code_challenge": "short"},
        "long": {"code_challenge": "x" * 129},
    }.items():
        for client in ("app", "web"):
            yield Case("ATK-O5", f"{what}, {client}", "invalid_request", changes | {"client_id": client})
    for what, aud in {
        "missing": None,
        "empty": "",
        "wrong": "https://inferno.healthit.gov/invalid_aud",
        "below": f"{smart.BASE}/Patient",
        "longer": f"{smart.BASE}2",
        "shorter": smart.PUBLIC_URL,
        "user": smart.BASE.replace("//", "//x@"),
        "two slashes": f"{smart.BASE}//",
        "upper case": smart.BASE.upper(),
        "another EHR's": smart.BASE.replace("hapi", "other"),
        "two in one": f"{smart.BASE} https://evil.test",
        "query": f"{smart.BASE}?x",
        "http": smart.BASE.replace("https", "http"),
    }.items():
        yield Case("ATK-O14", f"aud {what}", "invalid_request", {"aud": aud})
    yield Case("ATK-O14", "two auds", PAGE, {}, ("aud", "https://evil.test"))
    yield Case("ATK-O14", "the same aud twice", PAGE, {}, ("aud", smart.BASE))
    for resource in ("https://evil.test", f"{smart.BASE}/Patient", f"{smart.BASE}2"):
        yield Case("ATK-O14", f"resource {resource}", "invalid_target", {"resource": resource})
    yield Case("ATK-O14", "two resources", PAGE, {"resource": smart.BASE}, ("resource", "https://evil.test"))
    yield Case("ATK-O15", "unknown launch", "invalid_request", {"scope": "launch openid", "launch": "made-up"})
    yield Case("ATK-O15", "scope without launch", "invalid_request", {"scope": "launch openid"})
    yield Case("ATK-O15", "launch without scope", "invalid_request", {"scope": "openid", "launch": "made-up"})
    for scope in ("system/*.cruds", "patient/Nonsense.rs", "patient/Observation.dus", "patient/Observation.", "patient/.rs", "<script>", "", None):
        yield Case("ATK-O16", f"scope {scope}", "invalid_scope", {"scope": scope})
    yield Case("ATK-O16", "two scopes", PAGE, {}, ("scope", "patient/*.cruds"))
    for prompt in ("none login", "none consent", "none select_account"):
        yield Case("ATK-O21", prompt, "invalid_request", {"prompt": prompt})
    yield Case("ATK-O21", "prompt=none without a session", "login_required", {"prompt": "none"})
    for uri in ("http://169.254.169.254/", "file:///etc/passwd", "https://app.test/request.jwt"):
        yield Case("ATK-O22", uri, "request_uri_not_supported", {"request_uri": uri})
    yield Case("ATK-O22", "a made-up pushed request", PAGE, {"request_uri": "urn:ietf:params:oauth:request_uri:" + "x" * 43})
    yield Case("ATK-O22", "request object", "request_not_supported", {"request": "eyJhbGciOiJub25lIn0.e30."})
    yield Case("ATK-O22", "registration", "registration_not_supported", {"registration": '{"jwks_uri": "http://169.254.169.254/"}'})
    for mode in ("fragment", "form_post", "query.jwt", "web_message"):
        yield Case("ATK-O34", f"response_mode={mode}", "invalid_request", {"response_mode": mode})


CASES = [*redirects(), *requests()]


IDS = sorted({case.id for case in CASES})


@pytest.mark.parametrize("id_", IDS)
async def test_the_answer_to_an_attack(server, id_):
    """By GET and by POST the same: a page that leads nowhere, or an error where the app is registered."""
    browser = smart.Browser(server.app())
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    wrong: dict[str, str] = {}
    for case in (one for one in CASES if one.id == id_):
        body = urlencode(case.pairs())
        for response in (await browser.http.get(f"{AUTHORIZE}?{body}"), await browser.http.post(AUTHORIZE, content=body, headers=form)):
            check_guards(response)
            if problem := is_page(response) if case.wanted == PAGE else is_error(response, case.wanted):
                wrong[f"{case.what}, {response.request.method}"] = problem
    assert wrong == {}
    assert server.keysets.asked == []
    assert [one for one in server.records if one.action == "grant"] == []


def is_page(response: httpx.Response) -> str:
    """What is wrong with a refusal that leads nowhere."""
    if (response.status_code, "location" in response.headers) != (400, False):
        return f"{response.status_code} {response.headers.get('location', '')}"
    found = re.search(r"evil|169\.254|<script|Traceback", response.text)
    return found[0] if found else "" if response.headers["content-type"].startswith("text/html") else response.headers["content-type"]


def is_error(response: httpx.Response, wanted: str) -> str:
    """What is wrong with an error for the app. ATK-O20: iss on errors too; ATK-O3: neither code nor token, nor a fragment."""
    went = urlsplit(response.headers.get("location", ""))
    answer = dict(parse_qsl(went.query))
    told = {name: answer.pop(name, "") for name in ("error", "iss", "state")}
    fine = told == {"error": wanted, "iss": smart.BASE, "state": "st-1"} and response.status_code == 303
    here = f"{went.scheme}://{went.netloc}{went.path}" == smart.APP and not went.fragment
    return "" if fine and here and answer.keys() <= {"error_description"} else f"{response.status_code} {went.geturl()}"


def test_every_attack_on_the_endpoint_is_in_the_table():
    """Those that are one request; the others are walks, below and in the folder pages."""
    assert set(IDS) == {f"ATK-O{number}" for number in (1, 2, 3, 5, 14, 15, 16, 21, 22, 34)}
    assert len({(case.id, case.what) for case in CASES}) == len(CASES) > 100


def check_guards(response: httpx.Response) -> None:
    """ATK-O18, O34: not framed, not stored, no referrer; on pages nothing inline and nothing from elsewhere."""
    assert response.headers["referrer-policy"] == "no-referrer"
    assert "no-store" in response.headers["cache-control"]
    if response.status_code == 303:
        return
    assert response.headers["x-frame-options"] == "DENY"
    policy = response.headers["content-security-policy"]
    assert "frame-ancestors 'none'" in policy
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert not re.search(r"<script(?! src=\"/static/)|style=|\son\w+=|(?:src|href)=\"(?:https?:)?//", response.text)


async def at_consent(server: smart.Smart, username: str = "ann", **request: str) -> smart.Browser:
    browser = smart.Browser(server.app())
    await browser.authorize(smart.asking(**({"scope": "launch/patient patient/Observation.rs"} | request)))
    await browser.sign_in(username)
    return browser


POISON = {
    "Host": "evil.test",
    "X-Forwarded-Host": "evil.test",
    "X-Forwarded-Proto": "http",
    "X-Forwarded-Port": "99",
    "X-Original-URL": "/evil",
    "X-Rewrite-URL": "/evil",
    "Forwarded": "host=evil.test;proto=http",
}


@pytest.mark.parametrize("name", [*POISON, "all"])
async def test_addresses_are_from_the_configuration(server, name):
    """ATK-O31: on the way from the app to the consent and back, no header of a request is in any address, page or cookie."""
    poison = POISON if name == "all" else {name: POISON[name]}
    browser = smart.Browser(server.app())
    browser.http.headers.update({header: text for header, text in poison.items() if header != "Host"})
    seen: list[httpx.Response] = []

    async def poisoned(request: httpx.Request) -> None:
        if "Host" in poison:
            request.headers["Host"] = "evil.test"

    async def keep(response: httpx.Response) -> None:
        await response.aread()
        seen.append(response)

    browser.http.event_hooks = {"request": [poisoned], "response": [keep]}
    await browser.authorize(smart.asking(scope="launch/patient patient/Observation.rs"))
    await browser.sign_in()
    await browser.allow()
    assert browser.answer["iss"] == smart.BASE
    assert len(seen) >= 6
    assert not [one for one in seen if "evil" in one.text + repr(one.headers) or "http://" in one.headers.get("location", "")]
    assert all("Secure" in cookie for one in seen for cookie in one.headers.get_list("set-cookie"))


async def test_every_page_on_the_way_has_its_guards_and_every_form_ends_in_a_get(server):
    """ATK-O18, O34: sign-in, picker, consent, a refusal, the list of apps; 303 after each POST, so no form is posted on to anybody."""
    browser = smart.Browser(server.app())
    posts: list[httpx.Response] = []

    async def keep(response: httpx.Response) -> None:
        await response.aread()
        check_guards(response)
        if response.request.method == "POST":
            posts.append(response)

    browser.http.event_hooks = {"response": [keep]}
    await browser.post(AUTHORIZE, smart.asking(scope="launch/patient patient/Observation.rs").items())
    await browser.sign_in("mum")
    assert browser.page.request.url.path == PATIENT
    await browser.pick("kid")
    await browser.allow()
    await browser.authorize(smart.asking(scope="launch/patient patient/Observation.rs"))
    await browser.get("/apps")
    await browser.get("/signout")
    await browser.submit("/signout")
    await browser.authorize(smart.asking())
    await browser.submit("/auth/hapi/cancel")
    assert {one.status_code for one in posts} == {303}
    assert len(posts) == 6


async def test_the_code_is_in_one_address_only(server):
    """ATK-O34: it leaves in the Location of the last answer, and neither a page nor a record has it; nor has the handle left ours."""
    browser = await at_consent(server)
    handle = browser.page.request.url.params["transaction"]
    await browser.allow()
    code = browser.answer["code"]
    assert handle not in browser.left_to
    assert code not in browser.page.text
    assert code not in repr(server.records)
    async with server.database.read() as connection:
        found = await rows.code(connection, digest(code))
    assert found is not None
    assert code not in repr(found)


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({"scope": ["launch/patient", "patient/Observation.cruds"]}, 403),
        ({"scope": ["launch/patient", "patient/Observation.rs", "patient/Condition.rs"]}, 403),
        ({"scope": ["launch/patient", "patient/Observation.rs", "offline_access"]}, 403),
        ({"scope": ["system/*.cruds"]}, 403),
        ({"scope": ["patient/Observation.rs?category=http://evil.test|x"]}, 403),
        ({"scope": ["launch/patient patient/Observation.rs"]}, 403),
        ({"csrf": "wrong"}, 403),
        ({"csrf": ""}, 403),
        ({"csrf": ["", ""]}, 403),
        ({"transaction": "x" * 43}, 400),
        ({"transaction": ["one", "two"]}, 400),
    ],
)
async def test_a_tampered_consent_gives_nothing(server, change, status):
    """ATK-O16, O17: more scopes, another's or no transaction, a bad token."""
    browser = await at_consent(server)
    refused = await browser.submit(CONSENT, decision="allow", **change)
    assert refused.status_code == status
    assert browser.left_to == ""
    assert [one for one in server.records if one.action == "grant"] == []


async def test_a_foreign_patient_in_the_consent_form_is_not_granted(server):
    """ATK-O16: whose record it is about was settled before: she is asked again about that one, and nothing is given."""
    browser, pkce = await at_consent(server), smart.Pkce()
    await browser.authorize(smart.asking(scope="launch/patient patient/Observation.rs", pkce=pkce))
    await browser.submit(CONSENT, decision="allow", patient="kid")
    assert (browser.page.request.url.path, browser.left_to) == (CONSENT, "")
    await browser.allow()
    form = {"grant_type": "authorization_code", "code": browser.answer["code"], "redirect_uri": smart.APP, "code_verifier": pkce.verifier}
    assert (await smart.exchange(browser.http, form | {"client_id": "app"})).json()["patient"] == "a"


async def test_a_consent_cannot_be_replayed(server):
    """ATK-O17: the same form again; the page of a request that was denied; another transaction of the same person at another browser."""
    browser = await at_consent(server)
    page = browser.page
    await browser.allow()
    browser.page, browser.left_to = page, ""
    assert (await browser.allow()).status_code == 400
    denied = await at_consent(server)
    page = denied.page
    await denied.deny()
    denied.page, denied.left_to = page, ""
    assert (await denied.allow()).status_code == 400
    one, other = await at_consent(server), await at_consent(server)
    theirs = dict(smart.Form(other.page.text).to(CONSENT))["transaction"]
    assert (await one.submit(CONSENT, decision="allow", transaction=theirs)).status_code == 400
    assert [browser.left_to, denied.left_to, one.left_to] == [""] * 3


async def test_a_launch_is_for_its_user_once(server):
    """ATK-O15: used, another user's, another app's."""
    scope = "launch patient/Observation.rs"
    used = (await server.launches.create(Wanted("hapi", "app", "a"))).launch
    browser = await at_consent(server, scope=scope, launch=used)
    await browser.allow()
    assert "code" in browser.answer
    for launch in (used, (await server.launches.create(Wanted("hapi", "web", "a"))).launch):
        await browser.authorize(smart.asking(scope=scope, launch=launch))
        assert browser.answer["error"] == "invalid_request"
    hers = (await server.launches.create(Wanted("hapi", "app", "a", username="doc"))).launch
    browser.left_to = ""
    await browser.authorize(smart.asking(scope=scope, launch=hers))
    assert (browser.page.request.url.path, browser.left_to) == ("/signin", "")


async def test_a_sign_in_begins_a_new_session(server):
    """ATK-O19: a session cookie that was planted is worth nothing afterwards, nor does it go on with somebody else's request."""
    planted = await at_consent(server, "mum")
    cookie = dict(planted.http.cookies)["__Host-gw_session"]
    victim = smart.Browser(server.app())
    victim.http.cookies.set("__Host-gw_session", cookie, domain="gateway.test")
    server.clock.forward(1)
    await victim.authorize(smart.asking(scope="openid", prompt="login"))
    await victim.sign_in("ann")
    assert dict(victim.http.cookies)["__Host-gw_session"] != cookie
    assert await server.sessions.current(cookie) is None


async def test_success_names_the_issuer_of_its_own_ehr(server):
    """ATK-O20 (RFC 9207): two EHRs at one gateway are two issuers; a request for one is none for the other."""
    await server.person("far", fhir_user="Patient/f", ehr="other")
    base = smart.BASE.replace("hapi", "other")
    browser = smart.Browser(server.app())
    await browser.authorize(smart.asking(scope="openid", aud=base), ehr="other")
    await browser.sign_in("far")
    await browser.allow(ehr="other")
    assert (browser.answer["iss"], "code" in browser.answer) == (base, True)
    here = await at_consent(server)
    moved = str(here.page.request.url).replace("/hapi/", "/other/")
    assert (await here.get(moved)).status_code == 400
