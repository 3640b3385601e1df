"""docs/launch-your-app.md runs: each command as it stands, on a served gateway; and each refusal of its table is what the gateway answers."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from gateway.sandbox.double import Double, served
from gateway.store import oauth as rows
from tests.support import smart
from tests.support.processes import serving

PAGE = (Path(__file__).parents[2] / "docs" / "launch-your-app.md").read_text("utf-8")
ROW = re.compile(r'^\| (page|token)? ?`([a-z_-]+)`(?: "([^"]+)")? \|', re.MULTILINE)
WALK = """
import re, sys, httpx
from html import unescape
from gateway.sandbox.forms import forms

def send(page, action, **given):
    form = next(one for one in forms(page.text) if one.action.endswith(action))
    return follow(http.post(str(page.url.join(form.action)), data=form.filled() | given))

def follow(answer):
    while answer.is_redirect:
        if answer.headers["location"].startswith("http://localhost:3000/"):
            print(re.search("code=([^&]+)", answer.headers["location"])[1])
            sys.exit()
        answer = http.get(str(answer.url.join(answer.headers["location"])))
    return answer

http = httpx.Client(trust_env=False)
page = follow(http.get(sys.argv[1]))
if page.url.path == "/signin":
    page = send(page, "/signin", username="ann", password="correct horse battery")
send(page, "/consent", decision="allow")
"""


def commands() -> Iterator[str]:
    """What is typed, with continued lines joined. What the reader does by hand is done by the walk."""
    text = "".join(re.findall(r"```console\n(.*?)```", PAGE, re.DOTALL)).replace("\\\n", " ")
    for line in text.splitlines():
        if line.startswith("$ ") and not line.startswith("$ gateway serve"):
            yield line[2:].replace("CODE=...", 'CODE=$(python3 walk.py "$URL")')


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which the page was carried out from top to bottom."""
    assert shutil.which("curl")
    assert shutil.which("openssl")
    folder, double = tmp_path_factory.mktemp("page"), Double()
    double.seed(
        {"resourceType": "Patient", "id": "ann", "name": [{"text": "Ann Page"}]},
        {"resourceType": "Observation", "id": "o1", "status": "final", "code": {"text": "Height"}, "subject": {"reference": "Patient/ann"}},
    )
    (folder / "walk.py").write_text(WALK)
    (folder / "app.json").write_text(next(iter(re.findall(r"```json\n(.*?)```", PAGE, re.DOTALL))))
    on_path = folder / "bin"
    on_path.mkdir()
    for name, what in (("gateway", " -m gateway"), ("python3", "")):
        (on_path / name).write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)}{what} "$@"\n')
        (on_path / name).chmod(0o755)
    with served(double) as ehr, serving(folder, f"hapi={ehr}") as running:
        script = "set -euo pipefail\n" + "\n".join(commands())
        script = script.replace("http://127.0.0.1:8080", running.url).replace("http://127.0.0.1:8090/fhir", ehr)
        env = os.environ | {"PATH": f"{on_path}:{os.environ['PATH']}", "GATEWAY_PUBLIC_URL": running.url}
        env |= {"GATEWAY_STORE": f"sqlite:///{folder / 'gateway.db'}", "PYTHONPATH": str(Path(__file__).parents[2]), "no_proxy": "*"}
        done = subprocess.run(["bash", "-c", script], cwd=folder, env=env, capture_output=True, text=True, check=False, timeout=120)
        (folder / "printed").write_text(done.stdout)
        assert done.returncode == 0, done.stderr + done.stdout[-2000:] + running.log.read_text()[-2000:]
    return folder


def test_the_page_runs(answers):
    """Discovery, registration, a standalone launch, the data, a refresh, an EHR launch, a pushed request."""
    printed = (answers / "printed").read_text()
    assert '"pushed_authorization_request_endpoint"' in printed
    assert "Ann Page" in printed
    assert '"Height"' in printed
    token, refreshed, launched, pushed = (json.loads((answers / f"{name}.json").read_text()) for name in ("token", "refreshed", "launched", "pushed"))
    assert (token["patient"], token["scope"]) == ("ann", "launch/patient openid fhirUser offline_access patient/*.rs")
    assert (refreshed["patient"], refreshed["refresh_token"] != token["refresh_token"]) == ("ann", True)
    context = {"patient": "ann", "encounter": "visit-1", "intent": "compare", "fhirContext": [{"reference": "ImagingStudy/i7"}]}
    assert {name: launched.get(name) for name in context} == context
    assert pushed["expires_in"] == 90


@pytest.fixture
async def server(tmp_path) -> AsyncIterator[smart.Smart]:
    async with smart.smart_server(f"sqlite+aiosqlite:///{tmp_path}/store.db") as found:
        await found.public_app()
        await found.secret_app()
        await found.person()
        async with found.database.write() as connection:  # one that registered itself
            await rows.put_client(connection, replace(await rows.client(connection, "app"), id="waiting", pending_since=found.clock()), frozenset())
        yield found


ASKED = {
    ("page", "client-unknown", ""): {"client_id": "nobody"},
    ("page", "redirect-not-registered", ""): {"redirect_uri": f"{smart.APP}/"},
    ("page", "request-uri-unknown", ""): {"request_uri": "urn:ietf:params:oauth:request_uri:x"},
    ("page", "request-too-long", ""): {"state": "x" * 20_001},
    ("page", "client-pending", ""): {"client_id": "waiting"},
    ("", "invalid_request", "The parameter aud"): {"aud": "https://elsewhere.test/fhir"},
    ("", "invalid_request", "PKCE is required"): {"code_challenge": None, "code_challenge_method": None},
    ("", "invalid_request", "The scope launch"): {"scope": "launch openid"},
    ("", "invalid_request", "The launch is unknown"): {"scope": "launch openid", "launch": "used"},
    ("", "invalid_scope", "None of the scopes"): {"scope": "system/*.rs"},
    ("", "unsupported_response_type", "Only response_type"): {"response_type": "token"},
    ("", "login_required", "The person has to sign in"): {"prompt": "none"},
}
TOKEN = {
    "invalid_grant": {"grant_type": "authorization_code", "code": "x", "redirect_uri": smart.APP, "code_verifier": "x" * 43, "client_id": "app"},
    "invalid_client": {"grant_type": "authorization_code", "code": "x", "redirect_uri": smart.APP, "client_id": "web"},
    "unsupported_grant_type": {"grant_type": "password", "username": "ann", "password": "x", "client_id": "app"},
}


async def test_each_refusal_of_the_table_is_the_gateways(server):
    """The same words, letter by letter, from the same mistake."""
    found = [(kind, code, words) for kind, code, words in ROW.findall(PAGE[PAGE.index("## Common refusals") :])]
    left = (
        {("page", "parameter-repeated"), ("page", "request-malformed"), ("", "access_denied")}
        | {(kind, code) for kind, code, _ in ASKED}
        | {("token", code) for code in TOKEN}
    )
    for kind, code, words in found:
        browser = smart.Browser(server.app())
        if kind == "token":
            assert (await smart.exchange(browser.http, TOKEN[code])).json()["error"] == code
        elif code == "parameter-repeated":
            assert code in (await browser.get(f"/auth/hapi/authorize?{'&'.join(['state=1'] * 2)}")).text
        elif code == "request-malformed":
            assert code in (await browser.get("/auth/hapi/authorize?state=%FF")).text
        elif code == "access_denied":
            await browser.authorize(smart.asking())
            await browser.sign_in()
            await browser.deny()
            assert (browser.answer["error"], browser.answer["error_description"]) == (code, words)
        else:
            change = next(fields for (one, other, begins), fields in ASKED.items() if (one, other) == (kind, code) and words.startswith(begins))
            await browser.authorize(smart.asking(**change))
            if kind == "page":
                assert code in browser.page.text
            else:
                answer = {name: texts[0] for name, texts in parse_qs(urlsplit(browser.left_to).query).items()}
                assert answer["error"] == code
                assert words in answer["error_description"]
        left.discard((kind, code))
    assert len(found) == len(ASKED) + len(TOKEN) + 3
    assert left == set()
