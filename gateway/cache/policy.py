"""What may be kept, how long it is fresh, and what is done with it then. Pure: values in, states out; `proxy.kept` is the driver.

The states of one read, each a value with what is said of it (after RFC 9111, as hishel writes it down):

    judge ──> Fresh                                         answered from what is kept
          └─> Fetch(why, etag, usable) ──> the EHR is asked, with If-None-Match where an instance is kept
                 ├─ 200, 304 ──> keeping ──> Keep(life, hold)  or  Leave(reason)
                 └─ an error ──> failed ──> Stale              the EHR failed, and what is kept may still be given
                                        └─> Refuse(evict)      the error is the answer; evict: what is kept is not true any more

A write through the gateway and a push renew generations at once, whatever stands here: these lives only bound how long a change made at the EHR
itself, which nobody told us about, can stay unseen. Never kept: errors (any status but 200), and anything but reads and searches.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType

from gateway.errors import ConfigError, FhirError
from gateway.fhir.interaction import Kind

LONGEST = 86400.0
"""A day. A longer life would outlast the generations, and nobody would call it fresh."""

KEPT = frozenset({Kind.READ, Kind.VREAD, Kind.SEARCH})
"""A version never changes, but whether the caller may still see it does: a vread lives no longer than a read."""

STALE = 300.0
"""Seconds beyond its life that an answer is given while the EHR fails, unless the operator says otherwise. Five minutes outlast the restart of an
EHR or of what is on the way to it. In a longer outage it is better to see that the record is away than to act on what may have changed since."""

SKEW = 60.0
"""Seconds that the clock of the process that kept an answer may be ahead of ours; what claims more is not believed."""


@dataclass(frozen=True, slots=True)
class Life:
    """Seconds, 0 for never kept, and why. `stale`: whether it may be given beyond them while the EHR fails."""

    seconds: float
    reason: str
    stale: bool = True


_NEVER_STALE = "decides what may be done next; a stale answer would be acted upon"
_MOVES_DAILY = "new results arrive through the day; most are pushed, the rest may be a minute late"
_SAFETY = "read for safety at the point of care: half a minute at most, whatever happens"
_SHARED = "reference data that everyone's answers include; an EHR changes it a few times a week"
_RECORD = "written once and seldom amended"
_TERMS = "terminology changes with a release, a few times a year"
_OFFERED = "what is offered to everybody changes with the seasons; an hour is soon enough"
_MONEY = "adjudicated overnight; nobody acts on it within minutes"

DEFAULT = Life(30, "a type without a line of its own: short enough for a page that is looked at twice")

BY_TYPE: Mapping[str, Life] = MappingProxyType(
    {
        "AllergyIntolerance": Life(30, _SAFETY, stale=False),
        "Appointment": Life(15, "booked, moved and cancelled by others while the patient looks"),
        "AuditEvent": Life(0, "the record of accesses is read from the store, to the last one"),
        "Binary": Life(300, _RECORD),
        "CarePlan": Life(60, _MOVES_DAILY),
        "CareTeam": Life(300, _RECORD),
        "Claim": Life(300, _MONEY),
        "CodeSystem": Life(LONGEST, _TERMS),
        "Communication": Life(15, "a conversation: the other side may just have answered"),
        "ConceptMap": Life(LONGEST, _TERMS),
        "Condition": Life(60, _MOVES_DAILY),
        "Consent": Life(0, _NEVER_STALE),
        "Coverage": Life(300, _MONEY),
        "DiagnosticReport": Life(60, _MOVES_DAILY),
        "DocumentReference": Life(60, _MOVES_DAILY),
        "Encounter": Life(60, _MOVES_DAILY),
        "ExplanationOfBenefit": Life(300, _MONEY),
        "HealthcareService": Life(3600, _OFFERED),
        "Immunization": Life(300, _RECORD),
        "Invoice": Life(60, "paid at a counter, then looked up at home"),
        "Location": Life(3600, _SHARED),
        "Medication": Life(3600, _SHARED),
        "MedicationRequest": Life(30, _SAFETY, stale=False),
        "Observation": Life(60, _MOVES_DAILY),
        "Organization": Life(3600, _SHARED),
        "Patient": Life(60, "addresses and contacts are corrected at the desk while the patient waits"),
        "Practitioner": Life(3600, _SHARED),
        "PractitionerRole": Life(3600, _SHARED),
        "Procedure": Life(300, _RECORD),
        "Questionnaire": Life(3600, _OFFERED),
        "RelatedPerson": Life(60, "says who may act for a patient", stale=False),
        "Schedule": Life(60, "opening hours change slowly, but Slots hang on them"),
        "Slot": Life(0, _NEVER_STALE),
        "Task": Life(15, "the state of a request that the patient waits for"),
        "ValueSet": Life(LONGEST, _TERMS),
    }
)


@dataclass(frozen=True, slots=True)
class Lives:
    """The lives at one EHR."""

    by_type: Mapping[str, Life] = field(default_factory=lambda: BY_TYPE)
    default: Life = DEFAULT

    def overridden(self, seconds: Mapping[str, float], *, where: str = "") -> Lives:
        """With an EHR's own lives (`{"Observation": 5, "*": 0}`; "*" is the default). Raises ConfigError for what is not 0 to a day."""
        own: dict[str, Life] = {}
        for type_, life in seconds.items():
            if not 0 <= life <= LONGEST:
                raise ConfigError(f"The cache life of {type_} is not between 0 and 86400 seconds.", where=where, fix=f"{type_} = 60")
            own[type_] = Life(float(life), f"set in {where or 'the configuration'}", stale=self.of(type_).stale)
        default = own.pop("*", self.default)
        return replace(self, by_type=MappingProxyType({**self.by_type, **own}), default=default)

    def of(self, type_: str) -> Life:
        """The life of a type, with its reason."""
        return self.by_type.get(type_, self.default)


# What a caller wants ---------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Wish:
    """What a caller's Cache-Control says (RFC 9111 section 5.2.1). `max_age` in seconds: nothing older.

    `fresh` (no-cache): nothing that the EHR was not asked about now. `store` False (no-store): nothing kept is given, and nothing is kept.
    """

    fresh: bool = False
    store: bool = True
    max_age: float = math.inf

    @property
    def takes_stale(self) -> bool:
        """Whether an answer beyond its life is better than none: to a caller who says how fresh it has to be, it is not."""
        return self.store and not self.fresh and self.max_age == math.inf


ANY, FRESH = Wish(), Wish(fresh=True)
"""Of a caller who says nothing; and of one who wants the EHR's own answer."""


def wish_of(values: Sequence[str]) -> Wish:
    """The wish in the values of Cache-Control headers. What is not understood asks for nothing; a max-age that is none, for a fresh answer."""
    found = dict(_DIRECTIVE.findall(",".join(values).lower()))
    age = found.get("max-age")
    limit = math.inf if age is None else float(age[:9]) if age.isascii() and age.isdecimal() else 0.0
    return Wish(fresh="no-cache" in found, store="no-store" not in found, max_age=limit)


_DIRECTIVE = re.compile(r"(?:^|,)\s*([a-z-]+)(?:\s*=\s*\"?([^\",]*)\"?)?\s*(?=,|$)")


# What may be kept ------------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Keep:
    """Kept: fresh for `life` seconds, given for `stale` seconds more while the EHR fails, and held for `hold` seconds in all.

    `hold` is longer where an instance can be revalidated: asking "is it still this one?" costs the EHR less than giving it again.
    """

    life: float
    stale: float
    hold: float


@dataclass(frozen=True, slots=True)
class Leave:
    """Not kept, and why: `interaction`, `asked` (no-store), or `type:X`, whose life is 0."""

    reason: str


def keeping(kind: Kind, types: Iterable[str], lives: Lives, *, wish: Wish = ANY, etag: str = "", stale: float = STALE) -> Keep | Leave:
    """Whether an answer (a 200, or what a 304 confirmed) is kept: as long as the shortest-lived type in it, includes and all."""
    if kind not in KEPT:
        return Leave("interaction")
    if not wish.store:
        return Leave("asked")
    found = {type_: lives.of(type_) for type_ in types}
    for type_, life in found.items():
        if life.seconds <= 0:
            return Leave(f"type:{type_}")
    if not found:
        return Leave("interaction")
    shortest = min(life.seconds for life in found.values())
    beyond = stale if all(life.stale for life in found.values()) else 0.0
    again = shortest if etag and kind is Kind.READ else 0.0
    return Keep(shortest, beyond, min(shortest + max(beyond, again), LONGEST))


# What is done with what is kept ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Stamp:
    """What is known of a kept answer: when the EHR gave it (epoch seconds), as `Keep` said, and its ETag where it is one instance."""

    at: float
    life: float
    stale: float = 0.0
    etag: str = ""


@dataclass(frozen=True, slots=True)
class Fresh:
    """Given from what is kept. `age` and `ttl` in whole seconds."""

    age: int
    ttl: int


@dataclass(frozen=True, slots=True)
class Stale:
    """Given from what is kept, beyond its life, because the EHR failed. `ttl` is negative (RFC 9211 section 2.6)."""

    age: int
    ttl: int


@dataclass(frozen=True, slots=True)
class Fetch:
    """The EHR is asked. `why`: absent, expired, asked (the caller wants it fresh), around (the cache cannot be trusted now), implausible.

    `etag`: "" or the instance that is kept, for If-None-Match. `usable`: until when (epoch seconds) it may be given should the EHR fail; 0: not.
    """

    why: str
    etag: str = ""
    usable: float = 0.0


@dataclass(frozen=True, slots=True)
class Refuse:
    """The EHR's error is the answer. `evict`: it says that what is kept is not, or not any more, this caller's."""

    evict: bool


def judge(stamp: Stamp | None, wish: Wish, now: float) -> Fresh | Fetch:
    """What to do with a kept answer, None for none, that is under the current generations and within the caller's rights."""
    if stamp is None:
        return Fetch("absent")
    if stamp.at > now + SKEW:
        return Fetch("implausible")
    age = max(0.0, now - stamp.at)
    if wish.fresh:
        return Fetch("asked", stamp.etag)
    if age < min(stamp.life, wish.max_age):
        return Fresh(int(age), int(stamp.life - age))
    usable = stamp.at + stamp.life + stamp.stale if wish.takes_stale and stamp.stale > 0 else 0.0
    return Fetch("expired" if age >= stamp.life else "asked", stamp.etag, usable)


def failed(wanted: Fetch, stamp: Stamp | None, error: FhirError, now: float) -> Stale | Refuse:
    """What is answered when the EHR was asked and gave an error instead. Stale answers are for an EHR that fails, never for one that refuses."""
    if is_refusal(error):
        return Refuse(evict=True)
    if stamp is None or now >= wanted.usable or not is_failure(error):
        return Refuse(evict=False)
    return Stale(int(now - stamp.at), -max(1, math.ceil(now - stamp.at - stamp.life)))


_FAILURES = frozenset({"ehr-timeout", "ehr-unreachable", "ehr-broken-answer", "ehr-down", "ehr-500", "ehr-502", "ehr-503", "ehr-504"})
"""Reasons of an EHR that is not able to answer (FAULT-U1 to U4, U7 to U12), the breaker's included. One that lies, cannot show who it is, or gives
what is no FHIR is not among them: that is not to be hidden behind an old answer."""

_REFUSALS = frozenset({"ehr-401", "ehr-credential"})
"""The gateway's own credential was refused (FAULT-U21): what was had with it is not given any more."""


def is_failure(error: FhirError) -> bool:
    """Whether the EHR was not able to answer. A fault that a developer simulates is to be seen."""
    return error.reason in _FAILURES and not error.simulated


def is_refusal(error: FhirError) -> bool:
    """Whether it says that there is nothing (any more) for this caller: 401, 403, 404, 410 (FAULT-U21, U22)."""
    return error.status in (401, 403, 404, 410) or error.reason in _REFUSALS
