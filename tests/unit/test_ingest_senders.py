"""Who sent a message, judged again at delivery."""

from __future__ import annotations

from dataclasses import fields, replace
from datetime import UTC, datetime

import pytest

from gateway.errors import Forbidden
from gateway.ingest.senders import principal_of
from gateway.smart.principal import PrincipalKind, Push
from gateway.store.inbox_rows import Message
from gateway.store.oauth_rows import Client

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
MESSAGE = Message(
    **{item.name: None for item in fields(Message)}
    | {"ehr": "hapi", "client_id": "lab", "scopes": "system/Observation.cu system/Patient.c", "mode": "deliver"}
)
CLIENT = Client(
    "lab",
    "The lab",
    "private_key_jwt",
    ("client_credentials",),
    (),
    "system/Observation.cud",
    ("hapi",),
    NOON,
    push={"mode": "deliver", "ehr": "hapi"},
)


def test_scopes_of_the_receipt_count_as_far_as_they_are_still_registered():
    """What was taken away since is gone; what was added since was not there."""
    found = principal_of(MESSAGE, CLIENT)
    assert [str(scope) for scope in found.scopes] == ["system/Observation.cu"]
    assert (found.kind, found.client_id, found.ehr, found.push) == (PrincipalKind.SYSTEM, "lab", "hapi", Push("deliver", "hapi"))


@pytest.mark.parametrize(
    ("client", "reason"),
    [
        (None, "client-disabled"),
        (replace(CLIENT, disabled_at=NOON), "client-disabled"),
        (replace(CLIENT, ehrs=("stmarys",)), "client-disabled"),
        (replace(CLIENT, push=None), "push-not-registered"),
        (replace(CLIENT, push={"mode": "notify"}), "push-not-registered"),
        (replace(CLIENT, push={"mode": "deliver", "ehr": "stmarys"}), "push-not-registered"),
    ],
)
def test_a_sender_that_may_not_push_any_more(client, reason):
    """Its message is rejected."""
    with pytest.raises(Forbidden) as refused:
        principal_of(MESSAGE, client)
    assert refused.value.reason == reason
