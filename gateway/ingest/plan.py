"""How a push becomes requests that may be repeated: ids fixed before the first attempt, and the bytes that are sent. Pure.

Only `id` and, in a Bundle, `request` and the references within it are spliced (promise 2); a `fullUrl` that names the sender's own id of a
new resource follows that id (bundle.html: it shall not disagree).
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

from gateway.adapters.ehr.base import Offers
from gateway.errors import BadRequest, Unprocessable
from gateway.fhir import splice
from gateway.fhir.interaction import Interaction, Kind, Param
from gateway.fhir.json import parse_trusted
from gateway.fhir.search import render
from gateway.store.inbox_rows import Entry

_NO_GUARDS: Mapping[int, tuple[Param, ...]] = {}
_RESTFUL = re.compile(r"(?P<base>.*/)?(?P<local>[A-Z][A-Za-z]+/[A-Za-z0-9\-.]{1,64})", re.DOTALL)


def new_id() -> str:
    """An id for a resource that is going to be made: with a letter in it, since HAPI refuses numbers from clients (HAPI-0960)."""
    return "gw" + secrets.token_hex(15)


def parts(interaction: Interaction) -> tuple[Interaction, ...]:
    """The writes that it asks for: itself, or its entries."""
    return interaction.entries if interaction.kind in (Kind.TRANSACTION, Kind.BATCH) else (interaction,)


def entries(interaction: Interaction, offers: Offers | None = None) -> tuple[Entry, ...]:
    """A row for each piece, its target fixed.

    Two kinds of create keep none: a conditional one, whose condition finds it again, and one for an EHR that takes no ids of clients (`posted`).
    What the EHR offers may not be known yet: then it counts as one that takes them, until the first attempt (`refused_ids`).
    """
    return tuple(Entry(position, str(part.kind), part.type, _target(part, offers)) for position, part in enumerate(parts(interaction)))


def _target(part: Interaction, offers: Offers | None) -> str:
    if part.kind is not Kind.CREATE:
        return part.id
    given = part.conditions.if_none_exist or (offers is not None and not offers.client_ids.of(part.type))
    return "" if given else new_id()


def refused_ids(rows: Sequence[Entry], offers: Offers) -> tuple[int, ...]:
    """The positions of creates whose fixed id the EHR would not take. Each is given up before anything is sent."""
    return tuple(row.position for row in rows if row.kind == Kind.CREATE and row.target and not offers.client_ids.of(row.type))


def without_ids(rows: Sequence[Entry], positions: Collection[int]) -> tuple[Entry, ...]:
    """These rows as they stand once the ids are given up."""
    return tuple(replace(row, target="", tried=False, seen=None) if row.position in positions else row for row in rows)


def check_offered(interaction: Interaction, offers: Offers) -> None:
    """Raises Unprocessable for a transaction where the EHR takes none: taken apart it would not be one any more."""
    if interaction.kind is Kind.TRANSACTION and not offers.transactions:
        raise Unprocessable(
            "This record system takes no transactions. Send the resources one by one, or as a batch.",
            reason="transaction-not-offered",
            code="not-supported",
            expression="Bundle.type",
        )


def refuse_duplicates(interaction: Interaction) -> None:
    """A transaction may not name one identity twice (http.html#trules; EHRs drop one silently). Raises BadRequest (FAULT-S19)."""
    if interaction.kind is not Kind.TRANSACTION:
        return
    seen: set[object] = set()
    for position, part in enumerate(interaction.entries):
        identity = (part.type, part.id or part.conditions.if_none_exist)
        if not identity[1]:
            continue
        if identity in seen:
            raise BadRequest(
                "The transaction names one resource twice.",
                reason="transaction-duplicate",
                code="duplicate",
                expression=f"Bundle.entry[{position}]",
            )
        seen.add(identity)


def single(asked: Interaction, entry: Entry, if_match: str = "") -> Interaction:
    """One write as it is sent. A create goes to its fixed id; an update to the version that was seen."""
    if asked.kind is Kind.CREATE and entry.target:
        return replace(asked, id=entry.target, body=splice.set_id(asked.body, entry.target))
    if if_match:
        return replace(asked, conditions=replace(asked.conditions, if_match=if_match))
    return asked


def transaction(
    asked: Interaction, rows: Sequence[Entry], if_match: Mapping[int, str], guards: Mapping[int, tuple[Param, ...]] = _NO_GUARDS
) -> Interaction:
    """A transaction as it is sent: creates put to their fixed ids, updates bound to the versions that were seen, references following.

    A create without a fixed id stays a POST, with If-None-Exist where `guards` has one; what refers to it is left for the EHR to resolve.
    """
    raw = asked.body
    spots = list(_spots(raw))
    known = _known(spots, rows)
    edits: list[splice.Edit] = []
    for spot, row in zip(spots, rows, strict=True):
        edits += splice.referring(raw, spot.resource, _visible(spot, known))
        if row.kind == Kind.CREATE and row.target:
            edits += _as_put(raw, spot, row)
        elif guard := guards.get(row.position, ()):
            edits.append(splice.setting(raw, spot.request, "ifNoneExist", splice.string(render(guard))))
        elif row.position in if_match and splice.member(raw, spot.request, "ifMatch") is None:
            edits.append(splice.setting(raw, spot.request, "ifMatch", splice.string(if_match[row.position])))
    body = splice.apply(raw, edits)
    pieces = zip(asked.entries, rows, _spots(body), strict=True)
    return replace(
        asked,
        body=body,
        entries=tuple(replace(part, id=row.target, body=body[at.resource.start : at.resource.end]) for part, row, at in pieces),
    )


@dataclass(frozen=True, slots=True)
class _Spot:
    """Where the parts of one Bundle entry stand."""

    full_url: str
    full_url_at: splice.Span | None
    resource: splice.Span
    request: splice.Span

    @property
    def restful(self) -> re.Match[str] | None:
        return _RESTFUL.fullmatch(self.full_url)


def _spots(raw: bytes) -> Iterator[_Spot]:
    list_at = splice.member(raw, splice.root(raw), "entry")
    for item in splice.items(raw, list_at) if list_at else ():
        found = dict(splice.members(raw, item))
        yield _Spot(splice.text(raw, found.get("fullUrl")), found.get("fullUrl"), found["resource"], found["request"])


def _known(spots: Sequence[_Spot], rows: Sequence[Entry]) -> dict[str, str]:
    """The sender's names of new resources, to what they are called from now on."""
    return {
        spot.full_url: f"{row.type}/{row.target}"
        for spot, row in zip(spots, rows, strict=True)
        if spot.full_url and row.kind == Kind.CREATE and row.target
    }


def _visible(spot: _Spot, known: Mapping[str, str]) -> Mapping[str, str]:
    """How an entry may call the new ones: by fullUrl, and relative to its own fullUrl's base (bundle.html#references)."""
    own = spot.restful
    if own is None:
        return known
    base = own["base"] or ""
    return {**known, **{url.removeprefix(base): target for url, target in known.items() if url.startswith(base) and _RESTFUL.fullmatch(url)}}


def _as_put(raw: bytes, spot: _Spot, row: Entry) -> Iterator[splice.Edit]:
    yield splice.setting(raw, spot.resource, "id", splice.string(row.target))
    yield splice.setting(raw, spot.request, "method", b'"PUT"')
    yield splice.setting(raw, spot.request, "url", splice.string(f"{row.type}/{row.target}"))
    if spot.full_url_at is not None and (own := spot.restful) is not None:
        yield splice.Edit(spot.full_url_at.start, spot.full_url_at.end, splice.string(f"{own['base'] or ''}{row.type}/{row.target}"))


def same_content(mine: bytes, theirs: bytes) -> bool:
    """Whether what an EHR stored is what we sent, apart from what servers write themselves: id, meta and the narrative.

    Numbers compare by value (an EHR may write 1000 for 1.0e3), references without their version; one that only the EHR could resolve
    (`urn:uuid:`, a search) may have become any.
    """
    return _same(_content(mine), _content(theirs))


def _content(raw: bytes) -> Any:
    value = parse_trusted(raw)
    if not isinstance(value, dict):
        return value
    return {name: item for name, item in cast("dict[str, Any]", value).items() if name not in ("id", "meta", "text")}


def _same(mine: Any, theirs: Any, name: str = "") -> bool:
    if isinstance(mine, dict) and isinstance(theirs, dict):
        left, right = cast("dict[str, Any]", mine), cast("dict[str, Any]", theirs)
        return left.keys() == right.keys() and all(_same(item, right[key], key) for key, item in left.items())
    if isinstance(mine, list) and isinstance(theirs, list):
        lists = cast("tuple[list[Any], list[Any]]", (mine, theirs))
        return len(lists[0]) == len(lists[1]) and all(_same(*pair) for pair in zip(*lists, strict=True))
    if isinstance(mine, bool) or isinstance(theirs, bool):
        return mine is theirs
    if name == "reference" and isinstance(mine, str) and isinstance(theirs, str):
        return mine.startswith("urn:") or "?" in mine or mine.split("/_history/")[0] == theirs.split("/_history/")[0]
    return bool(mine == theirs)


def version_number(etag: str) -> int | None:
    """The number of a version (`W/"3"`, `"3"`, `3`), or None where versions are no numbers."""
    text = etag.removeprefix("W/").strip('"')
    return int(text) if text.isdecimal() and len(text) < 10 else None
