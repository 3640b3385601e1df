"""F20: messages in threads. A thread is a header Communication (everyone who takes part, no text) and messages that are `partOf` it.

R4 has no search for a thread's topic or "recipient or sender", and not every EHR knows `:missing`: all of the patient's are fetched and
grouped here. A message that was sent is `in-progress`; only its reader completes it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from urllib.parse import quote

from gateway.errors import BadRequest, Conflict, FhirError, NotFound
from gateway.fhir.interaction import Param
from gateway.portal import words
from gateway.portal.chart import SYSTEM, Ask, Chart, Standing, Todo
from gateway.portal.words import Resource, concept, many, reference, text

MAX_TOPIC = 100
MAX_TEXT = 5000
REPLY_DAYS = 30
CATEGORIES: tuple[tuple[str, str], ...] = (
    ("general", "A question about my health"),
    ("result", "Test results"),
    ("medication", "Medicines"),
    ("appointment", "Appointments"),
    ("billing", "Bills and insurance"),
)
ABOUT: Mapping[str, tuple[str, str]] = {
    "Appointment": ("appointment", "/portal/appointments/{id}"),
    "Claim": ("billing", "/portal/bills/claim/{id}"),
    "Condition": ("general", "/portal/conditions"),
    "DiagnosticReport": ("result", "/portal/results/report/{id}"),
    "ExplanationOfBenefit": ("billing", "/portal/bills/plan/{id}"),
    "MedicationRequest": ("medication", "/portal/medicines/{id}"),
    "Observation": ("result", "/portal/results/observation/{id}"),
}
"""What a message can be about: its category and its own page."""
_STAFF = ("CareTeam/", "HealthcareService/", "Organization/", "Practitioner/", "PractitionerRole/")
_CLOSED = frozenset({"completed", "stopped", "not-done", "entered-in-error"})


@dataclass(frozen=True, slots=True)
class Recipient:
    """Someone whom a message can go to: a reference that was read from this EHR, and a name."""

    reference: str
    name: str
    role: str = ""


@dataclass(frozen=True, slots=True)
class Message:
    """One message. `state` is a word only where there is something to say."""

    id: str
    mine: bool
    who: str
    when: str
    text: str
    files: tuple[str, ...] = ()
    state: str = ""
    withdrawn: bool = False


@dataclass(frozen=True, slots=True)
class Thread:
    """A conversation, its messages oldest first. `last` is what the list shows."""

    id: str
    topic: str
    people: tuple[str, ...]
    messages: tuple[Message, ...]
    key: Any
    open: bool
    about: str = ""  # the page of what it is about

    @property
    def last(self) -> Message:
        """The newest message."""
        return self.messages[-1]


@dataclass(frozen=True, slots=True)
class ThreadList:
    """Newest first."""

    threads: tuple[Thread, ...]
    standing: Standing

    def one(self, id_: str) -> Thread:
        """Raises NotFound."""
        found = next((thread for thread in self.threads if thread.id == id_), None)
        if found is None:
            raise NotFound
        return found


@dataclass(frozen=True, slots=True)
class Draft:
    """The form of a new message. `to` is a reference, `about` one or ""."""

    to: str = ""
    topic: str = ""
    category: str = ""
    text: str = ""
    about: str = ""

    def errors(self, recipients: Sequence[Recipient]) -> dict[str, str]:
        """By field, in words. Only somebody whom this EHR named can be written to."""
        found: dict[str, str] = {}
        if self.to not in {item.reference for item in recipients}:
            found["to"] = "Choose who should get your message"
        if self.category not in dict(CATEGORIES):
            found["category"] = "Choose what it is about"
        if not self.topic:
            found["topic"] = "Enter a subject"
        elif len(self.topic) > MAX_TOPIC:
            found["topic"] = f"Use {MAX_TOPIC} letters or fewer for the subject"
        return found | text_errors(self.text)


def text_errors(value: str) -> dict[str, str]:
    """What is wrong with the text of a message."""
    if not value:
        return {"text": "Write your message"}
    return {"text": f"Use {MAX_TEXT} letters or fewer. You used {len(value)}"} if len(value) > MAX_TEXT else {}


async def listing(chart: Chart) -> ThreadList:
    """All threads."""
    (found,), standing = await chart.gather(Ask("messages", "Communication", (Param("_sort", "", "-sent"),)))
    groups = _groups(found.resources)
    names = await chart.names(_people(found.resources))
    threads = [thread for root, parts in groups.items() if (thread := _thread(root, parts, chart, names))]
    return ThreadList(tuple(sorted(threads, key=lambda thread: thread.key, reverse=True)), standing)


async def recipients(chart: Chart) -> tuple[Recipient, ...]:
    """Care teams and their members, the patient's own doctor and clinic: each read from this EHR. One source that fails is left out."""
    teams, patient = await asyncio.gather(_teams(chart), _patient(chart))
    members = [(member.get("member"), concept(member.get("role"))) for team in teams for member in many(team, "participant")]
    members += [(item, "Your doctor or practice") for item in many(patient, "generalPractitioner")]
    members += [(item, "Your clinic") for item in many(patient, "managingOrganization")]
    names = await chart.names([item for item, _ in members])
    found = {f"CareTeam/{text(team, 'id')}": Recipient(f"CareTeam/{text(team, 'id')}", _team_name(team), "The whole team") for team in teams}
    for item, role in members:
        target = reference(item)
        if target.startswith(_STAFF) and names.get(target):
            found.setdefault(target, Recipient(target, names[target], role))
    return tuple(found.values())


async def about_words(chart: Chart, about: str) -> str:
    """What a message is about, by the resource's own name. Raises BadRequest for what cannot be asked about, NotFound for what is not hers."""
    resource_type, _, id_ = about.partition("/")
    if resource_type not in ABOUT:
        raise BadRequest("A message cannot be about that.", reason="about-unknown")
    resource = await chart.read(resource_type, id_)
    name = concept(resource.get("code")) or concept(resource.get("medicationCodeableConcept")) or concept(resource.get("serviceType"))
    when = text(resource, "effectiveDateTime") or text(resource, "start") or text(resource, "created")
    return ", ".join(part for part in (name or "Your record", words.day(when, chart.zone)) if part)


def about_category(about: str) -> str:
    """The category that a message about `Type/id` begins with, or ""."""
    return ABOUT.get(about.partition("/")[0], ("", ""))[0]


def about_path(about: str) -> str:
    """The page of `Type/id`, or ""."""
    resource_type, _, id_ = about.partition("/")
    return ABOUT.get(resource_type, ("", ""))[1].format(id=quote(id_, safe=""))


async def send_new(chart: Chart, draft: Draft, key: str) -> str:
    """A new thread: the header, then the message in it. Gives the thread's id. Repeatable: the same form makes the same two once."""
    thread_id = chart.identifier("thread", key)
    everyone = dict.fromkeys((chart.patient, chart.author, draft.to))
    header = _base(chart, thread_id, draft.category, draft.topic) | {"recipient": [{"reference": target} for target in everyone]}
    created = await chart.create(header, thread_id)
    message_id = chart.identifier("message", key)
    message = _message(chart, message_id, draft.category, draft.topic, draft.text, (draft.to,)) | {"partOf": [{"reference": created}]}
    if draft.about:
        message["about"] = [{"reference": draft.about}]
    await chart.create(message, message_id)
    return created.partition("/")[2]


async def reply(chart: Chart, thread_id: str, body: str, key: str) -> None:
    """Answer in a thread. Raises NotFound, or Conflict when it is closed or names nobody to answer."""
    found = await chart.search("Communication", (Param("_sort", "", "-sent"),))
    parts = _groups(found.resources).get(thread_id)
    if not parts:
        raise NotFound
    header = next((item for item in parts if text(item, "id") == thread_id), parts[0])
    last = _in_order(parts)[-1]
    to = _staff_of(header, last, *parts)
    if text(header, "status") in _CLOSED and reference(header.get("sender")) in (chart.patient, chart.author):
        raise Conflict("This conversation is closed.", reason="thread-closed")
    if not to:
        raise Conflict("There is nobody to answer in this conversation.", reason="thread-without-staff")
    identifier = chart.identifier("message", key)
    category = next((code for item in many(header, "category") for code in words.codes(item) if code in dict(CATEGORIES)), "general")
    message = _message(chart, identifier, category, _topic(header), body, to)
    message |= {"partOf": [{"reference": f"Communication/{thread_id}"}], "inResponseTo": [{"reference": f"Communication/{text(last, 'id')}"}]}
    await chart.create(message, identifier)


def todo(view: ThreadList, now: Any) -> tuple[Todo, ...]:
    """Threads in which the care team had the last word, for a month."""
    since = now - timedelta(days=REPLY_DAYS)
    fresh = [thread for thread in view.threads if not thread.last.mine and thread.key >= since]
    return tuple(
        Todo(f"Message from {thread.last.who}", f"/portal/messages/{thread.id}", f"{thread.topic}, {thread.last.when}", rank=2)
        for thread in fresh[:3]
    )


# -- grouping


def _groups(resources: Iterable[Resource]) -> dict[str, list[Resource]]:
    """By the id of the thread's first Communication: what a message is part of, else what it answers, up to where that ends."""
    by_id = {text(item, "id"): item for item in resources}
    groups: dict[str, list[Resource]] = {}
    for id_, item in by_id.items():
        groups.setdefault(_root(id_, by_id), []).append(item)
    return groups


def _root(id_: str, by_id: Mapping[str, Resource]) -> str:
    seen: set[str] = set()
    while id_ in by_id and id_ not in seen:
        seen.add(id_)
        parents = [*many(by_id[id_], "partOf"), *many(by_id[id_], "inResponseTo")]
        parent = next((ref.partition("/")[2] for item in parents if (ref := reference(item)).startswith("Communication/")), "")
        if not parent:
            break
        id_ = parent
    return id_


def _in_order(parts: Iterable[Resource]) -> list[Resource]:
    return sorted(parts, key=lambda item: words.sort_key(_sent(item)))


def _sent(resource: Resource) -> str:
    return text(resource, "sent") or text(resource, "received") or text(resource, "meta", "lastUpdated")


def _people(resources: Iterable[Resource]) -> list[Resource]:
    return [person for item in resources for name in ("sender", "recipient") for person in many(item, name)]


def _thread(root: str, parts: list[Resource], chart: Chart, names: Mapping[str, str]) -> Thread | None:
    """None when there is nothing to read in it (a header whose message never came)."""
    header = next((item for item in parts if text(item, "id") == root), parts[0])
    readable = [item for item in _in_order(parts) if many(item, "payload") and _is_for_her(item, chart)]
    if not readable:
        return None
    own = (chart.patient, chart.author)
    people = dict.fromkeys(
        name for item in _people(parts) if (ref := reference(item)) not in own and (name := text(item, "display") or names.get(ref, ""))
    )
    return Thread(
        root,
        _topic(header) or next((found for item in readable if (found := _topic(item))), "") or "Message",
        tuple(people),
        tuple(_view(item, chart, names) for item in readable),
        words.sort_key(_sent(readable[-1])),
        text(header, "status") not in _CLOSED or many(header, "payload") != [],
        next((path for item in parts for one in many(item, "about") if (path := about_path(reference(one)))), ""),
    )


def _is_for_her(resource: Resource, chart: Chart) -> bool:
    """A draft of somebody else is not hers to read yet."""
    return text(resource, "status") != "preparation" or _is_mine(resource, chart)


def _is_mine(resource: Resource, chart: Chart) -> bool:
    return reference(resource.get("sender")) in (chart.patient, chart.author)


def _topic(resource: Resource) -> str:
    return concept(resource.get("topic"))


def _view(resource: Resource, chart: Chart, names: Mapping[str, str]) -> Message:
    mine = _is_mine(resource, chart)
    sender = reference(resource.get("sender"))
    who = "You" if sender == chart.author else "The patient" if mine else text(resource, "sender", "display") or names.get(sender, "Your care team")
    withdrawn = text(resource, "status") == "entered-in-error"
    payload = () if withdrawn else many(resource, "payload")
    return Message(
        text(resource, "id"),
        mine,
        who,
        words.moment(_sent(resource), chart.zone),
        "\n\n".join(found for item in payload if (found := text(item, "contentString"))),
        tuple(
            text(item, "contentAttachment", "title") or text(item, "contentReference", "display") or "A file"
            for item in payload
            if not text(item, "contentString")
        ),
        _state(resource, mine=mine),
        withdrawn,
    )


def _state(resource: Resource, *, mine: bool) -> str:
    """What became of it, where there is something to say. "Read" only for one reader: of several, one status cannot tell who."""
    match text(resource, "status"):
        case "entered-in-error":
            return "Taken back"
        case "preparation":
            return "Draft, not sent"
        case "not-done" | "stopped":
            return "Not delivered"
        case "on-hold":
            return "Waiting to be sent"
        case "completed" if mine and len(many(resource, "recipient")) == 1:
            return "Read"
        case "completed" | "in-progress" if mine:
            return "Sent"
        case _:
            return ""


# -- people


async def _teams(chart: Chart) -> list[Resource]:
    try:
        found = await chart.search("CareTeam")
    except FhirError:
        return []
    return [team for team in found.resources if text(team, "status") in ("active", "")]


async def _patient(chart: Chart) -> Resource:
    try:
        return await chart.read("Patient", chart.principal.patient)
    except FhirError:
        return {}


def _team_name(team: Resource) -> str:
    return text(team, "name") or "Your care team"


def _staff_of(*resources: Resource) -> tuple[str, ...]:
    """Whom an answer goes to: staff of the header, of the last message, or of any; the first that names some."""
    for resource in resources:
        found = dict.fromkeys(ref for item in _people([resource]) if (ref := reference(item)).startswith(_STAFF))
        if found:
            return tuple(found)
    return ()


# -- what is written


def _base(chart: Chart, identifier: tuple[str, str], category: str, topic: str) -> dict[str, Any]:
    made: dict[str, Any] = {
        "resourceType": "Communication",
        "identifier": [{"system": identifier[0], "value": identifier[1]}],
        "status": "in-progress",
        "category": [{"coding": [{"system": f"{SYSTEM}message-category", "code": category}], "text": dict(CATEGORIES)[category]}],
        "subject": {"reference": chart.patient},
        "sent": chart.now.isoformat(timespec="seconds"),
        "sender": {"reference": chart.author},
    }
    return made | ({"topic": {"text": topic}} if topic else {})


def _message(chart: Chart, identifier: tuple[str, str], category: str, topic: str, body: str, to: Sequence[str]) -> dict[str, Any]:
    mode = {"system": "http://terminology.hl7.org/CodeSystem/v3-ParticipationMode", "code": "WRITTEN"}
    return _base(chart, identifier, category, topic) | {
        "priority": "routine",
        "medium": [{"coding": [mode]}],
        "recipient": [{"reference": target} for target in to],
        "payload": [{"contentString": body}],
    }
