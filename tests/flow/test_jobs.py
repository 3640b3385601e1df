"""The three jobs, on each EHR: a patient, an EHR and a developer do what they came for, through two real `gateway serve` processes.

The EHRs are a real HAPI (with its search reuse of 60 s), the embedded EHR, and the package's double on a socket. What a page or an answer
says is compared with the bytes that the EHR itself gives. Then Redis fails, and everybody makes mistakes.
"""

from __future__ import annotations

import json
import re
import secrets
import signal
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlencode, urlsplit

import httpx
import pytest
import redis
from click.testing import CliRunner, Result
from joserfc import jwk, jwt

from gateway import local
from gateway.adapters.ehr import wire
from gateway.cli import main
from gateway.sandbox.double import Double, Fault
from gateway.sandbox.double import served as double_served
from tests.support import smart
from tests.support.jobs_letters import FORMS, day
from tests.support.jobs_record import quantity
from tests.support.jobs_scene import APP, EHR, OTHER, PASSWORD, SECRET, Scene, Visitor, eventually, scene, text_of
from tests.support.jobs_watch import watching
from tests.support.jobs_wrong import BAD_COMMANDS, BAD_FHIR, BAD_OAUTH, BAD_PAGES, FORM_TYPE, INSIDE, JSON_TYPE, MESSAGE
from tests.support.two_people import Two, load
from tests.support.whole_in_process import whole

pytestmark = pytest.mark.timeout(300)
ALL = ("double", "embedded", pytest.param("hapi", marks=pytest.mark.hapi))


@pytest.fixture(scope="module", params=ALL)
def at(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    """The gateway before one EHR after the other."""
    hapi_url = request.getfixturevalue("hapi_url") if request.param == "hapi" else ""
    with scene(request.param, tmp_path_factory.mktemp(request.param), hapi_url) as found:
        yield found


@pytest.fixture(scope="module")
def ann(at: Scene) -> Visitor:
    """The patient, signed in."""
    visitor = at.visitor()
    visitor.sign_in("ann")
    return visitor


# The patient's job --------------------------------------------------------------------------------------------------------------------


def test_she_signs_in_and_out(at: Scene):
    """The portal sends her to the sign-in page and back; a wrong password is a sentence; after signing out nothing is shown."""
    visitor = at.visitor()
    page = visitor.get("/portal/conditions")
    assert page.url.path == "/signin"
    wrong = visitor.send(page, "/signin", username="ann", password="something else")
    assert "The user name or the password is not right" in text_of(wrong.text)
    home = visitor.send(wrong, "/signin", username="ann", password=PASSWORD)
    assert home.url.path == "/portal/conditions"
    assert "Asthma" in text_of(home.text)
    assert "Welcome, Ann Aster" in text_of(visitor.get("/portal/", at=1).text), "signed in at every process"
    visitor.send(home, "/signout")
    for process in (0, 1):
        assert visitor.get("/portal/conditions", at=process).url.path == "/signin"


STATUS = {"final": "Final", "preliminary": "Early result", "amended": "Changed", "corrected": "Corrected"}
RESULTS = ["creatinine", "crp", "screen", "nitrite", "culture", "ferritin", "tsh"]


def amount(value: Mapping[str, str]) -> str:
    return f"{value.get('comparator', '')}{value['value']} {value['unit']}"


def said(raw: bytes) -> tuple[str, str, str]:
    """Value, range and status of a result in words, from the EHR's bytes: numbers stay text."""
    resource = json.loads(raw, parse_float=str, parse_int=str)
    value = resource.get("valueString") or resource.get("valueCodeableConcept", {}).get("text") or amount(resource["valueQuantity"])
    (band,) = resource.get("referenceRange") or [{}]
    low, high = band.get("low"), band.get("high")
    bounds = f"{low['value']} to {amount(high)}" if low and high else f"{amount(high)} or less" if high else ""
    return value, band.get("text") or bounds, STATUS[resource["status"]]


@pytest.mark.parametrize("name", RESULTS)
def test_a_result_is_shown_as_the_ehr_has_it(at: Scene, ann: Visitor, name: str):
    """Value, unit, range text and status on the list and on the page of the result, character by character (F10)."""
    id_ = at.record.id(name)
    value, band, status = said(at.upstream.raw(f"Observation/{id_}"))
    listed = ann.get("/portal/results?show=1000")
    card = text_of(listed.text.partition(f"/portal/results/observation/{id_}")[2].partition("</li>")[0])
    page = text_of(ann.get(f"/portal/results/observation/{id_}", at=1).text)
    for shown in (card, page):
        assert value in shown
        assert band in shown
    assert status in page
    assert status in card or status == "Final"
    assert at.record.canary not in listed.text


def test_numbers_reach_the_ehr_as_written(at: Scene):
    """The record that the pages are compared with really holds 1.10, 48.0 and 0.0010."""
    for name, number in (("creatinine", b"1.10"), ("ferritin", b"48.0"), ("tsh", b"0.0010")):
        assert re.search(rb'"value"\s*:\s*' + re.escape(number) + rb"\b", at.upstream.raw(f"Observation/{at.record.id(name)}"))


def test_she_sees_her_conditions_and_medicines(at: Scene, ann: Visitor):
    """What is now and what is over; each medicine with its directions (F01, F09)."""
    conditions = text_of(ann.get("/portal/conditions").text)
    assert re.search(r"Now Asthma Active Began: April 2015.* In the past Pneumonia Gone", conditions)
    medicines = text_of(ann.get("/portal/medicines").text)
    assert "Metformin 500 mg tablet Take 1 tablet every evening with food" in medicines
    assert "Salbutamol inhaler 2 puffs when you wheeze" in medicines


def test_she_sees_her_appointments_coming_and_past(at: Scene, ann: Visitor):
    """Under their headings, with status and doctor (F26)."""
    shown = text_of(ann.get("/portal/appointments?show=1000").text)
    coming, _, past = shown.partition("Booked")[2].partition("Past and cancelled")
    start = datetime.now(UTC) + timedelta(days=9)
    assert re.search(rf"Yearly check-up \w+, {start.day} \w+ {start.year}, .*Booked Dr. Ida Lund", coming)
    assert "Eye photograph" in past
    assert "Took place" in past
    assert "Eye photograph" not in coming


def test_she_reads_a_thread(at: Scene, ann: Visitor):
    """Who wrote what to her (F20)."""
    listed = ann.get("/portal/messages")
    assert "Your new inhaler" in text_of(listed.text)
    thread = text_of(ann.get(f"/portal/messages/{at.record.id('thread')}").text)
    assert "How do you get on with the new inhaler?" in thread
    assert "Dr. Ida Lund" in thread


def test_she_reads_her_bills_in_words(at: Scene, ann: Visitor):
    """What was billed, paid and is left, with the amounts as written; a claim without a decision says so (F36)."""
    shown = text_of(ann.get(f"/portal/bills/plan/{at.record.id('benefit')}").text)
    for words in ("Larch Clinic billed $180.00.", "Larkspur Health paid $150.50.", "You owe $29.50"):
        assert words in shown
    listed = text_of(ann.get("/portal/bills?show=1000").text)
    assert "Sent to your plan" in listed
    assert "$95.10" in listed


def test_she_sees_who_looked(at: Scene, ann: Visitor):
    """Her own visit, and that of the app which she allowed, at once and by name (F45, promise 5)."""
    assert at.fhir(at.app_token(), "GET", f"Condition/{at.record.id('asthma')}").status_code == 200
    shown = text_of(ann.get("/portal/access?show=1000", at=1).text)
    assert "You Looked at" in shown
    others = text_of(ann.get("/portal/access?who=others&show=1000").text)
    assert "Growth chart" in others
    assert "health conditions" in others


@pytest.mark.parametrize("name", FORMS)
def test_what_she_sends_is_in_the_ehr_once(at: Scene, ann: Visitor, name: str):
    """The same form five times at once, at two processes, and a sixth time: one effect, right as FHIR, and on her pages at once."""
    form, word = FORMS[name], f"word {secrets.token_hex(4)}"

    def filled(text: str) -> str:
        return text.format(tag=at.record.tag, word=word)

    before = {one["id"] for one in at.upstream.all(form.kind, at.record.a)}
    for process in (0, 1):
        assert word not in ann.get(f"/portal/{filled(form.where)}", at=process).text
    path = f"/portal/{filled(form.page)}"
    action, body = ann.filled(ann.get(path), path.partition("?")[0], **{key: filled(value) for key, value in form.fields.items()})
    with ThreadPoolExecutor(5) as pool:
        pages = [*pool.map(lambda turn: ann.post(action, body, at=turn % 2), range(5)), ann.post(action, body)]
    assert [page.status_code for page in pages] == [200] * 6
    assert all(form.says in text_of(page.text) for page in pages)
    assert len({page.url.path for page in pages}) == 1
    made = [one for one in at.upstream.all(form.kind, at.record.a) if one["id"] not in before]
    assert len(made) == form.makes
    assert all(re.fullmatch("[0-9a-f]{32}", one["id"]) for one in made), "the id is that of the form: If-None-Exist is a lock nowhere"
    assert {one["meta"]["versionId"] for one in made} == {"1"}, "written once, at whichever process"
    form.check(at, made, word)
    for process in (0, 1):
        shown = text_of(ann.get(f"/portal/{filled(form.where)}", at=process).text)
        assert (word if name != "refill" else "You asked for more on") in shown


def test_she_cancels_an_appointment_once(at: Scene, ann: Visitor):
    """Five times at once: cancelled in the EHR in one new version, her own answer declined and nothing else changed, and said at once."""
    id_ = f"away-{secrets.token_hex(4)}"
    visit = at.record.visit("x", "booked", 15, f"Visit {id_}") | {"id": id_}
    at.upstream.put(visit)
    at.notify(visit)
    assert f"Visit {id_}" in text_of(ann.get("/portal/appointments?show=1000").text).partition("Past and cancelled")[0]
    page = ann.get(f"/portal/appointments/{id_}/cancel")
    unsaid = ann.send(page, "/cancel", reason="")
    assert (unsaid.status_code, "Choose why you are cancelling" in unsaid.text) == (422, True)
    action, body = ann.filled(page, "/cancel", reason="pat-lt")
    with ThreadPoolExecutor(5) as pool:
        pages = list(pool.map(lambda turn: ann.post(action, body, at=turn % 2), range(5)))
    assert [page.status_code for page in pages] == [200] * 5
    assert all("This appointment is cancelled." in page.text for page in pages)
    found = at.upstream.get(f"Appointment/{id_}")
    assert (found["status"], found["meta"]["versionId"], found["start"]) == ("cancelled", "2", visit["start"])
    assert found["cancelationReason"]["coding"][0]["code"] == "pat-lt"
    assert [one["status"] for one in found["participant"]] == ["declined", "accepted"]
    assert f"Visit {id_}" in text_of(ann.get("/portal/appointments?show=1000", at=1).text).partition("Past and cancelled")[2]


async def test_an_ehr_that_chooses_ids_itself_gets_each_form_once(tmp_path):
    """It was thought to take ids of clients, and says 405: the form is sent as a conditional create instead, and twice is once."""
    double, people = Double(client_ids=False), Two()
    double.seed(*people.resources())
    with double_served(double) as url:
        async with whole(url, tmp_path) as running:
            await local.accounts(running.gateway.state).add("ann", PASSWORD, ehr="hapi", fhir_user=f"Patient/{people.a}")
            browser = smart.Browser(running.asgi)
            await browser.get("/portal/appointments/new")
            await browser.sign_in("ann", PASSWORD)
            fields = {"what": "Rash", "start": day(3), "end": day(5), "comment": ""}
            form = [pair for pair in smart.Form(browser.page.text).to("/portal/appointments/new") if pair[0] not in fields]
            pages = [await browser.post("/portal/appointments/new", [*form, *fields.items()]) for _ in range(2)]
            assert [page.status_code for page in pages] == [200, 200]
            assert all("This is not booked." in page.text for page in pages)
            await browser.http.aclose()
    assert [line for line in double.lines() if line == "POST Appointment"] == ["POST Appointment"]


# The EHR's job ----------------------------------------------------------------------------------------------------------------------------


def test_a_laboratory_posts_a_result(at: Scene):
    """201 and its place; the EHR has it under an id of the gateway's, with the number as it was written (promise 2)."""
    answer = at.push("POST", "Observation", at.pushed(valueQuantity=quantity("1.10", "mmol/L")))
    assert answer.status_code == 201, answer.text
    target = at.target(answer)
    raw = at.upstream.raw(target)
    assert re.search(rb'"value"\s*:\s*1\.10\b', raw)
    assert json.loads(raw)["subject"] == at.record.ann
    assert at.upstream.version(target) == "1"


def test_updates_arrive_in_order_and_the_last_one_stays(at: Scene):
    """PUT A, PUT B, PUT A again ends as A: without an identity each is a message of its own. A stale If-Match is 412."""
    id_ = f"aba-{secrets.token_hex(4)}"
    token, target = at.system("lab", "system/*.cruds"), f"Observation/{id_}"
    bodies = [at.pushed(valueString=value) | {"id": id_} for value in ("A", "B", "A")]
    answers = [at.fhir(token, "PUT", target, body, at=turn % 2) for turn, body in enumerate(bodies)]
    assert [one.status_code for one in answers] == [201, 200, 200]
    assert (at.upstream.get(target)["valueString"], at.upstream.version(target)) == ("A", "3")
    stale = at.fhir(token, "PUT", target, bodies[1], If_Match='W/"1"')
    assert stale.status_code == 412
    assert at.upstream.get(target)["valueString"] == "A"


def bundle(kind: str, *entries: tuple[str, dict[str, Any]], **more: Any) -> dict[str, Any]:
    def entry(request: str, resource: dict[str, Any]) -> dict[str, Any]:
        method, _, url = request.partition(" ")
        return {"resource": resource, "request": {"method": method, "url": url}}

    return {"resourceType": "Bundle", "type": kind, "entry": [entry(*one) for one in entries]} | more


def test_a_transaction_arrives_whole(at: Scene):
    """Results, an appointment, a message and a claim; the answer names the place of each, and the EHR has them with their references."""
    uuid = f"urn:uuid:{secrets.token_hex(4)}-0000-4000-8000-000000000001"
    report = {
        "resourceType": "DiagnosticReport",
        "status": "final",
        "code": {"text": "Salts"},
        "subject": at.record.ann,
        "result": [{"reference": uuid}],
    }
    visit, message = at.record.visit("t", "booked", 30, "From the lab"), at.record.message("t", "Please come back")
    claim = at.upstream.get(f"Claim/{at.record.id('claim')}") | {"created": "2026-01-01"}
    for one in (visit, message, claim):
        del one["id"]
    claim.pop("meta", None)
    parts = (at.pushed(), report, visit, message, claim)
    body = bundle("transaction", *((f"POST {one['resourceType']}", one) for one in parts))
    body["entry"][0]["fullUrl"] = uuid
    answer = at.push("POST", "", body)
    assert answer.status_code == 200, answer.text
    told = [one["response"] for one in answer.json()["entry"]]
    assert [one["status"][:3] for one in told] == ["201"] * 5
    places = [one["location"].removeprefix(f"{at.base}/").partition("/_history/")[0] for one in told]
    assert [place.partition("/")[0] for place in places] == ["Observation", "DiagnosticReport", "Appointment", "Communication", "Claim"]
    assert all(at.upstream.exists(place) for place in places)
    assert at.upstream.get(places[1])["result"][0]["reference"] == places[0]
    assert urlsplit(at.upstream.url).netloc not in answer.text


def test_the_entries_of_a_batch_are_on_their_own(at: Scene):
    """FAULT-S18: an update of a version that is gone fails, and the others arrive."""
    id_ = f"batch-{secrets.token_hex(4)}"
    at.upstream.put(at.pushed(valueString="now") | {"id": id_})
    stale = at.pushed(valueString="old") | {"id": id_}
    body = bundle("batch", ("POST Observation", at.pushed()), (f"PUT Observation/{id_}", stale), ("POST Observation", at.pushed()))
    body["entry"][1]["request"]["ifMatch"] = 'W/"7"'
    answer = at.push("POST", "", body)
    assert answer.status_code == 200, answer.text
    told = [one["response"] for one in answer.json()["entry"]]
    assert [one["status"][:1] for one in told] == ["2", "4", "2"]
    assert told[1]["outcome"]["resourceType"] == "OperationOutcome"
    assert at.upstream.get(f"Observation/{id_}")["valueString"] == "now"


def test_what_may_not_be_pushed_leaves_no_row(at: Scene):
    """Nobody, too little right, no JSON, no FHIR: 401, 403, 400, 422, each an OperationOutcome, and the inbox is as it was."""
    rows, token = at.rows(), at.system("lab", "system/Observation.c")
    tried = [
        (401, at.fhir("", "POST", "Observation", at.pushed())),
        (401, at.fhir(secrets.token_urlsafe(32), "POST", "Observation", at.pushed())),
        (403, at.fhir(token, "POST", "Condition", {"resourceType": "Condition", "subject": at.record.ann})),
        (403, at.fhir(token, "PUT", "Observation/x1", at.pushed() | {"id": "x1"})),
        (403, at.fhir(token, "POST", "", bundle("transaction", ("POST Observation", at.pushed()), ("POST Patient", {"resourceType": "Patient"})))),
        (400, at.fhir(token, "POST", "Observation", b'{"resourceType":"Observation",')),
        (400, at.fhir(token, "POST", "Observation", b'{"resourceType":"Observation","status":"final","status":"final"}')),
        (422, at.fhir(token, "POST", "Observation", at.pushed(status="bogus"))),
        (400, at.fhir(token, "POST", "Observation", {"resourceType": "Patient"})),
    ]
    assert [answer.status_code for _, answer in tried] == [status for status, _ in tried], [answer.text for _, answer in tried]
    assert {answer.json()["resourceType"] for _, answer in tried} == {"OperationOutcome"}
    assert at.rows() == rows


def test_a_push_that_does_not_wait(at: Scene):
    """Prefer: respond-async gives 202 and a status URL; what stands there in the end is shaped as R5's async-bundle."""
    token = at.system("lab", "system/Observation.cu")
    answer = at.fhir(token, "POST", "Observation", at.pushed(), Prefer="respond-async")
    assert (answer.status_code, answer.content) == (202, b"")
    path = answer.headers["content-location"].removeprefix(f"{at.base}/")
    assert path.startswith("_async/")

    def done() -> httpx.Response | None:
        found = at.fhir(token, "GET", path, at=1)
        return found if found.status_code == 200 else None

    told = eventually(done).json()
    assert (told["resourceType"], told["type"]) == ("Bundle", "batch-response")
    (entry,) = told["entry"]
    assert entry["response"]["status"] == "201"
    place = entry["response"]["location"].removeprefix(f"{at.base}/").partition("/_history/")[0]
    assert at.upstream.exists(place)


def test_a_repeat_is_known_by_its_identity_alone(at: Scene):
    """The same Idempotency-Key gives 200 and the first Location, at the other process and five times at once too; without one it is new."""
    key, body, token = secrets.token_hex(8), at.pushed(valueString="once"), at.system("lab", "system/Observation.cu")
    first = at.fhir(token, "POST", "Observation", body, Idempotency_Key=key)
    with ThreadPoolExecutor(5) as pool:
        again = list(pool.map(lambda turn: at.fhir(token, "POST", "Observation", body, at=turn % 2, Idempotency_Key=key), range(5)))
    assert (first.status_code, [one.status_code for one in again]) == (201, [200] * 5)
    assert {one.headers["location"] for one in again} == {first.headers["location"]}
    assert at.upstream.version(at.target(first)) == "1"
    plain = [at.fhir(token, "POST", "Observation", body) for _ in range(2)]
    assert len({one.headers["location"] for one in (first, *plain)}) == 3


LIST = "Observation?_sort=-date&_count=100"


def seen(at: Scene, path: str = LIST) -> list[tuple[str, bool]]:
    """What the app gets from each process: the answer's text, and whether it was cached."""
    answers = [at.fhir(at.app_token(), "GET", path, at=process) for process in (0, 1)]
    assert [one.status_code for one in answers] == [200, 200], answers[0].text
    return [(one.text, one.headers["cache-status"].startswith("gateway; hit")) for one in answers]


def on_page(at: Scene, ann: Visitor, word: str) -> list[bool]:
    return [word in text_of(ann.get("/portal/results?show=1000", at=process).text) for process in (0, 1)]


@pytest.mark.parametrize("method", ["POST", "PUT", "transaction", "batch"])
def test_what_is_delivered_is_seen_at_the_next_request(at: Scene, ann: Visitor, method: str):
    """Read, read (hit), push, read (new): app and page, in two processes over one cache, on an EHR that may reuse its searches for 60 s."""
    id_, word = f"fresh-{secrets.token_hex(4)}", f"value {secrets.token_hex(4)}"
    eventually(lambda: all(cached for _, cached in seen(at)))
    assert on_page(at, ann, word) == [False, False]
    result = at.pushed(valueString=word) | ({"id": id_} if method == "PUT" else {})
    path = {"POST": "Observation", "PUT": f"Observation/{id_}"}.get(method, "")
    body = result if path else bundle(method, ("POST Observation", result))
    answer = at.push(method if path else "POST", path, body, process=1)
    assert answer.status_code in (200, 201), answer.text
    assert [word in text for text, _ in seen(at)] == [True, True]
    assert on_page(at, ann, word) == [True, True]


@pytest.mark.parametrize("method", ["PUT", "POST", "transaction", "batch"])
def test_the_ehr_of_record_tells_what_it_changed(at: Scene, ann: Visitor, method: str):
    """*notify*: it corrects a result itself and tells; nothing is written back, and the old answers are gone at the next request."""
    id_, old, new = f"told-{secrets.token_hex(4)}", f"old {secrets.token_hex(4)}", f"new {secrets.token_hex(4)}"
    result = at.pushed(valueString=old) | {"id": id_}
    at.upstream.put(result)
    at.notify(result)
    paths = (LIST, f"Observation/{id_}")
    for path in paths:
        eventually(lambda path=path: all(cached and old in text for text, cached in seen(at, path)))
    assert on_page(at, ann, old) == [True, True]
    corrected = result | {"valueString": new, "status": "corrected"}
    at.upstream.put(corrected)
    assert all(old in text for text, _ in seen(at)), "until it tells, the cached answer stands, and says how old it is"
    sent = {"PUT": ("PUT", f"Observation/{id_}", corrected), "POST": ("POST", "Observation", corrected)}
    default = ("POST", "", bundle(method, (f"PUT Observation/{id_}", corrected)))
    answer = at.fhir(at.system("record", "system/*.cruds"), *sent.get(method, default), at=1)
    assert answer.status_code == 200, answer.text
    for path in paths:
        assert all(new in text and old not in text for text, _ in seen(at, path))
    assert on_page(at, ann, new) == [True, True]
    assert at.upstream.version(f"Observation/{id_}") == "2"


@pytest.mark.hapi
@pytest.mark.parametrize("asks", [True, False], ids=["asks", "does-not-ask"])
async def test_freshness_is_red_when_the_adapter_does_not_ask_for_it(hapi_url, tmp_path, monkeypatch, asks: bool):
    """HAPI gives the result of a search again for 60 s, also after a write: without `Cache-Control: no-cache` the patient sees the old list."""
    if not asks:
        monkeypatch.setattr(wire, "_FRESH", ())
    people = Two()
    load(hapi_url, people.resources(with_b=False))
    async with whole(hapi_url, tmp_path) as running:
        hers = await running.token("patient/Observation.rs", patient=people.a)
        sender = await running.token("system/Observation.cu", push={"mode": "deliver", "ehr": "hapi"})
        before = await running.fhir(hers, "GET", "Observation")
        assert len(before.json()["entry"]) == 2
        result = {"resourceType": "Observation", "status": "final", "code": {"text": "new"}, "subject": {"reference": f"Patient/{people.a}"}}
        assert (await running.fhir(sender, "POST", "Observation", result)).status_code == 201
        after = await running.fhir(hers, "GET", "Observation")
        assert after.headers["cache-status"].startswith("gateway; fwd=miss"), "the gateway's own cache is not the one that is old"
        assert len(after.json()["entry"]) == (3 if asks else 2)


# The developer's job ---------------------------------------------------------------------------------------------------------------------------

WANTED = "launch/patient openid fhirUser offline_access patient/Observation.rs patient/Patient.r patient/Condition.rs"


def test_standalone_launch_with_a_patient_of_her_choice(at: Scene):
    """She signs in, picks whose record, leaves one switch off; the tokens say so, and each is good at every process."""
    allowed = [one for one in WANTED.split() if one != "patient/Condition.rs"]
    tokens = at.launch("mum", WANTED, patient=at.record.child, allow=allowed)
    assert tokens["patient"] == at.record.child
    assert set(tokens["scope"].split()) == set(allowed)
    for process in (0, 1):
        mine = at.fhir(tokens["access_token"], "GET", f"Patient/{at.record.child}", at=process)
        assert (mine.status_code, mine.content) == (200, at.upstream.raw(f"Patient/{at.record.child}"))
        assert at.fhir(tokens["access_token"], "GET", f"Patient/{at.record.a}", at=process).status_code == 404
        assert at.fhir(tokens["access_token"], "GET", "Condition", at=process).status_code == 403


def test_the_id_token_is_signed_by_a_published_key(at: Scene):
    """RS256, verified with the key set that discovery names; issuer, audience, nonce and fhirUser are this EHR's."""
    tokens = at.launch("ann", WANTED, nonce="n-17")
    discovery = at.fhir("", "GET", ".well-known/smart-configuration").json()
    keys = jwk.KeySet.import_key_set(at.http.get(discovery["jwks_uri"]).json())
    identity = jwt.decode(tokens["id_token"], keys, algorithms=["RS256"])
    found = identity.claims
    assert (found["iss"], found["aud"], found["nonce"]) == (at.base, "app", "n-17")
    assert found["fhirUser"] == f"{at.base}/Patient/{at.record.a}"
    assert found["exp"] > found["iat"] > datetime.now(UTC).timestamp() - 60


def test_the_app_gets_the_bytes_of_the_ehr(at: Scene):
    """Reads and searches of every kind of data, byte for byte, from both processes (promise 2)."""
    token = at.app_token()
    for target in ("Observation/creatinine", "Condition/asthma", "MedicationRequest/metformin", "Appointment/eyes", "Claim/claim"):
        kind, _, name = target.partition("/")
        path = f"{kind}/{at.record.id(name)}"
        raw = at.upstream.raw(path)
        for process in (0, 1):
            answer = at.fhir(token, "GET", path, at=process)
            assert (answer.content, answer.headers["etag"]) == (raw, f'W/"{json.loads(raw)["meta"]["versionId"]}"')
        assert raw in at.fhir(token, "GET", f"{kind}?_id={at.record.id(name)}").content
    foreign = at.fhir(token, "GET", f"Observation/{at.record.id('ben-lab')}")
    assert (foreign.status_code, at.record.canary in foreign.text) == (404, False)
    assert at.record.canary not in at.fhir(token, "GET", "Observation?_count=200").text


def command(at: Scene, *arguments: str, text: str = "") -> Result:
    """A command of `gateway` on the store of the running processes, in this process."""
    flags = ["--store", f"sqlite:///{at.one.folder / 'gateway.db'}"]
    flags += [word for name in (EHR, OTHER) for word in ("--ehr", f"{name}={at.upstream.url}")]
    env = at.one.env | {"GATEWAY_PUBLIC_URL": at.one.url}
    return CliRunner(env=env).invoke(main, [*arguments, *([] if arguments[0] == "ehr" else flags)], input=text)


def test_an_app_is_registered_and_launched_from_the_ehr(at: Scene):
    """The commands register it and make a launch for a patient and a user; the app gets that patient, and its own calls work."""
    metadata = {"client_id": f"chart-{secrets.token_hex(4)}", "client_name": "Chart", "client_secret": SECRET, "redirect_uris": [APP]}
    metadata |= {"launch_uri": "https://app.test/go"}
    registered = command(at, "client", "register", "--from", "-", "--json", text=json.dumps(metadata))
    client = json.loads(registered.stdout)["client_id"]
    made = command(at, "launch", "create", "--ehr", EHR, "--client", client, "--patient", at.record.child, "--user", "doc", "--json")
    assert (registered.exit_code, made.exit_code) == (0, 0), registered.stderr + made.stderr
    launch = json.loads(made.stdout)
    assert launch["iss"] == at.base
    assert launch["url"] == "https://app.test/go?" + urlencode({"iss": launch["iss"], "launch": launch["launch"]})
    at.kept(launch["launch"])
    wanted = "launch openid fhirUser user/Patient.r patient/Observation.rs"
    tokens = at.launch("doc", wanted, client=client, launch=launch["launch"])
    assert tokens["patient"] == at.record.child
    mine = at.fhir(tokens["access_token"], "GET", f"Patient/{at.record.child}", at=1)
    assert mine.json()["name"] == [{"text": "Kit Aster"}]
    assert at.fhir(tokens["access_token"], "GET", "Observation").json().get("entry", []) == []
    visitor = at.visitor()
    asked = smart.asking(client, wanted, smart.Pkce(), redirect_uri=APP, aud=at.base, launch=launch["launch"])
    visitor.get(f"/auth/{EHR}/authorize?{urlencode(asked)}", status=303)
    assert visitor.answer["error"] == "invalid_request", "a launch works once"


def refreshed(at: Scene, token: str, process: int = 0) -> httpx.Response:
    return at.exchange({"grant_type": "refresh_token", "refresh_token": token}, at=process, auth=("app", SECRET))


def test_refresh_introspect_and_revoke(at: Scene):
    """A refresh token is rotated; introspection says who and what; a revoked token is 401 at the next request in both processes."""
    first = at.launch("ann", WANTED)
    second = refreshed(at, at.kept(first["refresh_token"]), 1).json()
    assert second["refresh_token"] != first["refresh_token"]
    assert second["patient"] == at.record.a
    token = at.kept(second["access_token"])
    asked = at.http.post(f"{at.two.url}/auth/{EHR}/introspect", data={"token": token}, auth=("app", SECRET)).json()
    assert (asked["active"], asked["client_id"], asked["patient"], asked["iss"]) == (True, "app", at.record.a, at.base)
    path = f"Patient/{at.record.a}"
    for process in (0, 1, 0, 1):
        assert at.fhir(token, "GET", path, at=process).status_code == 200
    revoked = at.http.post(f"{at.one.url}/auth/{EHR}/revoke", data={"token": second["refresh_token"]}, auth=("app", SECRET))
    assert revoked.status_code == 200
    for process in (1, 0):
        answer = at.fhir(token, "GET", path, at=process)
        assert (answer.status_code, answer.json()["resourceType"]) == (401, "OperationOutcome")
        assert 'error="invalid_token"' in answer.headers["www-authenticate"]
    assert at.http.post(f"{at.one.url}/auth/{EHR}/introspect", data={"token": token}, auth=("app", SECRET)).json() == {"active": False}
    assert refreshed(at, second["refresh_token"]).json()["error"] == "invalid_grant"


def test_a_refresh_token_that_is_used_twice_ends_the_family(at: Scene):
    """Somebody else has it, once what was given for it was used: that counts no more either, in any process."""
    first = at.launch("ann", WANTED)
    second = refreshed(at, at.kept(first["refresh_token"])).json()
    assert at.fhir(at.kept(second["access_token"]), "GET", f"Patient/{at.record.a}").status_code == 200
    again = refreshed(at, first["refresh_token"], 1)
    assert (again.status_code, again.json()["error"]) == (400, "invalid_grant")
    for process in (0, 1):
        assert at.fhir(at.kept(second["access_token"]), "GET", f"Patient/{at.record.a}", at=process).status_code == 401


def test_a_token_counts_at_its_own_ehr_alone(at: Scene):
    """401 at another EHR of the same gateway, for people and for systems, though both lead to the same server."""
    for token, path in ((at.app_token(), f"Patient/{at.record.a}"), (at.system("lab", "system/Observation.cu"), "Observation")):
        for process in (0, 1):
            method, body = ("GET", None) if "/" in path else ("POST", at.pushed())
            answer = at.fhir(token, method, path, body, at=process, ehr=OTHER)
            assert (answer.status_code, answer.json()["resourceType"]) == (401, "OperationOutcome")


# Redis fails -----------------------------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def faulty(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    """The gateway before the double, with a Valkey that may be killed."""
    with scene("double", tmp_path_factory.mktemp("faulty")) as found:
        yield found


def is_up(at: Scene) -> bool:
    """Whether both processes say that all of their parts are there."""
    return [at.http.get(f"{url}/readyz").json()["status"] for url in at.urls] == ["ok", "ok"]


@pytest.mark.fault
def test_redis_killed_changes_no_answer(faulty: Scene):
    """FAULT-R1: SIGKILL in the middle of traffic, and a new empty one after it."""
    with watching(faulty) as watch:
        faulty.valkey.process.kill()
        watch.look()
        watch.push()
        watch.look()
        ready = [faulty.http.get(f"{url}/readyz") for url in faulty.urls]
        assert [(one.status_code, one.json()["status"]) for one in ready] == [(200, "degraded")] * 2
        faulty.start_valkey()
        watch.push()
        eventually(lambda: is_up(faulty))
        watch.push()


@pytest.mark.fault
def test_redis_paused_changes_no_answer(faulty: Scene):
    """FAULT-R2: SIGSTOP; what was kept before comes to life again with SIGCONT, and nobody gets it."""
    with watching(faulty) as watch:
        faulty.valkey.process.send_signal(signal.SIGSTOP)
        try:
            watch.look()
            watch.push()
            watch.look()
        finally:
            faulty.valkey.process.send_signal(signal.SIGCONT)
        watch.look()
        eventually(lambda: is_up(faulty))
        watch.push()


@pytest.mark.fault
def test_redis_flushed_changes_no_answer(faulty: Scene):
    """FAULT-R3: FLUSHALL between and during reads and writes."""
    with redis.Redis.from_url(faulty.valkey.url) as server, watching(faulty) as watch:
        for _ in range(5):
            server.flushall()
            watch.look(4)
            server.flushall()
            watch.push(1)
        assert watch.slowest < 2


@pytest.mark.fault
def test_redis_full_changes_no_answer(faulty: Scene):
    """FAULT-R4: it refuses every SET; deletions still work, so a write ends what was kept before."""
    with redis.Redis.from_url(faulty.valkey.url) as server, watching(faulty) as watch:
        server.config_set("maxmemory-policy", "noeviction")
        server.config_set("maxmemory", "1")
        watch.look()
        watch.push()
        watch.look()
        server.config_set("maxmemory", "0")
        watch.push()


# Bad input at every door -------------------------------------------------------------------------------------------------------------------------


def innocent(at: Scene, answer: httpx.Response, *own: str) -> None:
    """Nothing of the inside shows, nor of the other patient."""
    headers = b"\n".join(name + b": " + value for name, value in answer.headers.raw)
    for part in (answer.content, headers):
        assert not INSIDE.search(part), INSIDE.search(part)
        assert urlsplit(at.upstream.url).netloc.encode() not in part
        assert at.record.canary.encode() not in part.replace("".join(own).encode() or b"\0", b"")


def test_bad_requests_to_the_fhir_base(at: Scene):
    """Each the right status and an OperationOutcome with a sentence; never the EHR's words, nor a stack trace."""
    wrong: list[str] = []
    for status, method, path, body, headers in BAD_FHIR:
        place, content = (
            (text or "").replace("{t}", at.record.tag).replace("{canary}", at.record.canary) for text in (path, (body or b"").decode("latin-1"))
        )
        sent = {"Authorization": f"Bearer {at.app_token()}", "Content-Type": JSON_TYPE} | headers
        answer = at.http.request(method, f"{at.base}/{place}", content=None if body is None else content.encode("latin-1"), headers=sent)
        innocent(at, answer, at.record.canary if "{canary}" in path else "")
        if answer.status_code != status or not is_outcome(answer):
            wrong.append(f"{method} {path} {body!r}: {answer.status_code} instead of {status}: {answer.text[:300]}")
    assert wrong == [], "\n".join(wrong)


def is_outcome(answer: httpx.Response) -> bool:
    """Whether it is an OperationOutcome that says in a sentence what was wrong."""
    if not answer.headers.get("content-type", "").startswith(JSON_TYPE):
        return False
    found = answer.json()
    if found["resourceType"] != "OperationOutcome":
        return False
    issue = found["issue"][0]
    return issue["severity"] in ("error", "fatal") and issue["details"]["text"].endswith(".")


def test_a_refusal_of_the_ehr_is_in_our_words(at: Scene):
    """A real HAPI refuses a reference to nobody, and says who it is and where; the others take it. The app hears neither."""
    nobody = {"recipient": [{"reference": f"Practitioner/nobody-{at.record.tag}"}]}
    body = at.record.message("x", "Hello", sender=at.record.ann, status="in-progress") | nobody
    del body["id"]
    answer = at.fhir(at.app_token(), "POST", "Communication", body)
    innocent(at, answer)
    assert (answer.status_code, is_outcome(answer)) == ((400, True) if at.upstream.kind == "hapi" else (201, False)), answer.text


def test_bad_requests_to_the_oauth_endpoints(at: Scene):
    """JSON of RFC 6749 section 5.2 and never stored; the authorization page never sends anybody to an address that is not registered."""
    wrong: list[str] = []
    for status, endpoint, error, form, headers in BAD_OAUTH:
        sent = {"Content-Type": FORM_TYPE, "Authorization": httpx.BasicAuth("app", SECRET)._auth_header} | headers
        answer = at.http.post(f"{at.one.url}/auth/{EHR}/{endpoint}", content=urlencode(form), headers={k: v for k, v in sent.items() if v})
        innocent(at, answer)
        if (answer.status_code, answer.headers["content-type"]) != (status, "application/json") or answer.json()["error"] != error:
            wrong.append(f"{endpoint} {form}: {answer.status_code} {answer.text}, not {status} {error}")
        assert answer.headers["cache-control"] == "no-store"
    assert wrong == [], "\n".join(wrong)


def test_bad_authorization_requests(at: Scene):
    """Wrong client or address: a page that leads nowhere. Anything else goes back to the app as an error, with state and iss."""
    visitor = at.visitor()
    for changed in ({"client_id": "nobody"}, {"redirect_uri": "https://evil.test/cb"}, {"redirect_uri": f"{APP}/../x"}):
        asked = smart.asking("app", "patient/*.rs", redirect_uri=APP, aud=at.base) | changed
        page = visitor.get(f"/auth/{EHR}/authorize?{urlencode(asked)}", status=400)
        innocent(at, page)
        assert page.headers["content-type"].startswith("text/html")
        assert "Nothing was shared." in text_of(page.text)
        assert visitor.left_to == ""
    for changed, error in (
        ({"response_type": "token"}, "unsupported_response_type"),
        ({"code_challenge": None}, "invalid_request"),
        ({"code_challenge_method": "plain"}, "invalid_request"),
        ({"aud": "https://evil.test/fhir"}, "invalid_request"),
        ({"launch": "forged", "scope": "launch patient/*.rs"}, "invalid_request"),
        ({"scope": "nonsense"}, "invalid_scope"),
    ):
        asked = {k: v for k, v in (smart.asking("app", "patient/*.rs", redirect_uri=APP, aud=at.base) | changed).items() if v is not None}
        visitor.get(f"/auth/{EHR}/authorize?{urlencode(asked)}", status=303)
        assert visitor.left_to.startswith(f"{APP}?")
        assert (visitor.answer["error"], visitor.answer["state"], visitor.answer["iss"]) == (error, "st-1", at.base), changed


def test_bad_requests_to_the_pages(at: Scene, ann: Visitor):
    """A page with a sentence and all its headers, whoever made the mistake."""
    wrong: list[str] = []
    for status, method, path, form in BAD_PAGES:
        place = path.replace("{t}", at.record.tag)
        content = None if form is None else urlencode(form).encode()
        answer = ann.http.request(method, f"{at.one.url}{place}", content=content, headers={"Content-Type": FORM_TYPE} if content else {})
        innocent(at, answer)
        page = answer.headers.get("content-type", "").startswith("text/html") and "default-src 'none'" in answer.headers.get(
            "content-security-policy", ""
        )
        if answer.status_code != status or not page or not re.search(r"[a-z]\.", text_of(answer.text)):
            wrong.append(f"{method} {path}: {answer.status_code} instead of {status}: {answer.headers.get('content-type')} {answer.text[:200]}")
    assert wrong == [], "\n".join(wrong)


def test_a_form_that_was_made_for_another_record_changes_nothing(at: Scene):
    """She switched records in another tab: the form is refused with a sentence, and goes to nobody."""
    visitor = at.visitor()
    visitor.sign_in("mum")
    records = visitor.get("/portal/records")
    visitor.send(records, "/records", patient=at.record.a)
    page = visitor.get("/portal/appointments/new")
    action, body = visitor.filled(page, "/appointments/new", what="Rash", start=day(3), end=day(5))
    visitor.send(visitor.get("/portal/records"), "/records", patient=at.record.child)
    answer = visitor.post(action, body)
    assert answer.status_code == 409
    assert not [
        one
        for one in at.upstream.all("Appointment", at.record.child) + at.upstream.all("Appointment", at.record.a)
        if one.get("serviceType") == [{"text": "Rash"}]
    ]


def test_nothing_of_all_this_is_in_the_logs(at: Scene):
    """What everybody did wrong leaves no token, no form, no data of a patient and no stack trace in the log of the servers."""
    token = at.kept(f"secret-{secrets.token_hex(16)}")
    at.fhir(token, "GET", f"Patient?name={at.record.canary}")
    at.fhir(at.app_token(), "GET", f"Observation?code={at.record.canary}&nonsense={at.record.canary}")
    at.fhir(at.app_token(), "POST", "Communication", (MESSAGE % at.record.b + f',"payload":[{{"contentString":"{at.record.canary}"}}]}}').encode())
    at.fhir(at.app_token(), "POST", "Communication", f'{{"{at.record.canary}'.encode())
    at.exchange({"grant_type": "refresh_token", "refresh_token": token}, auth=("app", at.kept(f"wrong-{secrets.token_hex(8)}")))
    at.visitor().get(f"/nowhere/{at.record.canary}?x={at.record.canary}", status=404)
    at.check_log()
    assert "refused" in at.log(), "the log says that requests were refused"


def test_an_ehr_that_fails_is_a_sentence_without_its_words(faulty: Scene):
    """Its diagnostics go to the sealed event log: an app gets an OperationOutcome of ours, a page a sentence, and no log has them (FAULT-U1)."""
    double = faulty.upstream.double
    assert double
    said_by_ehr = f"jdbc:h2:mem at 10.9.8.7 of {faulty.record.canary}"
    body = json.dumps(
        {"resourceType": "OperationOutcome", "issue": [{"severity": "fatal", "code": "exception", "diagnostics": said_by_ehr}]}
    ).encode()
    visitor = faulty.visitor()
    visitor.sign_in("ann")
    faulty.app_token()
    for status, expected in ((500, 502), (503, 503), (401, 502), (302, 502)):
        headers = {"Location": "http://10.9.8.7/fhir", "X-Powered-By": "HAPI FHIR 8.8.0"}
        double.fail(Fault(path="Observation", times=0, status=status, body=body, headers=headers))
        try:
            app = faulty.fhir(faulty.app_token(), "GET", f"Observation/{faulty.record.id('crp')}", Cache_Control="no-cache")
            page = visitor.get(f"/portal/results/observation/new-{secrets.token_hex(4)}", status=expected)
        finally:
            double.heal()
        assert (app.status_code, is_outcome(app)) == (expected, True)
        for answer in (app, page):
            innocent(faulty, answer)
            assert b"10.9.8.7" not in answer.content
    faulty.check_log()
    assert "10.9.8.7" not in faulty.log()


def test_bad_commands_are_one_line_with_a_fix(faulty: Scene, monkeypatch: pytest.MonkeyPatch):
    """A sentence on stderr that names what was wrong; nothing on stdout, no stack trace, and a code that is not 0."""
    monkeypatch.chdir(faulty.one.folder)
    wrong: list[str] = []
    for arguments, text, word in BAD_COMMANDS:
        done = command(faulty, *arguments, text=text)
        lines = done.stderr.strip().splitlines()
        fine = done.exit_code in (1, 2) and len(lines) == 1 and word in lines[0] and not done.stdout and not INSIDE.search(done.stderr.encode())
        if not fine:
            wrong.append(f"{' '.join(arguments)}: {done.exit_code} {done.stdout!r} {done.stderr!r} {done.exception!r}")
    assert wrong == [], "\n".join(wrong)
