"""FHIR values in a patient's words: dates with their zone, codes by their text, names, ages, money. Pure, and never fails on odd data."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime, timedelta, timezone, tzinfo
from decimal import Decimal
from typing import Any, cast

Resource = Mapping[str, Any]
EPOCH = datetime(1, 1, 1, tzinfo=UTC)
_PARTIAL = re.compile(r"^(\d{4})(?:-(\d{2})(?:-(\d{2}))?)?$")
_MONTHS = ("January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November", "December")
_WEEKDAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
_CURRENCIES = {"USD": "$", "EUR": "€", "GBP": "£", "JPY": "¥", "INR": "₹"}


def pick(value: object, *path: str) -> Any:
    """The value at a path of members; a list on the way means its first item. None when it is not there or not of that shape."""
    for name in path:
        value = _first(value)
        if not isinstance(value, Mapping):
            return None
        value = cast("Mapping[str, object]", value).get(name)
    return value


def text(value: object, *path: str) -> str:
    """The text or number at a path, trimmed, or ""."""
    found = _first(pick(value, *path) if path else value)
    return found.strip() if isinstance(found, str) else str(found) if _is_number(found) else ""


def _is_number(value: object) -> bool:
    """A number prints as it was written: `fhir.json` gives int, and Exact for the others."""
    return isinstance(value, int | Decimal) and not isinstance(value, bool)


def many(value: object, *path: str) -> list[Resource]:
    """The objects at a path; anything else in the list is left out."""
    found = pick(value, *path)
    if isinstance(found, Mapping):
        return [cast("Resource", found)]
    if not isinstance(found, list):
        return []
    return [cast("Resource", item) for item in cast("list[object]", found) if isinstance(item, Mapping)]


def number(value: object) -> Decimal | None:
    """For comparing and adding; what is shown is the text."""
    return Decimal(str(value)) if _is_number(value) else None


def _first(value: object) -> object:
    if isinstance(value, list):
        items = cast("list[object]", value)
        return items[0] if items else None
    return value


def concept(value: object, fallback: str = "") -> str:
    """A CodeableConcept or Coding in words: its text, a display, or at least the code."""
    if found := text(value, "text") or text(value, "display"):
        return found
    codings = many(value, "coding")
    return next((d for c in codings if (d := text(c, "display"))), "") or next((c for item in codings if (c := text(item, "code"))), "") or fallback


def codes(value: object) -> tuple[str, ...]:
    """The codes of a CodeableConcept (or of the first of a list), whatever their systems."""
    return tuple(code for item in many(value, "coding") if (code := text(item, "code")))


def human_name(value: object) -> str:
    """A HumanName: its text, or its parts. Of several, the official one, else the usual one, else the first."""
    names = many({"name": value}, "name")
    ranked = sorted(names, key=lambda name: {"official": 0, "usual": 1, "": 2}.get(text(name, "use"), 3))
    for name in ranked:
        given: object = name.get("given")
        parts = [
            text(name, "prefix"),
            *[str(part) for part in (cast("list[object]", given) if isinstance(given, list) else [])],
            text(name, "family"),
        ]
        if found := text(name, "text") or " ".join(part for part in parts if part):
            return found
    return ""


def title_of(resource: Resource) -> str:
    """What a resource is called: a person's or an organisation's name, a medicine, a role."""
    match text(resource, "resourceType"):
        case "Organization" | "Location" | "CareTeam" | "HealthcareService":
            return text(resource, "name")
        case "PractitionerRole":
            return text(resource, "practitioner", "display") or concept(pick(resource, "specialty")) or concept(pick(resource, "code"))
        case "Medication":
            return concept(resource.get("code"))
        case _:
            return human_name(resource.get("name"))


def reference(value: object) -> str:
    """`Type/id` of a Reference, without history and without a base; "" when it is none."""
    found = text(value, "reference").partition("/_history/")[0]
    parts = found.split("/")
    return "/".join(parts[-2:]) if len(parts) > 1 and parts[-2][:1].isupper() else ""


def parse_time(value: str) -> datetime | date | None:
    """A FHIR date (also a partial one, as its first day), dateTime or instant."""
    if match := _PARTIAL.match(value):
        year, month, day = (int(part) if part else 1 for part in match.groups())
        try:
            return date(year, month, day)
        except ValueError:
            return None
    try:
        return datetime.fromisoformat(value)
    except ValueError:
        return None


def sort_key(value: str) -> datetime:
    """For ordering; what cannot be read comes first."""
    found = parse_time(value)
    match found:
        case datetime():
            return found if found.tzinfo else found.replace(tzinfo=UTC)
        case date():
            return datetime(found.year, found.month, found.day, tzinfo=UTC)
        case None:
            return EPOCH


def day(value: str, zone: tzinfo | None = None) -> str:
    """`5 March 2019`, `March 2019` or `2019`, as precise as the data; what cannot be read is shown as it is."""
    if match := _PARTIAL.match(value):
        return _partial(*match.groups()) or value
    found = parse_time(value)
    return _day(_in_zone(found, zone)) if isinstance(found, datetime) else value


def moment(value: str, zone: tzinfo | None = None) -> str:
    """`1 December 2026, 9:00 am (UTC-5)`: always with the zone. Without a zone of the clinic, the one that the data name."""
    found = parse_time(value)
    if not isinstance(found, datetime):
        return day(value)
    return f"{_day(_in_zone(found, zone))}, {clock(value, zone)}"


def apart(entries: Sequence[tuple[str, str, str]]) -> list[str]:
    """Of each (name, day, moment) what tells it apart: the day, or the moment where one name has that day twice."""
    seen = Counter((name, on) for name, on, _ in entries)
    return [on if seen[name, on] == 1 else at for name, on, at in entries]


def weekday(value: str, zone: tzinfo | None = None) -> str:
    """`Monday` of an instant, "" of what has no time."""
    found = parse_time(value)
    return _WEEKDAYS[_in_zone(found, zone).weekday()] if isinstance(found, datetime) else ""


def clock(value: str, zone: tzinfo | None = None) -> str:
    """`9:00 am (UTC-5)` of an instant, "" of a mere date."""
    found = parse_time(value)
    if not isinstance(found, datetime):
        return ""
    found = _in_zone(found, zone)
    name = zone_name(found)
    return f"{found.hour % 12 or 12}:{found.minute:02} {'am' if found.hour < 12 else 'pm'}" + (f" ({name})" if name else "")


def zone_name(value: datetime) -> str:
    """`EST` of a named zone, `UTC-5` of a mere offset, "" of a time without one."""
    offset = value.utcoffset()
    if offset is None:
        return ""
    if not isinstance(value.tzinfo, timezone) and (name := value.tzname()) and name.isalpha():
        return name
    if not offset:
        return "UTC"
    hours, minutes = divmod(int(abs(offset).total_seconds()) // 60, 60)
    sign = "\N{MINUS SIGN}" if offset < timedelta(0) else "+"
    return f"UTC{sign}{hours}" + (f":{minutes:02}" if minutes else "")


def _in_zone(value: datetime, zone: tzinfo | None) -> datetime:
    return value.astimezone(zone) if zone and value.tzinfo else value


def _day(value: date) -> str:
    return f"{value.day} {_MONTHS[value.month - 1]} {value.year}"


def _partial(year: str, month: str | None, number: str | None) -> str:
    if month and not 1 <= int(month) <= 12:
        return ""
    return " ".join(part for part in (str(int(number)) if number else "", _MONTHS[int(month) - 1] if month else "", year) if part)


def period(value: object, zone: tzinfo | None = None) -> str:
    """`From 1 December 2026 to 15 December 2026`, with one side where only one is given."""
    start, end = text(value, "start"), text(value, "end")
    if start and end:
        return day(start, zone) if day(start, zone) == day(end, zone) else f"From {day(start, zone)} to {day(end, zone)}"
    return f"From {day(start, zone)}" if start else f"Until {day(end, zone)}" if end else ""


def ago(seconds: int) -> str:
    """`just now`, `3 minutes ago`, `2 hours ago`."""
    for size, name in ((86400, "day"), (3600, "hour"), (60, "minute")):
        if seconds >= size:
            count = seconds // size
            return f"{count} {name}{'' if count == 1 else 's'} ago"
    return "just now"


def money(value: object) -> str:
    """`$120.00` or `120.00 SEK`: the number as written."""
    number, currency = text(value, "value"), text(value, "currency")
    return amount(number, currency) if number else ""


def amount(number: str, currency: str) -> str:
    """A number with its currency. A minus stands before the sign."""
    if symbol := _CURRENCIES.get(currency):
        return f"\N{MINUS SIGN}{symbol}{number[1:]}" if number.startswith("-") else f"{symbol}{number}"
    return f"{number} {currency}".strip()


def quantity(value: object) -> str:
    """`<5 mg/L`: comparator, the number exactly as written, the unit as the lab wrote it."""
    if not _is_number(pick(value, "value")):
        return ""
    # `text` and not an f-string: Decimal's own format would make `1.0E+3` of `1.0e3`.
    return f"{text(value, 'comparator')}{text(value, 'value')} {unit(value)}".strip()


def unit(value: object) -> str:
    """The unit in the lab's words, else its code; UCUM's `1` (no unit) is not shown."""
    found = text(value, "unit") or text(value, "code")
    return "" if found == "1" else found


def sentence(value: str) -> str:
    """With a full stop, so that it can stand beside others."""
    return value if not value or value[-1] in ".!?" else f"{value}."
