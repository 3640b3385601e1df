"""What a developer sees of her app's requests to a FHIR base. Pure; only the addresses of resources and never what is in them."""

from __future__ import annotations

from typing import Any, Protocol
from urllib.parse import parse_qsl

import msgspec

from gateway.errors import FhirError
from gateway.fhir.interaction import Interaction, Kind
from gateway.fhir.search import canonical
from gateway.proxy.answer import Answer, RequestContext
from gateway.smart.policy import LETTER
from gateway.smart.principal import Principal
from gateway.smart.server.trial import Noted, is_secret


class _Searchset(msgspec.Struct):
    """As far as it is counted."""

    entry: list[msgspec.Raw] = []


_decode = msgspec.json.Decoder(_Searchset).decode


class Asked(Protocol):
    """api.fhir.Incoming."""

    @property
    def ehr(self) -> str:
        """The EHR's name."""
        ...

    @property
    def method(self) -> str:
        """Of HTTP."""
        ...

    @property
    def path(self) -> str:
        """Below the base."""
        ...

    @property
    def query(self) -> bytes:
        """As sent."""
        ...

    @property
    def context(self) -> RequestContext:
        """By which name the request is on record."""
        ...


def call(asked: Asked, principal: Principal | None, interaction: Interaction | None, answer: Answer, refused: FhirError | None, ms: float) -> Noted:
    """A request with a token, and its answer."""
    facts: dict[str, Any] = {"request_id": asked.context.request_id}
    if interaction:
        facts["interaction"] = f"{interaction.kind} {interaction.type}".strip()
    if interaction and interaction.kind is Kind.SEARCH and asked.method == "POST":
        secret = any(is_secret(one.name) for one in interaction.params)
        facts["search"] = "(a token, which does not belong there)" if secret else canonical(interaction.params)
    if principal and interaction:
        letter = LETTER.get(interaction.kind, "")
        facts["scopes"] = [str(one) for one in principal.scopes if letter and one.allows(interaction.type, letter)]
    if refused:
        facts |= {"reason": refused.reason, "sentence": refused.message}
    elif answer.header("Cache-Status"):
        facts |= {"cached": "hit" in answer.header("Cache-Status"), "entries": _entries(answer, interaction)}
    if simulated := _simulated(principal, refused):
        facts["simulated"] = simulated
    return Noted("fhir", asked.method, _address(asked), answer.status, ms, facts)


def document(asked: Asked, answer: Answer, ms: float) -> Noted:
    """A discovery document, read by a page that says where it is from and nothing else."""
    return Noted("discovery", asked.method, _address(asked), answer.status, ms, {"known_by": "the web origin of the app"})


def _address(asked: Asked) -> str:
    """As the app wrote it, but for a token that does not belong there."""
    query = asked.query.decode("latin-1")
    if any(is_secret(name) for name, _ in parse_qsl(query, keep_blank_values=True)):
        query = "(a token, which does not belong there)"
    return f"/fhir/{asked.ehr}/{asked.path}" + (f"?{query}" if query else "")


def _entries(answer: Answer, interaction: Interaction | None) -> int:
    """Resources in it: of a searchset those that match and those that come along."""
    if interaction is None or interaction.kind is not Kind.SEARCH:
        return int(bool(answer.body))
    try:
        return len(_decode(answer.body).entry)
    except msgspec.DecodeError:
        return 0


def _simulated(principal: Principal | None, refused: FhirError | None) -> str:
    if refused:
        return refused.simulated
    return principal.fault if principal and principal.fault == "fhir-slow" else ""
