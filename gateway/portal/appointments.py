"""F24 ask for an appointment (a proposal, never a booking), F26 coming and past ones, and cancelling one's own.

All are fetched and split here: a request has no `start`, so that a search by date would hide it. Requests come first.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any

from gateway.errors import Conflict, PreconditionFailed
from gateway.portal import words
from gateway.portal.chart import Ask, Chart, Standing, Status, Todo
from gateway.portal.words import Resource, concept, many, reference, text

MAX_TEXT = 500
WINDOW_DAYS = 395
OPEN = frozenset({"proposed", "pending", "booked", "waitlist"})
"""What a patient may cancel (writes table)."""
OVER = frozenset({"cancelled", "noshow", "fulfilled"})
WAITING = frozenset({"proposed", "pending", "waitlist"})
"""Not booked, with a time or without one."""
REASONS: tuple[tuple[str, str], ...] = (
    ("pat", "I cannot come at that time"),
    ("pat-fb", "I feel better"),
    ("pat-lt", "I have no way to get there"),
    ("pat-mv", "I have moved"),
    ("pat-uwo", "I cannot pay for it"),
    ("pat-cpp", "Another reason"),
)
"""Codes of http://terminology.hl7.org/CodeSystem/appointment-cancellation-reason, in the words of the page."""

STATUSES: dict[str, Status] = {
    "proposed": Status("Requested", "The clinic has not answered yet. This is not booked.", "info"),
    "pending": Status("Not confirmed", "Not everybody has agreed to this time yet. This is not booked.", "info"),
    "waitlist": Status("On the waiting list", "The clinic will tell you when there is a time.", "info"),
    "booked": Status("Booked", "", "good"),
    "arrived": Status("You have arrived", "", "good"),
    "checked-in": Status("Checked in", "", "good"),
    "fulfilled": Status("Took place"),
    "noshow": Status("Missed", "You did not come. Call the clinic if you still need it.", "warn"),
    "cancelled": Status("Cancelled"),
}
UNKNOWN = Status("Status not known", "Call the clinic to make sure.", "warn")


@dataclass(frozen=True, slots=True)
class Appointment:
    """One visit, or one request for one. `when` names its time zone; "" while there is no time."""

    id: str
    title: str
    status: Status
    when: str
    until: str = ""
    weekday: str = ""
    wanted: tuple[str, ...] = ()
    people: tuple[str, ...] = ()
    places: tuple[str, ...] = ()
    reason: str = ""
    comment: str = ""
    instructions: str = ""
    cancelled_because: str = ""
    can_cancel: bool = False
    coming: bool = False
    etag: str = ""

    @property
    def is_request(self) -> bool:
        """Only asked for, by her: there is nothing to cancel yet."""
        return not self.when or self.status is STATUSES["proposed"]


@dataclass(frozen=True, slots=True)
class AppointmentList:
    """What is not booked first (soonest first, then what has no time), then what is booked, then what is over (latest first)."""

    requested: tuple[Appointment, ...]
    coming: tuple[Appointment, ...]
    past: tuple[Appointment, ...]
    standing: Standing

    @property
    def empty(self) -> bool:
        """Nothing at all."""
        return not (self.requested or self.coming or self.past)


@dataclass(frozen=True, slots=True)
class Wish:
    """The request form. Dates as `2026-12-01`."""

    what: str = ""
    start: str = ""
    end: str = ""
    comment: str = ""

    def errors(self, today: date) -> dict[str, str]:
        """By field, in words."""
        found: dict[str, str] = {}
        today -= timedelta(days=1)  # it may still be yesterday where she is
        if not self.what:
            found["what"] = "Say what the visit is for"
        elif len(self.what) > MAX_TEXT:
            found["what"] = f"Use {MAX_TEXT} letters or fewer to say what it is for"
        if len(self.comment) > MAX_TEXT:
            found["comment"] = f"Use {MAX_TEXT} letters or fewer"
        start, end = _date(self.start), _date(self.end)
        if start is None:
            found["start"] = "Enter the first day that you could come"
        elif not today <= start <= today + timedelta(days=WINDOW_DAYS):
            found["start"] = "The first day must be from today on, and within the next 13 months"
        if end is None:
            found["end"] = "Enter the last day that you could come"
        elif start and not start <= end <= start + timedelta(days=WINDOW_DAYS):
            found["end"] = "The last day must be the first day or later"
        return found


async def listing(chart: Chart) -> AppointmentList:
    """All of them, in three groups."""
    (found,), standing = await chart.gather(Ask("appointments", "Appointment"))
    shown = [item for item in found.resources if text(item, "status") != "entered-in-error"]
    names = await chart.names([actor for item in shown for actor in _actors(item)])
    coming = sorted((item for item in shown if _is_coming(item, chart)), key=_start)
    requested = sorted(filter(_is_waiting, coming), key=lambda item: not text(item, "start"))
    booked = [item for item in coming if not _is_waiting(item)]
    past = sorted((item for item in shown if not _is_coming(item, chart)), key=_start, reverse=True)

    def views(items: list[Resource]) -> tuple[Appointment, ...]:
        return tuple(_appointment(item, chart, names) for item in items)

    return AppointmentList(views(requested), views(booked), views(past), standing)


async def one(chart: Chart, id_: str, *, fresh: bool = False) -> tuple[Appointment, Standing]:
    """One, with the ETag that a cancellation must match. Raises FhirError."""
    resource, etag, age = await chart.read_with_etag("Appointment", id_, fresh=fresh)
    names = await chart.names(_actors(resource))
    return _appointment(resource, chart, names, etag), Standing(chart.source, age)


async def ask(chart: Chart, wish: Wish, key: str) -> str:
    """Send the request; gives its id. The same form sent twice is one request."""
    identifier = chart.identifier("appointment-request", key)
    resource: dict[str, Any] = {
        "resourceType": "Appointment",
        "identifier": [{"system": identifier[0], "value": identifier[1]}],
        "status": "proposed",
        "serviceType": [{"text": wish.what}],
        "created": chart.now.isoformat(timespec="seconds"),
        "requestedPeriod": [{"start": wish.start, "end": wish.end}],
        "participant": [{"actor": {"reference": chart.patient}, "status": "accepted"}],
    }
    if wish.comment:
        resource["comment"] = wish.comment
    return (await chart.create(resource, identifier)).partition("/")[2]


async def cancel(chart: Chart, id_: str, etag: str, reason: str) -> None:
    """Cancel the version that the patient saw.

    Raises PreconditionFailed when the clinic has changed it since, Conflict when there is nothing left to cancel.
    """
    resource, current, _ = await chart.read_with_etag("Appointment", id_, fresh=True)
    if text(resource, "status") == "cancelled":
        return  # the second tap of a double tap
    if text(resource, "status") not in OPEN:
        raise Conflict(reason="appointment-not-open")
    if etag != current:
        raise PreconditionFailed(reason="version-changed")
    code = reason if reason in dict(REASONS) else "pat-cpp"
    coding = {"system": "http://terminology.hl7.org/CodeSystem/appointment-cancellation-reason", "code": code}
    changes = {
        "status": "cancelled",
        "cancelationReason": {"coding": [coding], "text": dict(REASONS)[code]},
        "participant": [_declined(item, chart) for item in many(resource, "participant")],
    }
    try:
        await chart.update(resource, changes, current)
    except PreconditionFailed:
        changed, _, _ = await chart.read_with_etag("Appointment", id_, fresh=True)
        if text(changed, "status") != "cancelled":  # else the first tap of a double tap was quicker, at another process
            raise


def todo(view: AppointmentList) -> tuple[Todo, ...]:
    """The next visit that is booked, and what is not booked yet."""
    found = [
        Todo(
            f"Not booked yet: {item.title}",
            f"/portal/appointments/{item.id}",
            f"{_when_words(item)} {item.status.meaning}".strip(),
            rank=4,
        )
        for item in view.requested
    ]
    if view.coming:
        item = view.coming[0]
        found.insert(0, Todo(f"Next visit: {item.title}", f"/portal/appointments/{item.id}", f"{_when_words(item)} {item.status.word}.", rank=1))
    return tuple(found)


def _when_words(item: Appointment) -> str:
    """`Monday, 30 November 2026, 7:50 am (EST).`, "" while there is no time."""
    return words.sentence(", ".join(part for part in (item.weekday, item.when) if part))


def _declined(participant: Resource, chart: Chart) -> Resource:
    own = reference(participant.get("actor")) == chart.patient
    return {**participant, "status": "declined"} if own else participant


def _actors(resource: Resource) -> list[Resource]:
    return [actor for item in many(resource, "participant") for actor in many(item, "actor")]


def _start(resource: Resource) -> Any:
    return words.sort_key(text(resource, "start"))


def _is_waiting(resource: Resource) -> bool:
    """Not booked. What has no time cannot be."""
    return text(resource, "status") in WAITING or not text(resource, "start")


def _is_coming(resource: Resource, chart: Chart) -> bool:
    """Not over yet: a visit counts as coming until its end (or four hours after its start), a request until it has a time."""
    if text(resource, "status") in OVER:
        return False
    if not text(resource, "start"):
        return True
    end = text(resource, "end")
    until = words.sort_key(end) if end else _start(resource) + timedelta(hours=4)
    return until >= chart.now


def _appointment(resource: Resource, chart: Chart, names: Mapping[str, str], etag: str = "") -> Appointment:
    status = text(resource, "status")
    start = text(resource, "start")
    people, places = _who_and_where(resource, chart, names)
    return Appointment(
        text(resource, "id"),
        _title(resource),
        STATUSES.get(status, UNKNOWN),
        words.moment(start, chart.zone),
        words.clock(text(resource, "end"), chart.zone),
        words.weekday(start, chart.zone),
        tuple(found for item in many(resource, "requestedPeriod") if (found := words.period(item, chart.zone))),
        people,
        places,
        ", ".join(concept(item) for item in many(resource, "reasonCode")),
        text(resource, "comment"),
        text(resource, "patientInstruction"),
        concept(resource.get("cancelationReason")) if status == "cancelled" else "",
        status in OPEN and _is_coming(resource, chart),
        _is_coming(resource, chart),
        etag,
    )


def _title(resource: Resource) -> str:
    """What it is: the service, else the kind of visit, else its description."""
    services = [concept(item) for item in many(resource, "serviceType")] or [concept(item) for item in many(resource, "specialty")]
    return ", ".join(filter(None, services)) or concept(resource.get("appointmentType")) or text(resource, "description") or "Appointment"


def _who_and_where(resource: Resource, chart: Chart, names: Mapping[str, str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    people: dict[str, None] = {}
    places: dict[str, None] = {}
    for actor in _actors(resource):
        target = reference(actor)
        name = text(actor, "display") or names.get(target, "")
        if not name or target == chart.patient:
            continue
        (places if target.startswith(("Location/", "HealthcareService/")) else people).setdefault(name)
    return tuple(people), tuple(places)


def _date(value: str) -> date | None:
    try:
        return date.fromisoformat(value)
    except ValueError:
        return None


__all__ = ["REASONS", "Appointment", "AppointmentList", "Wish", "ask", "cancel", "listing", "one", "todo"]
