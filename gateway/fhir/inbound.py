"""The gateway's own URLs in what callers send become relative: EHRs refuse absolute references to a server that they are not."""

from __future__ import annotations

import re
from collections.abc import Iterable

from gateway.fhir import urls
from gateway.fhir.names import RESOURCE_TYPES

_PATH = re.compile(r"/([A-Za-z]+)([/?#].*)?", re.DOTALL)
_RESOURCE = re.compile(r"([A-Z][A-Za-z]+)/[A-Za-z0-9\-.]{1,64}(?:/_history/[A-Za-z0-9\-.]{1,64})?")


def body(raw: bytes, own_bases: Iterable[str]) -> bytes:
    """A caller's JSON with links below one of our bases relative (`Patient/1`); nothing else in it changes."""
    for base in own_bases:
        raw = urls.edit(raw, base, lambda hit, raw=raw: _shortened(raw, hit))
    return raw


def _shortened(raw: bytes, hit: urls.Hit) -> tuple[int, bytes] | None:
    match = _PATH.fullmatch(hit.rest(raw))
    if match is None or match[1] not in RESOURCE_TYPES:
        return None
    return hit.end + (2 if raw[hit.end] == 0x5C else 1), b""


def reference(text: str, own_bases: Iterable[str]) -> str:
    """A search value with our base taken off, when what is left names one resource (`Patient/1`); else as it came."""
    for base in own_bases:
        head = base.rstrip("/") + "/"
        match = _RESOURCE.fullmatch(text, len(head)) if text.startswith(head) else None
        if match is not None and match[1] in RESOURCE_TYPES:
            return match[0]
    return text
