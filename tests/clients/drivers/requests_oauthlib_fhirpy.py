"""requests-oauthlib for the launch, fhirpy for the record, as people combine them. Less scope than was asked for is an error of oauthlib's."""

import requests
from fhirpy import SyncFHIRClient
from requests_oauthlib import OAuth2Session
from talk import ask, refused, tell, told

BASE, SECRET = told["base"], told["secret"]
SCOPE = ["launch/patient", "openid", "fhirUser", "offline_access", "patient/Patient.r", "patient/Observation.rs"]
found = requests.get(f"{BASE}/.well-known/smart-configuration", timeout=10).json()
tokens = []


def session(**more):
    """One for each launch."""
    return OAuth2Session(told["client_id"], scope=SCOPE, redirect_uri=told["redirect_uri"], pkce="S256", **more)


def launched(oauth, choice="all", aud=BASE):
    """Through the browser, and the code for a token; oauthlib judges the scope."""
    url, _ = oauth.authorization_url(found["authorization_endpoint"], aud=aud)
    return oauth.fetch_token(found["token_endpoint"], authorization_response=ask("open", url=url, choice=choice), client_secret=SECRET)


def record(token):
    """The record by fhirpy, with that token."""
    return SyncFHIRClient(BASE, authorization=f"Bearer {token['access_token']}")


def name(patient):
    """As a person says it."""
    return " ".join(patient["name"][0]["given"] + [patient["name"][0]["family"]])


renewing = {"auto_refresh_url": found["token_endpoint"], "auto_refresh_kwargs": {"client_id": told["client_id"], "client_secret": SECRET}}
oauth = session(token_updater=tokens.append, **renewing)
token = dict(launched(oauth))
fhir = record(token)
patient = fhir.reference("Patient", token["patient"]).to_resource()
search = fhir.resources("Observation").search(patient=patient["id"]).limit(10)
results = [one["id"] for one in search.fetch_all()]
count = search.count()

ask("expire")
expired = refused(lambda: record(token).reference("Patient", token["patient"]).to_resource())
oauth._client._expires_at = 1  # it goes by its own note of when
answer = oauth.get(f"{BASE}/Patient/{token['patient']}")

tell(
    name=name(patient),
    pages=[results[at : at + 10] for at in range(0, len(results), 10)],
    count=count,
    again=name(record(tokens[-1]).reference("Patient", token["patient"]).to_resource()),
    status=answer.status_code,
    refreshed=tokens[-1]["access_token"] != token["access_token"],
    expired=expired,
    forbidden=refused(lambda: record(tokens[-1]).reference("Patient", "bob").to_resource()),
    audience=refused(lambda: launched(session(), aud="https://elsewhere.example/fhir")),
    less=refused(lambda: launched(session(), choice="less")),
)
