"""What the launcher can pretend went wrong: a table as data (issue of smart-launcher's "simulated errors", and more). Pure.

A fault is applied where the real thing would happen, by one line that names it there (`grep 'simulates("NAME")'`), and the answer is the one that
the real thing gets. It refuses, delays or lies; nothing here can make anything be granted. Lies are told last, in an answer that was earned.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Fault:
    """`moment`: authorize | token | refresh | fhir. `sees`: what the app gets, and what it should do, in a sentence for its developer.

    `lies`: the answer looks like a success, and an app that is right refuses it.
    """

    name: str
    moment: str
    title: str
    sees: str
    lies: bool = False


_ALL = (
    Fault("unknown-client", "authorize", "Unknown client", "The browser stays here, on a page: an app that is not known is told nothing."),
    Fault("unknown-redirect", "authorize", "redirect_uri is not registered", "The browser stays here, on a page: nobody is sent to such an address."),
    Fault("invalid-scope", "authorize", "None of the scopes", "The browser comes back with error=invalid_scope."),
    Fault("wrong-aud", "authorize", "aud is wrong", "The browser comes back with error=invalid_request, as when aud is not the FHIR base."),
    Fault("server-error", "authorize", "The server fails", "The browser comes back with error=server_error."),
    Fault("server-busy", "authorize", "The server is busy", "The browser comes back with error=temporarily_unavailable."),
    Fault("denied", "authorize", "The person says no", "Whatever is pressed at the end, the browser comes back with error=access_denied."),
    Fault("state-changed", "authorize", "state is another", "A code comes back with another state: the app drops it (RFC 6749 10.12).", lies=True),
    Fault("other-iss", "authorize", "iss is another", "A code comes back with another iss: the app throws it away (RFC 9207 2.4).", lies=True),
    Fault("client-refused", "token", "Client authentication fails", "401 invalid_client, as for a wrong secret, assertion or jti."),
    Fault("code-expired", "token", "The code is too old", "400 invalid_grant: the app starts the launch again."),
    Fault("token-slow", "token", "A slow token endpoint", "The answer comes after 5 seconds."),
    Fault("token-down", "token", "The token endpoint is down", "503 temporarily_unavailable with Retry-After; the code still counts afterwards."),
    Fault("token-scope", "token", "The scope is refused", "400 invalid_scope to a backend service, as when it asks for more than it may have."),
    Fault("no-patient", "token", "No patient", "The token response has no patient: the app says so, and shows nobody's data.", lies=True),
    Fault("id-token-unknown-key", "token", "id_token: unknown key", "Signed by a key that is not published: the app refuses it.", lies=True),
    Fault("id-token-expired", "token", "id_token: expired", "It ended an hour ago: the app refuses it.", lies=True),
    Fault("id-token-other-aud", "token", "id_token: for another app", "Its aud is another client: the app refuses it.", lies=True),
    Fault("id-token-other-nonce", "token", "id_token: another nonce", "Its nonce is not the app's: an app that sent one refuses it.", lies=True),
    Fault("refresh-scope", "refresh", "Refresh: the scope is refused", "400 invalid_scope, as when a refresh asks for more than was granted."),
    Fault("refresh-expired", "refresh", "Refresh: too old", "400 invalid_grant: the app launches again."),
    Fault("refresh-revoked", "refresh", "Refresh: access taken back", "400 invalid_grant, and every token of this launch is a 401 from then on."),
    Fault("fhir-expired", "fhir", "The access token ended", "401 invalid_token: the app refreshes, or launches again."),
    Fault("fhir-unknown", "fhir", "The access token is unknown", "401 invalid_token, as after a restart of a server that forgot it."),
    Fault("fhir-scope", "fhir", "The scope is too small", "403 insufficient_scope, though the scope was granted."),
    Fault("fhir-throttled", "fhir", "Too many requests", "429 with Retry-After: the app waits that long."),
    Fault("fhir-slow", "fhir", "A slow record system", "Each answer comes after 10 seconds."),
    Fault("fhir-unavailable", "fhir", "The record system pauses", "503 with Retry-After."),
    Fault("fhir-down", "fhir", "The record system is down", "502, as when it cannot be reached."),
    Fault("fhir-timeout", "fhir", "The record system does not answer", "504; of a write nobody knows whether it was stored."),
)
FAULTS: Mapping[str, Fault] = {one.name: one for one in _ALL}
"""All of them by name, in the order in which an app meets them."""

TOKEN_SLOW, FHIR_SLOW = 5.0, 10.0
"""Seconds."""
PAUSE = 5
"""Seconds of a Retry-After."""
OTHER_ISSUER = "https://another-issuer.invalid"


def at(fault: str, moment: str) -> str:
    """The fault, when it is one of that moment; else ""."""
    found = FAULTS.get(fault)
    return fault if found is not None and found.moment == moment else ""


def of_token_request(fault: str, grant_type: str) -> str:
    """The fault, when it is one of such a request; else "". A refresh meets those of the token endpoint too; it brings no id_token."""
    if grant_type == "refresh_token":
        return at(fault, "refresh") or ("" if fault.startswith("id-token") else at(fault, "token"))
    return at(fault, "token")


def said(fault: str) -> str:
    """How the record of accesses says that an answer was no real one. "" for none."""
    return f"simulated: {fault}" if fault else ""
