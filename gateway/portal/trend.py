"""F11: the results of one test over time, as a picture that the server draws. Pure.

One unit and one method only: values of others are in the table, not in the picture. Each result brings its own range, because ranges change;
a mark's shape comes from the lab's flag, never from the range.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, tzinfo
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal
from itertools import groupby, pairwise

from gateway.portal import words
from gateway.portal.readings import FLAGS, ranges_for, taken, withdrawn
from gateway.portal.words import Resource, codes, concept, many, number, pick, text

WIDTH, HEIGHT = 600, 240
FEWEST, MOST = 3, 24
"""Of fewer results the table says all; of more, the newest are drawn."""
_EDGE = 12  # room for a mark at either end
_SIZE = 7
_HIGH, _LOW = frozenset({"H", "HU", "HH", ">"}), frozenset({"L", "LU", "LL", "<"})


@dataclass(frozen=True, slots=True)
class Mark:
    """One result. `shape` is even, high, low or odd; `corners` of the shape, "" for a circle; `now`: the one that the page is about."""

    x: int
    y: int
    shape: str
    corners: str
    now: bool


@dataclass(frozen=True, slots=True)
class Band:
    """The lab's range over the results that have it."""

    x: int
    y: int
    width: int
    height: int


@dataclass(frozen=True, slots=True)
class Trend:
    """`scale`: labels from top to bottom, evenly apart, with their heights. `words` says in one sentence what the picture shows."""

    marks: tuple[Mark, ...]
    bands: tuple[Band, ...]
    line: str
    scale: tuple[tuple[str, int], ...]
    first: str
    last: str
    words: str
    shapes: frozenset[str]
    from_zero: bool


@dataclass(frozen=True, slots=True)
class _Value:
    resource: Resource
    at: datetime
    value: Decimal
    low: Decimal | None
    high: Decimal | None


def trend_of(resource: Resource, others: Iterable[Resource], zone: tzinfo | None) -> Trend | None:
    """The picture for the page of `resource`; None where there is too little that can be compared."""
    alike = [found for item in (resource, *others) if _comparable(item, resource) and (found := _value(item))]
    values = sorted(alike, key=lambda one: one.at)[-MOST:]
    named = f"{len(values)} results" if len(values) == len(alike) else f"The newest {len(values)} of {len(alike)} results"
    if len(values) < FEWEST or values[0].at == values[-1].at:
        return None
    steps = _steps([number for one in values for number in (one.value, one.low, one.high) if number is not None])
    xs = [_x(one, values) for one in values]
    ys = [_y(one.value, steps) for one in values]
    marks = tuple(_mark(one, x, y, now=one.resource is resource) for one, x, y in zip(values, xs, ys, strict=True))
    return Trend(
        marks,
        tuple(_bands(values, xs, steps)),
        " ".join(f"{x},{y}" for x, y in zip(xs, ys, strict=True)),
        tuple((_label(step), _y(step, steps)) for step in reversed(steps)),
        words.day(taken(values[0].resource), zone),
        words.day(taken(values[-1].resource), zone),
        f"{named}: {_in_words(values, zone)}.",
        frozenset(mark.shape for mark in marks),
        steps[0] == 0,
    )


def _comparable(item: Resource, with_: Resource) -> bool:
    """Of the same unit and the same method, measured, and not taken back."""
    ours, theirs = with_.get("valueQuantity"), item.get("valueQuantity")
    same = words.unit(ours) == words.unit(theirs) and concept(item.get("method")) == concept(with_.get("method"))
    return same and not text(theirs, "comparator") and not withdrawn(item)


def _value(item: Resource) -> _Value | None:
    measured, at = number(pick(item, "valueQuantity", "value")), words.parse_time(taken(item))
    if measured is None or not measured.is_finite() or at is None:
        return None
    ranges = ranges_for(item, None)
    bounds = ranges[0][1] if len(ranges) == 1 else None
    low, high = (_bound(bounds, side, words.unit(item.get("valueQuantity"))) for side in ("low", "high"))
    return _Value(item, words.sort_key(taken(item)).astimezone(UTC), measured, low, high)


def _bound(bounds: Resource | None, side: str, unit: str) -> Decimal | None:
    bound = pick(bounds, side)
    found = number(pick(bound, "value"))
    return found if found is not None and words.unit(bound) in ("", unit) else None


def _steps(numbers: Sequence[Decimal]) -> list[Decimal]:
    """From below the lowest to above the highest, in even steps of 1, 2 or 5 times a power of ten."""
    low, high = min(numbers), max(numbers)
    rough = ((high - low) or abs(high) or Decimal(1)) / 4
    power = Decimal(1).scaleb(rough.adjusted())
    step = next(power * size for size in (1, 2, 5, 10) if power * size >= rough)
    begin = (low / step).to_integral_value(ROUND_FLOOR)
    end = max((high / step).to_integral_value(ROUND_CEILING), begin + 1)
    return [(begin + index) * step for index in range(int(end - begin) + 1)]


def _label(step: Decimal) -> str:
    """Plain where that is short enough to stand beside the picture."""
    plain = f"{step:f}"
    return plain if len(plain) < 9 else f"{step:.3g}"


def _x(one: _Value, values: Sequence[_Value]) -> int:
    whole = (values[-1].at - values[0].at).total_seconds()
    return _EDGE + round((WIDTH - 2 * _EDGE) * (one.at - values[0].at).total_seconds() / whole)


def _y(value: Decimal, steps: Sequence[Decimal]) -> int:
    return round(HEIGHT * (1 - float((value - steps[0]) / (steps[-1] - steps[0]))))


def _mark(one: _Value, x: int, y: int, *, now: bool) -> Mark:
    said = {code for item in many(one.resource, "interpretation") for code in codes(item)}
    odd = any(FLAGS[code][1] in ("warn", "bad") for code in said if code in FLAGS)
    shape = "high" if said & _HIGH else "low" if said & _LOW else "odd" if odd else "even"
    size = _SIZE + 3 if now else _SIZE
    corners = {
        "high": ((-size, size), (size, size), (0, -size)),
        "low": ((-size, -size), (size, -size), (0, size)),
        "odd": ((-size, 0), (0, -size), (size, 0), (0, size)),
    }
    return Mark(x, y, shape, " ".join(f"{x + right},{y + down}" for right, down in corners.get(shape, ())), now)


def _bands(values: Sequence[_Value], xs: Sequence[int], steps: Sequence[Decimal]) -> Iterable[Band]:
    """A range holds halfway to the results on either side; alike ones in a row are one band."""
    edges = [0, *((left + right) // 2 for left, right in pairwise(xs)), WIDTH]
    for (low, high), run in groupby(range(len(values)), key=lambda index: (values[index].low, values[index].high)):
        indexes = list(run)
        if low is None and high is None:
            continue
        top = 0 if high is None else _y(high, steps)
        bottom = HEIGHT if low is None else _y(low, steps)
        left, right = edges[indexes[0]], edges[indexes[-1] + 1]
        yield Band(left, top, right - left, bottom - top)


def _in_words(values: Sequence[_Value], zone: tzinfo | None) -> str:
    lowest, highest, newest = min(values, key=lambda one: one.value), max(values, key=lambda one: one.value), values[-1]
    return ", ".join(
        f"{name} {words.quantity(one.resource.get('valueQuantity'))} on {words.day(taken(one.resource), zone)}"
        for name, one in (("lowest", lowest), ("highest", highest), ("newest", newest))
    )
