"""EHR launches (SMART 2.2 "Launch App: EHR Launch"): the record system, or a developer in its place, starts an app with a context."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from urllib.parse import quote, urlencode

from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.errors import NotDone
from gateway.smart.record import Caller, Event, RecordIn
from gateway.smart.server.authorization.fhir_context import problem_of_items, problem_of_style, problem_of_text
from gateway.smart.server.endpoints import Endpoints
from gateway.smart.server.lifetimes import Lifetimes
from gateway.smart.server.people.accounts import normalised
from gateway.smart.server.people.relationships import may_act_on
from gateway.store import oauth as rows
from gateway.store import people
from gateway.store.base import Clock, Database, now
from gateway.store.oauth_rows import Account, Client, Launch, digest, new_secret

_ID = re.compile(r"[A-Za-z0-9.-]{1,64}", re.ASCII)  # FHIR R4 id


@dataclass(frozen=True, slots=True)
class Wanted:
    """A launch to create. `username`: the only person who may use it, or "" for anybody who may see the patient, and any staff of the EHR.

    `encounter` and what follows `need_patient_banner` are handed on to the app as they are (SMART 2.2 "Launch context"). `style_url`: in place of
    the gateway's own style. `launch_url`: in place of the client's own. `trial`: the label of a trial of the launcher that it belongs to.
    """

    ehr: str
    client_id: str
    patient: str
    encounter: str = ""
    username: str = ""
    need_patient_banner: bool = True
    intent: str = ""
    tenant: str = ""
    style_url: str = ""
    fhir_context: tuple[Mapping[str, Any], ...] = ()
    launch_url: str = ""
    trial: str = ""

    @property
    def extra(self) -> Mapping[str, Any] | None:
        """Further members of the launch context, by their names in a token response; None when there are none."""
        members = {"intent": self.intent, "tenant": self.tenant, "smart_style_url": self.style_url, "fhirContext": list(self.fhir_context)}
        return {name: value for name, value in members.items() if value} or None


@dataclass(frozen=True, slots=True)
class Created:
    """What the browser is sent with. `url` is the app's launch address with both parameters."""

    iss: str
    launch: str
    url: str


class Launches:
    """Makes launch handles: 256 random bits, one use, five minutes. `must_name_user`: none is made for whoever comes with it."""

    def __init__(
        self,
        database: Database,
        *,
        public_url: str,
        record_in: RecordIn,
        must_name_user: bool = False,
        lifetimes: Lifetimes,
        clock: Clock = now,
    ) -> None:
        self._database, self._public_url, self._record_in = database, public_url, record_in
        self._must_name_user = must_name_user
        self._lifetimes, self._clock = lifetimes, clock

    async def create(self, wanted: Wanted, caller: Caller | None = None, by: str = "") -> Created:
        """A new launch. `by`: the id of the system that asks for it; "" for the operator.

        Raises NotDone, whose `about` is the name of a field of `Wanted`.
        """
        moment, handle = self._clock(), new_secret()
        _check_ids(wanted)
        _check_extra(wanted)
        async with self._database.write() as connection:
            client = _launchable(await rows.client(connection, wanted.client_id), wanted)
            account = await _person(connection, wanted, must=self._must_name_user)
            await rows.add_launch(
                connection,
                Launch(
                    hash=digest(handle),
                    ehr=wanted.ehr,
                    client_id=client.id,
                    patient=wanted.patient,
                    encounter=wanted.encounter,
                    account_id=account.id if account else "",
                    need_patient_banner=wanted.need_patient_banner,
                    state="open",
                    expires_at=moment + timedelta(seconds=self._lifetimes.launch),
                    extra=wanted.extra,
                    trial=wanted.trial,
                ),
            )
            event = Event(wanted.ehr, caller or Caller(), moment, client, account)
            await self._record_in(connection, event.record("launch", 201, patient=wanted.patient, detail=f"by {by}" if by else ""))
        iss = Endpoints(self._public_url, wanted.ehr).base
        return Created(iss, handle, with_parameters(wanted.launch_url or client.launch_uri, {"iss": iss, "launch": handle}))


def with_parameters(url: str, parameters: Mapping[str, str]) -> str:
    """An app's address with what a launch adds to it."""
    return url + ("&" if "?" in url else "?") + urlencode(parameters, quote_via=quote, safe="")


def _check_ids(wanted: Wanted) -> None:
    for name, id_ in (("patient", wanted.patient), ("encounter", wanted.encounter)):
        if not _ID.fullmatch(id_) and (id_ or name == "patient"):
            raise NotDone("That is not the id of a resource.", what="id-malformed", about=name, fix="give the id alone, without its type")


def _check_extra(wanted: Wanted) -> None:
    for name, problem, fix in (
        ("intent", problem_of_text(wanted.intent), "such as reconcile-medications; the app's documentation names those that it knows"),
        ("tenant", problem_of_text(wanted.tenant), "the name of the organization, as the app knows it"),
        ("style_url", problem_of_style(wanted.style_url), "the address of a JSON document with SMART styles"),
        ("fhir_context", problem_of_items(wanted.fhir_context), '\'{"reference": "ImagingStudy/123"}\', once for each item'),
    ):
        if problem:
            raise NotDone(problem, what="context-malformed", about=name, fix=fix)


def _launchable(client: Client | None, wanted: Wanted) -> Client:
    if client is None or not client.may_use(wanted.ehr):
        raise NotDone(
            "That client is not registered here.", what="client-elsewhere", about="client_id", fix="register it, with this EHR among its own"
        )
    if not (wanted.launch_url or client.launch_uri):
        fix = "add launch_uri to its registration and register it again"
        raise NotDone("That client has no launch_uri.", what="client-not-launched", about="client_id", fix=fix)
    return client


async def _person(connection: AsyncConnection, wanted: Wanted, *, must: bool) -> Account | None:
    if not wanted.username and must:  # for staff a launch is enough to open the record, whoever came by it
        fix = "say who is signed in at the EHR, or set launch_user = optional"
        raise NotDone("A launch has to name its user here.", what="user-unsaid", about="username", fix=fix)
    if not wanted.username:
        return None
    account = await people.account_named(connection, normalised(wanted.username))
    if account is None or account.disabled_at is not None or account.ehr != wanted.ehr:
        raise NotDone("There is no such user at that EHR.", what="account-elsewhere", about="username", fix="add the user, with that EHR")
    if not may_act_on(account, await people.listed(connection, account.id), wanted.patient, launched=True):
        fix = "add the patient to the user's list"
        raise NotDone("That user may not see that patient.", what="patient-not-listed", about="username", fix=fix)
    return account
