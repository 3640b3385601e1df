"""JSON Patch (RFC 6902) over parsed JSON, with every number as it was written. FHIR R4 http.html 3.1.0.8.

Ours and not a library's: those that there are compare with Python's `==`, for which 1 is true, and copy without end. What a patch may never
touch, whatever the result, is refused before anything is read: the whole document, `resourceType` and `id` (ATK-F12, F27). All else is judged
by what comes out of it.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, cast

from gateway.errors import BadRequest, FhirError, Unprocessable
from gateway.fhir import inbound
from gateway.fhir.json import MAX_DEPTH, parse, serialize

MAX_OPERATIONS = 100
MAX_COPIED = 100_000
"""Values that one patch may copy and move, all together: each copy may double the document."""

_POINTER = re.compile(r"(?:/(?:[^~/]|~[01])*)*")
_INDEX = re.compile(r"0|[1-9][0-9]{0,8}", re.ASCII)
_VALUED = frozenset({"add", "replace", "test"})
_FROM = frozenset({"move", "copy"})
_KNOWN = _VALUED | _FROM | {"remove"}
_FIXED = frozenset({"resourceType", "id"})


@dataclass(frozen=True, slots=True)
class Operation:
    """One step. `path` and `source` (its `from`) are the decoded tokens of their pointers; `value` is shared with nothing."""

    op: str
    path: tuple[str, ...]
    source: tuple[str, ...] = ()
    value: Any = None


def read(data: bytes, own_bases: Sequence[str] = ()) -> tuple[Operation, ...]:
    """The steps of a patch, checked for shape. Values that are references below our own bases become relative.

    Raises BadRequest for what is no JSON Patch, and for steps that no patch of a resource may have.
    """
    steps = parse(data, where="patch")
    if not isinstance(steps, list):
        raise _malformed("The patch is no list of operations.")
    listed = cast("list[Any]", steps)
    if not 0 < len(listed) <= MAX_OPERATIONS:
        raise _malformed(f"A patch has 1 to {MAX_OPERATIONS} operations.")
    return tuple(_operation(index, step, own_bases) for index, step in enumerate(listed))


def write(operations: Sequence[Operation]) -> bytes:
    """The patch as JSON."""
    return serialize([_plain(one) for one in operations])


def tests(operations: Sequence[Operation]) -> bool:
    """Whether the patch asks what stands there: its outcome then tells."""
    return any(one.op == "test" for one in operations)


def apply(document: Any, operations: Sequence[Operation]) -> Any:
    """A new document with all steps done, in order. The old one stays as it is.

    Raises Unprocessable when a step cannot be done or a test does not hold; nothing of the document is in the error.
    """
    result = copy.deepcopy(document)
    copied = 0
    for index, one in enumerate(operations):
        try:
            copied += _weight(result, one)
            if copied > MAX_COPIED:
                raise _too_large()
            _do(result, one)
        except LookupError as error:
            text = f"Operation {index + 1} of the patch names a place that is not there."
            raise Unprocessable(text, reason="patch-path", code="processing") from error
    return result


def _operation(index: int, step: Any, own_bases: Sequence[str]) -> Operation:
    members = cast("dict[str, Any]", step) if isinstance(step, dict) else {}
    op = members.get("op")
    if not isinstance(op, str) or op not in _KNOWN:
        raise _malformed(f"Operation {index + 1} of the patch is none of RFC 6902.")
    if op in _VALUED and "value" not in members:
        raise _malformed(f"Operation {index + 1} of the patch has no value.")
    path = _pointer(index, members.get("path"))
    source = _pointer(index, members.get("from")) if op in _FROM else ()
    for pointer in (path, source) if op in _FROM else (path,):
        _check_target(index, op, pointer)
    if op == "move" and path[: len(source)] == source and path != source:
        raise _malformed(f"Operation {index + 1} of the patch moves something into itself.")
    return Operation(op, path, source, _own(path, members["value"], own_bases) if op in _VALUED else None)


def _pointer(index: int, text: Any) -> tuple[str, ...]:
    if not isinstance(text, str) or not _POINTER.fullmatch(text):
        raise _malformed(f"Operation {index + 1} of the patch has no JSON Pointer where one belongs.")
    return tuple(token.replace("~1", "/").replace("~0", "~") for token in text.split("/")[1:])


def _check_target(index: int, op: str, pointer: tuple[str, ...]) -> None:
    if not pointer:
        text = f"Operation {index + 1} of the patch is on the whole resource: send that with PUT."
        raise BadRequest(text, reason="patch-whole", code="not-supported")
    if pointer[0] in _FIXED and op != "test":
        text = f"Operation {index + 1} of the patch is on {pointer[0]}, which never changes."
        raise BadRequest(text, reason="patch-fixed", code="not-supported")


def _own(path: tuple[str, ...], value: Any, own_bases: Sequence[str]) -> Any:
    """The value as it would be in a whole resource, where its member says whether it is a link."""
    if not own_bases or not isinstance(value, str | dict | list):
        return value
    name = next((step for step in reversed(path) if step != "-" and not step.isdecimal()), "value")
    return parse(inbound.body(serialize({name: value}), own_bases))[name]


def _plain(one: Operation) -> dict[str, Any]:
    made: dict[str, Any] = {"op": one.op, "path": _text(one.path)}
    if one.op in _FROM:
        made["from"] = _text(one.source)
    if one.op in _VALUED:
        made["value"] = one.value
    return made


def _text(tokens: tuple[str, ...]) -> str:
    return "".join("/" + token.replace("~", "~0").replace("/", "~1") for token in tokens)


def _malformed(text: str) -> FhirError:
    return BadRequest(text, reason="patch-malformed", code="structure")


# The steps of RFC 6902 section 4. A place that is not there is a LookupError.


def _weight(document: Any, one: Operation) -> int:
    """How many values the step copies or moves. What it puts somewhere may not go deeper than a body may (FAULT-S6)."""
    if one.op in ("test", "remove"):
        return 0
    size, depth = _measured(_get(document, one.source) if one.op in _FROM else one.value)
    if len(one.path) + depth > MAX_DEPTH:
        raise _too_large()
    return size if one.op in _FROM else 0


def _too_large() -> FhirError:
    return Unprocessable("The patch copies or moves too much, or goes too deep.", reason="patch-too-large", code="too-costly")


def _do(document: Any, one: Operation) -> None:
    match one.op:
        case "add":
            _add(document, one.path, copy.deepcopy(one.value))
        case "remove":
            _remove(document, one.path)
        case "replace":
            _get(document, one.path)
            _set(document, one.path, copy.deepcopy(one.value))
        case "move":
            if one.path != one.source:
                _add(document, one.path, _remove(document, one.source))
            else:
                _get(document, one.source)
        case "copy":
            _add(document, one.path, copy.deepcopy(_get(document, one.source)))
        case _:
            if not same(_get(document, one.path), one.value):
                raise Unprocessable("A test of the patch does not hold.", reason="patch-test", code="processing")


def _get(document: Any, path: tuple[str, ...]) -> Any:
    for token in path:
        document = document[_key(document, token)]
    return document


def _key(holder: Any, token: str) -> Any:
    if isinstance(holder, dict):
        return token
    if isinstance(holder, list) and _INDEX.fullmatch(token):
        return int(token)
    raise LookupError


def _add(document: Any, path: tuple[str, ...], value: Any) -> None:
    holder, last = _get(document, path[:-1]), path[-1]
    if not isinstance(holder, list):
        holder[_key(holder, last)] = value
        return
    items = cast("list[Any]", holder)
    index = len(items) if last == "-" else _key(items, last)
    if index > len(items):
        raise LookupError
    items.insert(index, value)


def _set(document: Any, path: tuple[str, ...], value: Any) -> None:
    holder = _get(document, path[:-1])
    holder[_key(holder, path[-1])] = value


def _remove(document: Any, path: tuple[str, ...]) -> Any:
    holder = _get(document, path[:-1])
    key = _key(holder, path[-1])  # before it is taken for something that has a `pop`
    return holder.pop(key)


def same(one: Any, other: Any) -> bool:
    """Equal as JSON (RFC 6902 section 4.6): numbers by value, and true is no number."""
    if isinstance(one, dict) and isinstance(other, dict):
        left, right = cast("dict[str, Any]", one), cast("dict[str, Any]", other)
        return left.keys() == right.keys() and all(same(value, right[name]) for name, value in left.items())
    if isinstance(one, list) and isinstance(other, list):
        items, others = cast("list[Any]", one), cast("list[Any]", other)
        return len(items) == len(others) and all(map(same, items, others))
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    if isinstance(one, int | Decimal) and isinstance(other, int | Decimal):
        return one == other
    return (one is None and other is None) or (isinstance(one, str) and isinstance(other, str) and one == other)


def _measured(value: Any) -> tuple[int, int]:
    """How many values it is, and how many levels deep."""
    size, deepest, pending = 0, 0, [(value, 0)]
    while pending:
        item, level = pending.pop()
        size += 1
        if isinstance(item, dict | list):
            inner = cast("dict[str, Any]", item).values() if isinstance(item, dict) else cast("list[Any]", item)
            deepest = max(deepest, level + 1)
            pending += ((one, level + 1) for one in inner)
    return size, deepest
