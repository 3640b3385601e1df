"""Every error that becomes an answer or stops a command.

GatewayError
├── ConfigError               a setting is wrong; says where, and the fix
├── NotDone                   what was asked for cannot be: says the fact; whoever asked knows what to do about it
├── FhirError                 becomes an OperationOutcome; knows its HTTP status and issue code
│   ├── BadRequest            400  the request cannot be understood
│   ├── Unauthenticated       401  no token, or one that counts no longer
│   ├── Forbidden             403  understood, and not allowed
│   ├── NotFound              404  absent, deleted or somebody else's: the same answer for all three
│   ├── MethodNotAllowed      405  not offered here
│   ├── NotAcceptable         406
│   ├── RequestTimeout        408  it did not arrive in time
│   ├── Conflict              409
│   ├── PreconditionFailed    412
│   ├── TooLarge              413
│   ├── UnsupportedMedia      415
│   ├── Unprocessable         422
│   ├── Throttled             429  the EHR asked for a pause
│   ├── NotSupported          501  not offered yet
│   ├── Unavailable           503  the gateway cannot do its own part now
│   ├── DeliveryFailed        503  what was pushed waits for the operator (ingest.status)
│   └── UpstreamFault         502  the EHR failed, lied or could not be reached
│       └── UpstreamTimeout   504
└── OAuthError                becomes the JSON of RFC 6749 section 5.2

The class docstring is the default message. A message never holds patient data, an upstream's words or a token.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar


class GatewayError(Exception):
    """Something went wrong."""

    def __init__(self, message: str = "") -> None:
        self.message = message or (type(self).__doc__ or "").strip()
        super().__init__(self.message)


class ConfigError(GatewayError):
    """The configuration is wrong."""

    def __init__(self, message: str, *, where: str = "", fix: str = "") -> None:
        super().__init__(message)
        self.where = where
        self.fix = fix


class NotDone(GatewayError):
    """It was not done, and nothing was changed."""

    def __init__(self, message: str, *, what: str, about: str = "", fix: str = "", **facts: str) -> None:
        super().__init__(message)
        self.what = what
        """A stable id of the fact, such as `client-unknown`: by it the command line knows what to type instead (`cli.fixes`)."""
        self.about = about
        """Which argument it is about, by its name here."""
        self.fix = fix
        """What would be right, in words that hold wherever it is asked for."""
        self.facts = facts


class NotSent(GatewayError):
    """The message was not sent."""


class FhirError(GatewayError):
    """The request could not be answered."""

    status: ClassVar[int] = 500
    code: ClassVar[str] = "exception"
    """A code of http://hl7.org/fhir/issue-type (required binding)."""

    def __init__(
        self,
        message: str = "",
        *,
        reason: str = "",
        code: str = "",
        expression: str = "",
        retry_after: int | None = None,
        issues: Sequence[Mapping[str, Any]] = (),
        trial: str = "",
        simulated: str = "",
    ) -> None:
        super().__init__(message)
        self.reason = reason or type(self).__name__
        """A stable id for logs, audit records and tests, such as `scope-missing`."""
        self.issue_code = code or self.code
        self.expression = expression
        self.retry_after = retry_after
        self.issues = tuple(issues)
        """OperationOutcome.issue elements in our own words, where there is more to say than one message (`fhir.outcome`)."""
        self.trial, self.simulated = trial, simulated
        """Whose trial the refused token is of, where nobody else can say it; and the fault for which this is no real error."""


class BadRequest(FhirError):
    """The request could not be understood."""

    status = 400
    code = "invalid"


class Unauthenticated(FhirError):
    """Send an access token: 'Authorization: Bearer ...'."""

    status = 401
    code = "login"


class Forbidden(FhirError):
    """This token does not allow that."""

    status = 403
    code = "forbidden"


class NotFound(FhirError):
    """There is no such resource."""

    status = 404
    code = "not-found"


class MethodNotAllowed(FhirError):
    """That method is not offered here."""

    status = 405
    code = "not-supported"


class NotAcceptable(FhirError):
    """Only application/fhir+json is offered."""

    status = 406
    code = "not-supported"


class RequestTimeout(FhirError):
    """The request did not arrive in time."""

    status = 408
    code = "timeout"


class Conflict(FhirError):
    """The EHR refused this because of the state of other resources."""

    status = 409
    code = "conflict"


class PreconditionFailed(FhirError):
    """The resource has changed since, or the condition did not hold."""

    status = 412
    code = "conflict"


class TooLarge(FhirError):
    """The request is too large."""

    status = 413
    code = "too-long"


class UnsupportedMedia(FhirError):
    """Send application/fhir+json."""

    status = 415
    code = "not-supported"


class Unprocessable(FhirError):
    """The resource breaks a rule."""

    status = 422
    code = "processing"


class Throttled(FhirError):
    """The EHR asks for a pause. Try again later."""

    status = 429
    code = "throttled"


class NotSupported(FhirError):
    """That is not offered."""

    status = 501
    code = "not-supported"


class Unavailable(FhirError):
    """The gateway cannot answer now. Try again in a moment."""

    status = 503
    code = "transient"


class UpstreamFault(FhirError):
    """The health record system did not give a usable answer."""

    status = 502
    code = "transient"


class UpstreamTimeout(UpstreamFault):
    """The health record system took too long to answer."""

    status = 504
    code = "timeout"


class OAuthError(GatewayError):
    """The request was refused."""

    def __init__(self, error: str, description: str = "") -> None:
        super().__init__(description)
        self.error = error
