"""What goes wrong at the EHR in a developer's trial, raised as the real thing would be. It is met after the request was found to be allowed."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from gateway.adapters.ehr.base import OutcomeUnknown
from gateway.errors import FhirError, Forbidden, UpstreamFault, UpstreamTimeout
from gateway.fhir import outcome
from gateway.fhir.interaction import WRITES, Interaction
from gateway.proxy.answer import RequestContext
from gateway.smart.principal import Principal
from gateway.smart.server import faults


def marked(principal: Principal, context: RequestContext) -> RequestContext:
    """The record of accesses says of each request that meets a fault that it did."""
    return replace(context, simulated=faults.at(principal.fault, "fhir")) if principal.fault else context


async def meet(asked: Interaction, fault: str) -> None:
    """Raises what an EHR in that state leads to, or takes as long. Nothing for ""."""
    match fault:
        case "fhir-slow":
            await asyncio.sleep(faults.FHIR_SLOW)
        case "fhir-scope":
            raise Forbidden(f"The token has no scope that allows {asked.kind} on {asked.type}.", reason="scope-missing", simulated=fault)
        case "fhir-throttled":
            raise _answered(429, fault)
        case "fhir-unavailable":
            raise _answered(503, fault)
        case "fhir-down":
            raise UpstreamFault(reason="ehr-unreachable", simulated=fault)
        case "fhir-timeout" if asked.kind in WRITES:
            raise OutcomeUnknown("ehr-timeout")
        case "fhir-timeout":
            raise UpstreamTimeout(reason="ehr-timeout", simulated=fault)
        case _:
            pass


def _answered(status: int, fault: str) -> FhirError:
    """The EHR's own refusal, with the pause that it asks for."""
    error = outcome.from_upstream(b"", status).error(retry_after=str(faults.PAUSE))
    error.simulated = fault
    return error
