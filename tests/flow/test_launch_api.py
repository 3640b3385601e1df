"""POST /api/launches: the right of an EHR to start apps, asked for and used over HTTP."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from typing import Any

import httpx
import pytest

from gateway import local
from gateway.errors import NotDone, OAuthError
from gateway.smart.record import Caller
from gateway.smart.server.authorization.launches import Wanted
from gateway.store.base import now
from tests.support import smart
from tests.support.whole_in_process import Whole, whole

URL = f"{smart.PUBLIC_URL}/api/launches"
NOWHERE = "http://127.0.0.1:9/fhir"


@dataclass
class World:
    """A gateway with an app, a doctor, a patient, and an EHR that may launch."""

    gateway: Whole
    key: smart.BackendKey

    async def token(self, client_id: str = "record", scope: str = "gateway.launch") -> httpx.Response:
        audience = f"{smart.PUBLIC_URL}/auth/hapi/token"
        form = smart.asserted(self.key.assertion(client_id, moment=now(), audience=audience), scope=scope)
        return await self.gateway.http.post(audience, data=form)

    async def launch(self, token: str, **more: Any) -> httpx.Response:
        wanted = {"ehr": "hapi", "client_id": "app", "patient": "a"} | more
        return await self.gateway.http.post(URL, json=wanted, headers={"Authorization": f"Bearer {token}"})


@pytest.fixture(scope="module")
async def world(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    async with whole(NOWHERE, tmp_path_factory.mktemp("gateway"), deliver=False) as gateway:
        state, key = gateway.gateway.state, smart.BackendKey()
        registrar, accounts = local.registrar(state, ("hapi",)), local.accounts(state)
        app = {"client_id": "app", "redirect_uris": [smart.APP], "launch_uri": "https://app.test/launch?x=1", "token_endpoint_auth_method": "none"}
        await registrar.register(app)
        keys = {"grant_types": ["client_credentials"], "jwks": {"keys": [key.public]}}
        await registrar.register({"client_id": "record", "scope": "system/Observation.rs gateway.launch"} | keys)
        await registrar.register({"client_id": "lab", "scope": "system/Observation.rs"} | keys)
        await accounts.add("berg", smart.PASSWORD, ehr="hapi", fhir_user="Practitioner/berg")
        yield World(gateway, key)


async def test_an_ehr_starts_an_app(world: World):
    """The handle works once, for that user, with that context; who launched is on record."""
    token = (await world.token()).json()["access_token"]
    answer = await world.launch(token, user="berg", encounter="e-1", intent="reconcile-medications")
    assert answer.status_code == 201
    created = answer.json()
    assert created["iss"] == f"{smart.PUBLIC_URL}/fhir/hapi"
    assert created["launch_url"].startswith("https://app.test/launch?x=1&iss=https%3A%2F%2Fgateway.test%2Ffhir%2Fhapi&launch=")
    browser, pkce = smart.Browser(world.gateway.asgi), smart.Pkce()
    request = smart.asking(scope="launch patient/Patient.r", launch=created["launch"], pkce=pkce)
    code = await smart.code_for(browser, request, username="berg")
    form = {"grant_type": "authorization_code", "code": code, "redirect_uri": smart.APP, "code_verifier": pkce.verifier, "client_id": "app"}
    found = (await world.gateway.http.post(f"{smart.PUBLIC_URL}/auth/hapi/token", data=form)).json()
    assert (found["patient"], found["encounter"], found["intent"]) == ("a", "e-1", "reconcile-medications")
    records = await world.gateway.gateway.state.audit.search(limit=50)
    launched = [record for record in records if record.action == "launch" and record.client_id == "app"]
    assert [(record.status, record.detail) for record in launched] == [(201, "by record")]


async def test_only_those_with_the_right(world: World):
    """ATK-O24: no token, a patient's, a system's without the scope, one that asks for more than it is registered for."""
    assert (await world.gateway.http.post(URL, json={"ehr": "hapi", "client_id": "app", "patient": "a"})).status_code == 401
    person = await world.gateway.token("patient/*.cruds gateway.launch", patient="a")
    system = (await world.token(scope="system/Observation.rs")).json()["access_token"]
    for token in (person, system):
        refused = await world.launch(token)
        assert (refused.status_code, refused.json()["error"]) == (403, "insufficient_scope")
        assert 'scope="gateway.launch"' in refused.headers["www-authenticate"]
    assert (await world.token("lab", "gateway.launch")).json()["error"] == "invalid_scope"
    assert (await world.launch("unknown")).status_code == 401
    assert (await world.launch((await world.token()).json()["access_token"], ehr="nowhere")).status_code == 401


async def test_who_was_refused_is_on_record(world: World):
    """The EHR and the client of the token, whether it lacks the right or asked for what there is not."""
    lacks = await world.launch((await world.token("lab", "system/Observation.rs")).json()["access_token"])
    wrong = await world.launch((await world.token()).json()["access_token"], client_id="unknown")
    records = {record.request_id: record for record in await world.gateway.gateway.state.audit.search(limit=50)}
    found = [records[answer.headers["x-request-id"]] for answer in (lacks, wrong)]
    assert [(one.status, one.ehr, one.client_id, one.principal, one.reason) for one in found] == [
        (403, "hapi", "lab", "system", "insufficient_scope"),
        (400, "hapi", "record", "system", "invalid_request"),
    ]


async def test_apps_cannot_be_registered_with_it(world: World):
    """It is for systems: whoever launches vouches for the user."""
    registrar = local.registrar(world.gateway.gateway.state, ("hapi",))
    with pytest.raises(OAuthError):
        await registrar.register({"redirect_uris": [smart.APP], "scope": "launch gateway.launch"}, Caller())


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"patient": "../x"}, "patient: "),
        ({"patient": 7}, "patient: "),
        ({"client_id": "unknown"}, "client_id: "),
        ({"user": "nobody"}, "user: "),
        ({"fhirContext": [{"reference": "Patient/a"}]}, "fhirContext: "),
        ({"fhirContext": ["x"]}, "fhirContext.0: "),
        ({"more": 1}, "more: "),
    ],
)
async def test_what_is_wrong_is_said(world: World, more: dict[str, Any], says: str):
    """400, the member, and never its value."""
    refused = await world.launch((await world.token()).json()["access_token"], **more)
    assert (refused.status_code, refused.json()["error"]) == (400, "invalid_request")
    assert refused.json()["error_description"].startswith(says)
    assert "../x" not in refused.text


async def test_a_launch_names_its_user_where_that_is_required(world: World):
    """`launch_user = required`: none without; by default it may be left out."""
    state = world.gateway.gateway.state
    app = {"client_id": "named", "redirect_uris": [smart.APP], "launch_uri": "https://app.test/launch", "token_endpoint_auth_method": "none"}
    await local.registrar(state, ("hapi",)).register(app)
    token = (await world.token()).json()["access_token"]
    assert (await world.launch(token, client_id="named")).status_code == 201
    launches = local.launches(replace(state, settings=replace(state.settings, launch_user="required")))
    with pytest.raises(NotDone, match="has to name its user"):
        await launches.create(Wanted("hapi", "named", "a"))
    assert (await launches.create(Wanted("hapi", "named", "a", username="berg"))).launch


async def test_the_edge(world: World):
    """405, 415, and no JSON: OAuth's shape each time."""
    headers = {"Authorization": f"Bearer {(await world.token()).json()['access_token']}"}
    http = world.gateway.http
    answers = [await http.get(URL), await http.post(URL, data={"a": "b"}, headers=headers)]
    answers.append(await http.post(URL, content=b"{", headers=headers | {"Content-Type": "application/json"}))
    assert [answer.status_code for answer in answers] == [405, 415, 400]
    assert all(answer.json()["error"] == "invalid_request" for answer in answers)


async def test_it_is_described(world: World):
    """OpenAPI 3, with the members that are read and written, and the right that is needed."""
    document = (await world.gateway.http.get(f"{smart.PUBLIC_URL}/api/openapi.json")).json()
    operation = document["paths"]["/api/launches"]["post"]
    assert set(operation["responses"]) == {"201", "400", "401", "403"}
    schemas = document["components"]["schemas"]
    assert {"ehr", "client_id", "patient", "encounter", "user"} <= set(schemas["LaunchRequest"]["properties"])
    assert set(schemas["LaunchAnswer"]["properties"]) == {"iss", "launch", "launch_url"}
    assert document["security"] == [{"backend": ["gateway.launch"]}]
