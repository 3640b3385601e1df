"""The launcher: starts trials, and keeps what is seen of them. Off unless `[launcher] enabled = true`; never for production (ADR 0013).

What is seen waits in memory for a task that writes it: no request is slower for it, none fails with it, and the order of one process is kept.
"""

from __future__ import annotations

import asyncio
import json
from collections import OrderedDict, deque
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timedelta
from functools import partial
from typing import Any, Protocol, cast

import structlog
from sqlalchemy.exc import SQLAlchemyError

from gateway.errors import ConfigError, GatewayError, NotDone
from gateway.seal import Seals
from gateway.smart.addresses import is_web
from gateway.smart.record import Caller, Event, RecordIn
from gateway.smart.scopes import CONTEXT_SCOPES, LAUNCH_RIGHT, parse_scope, split
from gateway.smart.server.attempts import count, limits_of_trials
from gateway.smart.server.authorization.launches import Launches, Wanted, with_parameters
from gateway.smart.server.endpoints import Endpoints
from gateway.smart.server.faults import FAULTS, said
from gateway.smart.server.trial import STANDALONE_WINDOW, Noted, Seen, Started, TooManyTrials, Trial, TrialWanted
from gateway.store import oauth as rows
from gateway.store import trials as store
from gateway.store.base import Clock, Database, now
from gateway.store.oauth_rows import Account, Client, ListedPatient, digest, new_secret

log = structlog.get_logger("gateway.trials")

LIFE = 86400
"""Seconds that a trial lives, and the access that is had in it."""
AT_ONCE = 200
"""Events of one answer."""
KINDS = ("ehr", "standalone", "backend")
_SHORTEST = 5  # seconds of a token: a shorter one is over before it arrives
_KEPT = 512  # trials at hand
_WAITING = 2000  # events that wait to be written
_DISCOVERIES = 20  # documents read that are kept of one trial: anybody can read them with the app's web origin
_DISCOVERIES_WAITING = 200
_BATCH = 50
_LONGEST = 32 * 1024  # characters of what is kept of one event


class OpensSessions(Protocol):
    """people.developers.Developers."""

    async def session_for(self, username: str, ehr: str, caller: Caller, *, replaces: str = "") -> str:
        """The secret of a new session, or ""."""
        ...

    async def known(self, ehr: str) -> tuple[tuple[Account, tuple[ListedPatient, ...]], ...]:
        """Developers' accounts at an EHR, each with whom she may see."""
        ...

    async def has(self, username: str, ehr: str) -> bool:
        """Whether this is a developer's account at that EHR."""
        ...


@dataclass(frozen=True, slots=True)
class _Waiting:
    """What waits to be written: of a trial, or of whichever one has a page of this web origin at this EHR."""

    at: datetime
    noted: Noted
    label: str = ""
    ehr: str = ""
    origin: str = ""


class Trials:
    """A `Watch`, and what the launcher's page asks for. `ehrs`: the names in the configuration.

    From one address `most` trials are started in `window` seconds, by one system `most_of_system`.
    """

    def __init__(
        self,
        database: Database,
        launches: Launches,
        developers: OpensSessions,
        seals: Seals,
        *,
        ehrs: Collection[str],
        public_url: str,
        record_in: RecordIn,
        clock: Clock = now,
        most: int = 60,
        most_of_system: int = 600,
        window: int = 600,
    ) -> None:
        self._limits = partial(limits_of_trials, most=most, most_of_system=most_of_system, window=window)
        self._database, self._launches, self._developers, self._seals = database, launches, developers, seals
        self._ehrs, self._public_url, self._record_in, self._clock = ehrs, public_url, record_in, clock
        self._known: OrderedDict[str, Trial] = OrderedDict()
        self._waiting: deque[_Waiting] = deque()
        self._writing: asyncio.Task[None] | None = None
        self._last_step: OrderedDict[str, Mapping[str, Any]] = OrderedDict()
        self._discovered: OrderedDict[str, int] = OrderedDict()

    # For the launcher's page -----------------------------------------------------------------------------------------------

    async def start(self, wanted: TrialWanted, caller: Caller, by: str = "") -> Started:
        """A new trial, on record with the name of its fault. `by`: the id of a system with the right to launch; "" for the launcher's page.

        A launch is an EHR's word that its user may see the patient (`may_act_on`). From the page there is no EHR to give it: so its `user` is one of
        `[launcher] users`, and any other name gets one answer, whoever it is.

        Raises ConfigError, whose `where` is the name of a field of `TrialWanted`, and TooManyTrials.
        """
        _check(wanted, self._ehrs)
        await self._counted(wanted, caller, by)
        if wanted.kind == "ehr" and not by and not await self._developers.has(wanted.user, wanted.ehr):
            raise ConfigError(
                "From the record system the launcher starts apps for developers' accounts alone.",
                where="user",
                fix="choose one of [launcher] users, or start the app by itself: then anybody can sign in",
            )
        client, trial_id, moment = await self._client(wanted), new_secret(), self._clock()
        started = await self._started(wanted, client, trial_id, caller, by)
        trial = Trial(digest(trial_id), wanted, moment, moment + timedelta(seconds=LIFE))
        row = store.TrialRow(trial.label, wanted.ehr, wanted.client_id, _as_json(wanted), trial.created_at, trial.expires_at)
        async with self._database.write() as connection:
            await store.add(connection, row)
            detail = ", ".join(part for part in (wanted.kind, f"by {by}" if by else "", said(wanted.fault)) if part)
            await self._record_in(connection, Event(wanted.ehr, caller, moment, client).record("trial", 201, detail=detail))
        return started

    async def named(self, trial_id: str) -> Trial | None:
        """The trial with this id, while it lives."""
        return await self.of(digest(trial_id)) if trial_id else None

    async def seen(self, trial_id: str, after: int = 0) -> tuple[Seen, ...]:
        """What was seen of it, numbers beyond `after`, in order, at most 200. Empty for an id that is none."""
        trial = await self.named(trial_id)
        if trial is None:
            return ()
        await self.settled()
        async with self._database.read() as connection:
            found = await store.events(connection, trial.label, max(0, min(after, store.MOST)), AT_ONCE)
        return tuple(self._opened(one) for one in found)

    async def session_for(self, username: str, ehr: str, caller: Caller, *, replaces: str = "") -> str:
        """The secret of a new web session for a developer's account of `[launcher] users`, without her password (`People.keep_session`).

        "" for anybody else: an account that is not listed, is closed, is of another EHR, or has a second factor or a passkey. On record.
        `replaces`: the session that the browser had until now.
        """
        return await self._developers.session_for(username, ehr, caller, replaces=replaces)

    async def developers(self, ehr: str) -> tuple[tuple[Account, tuple[ListedPatient, ...]], ...]:
        """The accounts as which it signs a browser in at an EHR, each with the patients whom she may see, herself first."""
        return await self._developers.known(ehr)

    # For the server while it answers -----------------------------------------------------------------------------------------

    async def of(self, label: str) -> Trial | None:
        """The trial with this label. None for "", and for one that is over. What a trial is never changes, so it is read once."""
        if not label:
            return None
        trial = self._known.get(label) or await self._read(label)
        return trial if trial is not None and self._clock() < trial.expires_at else None

    async def brought(self, trial_id: str, ehr: str, client_id: str) -> Trial | None:
        """The standalone trial that a browser brought: of this app at this EHR, and begun a moment ago; else None."""
        trial = await self.named(trial_id)
        if trial is None or (trial.wanted.kind, trial.ehr, trial.client_id) != ("standalone", ehr, client_id):
            return None
        return trial if self._clock() - trial.created_at <= timedelta(seconds=STANDALONE_WINDOW) else None

    def note(self, label: str, noted: Noted) -> None:
        """It was seen. Returns at once, and never raises. Nothing happens for the label ""."""
        if not label or (noted.kind == "step" and self._last_step.get(label) == noted.facts):  # the same page again
            return
        self._last_step[label] = noted.facts if noted.kind == "step" else {}
        if len(self._last_step) > _KEPT:
            self._last_step.popitem(last=False)
        self._wait(_Waiting(self._clock(), noted, label))

    def note_discovery(self, ehr: str, origin: str, noted: Noted) -> None:
        """A discovery document was read by a page of that web origin: whose trial that is, is found out afterwards."""
        if origin and origin != "null" and len(self._waiting) < _DISCOVERIES_WAITING:
            self._wait(_Waiting(self._clock(), noted, ehr=ehr, origin=origin))

    async def settled(self) -> None:
        """Until what was seen in this process up to now is written."""
        if self._writing is not None:
            await asyncio.wait([self._writing])

    # Within -------------------------------------------------------------------------------------------------------------------

    async def _read(self, label: str) -> Trial | None:
        async with self._database.read() as connection:
            row = await store.trial(connection, label)
        if row is None:
            return None
        trial = self._known[label] = Trial(row.label, _from_json(row.wanted), row.created_at, row.expires_at)
        if len(self._known) > _KEPT:
            self._known.popitem(last=False)
        return trial

    async def _counted(self, wanted: TrialWanted, caller: Caller, by: str) -> None:
        """One more, whether it is started or not. Raises TooManyTrials, on record."""
        moment = self._clock()
        async with self._database.write() as connection:
            if wait := await count(connection, self._limits(by, caller.address), moment):
                event = Event(wanted.ehr, caller, moment, client_id=wanted.client_id[:255])
                await self._record_in(connection, event.record("trial", 429, reason="trials-locked", detail=f"by {by}" if by else ""))
        if wait:
            raise TooManyTrials(wait)

    async def _client(self, wanted: TrialWanted) -> Client:
        async with self._database.read() as connection:
            client = await rows.client(connection, wanted.client_id)
        if client is None or not client.may_use(wanted.ehr):
            raise ConfigError("That client is not registered here.", where="client_id", fix="register it, with this EHR among its own")
        needed = "client_credentials" if wanted.kind == "backend" else "authorization_code"
        if needed not in client.grant_types:
            raise ConfigError(f"That client may not use {needed}.", where="kind", fix="choose another kind, or another client")
        return client

    async def _started(self, wanted: TrialWanted, client: Client, trial_id: str, caller: Caller, by: str) -> Started:
        iss = Endpoints(self._public_url, wanted.ehr).base
        if wanted.kind == "backend":
            return Started(trial_id, "", iss)
        if wanted.kind == "standalone":
            url = wanted.launch_url or str((client.registered or {}).get("client_uri") or client.launch_uri)
            if not url:
                raise ConfigError("That client has neither client_uri nor launch_uri.", where="launch_url", fix="say where the app begins")
            return Started(trial_id, with_parameters(url, {"iss": iss}), iss)
        try:
            created = await self._launches.create(_launch(wanted, digest(trial_id)), caller, by or "the launcher")
        except NotDone as error:
            raise ConfigError(error.message, where="user" if error.about == "username" else error.about, fix=error.fix) from error
        return Started(trial_id, created.url, created.iss, created.launch)

    def _wait(self, one: _Waiting) -> None:
        if len(self._waiting) >= _WAITING:
            log.warning("trial-not-recorded", why="too many wait")
            return
        self._waiting.append(one)
        if self._writing is None or self._writing.done():
            self._writing = asyncio.get_running_loop().create_task(self._write())

    async def _write(self) -> None:
        while self._waiting:
            batch = [self._waiting.popleft() for _ in range(min(_BATCH, len(self._waiting)))]
            try:
                await self._keep([one for found in batch if (one := await self._attributed(found)) is not None])
            except (GatewayError, SQLAlchemyError, ValueError, TypeError) as error:  # what developers see is a help: the launch goes on
                log.warning("trial-not-recorded", why=type(error).__name__)

    async def _attributed(self, one: _Waiting) -> _Waiting | None:
        """Of which trial it is: for a page of an app, the newest one of an app with that web origin that was begun a moment ago."""
        if one.label:
            return one
        async with self._database.read() as connection:
            label = await store.begun(connection, one.ehr, one.origin, one.at - timedelta(seconds=STANDALONE_WINDOW))
        if not label or self._discovered.get(label, 0) >= _DISCOVERIES:
            return None
        self._discovered[label] = self._discovered.get(label, 0) + 1
        if len(self._discovered) > _KEPT:
            self._discovered.popitem(last=False)
        return replace(one, label=label)

    async def _keep(self, batch: Sequence[_Waiting]) -> None:
        by_label: dict[str, list[_Waiting]] = {}
        for one in batch:
            by_label.setdefault(one.label, []).append(one)
        if not by_label:
            return
        async with self._database.write() as connection:
            for label in sorted(by_label):  # in one order everywhere: two processes that hold rows for each other would wait for ever
                found = by_label[label]
                if first := await store.reserve(connection, label, len(found)):
                    await store.add_events(connection, [self._sealed(label, first + place, one) for place, one in enumerate(found)])

    def _sealed(self, label: str, number: int, one: _Waiting) -> store.EventRow:
        noted = one.noted
        text = json.dumps(asdict(noted), default=str)
        if len(text) > _LONGEST:
            text = json.dumps(asdict(replace(noted, address=noted.address[:2000], facts={"left_out": "more than is kept of one request"})))
        return store.EventRow(label, number, one.at, self._seals.seal(text.encode(), _context(label, number)))

    def _opened(self, row: store.EventRow) -> Seen:
        try:
            found: dict[str, Any] = json.loads(self._seals.open(row.sealed, _context(row.label, row.number)))
        except ValueError:  # SealBroken is one
            found = asdict(Noted("broken", facts={"left_out": "it cannot be opened with the keys that are set"}))
        return Seen(number=row.number, at=row.at, **found)


def _context(label: str, number: int) -> bytes:
    return b"trial-event:" + label.encode() + b":%d" % number


def _launch(wanted: TrialWanted, label: str) -> Wanted:
    return Wanted(
        ehr=wanted.ehr,
        client_id=wanted.client_id,
        patient=wanted.patient,
        encounter=wanted.encounter,
        username=wanted.user,
        need_patient_banner=wanted.need_patient_banner,
        intent=wanted.intent,
        tenant=wanted.tenant,
        style_url=wanted.style_url,
        fhir_context=wanted.fhir_context,
        launch_url=wanted.launch_url,
        trial=label,
    )


def _as_json(wanted: TrialWanted) -> dict[str, Any]:
    return asdict(wanted) | {"fhir_context": [dict(one) for one in wanted.fhir_context]}


def _from_json(found: Mapping[str, Any]) -> TrialWanted:
    members: dict[str, Any] = {**found, "fhir_context": tuple(cast("list[Mapping[str, Any]]", found["fhir_context"]))}
    return TrialWanted(**members)


def _check(wanted: TrialWanted, ehrs: Collection[str]) -> None:
    """Raises ConfigError for what is wrong by itself."""
    longest = {"access_life": LIFE, "refresh_life": LIFE}
    if wanted.ehr not in ehrs:
        raise ConfigError("There is no such EHR.", where="ehr", fix=f"choose one of: {', '.join(ehrs)}")
    if wanted.kind not in KINDS:
        raise ConfigError("That is no kind of launch.", where="kind", fix=f"choose one of: {', '.join(KINDS)}")
    if wanted.encounter and wanted.kind != "ehr":
        raise ConfigError("Only a launch from the record system names an encounter.", where="encounter", fix="leave it empty, or start it from there")
    if wanted.fault and wanted.fault not in FAULTS:
        raise ConfigError("That error cannot be simulated.", where="fault", fix=f"choose one of: {', '.join(FAULTS)}")
    for name, most in longest.items():
        found = getattr(wanted, name)
        if found and not _SHORTEST <= found <= most:
            raise ConfigError(f"A token lives {_SHORTEST} to {most} seconds here.", where=name, fix="0 leaves it as it is")
    if wrong := [one for one in split(wanted.scopes) if parse_scope(one) is None and one not in CONTEXT_SCOPES | {LAUNCH_RIGHT}]:
        raise ConfigError(f"That is no scope: {wrong[0][:64]}", where="scopes", fix="write SMART scopes, such as patient/Observation.rs")
    if wanted.launch_url and not is_web(wanted.launch_url):
        raise ConfigError("That is no address of an app.", where="launch_url", fix="an https URL without fragment (http on this machine itself)")
