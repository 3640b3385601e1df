"""The sample app in a real browser: both launches against a small SMART server that checks every step, and everything that can go wrong with it."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from urllib.parse import urlencode

import pytest
from playwright.async_api import Browser, Page, expect

from gateway.sandbox import sample_app
from tests.e2e.test_portal_browser import SIDEWAYS, found_by_axe
from tests.support.smart_double import KEY, Fails, SmartServer, signed, without
from tests.support.threaded_server import served

pytestmark = pytest.mark.browser


@dataclass
class Stage:
    """A browser page, the app and the server that it launches from."""

    page: Page
    app: str
    server: SmartServer
    problems: list[str]

    @property
    def fhir(self) -> str:
        return f"{self.server.base}/fhir/x"

    async def connect(self) -> None:
        await self.page.goto(self.app)
        await self.page.get_by_role("button", name="Connect").click()

    async def record(self) -> None:
        """It is shown."""
        await self.page.get_by_role("button", name="Refresh").wait_for()

    async def problem(self) -> tuple[str, str]:
        """The sentence, and what is said to developers."""
        await self.page.get_by_role("heading", name="That did not work").wait_for()
        return await self.page.inner_text("#problem-text"), await self.page.inner_text("#problem-code")

    def asked(self, last: str) -> int:
        """How often the server was asked for what ends so."""
        return sum(path.endswith(last) and method != "OPTIONS" for method, path, _ in self.server.requests)

    async def says(self, words: str) -> None:
        """On the line that is read aloud."""
        await expect(self.page.locator("#status")).to_contain_text(words)


@pytest.fixture
async def stage(browser: Browser) -> AsyncIterator[Stage]:
    server = SmartServer()
    with served(server) as base:
        server.base = base
        running = sample_app.start([f"{base}/fhir/x"], sample_app.listen())
        context = await browser.new_context(viewport={"width": 320, "height": 800})
        page = await context.new_page()
        page.set_default_timeout(10_000)
        problems: list[str] = []
        page.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: problems.append(str(error)))
        yield Stage(page, running.base_url, server, problems)
        await context.close()
        running.stop()


async def test_a_standalone_launch_shows_name_results_and_scopes(stage: Stage):
    """Ten results, numbers as written, text as text, the day as the laboratory wrote it; the address keeps no code."""
    await stage.connect()
    page = stage.page
    await page.get_by_role("heading", name="Latest results").wait_for()
    rows = await page.get_by_role("row").all_inner_texts()
    asked = next(given for method, path, given in stage.server.requests if path == "/authorize")
    assert "Amara Okafor, born 14 Mar 1974" in await page.inner_text("#patient")
    assert len(rows) == 11
    assert "1.10 mg/dL" in rows[1]
    assert "Usual: 0.60 mg/dL to 1.10 mg/dL" in rows[1]
    assert "20 Nov 2026" in rows[1]
    assert "<5 mg/L" in rows[2]
    assert "High" in rows[2]
    assert "<img src=x onerror=alert(1)>" in rows[3]
    assert "Upper 120" in rows[4]
    assert "2.50" in rows[5]
    assert "Read and search Observation resources of this patient" in await page.inner_text("#scopes")
    assert page.url == f"{stage.app}/callback"
    assert asked["aud"] == stage.fhir
    assert asked["code_challenge_method"] == "S256"
    assert len(asked["state"]) >= 43
    assert "launch" not in asked
    assert asked["scope"].startswith("launch/patient openid")
    assert stage.problems == []


async def test_nothing_is_kept_in_the_browser(stage: Stage):
    """State and verifier go with their use; tokens are in memory alone."""
    await stage.connect()
    await stage.record()
    assert await stage.page.evaluate("[sessionStorage.length, localStorage.length, document.cookie]") == [0, 0, ""]
    assert "access-1" not in await stage.page.content()


async def test_refresh_takes_a_new_token_and_reads_again(stage: Stage):
    """Rotation: the second refresh sends the second refresh token, and a double click sends one."""
    await stage.connect()
    for _ in range(2):
        await stage.record()
        await stage.page.evaluate("document.getElementById('refresh').click(); document.getElementById('refresh').click()")
        await stage.says("Read at")
    sent = [given.get("refresh_token") for _, path, given in stage.server.requests if path == "/token"]
    assert sent == [None, "refresh-1", "refresh-2"]
    assert await stage.page.get_by_role("row").count() == 11


async def test_an_ehr_launch_begins_at_once(stage: Stage):
    """With the EHR's handle, and the scope launch."""
    await stage.page.goto(f"{stage.app}/launch?{urlencode({'iss': stage.fhir, 'launch': 'handle 1/+'})}")
    await stage.record()
    asked = next(given for method, path, given in stage.server.requests if path == "/authorize")
    assert asked["launch"] == "handle 1/+"
    assert asked["scope"].startswith("launch openid")
    assert stage.problems == []


async def test_a_launch_from_an_unknown_server_goes_nowhere(stage: Stage):
    """Else a stranger's server could ask this app's users to sign in."""
    await stage.page.goto(f"{stage.app}/launch?iss=https://evil.example/fhir&launch=1")
    assert "does not know" in (await stage.problem())[0]
    assert stage.server.requests == []


async def test_a_forged_answer_is_refused(stage: Stage):
    """A state that this tab never made; and an answer of another issuer (RFC 9207)."""
    await stage.page.goto(f"{stage.app}/callback?code=stolen&state=forged")
    assert "did not start that sign-in" in (await stage.problem())[0]
    stage.server.issuer = "https://evil.example/fhir"
    await stage.connect()
    assert "another server" in (await stage.problem())[0]
    assert stage.asked("/token") == 0


REFUSALS = {
    "access_denied": "You did not allow this app",
    "invalid_scope": "does not give what",
    "something_new": "The health record said no",
}


async def test_a_refusal_is_a_sentence(stage: Stage, axe_source: str):
    """And the code is there for developers; only starting again helps."""
    for error, sentence in REFUSALS.items():
        stage.server.deny = error
        await stage.connect()
        told, code = await stage.problem()
        assert sentence in told
        assert error in code
        assert await stage.page.get_by_role("button", name="Try again").count() == 0
    assert await found_by_axe(stage.page, axe_source) == []


async def test_results_that_may_not_be_seen_are_said(stage: Stage):
    """The name is still shown."""
    stage.server.results = False
    await stage.connect()
    await stage.record()
    assert "not given the right" in await stage.page.inner_text("#no-results")
    assert "Amara" in await stage.page.inner_text("#patient")


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_the_page_is_accessible_and_fits_320_pixels(stage: Stage, axe_source: str, scheme: str):
    """No finding of axe in both views, with everything unfolded; focus is on the heading; nothing scrolls sideways."""
    page = stage.page
    await page.emulate_media(color_scheme=scheme)
    await page.goto(stage.app)
    await page.get_by_role("button", name="Connect").wait_for()
    await page.locator("details").first.evaluate("node => { node.open = true }")
    assert await found_by_axe(page, axe_source) == []
    await page.get_by_role("button", name="Connect").click()
    await stage.record()
    assert await page.evaluate("document.activeElement.id") == "record-title"
    await page.locator("#record details").evaluate("node => { node.open = true }")
    assert await found_by_axe(page, axe_source) == []
    assert await page.evaluate(SIDEWAYS) == []
    assert (await page.title()).startswith("Latest results ·")


# What may pass --------------------------------------------------------------------------------------------------------------


async def test_a_pause_that_is_asked_for_is_made(stage: Stage, axe_source: str):
    """429 with Retry-After: it says how long and how often, waits so long and no longer, and reads again by itself."""
    page, server = stage.page, stage.server
    await page.clock.install()
    server.fails["Observation"] = [Fails(429, "20"), Fails(429, "1")]
    await stage.connect()
    await stage.says("The health record asks for a pause of 20 seconds. Then the app tries again by itself (1 of 3).")
    assert await found_by_axe(page, axe_source) == []
    await page.clock.run_for(19_000)
    assert stage.asked("Observation") == 1
    await page.clock.run_for(1_500)
    await stage.says("a pause of 1 second. Then the app tries again by itself (2 of 3).")
    await page.clock.run_for(1_500)
    await stage.says("Read at")
    assert await page.get_by_role("row").count() == 11
    assert (stage.asked("Observation"), stage.asked("/token")) == (3, 1)
    assert await page.get_by_role("button", name="Do not wait").count() == 0
    assert await page.get_by_role("button", name="Try again").count() == 0


async def test_there_is_an_end_to_pauses(stage: Stage):
    """After three of them, and at once for a long one: then it says when, and the person tries again."""
    page, server = stage.page, stage.server
    await page.clock.install()
    server.fails["Observation"] = [Fails(429)] * 4
    await stage.connect()
    for number in (1, 2, 3):
        await stage.says(f"a pause of 5 seconds. Then the app tries again by itself ({number} of 3).")
        await page.clock.run_for(6_000)
    await stage.record()
    assert await page.inner_text("#no-results") == "Results: The health record asks for a pause. Try again in a moment."
    assert "Amara" in await page.inner_text("#patient")
    server.fails["Observation"] = [Fails(429, "600")]
    await page.get_by_role("button", name="Try again").click()
    await expect(page.locator("#no-results")).to_contain_text("Try again in 600 seconds.")
    await page.get_by_role("button", name="Try again").click()
    await expect(page.get_by_role("row")).to_have_count(11)


async def test_nobody_has_to_wait(stage: Stage):
    """Do not wait: the sentence, and a button for later. Disconnect: away, though it waits; nothing more is asked."""
    page, server = stage.page, stage.server
    server.fails["Observation"] = [Fails(429, "60"), Fails(429, "59")]
    await stage.connect()
    await page.get_by_role("button", name="Do not wait").click()
    await stage.record()
    assert "Try again in 60 seconds." in await page.inner_text("#no-results")
    await page.get_by_role("button", name="Try again").click()
    await stage.says("a pause of 59 seconds")
    await page.get_by_role("button", name="Disconnect").click()
    await page.get_by_role("button", name="Connect").wait_for()
    assert (stage.asked("Observation"), stage.asked("/revoke")) == (2, 1)


PASSES = {
    "discovery": ("smart-configuration", 503, "The health record pauses. Try again in 7 seconds.", "discovery: 503"),
    "keys": ("jwks", 502, "could not be reached behind its gateway", "jwks_uri: 502"),
    "token": ("token", 503, "The health record pauses. Try again in 7 seconds.", "503"),
    "token-late": ("token", 504, "did not answer in time", "504"),
    "token-broken": ("token", 500, "could not answer", "500"),
}


async def test_what_passes_is_tried_again_by_a_button(stage: Stage):
    """502, 503, 504 at each step before the record: the same step again, with the same code, and the launch goes on."""
    page, server = stage.page, stage.server
    for last, status, sentence, code in PASSES.values():
        server.fails[last] = [Fails(status, "7" if status == 503 else "")]
        await stage.connect()
        told, for_developers = await stage.problem()
        assert sentence in told
        assert for_developers == f"For developers: {code}"
        await page.get_by_role("button", name="Try again").click()
        await stage.record()
    assert stage.asked("/authorize") == len(PASSES)


async def test_a_network_that_fails_is_tried_again_by_a_button(stage: Stage):
    """At the token endpoint and while the record is read; one of both, or the other, or both."""
    page = stage.page
    await page.route("**/token", lambda route: route.abort("connectionrefused"), times=1)
    await stage.connect()
    assert "The health record could not be reached. It may be down" in (await stage.problem())[0]
    await page.route("**/Observation?*", lambda route: route.abort("internetdisconnected"), times=1)
    await page.get_by_role("button", name="Try again").click()
    await stage.record()
    assert "could not be reached" in await page.inner_text("#no-results")
    await page.route("**/fhir/x/**", lambda route: route.abort("internetdisconnected"), times=2)
    await page.get_by_role("button", name="Try again").click()
    await expect(page.locator("#trouble")).to_contain_text("could not be reached")
    await page.get_by_role("button", name="Try again").click()
    await expect(page.get_by_role("row")).to_have_count(11)
    assert await page.get_by_role("button", name="Try again").count() == 0
    assert stage.asked("/token") == 1  # reading again needs no new token
    await page.evaluate("AbortSignal.timeout = () => AbortSignal.abort(new DOMException('late', 'TimeoutError'))")
    await page.get_by_role("button", name="Refresh").click()
    assert await stage.problem() == (
        "The health record did not answer in time. Try again in a moment.",
        "For developers: no answer within a minute",
    )


async def test_a_slow_answer_is_said_and_waited_for(stage: Stage):
    """After four seconds, at the token endpoint and at the record."""
    page, server = stage.page, stage.server
    await page.clock.install()
    server.fails |= {"token": [Fails(200, after=0.5)], "Observation": [Fails(200, after=0.5)]}
    await stage.connect()
    for what, path in (("Signing in", "token"), ("Reading the record", "Observation")):
        await expect(page.locator("#status")).to_have_text(f"{what} …")
        while server.fails[path]:
            await page.wait_for_timeout(10)
        await page.clock.run_for(2_500)
        assert await page.inner_text("#status") == f"{what} …"
        await page.clock.run_for(2_000)
        assert await page.inner_text("#status") == f"{what} … it is slow today, the app still waits."
    await stage.says("Read at")


# Who signed in --------------------------------------------------------------------------------------------------------------

OTHER = type(KEY).generate_key(2048, {"kid": "k1"})
TOKENS = {
    "missing": (None, "it is missing, though openid was granted"),
    "no JWT": ("x.y", "it is not a signed JWT"),
    "alg none": (lambda claims: re.sub(r"^[^.]+", "eyJhbGciOiJub25lIn0", signed(claims)), "alg is none and not RS256"),
    "unknown kid": (lambda claims: signed(claims, kid="k2"), "no key at jwks_uri has its kid, k2"),
    "another key": (lambda claims: signed(claims, OTHER), "its signature is not of the key that is published"),
    "null": (lambda _: signed(None), "iss is undefined and not http://ehr.example"),
    "another iss": (lambda claims: signed(claims | {"iss": "https://evil.example"}), "iss is https://evil.example and not http://ehr.example"),
    "another aud": (lambda claims: signed(claims | {"aud": ["other"]}), "aud is other and not sample-app"),
    "without exp": (lambda claims: signed(without(claims, "exp")), "exp is missing, so it never ends"),
    "exp in words": (lambda claims: signed(claims | {"exp": "tomorrow"}), "exp is no time in seconds"),
    "exp null": (lambda claims: signed(claims | {"exp": None}), "exp is no time in seconds"),
    "exp far away": (lambda claims: signed(claims | {"exp": -1e300}), "exp is no time in seconds"),
    "ended": (lambda claims: signed(claims | {"exp": 1_000_000_000}), "it ended at 2001-09-09T01:46:40.000Z"),
    "another nonce": (lambda claims: signed(claims | {"nonce": "n"}), "nonce is not the one that was sent"),
}


REDEEMED = """async ([kept, keys, answers]) => {
  const { redeem } = await import("/smart.js");
  const told = {};
  let asked;
  for (const [name, answer] of Object.entries(answers)) {
    asked = [];
    window.fetch = async (url) => { asked.push(url); return new Response(JSON.stringify(answer)); };
    told[name] = await redeem(kept, keys).then(() => ["believed"], (error) => [error.constructor.name, error.message, error.code, ...asked]);
  }
  return told;
}"""


async def test_an_id_token_that_is_wrong_is_said_to_be(stage: Stage):
    """OpenID Connect Core 3.1.3.7: one sentence for the person, which check failed for developers; and the tokens are given back."""
    kept = {"clientId": "sample-app", "issuer": "http://ehr.example", "nonce": "n-1", "tokenEndpoint": "/token", "revocationEndpoint": "/revoke"}
    right = {"iss": kept["issuer"], "aud": kept["clientId"], "exp": 4_000_000_000, "nonce": kept["nonce"]}
    common = {"access_token": "a", "token_type": "Bearer", "scope": "openid", "patient": "p1"}
    answers = {name: common | {"id_token": made(right) if callable(made) else made} for name, (made, _) in TOKENS.items()}
    await stage.page.goto(stage.app)
    told = await stage.page.evaluate(REDEEMED, [kept, [KEY.as_dict(private=False)], answers | {"right": common | {"id_token": signed(right)}}])
    assert told.pop("right") == ["believed"]
    sentence = "The health record's word on who signed in is not to be trusted, so the app does not go on."
    for name, (_, check) in TOKENS.items():
        assert told[name] == ["Problem", sentence, f"id_token: {check}", "/token", "/revoke"]
    broken = [{"kid": "k1", "kty": "RSA", "n": "!", "e": "AQAB"}, None]
    told = await stage.page.evaluate(REDEEMED, [kept, broken, {"one": common | {"id_token": signed(right)}}])
    assert told["one"][2] == "id_token: the key at jwks_uri with its kid is not a usable one"


async def test_who_signed_in_is_shown_when_that_is_certain(stage: Stage):
    """The claims, verified; and a launch whose id_token has no end shows nobody's data, but a sentence."""
    server = stage.server
    server.scope, server.signed = f"openid {server.scope}", signed
    await stage.connect()
    await stage.record()
    assert '"sub": "amara"' in (await stage.page.locator("#context").text_content() or "")
    server.signed = lambda claims: signed(without(claims, "exp"))
    read = stage.asked("/Observation")
    await stage.connect()
    assert "exp is missing" in (await stage.problem())[1]
    assert (stage.asked("/Observation"), stage.asked("/revoke")) == (read, 1)
    assert [one for one in stage.problems if "Error" in one] == []
