"""A4: refresh. Each check is asked of the standalone launch, and of the EHR launch again (A5.42)."""

from __future__ import annotations

import secrets

from tests.conformance.check import Group, Outcome, verdict
from tests.conformance.checks.standalone import all_of, is_json, never_stored, reads_patient, tokens
from tests.conformance.context import Context, Launched, json_of, text
from tests.conformance.launches import scopes_of

GROUP = Group("refresh")


@GROUP.check("A4.30", "smart_token_refresh_stu2 (without scope)")
def without_scope(at: Context, on: str = "standalone") -> Outcome:
    """A refresh token is exchanged for a new access token."""
    return is_json(at.renewed(on))


@GROUP.check("A4.31", "smart_token_refresh_stu2 (with scope)")
def with_scope(at: Context, on: str = "standalone") -> Outcome:
    """So it is when the scopes received before are named."""
    at.renewed(on)
    return is_json(at.renewed(on, with_scope=True))


@GROUP.check("A4.32", "smart_token_refresh_body")
def body(at: Context, on: str = "standalone") -> Outcome:
    """The answer has the members of a token response, and no scope that was not granted before."""
    answers = [json_of(at.renewed(on)), json_of(at.renewed(on, with_scope=True))]
    before = set(scopes_of(at.launch(on).tokens.get("scope")))
    wider = sorted({one for found in answers for one in scopes_of(found.get("scope"))} - before)
    return all_of(*(tokens(found) for found in answers), verdict([f"scope is wider by {' '.join(wider)}"] * bool(wider)))


@GROUP.check("A4.33", "smart_token_refresh_stu2 (headers)")
def headers(at: Context, on: str = "standalone") -> Outcome:
    """No cache keeps it."""
    return never_stored(at.renewed(on))


@GROUP.check("A4.34", "g10_patient_context (refresh)")
def patient(at: Context, on: str = "standalone") -> Outcome:
    """The new token reads the patient in context."""
    return reads_patient(at, at.launch(on), text(json_of(at.renewed(on)), "access_token"))


@GROUP.check("A4.35", "g10_invalid_token_refresh")
def invalid(at: Context, on: str = "standalone") -> Outcome:
    """A refresh token that nobody was given is refused: 400 or 401."""
    at.offered("permission-offline")
    return refuses_refresh(at, at.launch(on), secrets.token_urlsafe(32))


def refuses_refresh(at: Context, launched: Launched, token: str) -> Outcome:
    """400 or 401."""
    answer = at.ask_token(launched.app, {"grant_type": "refresh_token", "refresh_token": token})
    return verdict([f"{answer.status_code}"] * (answer.status_code not in (400, 401)))
