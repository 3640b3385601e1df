"""F09 medicines with directions and refills left, and F28: ask for more of one (a Task about the prescription).

"Refills left" is no FHIR field: it is the repeats allowed less the completed dispenses after the first, and "not known" without dispenses.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gateway.errors import Conflict, NotFound
from gateway.portal import words
from gateway.portal.chart import Ask, Chart, Standing, Status, Todo
from gateway.portal.words import Resource, codes, concept, many, pick, reference, text

MAX_NOTE = 500
ORDERS = frozenset({"order", "original-order", "reflex-order", "filler-order", "instance-order", "plan", ""})
CURRENT = frozenset({"active", "on-hold"})

STATUSES: dict[str, Status] = {
    "active": Status("Active", "", "good"),
    "on-hold": Status("On hold", "Your care team has paused this medicine. Ask before you take it.", "warn"),
    "completed": Status("Finished", "You have taken this as planned."),
    "stopped": Status("Stopped", "Your care team stopped this medicine. Do not take it without asking.", "warn"),
    "cancelled": Status("Cancelled", "This was called off before it began."),
    "unknown": Status("Status not known", "Ask your care team if you should take this."),
    "draft": Status("Not started", "This prescription is not finished yet."),
}

REQUESTS: dict[str, Status] = {
    "requested": Status("Requested", "Your care team has not answered yet. If you may run out before they do, call them.", "info"),
    "received": Status("Received", "Your care team has seen your request.", "info"),
    "accepted": Status("Accepted", "Your care team said yes. It is not ready yet.", "info"),
    "ready": Status("Accepted", "Your care team said yes. It is not ready yet.", "info"),
    "in-progress": Status("Being prepared", "The pharmacy is working on it.", "info"),
    "on-hold": Status("Waiting", "Something is missing. Call your care team.", "warn"),
    "completed": Status("Done", "Your request was dealt with.", "good"),
    "rejected": Status("Not agreed", "Call your care team to talk about it.", "warn"),
    "failed": Status("Did not work", "Call your care team.", "warn"),
    "cancelled": Status("Cancelled", "This request was taken back."),
}
OPEN = frozenset({"requested", "received", "accepted", "ready", "in-progress", "on-hold", "draft"})
_PIECES = frozenset({"tablet", "capsule", "drop", "puff", "spray", "sachet", "injection", "teaspoon"})
_UNITS = {"s": "second", "min": "minute", "h": "hour", "d": "day", "wk": "week", "mo": "month", "a": "year"}


@dataclass(frozen=True, slots=True)
class Request:
    """What the patient asked for, and what became of it. `reason`: staff's own words."""

    status: Status
    when: str
    open: bool
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Medicine:
    """One prescription. `refills`: a sentence, "" for what nobody prescribed. `requests`: newest first."""

    id: str
    name: str
    status: Status
    current: bool
    directions: tuple[str, ...]
    refills: str
    none_left: bool
    prescribed: str = ""
    by: str = ""
    reason: str = ""
    last_given: str = ""
    supply: str = ""
    notes: tuple[str, ...] = ()
    self_reported: bool = False
    requests: tuple[Request, ...] = ()

    @property
    def waiting(self) -> Request | None:
        """The request that is still open: another one would be a second effect."""
        return next((item for item in self.requests if item.open), None)

    @property
    def may_ask(self) -> bool:
        """More can be asked for of a prescription that is taken now: not while it is paused, and not of what she only told the clinic about."""
        return self.status is STATUSES["active"] and not self.self_reported and self.waiting is None


@dataclass(frozen=True, slots=True)
class MedicineList:
    """In the order of the alphabet."""

    current: tuple[Medicine, ...]
    past: tuple[Medicine, ...]
    standing: Standing

    def one(self, id_: str) -> Medicine:
        """Raises NotFound."""
        found = next((item for item in (*self.current, *self.past) if item.id == id_), None)
        if found is None:
            raise NotFound
        return found


async def listing(chart: Chart) -> MedicineList:
    """All prescriptions with what was handed out and what was asked for."""
    (orders, dispenses, tasks), standing = await chart.gather(
        Ask("medicines", "MedicationRequest"), Ask("what the pharmacy handed out", "MedicationDispense"), Ask("your refill requests", "Task")
    )
    shown = [item for item in orders.resources if _is_order(item)]
    names = await chart.names([item for one in shown for item in (_product(one), one.get("requester"))])
    known = "what the pharmacy handed out" not in standing.missing
    medicines = [_medicine(item, chart, dispenses.resources if known else None, tasks.resources, names) for item in shown]
    medicines.sort(key=lambda item: item.name.casefold())
    return MedicineList(tuple(m for m in medicines if m.current), tuple(m for m in medicines if not m.current), standing)


async def ask_for_more(chart: Chart, id_: str, key: str, note: str) -> None:
    """Ask the care team for more of a medicine (Task, code fulfill, about the prescription).

    Raises NotFound for what is not hers, Conflict when a request is open already (double taps are one effect, F28).
    """
    order, tasks = await asyncio.gather(chart.read_with_etag("MedicationRequest", id_, fresh=True), chart.search("Task"))
    resource = order[0]
    if not _is_order(resource) or text(resource, "status") != "active" or _is_reported(resource):
        raise Conflict("Only a medicine that you take now can be asked for.", reason="medicine-not-current")
    identifier = chart.identifier("refill", key)
    others = [task for task in _tasks_about(tasks.resources, id_) if text(task, "status") in OPEN]
    if any(not _has_identifier(task, identifier) for task in others):
        raise Conflict("You have already asked for this.", reason="refill-open")
    await chart.create(_task(chart, resource, identifier, note), identifier)


def todo(view: MedicineList) -> tuple[Todo, ...]:
    """Requests that are open, and medicines whose refills are used up."""
    found: list[Todo] = []
    for item in view.current:
        path = f"/portal/medicines/{item.id}"
        if item.waiting:
            found.append(Todo(f"{item.name}: {item.waiting.status.word.lower()}", path, item.waiting.status.meaning, rank=4))
        elif item.none_left:
            found.append(Todo(f"No refills left: {item.name}", path, "Ask for more before you run out.", rank=3))
    return tuple(found)


def refills_left(order: Resource, dispenses: Sequence[Resource]) -> int | None:
    """`numberOfRepeatsAllowed - max(0, completed dispenses - 1)`, never below none; None: not known."""
    allowed = pick(order, "dispenseRequest", "numberOfRepeatsAllowed")
    given = sum(text(item, "status") == "completed" for item in dispenses)
    if not isinstance(allowed, int) or isinstance(allowed, bool) or not given:
        return None
    return max(0, allowed - max(0, given - 1))


def directions(order: Resource) -> tuple[str, ...]:
    """How to take it: the prescriber's own text first, made from the parts only where there is none."""
    lines: list[str] = []
    for dose in sorted(many(order, "dosageInstruction"), key=_sequence):
        for line in (text(dose, "patientInstruction"), text(dose, "text")):
            if line and line not in lines:
                lines.append(line)
        if not text(dose, "text") and not text(dose, "patientInstruction") and (made := _made(dose)):
            lines.append(made)
    return tuple(lines)


def _sequence(dose: Resource) -> int:
    found = dose.get("sequence")
    return found if isinstance(found, int) else 0


def _made(dose: Resource) -> str:
    """`Take 1 tablet, by mouth, 2 times a day, when needed for pain`."""
    rate = (many(dose, "doseAndRate") or [{}])[0]
    low, high = words.quantity(pick(rate, "doseRange", "low")), words.quantity(pick(rate, "doseRange", "high"))
    amount = _amount(rate.get("doseQuantity")) or (f"{low} to {high}" if low and high else low or high)
    needed = pick(dose, "asNeededCodeableConcept")
    parts = [
        f"{concept(dose.get('method'), 'Take')} {amount}".strip() if amount else "",
        concept(dose.get("route")),
        _timing(dose.get("timing")),
        f"when needed for {concept(needed)}" if needed else "when needed" if dose.get("asNeededBoolean") is True else "",
    ]
    return ", ".join(part for part in parts if part)


def _amount(dose: object) -> str:
    """`2 tablets`: what is counted in whole pieces takes an s; other units stay as they were sent."""
    found, count = words.quantity(dose), words.number(pick(dose, "value"))
    return f"{found}s" if count and count > 1 and words.unit(dose) in _PIECES else found


def _timing(timing: object) -> str:
    if found := concept(pick(timing, "code")):
        return found
    repeat = pick(timing, "repeat")
    times, every, size = text(repeat, "frequency"), text(repeat, "period"), _UNITS.get(text(repeat, "periodUnit"), "")
    if not (every and size):
        return ""
    times = times or "1"
    often = "once" if times == "1" else f"{times} times"
    return f"{often} a {size}" if every == "1" else f"{often} every {every} {size}s"


def _is_order(resource: Resource) -> bool:
    return text(resource, "intent") in ORDERS and text(resource, "status") != "entered-in-error"


def _is_reported(order: Resource) -> bool:
    return order.get("reportedBoolean") is True or "reportedReference" in order


def _product(order: Resource) -> object:
    return order.get("medicationReference")


def _name(order: Resource, names: Mapping[str, str]) -> str:
    ref = text(order, "medicationReference", "reference")
    contained = next((item for item in many(order, "contained") if ref and ref == f"#{text(item, 'id')}"), None)
    return (
        concept(order.get("medicationCodeableConcept"))
        or (concept(contained.get("code")) if contained else "")
        or text(order, "medicationReference", "display")
        or names.get(reference(_product(order)), "")
        or "Medicine without a name"
    )


def _medicine(order: Resource, chart: Chart, dispenses: Sequence[Resource] | None, tasks: Sequence[Resource], names: Mapping[str, str]) -> Medicine:
    id_ = text(order, "id")
    given = [item for item in dispenses or () if f"MedicationRequest/{id_}" in map(reference, many(item, "authorizingPrescription"))]
    left = refills_left(order, given) if dispenses is not None else None
    handed = sorted((found for item in given if (found := text(item, "whenHandedOver"))), key=words.sort_key)
    last: Resource | None = next((item for item in given if handed and text(item, "whenHandedOver") == handed[-1]), None)
    status = text(order, "status")
    return Medicine(
        id_,
        _name(order, names),
        STATUSES.get(status, STATUSES["unknown"]),
        status in CURRENT,
        directions(order),
        "" if _is_reported(order) else _refill_words(left),
        left == 0,
        words.day(text(order, "authoredOn"), chart.zone),
        text(order, "requester", "display") or names.get(reference(order.get("requester")), ""),
        ", ".join(concept(item) for item in many(order, "reasonCode")),
        words.day(handed[-1], chart.zone) if handed else "",
        words.quantity(pick(last, "daysSupply")),
        tuple(found for note in many(order, "note") if (found := text(note, "text"))),
        _is_reported(order),
        tuple(_request(task, chart) for task in _tasks_about(tasks, id_)),
    )


def _refill_words(left: int | None) -> str:
    if left is None:
        return "We do not know how many refills are left. Your pharmacy can tell you."
    return "No refills left." if left == 0 else f"{left} refill{'' if left == 1 else 's'} left."


def _tasks_about(tasks: Sequence[Resource], id_: str) -> list[Resource]:
    """Requests to fulfil that prescription, newest first."""
    about = [
        task
        for task in tasks
        if reference(task.get("focus")) == f"MedicationRequest/{id_}"
        and "fulfill" in codes(task.get("code"))
        and text(task, "status") != "entered-in-error"
    ]
    return sorted(about, key=lambda task: words.sort_key(text(task, "authoredOn")), reverse=True)


def _request(task: Resource, chart: Chart) -> Request:
    status = text(task, "status")
    return Request(
        REQUESTS.get(status, Status("Status not known", "Call your care team.")),
        words.moment(text(task, "authoredOn"), chart.zone),
        status in OPEN,
        concept(task.get("statusReason")) or concept(task.get("businessStatus")),
    )


def _has_identifier(resource: Resource, identifier: tuple[str, str]) -> bool:
    return any((text(item, "system"), text(item, "value")) == identifier for item in many(resource, "identifier"))


def _task(chart: Chart, order: Resource, identifier: tuple[str, str], note: str) -> dict[str, Any]:
    target = {"reference": f"MedicationRequest/{text(order, 'id')}"}
    task: dict[str, Any] = {
        "resourceType": "Task",
        "identifier": [{"system": identifier[0], "value": identifier[1]}],
        "status": "requested",
        "intent": "order",
        "code": {"coding": [{"system": "http://hl7.org/fhir/CodeSystem/task-code", "code": "fulfill"}], "text": "Refill request"},
        "focus": target,
        "basedOn": [target],
        "for": {"reference": chart.patient},
        "authoredOn": chart.now.isoformat(timespec="seconds"),
        "requester": {"reference": chart.author},
    }
    pharmacy = reference(pick(order, "dispenseRequest", "performer"))
    if pharmacy.startswith("Organization/"):
        task["owner"] = {"reference": pharmacy}
    if note:
        task["note"] = [{"text": note[:MAX_NOTE]}]
    return task
