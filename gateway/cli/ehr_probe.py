"""Tries on a FHIR server what a CapabilityStatement only claims, with resources that are made for it and removed again."""

from __future__ import annotations

import contextlib
import json
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, cast

import httpx

from gateway.cli.ehr_report import Tried

SYSTEM = "urn:fhir-portal-gateway:probe"
_JSON = {"Content-Type": "application/fhir+json", "Accept": "application/fhir+json"}

Say = Callable[[str], None]


@dataclass(slots=True)
class Probe:
    """One run against one server. `made` names what has to be removed."""

    client: httpx.Client
    say: Say
    tag: str = field(default_factory=lambda: f"probe-{secrets.token_hex(6)}")
    made: list[str] = field(default_factory=list[str])

    def run(self) -> tuple[Tried, ...]:
        """Every probe, each on its own; what they made is removed whatever happens."""
        steps = (
            ("create", self._create),
            ("client ids", self._client_ids),
            ("If-Match", self._if_match),
            ("If-None-Exist", self._if_none_exist),
            ("transaction", self._transaction),
            ("fresh search", self._fresh_search),
            ("numbers", self._numbers),
        )
        found: list[Tried] = []
        try:
            for name, step in steps:
                self.say(f"trying {name} ...")
                found.append(self._tried(name, step))
        finally:
            left = self._remove()
        found.append(Tried("clean up", "failed" if left else "works", f"left behind: {', '.join(left)}" if left else "everything made was removed"))
        return tuple(found)

    def _tried(self, name: str, step: Callable[[], tuple[str, str]]) -> Tried:
        try:
            return Tried(name, *step())
        except httpx.HTTPError as error:
            return Tried(name, "failed", type(error).__name__)

    def _create(self) -> tuple[str, str]:
        answer = self._send("POST", "Patient", self._patient("create"))
        return _expect(answer, 201, "POST makes a resource")

    def _client_ids(self) -> tuple[str, str]:
        answer = self._send("PUT", f"Patient/{self.tag}", self._patient("put", id=self.tag))
        return _expect(answer, 201, "PUT of a new id makes it: deliveries can be repeated safely")

    def _if_match(self) -> tuple[str, str]:
        path = self._some_patient()
        if not path:
            return "failed", "there was nothing to update"
        id_ = path.partition("/")[2]
        first = self._send("PUT", path, self._patient("v2", id=id_, family="Second"))
        if first.status_code not in (200, 201):
            return "refused", f"a plain update: {first.status_code}"
        stale = self._send("PUT", path, self._patient("v3", id=id_, family="Third"), {"If-Match": 'W/"1"'})
        if stale.status_code in (409, 412):
            return "works", f"a stale If-Match is {stale.status_code}"
        return ("ignored", "an update with a stale If-Match went through") if stale.is_success else ("failed", f"status {stale.status_code}")

    def _if_none_exist(self) -> tuple[str, str]:
        condition = {"If-None-Exist": f"identifier={SYSTEM}|{self.tag}-once"}
        first = self._send("POST", "Patient", self._patient("once"), condition)
        second = self._send("POST", "Patient", self._patient("once"), condition)
        if not first.is_success:
            return "refused", f"status {first.status_code}"
        return (
            ("works", f"a repeat is {second.status_code}") if second.status_code in (200, 304) else ("ignored", f"a repeat is {second.status_code}")
        )

    def _transaction(self) -> tuple[str, str]:
        entry = {"resource": self._patient("tx"), "request": {"method": "POST", "url": "Patient"}}
        answer = self._send("POST", "", {"resourceType": "Bundle", "type": "transaction", "entry": [entry]})
        for one in _entries(answer):
            self._note(str(one.get("response", {}).get("location", "")))
        return _expect(answer, 200, "a transaction is taken")

    def _fresh_search(self) -> tuple[str, str]:
        """HAPI gives the result of a search that it made up to a minute ago, unless it is asked not to."""
        params = {"identifier": f"{SYSTEM}|{self.tag}-fresh"}
        before = self.client.get("Patient", params=params, headers=_JSON)
        self._send("POST", "Patient", self._patient("fresh"))
        after = self.client.get("Patient", params=params, headers=_JSON | {"Cache-Control": "no-cache"})
        if not before.is_success or not after.is_success:
            return "failed", f"status {after.status_code}"
        return ("works", "a repeated search sees what was just written") if _entries(after) else ("ignored", "a repeated search gives the old result")

    def _numbers(self) -> tuple[str, str]:
        raw = '{"resourceType":"Observation","status":"final","code":{"text":"probe"},"valueQuantity":{"value":1.10,"unit":"mg"}}'
        answer = self.client.post("Observation", content=raw, headers=_JSON)
        path = self._note(answer.headers.get("location", ""))
        if not path:
            return "refused", f"status {answer.status_code}"
        text = "".join(self.client.get(path, headers=_JSON).text.split())
        return ("works", "1.10 stays 1.10") if '"value":1.10' in text else ("ignored", "1.10 comes back as another text")

    def _send(self, method: str, path: str, body: dict[str, Any], headers: dict[str, str] | None = None) -> httpx.Response:
        answer = self.client.request(method, path, content=json.dumps(body), headers=_JSON | (headers or {}))
        if answer.status_code == 201:
            self._note(answer.headers.get("location", "") or (path if "/" in path else ""))
        return answer

    def _patient(self, suffix: str, *, id: str = "", family: str = "Probe") -> dict[str, Any]:  # noqa: A002  # FHIR's own word
        found: dict[str, Any] = {
            "resourceType": "Patient",
            "active": False,
            "identifier": [{"system": SYSTEM, "value": f"{self.tag}-{suffix}"}],
            "name": [{"family": family, "given": ["Gateway"]}],
        }
        return found | ({"id": id} if id else {})

    def _some_patient(self) -> str:
        return next((path for path in self.made if path.startswith("Patient/")), "")

    def _note(self, location: str) -> str:
        """Remember `Type/id` of a Location (absolute or not, with or without version)."""
        parts = [part for part in location.partition("/_history")[0].split("/") if part]
        if len(parts) < 2:
            return ""
        path = "/".join(parts[-2:])
        if path not in self.made:
            self.made.append(path)
        return path

    def _remove(self) -> list[str]:
        left: list[str] = []
        for path in self.made:
            gone = False
            with contextlib.suppress(httpx.HTTPError):
                gone = self.client.delete(path, headers=_JSON).status_code in (200, 202, 204, 404, 410)
            if not gone:
                left.append(path)
        return left


def _expect(answer: httpx.Response, status: int, meaning: str) -> tuple[str, str]:
    return ("works", meaning) if answer.status_code == status else ("refused", f"status {answer.status_code}")


def _entries(answer: httpx.Response) -> list[dict[str, Any]]:
    try:
        found = answer.json()
    except ValueError:
        found = None
    bundle = cast("dict[str, Any]", found if isinstance(found, dict) else {})
    return cast("list[dict[str, Any]]", bundle.get("entry", []))
