"""A patient's encounters, for who is to choose one of them: read from the EHR in the name of the person who is to open the app with it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

from gateway.errors import FhirError, NotFound
from gateway.fhir.interaction import Interaction, Kind, Param
from gateway.fhir.json import parse_trusted
from gateway.fhir.names import is_id
from gateway.portal import words
from gateway.portal.chart import Handler
from gateway.portal.features import CLIENT_ID, CLIENT_NAME, Account
from gateway.portal.words import Resource, concept, many, text
from gateway.proxy.answer import RequestContext
from gateway.smart.principal import Principal, PrincipalKind
from gateway.smart.scopes import Scope

_MOST = 20
_STAFF = ("Practitioner/", "PractitionerRole/")


@dataclass(frozen=True, slots=True)
class Visit:
    """One encounter, and what tells it from another."""

    id: str
    words: str


class Visits:
    """Reads them by the only road to the EHR. What does not come within `patience` seconds is not waited for."""

    def __init__(self, pipeline: Handler, *, patience: float = 5.0) -> None:
        self._pipeline, self._patience = pipeline, patience

    async def of(self, account: Account, ehr: str, patient: str, context: RequestContext) -> Sequence[Visit] | None:
        """The newest, at most 20; None when they cannot be had now. `patient`: an id that the caller has checked to be this person's to see."""
        params = (Param("patient", "", patient), Param("_sort", "", "-date"), Param("_count", "", str(_MOST)))
        try:
            async with asyncio.timeout(self._patience):
                answer = await self._pipeline.handle(_principal(account, ehr, patient), Interaction(Kind.SEARCH, "Encounter", params=params), context)
        except (FhirError, TimeoutError):
            return None
        entries = many(parse_trusted(answer.body), "entry")
        found = [cast("Resource", entry["resource"]) for entry in entries if isinstance(entry.get("resource"), dict)]
        newest = sorted(found, key=lambda one: words.sort_key(text(one, "period", "start")), reverse=True)  # some EHRs do not sort
        return [_visit(one) for one in newest if text(one, "resourceType") == "Encounter"][:_MOST]

    async def has(self, account: Account, ehr: str, patient: str, encounter: str, context: RequestContext) -> bool | None:
        """Whether it is there and is this patient's, as one answer; None when the EHR cannot say now."""
        if not is_id(encounter):
            return False
        try:
            async with asyncio.timeout(self._patience):
                await self._pipeline.handle(_principal(account, ehr, patient), Interaction(Kind.READ, "Encounter", encounter), context)
        except NotFound:
            return False
        except (FhirError, TimeoutError):
            return None
        return True


def _principal(account: Account, ehr: str, patient: str) -> Principal:
    """Her own reach, cut to this patient's encounters: the patient counts as in context, as at the launch that is to follow."""
    return Principal(
        PrincipalKind.USER if account.fhir_user.startswith(_STAFF) else PrincipalKind.PATIENT,
        ehr,
        CLIENT_ID,
        (Scope("patient", "Encounter", "rs"),),
        client_name=CLIENT_NAME,
        patient=patient,
        fhir_user=account.fhir_user,
        user_id=account.id,
        listed=frozenset((patient,)),
    )


def _visit(resource: Resource) -> Visit:
    """Day, what it was for, how it was held, and how far it is."""
    start = text(resource, "period", "start")
    what = concept(resource.get("type")) or concept(resource.get("reasonCode"))
    parts = (words.day(start) if start else "", what, concept(resource.get("class")), text(resource, "status"))
    return Visit(text(resource, "id"), ", ".join(part for part in parts if part))
