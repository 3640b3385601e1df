"""The gateway as SMART client, in its parts: assertions, keys, what a token endpoint says, and when a token is asked for."""

from __future__ import annotations

import asyncio
import base64
import json
import ssl
import time
from urllib.parse import parse_qsl, unquote_plus

import httpx
import pytest
from joserfc import jwk, jwt

from gateway.errors import UpstreamFault, UpstreamTimeout
from gateway.smart.addresses import is_safe
from gateway.smart.client.assertion import KeyUnusable, read_key, signed
from gateway.smart.client.discovery import Configuration
from gateway.smart.client.fit import misfits, narrower
from gateway.smart.client.identity import fhir_user
from gateway.smart.client.tokens import LONGEST, PAUSE, SPACING, Tokens
from gateway.smart.client.user import Asked, Ended, UserClient, UserEndpoints
from gateway.smart.client.values import Failure, Granted, granted, unanswered
from gateway.smart.http import Answer, Http, NoAnswer, basic

EC = jwk.ECKey.generate_key("P-384", {"kid": "k1"}, private=True)
RSA = jwk.RSAKey.generate_key(2048, {"kid": "r1"}, private=True)
SMALL = jwk.ECKey.generate_key("P-256", {"kid": "p"}, private=True)
REFUSED = Failure(reason="ehr-token-refused", told="invalid_client")


class Clock:
    """A monotonic clock that tests move."""

    def __init__(self) -> None:
        self.at = 1000.0

    def __call__(self) -> float:
        return self.at


class Endpoint:
    """Gives tokens of one life, numbered, or what stands in `next`. `gate` holds requests back."""

    def __init__(self, life: float = 100.0) -> None:
        self.life, self.count = life, 0
        self.next: list[Failure] = []
        self.gate = asyncio.Event()
        self.gate.set()

    async def __call__(self) -> Granted | Failure:
        self.count += 1
        number = self.count
        await self.gate.wait()
        return self.next.pop(0) if self.next else Granted(f"t{number}", self.life, "system/*.rs")


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def endpoint():
    return Endpoint()


@pytest.fixture
async def tokens(endpoint, clock):
    tokens = Tokens(endpoint, clock=clock)
    yield tokens
    await tokens.close()


async def sent(tokens) -> str:
    return (await tokens.headers())["Authorization"]


async def settled() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


# ---- when a token is asked for ----


async def test_fifty_requests_at_once_ask_for_one_token(tokens, endpoint):
    """Single flight."""
    endpoint.gate.clear()
    waiting = [asyncio.create_task(sent(tokens)) for _ in range(50)]
    await settled()
    endpoint.gate.set()
    assert set(await asyncio.gather(*waiting)) == {"Bearer t1"}
    assert endpoint.count == 1


async def test_one_that_gives_up_does_not_end_it_for_the_others(tokens, endpoint):
    """A caller's deadline is her own."""
    endpoint.gate.clear()
    first, second = asyncio.create_task(sent(tokens)), asyncio.create_task(sent(tokens))
    await settled()
    first.cancel()
    await settled()
    endpoint.gate.set()
    assert await second == "Bearer t1"
    assert (first.cancelled(), endpoint.count) == (True, 1)


async def test_it_is_renewed_before_80_percent_of_its_life_and_nobody_waits(tokens, endpoint, clock):
    """The old one goes on while the new one is asked for, once."""
    assert await sent(tokens) == "Bearer t1"
    clock.at += 74
    assert (await sent(tokens), endpoint.count) == ("Bearer t1", 1)
    clock.at += 2
    endpoint.gate.clear()
    assert [await sent(tokens) for _ in range(5)] == ["Bearer t1"] * 5
    await settled()
    assert endpoint.count == 2
    endpoint.gate.set()
    await settled()
    assert (await sent(tokens), endpoint.count) == ("Bearer t2", 2)


async def test_a_token_that_cannot_be_renewed_is_used_to_its_end(tokens, endpoint, clock):
    """And asked for again after a pause, not with each request."""
    await sent(tokens)
    clock.at += 80
    endpoint.next = [REFUSED] * 10
    for _ in range(5):
        assert await sent(tokens) == "Bearer t1"
        await settled()
    assert endpoint.count == 2
    clock.at += PAUSE
    await sent(tokens)
    await settled()
    assert endpoint.count == 3
    clock.at += 30
    with pytest.raises(UpstreamFault):
        await sent(tokens)


async def test_it_is_not_sent_when_it_would_run_out_on_the_way(tokens, endpoint, clock):
    """The last twentieth of its life does not count."""
    await sent(tokens)
    clock.at += 96
    assert await sent(tokens) == "Bearer t2"


async def test_its_life_counts_from_when_it_was_asked_for(tokens, endpoint, clock):
    """A slow answer does not make it longer."""
    endpoint.gate.clear()
    waiting = asyncio.create_task(sent(tokens))
    await settled()
    clock.at += 50
    endpoint.gate.set()
    await waiting
    clock.at += 46
    assert await sent(tokens) == "Bearer t2"


async def test_a_token_that_is_over_at_once_is_used_for_a_second(tokens, endpoint, clock):
    """expires_in 0 does not cost a token request for each FHIR request."""
    endpoint.life = 0
    assert [await sent(tokens) for _ in range(20)] == ["Bearer t1"] * 20
    clock.at += 1
    assert await sent(tokens) == "Bearer t2"
    assert endpoint.count == 2


# ---- failures ----


async def test_after_a_failure_requests_fail_at_once_for_a_while(tokens, endpoint, clock):
    """Each pause is twice the last; then one request tries again."""
    endpoint.next = [REFUSED] * 8
    waits = []
    for _ in range(8):
        with pytest.raises(UpstreamFault) as caught:
            await sent(tokens)
        waits.append(caught.value.retry_after)
        with pytest.raises(UpstreamFault) as again:
            await sent(tokens)
        assert (again.value.reason, again.value.retry_after) == ("ehr-token-refused", waits[-1])
        clock.at += waits[-1]
    assert waits == [PAUSE, 4, 8, 16, LONGEST, LONGEST, LONGEST, LONGEST]
    assert endpoint.count == 8
    assert await sent(tokens) == "Bearer t9"


async def test_a_pause_that_is_asked_for_is_kept(tokens, endpoint, clock):
    """Retry-After of a 429 or 503."""
    endpoint.next = [Failure(reason="ehr-token-throttled", retry_after=120)]
    with pytest.raises(UpstreamFault):
        await sent(tokens)
    clock.at += 100
    with pytest.raises(UpstreamFault) as caught:
        await sent(tokens)
    assert (caught.value.retry_after, endpoint.count) == (20, 1)
    clock.at += 20
    assert await sent(tokens) == "Bearer t2"


async def test_a_fault_tells_nothing_but_its_reason(tokens, endpoint):
    """`login`, so that no push dies of it (FAULT-U21)."""
    endpoint.next = [Failure(reason="ehr-token-timeout", timeout=True)]
    with pytest.raises(UpstreamTimeout) as caught:
        await sent(tokens)
    assert (caught.value.status, caught.value.issue_code, caught.value.reason) == (504, "login", "ehr-token-timeout")


# ---- a 401 ----


async def test_a_token_that_was_refused_is_replaced_once(tokens, endpoint, clock):
    """Many requests had it; one new one is asked for."""
    old = await tokens.headers()
    assert all(tokens.refused(old) for _ in range(10))
    assert set(await asyncio.gather(*(sent(tokens) for _ in range(10)))) == {"Bearer t2"}
    assert tokens.refused(old), "who comes late with the old one takes the new one"
    assert endpoint.count == 2


async def test_one_that_is_refused_again_stays_for_the_others(tokens, endpoint, clock):
    """An EHR that says 401 for one type where it means 403 does not take the token from everybody."""
    tokens.refused(await tokens.headers())
    new = await tokens.headers()
    assert not tokens.refused(new)
    assert (await sent(tokens), endpoint.count) == ("Bearer t2", 2)
    clock.at += SPACING
    assert tokens.refused(new)
    assert await sent(tokens) == "Bearer t3"


# ---- keys and assertions ----


def write(tmp_path, content) -> object:
    path = tmp_path / "key"
    path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    return path


KEYS = {
    "a JWK": (EC.as_dict(private=True), "", ("k1", "ES384")),
    "an RSA JWK": (RSA.as_dict(private=True), "", ("r1", "RS384")),
    "a set": ({"keys": [EC.as_dict(private=False), RSA.as_dict(private=True)]}, "", ("r1", "RS384")),
    "one of a set": ({"keys": [EC.as_dict(private=True), RSA.as_dict(private=True)]}, "r1", ("r1", "RS384")),
    "PEM": (EC.as_pem(private=True), "mine", ("mine", "ES384")),
    "RSA PEM": (RSA.as_pem(private=True), "mine", ("mine", "RS384")),
}


@pytest.mark.parametrize(("content", "kid", "found"), KEYS.values(), ids=KEYS)
def test_a_key_is_read_in_every_usual_form(tmp_path, content, kid, found):
    """And its algorithm follows from it."""
    key = read_key(write(tmp_path, content), kid)
    assert (key.kid, key.algorithm) == found
    assert "d" not in key.public
    assert (key.public["kid"], key.public["alg"]) == found


NO_KEYS = {
    "public": (EC.as_dict(private=False), "", "private"),
    "public PEM": (EC.as_pem(private=False), "k", "private"),
    "P-256": (SMALL.as_dict(private=True), "", "P-384"),
    "no kid": (EC.as_pem(private=True), "", "kid"),
    "another kid": (EC.as_dict(private=True), "other", "of that kid"),
    "text": (b"secret words", "", "private"),
    "JSON": ([1], "", "private"),
    "keys that are none": ({"keys": ["x"]}, "", "private"),
    "no text": (b"\xff\xfe", "", "private"),
}


@pytest.mark.parametrize(("content", "kid", "why"), NO_KEYS.values(), ids=NO_KEYS)
def test_a_key_that_cannot_be_used_says_why_and_shows_nothing(tmp_path, content, kid, why):
    """What is in the file stays there."""
    with pytest.raises(KeyUnusable, match=why) as caught:
        read_key(write(tmp_path, content), kid)
    assert "secret" not in str(caught.value)
    with pytest.raises(KeyUnusable):
        read_key(tmp_path / "nowhere")


@pytest.mark.parametrize("key", [EC, RSA], ids=["ES384", "RS384"])
def test_an_assertion_is_what_smart_asks_for_and_never_the_same_twice(tmp_path, key):
    """A18.86, AUTHLIB-E16: typ, alg, kid; iss and sub, aud, five minutes at most, a jti of its own."""
    read = read_key(write(tmp_path, key.as_dict(private=True)))
    made = [jwt.decode(signed("gateway", read, "https://ehr.test/token"), key, algorithms=[read.algorithm]) for _ in range(3)]
    assert made[0].header == {"alg": read.algorithm, "kid": read.kid, "typ": "JWT"}
    claims = made[0].claims
    assert (claims["iss"], claims["sub"], claims["aud"]) == ("gateway", "gateway", "https://ehr.test/token")
    assert time.time() < claims["exp"] <= time.time() + 300
    assert len({one.claims["jti"] for one in made}) == 3
    assert len(claims["jti"]) >= 22


def test_an_assertion_goes_by_the_clock_of_the_server(tmp_path):
    """A server that is an hour ahead would take ours for over."""
    read = read_key(write(tmp_path, EC.as_dict(private=True)))
    claims = jwt.decode(signed("gateway", read, "x", skew=3600), EC, algorithms=["ES384"]).claims
    assert time.time() + 3600 < claims["exp"] <= time.time() + 3900


# ---- what a token endpoint says ----

GIVEN = {"access_token": "abc", "token_type": "bearer", "expires_in": 300, "scope": "system/*.rs"}


def told(status=200, headers=None, **members):
    return granted(Answer(status, headers or {}, {name: value for name, value in (GIVEN | members).items() if value is not ...}), "asked")


def test_a_token_is_taken_as_it_is_given():
    """Any case of bearer; a life in quotes; the scope that was asked for where none is said."""
    found = told(token_type="Bearer", expires_in="300", scope=...)
    assert isinstance(found, Granted)
    assert (found.access_token, found.life, found.scope) == ("abc", 300, "asked")
    assert "abc" not in repr(found)


@pytest.mark.parametrize(("said", "life"), [(..., 60), (0, 0), (-5, 0), (1.5, 1.5), (10**9, 86400)])
def test_lives_are_within_reason(said, life):
    """No expires_in is a minute."""
    assert told(expires_in=said).life == life


NO_TOKENS = {
    "no JSON": Answer(200, {}, None),
    "no token": Answer(200, {}, {"token_type": "bearer"}),
    "another type": Answer(200, {}, GIVEN | {"token_type": "DPoP"}),
    "no type": Answer(200, {}, {"access_token": "abc", "expires_in": 300}),
    "a line break": Answer(200, {}, GIVEN | {"access_token": "abc\r\nX-Evil: 1"}),
    "a space": Answer(200, {}, GIVEN | {"access_token": "a b"}),
    "empty": Answer(200, {}, GIVEN | {"access_token": ""}),
    "no life": Answer(200, {}, GIVEN | {"expires_in": "soon"}),
    "true": Answer(200, {}, GIVEN | {"expires_in": True}),
    "a redirect": Answer(302, {"location": "https://evil.test"}, None),
    "404": Answer(404, {}, None),
}


@pytest.mark.parametrize("answer", NO_TOKENS.values(), ids=NO_TOKENS)
def test_what_is_no_bearer_token_is_none(answer):
    """Nothing is guessed, and nothing that would break a header goes into one."""
    assert granted(answer, "asked") == Failure(reason="ehr-token-unusable")


@pytest.mark.parametrize(
    ("answer", "failure"),
    [
        (Answer(400, {}, {"error": "invalid_client", "error_description": "words"}), REFUSED),
        (Answer(401, {}, {"error": "Ms. Okafor's record"}), Failure(reason="ehr-token-refused")),
        (Answer(403, {}, None), Failure(reason="ehr-token-refused")),
        (Answer(400, {}, {"error": ["x"]}), Failure(reason="ehr-token-refused")),
        (Answer(429, {"retry-after": "9"}, None), Failure(reason="ehr-token-throttled", retry_after=9)),
        (Answer(503, {"retry-after": "9"}, None), Failure(reason="ehr-token-down", retry_after=9)),
        (Answer(500, {}, None), Failure(reason="ehr-token-down")),
    ],
)
def test_refusals_keep_a_code_that_is_known_and_no_words(answer, failure):
    """A18.90: the EHR's words go nowhere."""
    assert granted(answer, "asked") == failure


def test_no_answer_has_its_reason():
    """Late, not trusted, or not there."""
    found = [unanswered(one).reason for one in (NoAnswer(timeout=True), NoAnswer(untrusted=True), NoAnswer())]
    assert found == ["ehr-token-timeout", "ehr-token-untrusted", "ehr-token-down"]


# ---- where a credential may go, and whether it fits ----


@pytest.mark.parametrize(
    ("url", "safe", "in_development"),
    [
        ("https://auth.ehr.test/token", True, True),
        ("https://auth.ehr.test:8443/token?tenant=1", True, True),
        ("http://auth.ehr.test/token", False, False),
        ("http://127.0.0.1:9/token", False, True),
        ("http://localhost/token", False, True),
        ("http://127.0.0.1.evil.test/token", False, False),
        ("https://user@ehr.test/token", False, False),
        ("https://ehr.test/token#x", False, False),
        ("https://ehr.test\\@evil.test/token", False, False),
        ("https://ehr.test/to ken", False, False),
        ("https://ehr.test:0/token", False, False),
        ("https://[::1/token", False, False),
        ("/token", False, False),
        ("ftp://ehr.test/token", False, False),
        ("", False, False),
    ],
)
def test_tokens_are_asked_for_by_https_only(url, safe, in_development):
    """Plain http on this machine by an explicit setting."""
    assert (is_safe(url, loopback=False), is_safe(url, loopback=True)) == (safe, in_development)


@pytest.mark.parametrize(
    ("asked", "given", "lack"),
    [
        ("system/*.cruds", "system/*.cruds", ()),
        ("system/*.cruds", "system/*.rs system/*.cud", ()),
        ("system/*.cruds", "system/*.rs", ("system/*.cud",)),
        ("system/*.rs", "system/*.read", ()),
        ("system/Patient.rs system/Observation.rs", "system/Patient.rs", ("system/Observation.rs",)),
        ("system/Patient.rs", "system/*.*", ()),
        ("system/*.rs", "system/Patient.rs", ("system/*.rs",)),
        ("custom", "", ("custom",)),
        ("custom", "custom", ()),
    ],
)
def test_scopes_that_are_missing_are_named(asked, given, lack):
    """By letters, in either spelling (HL7@128)."""
    assert narrower(asked, given) == lack


def test_a_configuration_that_does_not_fit_says_why():
    """What it does not mention speaks not against it."""
    fits = {"token_endpoint": "https://a.test/t", "token_endpoint_auth_methods_supported": ["private_key_jwt"]}
    assert misfits(Configuration(fits), algorithm="ES384") == ()
    other = {
        "token_endpoint": "https://a.test/t",
        "token_endpoint_auth_methods_supported": ["client_secret_basic"],
        "token_endpoint_auth_signing_alg_values_supported": ["RS384", 7],
        "grant_types_supported": ["authorization_code"],
    }
    assert len(misfits(Configuration(other), algorithm="ES384", token_endpoint="https://b.test/t")) == 4
    assert misfits(Configuration({"token_endpoint": 7}), algorithm="ES384") == ("it names no token_endpoint",)


# ---- who signed in ----


@pytest.mark.parametrize(
    ("said", "found"),
    [
        ("https://ehr.test/fhir/Patient/a", "Patient/a"),
        ("Practitioner/7", "Practitioner/7"),
        ("https://evil.test/fhir/Patient/a", ""),
        ("https://ehr.test/fhir/../Patient/a", ""),
        ("Patient/a/../b", ""),
        ("Group/1", ""),
        (7, ""),
        (None, ""),
    ],
)
def test_a_fhir_user_lies_below_the_base_or_is_none(said, found):
    """Relative or absolute."""
    assert fhir_user({"fhirUser": said}, "https://ehr.test/fhir") == found


def test_basic_credentials_are_form_encoded():
    """RFC 6749 section 2.3.1: so that a colon, a blank, a plus sign and a letter outside ASCII arrive as they are."""
    sent = base64.b64decode(basic("gw:1 é", "s+/ %").removeprefix("Basic ")).decode()
    assert sent == "gw%3A1+%C3%A9:s%2B%2F+%25"
    assert [unquote_plus(one) for one in sent.split(":")] == ["gw:1 é", "s+/ %"]


async def test_endpoints_are_where_the_ehr_says(tmp_path):
    """A18.83, HL7@29: wherever that is; and once it names others, those. Nothing is asked at an address of our own making."""
    host, asked_at = "https://login.test/one", list[str]()

    def ehr(request: httpx.Request) -> httpx.Response:
        asked_at.append(str(request.url))
        names = ("authorization_endpoint", "token_endpoint", "revocation_endpoint", "jwks_uri")
        found = {name: f"{host}/{name}" for name in names} if request.url.path.endswith("smart-configuration") else {}
        return httpx.Response(200 if found else 400, stream=httpx.ByteStream(json.dumps(found).encode()))

    client = UserClient("st", "https://ehr.test/fhir", "gw", "openid", "https://gw.test/cb")
    at = UserEndpoints(client, Http(ssl.create_default_context(), transport=httpx.MockTransport(ehr)))
    for host in ("https://login.test/one", "https://login.test/two"):  # `ehr` reads it
        at.discovery.forget()
        asked_at.clear()
        asked = await at.ask()
        assert isinstance(asked, Asked)
        assert asked.url.startswith(f"{host}/authorization_endpoint?")
        await at.exchange("code", asked)
        await at.revoke("token")
        document = "https://ehr.test/fhir/.well-known/smart-configuration"
        assert asked_at == [document, f"{host}/token_endpoint", document, f"{host}/revocation_endpoint"]


@pytest.mark.parametrize("method", ["public", "secret", "key"])
async def test_a_client_says_who_it_is_in_one_way(tmp_path, method):
    """A18.86, HL7@72: client_id in the form of a public client alone; Basic without it; an assertion of its own for code and refresh alike."""
    posted: list[tuple[dict[str, str], httpx.Headers]] = []

    def ehr(request: httpx.Request) -> httpx.Response:
        if request.url.path.endswith("smart-configuration"):
            document = json.dumps({"token_endpoint": "https://ehr.test/token", "jwks_uri": "https://ehr.test/jwks"})
            return httpx.Response(200, stream=httpx.ByteStream(document.encode()))
        posted.append((dict(parse_qsl(request.content.decode())), request.headers))
        return httpx.Response(403 if "refresh_token" in request.content.decode() else 400, stream=httpx.ByteStream(b""))

    key = write(tmp_path, EC.as_dict(private=True)) if method == "key" else None
    client = UserClient("st", "https://ehr.test/fhir", "gw", "openid", "https://gw.test/cb", secret="s/1" if method == "secret" else "", key_file=key)
    at = UserEndpoints(client, Http(ssl.create_default_context(), transport=httpx.MockTransport(ehr)))
    asked = Asked("", "state", "verifier", "nonce", "https://ehr.test/fhir")
    assert await at.exchange("code", asked) == Failure(reason="ehr-token-refused")
    assert await at.refresh("old") == Ended()  # a 403 without a code: smart-launcher-v2
    (code, code_headers), (refresh, _) = posted
    assert (code["redirect_uri"], code["code_verifier"], refresh["refresh_token"]) == ("https://gw.test/cb", "verifier", "old")
    assert "scope" not in refresh
    for form in (code, refresh):
        assert ("client_id" in form, "client_assertion" in form, "client_secret" in form) == (method == "public", method == "key", False)
    assert code_headers.get("authorization") == ("Basic Z3c6cyUyRjE=" if method == "secret" else None)
    assert method != "key" or code["client_assertion"] != refresh["client_assertion"]
