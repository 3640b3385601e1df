"""SMART configuration and OpenID discovery: each row of A1 and A3 that a document can show."""

from __future__ import annotations

import re

import pytest

from gateway.smart.server.discovery import openid_configuration, smart_configuration
from tests.support import smart

# A7: what Inferno's US Core suites take for a clinical scope.
CLINICAL = re.compile(r"^(patient|user|system|\*)/([a-zA-Z*]+)\.([cruds]+)(\?\w+=[^\s&]+(&\w+=[^\s&]+)*)?$")
STANDALONE = (  # A1.5
    "launch-standalone client-public client-confidential-symmetric client-confidential-asymmetric sso-openid-connect "
    "context-standalone-patient permission-offline permission-patient authorize-post permission-v2 permission-v1"
)
EHR = (  # A1.6
    "launch-ehr client-confidential-symmetric client-confidential-asymmetric sso-openid-connect context-banner context-style "
    "context-ehr-patient permission-offline permission-user authorize-post permission-v2 permission-v1 context-ehr-encounter"
)
DOCUMENT = smart_configuration(public_url=smart.PUBLIC_URL, ehr="hapi", types=smart.TYPES)
OPENID = openid_configuration(public_url=smart.PUBLIC_URL, ehr="hapi", types=smart.TYPES)


@pytest.mark.parametrize("name", ["authorization_endpoint", "token_endpoint", "introspection_endpoint", "revocation_endpoint", "issuer", "jwks_uri"])
def test_addresses_are_absolute_and_of_the_ehr(name):
    """A1.2, A1.7, A1.9, HL7@378: from the configuration."""
    assert DOCUMENT[name].startswith(f"{smart.PUBLIC_URL}/")
    assert "/hapi" in DOCUMENT[name]


def test_required_members():
    """A1.2, A1.8: grants, S256 and never plain, key algorithms, text capabilities."""
    assert {"authorization_code", "client_credentials"} <= set(DOCUMENT["grant_types_supported"])
    assert DOCUMENT["code_challenge_methods_supported"] == ["S256"]
    assert "private_key_jwt" in DOCUMENT["token_endpoint_auth_methods_supported"]
    assert {"RS384", "ES384"} == set(DOCUMENT["token_endpoint_auth_signing_alg_values_supported"])
    assert all(isinstance(one, str) for one in DOCUMENT["capabilities"])
    assert DOCUMENT["authorization_response_iss_parameter_supported"] is True


@pytest.mark.parametrize("wanted", [STANDALONE, EHR], ids=["standalone", "ehr"])
def test_capabilities(wanted):
    """A1.5, A1.6."""
    assert set(wanted.split()) <= set(DOCUMENT["capabilities"])


def test_scopes():
    """A1.7: clinical scopes in the form that US Core's suite reads."""
    clinical = [scope for scope in DOCUMENT["scopes_supported"] if "." in scope]
    assert len(clinical) == 3 * (len(smart.TYPES) + 1)
    assert all(CLINICAL.match(scope) for scope in clinical)
    assert "fhirUser" in DOCUMENT["scopes_supported"]


def test_openid_members():
    """A3.24."""
    for name in ("issuer", "authorization_endpoint", "token_endpoint", "jwks_uri", "response_types_supported", "subject_types_supported"):
        assert OPENID[name]
    assert "RS256" in OPENID["id_token_signing_alg_values_supported"]
    assert OPENID["request_uri_parameter_supported"] is False
    assert OPENID["issuer"] == DOCUMENT["issuer"] == smart.BASE


def test_people_can_manage_what_they_allowed():
    """A1.9: a page for browsers, common to all EHRs."""
    assert DOCUMENT["management_endpoint"] == f"{smart.PUBLIC_URL}/apps"


def test_every_ehr_has_its_own():
    """Issuer and endpoints of two EHRs are never the same."""
    other = smart_configuration(public_url=smart.PUBLIC_URL, ehr="other", types=smart.TYPES)
    for name in ("issuer", "authorization_endpoint", "token_endpoint", "jwks_uri"):
        assert other[name] != DOCUMENT[name]
