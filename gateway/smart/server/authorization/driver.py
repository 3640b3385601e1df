"""Drives an authorization from the app's request to the answer: reads the snapshot, lets `decide` judge it, commits the effects.

A request that passed waits as a Transaction under the hash of its handle, bound to the browser that brought it (ATK-O17) and, from sign-in
on, to one session. Every step begins with `step`, which says where the person has to go next; the last one commits the end of the
transaction, the use of the launch, the grant and its code together, each by compare-and-set. In that commit client, account and session are held:
neither a sign-out nor an end to the app's access crosses it.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, TypeVar, cast

from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.smart.record import Caller, Event, RecordIn
from gateway.smart.server.authorization import noticed
from gateway.smart.server.authorization.consent import Switch, granted, switches, worth_granting
from gateway.smart.server.authorization.decide import AuthorizationSnapshot, Back, Consented, Page, Validated, conclude, validate
from gateway.smart.server.authorization.memory import Choice, Waiting, chosen_before, may_remember, pairs_of, to_keep
from gateway.smart.server.authorization.prompts import account_of
from gateway.smart.server.authorization.whose import choices, is_meant, patient_in_context, sign_in_reason, wants_patient
from gateway.smart.server.endpoints import Endpoints
from gateway.smart.server.faults import at as fault_at
from gateway.smart.server.faults import said
from gateway.smart.server.keys import KeySource
from gateway.smart.server.lifetimes import Lifetimes
from gateway.smart.server.people.sessions import BY_LAUNCHER, Visitor
from gateway.smart.server.requests import Pairs, given, repeated
from gateway.smart.server.trial import OFF, Trial, Watch
from gateway.store import consents, people
from gateway.store import oauth as rows
from gateway.store.base import Clock, Database, now
from gateway.store.oauth_rows import Client, ListedPatient, Transaction, digest, new_secret

PUSHED = "urn:ietf:params:oauth:request_uri:"
"""What a request_uri of ours begins with (RFC 9126 section 2.2)."""
_LONGEST = 20_000  # characters of a request: every type at every level, and room


@dataclass(frozen=True, slots=True)
class Begun:
    """The request waits. `handle` names it, to this browser only."""

    handle: str


@dataclass(frozen=True, slots=True)
class SignIn:
    """Somebody has to sign in. `reason`: "" nobody is; "again" the sign-in is too old; "other-ehr", "other-person": it is the wrong one.

    `hint`: the user name that the app thinks is hers; it was compared with none that is there. `anew`: she shows who she is, also where somebody else
    knows her already.
    """

    client_name: str
    redirect_uri: str
    reason: str = ""
    hint: str = ""
    anew: bool = False


@dataclass(frozen=True, slots=True)
class Pick:
    """The person chooses whose record it is about."""

    client_name: str
    redirect_uri: str
    patients: tuple[ListedPatient, ...]


@dataclass(frozen=True, slots=True)
class Ask:
    """The person is asked. `patient` is in context; None when none is needed. `at`: now, for how long what she allows lasts.

    `may_remember`: whether she may have it that way from now on (RFC 8252 section 8.6: not where anything could pose as the app). `watched`: it is a
    trial of the launcher, whose developer sees what the app does.
    """

    client_name: str
    redirect_uri: str
    patient: ListedPatient | None
    switches: tuple[Switch, ...]
    may_pick: bool  # whether she could choose another patient
    may_remember: bool
    at: datetime
    watched: bool = False


Step = SignIn | Pick | Ask | Back | Page


@dataclass(frozen=True, slots=True)
class At:
    """Where a browser is: the handle of the page, the browser's own secret, and who is signed in."""

    ehr: str
    handle: str
    browser: str
    visitor: Visitor | None
    caller: Caller = Caller()  # noqa: RUF009  # a frozen value


_DENIED = ("access_denied", "The person did not allow it.")
_SILENT: Mapping[type, tuple[str, str]] = {
    SignIn: ("login_required", "The person has to sign in."),
    Pick: ("interaction_required", "The person has to choose a patient."),
    Ask: ("consent_required", "The person has to be asked."),
}

Refusal = TypeVar("Refusal", Back, Page, Back | Page)


class _LostError(Exception):
    """Somebody else was first."""


class Authorizations:
    """The authorization endpoint of every EHR, and the steps behind it. `types`: the resource types that scopes may name.

    `must_push`: whether every app has to push its request (RFC 9126).
    """

    def __init__(
        self,
        database: Database,
        *,
        public_url: str,
        types: Iterable[str],
        record_in: RecordIn,
        keys: KeySource,
        must_push: bool = False,
        lifetimes: Lifetimes,
        watch: Watch = OFF,
        clock: Clock = now,
    ) -> None:
        self._database, self._public_url, self._types = database, public_url, frozenset(types)
        self._record_in, self._lifetimes, self._clock = record_in, lifetimes, clock
        self._keys, self._must_push, self._watch = keys, must_push, watch

    async def begin(
        self, ehr: str, pairs: Pairs, *, browser: str, visitor: Visitor | None = None, caller: Caller | None = None, trial_id: str = ""
    ) -> Begun | Back | Page:
        """The app sent a browser. Nothing but the waiting request is stored; with prompt=none it does not wait.

        `trial_id`: of the launcher's trial that the browser brought, or "".
        """
        began, moment = time.monotonic(), self._clock()
        at = At(ehr, new_secret(), browser, visitor, caller or Caller())
        if is_too_long(pairs):
            return await self.refused(at, Page("request-too-long"))
        async with self._database.read() as connection:
            asked = await _asked(connection, ehr, pairs, moment)
            if isinstance(asked, Page):
                return await self.refused(at, asked, client_id=given(pairs).get("client_id", ""))
            snapshot = await self.snapshot(connection, ehr, asked.pairs, moment)
        trial = await self._trial_of(ehr, asked.pairs, snapshot, trial_id)
        snapshot = replace(_in_trial(snapshot, trial), hinted=await self._hinted(ehr, given(asked.pairs)))
        answer = await self._begun(at, asked, snapshot)
        self._watch.note(snapshot.trial, noticed.request(ehr, at.caller, asked.pairs, snapshot, answer, 1000 * (time.monotonic() - began)))
        return answer

    async def _begun(self, at: At, asked: _Asked, snapshot: AuthorizationSnapshot) -> Begun | Back | Page:
        judged = validate(asked.pairs, snapshot)
        if isinstance(judged, Validated) and not asked.pushed and (self._must_push or _must_push(judged.client)):
            judged = judged.back("invalid_request", "The request has to be pushed (RFC 9126).")
        if not isinstance(judged, Validated):
            return await self.refused(at, judged, client=snapshot.client, client_id=given(asked.pairs).get("client_id", ""))
        async with self._database.write() as connection:
            unused = not asked.pushed or await rows.consume_pushed(connection, asked.pushed, snapshot.now)
            if unused:
                await rows.add_transaction(connection, self._transaction(at, asked.pairs, judged, snapshot))
        if not unused:
            return await self.refused(at, Page("request-uri-unknown"), client=judged.client)
        return await self._silently(at, judged) if judged.prompting.silent else Begun(at.handle)

    async def refused(self, at: At, answer: Refusal, *, client: Client | None = None, client_id: str = "") -> Refusal:
        """The answer to an app's request that nobody is asked about, once it is on record. Nobody is named: it was not she who sent it."""
        status, reason = (answer.status, answer.reason) if isinstance(answer, Page) else (303, answer.error)
        event = Event(at.ehr, at.caller, self._clock(), client, client_id=client_id[:255])
        async with self._database.write() as connection:
            await self._record_in(connection, event.record("authorize", status, reason=reason, detail=said(answer.simulated)))
        return answer

    async def _trial_of(self, ehr: str, pairs: Pairs, snapshot: AuthorizationSnapshot, trial_id: str) -> Trial | None:
        """The trial of the launch, or of the browser: both speak of one app at one EHR, and count for no other."""
        asked, launch = given(pairs), snapshot.launch
        if "launch" not in asked:
            return await self._watch.brought(trial_id, ehr, asked.get("client_id", ""))
        fits = launch is not None and (launch.ehr, launch.client_id) == (ehr, asked.get("client_id"))
        return await self._watch.of(launch.trial) if launch and fits else None

    async def step(self, at: At, *, decides: bool = False) -> Step:
        """Where the person has to go now. Binds the transaction to her session, and settles the patient where there is no choice.

        `decides`: this very request says what she wants; then nothing that she chose before, perhaps in another tab just now, answers for her.
        """
        async with self._database.read() as connection:
            waiting = await self._waiting(connection, at)
        if isinstance(waiting, Page):
            return waiting
        step = await self._step(at, waiting, decides=decides)
        if isinstance(step, SignIn | Pick | Ask):
            self._watch.note(waiting.snapshot.trial, noticed.step(at.ehr, *_page_of(step)))
        return step

    async def _step(self, at: At, waiting: Waiting, *, decides: bool) -> Step:
        judged = validate(waiting.pairs, waiting.snapshot)
        if not isinstance(judged, Validated):
            return judged
        if reason := sign_in_reason(judged, at.ehr, at.visitor, in_trial=bool(waiting.snapshot.trial)):
            prompting, anew = judged.prompting, reason == "again" or judged.prompting.signed_in_since is not None
            return SignIn(judged.client.name, judged.redirect_uri, "" if reason == "nobody" else reason, prompting.login_hint, anew)
        visitor = cast("Visitor", at.visitor)
        if not is_meant(judged, visitor):
            return await self._ended(at, judged, "login_required", "Another person is signed in.")
        return await self._for_visitor(at, waiting, judged, visitor, decides=decides)

    async def pick(self, at: At, patient: str) -> Step:
        """The person chose a patient. Judged again at the end."""
        step = await self.step(at, decides=True)
        if not isinstance(step, Pick | Ask):
            return step
        hers = {one.patient for one in at.visitor.patients} if at.visitor else set[str]()
        if patient not in hers or (isinstance(step, Ask) and not step.may_pick):
            return Page("patient-not-listed", 403)
        async with self._database.write() as connection:
            picked = await rows.pick_patient(connection, digest(at.handle), patient)
        return await self.step(at) if picked else Page("transaction-over")

    async def answer(self, at: At, choice: Choice) -> Back | SignIn | Page:
        """The person decided. True to her word once: the transaction ends here, in one commit."""
        return await self._tried(at, choice) or Page("transaction-over")

    async def cancel(self, at: At) -> Back | Page:
        """The person, signed in or not, wants to go back to the app."""
        async with self._database.read() as connection:
            waiting = await self._waiting(connection, at)
        if isinstance(waiting, Page):
            return waiting
        judged = validate(waiting.pairs, waiting.snapshot)
        return await self._ended(at, judged, *_DENIED) if isinstance(judged, Validated) else judged

    async def snapshot(self, connection: AsyncConnection, ehr: str, pairs: Pairs, moment: datetime) -> AuthorizationSnapshot:
        """What the decision about a request may look at, but for its id_token_hint."""
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

    async def _hinted(self, ehr: str, asked: Mapping[str, str]) -> str | None:
        if "id_token_hint" not in asked:
            return None
        issuer = Endpoints(self._public_url, ehr).base
        return account_of(asked["id_token_hint"], await self._keys.public(), issuer=issuer, client_id=asked.get("client_id", ""))

    def _transaction(self, at: At, pairs: Pairs, judged: Validated, snapshot: AuthorizationSnapshot) -> Transaction:
        return Transaction(
            hash=digest(at.handle),
            browser_hash=digest(at.browser),
            ehr=at.ehr,
            client_id=judged.client.id,
            request={"pairs": [list(pair) for pair in pairs], "began": snapshot.now.isoformat(), "hinted": snapshot.hinted},
            state="open",
            expires_at=snapshot.now + timedelta(seconds=self._lifetimes.transaction),
            launch_hash=judged.launch.hash if judged.launch else "",
            trial=snapshot.trial,
        )

    async def _silently(self, at: At, judged: Validated) -> Back | Page:
        """prompt=none: what can be answered without a page is, and for everything else there is an error (OpenID Connect Core 3.1.2.6, ATK-O21)."""
        step = await self.step(at)
        return step if isinstance(step, Back | Page) else await self._ended(at, judged, *_SILENT[type(step)])

    async def _for_visitor(self, at: At, waiting: Waiting, judged: Validated, visitor: Visitor, *, decides: bool) -> Step:
        row = waiting.row
        if row.session_hash != visitor.session.hash:
            suggested = await self._suggested(row, visitor)
            whose = {"session_hash": visitor.session.hash, "patient": suggested}
            async with self._database.write() as connection:
                bound = await rows.bind_transaction(connection, row.hash, **whose)
            if not bound:
                return Page("transaction-over")
            row = replace(row, **whose)
        client, offered = judged.client, choices(judged, visitor)
        if not offered and wants_patient(judged):
            # Nothing that the app asks for can be given: it hears so, and the transaction is over (HL7@164, ATK-O15).
            return await self._ended(at, judged, "access_denied", "There is no patient whose record this person may open.")
        patient = patient_in_context(row, judged, visitor)
        if patient is None:
            return Pick(client.name, judged.redirect_uri, offered)
        if not decides and (answered := await self._as_before(at, replace(waiting, row=row), judged, visitor)):
            return answered
        found = next((one for one in offered if one.patient == patient), None)
        may_pick = judged.needs_patient and len(offered) > 1
        offers = switches(judged.scopes, waiting.snapshot.types)
        watched, moment = bool(waiting.snapshot.trial), waiting.snapshot.now
        return Ask(client.name, judged.redirect_uri, found, offers, may_pick, may_remember(judged), moment, watched)

    async def _suggested(self, row: Transaction, visitor: Visitor) -> str:
        """The patient that a developer chose for a standalone launch, where this person could pick her too."""
        trial = await self._watch.of(row.trial)
        return trial.wanted.patient if trial and trial.wanted.patient in {one.patient for one in visitor.patients} else ""

    async def _as_before(self, at: At, waiting: Waiting, judged: Validated, visitor: Visitor) -> Back | SignIn | Page | None:
        """The answer, where she does not want to be asked again; None where she is to be asked."""
        if waiting.snapshot.trial and visitor.session.method != BY_LAUNCHER:
            return None  # she never chose to be watched
        async with self._database.read() as connection:
            before = await chosen_before(connection, waiting, judged, visitor)
        if before is None:
            return None
        return await self._tried(at, None)  # looked at again in the same commit: she may take it back at this moment

    async def _tried(self, at: At, choice: Choice | None) -> Back | SignIn | Page | None:
        for _ in range(2):  # who lost a race sees at the second look what the other one did
            try:
                async with self._database.write() as connection:
                    return await self._answered(connection, at, choice)
            except _LostError:
                continue
        return Page("transaction-over")

    async def _ended(self, at: At, judged: Validated, error: str, why: str) -> Back | Page:
        """An error for the app, once."""
        moment = self._clock()
        async with self._database.write() as connection:
            if not await rows.finish_transaction(connection, digest(at.handle), moment):
                return Page("transaction-over")
            event = Event(at.ehr, at.caller, moment, judged.client, at.visitor.account if at.visitor else None)
            await self._record_in(connection, event.record("grant-refused", 303, reason=error))
        back = judged.back(error, why)
        self._watch.note(judged.trial, noticed.decided(at.ehr, at.caller, back, None, "without a decision"))
        return back

    async def _answered(self, connection: AsyncConnection, at: At, choice: Choice | None) -> Back | SignIn | Page | None:
        """`choice`: None for what she chose before; then None is the answer when that does not count any more."""
        waiting, visitor = await self._waiting(connection, at), at.visitor
        if isinstance(waiting, Page):
            return waiting
        judged = validate(waiting.pairs, waiting.snapshot)
        if not isinstance(judged, Validated):
            return judged
        in_trial = bool(waiting.snapshot.trial)
        if visitor is None or waiting.row.session_hash != visitor.session.hash or sign_in_reason(judged, at.ehr, visitor, in_trial=in_trial):
            return SignIn(judged.client.name, judged.redirect_uri, "again")
        current = await _held(connection, judged, visitor)
        if not isinstance(current, Visitor):
            return current
        found = choice or await chosen_before(connection, waiting, judged, current)
        if found is None:
            return None
        if waiting.snapshot.simulates("denied"):
            found = replace(found, ticked=None)
        consented = _consented(waiting, judged, current, found.ticked)
        if isinstance(consented, Consented) and found.patient not in (None, consented.about):
            return Page("transaction-over")  # another patient was picked since the page was shown
        return consented if isinstance(consented, Page) else await self._commit(connection, at, waiting, judged, consented, found)

    async def _commit(
        self, connection: AsyncConnection, at: At, waiting: Waiting, judged: Validated, consented: Consented, choice: Choice
    ) -> Back | Page:
        concluded = conclude(waiting.pairs, waiting.snapshot, consented)
        if isinstance(concluded, Page):
            return concluded
        row, snapshot = waiting.row, waiting.snapshot
        if not await rows.finish_transaction(connection, row.hash, snapshot.now):
            raise _LostError
        event = Event(at.ehr, at.caller, snapshot.now, snapshot.client, consented.account)
        simulated = snapshot.fault if snapshot.simulates("denied") == (concluded.grant is None) else ""
        back = replace(concluded.back, simulated=simulated)
        decided = noticed.decided(at.ehr, at.caller, back, concluded.grant, "as before" if choice.before else "asked")
        if concluded.grant is None or concluded.code is None:
            await self._record_in(connection, event.record("grant-refused", 303, reason=back.error, detail=said(simulated)))
            self._watch.note(snapshot.trial, decided)
            return back
        if row.launch_hash and not await rows.consume_launch(connection, row.launch_hash):
            raise _LostError
        await rows.add_grant(connection, concluded.grant)
        await rows.add_code(connection, concluded.code)
        action = "grant-as-before" if choice.before else "grant"
        detail = "; ".join(part for part in (concluded.grant.scope, said(simulated)) if part)
        await self._record_in(connection, event.record(action, 303, patient=concluded.grant.patient, detail=detail))
        if choice.remember and may_remember(judged):
            kept = to_keep(judged, consented, choice.ticked or frozenset(), row.ehr, snapshot)
            await consents.remember(connection, kept)
            await self._record_in(connection, event.record("consent-remember", 303, patient=kept.patient, detail=f"until {kept.expires_at:%Y-%m-%d}"))
        self._watch.note(snapshot.trial, decided)
        return back

    async def _waiting(self, connection: AsyncConnection, at: At) -> Waiting | Page:
        """The transaction of this browser. One page for all that is not: no other browser learns whether it exists (ATK-O17)."""
        row = await rows.transaction(connection, digest(at.handle))
        moment = self._clock()
        if row is None or row.ehr != at.ehr or not at.browser or row.browser_hash != digest(at.browser):
            return Page("transaction-unknown")
        if row.state != "open" or row.expires_at <= moment:
            return Page("transaction-over")
        snapshot = _in_trial(await self.snapshot(connection, at.ehr, pairs_of(row), moment), await self._watch.of(row.trial))
        began = datetime.fromisoformat(row.request["began"])
        return Waiting(row, replace(snapshot, began=began, hinted=row.request.get("hinted")))


@dataclass(frozen=True, slots=True)
class _Asked:
    """The parameters that count, and the hash of the pushed request that they are from, or ""."""

    pairs: Pairs
    pushed: str = ""


async def _asked(connection: AsyncConnection, ehr: str, pairs: Pairs, moment: datetime) -> _Asked | Page:
    """A pushed request counts alone, whatever stands beside it (RFC 9126 section 4, RFC 9101 section 5).

    Nothing is ever looked for at any other request_uri (ATK-O22).
    """
    asked = given(pairs)
    uri = asked.get("request_uri", "")
    if repeated(pairs):  # RFC 6749 section 3.1
        return Page("parameter-repeated")
    if not uri.startswith(PUSHED):
        return _Asked(pairs)
    row = await rows.pushed(connection, digest(uri.removeprefix(PUSHED)))
    if row is None or row.ehr != ehr or row.client_id != asked.get("client_id") or row.expires_at <= moment:
        return Page("request-uri-unknown")
    return _Asked(pairs_of(row), row.hash)


def _in_trial(snapshot: AuthorizationSnapshot, trial: Trial | None) -> AuthorizationSnapshot:
    """What a developer chose for this launch: at most these scopes, and something that goes wrong."""
    if trial is None:
        return snapshot
    return replace(snapshot, trial=trial.label, cap=trial.wanted.scopes, fault=fault_at(trial.fault, "authorize"))


def _page_of(step: SignIn | Pick | Ask) -> tuple[str, Mapping[str, Any]]:
    """The page as its developer sees it."""
    match step:
        case SignIn():
            return "sign-in", {"reason": step.reason}
        case Pick():
            return "patient", {"patients": len(step.patients)}
        case Ask():
            return "consent", {"scopes": [one.scope for one in step.switches], "patient": step.patient.patient if step.patient else ""}


def is_too_long(pairs: Pairs) -> bool:
    """Whether a request has more characters than any sane one."""
    return sum(len(name) + len(value) for name, value in pairs) > _LONGEST


def _must_push(client: Client) -> bool:
    """Whether the app registered that it always does (RFC 9126 section 6)."""
    return (client.registered or {}).get("require_pushed_authorization_requests") is True


async def _held(connection: AsyncConnection, judged: Validated, visitor: Visitor) -> Visitor | SignIn | Page:
    """The visitor as of this commit. Nobody disables the app, closes the account or signs her out before it ends. Raises _LostError."""
    if not await rows.hold_client(connection, judged.client.id):
        raise _LostError
    account = await people.account_held(connection, visitor.account.id)
    if account is None or account.disabled_at is not None:
        return Page("account-disabled", 403)
    if not await people.hold_web_session(connection, visitor.session.hash, account.id):  # she signed out since this request began
        return SignIn(judged.client.name, judged.redirect_uri)
    return replace(visitor, account=account, listed=await people.listed(connection, account.id))


def _consented(waiting: Waiting, judged: Validated, visitor: Visitor, ticked: frozenset[str] | None) -> Consented | Page:
    """The decision as it may be carried out: scopes within the request, and a patient that is (still) hers (ATK-O16). `visitor`: as of now."""
    scopes = () if ticked is None else granted(judged.scopes, ticked, waiting.snapshot.types)
    if scopes is None:
        return Page("scope-not-offered", 403)
    patient = patient_in_context(waiting.row, replace(judged, scopes=scopes), visitor)
    if patient is None:
        return Page("patient-not-listed", 403)
    text = " ".join(scopes) if worth_granting(scopes) else ""
    return Consented(visitor.account, text, patient, visitor.session.created_at, patient_in_context(waiting.row, judged, visitor) or "")
