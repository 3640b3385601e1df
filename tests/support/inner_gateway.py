"""A gateway on a socket that is the EHR of another one: over the EHR double, with what its token endpoint was asked counted."""

from __future__ import annotations

import socket
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gateway import app, compose, config, local
from gateway.sandbox.double import Double
from gateway.sandbox.double import served as double_served
from tests.support.threaded_server import served

EHR = "hapi"


@dataclass
class Inner:
    """Where it runs, its settings, the EHR behind it, and the token requests that it got."""

    url: str
    settings: config.Settings
    double: Double
    token_requests: list[str] = field(default_factory=list)

    @property
    def base(self) -> str:
        """What is the EHR's base to the other gateway."""
        return f"{self.url}/fhir/{EHR}"

    async def register(self, **metadata: Any) -> Mapping[str, Any]:
        """A client of it."""
        async with local.opened(self.settings) as state:
            return await local.registrar(state).register({"ehrs": [EHR], **metadata})

    async def backend(self, client_id: str, key: Mapping[str, Any]) -> None:
        """A backend client that reads, searches and delivers everything."""
        await self.register(
            client_id=client_id,
            grant_types=["client_credentials"],
            token_endpoint_auth_method="private_key_jwt",
            jwks={"keys": [key]},
            scope="system/*.cruds",
            push={"mode": "deliver", "ehr": EHR},
        )

    async def person(self, username: str, password: str, fhir_user: str) -> None:
        """Somebody who signs in there."""
        async with local.opened(self.settings) as state:
            await local.accounts(state).add(username, password, ehr=EHR, fhir_user=fhir_user, display_name=username.title())

    async def revoke(self, client_id: str) -> None:
        """Everything that was given to a client ends for good."""
        async with local.opened(self.settings) as state:
            clients = local.clients(state)
            await clients.disable(client_id)
            await clients.enable(client_id)


@contextmanager
def inner_gateway(folder: Path) -> Iterator[Inner]:
    """Serve it until the end of the block. Patient a has seven observations, patient b one."""
    with ExitStack() as stack:
        double = Double()
        double.seed(
            {"resourceType": "Patient", "id": "a", "name": [{"family": "Inner"}]},
            {"resourceType": "Patient", "id": "b"},
            *(_observation(f"o{number}", "a") for number in range(7)),
            _observation("p0", "b"),
        )
        upstream = stack.enter_context(double_served(double))
        listener = socket.create_server(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        settings = config.load(environ={}, flags={"ehr": (f"{EHR}={upstream}",), "public_url": url, "data_dir": str(folder)}, cwd=folder).settings
        found = Inner(url, settings, double)
        facade = app.app(compose.gateway(settings), deliver=True)

        async def counted(scope: Any, receive: Any, send: Any) -> None:
            if scope["type"] == "http" and scope["path"].endswith("/token"):
                found.token_requests.append(scope["path"])
            await facade(scope, receive, send)

        stack.enter_context(served(counted, listener=listener, lifespan="on"))
        yield found


def _observation(id_: str, patient: str) -> dict[str, Any]:
    return {
        "resourceType": "Observation",
        "id": id_,
        "status": "final",
        "code": {"text": "x"},
        "subject": {"reference": f"Patient/{patient}"},
    }
