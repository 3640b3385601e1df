"""The sandbox's people in real EHRs: all accepted, loaded again without harm, found by the pages' searches, numbers as written."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date, timedelta

import httpx
import pytest

from gateway.sandbox import embedded, people

TODAY = date.today()  # noqa: DTZ011 - the day on this machine, as the demo takes it
ALL = people.folders(TODAY)


@dataclass(frozen=True, slots=True)
class Target:
    """An EHR under test."""

    base_url: str
    headers: Mapping[str, str] = field(default_factory=dict)


@pytest.fixture(scope="module")
def embedded_ehr(tmp_path_factory):
    with embedded.running(tmp_path_factory.mktemp("embedded")) as running:
        yield Target(running.base_url, running.headers)


@pytest.fixture(params=["embedded", pytest.param("hapi", marks=pytest.mark.hapi)])
def target(request):
    if request.param == "embedded":
        return request.getfixturevalue("embedded_ehr")
    return Target(request.getfixturevalue("hapi_url"))


@pytest.fixture
async def client(target):
    loaded = await people.load(target.base_url, ALL, headers=target.headers, say=str)
    assert loaded.refused == ()
    async with httpx.AsyncClient(base_url=target.base_url, headers={**target.headers, "Cache-Control": "no-cache"}, timeout=60) as client:
        yield client


async def total(client: httpx.AsyncClient, search: str) -> int:
    """How many match, counted over the pages."""
    found = (await client.get(f"/{search}&_count=200")).json()
    return sum(1 for entry in found.get("entry", ()) if entry["search"]["mode"] == "match")


async def test_loading_again_refuses_nothing_and_skips_what_is_there(client, target):
    """The second start of a demo."""
    again = await people.load(target.base_url, ALL, headers=target.headers, say=str)
    assert again == people.Loaded(0, len(ALL), ())
    forced = await people.load(target.base_url, [ALL[2]], headers=target.headers, say=str, again=True)
    assert forced.written == 2


async def test_numbers_come_back_as_written(client):
    """Every number of the rich record, in order, against what was sent."""
    for name, resource in people.named(ALL[1]):
        if resource["resourceType"] in ("Observation", "ExplanationOfBenefit"):
            sent = re.findall(r'"value":([0-9.eE+-]+)', people.encode(resource).decode())
            got = re.findall(r'"value":\s*([0-9.eE+-]+)', (await client.get(f"/{name}")).text)
            assert sorted(got) == sorted(sent), name


@pytest.mark.parametrize(
    ("search", "count"),
    [
        ("DiagnosticReport?patient=amara-okafor&category=LAB", 13),
        ("Observation?patient=priya-venkataraman&code=http://loinc.org|6301-6", 150),
        ("Condition?patient=amara-okafor", 10),
        ("MedicationRequest?patient=walter-brandt&intent=order,plan", 14),
        ("Appointment?patient=henri-mercier", 1),
        ("Appointment?patient=joelle-mercier", 2),
        ("Communication?patient=amara-okafor&part-of:missing=true", 3),
        ("Communication?part-of=Communication/amara-okafor-metformin", 5),
        ("Claim?patient=kwame-boateng", 4),
        ("ExplanationOfBenefit?patient=kwame-boateng", 3),
        ("RelatedPerson?patient=mina-reyes", 1),
        ("Task?patient=amara-okafor", 1),
        ("Observation?patient=beatriz-carvalho", 0),
    ],
)
async def test_the_searches_of_the_pages_find_them(client, search, count):
    """Narrowed by patient, as the gateway narrows them."""
    assert await total(client, search) == count


async def test_care_teams_come_for_everybody_where_the_type_has_no_parameters(client, target):
    """The embedded EHR keeps CareTeams and can search them by nothing: what it gives beyond the patient's own must be screened out."""
    found = await total(client, "CareTeam?patient=amara-okafor&status=active")
    others = sum(1 for folder in ALL for name, _ in people.named(folder) if name.startswith("CareTeam/"))
    assert found == (others if target.headers else 1)
    assert others > 5


async def test_coming_appointments_can_be_searched_by_date(client):
    """Times are with their zone."""
    tomorrow = (TODAY + timedelta(days=1)).isoformat()
    assert await total(client, f"Appointment?patient=amara-okafor&date=ge{tomorrow}&status=booked") == 3


async def test_many_results_come_in_pages(client):
    """There is a next link, and following them finds each once."""
    found = (await client.get("/Observation?patient=priya-venkataraman&_count=50&_sort=-date")).json()
    ids: list[str] = []
    for _ in range(10):
        ids += [entry["resource"]["id"] for entry in found.get("entry", ())]
        following = [link["url"] for link in found["link"] if link["relation"] == "next"]
        if not following:
            break
        found = (await client.get(following[0])).json()
    assert len(ids) == len(set(ids)) == 151
