"""What browsers are asked, and how their answers are judged, in the words of WebAuthn level 3: py_webauthn, and nothing of ours.

Apart from `passkeys`, because these libraries (CBOR, ASN.1, X.509) take an eighth of the gateway's start, for what the first passkey needs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import webauthn
from webauthn.helpers.structs import (
    AuthenticatorSelectionCriteria,
    PublicKeyCredentialDescriptor,
    ResidentKeyRequirement,
    UserVerificationRequirement,
)

_REQUIRED = UserVerificationRequirement.REQUIRED


@dataclass(frozen=True, slots=True)
class Asked:
    """What the browser needs, as JSON, and the challenge in it."""

    challenge: bytes
    options: str


@dataclass(frozen=True, slots=True)
class Made:
    """A new passkey."""

    credential_id: bytes
    public_key: bytes
    sign_count: int


def make(*, rp_id: str, rp_name: str, user_id: bytes, user_name: str, display_name: str, have: Sequence[bytes]) -> Asked:
    """Ask for a new passkey beside those that the person has."""
    options = webauthn.generate_registration_options(
        rp_id=rp_id,
        rp_name=rp_name,
        user_name=user_name,
        user_id=user_id,
        user_display_name=display_name,
        authenticator_selection=AuthenticatorSelectionCriteria(resident_key=ResidentKeyRequirement.REQUIRED, user_verification=_REQUIRED),
        exclude_credentials=[PublicKeyCredentialDescriptor(id=one) for one in have],
    )
    return Asked(options.challenge, webauthn.options_to_json(options))


def use(*, rp_id: str) -> Asked:
    """Ask for a passkey, whichever the person has."""
    options = webauthn.generate_authentication_options(rp_id=rp_id, user_verification=_REQUIRED)
    return Asked(options.challenge, webauthn.options_to_json(options))


def made(answer: dict[str, Any], *, challenge: bytes, rp_id: str, origin: str) -> Made:
    """The passkey that the browser made. Raises whatever the libraries raise when the answer is not right."""
    found = webauthn.verify_registration_response(
        credential=answer, expected_challenge=challenge, expected_rp_id=rp_id, expected_origin=origin, require_user_verification=True
    )
    return Made(found.credential_id, found.credential_public_key, found.sign_count)


def used(answer: dict[str, Any], *, challenge: bytes, rp_id: str, origin: str, public_key: bytes) -> int:
    """The new count of signatures. Raises as `made` does."""
    found = webauthn.verify_authentication_response(
        credential=answer,
        expected_challenge=challenge,
        expected_rp_id=rp_id,
        expected_origin=origin,
        credential_public_key=public_key,
        credential_current_sign_count=0,  # judged by the store, where two answers at once meet
        require_user_verification=True,
    )
    return found.new_sign_count
