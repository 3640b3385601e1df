"""A posted form as pairs: which names came once, which more often."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from fastapi import Request

from gateway.errors import FhirError
from gateway.smart.server.requests import Pairs, parse_form, repeated
from gateway.web.forms import form_body
from gateway.web.people import ForgedForm

_MOST = 1000  # fields: each scope that a person ticks is one, and an app may ask for every type at several levels
_CAP = 128 * 1024  # bytes of a form: an authorization request may be posted


@dataclass(frozen=True, slots=True)
class Sent:
    """A form. `one` has each name's only value; a name that may come often is asked for by `all`."""

    pairs: Pairs

    @property
    def one(self) -> Mapping[str, str]:
        """Names that came once."""
        twice = repeated(self.pairs)
        return {name: value for name, value in self.pairs if value and name not in twice}

    def all(self, name: str) -> list[str]:
        """Every value of a name."""
        return [value for key, value in self.pairs if key == name]


async def sent_form(request: Request) -> Sent:
    """Raises ForgedForm for one that cannot be read: none of ours is like that."""
    pairs = await sent_pairs(request)
    if pairs is None:
        raise ForgedForm
    return Sent(pairs)


async def sent_pairs(request: Request) -> Pairs | None:
    """As they came; None when they cannot be read."""
    try:
        return parse_form(await form_body(request, cap=_CAP), most=_MOST)
    except FhirError:
        return None
