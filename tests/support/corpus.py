"""Where the published examples are: the folder that GATEWAY_TEST_CORPUS names. A folder that is missing is an error, never a skip."""

from __future__ import annotations

import json
import os
from pathlib import Path


def files(folder: str, pattern: str = "*.json") -> list[Path]:
    """The files of one folder of the corpus, in order."""
    found = sorted(Path(os.environ["GATEWAY_TEST_CORPUS"], folder).glob(pattern))
    assert found, f"nothing in {folder}"
    return found


def valid_resources() -> list[Path]:
    """Every published R4 and US Core example, the validator's valid cases that are resources, and the Synthea bundles."""
    return [*examples(), *files("fhir/synthea-bundles")]


def examples() -> list[Path]:
    """Every published R4 and US Core example, and the validator's valid cases that are resources."""
    expected = json.loads(Path(os.environ["GATEWAY_TEST_CORPUS"], "fhir/validator-cases.expected.json").read_text("utf-8"))
    valid = {name.replace("/", "__") for name, row in expected.items() if row["java_errors"] == 0}
    cases = [path for path in files("fhir/validator-cases") if path.name in valid]
    return [*files("fhir/r4-examples"), *files("fhir/us-core"), *cases]
