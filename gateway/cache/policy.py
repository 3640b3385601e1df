"""How long an answer may be given again, by resource type. Pure.

A write through the gateway and a push renew generations at once, whatever stands here: these lives only bound how long a change made at the EHR
itself, which nobody told us about, can stay unseen. Never kept: errors (any status but 200), and anything but reads and searches.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType

from gateway.errors import ConfigError
from gateway.fhir.interaction import Kind

LONGEST = 86400.0
"""A day. A longer life would outlast the generations, and nobody would call it fresh."""

KEPT = frozenset({Kind.READ, Kind.VREAD, Kind.SEARCH})
"""A version never changes, but whether the caller may still see it does: a vread lives no longer than a read."""


@dataclass(frozen=True, slots=True)
class Life:
    """Seconds, 0 for never kept, and why."""

    seconds: float
    reason: str


_NEVER_STALE = "decides what may be done next; a stale answer would be acted upon"
_MOVES_DAILY = "new results arrive through the day; most are pushed, the rest may be a minute late"
_SAFETY = "read for safety at the point of care: half a minute at most"
_SHARED = "reference data that everyone's answers include; an EHR changes it a few times a week"
_RECORD = "written once and seldom amended"
_MONEY = "adjudicated overnight; nobody acts on it within minutes"

DEFAULT = Life(30, "a type without a line of its own: short enough for a page that is looked at twice")

BY_TYPE: Mapping[str, Life] = MappingProxyType(
    {
        "AllergyIntolerance": Life(30, _SAFETY),
        "Appointment": Life(15, "booked, moved and cancelled by others while the patient looks"),
        "AuditEvent": Life(0, "the record of accesses is read from the store, to the last one"),
        "Binary": Life(300, _RECORD),
        "CarePlan": Life(60, _MOVES_DAILY),
        "CareTeam": Life(300, _RECORD),
        "Claim": Life(300, _MONEY),
        "Communication": Life(15, "a conversation: the other side may just have answered"),
        "Condition": Life(60, _MOVES_DAILY),
        "Consent": Life(0, _NEVER_STALE),
        "Coverage": Life(300, _MONEY),
        "DiagnosticReport": Life(60, _MOVES_DAILY),
        "DocumentReference": Life(60, _MOVES_DAILY),
        "Encounter": Life(60, _MOVES_DAILY),
        "ExplanationOfBenefit": Life(300, _MONEY),
        "Immunization": Life(300, _RECORD),
        "Invoice": Life(60, "paid at a counter, then looked up at home"),
        "Location": Life(3600, _SHARED),
        "Medication": Life(3600, _SHARED),
        "MedicationRequest": Life(30, _SAFETY),
        "Observation": Life(60, _MOVES_DAILY),
        "Organization": Life(3600, _SHARED),
        "Patient": Life(60, "addresses and contacts are corrected at the desk while the patient waits"),
        "Practitioner": Life(3600, _SHARED),
        "PractitionerRole": Life(3600, _SHARED),
        "Procedure": Life(300, _RECORD),
        "RelatedPerson": Life(60, "says who may act for a patient"),
        "Schedule": Life(60, "opening hours change slowly, but Slots hang on them"),
        "Slot": Life(0, _NEVER_STALE),
        "Task": Life(15, "the state of a request that the patient waits for"),
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
            own[type_] = Life(float(life), f"set in {where or 'the configuration'}")
        default = own.pop("*", self.default)
        return replace(self, by_type=MappingProxyType({**self.by_type, **own}), default=default)

    def of(self, type_: str) -> Life:
        """The life of a type, with its reason."""
        return self.by_type.get(type_, self.default)


def life_for(kind: Kind, type_: str, lives: Lives) -> float:
    """Seconds that an answer to this interaction may be given again; 0: it is not kept."""
    return lives.of(type_).seconds if kind in KEPT else 0.0


def life_of_answer(kind: Kind, types: Iterable[str], status: int, lives: Lives) -> float:
    """As `life_for`, for an answer that is there: only 200 is kept, and only as long as the shortest-lived type in it (includes)."""
    return min((life_for(kind, type_, lives) for type_ in types), default=0.0) if status == 200 else 0.0
