"""The list of patients to choose from: what is shown of each, what a search finds, and its pages."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime

import pytest

from gateway.fhir.interaction import Interaction, Kind
from gateway.portal.faces import Face, Faces
from gateway.proxy.answer import Answer, RequestContext
from gateway.smart.principal import Principal, PrincipalKind
from gateway.store.oauth_rows import Account, ListedPatient
from gateway.web.picker import STEP, picker

FACES = {
    "a": Face("Zoë Ångström", "5 March 1980", "female"),
    "b": Face("Bo Okafor", "1 May 2015", "male"),
    "c": Face("", "", ""),
}
PATIENTS = [ListedPatient("a", "Old name"), ListedPatient("b"), ListedPatient("c", "Listed name"), ListedPatient("d")]
MANY = [ListedPatient(f"p{number:03}", f"Person {number:03}") for number in range(45)]


def test_each_is_shown_as_the_ehr_knows_her():
    """Else as the list does, else by the id."""
    found = picker(PATIENTS, FACES)
    assert [(one.id, one.name, one.hint) for one in found.choices] == [
        ("a", "Zoë Ångström", "born 5 March 1980, female"),
        ("b", "Bo Okafor", "born 1 May 2015, male"),
        ("c", "Listed name", ""),
        ("d", "Patient d", ""),
    ]
    assert not found.searchable


@pytest.mark.parametrize(
    ("asked", "ids"),
    [
        ("angstrom", ["a"]),
        ("ZOE 1980", ["a"]),
        ("may", ["b"]),
        ("  okafor   bo ", ["b"]),
        ("listed", ["c"]),
        ("old", []),
        ("patient", ["d"]),
    ],
)
def test_every_word_is_looked_for(asked, ids):
    """Case and accents do not count; what is not shown is not found."""
    assert [one.id for one in picker(PATIENTS, FACES, asked=asked).choices] == ids


@pytest.mark.parametrize(
    ("page", "number", "first", "links"),
    [("", 1, "p000", (0, 2)), ("2", 2, "p020", (1, 3)), ("3", 3, "p040", (2, 0)), ("99", 3, "p040", (2, 0))]
    + [(odd, 1, "p000", (0, 2)) for odd in ("0", "-1", "x", "٣", "1e3", "9" * 9)],
)
def test_long_lists_have_pages(page, number, first, links):
    """A page that is not there is the nearest, and odd numbers are the first."""
    found = picker(MANY, {}, page=page)
    assert (found.page, found.pages, found.choices[0].id, (found.previous, found.next)) == (number, 3, first, links)
    assert len(found.choices) <= STEP
    assert found.searchable


def test_a_search_is_cut_to_its_own_pages():
    """The numbers are of what was found."""
    found = picker(MANY, {}, asked="person 00", page="2")
    assert (found.total, found.page, found.pages) == (10, 1, 1)
    assert picker(MANY, {}, asked="x" * 500).asked == "x" * 100


class Recorded:
    """A road to an EHR that knows everybody, and what was asked of it."""

    def __init__(self, pause: float = 0.0) -> None:
        self.asked: list[tuple[Principal, Interaction]] = []
        self._pause = pause

    async def handle(self, principal: Principal, interaction: Interaction, context: RequestContext) -> Answer:
        assert context.via == "portal"
        self.asked.append((principal, interaction))
        await asyncio.sleep(self._pause)
        ids = next(param.value for param in interaction.params if param.name == "_id").split(",")
        entries = [{"resource": {"resourceType": "Patient", "id": one, "name": [{"family": "F"}], "gender": "unknown"}} for one in ids]
        return Answer(200, json.dumps({"resourceType": "Bundle", "entry": entries}).encode())


CONTEXT = RequestContext("r1", via="portal")
STAFF = Account("acc", "nurse", "", "hapi", "Practitioner/n", "Nurse", datetime(2026, 1, 1, tzinfo=UTC))


async def test_faces_are_read_in_the_persons_name_and_no_further_than_the_list():
    """Fifty of a search; demographics and nothing else; one alone is in context, as at a launch."""
    road, ids = Recorded(), [f"p{number}" for number in range(120)]
    found = await Faces(road).of(STAFF, "hapi", ids, CONTEXT)
    assert (len(found), found["p7"]) == (120, Face("F", "", ""))
    assert [len(principal.listed) for principal, _ in road.asked] == [50, 50, 20]
    for principal, interaction in road.asked:
        assert (principal.kind, principal.ehr, principal.patient, principal.fhir_user) == (PrincipalKind.USER, "hapi", "", "Practitioner/n")
        assert [str(scope) for scope in principal.scopes] == ["user/Patient.rs"]
        assert (interaction.kind, interaction.type) == (Kind.SEARCH, "Patient")
    road.asked.clear()
    await Faces(road).of(STAFF, "hapi", ["p1"], CONTEXT)
    await Faces(road).of(STAFF, "hapi", [], CONTEXT)
    assert [principal.patient for principal, _ in road.asked] == ["p1"]


async def test_a_slow_ehr_is_not_waited_for():
    """The list is shown with what is stored: names are a help."""
    assert await Faces(Recorded(pause=30), patience=0.02).of(STAFF, "hapi", ["p1"], CONTEXT) == {}
