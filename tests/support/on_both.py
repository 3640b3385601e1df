"""One scene on two EHRs: the double, in this process, and a real HAPI. For flow tests whose rules must not depend on the EHR."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx
import pytest

from gateway.sandbox.double import Double, served
from tests.support.two_people import Two, load
from tests.support.whole_in_process import Whole, whole

BOTH = ("double", pytest.param("hapi", marks=pytest.mark.hapi))
ALL = "patient/*.cruds openid fhirUser"


@dataclass
class Scene:
    """A gateway over one EHR, two people there, and A's token."""

    gateway: Whole
    two: Two
    token: str
    direct: httpx.Client  # to the EHR, behind the gateway's back

    async def get(self, path: str, **headers: str) -> httpx.Response:
        return await self.gateway.fhir(self.token, "GET", path, **headers)

    async def send(self, method: str, path: str, body: Any = None, **headers: str) -> httpx.Response:
        return await self.gateway.fhir(self.token, method, path, body, **headers)

    async def patch(self, path: str, *steps: dict[str, Any], **headers: str) -> httpx.Response:
        return await self.send("PATCH", path, list(steps), Content_Type="application/json-patch+json", **headers)

    async def post(self, path: str, form: str) -> httpx.Response:
        """A search by form."""
        return await self.send("POST", f"{path}/_search", form.encode(), Content_Type="application/x-www-form-urlencoded")

    def put(self, *resources: dict[str, Any]) -> None:
        """Put something into the EHR behind the gateway's back."""
        for resource in resources:
            answer = self.direct.put(f"{resource['resourceType']}/{resource['id']}", json=resource, headers={"Content-Type": "application/fhir+json"})
            assert answer.status_code in (200, 201), answer.text

    def version(self, ref: str) -> str:
        """The version that the EHR has, or its status when it has none."""
        answer = self.direct.get(ref)
        return str(answer.json()["meta"]["versionId"]) if answer.status_code == 200 else str(answer.status_code)

    async def as_(self, scope: str, **who: Any) -> Scene:
        """The same with another token of A's, or of whom `who` says."""
        return Scene(self.gateway, self.two, await self.gateway.token(scope, **(who or {"patient": self.two.a})), self.direct)


@asynccontextmanager
async def scene(request: pytest.FixtureRequest, folder: pytest.TempPathFactory, **settings: Any) -> AsyncGenerator[Scene]:
    """For a fixture with `params=BOTH`."""
    two = Two()
    with ExitStack() as stack:
        url = request.getfixturevalue("hapi_url") if request.param == "hapi" else stack.enter_context(served(Double()))
        direct = stack.enter_context(httpx.Client(base_url=url, timeout=30, trust_env=False))
        load(url, two.resources())
        async with whole(url, folder.mktemp("gateway"), **settings) as running:
            yield Scene(running, two, await running.token(ALL, patient=two.a), direct)


def comparable(answer: httpx.Response) -> tuple[int, bytes, dict[str, str]]:
    """What must be the same for two answers that may not be told apart."""
    body = answer.content.replace(answer.headers["x-request-id"].encode(), b"") if answer.content else b""
    return answer.status_code, body, {name: value for name, value in answer.headers.items() if name != "x-request-id"}
