"""The rows of the inbox as frozen values, and the states that a message goes through."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum


class State(StrEnum):
    """Where a message is. `sent`: a request of this lease may have reached the EHR."""

    RECEIVED = "received"
    CLAIMED = "claimed"
    SENT = "sent"
    DONE = "done"
    REJECTED = "rejected"
    DEAD = "dead"
    HELD = "held"


OTHERS = "others"
"""See `Entry.seen`."""
UNCONFIRMED = "outcome-unknown"
"""The error of a dead message that was sent once, that nobody can find again, and whose answer was lost: a person decides."""

PENDING = (State.RECEIVED, State.CLAIMED, State.SENT)
FINAL = (State.DONE, State.REJECTED, State.DEAD)


class Fenced(Exception):
    """The worker's lease on the message was lost: another one may have it, and nothing may be written in its name."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One piece of a message. `target` is the id in the EHR: the sender's own, or one fixed before the first attempt ("" where none can be).

    `seen` of a create without a target: "" when nothing stood under its identifier before, `OTHERS` when something did, None when that cannot
    be found out.
    """

    position: int
    kind: str  # create | update
    type: str
    target: str
    tried: bool = False  # a request for it may have reached the EHR
    seen: str | None = None  # the version read before the first attempt; "" when there was none; None when nothing was read
    state: str = State.RECEIVED  # received | done | rejected
    answer: bytes | None = None  # sealed, of a batch entry


@dataclass(frozen=True, slots=True)
class NewMessage:
    """What is committed before a sender gets an answer. `request` and `answer` are sealed; digests are SHA-256, hexadecimal."""

    id: str  # also the name in the status URL: 256 random bits
    ehr: str
    client_id: str
    client_name: str
    subject: str  # of the principal: whose status URL it is
    scopes: str  # as judged on receipt
    mode: str  # deliver | notify
    kind: str  # create | update | transaction | batch
    type: str
    target: str
    sha256: str  # of the sender's bytes
    size: int
    request: bytes
    request_id: str
    received_at: datetime
    identity: str = ""  # digest of sender and explicit identity
    repeat_key: str | None = None  # digest of the identity with the whole request


@dataclass(frozen=True, slots=True)
class Message:
    """A row without its large values."""

    seq: int
    id: str
    ehr: str
    client_id: str
    client_name: str
    subject: str
    scopes: str
    mode: str
    kind: str
    type: str
    target: str
    sha256: str
    size: int
    request_id: str
    identity_reused: bool
    received_at: datetime
    state: str
    attempts: int
    next_attempt_at: datetime
    lease_until: datetime | None
    lease_holder: str
    attempt_token: str
    error: str
    ended_at: datetime | None

    @property
    def is_final(self) -> bool:
        """Whether nothing more happens to it by itself."""
        return self.state in FINAL


@dataclass(frozen=True, slots=True)
class Claimed:
    """A message under lease, with all that its delivery needs."""

    message: Message
    request: bytes
    entries: tuple[Entry, ...]


@dataclass(frozen=True, slots=True)
class Added:
    """What became of an insert. `first` is False when the same request of the same identity was there before."""

    message: Message
    first: bool


@dataclass(frozen=True, slots=True)
class Accounting:
    """Everything that was acknowledged is in exactly one of the other five."""

    acknowledged: int
    done: int
    rejected: int
    dead: int
    held: int
    pending: int
    oldest_pending: datetime | None = None

    @property
    def holds(self) -> bool:
        """Acknowledged = done + rejected + dead + held + pending."""
        return self.acknowledged == self.done + self.rejected + self.dead + self.held + self.pending
