"""HAPI FHIR JPA: what it says in its own way. Seen on 8.8.0; each case is in tests/hapi."""

from __future__ import annotations

from dataclasses import replace

from gateway.adapters.ehr.base import EhrCall, EhrReply
from gateway.adapters.ehr.generic import GenericEhr
from gateway.fhir.interaction import Kind, Param

STALE = b"HAPI-0989"
"""`Trying to update X/_history/1 but this is not the current version`."""
RACED = b"HAPI-0823"
"""`The operation has failed with a version constraint failure`: another write of the same resource was faster.

HAPI-0825 is its sister for a client-assigned id that another write was just making; nothing is said about a version there.
"""


NOTHING_DELETED = b"SUCCESSFUL_DELETE_NOT_FOUND"
"""What it answers with 200 when a conditional delete matched nothing."""


class HapiEhr(GenericEhr):
    """A HAPI FHIR server."""

    def asked(self, call: EhrCall) -> EhrCall:
        """A DELETE with If-Match as one with a condition: it deletes any version whatever If-Match says, in a transaction too (8.8.0, seen)."""
        if call.kind is Kind.DELETE and call.if_match and call.updated:
            return replace(call, params=(Param("_lastUpdated", "", call.updated),))
        return call

    def settled(self, call: EhrCall, reply: EhrReply) -> EhrReply:
        """Its 409 for a stale If-Match as FHIR's 412 (http.html 3.1.0.5), and Location on every write (3.1.0.4)."""
        if _is_stale(call, reply) or (call.kind is Kind.DELETE and call.params and NOTHING_DELETED in reply.body):
            return replace(reply, status=412)
        if call.kind in (Kind.CREATE, Kind.UPDATE) and reply.status in (200, 201) and "location" not in reply.headers:
            # An update that makes the resource carries it as Content-Location only.
            return replace(reply, headers={**reply.headers, "location": reply.headers.get("content-location", "")})
        return reply


def _is_stale(call: EhrCall, reply: EhrReply) -> bool:
    """Whether a 409 is about a version; others, such as a resource that is still referred to, stay 409."""
    guarded = bool(call.if_match) or call.kind in (Kind.TRANSACTION, Kind.BATCH)
    return reply.status == 409 and (STALE in reply.body or (guarded and RACED in reply.body))
