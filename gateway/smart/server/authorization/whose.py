"""Who may go on with an authorization, and whose record may be in its context. Pure."""

from __future__ import annotations

from gateway.smart.server.authorization.decide import Validated
from gateway.smart.server.people.relationships import may_act_on
from gateway.smart.server.people.sessions import BY_LAUNCHER, BY_PROVIDER, Visitor
from gateway.store.oauth_rows import ListedPatient, Transaction


def sign_in_reason(judged: Validated, ehr: str, visitor: Visitor | None, *, in_trial: bool = False) -> str:
    """Why this visitor cannot go on before somebody signs in, or "". `in_trial`: the authorization is of a trial of the launcher."""
    if visitor is None:
        return "nobody"
    if visitor.account.ehr != ehr:
        return "other-ehr"
    if judged.launch and judged.launch.account_id not in ("", visitor.account.id):
        return "other-person"  # ATK-O15: a launch belongs to whoever started it
    if visitor.session.method == BY_LAUNCHER and not in_trial:
        return "again"  # nobody showed who she is: that is enough for a trial alone (ADR 0013)
    since = judged.prompting.signed_in_since
    if since and visitor.session.method == BY_PROVIDER:
        return "again"  # when she signed in there nobody said
    return "again" if since and visitor.session.created_at < since else ""


def is_meant(judged: Validated, visitor: Visitor) -> bool:
    """Whether this is the person of the app's id_token_hint, where it gave one (OpenID Connect Core 3.1.2.1)."""
    return judged.prompting.hinted in (None, visitor.account.id)


def launched_patient(judged: Validated) -> str:
    """The patient that the launch brings, or ""."""
    return judged.launch.patient if judged.launch else ""


def wants_patient(judged: Validated) -> bool:
    """Whether a patient comes into the context."""
    return judged.needs_patient or launched_patient(judged) != ""


def choices(judged: Validated, visitor: Visitor) -> tuple[ListedPatient, ...]:
    """The patients that may be in context: the launch's alone, when it brings one that this person may see; else hers."""
    launched = launched_patient(judged)
    if not launched:
        return visitor.patients
    if not may_act_on(visitor.account, visitor.listed, launched, launched=True):
        return ()
    return (next((one for one in visitor.patients if one.patient == launched), ListedPatient(launched)),)


def patient_in_context(row: Transaction, judged: Validated, visitor: Visitor) -> str | None:
    """The patient in context, "" for none; None when there has to be one and there is none that she may see."""
    if not wants_patient(judged):
        return ""
    found = choices(judged, visitor)
    chosen = row.patient or (found[0].patient if len(found) == 1 else "")
    return chosen if chosen in {one.patient for one in found} else None if judged.needs_patient else ""
