"""The authorization request, judged over a snapshot: every refusal, and where the browser goes with it."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest

from gateway.smart.server.authorization.decide import AuthorizationSnapshot, Back, Concluded, Consented, Page, Validated, conclude, validate
from gateway.smart.server.authorization.prompts import Prompting
from gateway.smart.server.endpoints import Endpoints
from gateway.smart.server.lifetimes import Lifetimes
from gateway.store.oauth_rows import Account, Client, Launch
from tests.support import smart

NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)
CLIENT = Client("app", "App", "none", ("authorization_code", "refresh_token"), (smart.APP,), "", ("hapi",), NOW)
BACKEND = Client("lab", "Lab", "private_key_jwt", ("client_credentials",), (), "system/*.rs", ("hapi",), NOW)
LAUNCH = Launch("h", "hapi", "app", "a", "e1", "", need_patient_banner=False, state="open", expires_at=NOW + timedelta(minutes=5))
SNAPSHOT = AuthorizationSnapshot(NOW, NOW, Endpoints(smart.PUBLIC_URL, "hapi"), Lifetimes(), frozenset(smart.TYPES), CLIENT)
ACCOUNT = Account("acc", "ann", "", "hapi", "Patient/a", "Ann", NOW)


def judged(snapshot: AuthorizationSnapshot = SNAPSHOT, **changes: str | None) -> Validated | Back | Page:
    return validate(tuple(smart.asking(**changes).items()), snapshot)


def members(back: Any) -> dict[str, str]:
    assert isinstance(back, Back)
    return dict(parse_qsl(urlsplit(back.url).query, keep_blank_values=True))


def test_a_good_request_passes():
    """Everything that later steps need is in the value."""
    found = judged(scope="launch/patient patient/Observation.rs openid", nonce="n")
    assert isinstance(found, Validated)
    assert found.scopes == ("launch/patient", "patient/Observation.rs", "openid")
    assert found.needs_patient
    assert (found.state, found.launch) == ("st-1", None)


@pytest.mark.parametrize(
    "uri",
    [
        "https://evil.test/cb",
        "https://app.test/cb/more",
        "https://app.test/cb?x=1",
        "https://app.test/cb/",
        "https://app.test/cb#x",
        "https://user@app.test/cb",
        "https://app.test/x/../cb",
        "https://app.test/%2e%2e/cb",
        "https://app.test:8443/cb",
        "https://app.test:443/cb",
        "http://app.test/cb",
        "https://APP.test/cb",
        "javascript:alert(1)",
        "//evil.test/cb",
        "https://app.test\\@evil.test/cb",
        "https://app.test.evil.test/cb",
        "https://app.test/cb\r\nX: y",
        " https://app.test/cb",
        "",
        None,
    ],
)
def test_foreign_redirect_uri_is_a_page(uri):
    """ATK-O1, AUTHLIB-E13: exact match only, and nothing is redirected without one."""
    found = judged(redirect_uri=uri)
    assert isinstance(found, Page)
    assert found.status == 400


def test_unknown_client_is_a_page():
    """ATK-O2: unknown, missing, disabled, of another EHR, or a backend client."""
    assert isinstance(judged(replace(SNAPSHOT, client=None)), Page)
    assert isinstance(judged(client_id=None), Page)
    assert isinstance(judged(replace(SNAPSHOT, client=replace(CLIENT, disabled_at=NOW))), Page)
    assert isinstance(judged(replace(SNAPSHOT, client=replace(CLIENT, ehrs=("other",)))), Page)
    assert isinstance(judged(replace(SNAPSHOT, client=BACKEND), client_id="lab"), Page)


@pytest.mark.parametrize("name", ["redirect_uri", "client_id", "scope", "state", "aud", "code_challenge", "nonce"])
def test_repeated_parameters_are_refused(name):
    """RFC 6749 section 3.1, ATK-O1 and O14: twice is never the first nor the last."""
    pairs = tuple(smart.asking(nonce="n").items())
    assert isinstance(validate((*pairs, (name, "x")), SNAPSHOT), Page)


@pytest.mark.parametrize("kind", ["token", "id_token", "code token", "none", "", None, "CODE", "a\\b"])
def test_other_response_types_are_refused(kind):
    """ATK-O3: only code; a bad redirect stays a page even then."""
    found = judged(response_type=kind)
    assert isinstance(found, Page) or members(found)["error"] == "unsupported_response_type"
    assert isinstance(judged(response_type=kind, redirect_uri="https://evil.test/"), Page)


@pytest.mark.parametrize(
    "changes",
    [
        {"code_challenge": None, "code_challenge_method": None},
        {"code_challenge": None},
        {"code_challenge_method": "plain"},
        {"code_challenge_method": None},
        {"code_challenge_method": "S512"},
        {"code_challenge": "short"},
        {"code_challenge": "x" * 44},
        {"code_challenge": "=" * 43},
    ],
)
@pytest.mark.parametrize("method", ["none", "client_secret_basic"])
def test_pkce_cannot_be_downgraded(changes, method):
    """ATK-O5, AUTHLIB-E5: S256 always, for confidential clients too."""
    found = judged(replace(SNAPSHOT, client=replace(CLIENT, auth_method=method)), **changes)
    assert members(found)["error"] == "invalid_request"


@pytest.mark.parametrize(
    "aud",
    [
        None,
        "",
        "https://evil.test",
        smart.BASE + "/Patient",
        smart.BASE + "2",
        smart.BASE + "//",
        "https://x@gateway.test/fhir/hapi",
        smart.BASE.upper(),
    ],
)
def test_audience_is_this_server(aud):
    """ATK-O14, AUTHLIB-E9: aud is the FHIR base, to the letter."""
    assert members(judged(aud=aud))["error"] == "invalid_request"


def test_audience_may_end_in_a_slash():
    """B: clients keep the slash that iss had."""
    assert isinstance(judged(aud=smart.BASE + "/"), Validated)
    assert members(judged(resource="https://evil.test"))["error"] == "invalid_target"
    assert isinstance(judged(resource=smart.BASE), Validated)


@pytest.mark.parametrize(
    ("launch", "changes"),
    [
        (None, {}),
        (replace(LAUNCH, state="used"), {}),
        (replace(LAUNCH, ehr="other"), {}),
        (replace(LAUNCH, client_id="somebody"), {}),
        (replace(LAUNCH, expires_at=NOW), {}),
        (LAUNCH, {"launch": None}),
        (LAUNCH, {"launch": ""}),
        (LAUNCH, {"scope": "patient/Observation.rs"}),
    ],
)
def test_bad_launches_are_refused(launch, changes):
    """ATK-O15: unknown, used, of another EHR or client, too old, or only half of scope and parameter."""
    found = judged(replace(SNAPSHOT, launch=launch), **({"scope": "launch patient/Observation.rs", "launch": "handle"} | changes))
    assert members(found)["error"] == "invalid_request"


def test_a_launch_waits_for_the_person():
    """A launch that came in time is still good while she signs in."""
    later = replace(SNAPSHOT, launch=LAUNCH, now=NOW + timedelta(minutes=8))
    assert isinstance(judged(later, scope="launch patient/Observation.rs", launch="handle"), Validated)


def test_an_empty_launch_counts_as_none():
    """B: jupyter-smart-on-fhir sends launch= when it starts by itself."""
    assert isinstance(judged(launch=""), Validated)


@pytest.mark.parametrize(("name", "value"), [("request", "x.y.z"), ("request_uri", "http://169.254.169.254/"), ("registration", "{}")])
def test_request_objects_are_refused(name, value):
    """ATK-O22: refused by name; the decision is pure, so nothing can have been fetched."""
    assert members(judged(**{name: value}))["error"] == f"{name}_not_supported"


def met(**changes: str) -> Prompting:
    """How the person is to be met."""
    found = judged(replace(SNAPSHOT, now=NOW + timedelta(minutes=3)), **changes)
    assert isinstance(found, Validated)
    return found.prompting


@pytest.mark.parametrize("prompt", ["none login", "none consent", "none none login", "select_account none"])
def test_prompt_none_stands_alone(prompt):
    """ATK-O21, OpenID Connect Core 3.1.2.1."""
    assert members(judged(prompt=prompt))["error"] == "invalid_request"


def test_prompt_and_max_age_say_how_the_person_is_met():
    """OpenID Connect Core 3.1.2.1: an age is measured from when the app sent the browser; what is not known here is ignored."""
    assert (met(prompt="none").silent, met(prompt="consent").consent, met().silent, met().consent) == (True, True, False, False)
    assert [met(prompt=one).signed_in_since for one in ("login", "login consent", "select_account")] == [NOW] * 3
    assert [met(prompt=one).signed_in_since for one in ("consent", "create", "")] == [None] * 3
    assert (met(max_age="60").signed_in_since, met(max_age="0").signed_in_since) == (NOW - timedelta(seconds=60), NOW)
    assert met(max_age="60", prompt="login").signed_in_since == NOW
    for ignored in ("ui_locales", "display", "acr_values", "claims_locales"):
        assert met(**{ignored: "fr-CA fr"}) == met()


@pytest.mark.parametrize("age", ["-1", "1.5", "soon", "٣", "9" * 10])
def test_an_age_is_a_number(age):
    """A limit that cannot be read is no limit, so it is refused."""
    assert members(judged(max_age=age))["error"] == "invalid_request"


def test_a_hint_is_a_name():
    """login_hint: what fits into the field of a user name, or nothing."""
    assert [met(login_hint=text).login_hint for text in ("ann@example.org", "<b>", "a\nb", "x" * 256)] == ["ann@example.org", "<b>", "", ""]


def test_scopes_that_cannot_be_granted_are_ignored():
    """ATK-O16, A10.61: system/, unknown types and malformed scopes fall away; nothing left is invalid_scope."""
    found = judged(scope="patient/Observation.rs system/Observation.rs patient/Nonsense.rs patient/Observation.dus email launch/patient user/*.rs")
    assert isinstance(found, Validated)
    assert found.scopes == ("patient/Observation.rs", "launch/patient", "user/*.rs")
    for nothing in ("system/*.cruds", "offline_access", "email", "", None):
        assert members(judged(scope=nothing))["error"] == "invalid_scope"


def test_registration_limits_the_request():
    """A client that is registered for some scopes gets no others."""
    limited = replace(SNAPSHOT, client=replace(CLIENT, scope="patient/Observation.rs openid"))
    found = judged(limited, scope="patient/Observation.r patient/Condition.rs openid fhirUser")
    assert isinstance(found, Validated)
    assert found.scopes == ("patient/Observation.r", "openid")


@pytest.mark.parametrize("state", ["<script>alert(1)</script>", "a b+c&d=e%20f", "ü\u2028", "x" * 3000])
def test_state_comes_back_as_it_was_sent(state):
    """HL7@59: byte for byte, on errors and on success; ATK-O20: iss beside it."""
    refused = members(judged(state=state, scope="email"))
    assert (refused["state"], refused["iss"]) == (state, smart.BASE)
    allowed = concluded("patient/Observation.rs", state=state)
    assert (members(allowed.back)["state"], members(allowed.back)["iss"]) == (state, smart.BASE)


def concluded(granted: str, snapshot: AuthorizationSnapshot = SNAPSHOT, patient: str = "a", **changes: str | None) -> Concluded:
    found = conclude(tuple(smart.asking(**changes).items()), snapshot, Consented(ACCOUNT, granted, patient, NOW))
    assert isinstance(found, Concluded)
    return found


def test_the_grant_is_what_the_person_granted():
    """AUTHLIB-E10: not what the app asked for. AUTHLIB-E8, C2: the code lives a minute."""
    found = concluded("patient/Patient.r", scope="patient/Patient.r patient/Observation.rs")
    assert found.grant is not None
    assert found.code is not None
    assert (found.grant.scope, found.grant.patient, found.grant.context) == ("patient/Patient.r", "a", "picked")
    assert found.code.expires_at == NOW + timedelta(seconds=60)
    assert found.code.hash not in found.back.url


def test_a_launch_gives_its_context():
    """A5: patient, encounter and banner are the launch's."""
    snapshot = replace(SNAPSHOT, launch=LAUNCH)
    found = concluded("launch patient/Patient.r", snapshot, scope="launch patient/Patient.r", launch="handle")
    assert found.grant is not None
    assert (found.grant.patient, found.grant.encounter, found.grant.context, found.grant.need_patient_banner) == ("a", "e1", "launch", False)


def test_a_denial_makes_nothing():
    """access_denied, with state and iss, and neither grant nor code."""
    found = concluded("")
    assert members(found.back) == {"error": "access_denied", "error_description": "The person did not allow it.", "state": "st-1", "iss": smart.BASE}
    assert (found.grant, found.code) == (None, None)


def test_the_registered_query_is_kept():
    """The registered URI is not spelt anew."""
    uri = "https://app.test/cb?tenant=a%20b&x"
    found = concluded("openid", replace(SNAPSHOT, client=replace(CLIENT, redirect_uris=(uri,))), patient="", scope="openid", redirect_uri=uri)
    assert found.back.url.startswith(f"{uri}&code=")
