"""How an app wants the person to be met: prompt, max_age, login_hint and id_token_hint (OpenID Connect Core 3.1.2.1). Pure.

`ui_locales`, `display` and `acr_values` are wishes, and ignored: there is one language and one way to sign in.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from joserfc import jwk, jwt
from joserfc.errors import JoseError

from gateway.smart.server.authlib_core import InvalidRequestError

PROMPTS = ("none", "login", "consent", "select_account")
_LONGEST_AGE = 10  # digits of max_age
_LONGEST_HINT = 255


@dataclass(frozen=True, slots=True)
class Prompting:
    """`silent`: no page may be shown. `signed_in_since`: an older sign-in does not count.

    `hinted`: the account that the app means, "" if it is none that is known here; None when it means nobody in particular.
    """

    silent: bool = False
    consent: bool = False
    signed_in_since: datetime | None = None
    login_hint: str = ""
    hinted: str | None = None


def prompting(data: Mapping[str, str], began: datetime, hinted: str | None) -> Prompting:
    """What the parameters say. `began`: when the app sent the browser. Raises Authlib's InvalidRequestError."""
    prompts = set(data.get("prompt", "").split())
    if "none" in prompts and len(prompts) > 1:
        raise InvalidRequestError("prompt=none stands alone.")
    age = _max_age(data.get("max_age", ""))
    # Whoever is to choose an account signs in anew: this browser may be shared, and nobody learns who was there before.
    anew = bool({"login", "select_account"} & prompts)
    since = began if anew else None if age is None else began - age
    return Prompting("none" in prompts, "consent" in prompts, since, _hint(data.get("login_hint", "")), hinted)


def account_of(hint: str, keys: Mapping[str, Any], *, issuer: str, client_id: str) -> str:
    """Whom an id_token of ours for this client is about; "" for any other text. It may have expired: it says who was meant, and proves nothing."""
    try:
        claims: Mapping[str, Any] = jwt.decode(hint, jwk.KeySet.import_key_set({"keys": list(keys["keys"])}), algorithms=["RS256"]).claims
    except (JoseError, ValueError, TypeError):
        return ""
    subject = claims.get("sub")
    return subject if (claims.get("iss"), claims.get("aud")) == (issuer, client_id) and isinstance(subject, str) else ""


def _max_age(text: str) -> timedelta | None:
    if not text:
        return None
    if not (text.isascii() and text.isdecimal() and len(text) < _LONGEST_AGE):
        raise InvalidRequestError("max_age is a number of seconds.")
    return timedelta(seconds=int(text))


def _hint(text: str) -> str:
    return text if text.isprintable() and len(text) <= _LONGEST_HINT else ""
