"""A whole gateway in this process, over any EHR, reached by HTTP without a socket. For flow tests."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from gateway import app, compose, config, worker
from gateway.compose import Gateway
from gateway.store import oauth as rows
from gateway.store import people
from gateway.store.base import now
from gateway.store.oauth_rows import Account, Client, ListedPatient, new_id
from tests.support import smart

PUBLIC_URL = "https://gateway.test"


@dataclass
class Whole:
    """The gateway, its ASGI app, and an HTTP client that speaks to it."""

    gateway: Gateway
    asgi: Any
    http: httpx.AsyncClient
    ehr: str

    @property
    def base(self) -> str:
        return f"{PUBLIC_URL}/fhir/{self.ehr}"

    async def token(
        self, scope: str, *, patient: str = "", fhir_user: str = "", listed: tuple[str, ...] = (), push: Mapping[str, str] | None = None
    ) -> str:
        """An access token under a new grant: of the patient herself, of whom `fhir_user` names, or (without either) of a system."""
        database = self.gateway.state.database
        moment, client_id = now(), f"client-{new_id()}"
        client = Client(client_id, "Test app", "none", ("authorization_code",), ("https://app.test/cb",), "", ("*",), moment, push=push)
        account = None
        if patient or fhir_user:
            account = Account(new_id(), new_id(), "", self.ehr, fhir_user or f"Patient/{patient}", "Test person", moment)
        async with database.write() as connection:
            await rows.put_client(connection, client, frozenset({"https://app.test"}))
            if account:
                await people.put_account(connection, account, tuple(ListedPatient(one) for one in listed))
        return await smart.issue(database, client_id=client_id, scope=scope, ehr=self.ehr, account=account, patient=patient)

    async def fhir(self, token: str, method: str, path: str, body: Any = None, **headers: str) -> httpx.Response:
        """One FHIR request. `body`: JSON values, or bytes as they are."""
        content = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        if token:
            sent["Authorization"] = f"Bearer {token}"
        if content is not None:
            sent.setdefault("Content-Type", "application/fhir+json")
        return await self.http.request(method, f"{self.base}/{path}" if path else self.base, content=content, headers=sent)


@asynccontextmanager
async def whole(
    ehr_url: str, folder: Path, *, ehr: str = "hapi", deliver: bool = True, environ: Mapping[str, str] | None = None, **settings: Any
) -> AsyncGenerator[Whole]:
    """Composed as the processes compose it; only the HTTP server is missing."""
    flags: Mapping[str, Any] = {"ehr": (f"{ehr}={ehr_url}",), "public_url": PUBLIC_URL, "data_dir": str(folder), **settings}
    loaded = config.load(environ=environ or {}, flags=flags, cwd=folder)
    gateway = compose.gateway(loaded.settings)
    asgi = app.app(gateway, deliver=deliver)
    async with worker.running(gateway, deliver=deliver):
        transport = httpx.ASGITransport(asgi)
        async with httpx.AsyncClient(transport=transport) as http:
            yield Whole(gateway, asgi, http, ehr)
