"""Time-based one-time passwords (RFC 6238: SHA-1, 6 digits, 30 seconds, which is what every authenticator app knows). Pure.

`cryptography` computes the code (RFC 4226) and is here already. What its TOTP class and pyotp leave out is which step a code was of, and that is
what makes a code count once.
"""

from __future__ import annotations

import base64
import hmac
import os
import re
from datetime import datetime
from urllib.parse import quote, urlencode

from cryptography.hazmat.primitives.hashes import SHA1
from cryptography.hazmat.primitives.twofactor.hotp import HOTP

STEP = 30
DIGITS = 6
_BYTES = 20  # RFC 4226 section 4, R6: 160 bits recommended
_DRIFT = 1  # steps; RFC 6238 section 5.2: one backward for the network, and one forward for clocks that are ahead
_CODE = re.compile(r"[0-9]{6}", re.ASCII)


def new_secret() -> bytes:
    """160 random bits."""
    return os.urandom(_BYTES)


def shown(secret: bytes) -> str:
    """The secret as a person types it: base32."""
    return base64.b32encode(secret).decode()


def uri(secret: bytes, *, account: str, service: str) -> str:
    """What the QR code holds (the key URI format that authenticator apps read)."""
    query = urlencode({"secret": shown(secret), "issuer": service, "algorithm": "SHA1", "digits": DIGITS, "period": STEP}, quote_via=quote)
    return f"otpauth://totp/{quote(service, safe='')}:{quote(account, safe='')}?{query}"


def code(secret: bytes, step: int) -> str:
    """The code of a time step."""
    return HOTP(secret, DIGITS, SHA1()).generate(step).decode()  # noqa: S303  # HMAC-SHA-1 is what RFC 6238 defines and apps compute


def step_at(moment: datetime) -> int:
    """The time step of a moment."""
    return int(moment.timestamp()) // STEP


def step_of(secret: bytes, entered: str, moment: datetime) -> int | None:
    """The step that this code is of, within the drift; None when it is of none. The newest that fits: the older ones are used up with it."""
    text, current = entered.replace(" ", ""), step_at(moment)
    if not _CODE.fullmatch(text):
        return None
    fits = [step for step in range(current - _DRIFT, current + _DRIFT + 1) if hmac.compare_digest(code(secret, step), text)]
    return max(fits, default=None)
