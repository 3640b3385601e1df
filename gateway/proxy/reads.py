"""Fetch from an EHR and screen what came back: read, vread and search. What leaves here may be cached and shown."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from email.utils import format_datetime
from typing import Any, cast

from gateway.adapters.ehr.base import Ehr, EhrCall, EhrReply
from gateway.errors import FhirError, NotFound, UpstreamFault
from gateway.fhir import outcome
from gateway.fhir.bundle import open_searchset
from gateway.fhir.interaction import Interaction, Kind, Param
from gateway.fhir.json import parse_trusted
from gateway.fhir.tables import Tables
from gateway.proxy import narrow, screen
from gateway.proxy.answer import RequestContext
from gateway.proxy.fetched import Entry, Fetched, again
from gateway.smart.constraint import Constraint, Reach

MAX_OWNERS = 40
"""How many owners (targets of a Provenance, ...) are looked up for one answer; a resource with more is dropped."""

FLOOR = 0.05
"""Seconds that "nothing there" takes where one resource was asked for within a compartment. The EHR's search is the same one for another person's
resource and for none, but it remembers the ids that it has: HAPI 8.8 is 0.2 ms quicker to find nothing for one that exists (ATK-F1)."""

OWNERS_FLOOR = 0.25
"""The same where the resource itself had to be read, and its first owner, before anybody could say whose it is."""

Events = Callable[[str, str, str], None]
"""(request id, kind, text) for the sealed event log."""


@dataclass(frozen=True, slots=True)
class Whose:
    """With whose credential the EHR is asked: the account's own, or the gateway's (""). `view` names what is seen with it, in cache keys."""

    person: str = ""
    view: str = "gateway"


@dataclass(frozen=True, slots=True)
class Hit:
    """One resource that a condition found: parsed, and as it came."""

    resource: Mapping[str, Any]
    stored: Fetched


@dataclass(frozen=True, slots=True)
class Reader:
    """Reads one EHR under one constraint for one request."""

    ehr: Ehr
    tables: Tables
    constraint: Constraint
    context: RequestContext
    events: Events
    whose: Whose = Whose()

    async def fetch(self, asked: Interaction, narrowed: narrow.Narrowed, page: str = "", *, held: Fetched | None = None) -> Fetched:
        """The screened answer. Raises NotFound alike for absent, deleted and foreign; UpstreamFault when the EHR lies about shape.

        `held`: an earlier answer to this read, which the EHR may confirm instead of giving it again (304); it is judged again all the same.
        """
        match asked.kind:
            case Kind.READ:
                return await self.read(asked, self.constraint.match, held=held)
            case Kind.VREAD:
                # The current version must be the caller's as well as the one shown: else misfiled data stay readable.
                await self.read(replace(asked, kind=Kind.READ), self.constraint.match)
                return await self._by_id(asked, self.constraint.match)
            case Kind.SEARCH:
                begun = time.monotonic()
                found = await self._search(asked.type, narrowed, page)
                if narrowed.pointed and not found.entries:
                    await _no_sooner(begun + self._floor(asked.type, self.constraint.match))
                return found
            case other:
                raise ValueError(other)

    async def read(self, asked: Interaction, reaches: tuple[Reach, ...], *, held: Fetched | None = None) -> Fetched:
        """The current version of one resource within the reaches.

        NotFound for another person's, a deleted one and none at all: the same answer and, for who does not reach everyone, in the same time (ATK-F1).
        """
        begun = time.monotonic()
        try:
            return await self.look(asked, reaches, held=held)
        except NotFound:
            await _no_sooner(begun + self._floor(asked.type, reaches))
            raise

    async def find(self, resource_type: str, narrowed: narrow.Narrowed, reaches: tuple[Reach, ...]) -> tuple[Hit, ...]:
        """What a condition finds within the reaches, of at least two where there are several. Nothing takes as long as in `read` (ATK-F10)."""
        begun = time.monotonic()
        hits = await self._hits(resource_type, narrowed, reaches)
        if not hits:
            await _no_sooner(begun + self._floor(resource_type, reaches))
        return hits

    async def _hits(self, resource_type: str, narrowed: narrow.Narrowed, reaches: tuple[Reach, ...]) -> tuple[Hit, ...]:
        if narrowed.interaction is None:
            return ()
        reply = await self.send(EhrCall(Kind.SEARCH, resource_type, params=(*narrowed.interaction.params, Param("_count", "", "2"))))
        if reply.status != 200:
            raise refusal(reply, self.ehr, self.context, self.events)
        found = [entry for entry in open_searchset(reply.body).entries if entry.mode == "match" and entry.resource["resourceType"] == resource_type]
        judged = [(entry, await self.judge(entry.resource, reaches)) for entry in found]
        return tuple(Hit(entry.resource, _instance(entry.raw, entry.resource, keep)) for entry, keep in judged if keep is not None)

    def _floor(self, resource_type: str, reaches: tuple[Reach, ...]) -> float:
        row = self.tables.compartment[resource_type]
        if row.kind == "shared" or any(reach.patients is None for reach in reaches):
            return 0.0
        return FLOOR if row.kind in ("patient", "record") else OWNERS_FLOOR

    async def look(self, asked: Interaction, reaches: tuple[Reach, ...], *, held: Fetched | None = None) -> Fetched:
        """As `read`, but nothing is found as soon as that is known: for where the caller cannot choose the id, or does not see the time.

        Where a patient's compartment is the limit it is searched for, not read, so that the EHR never has another person's resource in hand.
        """
        row = self.tables.compartment[asked.type]
        if row.kind not in ("patient", "record") or any(reach.patients is None for reach in reaches):
            return await self._by_id(asked, reaches, held)
        search = Interaction(Kind.SEARCH, asked.type, params=(Param("_id", "", asked.id),))
        narrowed = narrow.narrow(search, reaches, self.tables)
        if narrowed.interaction is None:
            raise NotFound
        reply = await self.send(EhrCall(Kind.SEARCH, asked.type, params=narrowed.interaction.params))
        if reply.status != 200:
            raise refusal(reply, self.ehr, self.context, self.events)
        for entry in open_searchset(reply.body).entries:
            if entry.mode == "match" and is_that(entry.resource, asked) and (keep := await self.judge(entry.resource, reaches)):
                return _instance(entry.raw, entry.resource, keep)
        raise NotFound

    async def _by_id(self, asked: Interaction, reaches: tuple[Reach, ...], held: Fetched | None = None) -> Fetched:
        reply = await self.send(EhrCall(asked.kind, asked.type, asked.id, asked.version, if_none_match=held.etag if held else ""))
        if reply.status in (404, 410):
            raise NotFound
        if reply.status == 304 and held:
            return await self._unchanged(held, reaches)
        if reply.status != 200:
            raise refusal(reply, self.ehr, self.context, self.events)
        resource = parse_trusted(reply.body)
        if not is_that(resource, asked):
            raise self.lied("read-other-resource")
        keep = await self.judge(resource, reaches)
        if keep is None:
            raise NotFound
        found = _instance(reply.body, resource, keep)
        return _replace_stamps(found, reply)

    async def _unchanged(self, held: Fetched, reaches: tuple[Reach, ...]) -> Fetched:
        """The resource is as it was; who may see it may hang on others, its owners, and on rules of ours."""
        keep = await self.judge(parse_trusted(held.body), reaches)
        if keep is None:
            raise NotFound
        return again(held, tuple(sorted(keep.patients)))

    async def _search(self, searched: str, narrowed: narrow.Narrowed, page: str) -> Fetched:
        if narrowed.interaction is None:
            return Fetched(time.time(), total=0)
        reply = await self.send(EhrCall(Kind.SEARCH, searched, params=narrowed.interaction.params, page=page))
        if reply.status != 200:
            raise refusal(reply, self.ehr, self.context, self.events)
        found = open_searchset(reply.body)
        entries: list[Entry] = []
        patients: set[str] = set()
        dropped = 0
        for entry in found.entries:
            if entry.mode == "outcome":
                continue  # the EHR's own remarks stay here
            resource = entry.resource
            reaches = screen.reaches_for(str(resource.get("resourceType")), searched, entry.mode, self.constraint)
            keep = await self.judge(resource, reaches)
            if keep is None:
                dropped += 1
                continue
            patients |= keep.patients
            entries.append(Entry(entry.raw, resource["resourceType"], str(resource.get("id", "")), entry.mode))
        if dropped:
            self.events(self.context.request_id, "screened", f"{searched}: {dropped} entries outside the constraint")
        return Fetched(
            time.time(),
            entries=tuple(entries),
            link=self._next(found.links.get("next", "")),
            total=found.total if narrowed.exact and not dropped else None,
            patients=tuple(sorted(patients)),
        )

    def _next(self, url: str) -> str:
        if not url:
            return ""
        relative = self.ehr.relative(url)
        if relative is None:  # a page on another host is never followed, and a list that ends early would be a lie
            raise self.lied("foreign-page-link")
        return relative

    async def judge(self, resource: Mapping[str, Any], reaches: tuple[Reach, ...]) -> screen.Keep | None:
        """Keep, or None for what may not leave. Owners are read and judged where the verdict depends on them."""
        verdict = screen.judge(resource, reaches, self.tables, self.ehr.relative)
        match verdict:
            case screen.Keep():
                return verdict
            case screen.Drop():
                return None
            case screen.Ask(owners):
                return await self._by_owners(owners)

    async def _by_owners(self, owners: tuple[str, ...]) -> screen.Keep | None:
        patients: set[str] = set()
        if not owners or len(owners) > MAX_OWNERS:
            return None
        for owner in owners:
            owner_type, _, owner_id = owner.partition("/")
            reaches = self.constraint.others.get(owner_type, ())
            if not reaches or owner_type not in self.tables.compartment or self.tables.compartment[owner_type].kind == "owners":
                return None
            try:
                found = await self.look(Interaction(Kind.READ, owner_type, owner_id), reaches)
            except NotFound:
                return None
            patients |= set(found.patients)
        return screen.Keep(frozenset(patients))

    async def send(self, call: EhrCall) -> EhrReply:
        """One call on behalf of this request; every call carries its id, and none goes out when there is no right to it any more."""
        return await self.ehr.send(replace(call, request_id=self.context.request_id, person=self.whose.person, not_after=self.context.until()))

    def lied(self, reason: str) -> UpstreamFault:
        """The EHR gave what was not asked for: noted, and a fault to the caller (FAULT-U26)."""
        self.events(self.context.request_id, "ehr-lied", reason)
        return UpstreamFault(reason=reason, code="processing")


async def _no_sooner(moment: float) -> None:
    await asyncio.sleep(max(0.0, moment - time.monotonic()))


def is_that(resource: Any, asked: Interaction) -> bool:
    """Whether the EHR gave what was asked for."""
    if not isinstance(resource, dict):
        return False
    members = cast("dict[str, Any]", resource)
    return members.get("resourceType") == asked.type and members.get("id") == asked.id


def _instance(raw: bytes, resource: Mapping[str, Any], keep: screen.Keep) -> Fetched:
    """One resource with the stamps that its own meta gives."""
    meta = resource.get("meta")
    stamps = cast("dict[str, Any]", meta) if isinstance(meta, dict) else {}
    version, updated = stamps.get("versionId"), stamps.get("lastUpdated")
    return Fetched(
        time.time(),
        raw,
        etag=f'W/"{version}"' if isinstance(version, str) and version.isascii() and version.isprintable() else "",  # else it could be no header
        last_modified=_http_date(updated),
        patients=tuple(sorted(keep.patients)),
    )


def _replace_stamps(found: Fetched, reply: EhrReply) -> Fetched:
    """The headers of a read say more than the meta, where they are there."""
    return Fetched(
        found.at,
        found.body,
        etag=reply.etag or found.etag,
        last_modified=reply.headers.get("last-modified", "") or found.last_modified,
        patients=found.patients,
    )


def _http_date(instant: Any) -> str:
    """A FHIR instant as an HTTP date (RFC 9110 5.6.7), "" when it is none."""
    if not isinstance(instant, str):
        return ""
    try:
        moment = datetime.fromisoformat(instant)
    except ValueError:
        return ""
    return format_datetime(moment.astimezone(tz=UTC), usegmt=True) if moment.tzinfo else ""


def refusal(reply: EhrReply, ehr: Ehr, context: RequestContext, events: Events) -> FhirError:
    """The EHR's refusal as an error of ours: its codes and places, a sentence of ours; its own words go to the event log."""
    translated = outcome.from_upstream(reply.body, reply.status, bases=(ehr.base_url, *ehr.aliases))
    if translated.hidden:
        events(context.request_id, "ehr-diagnostics", translated.hidden)
    return translated.error(retry_after=reply.headers.get("retry-after", ""))
