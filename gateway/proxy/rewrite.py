"""The EHR's URLs on their way out become the gateway's, on bytes. Pure. The way in is `gateway.fhir.inbound`.

Which members are links is the table of `gateway.fhir.urls`; nothing else changes.
"""

from __future__ import annotations

from gateway.fhir import urls


def outbound(raw: bytes, ehr_base: str, gateway_base: str) -> bytes:
    """A resource or Bundle of the EHR with its links pointing to the gateway. Bases are absolute; a trailing slash does not matter."""
    new = gateway_base.rstrip("/").encode()
    return urls.edit(raw, ehr_base, lambda hit: (hit.end, new))
