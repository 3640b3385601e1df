"""PATCH, DELETE and changes by condition: what stands there and what would come of it are both judged, on the double and on HAPI."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.support.on_both import BOTH, Scene, comparable
from tests.support.on_both import scene as on

KEY = "urn:key"


@pytest.fixture(scope="module", params=BOTH)
async def scene(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Scene]:
    async with on(request, tmp_path_factory) as running:
        yield running


def message(scene: Scene, name: str, status: str = "preparation", who: str = "", **members: Any) -> dict[str, Any]:
    mine = {"reference": f"Patient/{who or scene.two.a}"}
    made = {"resourceType": "Communication", "id": scene.two.id(name), "status": status, "subject": mine, "sender": mine}
    return made | {"payload": [{"contentString": "x"}], "identifier": [{"system": KEY, "value": scene.two.id(name)}]} | members


def measured(scene: Scene, name: str, **members: Any) -> dict[str, Any]:
    mine = {"reference": f"Patient/{scene.two.a}"}
    made = {"resourceType": "Observation", "id": scene.two.id(name), "status": "final", "subject": mine, "performer": [mine]}
    return made | {"code": {"text": "weight"}, "valueQuantity": {"value": 1, "unit": "kg"}} | members


SENT = {"op": "replace", "path": "/status", "value": "in-progress"}


# PATCH ---------------------------------------------------------------------------------------------------------------------------


async def test_a_patch_changes_what_it_says(scene: Scene):
    """The result is stored as an update of the version that was judged, comes back with its ETag, and is seen at once."""
    scene.put(message(scene, "p1"))
    path = f"Communication/{scene.two.id('p1')}"
    before = (await scene.get(path)).headers["etag"]
    link = f"{scene.gateway.base}/Practitioner/{scene.two.id('prac')}"
    answer = await scene.patch(path, SENT, {"op": "add", "path": "/recipient", "value": [{"reference": link}]}, If_Match=before)
    assert answer.status_code == 200, answer.text
    assert answer.headers["etag"] != before
    assert (await scene.get(path)).json()["status"] == "in-progress"
    assert answer.json()["recipient"] == [{"reference": f"Practitioner/{scene.two.id('prac')}"}]
    assert (await scene.patch(path, SENT, If_Match=before)).status_code == 412


async def test_numbers_keep_their_digits_through_a_patch(scene: Scene):
    """Promise 2: `1.10` and `70.00` are what goes to the EHR."""
    body = b'{"resourceType":"Observation","status":"preliminary","code":{"text":"w"},"valueQuantity":{"value":1.10,"unit":"kg"},%s}'
    mine = b'"subject":{"reference":"Patient/%s"},"performer":[{"reference":"Patient/%s"}]' % ((scene.two.a.encode(),) * 2)
    made = await scene.send("POST", "Observation", body % mine)
    staff = await scene.as_("user/*.cruds", fhir_user=f"Practitioner/{scene.two.id('prac')}", listed=(scene.two.a,))
    low = b'[{"op":"add","path":"/referenceRange","value":[{"low":{"value":70.00,"unit":"kg"}}]}]'
    answer = await staff.send("PATCH", f"Observation/{made.json()['id']}", low, Content_Type="application/json-patch+json")
    assert answer.status_code == 200, answer.text
    assert b"1.10" in answer.content
    assert b"70.00" in answer.content


LEAVING = [
    [{"op": "replace", "path": "/subject/reference", "value": "Patient/{b}"}],
    [{"op": "replace", "path": "/subject", "value": {"reference": "Patient/{b}"}}],
    [SENT, {"op": "replace", "path": "/subject/reference", "value": "Patient/{b}"}],
    [{"op": "remove", "path": "/subject"}],
    [{"op": "move", "from": "/subject", "path": "/contained"}],
    [{"op": "add", "path": "/recipient", "value": [{"reference": "Patient/{b}"}]}, {"op": "copy", "from": "/recipient/0", "path": "/subject"}],
    [{"op": "add", "path": "/recipient", "value": [{"reference": "Patient/{b}"}]}],
    [{"op": "add", "path": "/about", "value": [{"reference": "Observation/lab-b-{t}"}]}],
    [{"op": "replace", "path": "/sender/reference", "value": "Practitioner/prac-{t}"}],
    [{"op": "replace", "path": "/status", "value": "completed"}],
    [{"op": "add", "path": "/meta/security", "value": [{"code": "R"}]}],
    [{"op": "replace", "path": "/meta", "value": {"tag": [{"code": "x"}]}}],
    [{"op": "replace", "path": "/id", "value": "com-b-{t}"}],
    [{"op": "replace", "path": "/resourceType", "value": "Patient"}],
    [{"op": "replace", "path": "", "value": {"resourceType": "Communication"}}],
    [{"op": "add", "path": "/status", "value": "bogus"}],
    [{"op": "test", "path": "/status", "value": "completed"}, SENT],
]


@pytest.mark.parametrize("steps", LEAVING, ids=lambda steps: f"{steps[-1]['op']} {steps[-1]['path']}")
async def test_no_patch_leaves_what_an_update_may_do(scene: Scene, steps: list[dict[str, Any]]):
    """ATK-F12, F27, peers' fault 25: the result is judged as an update would be, whatever the steps; and nothing is written."""
    scene.put(message(scene, "p2"))
    ref = f"Communication/{scene.two.id('p2')}"
    before = scene.version(ref)
    filled = [{k: _filled(v, scene) for k, v in step.items()} for step in steps]
    answer = await scene.patch(ref, *filled)
    assert answer.status_code in (400, 403, 422), answer.text
    assert answer.json()["resourceType"] == "OperationOutcome"
    assert scene.version(ref) == before


def _filled(value: Any, scene: Scene) -> Any:
    match value:
        case str():
            return value.replace("{b}", scene.two.b).replace("{t}", scene.two.tag)
        case dict():
            return {k: _filled(v, scene) for k, v in value.items()}
        case list():
            return [_filled(v, scene) for v in value]
        case _:
            return value


@pytest.mark.parametrize("step", [SENT, {"op": "test", "path": "/status", "value": "in-progress"}, {"op": "test", "path": "/status", "value": "x"}])
async def test_a_patch_of_a_foreign_id_is_that_of_an_absent_one(scene: Scene, step: dict[str, Any]):
    """ATK-F12: `test` tells nothing of B's, not even that there is something to test."""
    foreign = await scene.patch(f"Communication/{scene.two.id('com-b')}", step)
    absent = await scene.patch("Communication/nobodys", step)
    assert comparable(foreign) == comparable(absent)
    assert foreign.status_code == 404


async def test_a_test_needs_a_scope_to_read(scene: Scene):
    """ATK-F17: with `u` alone one may change, and learns nothing of what stands there; conditional patch needs `u` and `s` (peers' fault 27)."""
    scene.put(message(scene, "p3"))
    path = f"Communication/{scene.two.id('p3')}"
    blind = await scene.as_("patient/Communication.u")
    told = [await blind.patch(path, {"op": "test", "path": "/status", "value": text}) for text in ("preparation", "x")]
    assert {answer.status_code for answer in told} == {403}
    done = await blind.patch(path, SENT)
    assert (done.status_code, done.content) == (200, b"")
    for scope in ("patient/Communication.u", "patient/Communication.rs"):
        caller = await scene.as_(scope)
        assert (await caller.patch(f"Communication?identifier={KEY}|{scene.two.id('p3')}", SENT)).status_code == 403


@pytest.mark.parametrize("kind", ["application/fhir+json", "application/fhir+xml", "application/xml", "text/plain"])
async def test_other_patches_are_refused_with_a_sentence(scene: Scene, kind: str):
    """ATK-F12: FHIRPath Patch (Parameters) and XML Patch are 415."""
    body = {"resourceType": "Parameters", "parameter": [{"name": "operation"}]}
    answer = await scene.send("PATCH", f"Communication/{scene.two.id('com-a')}", body, Content_Type=kind)
    assert answer.status_code == 415
    assert "application/json-patch+json" in answer.json()["issue"][0]["details"]["text"]


# DELETE --------------------------------------------------------------------------------------------------------------------------


async def test_a_patient_deletes_her_draft(scene: Scene):
    """204, or 200 with an OperationOutcome where it is preferred; afterwards it is not there, in no search either."""
    scene.put(message(scene, "d1"), message(scene, "d2"))
    assert scene.two.id("d1") in (await scene.get("Communication?_count=100")).text
    gone = await scene.send("DELETE", f"Communication/{scene.two.id('d1')}")
    assert (gone.status_code, gone.content) == (204, b"")
    assert (await scene.get(f"Communication/{scene.two.id('d1')}")).status_code == 404
    assert scene.two.id("d1") not in (await scene.get("Communication?_count=100")).text
    told = await scene.send("DELETE", f"Communication/{scene.two.id('d2')}", Prefer="return=OperationOutcome")
    assert (told.status_code, told.json()["resourceType"]) == (200, "OperationOutcome")
    again = await scene.send("DELETE", f"Communication/{scene.two.id('d2')}")
    assert comparable(again) == comparable(await scene.send("DELETE", "Communication/nobodys"))


@pytest.mark.parametrize("ref", ["Communication/com-a-{t}", "Observation/lab-a-{t}", "Condition/cond-a-{t}", "Patient/{a}", "Practitioner/prac-{t}"])
async def test_what_a_patient_may_not_delete(scene: Scene, ref: str):
    """What was sent, measured or decided is marked and not removed; a person is never deleted; and shared things are not hers."""
    ref = ref.replace("{t}", scene.two.tag).replace("{a}", scene.two.a)
    before = scene.version(ref)
    assert (await scene.send("DELETE", ref)).status_code == 403
    assert scene.version(ref) == before


async def test_staff_delete_what_was_marked_as_an_error(scene: Scene):
    """profiles/fhir/writes.json, kind user: only what was never in force, or is an error already."""
    scene.put(measured(scene, "m1", status="entered-in-error"), measured(scene, "m2"))
    staff = await scene.as_("user/*.cruds", fhir_user=f"Practitioner/{scene.two.id('prac')}", listed=(scene.two.a,))
    assert (await staff.send("DELETE", f"Observation/{scene.two.id('m1')}")).status_code == 204
    assert (await staff.send("DELETE", f"Observation/{scene.two.id('m2')}")).status_code == 403
    assert (await staff.send("DELETE", f"Observation/{scene.two.id('lab-b')}")).status_code == 404
    assert (await (await scene.as_("patient/*.cru")).send("DELETE", f"Communication/{scene.two.id('com-a')}")).status_code == 403


async def test_a_delete_of_a_foreign_id_is_that_of_an_absent_one(scene: Scene):
    """ATK-F1, ATK-F12: the same 404, with and without conditions of its own; B's stays."""
    ref = f"Communication/{scene.two.id('com-b')}"
    before = scene.version(ref)
    for headers in ({}, {"If_Match": f'W/"{before}"'}, {"If_Match": 'W/"99"'}):
        foreign, absent = await scene.send("DELETE", ref, **headers), await scene.send("DELETE", "Communication/nobodys", **headers)
        assert comparable(foreign) == comparable(absent)
        assert foreign.status_code == 404
    assert scene.version(ref) == before


async def test_a_delete_is_of_the_version_that_was_seen(scene: Scene):
    """Promise 3: If-Match of the caller; and what somebody changes between the gateway's look and its delete stays."""
    scene.put(message(scene, "d3"))
    ref = f"Communication/{scene.two.id('d3')}"
    assert (await scene.send("DELETE", ref, If_Match='W/"77"')).status_code == 412
    ehr = next(iter(scene.gateway.gateway.ehrs.values()))
    send = ehr.send

    async def between(call):
        if call.kind == "delete":
            scene.put(message(scene, "d3", payload=[{"contentString": "corrected"}]))
        return await send(call)

    ehr.send = between
    try:
        assert (await scene.send("DELETE", ref)).status_code == 412
    finally:
        ehr.send = send
    assert scene.version(ref) == "2"


@pytest.mark.parametrize("path", ["Communication/{id}?_cascade=delete", "Communication/{id}?_expunge=true", "Communication?_id={id}&_cascade=delete"])
async def test_nothing_is_deleted_with_what_refers_to_it(scene: Scene, path: str):
    """ATK-F12: `_cascade`, as a parameter and as HAPI's header."""
    scene.put(message(scene, "d4"))
    id_ = scene.two.id("d4")
    assert (await scene.send("DELETE", path.replace("{id}", id_))).status_code == 400
    assert (await scene.send("DELETE", f"Communication/{id_}", X_Cascade="delete")).status_code == 400
    assert scene.version(f"Communication/{id_}") != "410"


# By condition --------------------------------------------------------------------------------------------------------------------


async def test_changes_by_condition(scene: Scene):
    """One match is changed under its id; the body of an update may leave the id out, and may name no other."""
    scene.put(message(scene, "c1"))
    condition = f"Communication?identifier={KEY}|{scene.two.id('c1')}"
    body = {k: v for k, v in message(scene, "c1", payload=[{"contentString": "y"}]).items() if k != "id"}
    updated = await scene.send("PUT", condition, body)
    assert (updated.status_code, updated.json()["id"]) == (200, scene.two.id("c1")), updated.text
    assert (await scene.send("PUT", condition, body | {"id": "other"})).status_code == 400
    patched = await scene.patch(condition, {"op": "replace", "path": "/payload/0/contentString", "value": "z"})
    assert patched.json()["payload"] == [{"contentString": "z"}]
    assert (await scene.send("DELETE", condition)).status_code == 204
    assert (await scene.send("DELETE", condition)).status_code == 404


async def test_several_matches_are_none(scene: Scene):
    """412, and nothing happens (http.html 3.1.0.7.1 leaves the choice)."""
    scene.put(message(scene, "s1", topic={"coding": [{"code": "t"}]}), message(scene, "s2", topic={"coding": [{"code": "t"}]}))
    condition = f"Communication?_id={scene.two.id('s1')},{scene.two.id('s2')}"
    assert (await scene.patch(condition, SENT)).status_code == 412
    assert (await scene.send("DELETE", condition)).status_code == 412
    assert scene.version(f"Communication/{scene.two.id('s1')}") == "1"


FOREIGN = [
    ("_id=com-b-{t}", "_id=nobodys"),
    ("identifier=urn:mrn|mrn-{b}", "identifier=urn:mrn|nobody"),
    ("patient={b}", "patient=nobody"),
    ("patient={b}&_id=com-b-{t}", "patient=nobody&_id=nobodys"),
    ("subject=Patient/{b}", "subject=Patient/nobody"),
    ("status=in-progress&_id=com-b-{t}", "status=in-progress&_id=nobodys"),
]


@pytest.mark.parametrize(("hit", "miss"), FOREIGN)
@pytest.mark.parametrize("method", ["PUT", "PATCH", "DELETE"])
async def test_a_condition_tells_nothing_of_b(scene: Scene, method: str, hit: str, miss: str):
    """ATK-F10, F26: one that would match B's answers like one that matches nothing, nothing is made, and B's record is as it was."""
    ref = f"Communication/{scene.two.id('com-b')}"
    before = scene.version(ref)
    body = {k: v for k, v in message(scene, "x").items() if k != "id"}
    answers = []
    for text in (hit, miss):
        path = "Communication?" + text.replace("{t}", scene.two.tag).replace("{b}", scene.two.b)
        answers.append(await (scene.patch(path, SENT) if method == "PATCH" else scene.send(method, path, body if method == "PUT" else None)))
    assert comparable(answers[0]) == comparable(answers[1])
    assert answers[0].status_code == 404
    assert scene.version(ref) == before


async def test_a_and_b_in_one_condition_are_a_alone(scene: Scene):
    """ATK-F26, peers' fault 24: a comma list with B's id changes A's, and is not 'several'; contradictory ones match nothing."""
    scene.put(message(scene, "ab"))
    mine, theirs = scene.two.id("ab"), scene.two.id("com-b")
    before = scene.version(f"Communication/{theirs}")
    assert (await scene.patch(f"Communication?_id={mine},{theirs}&patient={scene.two.a},{scene.two.b}", SENT)).status_code == 200
    assert (await scene.patch(f"Communication?_id={mine}&patient={scene.two.a}&patient={scene.two.b}", SENT)).status_code == 404
    assert (await scene.send("DELETE", f"Communication?_id={mine}&_id:not={mine}")).status_code == 400
    assert scene.version(f"Communication/{theirs}") == before


CONDITIONS = [
    "_has:Observation:patient:code=x",
    "subject.name=x",
    "sent=2026",
    "sent=gt2026",
    "_lastUpdated=gt2020",
    "identifier:not=x",
    "recipient:missing=true",
]


@pytest.mark.parametrize("condition", [*CONDITIONS, "_count=1", "_sort=sent", "_include=Communication:sender"])
async def test_conditions_that_the_gateway_could_not_check_are_none(scene: Scene, condition: str):
    """ATK-F26: an EHR that passes over one finds something else; then another resource would be changed."""
    for method in ("DELETE", "PATCH"):
        ask = scene.patch(f"Communication?{condition}", SENT) if method == "PATCH" else scene.send(method, f"Communication?{condition}")
        assert (await ask).status_code == 400


async def test_without_a_condition_nothing_is_changed(scene: Scene):
    """405 with a sentence: it would be about everything there is."""
    assert (await scene.send("DELETE", "Communication")).status_code == 405
    assert (await scene.patch("Communication", SENT)).status_code == 405


# Systems -------------------------------------------------------------------------------------------------------------------------


async def test_systems_push_whole_resources(scene: Scene):
    """A patch, a delete or a condition would overtake what waits in the inbox; it is refused and nothing is kept of it."""
    lab = await scene.as_("system/*.cruds", push={"mode": "deliver", "ehr": "hapi"})
    ref = f"Observation/{scene.two.id('lab-a')}"
    before = scene.version(ref)
    body = {k: v for k, v in measured(scene, "x").items() if k != "id"}
    answers = [await lab.patch(ref, SENT), await lab.send("DELETE", ref), await lab.send("PUT", f"Observation?_id={scene.two.id('lab-a')}", body)]
    assert {answer.status_code for answer in answers} == {501}
    assert scene.version(ref) == before


async def test_changes_are_on_record(scene: Scene):
    """Promise 5: patches and deletes, done and refused, are her AuditEvents, with what was done."""
    scene.put(message(scene, "r1"))
    ref = f"Communication/{scene.two.id('r1')}"
    await scene.patch(ref, SENT)
    await scene.send("DELETE", ref)
    events = [entry["resource"] for entry in (await scene.get(f"AuditEvent?patient={scene.two.a}&_count=10")).json()["entry"]]
    found = [(event["action"], event["subtype"][0]["code"], event["outcome"]) for event in events if ref in str(event)]
    assert found[:2] == [("D", "delete", "4"), ("U", "patch", "0")]
