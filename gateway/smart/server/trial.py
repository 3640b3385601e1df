"""A trial: what a developer chose for one launch of an app, and what was seen of it. Values, and what the rest of the server asks of them.

It is a label on an ordinary launch: the rules, the sign-in, the consent and the pipeline are the real ones. The label is the SHA-256 of the trial's
id, which is its secret: whoever has the id sees what the app does. It travels from the launch handle (or this browser's cookie) to the transaction,
the grant and the Principal.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, Protocol
from urllib.parse import unquote

from gateway.errors import GatewayError
from gateway.store.oauth_rows import Grant

COOKIE = "gw_trial"
"""Which standalone trial this browser is in: `People.keep_trial`."""
STANDALONE_WINDOW = 600
"""Seconds from the start of a standalone trial within which its cookie counts."""


@dataclass(frozen=True, slots=True)
class TrialWanted:
    """What the developer chose. `kind`: "ehr", "standalone" or "backend".

    `launch_url` stands in place of the client's own. `user`: a user name; an EHR launch is bound to it. `scopes`: at most these are granted, "" for
    no cap. `access_life`, `refresh_life`: in seconds, at most; 0 for the server's own. `fault`: a name of `faults.FAULTS`, or "".
    """

    ehr: str
    client_id: str
    kind: str = "ehr"
    launch_url: str = ""
    patient: str = ""
    encounter: str = ""
    user: str = ""
    intent: str = ""
    tenant: str = ""
    need_patient_banner: bool = True
    style_url: str = ""
    fhir_context: tuple[Mapping[str, Any], ...] = ()
    scopes: str = ""
    access_life: int = 0
    refresh_life: int = 0
    fault: str = ""


@dataclass(frozen=True, slots=True)
class Trial:
    """A trial that was started. It lives a day, and so does the access that is had in it. `wanted`: as it was asked for."""

    label: str
    wanted: TrialWanted
    created_at: datetime
    expires_at: datetime

    @property
    def ehr(self) -> str:
        """Of which EHR."""
        return self.wanted.ehr

    @property
    def client_id(self) -> str:
        """Of which app."""
        return self.wanted.client_id

    @property
    def fault(self) -> str:
        """The name of what is simulated, or ""."""
        return self.wanted.fault


@dataclass(frozen=True, slots=True)
class Started:
    """`trial_id`: 256 random bits, to see the trial with. `url`: where to send the browser; "" for a backend service, which has none.

    `iss` and `launch`: as the URL has them.
    """

    trial_id: str
    url: str
    iss: str
    launch: str = ""


class TooManyTrials(GatewayError):
    """`wait`: seconds until another one is started."""

    def __init__(self, wait: int) -> None:
        super().__init__(f"Too many trials were started from here. Try again in {wait} seconds.")
        self.wait = wait


@dataclass(frozen=True, slots=True)
class Noted:
    """One thing that happened, as it is kept. `ms`: how long the answer took. `facts`: plain JSON; it never holds a token, a code or a secret.

    `kind`: discovery | authorize | push | step | consent | token | fhir | introspect | revoke.
    """

    kind: str
    method: str = ""
    address: str = ""
    status: int = 0
    ms: float = 0.0
    facts: Mapping[str, Any] = field(default_factory=dict[str, Any])


@dataclass(frozen=True, slots=True)
class Seen:
    """A Noted with its number (from 1, without gaps) and when it was."""

    number: int
    at: datetime
    kind: str
    method: str
    address: str
    status: int
    ms: float
    facts: Mapping[str, Any]


class Watch(Protocol):
    """What the server asks about trials while it answers: `Trials`, or `OFF`."""

    async def of(self, label: str) -> Trial | None:
        """The trial with this label. None for "", and for one that is over."""
        ...

    async def brought(self, trial_id: str, ehr: str, client_id: str) -> Trial | None:
        """The standalone trial that a browser brought: of this app at this EHR, and begun a moment ago; else None."""
        ...

    def note(self, label: str, noted: Noted) -> None:
        """It was seen. Returns at once, and never raises. Nothing happens for the label ""."""
        ...

    def note_discovery(self, ehr: str, origin: str, noted: Noted) -> None:
        """A discovery document was read by a page of that web origin: whose trial that is, is found out afterwards."""
        ...


class Off:
    """The launcher is off: there are no trials."""

    async def of(self, label: str) -> Trial | None:
        """None."""
        del label
        return None

    async def brought(self, trial_id: str, ehr: str, client_id: str) -> Trial | None:
        """None."""
        del trial_id, ehr, client_id
        return None

    def note(self, label: str, noted: Noted) -> None:
        """Nothing."""
        del label, noted

    def note_discovery(self, ehr: str, origin: str, noted: Noted) -> None:
        """Nothing."""
        del ehr, origin, noted


OFF: Watch = Off()


async def living(grant: Grant, watch: Watch, moment: datetime) -> Grant:
    """What was had in a trial counts as long as the trial does, and not at all where the launcher is off: then it is as taken back (ADR 0013)."""
    if not grant.trial or await watch.of(grant.trial):
        return grant
    return replace(grant, revoked_at=grant.revoked_at or moment, revoked_reason=grant.revoked_reason or "trial-over")


_SECRET = ("code_verifier", "client_secret", "client_assertion", "password", "id_token_hint", "launch", "request_uri", "code", "request", "trial")
"""Parameters whose values are not kept, only how long they are."""
_OPAQUE = ("state", "nonce", "code_challenge")
"""What may look like a secret of ours and is none: the app sends it through the browser, and gets it back."""
_LOOKS_SECRET = re.compile(r"(?<![\w-])[\w-]{43}(?![\w-])|\beyJ[\w-]+\.[\w-]+\.[\w-]*", re.ASCII)
"""As `new_secret` makes tokens, codes, handles and ids of trials; and a signed JWT."""
_ENCODED = 4  # times that something is percent-encoded, at most


def shown(pairs: Sequence[tuple[str, str]]) -> list[list[str]]:
    """The parameters of a request as they may be kept: in order, secrets as their length, whatever they are called."""
    return [[name, hidden(value) if is_secret(name) or (name not in _OPAQUE and holds_secret(value)) else value] for name, value in pairs]


def hidden(value: str) -> str:
    """A secret as it may be kept."""
    return f"({len(value)} characters)"


def holds_secret(text: str) -> bool:
    """Whether something in it looks like a token, a code or an assertion, however it is encoded."""
    for _ in range(_ENCODED):
        if _LOOKS_SECRET.search(text):
            return True
        text, before = unquote(text), text
        if text == before:
            return False
    return True


def redacted(text: str) -> str:
    """A text as it may be kept: what looks like a secret as its length, and all of it where that is encoded."""
    found = _LOOKS_SECRET.sub(lambda match: hidden(match[0]), text)
    return hidden(text) if holds_secret(found) else found


def is_secret(name: str) -> bool:
    """Whether a parameter of this name may prove something to somebody."""
    lower = name.lower()
    return lower in _SECRET or any(part in lower for part in ("secret", "token", "assertion", "password", "verifier"))
