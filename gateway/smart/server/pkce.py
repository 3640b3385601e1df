"""PKCE with S256, for every client and always (RFC 7636, RFC 9700 section 2.1.1; AUTHLIB-E5)."""
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false

from __future__ import annotations

import re
from typing import Any

from gateway.smart.server.authlib_core import CodeChallenge, InvalidGrantError, InvalidRequestError

_CHALLENGE = re.compile(r"[A-Za-z0-9_-]{43}", re.ASCII)  # base64url of a SHA-256


class S256Always(CodeChallenge):
    """Authlib's extension, which takes `plain`, defaults to it, and lets confidential clients go without."""

    DEFAULT_CODE_CHALLENGE_METHOD = "S256"
    SUPPORTED_CODE_CHALLENGE_METHOD = ["S256"]  # noqa: RUF012  # Authlib's own shape

    def validate_code_challenge(self, grant: Any, redirect_uri: Any) -> None:
        """At the authorization endpoint: a challenge of the right length, and the method named."""
        data = grant.request.payload.data
        if data.get("code_challenge_method") != "S256":
            raise InvalidRequestError("PKCE is required: send code_challenge_method=S256.")
        if not _CHALLENGE.fullmatch(data.get("code_challenge") or ""):
            raise InvalidRequestError("PKCE is required: send a code_challenge of 43 characters.")
        super().validate_code_challenge(grant, redirect_uri)

    def validate_code_verifier(self, grant: Any, result: Any) -> None:
        """At the token endpoint: the verifier of that challenge."""
        if not grant.request.form.get("code_verifier"):
            raise InvalidRequestError("Missing 'code_verifier'.")
        try:
            super().validate_code_verifier(grant, result)
        except InvalidGrantError as error:
            raise InvalidGrantError("code_verifier is not the one whose SHA-256 was sent as code_challenge.") from error
