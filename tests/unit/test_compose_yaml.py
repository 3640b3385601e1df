"""compose.yaml, read by a parser: five services, settings that the gateway takes, and no way around it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from gateway.config import load

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def services():
    return yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]


def expanded(text: str, **variables: str) -> str:
    """${NAME:-default} and ${NAME:?message} as Docker Compose reads them."""
    return re.sub(r"\$\{(\w+)(?::[-?]([^}]*))?\}", lambda found: variables.get(found[1], found[2] or ""), text)


def settings_of(service):
    environ = {name: expanded(value, POSTGRES_PASSWORD="pw") for name, value in service["environment"].items()}
    return load(environ=environ, cwd=ROOT / "nowhere").settings


def test_there_are_the_five_parts(services):
    """Gateway, worker, PostgreSQL, Redis, HAPI; each has an image and comes back after a crash."""
    assert set(services) == {"gateway", "worker", "postgres", "redis", "hapi"}
    assert all(service["image"] and service["restart"] == "unless-stopped" for service in services.values())


def test_gateway_and_worker_have_the_same_settings_and_the_gateway_takes_them(services):
    """A misspelt variable would be refused at start: here it is refused by the test."""
    serve, worker = settings_of(services["gateway"]), settings_of(services["worker"])
    assert serve == worker
    assert serve.store == "postgresql+asyncpg://gateway:pw@postgres:5432/gateway"
    assert serve.redis == "redis://redis:6379/0"
    assert serve.ehr("hapi").url == "http://hapi:8080/fhir"


def test_only_the_gateway_is_published_and_on_loopback(services):
    """Callers cannot go around it; whoever wants it on the network says so."""
    assert {name for name, service in services.items() if service.get("ports")} == {"gateway"}
    assert all(port.startswith("127.0.0.1:") for port in services["gateway"]["ports"])


def test_names_that_settings_use_are_services(services):
    """Hosts in URLs are those of the file."""
    text = " ".join(services["gateway"]["environment"].values())
    hosts = set(re.findall(r"(?:@|//)([a-z]+):\d+", text)) - {"localhost"}
    assert hosts <= set(services)
    assert {"postgres", "redis", "hapi"} <= hosts


def test_what_is_waited_for_has_a_health_check(services):
    """`service_healthy` of a service without one would wait for ever."""
    for service in services.values():
        for name, condition in service.get("depends_on", {}).items():
            assert condition["condition"] != "service_healthy" or "healthcheck" in services[name]


def test_processes_of_the_gateway_have_few_rights(services):
    """Read-only, no capabilities; state is in the one volume that both share."""
    for name in ("gateway", "worker"):
        service = services[name]
        assert service["read_only"]
        assert service["cap_drop"] == ["ALL"]
        assert service["volumes"] == ["state:/var/lib/gateway"]


def test_the_image_installs_from_the_lock_file_and_runs_as_nobody_in_particular():
    """Pinned uv, frozen lock, no development packages, a user of its own."""
    text = (ROOT / "Dockerfile").read_text()
    assert f"uv=={re.search(r'UV_VERSION=([0-9.]+)', (ROOT / 'scripts/setup').read_text())[1]}" in text
    assert "uv sync --frozen --no-dev" in text
    assert re.search(r"^USER gateway$", text, re.MULTILINE)
    assert set(re.findall(r"GATEWAY_[A-Z_]+(?==)", text)) == {"GATEWAY_LISTEN", "GATEWAY_DATA_DIR", "GATEWAY_LOG_FORMAT"}
