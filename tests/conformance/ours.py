"""Our gateway as a server under test: https, a patient with something of every type, and the clients and people that the suite asks for."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import ssl
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import httpx
import trustme

from gateway import config, local
from gateway.smart.server.authorization.launches import Wanted
from gateway.store.oauth_rows import ListedPatient
from tests.conformance.config import App, Config, ServedKeys, SignIn
from tests.conformance.jose import Key
from tests.support import parts
from tests.support.processes import Served, serving

EHR = "hapi"
PASSWORD = "correct horse battery"
REDIRECT, LAUNCH = "http://127.0.0.1:8765/callback", "http://127.0.0.1:8765/launch"
OFFERED = {
    "GATEWAY_REGISTRATION": "token",
    "GATEWAY_BRAND_NAME": "Conformance clinic",
    "GATEWAY_BRAND_WEBSITE": "https://www.clinic.example/welcome",
    "GATEWAY_EHR_HAPI_US_CORE": "8.0.0",
}
"""What is there by configuration alone, so that it is judged."""
HL7, US_CORE = "http://terminology.hl7.org/CodeSystem", "http://hl7.org/fhir/us/core/CodeSystem"
LOINC, SNOMED, RXNORM = "http://loinc.org", "http://snomed.info/sct", "http://www.nlm.nih.gov/research/umls/rxnorm"


def concept(system: str, code: str) -> dict[str, Any]:
    return {"coding": [{"system": system, "code": code}]}


@dataclass(frozen=True)
class Chart:
    """Two patients, of whom the first has two or more of what has categories and one of everything else. Ids are of one run alone."""

    tag: str = field(default_factory=lambda: secrets.token_hex(4))

    def id(self, name: str) -> str:
        return f"{name}-{self.tag}"

    def ref(self, kind: str, name: str) -> dict[str, str]:
        return {"reference": f"{kind}/{self.id(name)}"}

    def resources(self) -> list[dict[str, Any]]:
        return [*self._people(), *self._conditions(), *self._observations(), *self._medicines(), *self._plans(), *self._documents()]

    def made(self, kind: str, name: str, /, **more: Any) -> dict[str, Any]:
        return {"resourceType": kind, "id": self.id(name), **more}

    @property
    def ann(self) -> dict[str, str]:
        return self.ref("Patient", "ann")

    def _people(self) -> Iterator[dict[str, Any]]:
        named = {"name": [{"family": "Conform", "given": ["Ann"]}], "gender": "female", "birthDate": "1980-02-03"}
        yield self.made("Patient", "ann", identifier=[{"system": "urn:suite", "value": self.id("mrn")}], **named)
        yield self.made("Patient", "kit", name=[{"family": "Conform", "given": ["Kit"]}], gender="male", birthDate="2015-06-07")
        yield self.made("Organization", "clinic", active=True, name="Conformance clinic")
        yield self.made("Location", "ward", status="active", name="Ward 1", managingOrganization=self.ref("Organization", "clinic"))
        yield self.made("Practitioner", "doc", name=[{"family": "Bone", "given": ["Ida"]}])
        role = {"practitioner": self.ref("Practitioner", "doc"), "organization": self.ref("Organization", "clinic")}
        yield self.made("PractitionerRole", "role", **role, specialty=[concept("http://nucc.org/provider-taxonomy", "207Q00000X")])
        yield self.made("RelatedPerson", "kin", patient=self.ann, relationship=[concept(f"{HL7}/v3-RoleCode", "SPS")])
        period = {"period": {"start": "2025-03-01T09:00:00Z", "end": "2025-03-01T10:00:00Z"}}
        act = {"system": f"{HL7}/v3-ActCode", "code": "AMB"}
        yield self.made("Encounter", "visit", status="finished", **{"class": act}, type=[concept(SNOMED, "185349003")], subject=self.ann, **period)
        yield self.made("Coverage", "plan", status="active", subscriber=self.ann, beneficiary=self.ann, payor=[self.ref("Organization", "clinic")])

    def _conditions(self) -> Iterator[dict[str, Any]]:
        for code, category in {
            "73211009": f"{HL7}/condition-category|encounter-diagnosis",
            "38341003": f"{HL7}/condition-category|problem-list-item",
            "160903007": f"{US_CORE}/condition-category|health-concern",
        }.items():
            states = {"clinicalStatus": concept(f"{HL7}/condition-clinical", "active"), "recordedDate": "2025-03-02"}
            category_ = [concept(*category.split("|"))]
            yield self.made("Condition", f"c{code}", **states, category=category_, code=concept(SNOMED, code), subject=self.ann)

    def _observations(self) -> Iterator[dict[str, Any]]:
        for code, category in {
            "718-7": f"{HL7}/observation-category|laboratory",
            "2345-7": f"{HL7}/observation-category|laboratory",
            "72166-2": f"{HL7}/observation-category|social-history",
            "8867-4": f"{HL7}/observation-category|vital-signs",
            "44249-1": f"{HL7}/observation-category|survey",
            "71802-3": f"{US_CORE}/us-core-category|sdoh",
        }.items():
            value = {"effectiveDateTime": "2025-03-01T09:30:00Z", "valueQuantity": {"value": 1.5, "unit": "1"}}
            category_ = [concept(*category.split("|"))]
            yield self.made("Observation", f"o{code}", status="final", category=category_, code=concept(LOINC, code), subject=self.ann, **value)

    def _medicines(self) -> Iterator[dict[str, Any]]:
        drug, medication = concept(RXNORM, "860975"), {"medicationReference": self.ref("Medication", "drug")}
        yield self.made("Medication", "drug", code=drug)
        yield self.made("MedicationRequest", "order", status="active", intent="order", **medication, subject=self.ann, authoredOn="2025-03-01")
        yield self.made("MedicationDispense", "supply", status="completed", medicationCodeableConcept=drug, subject=self.ann)
        yield self.made("Immunization", "shot", status="completed", vaccineCode=concept("http://hl7.org/fhir/sid/cvx", "140"), patient=self.ann,
            occurrenceDateTime="2024-10-01")  # fmt: skip
        yield self.made("AllergyIntolerance", "nuts", clinicalStatus=concept(f"{HL7}/allergyintolerance-clinical", "active"), patient=self.ann,
            code=concept(SNOMED, "762952008"))  # fmt: skip

    def _plans(self) -> Iterator[dict[str, Any]]:
        category = [concept(f"{US_CORE}/careplan-category", "assess-plan")]
        member = [{"member": self.ref("Practitioner", "doc")}]
        yield self.made("CarePlan", "care", status="active", intent="plan", category=category, subject=self.ann)
        yield self.made("CareTeam", "team", status="active", subject=self.ann, participant=member)
        yield self.made("Goal", "goal", lifecycleStatus="active", description={"text": "Walk"}, subject=self.ann)
        yield self.made("Device", "pump", status="active", type=concept(SNOMED, "69805005"), patient=self.ann)
        yield self.made("Procedure", "ecg", status="completed", code=concept(SNOMED, "29303009"), subject=self.ann, performedDateTime="2025-03-01")
        yield self.made("ServiceRequest", "referral", status="active", intent="order", code=concept(SNOMED, "183515008"), subject=self.ann)
        yield self.made("Specimen", "blood", type=concept(SNOMED, "119297000"), subject=self.ann)

    def _documents(self) -> Iterator[dict[str, Any]]:
        report = {"category": [concept(f"{HL7}/v2-0074", "LAB")], "code": concept(LOINC, "58410-2"), "effectiveDateTime": "2025-03-01T09:30:00Z"}
        yield self.made("DiagnosticReport", "report", status="final", **report, subject=self.ann)
        content = [{"attachment": {"contentType": "text/plain", "data": "SGVsbG8="}}]
        yield self.made("DocumentReference", "note", status="current", type=concept(LOINC, "34117-2"), subject=self.ann, content=content)
        yield self.made("QuestionnaireResponse", "answers", status="completed", subject=self.ann, authored="2025-03-01")
        agent = [{"who": self.ref("Practitioner", "doc")}]
        yield self.made("Provenance", "origin", target=[self.ref("Observation", "o718-7")], recorded="2025-03-01T09:30:00Z", agent=agent)


def load(hapi_url: str, chart: Chart) -> None:
    """Put the chart into the EHR behind the gateway's back."""
    entries = [{"resource": one, "request": {"method": "PUT", "url": f"{one['resourceType']}/{one['id']}"}} for one in chart.resources()]
    bundle = {"resourceType": "Bundle", "type": "transaction", "entry": entries}
    answer = httpx.post(hapi_url, json=bundle, headers={"Content-Type": "application/fhir+json"}, timeout=60, trust_env=False)
    assert answer.status_code == 200, answer.text[:2000]


@contextlib.contextmanager
def gateway(folder: Path, hapi_url: str) -> Iterator[Config]:
    """`gateway serve` over TLS on a real HAPI, and what the suite must be told of it."""
    chart, port = Chart(), parts.free_port()
    load(hapi_url, chart)
    public_url = f"https://localhost:{port}"
    _certificates(folder)
    env = {"GATEWAY_PUBLIC_URL": public_url, "GATEWAY_JWKS_LOOPBACK": "true"} | OFFERED
    flags = {"ehr": (f"{EHR}={hapi_url}",), "store": f"sqlite:///{folder / 'gateway.db'}"}
    settings = config.load(environ=env, flags=flags, cwd=folder).settings
    told = _told(folder, f"{public_url}/fhir/{EHR}", chart, lambda: asyncio.run(_launch(settings, chart)))
    asyncio.run(_register(settings, told, chart))
    extra = ("--tls-cert", "chain.pem", "--tls-key", "key.pem")
    with serving(folder, f"{EHR}={hapi_url}", extra=extra, env=env, port=port, ready=False) as served:
        _wait(told, served)
        yield told


def _certificates(folder: Path) -> None:
    authority = trustme.CA()
    certificate = authority.issue_cert("localhost")
    certificate.cert_chain_pems[0].write_to_path(folder / "chain.pem")
    certificate.private_key_pem.write_to_path(folder / "key.pem")
    authority.cert_pem.write_to_path(folder / "ca.pem")


def _told(folder: Path, base: str, chart: Chart, launch: Callable[[], dict[str, str]]) -> Config:
    clients = {
        "symmetric": App("suite", "secret-of-the-suite"),
        "public": App("suite-public"),
        "asymmetric": App("suite-keyed", key=Key.new("RSA")),
        "backend": App("suite-backend", key=Key.new("EC"), scope="system/*.rs"),
    }
    patient = chart.id("ann")
    people = {"patient": SignIn("ann", PASSWORD, patient), "clinician": SignIn("doc", PASSWORD, patient)}
    by_url = ServedKeys(App("suite-by-url", key=Key.new("EC"), scope="system/*.rs"), "127.0.0.1", parts.free_port())
    return Config(
        base=base,
        redirect_uri=REDIRECT,
        launch_uri=LAUNCH,
        clients=clients,
        served_keys=by_url,
        people=people,
        launch=launch,
        ca=folder / "ca.pem",
    )


async def _launch(settings: config.Settings, chart: Chart) -> dict[str, str]:
    """What `gateway launch create --user doc --json` prints, without a process of its own."""
    async with local.opened(settings) as state:
        wanted = Wanted(EHR, "suite", chart.id("ann"), chart.id("visit"), "doc")
        return asdict(await local.launches(state).create(wanted))


async def _register(settings: config.Settings, told: Config, chart: Chart) -> None:
    """Clients and people, as the operator's commands make them."""
    async with local.opened(settings) as state:
        people, registrar = local.accounts(state), local.registrar(state)
        ann, kit = ListedPatient(chart.id("ann"), "Ann Conform"), ListedPatient(chart.id("kit"), "Kit Conform")
        await people.add("ann", PASSWORD, ehr=EHR, fhir_user=f"Patient/{ann.patient}", display_name="Ann Conform", patients=(ann, kit))
        await people.add("doc", PASSWORD, ehr=EHR, fhir_user=f"Practitioner/{chart.id('doc')}", display_name="Dr. Ida Bone", patients=(ann, kit))
        for metadata in _registrations(told):
            await registrar.register(metadata)


def _registrations(told: Config) -> Iterator[dict[str, Any]]:
    for name, app in told.clients.items():
        found: dict[str, Any] = {"client_id": app.id, "client_name": f"Suite, {name}"}
        found |= {"client_secret": app.secret} if app.secret else {}
        found |= {"jwks": {"keys": [app.key.public]}} if app.key else {}
        found |= {"token_endpoint_auth_method": "none"} if not app.secret and not app.key else {}
        if name == "backend":
            yield found | {"grant_types": ["client_credentials"], "scope": app.scope}
        else:
            yield found | {"redirect_uris": [REDIRECT], "launch_uri": LAUNCH}
    served = told.served_keys
    if served:
        uri = f"http://{served.host}:{served.port}{served.path}"
        yield {"client_id": served.app.id, "grant_types": ["client_credentials"], "scope": served.app.scope, "jwks_uri": uri}


def _wait(told: Config, served: Served) -> None:
    deadline, trust = time.monotonic() + 60, ssl.create_default_context(cafile=str(told.ca))
    with httpx.Client(verify=trust, trust_env=False) as http:
        while time.monotonic() < deadline:
            assert served.process.poll() is None, served.log.read_text()
            with contextlib.suppress(httpx.HTTPError):
                if http.get(f"{told.base.partition('/fhir/')[0]}/readyz").status_code == 200:
                    return
            time.sleep(0.1)
    raise AssertionError(served.log.read_text())
