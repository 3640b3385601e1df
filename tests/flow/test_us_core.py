"""Every search that US Core says SHALL, and every SHOULD that HAPI has, through the gateway: on HAPI and on the double."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass

import httpx
import pytest

from tests.support.on_both import BOTH, Scene
from tests.support.on_both import scene as on
from tests.support.us_core import OF_US_CORE_ALONE, ROWS, WITHOUT_PROVENANCE, Row, everything

JOINED = {"prac": "practitioner-1-{t}", "rel": "relatedperson-1-{t}", "pat": "{p}", "med": "medication-1-{t}", "end": "endpoint-1-{t}"}
TYPES = sorted({row.type for row in ROWS})


@pytest.fixture(scope="module", params=BOTH)
async def scene(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Scene]:
    async with on(request, tmp_path_factory) as running:
        a, b = f"us-{running.two.a}", f"us-{running.two.b}"
        entries = [
            {"resource": one, "request": {"method": "PUT", "url": f"{one['resourceType']}/{one['id']}"}} for one in everything(a, b, running.two.tag)
        ]
        bundle = {"resourceType": "Bundle", "type": "transaction", "entry": entries}
        answer = running.direct.post("", json=bundle, headers={"Content-Type": "application/fhir+json"})
        assert answer.status_code == 200, answer.text
        yield await running.as_("patient/*.rs", patient=a)


@dataclass
class Found:
    """An answer's own ids: what matched, and what came along."""

    matches: list[str]
    includes: set[str]
    bundle: dict


def found(answer: httpx.Response) -> Found:
    assert answer.status_code == 200, answer.text
    entries = answer.json().get("entry", [])
    return Found(
        sorted(one["resource"]["id"] for one in entries if one["search"]["mode"] == "match"),
        {one["resource"]["id"] for one in entries if one["search"]["mode"] == "include"},
        answer.json(),
    )


def filled(text: str, scene: Scene, patient: str = "us-{a}") -> str:
    return text.replace("{p}", patient).replace("{a}", scene.two.a).replace("{t}", scene.two.tag)


def expected(row: Row, scene: Scene) -> list[str]:
    if row.type == "Patient":
        return [f"us-{scene.two.a}" for _ in row.find]
    return [f"{row.type.lower()}-{number}-{scene.two.tag}" for number in row.find]


async def ask(row: Row, query: str, scene: Scene) -> Found:
    """By GET and by POST, which are one search; and nothing of B's in either."""
    got, posted = await scene.get(f"{row.type}?{query}"), await scene.post(row.type, query)
    first, second = found(got), found(posted)
    assert (first.matches, first.includes) == (second.matches, second.includes)
    for answer in (got, posted):
        assert f"-9-{scene.two.tag}" not in answer.text
        assert f"us-{scene.two.b}" not in answer.text
    return first


@pytest.mark.parametrize("type_", TYPES)
async def test_every_row_of_a_type(scene: Scene, type_: str):
    """US Core 6.1 to 8, ATK-F2: each finds A's matching resources and not the others; B's, which have the same values, never.

    By GET and POST, the patient as an id and as a reference, tokens with and without their system.
    """
    for row in (row for row in ROWS if row.type == type_):
        variants = {filled(row.query, scene)} | ({filled(row.query, scene, "Patient/us-{a}")} if row.about_patients else set())
        variants |= {re.sub(r"(?<=[=,])[^=,&|]+\|", "", one) for one in list(variants)}
        for query in sorted(variants):
            answer = await ask(row, query, scene)
            assert answer.matches == expected(row, scene), query
            assert answer.includes == {filled(JOINED[name], scene) for name in row.joins.split()}, query


@pytest.mark.parametrize("type_", [name for name in TYPES if name not in WITHOUT_PROVENANCE])
async def test_provenance_comes_along(scene: Scene, type_: str):
    """US Core SHALL: `_revinclude=Provenance:target` brings that of what was found, and of nothing else."""
    row = next(row for row in ROWS if row.type == type_ and row.find)
    answer = await ask(row, filled(row.query, scene) + "&_revinclude=Provenance:target", scene)
    origins = [one["resource"] for one in answer.bundle["entry"] if one["resource"]["resourceType"] == "Provenance"]
    assert answer.matches == expected(row, scene)
    assert sorted(one["target"][0]["reference"] for one in origins) == [f"{type_}/{id_}" for id_ in answer.matches]


@pytest.mark.parametrize("type_", TYPES)
async def test_each_type_is_read(scene: Scene, type_: str):
    """US Core SHALL: read; and of B's by id nothing."""
    row = Row(type_, "")
    mine = expected(row, scene)[0]
    assert (await scene.get(f"{type_}/{mine}")).json()["id"] == mine
    if row.type not in WITHOUT_PROVENANCE - {"Specimen"}:  # the others are everyone's
        theirs = mine.replace(f"us-{scene.two.a}", f"us-{scene.two.b}").replace("-1-", "-9-")
        assert (await scene.get(f"{type_}/{theirs}")).status_code == 404


@pytest.mark.parametrize("path", OF_US_CORE_ALONE)
async def test_what_the_ehr_has_not_is_refused(scene: Scene, path: str):
    """SHOULD rows by parameters that R4 does not define: 400 that says so, never a search without them."""
    answer = await scene.get(path)
    assert (answer.status_code, answer.json()["issue"][0]["code"]) == (400, "not-supported")


async def test_the_statement_lists_what_the_rows_ask(scene: Scene):
    """HL7@348-371: on HAPI, whose own statement is whole, every parameter and join of the table is in `/metadata`."""
    statement = (await scene.gateway.fhir("", "GET", "metadata")).json()
    rows = {one["type"]: one for one in statement["rest"][0]["resource"]}
    if not rows["Patient"].get("searchParam"):
        assert json.loads(scene.direct.get("metadata").content)["software"]["name"] == "Double"  # it lists none of its own
        return
    for row in ROWS:
        names = {pair.partition("=")[0] for pair in row.query.split("&")}
        joins = {pair.partition("=")[2] for pair in row.query.split("&") if pair.startswith("_include=")}
        assert names - {"_include"} <= {one["name"] for one in rows[row.type]["searchParam"]}, row
        assert joins <= set(rows[row.type].get("searchInclude", ())), row
