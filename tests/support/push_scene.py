"""Door, store, worker and an EHR for what is pushed."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace

from gateway import shipped
from gateway.audit import AuditRecord
from gateway.errors import Unavailable
from gateway.fhir import request
from gateway.ingest import admin, deliver, receive
from gateway.ingest.senders import RegisteredSenders
from gateway.ingest.signals import Signals
from gateway.proxy.answer import Answer, RequestContext
from gateway.seal import Sealer
from gateway.smart.principal import Principal, PrincipalKind, Push
from gateway.smart.scopes import clinical
from gateway.store.base import Database
from gateway.store.inbox_rows import Accounting
from tests.support.shelf import Shelf

GW = "https://gw"
BASE = f"{GW}/fhir/hapi"
SCOPE = "system/Observation.cu system/Patient.cu"
LAB = Principal(PrincipalKind.SYSTEM, "hapi", "lab", clinical(SCOPE), "The lab", push=Push("deliver", "hapi"))
TELLER = replace(LAB, client_id="teller", push=Push("notify"))
JSON = (b"content-type", b"application/fhir+json")
SEALER = Sealer((b"k" * 32,))


@dataclass
class Trail:
    """An audit sink that can fail."""

    records: list[AuditRecord] = field(default_factory=list)
    broken: bool = False

    async def record_in(self, connection, record: AuditRecord) -> None:
        del connection
        if self.broken:
            raise Unavailable(reason="audit-down")
        self.records.append(record)

    def append(self, record: AuditRecord) -> None:
        self.records.append(record)

    def actions(self) -> list[str]:
        return [one.action for one in self.records]


@dataclass
class Renewals:
    """A cache that notes what was renewed."""

    names: list[tuple[str, ...]] = field(default_factory=list)

    @contextlib.asynccontextmanager
    async def touching(self, names) -> AsyncIterator[None]:
        self.names.append(tuple(names))
        yield


class Gateway:
    """Door, store, worker and EHR."""

    def __init__(self, database: Database, **policy) -> None:
        self.database = database
        self.shelf = Shelf()
        self.trail = Trail()
        self.cache = Renewals()
        self.signals = Signals()
        self.door = receive.Door(GW, push_wait=5)
        self.policy = deliver.Policy(**({"backoff": 0.001, "poll": 0.02, "lease": 5} | policy))

    @property
    def inbox(self) -> receive.Inbox:
        return receive.Inbox(self.shelf, self.database, self.trail, SEALER, shipped.tables(), self.signals, self.door)

    def worker(self) -> deliver.Worker:
        senders = RegisteredSenders(self.database)
        parts = deliver.Parts(self.shelf, senders, self.database, self.trail, SEALER, self.cache, shipped.tables(), self.signals, GW)
        return deliver.Worker(parts, self.policy)

    async def push(self, method: str, path: str, body: object, *headers: tuple[bytes, bytes], by: Principal = LAB) -> Answer:
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        asked = request.parse(method=method, path=path, query=b"", headers=(JSON, *headers), body=raw, own_bases=(BASE,))
        return await self.inbox.receive(by, asked, (JSON, *headers), raw, RequestContext("r1", "192.0.2.1"))

    async def post(self, *headers: tuple[bytes, bytes], by: Principal = LAB, **more) -> Answer:
        return await self.push("POST", "Observation", result(**more), *headers, by=by)

    async def status(self, answer: Answer, by: Principal = LAB) -> Answer:
        token = answer.header("Content-Location").removeprefix(f"{BASE}/_async/")
        return await self.inbox.status(by, token, RequestContext("r2"))

    async def accounting(self) -> Accounting:
        found = await admin.accounting(self.database)
        assert found.holds
        return found


def result(**more) -> dict:
    return {"resourceType": "Observation", "status": "final", "code": {"text": "x"}, "subject": {"reference": "Patient/p1"}} | more


@contextlib.asynccontextmanager
async def working(gateway: Gateway) -> AsyncIterator[None]:
    """With a worker in the same process."""
    stop = asyncio.Event()
    task = asyncio.create_task(gateway.worker().run(stop))
    try:
        yield
    finally:
        stop.set()
        await task


ASYNC = (b"prefer", b"respond-async")


def key(name: str) -> tuple[bytes, bytes]:
    return b"idempotency-key", name.encode()


async def until_settled(gateway: Gateway) -> None:
    async with working(gateway):
        await settled(gateway)


async def settled(gateway: Gateway) -> None:
    async with asyncio.timeout(30):
        while (await gateway.accounting()).pending:  # noqa: ASYNC110  # the store is what is waited for
            await asyncio.sleep(0.05)
