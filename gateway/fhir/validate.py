"""A check of what callers write, on a copy, before it is acknowledged: shape, ids, required codes, references (FHIR R4 json.html, datatypes.html).

Deliberately modest. Whatever a real EHR takes must pass; what passes here may still be refused there. The bytes are never touched.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, cast

from gateway.errors import Unprocessable
from gateway.fhir.codes import CODES
from gateway.fhir.names import ID, RESOURCE_TYPES
from gateway.fhir.references import split

MAX_ISSUES = 20
NEEDED = frozenset({"status", "intent"})
"""Codes that must be there where R4 says so: they decide what the rest means. Servers take resources without others (seen: HAPI 8.8)."""

# A string (datatypes.html#string) has no control characters but tab, line feed and carriage return.
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f]")
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.\-]*:\S+")
_LOCAL = re.compile(r"([A-Z][A-Za-z]+)/")
_DOTS = re.compile(r"(^|[/\\])\.\.?([/\\?#]|$)")


@dataclass(frozen=True, slots=True)
class Issue:
    """What is wrong, where. `code` is an issue-type; `message` holds element names and never a value."""

    code: str
    expression: str
    message: str

    def element(self) -> dict[str, Any]:
        """As OperationOutcome.issue."""
        return {"severity": "error", "code": self.code, "details": {"text": self.message}, "expression": [self.expression]}


def check(resource: Mapping[str, Any], path: str = "") -> list[Issue]:
    """What is wrong with a parsed resource, the first MAX_ISSUES of it. Empty: nothing that is looked for.

    `path` is where the resource stands when it is not alone (`Bundle.entry[3].resource`).
    """
    kind = resource.get("resourceType")
    if not _is_type(kind):
        return [Issue("structure", f"{path}.resourceType" if path else "resourceType", "The resource says no type that R4 has.")]
    found: list[Issue] = []
    for issue in _resource(resource, path or str(kind), contained=False):
        found.append(issue)
        if len(found) == MAX_ISSUES:
            break
    return found


def require(resource: Mapping[str, Any], path: str = "") -> None:
    """Raise Unprocessable (422) with every issue when `check` finds any."""
    if found := check(resource, path):
        raise Unprocessable(
            found[0].message,
            reason="resource-invalid",
            code=found[0].code,
            expression=found[0].expression,
            issues=[issue.element() for issue in found],
        )


def _is_type(value: Any) -> bool:
    return isinstance(value, str) and value in RESOURCE_TYPES


def _resource(resource: Mapping[str, Any], path: str, *, contained: bool) -> Iterator[Issue]:
    """`path` ends in the resource's type, or in the element that holds it."""
    kind = str(resource["resourceType"])
    id_ = resource.get("id")
    if id_ is not None and not (isinstance(id_, str) and ID.fullmatch(id_)):
        yield Issue("value", f"{path}.id", "An id is 1 to 64 letters, digits, dashes and dots.")
    if contained and "contained" in resource:  # dom-2
        yield Issue("invariant", f"{path}.contained", "A contained resource contains no other.")
    yield from _codes(resource, kind, path)
    if not all(map(_plain, resource.values())):
        yield from _members(resource, path)


def _plain(value: Any) -> bool:
    """Whether nothing in a value needs a second look: quick, for the many resources that are as they should be."""
    match value:
        case None:
            return False
        case str():
            return value != "" and (value.isprintable() or _CONTROL.search(value) is None)
        case dict():
            members = cast("dict[str, Any]", value)
            text = members.get("reference", "#")
            fine = bool(members) and "resourceType" not in members and (not isinstance(text, str) or _reads_local(text))
            return fine and all(map(_plain, members.values()))
        case list():
            items = cast("list[Any]", value)
            return bool(items) and all(not isinstance(item, list) and _plain(item) for item in items)
        case _:
            return True


def _reads_local(text: str) -> bool:
    return text.startswith("#") or split(text) is not None


def _members(value: Mapping[str, Any], path: str) -> Iterator[Issue]:
    for name, item in value.items():
        here = f"{path}.{name}"
        if name == "reference" and isinstance(item, str):
            yield from _reference(item, here)
        yield from _value(item, here, name, value)


def _value(item: Any, here: str, name: str, holder: Mapping[str, Any]) -> Iterator[Issue]:
    match item:
        case None:
            yield Issue("structure", here, f"{name} is null: leave it out.")
        case str():
            yield from _text(item, here, name)
        case dict():
            yield from _object(cast("dict[str, Any]", item), here, name)
        case list():
            yield from _array(cast("list[Any]", item), here, name, holder)
        case _:
            pass


def _text(text: str, here: str, name: str) -> Iterator[Issue]:
    if not text:
        yield Issue("structure", here, f"{name} is empty: leave it out.")
    elif _CONTROL.search(text):
        yield Issue("value", here, f"{name} has a control character.")


def _object(value: dict[str, Any], here: str, name: str) -> Iterator[Issue]:
    if not value:
        yield Issue("structure", here, f"{name} is an empty object: leave it out.")
    elif "resourceType" not in value:
        yield from _members(value, here)
    elif not _is_type(value["resourceType"]):
        yield Issue("structure", f"{here}.resourceType", "A resource inside says no type that R4 has.")
    else:
        yield from _resource(value, here, contained=name == "contained")


def _array(items: list[Any], here: str, name: str, holder: Mapping[str, Any]) -> Iterator[Issue]:
    if not items:
        yield Issue("structure", here, f"{name} is an empty list: leave it out.")
    # Beside its extensions (json.html#primitive) null keeps the place of a value in a list of primitives or in the list of their extensions.
    paired = f"_{name}" in holder or name.startswith("_")
    for index, item in enumerate(items):
        if item is None and paired:
            continue
        if isinstance(item, list):
            yield Issue("structure", f"{here}[{index}]", f"{name} has a list in a list, which FHIR never has.")
            continue
        yield from _value(item, f"{here}[{index}]", name, holder)


def _reference(text: str, here: str) -> Iterator[Issue]:
    """A local reference is `Type/id`, perhaps with a version; others are left to the EHR unless they could change a path (ATK-F12)."""
    if text.startswith("#") or not text:
        return
    local = _LOCAL.match(text)
    wrong = _DOTS.search(text.partition("?")[0]) if "://" not in text else "/../" in text or "/./" in text
    if wrong or re.search(r"\s", text):
        yield Issue("value", here, "A reference has a form that leads somewhere else than it says.")
    elif local and local[1] in RESOURCE_TYPES and "?" not in text and "#" not in text and split(text) is None:
        yield Issue("value", here, "A reference to a resource here is [type]/[id].")
    elif not local and not _SCHEME.fullmatch(text) and "?" not in text:
        yield Issue("value", here, "A reference is [type]/[id], an absolute URL, a urn or #[id].")


# Codes


@cache
def _table(kind: str) -> tuple[tuple[tuple[str, ...], bool, frozenset[str]], ...]:
    """(path, whether it must be there, codes) for each coded element of a type."""
    listed = CODES.get(kind, {}).items()
    return tuple(
        (tuple(path.rstrip("!").split(".")), path.rstrip("!") in NEEDED and path.endswith("!"), frozenset(codes.split())) for path, codes in listed
    )


def _codes(resource: Mapping[str, Any], kind: str, path: str) -> Iterator[Issue]:
    for steps, needed, codes in _table(kind):
        for holder, where in _holders(resource, path, steps[:-1]):
            yield from _code(holder, f"{where}.{steps[-1]}", steps[-1], codes, needed=needed)


def _holders(value: Mapping[str, Any], path: str, steps: Iterable[str]) -> list[tuple[Mapping[str, Any], str]]:
    """The objects at a path, arrays flattened, each with its place."""
    found: list[tuple[Mapping[str, Any], str]] = [(value, path)]
    for step in steps:
        found = [below for holder, where in found for below in _below(holder.get(step), f"{where}.{step}")]
    return found


def _below(value: Any, where: str) -> list[tuple[Mapping[str, Any], str]]:
    if isinstance(value, dict):
        return [(cast("dict[str, Any]", value), where)]
    items = list(enumerate(cast("list[Any]", value))) if isinstance(value, list) else []
    return [(cast("dict[str, Any]", item), f"{where}[{index}]") for index, item in items if isinstance(item, dict)]


def _code(holder: Mapping[str, Any], where: str, name: str, codes: frozenset[str], *, needed: bool) -> Iterator[Issue]:
    value = holder.get(name)
    if value is None:
        # An extension may stand for an absent value (data-absent-reason).
        if needed and f"_{name}" not in holder and name not in holder:
            yield Issue("required", where, f"{name} is missing.")
        return
    for index, item in enumerate(cast("list[Any]", value) if isinstance(value, list) else [value]):
        at = f"{where}[{index}]" if isinstance(value, list) else where
        if item is not None and item != "" and not (isinstance(item, str) and item in codes):
            yield Issue("code-invalid", at, f"{name} is none of the codes that R4 has for it.")
