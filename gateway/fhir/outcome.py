"""OperationOutcomes: of our own errors, and what may be shown of an EHR's (FHIR R4 operationoutcome.html).

From an EHR's outcome the caller gets severity, code, places and codings with a sentence of ours. Its own words (diagnostics, texts, narrative)
may hold patient data, host names or stack traces: they are given back apart, for the sealed event log.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, cast
from urllib.parse import urlsplit

import msgspec

from gateway.errors import (
    BadRequest,
    Conflict,
    FhirError,
    Forbidden,
    MethodNotAllowed,
    NotFound,
    NotSupported,
    PreconditionFailed,
    Throttled,
    TooLarge,
    Unavailable,
    Unprocessable,
    UpstreamFault,
    UpstreamTimeout,
)
from gateway.fhir.json import serialize, without_bom

SEVERITIES = frozenset({"fatal", "error", "warning", "information"})
"""http://hl7.org/fhir/issue-severity, required."""

SENTENCES: Mapping[str, str] = {
    "invalid": "The record system found the content invalid.",
    "structure": "The record system found the structure of the content wrong.",
    "required": "The record system misses a required element.",
    "value": "The record system does not take one of the values.",
    "invariant": "The content breaks a rule of the record system.",
    "security": "The record system refused this for a security reason.",
    "login": "The record system did not accept the gateway's sign-in.",
    "unknown": "The record system does not know who asks.",
    "expired": "The gateway's session at the record system has ended.",
    "forbidden": "The record system does not allow this.",
    "suppressed": "The record system left some information out.",
    "processing": "The record system could not process this.",
    "not-supported": "The record system does not support this.",
    "duplicate": "The record system already has such a record.",
    "multiple-matches": "The condition matched more than one record.",
    "not-found": "The record system did not find something that this refers to.",
    "deleted": "Something that this refers to has been deleted.",
    "too-long": "The content is too long for the record system.",
    "code-invalid": "The record system does not take one of the codes.",
    "extension": "The record system does not take one of the extensions.",
    "too-costly": "The record system found this too costly to do.",
    "business-rule": "A rule of the record system does not allow this.",
    "conflict": "The record has changed since, or other records stand in the way.",
    "transient": "The record system cannot do this now. Try again later.",
    "lock-error": "The record is locked now. Try again later.",
    "no-store": "The record system could not store this now.",
    "exception": "The record system failed.",
    "timeout": "The record system took too long.",
    "incomplete": "The record system's answer is not complete.",
    "throttled": "The record system asks for a pause. Try again later.",
    "informational": "The record system has a remark.",
}
"""Every code of http://hl7.org/fhir/issue-type (required binding), with what we say for it."""

MAX_RETRY_AFTER = 300
"""Seconds: the longest pause that is passed on (G6 of the reliability rules)."""
MAX_ISSUES = 50
MAX_HIDDEN = 8000

_TOKEN = re.compile(r"[^\s]+( [^\s]+)*")  # the `code` datatype
_PLACE = re.compile(r"(?!.*://)[A-Za-z0-9_.:/\[\]()\-]{1,200}|Line\[\d+\] Col\[\d+\]", re.ASCII)
# Coding systems that name the EHR's software; its name never shows outside clinical content.
_SOFTWARE = ("hapifhir.io", "microsoft.com", "ibm.com", "linuxforhealth", "firely", "simplifier", "smilecdr", "medplum", "epic.com", "cerner.com")
# Published systems, whose displays are the system's words and not the EHR's.
_PUBLISHED = ("http://hl7.org/", "http://terminology.hl7.org/", "http://loinc.org", "http://snomed.info/", "http://unitsofmeasure.org", "urn:iso:")


def outcome(error: FhirError, request_id: str) -> bytes:
    """The OperationOutcome of an error. The request id, by which the operator finds the rest, stands in `diagnostics` (G3)."""
    issues = [dict(issue) for issue in error.issues] or [_issue(error)]
    issues[0]["diagnostics"] = f"request {request_id}"
    return serialize({"resourceType": "OperationOutcome", "issue": issues})


def _issue(error: FhirError) -> dict[str, Any]:
    code = error.issue_code if error.issue_code in SENTENCES else "processing"
    issue: dict[str, Any] = {"severity": "error", "code": code, "details": {"text": error.message}}
    if error.expression:
        issue["expression"] = [error.expression]
    return issue


@dataclass(frozen=True, slots=True)
class Translated:
    """What may be shown of an EHR's refusal, and what may not.

    `issues` are elements for an OperationOutcome of ours. `hidden` holds the EHR's own words, bounded, for the event log only.
    """

    status: int
    issues: tuple[Mapping[str, Any], ...] = ()
    hidden: str = ""

    def error(self, *, retry_after: str = "", now: datetime | None = None) -> FhirError:
        """The refusal as an error of ours. `retry_after` is the EHR's header as sent: seconds or an HTTP date."""
        kind = _kind(self.status)
        # The same answer for absent, deleted and foreign (ATK-F1); what the EHR says about our own sign-in or its failures is not the caller's.
        issues = () if kind is NotFound or issubclass(kind, UpstreamFault) else self.issues
        seconds = pause(retry_after, now=now)
        if seconds is None and kind in (Throttled, Unavailable):
            seconds = 1
        if issues and issues[0]["code"] == "processing":  # it says nothing; the status says more (seen: HAPI 8.8 for a stale version)
            issues = (_said(issues[0], kind), *issues[1:])
        code = str(issues[0]["code"]) if issues else ""
        return kind(reason=f"ehr-{self.status}", code=code, retry_after=seconds, issues=issues)


def _said(issue: Mapping[str, Any], kind: type[FhirError]) -> dict[str, Any]:
    error = kind()
    return {**issue, "code": error.issue_code, "details": {**issue["details"], "text": error.message}} if kind.code != "invalid" else dict(issue)


def from_upstream(body: bytes, status: int, *, bases: tuple[str, ...] = ()) -> Translated:
    """Translate what an EHR answered with `status`; the body may be anything. Codings of systems at the EHR's own `bases` are left out."""
    found = _read(body)
    if found is None:
        return Translated(status, hidden=body[:MAX_HIDDEN].decode("utf-8", "replace"))
    hosts = tuple(host for base in bases if (host := urlsplit(base).netloc.lower()))
    issues = tuple(_shown(issue, hosts) for issue in found[:MAX_ISSUES])
    # An error without an issue that says so would read as a success with remarks.
    if issues and not any(issue["severity"] in ("error", "fatal") for issue in issues):
        issues = ({**issues[0], "severity": "error"}, *issues[1:])
    return Translated(status, issues, "\n".join(text for issue in found for text in _words(issue))[:MAX_HIDDEN])


def pause(retry_after: str, *, now: datetime | None = None) -> int | None:
    """Whole seconds of a Retry-After header (RFC 9110 section 10.2.3), at most MAX_RETRY_AFTER; None when it says nothing usable."""
    text = retry_after.strip()
    if text.isascii() and text.isdecimal():
        return min(int(text[:9]), MAX_RETRY_AFTER)
    try:
        moment = parsedate_to_datetime(text)
    except ValueError:
        return None
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    seconds = (moment - (now or datetime.now(UTC))).total_seconds()
    return max(0, min(int(seconds + 0.999), MAX_RETRY_AFTER))


_KINDS: Mapping[int, type[FhirError]] = {
    400: BadRequest,
    401: UpstreamFault,  # it is the gateway's credential that was refused, not the caller's (FAULT-U21)
    403: Forbidden,
    404: NotFound,
    405: MethodNotAllowed,
    406: UpstreamFault,  # the gateway chose these headers
    407: UpstreamFault,
    408: UpstreamTimeout,
    409: Conflict,
    410: NotFound,
    412: PreconditionFailed,
    413: TooLarge,
    415: UpstreamFault,
    422: Unprocessable,
    423: Conflict,
    428: PreconditionFailed,
    429: Throttled,
    501: NotSupported,
    503: Unavailable,
    504: UpstreamTimeout,
}


def _kind(status: int) -> type[FhirError]:
    if status in _KINDS:
        return _KINDS[status]
    return BadRequest if 400 <= status < 500 else UpstreamFault


def _read(body: bytes) -> list[dict[str, Any]] | None:
    """The issues of an OperationOutcome, or None when the body is no such thing."""
    try:
        value = msgspec.json.decode(without_bom(body))
    except (ValueError, RecursionError):  # msgspec's errors and UnicodeDecodeError are ValueErrors
        return None
    if not isinstance(value, dict) or cast("dict[str, Any]", value).get("resourceType") != "OperationOutcome":
        return None
    issues = cast("dict[str, Any]", value).get("issue")
    return [cast("dict[str, Any]", item) for item in cast("list[Any]", issues) if isinstance(item, dict)] if isinstance(issues, list) else []


def _shown(issue: Mapping[str, Any], hosts: tuple[str, ...]) -> dict[str, Any]:
    severity, code = issue.get("severity"), issue.get("code")
    code = code if isinstance(code, str) and code in SENTENCES else "processing"
    details: dict[str, Any] = {"text": SENTENCES[code]}
    if codings := list(_codings(issue.get("details"), hosts)):
        details = {"coding": codings, **details}
    shown: dict[str, Any] = {
        "severity": severity if isinstance(severity, str) and severity in SEVERITIES else "error",
        "code": code,
        "details": details,
    }
    for element in ("location", "expression"):
        if places := [place for place in _strings(issue.get(element)) if _PLACE.fullmatch(place)]:
            shown[element] = places[:MAX_ISSUES]
    return shown


def _codings(details: Any, hosts: tuple[str, ...]) -> Iterator[dict[str, Any]]:
    listed = cast("dict[str, Any]", details).get("coding") if isinstance(details, dict) else None
    for coding in cast("list[Any]", listed)[:MAX_ISSUES] if isinstance(listed, list) else []:
        members = cast("dict[str, Any]", coding) if isinstance(coding, dict) else {}
        kept = {
            name: text for name in ("system", "version", "code", "display") if isinstance(text := members.get(name), str) and 0 < len(text) <= 200
        }
        system = kept.get("system", "").lower()
        if not _TOKEN.fullmatch(kept.get("code", "")) or any(name in system for name in (*_SOFTWARE, *hosts)):
            continue
        if not system.startswith(_PUBLISHED):  # else its display is the EHR's own words
            kept.pop("display", None)
        yield kept


def _words(issue: Mapping[str, Any]) -> Iterator[str]:
    if isinstance(text := issue.get("diagnostics"), str):
        yield text
    details = issue.get("details")
    if isinstance(details, dict) and isinstance(text := cast("dict[str, Any]", details).get("text"), str):
        yield text
    yield from (place for element in ("location", "expression") for place in _strings(issue.get(element)) if not _PLACE.fullmatch(place))


def _strings(value: Any) -> list[str]:
    return [item for item in cast("list[Any]", value) if isinstance(item, str)] if isinstance(value, list) else []
