"""What a person chose, and what she chose before and does not want to be asked again.

She is asked all the same where the app asks for more, for another patient, at another address of its own, or says prompt=consent.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import cast

from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.smart.scopes import split
from gateway.smart.server.authorization.consent import granted, remembered, worth_granting
from gateway.smart.server.authorization.decide import AuthorizationSnapshot, Consented, Validated
from gateway.smart.server.authorization.whose import patient_in_context
from gateway.smart.server.people.sessions import Visitor
from gateway.smart.server.requests import Pairs
from gateway.store import consents
from gateway.store.oauth_rows import PushedRequest, RememberedConsent, Transaction, new_id


@dataclass(frozen=True, slots=True)
class Choice:
    """What she pressed: the scopes that she ticked, or None for no; and whether she does not want to be asked again.

    `patient`: the one that the page was about, "" for none; None where there was no page.
    """

    ticked: frozenset[str] | None
    remember: bool = False
    before: bool = False  # not now, but when she said that she does not want to be asked again
    patient: str | None = None


NO = Choice(None)


@dataclass(frozen=True, slots=True)
class Waiting:
    """A transaction with all that a decision about it needs."""

    row: Transaction
    snapshot: AuthorizationSnapshot

    @property
    def pairs(self) -> Pairs:
        """The request as the app sent it."""
        return pairs_of(self.row)


def pairs_of(row: Transaction | PushedRequest) -> Pairs:
    """The parameters of a stored request, as the app sent them."""
    return tuple((name, value) for name, value in cast("list[list[str]]", row.request["pairs"]))


def may_remember(judged: Validated) -> bool:
    """Not where another program on her device could take the answer: an app without credentials that is not reached by https."""
    return judged.redirect_uri.startswith("https://") or judged.client.auth_method != "none"


async def chosen_before(connection: AsyncConnection, waiting: Waiting, judged: Validated, visitor: Visitor) -> Choice | None:
    """What she chose for this app, address and patient, if she does not want to be asked again and it says something about all that is asked."""
    patient = patient_in_context(waiting.row, judged, visitor)
    if patient is None or judged.prompting.consent or not may_remember(judged):
        return None
    kept = await consents.remembered(connection, account_id=visitor.account.id, client_id=judged.client.id, ehr=waiting.row.ehr, patient=patient)
    if kept is None or kept.expires_at <= waiting.snapshot.now or kept.redirect_uri != judged.redirect_uri:
        return None
    types = waiting.snapshot.types
    ticked = remembered(judged.scopes, split(kept.asked), frozenset(split(kept.ticked)), types)
    usable = ticked is not None and worth_granting(granted(judged.scopes, ticked, types) or ())
    return Choice(ticked, before=True) if usable else None


def to_keep(judged: Validated, consented: Consented, ticked: frozenset[str], ehr: str, snapshot: AuthorizationSnapshot) -> RememberedConsent:
    """What is kept of her choice."""
    return RememberedConsent(
        id=new_id(),
        account_id=consented.account.id,
        client_id=judged.client.id,
        ehr=ehr,
        patient=consented.about,
        redirect_uri=judged.redirect_uri,
        asked=" ".join(judged.scopes),
        ticked=" ".join(sorted(ticked)),
        created_at=snapshot.now,
        expires_at=snapshot.now + timedelta(seconds=snapshot.lifetimes.consent),
    )
