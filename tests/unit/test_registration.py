"""Client metadata: what is registered, and everything that is refused (ATK-O27, AUTHLIB-E12)."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from gateway.errors import OAuthError
from gateway.smart.server.clients.registration import Registration, Rules, judge
from gateway.store.oauth_rows import digest
from tests.support import smart

NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)
RULES = Rules(("hapi", "stmarys"))
KEY = smart.BackendKey()
APP = {"client_name": "App", "redirect_uris": ["https://app.test/cb"]}
LAB = {"client_name": "Lab", "grant_types": ["client_credentials"], "scope": "system/Observation.c", "jwks": {"keys": [KEY.public]}}


def registered(metadata: dict[str, Any], rules: Rules = RULES, **more: Any) -> Registration:
    return judge(metadata, rules, NOW, **more)


def test_ids_and_secrets_of_the_file_are_kept():
    """Fixtures and migrations bring their own; the store only ever has the hash."""
    found = registered(APP | {"client_id": "mine", "client_secret": "a-long-secret"})
    assert (found.client.id, found.client.secret_hash) == ("mine", digest("a-long-secret"))
    assert found.answer["client_secret"] == "a-long-secret"
    assert found.client.registered is not None
    assert "client_secret" not in found.client.registered


def test_a_secret_is_made_for_confidential_clients_only():
    """AUTHLIB-E12: a public client gets none."""
    assert len(registered(APP).answer["client_secret"]) == 43
    assert "client_secret" not in registered(APP | {"token_endpoint_auth_method": "none"}).answer
    assert "client_secret" not in registered(LAB).answer


def test_registering_again_keeps_the_secret():
    """A second run of the same file changes nothing that an app would notice."""
    first = registered(APP | {"client_id": "mine"})
    again = registered(APP | {"client_id": "mine", "client_name": "Renamed"}, known=first.client)
    assert again.client.secret_hash == first.client.secret_hash
    assert "client_secret" not in again.answer


def test_origins_are_those_of_browsers():
    """Lower case, no default port; a native app has none."""
    uris = ["https://App.test:443/cb", "http://127.0.0.1:8123/cb", "com.example.app:/cb"]
    assert registered(APP | {"redirect_uris": uris}).origins == {"https://app.test", "http://127.0.0.1:8123"}


@pytest.mark.parametrize(
    "uri",
    [
        "javascript:alert(1)",
        "data:text/html,x",
        "file:///etc/passwd",
        "http://app.test/cb",
        "http://169.254.169.254/cb",
        "https://app.test/cb#fragment",
        "https://app.test/cb#",
        "https://user@app.test/cb",
        "https://*.app.test/cb",
        "https://app.test/*",
        "https://app.test/a/../cb",
        "https://app.test/%2E%2e/cb",
        "https://app.test/cb\\x",
        "https://app.test/c b",
        "https://app.test/cb\n",
        "https:///cb",
        "https://app.test:port/cb",
        "//app.test/cb",
        "/cb",
        "app:/cb",
        "",
    ],
)
def test_careless_redirects_are_refused(uri):
    """ATK-O27."""
    with pytest.raises(OAuthError) as refused:
        registered(APP | {"redirect_uris": ["https://app.test/cb", uri]})
    assert refused.value.error == "invalid_redirect_uri"


@pytest.mark.parametrize("uri", ["http://localhost:3000/cb", "http://[::1]/cb", "com.example.app:/cb", "https://app.test/cb?a=b"])
def test_redirects_that_are_fine(uri):
    """RFC 8252: loopback and schemes of an app's own."""
    assert registered(APP | {"redirect_uris": [uri]}).client.redirect_uris == (uri,)


@pytest.mark.parametrize(
    "uri",
    [
        "http://keys.test/jwks",
        "https://169.254.169.254/jwks",
        "https://127.0.0.1/jwks",
        "https://2130706433/jwks",
        "https://0x7f.1/jwks",
        "https://[::ffff:10.0.0.1]/jwks",
        "https://localhost/jwks",
        "https://keys.localhost/jwks",
        "https://user@keys.test/jwks",
        "https://keys.test/jwks#x",
        "file:///etc/passwd",
        "jwks",
    ],
)
def test_key_addresses_must_be_public(uri):
    """ATK-O27: https and public; the name is judged again at each fetch."""
    with pytest.raises(OAuthError) as refused:
        registered({name: value for name, value in LAB.items() if name != "jwks"} | {"jwks_uri": uri})
    assert refused.value.error == "invalid_client_metadata"


def test_loopback_keys_are_for_development():
    """Only when the operator says so."""
    metadata = {name: value for name, value in LAB.items() if name != "jwks"} | {"jwks_uri": "http://127.0.0.1:9/jwks"}
    assert registered(metadata, Rules(("hapi",), loopback_keys=True)).client.jwks_uri == "http://127.0.0.1:9/jwks"


@pytest.mark.parametrize(
    "changes",
    [
        {"grant_types": ["password"]},
        {"grant_types": ["urn:ietf:params:oauth:grant-type:token-exchange"]},
        {"grant_types": ["authorization_code", "client_credentials"]},
        {"grant_types": ["refresh_token"]},
        {"grant_types": "authorization_code"},
        {"response_types": ["token"]},
        {"token_endpoint_auth_method": "client_secret_jwt"},
        {"token_endpoint_auth_method": "private_key_jwt"},
        {"token_endpoint_auth_method": "none", "client_secret": "a-long-secret"},
        {"scope": "system/*.cruds"},
        {"scope": "patient/Observation.dus"},
        {"client_id": "with:colon"},
        {"client_id": "with space"},
        {"client_name": 7},
        {"ehrs": ["elsewhere"]},
        {"push": {"mode": "notify"}},
        {"launch_uri": "http://app.test/launch"},
    ],
)
def test_apps_that_are_refused(changes):
    """Grants, methods, scopes and names that are not offered, and an app that gives itself system scopes."""
    with pytest.raises(OAuthError) as refused:
        registered(APP | changes)
    assert refused.value.error == "invalid_client_metadata"


@pytest.mark.parametrize(
    "changes",
    [
        {"scope": ""},
        {"scope": "patient/Observation.rs"},
        {"scope": "system/Observation.c openid"},
        {"jwks": {"keys": []}},
        {"jwks": {"keys": [dict(KEY.key.as_dict(private=True))]}},
        {"jwks": {"keys": [{"kty": "oct", "k": "AA", "kid": "x"}]}},
        {"jwks": {"keys": [{name: value for name, value in KEY.public.items() if name != "kid"}]}},
        {"jwks_uri": "https://keys.test/jwks"},
        {"token_endpoint_auth_method": "client_secret_basic"},
        {"redirect_uris": ["https://app.test/cb"]},
        {"push": {"mode": "deliver"}},
        {"push": {"mode": "deliver", "ehr": "elsewhere"}},
        {"push": {"mode": "deliver", "ehr": "hapi", "source_ehr": "hapi"}},
        {"push": {"mode": "deliver", "ehr": "hapi"}, "ehrs": ["stmarys"]},
        {"push": {"mode": "notify"}},
        {"push": {"mode": "notify", "ehr": "hapi"}, "ehrs": ["hapi"]},
        {"push": {"mode": "both", "ehr": "hapi"}},
        {"push": "deliver"},
    ],
)
def test_backends_that_are_refused(changes):
    """A sender has keys, system scopes, and one clear direction that does not end in itself."""
    with pytest.raises(OAuthError):
        registered(LAB | changes)


def test_senders_count_at_one_ehr():
    """deliver: at its target; notify: at the EHR that it is."""
    deliver = registered(LAB | {"push": {"mode": "deliver", "ehr": "hapi", "source_ehr": "stmarys"}}).client
    notify = registered(LAB | {"push": {"mode": "notify"}, "ehrs": ["stmarys"]}).client
    only = registered(LAB | {"push": {"mode": "notify"}}, Rules(("hapi",))).client
    assert (deliver.ehrs, notify.ehrs, only.ehrs) == (("hapi",), ("stmarys",), ("hapi",))
    assert deliver.auth_method == "private_key_jwt"
