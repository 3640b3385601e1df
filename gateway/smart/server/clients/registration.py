"""Registering clients from RFC 7591 metadata. `judge` is pure; `Registrar` stores.

Here the operator hands the metadata over (what a client may say of itself is in `own_registration`); what is careless is refused all the same
(AUTHLIB-E12, ATK-O27), because a registration is the way into an authorization server.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, cast
from urllib.parse import SplitResult, urlsplit

from joserfc import jwk
from joserfc.errors import JoseError

from gateway.config.settings import is_loopback
from gateway.errors import OAuthError
from gateway.smart.record import Caller, Event, RecordIn
from gateway.smart.scopes import CONTEXT_SCOPES, is_for_systems, parse_scope, split
from gateway.smart.server.clients.jwks import is_public
from gateway.store import oauth as rows
from gateway.store.base import Clock, Database, now
from gateway.store.oauth_rows import SECRET_METHODS, AuthMethod, Client, digest, new_id, new_secret

_APP_GRANTS = ("authorization_code", "refresh_token")
_SHORTEST_MODULUS = 342  # characters of base64url: 2048 bits
_LONGEST = 20_000  # characters; a scope of every type is the longest sane value
_PAGES = ("client_uri", "logo_uri", "policy_uri", "tos_uri")  # of the client's; nothing is ever fetched from them
_KEPT = (*_PAGES, "software_id", "software_version")  # given back as they are
_CLIENT_ID = re.compile(r"[!-~]{1,255}", re.ASCII)
# RFC 8252 section 7.1: a scheme of an app's own is a domain name reversed. That also keeps javascript:, data: and file: out.
_OWN_SCHEME = re.compile(r"[a-z][a-z0-9-]*(\.[a-z0-9-]+)+", re.ASCII)
_URI = re.compile(r"[!#$%&'()*+,/0-9:;=?@A-Z\[\]_a-z~.-]{1,2000}", re.ASCII)  # RFC 3986, without what breaks a header or a page


@dataclass(frozen=True, slots=True)
class Rules:
    """`ehrs`: the names in the configuration. `loopback_keys`: jwks_uri may be http on this machine, for development."""

    ehrs: Collection[str]
    loopback_keys: bool = False


@dataclass(frozen=True, slots=True)
class Registration:
    """A client, the web origins it calls from, and the answer of RFC 7591 section 3.2.1 (with the secret, this once)."""

    client: Client
    origins: frozenset[str]
    answer: Mapping[str, Any]


def judge(metadata: Mapping[str, Any], rules: Rules, now: datetime, known: Client | None = None) -> Registration:
    """The client that this metadata describes. `known` is the one with that id: it keeps its secret unless a new one is given.

    Raises OAuthError with an error code of RFC 7591 section 3.2.2.
    """
    method, grants = _method(metadata), _grants(metadata)
    backend = "client_credentials" in grants
    if backend and method != AuthMethod.KEY:  # HL7@344
        raise _refused("A backend client proves itself by its key: register jwks or jwks_uri.")
    uris = _redirect_uris(metadata, backend=backend)
    jwks, jwks_uri = _keys(metadata, method, rules)
    _check_pages(metadata)
    scope, push = _scope(metadata, backend=backend), _push(metadata, rules, backend=backend)
    client_id = _client_id(metadata)
    secret = _text(metadata, "client_secret")
    kept = known.secret_hash if known and known.auth_method in SECRET_METHODS and not secret else ""
    if method in SECRET_METHODS and not secret and not kept:
        secret = new_secret()
    if secret and method not in SECRET_METHODS:
        raise _refused("client_secret is for client_secret_basic or client_secret_post.")
    client = Client(
        id=client_id,
        name=_text(metadata, "client_name") or client_id,
        auth_method=method,
        grant_types=grants,
        redirect_uris=uris,
        scope=scope,
        ehrs=_ehrs(metadata, rules, push),
        created_at=known.created_at if known else now,
        secret_hash=digest(secret) if secret else kept,
        jwks=jwks,
        jwks_uri=jwks_uri,
        launch_uri=_launch_uri(metadata),
        push=push,
        disabled_at=known.disabled_at if known else None,  # to register again is not to let it in again
    )
    answer = _answer(client, metadata)
    return Registration(
        replace(client, registered=answer),
        frozenset(origin for uri in uris if (origin := _origin(uri))),
        answer | ({"client_secret": secret, "client_secret_expires_at": 0} if secret else {}),
    )


class Registrar:
    """Stores what `judge` lets through."""

    def __init__(self, database: Database, rules: Rules, *, record_in: RecordIn, clock: Clock = now) -> None:
        self._database, self._rules, self._record_in, self._clock = database, rules, record_in, clock

    async def register(self, metadata: Any, caller: Caller | None = None) -> Mapping[str, Any]:
        """Register one client, or register one of that id anew. The answer is RFC 7591's; a secret is in it once and nowhere else."""
        if not isinstance(metadata, dict):
            raise _refused("A registration is a JSON object.")
        found, moment = cast("dict[str, Any]", metadata), self._clock()
        async with self._database.write() as connection:
            named = found.get("client_id")
            known = await rows.client(connection, named) if isinstance(named, str) else None
            registration = judge(found, self._rules, moment, known)
            await rows.put_client(connection, registration.client, registration.origins)
            event = Event(",".join(registration.client.ehrs), caller or Caller(), moment, registration.client)
            await self._record_in(connection, event.record("client-register", 201))
        return registration.answer


def _refused(description: str) -> OAuthError:
    return OAuthError("invalid_client_metadata", description)


def _bad_redirect(description: str) -> OAuthError:
    return OAuthError("invalid_redirect_uri", description)


def _text(metadata: Mapping[str, Any], name: str) -> str:
    found = metadata.get(name, "")
    if not isinstance(found, str) or len(found) > _LONGEST or not found.isprintable():
        raise _refused(f"{name} is not a text.")
    return found


def _texts(metadata: Mapping[str, Any], name: str) -> tuple[str, ...]:
    found = metadata.get(name, [])
    if not isinstance(found, list) or not all(isinstance(one, str) for one in cast("list[Any]", found)):
        raise _refused(f"{name} is not a list of texts.")
    return tuple(dict.fromkeys(cast("list[str]", found)))


def _client_id(metadata: Mapping[str, Any]) -> str:
    client_id = _text(metadata, "client_id") or new_id()
    if not _CLIENT_ID.fullmatch(client_id) or ":" in client_id:  # it is the user name of HTTP Basic (RFC 7617 section 2)
        raise _refused("client_id has 1 to 255 visible ASCII characters and no colon.")
    return client_id


def _method(metadata: Mapping[str, Any]) -> AuthMethod:
    has_keys = "jwks" in metadata or "jwks_uri" in metadata
    method = _text(metadata, "token_endpoint_auth_method") or (AuthMethod.KEY if has_keys else AuthMethod.BASIC)
    if method not in set(AuthMethod):
        raise _refused(f"token_endpoint_auth_method is one of {', '.join(AuthMethod)}.")
    if has_keys and method != AuthMethod.KEY:
        raise _refused("jwks and jwks_uri are for private_key_jwt.")
    return AuthMethod(method)


def _grants(metadata: Mapping[str, Any]) -> tuple[str, ...]:
    """Without grant_types: those of an app. RFC 7591 section 3.2.1 lets the server say so in its answer."""
    grants = _texts(metadata, "grant_types") or _APP_GRANTS
    if not set(grants) <= {*_APP_GRANTS, "client_credentials"}:
        raise _refused("grant_types offered: authorization_code, refresh_token, client_credentials.")
    if "client_credentials" in grants and len(grants) > 1:
        raise _refused("A backend client uses client_credentials alone: register the app as a client of its own.")
    if "client_credentials" not in grants and "authorization_code" not in grants:
        raise _refused("refresh_token goes with authorization_code.")
    if "response_types" in metadata and set(_texts(metadata, "response_types")) - {"code"}:
        raise _refused("response_types offered: code.")
    return grants


def _redirect_uris(metadata: Mapping[str, Any], *, backend: bool) -> tuple[str, ...]:
    uris = _texts(metadata, "redirect_uris")
    if backend and uris:
        raise _bad_redirect("A backend client has no redirect_uris.")
    if not backend and not uris:
        raise _bad_redirect("An app needs redirect_uris.")
    for uri in uris:
        if problem := _redirect_problem(uri):
            raise _bad_redirect(f"redirect_uris: {problem}")
    return uris


def _redirect_problem(uri: str) -> str:
    parts = _parts(uri)
    if parts is None or "#" in uri or "*" in uri or "@" in parts.netloc:
        return "an absolute URI without fragment, wildcard or user name is needed."
    if parts.scheme == "https":
        return "" if parts.hostname else "the host is missing."
    if parts.scheme == "http":
        # RFC 8252 section 7.3: what stays on the machine needs no TLS.
        return "" if is_loopback(parts.hostname or "") else "http is for loopback addresses only."
    return "" if _OWN_SCHEME.fullmatch(parts.scheme) else "https, http on loopback, or a scheme of the app's own (com.example.app) is needed."


def _parts(uri: str) -> SplitResult | None:
    """A URI that every reader takes apart in the same way, or None."""
    if not _URI.fullmatch(uri):
        return None
    try:
        parts = urlsplit(uri)
        _ = parts.port
    except ValueError:
        return None
    # No dot segments: some clients resolve them, some servers compare before they do.
    decoded = parts.path.lower().replace("%2e", ".")
    return None if not parts.scheme or "/../" in f"{decoded}/" or "/./" in f"{decoded}/" else parts


def _launch_uri(metadata: Mapping[str, Any]) -> str:
    """Where an EHR launch begins: `launch_uri`, or OpenID Connect's name for the same, `initiate_login_uri`."""
    uri = _text(metadata, "launch_uri") or _text(metadata, "initiate_login_uri")
    if uri and (problem := _redirect_problem(uri)):
        raise _refused(f"launch_uri: {problem}")
    return uri


def _check_pages(metadata: Mapping[str, Any]) -> None:
    """Addresses for people are of web pages: another kind would do something when somebody follows it."""
    for name in _PAGES:
        uri = _text(metadata, name)
        parts = _parts(uri) if uri else None
        if uri and (parts is None or parts.scheme not in ("https", "http") or not parts.hostname or "@" in parts.netloc):
            raise _refused(f"{name} is not the address of a web page.")


def _origin(uri: str) -> str:
    """scheme://host[:port] as browsers send it in `Origin`: lower case, no default port (RFC 6454 section 6.1)."""
    parts = urlsplit(uri)
    if parts.scheme not in ("https", "http"):
        return ""
    host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
    default = {"https": 443, "http": 80}[parts.scheme]
    return f"{parts.scheme}://{host}" + (f":{parts.port}" if parts.port not in (None, default) else "")


def _keys(metadata: Mapping[str, Any], method: AuthMethod, rules: Rules) -> tuple[Mapping[str, Any] | None, str]:
    jwks, uri = metadata.get("jwks"), _text(metadata, "jwks_uri")
    if method != AuthMethod.KEY:
        return None, ""
    if (jwks is None) == (uri == ""):
        raise _refused("private_key_jwt needs jwks or jwks_uri, and not both.")
    if uri:
        _check_keys_uri(uri, rules)
        return None, uri
    return _public_keys(jwks), ""


def _check_keys_uri(uri: str, rules: Rules) -> None:
    """https, and no address that is not public (ATK-O27). A name is resolved and judged again whenever it is fetched."""
    parts = _parts(uri)
    host = (parts.hostname or "") if parts else ""
    loopback = rules.loopback_keys and is_loopback(host)
    if parts is None or not host or "#" in uri or "@" in parts.netloc or (parts.scheme != "https" and not (parts.scheme == "http" and loopback)):
        raise _refused("jwks_uri is an https URL without user name or fragment.")
    if not loopback and (is_loopback(host) or (_is_address(host) and not is_public(host))):
        raise _refused("jwks_uri must be on a public address.")


def _is_address(host: str) -> bool:
    """Also the spellings that a resolver takes for an IPv4 address: 2130706433, 0x7f.1, 127.1."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return re.fullmatch(r"(0x[0-9a-f]*|[0-9]+)(\.(0x[0-9a-f]*|[0-9]+))*\.?", host, re.ASCII | re.IGNORECASE) is not None
    return True


def _public_keys(jwks: Any) -> Mapping[str, Any]:
    keys: Any = cast("dict[str, Any]", jwks).get("keys") if isinstance(jwks, dict) else None
    if not isinstance(keys, list) or not keys:
        raise _refused("jwks is an object with a list of keys.")
    for key in cast("list[Any]", keys):
        _check_key(key)
    return {"keys": keys}


def _check_key(key: Any) -> None:
    if not isinstance(key, dict) or not isinstance(cast("dict[str, Any]", key).get("kid"), str):
        raise _refused("jwks: each key has a kid.")
    found = cast("dict[str, Any]", key)
    if {"d", "p", "q", "k"} & found.keys():
        raise _refused("jwks: that is a private key. Register the public part, and make a new key pair: this one was shown.")
    if not _is_usable(found):
        raise _refused("jwks: a public key is needed, RSA of 2048 bits or more, or P-384.")


def _is_usable(key: dict[str, Any]) -> bool:
    strong = {"RSA": len(str(key.get("n", ""))) >= _SHORTEST_MODULUS, "EC": key.get("crv") == "P-384"}  # for RS384 and ES384
    if not strong.get(str(key.get("kty")), False):
        return False
    try:
        jwk.import_key(dict(key))
    except (JoseError, ValueError, TypeError, KeyError):
        return False
    return True


def _scope(metadata: Mapping[str, Any], *, backend: bool) -> str:
    """For a backend client its whole permission, so it must be there and name system scopes only; for an app a limit, or "" for none."""
    scopes = split(_text(metadata, "scope"))
    parsed = [parse_scope(text) for text in scopes]
    if backend:
        if not scopes or not all(map(is_for_systems, scopes)):
            raise _refused("A backend client needs scope, with system/ scopes (and gateway.launch) only.")
    elif any(scope.level == "system" if scope else text not in CONTEXT_SCOPES for text, scope in zip(scopes, parsed, strict=True)):
        raise _refused("scope: an app has patient/ and user/ scopes and those of launch and identity.")
    return " ".join(scopes)


def _push(metadata: Mapping[str, Any], rules: Rules, *, backend: bool) -> Mapping[str, str] | None:
    """How a sender's messages are meant: exactly one of deliver (into a named EHR, which is not its own) and notify (it is the record)."""
    found = metadata.get("push")
    if found is None:
        return None
    if not backend or not isinstance(found, dict) or not all(isinstance(text, str) for text in cast("dict[str, Any]", found).values()):
        raise _refused('push is an object of a backend client: {"mode": "deliver", "ehr": NAME} or {"mode": "notify"}.')
    push = cast("dict[str, str]", found)
    mode, ehr, source = push.get("mode", ""), push.get("ehr", ""), push.get("source_ehr", "")
    if mode not in ("deliver", "notify") or push.keys() - {"mode", "ehr", "source_ehr"}:
        raise _refused("push.mode is deliver or notify.")
    if mode == "notify" and "ehr" in push:
        raise _refused("push: a sender that notifies writes nothing back, so it names no ehr.")
    if mode == "deliver" and ehr not in rules.ehrs:
        raise _refused("push.ehr is not an EHR of this gateway.")
    if mode == "deliver" and source == ehr:
        raise _refused("push: a sender may not deliver into itself. The EHR of record notifies.")
    return push


def _ehrs(metadata: Mapping[str, Any], rules: Rules, push: Mapping[str, str] | None) -> tuple[str, ...]:
    """Where the client counts. A sender that delivers counts at its target; one that notifies is one EHR."""
    named = _texts(metadata, "ehrs")
    if set(named) - {*rules.ehrs, "*"}:
        raise _refused("ehrs names an EHR that this gateway does not have.")
    if push is None:
        return named or ("*",)
    target = (push["ehr"],) if push["mode"] == "deliver" else tuple(rules.ehrs) if len(rules.ehrs) == 1 else named
    if len(target) != 1 or "*" in target or named not in ((), target):
        raise _refused("ehrs: a sender counts at one EHR: the one it delivers into, or the one that it is.")
    return target


def _answer(client: Client, metadata: Mapping[str, Any]) -> dict[str, Any]:
    answer: dict[str, Any] = {
        "client_id": client.id,
        "client_id_issued_at": int(client.created_at.timestamp()),
        "client_name": client.name,
        "token_endpoint_auth_method": client.auth_method,
        "grant_types": list(client.grant_types),
        "response_types": ["code"] if client.redirect_uris else [],
        "redirect_uris": list(client.redirect_uris),
        "scope": client.scope,
        "ehrs": list(client.ehrs),
    }
    optional = {"jwks": client.jwks, "jwks_uri": client.jwks_uri, "launch_uri": client.launch_uri, "push": client.push}
    answer |= {name: value for name, value in optional.items() if value}
    if metadata.get("require_pushed_authorization_requests") is True:  # RFC 9126 section 6
        answer["require_pushed_authorization_requests"] = True
    return answer | {name: metadata[name] for name in _KEPT if isinstance(metadata.get(name), str)}
