"""One patient's record at one EHR, as the features see it. The only way from the portal to the pipeline."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import datetime, tzinfo
from typing import Any, Protocol, cast
from urllib.parse import parse_qs, urlsplit
from uuid import UUID, uuid5

from gateway.cache.policy import FRESH
from gateway.errors import Conflict, FhirError, MethodNotAllowed, NotFound, Unprocessable, UpstreamFault
from gateway.fhir.interaction import Conditions, Interaction, Kind, Param
from gateway.fhir.json import parse_trusted, serialize
from gateway.fhir.search import escape
from gateway.portal import words
from gateway.portal.models import validate
from gateway.portal.words import Resource, many, reference, text
from gateway.proxy.answer import Answer, RequestContext
from gateway.smart.principal import Principal

PAGE_SIZE = 200
MAX_PAGES = 5
"""A list follows at most so many pages of a search, and says when there is more."""
MAX_NAMES = 25
"""Referenced people and places that are looked up by name for one page; the others go without a name."""
SYSTEM = "urn:fhir-portal-gateway:"
_NAMESPACE = UUID("6a1f6b5e-3a55-4a53-9f0c-6d0f1b0f2a11")
_ID = re.compile(r"[A-Za-z0-9.-]{1,64}")
_NAMED_TYPES = frozenset({"Practitioner", "PractitionerRole", "Organization", "Location", "CareTeam", "Medication"})


class Handler(Protocol):
    """The pipeline."""

    async def handle(self, principal: Principal, interaction: Interaction, context: RequestContext) -> Answer:
        """Judge, fetch or write, screen, audit. Raises FhirError, or OutcomeUnknown for a write whose answer was lost."""
        ...


def token(name: str, system: str, code: str) -> Param:
    """A token parameter `system|code`, its parts escaped (R4 search.html 3.1.1.4.1)."""
    return Param(name, "", f"{escape(system)}|{escape(code)}")


@dataclass(frozen=True, slots=True)
class Source:
    """An EHR as patients know it. `zone`: the clinic's time zone; without one, times are shown in the zone that the data name."""

    ehr: str
    name: str
    phone: str = ""
    zone: tzinfo | None = None
    # Whether the EHR takes ids of clients for a type: then a form's thing has one id, and two at once are still one.
    takes_id: Callable[[str], bool] = lambda _: False
    # Within what time its care team answers, as the clinic promises it ("3 working days"); "" promises nothing.
    replies_within: str = ""


@dataclass(frozen=True, slots=True)
class Ask:
    """One search of a page. `what` says in words what is missing when it fails."""

    what: str
    type: str
    params: tuple[Param, ...] = ()


@dataclass(frozen=True, slots=True)
class Found:
    """`age` in seconds of the oldest part; `more`: there is more than was fetched."""

    resources: tuple[Resource, ...] = ()
    age: int = 0
    more: bool = False


@dataclass(frozen=True, slots=True)
class Standing:
    """What a page must say about its data: whose they are, how old, what could not be had and what was cut off."""

    source: Source
    age: int = 0
    missing: tuple[str, ...] = ()
    more: tuple[str, ...] = ()

    @property
    def freshness(self) -> str:
        """`From Mercy Clinic, as of 3 minutes ago`."""
        return f"From {self.source.name}, " + ("checked just now." if self.age < 60 else f"as of {words.ago(self.age)}.")

    def merged(self, other: Standing) -> Standing:
        """Both."""
        return replace(
            self,
            age=max(self.age, other.age),
            missing=tuple(dict.fromkeys(self.missing + other.missing)),
            more=tuple(dict.fromkeys(self.more + other.more)),
        )


@dataclass(frozen=True, slots=True)
class Status:
    """A status in words. `tone` is good, info, warn, bad or "" and only decorates: the word carries the meaning."""

    word: str
    meaning: str = ""
    tone: str = ""


@dataclass(frozen=True, slots=True)
class Todo:
    """One line of the home page's list."""

    title: str
    path: str
    detail: str = ""
    rank: int = 5  # smaller stands higher


@dataclass(frozen=True, slots=True)
class Chart:
    """`base` is the gateway's own URL of this EHR: what goes back to it names resources relatively."""

    pipeline: Handler
    principal: Principal
    context: RequestContext
    source: Source
    now: datetime
    base: str = ""
    _reads: dict[str, asyncio.Task[Resource | None]] = field(default_factory=dict[str, "asyncio.Task[Resource | None]"], repr=False)

    @property
    def patient(self) -> str:
        """`Patient/p1`."""
        return f"Patient/{self.principal.patient}"

    @property
    def author(self) -> str:
        """Who acts: the person herself, or the one who cares for her."""
        return self.principal.fhir_user or self.patient

    @property
    def zone(self) -> tzinfo | None:
        """The clinic's."""
        return self.source.zone

    def standing(self) -> Standing:
        """With nothing missing."""
        return Standing(self.source)

    # -- reading

    async def read(self, resource_type: str, id_: str) -> Resource:
        """One resource. Raises NotFound for what is no id at all, too."""
        return (await self.read_with_etag(resource_type, id_))[0]

    async def read_with_etag(self, resource_type: str, id_: str, *, fresh: bool = False) -> tuple[Resource, str, int]:
        """The resource, its ETag (`W/"3"` or "") and its age in seconds. `fresh`: not from the cache."""
        if not _ID.fullmatch(id_):
            raise NotFound
        context = replace(self.context, wish=FRESH) if fresh else self.context
        answer = await self.pipeline.handle(self.principal, Interaction(Kind.READ, resource_type, id_), context)
        return _object(answer.body), answer.header("ETag"), answer.age

    async def search(self, resource_type: str, params: Iterable[Param] = (), *, limit: int = MAX_PAGES) -> Found:
        """All resources of the type that match, over as many pages as allowed. Narrowed to the patient by `patient`."""
        ask = (Param("patient", "", self.principal.patient), *params, Param("_count", "", str(PAGE_SIZE)))
        interaction = Interaction(Kind.SEARCH, resource_type, params=ask)
        found: dict[str, Resource] = {}
        age = 0
        for turn in range(limit):
            try:
                answer = await self.pipeline.handle(self.principal, interaction, self.context)
            except FhirError:
                if turn == 0:
                    raise
                return Found(tuple(found.values()), age, more=True)  # what is there is shown, and the page says that more exists
            bundle = _object(answer.body)
            age = max(age, answer.age)
            for resource in _matches(bundle, resource_type):
                found.setdefault(text(resource, "id") or str(len(found)), resource)
            page = _next(bundle)
            if not page:
                return Found(tuple(found.values()), age)
            interaction = Interaction(Kind.SEARCH, resource_type, page=page)
        return Found(tuple(found.values()), age, more=True)

    async def gather(self, *asks: Ask) -> tuple[tuple[Found, ...], Standing]:
        """Several searches at once. One that fails is named in `missing`; when all fail, the first error is raised."""
        results = await asyncio.gather(*(self._attempt(ask) for ask in asks))
        errors = [result for result in results if isinstance(result, FhirError)]
        if errors and len(errors) == len(asks):
            raise errors[0]
        founds = tuple(result if isinstance(result, Found) else Found() for result in results)
        pairs = tuple(zip(asks, results, strict=True))
        return founds, Standing(
            self.source,
            max((found.age for found in founds), default=0),
            tuple(ask.what for ask, result in pairs if isinstance(result, FhirError)),
            tuple(ask.what for ask, result in pairs if isinstance(result, Found) and result.more),
        )

    async def _attempt(self, ask: Ask) -> Found | FhirError:
        try:
            return await self.search(ask.type, ask.params)
        except FhirError as error:
            return error

    async def names(self, references: Iterable[object]) -> Mapping[str, str]:
        """`Type/id` to a name in words, from the reference's display or else by reading the resource. Absent: not known."""
        found: dict[str, str] = {}
        wanted: dict[str, None] = {}
        for item in references:
            if not (target := reference(item)):
                continue
            if display := text(item, "display"):
                found.setdefault(target, display)
            elif target.partition("/")[0] in _NAMED_TYPES:
                wanted.setdefault(target)
        unknown = [target for target in wanted if target not in found][:MAX_NAMES]
        resources = await asyncio.gather(*(self._quietly(target) for target in unknown))
        for target, resource in zip(unknown, resources, strict=True):
            if resource is not None and (name := words.title_of(resource)):
                found[target] = name
        return found

    async def _quietly(self, target: str) -> Resource | None:
        """Read once for this page; None when it cannot be had: a missing name is no reason to hide a result."""
        task = self._reads.get(target)
        if task is None:
            task = self._reads[target] = asyncio.ensure_future(self._or_none(target))
        return await task

    async def _or_none(self, target: str) -> Resource | None:
        resource_type, _, id_ = target.partition("/")
        try:
            return await self.read(resource_type, id_)
        except FhirError:
            return None

    # -- writing

    def identifier(self, kind: str, key: str) -> tuple[str, str]:
        """System and value for what a form makes, derived from the form's key: the same form makes the same thing once."""
        parts = f"{self.principal.ehr}|{self.principal.patient}|{self.principal.user_id}|{kind}|{key}"
        return f"{SYSTEM}{kind}", uuid5(_NAMESPACE, parts).hex

    async def create(self, resource: Resource, identifier: tuple[str, str]) -> str:
        """Create unless something of the patient's with that identifier exists; gives `Type/id` either way.

        Raises Unprocessable when the resource is not right by the model (a fault of ours), FhirError and OutcomeUnknown as the pipeline does.
        """
        _check(resource)
        resource_type = text(resource, "resourceType")
        condition = token("identifier", *identifier)
        if self.source.takes_id(resource_type):
            body = serialize({**resource, "id": identifier[1]})
            with suppress(MethodNotAllowed):  # it was thought to take ids of clients, and says that it does not (R4 http.html 3.1.0.4.2)
                return await self._created(Interaction(Kind.CREATE, resource_type, identifier[1], body=body), condition)
        conditions = Conditions(if_none_exist=(condition,))
        return await self._created(Interaction(Kind.CREATE, resource_type, body=serialize(resource), conditions=conditions), condition)

    async def _created(self, interaction: Interaction, condition: Param) -> str:
        try:
            answer = await self.pipeline.handle(self.principal, interaction, self.context)
        except Conflict:
            again = replace(self, context=replace(self.context, wish=FRESH))
            found = await again.search(interaction.type, (condition,), limit=1)
            if not found.resources:
                raise
            # The same form, sent to another process at the same time, was quicker (HAPI-0825).
            return f"{interaction.type}/{text(found.resources[0], 'id')}"
        return _located(answer, interaction.type) or await self._by_identifier(interaction.type, condition)

    async def _by_identifier(self, resource_type: str, condition: Param) -> str:
        """Some EHRs answer a conditional create that found one without a Location."""
        found = await self.search(resource_type, (condition,), limit=1)
        if not found.resources:
            raise UpstreamFault(reason="created-without-location")
        return f"{resource_type}/{text(found.resources[0], 'id')}"

    async def update(self, stored: Resource, changes: Resource, etag: str) -> None:
        """Put `stored` with some members changed over the version that `etag` names. Raises PreconditionFailed when it has changed since."""
        resource = {**stored, **changes}
        if not validate(stored):  # odd data of others are no reason to refuse a change that is right by itself
            _check(resource)
        relative = cast("Resource", _relative(resource, self.base))
        interaction = Interaction(
            Kind.UPDATE,
            text(resource, "resourceType"),
            text(resource, "id"),
            body=serialize(relative),
            conditions=Conditions(if_match=etag),
        )
        await self.pipeline.handle(self.principal, interaction, self.context)


def _check(resource: Resource) -> None:
    """Against the R4B model, on a copy: the bytes that go out are never the model's. What fails here is a fault of ours or of the stored data."""
    if validate(resource):
        raise Unprocessable(reason="own-resource-invalid")


def _object(body: bytes) -> Resource:
    value = parse_trusted(body)
    if not isinstance(value, dict):
        raise UpstreamFault(reason="answer-not-an-object")
    return cast("Resource", value)


def _matches(bundle: Resource, resource_type: str) -> list[Resource]:
    entries = many(bundle, "entry")
    resources = [cast("Resource", entry["resource"]) for entry in entries if isinstance(entry.get("resource"), dict)]
    return [resource for resource in resources if resource.get("resourceType") == resource_type]


def _next(bundle: Resource) -> str:
    """The opaque page token of the gateway's own next link."""
    url = next((text(link, "url") for link in many(bundle, "link") if text(link, "relation") == "next"), "")
    return "".join(parse_qs(urlsplit(url).query).get("_page", [])[:1])


def _located(answer: Answer, resource_type: str) -> str:
    """`Type/id` of a write's Location, relative or absolute, with or without a version."""
    parts = (answer.location or answer.header("Location")).partition("/_history/")[0].split("/")
    return f"{resource_type}/{parts[-1]}" if len(parts) > 1 and parts[-2] == resource_type else ""


def _relative(value: Any, base: str) -> Any:
    """With the gateway's own URLs in references made relative: an EHR knows nothing of them."""
    if isinstance(value, dict):
        members = cast("dict[str, Any]", value)
        return {
            name: item.removeprefix(f"{base}/") if name == "reference" and base and isinstance(item, str) else _relative(item, base)
            for name, item in members.items()
        }
    if isinstance(value, list):
        return [_relative(item, base) for item in cast("list[Any]", value)]
    return value
