"""Where the files that ship beside the code are: `profiles/` in a checkout, `gateway/profiles/` in an installed wheel."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

from gateway.fhir.capability import Claim
from gateway.fhir.tables import Tables, make

_HERE = Path(__file__).resolve().parent


def profiles() -> Path:
    """The folder `profiles`."""
    installed = _HERE / "profiles"
    return installed if installed.is_dir() else _HERE.parent / "profiles"


@cache
def us_core(version: str) -> Claim:
    """What an EHR claims whose data conform to this version of US Core."""
    found = json.loads((profiles() / "fhir" / "us-core.json").read_text("utf-8"))
    listed = found["versions"][version]
    supported = {name: tuple(f"{found['profile_base']}{one}{listed['suffix']}" for one in names) for name, names in listed["types"].items()}
    return Claim((found["capability_statement"],), supported)


@cache
def tables() -> Tables:
    """The rule tables of profiles/fhir, read once."""
    return make({path.name: json.loads(path.read_text("utf-8")) for path in sorted((profiles() / "fhir").glob("*.json"))})
