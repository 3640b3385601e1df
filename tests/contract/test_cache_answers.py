"""What callers see of the cache, over HTTP in one process, in front of an EHR that fails, refuses and changes on demand."""

from __future__ import annotations

import asyncio
import re
import secrets
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import pytest

from gateway.sandbox.double import Double, Fault, served
from tests.support.whole_in_process import Whole, whole

LIFE = 0.4
"""Seconds that answers are fresh here, so that a test can wait for their end."""
STALE = 30


@dataclass
class Scene:
    """A gateway over a double, two patients of this test alone, their apps' tokens and their doctor's; `d` and `org` are everybody's."""

    gateway: Whole
    double: Double
    a: str
    b: str
    token: str
    other: str
    doctor: str
    org: str
    seen: int = 0

    async def get(self, path: str, *, token: str = "", **headers: str) -> httpx.Response:
        return await self.gateway.fhir(token or self.token, "GET", path, **headers)

    async def write(self, patient: str) -> None:
        """A message of hers."""
        token = await self.gateway.token("patient/*.cruds", patient=patient)
        hers = {"reference": f"Patient/{patient}"}
        body = {"resourceType": "Communication", "status": "in-progress", "subject": hers, "sender": hers, "payload": [{"contentString": "x"}]}
        made = await self.gateway.fhir(token, "POST", "Communication", body)
        assert made.status_code == 201, made.text

    def calls(self) -> list[str]:
        """What the EHR was asked since the last time this was called."""
        lines = self.double.lines()
        told, self.seen = lines[self.seen :], len(lines)
        return told


@pytest.fixture(scope="module")
def double() -> Iterator[tuple[Double, str]]:
    made = Double()
    with served(made) as url:
        yield made, url


@pytest.fixture(scope="module")
async def gateway(double: tuple[Double, str], tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Whole]:
    folder = tmp_path_factory.mktemp("gateway")
    lives = "".join(f"{name} = {LIFE}\n" for name in ("AllergyIntolerance", "Observation", "Organization", "Practitioner"))
    (folder / "gateway.toml").write_text("[lives]\n" + lives)
    async with whole(double[1], folder, environ={"GATEWAY_EHR_HAPI_PLATFORM": "generic"}, stale=str(STALE), coherence="10") as running:
        yield running


@pytest.fixture
async def scene(gateway: Whole, double: tuple[Double, str]) -> AsyncIterator[Scene]:
    people, own = double[0], secrets.token_hex(4)
    a, b, doctor, org = (f"{one}-{own}" for one in ("a", "b", "d", "org"))
    for name in (a, b):
        people.seed({"resourceType": "Patient", "id": name}, _observation(name), _allergy(name))
    people.seed({"resourceType": "Practitioner", "id": doctor, "name": [{"family": "Kim"}]}, {"resourceType": "Organization", "id": org})
    tokens = [await gateway.token("patient/*.rs", patient=name) for name in (a, b)]
    by_doctor = await gateway.token("user/*.rs", fhir_user=f"Practitioner/{doctor}", listed=(a, b))
    made = Scene(gateway, people, a, b, tokens[0], tokens[1], by_doctor, org)
    made.calls()
    yield made
    people.heal()
    gateway.gateway.ehrs["hapi"]._link.breaker._close()  # as the gateway would find out after a pause


def _observation(patient: str) -> dict[str, Any]:
    code = {"coding": [{"system": "http://loinc.org", "code": "x"}]}
    return {"resourceType": "Observation", "id": f"o-{patient}", "status": "final", "code": code, "subject": {"reference": f"Patient/{patient}"}}


def _allergy(patient: str) -> dict[str, Any]:
    return {"resourceType": "AllergyIntolerance", "id": f"al-{patient}", "patient": {"reference": f"Patient/{patient}"}}


def said(answer: httpx.Response) -> str:
    """Cache-Status without the numbers."""
    return re.sub(r"ttl=(-?)\d+", r"ttl=\1n", answer.headers["cache-status"])


MISS, HIT, OLD, AGAIN = "gateway; fwd=miss; stored", "gateway; hit; ttl=n", "gateway; hit; ttl=-n", "gateway; fwd=stale; stored"


async def test_an_answer_says_where_it_is_from(scene: Scene):
    """RFC 9211: a miss that is kept, a hit with what is left of its life and its age, a miss once that is over."""
    path = f"Observation/o-{scene.a}"
    first, second = await scene.get(path), await scene.get(path)
    assert (said(first), said(second)) == (MISS, HIT)
    assert ("age" in first.headers, second.headers["age"]) == (False, "0")
    assert second.content == first.content
    await asyncio.sleep(LIFE)
    assert said(await scene.get(path)) == AGAIN
    assert len(scene.calls()) == 2


@pytest.mark.parametrize(
    ("path", "fault"),
    [
        pytest.param("Observation/o-{a}", Fault(status=500), id="FAULT-U4-500"),
        pytest.param("Observation?code=x", Fault(status=502), id="FAULT-U4-502"),
        pytest.param("Observation/o-{a}", Fault(status=503, headers={"Retry-After": "7"}), id="FAULT-U4-503"),
        pytest.param("Observation?code=x", Fault(drop=True, times=2), id="FAULT-U8"),
    ],
)
async def test_an_ehr_that_fails_is_covered_for_and_that_is_said(scene: Scene, path: str, fault: Fault):
    """FAULT-U4, U8: the last answer, with Age, a negative ttl and Warning; fresh again afterwards."""
    path = path.format(a=scene.a)
    fresh = await scene.get(path)
    await asyncio.sleep(LIFE)
    scene.double.fail(fault)
    stale = await scene.get(path)
    assert stale.status_code == 200
    assert stale.content == fresh.content
    assert said(stale) == OLD
    assert stale.headers["warning"] == '110 gateway "Response is Stale", 111 gateway "Revalidation Failed"'
    assert int(stale.headers["age"]) <= STALE
    again = await scene.get(path)
    assert said(again) == AGAIN
    assert "warning" not in again.headers


async def test_while_the_breaker_is_open_too(scene: Scene):
    """FAULT-U1: once the EHR counts as down it is not asked any more, and who has nothing kept gets the error."""
    await scene.get("Observation")
    await asyncio.sleep(LIFE)
    scene.double.fail(Fault(status=502, times=0))
    scene.calls()
    answers = [await scene.get("Observation") for _ in range(9)]
    assert {said(one) for one in answers} == {OLD}
    assert len(scene.calls()) == 5
    refused = await scene.get("Observation", token=scene.other)
    assert (refused.status_code, refused.json()["issue"][0]["code"]) == (502, "transient")


@pytest.mark.parametrize(("status", "answered"), [(401, 502), (403, 403), (404, 404), (410, 404)])
async def test_an_ehr_that_refuses_takes_away_what_is_kept(scene: Scene, status: int, answered: int):
    """FAULT-U21, U22: the refusal is the answer, and what was kept is not given after it, though the EHR fails then."""
    path = f"Organization/{scene.org}"
    await scene.get(path)
    await asyncio.sleep(LIFE)
    scene.double.fail(Fault(status=status))
    assert (await scene.get(path)).status_code == answered
    scene.double.fail(Fault(status=502))
    assert (await scene.get(path)).status_code == 502


async def test_a_refusal_to_one_who_wanted_it_fresh_ends_it_for_all(scene: Scene):
    """FAULT-U22: it is found out by a caller with no-store, while the kept answer would still be fresh to others with the same rights."""
    path = f"Organization/{scene.org}"
    await scene.get(path)
    scene.double.fail(Fault(status=410))
    assert (await scene.get(path, Cache_Control="no-store")).status_code == 404
    assert said(await scene.get(path)) == MISS


@pytest.mark.parametrize("wish", ["no-cache", "no-store", "max-age=0"])
async def test_who_wants_it_fresh_gets_no_old_answer(scene: Scene, wish: str):
    """The EHR is asked, and when it fails that is the answer."""
    path = f"Observation/o-{scene.a}"
    await scene.get(path)
    stored = "" if wish == "no-store" else "; stored"
    assert said(await scene.get(path, Cache_Control=wish)) == f"gateway; fwd=request{stored}"
    scene.double.fail(Fault(status=502))
    assert (await scene.get(path, Cache_Control=wish)).status_code == 502


async def test_no_store_leaves_nothing_behind(scene: Scene):
    """Neither read nor filled."""
    assert said(await scene.get("Observation", Cache_Control="no-store")) == "gateway; fwd=request"
    assert said(await scene.get("Observation")) == MISS


async def test_what_is_read_for_safety_is_never_old(scene: Scene):
    """An allergy that was taken off, or is new, is not to be hidden by an old list."""
    await scene.get("AllergyIntolerance")
    await asyncio.sleep(LIFE)
    scene.double.fail(Fault(status=502))
    assert (await scene.get("AllergyIntolerance")).status_code == 502


async def test_a_shared_instance_is_revalidated(scene: Scene):
    """If-None-Match of what is kept; 304 makes it fresh again; a changed one comes whole. Her own If-None-Match is answered by us (ATK-F10)."""
    path = f"Organization/{scene.org}"
    first = await scene.get(path)
    await asyncio.sleep(LIFE)
    again = await scene.get(path)
    assert said(again) == "gateway; fwd=stale; fwd-status=304; stored"
    assert (again.content, again.headers["etag"]) == (first.content, first.headers["etag"])
    assert scene.double.requests[-1].headers["if-none-match"] == first.headers["etag"]
    assert said(await scene.get(path)) == HIT
    asked = await scene.get(path, Cache_Control="no-cache", If_None_Match=first.headers["etag"])
    assert (asked.status_code, asked.content, said(asked)) == (304, b"", "gateway; fwd=request; fwd-status=304; stored")
    scene.double.seed({"resourceType": "Organization", "id": scene.org, "name": "new"})
    await asyncio.sleep(LIFE)
    changed = await scene.get(path)
    assert (said(changed), changed.json()["name"]) == (AGAIN, "new")


async def test_many_who_ask_at_once_are_one_call(scene: Scene):
    """FAULT-C1: 200 callers of what nobody asked before are one call, and say so (RFC 9211); an error reaches all, and is not kept."""
    scene.double.fail(Fault(delay=0.3, after=True))
    answers = await asyncio.gather(*(scene.get("Observation") for _ in range(200)))
    assert {said(one) for one in answers} == {MISS, f"{MISS}; collapsed"}
    assert len(scene.calls()) == 1
    scene.double.fail(Fault(delay=0.3, status=500))
    answers = await asyncio.gather(*(scene.get("Condition") for _ in range(200)))
    assert {one.status_code for one in answers} == {502}
    assert len(scene.calls()) == 1
    assert said(await scene.get("Condition")) == MISS


async def test_nobody_gets_what_is_kept_for_another(scene: Scene):
    """FAULT-C2, ATK-F15: the same address with two tokens is two answers, also when the EHR fails and old ones would do."""
    await scene.get(f"Observation/o-{scene.a}")
    await scene.get("Observation")
    scene.double.fail(Fault(status=502, times=2))
    assert (await scene.get(f"Observation/o-{scene.a}", token=scene.other)).status_code == 502
    assert (await scene.get("Observation", token=scene.other)).status_code == 502


async def test_a_write_ends_old_answers_too(scene: Scene):
    """FAULT-C3: what was kept before a write is not given after it, fresh or stale."""
    for path in (f"Observation/o-{scene.a}", "Communication"):
        await scene.get(path)
    await scene.write(scene.a)
    scene.double.fail(Fault(status=502, times=2))
    assert (await scene.get("Communication")).status_code == 502
    assert (await scene.get(f"Observation/o-{scene.a}")).status_code == 502
    assert (await scene.get("Communication")).json()["entry"]


async def test_a_doctors_search_over_several_patients_ends_with_each(scene: Scene):
    """Its key holds the generation of each patient within reach: a write for one of them ends it, and not the answers about the other alone."""
    path = "Observation?_revinclude=Provenance:target"
    assert said(await scene.get(path, token=scene.doctor)) == MISS
    assert said(await scene.get(path, token=scene.doctor)) == HIT
    await scene.get(f"Patient/{scene.a}")
    await scene.write(scene.b)
    assert said(await scene.get(path, token=scene.doctor)) == MISS
    assert said(await scene.get(f"Patient/{scene.a}")) == HIT


async def test_how_often_and_why(scene: Scene):
    """The counts say what happened, by reason, and are news once."""
    counts = scene.gateway.gateway.cache.counts
    before = counts.shown()
    for wish in ("", "", "no-store"):
        await scene.get("Observation?code=counted", Cache_Control=wish)
    after = counts.shown()
    grown = {name: after[name] - before.get(name, 0) for name in after if after[name] != before.get(name, 0)}
    wanted = ("fetched-absent", "fetched-no-store", "given-fresh", "kept", "left", "found-nothing")
    assert {name: grown[name] for name in wanted} == dict.fromkeys(wanted, 1)
    assert counts.news() == after
    assert counts.news() == {}
