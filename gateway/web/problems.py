"""What went wrong, in a patient's words, and what to do next. Codes and the EHR's own words never stand on a page (F62)."""

from __future__ import annotations

from dataclasses import dataclass

from gateway.adapters.ehr.base import OutcomeUnknown
from gateway.errors import FhirError


@dataclass(frozen=True, slots=True)
class Problem:
    """`again`: the same thing may be tried once more. `status` is that of the answer."""

    status: int
    title: str
    what: str
    todo: str
    again: bool = False
    connect: bool = False  # to let this site in at the clinic's record system is what helps


_BY_REASON: dict[str, tuple[str, str, str]] = {
    "version-changed": (
        "This has changed since you opened it",
        "Your clinic changed it in the meantime, so we did not save what you asked for.",
        "Look at how it is now, and ask again if you still want to.",
    ),
    "refill-open": (
        "You have already asked for this",
        "There is an open request for this medicine.",
        "You do not need to ask again. You can see what became of it on the medicine's page.",
    ),
    "medicine-not-current": (
        "You cannot ask for more of this medicine here",
        "It is not one that your clinic has you taking now.",
        "Write to your care team if you think you need it.",
    ),
    "appointment-not-open": (
        "This appointment cannot be cancelled here",
        "It has already taken place, or it is under way.",
        "Call the clinic if something is wrong.",
    ),
    "thread-closed": ("This conversation is closed", "No more answers can be added to it.", "Start a new message instead."),
    "thread-without-staff": (
        "There is nobody to answer here",
        "This conversation does not name anyone at your clinic.",
        "Start a new message instead.",
    ),
    "staff-account": (
        "This site is for patients",
        "You signed in with an account for staff.",
        "Sign out, then sign in with your own patient account.",
    ),
    "upstream-not-connected": (
        "Connect to your clinic first",
        "Your clinic's record system gives your record only to those whom you let in there yourself.",
        "Connect once: you sign in at your clinic, and come back here.",
    ),
    "upstream-ended": (
        "Connect to your clinic again",
        "The access that you gave has ended.",
        "Sign in at your clinic once more, and come back here.",
    ),
    "record-switched": (
        "You opened another record in the meantime",
        "This form was made for another person's record, so we did not send it.",
        "Go back to the right record and fill in the form again.",
    ),
}

_CONNECT = frozenset({"upstream-not-connected", "upstream-ended"})

_BY_STATUS: dict[int, tuple[str, str, str]] = {
    400: ("We cannot open this page", "The address is not complete, or it is too old.", "Go back to the list and choose again."),
    403: (
        "You cannot see this here",
        "Your clinic or your account does not allow it on this site.",
        "Ask your clinic if you think you should be able to.",
    ),
    404: (
        "We cannot find that",
        "It may have been removed, or the address is not complete.",
        "Go back to the list and look for it there.",
    ),
    408: ("That took too long", "The form did not reach us in time. Nothing was saved.", "Please send it again."),
    409: ("That cannot be done now", "Something else in your record stands in the way.", "Look at how it is now, or call your clinic."),
    412: (
        "This has changed since you opened it",
        "It is not the same any more, so we did not save what you asked for.",
        "Look at how it is now, and try again if you still want to.",
    ),
    413: ("That is too much to send", "The form is larger than this site takes. Nothing was saved.", "Make it shorter and send it again."),
    422: (
        "Your clinic's system did not take this",
        "Something in it did not fit. Nothing was saved.",
        "Check what you entered, or call your clinic.",
    ),
    429: ("Your clinic's system is busy", "It asked us to wait.", "Wait a minute, then try again."),
    501: ("Your clinic does not offer this here", "Its record system cannot do that.", "Call your clinic instead."),
}
_TECHNICAL = (
    "There is a problem with your clinic's record system",
    "We asked it for your data and did not get an answer that we can use. Your record is not lost.",
    "Try again in a few minutes. If you need an answer now, call your clinic.",
)
_OURS = (
    "There is a problem with this site",
    "We cannot answer just now. Your record is not lost.",
    "Try again in a few minutes. If you need an answer now, call your clinic.",
)
_UNKNOWN_OUTCOME = Problem(
    504,
    "We do not know yet if this arrived",
    "Your clinic's record system did not answer in time. It may or may not have what you sent.",
    "You can send this same form again: it counts only once.",
    again=True,
)


def problem_of(error: FhirError | OutcomeUnknown) -> Problem:
    """The error in words."""
    if isinstance(error, OutcomeUnknown):
        return _UNKNOWN_OUTCOME
    found = _BY_REASON.get(error.reason) or _BY_STATUS.get(error.status) or (_OURS if error.status in (500, 503) else _TECHNICAL)
    return Problem(error.status, *found, again=(error.status >= 500 and error.status != 501) or error.status == 429, connect=error.reason in _CONNECT)
