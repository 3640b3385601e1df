"""`gateway demo --check`: each of the three jobs once, over HTTP as people, systems and apps do it, and in a browser where one is found.

A step is a method of `Walk` that raises when something is not as it should be; `STEPS` is the list. What one step learns, a later one uses.
"""

from __future__ import annotations

import base64
import hashlib
import html
import importlib
import json
import os
import re
import secrets
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast
from urllib.parse import parse_qs, urlsplit

import httpx

from gateway.sandbox import sample_app
from gateway.sandbox.demo import DELIVERS, NOTIFIES, Demo, Say, Stop, Wanted, observation, started, stopping
from gateway.sandbox.forms import forms, send

_FHIR = {"Accept": "application/fhir+json", "Content-Type": "application/fhir+json"}


class Failed(Exception):
    """A step did not end as it should."""


class LeftOut(Exception):
    """A step cannot be walked here; why."""


@dataclass(slots=True)
class Walk:
    """One walk. `person` is the first of the demo's people, `mark` is in everything that is written."""

    demo: Demo
    portal: httpx.Client
    outside: httpx.Client
    mark: str = field(default_factory=lambda: secrets.token_hex(4))
    pushed: str = ""
    verifier: str = field(default_factory=lambda: secrets.token_urlsafe(40))
    code: str = ""
    token: str = ""
    token_endpoint: str = ""
    seen_before: str = ""
    value: str = ""
    sender: dict[str, str] = field(default_factory=dict[str, str])

    @property
    def patient(self) -> str:
        """Whose record it is about."""
        return self.demo.accounts[0].patients[0][0]

    # The patient -------------------------------------------------------------------------------------------------------------------------

    def signs_in(self) -> str:
        """The portal sends her to the sign-in page, and back."""
        person = self.demo.accounts[0]
        page = _ok(self.portal.get(f"{self.demo.settings.public_url}/"))
        home = _ok(send(self.portal, page, "/signin", username=person.username, password=person.password))
        _expect(person.display in home.text, "her name is not on the page")
        return f"{person.display} is signed in"

    def sees_results(self) -> str:
        """The page shows value and unit as they stand in the EHR, character by character."""
        found = self._some_result()
        if found is None:
            raise LeftOut("the EHR has no numeric result of this patient")
        id_, value, unit = found
        page = _ok(self.portal.get(self._url(f"/portal/results/observation/{id_}")))
        _expect(f"{value} {unit}".strip() in _text(page), f"{value} {unit} is not on the page of the result")
        return f"{value} {unit} on the page, as in the EHR"

    def opens_every_page(self) -> str:
        """All sections answer."""
        home = _ok(self.portal.get(self._url("/portal/")))
        paths = sorted(set(re.findall(r'href="(/portal/[a-z]+)"', home.text)))
        for path in paths:
            _ok(self.portal.get(self._url(path)))
        return ", ".join(path.rpartition("/")[2] for path in paths)

    def writes_a_message(self) -> str:
        """It is in the EHR as a Communication, and on her page at once."""
        text = f"May I take it with food? ({self.mark})"
        page = _ok(self.portal.get(self._url("/portal/messages/new")))
        if not any(one.action.endswith("/portal/messages/new") for one in forms(page.text)):
            raise LeftOut("the EHR names nobody whom she could write to")
        shown = _ok(send(self.portal, page, "/portal/messages/new", topic=f"A question {self.mark}", text=text))
        _expect(self.mark in shown.text, "the message is not on the page that answers")
        _expect(self.mark in _ok(self.portal.get(self._url("/portal/messages"))).text, "the message is not in the list")
        stored = self._in_ehr("Communication", {"subject": f"Patient/{self.patient}", "_count": "200"})
        _expect(text in json.dumps(stored, ensure_ascii=False), "the EHR has no such Communication")
        return "in the EHR as a Communication, on the page at once"

    def sees_who_looked(self) -> str:
        """Her own visits are on record."""
        _expect("You" in _text(_ok(self.portal.get(self._url("/portal/access")))), "her own visits are not listed")
        return "her own visits are listed"

    # The EHR -----------------------------------------------------------------------------------------------------------------------------

    def pushes_a_result(self) -> str:
        """A laboratory signs an assertion, gets a token, and posts an Observation; it is delivered into the EHR."""
        self.seen_before = _text(_ok(self.portal.get(self._url("/portal/results"))))
        value = round(4 + secrets.randbelow(90) / 100 + 0.005, 3)
        body = observation(self.patient, value)
        answer = self._push("POST", "Observation", body, DELIVERS)
        _expect(answer.status_code in (200, 201, 202), f"the push got {answer.status_code}")
        location = self._location(answer)
        self.pushed = "/".join(urlsplit(location).path.partition("/_history")[0].split("/")[-2:])
        stored = self._in_ehr(self.pushed, {})
        _expect(stored.get("valueQuantity", {}).get("value") == value, "the EHR does not have what was pushed")
        self.value = str(value)
        return f"{self.pushed} is in the EHR"

    def shows_what_was_pushed(self) -> str:
        """Although the list was cached a moment ago."""
        _expect(self.value not in self.seen_before, "the value was there before")
        _expect(self.value in _text(_ok(self.portal.get(self._url("/portal/results")))), "the new result is not on her page")
        return f"{self.value} is on her page at the next load"

    def notifies_of_a_correction(self) -> str:
        """The EHR corrects the result itself and tells the gateway: nothing is written back, and the page is new."""
        if self.demo.wanted.ehr not in ("embedded", "hapi"):
            raise LeftOut("nothing is written to this EHR behind the gateway's back")
        corrected = round(float(self.value) + 1, 3)
        body: dict[str, Any] = {**self._in_ehr(self.pushed, {}), "status": "corrected"}
        body["valueQuantity"]["value"] = corrected
        written = self.outside.put(f"{self.demo.ehr_url}/{self.pushed}", json=_sendable(body), headers={**_FHIR, **self.demo.ehr_headers})
        _expect(written.status_code == 200, f"the EHR answered {written.status_code}")
        answer = self._push("PUT", self.pushed, _sendable(body), NOTIFIES)
        _expect(answer.status_code in (200, 201, 202), f"the notice got {answer.status_code}")
        self._location(answer)
        _expect(str(corrected) in _text(_ok(self.portal.get(self._url("/portal/results")))), "the correction is not on her page")
        return f"corrected to {corrected} in the EHR, on her page at the next load"

    # The developer -----------------------------------------------------------------------------------------------------------------------

    def launches_an_app(self) -> str:
        """From the EHR, as the printed launch does: sign-in is there already, consent, code."""
        launch = parse_qs(urlsplit(self.demo.launch.url).query)
        server = _ok(self.outside.get(f"{launch['iss'][0]}/.well-known/smart-configuration")).json()
        challenge = base64.urlsafe_b64encode(hashlib.sha256(self.verifier.encode()).digest()).decode().rstrip("=")
        asked = {
            "response_type": "code",
            "client_id": sample_app.CLIENT_ID,
            "redirect_uri": f"{self.demo.app_url}/callback",
            "scope": f"launch {sample_app.SCOPES}",
            "state": self.mark,
            "aud": launch["iss"][0],
            "launch": launch["launch"][0],
            "code_challenge": challenge,
            "code_challenge_method": "S256",
        }
        page = _ok(self.portal.get(server["authorization_endpoint"], params=asked))
        _expect("What may" in page.text, "the consent page did not come")
        landed = send(self.portal, page, "/consent", decision="allow")
        back = parse_qs(landed.url.query.decode())
        _expect(str(landed.url).startswith(f"{self.demo.app_url}/callback"), "the browser did not get back to the app")
        _expect(back.get("state") == [self.mark] and back.get("iss") == launch["iss"], "state or iss is not that of the request")
        self.code, self.token_endpoint = back["code"][0], str(server["token_endpoint"])
        return "the person agreed, the app has a code"

    def gets_tokens(self) -> str:
        """Code and PKCE verifier for tokens, with the patient in context."""
        form = {
            "grant_type": "authorization_code",
            "code": self.code,
            "redirect_uri": f"{self.demo.app_url}/callback",
            "client_id": sample_app.CLIENT_ID,
            "code_verifier": self.verifier,
        }
        found = _ok(self.outside.post(self.token_endpoint, data=form)).json()
        _expect(found.get("patient") == self.patient, "another patient is in context")
        self.token = str(found["access_token"])
        return f"for {found['patient']}: {found['scope']}"

    def reads_with_a_token(self) -> str:
        """The app's own patient yes, another one no; and without a token nothing at all."""
        other = next((one.patients[0][0] for one in self.demo.accounts[1:] if one.patients[0][0] != self.patient), "")
        headers = {"Authorization": f"Bearer {self.token}"}
        mine = _ok(self.outside.get(f"{self.demo.base}/Patient/{self.patient}", headers=headers)).json()
        _expect(mine.get("id") == self.patient, "another patient came back")
        found = _ok(self.outside.get(f"{self.demo.base}/Observation", params={"_count": "5"}, headers=headers)).json()
        subjects = {entry["resource"]["subject"]["reference"] for entry in found.get("entry", [])}
        _expect(subjects <= {f"Patient/{self.patient}"}, "somebody else's results came back")
        if other:
            _expect(self.outside.get(f"{self.demo.base}/Patient/{other}", headers=headers).status_code == 404, "another patient can be read")
        _expect(self.outside.get(f"{self.demo.base}/Patient/{self.patient}").status_code == 401, "nobody needs a token")
        return f"{len(found.get('entry', []))} results of her own; another patient is 404"

    def checks_the_ehr(self) -> str:
        """`gateway ehr check` reads what the server can do."""
        done = _gateway("ehr", "check", self.demo.wanted.name, "--config", str(self.demo.config), "--json")
        found = json.loads(done)
        return f"{found['report']['software']} {found['report']['software_version']}, FHIR {found['report']['fhir_version']}"

    # The browser -------------------------------------------------------------------------------------------------------------------------

    def uses_a_browser(self) -> str:
        """The portal without JavaScript, and the sample app's standalone launch with it."""
        playwright = _playwright()
        program = _chromium()
        person = self.demo.accounts[0]
        with playwright() as engine:
            browser = engine.chromium.launch(executable_path=program, args=["--no-sandbox"])
            try:
                plain = browser.new_context(java_script_enabled=False).new_page()
                plain.goto(self._url("/portal/"))
                _sign_in(plain, person.username, person.password)
                _expect(person.display in plain.inner_text("body"), "the portal does not greet her")
                page = browser.new_context().new_page()
                page.goto(f"{self.demo.app_url}/")
                page.click("#connect")
                _sign_in(page, person.username, person.password)
                while page.locator("input[type=radio][name=patient]").count():
                    page.locator("input[type=radio][name=patient]").first.check()
                    page.locator("main button[type=submit]").first.click()
                page.click("button[value=allow]")
                page.wait_for_selector("#record:not([hidden])")
                _expect(person.display.split()[0] in page.inner_text("#patient"), "the app shows another name")
            finally:
                browser.close()
        return "portal without JavaScript; standalone launch of the sample app"

    # Tools -------------------------------------------------------------------------------------------------------------------------------

    def _url(self, path: str) -> str:
        return f"{self.demo.settings.public_url}{path}"

    def _in_ehr(self, path: str, params: dict[str, str]) -> dict[str, Any]:
        """Asked of the EHR itself, around the gateway."""
        headers = {**_FHIR, **self.demo.ehr_headers, "Cache-Control": "no-cache"}
        return _ok(self.outside.get(f"{self.demo.ehr_url}/{path}", params=params, headers=headers)).json()

    def _some_result(self) -> tuple[str, str, str] | None:
        headers = {**_FHIR, **self.demo.ehr_headers}
        params = {"subject": f"Patient/{self.patient}", "_count": "50"}
        text = _ok(self.outside.get(f"{self.demo.ehr_url}/Observation", params=params, headers=headers)).text
        bundle = json.loads(text, parse_float=str, parse_int=str)  # as written: 1.10 is not 1.1
        found = [one for entry in bundle.get("entry", []) if (one := _numeric(entry["resource"]))]
        return next((one for one in found if re.fullmatch(r"\d+\.\d*0", one[1])), found[0] if found else None)

    def _push(self, method: str, path: str, body: dict[str, Any], client_id: str) -> httpx.Response:
        key = str(self.demo.key(client_id))
        token = _gateway("client", "token", "--config", str(self.demo.config), "--client", client_id, "--key", key).strip()
        headers = {**_FHIR, "Authorization": f"Bearer {token}"}
        self.sender = headers
        return self.outside.request(method, f"{self.demo.base}/{path}", json=body, headers=headers)

    def _location(self, answer: httpx.Response) -> str:
        """Of the result itself, or, after a 202, of the status that says it is through."""
        if answer.status_code != 202:
            return answer.headers.get("location", "")
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            status = self.outside.get(answer.headers["content-location"], headers=self.sender)
            if status.status_code == 200:
                return str(status.json()["entry"][0]["response"].get("location", ""))
            time.sleep(0.2)
        raise Failed("the push was not delivered within 30 s")


STEPS: tuple[tuple[str, Callable[[Walk], str]], ...] = (
    ("patient: signs in", Walk.signs_in),
    ("patient: sees a result", Walk.sees_results),
    ("patient: opens every page", Walk.opens_every_page),
    ("patient: writes a message", Walk.writes_a_message),
    ("patient: sees who looked", Walk.sees_who_looked),
    ("EHR: pushes a result", Walk.pushes_a_result),
    ("EHR: the page shows it", Walk.shows_what_was_pushed),
    ("EHR: notifies of a correction", Walk.notifies_of_a_correction),
    ("developer: checks the EHR", Walk.checks_the_ehr),
    ("developer: launches an app", Walk.launches_an_app),
    ("developer: gets tokens", Walk.gets_tokens),
    ("developer: reads with a token", Walk.reads_with_a_token),
    ("browser: portal and app", Walk.uses_a_browser),
)


def check(wanted: Wanted) -> int:
    """Start everything, walk, end everything. 1 at the first step that fails."""
    with stopping():
        begun = time.monotonic()
        try:
            with started(wanted, say=_say) as demo:
                walked = walk(demo, say=_say)
        except Stop:
            return 130
    _say(f"{'All three jobs were done' if walked else 'Stopped at the first failure'} ({time.monotonic() - begun:.0f} s).")
    return 0 if walked else 1


def walk(demo: Demo, *, say: Say) -> bool:
    """Whether every step ended as it should."""
    with _client(follow=True) as portal, _client(follow=False) as outside:
        found = Walk(demo, portal, outside)
        for name, step in STEPS:
            if not _walked(found, name, step, say):
                return False
    return True


def _walked(found: Walk, name: str, step: Callable[[Walk], str], say: Say) -> bool:
    begun = time.monotonic()
    try:
        state, told = "ok", step(found)
    except LeftOut as why:
        state, told = "left out", str(why)
    except (Failed, httpx.HTTPError, LookupError, ValueError, OSError, subprocess.SubprocessError) as error:
        state, told = "FAILED", f"{type(error).__name__}: {error}"
    say(f"{time.monotonic() - begun:6.2f} s  {state:<8}  {name:<32}  {told}")
    return state != "FAILED"


def _client(*, follow: bool) -> httpx.Client:
    return httpx.Client(follow_redirects=follow, trust_env=False, timeout=30)


def _ok(answer: httpx.Response) -> httpx.Response:
    if answer.status_code != 200:
        raise Failed(f"{answer.request.method} {answer.request.url.path} is {answer.status_code}: {_text(answer)[:400]}")
    return answer


def _expect(holds: bool, otherwise: str) -> None:  # noqa: FBT001  # reads as an assertion
    if not holds:
        raise Failed(otherwise)


def _text(page: httpx.Response) -> str:
    """What a reader sees, in one line."""
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", page.text)).split())


def _numeric(observation_: dict[str, Any]) -> tuple[str, str, str] | None:
    """Id, value and unit, as written, of a result with one number."""
    quantity = cast("dict[str, Any]", observation_.get("valueQuantity") or {})
    if observation_.get("status") not in ("final", "corrected", "amended") or "value" not in quantity or "comparator" in quantity:
        return None
    return str(observation_["id"]), str(quantity["value"]), str(quantity.get("unit", ""))


def _sendable(resource: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in resource.items() if name != "meta"}


def _gateway(*arguments: str) -> str:
    """A command of `gateway`, as a person would type it."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith("GATEWAY_")}
    done = subprocess.run([sys.executable, "-m", "gateway", *arguments], capture_output=True, text=True, check=False, timeout=120, env=environ)
    if done.returncode:
        raise Failed(done.stderr.strip())
    return done.stdout


def _playwright() -> Any:
    try:
        return importlib.import_module("playwright.sync_api").sync_playwright
    except ImportError as error:
        raise LeftOut("Playwright is not installed") from error


def _chromium() -> str:
    named = os.environ.get("GATEWAY_TEST_CHROMIUM", "")
    for name in ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable"):
        named = named or shutil.which(name) or ""
    downloaded = sorted(Path.home().glob(".cache/ms-playwright/chromium-*/chrome-linux*/chrome"))
    if not named and not downloaded:
        raise LeftOut("no Chromium was found")
    return named or str(downloaded[-1])


def _sign_in(page: Any, username: str, password: str) -> None:
    page.fill("input[name=username]", username)
    page.fill("input[name=password]", password)
    page.click("main button[type=submit]")


def _say(text: str) -> None:
    print(text, flush=True)
