"""Starts a driver in the clients' own Python, and is the person and the clock for it."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

import httpx

from tests.clients.scene import NATIVE, PASSWORD, PATIENT, SECRET, Scene
from tests.conformance.config import SignIn
from tests.conformance.forms import Forms
from tests.conformance.person import AS_OFFERED, Asked, Choice

DRIVERS = Path(__file__).parent / "drivers"
CHOICES = {"all": AS_OFFERED, "less": Choice("Allow no results.", lambda value, offered: offered and "Observation" not in value)}


def run(interpreter: Path, driver: str, client: str, running: Scene, **more: Any) -> Mapping[str, Any]:
    """What the driver found; each question of it is answered on the way."""
    told = {"base": running.base, "client_id": client, "secret": SECRET, "redirect_uri": NATIVE, **more}
    environ = {name: value for name, value in os.environ.items() if name in ("PATH", "HOME", "LANG")} | {"OAUTHLIB_INSECURE_TRANSPORT": "1"}
    command = [interpreter, DRIVERS / f"{driver}.py", json.dumps(told)]
    person = Forms({"patient": SignIn(PATIENT, PASSWORD, PATIENT)}, lambda: httpx.Client(trust_env=False, timeout=30))
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environ) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        try:
            for line in process.stdout:
                said = json.loads(line)
                if "ask" not in said:
                    return said
                process.stdin.write(json.dumps(_answer(said, client, running, person)) + "\n")
                process.stdin.flush()
            raise AssertionError(f"{driver} ended: {process.stderr.read() if process.stderr else ''}")
        finally:
            process.kill()
            person.close()


def _answer(said: Mapping[str, Any], client: str, running: Scene, person: Forms) -> str:
    if said["ask"] == "expire":
        running.expire(client)
        return ""
    url = urlsplit(said["url"])
    fields = dict(parse_qsl(url.query))
    arrived = person.authorize(Asked(url._replace(query="").geturl(), fields, choice=CHOICES[said.get("choice", "all")]))
    assert arrived.answer, arrived.page
    return f"{fields['redirect_uri']}?{urlencode(arrived.answer)}"
