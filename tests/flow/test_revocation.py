"""Access that was taken back is over in every process, for each request that starts after the answer, also where Redis cannot be reached.

Two real processes on one store, with what they answered in their caches; between one of them and Redis is a relay that the test cuts.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import secrets
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import httpx
import pytest

from tests.support import parts, processes, smart
from tests.support.processes import Served, serving

pytestmark = [pytest.mark.hapi, pytest.mark.redis]
FHIR = {"Content-Type": "application/fhir+json", "Accept": "application/fhir+json"}
SCOPE = "launch/patient offline_access patient/Patient.r"
AFTER = 20
"""Requests that start after the answer, and are looked at."""


class Relay:
    """A way to a server that can be cut: what is on it ends, and nobody gets through any more."""

    def __init__(self, target: tuple[str, int]) -> None:
        self._target, self._open, self._live = target, True, list[socket.socket]()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while self._open:
                near = self._listener.accept()[0]
                far = socket.create_connection(self._target)
                self._live += [near, far]
                for one, other in ((near, far), (far, near)):
                    threading.Thread(target=_pump, args=(one, other), daemon=True).start()

    def cut(self) -> None:
        self._open = False
        for one in (self._listener, *self._live):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()


def _pump(source: socket.socket, sink: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            sink.sendall(data)
        sink.shutdown(socket.SHUT_WR)


@dataclass
class Two:
    """`near` reaches Redis; `cut_off` did, when it filled its cache."""

    near: Served
    cut_off: Served
    patient: str
    relay: Relay
    public_url: str

    def browser(self, at: Served) -> Browser:
        return Browser(at, self.public_url)

    def read(self, at: Served, token: str) -> httpx.Response:
        return httpx.get(f"{at.url}/fhir/hapi/Patient/{self.patient}", headers={"Authorization": f"Bearer {token}"}, trust_env=False)


class Browser(processes.Browser):
    """A browser at one of the two."""

    async def token(self) -> str:
        """Let the app in."""
        pkce = smart.Pkce()
        code = await smart.code_for(self, smart.asking(scope=SCOPE, pkce=pkce, aud=self.issuer))
        form = {"grant_type": "authorization_code", "code": code, "redirect_uri": smart.APP, "code_verifier": pkce.verifier, "client_id": "app"}
        answer = await smart.exchange(self.http, form)
        assert answer.status_code == 200, answer.text
        return answer.json()["access_token"]


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory, hapi_url: str) -> Iterator[Two]:
    patient, folder, port = f"revoked-{secrets.token_hex(4)}", tmp_path_factory.mktemp("two"), parts.free_port()
    body = {"resourceType": "Patient", "id": patient, "name": [{"family": "Revoked"}]}
    assert httpx.put(f"{hapi_url}/Patient/{patient}", json=body, headers=FHIR, trust_env=False).status_code == 201
    public_url, redis_port = f"http://127.0.0.1:{port}", parts.free_port()
    with parts.valkey(port=redis_port) as server, contextlib.ExitStack() as stack:
        relay = Relay(("127.0.0.1", redis_port))
        ehr, public = f"hapi={hapi_url}", ("--public-url", public_url)
        near = stack.enter_context(serving(folder, ehr, extra=(*public, "--redis", server.url), port=port))
        relayed = f"redis://127.0.0.1:{relay.port}"
        cut_off = stack.enter_context(serving(folder, ehr, extra=(*public, "--redis", relayed)))
        app = {"client_id": "app", "client_name": "App", "token_endpoint_auth_method": "none", "redirect_uris": [smart.APP]}
        near.cli("client", "register", "--from", "-", text=json.dumps(app))
        near.cli("user", "add", "ann", "--fhir-user", f"Patient/{patient}", "--password-stdin", text=smart.PASSWORD)
        yield Two(near, cut_off, patient, relay, public_url)
        relay.cut()


@pytest.fixture(scope="module")
async def tokens(two: Two) -> AsyncIterator[tuple[Browser, list[tuple[str, str]]]]:
    """Access for each case, read through both processes until both gave it from the cache; then the relay is cut."""
    browser = two.browser(two.near)
    made = [await browser.token() for _ in range(len(ROADS) * 2)]
    for token, at in itertools.product(made, (two.near, two.cut_off)):
        assert two.read(at, token).status_code == 200
        assert "hit" in two.read(at, token).headers["cache-status"]
    two.relay.cut()
    assert two.read(two.cut_off, made[0]).status_code == 200  # without a cache it goes on
    grants = [one["id"] for one in two.near.json("grant", "list", "--user", "ann")]  # the newest first
    yield browser, list(zip(made, reversed(grants), strict=True))
    await browser.http.aclose()


async def by_the_app(two: Two, at: Served, browser: Browser, token: str, grant: str) -> None:
    """RFC 7009."""
    del two, browser, grant
    async with httpx.AsyncClient(base_url=at.url, trust_env=False) as http:
        assert (await http.post("/auth/hapi/revoke", data={"token": token, "client_id": "app"})).status_code == 200


async def by_the_person(two: Two, at: Served, browser: Browser, token: str, grant: str) -> None:
    """The page of connected apps."""
    del token
    here = two.browser(at)
    here.http.cookies = browser.http.cookies
    await here.get("/apps")
    await here.submit("/apps", grant=grant)
    assert "ended" in str(here.page.request.url)
    await here.http.aclose()


async def by_the_operator(two: Two, at: Served, browser: Browser, token: str, grant: str) -> None:
    """The command, which is a process of its own whichever of the two is asked afterwards."""
    del at, browser, token
    assert two.near.json("grant", "end", grant)["ended"] == 1


ROADS: tuple[Callable, ...] = (by_the_app, by_the_person, by_the_operator)
NUMBERED = {(road, direction): number for number, (road, direction) in enumerate(itertools.product(ROADS, (0, 1)))}


@pytest.mark.parametrize("direction", [0, 1], ids=["at-near", "at-cut-off"])
@pytest.mark.parametrize("road", ROADS, ids=lambda road: road.__name__)
async def test_what_was_taken_back_is_over_in_both_processes(two, tokens, road, direction):
    """Asked without a pause at the other process: whatever started after the answer is 401, and at the own one too."""
    browser, made = tokens
    (token, grant), (at, other) = made[NUMBERED[road, direction]], ((two.near, two.cut_off), (two.cut_off, two.near))[direction]
    seen: list[tuple[float, int]] = []
    over = threading.Event()

    def ask() -> None:
        headers = {"Authorization": f"Bearer {token}"}
        with httpx.Client(base_url=other.url, headers=headers, trust_env=False) as http:
            while not over.is_set():
                began = time.monotonic()
                seen.append((began, http.get(f"/fhir/hapi/Patient/{two.patient}").status_code))

    with ThreadPoolExecutor(2) as pool:
        asking = [pool.submit(ask) for _ in range(2)]
        await _until(lambda: any(status == 200 for _, status in seen))
        await road(two, at, browser, token, grant)
        answered = time.monotonic()
        await _until(lambda: sum(began >= answered for began, _ in seen) >= AFTER)
        over.set()
        for one in asking:
            one.result()
    assert 200 in {status for began, status in seen if began < answered}
    after = [status for began, status in seen if began >= answered]
    assert set(after) == {401}
    assert two.read(at, token).status_code == 401


async def _until(holds: Callable[[], bool]) -> None:
    """However busy the machine is."""
    async with asyncio.timeout(30):
        while not holds():  # noqa: ASYNC110  # threads see it, no event of this loop
            await asyncio.sleep(0.01)
