"""Choosing a patient among many: as the EHR knows them, by search and by page, without JavaScript."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import httpx
import pytest

from gateway import local
from gateway.portal.faces import Face
from gateway.sandbox.double import Double, Fault, served
from gateway.store import oauth as rows
from gateway.store.oauth_rows import ListedPatient, digest
from tests.support import smart
from tests.support.whole_in_process import Whole, whole

CONSENT, PATIENT = "/auth/hapi/consent", "/auth/hapi/patient"
SCOPE = "launch/patient patient/Observation.rs"
MANY = [f"p{number:03}" for number in range(45)]


@pytest.fixture
async def server(tmp_path) -> AsyncIterator[smart.Smart]:
    async with smart.smart_server(f"sqlite+aiosqlite:///{tmp_path}/store.db") as found:
        await found.public_app()
        await found.person("nurse", fhir_user="Practitioner/n", patients=MANY)
        found.faces.faces = {one: Face(f"Pat {one[1:]}", f"{int(one[1:]) % 28 + 1} May 1990", "female") for one in MANY if one != "p007"}
        yield found


async def at_picker(server: smart.Smart) -> smart.Browser:
    browser = smart.Browser(server.app())
    await browser.authorize(smart.asking(scope=SCOPE))
    await browser.sign_in("nurse")
    assert browser.page.request.url.path == PATIENT
    return browser


def shown(browser: smart.Browser) -> list[str]:
    return [value for name, value in smart.Form(browser.page.text).boxes if name == "patient"]


async def search(browser: smart.Browser, **asked: str) -> httpx.Response:
    """Fill in the search form, which has no address but that of its page."""
    return await browser.get(PATIENT, **dict(smart.Form(browser.page.text).to("")) | asked)


async def test_many_patients_come_in_pages(server):
    """Twenty at a time; the last one of the last page can be picked, and the app gets her."""
    browser = await at_picker(server)
    assert shown(browser) == MANY[:20]
    assert "Pat 003" in browser.page.text
    assert "born 4 May 1990, female" in browser.page.text
    assert "Record of p007" in browser.page.text  # the EHR did not say, the list does
    assert server.faces.asked == [tuple(MANY)]
    await search(browser, page="3")
    assert shown(browser) == MANY[40:]
    assert "Next page" not in browser.page.text
    await browser.submit(PATIENT, patient="p044")
    assert browser.page.request.url.path == CONSENT
    assert "Pat 044, born 17 May 1990, female" in browser.page.text
    await browser.allow()
    async with server.database.read() as connection:
        code = await rows.code(connection, digest(browser.answer["code"]))
        grant = await rows.grant(connection, code.grant_id if code else "")
    assert grant is not None
    assert grant.patient == "p044"


async def test_patients_are_found_by_what_is_shown(server):
    """Name, birth date; nobody found is said; what is searched for is text (ATK-O16)."""
    browser = await at_picker(server)
    await search(browser, q="pat 012")
    assert shown(browser) == ["p012"]
    assert "1 of 45 is found" in browser.page.text
    await search(browser, q="pat 1990 17 may")
    assert shown(browser) == ["p016", "p017", "p044"]
    page = await search(browser, q='"><script>alert(1)</script>')
    assert (shown(browser), "<script" in page.text) == ([], False)
    assert "Nobody whose record you may open" in page.text


async def test_another_browser_sees_no_names(server):
    """ATK-O17: the picker's address, in another browser, shows nothing and asks the EHR for nothing."""
    browser = await at_picker(server)
    asked = len(server.faces.asked)
    stranger = await smart.Browser(server.app()).get(PATIENT, transaction=dict(smart.Form(browser.page.text).to(PATIENT))["transaction"])
    assert (stranger.status_code, "Pat 0" in stranger.text) == (400, False)
    assert len(server.faces.asked) == asked


async def test_of_very_many_only_those_that_are_shown_are_read(server):
    """Nobody waits for thousands; what is stored of them is searched."""
    await server.person("ward", fhir_user="Practitioner/w", patients=[f"q{number:04}" for number in range(300)])
    server.faces.faces = {"q0299": Face("Last One", "", "")}
    browser = smart.Browser(server.app())
    await browser.authorize(smart.asking(scope=SCOPE))
    await browser.sign_in("ward")
    await search(browser, q="q0299")
    assert shown(browser) == ["q0299"]
    assert "Last One" in browser.page.text
    assert [len(one) for one in server.faces.asked] == [20, 1]


# Over the real pipeline ----------------------------------------------------------------------------------------------------------------


@pytest.fixture
def ehr() -> Iterator[tuple[Double, str]]:
    double = Double()
    for one, name, born in (("mum", "Mia Okafor", "1985-02-03"), ("kid", "Kit Okafor", "2015-06-07"), ("foreign", "Foreign Name", "1950-01-01")):
        double.seed({"resourceType": "Patient", "id": one, "name": [{"text": name}], "birthDate": born, "gender": "female"})
    with served(double) as url:
        yield double, url


@pytest.fixture
async def gateway(ehr: tuple[Double, str], tmp_path) -> AsyncIterator[Whole]:
    async with whole(ehr[1], tmp_path / "gateway") as running:
        state = running.gateway.state
        listed = (ListedPatient("kid", "Her son"), ListedPatient("gone", "Not at the EHR"))
        accounts = local.accounts(state)
        await accounts.add("mum", smart.PASSWORD, ehr="hapi", fhir_user="Patient/mum", display_name="Mum", patients=listed)
        await local.registrar(state).register({"client_id": "app", "token_endpoint_auth_method": "none", "redirect_uris": [smart.APP]})
        yield running


async def test_names_are_read_in_the_persons_name_and_on_record(gateway, ehr):
    """By the only road to the EHR: her own reach, no record but the listed ones, and each look in the record of accesses."""
    double, _ = ehr
    browser = smart.Browser(gateway.asgi)
    await browser.authorize(smart.asking(scope=SCOPE))
    await browser.sign_in("mum")
    text = browser.page.text
    assert shown(browser) == ["mum", "gone", "kid"]
    assert "Kit Okafor" in text
    assert "born 7 June 2015, female" in text or "born June 7, 2015, female" in text
    assert "Not at the EHR" in text
    assert "Foreign" not in text
    assert not [line for line in double.lines() if "foreign" in line]
    looks = await gateway.gateway.state.audit.of_patient("hapi", "kid")
    assert [(one.action, one.client_id) for one in looks] == [("search-type", "portal")]
    double.fail(*[Fault(status=500)] * 10)
    await browser.pick("kid")
    assert browser.page.request.url.path == CONSENT
    assert "Her son" in browser.page.text or "Kit Okafor" in browser.page.text
