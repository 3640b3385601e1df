"""Whose record a person may open. Pure; asked again whenever something is done in her name (ATK-F23)."""

from __future__ import annotations

from gateway.store.oauth_rows import Account, ListedPatient


def may_act_on(account: Account, listed: tuple[ListedPatient, ...], patient: str, *, launched: bool) -> bool:
    """Whether this person may (still) have this patient in context. For staff an EHR's launch is enough; nobody else gets by without the list."""
    if account.is_practitioner and launched:
        return True
    return patient == account.own_patient != "" or any(patient == one.patient for one in listed)
