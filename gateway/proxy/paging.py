"""Opaque page links: sealed, bound to the caller and to the search that they continue (ATK-F15)."""

from __future__ import annotations

import base64
import time
from typing import Protocol

import msgspec

from gateway.errors import BadRequest, NotFound
from gateway.fhir.interaction import Interaction, Kind, Param
from gateway.smart.principal import Principal

LIFE = 3600.0  # seconds; HAPI itself forgets a page after an hour


class Seal(Protocol):
    """Authenticated encryption."""

    def seal(self, data: bytes, context: bytes) -> bytes:
        """Encrypt."""
        ...

    def open(self, sealed: bytes, context: bytes) -> bytes:
        """Decrypt, or raise ValueError."""
        ...


class _Link(msgspec.Struct, array_like=True):
    subject: str
    type: str
    params: list[tuple[str, str, str]]
    page: str
    expires: float


def _bound_to(principal: Principal) -> str:
    """The caller and her scopes: a link made under wide scopes counts what narrower ones may not see."""
    return f"{principal.subject} {' '.join(sorted(str(scope) for scope in principal.scopes))}"


def make(seal: Seal, principal: Principal, interaction: Interaction, link: str) -> str:
    """The value of `_page` for the caller's next link."""
    value = _Link(
        _bound_to(principal),
        interaction.type,
        [(p.name, p.modifier, p.value) for p in interaction.params],
        link,
        time.time() + LIFE,
    )
    return base64.urlsafe_b64encode(seal.seal(msgspec.msgpack.encode(value), b"page")).decode().rstrip("=")


def resume(seal: Seal, principal: Principal, interaction: Interaction) -> tuple[Interaction, str]:
    """The search that a page link continues, with the EHR's own link; any other interaction as it is, with "".

    Raises BadRequest for a link that is not ours, NotFound for another caller's or an expired one.
    """
    if not interaction.page:
        return interaction, ""
    try:
        sealed = base64.urlsafe_b64decode(interaction.page + "=" * (-len(interaction.page) % 4))
        value = msgspec.msgpack.decode(seal.open(sealed, b"page"), type=_Link)
    except ValueError as error:  # binascii.Error, SealBroken and msgspec's errors are ValueErrors
        raise BadRequest("That page link is not one of ours. Start the search again.", reason="page-unknown") from error
    if value.subject != _bound_to(principal) or value.type != interaction.type or value.expires < time.time():
        raise NotFound("That page is gone. Start the search again.", reason="page-gone")
    return Interaction(Kind.SEARCH, value.type, params=tuple(Param(*parts) for parts in value.params)), value.page
