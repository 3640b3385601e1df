"""Drives an authorization from the app's request to the answer: reads the snapshot, lets `authorize` judge it, commits the effects.

A request that passed waits as a Transaction under the hash of its handle, bound to the browser that brought it (ATK-O17) and, from sign-in
on, to one session. Every step begins with `step`, which says where the person has to go next; the last one commits the end of the
transaction, the use of the launch, the grant and its code together, each by compare-and-set.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import cast

from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.smart.server.authorize import AuthorizationSnapshot, Back, Consented, Page, Validated, conclude, validate
from gateway.smart.server.consent import Switch, granted, switches, worth_granting
from gateway.smart.server.requests import given
from gateway.smart.server.sessions import Visitor
from gateway.smart.server.values import Caller, Clock, Endpoints, Event, Lifetimes, Pairs, RecordIn, may_act_on
from gateway.store import oauth as rows
from gateway.store import people
from gateway.store.base import Database, now
from gateway.store.oauth_rows import ListedPatient, Transaction, digest, new_secret

_LONGEST = 20_000  # characters of a request: every type at every level, and room


@dataclass(frozen=True, slots=True)
class Begun:
    """The request waits. `handle` names it, to this browser only."""

    handle: str


@dataclass(frozen=True, slots=True)
class SignIn:
    """Somebody has to sign in. `reason`: "" nobody is; "again" the sign-in is too old; "other-ehr", "other-person": it is the wrong one."""

    client_name: str
    redirect_uri: str
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Pick:
    """The person chooses whose record it is about."""

    client_name: str
    redirect_uri: str
    patients: tuple[ListedPatient, ...]


@dataclass(frozen=True, slots=True)
class Ask:
    """The person is asked. `patient` is in context; None when none is needed."""

    client_name: str
    redirect_uri: str
    patient: ListedPatient | None
    switches: tuple[Switch, ...]
    may_pick: bool  # whether she could choose another patient


Step = SignIn | Pick | Ask | Back | Page


@dataclass(frozen=True, slots=True)
class Waiting:
    """A transaction with all that a decision about it needs."""

    row: Transaction
    snapshot: AuthorizationSnapshot

    @property
    def pairs(self) -> Pairs:
        """The request as the app sent it."""
        return _pairs(self.row)


@dataclass(frozen=True, slots=True)
class At:
    """Where a browser is: the handle of the page, the browser's own secret, and who is signed in."""

    ehr: str
    handle: str
    browser: str
    visitor: Visitor | None
    caller: Caller = Caller()  # noqa: RUF009  # a frozen value


class _LostError(Exception):
    """Somebody else was first."""


class Authorizations:
    """The authorization endpoint of every EHR, and the steps behind it. `types`: the resource types that scopes may name."""

    def __init__(
        self,
        database: Database,
        *,
        public_url: str,
        types: Iterable[str],
        record_in: RecordIn,
        lifetimes: Lifetimes | None = None,
        clock: Clock = now,
    ) -> None:
        self._database, self._public_url, self._types = database, public_url, frozenset(types)
        self._record_in, self._lifetimes, self._clock = record_in, lifetimes or Lifetimes(), clock

    async def begin(self, ehr: str, pairs: Pairs, *, browser: str, signed_in: bool) -> Begun | Back | Page:
        """The app sent a browser. Nothing but the waiting request is stored."""
        if sum(len(name) + len(value) for name, value in pairs) > _LONGEST:
            return Page("request-too-long")
        moment = self._clock()
        async with self._database.read() as connection:
            snapshot = await self._snapshot(connection, ehr, pairs, moment)
        judged = validate(pairs, replace(snapshot, signed_in=signed_in))
        if not isinstance(judged, Validated):
            return judged
        handle = new_secret()
        row = Transaction(
            hash=digest(handle),
            browser_hash=digest(browser),
            ehr=ehr,
            client_id=judged.client.id,
            request={"pairs": [list(pair) for pair in pairs], "began": moment.isoformat()},
            state="open",
            expires_at=moment + timedelta(seconds=self._lifetimes.transaction),
            launch_hash=judged.launch.hash if judged.launch else "",
        )
        async with self._database.write() as connection:
            await rows.add_transaction(connection, row)
        return Begun(handle)

    async def step(self, at: At) -> Step:
        """Where the person has to go now. Binds the transaction to her session, and settles the patient where there is no choice."""
        async with self._database.read() as connection:
            waiting = await self._waiting(connection, at)
        if isinstance(waiting, Page):
            return waiting
        judged = validate(waiting.pairs, waiting.snapshot)
        if not isinstance(judged, Validated):
            return judged
        if reason := _sign_in_reason(judged, waiting, at.visitor):
            return SignIn(judged.client.name, judged.redirect_uri, "" if reason == "nobody" else reason)
        return await self._for_visitor(at, waiting, judged, cast("Visitor", at.visitor))

    async def pick(self, at: At, patient: str) -> Step:
        """The person chose a patient. Judged again at the end."""
        step = await self.step(at)
        if not isinstance(step, Pick | Ask):
            return step
        hers = {one.patient for one in at.visitor.patients} if at.visitor else set[str]()
        if patient not in hers or (isinstance(step, Ask) and not step.may_pick):
            return Page("patient-not-listed", 403)
        async with self._database.write() as connection:
            picked = await rows.pick_patient(connection, digest(at.handle), patient)
        return await self.step(at) if picked else Page("transaction-over")

    async def answer(self, at: At, ticked: frozenset[str] | None) -> Back | SignIn | Page:
        """The person decided: the scopes she ticked, or None for no. True to its word once: the transaction ends here, in one commit."""
        for _ in range(2):  # who lost a race sees at the second look what the other one did
            try:
                async with self._database.write() as connection:
                    return await self._answered(connection, at, ticked)
            except _LostError:
                continue
        return Page("transaction-over")

    async def cancel(self, at: At) -> Back | Page:
        """The person, signed in or not, wants to go back to the app."""
        async with self._database.read() as connection:
            waiting = await self._waiting(connection, at)
        if isinstance(waiting, Page):
            return waiting
        judged = validate(waiting.pairs, waiting.snapshot)
        return await self._ended(at, judged, "The person did not allow it.") if isinstance(judged, Validated) else judged

    async def _for_visitor(self, at: At, waiting: Waiting, judged: Validated, visitor: Visitor) -> Step:
        row = waiting.row
        if row.session_hash != visitor.session.hash:
            async with self._database.write() as connection:
                bound = await rows.bind_transaction(connection, row.hash, session_hash=visitor.session.hash, account_id=visitor.account.id)
            if not bound:
                return Page("transaction-over")
            row = replace(row, session_hash=visitor.session.hash, account_id=visitor.account.id, patient="")
        client, choices = judged.client, _choices(judged, visitor)
        if not choices and (judged.needs_patient or _launched_patient(judged)):
            # Nothing that the app asks for can be given: it hears so, and the transaction is over (HL7@164, ATK-O15).
            return await self._ended(at, judged, "There is no patient whose record this person may open.")
        chosen = row.patient or (choices[0].patient if len(choices) == 1 else "")
        found = next((one for one in choices if one.patient == chosen), None)
        if judged.needs_patient and found is None:
            return Pick(client.name, judged.redirect_uri, choices)
        patient = found if judged.needs_patient or _launched_patient(judged) else None
        return Ask(client.name, judged.redirect_uri, patient, switches(judged.scopes), judged.needs_patient and len(choices) > 1)

    async def _ended(self, at: At, judged: Validated, why: str) -> Back | Page:
        """access_denied, once."""
        moment = self._clock()
        async with self._database.write() as connection:
            if not await rows.finish_transaction(connection, digest(at.handle), moment):
                return Page("transaction-over")
            event = Event(at.ehr, at.caller, moment, judged.client, at.visitor.account if at.visitor else None)
            await self._record_in(connection, event.record("grant-refused", 303, reason="access_denied"))
        return judged.back("access_denied", why)

    async def _answered(self, connection: AsyncConnection, at: At, ticked: frozenset[str] | None) -> Back | SignIn | Page:
        waiting, visitor = await self._waiting(connection, at), at.visitor
        if isinstance(waiting, Page):
            return waiting
        judged = validate(waiting.pairs, waiting.snapshot)
        if not isinstance(judged, Validated):
            return judged
        if visitor is None or waiting.row.session_hash != visitor.session.hash or _sign_in_reason(judged, waiting, visitor):
            return SignIn(judged.client.name, judged.redirect_uri, "again")
        consented = await _consented(connection, waiting, judged, visitor, ticked)
        return consented if isinstance(consented, Page) else await self._commit(connection, at, waiting, consented)

    async def _commit(self, connection: AsyncConnection, at: At, waiting: Waiting, consented: Consented) -> Back | Page:
        concluded = conclude(waiting.pairs, waiting.snapshot, consented)
        if isinstance(concluded, Page):
            return concluded
        row, snapshot = waiting.row, waiting.snapshot
        if not await rows.finish_transaction(connection, row.hash, snapshot.now):
            raise _LostError
        event = Event(at.ehr, at.caller, snapshot.now, snapshot.client, consented.account)
        if concluded.grant is None or concluded.code is None:
            await self._record_in(connection, event.record("grant-refused", 303, reason=concluded.back.error))
            return concluded.back
        if row.launch_hash and not await rows.consume_launch(connection, row.launch_hash):
            raise _LostError
        await rows.add_grant(connection, concluded.grant)
        await rows.add_code(connection, concluded.code)
        await self._record_in(connection, event.record("grant", 303, patient=concluded.grant.patient, detail=concluded.grant.scope))
        return concluded.back

    async def _waiting(self, connection: AsyncConnection, at: At) -> Waiting | Page:
        """The transaction of this browser. One page for all that is not: no other browser learns whether it exists (ATK-O17)."""
        row = await rows.transaction(connection, digest(at.handle))
        moment = self._clock()
        if row is None or row.ehr != at.ehr or not at.browser or row.browser_hash != digest(at.browser):
            return Page("transaction-unknown")
        if row.state != "open" or row.expires_at <= moment:
            return Page("transaction-over")
        snapshot = await self._snapshot(connection, at.ehr, _pairs(row), moment)
        return Waiting(row, replace(snapshot, began=datetime.fromisoformat(row.request["began"])))

    async def _snapshot(self, connection: AsyncConnection, ehr: str, pairs: Pairs, moment: datetime) -> AuthorizationSnapshot:
        asked = given(pairs)
        return AuthorizationSnapshot(
            now=moment,
            began=moment,
            endpoints=Endpoints(self._public_url, ehr),
            lifetimes=self._lifetimes,
            types=self._types,
            client=await rows.client(connection, asked["client_id"]) if "client_id" in asked else None,
            launch=await rows.launch(connection, digest(asked["launch"])) if "launch" in asked else None,
        )


def _pairs(row: Transaction) -> Pairs:
    return tuple((name, value) for name, value in cast("list[list[str]]", row.request["pairs"]))


def _sign_in_reason(judged: Validated, waiting: Waiting, visitor: Visitor | None) -> str:
    """Why this visitor cannot go on, or ""."""
    if visitor is None:
        return "nobody"
    if visitor.account.ehr != waiting.row.ehr:
        return "other-ehr"
    if judged.launch and judged.launch.account_id not in ("", visitor.account.id):
        return "other-person"  # ATK-O15: a launch belongs to whoever started it
    if judged.signed_in_since and visitor.session.created_at < judged.signed_in_since:
        return "again"
    return ""


def _launched_patient(judged: Validated) -> str:
    return judged.launch.patient if judged.launch else ""


def _choices(judged: Validated, visitor: Visitor) -> tuple[ListedPatient, ...]:
    """The patients that may be in context: the launch's alone, when it brings one that this person may see; else hers."""
    launched = _launched_patient(judged)
    if not launched:
        return visitor.patients
    if not may_act_on(visitor.account, visitor.listed, launched, launched=True):
        return ()
    return (next((one for one in visitor.patients if one.patient == launched), ListedPatient(launched)),)


async def _consented(
    connection: AsyncConnection, waiting: Waiting, judged: Validated, visitor: Visitor, ticked: frozenset[str] | None
) -> Consented | Page:
    """The decision as it may be carried out: scopes within the request, and a patient that is (still) hers (ATK-O16)."""
    account = await people.account(connection, visitor.account.id)
    if account is None or account.disabled_at is not None:
        return Page("account-disabled", 403)
    scopes = () if ticked is None else granted(judged.scopes, ticked)
    if scopes is None:
        return Page("scope-not-offered", 403)
    current = replace(visitor, account=account, listed=await people.listed(connection, account.id))
    narrowed = replace(judged, scopes=scopes)
    patient = _patient(waiting.row, narrowed, current)
    if patient is None:
        return Page("patient-not-listed", 403)
    text = " ".join(scopes) if worth_granting(scopes) else ""
    return Consented(account, text, patient, visitor.session.created_at)


def _patient(row: Transaction, judged: Validated, visitor: Visitor) -> str | None:
    """The patient in context, "" for none; None when there has to be one and there is none that she may see."""
    choices = _choices(judged, visitor)
    if not judged.needs_patient and not _launched_patient(judged):
        return ""
    chosen = row.patient or (choices[0].patient if len(choices) == 1 else "")
    found = chosen in {one.patient for one in choices}
    return chosen if found else None if judged.needs_patient else ""
