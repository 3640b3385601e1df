"""One FHIR REST request, parsed once and frozen. FHIR R4 http.html.

`parse` (in `fhir.request`) is the only maker of an Interaction from HTTP. What goes to an EHR is rebuilt from these parts and never forwarded
(ATK-F14, ATK-F24).
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import StrEnum


class Kind(StrEnum):
    """The interactions, by their FHIR restful-interaction code. Whatever is not here is not offered."""

    READ = "read"
    VREAD = "vread"
    SEARCH = "search-type"
    HISTORY = "history-instance"
    CREATE = "create"
    UPDATE = "update"
    PATCH = "patch"  # applied by the gateway, and sent as an update
    DELETE = "delete"
    TRANSACTION = "transaction"  # system senders only, through the inbox
    BATCH = "batch"  # likewise
    CAPABILITIES = "capabilities"


WRITES = frozenset({Kind.CREATE, Kind.UPDATE, Kind.PATCH, Kind.DELETE, Kind.TRANSACTION, Kind.BATCH})
PUSHED = frozenset({Kind.CREATE, Kind.UPDATE, Kind.TRANSACTION, Kind.BATCH})
"""The writes that a system's inbox takes."""


@dataclass(frozen=True, slots=True, order=True)
class Param:
    r"""One search parameter as sent: `code:not=a,b` is Param("code", "not", "a,b"). Value decoded once, FHIR escapes (`\,`) kept."""

    name: str
    modifier: str = ""
    value: str = ""

    @property
    def key(self) -> str:
        """The name with its modifier, as it stands in a URL."""
        return f"{self.name}:{self.modifier}" if self.modifier else self.name


@dataclass(frozen=True, slots=True)
class Conditions:
    """The conditional headers, as sent. Empty: absent."""

    if_match: str = ""  # 'W/"3"'
    if_none_match: str = ""  # ETag list or "*"
    if_modified_since: str = ""
    if_none_exist: tuple[Param, ...] = ()
    guard: tuple[Param, ...] = ()  # the worker's own If-None-Exist on a pushed create; a caller cannot send it


@dataclass(frozen=True, slots=True)
class Prefer:
    """RFC 7240 preferences that change an answer. `handling` is none: an unknown parameter is refused, whatever was preferred."""

    return_: str = ""  # minimal | representation | OperationOutcome
    respond_async: bool = False


@dataclass(frozen=True, slots=True)
class Interaction:
    """What is asked. `body` holds the caller's bytes for writes, with the gateway's own URLs made relative; for a patch, the patch.

    `params` are those of a search. An update, patch or delete without an `id` has its condition there: it is for the one resource that matches.
    """

    kind: Kind
    type: str = ""
    id: str = ""
    version: str = ""
    params: tuple[Param, ...] = ()
    page: str = ""  # opaque page link of ours (search only)
    body: bytes = b""
    conditions: Conditions = field(default_factory=Conditions)
    prefer: Prefer = field(default_factory=Prefer)
    entries: tuple[Interaction, ...] = ()  # of a transaction or batch, in order
    full_url: str = ""  # of an entry of a transaction or batch, as sent, with the gateway's own base taken off

    @property
    def target(self) -> str:
        """`Type/id` when one resource is named, else ""."""
        return f"{self.type}/{self.id}" if self.id else ""

    @property
    def by_condition(self) -> bool:
        """Whether a search says which resource is to be changed."""
        return not self.id and self.kind in (Kind.UPDATE, Kind.PATCH, Kind.DELETE)

    def with_params(self, params: tuple[Param, ...]) -> Interaction:
        """The same search with other parameters."""
        return replace(self, params=params)
