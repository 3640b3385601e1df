"""Servers with brands, and with a bulk export, which our gateway does not have: right ones and wrong ones."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import httpx

from tests.conformance.changes import METADATA, SMART, Answer, Mutant, answered, edited, having, is_at
from tests.conformance.config import Config

_EXTENSION = "http://hl7.org/fhir/StructureDefinition/organization-portal"
_NONE = {"coding": [{"system": "http://terminology.hl7.org/CodeSystem/endpoint-payload-type", "code": "none"}]}


def brand_bundle(base: str) -> dict[str, Any]:
    """A user-access brands bundle as it should be."""
    endpoint = {
        "resourceType": "Endpoint",
        "id": "r4",
        "extension": [{"url": "http://hl7.org/fhir/StructureDefinition/endpoint-fhir-version", "valueCode": "4.0.1"}],
        "status": "active",
        "connectionType": {"system": "http://terminology.hl7.org/CodeSystem/endpoint-connection-type", "code": "hl7-fhir-rest"},
        "contact": [{"system": "url", "value": "https://clinic.example/developers"}],
        "payloadType": [_NONE],
        "address": base,
    }
    portal = [{"url": "portalName", "valueString": "Portal"}, {"url": "portalEndpoint", "valueReference": {"reference": "Endpoint/r4"}}]
    brand = {
        "resourceType": "Organization",
        "id": "clinic",
        "extension": [{"url": _EXTENSION, "extension": portal}],
        "identifier": [{"system": "urn:ietf:rfc:3986", "value": "https://clinic.example"}],
        "name": "Clinic",
        "telecom": [{"system": "url", "value": "https://clinic.example"}],
        "endpoint": [{"reference": "Endpoint/r4"}],
    }
    entries = [{"fullUrl": f"https://clinic.example/{one['resourceType']}/{one['id']}", "resource": one} for one in (brand, endpoint)]
    meta = {"lastUpdated": "2026-01-01T00:00:00Z"}
    return {"resourceType": "Bundle", "type": "collection", "meta": meta, "timestamp": "2026-01-01T00:00:00Z", "entry": entries}


def branded(told: Config, edit: Callable[[dict[str, Any]], object] = lambda _bundle: None, **headers: str | None) -> Answer:
    """A server with a brands bundle, changed by `edit`."""
    url = f"{told.base}/brands.json"
    names = having(user_access_brand_bundle=url, user_access_brand_identifier={"value": "https://clinic.example"})

    def answer(request: httpx.Request, response: httpx.Response) -> httpx.Response:
        if not is_at(request, "/brands.json"):
            return edited(SMART, names)(request, response)
        bundle = brand_bundle(told.base)
        edit(bundle)
        given = {"content_type": "application/fhir+json", "access_control_allow_origin": "*", "etag": 'W/"1"'} | headers
        return answered(response, bundle, status=200, **given)

    return answer


def wrong_brands(told: Config) -> Iterator[Mutant]:
    """Each breaks one check of A13."""
    brand, endpoint = (lambda bundle: bundle["entry"][0]["resource"]), (lambda bundle: bundle["entry"][1]["resource"])
    yield Mutant("no CORS for brands", ("A13.75",), answer=branded(told, access_control_allow_origin=None))
    yield Mutant("a searchset of brands", ("A13.76",), answer=branded(told, having(type="searchset")))
    yield Mutant("an endpoint without contact", ("A13.77",), answer=branded(told, lambda bundle: endpoint(bundle).pop("contact")))
    yield Mutant("an endpoint of nobody", ("A13.77", "A13.79"), answer=branded(told, lambda bundle: endpoint(bundle).update(id="other")))
    nowhere = f"{told.base}/nowhere"
    yield Mutant("an address of nothing", ("A13.78",), answer=branded(told, lambda bundle: endpoint(bundle).update(address=nowhere)))
    yield Mutant("two ways to call", ("A13.79",), answer=branded(told, lambda bundle: brand(bundle)["telecom"].append({"value": "x"})))
    yield Mutant("an identifier of nobody", ("A13.80",), answer=branded(told, lambda bundle: brand(bundle).pop("identifier")))


class Exports:
    """A server with a bulk export, as it should be or wrong in `wrong`: a status, or "patients"."""

    def __init__(self, told: Config, wrong: str = "") -> None:
        self.base, self.wrong, self.jobs, self.polls = told.base, wrong, set[str](), 0

    def answer(self, request: httpx.Request, response: httpx.Response) -> httpx.Response:
        path = request.url.path
        if is_at(request, METADATA):
            return edited(METADATA, self._listed)(request, response)
        if "authorization" not in request.headers and ("/$export" in path or "/bulk/" in path):
            return answered(response, {}, status=401)
        if path.endswith("/$export"):
            self.jobs.add(job := f"{self.base}/bulk/{len(self.jobs)}")
            return answered(response, {}, status=200 if self.wrong == "kick-off" else 202, content_location=job)
        if path.endswith(".ndjson"):
            lines = ['{"resourceType":"Patient"}'] * (1 if self.wrong == "patients" else 2)
            return httpx.Response(200, content="\n".join(lines), request=request)
        return self._status(request, response) if "/bulk/" in path else response

    def _listed(self, found: dict[str, Any]) -> None:
        patient = next(one for one in found["rest"][0]["resource"] if one["type"] == "Patient")
        patient["operation"] = [{"name": "export", "definition": "http://hl7.org/fhir/uv/bulkdata/OperationDefinition/patient-export"}]

    def _status(self, request: httpx.Request, response: httpx.Response) -> httpx.Response:
        job = str(request.url)
        if request.method == "DELETE":
            if self.wrong != "delete":
                self.jobs.discard(job)
            return answered(response, {}, status=202)
        if job not in self.jobs:
            return answered(response, {"resourceType": "OperationOutcome"}, status=404)
        self.polls += 1
        if self.polls == 1:
            return answered(response, {}, status=202, retry_after="0")
        files = [{"type": "Patient", "url": f"{job}/1.ndjson"}]
        status = {"transactionTime": "2026-01-01T00:00:00Z", "request": job, "requiresAccessToken": True, "output": files, "error": []}
        return answered(response, status, status=200)
