"""A push that is tried several times, over the shelf: the row as the store would keep it, and one attempt after the other."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace

from gateway.fhir import request
from gateway.ingest import plan
from gateway.ingest.attempt import Attempt, Result
from gateway.ingest.stored import StoredAnswer
from gateway.proxy.answer import RequestContext
from gateway.smart.principal import Principal, PrincipalKind
from gateway.store.inbox_rows import Entry, Fenced
from tests.support.shelf import Shelf

BASE = "https://gw/fhir/hapi"
LAB = Principal(PrincipalKind.SYSTEM, "hapi", "lab", ())
JSON = (b"content-type", b"application/fhir+json")


@dataclass
class Row:
    """A message's entries, as the store would keep them between attempts."""

    entries: list[Entry]
    answers: dict[int, StoredAnswer] = field(default_factory=dict)
    ran_out: bool = False

    @asynccontextmanager
    async def held(self) -> AsyncGenerator[None]:
        if self.ran_out:
            raise Fenced
        yield

    async def sending(self, seen) -> None:
        for at, version in seen.items():
            kept = self.entries[at]
            self.entries[at] = replace(kept, tried=True, seen=kept.seen if version is None else version)

    async def unsent(self, positions) -> None:
        for at in positions:
            self.entries[at] = replace(self.entries[at], tried=False, seen=None)

    async def give_up_ids(self, positions) -> None:
        for at in positions:
            self.entries[at] = replace(self.entries[at], target="", tried=False, seen=None)

    async def finish_entry(self, position, state, answer) -> None:
        self.entries[position] = replace(self.entries[position], state=state)
        self.answers[position] = answer

    def entry_answer(self, entry) -> StoredAnswer:
        return self.answers[entry.position]


class Message:
    """A push that is tried several times. `known`: what the EHR takes is known when it is received."""

    def __init__(self, shelf: Shelf, method: str, path: str, body: dict, *headers: tuple[bytes, bytes], known: bool = True) -> None:
        raw = json.dumps(body).encode()
        self.asked = request.parse(method=method, path=path, query=b"", headers=(JSON, *headers), body=raw, own_bases=(BASE,))
        self.shelf = shelf
        self.row = Row(list(plan.entries(self.asked, self.offers if known else None)))
        self.attempts = 0

    @property
    def offers(self):
        return self.shelf.says or self.shelf.takes

    @property
    def target(self) -> str:
        """Of the first entry."""
        entry = self.row.entries[0]
        return f"{entry.type}/{entry.target}"

    async def attempt(self) -> Result:
        """Once more, from what the store kept."""
        self.attempts += 1
        entries = tuple(self.row.entries)
        return await Attempt(self.shelf, self.row, LAB, self.asked, entries, RequestContext("r1"), BASE, self.attempts, self.offers).run()


def result(status: str = "final", **more) -> dict:
    return {"resourceType": "Observation", "status": status, "code": {"text": "x"}} | more
