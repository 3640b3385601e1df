"""The forms that a patient sends, and what each must be in the EHR. `{tag}` is the tag of the record, `{word}` a word of this test alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from tests.support.jobs_scene import Scene


@dataclass(frozen=True)
class Form:
    """A form that she sends. `makes`: how many resources of `kind` it makes; `page` and `goes` are its own path and where it is sent to."""

    page: str
    kind: str
    makes: int
    says: str
    where: str
    check: Callable[[Scene, list[dict[str, Any]], str], None]
    fields: Mapping[str, str] = field(default_factory=dict)
    goes: str = ""


def is_reply(at: Scene, made: list[dict[str, Any]], word: str) -> None:
    (one,) = made
    assert one["payload"] == [{"contentString": word}]
    assert one["partOf"] == [at.record.ref("Communication", "thread")]
    assert one["inResponseTo"][0]["reference"].startswith("Communication/")
    _is_message(at, one)


def is_new_thread(at: Scene, made: list[dict[str, Any]], word: str) -> None:
    message, header = sorted(made, key=lambda one: "payload" not in one)
    assert message["payload"] == [{"contentString": word}]
    assert message["partOf"] == [{"reference": f"Communication/{header['id']}"}]
    assert message["about"] == [{"reference": f"Observation/{at.record.id('crp')}"}]
    assert "payload" not in header
    for one in made:
        assert one["topic"]["text"].startswith("C-reactive protein")
        _is_message(at, one)


def _is_message(at: Scene, one: dict[str, Any]) -> None:
    assert (one["status"], one["subject"], one["sender"]) == ("in-progress", at.record.ann, at.record.ann)
    assert at.record.ref("Practitioner", "doctor") in one["recipient"]
    assert datetime.fromisoformat(one["sent"]).tzinfo


def is_wish(at: Scene, made: list[dict[str, Any]], word: str) -> None:
    (one,) = made
    assert (one["status"], one["serviceType"], one["comment"]) == ("proposed", [{"text": word}], "Mornings only")
    assert "start" not in one
    assert one["requestedPeriod"] == [{"start": day(10), "end": day(20)}]
    assert one["participant"] == [{"actor": at.record.ann, "status": "accepted"}]


def is_refill(at: Scene, made: list[dict[str, Any]], word: str) -> None:
    (one,) = made
    assert (one["status"], one["intent"], one["note"]) == ("requested", "order", [{"text": word}])
    assert one["code"]["coding"][0]["code"] == "fulfill"
    assert one["focus"] == at.record.ref("MedicationRequest", "metformin")
    assert one["for"] == one["requester"] == at.record.ann


def day(days: int) -> str:
    return (datetime.now(UTC).date() + timedelta(days=days)).isoformat()


NOT_BOOKED = "The clinic has not answered yet. This is not booked."
WISH = {"start": day(10), "end": day(20), "comment": "Mornings only", "what": "{word}"}
FORMS = {
    "reply": Form("messages/thread-{tag}", "Communication", 1, "Your message was sent.", "messages/thread-{tag}", is_reply, {"text": "{word}"}),
    "message": Form(
        "messages/new?about=Observation/crp-{tag}", "Communication", 2, "Your message was sent.", "messages", is_new_thread,
        {"text": "{word}", "category": "result", "to": "Practitioner/doctor-{tag}"},
    ),
    "appointment": Form("appointments/new", "Appointment", 1, f"Requested {NOT_BOOKED}", "appointments", is_wish, WISH),
    "refill": Form("medicines/metformin-{tag}/more", "Task", 1, "Requested", "medicines", is_refill, {"note": "{word}"}),
}  # fmt: skip
