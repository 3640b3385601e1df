"""Write to an EHR: judge what is stored and what it would become, then send it with the version that was judged.

Everything here runs between two renewals of the cache generations that the write touches, so that nobody reads an old answer after ours.
"""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, cast

from gateway.adapters.ehr.base import EhrCall, EhrReply, OutcomeUnknown
from gateway.cache import keys
from gateway.cache.cache import Cache, NoCache
from gateway.errors import BadRequest, Conflict, FhirError, Forbidden, NotFound, NotSupported, PreconditionFailed, Unprocessable
from gateway.fhir import json_patch, splice, validate
from gateway.fhir.compartment import matches, patients_of
from gateway.fhir.interaction import Interaction, Kind, Param
from gateway.fhir.json import parse, parse_trusted, serialize
from gateway.fhir.references import relative_reference, walk
from gateway.proxy import narrow
from gateway.proxy.fetched import Fetched
from gateway.proxy.reads import MAX_OWNERS, Hit, Reader, is_that, refusal
from gateway.smart.constraint import Deny, Reach
from gateway.smart.policy import AccessRules, reach
from gateway.smart.principal import Principal, PrincipalKind
from gateway.smart.write_rules import check_create, check_delete, check_update

Resource = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Written:
    """What became of a write. `body` is what the EHR says now stands there, b"" when it said nothing that may leave."""

    status: int
    type: str
    id: str
    etag: str = ""
    last_modified: str = ""
    body: bytes = b""
    patients: tuple[str, ...] = ()

    @property
    def location(self) -> str:
        """`Type/id/_history/version`, relative."""
        version = self.etag.removeprefix("W/").strip('"')
        return f"{self.type}/{self.id}" + (f"/_history/{version}" if version else "")


@contextlib.contextmanager
def done() -> Generator[None]:
    """From here on the EHR has done it: what fails now must not read as a refusal, because who believed that would send it again."""
    try:
        yield
    except FhirError as error:
        raise OutcomeUnknown(error.reason) from error


@dataclass(frozen=True, slots=True)
class Writer:
    """Writes one EHR for one principal and one request."""

    reader: Reader
    principal: Principal
    rules: AccessRules
    cache: Cache | NoCache

    async def write(self, asked: Interaction) -> Written:
        """Do it. Raises FhirError, or OutcomeUnknown when the EHR may or may not have done it."""
        if asked.by_condition:
            return await self._by_condition(asked)
        match asked.kind:
            case Kind.CREATE:
                return await (self._create_with_id(asked) if asked.id else self._create(asked))
            case Kind.UPDATE:
                return await (self._put(asked) if self._is_system else self._update(asked, await self._standing(asked)))
            case Kind.PATCH:
                return await self._patch(asked, await self._standing(asked))
            case Kind.DELETE:
                return await self._delete(asked, await self._standing(asked))
            case other:
                raise ValueError(other)

    async def bundle(self, asked: Interaction) -> EhrReply:
        """A transaction or batch of a system sender, each entry judged before it comes here. The EHR's reply, for the worker to read."""
        names = self._names(*(parse(entry.body) for entry in asked.entries))
        if any(entry.kind is Kind.UPDATE for entry in asked.entries):  # whose data the old versions were is not known
            names = (*names, keys.everything(self.reader.ehr.name))
        async with self.cache.touching(names):
            reply = await self.reader.send(EhrCall(asked.kind, body=asked.body))
        if reply.status != 200:
            raise refusal(reply, self.reader.ehr, self.reader.context, self.reader.events)
        return reply

    @property
    def _is_system(self) -> bool:
        return self.principal.kind is PrincipalKind.SYSTEM

    async def _create(self, asked: Interaction) -> Written:
        resource = await self._judged(asked)
        condition: tuple[Param, ...] = ()
        if asked.conditions.if_none_exist:
            narrowed = self._narrowed(asked.type, asked.conditions.if_none_exist, "A conditional create")
            if narrowed.interaction is None:
                raise PreconditionFailed("The condition names somebody else.", reason="condition-foreign")
            condition = narrowed.interaction.params
            if hit := await self._found(asked.type, narrowed, condition):
                return self._as_written(200, replace(asked, id=str(hit.resource["id"])), hit.stored)
        async with self.cache.touching(self._names(resource)):
            guard = condition or asked.conditions.guard
            reply = await self.reader.send(EhrCall(Kind.CREATE, asked.type, body=asked.body, if_none_exist=guard))
        if condition and reply.status == 200 and reply.body:
            self._check_holds(parse_trusted(reply.body), condition)
        if asked.conditions.guard and reply.status == 200:  # nothing was made: another one has that identifier since the worker looked
            raise PreconditionFailed(reason="made-since")
        if not condition and reply.status == 200 and not reply.headers.get("location"):  # no answer to a create: what was done is not known
            raise OutcomeUnknown("location-missing")
        return await self._written(asked, reply, resource)

    async def _create_with_id(self, asked: Interaction) -> Written:
        """A create whose id the gateway chose before the first attempt: repeatable, since a second attempt finds the first (promise 3)."""
        resource = await self._judged(asked)
        if not self._is_system and (found := await self._mine(asked)):
            return found
        # Where the EHR heeds If-None-Match, a PUT that arrives late, after another attempt and a correction, changes nothing any more.
        call = EhrCall(Kind.UPDATE, asked.type, asked.id, body=asked.body, if_none_match="*")
        async with self.cache.touching(self._names(resource)):
            reply = await self.reader.send(call)
        if reply.status != 412:
            return await self._written(asked, reply, resource)
        if not self._is_system and (found := await self._mine(asked)):
            return found
        raise PreconditionFailed("There is such a record already.", reason="exists")

    async def _mine(self, asked: Interaction) -> Written | None:
        try:
            stored = await self.reader.look(replace(asked, kind=Kind.READ), self.reader.constraint.match)
        except NotFound:
            return None
        return self._as_written(200, asked, stored)

    async def _put(self, asked: Interaction) -> Written:
        """A system's update: its own If-Match, or the version that the worker saw."""
        resource = await self._judged(asked)
        old = await self.reader.send(EhrCall(Kind.READ, asked.type, asked.id))
        versions: list[Resource] = [resource]
        if old.status == 200:  # with a granular scope, what stands there must be within it too (ATK-F16)
            versions.append(await self._within(parse_trusted(old.body)))
        # Whose data the old version was is not known when the EHR will not show it: then everything it gave may be old.
        names = self._names(*versions) if old.status in (200, 404, 410) else (keys.everything(self.reader.ehr.name),)
        new = old.status in (404, 410) and not asked.conditions.if_match
        call = EhrCall(Kind.UPDATE, asked.type, asked.id, body=asked.body, if_match=asked.conditions.if_match, if_none_match="*" if new else "")
        async with self.cache.touching(names):
            reply = await self.reader.send(call)
        return await self._written(asked, reply, *versions)

    async def _standing(self, asked: Interaction) -> Fetched:
        """What is to be changed, read fresh and judged: absent, deleted and somebody else's are the same 404 (ATK-F12)."""
        return await self.reader.read(replace(asked, kind=Kind.READ), self.reader.constraint.match)

    async def _update(self, asked: Interaction, stored: Fetched) -> Written:
        """The stored resource and the result are both the caller's, and nothing else was written in between (ATK-F12)."""
        _check_version(asked, stored)
        before = parse_trusted(stored.body)
        result = await self._judged(asked, before)
        call = EhrCall(Kind.UPDATE, asked.type, asked.id, body=asked.body, if_match=stored.etag)
        async with self.cache.touching(self._names(before, result)):
            reply = await self.reader.send(call)
        return await self._written(asked, reply, before, result)

    async def _patch(self, asked: Interaction, stored: Fetched) -> Written:
        """An update whose body is made here: what is judged is the result, and the EHR never sees the patch (ATK-F27)."""
        operations = json_patch.read(asked.body)
        before = parse_trusted(stored.body)
        if json_patch.tests(operations) and await self.reader.judge(before, self._reaches(asked.type, "r")) is None:
            raise Forbidden("A patch that tests what stands there needs a scope to read it.", reason="scope-missing")  # ATK-F17
        _check_version(asked, stored)
        result = json_patch.apply(before, operations)
        validate.require(result)
        return await self._update(replace(asked, kind=Kind.UPDATE, body=serialize(result)), stored)

    async def _delete(self, asked: Interaction, stored: Fetched) -> Written:
        """The stored resource is the caller's, the table lets her delete it as it stands, and it is that version which goes."""
        _check_version(asked, stored)
        before = parse_trusted(stored.body)
        if self.reader.tables.compartment[asked.type].kind != "patient":
            raise Forbidden(f"{asked.type} cannot be deleted here.", reason="type-read-only")
        if self.rules.writes == "table":
            _refuse(check_delete(self.principal, before, self.reader.tables, self.reader.ehr.relative))
        updated = str(before.get("meta", {}).get("lastUpdated", ""))
        call = EhrCall(Kind.DELETE, asked.type, asked.id, if_match=stored.etag, updated=updated)
        async with self.cache.touching(self._names(before)):
            reply = await self.reader.send(call)
        if reply.status not in (200, 204):
            raise self._refused(reply)
        return Written(204, asked.type, asked.id, patients=tuple(sorted(self._whose((before,)))))

    # By condition --------------------------------------------------------------------------------------------------------

    async def _by_condition(self, asked: Interaction) -> Written:
        """The one resource that the condition finds, changed by its id (http.html 3.1.0.4.3, 3.1.0.7.1, 3.1.0.8.1; ATK-F10, F26).

        Nothing found is 404, whether it is there for somebody else or not at all: nothing is made by an update here. Several are 412.
        """
        hit = await self._found(asked.type, self._narrowed(asked.type, asked.params, "A condition"), asked.params)
        if hit is None:
            raise NotFound
        one = replace(asked, id=str(hit.resource["id"]), params=())
        match asked.kind:
            case Kind.PATCH:
                return await self._patch(one, hit.stored)
            case Kind.DELETE:
                return await self._delete(one, hit.stored)
            case _:
                return await self._update(_with_id(one), hit.stored)

    # What may be written -------------------------------------------------------------------------------------------------

    async def _judged(self, asked: Interaction, stored: Resource | None = None) -> Resource:
        """The resource that would stand there, once it is known to be the caller's and allowed. Raises Forbidden or Unprocessable."""
        resource: Resource = parse(asked.body)
        if resource.get("resourceType") != asked.type:
            raise Unprocessable("The resource is of another type than the address says.", reason="type-mismatch")
        if self._is_system:
            return await self._within(resource)
        if self.reader.tables.compartment[asked.type].kind != "patient":
            raise Forbidden(f"{asked.type} cannot be written here.", reason="type-read-only")
        await self._within(resource)
        if self.rules.writes == "table":
            _refuse(self._row(resource, stored))
        await self._check_references(resource, stored)
        return resource

    async def _within(self, resource: Resource) -> Resource:
        if await self.reader.judge(resource, self.reader.constraint.match) is None:
            raise Forbidden("The resource is not within what this token may write.", reason="outside-compartment")
        return resource

    def _row(self, resource: Resource, stored: Resource | None) -> Deny | None:
        tables, relative = self.reader.tables, self.reader.ehr.relative
        if stored is None:
            return check_create(self.principal, resource, tables, relative)
        return check_update(self.principal, stored, resource, tables, relative)

    async def _check_references(self, resource: Resource, stored: Resource | None) -> None:
        """Every patient newly named is within reach, and every other resource newly named is one that may be seen.

        Else an EHR that checks references would tell which ids exist (ATK-F25), or data would be tied to another person's. What the stored
        resource named already (the other participant of a joint Appointment, its Slot) is neither news nor the caller's doing.
        """
        patients = _reached(self.reader.constraint.match)
        known = {reference.value for reference in walk(stored)} if stored else set[str]()
        seen: set[tuple[str, str]] = set()
        for reference in walk(resource):
            if reference.contained or not reference.value or reference.value in known:
                continue  # logical ones (identifier or display only) name nothing that the EHR would look up
            found = relative_reference(reference.value, self.reader.ehr.relative)
            if found is None:
                raise Unprocessable("Only resources of this server can be referred to.", reason="reference-foreign", expression=reference.path)
            seen.add(found)
        if len(seen) > MAX_OWNERS:
            raise Unprocessable("The resource refers to too many others.", reason="references-too-many")
        for target in sorted(seen):
            if not await self._may_refer(target, patients):
                raise Unprocessable("The resource refers to something that is not there.", reason="reference-unknown")

    async def _may_refer(self, target: tuple[str, str], patients: frozenset[str] | None) -> bool:
        target_type, target_id = target
        if f"{target_type}/{target_id}" == self.principal.fhir_user:
            return True
        row = self.reader.tables.compartment.get(target_type)
        if row is None or row.kind == "gateway" or not row.for_persons:
            return False
        if row.kind == "shared":
            return True
        if row.kind == "record" and patients is not None:
            return target_id in patients
        try:
            await self.reader.read(Interaction(Kind.READ, target_type, target_id), (Reach(patients),))
        except NotFound:
            return False
        return True

    # What a condition finds ---------------------------------------------------------------------------------------------------

    def _reaches(self, resource_type: str, letter: str) -> tuple[Reach, ...]:
        return reach(self.principal, resource_type, letter, tables=self.reader.tables, rules=self.rules)

    def _narrowed(self, resource_type: str, condition: tuple[Param, ...], what: str) -> narrow.Narrowed:
        """A condition narrowed like a search, for those who may search (ATK-F10, ATK-F26)."""
        reaches = self._reaches(resource_type, "s")
        if not reaches:
            raise Forbidden(f"{what} needs a scope to search.", reason="scope-missing")
        return narrow.narrow(Interaction(Kind.SEARCH, resource_type, params=condition), reaches, self.reader.tables)

    async def _found(self, resource_type: str, narrowed: narrow.Narrowed, condition: tuple[Param, ...]) -> Hit | None:
        """The one resource within reach that the condition finds; None for none. Several are 412 (http.html 3.1.0.7.1)."""
        hits = await self.reader.find(resource_type, narrowed, self.reader.constraint.match)
        for hit in hits:
            self._check_holds(hit.resource, condition)
        if len(hits) > 1:
            raise PreconditionFailed("The condition holds for several resources.", reason="condition-multiple")
        return hits[0] if hits else None

    def _check_holds(self, resource: Resource, condition: tuple[Param, ...]) -> None:
        """An EHR that ignores a parameter gives any resource, and the create would be lost for it. Tokens are judged here, to the letter."""
        tables = self.reader.tables
        tokens = tuple(
            (one.name, one.value) for one in condition if not one.modifier and tables.can_evaluate(str(resource["resourceType"]), one.name)
        )
        if matches(resource, tokens, tables) is False:
            raise self.reader.lied("condition-ignored")

    # Answers --------------------------------------------------------------------------------------------------------------

    def _names(self, *resources: Resource) -> tuple[str, ...]:
        """The cache generations that a change of these resources ends: those of their patients and types."""
        types = {str(resource.get("resourceType")) for resource in resources}
        return keys.names(self.reader.ehr.name, self._owners(resources), types)

    def _owners(self, resources: Iterable[Resource]) -> frozenset[str]:
        tables, relative = self.reader.tables, self.reader.ehr.relative
        rows = ((resource, tables.compartment.get(str(resource.get("resourceType")))) for resource in resources)
        return frozenset(patient for resource, row in rows if row for patient in patients_of(resource, row, relative))

    def _whose(self, versions: Iterable[Resource]) -> frozenset[str]:
        """On whose record the write is: theirs whose data it was or became, of those within reach; never of everybody within reach."""
        reached, owners = _reached(self.reader.constraint.match), self._owners(versions)
        return owners if reached is None else owners & reached

    async def _written(self, asked: Interaction, reply: EhrReply, *versions: Resource) -> Written:
        if reply.status not in (200, 201, 204):
            raise self._refused(reply)
        with done():
            return await self._stored(asked, reply, *versions)

    async def _stored(self, asked: Interaction, reply: EhrReply, *versions: Resource) -> Written:
        id_ = asked.id or _id_of(reply)
        resource = parse_trusted(reply.body) if reply.body else None
        body = b""
        if resource is not None and resource.get("resourceType") != "OperationOutcome":
            if not is_that(resource, replace(asked, id=id_)):  # whether it wrote what it was given is not known: look first (FAULT-U26)
                self.reader.events(self.reader.context.request_id, "ehr-lied", f"{asked.type}: the answer to a write is another resource")
                raise OutcomeUnknown("write-other-resource")
            if await self.reader.judge(resource, self.reader.constraint.match):
                body = reply.body
            else:
                self.reader.events(self.reader.context.request_id, "ehr-lied", f"{asked.type}: what was written is not within the constraint")
        if not id_:
            raise Conflict("The record system took this but did not say where it is.", reason="location-missing")
        patients = tuple(sorted(self._whose({**one, "id": id_} for one in versions)))
        status = 201 if reply.status == 201 else 200
        return Written(status, asked.type, id_, reply.etag, reply.headers.get("last-modified", ""), body, patients)

    def _refused(self, reply: EhrReply) -> FhirError:
        error = refusal(reply, self.reader.ehr, self.reader.context, self.reader.events)
        # After the stored resource was found and judged, an EHR's 404 can only mean that it went away in between.
        return PreconditionFailed(reason="version-changed") if isinstance(error, NotFound) and not self._is_system else error

    def _as_written(self, status: int, asked: Interaction, stored: Fetched) -> Written:
        return Written(status, asked.type, asked.id, stored.etag, stored.last_modified, stored.body, stored.patients)


def _refuse(denied: Deny | None) -> None:
    if denied is not None:
        raise Forbidden(denied.message, reason=denied.reason, code=denied.code)


def _check_version(asked: Interaction, stored: Fetched) -> None:
    if not _same_version(asked.conditions.if_match, stored.etag) or asked.conditions.if_none_match:
        raise PreconditionFailed(reason="version-changed")
    if not stored.etag:  # without a version nobody could tell whether it changed since it was judged
        raise NotSupported("The record system keeps no versions, so nothing can be changed here.", reason="ehr-unversioned")


def _with_id(asked: Interaction) -> Interaction:
    """A conditional update's body under the id that was found. One that names another id is about another resource (http.html 3.1.0.4.3)."""
    named = parse(asked.body).get("id", asked.id)
    if named != asked.id:
        raise BadRequest("The id in the body is not that of the resource that was found.", reason="id-mismatch", code="invalid")
    return replace(asked, body=splice.set_id(asked.body, asked.id))


def _reached(reaches: tuple[Reach, ...]) -> frozenset[str] | None:
    """All patients within reach, None for everyone."""
    if any(one.patients is None for one in reaches):
        return None
    return frozenset(patient for one in reaches for patient in one.patients or ())


def _same_version(asked: str, stored: str) -> bool:
    """Whether If-Match allows the stored version; absent allows any. Weak comparison: FHIR's ETags are weak (http.html 3.1.0.1.3)."""
    if asked in ("", "*"):
        return True
    return asked.removeprefix("W/").strip('" ') == stored.removeprefix("W/").strip('"')


def _id_of(reply: EhrReply) -> str:
    """The id that the EHR gave: from Location, else from the body."""
    parts = reply.headers.get("location", "").rstrip("/").split("/_history/")[0].rsplit("/", 1)
    if len(parts) == 2 and parts[1]:
        return parts[1]
    resource = parse_trusted(reply.body) if reply.body else None
    return str(cast("dict[str, Any]", resource).get("id", "")) if isinstance(resource, dict) else ""
