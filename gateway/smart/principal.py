"""Who calls. A Principal is made from a token (or by the portal for the signed-in person) and never changes."""

from __future__ import annotations

import json
from dataclasses import dataclass
from enum import StrEnum

from gateway.smart.scopes import Scope


class PrincipalKind(StrEnum):
    """Each kind has its own rows in the writes table (profiles/fhir/writes.json)."""

    PATIENT = "patient"  # a person, or an app she authorized, on her own record (or one she may see)
    USER = "user"  # a practitioner, or an app that one authorized
    SYSTEM = "system"  # a backend client


@dataclass(frozen=True, slots=True)
class Push:
    """How a system sender was registered. Exactly one of the two: deliver to a named EHR, or be the EHR of record and notify."""

    mode: str  # "deliver" | "notify"
    ehr: str = ""  # where deliveries go ("" for notify)
    source_ehr: str = ""  # the EHR that this sender is the record of, if it is one of ours: it never delivers into itself


@dataclass(frozen=True, slots=True)
class Principal:
    """Kind, EHR, patient in context, fhirUser, client and scopes."""

    kind: PrincipalKind
    ehr: str
    client_id: str
    scopes: tuple[Scope, ...]
    client_name: str = ""
    patient: str = ""  # id of the patient in context, without "Patient/"
    fhir_user: str = ""  # "Patient/p1" | "Practitioner/7" | ...
    user_id: str = ""  # the gateway's account
    listed: frozenset[str] = frozenset()  # patients listed for this user
    grant_id: str = ""  # what a revocation takes away
    push: Push | None = None
    may_launch: bool = False  # a system that may start apps (scope gateway.launch)
    trial: str = ""  # the label of the launcher's trial in which the token was had
    fault: str = ""  # what goes wrong in it

    @property
    def subject(self) -> str:
        """The canonical name of this caller to which page links and status URLs are bound."""
        return json.dumps([self.ehr, self.kind, self.client_id, self.user_id, self.patient])
