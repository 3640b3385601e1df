"""The EHR's URLs on their way out become the gateway's, on bytes. Pure. The way in is `gateway.fhir.inbound`.

Which members are links is the table of `gateway.fhir.urls`; nothing else changes.
"""

from __future__ import annotations

from gateway.fhir import urls


def outbound(raw: bytes, ehr_base: str, gateway_base: str, aliases: tuple[str, ...] = ()) -> bytes:
    """A resource or Bundle of the EHR with its links pointing to the gateway. Bases are absolute; a trailing slash does not matter.

    `aliases` are other bases by which the EHR names itself.
    """
    new = gateway_base.rstrip("/").encode()
    if aliases:
        return urls.replace(raw, (ehr_base, *aliases), new)
    return urls.edit(raw, ehr_base, lambda hit: (hit.end, new))
