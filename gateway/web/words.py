"""Scopes in words that a patient understands, for the consent page and the list of connected apps. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime

from gateway.fhir.words import type_words
from gateway.smart.scopes import Scope, parse_scope

CONTEXT: Mapping[str, str] = {
    "openid": "Know that you signed in, and with which account",
    "fhirUser": "Know who you are at your clinic",
    "profile": "Know who you are at your clinic",
    "launch": "Know which patient was open when it was started",
    "launch/patient": "Know whose record you chose here",
    "offline_access": "Keep this access when you are not using the app",
    "online_access": "Keep this access until you sign out here",
}

_WHOSE = {"patient": "", "user": ", of everyone whose record you may open"}


def day_words(at: datetime) -> str:
    """A day as people write it: 5 March 2027."""
    return f"{at.day} {at:%B %Y}"


def scope_words(text: str) -> str:
    """One scope as a short phrase: "See and change appointments"."""
    scope = parse_scope(text)
    if scope is None:
        return CONTEXT.get(text, text)
    words = f"{_doing(scope)} {type_words(scope.type)}"
    return words + _WHOSE.get(scope.level, "")


def grant_words(scopes: Iterable[str]) -> list[str]:
    """What a grant lets an app do with records, one phrase for each clinical scope."""
    found = [scope for text in scopes if (scope := parse_scope(text)) is not None]
    return [scope_words(str(scope)) + (f": only {condition_words(scope)}" if scope.query else "") for scope in found]


def condition_words(scope: Scope) -> str:
    """What a granular scope is limited to, as far as it can be said: "vital signs"."""
    return ", ".join(value.rpartition("|")[2].replace("-", " ") for _, value in scope.query)


def _doing(scope: Scope) -> str:
    doing = ["see"] if set("rs") & set(scope.letters) else []
    doing += [word for letter, word in (("c", "add"), ("u", "change"), ("d", "delete")) if letter in scope.letters]
    text = " and ".join(part for part in (", ".join(doing[:-1]), doing[-1]) if part)
    return text[:1].upper() + text[1:]
