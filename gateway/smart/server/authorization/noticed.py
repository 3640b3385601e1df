"""What a developer sees of an authorization in her trial: the request, the pages, the decision. Pure; codes and handles only as their length."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from gateway.smart.record import Caller
from gateway.smart.scopes import split
from gateway.smart.server.answers import Decided
from gateway.smart.server.authorization.decide import AuthorizationSnapshot, Back, Page
from gateway.smart.server.requests import Pairs, given
from gateway.smart.server.trial import Noted, redacted, shown
from gateway.store.oauth_rows import Grant


def request(ehr: str, caller: Caller, pairs: Pairs, snapshot: AuthorizationSnapshot, answer: object, ms: float) -> Noted:
    """The app sent the browser."""
    facts: dict[str, Any] = {"parameters": shown(pairs), "asked": [redacted(one) for one in split(given(pairs).get("scope", ""))]}
    if snapshot.cap:
        facts["at_most"] = list(split(snapshot.cap))
    if isinstance(answer, Back | Page):
        facts |= _end(answer)
    else:
        facts["then"] = "the person"
    return Noted("authorize", caller.method, f"/auth/{ehr}/authorize", answer.status if isinstance(answer, Page) else 303, ms, facts)


def pushed(ehr: str, pairs: Pairs, refused: Decided | None) -> Noted:
    """The app sent its request ahead (RFC 9126)."""
    facts: dict[str, Any] = {"parameters": shown(pairs), "answer": dict(refused.body) if refused else {}}
    return Noted("push", "POST", f"/auth/{ehr}/par", refused.status if refused else 201, 0.0, facts)


def step(ehr: str, name: str, facts: Mapping[str, Any]) -> Noted:
    """What the browser shows next: sign-in, patient or consent."""
    return Noted("step", address=f"/auth/{ehr}", facts={"page": name, **facts})


def decided(ehr: str, caller: Caller, back: Back, grant: Grant | None, how: str) -> Noted:
    """The person decided. `how`: she was asked, or chose before."""
    facts: dict[str, Any] = {"decision": "allowed" if grant else "not allowed", "how": how, **_end(back)}
    if grant:
        facts |= {"granted": list(split(grant.scope)), "patient": grant.patient, "encounter": grant.encounter, "context": grant.context}
    return Noted("consent", caller.method, f"/auth/{ehr}/consent", 303, 0.0, facts)


def _end(answer: Back | Page) -> dict[str, Any]:
    simulated = {"simulated": answer.simulated} if answer.simulated else {}
    if isinstance(answer, Page):
        return {"then": "a page that explains", "reason": answer.reason, **simulated}
    parts = urlsplit(answer.url)
    to = f"{parts.scheme}://{parts.netloc}{parts.path}" if parts.netloc else f"{parts.scheme}:{parts.path}"
    found: dict[str, Any] = {"then": "back to the app", "to": to, "answer": shown(parse_qsl(parts.query, keep_blank_values=True))}
    return found | _error(answer.error, answer.description) | simulated


def _error(error: str, description: str) -> dict[str, Any]:
    return {"error": error, "error_description": description} if error else {}
