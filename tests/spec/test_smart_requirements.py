"""What SMART App Launch 2.2.0 demands of a server and no published suite tests (docs/cases.md), asked of a whole gateway by HTTP.

`HL7@n` in a docstring is requirement n. Each test asks as an app would; what is not offered is shown not to be advertised (HL7@348-371).
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from joserfc import jwk, jwt

from gateway.errors import NotDone, OAuthError
from gateway.sandbox.double import Double, served
from gateway.smart.server.authorization.launches import Launches, Wanted
from gateway.smart.server.clients.registration import Registrar, Rules
from gateway.smart.server.lifetimes import Lifetimes
from gateway.smart.server.people.accounts import Accounts, Passwords
from gateway.store import oauth as rows
from gateway.store.base import now
from gateway.store.oauth_rows import ListedPatient, digest
from tests.support import smart
from tests.support.whole_in_process import Whole, whole

OFFLINE = "launch/patient openid fhirUser offline_access patient/Observation.rs patient/Patient.r"
WEB = ("web", "secret-of-web")


@dataclass
class World:
    """A gateway in front of an EHR with two patients; Ann is one of them, Dr. Berg has Ann on her list."""

    gateway: Whole
    registrar: Registrar
    launches: Launches
    key: smart.BackendKey

    @property
    def app(self) -> Any:
        return self.gateway.asgi

    async def discovery(self, name: str = "smart-configuration", **headers: str) -> httpx.Response:
        return await self.gateway.http.get(f"{self.gateway.base}/.well-known/{name}", headers=headers)

    async def launched(self, scope: str, *, username: str = "ann", scopes: list[str] | None = None, **asked: str | None) -> dict[str, Any]:
        """The token response of a launch of the public app."""
        pkce = smart.Pkce()
        code = await smart.code_for(smart.Browser(self.app), smart.asking(scope=scope, pkce=pkce, **asked), username=username, scopes=scopes)
        form = {"grant_type": "authorization_code", "code": code, "redirect_uri": smart.APP, "code_verifier": pkce.verifier, "client_id": "app"}
        return await self.token(form)

    async def token(self, form: dict[str, str], **more: Any) -> dict[str, Any]:
        response = await self.asked_for_token(form, **more)
        assert response.status_code == 200, response.text
        return response.json()

    async def asked_for_token(self, form: dict[str, str], **more: Any) -> httpx.Response:
        return await self.gateway.http.post(f"{smart.PUBLIC_URL}/auth/hapi/token", data=form, **more)

    async def backend_token(self, scope: str, **claims: Any) -> httpx.Response:
        return await self.asked_for_token(smart.asserted(self.key.assertion("lab", moment=now(), **claims), scope=scope))

    async def introspected(self, token: str, **more: Any) -> httpx.Response:
        return await self.gateway.http.post(f"{smart.PUBLIC_URL}/auth/hapi/introspect", data={"token": token}, **more)


@pytest.fixture(scope="module")
async def world(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    double = Double()
    for who in "ab":
        double.seed(
            {"resourceType": "Patient", "id": who},
            {"resourceType": "Observation", "id": f"o-{who}", "status": "final", "code": {"text": "x"}, "subject": {"reference": f"Patient/{who}"}},
            {
                "resourceType": "Encounter",
                "id": f"e-{who}",
                "status": "finished",
                "class": {"code": "AMB"},
                "subject": {"reference": f"Patient/{who}"},
            },
        )
    with served(double) as url:
        async with whole(url, tmp_path_factory.mktemp("requirements"), deliver=False) as gateway:
            state = gateway.gateway.state
            record: dict[str, Any] = {"record_in": state.audit.record_in}
            registrar = Registrar(state.database, Rules(("hapi",)), **record)
            found = World(
                gateway, registrar, Launches(state.database, public_url=smart.PUBLIC_URL, lifetimes=Lifetimes(), **record), smart.BackendKey()
            )
            accounts = Accounts(state.database, Passwords(time_cost=1, memory=64), **record)
            app = {"client_id": "app", "client_name": "App", "redirect_uris": [smart.APP], "launch_uri": "https://app.test/launch"}
            await registrar.register(app | {"token_endpoint_auth_method": "none"})
            await registrar.register(app | {"client_id": "web", "client_secret": WEB[1]})
            keys = {"grant_types": ["client_credentials"], "scope": "system/Observation.rs system/Patient.rs", "jwks": {"keys": [found.key.public]}}
            await registrar.register({"client_id": "lab"} | keys)
            await accounts.add("ann", smart.PASSWORD, ehr="hapi", fhir_user="Patient/a")
            await accounts.add("berg", smart.PASSWORD, ehr="hapi", fhir_user="Practitioner/berg", patients=[ListedPatient("a", "Ann")])
            yield found


# Discovery ---------------------------------------------------------------------------------------------------------------------------

_CAPABILITY_SETS = {
    348: {"launch-standalone", "client-public", "context-standalone-patient", "permission-patient"},
    349: {"launch-ehr", "client-public", "context-ehr-patient", "permission-patient"},
    350: {"launch-standalone", "client-public", "permission-user", "permission-patient"},
    351: {"launch-ehr", "client-public", "context-ehr-patient", "context-ehr-encounter", "permission-user", "permission-patient"},
}
_WORKS = {
    "launch-ehr": 352,
    "launch-standalone": 353,
    "authorize-post": 354,
    "client-public": 355,
    "client-confidential-symmetric": 356,
    "client-confidential-asymmetric": 357,
    "sso-openid-connect": 358,
    "context-banner": 359,
    "context-style": 360,
    "context-ehr-patient": 361,
    "context-ehr-encounter": 362,
    "context-standalone-patient": 363,
    "context-standalone-encounter": 364,
    "permission-offline": 365,
    "permission-online": 366,
    "permission-patient": 367,
    "permission-user": 368,
    "permission-v1": 369,
    "permission-v2": 370,
    "smart-app-state": 371,
}


@pytest.mark.parametrize("number", [pytest.param(number, id=f"HL7@{number}") for number in _CAPABILITY_SETS])
async def test_capability_sets(world: World, number: int):
    """Each published set is there as a whole."""
    assert set((await world.discovery()).json()["capabilities"]) >= _CAPABILITY_SETS[number]


async def test_addresses_are_absolute(world: World):
    """HL7@378, HL7@380, HL7@384: absolute URLs, application/json, and the grants that work."""
    for name in ("smart-configuration", "openid-configuration"):
        response = await world.discovery(name, accept="text/html")
        assert response.headers["content-type"].startswith("application/json")
        document = response.json()
        urls = [value for member, value in document.items() if member.endswith(("_endpoint", "_uri")) or member == "issuer"]
        assert len(urls) >= 7
        assert all(re.match(r"https://gateway\.test/", url) for url in urls)
        assert set(document["grant_types_supported"]) == {"authorization_code", "refresh_token", "client_credentials"}


async def test_discovery_for_asymmetric_clients(world: World):
    """HL7@228, HL7@285, HL7@286, HL7@287, HL7@288, HL7@289."""
    document = (await world.discovery()).json()
    assert "client-confidential-asymmetric" in document["capabilities"]
    assert document["token_endpoint"] == f"{smart.PUBLIC_URL}/auth/hapi/token"
    assert "system/*.cruds" in document["scopes_supported"]
    assert "private_key_jwt" in document["token_endpoint_auth_methods_supported"]
    assert set(document["token_endpoint_auth_signing_alg_values_supported"]) == {"RS384", "ES384"}


# Each capability that is listed works ----------------------------------------------------------------------------------------------


async def _launched(world: World, scope: str, **wanted: Any) -> dict[str, Any]:
    created = await world.launches.create(Wanted("hapi", "app", "a", **wanted))
    return await world.launched(f"launch {scope}", launch=created.launch, username="ann")


async def _launch_ehr(world: World) -> None:
    token = await _launched(world, "patient/Patient.r")
    assert token["patient"] == "a"


async def _launch_ehr_encounter(world: World) -> None:
    token = await _launched(world, "patient/Patient.r", encounter="e-a")
    assert token["encounter"] == "e-a"


async def _launch_standalone(world: World) -> None:
    assert (await world.launched("launch/patient patient/Patient.r"))["patient"] == "a"


async def _by_post(world: World) -> None:
    asked = smart.asking()
    answers = [
        await world.gateway.http.get(f"{smart.PUBLIC_URL}/auth/hapi/authorize", params=asked),
        await world.gateway.http.post(f"{smart.PUBLIC_URL}/auth/hapi/authorize", data=asked),
    ]
    assert [answer.status_code for answer in answers] == [303, 303]
    assert len({answer.headers["location"].partition("?")[0] for answer in answers}) == 1


async def _symmetric(world: World) -> None:
    pkce = smart.Pkce()
    code = await smart.code_for(smart.Browser(world.app), smart.asking("web", pkce=pkce))
    form = {"grant_type": "authorization_code", "code": code, "redirect_uri": smart.APP, "code_verifier": pkce.verifier}
    assert (await world.asked_for_token(form | {"client_id": "web"})).status_code == 401
    assert (await world.token(form, auth=WEB))["token_type"] == "Bearer"


async def _asymmetric(world: World) -> None:
    assert (await world.backend_token("system/Observation.rs")).status_code == 200


async def _openid(world: World) -> None:
    token = await world.launched("openid fhirUser launch/patient patient/Patient.r", nonce="n-1")
    keys = jwk.KeySet.import_key_set((await world.gateway.http.get((await world.discovery()).json()["jwks_uri"])).json())
    claims = jwt.decode(token["id_token"], keys, algorithms=["RS256"]).claims
    assert (claims["iss"], claims["aud"], claims["nonce"]) == (world.gateway.base, "app", "n-1")
    assert claims["fhirUser"] == f"{world.gateway.base}/Patient/a"


async def _banner_and_style(world: World) -> None:
    token = await _launched(world, "patient/Patient.r", need_patient_banner=False)
    assert token["need_patient_banner"] is False
    style = await world.gateway.http.get(token["smart_style_url"])
    assert style.json()["color_text"].startswith("#")


async def _offline(world: World) -> None:
    token = await world.launched(OFFLINE)
    again = await world.token({"grant_type": "refresh_token", "refresh_token": token["refresh_token"], "client_id": "app"})
    assert again["access_token"] != token["access_token"]


async def _online(world: World) -> None:
    """HL7@100: new tokens while the person is signed in; none after, and what she gave ends with it."""
    browser, pkce = smart.Browser(world.app), smart.Pkce()
    request = smart.asking(scope="launch/patient online_access patient/Patient.r", pkce=pkce)
    form = {"grant_type": "authorization_code", "redirect_uri": smart.APP, "code_verifier": pkce.verifier, "client_id": "app"}
    token = await world.token(form | {"code": await smart.code_for(browser, request)})
    again = await world.token({"grant_type": "refresh_token", "refresh_token": token["refresh_token"], "client_id": "app"})
    assert (await world.gateway.fhir(again["access_token"], "GET", "Patient/a")).status_code == 200
    await browser.get("/signout")
    await browser.submit("/signout")
    refused = await world.asked_for_token({"grant_type": "refresh_token", "refresh_token": again["refresh_token"], "client_id": "app"})
    assert refused.json()["error"] == "invalid_grant"
    assert (await world.gateway.fhir(again["access_token"], "GET", "Patient/a")).status_code == 401


async def test_online_access(world: World):
    """HL7@100, HL7@366: as long as she is signed in; with offline access besides, that counts."""
    await _online(world)
    both = await world.launched(f"{OFFLINE} online_access")
    assert {"online_access", "offline_access"} <= set(both["scope"].split())


async def _patient_level(world: World) -> None:
    token = (await world.launched("launch/patient patient/Observation.rs"))["access_token"]
    found = (await world.gateway.fhir(token, "GET", "Observation")).json()
    assert [entry["resource"]["id"] for entry in found["entry"]] == ["o-a"]
    assert (await world.gateway.fhir(token, "GET", "Observation/o-b")).status_code == 404


async def _user_level(world: World) -> None:
    token = (await world.launched("user/Observation.rs", username="berg"))["access_token"]
    assert (await world.gateway.fhir(token, "GET", "Observation/o-a")).status_code == 200
    assert (await world.gateway.fhir(token, "GET", "Observation/o-b")).status_code == 404


async def _version_1(world: World) -> None:
    token = await world.launched("launch/patient patient/Observation.read")
    assert "patient/Observation.read" in token["scope"].split()
    assert (await world.gateway.fhir(token["access_token"], "GET", "Observation/o-a")).status_code == 200


async def _version_2(world: World) -> None:
    scope = "patient/Observation.rs?category=http://terminology.hl7.org/CodeSystem/observation-category|laboratory"
    token = await world.launched(f"launch/patient {scope}")
    assert scope in token["scope"].split()
    assert (await world.gateway.fhir(token["access_token"], "GET", "Observation/o-a")).status_code == 404


_SHOWN = {
    "launch-ehr": _launch_ehr,
    "launch-standalone": _launch_standalone,
    "authorize-post": _by_post,
    "client-public": _launch_standalone,
    "client-confidential-symmetric": _symmetric,
    "client-confidential-asymmetric": _asymmetric,
    "sso-openid-connect": _openid,
    "context-banner": _banner_and_style,
    "context-style": _banner_and_style,
    "context-ehr-patient": _launch_ehr,
    "context-ehr-encounter": _launch_ehr_encounter,
    "context-standalone-patient": _launch_standalone,
    "permission-offline": _offline,
    "permission-online": _online,
    "permission-patient": _patient_level,
    "permission-user": _user_level,
    "permission-v1": _version_1,
    "permission-v2": _version_2,
}


@pytest.mark.parametrize("capability", [pytest.param(name, id=f"HL7@{number}") for name, number in _WORKS.items()])
async def test_what_is_listed_works(world: World, capability: str):
    """HL7@348-371: a capability is listed when it works, and only then."""
    listed = (await world.discovery()).json()["capabilities"]
    assert (capability in listed) == (capability in _SHOWN)
    assert set(listed) <= set(_WORKS)
    if shown := _SHOWN.get(capability):
        await shown(world)


# The launch --------------------------------------------------------------------------------------------------------------------------


async def test_the_endpoint_takes_both_methods(world: World):
    """HL7@48, HL7@49: GET and POST lead to the same page."""
    await _by_post(world)


@pytest.mark.parametrize("change", [{"code_challenge": None}, {"code_challenge_method": "plain"}, {"code_challenge_method": None}])
async def test_s256_and_nothing_else(world: World, change: dict[str, str | None]):
    """HL7@14, HL7@15: plain PKCE, and none, end at the app with invalid_request and without a code."""
    browser = smart.Browser(world.app)
    await browser.authorize(smart.asking(**change))
    assert browser.answer["error"] == "invalid_request"
    assert "code" not in browser.answer


async def test_only_registered_addresses_are_launched(world: World):
    """HL7@18: an app without a registered launch address is not launched."""
    app = {"client_id": "unlaunchable", "redirect_uris": ["https://app.test/other"], "token_endpoint_auth_method": "none"}
    await world.registrar.register(app)
    with pytest.raises(NotDone):
        await world.launches.create(Wanted("hapi", "unlaunchable", "a"))


async def test_a_registration_gives_an_id(world: World):
    """HL7@24, HL7@316."""
    answer = await world.registrar.register({"redirect_uris": ["https://app.test/new"], "token_endpoint_auth_method": "none"})
    assert len(answer["client_id"]) >= 16
    assert answer["redirect_uris"] == ["https://app.test/new"]


@pytest.mark.parametrize("verifier", [None, "", "v" * 43])
async def test_the_verifier_counts(world: World, verifier: str | None):
    """HL7@31."""
    code = await smart.code_for(smart.Browser(world.app), smart.asking())
    form = {"grant_type": "authorization_code", "code": code, "redirect_uri": smart.APP, "client_id": "app"}
    refused = await world.asked_for_token(form if verifier is None else form | {"code_verifier": verifier})
    assert (refused.status_code, "access_token" in refused.json()) == (400, False)


async def test_a_refusal_goes_back_to_the_app(world: World):
    """HL7@54, HL7@59: access_denied, with the state byte for byte."""
    state = "a+b%20c&=é~'\"<>/?#" + "x" * 300
    browser = smart.Browser(world.app)
    await browser.authorize(smart.asking(state=state))
    await browser.sign_in()
    await browser.deny()
    assert (browser.answer["error"], browser.answer["state"]) == ("access_denied", state)


async def test_the_token_answer(world: World):
    """HL7@85, HL7@88, HL7@89, HL7@149, HL7@168, HL7@169, HL7@170: characters, lifetime, and context as JSON members beside the token."""
    token = await world.launched("launch/patient patient/Patient.r")
    assert re.fullmatch(r"[A-Za-z0-9._~+/-]+=*", token["access_token"])
    assert isinstance(token["expires_in"], int)
    assert token["patient"] == "a"
    assert "refresh_token" not in token
    assert "refresh_token" in await world.launched(OFFLINE)


async def test_context_of_an_ehr_launch(world: World):
    """HL7@171, HL7@173, HL7@175: strings, a boolean, a URL."""
    token = await _launched(world, "patient/Patient.r", encounter="e-a")
    assert (token["patient"], token["encounter"]) == ("a", "e-a")
    assert token["need_patient_banner"] is True
    assert token["smart_style_url"].startswith("https://")


async def test_a_patient_scope_brings_a_patient(world: World):
    """HL7@136, HL7@164: also when the app did not ask for the context."""
    token = await world.launched("patient/Observation.rs")
    assert token["patient"] == "a"
    assert (await world.gateway.fhir(token["access_token"], "GET", "Observation/o-b")).status_code == 404


async def test_openid_connect(world: World):
    """HL7@197, HL7@205, HL7@209: the code flow, and fhirUser where both scopes were granted; every account is somebody in the EHR."""
    await _openid(world)
    without = await world.launched("openid launch/patient patient/Patient.r")
    assert "fhirUser" not in jwt.decode(without["id_token"], await _keys(world), algorithms=["RS256"]).claims
    accounts = Accounts(
        world.gateway.gateway.state.database, Passwords(time_cost=1, memory=64), record_in=world.gateway.gateway.state.audit.record_in
    )
    with pytest.raises(NotDone):
        await accounts.add("nobody", smart.PASSWORD, ehr="hapi", fhir_user="")


async def _keys(world: World) -> jwk.KeySet:
    return jwk.KeySet.import_key_set((await world.gateway.http.get((await world.discovery()).json()["jwks_uri"])).json())


# Tokens ------------------------------------------------------------------------------------------------------------------------------


async def test_expired_tokens_are_refused(world: World):
    """HL7@77, HL7@265."""
    token = (await world.launched("launch/patient patient/Patient.r"))["access_token"]
    assert (await world.gateway.fhir(token, "GET", "Patient/a")).status_code == 200
    database = world.gateway.gateway.state.database
    async with database.write() as connection:
        row = await rows.access_token(connection, digest(token))
        assert row is not None
        table = rows.t.access_token
        await connection.execute(table.update().where(table.c.hash == row.hash).values(expires_at=now() - timedelta(seconds=1)))
    refused = await world.gateway.fhir(token, "GET", "Patient/a")
    assert (refused.status_code, 'error="invalid_token"' in refused.headers["www-authenticate"]) == (401, True)


async def test_the_scope_of_the_token_counts(world: World):
    """HL7@266: 403 insufficient_scope beyond it."""
    token = (await world.launched("launch/patient patient/Patient.r"))["access_token"]
    refused = await world.gateway.fhir(token, "GET", "Observation/o-a")
    assert (refused.status_code, 'error="insufficient_scope"' in refused.headers["www-authenticate"]) == (403, True)


async def test_offline_access_needs_nobody(world: World):
    """HL7@101: the person signed out, and the app goes on."""
    browser, pkce = smart.Browser(world.app), smart.Pkce()
    code = await smart.code_for(browser, smart.asking(scope=OFFLINE, pkce=pkce))
    form = {"grant_type": "authorization_code", "code": code, "redirect_uri": smart.APP, "code_verifier": pkce.verifier, "client_id": "app"}
    token = await world.token(form)
    await browser.get("/signout")
    await browser.submit("/signout")
    await browser.get("/portal/")
    assert "/signin" in str(browser.page.request.url)
    again = await world.token({"grant_type": "refresh_token", "refresh_token": token["refresh_token"], "client_id": "app"})
    assert (await world.gateway.fhir(again["access_token"], "GET", "Patient/a")).status_code == 200


async def test_a_refresh_token_is_its_clients_and_never_grows(world: World):
    """HL7@103, HL7@104, HL7@115: bound to the client; the same scope or less, and the answer says which."""
    form = {"grant_type": "refresh_token", "refresh_token": (await world.launched(OFFLINE))["refresh_token"]}
    assert (await world.asked_for_token(form, auth=WEB)).json()["error"] == "invalid_grant"
    assert (await world.asked_for_token(form | {"client_id": "app", "scope": f"{OFFLINE} patient/Condition.rs"})).json()["error"] == "invalid_scope"
    less = await world.token(form | {"client_id": "app", "scope": "patient/Observation.s"})
    assert less["scope"] == "patient/Observation.s"


async def test_what_she_allowed_is_the_scope(world: World):
    """HL7@115, HL7@259: the answer's scope is what was granted, not what was asked for."""
    token = await world.launched("launch/patient patient/Observation.rs patient/Patient.r", scopes=["patient/Patient.r"])
    assert "patient/Observation.rs" not in token["scope"].split()
    assert "patient/Patient.r" in token["scope"].split()


# Scopes and what is behind them ------------------------------------------------------------------------------------------------------


async def test_scopes_never_open_what_the_person_may_not_see(world: World):
    """HL7@119, HL7@140: a wildcard for a clinician reaches those on her list; nobody else is there."""
    token = (await world.launched("user/*.cruds", username="berg"))["access_token"]
    found = (await world.gateway.fhir(token, "GET", "Patient")).json()
    assert [entry["resource"]["id"] for entry in found["entry"]] == ["a"]
    assert (await world.gateway.fhir(token, "GET", "Patient/b")).status_code == 404


async def test_a_wildcard_means_every_type_that_is_offered(world: World):
    """HL7@144: each type that persons are offered can be searched with `patient/*.rs`."""
    token = (await world.launched("launch/patient patient/*.rs"))["access_token"]
    for name in ("Observation", "Encounter", "Patient", "Condition", "Practitioner", "Appointment"):
        assert (await world.gateway.fhir(token, "GET", name)).status_code == 200, name


async def test_system_scopes_reach_what_was_given(world: World):
    """HL7@142, HL7@240, HL7@241, HL7@250: everybody's data of the types registered and asked for, and nothing beyond."""
    token = (await world.backend_token("system/Observation.rs")).json()
    assert token["scope"] == "system/Observation.rs"
    assert (await world.gateway.fhir(token["access_token"], "GET", "Observation/o-b")).status_code == 200
    assert (await world.gateway.fhir(token["access_token"], "GET", "Patient/b")).status_code == 403
    assert (await world.backend_token("system/Condition.rs")).json()["error"] == "invalid_scope"


async def test_batches_are_judged_by_their_entries(world: World):
    """HL7@130: one entry beyond the scope, and nothing of it is taken."""
    key = smart.BackendKey()
    senders = {"grant_types": ["client_credentials"], "scope": "system/Observation.c", "jwks": {"keys": [key.public]}}
    await world.registrar.register({"client_id": "sender", "push": {"mode": "deliver", "ehr": "hapi"}} | senders)
    assertion = key.assertion("sender", moment=now())
    token = (await world.token(smart.asserted(assertion, scope="system/Observation.c")))["access_token"]
    entries = [
        {"resource": {"resourceType": "Observation", "status": "final", "code": {"text": "x"}}, "request": {"method": "POST", "url": "Observation"}},
        {"resource": {"resourceType": "Patient"}, "request": {"method": "POST", "url": "Patient"}},
    ]
    answer = await world.gateway.fhir(token, "POST", "", {"resourceType": "Bundle", "type": "transaction", "entry": entries})
    assert answer.status_code == 403


async def test_an_update_may_create(world: World):
    """HL7@123: `u` is enough for a system's PUT of an id of its own; it is taken at the door."""
    token = await world.gateway.token("system/Observation.u", push={"mode": "deliver", "ehr": "hapi"})
    body = {"resourceType": "Observation", "id": "own-id", "status": "final", "code": {"text": "x"}, "subject": {"reference": "Patient/a"}}
    assert (await world.gateway.fhir(token, "PUT", "Observation/own-id", body, prefer="respond-async")).status_code == 202


async def test_what_needs_a_token(world: World):
    """HL7@247: the statement and discovery are open; everything else is 401."""
    assert (await world.gateway.fhir("", "GET", "metadata")).status_code == 200
    for method, path in (
        ("GET", "Patient/a"),
        ("GET", "Observation"),
        ("POST", "Observation/_search"),
        ("PUT", "Patient/a"),
        ("DELETE", "Patient/a"),
    ):
        assert (await world.gateway.fhir("", method, path)).status_code == 401, path


# Backend services --------------------------------------------------------------------------------------------------------------------


async def test_backend_tokens_are_short(world: World):
    """HL7@261, HL7@262, HL7@248: five minutes at most, and no refresh token."""
    token = (await world.backend_token("system/Observation.rs")).json()
    assert token["expires_in"] <= 300
    assert "refresh_token" not in token


@pytest.mark.parametrize(
    "claims",
    [
        pytest.param({"iss": "somebody"}, id="HL7@337-iss"),
        pytest.param({"sub": "somebody"}, id="HL7@337-sub"),
        pytest.param({"aud": "https://elsewhere.test/token"}, id="HL7@335-aud"),
        pytest.param({"exp": 1}, id="HL7@335-exp"),
        pytest.param({"jti": None}, id="HL7@336-missing"),
        pytest.param({"header": {"kid": "unknown"}}, id="HL7@338-kid"),
        pytest.param({"header": {"jku": "https://elsewhere.test/keys"}}, id="HL7@338-jku"),
    ],
)
async def test_assertions_are_validated(world: World, claims: dict[str, Any]):
    """HL7@249, HL7@340: each is invalid_client."""
    refused = await world.backend_token("system/Observation.rs", **claims)
    assert (refused.status_code, refused.json()["error"]) == (401, "invalid_client")


async def test_a_jti_counts_once(world: World):
    """HL7@336."""
    form = smart.asserted(world.key.assertion("lab", moment=now()))
    assert [(await world.asked_for_token(form)).status_code for _ in range(2)] == [200, 401]


async def test_registered_keys_are_nobody_elses_to_change(tmp_path: Path):
    """HL7@305: where anybody may register, too: without the operator, or the token of that very registration, no request changes them."""
    environ = {"GATEWAY_REGISTRATION": "open", "GATEWAY_REGISTRATION_REVIEW": "false"}
    async with whole("http://127.0.0.1:9/fhir", tmp_path, deliver=False, environ=environ) as gateway:
        here, key, evil_key = f"{smart.PUBLIC_URL}/auth/hapi", smart.BackendKey(), smart.BackendKey()
        state = gateway.gateway.state
        backend = {"client_id": "lab", "grant_types": ["client_credentials"], "scope": "system/Observation.rs", "jwks": {"keys": [key.public]}}
        await Registrar(state.database, Rules(("hapi",)), record_in=state.audit.record_in).register(backend)
        evil = backend | {"jwks": {"keys": [evil_key.public]}}
        app = evil | {"grant_types": ["authorization_code"], "scope": "launch/patient", "redirect_uris": [smart.APP]}
        own = await gateway.http.post(f"{here}/register", json=app | {"token_endpoint_auth_method": "private_key_jwt"})
        assert (own.status_code, own.json()["client_id"] == "lab") == (201, False)
        bearer = {"Authorization": f"Bearer {own.json()['registration_access_token']}"}
        tried = (("POST", "register", {}, 400), ("PUT", "clients/lab", {}, 404))
        for headers in ({}, {"Authorization": "Bearer made-up"}, bearer):
            tried += tuple((method, "register/lab", headers, 401) for method in ("GET", "PUT", "DELETE"))
        for method, path, headers, status in tried:
            answer = await gateway.http.request(method, f"{here}/{path}", json=evil, headers=headers)
            assert answer.status_code == status, (method, path, headers)
        for signer, status in ((key, 200), (evil_key, 401)):
            form = smart.asserted(signer.assertion("lab", moment=now()))
            assert (await gateway.http.post(f"{here}/token", data=form)).status_code == status


@pytest.mark.parametrize("algorithm", ["RS384", "ES384"])
async def test_both_algorithms(world: World, algorithm: str):
    """HL7@310, HL7@297: keys registered by value."""
    key = smart.BackendKey(algorithm)
    name = f"by-{algorithm.lower()}"
    keys = {"grant_types": ["client_credentials"], "scope": "system/Observation.rs", "jwks": {"keys": [key.public]}}
    await world.registrar.register({"client_id": name} | keys)
    await world.token(smart.asserted(key.assertion(name, moment=now())))


async def test_secrets_are_not_for_backend_clients(world: World):
    """HL7@344: neither registered nor at the token endpoint."""
    with pytest.raises(OAuthError):
        await world.registrar.register({"grant_types": ["client_credentials"], "scope": "system/Observation.rs", "client_secret": "s" * 32})
    refused = await world.asked_for_token({"grant_type": "client_credentials", "scope": "system/Observation.rs"}, auth=WEB)
    assert (refused.status_code, refused.json()["error"]) == (401, "invalid_client")


async def test_bulk_export_is_not_offered(world: World):
    """A12.74: it is neither listed nor answered, also to a system that may read everything."""
    statement = (await world.gateway.fhir("", "GET", "metadata")).text
    assert "export" not in statement
    token = await world.gateway.token("system/*.rs")
    for path in ("$export", "Patient/$export", "Group/g/$export"):
        answer = await world.gateway.fhir(token, "GET", path, prefer="respond-async")
        assert (answer.status_code, answer.json()["resourceType"]) == (501, "OperationOutcome"), path


# Introspection -----------------------------------------------------------------------------------------------------------------------


async def test_introspection(world: World):
    """HL7@271, HL7@272, HL7@282, HL7@283: a bearer token authenticates, and sees another client's token."""
    token = await world.launched("launch/patient patient/Patient.r")
    system = (await world.backend_token("system/Observation.rs")).json()["access_token"]
    found = (await world.introspected(token["access_token"], headers={"Authorization": f"Bearer {system}"})).json()
    assert (found["active"], found["client_id"], found["patient"]) == (True, "app", "a")
    unknown = await world.introspected("unknown", auth=WEB)
    assert unknown.json() == {"active": False}
    assert (await world.introspected(token["access_token"])).status_code == 401
