"""Does a token count, and for whom does it speak: every reason for a 401, over values."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from gateway.smart.principal import Push
from gateway.smart.server.token.bearer import principal_of, refusal
from gateway.store.oauth_rows import AccessToken, Account, Bearer, Client, Grant, ListedPatient

NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)
TOKEN = AccessToken("h", "g", "patient/Observation.rs openid", NOW, NOW + timedelta(hours=1))
GRANT = Grant("g", "hapi", "app", "patient/Observation.cruds openid", NOW, account_id="acc", patient="kid", context="picked")
CLIENT = Client("app", "App", "none", ("authorization_code",), ("https://app.test/",), "", ("*",), NOW)
MOTHER = Account("acc", "mum", "", "hapi", "Patient/m", "Mum", NOW)
DOCTOR = replace(MOTHER, fhir_user="Practitioner/d")
GOOD = Bearer(TOKEN, GRANT, CLIENT, MOTHER, (ListedPatient("kid"),))

REFUSED = {
    "token-unknown": None,
    "token-other-ehr": replace(GOOD, grant=replace(GRANT, ehr="other")),
    "token-revoked": replace(GOOD, token=replace(TOKEN, revoked_at=NOW)),
    "token-expired": replace(GOOD, token=replace(TOKEN, expires_at=NOW)),
    "client-disabled": replace(GOOD, client=replace(CLIENT, disabled_at=NOW)),
    "account-disabled": replace(GOOD, account=replace(MOTHER, disabled_at=NOW)),
    "relationship-ended": replace(GOOD, listed=()),
}


@pytest.mark.parametrize(("reason", "bearer"), REFUSED.items(), ids=REFUSED.keys())
def test_reasons(reason, bearer):
    """Each is found, one by one (ATK-F19, F23)."""
    assert refusal(bearer, "hapi", NOW) == reason


def test_more_ways_to_be_refused():
    """A revoked grant, a client that left this EHR, an account that is gone or of another EHR."""
    assert refusal(replace(GOOD, grant=replace(GRANT, revoked_at=NOW)), "hapi", NOW) == "token-revoked"
    assert refusal(replace(GOOD, client=replace(CLIENT, ehrs=("other",))), "hapi", NOW) == "client-disabled"
    assert refusal(replace(GOOD, account=None), "hapi", NOW) == "account-disabled"
    assert refusal(replace(GOOD, account=replace(MOTHER, ehr="other")), "hapi", NOW) == "account-disabled"


def test_whose_patient_counts():
    """Her own, a listed one; for staff one that a launch brought, and none that was merely picked and is listed no more."""
    assert refusal(GOOD, "hapi", NOW) == ""
    assert refusal(replace(GOOD, grant=replace(GRANT, patient="m"), listed=()), "hapi", NOW) == ""
    assert refusal(replace(GOOD, grant=replace(GRANT, context="launch"), listed=()), "hapi", NOW) == "relationship-ended"
    assert refusal(replace(GOOD, account=DOCTOR, grant=replace(GRANT, context="launch"), listed=()), "hapi", NOW) == ""
    assert refusal(replace(GOOD, account=DOCTOR, listed=()), "hapi", NOW) == "relationship-ended"


def test_the_principal_has_the_token_and_no_more():
    """The token's scopes and not the grant's; context scopes are no scopes of the facade."""
    found = principal_of(GOOD)
    assert (found.kind, found.patient, found.fhir_user, found.listed) == ("patient", "kid", "Patient/m", {"kid", "m"})
    assert [str(scope) for scope in found.scopes] == ["patient/Observation.rs"]
    assert principal_of(replace(GOOD, account=DOCTOR)).kind == "user"


def test_a_sender_pushes_and_a_person_never_does():
    """Push belongs to system principals alone."""
    sender = replace(CLIENT, push={"mode": "deliver", "ehr": "hapi"})
    assert principal_of(replace(GOOD, client=sender)).push is None
    system = principal_of(Bearer(TOKEN, replace(GRANT, account_id="", patient=""), sender, None))
    assert (system.kind, system.push) == ("system", Push("deliver", "hapi"))
