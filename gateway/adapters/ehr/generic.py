"""Any FHIR R4 server over HTTP: what is sent (`wire`), what may be tried again, and which answers are usable."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass

import msgspec

from gateway.adapters.ehr.address import Address
from gateway.adapters.ehr.auth import Auth
from gateway.adapters.ehr.base import EhrCall, EhrReply, HttpRequest, HttpResponse, Offers, OutcomeUnknown, Transport, TransportError
from gateway.adapters.ehr.breaker import PAUSE, Breaker
from gateway.adapters.ehr.profile import Profile
from gateway.adapters.ehr.wire import http_request
from gateway.errors import FhirError, Unavailable, UpstreamFault, UpstreamTimeout
from gateway.fhir.interaction import WRITES, Kind
from gateway.fhir.json import without_bom
from gateway.fhir.outcome import pause

_JSON_TYPES = frozenset({"application/fhir+json", "application/json", "application/json+fhir"})
_UTF_8 = frozenset({"", "utf-8", "utf8", "us-ascii"})
_BUNDLES = frozenset({Kind.SEARCH, Kind.TRANSACTION, Kind.BATCH})
_SAYS_NOTHING_OF_A_RESOURCE = frozenset({404, 410})
_DOWN = frozenset({502, 503, 504})
"""Statuses of a server, or of a proxy before it, that cannot answer. A 500 may be about this one request."""


@dataclass(frozen=True, slots=True)
class Link:
    """The way to one EHR, shared by what speaks over it. `timeout` in seconds for a whole call, `cap` in bytes of an answer.

    `aliases` are other addresses by which the EHR names itself, as one behind a proxy does. Nothing is sent there.
    """

    name: str
    address: Address
    transport: Transport
    auth: Auth
    breaker: Breaker
    timeout: float = 10.0
    cap: int = 16 << 20
    aliases: tuple[Address, ...] = ()

    @property
    def names(self) -> tuple[Address, ...]:
        """All its addresses, longest first: of two that begin alike the longer one is meant."""
        return tuple(sorted((self.address, *self.aliases), key=lambda one: len(one.text), reverse=True))


class _Shape(msgspec.Struct):
    """Decoding into this checks the whole syntax and makes no values of what is inside."""

    resourceType: str  # noqa: N815 (FHIR's name)


_shape = msgspec.json.Decoder(_Shape).decode


class _Unusable(Exception):
    """An answer that is no FHIR: the reason and the issue code."""

    def __init__(self, reason: str, code: str = "structure") -> None:
        super().__init__(reason)
        self.reason = reason
        self.code = code


class GenericEhr:
    """One FHIR R4 server. See the Protocol `Ehr`."""

    def __init__(self, link: Link, profile: Profile, offered: Offers) -> None:
        self._link = link
        self._names = link.names
        self.profile = profile
        """What is known about the platform."""
        self.offered = offered
        """What it takes from those who write, as far as it is known now."""

    @property
    def name(self) -> str:
        """The name in the configuration."""
        return self._link.name

    @property
    def base_url(self) -> str:
        """Without a trailing slash."""
        return self._link.address.text

    @property
    def aliases(self) -> tuple[str, ...]:
        """Other base URLs by which it names itself."""
        return tuple(one.text for one in self._link.aliases)

    def relative(self, url: str) -> str | None:
        """The part of `url` after the base, or None."""
        return next((rest for one in self._names if (rest := one.relative(url)) is not None), None)

    async def offers(self, *, patience: float | None = None) -> Offers:
        """What it takes from those who write: known beforehand."""
        del patience
        return self.offered

    async def send(self, call: EhrCall) -> EhrReply:
        """Make the call. Raises UpstreamFault, UpstreamTimeout, Unavailable or OutcomeUnknown."""
        auth = self._link.auth
        credentials = await auth.headers(call.person)
        call = self.asked(call)
        response = await self._answered(call, credentials)
        if response.status == 401 and auth.refused(credentials, call.person):  # whatever it was, it was not carried out (RFC 9110 15.5.2)
            response = await self._answered(call, await auth.headers(call.person))
        return self.settled(call, _reply(call, response))

    async def _answered(self, call: EhrCall, credentials: Mapping[str, str]) -> HttpResponse:
        request = http_request(self._link.address, call, credentials, url_limit=self.profile.url_limit)
        try:
            return await self._exchange(request, again=call.kind not in WRITES)
        except TransportError as error:
            if not error.sent and _is_late(request):
                raise Unavailable(reason="lease-over") from error
            raise _fault(error, write=call.kind in WRITES) from error

    def asked(self, call: EhrCall) -> EhrCall:
        """The place for what a platform has to be asked in its own way."""
        return call

    def settled(self, call: EhrCall, reply: EhrReply) -> EhrReply:
        """The place for what a platform says in its own way."""
        del call
        return reply

    async def capabilities(self) -> EhrReply:
        """Its CapabilityStatement."""
        return await self.send(EhrCall(Kind.CAPABILITIES))

    async def close(self) -> None:
        """Give the connections back."""
        await self._link.auth.close()
        await self._link.transport.close()

    async def _exchange(self, request: HttpRequest, *, again: bool) -> HttpResponse:
        with self._link.breaker.attempt() as attempt:
            try:
                response = await self._tried(request, again=again)
            except TransportError as error:
                if not _is_late(request):  # what came too late to be sent says nothing of the EHR
                    attempt.up = error.too_large  # then it does answer
                raise
            attempt.up = response.status not in _DOWN
            return response

    async def _tried(self, request: HttpRequest, *, again: bool) -> HttpResponse:
        """A read is tried a second time when the connection broke, within the same deadline; a write never (FAULT-U7)."""
        end = asyncio.get_running_loop().time() + self._link.timeout
        try:
            return await self._link.transport.send(request, deadline=self._link.timeout, cap=self._link.cap)
        except TransportError as error:
            left = end - asyncio.get_running_loop().time()
            if not again or error.timeout or error.too_large or error.untrusted or left <= 0:
                raise
        return await self._link.transport.send(request, deadline=left, cap=self._link.cap)


def _is_late(request: HttpRequest) -> bool:
    return time.monotonic() > request.not_after


def _fault(error: TransportError, *, write: bool) -> FhirError | OutcomeUnknown:
    """No whole answer, as an error of the port."""
    reason = _reason(error)
    if write and error.sent:
        return OutcomeUnknown(reason)
    if error.timeout:
        return UpstreamTimeout(reason=reason)
    code = "too-costly" if error.too_large else "security" if error.untrusted else "transient"
    return UpstreamFault(reason=reason, code=code, retry_after=None if error.too_large or error.untrusted else int(PAUSE))


def _reason(error: TransportError) -> str:
    if error.timeout:
        return "ehr-timeout"
    if error.too_large:
        return "ehr-too-large"
    if error.untrusted:
        return "ehr-untrusted"
    return "ehr-broken-answer" if error.sent else "ehr-unreachable"


def _reply(call: EhrCall, response: HttpResponse) -> EhrReply:
    """The reply of an answer that can be used; everything else raises."""
    try:
        return EhrReply(response.status, _sendable(response.headers), _body(call, response))
    except _Unusable as unusable:
        if call.kind in WRITES and not 400 <= response.status < 500:
            raise OutcomeUnknown(unusable.reason) from unusable
        retry = pause(response.headers.get("retry-after", ""))
        raise UpstreamFault(reason=unusable.reason, code=unusable.code, retry_after=retry) from unusable


def _sendable(headers: Mapping[str, str]) -> Mapping[str, str]:
    """Without values that could not stand in a header of ours: an ETag goes on to callers, and back to the EHR as If-Match."""
    return {name: value for name, value in headers.items() if value.isascii() and value.isprintable()}


def _body(call: EhrCall, response: HttpResponse) -> bytes:
    if response.status in (200, 201, 204):
        return _success(call, response)
    if 400 <= response.status < 500 or response.status == 503:
        return _refusal(response)
    if response.status == 304 and call.kind is Kind.READ and call.if_none_match:  # RFC 9110 section 15.4.5: it has no body
        return b""
    raise _Unusable("ehr-redirect" if 300 <= response.status < 400 else f"ehr-{response.status}", "transient")


def _success(call: EhrCall, response: HttpResponse) -> bytes:
    """The body of a 2xx. Only a write of one resource may come without one, though a representation was asked for."""
    if not response.body and call.kind in (Kind.CREATE, Kind.UPDATE, Kind.DELETE):
        return b""
    if response.status == 204 or (response.status == 201 and call.kind not in WRITES):
        raise _Unusable("ehr-no-content")
    body, resource_type = _fhir(response)
    wanted = "Bundle" if call.kind in _BUNDLES else "CapabilityStatement" if call.kind is Kind.CAPABILITIES else resource_type
    if resource_type != wanted:
        raise _Unusable("ehr-other-type")
    return body


def _refusal(response: HttpResponse) -> bytes:
    """The OperationOutcome of a refusal, or nothing: its status says enough.

    Two refusals do not speak for the EHR: a 401, which is about the gateway's own credential (FAULT-U21); and a 404 or 410 in which a proxy
    on the way says something of its own, because "there is no such resource" decides whether a push is sent again.
    """
    if response.status == 401:
        raise _Unusable("ehr-credential", "login")
    try:
        return _fhir(response)[0] if response.body else b""
    except _Unusable:
        if response.status in _SAYS_NOTHING_OF_A_RESOURCE:
            raise
        return b""


def _fhir(response: HttpResponse) -> tuple[bytes, str]:
    """The body and its resourceType, when it is one JSON object in UTF-8 that says what it is (FAULT-U13 to U17)."""
    if response.headers.get("content-encoding", "identity").lower() not in ("", "identity"):
        raise _Unusable("ehr-encoded")  # identity was asked for, and a small body may grow beyond the cap
    if not _is_json_type(response.headers.get("content-type", "")):
        raise _Unusable("ehr-content-type")
    body = without_bom(response.body)
    try:
        body.decode("utf-8")
        return body, _shape(body).resourceType
    except (ValueError, RecursionError) as error:  # msgspec's errors and UnicodeDecodeError are ValueErrors
        raise _Unusable("ehr-malformed") from error


def _is_json_type(content_type: str) -> bool:
    media_type, _, parameters = content_type.lower().partition(";")
    charset = next((value for name, _, value in (one.partition("=") for one in parameters.split(";")) if name.strip() == "charset"), "")
    return media_type.strip() in _JSON_TYPES and charset.strip().strip('"') in _UTF_8
