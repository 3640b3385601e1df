"""Whether the gateway can sign in at an EHR with auth = smart-backend: a token is asked for, and what is wrong is said with the fix."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from joserfc import jwk

from gateway import credentials
from gateway.config import EhrSettings, Settings
from gateway.errors import ConfigError
from gateway.smart.client.assertion import KeyUnusable
from gateway.smart.client.assertion import public_keys as published
from gateway.smart.client.discovery import Configuration
from gateway.smart.client.fit import misfits, misfits_of_app, narrower
from gateway.smart.client.values import Failure, Granted
from gateway.store.oauth_rows import AuthMethod


@dataclass(frozen=True, slots=True)
class SignIn:
    """`state` is ok, warning or failed; `missing` are scopes that were asked for and not granted. `fix` says what to do."""

    state: str
    found: str
    fix: str = ""
    missing: tuple[str, ...] = ()
    misfits: tuple[str, ...] = ()
    headers: dict[str, str] = field(default_factory=dict[str, str], repr=False)

    def told(self) -> dict[str, Any]:
        """For programs: everything but the token."""
        return {"state": self.state, "found": self.found, "fix": self.fix, "missing": self.missing, "misfits": self.misfits}


def sign_in(ehr: EhrSettings) -> SignIn:
    """Ask for one token."""
    try:
        return asyncio.run(_sign_in(ehr))
    except ConfigError as error:
        return SignIn("failed", error.message, error.fix)


def app_fits(settings: Settings, ehr: EhrSettings) -> SignIn:
    """For auth = smart: whether persons can be sent there. Nobody signs in, so there is no token to try."""
    try:
        return asyncio.run(_app_fits(settings, ehr))
    except ConfigError as error:
        return SignIn("failed", error.message, error.fix)


async def _app_fits(settings: Settings, ehr: EhrSettings) -> SignIn:
    endpoints = credentials.user_endpoints(settings, ehr)
    asked, described = await endpoints.ask(), await endpoints.discovery.configuration()
    method = AuthMethod.KEY if ehr.key_file else AuthMethod.BASIC if ehr.app_secret() else AuthMethod.NONE
    speaks = misfits_of_app(described, method=method, scope=ehr.scope) if isinstance(described, Configuration) else ()
    if isinstance(asked, Failure):
        words, fix = _trouble(asked, ehr, ehr.kid)
        return SignIn("failed", "; ".join((words, *speaks)), fix, misfits=speaks)
    if speaks:
        return SignIn("warning", f"of its SMART configuration: {', '.join(speaks)}", "tell the EHR's operator", misfits=speaks)
    return SignIn("ok", f"persons connect by themselves; registered there is {endpoints.client.redirect_uri}")


def headers(ehr: EhrSettings) -> dict[str, str]:
    """The header of a token that is asked for now. Raises ConfigError with the fix when there is none."""
    found = sign_in(ehr)
    if found.state == "failed":
        raise ConfigError(found.found, where=f"ehr.{ehr.name}", fix=found.fix)
    return found.headers


async def _sign_in(ehr: EhrSettings) -> SignIn:
    backend = credentials.smart_backend(ehr)
    described = await backend.discovery.configuration()
    speaks = misfits(described, algorithm=backend.key.algorithm, token_endpoint=ehr.token_endpoint) if isinstance(described, Configuration) else ()
    found = await backend()
    if isinstance(found, Failure):
        words, fix = _trouble(found, ehr, backend.key.kid)
        return SignIn("failed", "; ".join((words, *speaks)), fix, misfits=speaks)
    return _judged(ehr, found, speaks)


def _judged(ehr: EhrSettings, found: Granted, speaks: tuple[str, ...]) -> SignIn:
    sent = {"Authorization": f"Bearer {found.access_token}"}
    missing = narrower(ehr.scope, found.scope)
    token = f"a token for {found.life:.0f} s"
    if missing:
        fix = "let the EHR's operator grant it to this client, or ask for less: scope"
        return SignIn("warning", f"{token}, without {' '.join(missing)}", fix, missing, speaks, sent)
    if speaks:
        return SignIn("warning", f"{token}, though of its SMART configuration: {', '.join(speaks)}", "tell the EHR's operator", (), speaks, sent)
    return SignIn("ok", f"{token}, all scopes granted", headers=sent)


def _trouble(failure: Failure, ehr: EhrSettings, kid: str) -> tuple[str, str]:
    """What happened, and what to do."""
    match failure.reason, failure.told:
        case "ehr-smart-configuration", _:
            return (
                f"{ehr.url}/.well-known/smart-configuration names no endpoint that may be used",
                "check the address, or set token_endpoint; endpoints are https (on this machine, for development: token_loopback = true)",
            )
        case "ehr-token-refused", "invalid_client":
            return (
                f"the EHR does not take {ehr.client_id} with the key {kid} (invalid_client)",
                "register the public half of the key (gateway ehr key FILE) under that client_id and kid there; set both clocks by NTP",
            )
        case "ehr-token-refused", "invalid_scope":
            return "the EHR does not grant these scopes to this client (invalid_scope)", "set scope to what it is registered for there"
        case "ehr-token-refused", "unauthorized_client" | "unsupported_grant_type":
            return f"{ehr.client_id} is not registered for backend services (client_credentials) there", "let the EHR's operator register it for that"
        case "ehr-token-refused", told:
            return f"the EHR refuses the gateway ({told or 'without a code'})", "ask the EHR's operator; name client_id, kid and the time"
        case "ehr-token-throttled", _:
            return (
                "its token endpoint asks for a pause (429)",
                f"wait {failure.retry_after or 'a few'} seconds; if it stays so, ask the EHR's operator",
            )
        case "ehr-token-timeout", _:
            return "its token endpoint does not answer in time", "check the network, or raise timeout"
        case "ehr-token-untrusted", _:
            return "its token endpoint shows a certificate that is not trusted", "set ca to the authority that issued it"
        case "ehr-token-unusable", _:
            return "its token endpoint answers with no bearer token", "check token_endpoint, and that no proxy or sign-in page is before it"
        case _:
            return "its token endpoint does not work now (no connection, or 5xx)", "check the network; it is tried again every few seconds"


def public_keys(path: Path, kid: str) -> dict[str, Any]:
    """The JWK Set to register at an EHR, of the private key in this file; a new P-384 key is made where there is no file. Raises ConfigError."""
    if not path.exists():
        _make(path, kid or f"gateway-{secrets.token_hex(4)}")
    try:
        return {"keys": list(published(path, kid))}
    except KeyUnusable as error:
        raise ConfigError(
            f"{path} cannot be used: {error}", where="FILE", fix="name a private JWK or PEM file (with --kid), or one to be made"
        ) from error


def _make(path: Path, kid: str) -> None:
    key = jwk.ECKey.generate_key("P-384", {"kid": kid, "alg": "ES384", "use": "sig"}, private=True)
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except OSError as error:
        raise ConfigError(f"{path} cannot be made ({error.strerror})", where="FILE", fix="name a file in a folder that is there") from error
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        json.dump(key.as_dict(private=True), file)
