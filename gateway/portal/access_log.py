"""F45: who looked at my record. The gateway's AuditEvents about this patient, through the pipeline like everything else."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from gateway.fhir.interaction import Param
from gateway.fhir.words import type_words
from gateway.portal import words
from gateway.portal.chart import Ask, Chart, Standing
from gateway.portal.features import CLIENT_ID, CLIENT_NAME
from gateway.portal.words import Resource, many, pick, reference, text

FEW = 4
"""Kinds of data that the one line of a day names; each time names its own."""
REFUSED = "4"
FAILED = ("8", "12")

_LOOKS = frozenset({"read", "vread", "search-type", "history-instance"})
_OF_A_KIND = frozenset({"create", "update", "patch", "delete"})
_DID: dict[str, tuple[str, str]] = {  # what was done, and what was tried when it was refused or failed
    "look": ("Looked at", "Tried to look at"),
    "create": ("Added to", "Tried to add to"),
    "update": ("Changed", "Tried to change"),
    "patch": ("Changed", "Tried to change"),
    "delete": ("Deleted from", "Tried to delete from"),
    "transaction": ("Sent several changes to the record", "Tried to send several changes to the record"),
    "batch": ("Sent several changes to the record", "Tried to send several changes to the record"),
    "push": ("Sent new data to the record", "Tried to send new data to the record"),
    "login": ("Signed in", "Tried to sign in"),
    "logout": ("Signed out", "Tried to sign out"),
    "grant": ("Allowed an app to use the record", "Tried to allow an app to use the record"),
    "grant-as-before": ("Let an app use the record again, as allowed before", "Tried to let an app use the record again"),
    "consent-remember": ("Chose not to be asked by an app again", "Tried to choose not to be asked by an app again"),
    "consent-forget": ("Chose to be asked by an app again", "Tried to choose to be asked by an app again"),
    "grant-refused": ("Did not allow an app to use the record", "Did not allow an app to use the record"),
    "revoke": ("Took an app's access away", "Tried to take an app's access away"),
    "token": ("Got access for an app", "Tried to get access for an app"),
    "upstream-connect": ("Let this site in at the clinic's record system", "Tried to let this site in at the clinic's record system"),
    "upstream-disconnect": ("Took this site's access at the clinic away", "Tried to take this site's access at the clinic away"),
    "upstream-end": ("The clinic's record system ended this site's access", "The clinic's record system ended this site's access"),
    "introspect": ("Asked what an app may see of the record", "Tried to ask what an app may see of the record"),
    "launch": ("Opened an app with the record", "Tried to open an app with the record"),
}


@dataclass(frozen=True, slots=True)
class Deed:
    """One event. Those of a day that are equal but for `time` and `kind` are one Access."""

    who: str
    action: str  # "look" for every way to look
    kind: str  # the data, in words
    app: str
    day: str
    time: str
    yours: bool
    result: str  # "Refused", "Failed" or ""

    @property
    def sort(self) -> tuple[str, ...]:
        """Looks of a day are one, whatever was looked at; other deeds stay apart by what they were about."""
        return (self.who, self.action, "" if self.action == "look" else self.kind, self.app, self.result)


@dataclass(frozen=True, slots=True)
class Access:
    """What one person did through one app on one day. `times`: each time with what it was about, newest first."""

    who: str
    what: str
    app: str
    times: tuple[str, ...]
    yours: bool
    result: str = ""

    @property
    def last(self) -> str:
        """When it was done last."""
        return self.times[0].partition(": ")[0]


@dataclass(frozen=True, slots=True)
class Day:
    """What happened on one day, newest first."""

    title: str
    accesses: tuple[Access, ...]


@dataclass(frozen=True, slots=True)
class AccessLog:
    """Days, newest first."""

    days: tuple[Day, ...]
    standing: Standing

    def of_others(self) -> AccessLog:
        """Without what she did herself on these pages."""
        kept = ((day, tuple(item for item in day.accesses if not item.yours)) for day in self.days)
        return replace(self, days=tuple(replace(day, accesses=items) for day, items in kept if items))


async def listing(chart: Chart) -> AccessLog:
    """All accesses, alike ones of a day taken together."""
    (found,), standing = await chart.gather(Ask("the record of accesses", "AuditEvent", (Param("_sort", "", "-date"),)))
    events = sorted(found.resources, key=lambda event: words.sort_key(text(event, "recorded")), reverse=True)
    names = await chart.names([agent.get("who") for event in events for agent in many(event, "agent")])
    return AccessLog(_days([_deed(event, chart, names) for event in events]), standing)


def _days(deeds: Sequence[Deed]) -> tuple[Day, ...]:
    days: dict[str, dict[tuple[str, ...], list[Deed]]] = {}
    for deed in deeds:
        days.setdefault(deed.day, {}).setdefault(deed.sort, []).append(deed)
    return tuple(Day(title, tuple(_together(alike) for alike in sorts.values())) for title, sorts in days.items())


def _together(deeds: Sequence[Deed]) -> Access:
    first = deeds[0]
    done, tried = _DID.get(first.action, ("Used the record", "Tried to use the record"))
    kinds = list(dict.fromkeys(deed.kind for deed in deeds if deed.kind))
    if len(kinds) > FEW + 1:
        kinds = [*kinds[:FEW], f"{len(kinds) - FEW} more kinds of data"]
    listed = " and ".join(part for part in (", ".join(kinds[:-1]), kinds[-1]) if part) if kinds else ""
    what = f"{tried if first.result else done} {listed}".strip()
    times = tuple(f"{deed.time}: {deed.kind}" if deed.kind else deed.time for deed in deeds)
    return Access(first.who, what, first.app, times, first.yours, first.result)


def _deed(event: Resource, chart: Chart, names: Mapping[str, str]) -> Deed:
    agents = many(event, "agent")
    agent = next((item for item in agents if item.get("requestor") is True), agents[0] if agents else None)
    target = reference(pick(agent, "who"))
    own = target != "" and target in (chart.author, chart.patient)
    app = text(agent, "name") or text(agent, "who", "identifier", "value")
    here = app in (CLIENT_ID, CLIENT_NAME)
    if own:
        who = "You" if target == chart.author else "The patient"
    else:
        who = text(agent, "who", "display") or names.get(target, "") or _unnamed(target, app)
    recorded, code = text(event, "recorded"), text(event, "subtype", "code")
    return Deed(
        who,
        "look" if code in _LOOKS else code,
        _kind(event) if code in _LOOKS | _OF_A_KIND else "",
        "This site" if here else app if app != who else "",
        words.day(recorded, chart.zone),
        words.clock(recorded, chart.zone),
        own and here,
        _result(event),
    )


def _unnamed(target: str, app: str) -> str:
    kinds = {
        "Practitioner": "A member of staff",
        "PractitionerRole": "A member of staff",
        "RelatedPerson": "A family member or carer",
        "Patient": "Another person",
    }
    return kinds.get(target.partition("/")[0], "") or app or "Not known"


def _result(event: Resource) -> str:
    outcome = text(event, "outcome")
    return "Refused" if outcome == REFUSED else "Failed" if outcome in FAILED else ""


def _kind(event: Resource) -> str:
    """The data that it was about, in words: from the resource that is named, else from the search."""
    for entity in many(event, "entity"):
        kind = reference(entity.get("what")).partition("/")[0] or text(entity, "what", "type") or _searched(text(entity, "query"))
        if kind and kind != "Patient":
            return type_words(kind)
    return type_words("Patient")


def _searched(query: str) -> str:
    """The type of `Observation?patient=p1`, from its base64."""
    try:
        plain = base64.b64decode(query, validate=True).decode()
    except (binascii.Error, UnicodeDecodeError):
        return ""
    kind = plain.partition("?")[0].rpartition("/")[2]
    return kind if kind.isalpha() and kind[:1].isupper() else ""
