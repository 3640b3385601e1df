"""The names that the server takes from Authlib, in one place and as what they are to us: untyped.

The type stubs that exist describe an older release and disagree with what the classes do, so each value that crosses this border is checked
where it arrives.
"""
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false

from __future__ import annotations

from typing import Any

from authlib.oauth2 import rfc6749, rfc7523, rfc7636
from authlib.oauth2.base import OAuth2Error as _OAuth2Error
from authlib.oauth2.rfc6749 import grants

AuthorizationServer: Any = rfc6749.AuthorizationServer
ClientMixin: Any = rfc6749.ClientMixin
OAuth2Payload: Any = rfc6749.OAuth2Payload
OAuth2Request: Any = rfc6749.OAuth2Request

AuthorizationCodeGrant: Any = grants.AuthorizationCodeGrant
ClientCredentialsGrant: Any = grants.ClientCredentialsGrant
RefreshTokenGrant: Any = grants.RefreshTokenGrant
CodeChallenge: Any = rfc7636.CodeChallenge
JWTBearerClientAssertion: Any = rfc7523.JWTBearerClientAssertion

OAuth2Error: Any = _OAuth2Error
AccessDeniedError: Any = rfc6749.AccessDeniedError
InvalidClientError: Any = rfc6749.InvalidClientError
InvalidGrantError: Any = rfc6749.InvalidGrantError
InvalidRequestError: Any = rfc6749.InvalidRequestError
InvalidScopeError: Any = rfc6749.InvalidScopeError
