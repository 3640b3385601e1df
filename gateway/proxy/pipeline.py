"""The only road to an EHR, for apps, the portal and the worker alike. `Pipeline.handle` shows every stage in order."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Protocol

from gateway.adapters.ehr.base import Ehr, EhrCall, EhrReply, Offers, OutcomeUnknown
from gateway.audit import AuditSink
from gateway.cache.cache import Cache, NoCache
from gateway.cache.flights import Flights
from gateway.cache.keys import Ask
from gateway.cache.policy import STALE, Lives
from gateway.errors import BadRequest, FhirError, Forbidden, NotFound, NotSupported, UpstreamFault
from gateway.fhir.bundle import Found, open_searchset
from gateway.fhir.compartment import matches
from gateway.fhir.interaction import WRITES, Interaction, Kind, Param
from gateway.fhir.json import parse
from gateway.fhir.search import canonical
from gateway.fhir.tables import Tables
from gateway.proxy import narrow, paging, render, simulated, trail
from gateway.proxy.access_log import AccessLog
from gateway.proxy.answer import Answer, RequestContext
from gateway.proxy.capabilities import Capabilities
from gateway.proxy.fetched import Fetched
from gateway.proxy.kept import Forwarded, Given, Kept, Wanted
from gateway.proxy.reads import Events, Reader, Whose, refusal
from gateway.proxy.writes import Writer, done
from gateway.smart.constraint import Allow, Constraint, Deny
from gateway.smart.policy import AccessRules, decide, reach
from gateway.smart.principal import Principal, PrincipalKind


class Upstream(Protocol):
    """Persons' own access to an EHR that lets in nobody else (ADR 0011)."""

    async def view(self, person: str) -> str:
        """What this account's view is called in cache keys. Raises Forbidden when the person has to connect (again)."""
        ...


@dataclass(frozen=True, slots=True)
class Parts:
    """What a pipeline is made of, besides the EHRs."""

    tables: Tables
    cache: Cache | NoCache
    audit: AuditSink
    access_log: AccessLog
    capabilities: Capabilities
    events: Events
    seal: paging.Seal
    public_url: str
    rules: AccessRules
    lives: Mapping[str, Lives]  # by EHR
    stale: float = STALE  # seconds beyond its life for which an answer is given while the EHR fails
    upstreams: Mapping[str, Upstream] = field(default_factory=dict[str, Upstream])  # by EHR, those alone where persons have their own
    flights: Flights = field(default_factory=Flights)


class Pipeline:
    """Authorizes, narrows, fetches or writes, screens, rewrites and records."""

    def __init__(self, ehrs: Mapping[str, Ehr], parts: Parts) -> None:
        self._ehrs = ehrs
        self._parts = parts
        self._kept = {name: Kept(parts.cache, parts.flights, parts.lives[name], parts.stale) for name in ehrs}

    async def handle(self, principal: Principal, interaction: Interaction, context: RequestContext) -> Answer:
        """The answer. Raises FhirError (already on record), or OutcomeUnknown for a write whose answer was lost."""
        try:
            ehr = self._ehr(principal.ehr)
            asked, page = paging.resume(self._parts.seal, principal, interaction)
            constraint = self._decide(principal, asked)
            if asked.kind is Kind.SEARCH:
                asked = narrow.understood(asked, self._parts.tables)
            context = simulated.marked(principal, context)
            await simulated.meet(asked, context.simulated)
            if asked.type == "AuditEvent" and asked.kind is Kind.SEARCH:
                return await self._access_log(principal, asked, page, constraint, context)
            reader = Reader(ehr, self._parts.tables, constraint, context, self._parts.events, await self._whose(principal))
            if asked.kind in WRITES:
                return await self._write(principal, asked, reader)
            return await self._read(principal, asked, page, reader)
        except FhirError as error:
            self._parts.audit.append(trail.refused(principal, interaction, context, error))
            raise
        except OutcomeUnknown as unknown:
            self._parts.audit.append(trail.unconfirmed(principal, interaction, context, unknown.reason))
            raise

    async def offers(self, ehr: str, *, patience: float | None = None) -> Offers:
        """What an EHR takes from those who write. Raises UpstreamFault while it cannot be asked, or not within `patience` seconds."""
        return await self._ehr(ehr).offers(patience=patience)

    async def capabilities(self, ehr: str, context: RequestContext) -> Answer:
        """`/metadata`: what the EHR can do, reduced to what is allowed through here. Anybody may ask."""
        return await self._parts.capabilities.answer(self._ehr(ehr), context)

    def admit(self, principal: Principal, interaction: Interaction) -> None:
        """Whether a system may push this, by its scopes alone, entry by entry. Raises Forbidden; no I/O."""
        self._person_of(principal)
        for one in interaction.entries or (interaction,):
            constraint = self._decide(principal, one)
            if one.conditions.if_none_exist and not self._reaches(principal, one.type, "s"):
                raise Forbidden("A conditional create needs a scope to search.", reason="scope-missing")
            if any(reach_.query for reach_ in constraint.match):
                resource = parse(one.body)
                if not any(not r.query or matches(resource, r.query, self._parts.tables) for r in constraint.match):
                    raise Forbidden("The resource is not within what this token may write.", reason="outside-scope-condition")

    async def stored(self, principal: Principal, interaction: Interaction, context: RequestContext) -> EhrReply | None:
        """A fresh read or vread for a system that may write the type; None when nothing is there. On record like any read.

        What was deleted is a reply with status 410: somebody took it away, which is not the same as that it was never there.
        """
        reply = await self._look(principal, interaction, context)
        if reply.status == 404:
            return None
        if reply.status not in (200, 410):
            raise UpstreamFault(reason="look-failed")
        return reply

    async def found(self, principal: Principal, interaction: Interaction, context: RequestContext) -> Found | None:
        """A fresh search for a system that may write the type; None when the type or the EHR has no such search. On record like any read."""
        if any(param.name != "_count" and param.name not in self._parts.tables.search.get(interaction.type, {}) for param in interaction.params):
            return None
        reply = await self._look(principal, interaction, context)
        return open_searchset(reply.body) if reply.status == 200 else None

    async def _look(self, principal: Principal, interaction: Interaction, context: RequestContext) -> EhrReply:
        if not any(self._reaches(principal, interaction.type, letter) for letter in "cu"):
            raise Forbidden(reason="scope-missing")
        self._person_of(principal)
        asked = interaction
        call = EhrCall(asked.kind, asked.type, asked.id, asked.version, asked.params, request_id=context.request_id)
        reply = await self._ehr(principal.ehr).send(call)
        self._parts.audit.append(trail.looked(principal, interaction, context, reply.status))
        if reply.status in (429, 503):  # the pause that it asks for is kept (FAULT-U5)
            raise refusal(reply, self._ehr(principal.ehr), context, self._parts.events)
        return reply

    def refused(self, ehr: str, context: RequestContext, error: FhirError, principal: Principal | None = None) -> None:
        """Put a refusal on record that came before there was an interaction, or anybody known."""
        record = trail.refused(principal, Interaction(Kind.READ), context, error) if principal else trail.anonymous(ehr, context, error)
        self._parts.audit.append(record)

    async def close(self) -> None:
        """End the fetches that are under way: nobody waits for them any more, and what they use is about to close."""
        await self._parts.flights.close()

    # Stages ---------------------------------------------------------------------------------------------------------------

    def _ehr(self, name: str) -> Ehr:
        if name not in self._ehrs:
            raise NotFound("There is no such FHIR base.", reason="ehr-unknown")
        return self._ehrs[name]

    async def _whose(self, principal: Principal) -> Whose:
        """With whose credential the EHR is asked, and what that view is called. Before the cache: without access there is nothing from it either."""
        person = self._person_of(principal)
        return Whose(person, await self._parts.upstreams[principal.ehr].view(person)) if person else Whose()

    def _person_of(self, principal: Principal) -> str:
        """The account, at an EHR where persons have their own access; "" at all others. Raises Forbidden for a system, which has none."""
        if principal.ehr not in self._parts.upstreams:
            return ""
        if not principal.user_id:
            raise Forbidden("This health record system lets in persons only.", reason="upstream-person-needed")
        return principal.user_id

    def _decide(self, principal: Principal, asked: Interaction) -> Constraint:
        if asked.kind in (Kind.TRANSACTION, Kind.BATCH):
            if principal.kind is not PrincipalKind.SYSTEM:  # nobody would judge the entries by patient, row and reference (ATK-F9)
                raise NotSupported("Batches and transactions are offered to systems that push only.", reason="bundle-not-offered")
            for entry in asked.entries:
                self._decide(principal, entry)
            return Constraint(())
        match decide(principal, asked, tables=self._parts.tables, rules=self._parts.rules):
            case Allow(constraint, _):
                return constraint
            case Deny() as denied:
                raise error_of(denied)

    async def _read(self, principal: Principal, asked: Interaction, page: str, reader: Reader) -> Answer:
        narrowed = self._narrowed(asked, reader.constraint)
        given = await self._given(asked, narrowed, page, reader)
        record = trail.read(principal, asked, narrowed, given.fetched, reader.context, cached=given.cached)
        answer = render.read(self._view(reader), principal, asked, given)
        self._parts.audit.append(replace(record, status=answer.status))
        return answer

    def _narrowed(self, asked: Interaction, constraint: Constraint) -> narrow.Narrowed:
        if asked.kind is Kind.SEARCH:
            return narrow.narrow(asked, constraint.match, self._parts.tables)
        return narrow.Narrowed(asked, exact=True, patients=constraint.patients)

    async def _given(self, asked: Interaction, narrowed: narrow.Narrowed, page: str, reader: Reader) -> Given:
        """From the cache where that is as good as fresh, else from the EHR."""

        async def get(held: Fetched | None) -> Fetched:
            return await reader.fetch(asked, narrowed, page, held=held)

        return await self._kept[reader.ehr.name].given(Wanted(_ask(asked, narrowed, page, reader), asked, reader.context.wish, get))

    async def _write(self, principal: Principal, asked: Interaction, reader: Reader) -> Answer:
        writer = Writer(reader, principal, self._parts.rules, self._parts.cache)
        view = self._view(reader)
        if asked.kind in (Kind.TRANSACTION, Kind.BATCH):
            reply = await writer.bundle(asked)
            with done():
                await self._parts.audit.commit(trail.wrote(principal, asked, reader.context, 200, ()))
                answer, hidden = render.bundle(view, reply)
            if hidden:
                reader.events(reader.context.request_id, "ehr-diagnostics", hidden)
            return answer
        written = await writer.write(asked)
        named = replace(asked, id=written.id)
        with done():
            await self._parts.audit.commit(trail.wrote(principal, named, reader.context, written.status, written.patients))
        return render.written(view, asked, written, may_read=self._may_read(principal, asked))

    def _may_read(self, principal: Principal, asked: Interaction) -> bool:
        """No letter implies another (ATK-F17): what was written comes back only to those who may read it."""
        return self._reaches(principal, asked.type, "r")

    def _reaches(self, principal: Principal, resource_type: str, letter: str) -> bool:
        return bool(reach(principal, resource_type, letter, tables=self._parts.tables, rules=self._parts.rules))

    def _view(self, reader: Reader) -> render.View:
        return render.View(self._parts.public_url, reader.ehr, self._parts.seal)

    async def _access_log(self, principal: Principal, asked: Interaction, page: str, constraint: Constraint, context: RequestContext) -> Answer:
        narrowed = narrow.narrow(asked, constraint.match, self._parts.tables)
        if narrowed.patients is None or len(narrowed.patients) > 1:
            raise BadRequest("Say whose: AuditEvent?patient=[id].", reason="patient-missing", code="required")
        fetched = await self._parts.access_log.fetch(principal.ehr, narrowed, asked, page)
        self._parts.audit.append(trail.read(principal, asked, narrowed, fetched, context, cached=False))
        reader = Reader(self._ehr(principal.ehr), self._parts.tables, constraint, context, self._parts.events)
        return render.read(self._view(reader), principal, asked, Given(fetched, Forwarded("around")))


def error_of(denied: Deny) -> FhirError:
    """A Deny as the error that becomes the answer."""
    kinds: dict[int, type[FhirError]] = {400: BadRequest, 403: Forbidden, 404: NotFound, 501: NotSupported}
    return kinds[denied.status](denied.message, reason=denied.reason, code=denied.code)


def _ask(asked: Interaction, narrowed: narrow.Narrowed, page: str, reader: Reader) -> Ask:
    """What the cache key is made of. A type counts where its data may change without a change of the patient's own (shared, owned, everyone's)."""
    patients = reader.constraint.patients
    kinds = {asked.type}.union(*(_joined(param, reader.tables) for param in asked.params))
    own = {name for name in kinds if patients is not None and reader.tables.compartment[name].kind in ("patient", "record")}
    params = narrowed.interaction.params if narrowed.interaction else asked.params
    return Ask(
        ehr=reader.ehr.name,
        view=reader.whose.view,
        constraint=reader.constraint.canonical(),
        interaction=f"{asked.kind} {asked.type}/{asked.id}/{asked.version}?{canonical(params)}#{page}",
        patients=None if patients is None else tuple(sorted(patients)),
        types=tuple(sorted(kinds - own)),
    )


def _joined(param: Param, tables: Tables) -> set[str]:
    """The types that a join may bring."""
    source, name, target = (*param.value.split(":"), "", "")[:3]
    if param.name == "_revinclude":
        return {source}
    known = tables.search.get(source, {}).get(name) if param.name == "_include" else None
    return {one for one in known.targets if one in tables.compartment and target in ("", one)} if known else set()
