"""What an EHR may say about a launch besides patient and encounter (SMART 2.2 "Launch context arrives with your access_token"). Pure.

It is opaque to the gateway: it opens nothing, for what an app reads is judged by its token's scopes and patient all the same. So an id that is
wrong here is an id that cannot be read, and no look at the EHR is needed to hand it on.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, cast

from gateway.fhir.names import RESOURCE_TYPES
from gateway.fhir.references import split
from gateway.smart.addresses import is_web

_MEMBERS = frozenset({"reference", "canonical", "identifier", "type", "role"})
_IDENTIFIER = frozenset({"use", "type", "system", "value", "period", "assigner", "extension", "id"})
_NAMING = ("reference", "canonical", "identifier")
_APART = ("Patient", "Encounter")
_ABSOLUTE = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:[!-~]+", re.ASCII)
_MOST = 20  # items
_LONGEST = 8000  # characters of all of them as JSON


def problem_of_items(items: Any) -> str:
    """What is wrong with a `fhirContext`, or ""."""
    if not isinstance(items, Sequence) or isinstance(items, str) or not all(isinstance(one, dict) for one in cast("Sequence[Any]", items)):
        return "It is a list of objects."
    found = cast("Sequence[dict[str, Any]]", items)
    if len(found) > _MOST or not 0 < len(_json(found)) <= _LONGEST:
        return f"It has {_MOST} items at most, {_LONGEST} characters in all, and is JSON."
    return next((problem for one in found if (problem := _problem(one))), "")


def problem_of_text(text: str) -> str:
    """What is wrong with an `intent` or a `tenant`, or ""."""
    return "" if text.isprintable() and len(text) <= 255 and text == text.strip() else "It has 255 visible characters at most."


def problem_of_style(url: str) -> str:
    """What is wrong with a `smart_style_url`, or "": apps fetch it, without credentials."""
    if not url or (len(url) <= 2000 and is_web(url)):
        return ""
    return "It is an https URL without user name or fragment."


def _json(items: Sequence[Any]) -> str:
    """As a token response would have it; "" for what none can have."""
    try:
        return json.dumps(list(items), allow_nan=False)
    except (TypeError, ValueError):
        return ""


def _problem(item: Mapping[str, Any]) -> str:
    if item.keys() - _MEMBERS:
        return f"Members offered: {', '.join(sorted(_MEMBERS))}."
    named = [name for name in _NAMING if name in item]
    if not named:
        return "Each item has reference, canonical or identifier."
    if any(not isinstance(value, str) or not value.strip() for name, value in item.items() if name != "identifier"):
        return "Each member but identifier is a text that is not empty."
    if item.get("type", "Patient") not in RESOURCE_TYPES:
        return "type is a FHIR resource type."
    return next((problem for name in named if (problem := _CHECKS[name](item))), "") or _role_problem(item)


def _reference_problem(item: Mapping[str, Any]) -> str:
    found = split(item["reference"])
    if found is None or found[0]:
        return "reference is relative, as in ImagingStudy/123."
    return "type says otherwise than reference." if item.get("type", found[1]) != found[1] else ""


def _canonical_problem(item: Mapping[str, Any]) -> str:
    url, _, version = item["canonical"].partition("|")
    fine = is_web(url.partition("#")[0], http=True) and not any(letter.isspace() for letter in item["canonical"])
    return "" if fine and (version or "|" not in item["canonical"]) else "canonical is an absolute URL, with |version where there is one."


def _identifier_problem(item: Mapping[str, Any]) -> str:
    identifier = item["identifier"]
    if not isinstance(identifier, dict) or cast("dict[str, Any]", identifier).keys() - _IDENTIFIER:
        return "identifier is an Identifier."
    found = cast("dict[str, Any]", identifier)
    texts = [found[name] for name in ("system", "value") if name in found]
    return "" if texts and all(isinstance(text, str) and text.strip() for text in texts) else "identifier has a system or a value, as texts."


def _role_problem(item: Mapping[str, Any]) -> str:
    """HL7@177, 188: Patient and Encounter have members of their own, and are here only in another role than "launch", which is also that of none."""
    role: str = item.get("role", "launch")
    if role != "launch":
        return "" if _ABSOLUTE.fullmatch(role) else "role is launch or an absolute URI."
    literal = split(item.get("reference", ""))
    kind = literal[1] if literal else item.get("type", "")
    return f"{kind} is given by itself, and not with role launch." if kind in _APART else ""


_CHECKS = {"reference": _reference_problem, "canonical": _canonical_problem, "identifier": _identifier_problem}
