"""The discovery documents of one EHR. Pure: both the FHIR facade and the OAuth routes answer with them.

Every capability that is listed works; what the operator does not offer (a registration endpoint, brands) is not there (HL7@348-371).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from gateway.smart.server.authorization.prompts import PROMPTS
from gateway.smart.server.clients.assertion import ALGORITHMS
from gateway.smart.server.endpoints import Endpoints
from gateway.store.oauth_rows import AuthMethod

CAPABILITIES = (
    "launch-ehr",
    "launch-standalone",
    "authorize-post",
    "client-public",
    "client-confidential-symmetric",
    "client-confidential-asymmetric",
    "sso-openid-connect",
    "context-banner",
    "context-style",
    "context-ehr-patient",
    "context-ehr-encounter",
    "context-standalone-patient",
    "permission-offline",
    "permission-online",
    "permission-patient",
    "permission-user",
    "permission-v1",
    "permission-v2",
)
_AUTH_METHODS = [AuthMethod.BASIC, AuthMethod.POST, AuthMethod.KEY, AuthMethod.NONE]
_CONTEXT = ["openid", "fhirUser", "profile", "launch", "launch/patient", "offline_access", "online_access"]
STYLE: dict[str, Any] = {
    # SMART 2.2 "Styling": the colours and sizes of the gateway's own pages.
    "color_background": "#ffffff",
    "color_error": "#b3261e",
    "color_highlight": "#0b5cad",
    "color_modal_backdrop": "",
    "color_success": "#1b6e3c",
    "color_text": "#1b1f24",
    "dim_border_radius": "6px",
    "dim_font_size": "16px",
    "dim_spacing_size": "16px",
    "font_family_body": "system-ui, sans-serif",
    "font_family_heading": "system-ui, sans-serif",
}


@dataclass(frozen=True, slots=True)
class Offered:
    """What is there by configuration alone. `brands`: where the bundle is, and the identifier of this EHR's brand in it."""

    registration: bool = False
    brands: str = ""
    brand_identifier: Mapping[str, str] | None = None

    def members(self, endpoints: Endpoints) -> dict[str, Any]:
        """Of the discovery document."""
        found: dict[str, Any] = {"registration_endpoint": endpoints.register} if self.registration else {}
        if self.brands:
            found["user_access_brand_bundle"] = self.brands
        if self.brands and self.brand_identifier:
            found["user_access_brand_identifier"] = dict(self.brand_identifier)
        return found


_NOTHING = Offered()


def smart_configuration(*, public_url: str, ehr: str, types: Iterable[str], must_push: bool = False, offered: Offered = _NOTHING) -> dict[str, Any]:
    """`{base}/.well-known/smart-configuration`. `types`: the resource types that scopes may name; `must_push`: every app pushes its request."""
    endpoints = Endpoints(public_url, ehr)
    return {
        "issuer": endpoints.base,
        "jwks_uri": endpoints.jwks,
        "authorization_endpoint": endpoints.authorize,
        "token_endpoint": endpoints.token,
        "pushed_authorization_request_endpoint": endpoints.par,
        "require_pushed_authorization_requests": must_push,
        "introspection_endpoint": endpoints.introspect,
        "revocation_endpoint": endpoints.revoke,
        "management_endpoint": endpoints.manage,
        "grant_types_supported": ["authorization_code", "refresh_token", "client_credentials"],
        "response_types_supported": ["code"],
        "scopes_supported": scopes_supported(types),
        "token_endpoint_auth_methods_supported": _AUTH_METHODS,
        "token_endpoint_auth_signing_alg_values_supported": list(ALGORITHMS),
        "code_challenge_methods_supported": ["S256"],
        "authorization_response_iss_parameter_supported": True,
        "capabilities": list(CAPABILITIES),
    } | offered.members(endpoints)


def openid_configuration(*, public_url: str, ehr: str, types: Iterable[str], must_push: bool = False, offered: Offered = _NOTHING) -> dict[str, Any]:
    """`{base}/.well-known/openid-configuration` (OpenID Connect Discovery 3)."""
    smart = smart_configuration(public_url=public_url, ehr=ehr, types=types, must_push=must_push, offered=offered)
    return {name: value for name, value in smart.items() if name != "capabilities"} | {
        "subject_types_supported": ["public"],
        "id_token_signing_alg_values_supported": ["RS256"],
        "response_modes_supported": ["query"],
        "claims_supported": ["iss", "sub", "aud", "exp", "iat", "auth_time", "nonce", "fhirUser"],
        "prompt_values_supported": list(PROMPTS),
        "request_parameter_supported": False,
        "request_uri_parameter_supported": False,
    }


def scopes_supported(types: Iterable[str]) -> list[str]:
    """The context scopes, and each type at each level with all letters: a client may ask for any part of them."""
    listed = ["*", *sorted(types)]
    return [*_CONTEXT, *(f"{level}/{name}.cruds" for level in ("patient", "user", "system") for name in listed)]
