"""The pages and forms of the portal by HTTP, around a clinic in memory: what a browser gets, and what reaches the clinic."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from html import unescape
from html.parser import HTMLParser

import httpx
import pytest

from gateway.errors import Forbidden, NotSupported, Throttled, Unavailable, UpstreamFault, UpstreamTimeout
from gateway.fhir.interaction import Kind
from gateway.portal.chart import Source
from tests.support.clinic import Clinic, lab, rich
from tests.support.portal_app import FAMILY, URL, Account, Listed, People, Person, make_app

PAGES = [
    "",
    "results",
    "results/observation/k1",
    "results/report/panel",
    "conditions",
    "medicines",
    "medicines/mr1",
    "medicines/mr1/more",
    "appointments",
    "appointments/new",
    "appointments/a1",
    "appointments/a1/cancel",
    "messages",
    "messages/new",
    "messages/th1",
    "bills",
    "bills/plan/eob1",
    "bills/claim/cl2",
    "access",
    "records",
]


@dataclass
class Browser:
    """A browser without JavaScript: it sends the forms that pages give it."""

    client: httpx.AsyncClient
    clinic: Clinic
    people: People

    async def get(self, path: str) -> httpx.Response:
        return await self.client.get(path if path.startswith("/") else f"/portal/{path}")

    async def form(self, path: str, **values: str) -> tuple[str, dict[str, str]]:
        """Where the form of a page goes, and its fields with some filled in."""
        html = (await self.get(path)).text
        main = html[html.index("<main") :]
        action = re.search(r'<form method="post" action="([^"]+)"', main)
        assert action is not None
        hidden = {name: unescape(value) for name, value in re.findall(r'<input type="hidden" name="([^"]+)" value="([^"]*)"', main)}
        return action[1], hidden | values

    async def send(self, path: str, **values: str) -> httpx.Response:
        """Fill in the form of a page and press the button."""
        action, fields = await self.form(path, **values)
        return await self.client.post(action, data=fields)


@pytest.fixture
async def browser() -> AsyncIterator[Browser]:
    """Amina is signed in."""
    clinic, people = rich(), People(Person())
    app = make_app(clinic, people)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url=URL) as client:
        yield Browser(client, clinic, people)


class Outline(HTMLParser):
    """The headings, ids and links of a page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.headings: list[int] = []
        self.ids: list[str] = []
        self.scripts = 0
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        if re.fullmatch(r"h[1-6]", tag):
            self.headings.append(int(tag[1]))
        if found.get("id"):
            self.ids.append(str(found["id"]))
        self.scripts += tag == "script" or any(name.startswith("on") or name == "style" for name in found)


def text_of(html: str) -> str:
    """What a person reads in the main part."""
    return unescape(re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", html[html.index("<main") :])))


@pytest.mark.parametrize("path", PAGES)
async def test_every_page_is_whole(browser, path):
    """One h1, no level skipped, unique ids, a title of its own, no script, all headers, under 40 KiB with everything that it loads."""
    answer = await browser.get(path)
    assert answer.status_code == 200
    outline = Outline(answer.text)
    assert outline.headings.count(1) == 1
    steps = [b - a for a, b in zip([1, *outline.headings], outline.headings, strict=False)]
    assert max(steps, default=0) <= 1, outline.headings
    assert len(outline.ids) == len(set(outline.ids))
    assert outline.scripts == 0
    assert "None" not in text_of(answer.text)
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert "frame-ancestors 'none'" in answer.headers["content-security-policy"]
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["referrer-policy"] == "no-referrer"
    assert answer.headers["x-content-type-options"] == "nosniff"
    size = len(answer.content)
    for link in re.findall(r'<link[^>]+href="([^"]+)"', answer.text):
        size += len((await browser.get(link)).content)
    assert size < 40 * 1024


async def test_titles_are_unique(browser):
    """Each page says in its title what it is."""
    titles = [re.search(r"<title>(.+?)</title>", (await browser.get(path)).text, re.DOTALL)[1] for path in PAGES]
    assert len(set(titles)) == len(titles)
    assert all(title.endswith("My health record") for title in titles)


async def test_a_page_shows_exactly_the_ehrs_value_unit_range_and_status(browser):
    """What stands on the page is what stands in the bytes."""
    page = text_of((await browser.get("results/observation/cr1")).text)
    assert "1.10 mg/dL" in page
    assert "0.50 - 1.00 mg/dL" in page
    assert "Outside the lab's range" in page
    assert "Final. This result is finished." in page
    panel = text_of((await browser.get("results/report/panel")).text)
    assert "Early result" in panel
    assert "<5 mg/L" in panel


async def test_nothing_of_another_patients_is_shown_or_admitted(browser):
    """B's result is not in the list, and its address says just what an unknown one says."""
    assert "Secret of B" not in (await browser.get("results")).text
    foreign, unknown = await browser.get("results/observation/theirs"), await browser.get("results/observation/nobodys")
    assert foreign.status_code == unknown.status_code == 404
    assert foreign.text == unknown.text


@pytest.mark.parametrize(
    "path", ["results/observation/%2e%2e", "results/observation/a%2Fb", "bills/claim/x%20y", "nowhere", "results/observation/" + "a" * 65]
)
async def test_addresses_that_are_none_end_in_words(browser, path):
    """404 and a way back, never a stack trace."""
    answer = await browser.get(path)
    assert answer.status_code == 404
    assert "We cannot find that" in answer.text


async def test_each_page_asks_as_the_patient_through_the_portal(browser):
    """The pipeline sees who, whose and through what; scopes are the declared ones."""
    for path in PAGES:
        await browser.get(path)
    for principal, _, context in browser.clinic.seen:
        assert (principal.patient, principal.client_id, principal.user_id, context.via) == ("p1", "portal", "acc-1", "portal")


async def test_without_a_sign_in_there_is_no_page(browser):
    """Each address leads to the sign-in page."""
    browser.people.person = None
    for path in PAGES:
        assert (await browser.get(path)).headers["location"] == "/signin"
    assert browser.clinic.seen == []


# -- forms


async def test_a_message_is_sent_and_seen_at_once(browser):
    """Form, 303, the thread with the message in it, and two Communications at the clinic."""
    answer = await browser.send("messages/new", to="CareTeam/ct1", category="general", topic="A <b>question</b>", text="Line one\r\nLine two")
    assert answer.status_code == 303
    page = await browser.get(answer.headers["location"])
    assert "Your message was sent." in page.text
    assert "A &lt;b&gt;question&lt;/b&gt;" in page.text
    assert "Line one\nLine two" in page.text
    assert sum(item["topic"]["text"] == "A <b>question</b>" for item in browser.clinic.of_type("Communication") if "topic" in item) == 2


async def test_a_form_sent_twice_at_once_has_one_effect(browser):
    """Ten taps: one thread, one message."""
    before = len(browser.clinic.of_type("Communication"))
    action, fields = await browser.form("messages/new", to="CareTeam/ct1", category="general", topic="T", text="x")
    answers = await asyncio.gather(*(browser.client.post(action, data=fields) for _ in range(10)))
    assert {answer.status_code for answer in answers} == {303}
    assert len({answer.headers["location"] for answer in answers}) == 1
    assert len(browser.clinic.of_type("Communication")) == before + 2


async def test_a_reply(browser):
    """It stands in the thread."""
    answer = await browser.send("messages/th1", text="Thank you.")
    assert answer.status_code == 303
    assert "Thank you." in (await browser.get(answer.headers["location"])).text


async def test_an_appointment_is_asked_for_and_the_page_says_requested(browser):
    """Never "booked" before the clinic booked it."""
    answer = await browser.send("appointments/new", what="Skin rash", start="2026-12-01", end="2026-12-15", comment="")
    assert answer.status_code == 303
    page = text_of((await browser.get(answer.headers["location"])).text)
    assert "Requested" in page
    assert "This is not booked." in page
    assert ">Booked<" not in page
    assert "Skin rash" in (await browser.get("appointments")).text


async def test_an_appointment_is_cancelled_in_two_steps(browser):
    """The form names the version that was shown; the page says what became of it."""
    answer = await browser.send("appointments/a1/cancel", reason="pat-fb")
    assert answer.status_code == 303
    page = (await browser.get(answer.headers["location"])).text
    assert "This appointment is cancelled." in page
    assert json.loads(browser.clinic.resources["Appointment", "a1"])["status"] == "cancelled"


async def test_a_cancellation_of_what_changed_meanwhile_is_refused_in_words(browser):
    """412, and nothing was written."""
    action, fields = await browser.form("appointments/a1/cancel", reason="pat-fb")
    browser.clinic.put(json.loads(browser.clinic.resources["Appointment", "a1"]))
    answer = await browser.client.post(action, data=fields)
    assert answer.status_code == 412
    assert "This has changed since you opened it" in answer.text
    assert json.loads(browser.clinic.resources["Appointment", "a1"])["status"] == "booked"


async def test_a_refill_is_asked_for_once(browser):
    """Then the page says "Requested" and has no button."""
    answer = await browser.send("medicines/mr1/more", note="")
    assert answer.status_code == 303
    page = (await browser.get(answer.headers["location"])).text
    assert "You asked for more." in page
    assert "/portal/medicines/mr1/more" not in page
    again = await browser.get("medicines/mr1/more")
    assert again.status_code == 409
    assert "You have already asked for this" in again.text


@pytest.mark.parametrize(
    ("path", "values", "message"),
    [
        ("messages/new", {"text": "kept"}, "Choose who should get your message"),
        ("messages/new", {"to": "Practitioner/stranger", "topic": "t", "category": "general", "text": "kept"}, "Choose who should get your message"),
        ("messages/th1", {"text": ""}, "Write your message"),
        ("appointments/new", {"what": "", "start": "2020-01-01", "end": "", "comment": "kept"}, "Say what the visit is for"),
        ("appointments/a1/cancel", {}, "Choose why you are cancelling"),
    ],
)
async def test_a_wrong_form_comes_back_with_what_was_entered(browser, path, values, message):
    """422, a summary that links to the field, the same key, and nothing was written."""
    action, fields = await browser.form(path, **values)
    answer = await browser.client.post(action, data=fields)
    assert answer.status_code == 422
    assert 'role="alert"' in answer.text
    assert "Error: " in answer.text
    assert message in text_of(answer.text)
    if "kept" in values.values():
        assert "kept</textarea>" in answer.text
    targets = re.findall(r'<li><a href="#([^"]+)">', answer.text)
    assert targets
    assert set(targets) <= set(Outline(answer.text).ids)
    assert not [one for _, one, _ in browser.clinic.seen if one.kind in (Kind.CREATE, Kind.UPDATE)]


@pytest.mark.parametrize(
    ("path", "values", "type_"),
    [
        ("messages/new", {"to": "CareTeam/ct1", "topic": "t", "category": "general", "text": "kept"}, "Communication"),
        ("appointments/new", {"what": "x", "start": "2026-12-01", "end": "2026-12-02", "comment": "kept"}, "Appointment"),
    ],
)
async def test_a_form_that_could_not_be_sent_keeps_what_was_written_and_its_key(browser, path, values, type_):
    """The EHR is down: the text is still there, and the same form can be sent again."""
    action, fields = await browser.form(path, **values)
    browser.clinic.failing[type_] = UpstreamFault()
    answer = await browser.client.post(action, data=fields)
    assert answer.status_code == 502
    assert "kept</textarea>" in answer.text
    assert "What you wrote is still here." in answer.text
    assert f'name="key" value="{fields["key"]}"' in answer.text
    browser.clinic.failing.clear()
    assert (await browser.client.post(action, data=fields)).status_code == 303


async def test_a_lost_answer_says_that_it_is_not_known_and_sending_again_is_safe(browser):
    """Never "sent" when nobody knows, never twice when she tries again."""
    before = len(browser.clinic.of_type("Communication"))
    action, fields = await browser.form("messages/new", to="CareTeam/ct1", category="general", topic="T", text="kept")
    browser.clinic.lose_answers = 1
    answer = await browser.client.post(action, data=fields)
    assert answer.status_code == 504
    assert "We do not know yet if this arrived" in answer.text
    assert (await browser.client.post(action, data=fields)).status_code == 303
    assert len(browser.clinic.of_type("Communication")) == before + 2


async def test_forms_from_elsewhere_are_refused(browser):
    """No token, a wrong key, another encoding, too much: nothing is written."""
    action, fields = await browser.form("messages/th1", text="x")
    assert (await browser.client.post(action, data=fields | {"csrf": "guess"})).status_code == 403
    assert (await browser.client.post(action, data={"text": "x"})).status_code == 403
    assert (await browser.client.post(action, data=fields | {"key": "short"})).status_code == 400
    assert (await browser.client.post(action, json=fields)).status_code == 415
    assert (await browser.client.post(action, data=fields | {"text": "x" * 70_000})).status_code == 413
    assert not [one for _, one, _ in browser.clinic.seen if one.kind is Kind.CREATE]


# -- several records


async def test_a_form_made_for_one_record_is_not_sent_to_another(browser):
    """She switched in another tab: refused, in words."""
    browser.people.person = FAMILY
    action, fields = await browser.form("messages/new", to="CareTeam/ct1", category="general", topic="T", text="x")
    browser.people.person = replace(FAMILY, patient="p3")
    answer = await browser.client.post(action, data=fields)
    assert answer.status_code == 409
    assert "You opened another record in the meantime" in answer.text
    assert not [one for _, one, _ in browser.clinic.seen if one.kind is Kind.CREATE]


async def test_switching_shows_whose_record_it_is_on_every_page(browser):
    """The banner names Leo; a record that is not hers to open is refused."""
    browser.people.person = FAMILY
    assert "You are viewing your own record." in (await browser.get("")).text
    answer = await browser.send("records")  # the last form of the page is Leo's
    assert answer.status_code == 303
    for path in ("", "results", "messages"):
        assert "You are viewing the record of <strong>Leo Shaw</strong>" in (await browser.get(path)).text
    _, fields = await browser.form("records")
    assert (await browser.client.post("/portal/records", data=fields | {"patient": "p2"})).status_code == 403
    assert browser.people.person.patient == "p3"


async def test_an_account_without_a_record_is_told_what_to_do(browser):
    """No record, one to choose, or a member of staff."""
    browser.people.person = Person(patient="", patients=())
    assert "No record is linked to your account yet" in (await browser.get("results")).text
    browser.people.person = Person(patient="", patients=(Listed("p3", "Leo Shaw"),))
    assert "Whose record do you want to open?" in (await browser.get("results")).text
    browser.people.person = Person(account=Account(fhir_user="Practitioner/7"))
    answer = await browser.get("results")
    assert answer.status_code == 403
    assert "This site is for patients" in answer.text
    assert browser.clinic.seen == []


# -- when something is missing


@pytest.mark.parametrize(
    ("error", "status", "title"),
    [
        (UpstreamFault(), 502, "There is a problem with your clinic&#39;s record system"),
        (UpstreamTimeout(), 504, "There is a problem with your clinic&#39;s record system"),
        (Unavailable(), 503, "There is a problem with this site"),
        (Forbidden(), 403, "You cannot see this here"),
        (Throttled(), 429, "Your clinic&#39;s system is busy"),
        (NotSupported(), 501, "Your clinic does not offer this here"),
    ],
)
async def test_an_error_page_says_what_happened_and_what_to_do(browser, error, status, title):
    """In a patient's words, with a way on and the clinic's number; no code."""
    browser.clinic.failing["Condition"] = error
    answer = await browser.get("conditions")
    assert answer.status_code == status
    assert title in answer.text
    assert "555 0100" in answer.text
    assert str(status) not in text_of(answer.text)
    assert ("Try again</a>" in answer.text) == (status in (429, 502, 503, 504))


async def test_a_part_that_is_missing_is_named_and_the_rest_is_shown(browser):
    """Reports are down, single results are there."""
    browser.clinic.failing["DiagnosticReport"] = UpstreamFault()
    page = text_of((await browser.get("results")).text)
    assert "We could not get lab and imaging reports from Mercy Clinic" in page
    assert "Glucose" in page
    home = text_of((await browser.get("")).text)
    assert "lab and imaging reports" in home
    assert "Message from Kwame Osei, RN" in home


async def test_home_stands_when_everything_else_is_down(browser):
    """It names what is missing and still leads everywhere."""
    for name in (
        "Appointment",
        "Communication",
        "DiagnosticReport",
        "Observation",
        "MedicationRequest",
        "MedicationDispense",
        "Task",
        "Claim",
        "ExplanationOfBenefit",
    ):
        browser.clinic.failing[name] = UpstreamFault()
    answer = await browser.get("")
    assert answer.status_code == 200
    page = text_of(answer.text)
    for name in ("appointments", "test results", "messages", "medicines", "bills and insurance"):
        assert name in page
    assert 'href="/portal/conditions"' in answer.text


@pytest.mark.parametrize("path", ["results", "conditions", "medicines", "appointments", "messages", "bills", "access"])
async def test_an_empty_page_says_what_would_be_here(path):
    """Why it is empty and what to do, never just nothing; and no "missing" when nothing is missing."""
    app = make_app(Clinic(), People(Person()))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url=URL) as client:
        page = text_of((await client.get(f"/portal/{path}")).text)
    assert re.search(r"(no|not|nobody)\b", page, re.IGNORECASE)
    assert "missing" not in page
    assert len(page) > 150


async def test_a_page_says_how_old_its_data_are(browser):
    """From whom, and since when."""
    assert "From Mercy Clinic, checked just now." in (await browser.get("results")).text
    browser.clinic.age = 185
    assert "From Mercy Clinic, as of 3 minutes ago." in (await browser.get("results")).text


async def test_long_lists_are_shown_in_steps(browser):
    """Twenty, then twenty more by a link, with no JavaScript."""
    browser.clinic.put(*(lab(f"n{number}", f"Sodium {number}", b'"valueInteger":140', "2026-01-01") for number in range(50)))
    page = (await browser.get("results?kind=lab")).text
    assert page.count('<li id="n') == 20
    link = re.search(r'href="(/portal/results\?kind=lab&amp;show=40#n21)">Show 20 more', page)
    assert link is not None
    page = (await browser.get(link[1].replace("&amp;", "&"))).text
    assert page.count('<li id="n') == 40
    for odd in ("-1", "x", "9" * 9, "٣"):
        assert (await browser.get(f"results?show={odd}")).text.count('<li id="n') == 20


async def test_the_root_leads_home(browser):
    """/ and /portal."""
    for path in ("/", "/portal"):
        assert (await browser.get(path)).headers["location"] == "/portal/"


def _potassium(clinic: Clinic, *, flag: str = "N", count: int = 24) -> None:
    """Results of one test, one a month; the newest with the flag."""
    for number in range(count):
        said = f'"interpretation": [{{"coding": [{{"code": "{flag if number == 0 else "N"}"}}]}}]'.encode()
        value = b'"valueQuantity": {"value": 6.%d, "unit": "mmol/L"}' % (number % 10)
        clinic.put(lab(f"s{number}", "Potassium", value, f"{2025 - number // 12}-{12 - number % 12:02}-01", said, code="series"))


async def test_what_the_lab_called_critical_says_whom_to_call(browser):
    """On the page itself, beside the value; a result that is not critical has no such note."""
    _potassium(browser.clinic, flag="HH")
    page = text_of((await browser.get("results/observation/s0")).text)
    assert "The lab marked this as critical. If your clinic has not talked to you about it, call 555 0100 now." in page
    assert "critical" not in text_of((await browser.get("results/observation/s1")).text)


async def test_other_results_are_all_there_to_print_and_drawn(browser):
    """Twenty at first, with a link to all; the picture has its words beside it and no number that the table lacks."""
    _potassium(browser.clinic)
    page = (await browser.get("results/observation/s0")).text
    assert page.count('<tr id="n') == 20
    assert "20 of 23 results are printed." in text_of(page)
    assert "<svg viewBox" in page
    assert "24 results: lowest 6.0 mmol/L on" in text_of(page)
    link = re.search(r'href="(/portal/results/observation/s0\?show=5000)">Show all 23', page)
    assert link is not None
    everything = (await browser.get(link[1])).text
    assert everything.count('<tr id="n') == 23
    assert "are printed" not in everything


async def test_the_time_of_an_answer_is_the_clinics_own_promise():
    """Where it promises none, the pages say none."""
    for promise in ("", "2 working days"):
        app = make_app(rich(), People(Person()), source=Source("clinic", "Mercy Clinic", "555 0100", replies_within=promise))
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url=URL) as client:
            for path in ("messages/new", "messages/th1", "messages/th1?done=sent"):
                page = text_of((await client.get(f"/portal/{path}")).text)
                assert ("answers within" in page) == bool(promise)
                assert not promise or "Your care team usually answers within 2 working days." in page


async def test_an_empty_page_names_whose_record_it_is():
    """Somebody who cares for a child is not told that there is nothing "for you"."""
    app = make_app(Clinic(), People(replace(FAMILY, patient="p3")))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url=URL) as client:
        for path in ("results", "conditions", "medicines", "appointments", "bills"):
            assert "for Leo Shaw." in text_of((await client.get(f"/portal/{path}")).text)


async def test_a_decision_that_was_taken_back_asks_for_no_money(browser):
    """Neither in the list nor on its page."""
    stored = json.loads(browser.clinic.resources["ExplanationOfBenefit", "eob1"])
    assert "You owe" in text_of((await browser.get("bills/plan/eob1")).text)
    browser.clinic.put(stored | {"status": "cancelled"})
    page = (await browser.get("bills/plan/eob1")).text
    assert "Your plan took this back." in page
    assert '<p class="big' not in page
    card = (await browser.get("bills")).text.partition("/portal/bills/plan/eob1")[2].partition("</li>")[0]
    assert "Cancelled" in card
    assert "You owe" not in card
