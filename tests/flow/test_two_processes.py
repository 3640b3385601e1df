"""What may happen once happens once, also where two processes share one PostgreSQL and one Redis, and fifty requests come to both at once.

tests/contract/test_oauth_races.py has the same within one process, and the rest of what happens once.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest
from sqlalchemy import select

from gateway.store import oauth_tables as tables
from gateway.store.base import Database
from tests.support import parts, smart
from tests.support.processes import Browser, Served, serving

pytestmark = [pytest.mark.postgres, pytest.mark.redis]
PARALLEL = 50
SCOPE = "launch/patient offline_access patient/Observation.rs"
NOWHERE = "http://127.0.0.1:9/fhir"  # nothing is read at an EHR here


@dataclass
class Two:
    """Two processes at one address."""

    both: tuple[Served, Served]
    public_url: str
    lab: smart.BackendKey

    def asking(self, **more: Any) -> dict[str, str]:
        return smart.asking(**{"scope": SCOPE, "aud": f"{self.public_url}/fhir/hapi"} | more)


@dataclass
class Callers:
    """One caller's connections to each of the two, and somebody who is signed in."""

    two: Two
    https: tuple[httpx.AsyncClient, httpx.AsyncClient]
    ann: Browser

    async def at_once(self, ask: Callable[[httpx.AsyncClient], Awaitable[httpx.Response]]) -> list[httpx.Response]:
        """Fifty requests, to the one and the other in turn."""
        return list(await asyncio.gather(*(ask(self.https[number % 2]) for number in range(PARALLEL))))

    async def exchanged(self, form: dict[str, str]) -> list[httpx.Response]:
        return await self.at_once(lambda http: smart.exchange(http, form))

    async def alone(self, form: dict[str, str], at: int = 0) -> httpx.Response:
        return await smart.exchange(self.https[at], form)

    async def code(self) -> dict[str, str]:
        """The form that exchanges a new code."""
        pkce = smart.Pkce()
        code = await smart.code_for(self.ann, self.two.asking(pkce=pkce))
        return {"grant_type": "authorization_code", "code": code, "redirect_uri": smart.APP, "code_verifier": pkce.verifier, "client_id": "app"}

    async def lets_in(self, token: str) -> set[bool]:
        """Whether each of the two takes an access token: what stands behind it is an EHR that is not there."""
        found = [await http.get("/fhir/hapi/Observation?patient=a", headers={"Authorization": f"Bearer {token}"}) for http in self.https]
        return {one.status_code != 401 for one in found}


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory, postgres_server: str, redis_url: str) -> Iterator[Two]:
    folder, port, store = tmp_path_factory.mktemp("both"), parts.free_port(), parts.new_database(postgres_server)
    public_url = f"http://127.0.0.1:{port}"
    extra = ("--public-url", public_url, "--redis", redis_url)
    with ExitStack() as stack:
        stack.callback(parts.drop_database, store)
        both = tuple(stack.enter_context(serving(folder, f"hapi={NOWHERE}", extra=extra, port=at, store=store)) for at in (port, 0))
        lab = _filled(both[0])
        yield Two((both[0], both[1]), public_url, lab)


def _filled(served: Served) -> smart.BackendKey:
    """An app, a backend client and a person."""
    app = {"client_id": "app", "client_name": "App", "token_endpoint_auth_method": "none", "redirect_uris": [smart.APP]}
    key = smart.BackendKey()
    lab = {"client_id": "lab", "grant_types": ["client_credentials"], "scope": "system/Observation.rs", "jwks": {"keys": [key.public]}}
    for client in (app | {"launch_uri": "https://app.test/launch"}, lab):
        served.cli("client", "register", "--from", "-", text=json.dumps(client))
    served.cli("user", "add", "ann", "--fhir-user", "Patient/a", "--password-stdin", text=smart.PASSWORD)
    return key


@pytest.fixture
async def callers(two: Two) -> AsyncIterator[Callers]:
    near, other = (httpx.AsyncClient(base_url=at.url, trust_env=False, timeout=30) for at in two.both)
    ann = Browser(two.both[0], two.public_url)
    async with near, other, ann.http:
        yield Callers(two, (near, other), ann)


def counted(answers: Sequence[httpx.Response]) -> Counter[tuple[int, str]]:
    """How often each status came, with its error."""
    return Counter((one.status_code, one.json().get("error", "")) for one in answers)


def body(answers: Sequence[httpx.Response]) -> dict[str, Any]:
    """What the one that went well says."""
    (found,) = (one.json() for one in answers if one.status_code == 200)
    return found


async def test_one_code_fifty_exchanges(callers: Callers):
    """ATK-O6: one 200; the others are a reuse that was seen, which ends the family in both processes (RFC 6749 section 4.1.2)."""
    found = await callers.exchanged(await callers.code())
    assert counted(found) == {(200, ""): 1, (400, "invalid_grant"): PARALLEL - 1}
    token = body(found)
    assert await callers.lets_in(token["access_token"]) == {False}
    refused = await callers.alone({"grant_type": "refresh_token", "refresh_token": token["refresh_token"], "client_id": "app"}, at=1)
    assert (refused.status_code, refused.json()["error"]) == (400, "invalid_grant")


async def test_one_refresh_token_fifty_refreshes(callers: Callers):
    """ATK-O13: one successor. Nobody used it yet, so an answer may have been lost, and the family lives; once it was used, reuse ends all."""
    token = (await callers.alone(await callers.code())).json()
    form = {"grant_type": "refresh_token", "refresh_token": token["refresh_token"], "client_id": "app"}
    found = await callers.exchanged(form)
    assert counted(found) == {(200, ""): 1, (400, "invalid_grant"): PARALLEL - 1}
    assert await _alive(callers.two) == 1
    assert counted(await callers.exchanged(form)) == {(400, "invalid_grant"): PARALLEL}
    successor = form | {"refresh_token": body(found)["refresh_token"]}
    newest = (await callers.alone(successor, at=1)).json()
    assert await callers.lets_in(newest["access_token"]) == {True}
    assert await _alive(callers.two) == 1
    assert counted(await callers.exchanged(form)) == {(400, "invalid_grant"): PARALLEL}
    assert await callers.lets_in(newest["access_token"]) == {False}
    refused = await callers.alone(form | {"refresh_token": newest["refresh_token"]})
    assert (refused.status_code, refused.json()["error"]) == (400, "invalid_grant")


async def test_one_assertion_fifty_times(callers: Callers):
    """ATK-O23, HL7@336: its jti counts once, whichever process saw it first."""
    audience = f"{callers.two.public_url}/auth/hapi/token"
    found = await callers.exchanged(smart.asserted(callers.two.lab.assertion("lab", moment=datetime.now(UTC), audience=audience)))
    assert counted(found) == {(200, ""): 1, (401, "invalid_client"): PARALLEL - 1}


async def test_one_launch_fifty_consents(callers: Callers):
    """ATK-O15: fifty tabs stand at the consent with the same handle; one brings a code home, the others hear invalid_request."""
    two = callers.two
    made = two.both[0].json("launch", "create", "--ehr", "hapi", "--client", "app", "--patient", "a", "--user", "ann")
    request = two.asking(scope="launch patient/Observation.rs", launch=made["launch"])
    await callers.ann.authorize(request)
    await callers.ann.sign_in()
    tabs = [callers.ann, *(Browser(two.both[number % 2], two.public_url, callers.ann) for number in range(1, PARALLEL))]
    await asyncio.gather(*(tab.authorize(request) for tab in tabs[1:]))
    await asyncio.gather(*(tab.allow() for tab in tabs))
    found = [tab.answer for tab in tabs]
    for tab in tabs[1:]:
        await tab.http.aclose()
    assert Counter("code" if "code" in one else one["error"] for one in found) == {"code": 1, "invalid_request": PARALLEL - 1}


async def _alive(two: Two) -> int:
    """How many refresh tokens of the newest family count."""
    database, table = Database(two.both[0].store), tables.refresh_token
    async with database.read() as connection:
        newest = select(tables.grant.c.id).order_by(tables.grant.c.created_at.desc()).limit(1).scalar_subquery()
        states = list((await connection.execute(select(table.c.state).where(table.c.grant_id == newest))).scalars())
    await database.close()
    return states.count("active")
