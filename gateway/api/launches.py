"""`POST /api/launches`: an EHR, or a test harness in its place, starts an app with a patient and a user in context (SMART 2.2 "EHR launch").

Who may: a registered system whose token has the scope `gateway.launch`, at its own EHR. A launch stands for the EHR's word that this user may see
this patient, so the right is given by the operator alone. `/api/openapi.json` describes it.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from fastapi import APIRouter, Request, Response
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from gateway import __version__
from gateway.api.asgi import Limits, read_body, value, values
from gateway.api.oauth import OAuthEdge, answered
from gateway.api.trials import EVENTS
from gateway.errors import ConfigError, NotDone, Unauthenticated
from gateway.smart.principal import Principal
from gateway.smart.record import Caller, Event
from gateway.smart.scopes import LAUNCH_RIGHT
from gateway.smart.server.answers import Decided, refused
from gateway.smart.server.authorization.launches import Created, Wanted
from gateway.smart.server.faults import FAULTS
from gateway.smart.server.trial import Started, TooManyTrials, TrialWanted
from gateway.store.base import now

PATH = "/api/launches"
_EVERY = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]
_LIMITS = Limits(cap=64 * 1024)
_FIELDS = {"username": "user", "fhir_context": "fhirContext", "style_url": "smart_style_url"}
"""Where a member here has another name than the field that it becomes."""
_OF_TRIALS = frozenset({"fault", "scopes", "access_life", "refresh_life"})


class Authenticates(Protocol):
    """smart.server.token.authenticator.Authenticator."""

    async def principal(self, ehr: str, authorization: Sequence[str]) -> Principal:
        """Who calls. Raises Unauthenticated."""
        ...


class Launches(Protocol):
    """smart.server.authorization.launches.Launches."""

    async def create(self, wanted: Wanted, caller: Caller | None = None, by: str = "") -> Created:
        """A new launch, on record with who asked for it. Raises NotDone."""
        ...


class LaunchRequest(BaseModel):
    """What to launch."""

    model_config = ConfigDict(extra="forbid", strict=True)

    ehr: str = Field(description="Name of the EHR at this gateway.", max_length=64)
    client_id: str = Field(description="The app. Its registration has a launch_uri.", max_length=255)
    patient: str = Field(description="Id of the patient in context.", max_length=64)
    encounter: str = Field("", description="Id of the encounter in context.", max_length=64)
    user: str = Field(
        "",
        description="User name of the only person who may use the launch; without it, any staff, or whoever may see the patient.",
        max_length=255,
    )
    need_patient_banner: bool = Field(default=True, description="Whether the app has to show whose record it is.")
    intent: str = Field("", description="What the user wants to do, in a word that the app knows.", max_length=255)
    tenant: str = Field("", description="The organization, by the name that the app knows it by.", max_length=255)
    smart_style_url: str = Field("", description="SMART styles in place of the gateway's.", max_length=2000)
    fhirContext: list[dict[str, Any]] = Field(default=[], description="Further resources in context.", max_length=50)  # noqa: N815 (SMART's name)
    fault: str = Field("", description="Where the launcher is enabled: what to simulate.", max_length=64, json_schema_extra={"enum": ["", *FAULTS]})
    scopes: str = Field("", description="Where the launcher is enabled: at most these are granted.", max_length=4000)
    access_life: int = Field(0, description="Where the launcher is enabled: seconds that access tokens live at most.", ge=0, le=86400)
    refresh_life: int = Field(0, description="Where the launcher is enabled: seconds that refresh tokens live at most.", ge=0, le=86400)


class LaunchAnswer(BaseModel):
    """What to send the browser with. It works once, within five minutes."""

    iss: str = Field(description="The FHIR base of the EHR.")
    launch: str = Field(description="The launch handle.")
    launch_url: str = Field(description="The app's launch address with both.")
    trial: str = Field(default="", description="With one of the launcher's members: the id of the trial.")
    events: str = Field(default="", description="Likewise: where to read what the app does. Whoever has this address may.")


class StartsTrials(Protocol):
    """smart.server.trials.Trials."""

    async def start(self, wanted: TrialWanted, caller: Caller, by: str = "") -> Started:
        """A new trial, on record with who asked for it. Raises ConfigError and TooManyTrials."""
        ...


@dataclass(frozen=True, slots=True)
class Starters:
    """What makes launches; `trials`: None where the launcher is off. `public_url`: without a trailing slash."""

    launches: Launches
    public_url: str
    trials: StartsTrials | None = None


def router(authenticator: Authenticates, starters: Starters, edge: OAuthEdge) -> APIRouter:
    """Routes /api/launches and /api/openapi.json."""
    routes = APIRouter()

    async def create(request: Request) -> Response:
        return await answered(request, "", "launch", edge, lambda caller: _created(request, authenticator, starters, edge.ehrs, caller))

    async def described() -> dict[str, Any]:
        return _openapi(trials=starters.trials is not None)

    routes.add_api_route(PATH, create, methods=_EVERY, response_model=None, include_in_schema=False)
    routes.add_api_route("/api/openapi.json", described, methods=["GET"], include_in_schema=False)
    return routes


async def _created(request: Request, authenticator: Authenticates, starters: Starters, ehrs: Collection[str], caller: Caller) -> Decided:
    headers = request.scope["headers"]
    if request.method != "POST":
        return Decided(405, {"error": "invalid_request", "error_description": "Send POST."}, headers=(("Allow", "POST"),))
    if value(headers, b"content-type").partition(";")[0].strip().lower() != "application/json":
        return refused("invalid_request", "Send application/json.", status=415)
    try:
        asked = LaunchRequest.model_validate_json(await read_body(headers, request.receive, _LIMITS))
    except ValidationError as error:
        return refused("invalid_request", _first(error))
    try:
        principal = await authenticator.principal(asked.ehr if asked.ehr in ehrs else "", values(headers, b"authorization"))
    except Unauthenticated as error:
        challenge = f'Bearer realm="{PATH}", error="invalid_token"'
        return Decided(401, {"error": "invalid_token", "error_description": error.message}, headers=(("WWW-Authenticate", challenge),))
    if not principal.may_launch:
        challenge = f'Bearer realm="{PATH}", error="insufficient_scope", scope="{LAUNCH_RIGHT}"'
        return _noted(Decided(403, {"error": "insufficient_scope"}, headers=(("WWW-Authenticate", challenge),)), principal, caller)
    if asked.model_fields_set & _OF_TRIALS and starters.trials is None:
        named = ", ".join(sorted(asked.model_fields_set & _OF_TRIALS))
        return _noted(refused("invalid_request", f"{named}: only where the launcher is enabled."), principal, caller)
    try:
        answer = await _started(asked, starters, caller, principal.client_id)
    except (ConfigError, NotDone) as error:  # of a trial, of a launch
        field = _field(error)
        return _noted(refused("invalid_request", f"{field}: {error}"), principal, caller)
    except TooManyTrials as error:
        words = {"error": "temporarily_unavailable", "error_description": error.message}
        return Decided(429, words, headers=(("Retry-After", str(error.wait)),), recorded=True)
    return Decided(201, answer.model_dump(exclude_unset=True), recorded=True)


async def _started(asked: LaunchRequest, starters: Starters, caller: Caller, by: str) -> LaunchAnswer:
    """A launch, or a trial of the launcher where one of its members is there. Raises ConfigError and TooManyTrials."""
    if starters.trials is None or not asked.model_fields_set & _OF_TRIALS:
        created = await starters.launches.create(_wanted(asked), caller, by)
        return LaunchAnswer(iss=created.iss, launch=created.launch, launch_url=created.url)
    started = await starters.trials.start(_trial(asked), caller, by)
    events = starters.public_url + EVENTS.format(trial_id=started.trial_id)
    return LaunchAnswer(iss=started.iss, launch=started.launch, launch_url=started.url, trial=started.trial_id, events=events)


def _field(error: ConfigError | NotDone) -> str:
    """The member that it is about."""
    about = error.about if isinstance(error, NotDone) else error.where
    return _FIELDS.get(about, about)


def _noted(decided: Decided, principal: Principal, caller: Caller) -> Decided:
    """A refusal, with who was refused for the record."""
    event = Event(principal.ehr, caller, now(), client_id=principal.client_id)
    record = event.record("launch", decided.status, reason=decided.error)
    who = replace(record, principal=str(principal.kind), client_name=principal.client_name, fhir_user=principal.fhir_user, user_id=principal.user_id)
    return replace(decided, record=who)


def _wanted(asked: LaunchRequest) -> Wanted:
    return Wanted(
        ehr=asked.ehr,
        client_id=asked.client_id,
        patient=asked.patient,
        encounter=asked.encounter,
        username=asked.user,
        need_patient_banner=asked.need_patient_banner,
        intent=asked.intent,
        tenant=asked.tenant,
        style_url=asked.smart_style_url,
        fhir_context=tuple(asked.fhirContext),
    )


def _trial(asked: LaunchRequest) -> TrialWanted:
    return TrialWanted(
        ehr=asked.ehr,
        client_id=asked.client_id,
        patient=asked.patient,
        encounter=asked.encounter,
        user=asked.user,
        need_patient_banner=asked.need_patient_banner,
        intent=asked.intent,
        tenant=asked.tenant,
        style_url=asked.smart_style_url,
        fhir_context=tuple(asked.fhirContext),
        scopes=asked.scopes,
        access_life=asked.access_life,
        refresh_life=asked.refresh_life,
        fault=asked.fault,
    )


def _first(error: ValidationError) -> str:
    """Which member is wrong, and how; never its value."""
    found = error.errors(include_url=False, include_input=False)[0]
    where = ".".join(str(part) for part in found["loc"])
    return f"{where or 'body'}: {found['msg']}"


def _openapi(*, trials: bool) -> dict[str, Any]:
    """Made from the models that the endpoint reads and writes. `trials`: whether the launcher is enabled; else its members are not there."""
    described = APIRouter()

    async def shape(asked: LaunchRequest) -> None:
        """What is asked, as its models say it; `create` above is what answers."""

    refusals: dict[int | str, dict[str, Any]] = {
        400: {"description": "A member is missing or wrong; error_description says which."},
        401: {"description": "No token of a system at that EHR."},
        403: {"description": f"The token lacks {LAUNCH_RIGHT}."},
    }
    if trials:
        refusals[429] = {"description": "Too many trials: Retry-After says in how many seconds there is another one."}
    described.add_api_route(PATH, shape, methods=["POST"], status_code=201, response_model=LaunchAnswer, summary="Start an app", responses=refusals)
    made = get_openapi(title="FHIR portal gateway", version=__version__, routes=described.routes)
    made["paths"][PATH]["post"]["responses"].pop("422", None)
    if not trials:
        for model, members in (("LaunchRequest", _OF_TRIALS), ("LaunchAnswer", {"trial", "events"})):
            for name in members:
                made["components"]["schemas"][model]["properties"].pop(name)
    scheme = {"type": "oauth2", "flows": {"clientCredentials": {"tokenUrl": "/auth/{ehr}/token", "scopes": {LAUNCH_RIGHT: "Start apps"}}}}
    made.setdefault("components", {})["securitySchemes"] = {"backend": scheme}
    made["security"] = [{"backend": [LAUNCH_RIGHT]}]
    return made
