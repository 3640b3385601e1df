"""How the EHR double searches: FHIR R4 search.html over parsed resources, by the definitions in profiles/fhir. Pure.

Written apart from the gateway's own rules on purpose: a double that shared their mistakes would hide them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal, InvalidOperation
from typing import Any, cast
from urllib.parse import parse_qsl

from gateway.fhir.tables import SearchParam

Resource = Mapping[str, Any]
Params = Mapping[str, SearchParam]

RESULT_PARAMETERS = frozenset({"_count", "_sort", "_include", "_revinclude", "_total", "_summary", "_elements", "_format", "_pretty"})
_PREFIX = re.compile(r"(eq|ne|gt|lt|ge|le|sa|eb)(?=[0-9-])")
_DATE = re.compile(r"(\d{4})(?:-(\d\d)(?:-(\d\d)(?:T(\d\d:\d\d(?::\d\d(?:\.\d+)?)?)(Z|[+-]\d\d:\d\d)?)?)?)?")


class Unsupported(Exception):
    """The double does not know this parameter, modifier or value."""


@dataclass(frozen=True, slots=True)
class Query:
    """A parsed query: (name, modifier, value) in order."""

    pairs: tuple[tuple[str, str, str], ...]

    @classmethod
    def parse(cls, text: str) -> Query:
        """Decode once, as a form is decoded."""
        return cls(tuple((*_split_name(key), value) for key, value in parse_qsl(text, keep_blank_values=True)))

    def values(self, name: str) -> list[tuple[str, str]]:
        """(modifier, value) of each of that name."""
        return [(modifier, value) for key, modifier, value in self.pairs if key == name]

    def first(self, name: str, default: str = "") -> str:
        """The value of the first of that name."""
        return next((value for _, value in self.values(name)), default)

    def filters(self) -> tuple[tuple[str, str, str], ...]:
        """Those that choose resources; the others say how the result looks."""
        return tuple(pair for pair in self.pairs if pair[0] not in RESULT_PARAMETERS)


def _split_name(key: str) -> tuple[str, str]:
    name, _, modifier = key.partition(":")
    return name, modifier


def matches(resource: Resource, query: Query, params: Params, base: str) -> bool:
    """Whether all parameters hold: several of one name are ANDed, commas in one are ORed. Raises Unsupported."""
    return all(_holds(resource, name, modifier, value, params, base) for name, modifier, value in query.filters())


def check(query: Query, params: Params) -> None:
    """Raises Unsupported for a parameter that the type does not have and for a date that is none, so that an empty server refuses them too."""
    for name, modifier, value in query.filters():
        if name not in params and name not in ("_id", "_lastUpdated"):
            raise Unsupported(f"unknown search parameter {name}")
        if modifier != "missing" and (name == "_lastUpdated" or (name in params and params[name].type == "date")):
            for one in _alternatives(value):
                span(_prefixed(one)[1])


def _holds(resource: Resource, name: str, modifier: str, value: str, params: Params, base: str) -> bool:
    if name == "_id":
        return resource.get("id") in _alternatives(value)
    if name == "_lastUpdated":
        return any(_date_matches(item, one) for item in at(resource, "meta.lastUpdated") for one in _alternatives(value))
    param = params.get(name)
    if param is None or param.type in ("composite", "special"):
        raise Unsupported(f"cannot search by {name}")
    found = [item for path in param.paths for item in at(resource, path)]
    if modifier == "missing":
        return (not found) == (value == "true")
    if modifier == "not":
        return not any(_matches(param, "", item, one, base) for item in found for one in _alternatives(value))
    return any(_matches(param, modifier, item, one, base) for item in found for one in _alternatives(value))


def _matches(param: SearchParam, modifier: str, item: Any, value: str, base: str) -> bool:
    match param.type, modifier:
        case "token", "":
            return _token_matches(item, value)
        case "reference", _:
            return _reference_matches(item, value, modifier, param.targets, base)
        case "date", "":
            return _date_matches(item, value)
        case "string", "" | "exact" | "contains":
            return _string_matches(item, _unescape(value), modifier)
        case "uri", "":
            return item == value
        case (("quantity" | "number"), ""):
            return _number_matches(item, value)
        case _:
            raise Unsupported(f"modifier {modifier} of a {param.type}")


def at(value: Any, path: str) -> Iterator[Any]:
    """Everything at a dotted path, arrays flattened."""
    name, _, rest = path.partition(".")
    for holder in _listed(value):
        inner = members(holder).get(name)
        if inner is not None:
            yield from at(inner, rest) if rest else _listed(inner)


def members(item: Any) -> dict[str, Any]:
    """The members of an object; none of anything else."""
    return cast("dict[str, Any]", item) if isinstance(item, dict) else {}


def _listed(value: Any) -> list[Any]:
    return cast("list[Any]", value) if isinstance(value, list) else [value]


def _alternatives(value: str) -> list[str]:
    return re.split(r"(?<!\\),", value)


def _unescape(value: str) -> str:
    return re.sub(r"\\(.)", r"\1", value)


def _token_matches(item: Any, value: str) -> bool:
    system, bar, code = value.partition("|")
    for found_system, found_code in _tokens(item):
        same_code = _unescape(code if bar else system) == found_code or (bool(bar) and not code)
        same_system = not bar or found_system is None or (found_system or "") == system
        if same_code and same_system:
            return True
    return False


def _tokens(item: Any) -> Iterator[tuple[str | None, str]]:
    """(system, code) pairs; the system of a plain code is fixed by its element, so None."""
    if isinstance(item, bool):
        yield None, str(item).lower()
    elif isinstance(item, str):
        yield None, item
    elif isinstance(item, dict):
        for coding in _listed(members(item).get("coding", [item])):
            yield members(coding).get("system"), str(members(coding).get("code", members(coding).get("value", "")))


def _reference_matches(item: Any, value: str, modifier: str, targets: tuple[str, ...], base: str) -> bool:
    if not isinstance(item, dict):
        return bool(item == value)  # a canonical
    reference = members(item)
    if modifier == "identifier":
        return "identifier" in reference and _token_matches(reference["identifier"], value)
    found = str(reference.get("reference", "")).removeprefix(f"{base}/").split("/_history/")[0]
    found_type, _, found_id = found.rpartition("/")
    wanted_type, _, wanted_id = value.removeprefix(f"{base}/").rpartition("/")
    wanted_type = wanted_type or modifier
    allowed = not targets or found_type in targets
    return bool(found_type) and found_id == wanted_id and allowed and (not wanted_type or found_type == wanted_type)


def _string_matches(item: Any, value: str, modifier: str) -> bool:
    texts = list(_texts(item))
    if modifier == "exact":
        return value in texts
    if modifier == "contains":
        return any(value.lower() in text.lower() for text in texts)
    return any(text.lower().startswith(value.lower()) for text in texts)


def _texts(item: Any) -> Iterator[str]:
    """A string, or the strings of a HumanName or Address."""
    if isinstance(item, str):
        yield item
    elif isinstance(item, dict):
        for key in ("text", "family", "given", "prefix", "suffix", "line", "city", "district", "state", "postalCode", "country"):
            yield from (text for text in at(item, key) if isinstance(text, str))


def _number_matches(item: Any, value: str) -> bool:
    number, _, rest = value.partition("|")
    prefix, number = _prefixed(number)
    try:
        wanted = Decimal(number)
        found = Decimal(str(members(item).get("value") if isinstance(item, dict) else item))
    except InvalidOperation as error:
        raise Unsupported("a number was expected") from error
    if rest and rest.rpartition("|")[2] not in ("", members(item).get("code"), members(item).get("unit")):
        return False
    digits = len(number.partition(".")[2])  # 5.4 means 5.35 to 5.45
    half = Decimal(5).scaleb(-digits - 1)
    return _compare(prefix, (found, found), (wanted - half, wanted + half))


def _prefixed(value: str) -> tuple[str, str]:
    match = _PREFIX.match(value)
    return (match[1], value[2:]) if match else ("eq", value)


def _date_matches(item: Any, value: str) -> bool:
    prefix, text = _prefixed(value)
    found = item_range(item)
    wanted = span(text)
    return found is not None and _compare(prefix, found, wanted)


def item_range(item: Any) -> tuple[datetime, datetime] | None:
    """The first and last moment of a date, dateTime, instant or Period; None for anything else."""
    if isinstance(item, str):
        return span(item)
    period = members(item)
    if "start" not in period and "end" not in period:
        return None
    start = span(period["start"])[0] if "start" in period else datetime.min.replace(tzinfo=UTC)
    end = span(period["end"])[1] if "end" in period else datetime.max.replace(tzinfo=UTC)
    return start, end


def span(text: str) -> tuple[datetime, datetime]:
    """The first and last moment that a date with its precision means. Raises Unsupported for what is no date."""
    match = _DATE.fullmatch(text)
    if match is None:
        raise Unsupported("a date was expected")
    year, month, day, clock, zone = match.groups()
    try:
        start = datetime.fromisoformat(f"{year}-{month or '01'}-{day or '01'}T{clock or '00:00'}{zone or 'Z'}")
    except ValueError as error:
        raise Unsupported("a date was expected") from error
    if clock:
        length = timedelta(milliseconds=1) if "." in clock else timedelta(seconds=1) if clock.count(":") == 2 else timedelta(minutes=1)
        return start, start + length
    if day:
        return start, start + timedelta(days=1)
    after = start.replace(month=start.month % 12 + 1, year=start.year + start.month // 12) if month else start.replace(year=start.year + 1)
    return start, after


def _compare(prefix: str, found: tuple[Any, Any], wanted: tuple[Any, Any]) -> bool:
    """Ranges, as search.html 3.1.1.4.6 compares them; `ge` and `le` take what touches the value itself, as HAPI does."""
    match prefix:
        case "eq":
            return bool(wanted[0] <= found[0] and found[1] <= wanted[1])
        case "ne":
            return not (wanted[0] <= found[0] and found[1] <= wanted[1])
        case "gt":
            return bool(found[1] > wanted[1])
        case "lt":
            return bool(found[0] < wanted[0])
        case "ge":
            return bool(found[1] > wanted[0] or found == wanted)
        case "le":
            return bool(found[0] < wanted[1] or found == wanted)
        case "sa":
            return bool(found[0] >= wanted[1])
        case _:
            return bool(found[1] <= wanted[0])


def sort_key(resource: Resource, name: str, params: Params) -> str:
    """Something to sort by: the first value as text, dates as moments. Resources without one come first."""
    if name == "_id":
        return str(resource.get("id"))
    paths = ("meta.lastUpdated",) if name == "_lastUpdated" else params[name].paths if name in params else None
    if paths is None:
        raise Unsupported(f"cannot sort by {name}")
    item = next((item for path in paths for item in at(resource, path)), "")
    is_date = name == "_lastUpdated" or params[name].type == "date"
    found = item_range(item) if is_date and item else None
    return found[0].astimezone(UTC).isoformat() if found else str(next(_texts(item), "")).lower()
