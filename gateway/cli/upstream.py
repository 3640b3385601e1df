"""Plain HTTP to a FHIR server for commands that look at it: the gateway's own credential, no redirects, no proxies from the environment."""

from __future__ import annotations

import ssl
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from typing import Any, cast

import httpx

from gateway.config import EhrSettings
from gateway.errors import ConfigError

FHIR_JSON = {"Accept": "application/fhir+json"}


@contextmanager
def open_client(ehr: EhrSettings, *, signed_in: bool = True) -> Generator[httpx.Client]:
    """A client whose base is the EHR's. With `signed_in` false it goes as a stranger: no secret, no client certificate."""
    auth: httpx.Auth | None = None
    headers: Mapping[str, str] = {}
    if signed_in and ehr.auth == "basic":
        auth = httpx.BasicAuth(ehr.username, ehr.secret())
    if signed_in and ehr.auth == "bearer":
        headers = {"Authorization": f"Bearer {ehr.secret()}"}
    if signed_in and ehr.auth == "smart-backend":
        from gateway.cli import ehr_smart  # noqa: PLC0415  # the gateway's own client comes with much of the gateway

        headers = ehr_smart.headers(ehr)
    with httpx.Client(
        base_url=ehr.url + "/",
        headers=FHIR_JSON | dict(headers),
        auth=auth,
        verify=_tls(ehr, signed_in=signed_in),
        timeout=ehr.timeout,
        follow_redirects=False,
        trust_env=False,
    ) as client:
        yield client


def _tls(ehr: EhrSettings, *, signed_in: bool) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(ehr.ca) if ehr.ca else None)
    if signed_in and ehr.auth == "mtls" and ehr.client_cert and ehr.client_key:
        context.load_cert_chain(ehr.client_cert, ehr.client_key)
    return context


def capability_statement(client: httpx.Client, url: str) -> Mapping[str, Any]:
    """GET metadata. Raises ConfigError with what is most likely wrong."""
    try:
        answer = client.get("metadata")
    except httpx.HTTPError as error:
        raise ConfigError(f"{url} does not answer ({reason(error)})", where="ehr", fix="check the address, and that the server runs") from error
    if answer.status_code in (401, 403):
        raise ConfigError(f"{url}/metadata answers {answer.status_code}", where="ehr", fix="set auth and its secret for this EHR, or --bearer-file")
    try:
        found = answer.json()
    except ValueError:
        found = None
    if answer.status_code != 200 or not isinstance(found, dict) or cast("dict[str, Any]", found).get("resourceType") != "CapabilityStatement":
        raise ConfigError(
            f"{url}/metadata gives no CapabilityStatement (status {answer.status_code})",
            where="ehr",
            fix="name the FHIR base: the address to which /Patient is added",
        )
    return cast("dict[str, Any]", found)


def reason(error: Exception) -> str:
    """The short words of the operating system or of TLS, without addresses of ours."""
    words: BaseException = error
    while words.__cause__ is not None:
        words = words.__cause__
    return str(words) or type(error).__name__
