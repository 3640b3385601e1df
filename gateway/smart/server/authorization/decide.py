"""The authorization endpoint as a decision: a request and a snapshot in; a validated request, a redirect back or a page out. No I/O.

The same `validate` runs when the app sends the browser here and again at every later step (AUTHLIB-E9: hooks run twice), so a client that
was disabled or a launch that was used meanwhile ends the flow; nothing is consumed by looking. `conclude` makes the code at the end.

Overrides: AUTHLIB-E5 (PKCE with S256, always), E9 (aud, launch, redirect_uri never omitted), E10 (the scope that was consented to is the
grant's), E13 (characters that Authlib refuses in its own descriptions), E14 (`iss` in every redirect, RFC 9207).
"""
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import quote, urlencode

from gateway.smart.scopes import CONTEXT_SCOPES, clinical, is_subset, parse_scope, split
from gateway.smart.server.authlib_core import AccessDeniedError, AuthorizationCodeGrant, InvalidRequestError, InvalidScopeError, OAuth2Error
from gateway.smart.server.authorization.prompts import Prompting, prompting
from gateway.smart.server.core import Core, OAuthClient, Request
from gateway.smart.server.endpoints import Endpoints
from gateway.smart.server.faults import OTHER_ISSUER
from gateway.smart.server.lifetimes import Lifetimes
from gateway.smart.server.pkce import S256Always
from gateway.smart.server.requests import Pairs, given, repeated
from gateway.store.oauth_rows import Account, Client, Code, Grant, Launch, digest, new_id, new_secret

# Our words where Authlib would repeat the caller's.
_WORDS = {
    "unsupported_response_type": "Only response_type=code is offered.",
    "unauthorized_client": "This client may not use the authorization code flow.",
}


_KIND_OF_LAUNCH = frozenset({"launch", "launch/patient"})
"""What says how the launch goes, and gives nothing by itself."""


@dataclass(frozen=True, slots=True)
class Page:
    """The browser stays here, with a page that explains. There is no address that could be trusted with an answer."""

    reason: str
    status: int = 400
    simulated: str = ""  # the fault of a trial for which this is no real answer


@dataclass(frozen=True, slots=True)
class Back:
    """The browser goes back to the app. `error` and `description` are the OAuth error in the address, or ""."""

    url: str
    error: str = ""
    description: str = ""
    simulated: str = ""  # as of a Page


@dataclass(frozen=True, slots=True)
class AuthorizationSnapshot:
    """What the decision may look at. `types` are the resource types that a scope may name, `began` is when the app sent the browser here.

    `hinted`: the account of the request's id_token_hint, "" when that is none of ours; None without one. `trial`: the label of the trial that it
    belongs to; then at most the scopes of `cap` are granted ("" for no cap), and `fault` is simulated.
    """

    now: datetime
    began: datetime
    endpoints: Endpoints
    lifetimes: Lifetimes
    types: frozenset[str]
    client: Client | None = None
    launch: Launch | None = None
    hinted: str | None = None
    trial: str = ""
    cap: str = ""
    fault: str = ""

    def simulates(self, fault: str) -> bool:
        """Whether this is to be pretended."""
        return self.fault == fault


@dataclass(frozen=True, slots=True)
class Validated:
    """A request that a person can be asked about. `scopes` are those that may be granted, as the app wrote them."""

    client: Client
    redirect_uri: str
    state: str
    scopes: tuple[str, ...]
    launch: Launch | None
    prompting: Prompting
    issuer: str
    trial: str = ""

    @property
    def needs_patient(self) -> bool:
        """Whether a patient must be in context (HL7@164: a patient scope is granted with a patient, or not at all)."""
        return "launch/patient" in self.scopes or any(scope.level == "patient" for scope in clinical(" ".join(self.scopes)))

    def back(self, error: str, description: str) -> Back:
        """An error that the app hears about (RFC 6749 section 4.1.2.1)."""
        return Back(redirect(self.redirect_uri, {"error": error, "error_description": description}, self.state, self.issuer), error, description)


@dataclass(frozen=True, slots=True)
class Consented:
    """What a person decided. `scope` is what she granted; "" is a denial. `about`: the patient that she was asked about, granted or not."""

    account: Account
    scope: str
    patient: str
    auth_time: datetime
    about: str = ""


@dataclass(frozen=True, slots=True)
class Concluded:
    """Where the browser goes, and what must be committed before. Neither grant nor code when she said no."""

    back: Back
    grant: Grant | None = None
    code: Code | None = None


def redirect(uri: str, answer: dict[str, str], state: str, issuer: str) -> str:
    """The address of an answer: the registered URI as it is, then our parameters. `state` goes back as it came, `iss` always (ATK-O20)."""
    members = answer | ({"state": state} if state else {}) | {"iss": issuer}
    return uri + ("&" if "?" in uri else "?") + urlencode(members, quote_via=quote, safe="")


def validate(pairs: Pairs, snapshot: AuthorizationSnapshot) -> Validated | Back | Page:
    """Judge a request. Without a client and its exact redirect URI nothing is redirected (ATK-O1, O2). What is really wrong goes before a fault."""
    real = _judged(pairs, replace(snapshot, fault=""))
    if not snapshot.fault or not isinstance(real, Validated):
        return real
    pretended = _judged(pairs, snapshot)
    return pretended if isinstance(pretended, Validated) else replace(pretended, simulated=snapshot.fault)


def _judged(pairs: Pairs, snapshot: AuthorizationSnapshot) -> Validated | Back | Page:
    if repeated(pairs):  # RFC 6749 section 3.1
        return Page("parameter-repeated")
    core = AuthorizeCore(snapshot)
    try:
        grant = core.get_consent_grant(Request("GET", pairs))
    except OAuth2Error as error:
        return core.refusal(error, given(pairs).get("state", ""))
    except ValueError:  # AUTHLIB-E13
        return Page("request-malformed")
    return core.validated(grant)


def conclude(pairs: Pairs, snapshot: AuthorizationSnapshot, consented: Consented) -> Concluded | Page:
    """The answer to a person's decision about a request that `validate` let through."""
    core = AuthorizeCore(snapshot, consented)
    try:
        request = Request("GET", pairs)
        grant = core.get_consent_grant(request)
        back: Back | Page = core.create_authorization_response(request, consented.account if consented.scope else None, grant)
    except OAuth2Error as error:
        back = core.refusal(error, given(pairs).get("state", ""))
    except ValueError:
        return Page("request-malformed")
    return back if isinstance(back, Page) else Concluded(back, core.grant, core.code)


class AuthorizeCore(Core):
    """Authlib's core over one snapshot of an authorization request."""

    def __init__(self, snapshot: AuthorizationSnapshot, consented: Consented | None = None) -> None:
        super().__init__(snapshot.client, snapshot.endpoints.ehr)
        self.snapshot, self.consented = snapshot, consented
        self.grant: Grant | None = None
        self.code: Code | None = None
        self.register_grant(CodeRequest, [SmartRequest(snapshot)])

    def query_client(self, client_id: str) -> OAuthClient | None:
        """The client, asked for what a person may grant it here."""
        found = super().query_client(client_id)
        if found is None or self.snapshot.simulates("unknown-client"):
            return None
        return _Asking(found.row, self.snapshot)

    def validated(self, grant: Any) -> Validated:
        """A request that passed, as a value."""
        data, snapshot = grant.request.payload.data, self.snapshot
        return Validated(
            client=grant.request.client.row,
            redirect_uri=grant.redirect_uri,
            state=data.get("state", ""),
            scopes=split(grant.request.scope),
            launch=snapshot.launch if "launch" in data else None,
            prompting=prompting(data, snapshot.began, snapshot.hinted),
            issuer=snapshot.endpoints.base,
            trial=snapshot.trial,
        )

    def refusal(self, error: Any, state: str) -> Back | Page:
        """An error of Authlib's or ours: back to the app when its address was checked, else a page."""
        code, uri = str(error.error), error.redirect_uri
        if not uri:
            return self._unknown() if code == "invalid_client" else Page("redirect-not-registered")
        words = _WORDS.get(code) or str(error.description or "")
        answer = {"error": code} | ({"error_description": words} if words else {})
        return Back(redirect(uri, answer, state, self.snapshot.endpoints.base), code, words)

    def _unknown(self) -> Page:
        """No client that counts; one that registered itself and waits for the operator is told so."""
        client = self.snapshot.client
        waits = client is not None and client.pending_since is not None and client.disabled_at is None and client.is_of(self.snapshot.endpoints.ehr)
        return Page("client-pending", 403) if waits else Page("client-unknown")

    def handle_error_response(self, request: Request, error: Any) -> Back | Page:
        """An error at the end of the way."""
        return self.refusal(error, request.payload.state or "")

    def handle_response(self, status: int, body: Any, headers: Any) -> Any:
        """The code's way back: `CodeRequest` has built it."""
        del status, headers
        return body


class _Asking(OAuthClient):
    """A client whose request is cut to what a person may grant: unknown scopes are ignored, system/ is not hers to give (ATK-O16)."""

    def __init__(self, row: Client, snapshot: AuthorizationSnapshot) -> None:
        super().__init__(row)
        self._snapshot = snapshot

    def check_redirect_uri(self, redirect_uri: str) -> bool:
        """As registered."""
        return super().check_redirect_uri(redirect_uri) and not self._snapshot.simulates("unknown-redirect")

    def get_allowed_scope(self, scope: str | None) -> str:
        """Those that are known here and within the registration, as written."""
        return super().get_allowed_scope(" ".join(text for text in split(scope or "") if self._known(text)))

    def _known(self, text: str) -> bool:
        found, cap = parse_scope(text), self._snapshot.cap
        if found is None:
            return text in CONTEXT_SCOPES and (not cap or text in split(cap) or text in _KIND_OF_LAUNCH)
        if cap and not is_subset(text, cap):  # a trial of the launcher: at most this is granted
            return False
        return found.level != "system" and (found.type == "*" or found.type in self._snapshot.types)


class CodeRequest(AuthorizationCodeGrant):
    """response_type=code."""

    def create_authorization_response(self, redirect_uri: str, grant_user: Account | None) -> tuple[int, Back, list[tuple[str, str]]]:
        """The code, or access_denied. The address is built here: Authlib's would drop `iss` and spell the registered query anew."""
        if grant_user is None:
            raise AccessDeniedError("The person did not allow it.", redirect_uri=redirect_uri)
        code = new_secret()
        self.save_authorization_code(code, self.request)
        state, issuer = self.request.payload.state or "", self.server.snapshot.endpoints.base
        if self.server.snapshot.simulates("state-changed"):
            state = new_id()
        if self.server.snapshot.simulates("other-iss"):
            issuer = OTHER_ISSUER
        return 303, Back(redirect(redirect_uri, {"code": code}, state, issuer)), []

    def save_authorization_code(self, code: str, request: Any) -> None:
        """The rows of the family that begins here. Its scope is what the person granted (AUTHLIB-E10)."""
        snapshot: AuthorizationSnapshot = self.server.snapshot
        consented: Consented = self.server.consented
        data = request.payload.data
        grant = self.server.grant = _family(snapshot, consented, request.client.row)
        self.server.code = Code(
            hash=digest(code),
            grant_id=grant.id,
            client_id=grant.client_id,
            redirect_uri=data["redirect_uri"],
            code_challenge=data["code_challenge"],
            nonce=data.get("nonce", ""),
            auth_time=consented.auth_time,
            state="issued",
            expires_at=snapshot.now + timedelta(seconds=snapshot.lifetimes.code),
        )


def _family(snapshot: AuthorizationSnapshot, consented: Consented, client: Client) -> Grant:
    launch = snapshot.launch
    grant = Grant(
        id=new_id(),
        ehr=snapshot.endpoints.ehr,
        client_id=client.id,
        scope=consented.scope,
        created_at=snapshot.now,
        account_id=consented.account.id,
        patient=consented.patient,
        context="picked" if consented.patient else "",
        online_until=_online_until(snapshot, consented),
        trial=snapshot.trial,
    )
    if launch is None:
        return grant
    # SMART 2.2: encounter and further context belong to the launch, so they go only with the launch's own patient.
    launched = launch.patient != "" and consented.patient == launch.patient
    return replace(
        grant,
        context="launch" if launched else grant.context,
        encounter=launch.encounter if launched else "",
        need_patient_banner=launch.need_patient_banner,
        extra=launch.extra if launched else None,
    )


def _online_until(snapshot: AuthorizationSnapshot, consented: Consented) -> datetime | None:
    """SMART 2.2 "online_access": as long as the person is signed in, which no sign-in is for longer than this. Offline access is more (HL7@100)."""
    scopes = split(consented.scope)
    online = "online_access" in scopes and "offline_access" not in scopes
    return consented.auth_time + timedelta(seconds=snapshot.lifetimes.online) if online else None


class SmartRequest:
    """What SMART and we demand of a request besides RFC 6749. One hook, so that the order is fixed."""

    def __init__(self, snapshot: AuthorizationSnapshot) -> None:
        self._snapshot = snapshot

    def __call__(self, grant: Any) -> None:
        """Authlib's way to extend a grant."""
        grant.register_hook("after_validate_authorization_request_payload", self.check)

    def check(self, grant: Any, result: Any) -> None:
        """Every rule, each with its own error."""
        data = grant.request.payload.data
        _check_working(self._snapshot)
        _check_objects(data)
        _check_audience(data, self._snapshot)
        S256Always(required=True).validate_code_challenge(grant, result)
        _check_launch(data, grant.request, self._snapshot)
        nothing = not {"openid"} & set(split(grant.request.scope)) and not clinical(grant.request.scope)
        if nothing or self._snapshot.simulates("invalid-scope"):
            raise InvalidScopeError("None of the scopes can be granted here.")
        prompting(data, self._snapshot.began, self._snapshot.hinted)


def _check_working(snapshot: AuthorizationSnapshot) -> None:
    """A server that fails says so to the app where it still can (RFC 6749 section 4.1.2.1)."""
    if snapshot.simulates("server-error"):
        raise OAuth2Error("The server met something unexpected.", error="server_error")
    if snapshot.simulates("server-busy"):
        raise OAuth2Error("The server cannot answer now. Try again in a moment.", error="temporarily_unavailable")


def _check_objects(data: dict[str, str]) -> None:
    """Request objects are refused and never fetched (ATK-O22), as are other ways to answer than the query."""
    for name in ("request", "request_uri", "registration"):
        if name in data:
            raise OAuth2Error(f"The parameter {name} is not offered.", error=f"{name}_not_supported")
    if data.get("response_mode", "query") != "query":
        raise InvalidRequestError("Only response_mode=query is offered.")


def _check_audience(data: dict[str, str], snapshot: AuthorizationSnapshot) -> None:
    """`aud` is the FHIR base, with or without a slash at its end (ATK-O14; SMART 2.2 "aud"), and `resource` (RFC 8707) may not say otherwise."""
    base = snapshot.endpoints.base
    if data.get("aud") not in (base, f"{base}/") or snapshot.simulates("wrong-aud"):
        raise InvalidRequestError("The parameter aud must be the address of this FHIR server.")
    if data.get("resource", base) not in (base, f"{base}/"):
        raise OAuth2Error("The parameter resource must be the address of this FHIR server.", error="invalid_target")


def _check_launch(data: dict[str, str], request: Any, snapshot: AuthorizationSnapshot) -> None:
    """An EHR launch: the handle is ours, of this EHR and client, unused and fresh (ATK-O15)."""
    wants = "launch" in split(request.scope)
    if not wants and "launch" not in data:
        return
    if not wants or "launch" not in data:
        raise InvalidRequestError("The scope launch and the parameter launch belong together.")
    launch = snapshot.launch
    if (
        launch is None
        or launch.ehr != snapshot.endpoints.ehr
        or launch.client_id not in ("", request.client.row.id)
        or launch.state != "open"
        or launch.expires_at <= snapshot.began  # then it waits for the person as long as the transaction does
    ):
        raise InvalidRequestError("The launch is unknown, was used, or is too old. Start again from the record system.")
