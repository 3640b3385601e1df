"""docs/register-a-backend-service.md is done as it stands: keys, registration, tokens in three ways, a client that registers itself."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from click.testing import CliRunner

from gateway.cli import main
from tests.support.processes import serving

DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "register-a-backend-service.md").read_text("utf-8")
SCOPE = "system/Patient.rs"


def blocks(kind: str) -> list[str]:
    return re.findall(rf"```{kind}\n(.*?)```", PAGE, re.DOTALL)


def command(begins: str) -> str:
    """The line of a console block that begins so."""
    return next(line.removeprefix("$ ") for block in blocks("console") for line in block.splitlines() if line.startswith(f"$ {begins}"))


@dataclass
class Reader:
    """Somebody who follows the page, in a folder of her own, with a gateway that serves."""

    folder: Path
    url: str
    code: dict[str, Any]

    @property
    def base(self) -> str:
        return f"{self.url}/fhir/hapi"

    def gateway(self, *words: str) -> str:
        done = CliRunner().invoke(main, [*words, "--store", f"sqlite:///{self.folder / 'gateway.db'}"])
        assert done.exit_code == 0, done.stderr
        return done.stdout.strip()

    def shell(self, text: str, **variables: str) -> Any:
        done = subprocess.run(["bash", "-c", text], cwd=self.folder, env=os.environ | variables, capture_output=True, text=True, check=True)
        return json.loads(done.stdout)

    def registration(self) -> dict[str, Any]:
        """The page's example, with the reader's key set by value."""
        found = json.loads(blocks("json")[0])
        del found["jwks_uri"]
        return found | {"jwks": json.loads((self.folder / "jwks.json").read_text())}

    def write(self, metadata: dict[str, Any]) -> None:
        (self.folder / "registry.json").write_text(json.dumps(metadata))


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reader]:
    folder, code = tmp_path_factory.mktemp("backend"), dict[str, Any]()
    with contextlib.chdir(folder):
        for block in blocks("python"):
            exec(compile(block, "register-a-backend-service.md", "exec"), code)  # our own page
    with serving(folder, "hapi=http://127.0.0.1:9/fhir", env={"GATEWAY_REGISTRATION": "token", "GATEWAY_REGISTRATION_REVIEW": "false"}) as served:
        yield Reader(folder, served.url, code)


def test_the_private_key_stays_private(reader):
    """Mode 0600, and the key set has no private part."""
    assert (reader.folder / "private.json").stat().st_mode & 0o77 == 0
    assert "d" not in json.loads((reader.folder / "jwks.json").read_text())["keys"][0]


def test_a_token_in_three_ways(reader, monkeypatch):
    """Registered by the operator; by Python, by curl, by the gateway's own command; and what the page says is refused."""
    monkeypatch.chdir(reader.folder)
    reader.write(reader.registration())
    reader.gateway(*command("gateway client register").split()[1:], "--ehr", "hapi")
    private = reader.folder / "private.json"
    assert len(reader.code["access_token"](reader.base, "registry", private, SCOPE)) == 43
    endpoint = reader.code["token_endpoint"](reader.base)
    signed = reader.code["assertion"]("registry", private, endpoint)
    (by_hand, _) = blocks("sh")
    if shutil.which("curl"):
        answer = reader.shell(by_hand, TOKEN_ENDPOINT=endpoint, ASSERTION=signed)
        assert (answer["scope"], answer["expires_in"]) == (SCOPE, 300)
        assert reader.shell(by_hand, TOKEN_ENDPOINT=endpoint, ASSERTION=signed)["error"] == "invalid_client"  # the jti was used
    words = ["client", "token", "--client", "registry", "--key", "private.json", "--ehr", "hapi", "--scope", SCOPE, "--public-url", reader.url]
    assert all(word in command("gateway client token") for word in words[:8])
    assert len(reader.gateway(*words)) == 43
    for scope, error in (("", "invalid_scope"), ("system/Observation.rs", "invalid_scope"), ("patient/*.rs", "invalid_scope")):
        with pytest.raises(RuntimeError, match=error):
            reader.code["access_token"](reader.base, "registry", private, scope)


def test_a_client_registers_itself(reader, monkeypatch):
    """With an invite, by the page's curl; it gets a token at once, where nobody reviews."""
    monkeypatch.chdir(reader.folder)
    invite = reader.gateway("client", "invite", "--ehr", "hapi", "--system-scope", "system/Patient.rs system/Immunization.rs")
    metadata = {name: value for name, value in reader.registration().items() if name not in ("client_id", "ehrs")}
    if shutil.which("curl"):
        reader.write(metadata)
        told = reader.shell(command("curl").replace("https://gateway.example", reader.url).replace("curl ", "curl -s "), INVITE=invite)
    else:
        told = httpx.post(f"{reader.url}/auth/hapi/register", json=metadata, headers={"Authorization": f"Bearer {invite}"}).json()
    assert told["grant_types"] == ["client_credentials"]
    assert len(reader.code["access_token"](reader.base, told["client_id"], reader.folder / "private.json", SCOPE)) == 43


@pytest.mark.parametrize("path", sorted((DOCS / "clients").glob("*.json")), ids=lambda path: path.stem)
def test_each_example_can_be_registered(reader, path):
    """As it stands, and named on the page."""
    metadata = json.loads(path.read_text("utf-8"))
    told = json.loads(reader.gateway("client", "register", "--from", str(path), "--ehr", "hapi", "--json"))
    assert {name: told[name] for name in metadata} == metadata
    assert f"(clients/{path.name})" in PAGE
