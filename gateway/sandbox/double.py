"""The EHR double: a small FHIR R4 server as an ASGI app, for tests only. It keeps the bytes that it is given, and lies and fails on demand.

    double = Double()
    double.seed({"resourceType": "Patient", "id": "a"})
    double.fail(Fault(status=503, headers={"Retry-After": "7"}))        # the next request
    double.fail(Fault(drop=True, after=True, method="PUT"))             # the next PUT is carried out, and its answer lost
    double.lies.swap["Patient/a"] = "Patient/b"                         # a read of a gives b

    async with httpx.AsyncClient(transport=httpx.ASGITransport(double)) as client: ...
    with served(double) as base_url: ...                                # on a real socket

It offers read, vread, search, create, update, delete, conditional create, transaction, batch and paging, and passes the suite that the real HAPI
passes (tests/contract/test_ehr.py). Its base is `/fhir` below whatever address it is asked at.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import threading
from collections.abc import Awaitable, Callable, Generator, Mapping, MutableMapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import uvicorn

from gateway import shipped
from gateway.fhir.json import parse_trusted
from gateway.sandbox.double_fhir import Answer, Lies, Received, Server
from gateway.sandbox.double_store import Store
from gateway.sockets import listening

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

BASE = "/fhir"
JSON = "application/fhir+json;charset=utf-8"


@dataclass(frozen=True, slots=True)
class Fault:
    """How a request fails. It meets the next `times` requests (0: all) whose method and path it names; "" names every one.

    Without `after` the request is not carried out. `status`, `headers` and `body` are the answer instead of the honest one; `delay` is in
    seconds before it; `drop` ends the connection in the middle of it.
    """

    method: str = ""
    path: str = ""  # a regular expression, searched in the path relative to the base
    times: int = 1
    after: bool = False
    status: int = 0
    headers: Mapping[str, str] = field(default_factory=dict[str, str])
    body: bytes = b""
    delay: float = 0.0
    drop: bool = False


class Dropped(ConnectionError):
    """The connection ended; raised where there is none, as with httpx.ASGITransport."""


class Double:
    """The app. `bearer` is demanded of every request when set; `software` is its name in the CapabilityStatement.

    `client_ids=False` refuses PUT of an id that does not exist, and `transactions=False` transactions, as many EHRs do. `stamp=False` keeps
    bodies entirely as they came. `strict=False` ignores parameters that it does not know, as many EHRs do too. `called` is the base by which
    it names itself, as one behind a proxy does; else that at which it is asked.
    """

    def __init__(
        self,
        *,
        bearer: str = "",
        software: str = "Double",
        client_ids: bool = True,
        transactions: bool = True,
        stamp: bool = True,
        strict: bool = True,
        called: str = "",
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self.server = Server(Store(clock, stamp), shipped.tables().search, software, bearer, client_ids, transactions, strict)
        self.called = called
        self.requests: list[Received] = []
        self._faults: list[list[Any]] = []  # [fault, times left]

    # ---- control, for tests ----

    @property
    def store(self) -> Store:
        """What there is."""
        return self.server.store

    @property
    def lies(self) -> Lies:
        """What it says that is not true."""
        return self.server.lies

    def seed(self, *resources: Mapping[str, Any] | bytes) -> None:
        """Put resources that name their own id, as versions 1 or later. Dicts are written as JSON; bytes stay as they are."""
        for one in resources:
            raw = one if isinstance(one, bytes) else json.dumps(one).encode()
            resource = parse_trusted(raw)
            self.store.put(resource["resourceType"], resource["id"], raw)

    def fail(self, *faults: Fault) -> None:
        """Let coming requests fail; of several faults the first that names a request meets it."""
        self._faults += [[fault, fault.times or -1] for fault in faults]

    def heal(self) -> None:
        """No more faults and lies."""
        self._faults.clear()
        self.server.lies = Lies()

    def forget_pages(self) -> None:
        """Every page link given so far is gone (410)."""
        self.server.pages.clear()

    def lines(self) -> list[str]:
        """What was asked, such as `GET Patient/a`, in order."""
        return [one.line for one in self.requests]

    def raw(self, ref: str) -> bytes:
        """The current bytes of `Type/id`; b"" when it is deleted or was never there."""
        current = self.store.current(ref)
        return current.raw if current else b""

    def versions(self, ref: str) -> int:
        """How many versions of `Type/id` there are: a write that came twice shows here."""
        return len(self.store.versions.get(ref, []))

    # ---- ASGI ----

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            return
        received = Received(
            scope["method"],
            scope["path"].removeprefix(BASE).lstrip("/"),
            scope["query_string"].decode("latin-1"),
            {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]},
            await _whole(receive),
        )
        base = self.called or f"{scope['scheme']}://{received.headers.get('host', 'double.test')}{BASE}"
        self.requests.append(received)
        fault = self._fault(received)
        answer = self.server.answer(received, base) if fault is None or fault.after else Answer(200)
        if fault is not None:
            answer = await _spoiled(answer, fault)
        await _send(answer, send, cut=fault is not None and fault.drop)

    def _fault(self, received: Received) -> Fault | None:
        for armed in self._faults:
            fault: Fault = armed[0]
            if armed[1] and fault.method in ("", received.method) and re.search(fault.path, received.path):
                armed[1] -= 1
                return fault
        return None


async def _whole(receive: Receive) -> bytes:
    body = b""
    while True:
        message = await receive()
        body += message.get("body", b"")
        if not message.get("more_body"):
            return body


async def _spoiled(answer: Answer, fault: Fault) -> Answer:
    if fault.delay:
        await asyncio.sleep(fault.delay)
    if not (fault.status or fault.body or fault.headers):
        return answer
    return Answer(fault.status or answer.status, fault.body, {"content-type": JSON, **{k.lower(): v for k, v in fault.headers.items()}})


async def _send(answer: Answer, send: Send, *, cut: bool) -> None:
    body = answer.body
    headers = {"content-type": JSON} if body else {}
    headers |= {name.lower(): value for name, value in answer.headers.items()}
    if cut:  # a server that closes in the middle of its answer: the length says that more would come
        headers["content-length"] = str(len(body) + 100)
    elif answer.status != 204:
        headers.setdefault("content-length", str(len(body)))
    start = {"type": "http.response.start", "status": answer.status}
    await send({**start, "headers": [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]})
    await send({"type": "http.response.body", "body": body, "more_body": cut})
    if cut:
        raise Dropped


# ---- on a socket ----


@contextlib.contextmanager
def served(double: Double) -> Generator[str]:
    """Serve it on a free port of 127.0.0.1, in a thread of its own; gives the base URL."""
    listener = listening("127.0.0.1")
    config = uvicorn.Config(double, log_level="critical", lifespan="off", ws="none", timeout_keep_alive=30)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=lambda: asyncio.run(server.serve([listener])), name="double", daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}{BASE}"
    finally:
        server.should_exit = server.force_exit = True
        thread.join(10)
        listener.close()
