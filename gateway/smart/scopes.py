"""SMART App Launch 2.2 scopes: parsing, rendering and the algebra of narrowing.

`patient/Observation.rs?category=http://x|lab` is a Scope; v1 `.read`, `.write` and `.*` are `rs`, `cud` and `cruds` (HL7@128).
What does not parse is no scope: it is never read as more (HL7@129, A10.61).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from urllib.parse import parse_qsl

LETTERS = "cruds"
_V1 = {"read": "rs", "write": "cud", "*": "cruds"}
# The condition may hold what RFC 6749 allows in a scope (appendix A.4): neither a quotation mark nor a backslash.
_CLINICAL = re.compile(r"(patient|user|system)/(\*|[A-Z][A-Za-z]{1,63})\.(read|write|\*|[cruds]{1,5})(?:\?([!#-[\]-~]+))?")
# Those that this server grants: what is not here is ignored (RFC 6749 section 3.3).
CONTEXT_SCOPES = frozenset({"openid", "fhirUser", "profile", "launch", "launch/patient", "offline_access", "online_access"})
# What a registered system may be given besides clinical scopes: to start apps with a patient and a user in context (POST /api/launches).
LAUNCH_RIGHT = "gateway.launch"


@dataclass(frozen=True, slots=True)
class Scope:
    """One clinical scope. `query` holds the granular condition as decoded pairs; all must hold."""

    level: str  # patient | user | system
    type: str  # a resource type or "*"
    letters: str  # subset of "cruds", in that order
    query: tuple[tuple[str, str], ...] = ()
    raw: str = ""  # as the client wrote it: what the token response gives back

    def __str__(self) -> str:
        return self.raw or self.render()

    def render(self) -> str:
        """The v2 spelling."""
        query = "&".join(f"{name}={value}" for name, value in self.query)
        return f"{self.level}/{self.type}.{self.letters}" + (f"?{query}" if query else "")

    def allows(self, resource_type: str, letter: str) -> bool:
        """Whether the scope speaks of this type and letter at all. The granular condition is not looked at."""
        return self.type in ("*", resource_type) and letter in self.letters

    def covers(self, other: Scope) -> bool:
        """Whether everything that `other` grants is granted by this scope too."""
        return (
            self.level == other.level
            and self.type in ("*", other.type)
            and set(other.letters) <= set(self.letters)
            and set(self.query) <= set(other.query)
        )


def parse_scope(text: str) -> Scope | None:
    """One clinical scope, or None when it is not one."""
    match = _CLINICAL.fullmatch(text)
    if match is None:
        return None
    level, type_, access, query = match.groups()
    letters = _V1.get(access, access)
    # SMART 2.2: the letters stand in the order c r u d s, each at most once; anything else is refused ("may be ignored").
    if letters not in _V1.values() and [c for c in LETTERS if c in letters] != list(letters):
        return None
    pairs: tuple[tuple[str, str], ...] = ()
    if query:
        if access in _V1:
            return None
        try:
            pairs = tuple(parse_qsl(query, keep_blank_values=True, strict_parsing=True, errors="strict"))
        except ValueError:
            return None
        if any(not name or not value for name, value in pairs):
            return None
    return Scope(level, type_, letters, pairs, text)


def split(scope: str) -> tuple[str, ...]:
    """The scope strings of a space-separated list, in order, each once."""
    return tuple(dict.fromkeys(part for part in scope.split(" ") if part))


@lru_cache(maxsize=2048)  # every request with a token asks for its scopes
def clinical(scope: str) -> tuple[Scope, ...]:
    """The clinical scopes of a space-separated list; whatever else stands there is left out."""
    return tuple(found for part in split(scope) if (found := parse_scope(part)) is not None)


def is_for_systems(text: str) -> bool:
    """Whether a scope string is one that a backend client may have: a system/ scope, or the right to launch."""
    scope = parse_scope(text)
    return scope.level == "system" if scope else text == LAUNCH_RIGHT


def is_subset(wanted: str, granted: str) -> bool:
    """Whether each scope string of `wanted` is granted, or covered by a scope that is (refresh may only narrow: RFC 6749 section 6)."""
    have = set(split(granted))
    have_clinical = clinical(granted)
    for text in split(wanted):
        if text in have:
            continue
        scope = parse_scope(text)
        if scope is None or not any(candidate.covers(scope) for candidate in have_clinical):
            return False
    return True
