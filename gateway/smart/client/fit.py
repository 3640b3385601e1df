"""Whether an EHR's SMART configuration and what it grants fit the settings. Pure; the command line says it to the operator."""

from __future__ import annotations

from gateway.smart.client.discovery import Configuration
from gateway.smart.scopes import Scope, clinical, parse_scope, split
from gateway.store.oauth_rows import AuthMethod


def misfits(found: Configuration, *, algorithm: str, token_endpoint: str = "") -> tuple[str, ...]:
    """What in the document speaks against a backend client with a key of this algorithm, in sentences. What it does not mention speaks not."""
    lacks: list[str] = []
    methods, algorithms, grants = (
        found.listed("token_endpoint_auth_methods_supported"),
        found.listed("token_endpoint_auth_signing_alg_values_supported"),
        found.listed("grant_types_supported"),
    )
    if not found.text("token_endpoint"):
        lacks.append("it names no token_endpoint")
    elif token_endpoint and found.text("token_endpoint") != token_endpoint:
        lacks.append("its token_endpoint is not the one that is set")
    if methods and AuthMethod.KEY not in methods:
        lacks.append("it does not list private_key_jwt")
    if algorithms and algorithm not in algorithms:
        lacks.append(f"it does not list {algorithm}, the algorithm of the key")
    if grants and "client_credentials" not in grants:
        lacks.append("it does not list client_credentials")
    return tuple(lacks)


def misfits_of_app(found: Configuration, *, method: AuthMethod, scope: str) -> tuple[str, ...]:
    """The same for an app that a person authorizes, which authenticates by `method`."""
    lacks = [f"it names no {name}" for name in ("authorization_endpoint", "token_endpoint", "jwks_uri", "issuer") if not found.text(name)]
    methods, able = found.listed("token_endpoint_auth_methods_supported"), found.listed("capabilities")
    if methods and method != AuthMethod.NONE and method not in methods:
        lacks.append(f"it does not list {method}")
    if "S256" not in found.listed("code_challenge_methods_supported"):
        lacks.append("it does not list S256, without which a code can be stolen on the way")
    if able:
        wanted = {"launch-standalone", "sso-openid-connect"} | ({"permission-offline"} if "offline_access" in split(scope) else set[str]())
        lacks += [f"it does not list {name}" for name in sorted(wanted - set(able))]
    return tuple(lacks)


def narrower(asked: str, given: str) -> tuple[str, ...]:
    """Of what was asked for, that which is not granted: a scope, or its letters that are missing. v1 and v2 spellings are the same (HL7@128)."""
    have, have_clinical = set(split(given)), clinical(given)
    return tuple(lack for one in split(asked) if one not in have and (lack := _lack(one, have_clinical)))


def _lack(text: str, have: tuple[Scope, ...]) -> str:
    scope = parse_scope(text)
    if scope is None:
        return text
    letters = [one for one in scope.letters if not any(other.covers(_only(scope, one)) for other in have)]
    return text if len(letters) == len(scope.letters) else _only(scope, "".join(letters)).render() if letters else ""


def _only(scope: Scope, letters: str) -> Scope:
    return Scope(scope.level, scope.type, letters, scope.query)
