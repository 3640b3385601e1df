"""One attempt to deliver: nothing twice, nothing over a correction, whatever was lost on the way."""

from __future__ import annotations

import json

import pytest

from gateway.adapters.ehr.base import OutcomeUnknown
from gateway.errors import Conflict, PreconditionFailed, Throttled, Unavailable, Unprocessable, UpstreamFault, UpstreamTimeout
from gateway.ingest.attempt import Done, Later, Rejected
from gateway.store.inbox_rows import Fenced
from tests.support.pushed import BASE, Message, result
from tests.support.shelf import LOST, NEVER, Shelf


def post(shelf: Shelf) -> Message:
    return Message(shelf, "POST", "Observation", result())


def put(shelf: Shelf, *headers: tuple[bytes, bytes], **more) -> Message:
    return Message(shelf, "PUT", "Observation/o1", result(id="o1", **more), *headers)


def stored(**more) -> bytes:
    return json.dumps(result(id="o1", **more)).encode()


# Create --------------------------------------------------------------------------------------------------------------------


async def test_a_first_create_is_one_write_and_no_look():
    """Nothing can be there yet."""
    message = post(shelf := Shelf())
    done = await message.attempt()
    assert isinstance(done, Done)
    assert (done.answer.status, shelf.log) == (201, [f"create {message.target}"])
    assert done.answer.header("Location") == f"{BASE}/{message.target}/_history/1"


async def test_a_create_whose_answer_was_lost_is_found_and_not_written_again():
    """Not even when somebody corrected it since."""
    message = post(shelf := Shelf(faults=[LOST]))
    assert await message.attempt() == Later("ehr-answer-lost", strained=True)
    shelf.put(message.target, b'{"status":"amended"}')
    done = await message.attempt()
    assert isinstance(done, Done)
    assert (done.answer.status, done.answer.header("Location")) == (201, f"{BASE}/{message.target}")
    assert (shelf.now(message.target), len(shelf.versions[message.target])) == ({"status": "amended"}, 2)


@pytest.mark.parametrize("keeps", [True, False])
async def test_a_create_that_was_deleted_since_is_not_made_again(keeps):
    """It was there in some version: delivered. An EHR that keeps none says at least that it is gone."""
    message = post(shelf := Shelf(faults=[LOST], keeps=keeps))
    await message.attempt()
    shelf.put(message.target, None)
    assert isinstance(await message.attempt(), Done)
    assert shelf.now(message.target) is None


async def test_a_create_that_never_arrived_is_written_once():
    """The look finds nothing in any version."""
    message = post(shelf := Shelf(faults=[NEVER]))
    await message.attempt()
    assert isinstance(await message.attempt(), Done)
    assert len(shelf.versions[message.target]) == 1


async def test_a_create_that_arrived_late_counts_as_delivered():
    """The look found nothing, and then the EHR says that it is there (If-None-Match: *): only an earlier attempt can have made that id."""
    message = post(shelf := Shelf(faults=[NEVER]))
    await message.attempt()

    def arrives() -> None:
        shelf.put(message.target, json.dumps(result()).encode())
        raise PreconditionFailed(reason="exists")

    shelf.faults = [arrives]
    done = await message.attempt()
    assert isinstance(done, Done)
    assert (done.answer.status, done.answer.header("Location")) == (201, f"{BASE}/{message.target}")
    assert len(shelf.versions[message.target]) == 1


async def test_a_412_for_another_reason_is_the_ehrs_word():
    """Nothing is there under that id."""
    message = post(shelf := Shelf(faults=[PreconditionFailed(reason="ehr-412")]))
    done = await message.attempt()
    assert isinstance(done, Rejected)
    assert (done.error, shelf.versions) == ("ehr-412", {})


# Update --------------------------------------------------------------------------------------------------------------------


async def test_an_update_is_bound_to_the_version_that_was_read():
    """One read, one write."""
    shelf = Shelf({"Observation/o1": [stored()]})
    assert isinstance(await put(shelf, valueString="new").attempt(), Done)
    assert shelf.log == ["read Observation/o1", "update Observation/o1"]
    assert shelf.now("Observation/o1")["valueString"] == "new"


async def test_an_update_whose_answer_was_lost_is_recognised_by_the_version_after():
    """A correction made on top of it stays."""
    shelf = Shelf({"Observation/o1": [stored()]}, faults=[LOST])
    message = put(shelf, valueString="new")
    await message.attempt()
    shelf.put("Observation/o1", stored(valueString="corrected"))
    done = await message.attempt()
    assert isinstance(done, Done)
    assert done.answer.status == 200
    assert shelf.now("Observation/o1")["valueString"] == "corrected"


async def test_an_update_that_never_arrived_is_applied_to_the_record_that_moved_on():
    """The version after is another's, so ours was never done."""
    shelf = Shelf({"Observation/o1": [stored()]}, faults=[NEVER])
    message = put(shelf, valueString="new")
    await message.attempt()
    shelf.put("Observation/o1", stored(valueString="other"))
    assert isinstance(await message.attempt(), Done)
    assert [json.loads(body or b"{}").get("valueString") for body in shelf.versions["Observation/o1"]] == [None, "other", "new"]


async def test_an_update_races_with_another_writer_at_most_three_times():
    """FAULT-U23."""
    shelf = Shelf({"Observation/o1": [stored()]})
    shelf.faults = [lambda: shelf.put("Observation/o1", stored(valueString="other"))] * 3
    done = await put(shelf, valueString="new").attempt()
    assert isinstance(done, Rejected)
    assert (done.answer.status, done.error) == (412, "version-changed")
    shelf.faults = [lambda: shelf.put("Observation/o1", stored(valueString="other"))] * 2
    assert isinstance(await put(shelf, valueString="new").attempt(), Done)


async def test_an_update_that_made_the_record_is_recognised():
    """There was nothing before; the first version is ours."""
    message = put(shelf := Shelf(faults=[LOST]), valueString="new")
    await message.attempt()
    shelf.put("Observation/o1", stored(valueString="corrected"))
    done = await message.attempt()
    assert isinstance(done, Done)
    assert (done.answer.status, shelf.now("Observation/o1")["valueString"]) == (201, "corrected")


async def test_an_update_does_not_go_over_a_record_that_somebody_else_made():
    """There was nothing before, and without a version no condition can guard it."""
    message = put(shelf := Shelf(faults=[NEVER]), valueString="new")
    await message.attempt()
    shelf.put("Observation/o1", stored(valueString="theirs"))
    done = await message.attempt()
    assert isinstance(done, Rejected)
    assert (done.error, shelf.now("Observation/o1")["valueString"]) == ("made-since", "theirs")


@pytest.mark.parametrize("first", [LOST, NEVER])
async def test_a_record_that_was_deleted_since_stays_deleted(first):
    """Nobody brings back what somebody took away."""
    shelf = Shelf({"Observation/o1": [stored()]}, faults=[first])
    message = put(shelf, valueString="new")
    await message.attempt()
    shelf.put("Observation/o1", None)
    done = await message.attempt()
    assert shelf.now("Observation/o1") is None
    if first is LOST:
        assert isinstance(done, Done)
    else:
        assert isinstance(done, Rejected)
        assert done.error == "deleted-since"


async def test_the_senders_own_if_match_passes_and_decides():
    """A stale one is the sender's 412, at once."""
    shelf = Shelf({"Observation/o1": [stored(), stored()]})
    done = await put(shelf, (b"if-match", b'W/"1"'), valueString="new").attempt()
    assert isinstance(done, Rejected)
    assert (done.answer.status, len(shelf.versions["Observation/o1"])) == (412, 2)
    assert isinstance(await put(shelf, (b"if-match", b'W/"2"'), valueString="new").attempt(), Done)


async def test_the_senders_own_if_match_on_a_second_attempt_recognises_the_first():
    """Its 412 may be the mark of our own success."""
    shelf = Shelf({"Observation/o1": [stored()]}, faults=[LOST])
    message = put(shelf, (b"if-match", b'W/"1"'), valueString="new")
    await message.attempt()
    assert isinstance(await message.attempt(), Done)
    assert len(shelf.versions["Observation/o1"]) == 2


async def test_if_none_match_star_on_a_put_is_judged_here():
    """HAPI does not look at it."""
    shelf = Shelf({"Observation/o1": [stored()]})
    done = await put(shelf, (b"if-none-match", b"*"), valueString="new").attempt()
    assert isinstance(done, Rejected)
    assert (done.answer.status, len(shelf.versions["Observation/o1"])) == (412, 1)


# Transaction ---------------------------------------------------------------------------------------------------------------


def transaction(shelf: Shelf, *entries: tuple[str, str, dict], kind: str = "transaction") -> Message:
    listed = [{"resource": resource, "request": {"method": method, "url": url}} for method, url, resource in entries]
    return Message(shelf, "POST", "", {"resourceType": "Bundle", "type": kind, "entry": listed})


def mixed(shelf: Shelf) -> Message:
    return transaction(shelf, ("POST", "Observation", result()), ("PUT", "Observation/o1", result(id="o1", valueString="new")))


async def test_a_transaction_goes_once_with_ids_and_versions():
    """One request for all of it."""
    shelf = Shelf({"Observation/o1": [stored()]})
    message = mixed(shelf)
    assert isinstance(await message.attempt(), Done)
    assert shelf.log == ["read Observation/o1", "transaction"]
    assert [len(shelf.versions[one]) for one in ("Observation/o1", message.target)] == [2, 1]


async def test_a_transaction_whose_answer_was_lost_is_told_by_its_first_create():
    """All of it happened, corrections since included; the answer names every entry."""
    shelf = Shelf({"Observation/o1": [stored()]}, faults=[LOST])
    message = mixed(shelf)
    await message.attempt()
    shelf.put("Observation/o1", stored(valueString="corrected"))
    done = await message.attempt()
    assert isinstance(done, Done)
    told = json.loads(done.answer.body)
    assert [one["response"] for one in told["entry"]] == [
        {"status": "201", "location": message.target},
        {"status": "200", "location": "Observation/o1"},
    ]
    assert (shelf.now("Observation/o1")["valueString"], len(shelf.versions[message.target])) == ("corrected", 1)


async def test_a_transaction_of_updates_is_told_by_the_versions():
    """Lost: not repeated. Never arrived: done, over what moved on."""
    for fault, expected in ((LOST, "corrected"), (NEVER, "new")):
        shelf = Shelf({"Observation/o1": [stored()]}, faults=[fault])
        message = transaction(shelf, ("PUT", "Observation/o1", result(id="o1", valueString="new")))
        await message.attempt()
        shelf.put("Observation/o1", stored(valueString="corrected"))
        assert isinstance(await message.attempt(), Done)
        assert shelf.now("Observation/o1")["valueString"] == expected


async def test_a_transaction_that_races_is_tried_with_fresh_versions():
    """Nothing of it was done when one version had moved."""
    shelf = Shelf({"Observation/o1": [stored()]})
    shelf.faults = [lambda: shelf.put("Observation/o1", stored(valueString="other"))]
    message = mixed(shelf)
    assert isinstance(await message.attempt(), Done)
    assert [len(shelf.versions[one]) for one in ("Observation/o1", message.target)] == [3, 1]


# Batch ---------------------------------------------------------------------------------------------------------------------


async def test_only_the_failed_entries_of_a_batch_are_tried_again():
    """FAULT-U24: a refused entry is told as such, one that failed is repeated, the others are left alone."""
    shelf = Shelf(faults=[None, Unprocessable(reason="ehr-422"), UpstreamFault(reason="ehr-500")])
    message = transaction(shelf, *[("POST", "Observation", result(valueString=str(n))) for n in range(4)], kind="batch")
    assert await message.attempt() == Later("ehr-500", strained=True)
    assert [one.state for one in message.row.entries] == ["done", "rejected", "received", "done"]
    before = len(shelf.log)
    done = await message.attempt()
    assert isinstance(done, Done)
    assert [line for line in shelf.log[before:] if line.startswith("create")] == [f"create Observation/{message.row.entries[2].target}"]
    told = [one["response"] for one in json.loads(done.answer.body)["entry"]]
    assert [one["status"] for one in told] == ["201", "422", "201", "201"]
    assert told[1]["outcome"]["issue"][0]["severity"] == "error"
    assert told[0]["location"] == f"{message.target}/_history/1"


async def test_a_batch_stops_when_the_ehr_is_in_trouble():
    """Two failures in a row are enough: the rest would only wait for its own time-out."""
    shelf = Shelf(faults=[UpstreamTimeout(), UpstreamTimeout()])
    message = transaction(shelf, *[("POST", "Observation", result()) for _ in range(5)], kind="batch")
    assert isinstance(await message.attempt(), Later)
    assert len(shelf.log) == 2
    assert isinstance(await message.attempt(), Done)


async def test_an_empty_batch_is_done():
    """There is nothing to wait for."""
    done = await transaction(Shelf(), kind="batch").attempt()
    assert isinstance(done, Done)
    assert json.loads(done.answer.body) == {"resourceType": "Bundle", "type": "batch-response"}


# Errors --------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (UpstreamFault(reason="ehr-500"), Later("ehr-500", strained=True)),
        (UpstreamFault(reason="ehr-down", retry_after=2), Later("ehr-down", after=2, counts=False, strained=True)),
        (UpstreamFault(reason="ehr-credential", code="login"), Later("ehr-credential", counts=False, strained=True)),
        (OutcomeUnknown("ehr-500"), Later("ehr-500", strained=True)),
        (UpstreamTimeout(reason="slow"), Later("slow", strained=True)),
        (Unavailable(reason="ehr-503", retry_after=7), Later("ehr-503", after=7, strained=True)),
        (Unavailable(reason="store-down", retry_after=2), Later("store-down", after=2, counts=False)),
        (Throttled(reason="ehr-429", retry_after=60), Later("ehr-429", after=60, counts=False, strained=True)),
        (Conflict(reason="ehr-409"), Later("ehr-409")),
    ],
)
async def test_what_is_tried_again(error, expected):
    """Failures of the EHR, and its pauses; trouble of the gateway's own is not held against the message."""
    assert await post(Shelf(faults=[error])).attempt() == expected


async def test_a_refusal_is_final_and_kept_for_the_sender():
    """FAULT-U25: the stored outcome, with the request id of the receipt."""
    done = await post(Shelf(faults=[Unprocessable(reason="ehr-422", code="value")])).attempt()
    assert isinstance(done, Rejected)
    issue = json.loads(done.answer.body)["issue"][0]
    assert (done.answer.status, done.error, issue["code"], issue["diagnostics"]) == (422, "ehr-422", "value", "request r1")


async def test_a_conflict_that_stays_is_final():
    """Two writers at one moment come apart at the next attempt; a rule does not."""
    message = post(Shelf(faults=[Conflict(reason="ehr-409")] * 3))
    assert [type(await message.attempt()) for _ in range(3)] == [Later, Later, Rejected]


async def test_a_look_that_fails_writes_nothing():
    """Without knowing, nothing goes out."""
    message = post(shelf := Shelf(faults=[LOST]))
    await message.attempt()

    async def down(*_):
        raise UpstreamFault(reason="look-failed")

    shelf.stored = down
    assert await message.attempt() == Later("look-failed", strained=True)
    assert len(shelf.versions[message.target]) == 1


async def test_a_lease_that_ran_out_sends_nothing():
    """FAULT-P3: a process that stood still after its look may not write over what happened since."""
    message = post(shelf := Shelf())
    message.row.ran_out = True
    with pytest.raises(Fenced):
        await message.attempt()
    assert shelf.versions == {}
