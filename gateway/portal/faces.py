"""Whom a list of patients is about: name, birth date and sex, read from the EHR in the name of the person who is to choose among them."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast

from gateway.errors import FhirError
from gateway.fhir.interaction import Interaction, Kind, Param
from gateway.fhir.json import parse_trusted
from gateway.portal import words
from gateway.portal.chart import Handler
from gateway.portal.features import CLIENT_ID, CLIENT_NAME, Account
from gateway.portal.words import Resource, many, text
from gateway.proxy.answer import RequestContext
from gateway.smart.principal import Principal, PrincipalKind
from gateway.smart.scopes import Scope

_AT_ONCE = 50  # ids of one search: some EHRs take no longer addresses
_SEXES = {"male": "male", "female": "female", "other": "other"}
_STAFF = ("Practitioner/", "PractitionerRole/")


@dataclass(frozen=True, slots=True)
class Face:
    """What tells one patient from another. Each is "" where the EHR does not say."""

    name: str
    born: str  # in words
    sex: str


class Faces:
    """Reads them by the only road to the EHR. What does not come within `patience` seconds is not waited for: names are a help, not a condition."""

    def __init__(self, pipeline: Handler, *, patience: float = 5.0) -> None:
        self._pipeline, self._patience = pipeline, patience

    async def of(self, account: Account, ehr: str, patients: Sequence[str], context: RequestContext) -> Mapping[str, Face]:
        """By id. `patients`: ids that the caller has checked to be this person's to see. Without those that cannot be had now."""
        found: dict[str, Face] = {}
        try:
            async with asyncio.timeout(self._patience):
                for chunk in _chunks(patients):
                    for resource in await self._read(_principal(account, ehr, chunk), chunk, context):
                        found[text(resource, "id")] = _face(resource)
        except (FhirError, TimeoutError):
            return found
        return found

    async def _read(self, principal: Principal, patients: Sequence[str], context: RequestContext) -> list[Resource]:
        params = (Param("_id", "", ",".join(patients)), Param("_count", "", str(_AT_ONCE)))
        answer = await self._pipeline.handle(principal, Interaction(Kind.SEARCH, "Patient", params=params), context)
        entries = many(parse_trusted(answer.body), "entry")
        return [cast("Resource", entry["resource"]) for entry in entries if isinstance(entry.get("resource"), dict)]


def _chunks(patients: Sequence[str]) -> list[Sequence[str]]:
    return [patients[start : start + _AT_ONCE] for start in range(0, len(patients), _AT_ONCE)]


def _principal(account: Account, ehr: str, patients: Sequence[str]) -> Principal:
    """Her own reach, cut to these patients: their demographics and nothing else. One alone counts as in context, as at a launch."""
    return Principal(
        PrincipalKind.USER if account.fhir_user.startswith(_STAFF) else PrincipalKind.PATIENT,
        ehr,
        CLIENT_ID,
        (Scope("user", "Patient", "rs"),),
        client_name=CLIENT_NAME,
        patient=patients[0] if len(patients) == 1 else "",
        fhir_user=account.fhir_user,
        user_id=account.id,
        listed=frozenset(patients),
    )


def _face(resource: Resource) -> Face:
    born = text(resource, "birthDate")
    return Face(words.human_name(resource.get("name")), words.day(born) if born else "", _SEXES.get(text(resource, "gender"), ""))
