"""Authlib's httpx client: a launch with PKCE, proving itself by a key; it refreshes by itself what expired."""

import secrets
import time

import httpx
from authlib.integrations.httpx_client import OAuth2Client
from authlib.oauth2.rfc7523 import PrivateKeyJWT
from joserfc import jwk
from talk import ask, refused, tell, told

BASE = told["base"]
SCOPE = "launch/patient openid fhirUser offline_access patient/Patient.r patient/Observation.rs"
found = httpx.get(f"{BASE}/.well-known/smart-configuration").json()


def registered(proof):
    """A client that proves itself in this way."""
    made = OAuth2Client(
        told["client_id"],
        jwk.ECKey.import_key(told["key"]),
        token_endpoint_auth_method="private_key_jwt",
        scope=SCOPE,
        redirect_uri=told["redirect_uri"],
        code_challenge_method="S256",
        token_endpoint=found["token_endpoint"],
    )
    made.register_client_auth_method(("private_key_jwt", proof))
    return made


def method(**claims):
    """Its own; without `alg` it signs with RS256, whatever the key."""
    return PrivateKeyJWT(found["token_endpoint"], claims=claims or None, headers={"kid": told["key"]["kid"]}, alg="ES384")


def shortly(*request):
    """An assertion of four minutes; without the claim it is an hour. Made anew each time: the jti stays in the claims that it was given."""
    return method(exp=int(time.time()) + 240)(*request)


def launched(oauth, aud):
    """Through the browser, and the code for a token."""
    verifier = secrets.token_urlsafe(48)
    url, state = oauth.create_authorization_url(found["authorization_endpoint"], code_verifier=verifier, aud=aud)
    arrived = ask("open", url=url)
    return oauth.fetch_token(authorization_response=arrived, state=state, code_verifier=verifier)


def name(patient):
    """As a person says it."""
    return " ".join(patient["name"][0]["given"] + [patient["name"][0]["family"]])


oauth = registered(shortly)
token = launched(oauth, BASE)
patient = oauth.get(f"{BASE}/Patient/{token['patient']}").json()
pages, url = [], f"{BASE}/Observation?patient={patient['id']}&_count=10"
while url:
    bundle = oauth.get(url).json()
    pages.append([entry["resource"]["id"] for entry in bundle["entry"]])
    url = next((link["url"] for link in bundle["link"] if link["relation"] == "next"), None)

ask("expire")
oauth.token["expires_at"] = 1  # it goes by its own note of when
again = oauth.get(f"{BASE}/Patient/{token['patient']}").json()

tell(
    name=name(patient),
    pages=pages,
    again=name(again),
    refreshed=oauth.token["access_token"] != token["access_token"],
    forbidden=refused(lambda: oauth.get(f"{BASE}/Patient/bob").raise_for_status()),
    # It does not look for an error in the address, and asks for a token in its own name instead.
    audience=refused(lambda: launched(registered(shortly), "https://elsewhere.example/fhir")),
    unknown=refused(lambda: oauth.refresh_token(found["token_endpoint"], refresh_token="no-token")),
    as_it_comes=refused(lambda: launched(registered(method()), BASE)),
)
