"""F10: test results. DiagnosticReport and Observation as a list, one report and one result, with what the lab sent and nothing added.

What one result says is read by `readings`; here they are fetched, joined and put in order.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import date, timedelta
from typing import Any

from gateway.errors import FhirError
from gateway.fhir.interaction import Param
from gateway.portal import words
from gateway.portal.chart import Ask, Chart, Found, Source, Standing, Status, Todo, token
from gateway.portal.readings import Line, absent, components_of, line_of, name_of, status_of, taken, value_of, withdrawn
from gateway.portal.trend import Trend, trend_of
from gateway.portal.words import Resource, codes, concept, many, reference, text

NEW_DAYS = 14
FEW = 4
"""Parts of a report in the list, beside those that ask for attention: they always stand there."""
MAX_DEPTH = 3  # of panels within panels

KINDS: tuple[tuple[str, str, str], ...] = (
    ("lab", "Lab tests", "laboratory LAB"),
    ("vitals", "Vital signs", "vital-signs"),
    ("imaging", "Scans and images", "imaging RAD LP29684-5"),
    ("other", "Other", ""),
)


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the list. `key` orders; `parts` are the results of a report; `summary` stands when there is just one."""

    title: str
    path: str
    when: str
    day: str
    key: Any
    kind: str
    status: Status
    parts: tuple[Line, ...] = ()
    total: int = 0
    conclusion: str = ""

    @property
    def shown(self) -> tuple[Line, ...]:
        """All parts that ask for attention, and the first of the others up to a few, in the lab's order."""
        room = FEW - sum(line.stands_out for line in self.parts)
        others = [line for line in self.parts if not line.stands_out][: max(0, room)]
        return tuple(line for line in self.parts if line.stands_out or any(line is one for one in others))

    @property
    def critical(self) -> tuple[Line, ...]:
        """The parts that the lab called critical."""
        return tuple(line for line in self.parts if line.tone == "bad")


@dataclass(frozen=True, slots=True)
class ResultList:
    """`rows` newest first."""

    rows: tuple[Row, ...]
    standing: Standing

    def of_kind(self, kind: str) -> tuple[Row, ...]:
        """The rows of one kind; "" gives all."""
        return tuple(row for row in self.rows if not kind or row.kind == kind)

    @property
    def kinds(self) -> tuple[tuple[str, str], ...]:
        """Key and title of the kinds that occur, in order."""
        found = {row.kind for row in self.rows}
        return tuple((key, title) for key, title, _ in KINDS if key in found)


@dataclass(frozen=True, slots=True)
class Document:
    """A report's own document. `text`: shown as it is; else only its name."""

    title: str
    text: str = ""


@dataclass(frozen=True, slots=True)
class Detail:
    """One result or one report."""

    title: str
    target: str  # "Observation/o1": what a question to the care team is about
    when: str
    status: Status
    line: Line | None  # of an Observation
    parts: tuple[Line, ...]
    facts: tuple[tuple[str, str], ...]
    notes: tuple[str, ...]
    documents: tuple[Document, ...]
    earlier: tuple[Line, ...]
    standing: Standing
    trend: Trend | None = None

    @property
    def critical(self) -> bool:
        """The lab called it, or a part of it, critical."""
        return any(line.tone == "bad" for line in (*filter(None, (self.line,)), *self.parts))


async def listing(chart: Chart) -> ResultList:
    """All reports, and all results that belong to no report."""
    newest = (Param("_sort", "", "-date"),)
    ((reports, observations), standing), born = await asyncio.gather(
        chart.gather(Ask("lab and imaging reports", "DiagnosticReport", newest), Ask("single results", "Observation", newest)),
        _birth_date(chart),
    )
    by_ref = {f"Observation/{text(item, 'id')}": item for item in observations.resources}
    inside = set(_members([*reports.resources, *observations.resources]))
    rows = [_report_row(report, by_ref, chart, born) for report in reports.resources]
    rows += [_observation_row(item, by_ref, chart, born) for ref, item in by_ref.items() if ref not in inside]
    rows.sort(key=lambda row: row.key, reverse=True)
    whens = words.apart([(row.title, row.day, row.when) for row in rows])
    return ResultList(tuple(replace(row, when=when) for row, when in zip(rows, whens, strict=True)), standing)


async def observation(chart: Chart, id_: str) -> Detail:
    """One result with its parts, earlier values of the same test, and who did it. Raises FhirError."""
    resource, _, age = await chart.read_with_etag("Observation", id_)
    members, earlier, names, born = await asyncio.gather(
        _read_members(chart, resource, "hasMember"),
        _earlier(chart, resource),
        chart.names(many(resource, "performer")),
        _birth_date(chart),
    )
    parts = [*components_of(resource, born), *(line_of(item, born) for item in members)]
    facts = [
        ("Done by", _named(many(resource, "performer"), names)),
        ("Method", concept(resource.get("method"))),
        ("Sample", text(resource, "specimen", "display")),
        ("Where on the body", concept(resource.get("bodySite"))),
        ("Released", words.moment(text(resource, "issued"), chart.zone)),
    ]
    return Detail(
        name_of(resource),
        f"Observation/{id_}",
        _when(resource, chart),
        status_of(resource),
        line_of(resource, born),
        tuple(parts),
        _known(facts),
        _notes(resource),
        (),
        _series(earlier.resources, chart, born),
        Standing(chart.source, max(age, earlier.age), more=("other results of this test",) if earlier.more else ()),
        None if withdrawn(resource) else trend_of(resource, earlier.resources, chart.zone),
    )


async def report(chart: Chart, id_: str) -> Detail:
    """One report with its results. Raises FhirError."""
    resource, _, age = await chart.read_with_etag("DiagnosticReport", id_)
    wanted = many(resource, "result")
    people = [*many(resource, "performer"), *many(resource, "resultsInterpreter")]
    members, names, born = await asyncio.gather(_read_members(chart, resource, "result"), chart.names(people), _birth_date(chart))
    missing = ("some of the results of this report",) if len(members) < len(wanted) else ()
    facts = [
        ("Done by", _named(many(resource, "performer"), names)),
        ("Read by", _named(many(resource, "resultsInterpreter"), names)),
        ("Released", words.moment(text(resource, "issued"), chart.zone)),
        ("Findings", ", ".join(concept(item) for item in many(resource, "conclusionCode"))),
    ]
    hidden = withdrawn(resource)
    return Detail(
        name_of(resource),
        f"DiagnosticReport/{id_}",
        _when(resource, chart),
        status_of(resource),
        None,
        () if hidden else tuple(line_of(item, born) for item in members),
        _known(facts[:3] if hidden else facts),
        () if hidden else tuple(filter(None, (text(resource, "conclusion"),))),
        () if hidden else tuple(_documents(resource)),
        (),
        Standing(chart.source, age, missing),
    )


def todo(view: ResultList, today: date) -> tuple[Todo, ...]:
    """What is new since two weeks."""
    since = today - timedelta(days=NEW_DAYS)
    fresh = [row for row in view.rows if row.key.date() >= since and row.status.word != "Withdrawn"]
    urgent = tuple(_urgent(row, line, view.standing.source) for row in fresh for line in row.critical)
    if not fresh:
        return ()
    first = fresh[0]
    if len(fresh) == 1:
        return urgent or (Todo(f"New result: {first.title}", first.path, first.when, rank=2),)
    names = list(dict.fromkeys(row.title for row in fresh))
    listed = ", ".join(names[:3]) + (" and more" if len(names) > 3 else "")
    return (*urgent, Todo(f"{len(fresh)} new results in the last {NEW_DAYS} days", "/portal/results", listed, rank=2))


def _urgent(row: Row, line: Line, source: Source) -> Todo:
    """What nobody may have to find in a list."""
    said = f"{line.value}, {row.when}. If your clinic has not talked to you about it, call {source.phone or 'them'} now."
    return Todo(f"{line.flag}: {line.name}", line.path or row.path, said, rank=0)


def _when(resource: Resource, chart: Chart) -> str:
    return words.moment(taken(resource), chart.zone)


def _day(resource: Resource, chart: Chart) -> str:
    return words.day(taken(resource), chart.zone)


def _series(resources: Sequence[Resource], chart: Chart, born: date | None) -> tuple[Line, ...]:
    """Results of one test, each by its day; by its time too where one day has several."""
    whens = words.apart([("", _day(item, chart), _when(item, chart)) for item in resources])
    return tuple(line_of(item, born, when) for item, when in zip(resources, whens, strict=True))


def _notes(resource: Resource) -> tuple[str, ...]:
    return () if withdrawn(resource) else tuple(found for note in many(resource, "note") if (found := text(note, "text")))


def _documents(resource: Resource) -> Iterable[Document]:
    for form in many(resource, "presentedForm"):
        title = text(form, "title") or "The lab's own document"
        yield Document(title, _plain_text(form))


def _plain_text(form: Resource) -> str:
    """Only plain text is shown: anything else could carry scripts or looks of its own."""
    if not text(form, "contentType").startswith("text/plain"):
        return ""
    try:
        return base64.b64decode(text(form, "data"), validate=True).decode()
    except (binascii.Error, UnicodeDecodeError):
        return ""


# -- rows of the list


def _report_row(resource: Resource, by_ref: dict[str, Resource], chart: Chart, born: date | None) -> Row:
    refs = many(resource, "result")
    members = [found for item in refs if (found := _contained(resource, item) or by_ref.get(reference(item)))]
    parts = () if withdrawn(resource) else tuple(line_of(item, born) for item in members)
    path = f"/portal/results/report/{text(resource, 'id')}"
    conclusion = "" if withdrawn(resource) else text(resource, "conclusion")
    return Row(
        name_of(resource),
        path,
        _when(resource, chart),
        _day(resource, chart),
        words.sort_key(taken(resource)),
        _kind(resource),
        status_of(resource),
        parts,
        len(refs),
        conclusion,
    )


def _observation_row(resource: Resource, by_ref: dict[str, Resource], chart: Chart, born: date | None) -> Row:
    members = [found for item in many(resource, "hasMember") if (found := _contained(resource, item) or by_ref.get(reference(item)))]
    if withdrawn(resource):
        parts: tuple[Line, ...] = ()
    elif value_of(resource) or absent(resource):
        parts = (line_of(resource, born),)
    else:
        parts = (*components_of(resource, born), *(line_of(item, born) for item in members))
    path = f"/portal/results/observation/{text(resource, 'id')}"
    return Row(
        name_of(resource),
        path,
        _when(resource, chart),
        _day(resource, chart),
        words.sort_key(taken(resource)),
        _kind(resource),
        status_of(resource),
        parts,
        len(parts),
    )


def _kind(resource: Resource) -> str:
    found = {code for item in many(resource, "category") for code in codes(item)}
    return next((key for key, _, listed in KINDS if found & set(listed.split())), "other")


def _members(resources: Iterable[Resource]) -> Iterable[str]:
    """What is part of another result, and therefore no line of its own."""
    for resource in resources:
        if not withdrawn(resource):
            for name in ("result", "hasMember"):
                yield from (reference(item) for item in many(resource, name))


# -- more reads


async def _read_members(chart: Chart, owner: Resource, name: str, depth: int = 1) -> list[Resource]:
    """The results that a report or panel names, in order, and those of panels among them; what cannot be had is left out."""
    references = many(owner, name)
    ids = [target.partition("/")[2] for item in references if (target := reference(item)).startswith("Observation/")]
    found = await _by_id(chart, ids)
    members: list[Resource] = []
    for item in references:
        if resource := _contained(owner, item) or found.get(reference(item)):
            members.append(resource)
            if depth < MAX_DEPTH and not value_of(resource):
                members += await _read_members(chart, resource, "hasMember", depth + 1)
    return members


async def _by_id(chart: Chart, ids: Sequence[str]) -> dict[str, Resource]:
    """By `Observation/id`. A failure leaves them out: the report itself is still shown, and says what is missing."""
    if not ids:
        return {}
    try:
        found = await chart.search("Observation", (Param("_id", "", ",".join(ids)),))
    except FhirError:
        return {}
    return {f"Observation/{text(item, 'id')}": item for item in found.resources}


def _contained(owner: Resource, item: Resource) -> Resource | None:
    """A result that stands within the report itself (`#r1`)."""
    name = text(item, "reference")
    if not name.startswith("#"):
        return None
    found = next((one for one in many(owner, "contained") if name == f"#{text(one, 'id')}"), None)
    # Without its id: it has no page of its own.
    return {member: value for member, value in found.items() if member != "id"} if found else None


async def _earlier(chart: Chart, resource: Resource) -> Found:
    """Other results of the same test, newest first. A result without a system and code has none: names alone do not make tests equal."""
    coding = next((item for item in many(resource, "code", "coding") if text(item, "system") and text(item, "code")), None)
    if coding is None:
        return Found()
    code = token("code", text(coding, "system"), text(coding, "code"))
    try:
        found = await chart.search("Observation", (code, Param("_sort", "", "-date")))
    except FhirError:
        return Found()
    others = [item for item in found.resources if text(item, "id") != text(resource, "id") and not withdrawn(item)]
    return Found(tuple(sorted(others, key=lambda item: words.sort_key(taken(item)), reverse=True)), found.age, found.more)


async def _birth_date(chart: Chart) -> date | None:
    try:
        born = words.parse_time(text(await chart.read("Patient", chart.principal.patient), "birthDate"))
    except FhirError:
        return None
    return date(born.year, born.month, born.day) if born else None


def _named(references: Sequence[Resource], names: Any) -> str:
    return ", ".join(dict.fromkeys(found for item in references if (found := text(item, "display") or names.get(reference(item), ""))))


def _known(facts: Iterable[tuple[str, str]]) -> tuple[tuple[str, str], ...]:
    return tuple((label, value) for label, value in facts if value)
