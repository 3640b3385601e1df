"""A gateway with the launcher on, apps and people; and an app that goes its whole way there, whatever it meets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import httpx

from gateway import local
from gateway.smart.record import Caller
from gateway.smart.server.trial import TrialWanted
from gateway.smart.server.trials import Trials
from gateway.store.oauth_rows import ListedPatient
from tests.support import smart
from tests.support.smart import APP, PASSWORD, Browser, Pkce
from tests.support.two_people import Two
from tests.support.whole_in_process import PUBLIC_URL, Whole

TWO = Two("t")
A = TWO.a
SCOPE = "launch openid fhirUser offline_access patient/Patient.r patient/Observation.rs patient/Condition.rs"
STANDALONE = SCOPE.replace("launch ", "launch/patient ", 1)
CALLER = Caller("test", "192.0.2.9")
READS = (f"Patient/{A}", "Observation", "Condition")


@dataclass
class Ride:
    """What an app met on its way. It is careless: whatever it gets, it goes on."""

    browser: Browser
    answer: dict[str, str] = field(default_factory=dict)
    token: httpx.Response | None = None
    refreshed: httpx.Response | None = None
    got: set[str] = field(default_factory=set)
    answers: list[httpx.Response] = field(default_factory=list)
    secrets: list[str] = field(default_factory=list)

    @property
    def body(self) -> dict[str, Any]:
        return self.token.json() if self.token is not None else {}


@dataclass
class World:
    """A gateway with the launcher on, two apps, a backend, and people."""

    at: Whole
    trials: Trials
    key: smart.BackendKey

    def browser(self) -> Browser:
        return Browser(self.at.asgi)

    async def start(self, by: str = "record", **more: Any) -> Any:
        """By the record system, which may launch for anybody; `by` "": by the launcher's page."""
        wanted = {"ehr": "hapi", "client_id": "app", "patient": A, "user": "ann"} | more
        return await self.trials.start(TrialWanted(**wanted), CALLER, by)

    def in_trial(self, browser: Browser, trial_id: str) -> Browser:
        browser.http.cookies.set("__Host-gw_trial", trial_id, domain="gateway.test")
        return browser

    async def ride(self, started: Any, scope: str = SCOPE, *, client_id: str = "app", username: str = "ann", **more: str) -> Ride:
        """A launch from beginning to end, and everything that can be had with it."""
        pkce, browser = Pkce(), self.browser()
        ride = Ride(browser, secrets=[pkce.verifier])
        request = smart.asking(client_id, scope, pkce, nonce="n-1", **more)
        if started is not None and started.launch:
            request["launch"] = started.launch
            ride.secrets.append(started.launch)
        elif started is not None:
            self.in_trial(browser, started.trial_id)
        await browser.authorize(request)
        if "/signin" in str(browser.page.request.url):
            await browser.sign_in(username)
        if "/consent" in str(browser.page.request.url):
            await browser.allow()
        ride.answer = browser.answer
        if "code" not in ride.answer:
            return ride
        form = {"grant_type": "authorization_code", "code": ride.answer["code"], "redirect_uri": APP, "code_verifier": pkce.verifier}
        ride.token = await self.exchange(form, client_id)
        ride.secrets.append(ride.answer["code"])
        if ride.token.status_code == 200:
            await self.use(ride, ride.body["access_token"])
        if "refresh_token" in ride.body:
            form = {"grant_type": "refresh_token", "refresh_token": ride.body["refresh_token"]}
            ride.refreshed = await self.exchange(form, client_id)
            if ride.refreshed.status_code == 200:
                await self.use(ride, ride.refreshed.json()["access_token"])
        for answer in (ride.body, ride.refreshed.json() if ride.refreshed is not None else {}):
            ride.secrets += [answer[name] for name in ("access_token", "refresh_token", "id_token") if name in answer]
        return ride

    async def exchange(self, form: Mapping[str, str], client_id: str = "app") -> httpx.Response:
        auth = ("web", "secret-of-web") if client_id == "web" else None
        return await smart.exchange(self.browser().http, dict(form) | ({} if auth else {"client_id": client_id}), auth=auth)

    async def use(self, ride: Ride, token: str) -> None:
        for path in READS:
            found = await self.at.fhir(token, "GET", path)
            ride.answers.append(found)
            if found.status_code == 200:
                resource = found.json()
                inside = [one["resource"] for one in resource.get("entry", [])] if resource["resourceType"] == "Bundle" else [resource]
                ride.got |= {f"{one['resourceType']}/{one['id']}" for one in inside}

    async def seen(self, started: Any, after: int = 0) -> list[dict[str, Any]]:
        answer = await self.at.http.get(f"{PUBLIC_URL}/launcher/trials/{started.trial_id}/events?after={after}")
        assert answer.status_code == 200, answer.text
        return answer.json()["events"]

    async def records(self, action: str) -> list[Any]:
        return [one for one in await self.at.gateway.state.audit.search(limit=400) if one.action == action]


async def furnish(at: Whole, key: smart.BackendKey) -> None:
    state = at.gateway.state
    registrar, accounts = local.registrar(state, ("hapi",)), local.accounts(state)
    app = {"redirect_uris": [APP], "launch_uri": "https://app.test/launch", "client_uri": "https://app.test/"}
    for name, more in (("app", {}), ("other", {"redirect_uris": ["https://other.test/cb"]})):
        await registrar.register(app | {"client_id": name, "token_endpoint_auth_method": "none"} | more)
    for name in ("web", "web-2"):
        await registrar.register(app | {"client_id": name, "client_secret": f"secret-of-{name}"})
    keys = {"grant_types": ["client_credentials"], "jwks": {"keys": [key.public]}}
    for name in ("lab", "lab-2"):
        await registrar.register({"client_id": name, "scope": "system/Observation.rs"} | keys)
    await registrar.register({"client_id": "record", "scope": "gateway.launch"} | keys)
    for name, user, listed in (("ann", f"Patient/{A}", ()), ("berg", "Practitioner/berg", (A,)), ("dora", "Practitioner/dora", ())):
        patients = [ListedPatient(one) for one in listed]
        await accounts.add(name, PASSWORD, ehr="hapi", fhir_user=user, patients=patients)


def encounter(who: str, number: int, start: str) -> dict[str, Any]:
    """One of a patient's, `who` a or b."""
    return {
        "resourceType": "Encounter",
        "id": TWO.id(f"visit-{who}{number}"),
        "status": "finished",
        "class": {"system": "http://terminology.hl7.org/CodeSystem/v3-ActCode", "code": "AMB", "display": "ambulatory"},
        "type": [{"text": f"Check-up <{number}>"}],
        "subject": {"reference": f"Patient/{TWO.a if who == 'a' else TWO.b}"},
        "period": {"start": start},
    }


ENCOUNTERS = (encounter("a", 1, "2026-03-02T09:00:00Z"), encounter("a", 2, "2026-11-03T09:00:00Z"), encounter("b", 1, "2026-11-04T09:00:00Z"))
TWO_OWN = {f"Observation/{TWO.id('lab-a')}", f"Observation/{TWO.id('vital-a')}", f"Condition/{TWO.id('cond-a')}"}
