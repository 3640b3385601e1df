"""The portal on the whole gateway: real sign-in, real pipeline, the people of the sandbox behind the EHR double. Pages against bytes."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from html import unescape

import httpx
import pytest

from gateway import local
from gateway.sandbox import people
from gateway.sandbox.double import Double, served
from gateway.sandbox.forms import forms
from gateway.store.oauth_rows import ListedPatient
from tests.support.whole_in_process import PUBLIC_URL, Whole, whole

AMARA = "Patient/amara-okafor"
NUMBER = re.compile(rb'"valueQuantity"\s*:\s*\{[^{}]*?"value"\s*:\s*(-?[0-9.eE+-]+)')


@pytest.fixture(scope="module")
def double() -> Iterator[tuple[Double, str]]:
    """The EHR."""
    ehr = Double()
    with served(ehr) as url:
        yield ehr, url


@pytest.fixture(scope="module")
async def gateway(double: tuple[Double, str], tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Whole]:
    """With everybody's record and account."""
    _, url = double
    await people.load(url, people.folders(datetime.now(UTC).date()), headers={}, say=lambda _: None)
    async with whole(url, tmp_path_factory.mktemp("gateway"), ehr="clinic") as running:
        accounts = local.accounts(running.gateway.state)
        for one in people.roster():
            listed = tuple(ListedPatient(*pair) for pair in one.patients)
            await accounts.add(one.username, one.password, ehr="clinic", fhir_user=one.fhir_user, display_name=one.display, patients=listed)
        yield running


@pytest.fixture
async def browser(gateway: Whole) -> AsyncIterator[Browser]:
    """A browser of its own."""
    async with httpx.AsyncClient(transport=httpx.ASGITransport(gateway.asgi), base_url=PUBLIC_URL, follow_redirects=True) as http:
        yield Browser(http)


class Browser:
    """A browser without JavaScript."""

    def __init__(self, http: httpx.AsyncClient) -> None:
        self.http = http

    async def sign_in(self, username: str) -> httpx.Response:
        return await self.send("/portal/", "/signin", username=username, password=people.DEFAULT_PASSWORD)

    async def get(self, path: str, status: int = 200) -> str:
        answer = await self.http.get(path)
        assert answer.status_code == status, f"{path}: {answer.status_code}"
        return answer.text

    async def send(self, page: str, action: str, **given: str) -> httpx.Response:
        """Fill in the form of a page that goes to `action`, and send it."""
        form = next(one for one in forms(await self.get(page)) if one.action.partition("?")[0] == action)
        return await self.http.post(form.action, data=form.filled() | given)

    async def crawl(self) -> dict[str, str]:
        """Every page that links lead to, by its path."""
        pages: dict[str, str] = {}
        todo = ["/portal/"]
        while todo:
            path = todo.pop()
            if path not in pages:
                pages[path] = await self.get(path)
                todo += [unescape(link).partition("#")[0] for link in re.findall(r'href="(/portal/[^"]*)"', pages[path])]
        return pages


def read(html: str) -> str:
    """What a person reads in the main part."""
    return re.sub(r"\s+", " ", unescape(re.sub(r"<[^>]+>", " ", html[html.index("<main") :])))


def hers(double: Double, kind: str, patient: str = AMARA) -> list[bytes]:
    """The EHR's bytes of one type that name her."""
    return [one.raw for one in double.store.of_type(kind) if f'"{patient}"'.encode() in one.raw]


@pytest.mark.parametrize("username", ["amara", "walter", "joelle", "noor", "kwame", "beatriz"])
async def test_every_page_of_everybodys_record_opens(browser: Browser, username: str):
    """All links, all details: none fails, none is empty, none shows code for words."""
    await browser.sign_in(username)
    pages = await browser.crawl()
    assert len(pages) > 10
    for path, html in pages.items():
        page = read(html)
        assert len(page) > 100, path
        assert not re.search(r"\bNone\b|Undefined|\{\{|http://|urn:", page), path
        assert "is missing" not in page, path


async def test_each_result_page_shows_the_ehrs_own_number_unit_and_range(browser: Browser, double: tuple[Double, str]):
    """For every numeric result of the rich record: the text of the number in the bytes is the text on the page."""
    await browser.sign_in("amara")
    checked = 0
    for raw in hers(double[0], "Observation"):
        resource = json.loads(raw, parse_float=str, parse_int=str)
        page = read(await browser.get(f"/portal/results/observation/{resource['id']}"))
        if resource["status"] == "entered-in-error":
            assert "Withdrawn" in page
            continue
        for number in NUMBER.findall(raw):
            assert re.search(rf"(^|[ <>=]){re.escape(number.decode())}( |$)", page), (resource["id"], number)
            checked += 1
        if "valueQuantity" in resource:
            assert resource["valueQuantity"].get("unit", "") in page
        for one in resource.get("referenceRange", []):
            assert re.sub(r"\s+", " ", one.get("text", "")) in page
    assert checked > 50


async def test_what_she_writes_is_in_the_ehr_and_on_her_page_at_once(browser: Browser, double: tuple[Double, str]):
    """A message, an answer, a request, a refill: as the pages were already cached."""
    ehr = double[0]
    await browser.sign_in("amara")
    for path in ("messages", "appointments", "medicines"):
        await browser.get(f"/portal/{path}")
    before = {kind: len(hers(ehr, kind)) for kind in ("Communication", "Appointment", "Task")}
    form = "/portal/messages/new"
    answer = await browser.send(form, form, to="Practitioner/hana-novak", category="general", topic="My knee", text="It hurts on stairs.")
    assert "Your message was sent." in answer.text
    assert "It hurts on stairs." in answer.text
    answer = await browser.send(answer.url.path, answer.url.path, text="Only on the left side.")
    assert "Only on the left side." in answer.text
    assert "My knee" in await browser.get("/portal/messages")
    today = datetime.now(UTC).date().isoformat()
    answer = await browser.send("/portal/appointments/new", "/portal/appointments/new", what="Knee pain", start=today, end=today)
    assert "This is not booked." in answer.text
    assert "Knee pain" in await browser.get("/portal/appointments")
    asked = re.search(r'href="(/portal/medicines/[^"]+/more)"', await browser.get("/portal/medicines"))
    assert asked is not None
    answer = await browser.send(asked[1], asked[1], note="")
    assert "You asked for more." in answer.text
    after = {kind: len(hers(ehr, kind)) for kind in before}
    assert {kind: after[kind] - before[kind] for kind in before} == {"Communication": 3, "Appointment": 1, "Task": 1}


async def test_she_cancels_a_booked_appointment_and_the_rest_of_it_stays(browser: Browser, double: tuple[Double, str]):
    """Through the writes table and If-Match, with the clinic's own members untouched."""
    ehr = double[0]
    await browser.sign_in("amara")
    page = await browser.get("/portal/appointments")
    coming = page[page.index("<h2>Booked</h2>") :]
    cards = coming.split("<li>")[1:]
    path = next(re.search(r'href="(/portal/appointments/[^"]+)"', card)[1] for card in cards if ">Booked<" in card)
    stored = json.loads(ehr.raw(f"Appointment/{path.removeprefix('/portal/appointments/')}"))
    answer = await browser.send(f"{path}/cancel", f"{path}/cancel", reason="pat-lt")
    assert "This appointment is cancelled." in answer.text
    now = json.loads(ehr.raw(f"Appointment/{stored['id']}"))
    assert now["status"] == "cancelled"
    assert {name for name in stored | now if stored.get(name) != now.get(name)} == {"status", "cancelationReason", "participant", "meta"}


async def test_one_who_cares_for_a_child_opens_the_childs_record_and_writes_there(browser: Browser, double: tuple[Double, str]):
    """The banner says whose it is; what he writes is about the child, in his own name."""
    await browser.sign_in("daniel")
    page = await browser.http.post("/portal/records", data=forms(await browser.get("/portal/records"))[-1].filled())
    assert "You are viewing the record of <strong>Mina Reyes</strong>" in page.text
    form = "/portal/messages/new"
    to = re.search(r'name="to" value="([^"]+)"', await browser.get(form))
    assert to is not None
    answer = await browser.send(form, form, to=to[1], category="general", topic="Fever", text="38.5 since Monday.")
    assert answer.status_code == 200
    assert "Your message was sent." in answer.text
    written = [one for raw in hers(double[0], "Communication", "Patient/mina-reyes") if (one := json.loads(raw)).get("topic") == {"text": "Fever"}]
    assert {one["sender"]["reference"] for one in written} == {"Patient/daniel-reyes"}
    assert {one["subject"]["reference"] for one in written} == {"Patient/mina-reyes"}
    assert "Fever" in await browser.get("/portal/messages")


async def test_her_accesses_are_on_her_page(browser: Browser):
    """What was opened a moment ago is there."""
    await browser.sign_in("tomas")
    await browser.get("/portal/conditions")
    page = read(await browser.get("/portal/access"))
    assert re.search(r"You Looked at .*health conditions", page)
    assert "This site" in page


async def test_the_apps_that_she_let_in_are_one_link_away(browser: Browser):
    """From the first page and from the list of accesses, to the page that takes it back."""
    await browser.sign_in("tomas")
    for path in ("/portal/", "/portal/access"):
        assert 'href="/apps"' in await browser.get(path)
    assert "<h1>Connected apps</h1>" in await browser.get("/apps")


async def test_nobody_opens_anothers_record(browser: Browser):
    """Not by address, not by form."""
    await browser.sign_in("beatriz")
    await browser.get("/portal/appointments/amara-okafor-next", 404)
    form = forms(await browser.get("/portal/records"))
    fields = form[-1].filled() | {"patient": "amara-okafor"}
    answer = await browser.http.post("/portal/records", data=fields)
    assert answer.status_code == 403
    assert "Amara" not in await browser.get("/portal/")
