"""Does an access token count now, and for whom does it speak? Pure; asked at every request (ATK-F23)."""

from __future__ import annotations

from datetime import datetime

from gateway.smart.principal import Principal, PrincipalKind, Push
from gateway.smart.scopes import LAUNCH_RIGHT, clinical, split
from gateway.smart.server.people.relationships import may_act_on
from gateway.store.oauth_rows import Bearer


def refusal(bearer: Bearer | None, ehr: str, now: datetime, fault: str = "") -> str:
    """The reason id for which this token is a 401 at this EHR, or "". `fault`: what a trial simulates."""
    if bearer is None or fault == "fhir-unknown":
        return "token-unknown"
    token, grant, account = bearer.token, bearer.grant, bearer.account
    if grant.ehr != ehr:
        return "token-other-ehr"
    if token.revoked_at is not None or grant.revoked_at is not None:
        return "token-revoked"
    if token.expires_at <= now or fault == "fhir-expired":
        return "token-expired"
    if not bearer.client.may_use(ehr):
        return "client-disabled"
    if not grant.account_id:
        return ""
    if account is None or account.disabled_at is not None or account.ehr != ehr:
        return "account-disabled"
    if grant.patient and not may_act_on(account, bearer.listed, grant.patient, launched=grant.context == "launch"):
        return "relationship-ended"
    return ""


def principal_of(bearer: Bearer, trial: str = "", fault: str = "") -> Principal:
    """The caller. The scopes are the token's, which may be narrower than the grant's."""
    grant, client, account = bearer.grant, bearer.client, bearer.account
    listed = {one.patient for one in bearer.listed}
    if account and account.own_patient:
        listed.add(account.own_patient)
    kind = PrincipalKind.SYSTEM
    if account:
        kind = PrincipalKind.USER if account.is_practitioner else PrincipalKind.PATIENT
    push = client.push
    return Principal(
        kind=kind,
        ehr=grant.ehr,
        client_id=client.id,
        client_name=client.name,
        scopes=clinical(bearer.token.scope),
        patient=grant.patient,
        fhir_user=account.fhir_user if account else "",
        user_id=account.id if account else "",
        listed=frozenset(listed),
        grant_id=grant.id,
        push=Push(push.get("mode", ""), push.get("ehr", ""), push.get("source_ehr", "")) if push and kind is PrincipalKind.SYSTEM else None,
        may_launch=kind is PrincipalKind.SYSTEM and LAUNCH_RIGHT in split(bearer.token.scope),
        trial=trial,
        fault=fault,
    )
