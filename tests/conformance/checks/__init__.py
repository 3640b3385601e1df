"""The checks, one module for each chapter, in the order in which they are run."""

from __future__ import annotations

from tests.conformance.check import Check
from tests.conformance.checks import (
    backend,
    brands,
    capability,
    clients,
    discovery,
    ehr_launch,
    granular,
    introspection,
    limited,
    negative,
    openid,
    refresh,
    revocation,
    scopes,
    standalone,
    tls,
)

GROUPS = {
    module.GROUP.name: module.GROUP.checks
    for module in (
        discovery,
        standalone,
        openid,
        refresh,
        ehr_launch,
        limited,
        clients,
        negative,
        scopes,
        granular,
        introspection,
        backend,
        brands,
        capability,
        tls,
        revocation,  # last: it ends the launches of the others
    )
}
CHECKS: tuple[Check, ...] = tuple(check for checks in GROUPS.values() for check in checks)
