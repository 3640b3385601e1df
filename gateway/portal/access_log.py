"""F45: who looked at my record. The gateway's AuditEvents about this patient, through the pipeline like everything else."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from gateway.fhir.interaction import Param
from gateway.portal import words
from gateway.portal.chart import Ask, Chart, Standing
from gateway.portal.features import CLIENT_ID, CLIENT_NAME, type_in_words
from gateway.portal.words import Resource, many, pick, reference, text

REFUSED = "4"
FAILED = ("8", "12")

_DID: dict[str, tuple[str, str]] = {  # what was done, and what was tried when it was refused or failed
    "read": ("Looked at", "Tried to look at"),
    "vread": ("Looked at an older version of", "Tried to look at an older version of"),
    "search-type": ("Looked at the list of", "Tried to look at the list of"),
    "create": ("Added to", "Tried to add to"),
    "update": ("Changed", "Tried to change"),
    "delete": ("Deleted", "Tried to delete"),
    "transaction": ("Sent several changes to your record", "Tried to send several changes to your record"),
    "batch": ("Sent several changes to your record", "Tried to send several changes to your record"),
    "push": ("Sent new data to your record", "Tried to send new data to your record"),
    "login": ("Signed in", "Tried to sign in"),
    "logout": ("Signed out", "Tried to sign out"),
    "grant": ("Allowed an app to use your record", "Tried to allow an app to use your record"),
    "revoke": ("Took an app's access away", "Tried to take an app's access away"),
    "token": ("Renewed an app's access", "Tried to renew an app's access"),
    "launch": ("Opened an app with your record", "Tried to open an app with your record"),
}
_OF_A_KIND = frozenset({"read", "vread", "search-type", "create", "update", "delete"})


@dataclass(frozen=True, slots=True)
class Access:
    """One access, or several alike on one day: `times` newest first."""

    who: str
    what: str
    app: str
    day: str
    times: tuple[str, ...]
    yours: bool
    result: str = ""  # "Refused" or "Failed"
    address: str = ""


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
    return AccessLog(_days([_access(event, chart, names) for event in events]), standing)


def _days(accesses: Sequence[Access]) -> tuple[Day, ...]:
    days: dict[str, dict[Access, list[str]]] = {}
    for item in accesses:
        alike = replace(item, times=())
        days.setdefault(item.day, {}).setdefault(alike, []).extend(item.times)
    return tuple(Day(title, tuple(replace(item, times=tuple(times)) for item, times in items.items())) for title, items in days.items())


def _access(event: Resource, chart: Chart, names: Mapping[str, str]) -> Access:
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
    recorded = text(event, "recorded")
    return Access(
        who,
        _what(event),
        "This site" if here else app if app != who else "",
        words.day(recorded, chart.zone),
        (words.clock(recorded, chart.zone),),
        own and here,
        _result(event),
        text(agent, "network", "address"),
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


def _what(event: Resource) -> str:
    """`Looked at the list of test results and measurements`."""
    action = text(event, "subtype", "code")
    done, tried = _DID.get(action, ("Used your record", "Tried to use your record"))
    verb = tried if _result(event) else done
    return f"{verb} {_kind(event)}" if action in _OF_A_KIND else verb


def _kind(event: Resource) -> str:
    """The type that was opened, in words: from the resource that is named, else from the search."""
    for entity in many(event, "entity"):
        kind = reference(entity.get("what")).partition("/")[0] or text(entity, "what", "type") or _searched(text(entity, "query"))
        if kind and kind != "Patient":
            return type_in_words(kind) if kind == "AuditEvent" else f"your {type_in_words(kind)}"
    return f"your {type_in_words('Patient')}"


def _searched(query: str) -> str:
    """The type of `Observation?patient=p1`, from its base64."""
    try:
        plain = base64.b64decode(query, validate=True).decode()
    except (binascii.Error, UnicodeDecodeError):
        return ""
    kind = plain.partition("?")[0].rpartition("/")[2]
    return kind if kind.isalpha() and kind[:1].isupper() else ""
