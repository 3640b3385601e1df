"""Cache keys and the names of generations. Pure; whoever may have which answer is decided before (smart.policy), and stands in the key.

A key holds everything that could make two answers differ: the version of these rules, the EHR, the upstream view (whose credential fetched it),
the canonical constraint (effective scopes and patients), the canonical interaction, and the generations of what the answer was made from. A
change of a generation makes every key that holds it unreachable: there are no lists of what to purge, and a late fill lands where nobody
looks. All keys and names of one EHR carry its hash tag, so that Redis Cluster keeps them in one slot and DEL and MGET of several are atomic.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from urllib.parse import quote

RULES = 3
"""Raised whenever the meaning of a cached value changes: screening, narrowing, or the shape of what is stored."""


@dataclass(frozen=True, slots=True)
class Ask:
    """One look-up. All fields are canonical: the same right to the same answer gives the same text.

    `view` is "gateway" for the gateway's own credential at the EHR, else the upstream subject. `patients` are those of the constraint, or None
    when it reaches everyone. `types` are the shared types that may come along and, without patients, every searched or included type.
    """

    ehr: str
    view: str
    constraint: str
    interaction: str
    patients: tuple[str, ...] | None
    types: tuple[str, ...]


def everything(ehr: str) -> str:
    """The generation that every answer from this EHR depends on."""
    return f"{_tag(ehr)}g:all"


def generation_names(ask: Ask) -> tuple[str, ...]:
    """The generations that an answer depends on: the EHR's, each patient's, each type's. Sorted, without repetition."""
    return (everything(ask.ehr), *_parts(ask.ehr, ask.patients or (), ask.types))


def names(ehr: str, patients: Iterable[str] | None, types: Iterable[str]) -> tuple[str, ...]:
    """What a write renews: the patients of the old and the new version, and the type. Patients None (unknown): the EHR's, which is all."""
    return (everything(ehr),) if patients is None else _parts(ehr, patients, types)


def key(ask: Ask, generations: Sequence[str]) -> str:
    """Where the answer is kept. SHA-256, so that no search value, which may be a name or a birth date, stands in a key."""
    parts = [RULES, ask.ehr, ask.view, ask.constraint, ask.interaction, ask.patients, ask.types, list(generations)]
    return f"{_tag(ask.ehr)}v:{hashlib.sha256(json.dumps(parts, separators=(',', ':')).encode()).hexdigest()}"


def _tag(ehr: str) -> str:
    return f"gw:{{{quote(ehr, safe='')}}}:"  # Redis Cluster specification, "Hash tags": what stands between the first braces


def _parts(ehr: str, patients: Iterable[str], types: Iterable[str]) -> tuple[str, ...]:
    tag = _tag(ehr)
    return (*(f"{tag}g:p:{quote(one, safe='')}" for one in sorted(set(patients))), *(f"{tag}g:t:{one}" for one in sorted(set(types))))


def widened(name: str) -> str:
    """The generation that stands for this one and all others of its EHR."""
    return f"{name[: name.index('}:') + 2]}g:all"
