"""The FHIR client of Cumulus: a backend service that proves itself by its key, asks for version 1 scopes, and asks for a new token at a 401."""

import asyncio

from cumulus_fhir_support import FhirClient
from cumulus_fhir_support import __version__ as version
from talk import ask, tell, told

KEYS = {"keys": [{**told["key"], "key_ops": ["sign"]}]}


def client(key=None, resources=("Patient", "Observation")):
    """As its own command line makes one."""
    return FhirClient(told["base"], resources, smart_client_id=told["client_id"], smart_jwks=key or KEYS)


async def refused(act):
    """The library's own error, as its class and its words."""
    try:
        await act
    except Exception as error:  # noqa: BLE001 (which one is the question)
        return f"{type(error).__name__}: {error}"
    return ""


async def opened(made):
    """Authorized, or its error."""
    async with made:
        pass


async def main():
    """One session."""
    async with client() as fhir:
        patient = (await fhir.request("GET", "Patient/ann")).json()
        pages, url = [], "Observation?patient=ann&_count=10"
        while url:
            bundle = (await fhir.request("GET", url)).json()
            pages.append([entry["resource"]["id"] for entry in bundle["entry"]])
            url = next((link["url"] for link in bundle["link"] if link["relation"] == "next"), None)
        first = fhir._auth.sign_headers()
        ask("expire")
        again = (await fhir.request("GET", "Patient/ann")).json()
        other = {**told["key"], "key_ops": ["sign"], **told["wrong"]}
        tell(
            version=version,
            name=" ".join(patient["name"][0]["given"] + [patient["name"][0]["family"]]),
            pages=pages,
            again=" ".join(again["name"][0]["given"] + [again["name"][0]["family"]]),
            refreshed=fhir._auth.sign_headers() != first,
            forbidden=await refused(fhir.request("GET", "Condition?patient=ann")),
            key=await refused(opened(client({"keys": [other]}))),
            mixed=await refused(opened(client(resources=("Patient", "Condition")))),
            scope=await refused(opened(client(resources=("Condition",)))),
        )


asyncio.run(main())
