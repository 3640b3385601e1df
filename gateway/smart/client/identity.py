"""The `fhirUser` of an id_token of the EHR (A18.87). Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

_FHIR_USER = re.compile(r"(Patient|Practitioner|PractitionerRole|RelatedPerson|Person)/[A-Za-z0-9.-]{1,64}", re.ASCII)


def fhir_user(claims: Mapping[str, Any], base_url: str) -> str:
    """`Patient/a` of the claim: relative, or below the EHR's base. "" for anything else."""
    said = claims.get("fhirUser")
    text = said.removeprefix(f"{base_url}/") if isinstance(said, str) else ""
    return text if _FHIR_USER.fullmatch(text) else ""
