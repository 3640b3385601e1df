"""What a developer sees of her app's requests to a FHIR base. Pure; only the addresses of resources and never what is in them."""

from __future__ import annotations

from typing import Any, Protocol
from urllib.parse import unquote_plus

import msgspec

from gateway.errors import FhirError
from gateway.fhir.interaction import Interaction, Kind
from gateway.fhir.search import canonical
from gateway.proxy.answer import Answer, RequestContext
from gateway.smart.policy import LETTER
from gateway.smart.principal import Principal
from gateway.smart.server.trial import Noted, is_secret, redacted


class _Searchset(msgspec.Struct):
    """As far as it is counted."""

    entry: list[msgspec.Raw] = []


_MISPLACED = "(a token, which does not belong there)"
_OF_SEARCHES = ("code", "request")
"""Parameters of FHIR searches, though OAuth has secrets of these names: those are known by their look."""
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
        facts["search"] = _query(canonical(interaction.params))
    if principal and interaction:
        letter = LETTER.get(interaction.kind, "")
        facts["scopes"] = [str(one) for one in principal.scopes if letter and one.allows(interaction.type, letter)]
    if refused:
        facts |= {"reason": refused.reason, "sentence": redacted(refused.message)}
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
    path, query = "/".join(map(redacted, asked.path.split("/"))), _query(asked.query.decode("latin-1"))
    return f"/fhir/{asked.ehr}/{path}" + (f"?{query}" if query else "")


def _query(query: str) -> str:
    return "&".join(_parameter(*one.partition("=")) for one in query.split("&"))


def _parameter(name: str, equals: str, value: str) -> str:
    plain = unquote_plus(name)
    secret = is_secret(plain) and plain not in _OF_SEARCHES
    return f"{redacted(name)}{equals}{_MISPLACED if secret and value else redacted(value)}"


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
