"""EHRs, the upstream FHIR servers: `connect` gives one that speaks the port in `base`."""

from __future__ import annotations

import ssl

import structlog

from gateway.adapters.ehr.address import address
from gateway.adapters.ehr.auth import Auth, Basic, Bearer, NoAuth, tls_context
from gateway.adapters.ehr.auto import AutoEhr
from gateway.adapters.ehr.base import Transport
from gateway.adapters.ehr.breaker import Breaker
from gateway.adapters.ehr.generic import GenericEhr, Link
from gateway.adapters.ehr.hapi import HapiEhr
from gateway.adapters.ehr.offers import Statement, Told, offers
from gateway.adapters.ehr.profile import load, of_software
from gateway.errors import ConfigError

__all__ = ["Auth", "AutoEhr", "Basic", "Bearer", "GenericEhr", "NoAuth", "Told", "connect", "tls_context"]

log = structlog.get_logger("gateway.ehr")


def connect(
    name: str,
    base_url: str,
    *,
    platform: str = "auto",
    auth: Auth | None = None,
    tls: ssl.SSLContext | None = None,
    timeout: float = 10.0,
    cap: int = 16 << 20,
    transport: str | Transport = "aiohttp",
    aliases: tuple[str, ...] = (),
    told: Told | None = None,
) -> AutoEhr | GenericEhr:
    """An EHR ready to be spoken to; nothing is sent yet. `close` gives its connections back.

    `platform` is auto (asks the server), or the name of a profile. `timeout` is in seconds for a whole call, `cap` in bytes of one answer.
    `tls` (see `tls_context`) holds a certificate for mTLS or another authority. `aliases` are other base URLs by which the EHR names itself; `told`
    is what the operator says that it takes. Raises ConfigError for a URL or name that cannot be.
    """
    breaker = Breaker(lambda state: log.warning("ehr-breaker", ehr=name, state=state))
    link = Link(name, address(base_url), _transport(transport, tls), auth or NoAuth(), breaker, timeout, cap, tuple(map(address, aliases)))
    told = told or Told()
    if platform != "auto":
        return _ehr(link, platform, told)
    return AutoEhr(_ehr(link, "generic", told), lambda said: _ehr(link, of_software(said.software.name), told, said))


def _ehr(link: Link, platform: str, told: Told, said: Statement | None = None) -> GenericEhr:
    profile = load(platform)
    return (HapiEhr if platform == "hapi" else GenericEhr)(link, profile, offers(profile, said, told))


def _transport(transport: str | Transport, tls: ssl.SSLContext | None) -> Transport:
    match transport:
        case "aiohttp":
            from gateway.adapters.ehr.aiohttp_transport import AiohttpTransport  # noqa: PLC0415  # of two libraries one is used, by who serves

            return AiohttpTransport(tls)
        case "httpx":
            from gateway.adapters.ehr.httpx_transport import HttpxTransport  # noqa: PLC0415  # as above

            return HttpxTransport(tls)
        case str():
            raise ConfigError(f"There is no transport {transport!r}.", where="transport", fix="aiohttp or httpx")
        case _:
            return transport
