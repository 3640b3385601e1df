"""Creates at an EHR that gives the ids itself: found again by their identifier, and never sent twice blindly."""

from __future__ import annotations

import json

import pytest

from gateway.errors import Unavailable, Unprocessable, UpstreamFault
from gateway.fhir.bundle import Found, FoundEntry
from gateway.fhir.interaction import Interaction, Kind, Param
from gateway.ingest import identifier, order, plan
from gateway.ingest.attempt import Dead, Done, Later, Rejected
from gateway.ingest.identifier import Identifier, There
from gateway.store.inbox_rows import OTHERS, Entry
from tests.support.pushed import BASE, Message, result
from tests.support.shelf import LOST, NEVER, Shelf, offering

OWN = {"identifier": [{"system": "urn:lab", "value": "7"}]}
SETTLING = Later("ehr-answer-lost", strained=True, settling=True)
UNCONFIRMED = Dead("outcome-unknown")


def closed(**given) -> Shelf:
    """An EHR that takes no ids of clients."""
    return Shelf(takes=offering(client_ids=False), **given)


def post(shelf: Shelf, **more) -> Message:
    return Message(shelf, "POST", "Observation", result(**more))


def stored(**more) -> bytes:
    return json.dumps(result(**more)).encode()


async def delivered(message: Message, status: int = 201) -> str:
    """One attempt, and the `Type/id` in its answer."""
    done = await message.attempt()
    assert isinstance(done, Done), done
    assert done.answer.status == status
    return done.answer.header("Location").removeprefix(f"{BASE}/").split("/_history/")[0]


# One resource --------------------------------------------------------------------------------------------------------------


async def test_a_create_stays_a_post_and_gets_the_id_of_the_ehr():
    """A look, and then the sender's own bytes under the condition that nobody was quicker."""
    message = post(shelf := closed(), **OWN)
    assert message.row.entries[0].target == ""
    assert await delivered(message) == "Observation/s1"
    assert shelf.log == ["search Observation 7", "create"]
    assert shelf.versions["Observation/s1"] == [message.asked.body]


@pytest.mark.parametrize("corrected", [False, True])
async def test_one_whose_answer_was_lost_is_found_and_not_sent_again(corrected):
    """By its identifier, whatever became of it since."""
    message = post(shelf := closed(faults=[LOST]), **OWN)
    assert await message.attempt() == SETTLING
    if corrected:
        shelf.put("Observation/s1", stored(status="amended", **OWN))
    assert await delivered(message) == "Observation/s1"
    assert shelf.log.count("create") == 1


async def test_one_that_never_arrived_is_sent_again():
    """The look finds nothing, and nothing stood there before."""
    message = post(shelf := closed(faults=[NEVER]), **OWN)
    assert await message.attempt() == SETTLING
    assert await delivered(message) == "Observation/s1"
    assert list(shelf.versions) == ["Observation/s1"]


@pytest.mark.parametrize("more", [{}, OWN], ids=["without", "with"])
async def test_a_refusal_is_no_lost_answer(more):
    """What the EHR did not take, or never got, counts as not sent: with an identifier and without."""
    message = post(shelf := closed(faults=[Unavailable(reason="ehr-503"), UpstreamFault(reason="ehr-unreachable")]), **more)
    for _ in range(2):
        assert isinstance(await message.attempt(), Later)
        assert (message.row.entries[0].tried, message.row.entries[0].seen) == (False, None)
    assert await delivered(message) == "Observation/s1"
    shelf.faults = [Unprocessable(reason="ehr-422")]
    assert isinstance(await post(shelf, status="amended", **more).attempt(), Rejected)


async def test_without_an_identifier_it_is_sent_once():
    """When the answer is lost nobody can tell, and a person has to decide."""
    message = post(shelf := closed(faults=[LOST]))
    assert await message.attempt() == SETTLING
    for _ in range(3):
        assert await message.attempt() == UNCONFIRMED
    assert shelf.log == ["create"]


async def test_what_the_ehr_cannot_search_has_no_identifier():
    """It is sent once, without a condition that the EHR could not judge."""
    message = post(shelf := closed(faults=[LOST], searches=False), **OWN)
    assert await message.attempt() == SETTLING
    assert await message.attempt() == UNCONFIRMED
    assert shelf.log == ["search Observation 7", "create", "search Observation 7"]


async def test_a_worker_that_died_before_it_sent_has_sent_nothing():
    """The mark is committed before the POST, so that its absence says enough."""
    message = post(closed())
    message.attempts = 1
    assert await delivered(message) == "Observation/s1"


async def test_the_same_thing_sent_before_is_not_made_again():
    """By identifier and content: 200, and where it is."""
    shelf = closed(versions={"Observation/o1": [stored(**OWN)]})
    assert await delivered(post(shelf, **OWN), 200) == "Observation/o1"
    assert shelf.log == ["search Observation 7"]


async def test_another_one_under_the_same_identifier_does_not_swallow_it():
    """A panel whose results share the number of their order: a condition would keep all but the first away."""
    shelf = closed(versions={"Observation/o1": [stored(valueString="another", **OWN)]}, faults=[LOST])
    message = post(shelf, **OWN)
    assert await message.attempt() == SETTLING
    assert message.row.entries[0].seen == OTHERS
    assert await delivered(message) == "Observation/s2"
    assert shelf.log.count("create") == 1


@pytest.mark.parametrize("fault", [LOST, NEVER])
async def test_among_others_only_its_content_tells(fault):
    """Never sent, or corrected since: both look alike."""
    shelf = closed(versions={"Observation/o1": [stored(valueString="another", **OWN)]}, faults=[fault])
    message = post(shelf, **OWN)
    await message.attempt()
    if fault is LOST:
        shelf.put("Observation/s2", stored(status="amended", **OWN))
    assert await message.attempt() == UNCONFIRMED
    assert shelf.log.count("create") == 1


async def test_what_others_make_in_between_is_seen_at_the_ehr():
    """The condition fails there; then it is looked at again."""
    shelf = closed()
    shelf.faults = [lambda: shelf.put("Observation/o1", stored(valueString="another", **OWN))]
    assert await delivered(post(shelf, **OWN)) == "Observation/s2"
    assert shelf.log == ["search Observation 7", "create", "search Observation 7", "create"]


async def test_no_condition_goes_to_an_ehr_that_does_not_understand_it():
    """It might refuse the whole request."""
    shelf = Shelf(takes=offering(client_ids=False, conditional_create=False))
    shelf.faults = [lambda: shelf.put("Observation/o1", stored(valueString="another", **OWN))]
    assert await delivered(post(shelf, **OWN)) == "Observation/s2"
    assert shelf.log.count("create") == 1


async def test_a_sender_s_own_condition_is_left_to_it():
    """It finds it again."""
    message = Message(closed(), "POST", "Observation", result(**OWN), (b"if-none-exist", b"code=x"))
    assert await delivered(message) == "Observation/s1"
    assert message.row.entries[0].tried is False


# When what it takes becomes known late ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("more", [{}, OWN], ids=["without", "with"])
async def test_an_id_that_the_ehr_would_not_take_is_given_up_before_anything_is_sent(more):
    """It was fixed while nobody knew."""
    message = Message(shelf := closed(), "POST", "Observation", result(**more), known=False)
    assert message.row.entries[0].target
    assert await delivered(message) == "Observation/s1"
    assert (message.row.entries[0].target, shelf.log.count("create")) == ("", 1)


async def test_an_ehr_that_says_405_takes_no_ids_whatever_it_said_before():
    """R4 http.html 3.1.0.4.1: nothing was made, and the same attempt goes on as a POST."""
    message = post(shelf := closed(says=offering()), **OWN)
    fixed = message.target
    assert await delivered(message) == "Observation/s1"
    assert shelf.log == [f"create {fixed}", "search Observation 7", "create"]
    assert message.row.entries[0].target == ""


async def test_an_id_under_which_something_was_made_is_kept():
    """The EHR took it once: that it takes none any more changes nothing about that."""
    message = post(shelf := Shelf(faults=[LOST]))
    await message.attempt()
    shelf.takes = offering(client_ids=False)
    assert await delivered(message) == message.target


# Batch ---------------------------------------------------------------------------------------------------------------------


def bundle(shelf: Shelf, kind: str, *resources: dict, **requests: dict) -> Message:
    """`requests`: more members of the request of the entry with that number (`_0`)."""
    listed = [
        {
            "fullUrl": f"urn:uuid:0000000{at}-0000-4000-8000-000000000000",
            "resource": one,
            "request": {"method": "PUT", "url": f"{one['resourceType']}/{one['id']}"}
            if "id" in one
            else {"method": "POST", "url": one["resourceType"]},
        }
        for at, one in enumerate(resources)
    ]
    for at, more in requests.items():
        listed[int(at[1:])]["request"] |= more
    return Message(shelf, "POST", "", {"resourceType": "Bundle", "type": kind, "entry": listed})


async def test_an_entry_of_which_nobody_can_tell_does_not_hold_up_the_others():
    """They are through; then it is a person's turn."""
    message = bundle(shelf := closed(faults=[LOST]), "batch", result(), result(**OWN), result(status="preliminary"))
    assert await message.attempt() == SETTLING
    assert [entry.state for entry in message.row.entries] == ["received", "done", "done"]
    assert await message.attempt() == UNCONFIRMED
    assert shelf.log.count("create") == 3


# Transaction ---------------------------------------------------------------------------------------------------------------

PATIENT = {"resourceType": "Patient", "identifier": [{"system": "urn:mrn", "value": "p|1"}], "name": [{"family": "New"}]}
OF_PATIENT = {"subject": {"reference": "urn:uuid:00000000-0000-4000-8000-000000000000"}}


def sent(shelf: Shelf, message: Message) -> list[dict]:
    """The Bundle as it went out."""
    (body,) = shelf.bundles
    assert b"urn:uuid" in message.asked.body
    return json.loads(body)["entry"]


async def test_a_transaction_keeps_its_posts():
    """With If-None-Exist in the request where there is an identifier; everything else as it was sent, references too."""
    message = bundle(shelf := closed(), "transaction", PATIENT, result(**OF_PATIENT), result(**OWN))
    done = await message.attempt()
    assert isinstance(done, Done)
    listed, asked = sent(shelf, message), json.loads(message.asked.body)["entry"]
    assert [entry["resource"] for entry in listed] == [entry["resource"] for entry in asked]
    assert [entry["request"] for entry in listed] == [
        {"method": "POST", "url": "Patient", "ifNoneExist": "identifier=urn:mrn|p%5C|1"},
        {"method": "POST", "url": "Observation"},
        {"method": "POST", "url": "Observation", "ifNoneExist": "identifier=urn:lab|7"},
    ]
    assert [one["response"]["location"] for one in json.loads(done.answer.body)["entry"]] == [
        "Patient/s1/_history/1",
        "Observation/s2/_history/1",
        "Observation/s3/_history/1",
    ]


async def test_a_transaction_whose_answer_was_lost_is_known_by_one_of_its_entries():
    """All of it happened. Where an entry is, is told as far as it can be found."""
    message = bundle(shelf := closed(faults=[LOST]), "transaction", PATIENT, result(**OF_PATIENT))
    assert await message.attempt() == SETTLING
    done = await message.attempt()
    assert isinstance(done, Done)
    assert [entry["response"] for entry in json.loads(done.answer.body)["entry"]] == [{"status": "201", "location": "Patient/s1"}, {"status": "201"}]
    assert shelf.log.count("transaction") == 1


async def test_a_transaction_that_never_arrived_is_sent_again():
    """None of it is there."""
    message = bundle(shelf := closed(faults=[NEVER]), "transaction", PATIENT, result(**OF_PATIENT))
    await message.attempt()
    assert isinstance(await message.attempt(), Done)
    assert shelf.log.count("transaction") == 2
    assert len(shelf.versions) == 2


async def test_a_transaction_without_any_sign_is_sent_once():
    """Like a resource without an identifier; what the EHR refused was not sent."""
    message = bundle(shelf := closed(faults=[Unavailable(reason="ehr-503"), NEVER]), "transaction", result(), result(status="preliminary"))
    assert isinstance(await message.attempt(), Later)
    assert await message.attempt() == SETTLING
    assert await message.attempt() == UNCONFIRMED
    assert shelf.log.count("transaction") == 2


@pytest.mark.parametrize("fault", [LOST, NEVER])
async def test_an_update_is_a_sign_when_it_was_done(fault):
    """That it was not done is none: what it would write may be what stands there."""
    shelf = closed(versions={"Patient/p1": [b'{"resourceType":"Patient","id":"p1"}']}, faults=[fault])
    message = bundle(shelf, "transaction", result(), {"resourceType": "Patient", "id": "p1", "active": True})
    await message.attempt()
    second = await message.attempt()
    assert isinstance(second, Done) if fault is LOST else second == UNCONFIRMED
    assert shelf.log.count("transaction") == 1


async def test_entries_that_share_an_identifier_are_not_told_apart_by_it():
    """Two conditions alike would make one of two."""
    message = bundle(shelf := closed(), "transaction", result(**OWN), result(status="preliminary", **OWN))
    assert isinstance(await message.attempt(), Done)
    assert ["ifNoneExist" in entry["request"] for entry in sent(shelf, message)] == [False, False]
    assert len(shelf.versions) == 2


async def test_what_others_have_under_the_identifier_keeps_nothing_away():
    """No condition for that entry; its own content alone is taken for itself."""
    shelf = closed(versions={"Patient/o1": [json.dumps(PATIENT | {"active": True}).encode()], "Observation/o2": [stored(**OWN)]})
    message = bundle(shelf, "transaction", PATIENT, result(**OWN))
    assert isinstance(await message.attempt(), Done)
    assert ["ifNoneExist" in entry["request"] for entry in sent(shelf, message)] == [False, True]
    assert list(shelf.versions) == ["Patient/o1", "Observation/o2", "Patient/s3"]


async def test_a_condition_of_the_sender_s_own_stays_as_it_is():
    """Nothing is added to it."""
    message = bundle(shelf := closed(), "transaction", result(**OWN), _0={"ifNoneExist": "code=x"})
    assert isinstance(await message.attempt(), Done)
    assert sent(shelf, message)[0]["request"]["ifNoneExist"] == "code=x"
    assert shelf.log == ["transaction"]


async def test_a_transaction_received_before_anything_was_known_gives_its_ids_up():
    """All of them, before it is sent."""
    message = bundle(shelf := closed(says=offering()), "transaction", PATIENT, result(**OF_PATIENT))
    assert all(entry.target for entry in message.row.entries)
    shelf.says = None
    assert isinstance(await message.attempt(), Done)
    assert [entry["request"]["method"] for entry in sent(shelf, message)] == ["POST", "POST"]


# The rules -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ([{"value": "no system"}, {"system": "urn:a"}, {"system": "urn:a", "value": "1"}, {"system": "urn:b", "value": "2"}], ("urn:a", "1")),
        ({"system": "urn:a", "value": "1"}, ("urn:a", "1")),
        ([{"system": "", "value": "1"}, {"system": "urn:a", "value": 1}, "x"], None),
        (None, None),
        ("x", None),
    ],
)
def test_the_identifier_is_the_first_whole_one(given, found):
    """A list, or one object as in QuestionnaireResponse."""
    own = identifier.of({"resourceType": "Observation", "identifier": given})
    assert own == (Identifier("Observation", *found) if found else None)


def test_a_search_for_it_is_escaped():
    r"""`,`, `|`, `$` and `\` mean something in a token (R4 search.html 3.1.1.4.1)."""
    assert Identifier("Observation", "urn:a", "1,2|3").search.params[0] == Param("identifier", "", r"urn:a|1\,2\|3")


def found(*resources: dict, **links: str) -> Found:
    return Found(tuple(FoundEntry(json.dumps(one).encode(), one) for one in resources), links, None)


def test_an_answer_that_cannot_be_relied_on_says_nothing():
    """Resources without the identifier, or of another type: the parameter was ignored. More pages: that is not all."""
    own = Identifier("Observation", "urn:lab", "7")
    mine = stored(**OWN)
    assert identifier.there(own, mine, found()) == There(own)
    assert identifier.there(own, mine, found(result(id="a", **OWN), result(id="b", status="amended", **OWN))) == There(own, ("a", "b"), "a")
    assert identifier.there(own, mine, found(result(id="a", **OWN), result(id="b"))) is None
    assert identifier.there(own, mine, found(PATIENT | {"id": "p"} | OWN)) is None
    assert identifier.there(own, mine, found(result(id="a", **OWN), next="?page=2")) is None


def test_creates_that_share_an_identifier_are_delivered_in_order():
    """It is a key, where it is what finds the create again."""
    asked = Interaction(Kind.CREATE, "Observation", body=stored(**OWN))
    with_id, without = (order.keys("lab", "hapi", [(asked, Entry(0, "create", "Observation", target), result(**OWN))]) for target in ("gw1", ""))
    other = order.keys("lab", "hapi", [(asked, Entry(0, "create", "Observation", ""), result(identifier=[{"system": "urn:lab", "value": "8"}]))])
    assert len({*with_id, *without, *other}) == 3


def test_a_transaction_is_refused_where_there_are_none():
    """422, and a sentence; a batch and a single resource are none."""
    takes = offering(transactions=False)
    with pytest.raises(Unprocessable, match="takes no transactions") as error:
        plan.check_offered(Interaction(Kind.TRANSACTION), takes)
    assert (error.value.status, error.value.reason) == (422, "transaction-not-offered")
    for kind in (Kind.BATCH, Kind.CREATE):
        plan.check_offered(Interaction(kind), takes)
