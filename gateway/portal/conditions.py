"""F01: health conditions. All are fetched and grouped here: a search by clinical status would drop those that have none."""

from __future__ import annotations

from dataclasses import dataclass

from gateway.portal import words
from gateway.portal.chart import Ask, Chart, Standing
from gateway.portal.words import Resource, codes, concept, many, text

HIDDEN = frozenset({"entered-in-error", "refuted"})
CURRENT = frozenset({"active", "recurrence", "relapse"})
PAST = frozenset({"inactive", "remission", "resolved"})

STATUS_WORDS = {
    "active": "Active",
    "recurrence": "Came back",
    "relapse": "Came back after getting better",
    "inactive": "Not active",
    "remission": "In remission",
    "resolved": "Gone",
}
NOT_SURE = {
    "unconfirmed": "Not confirmed yet",
    "provisional": "Not confirmed yet",
    "differential": "One of several possibilities",
}


@dataclass(frozen=True, slots=True)
class Condition:
    """One health problem. `visit`: recorded as the diagnosis of one visit."""

    name: str
    status: str = ""
    not_sure: str = ""
    started: str = ""
    ended: str = ""
    recorded: str = ""
    severity: str = ""
    place: str = ""
    notes: tuple[str, ...] = ()
    visit: bool = False


@dataclass(frozen=True, slots=True)
class ConditionList:
    """Each group newest first."""

    current: tuple[Condition, ...]
    past: tuple[Condition, ...]
    unsaid: tuple[Condition, ...]
    standing: Standing

    @property
    def empty(self) -> bool:
        """Nothing at all."""
        return not (self.current or self.past or self.unsaid)


async def listing(chart: Chart) -> ConditionList:
    """All conditions but those entered by mistake or ruled out."""
    (found,), standing = await chart.gather(Ask("health conditions", "Condition"))
    shown = [item for item in found.resources if not HIDDEN & set(codes(item.get("verificationStatus")))]
    shown.sort(key=lambda item: words.sort_key(_started(item) or text(item, "recordedDate")), reverse=True)

    def group(wanted: frozenset[str] | None) -> tuple[Condition, ...]:
        return tuple(_condition(item, chart) for item in shown if _group(item) == wanted)

    return ConditionList(group(CURRENT), group(PAST), group(None), standing)


def _group(resource: Resource) -> frozenset[str] | None:
    found = set(codes(resource.get("clinicalStatus")))
    return CURRENT if found & CURRENT else PAST if found & PAST else None


def _condition(resource: Resource, chart: Chart) -> Condition:
    status = next((STATUS_WORDS[code] for code in codes(resource.get("clinicalStatus")) if code in STATUS_WORDS), "")
    not_sure = next((NOT_SURE[code] for code in codes(resource.get("verificationStatus")) if code in NOT_SURE), "")
    return Condition(
        concept(resource.get("code"), "Condition without a name"),
        status or concept(resource.get("clinicalStatus")),
        not_sure,
        _onset(resource, "onset", chart),
        _onset(resource, "abatement", chart),
        words.day(text(resource, "recordedDate"), chart.zone),
        concept(resource.get("severity")),
        ", ".join(concept(item) for item in many(resource, "bodySite")),
        tuple(found for note in many(resource, "note") if (found := text(note, "text"))),
        any("encounter-diagnosis" in codes(item) for item in many(resource, "category")),
    )


def _started(resource: Resource) -> str:
    return text(resource, "onsetDateTime") or text(resource, "onsetPeriod", "start")


def _onset(resource: Resource, name: str, chart: Chart) -> str:
    """`onset[x]` or `abatement[x]` in words."""
    if found := text(resource, f"{name}DateTime"):
        return words.day(found, chart.zone)
    if age := words.quantity(resource.get(f"{name}Age")):
        return f"at age {age.removesuffix(' a').removesuffix(' years')}"
    start, end = (text(resource, f"{name}Period", side) for side in ("start", "end"))
    if start and end:
        return f"between {words.day(start, chart.zone)} and {words.day(end, chart.zone)}"
    if start or end:
        return f"{'after' if start else 'before'} {words.day(start or end, chart.zone)}"
    low, high = words.quantity(words.pick(resource, f"{name}Range", "low")), words.quantity(words.pick(resource, f"{name}Range", "high"))
    return f"between {low} and {high}" if low and high else text(resource, f"{name}String")
