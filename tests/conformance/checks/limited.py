"""A6: a person who allows less than the app asked for."""

from __future__ import annotations

from tests.conformance.check import Group, Outcome, verdict
from tests.conformance.checks.standalone import SEARCHES, STATUSES
from tests.conformance.context import Context, Launched
from tests.conformance.launches import ABOUT_PATIENTS, clinical

GROUP = Group("limited")
KEPT = {"Patient", "Condition", "Observation"}


@GROUP.check("A6.43", "g10_limited_scope_grant")
def scopes(at: Context) -> Outcome:
    """The token has the scopes that she left, and none of those that she took away."""
    reached = _reached(at.launch("limited"))
    problems = [f"{name} is missing" for name in sorted(KEPT - reached)]
    return verdict(
        problems + [f"{name} was taken away" for name in sorted(reached & set(ABOUT_PATIENTS) - KEPT)] + ["* was granted"] * ("*" in reached)
    )


@GROUP.check("A6.44", "g10_restricted_access_test")
def access(at: Context) -> Outcome:
    """What she left is answered; what she took away is refused by 401 or 403, not by an empty list."""
    launched, problems = at.launch("limited"), []
    for name, params in {"Patient": {}, **SEARCHES}.items():
        whose = {"_id": launched.patient} if name == "Patient" else {"patient": launched.patient}
        answer = at.search(name, {**whose, **params}, launched.access)
        if answer.status_code == 400 and name in KEPT & STATUSES.keys():
            answer = at.search(name, {**whose, **params, "status": STATUSES[name]}, launched.access)
        if answer.status_code not in ((200,) if name in KEPT else (401, 403)):
            problems.append(f"{name}: {answer.status_code}")
    return verdict(problems)


def _reached(launched: Launched) -> set[str]:
    return {one.type for one in clinical(launched.tokens.get("scope"))}
