"""Search values: OR lists, escapes and the canonical text of a query. FHIR R4 search.html sections 3.1.1.4 and 3.1.1.5. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from urllib.parse import quote

from gateway.fhir.interaction import Param

_SAFE = "-._~,|:/$*!"


def split_or(value: str) -> list[str]:
    r"""The alternatives of a value, split at commas that are not escaped (`\,`). Escapes stay as they are."""
    parts: list[str] = []
    current: list[str] = []
    escaped = False
    for char in value:
        if char == "," and not escaped:
            parts.append("".join(current))
            current = []
            continue
        escaped = char == "\\" and not escaped
        current.append(char)
    parts.append("".join(current))
    return parts


def unescape(value: str) -> str:
    r"""A value with its escapes (`\,` `\$` `\|` `\\`) resolved."""
    out: list[str] = []
    escaped = False
    for char in value:
        if char == "\\" and not escaped:
            escaped = True
            continue
        out.append(char)
        escaped = False
    return "".join(out)


def escape(value: str) -> str:
    """A literal text as a search value."""
    return "".join("\\" + char if char in "\\,|$" else char for char in value)


def split_token(value: str) -> tuple[str | None, str]:
    """`system|code` as (system, code), both unescaped. The system is None when there is no bar: then any system matches."""
    escaped = False
    for index, char in enumerate(value):
        if char == "|" and not escaped:
            return unescape(value[:index]), unescape(value[index + 1 :])
        escaped = char == "\\" and not escaped
    return None, unescape(value)


def render(params: Iterable[Param]) -> str:
    """The query string of parameters, percent-encoded once, in the order given."""
    return "&".join(f"{quote(param.key, safe='_:-.')}={quote(param.value, safe=_SAFE)}" for param in params)


def canonical(params: Iterable[Param]) -> str:
    """The same text for the same search: repeated and other parameters are ANDed, so their order means nothing (3.1.1.3)...

    ... except for `_sort` and `_include`, whose order is kept among themselves by a stable sort on the name.
    """
    ordered = sorted(params, key=lambda param: param.key)
    return render(ordered)
