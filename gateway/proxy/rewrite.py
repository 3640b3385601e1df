"""Between the EHR's URLs and the gateway's, on bytes. Pure.

Outbound, a link or reference to the EHR's base becomes one to the gateway's; inbound, one to the gateway's base becomes relative, because EHRs
refuse absolute references to a foreign server. Which members are links is the table of `gateway.fhir.urls`; nothing else changes.
"""

from __future__ import annotations

from gateway.fhir import inbound as _inbound
from gateway.fhir import urls


def outbound(raw: bytes, ehr_base: str, gateway_base: str) -> bytes:
    """A resource or Bundle of the EHR with its links pointing to the gateway. Bases are absolute; a trailing slash does not matter."""
    new = gateway_base.rstrip("/").encode()
    return urls.edit(raw, ehr_base, lambda hit: (hit.end, new))


def inbound(raw: bytes, gateway_base: str) -> bytes:
    """A caller's resource or Bundle with the gateway's own URLs relative (`Patient/1`)."""
    return _inbound.body(raw, (gateway_base,))


def outbound_url(url: str, ehr_base: str, gateway_base: str) -> str:
    """A Location or Content-Location of the EHR (absolute or relative) at the gateway, or "" when it is neither: it may name another host."""
    base = ehr_base.rstrip("/")
    if url == base or url.startswith((base + "/", base + "?")):
        return gateway_base.rstrip("/") + url[len(base) :]
    if "://" in url or url.startswith("/"):
        return ""
    return f"{gateway_base.rstrip('/')}/{url}" if url else ""
