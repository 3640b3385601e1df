"""A gateway in a process of its own over the EHR double, with an app for each client and a patient whose results fill three pages."""

from __future__ import annotations

import asyncio
import json
import socket
import sqlite3
import subprocess
import time
from collections import Counter
from collections.abc import Coroutine, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from joserfc import jwk
from starlette.applications import Starlette
from starlette.routing import Mount
from starlette.staticfiles import StaticFiles

from gateway import config, local
from gateway.sandbox.double import Double
from gateway.smart.server.authorization.launches import Wanted
from gateway.store.oauth_rows import ListedPatient
from tests.support import parts
from tests.support.processes import Served, serving
from tests.support.threaded_server import served

T = TypeVar("T")
EHR = "clinic"
PATIENT, OTHER = "ann", "bob"
NAME = "Ann Released"
RESULTS = 25
"""Observations of the patient: with ten on a page, three pages. The other patient has some too."""
PASSWORD = "correct horse battery"
SECRET = "a-secret-of-the-suite"
NATIVE = "http://127.0.0.1:8765/callback"
"""Where a program on the person's machine would listen; the walker of forms is caught before it."""
APPS = Path(__file__).parent / "apps"
KEYED = "fhirclient-js-keyed", "openid-client", "authlib", "cumulus"
PASSED = "2001-01-01 00:00:00.000000"  # as the store writes moments


@dataclass
class Scene:
    """`apps`: the origin from which the browser apps come. `keys`: the private JWK of each client that has one."""

    gateway: Served
    settings: config.Settings
    apps: str
    keys: Mapping[str, Mapping[str, Any]]

    @property
    def base(self) -> str:
        return f"{self.gateway.url}/fhir/{EHR}"

    def expire(self, client: str) -> None:
        """As if an hour had gone by for every access token of the client."""
        asked = "update access_token set expires_at = ? where grant_id in (select id from oauth_grant where client_id = ?)"
        with closing(sqlite3.connect(self.gateway.folder / "gateway.db", timeout=10)) as store, store:
            assert store.execute(asked, (PASSED, client)).rowcount > 0

    def revoke(self, client: str) -> None:
        """The person takes back what she allowed."""
        asked = "update oauth_grant set revoked_at = ? where client_id = ?"
        with closing(sqlite3.connect(self.gateway.folder / "gateway.db", timeout=10)) as store, store:
            assert store.execute(asked, (PASSED, client)).rowcount > 0

    def on_record(self, client: str, **wanted: int) -> bool:
        """Whether so many `reads` of Patient, `searches` of Observation and `tokens` of a client are on record, at the latest a moment later."""
        named = {"tokens": "token", "reads": "read Patient", "searches": "search-type Observation"}
        least = Counter({named[name]: count for name, count in wanted.items()})
        deadline = time.monotonic() + 10
        while not (found := _elsewhere(self._done(client))) >= least and time.monotonic() < deadline:
            time.sleep(0.2)
        return found >= least

    def launch_url(self, client: str) -> str:
        """Of an EHR launch, as `gateway launch create` makes it."""
        return _elsewhere(self._launch(client))

    async def _done(self, client: str) -> Counter[str]:
        async with local.opened(self.settings) as state:
            records = await state.audit.search(client_id=client, outcome="0", limit=1000)
        return Counter(f"{one.action} {one.type}".strip() for one in records)

    async def _launch(self, client: str) -> str:
        async with local.opened(self.settings) as state:
            return (await local.launches(state).create(Wanted(EHR, client, PATIENT))).url


def _elsewhere(work: Coroutine[Any, Any, T]) -> T:
    """In a thread with a loop of its own, because a test's loop may be waiting for it."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, work).result()


@contextmanager
def scene(folder: Path, packages: Mapping[str, Path]) -> Iterator[Scene]:
    """All of it, for the length of the block."""
    with ExitStack() as stack:
        double = Double()
        double.seed(*chart())
        ehr = f"{EHR}={stack.enter_context(served(Searchable(double)))}/fhir"
        listener = socket.create_server(("127.0.0.1", 0))
        apps = f"http://localhost:{listener.getsockname()[1]}"  # another origin than the gateway's, and another host for cookies
        stack.enter_context(served(files(packages), listener=listener))
        keys = {name: jwk.ECKey.generate_key("P-384", {"kid": f"{name}-1", "alg": "ES384"}, private=True) for name in KEYED}
        port = parts.free_port()
        environ = {"GATEWAY_PUBLIC_URL": f"http://127.0.0.1:{port}"}
        flags = {"ehr": (ehr,), "store": f"sqlite:///{folder / 'gateway.db'}"}
        settings = config.load(environ=environ, flags=flags, cwd=folder).settings
        _elsewhere(_register(settings, registrations(apps, keys)))
        running = stack.enter_context(serving(folder, ehr, env=environ, port=port))
        yield Scene(running, settings, apps, {name: key.as_dict(private=True) for name, key in keys.items()})


async def _register(settings: config.Settings, clients: Iterator[dict[str, Any]]) -> None:
    """Apps and the person, as the operator's commands make them."""
    async with local.opened(settings) as state:
        listed = (ListedPatient(PATIENT, NAME),)
        await local.accounts(state).add(PATIENT, PASSWORD, ehr=EHR, fhir_user=f"Patient/{PATIENT}", display_name=NAME, patients=listed)
        registrar = local.registrar(state)
        for metadata in clients:
            await registrar.register(metadata)


def chart() -> Iterator[dict[str, Any]]:
    """Two patients and their results."""
    for patient, given, count in ((PATIENT, "Ann", RESULTS), (OTHER, "Bob", 3)):
        yield {"resourceType": "Patient", "id": patient, "name": [{"family": "Released", "given": [given]}], "gender": "unknown"}
        for number in range(count):
            yield {
                "resourceType": "Observation",
                "id": f"{patient}-{number}",
                "status": "final",
                "code": {"coding": [{"system": "http://loinc.org", "code": "718-7"}]},
                "subject": {"reference": f"Patient/{patient}"},
                "effectiveDateTime": f"2025-03-{number + 1:02}T08:00:00Z",
                "valueQuantity": {"value": 100 + number, "unit": "g/L", "system": "http://unitsofmeasure.org", "code": "g/L"},
            }


class Searchable:
    """The double, saying in its CapabilityStatement what Observation can be searched by, as a real EHR does."""

    def __init__(self, double: Double) -> None:
        self._double = double

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        async def telling(message: Any) -> None:
            if message["type"] == "http.response.body" and message.get("body"):
                message = {**message, "body": _with_parameters(message["body"])}
            elif message["type"] == "http.response.start":
                message = {**message, "headers": [pair for pair in message["headers"] if pair[0].lower() != b"content-length"]}
            await send(message)

        await self._double(scope, receive, telling if scope.get("path") == "/fhir/metadata" else send)


def _with_parameters(body: bytes) -> bytes:
    statement = json.loads(body)
    for one in statement["rest"][0]["resource"]:
        if one["type"] == "Observation":
            one["searchParam"] = [{"name": "patient", "type": "reference"}, {"name": "code", "type": "token"}, {"name": "date", "type": "date"}]
    return json.dumps(statement).encode()


def files(packages: Mapping[str, Path]) -> Starlette:
    """The pages of the apps, and each package as it was unpacked."""
    mounts = [Mount(f"/packages/{name}", StaticFiles(directory=folder)) for name, folder in packages.items()]
    return Starlette(routes=[*mounts, Mount("/", StaticFiles(directory=APPS))])


def registrations(apps: str, keys: Mapping[str, jwk.ECKey]) -> Iterator[dict[str, Any]]:
    """RFC 7591, as an operator would write it."""
    public = {"token_endpoint_auth_method": "none"}
    secret = {"client_secret": SECRET}
    keyed = {name: {"jwks": {"keys": [key.as_dict(private=False)]}} for name, key in keys.items()}
    yield {"client_id": "fhirclient-js", "redirect_uris": [f"{apps}/fhirclient.html"], **public}
    launched = {"launch_uri": f"{apps}/fhirclient.html", "redirect_uris": [f"{apps}/fhirclient.html"]}
    yield {"client_id": "fhirclient-js-ehr", **launched, **public}
    yield {"client_id": "fhirclient-js-keyed", "redirect_uris": [f"{apps}/fhirclient.html"], **keyed["fhirclient-js-keyed"]}
    yield {"client_id": "medplum", "redirect_uris": [f"{apps}/medplum.html"], **public}
    yield {"client_id": "openid-client", "redirect_uris": [f"{apps}/openid-client.html"], **keyed["openid-client"]}
    yield {"client_id": "fhirclient-py", "redirect_uris": [NATIVE], **secret}
    yield {"client_id": "authlib", "redirect_uris": [NATIVE], **keyed["authlib"]}
    yield {"client_id": "requests-oauthlib", "redirect_uris": [NATIVE], **secret}
    yield {"client_id": "cumulus", "grant_types": ["client_credentials"], "scope": "system/Patient.rs system/Observation.rs", **keyed["cumulus"]}


def started(command: list[str | Path], **more: Any) -> subprocess.Popen[str]:
    """A program that is talked to line by line."""
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **more)
