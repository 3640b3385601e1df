"""How the gateway proves at an EHR who it is: its certificates, its keys, and what asks for tokens with them."""

from __future__ import annotations

import ssl
from pathlib import Path

from gateway.adapters.ehr.auth import tls_context
from gateway.config import EhrSettings, Settings
from gateway.errors import ConfigError
from gateway.smart.client.assertion import KeyUnusable
from gateway.smart.client.backend import Backend, BackendClient
from gateway.smart.client.user import UserClient, UserEndpoints
from gateway.smart.http import Http


def smart_backend(ehr: EhrSettings) -> Backend:
    """What asks an EHR for the gateway's own tokens (auth = smart-backend). Raises ConfigError for a key that cannot be used."""
    client = BackendClient(
        ehr.name,
        ehr.url,
        ehr.client_id,
        ehr.key_file or Path(),
        ehr.kid,
        ehr.scope,
        token_endpoint=ehr.token_endpoint,
        loopback=ehr.token_loopback,
    )
    try:
        return Backend(client, Http(trust(ehr), timeout=ehr.timeout))
    except KeyUnusable as error:
        raise _key_unusable(ehr, error) from error


def user_endpoints(settings: Settings, ehr: EhrSettings) -> UserEndpoints:
    """What speaks for the gateway as an app at one EHR (auth = smart). Raises ConfigError for a key that cannot be used."""
    client = UserClient(
        ehr.name,
        ehr.url,
        ehr.client_id,
        ehr.scope,
        f"{settings.public_url}/auth/{ehr.name}/upstream/callback",
        secret=ehr.app_secret(),
        key_file=ehr.key_file,
        kid=ehr.kid,
        loopback=ehr.token_loopback,
    )
    try:
        return UserEndpoints(client, Http(trust(ehr), timeout=ehr.timeout))
    except KeyUnusable as error:
        raise _key_unusable(ehr, error) from error


def _key_unusable(ehr: EhrSettings, error: KeyUnusable) -> ConfigError:
    return ConfigError(
        f"EHR {ehr.name}: the key in {ehr.key_file} cannot be used: {error}",
        where=f"ehr.{ehr.name}.key_file",
        fix="name a private JWK, JWK Set or PEM file (RSA of 2048 bits or more, or P-384), and set kid where it says none",
    )


def tls(ehr: EhrSettings) -> ssl.SSLContext | None:
    """None: what the system trusts, and no certificate of our own."""
    if not ehr.url.startswith("https://") or not (ehr.ca or ehr.auth == "mtls"):
        return None
    return trust(ehr)


def trust(ehr: EhrSettings) -> ssl.SSLContext:
    """What is trusted for this EHR, and our own certificate where it has one."""
    own = (ehr.client_cert, ehr.client_key) if ehr.auth == "mtls" else (None, None)
    try:
        return tls_context(ca=ehr.ca, certificate=own[0], key=own[1])
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(
            f"EHR {ehr.name}: its certificates cannot be used ({error.strerror or error})",
            where=f"ehr.{ehr.name}",
            fix="ca, client_cert and client_key are PEM files, and the key is that of the certificate",
        ) from error
