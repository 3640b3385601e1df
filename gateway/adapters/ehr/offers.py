"""What an EHR takes from those who write: the one place where that is decided. Pure.

In this order: what the operator says of it, what its own CapabilityStatement says, what is known of its platform. A statement that says nothing
decides nothing: HAPI (8.8.0, seen) takes ids of clients and does not mention `updateCreate`.
"""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from gateway.adapters.ehr.base import ByType, Offers
from gateway.adapters.ehr.profile import Profile


@dataclass(frozen=True, slots=True)
class Told:
    """What the operator says; None: find out."""

    client_ids: bool | None = None
    transactions: bool | None = None


class _Resource(msgspec.Struct):
    type: str = ""
    updateCreate: bool | None = None  # noqa: N815 (FHIR's name, and the next)
    conditionalCreate: bool | None = None  # noqa: N815


class _Interaction(msgspec.Struct):
    code: str = ""


class _Rest(msgspec.Struct):
    mode: str = ""
    resource: list[_Resource] = msgspec.field(default_factory=list[_Resource])
    interaction: list[_Interaction] = msgspec.field(default_factory=list[_Interaction])


class _Software(msgspec.Struct):
    name: str = ""


class Statement(msgspec.Struct):
    """The members of a CapabilityStatement that matter here (R4 capabilitystatement.html)."""

    software: _Software = msgspec.field(default_factory=_Software)
    rest: list[_Rest] = msgspec.field(default_factory=list[_Rest])


_decode = msgspec.json.Decoder(Statement).decode


def statement(body: bytes) -> Statement:
    """Read one; a malformed one says nothing."""
    try:
        return _decode(body)
    except (ValueError, RecursionError):  # msgspec's errors are ValueErrors
        return Statement()


def offers(profile: Profile, said: Statement | None = None, told: Told = Told()) -> Offers:  # a frozen value
    """What this EHR takes. `said` is its own statement, where it was asked."""
    rest = next((one for one in (said.rest if said else []) if one.mode == "server"), _Rest())
    codes = {one.code for one in rest.interaction}
    return Offers(
        client_ids=_by_type(told.client_ids, {one.type: one.updateCreate for one in rest.resource}, profile.client_ids),
        conditional_create=_by_type(None, {one.type: one.conditionalCreate for one in rest.resource}, profile.conditional_create),
        transactions=told.transactions if told.transactions is not None else "transaction" in codes if codes else profile.transactions,
    )


def _by_type(told: bool | None, said: dict[str, bool | None], known: bool) -> ByType:  # noqa: FBT001  # three opinions, weighed here
    if told is not None:
        return ByType(told)
    return ByType(known, {name: one for name, one in said.items() if one is not None})
