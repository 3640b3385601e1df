"""HAPI FHIR JPA: what it says in its own way. Seen on 8.8.0; each case is in tests/hapi."""

from __future__ import annotations

from gateway.adapters.ehr.base import EhrCall, EhrReply
from gateway.adapters.ehr.generic import GenericEhr, with_status
from gateway.fhir.interaction import Kind

STALE = b"HAPI-0989"
"""`Trying to update X/_history/1 but this is not the current version`."""
RACED = b"HAPI-0825"
"""`The operation has failed with a version constraint failure`: another write of the same resource was faster."""


class HapiEhr(GenericEhr):
    """A HAPI FHIR server."""

    def settled(self, call: EhrCall, reply: EhrReply) -> EhrReply:
        """A stale If-Match is 409 at HAPI and 412 in FHIR (http.html 3.1.0.5). Other 409s, such as a referenced resource, stay."""
        guarded = bool(call.if_match) or call.kind in (Kind.TRANSACTION, Kind.BATCH)
        if reply.status == 409 and (STALE in reply.body or (guarded and RACED in reply.body)):
            return with_status(reply, 412)
        return reply
