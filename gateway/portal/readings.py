"""One Observation in words: value, flag, range and status, as the lab sent them and nothing added. Pure (F10).

Numbers are shown as in the EHR's bytes; a flag comes from `interpretation` only, never from the range.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from decimal import Decimal

from gateway.portal import words
from gateway.portal.chart import Status
from gateway.portal.words import Resource, codes, concept, many, pick, text

STATUSES: dict[str, Status] = {
    "registered": Status("Not ready yet", "The lab knows about this test. There is no result yet.", "info"),
    "partial": Status("Part of the result", "Some parts are ready. Others will follow.", "info"),
    "preliminary": Status("Early result", "The lab has not finished. This may still change.", "info"),
    "final": Status("Final", "This result is finished."),
    "amended": Status("Changed", "The lab changed this after it was first sent out.", "warn"),
    "corrected": Status("Corrected", "The lab put a mistake right. Use this one, not an earlier one.", "warn"),
    "appended": Status("Added to", "The lab added something after it was first sent out.", "warn"),
    "cancelled": Status("Cancelled", "The test was stopped. Ask your care team if you need it again."),
    "entered-in-error": Status("Withdrawn", "This was entered by mistake and is not yours to rely on.", "bad"),
    "unknown": Status("Status not known", "The lab did not say whether this is finished."),
}

# HL7 v3 ObservationInterpretation, the codes that R4's value set names. Words a patient knows; the tone only decorates.
FLAGS: dict[str, tuple[str, str]] = {
    "H": ("High", "warn"),
    "HU": ("Very high", "warn"),
    "HH": ("Critically high", "bad"),
    "L": ("Low", "warn"),
    "LU": ("Very low", "warn"),
    "LL": ("Critically low", "bad"),
    "N": ("Normal", "good"),
    "A": ("Not normal", "warn"),
    "AA": ("Critically abnormal", "bad"),
    ">": ("Above what the test can measure", "warn"),
    "<": ("Below what the test can measure", "warn"),
    "POS": ("Positive", ""),
    "NEG": ("Negative", ""),
    "IND": ("Not clear either way", ""),
    "DET": ("Found", ""),
    "ND": ("Not found", ""),
    "RR": ("Reactive", ""),
    "WR": ("Weakly reactive", ""),
    "NR": ("Not reactive", ""),
    "S": ("The medicine works against it", ""),
    "I": ("The medicine may work against it", ""),
    "R": ("The medicine does not work against it", ""),
    "U": ("Gone up a lot", ""),
    "D": ("Gone down a lot", ""),
    "B": ("Better", ""),
    "W": ("Worse", ""),
}

# http://terminology.hl7.org/CodeSystem/data-absent-reason
ABSENT: dict[str, str] = {
    "unknown": "The value is not known.",
    "asked-unknown": "You were asked, and did not know.",
    "temp-unknown": "The value is not known yet.",
    "not-asked": "This was not asked.",
    "asked-declined": "You chose not to say.",
    "masked": "The value is hidden for privacy.",
    "not-applicable": "There is no value for this test.",
    "unsupported": "The lab's system could not send the value.",
    "as-text": "The value is in the lab's text.",
    "error": "The test did not work.",
    "not-a-number": "The lab could not give a number.",
    "negative-infinity": "The value is too low to be a number.",
    "positive-infinity": "The value is too high to be a number.",
    "not-performed": "The test was not done.",
    "not-permitted": "The value may not be shown.",
    # Not of that code system, yet sent under its name by labs.
    "unsatisfactory": "The sample could not be tested.",
}


@dataclass(frozen=True, slots=True)
class Line:
    """One value with everything that belongs to it. `value` has its unit; `flag` is what the lab said, `beside` a plain remark of ours."""

    name: str
    value: str = ""
    flag: str = ""
    tone: str = ""
    ranges: tuple[str, ...] = ()
    beside: str = ""
    status: Status | None = None  # None: final
    path: str = ""
    when: str = ""

    @property
    def stands_out(self) -> bool:
        """It asks for attention: by the lab's flag, by its range, or because it is not final."""
        return self.tone in ("warn", "bad") or bool(self.beside) or self.status is not None


def line_of(resource: Resource, born: date | None = None, when: str = "") -> Line:
    """One Observation. A withdrawn one has no value: it must not be relied on."""
    status = status_of(resource)
    path = f"/portal/results/observation/{text(resource, 'id')}" if text(resource, "id") else ""
    shown = None if text(resource, "status") == "final" else status
    if withdrawn(resource):
        return Line(name_of(resource), status=status, path=path, when=when)
    flag, tone = flag_of(resource)
    ranges = ranges_for(resource, born)
    value = value_of(resource)
    if not value and not many(resource, "component") and not many(resource, "hasMember"):
        value = absent(resource)
    return Line(name_of(resource), value, flag, tone, tuple(words_ for words_, _ in ranges), _beside(resource, flag, ranges), shown, path, when)


def components_of(resource: Resource, born: date | None = None) -> list[Line]:
    """The parts of one result, such as the two numbers of a blood pressure."""
    if withdrawn(resource):
        return []
    lines: list[Line] = []
    for part in many(resource, "component"):
        flag, tone = flag_of(part)
        ranges = ranges_for({**part, "effectiveDateTime": taken(resource)}, born)
        value = value_of(part) or absent(part)
        lines.append(Line(name_of(part), value, flag, tone, tuple(words_ for words_, _ in ranges), _beside(part, flag, ranges)))
    return lines


def value_of(resource: Resource) -> str:
    """`value[x]` in words, numbers as written; "" when there is none."""
    name = next((key for key in resource if key.startswith("value") and not key.startswith("value_")), "")
    value = resource.get(name)
    match name:
        case "valueQuantity":
            return words.quantity(value)
        case "valueCodeableConcept":
            return concept(value)
        case "valueString" | "valueInteger" | "valueTime":
            return text(value)
        case "valueBoolean":
            return "Yes" if value is True else "No"
        case "valueDateTime":
            return words.moment(text(value))
        case "valuePeriod":
            return words.period(value)
        case "valueRange":
            return _span(words.quantity(pick(value, "low")), words.quantity(pick(value, "high")))
        case "valueRatio":
            return _ratio(value)
        case "valueSampledData":
            return "A series of measurements. This page cannot show it."
        case _:
            return ""


def _ratio(value: object) -> str:
    """A titre is written `1:128`; other ratios `5 mg / 2 mL`."""
    over, under = words.quantity(pick(value, "numerator")), words.quantity(pick(value, "denominator"))
    plain = over.isdigit() and under.isdigit()
    return f"{over}:{under}" if plain else " / ".join(part for part in (over, under) if part)


def _span(low: str, high: str) -> str:
    if low and high:
        return f"{low} to {high}"
    return f"{low} or more" if low else f"{high} or less" if high else ""


def flag_of(resource: Resource) -> tuple[str, str]:
    """What the lab said about the value, and its tone. Nothing said: nothing shown."""
    said: list[str] = []
    tone = ""
    for item in many(resource, "interpretation"):
        known = next((FLAGS[code] for code in codes(item) if code in FLAGS), None)
        said.append(known[0] if known else concept(item))
        if known and (known[1] == "bad" or not tone):
            tone = known[1]
    return ", ".join(word for word in dict.fromkeys(said) if word), tone


def ranges_for(resource: Resource, born: date | None) -> list[tuple[str, Resource]]:
    """The reference ranges that may apply to this person, in the lab's own words, each with its resource.

    One is left out only when its age says that it is for others. Whom each of several is for is said beside it.
    """
    fitting = [item for item in many(resource, "referenceRange") if _fits_age(item, born, taken(resource))]
    return [(shown, item) for item in fitting if (shown := _range_words(item, several=len(fitting) > 1))]


def _range_words(item: Resource, *, several: bool) -> str:
    shown = text(item, "text") or _bounds(item)
    if not shown:
        return ""
    kind = concept(item.get("type"))
    whose = [concept(one) for one in many(item, "appliesTo")]
    if kind and "normal" not in codes(item.get("type")):
        whose.insert(0, kind)
    age = _span(words.quantity(pick(item, "age", "low")), words.quantity(pick(item, "age", "high")))
    if several and age:
        whose.append(f"age {age}")
    return f"{shown} ({', '.join(whose)})" if whose else shown


def _bounds(item: Resource) -> str:
    """`3.5 to 5.1 mmol/L`: the unit once when both sides have the same."""
    low, high = item.get("low"), item.get("high")
    if words.quantity(low) and words.quantity(high) and words.unit(low) == words.unit(high):
        return f"{text(low, 'value')} to {words.quantity(high)}"
    return _span(words.quantity(low), words.quantity(high))


def _fits_age(item: Resource, born: date | None, when: str) -> bool:
    """False only when it is sure that the range is for another age (years, months, weeks and days are understood)."""
    at = words.parse_time(when)
    if born is None or at is None:
        return True
    days = (date(at.year, at.month, at.day) - born).days
    sizes = {"a": 365.25, "mo": 30.4375, "wk": 7.0, "d": 1.0}
    for side in ("low", "high"):
        bound = pick(item, "age", side)
        size = sizes.get(text(bound, "code") or text(bound, "unit"))
        number = words.number(pick(bound, "value"))
        if size is None or number is None:
            continue
        limit = float(number) * size
        # "up to 17 years" holds until the eighteenth birthday; a day of rounding is allowed below.
        if days < limit - 1 if side == "low" else days > limit + size:
            return False
    return True


def _beside(resource: Resource, flag: str, ranges: Sequence[tuple[str, Resource]]) -> str:
    """When the lab sent no flag, but one range whose numbers the value is not within: said as that, never as a flag."""
    if flag or len(ranges) != 1:
        return ""
    value, item = resource.get("valueQuantity"), ranges[0][1]
    measured = words.number(pick(value, "value"))
    if measured is None or text(value, "comparator"):
        return ""
    low, high = (_limit(item.get(side), value) for side in ("low", "high"))
    outside = (low is not None and measured < low) or (high is not None and measured > high)
    return "Outside the lab's range" if outside else ""


def _limit(bound: object, value: object) -> Decimal | None:
    """The bound's number where it is in the value's unit (or in none)."""
    return words.number(pick(bound, "value")) if words.unit(bound) in ("", words.unit(value)) else None


def absent(resource: Resource) -> str:
    """Why there is no value, when the lab said why."""
    reason = resource.get("dataAbsentReason")
    if reason is None:
        return ""
    return text(reason, "text") or next((ABSENT[code] for code in codes(reason) if code in ABSENT), "") or concept(reason, "There is no value.")


def status_of(resource: Resource) -> Status:
    """In words; a code that R4 does not know is "not known"."""
    return STATUSES.get(text(resource, "status"), STATUSES["unknown"])


def withdrawn(resource: Resource) -> bool:
    """Entered by mistake: it is named, and shows nothing else."""
    return text(resource, "status") == "entered-in-error"


def name_of(resource: Resource) -> str:
    """A test without a known code still shows (no LOINC is no reason to hide it)."""
    return concept(resource.get("code"), "Test without a name")


def taken(resource: Resource) -> str:
    """When the sample was taken or the test done; else when it was released. Never when the record was last touched."""
    return (
        text(resource, "effectiveDateTime")
        or text(resource, "effectiveInstant")
        or text(resource, "effectivePeriod", "end")
        or text(resource, "effectivePeriod", "start")
        or text(resource, "issued")
    )
