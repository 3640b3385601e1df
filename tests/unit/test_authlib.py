"""What Authlib does by itself and why we override it (AUTHLIB-E1 to E18): each test shows the default, so an upgrade that changes it is seen.

What the server does instead is shown where it is attacked: test_authorize (E5, E9, E10, E13, E14), tokens (E6, E7, E8, E11),
test_oauth_backend (E1 to E4, E16), test_registration (E12), pages (E15).
"""

from __future__ import annotations

import inspect
from importlib.metadata import version
from pathlib import Path

import authlib.oauth2.rfc6749.grants as grants_module
import pytest
from authlib.oauth2 import OAuth2Request, rfc6749, rfc7523, rfc7636, rfc9207
from authlib.oauth2.rfc6749 import InvalidRequestError
from authlib.oauth2.rfc6749.errors import InsecureTransportError

import gateway
from gateway.smart.server import core, pkce
from gateway.smart.server.authorization import decide
from gateway.smart.server.clients import assertion, authentication
from gateway.smart.server.token import token_grants


def test_e1_assertions_by_default_know_nothing_of_smart():
    """AUTHLIB-E1, AUTHLIB-E2, AUTHLIB-E4: another method name, a minute of leeway; ours has SMART's two algorithms, none, and SMART's name."""
    assert rfc7523.JWTBearerClientAssertion.CLIENT_AUTH_METHOD == "client_assertion_jwt"
    ours = assertion.ClientAssertion
    assert ours.CLIENT_AUTH_METHOD == "private_key_jwt"
    assert assertion.ALGORITHMS == ("RS384", "ES384")


def test_e4_methods_by_default_leave_some_clients_out():
    """AUTHLIB-E4: neither public clients nor keys at the code grant."""
    assert grants_module.AuthorizationCodeGrant.TOKEN_ENDPOINT_AUTH_METHODS == ["client_secret_basic", "client_secret_post"]
    for ours in (token_grants.CodeGrant, token_grants.RefreshGrant):
        assert list(authentication.AUTH_METHODS) == ours.TOKEN_ENDPOINT_AUTH_METHODS


def test_e5_pkce_by_default_takes_plain():
    """AUTHLIB-E5: plain is the default and allowed."""
    assert rfc7636.CodeChallenge.DEFAULT_CODE_CHALLENGE_METHOD == "plain"
    assert rfc7636.CodeChallenge.SUPPORTED_CODE_CHALLENGE_METHOD == ["plain", "S256"]
    assert pkce.S256Always.SUPPORTED_CODE_CHALLENGE_METHOD == ["S256"]


def test_e7_refresh_by_default_does_not_rotate():
    """AUTHLIB-E7: the old token goes on working unless the grant says otherwise."""
    assert grants_module.RefreshTokenGrant.INCLUDE_NEW_REFRESH_TOKEN is False
    assert token_grants.RefreshGrant.INCLUDE_NEW_REFRESH_TOKEN is True


def test_e8_codes_by_default_are_deleted_after_the_token_is_saved():
    """AUTHLIB-E8: query, save, delete are three steps of the grant; ours returns effects that are committed together."""
    source = inspect.getsource(grants_module.authorization_code)
    assert source.index("self.save_token(") < source.index("self.delete_authorization_code(")
    assert issubclass(token_grants.CodeGrant, grants_module.AuthorizationCodeGrant)


def test_e9_the_core_knows_no_audience_and_no_launch():
    """AUTHLIB-E9: neither parameter is in Authlib's authorization grant."""
    source = inspect.getsource(grants_module.authorization_code)
    assert '"aud"' not in source
    assert '"launch"' not in source


def test_e13_descriptions_with_forbidden_characters_raise():
    """AUTHLIB-E13: a ValueError and no answer; validate() turns it into a page."""
    with pytest.raises(ValueError, match="forbidden"):
        InvalidRequestError("Redirect URI https://app.test\\x is not supported by client.")


def test_e14_iss_by_default_needs_a_response_object():
    """AUTHLIB-E14: the extension changes `response.location`; our answers are values."""
    assert "location" in inspect.getsource(rfc9207.IssuerParameter)
    assert not hasattr(decide.Back("https://app.test/"), "location")


def test_e15_plain_http_is_refused_by_default():
    """AUTHLIB-E15: behind a proxy that ends TLS every request would be."""
    with pytest.raises(InsecureTransportError):
        OAuth2Request("GET", "http://10.0.0.1/authorize")
    assert core.Request("GET", ()).uri.startswith("https://")


def test_e17_its_httpx_client_is_not_used():
    """AUTHLIB-E17: what speaks to EHRs and key sets is our own, so that no other HTTP package comes in."""
    sources = [path.read_text("utf-8") for path in Path(gateway.__file__).parent.rglob("*.py")]
    assert not [text for text in sources if "authlib.integrations" in text]


def test_e18_versions_with_the_fixes():
    """AUTHLIB-E18: no older ones."""
    assert tuple(map(int, version("authlib").split(".")[:3])) >= (1, 9, 9)
    assert tuple(map(int, version("joserfc").split(".")[:2])) >= (1, 8)


def test_nothing_here_is_async():
    """Why the core decides over a snapshot: Authlib's server has no async function."""
    for module in (rfc6749, grants_module):
        assert not [
            name for name, value in inspect.getmembers(module, inspect.isclass) if any(map(inspect.iscoroutinefunction, vars(value).values()))
        ]
