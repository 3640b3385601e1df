"""How long a sign-in with consent and token exchange takes, and how late the loop is when many do it at once: `python -m bench.sign_in`.

The gateway serves in this process, beside a task that measures how late the loop wakes it. People are threads of another process, each with a
browser of its own that reads and sends the pages' forms. The EHR is the package's double: it answers in no time. Passwords are hashed as in
production.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import hashlib
import json
import secrets
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Coroutine
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import uvicorn

from gateway import app, compose, config, local
from gateway.sandbox.double import Double, served
from gateway.sandbox.forms import send
from gateway.sockets import listening
from gateway.store import schema

PASSWORD = "correct horse battery"  # noqa: S105  (of people made for this run)
REDIRECT = "https://app.test/cb"
SCOPE = "launch/patient openid fhirUser offline_access patient/Patient.rs patient/Observation.rs"
TICK = 0.001


def main() -> int:
    """Measure, and print."""
    parser = argparse.ArgumentParser(prog="python -m bench.sign_in", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--people", type=int, default=24, help="who sign in at once")
    parser.add_argument("--alone", type=int, default=10, help="sign-ins one after the other")
    parser.add_argument("--client", nargs=3, metavar=("URL", "FIRST", "COUNT"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.client:
        url, first, count = options.client
        print(json.dumps(signed_in(url, int(first), int(count))))
        return 0
    with tempfile.TemporaryDirectory(prefix="gateway-bench-") as folder, served(Double()) as ehr:
        found = asyncio.run(measured(Path(folder), ehr, options.people, options.alone))
    for line in found:
        print(line)
    return 0


async def measured(folder: Path, ehr: str, people: int, alone: int) -> list[str]:
    """One after the other, then all at once; each with the loop's lateness meanwhile."""
    async with serving(folder, ehr, people) as url:
        await asked(url, 0, 1)
        idle = await lateness(asyncio.sleep(2))
        one = [await asked(url, 0, 1) for _ in range(alone)]
        times, took = [], time.monotonic()

        async def all_at_once() -> None:
            times.extend(await asked(url, 0, people))

        late = await lateness(all_at_once())
        took = time.monotonic() - took
    singles = [seconds for each in one for seconds in each]
    return [
        f"sign-in, consent, token exchange, one at a time: median {statistics.median(singles) * 1000:.0f} ms of {alone}",
        f"{people} at once: median {statistics.median(times) * 1000:.0f} ms, all done in {took:.1f} s",
        f"the loop woke late by p50 {percentile(late, 50):.2f} ms, p99 {percentile(late, 99):.2f} ms, max {max(late):.1f} ms meanwhile",
        f"(idle: p50 {percentile(idle, 50):.2f} ms, p99 {percentile(idle, 99):.2f} ms)",
    ]


@asynccontextmanager
async def serving(folder: Path, ehr: str, people: int) -> AsyncIterator[str]:
    """A gateway in this process and loop, with an app and as many people as will sign in."""
    listener = listening("127.0.0.1")
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    settings = config.load(environ={}, flags={"ehr": (f"ehr={ehr}",), "public_url": url, "data_dir": str(folder)}, cwd=folder).settings
    gateway = compose.gateway(settings)
    await schema.prepare(gateway.state.database)
    metadata = {"client_id": "bench", "client_name": "Bench", "redirect_uris": [REDIRECT], "token_endpoint_auth_method": "none"}
    await local.registrar(gateway.state, ("ehr",)).register(metadata)
    accounts = local.accounts(gateway.state)
    for number in range(people):
        await accounts.add(f"person-{number}", PASSWORD, ehr="ehr", fhir_user=f"Patient/p{number}")
    server = uvicorn.Server(uvicorn.Config(app.app(gateway), log_level="critical", ws="none"))
    serving = asyncio.create_task(server.serve([listener]))
    while not server.started:  # noqa: ASYNC110  (uvicorn has no event for it)
        await asyncio.sleep(0.05)
    try:
        yield url
    finally:
        server.should_exit = True
        await serving


async def asked(url: str, first: int, count: int) -> list[float]:
    """Seconds of each sign-in, from people in a process of their own."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "bench.sign_in", "--client", url, str(first), str(count)), stdout=asyncio.subprocess.PIPE
    )
    said, _ = await process.communicate()
    return json.loads(said)


def signed_in(url: str, first: int, count: int) -> list[float]:
    """In the process of the people: each in a thread."""
    with ThreadPoolExecutor(count) as threads:
        return list(threads.map(lambda number: _sign_in(url, number), range(first, first + count)))


def _sign_in(url: str, number: int) -> float:
    verifier = secrets.token_urlsafe(48)
    asked = {
        "response_type": "code",
        "client_id": "bench",
        "redirect_uri": REDIRECT,
        "scope": SCOPE,
        "state": secrets.token_urlsafe(),
        "aud": f"{url}/fhir/ehr",
        "code_challenge": base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).decode().rstrip("="),
        "code_challenge_method": "S256",
    }
    with httpx.Client(trust_env=False, timeout=60) as browser:
        browser.get(f"{url}/healthz")
        began = time.monotonic()
        page = _followed(browser, browser.get(f"{url}/auth/ehr/authorize", params=asked))
        page = _followed(browser, send(browser, page, "/signin", username=f"person-{number}", password=PASSWORD))
        back = send(browser, page, "/consent", decision="allow")
        code = parse_qs(urlsplit(back.headers["location"]).query)["code"][0]
        form = {"grant_type": "authorization_code", "code": code, "redirect_uri": REDIRECT, "client_id": "bench", "code_verifier": verifier}
        browser.post(f"{url}/auth/ehr/token", data=form).raise_for_status()
        return time.monotonic() - began


def _followed(browser: httpx.Client, answer: httpx.Response) -> httpx.Response:
    while answer.is_redirect:
        answer = browser.get(answer.request.url.join(answer.headers["location"]))
    return answer


async def lateness(work: Coroutine[Any, Any, None]) -> list[float]:
    """Milliseconds that the loop was late, each millisecond, while `work` was done."""
    task = asyncio.create_task(work)
    found: list[float] = []
    while not task.done():
        due = time.perf_counter() + TICK
        await asyncio.sleep(TICK)
        found.append(max(0.0, time.perf_counter() - due) * 1000)
    await task
    return found


def percentile(values: list[float], which: int) -> float:
    """Of 100."""
    return statistics.quantiles(values, n=100)[which - 1]


if __name__ == "__main__":
    sys.exit(main())
