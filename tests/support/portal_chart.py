"""A chart over the clinic in memory, for unit tests of the portal's features."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

from gateway.portal.chart import Chart, Source
from gateway.portal.features import portal_principal
from gateway.proxy.answer import RequestContext
from tests.support.clinic import Clinic
from tests.support.portal_app import NOW, URL, Account


def chart_of(clinic: Clinic, patient: str = "p1", *, account: Account | None = None, now: datetime = NOW, takes_ids: bool = False) -> Chart:
    """Amina's record, at 15:00 UTC on 22 November 2026, in a clinic five hours west of UTC."""
    source = Source("clinic", "Mercy Clinic", "555 0100", timezone(timedelta(hours=-5)), lambda _: takes_ids)
    principal = portal_principal(account or Account(), patient, "clinic")
    return Chart(clinic, principal, RequestContext("r1", via="portal"), source, now, f"{URL}/fhir/clinic")
