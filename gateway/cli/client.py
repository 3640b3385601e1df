"""`gateway client register|list|show|token`; the others of the group are in `client_care`."""

from __future__ import annotations

import asyncio
import json
import ssl
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import click
import httpx

from gateway import local
from gateway.cli import client_care, options, output, upstream
from gateway.config import Settings
from gateway.errors import ConfigError, GatewayError, OAuthError
from gateway.smart.client.assertion import KeyUnusable, SigningKey, form, read_key
from gateway.smart.server.clients.admin import version_of
from gateway.smart.server.endpoints import Endpoints
from gateway.store import oauth as rows
from gateway.store.oauth_rows import AuthMethod, Client

_REGISTER = """\b
Example:
  gateway client register --from app.json
  gateway client register --from backends.json --json > registered.json

\b
app.json:
  {"client_id": "growth-chart", "client_name": "Growth chart", "token_endpoint_auth_method": "none",
   "redirect_uris": ["https://app.example/callback"], "launch_uri": "https://app.example/launch"}
"""
_SIGN = """\b
Example:
  TOKEN=$(gateway client token --client lab --key lab-private.json --ehr hapi)
  curl -H "Authorization: Bearer $TOKEN" http://127.0.0.1:8080/fhir/hapi/Observation/o1
"""


_LIST = """\b
Example:
  gateway client list
  gateway client list --json
"""
_SHOW = """\b
Example:
  gateway client show growth-chart
"""


@click.group()
def client() -> None:
    """Register apps and backend systems, list, approve and disable them; make a token for one."""


for _command in client_care.COMMANDS:
    client.add_command(_command)


@client.command(epilog=_REGISTER)
@click.option(
    "--from", "source", required=True, type=click.Path(path_type=Path, allow_dash=True), metavar="FILE", help='RFC 7591 metadata; "-": stdin.'
)
@options.common
@options.as_json
def register(source: Path, json_: bool, config: Path | None, store: str | None, ehr: tuple[str, ...]) -> None:  # noqa: FBT001  # by name
    """Register the client in FILE, one JSON object, or the clients of a list.

    A client_id and client_secret in the file are kept; else they are made, and the secret is shown this once. Registering an id again replaces
    it. A backend that pushes has "push": {"mode": "deliver", "ehr": NAME} or {"mode": "notify"}.
    """
    loaded = options.settings(config, store, ehr)
    metadata = _read(source)
    several = isinstance(metadata, list)
    entries = cast("list[Any]", metadata) if several else [metadata]
    answers = asyncio.run(_register(loaded.settings, entries, _named_ehrs(entries, ehr)))
    if json_:
        output.show_json(answers if several else answers[0])
        return
    for answer in answers:
        secret = f"  secret {answer['client_secret']} (shown this once)" if answer.get("client_secret") else ""
        click.echo(f"{answer['client_id']}{secret}")


@client.command("list", epilog=_LIST)
@options.common
@options.as_json
def list_(json_: bool, config: Path | None, store: str | None, ehr: tuple[str, ...]) -> None:  # noqa: FBT001  # click passes by name
    """List every client, with those that wait for approval and those that are disabled. With --ehr NAME, those that count at that EHR."""
    wanted = {one.partition("=")[0] for one in ehr}
    found = [
        one for one in client_care.with_clients(config, store, ehr, lambda clients: clients.all()) if not wanted or {"*", *wanted} & set(one.ehrs)
    ]
    if json_:
        output.show_json([_told(one) for one in found])
        return
    header = ("id", "name", "kind", "ehrs", "push", "state")
    output.show_table(header, [(one.id, one.name, _kind(one), " ".join(one.ehrs), (one.push or {}).get("mode", "-"), _state(one)) for one in found])


@client.command(epilog=_SHOW)
@click.argument("id_", metavar="ID")
@options.common
@options.as_json
def show(id_: str, json_: bool, config: Path | None, store: str | None, ehr: tuple[str, ...]) -> None:  # noqa: FBT001  # click passes by name
    """Show how one client is registered. Its secret is not kept, so it cannot be shown."""
    told = _told(client_care.with_clients(config, store, ehr, lambda clients: clients.named(id_)))
    if json_:
        output.show_json(told)
        return
    for name, value in told.items():
        click.echo(f"{name:<26} {value if isinstance(value, str) else json.dumps(value, default=str)}")


def _kind(one: Client) -> str:
    return "system" if not one.redirect_uris else "app, public" if one.auth_method == AuthMethod.NONE else "app"


def _state(one: Client) -> str:
    if one.disabled_at:
        return f"disabled {one.disabled_at:%Y-%m-%d}"
    return f"waits since {one.pending_since:%Y-%m-%d}, version {version_of(one)}" if one.pending_since else "in use"


def _told(one: Client) -> dict[str, Any]:
    """By the names of RFC 7591, as far as it has them."""
    told: dict[str, Any] = {
        "client_id": one.id,
        "client_name": one.name,
        "token_endpoint_auth_method": one.auth_method,
        "grant_types": one.grant_types,
        "redirect_uris": one.redirect_uris,
        "scope": one.scope,
        "ehrs": one.ehrs,
        "created_at": one.created_at,
        "registered_by": "itself" if one.registration_hash else "operator",
        "pending_since": one.pending_since,
        "disabled_at": one.disabled_at,
    }
    version = version_of(one) if one.pending_since else ""
    more = {"version": version, "launch_uri": one.launch_uri, "jwks_uri": one.jwks_uri, "jwks": one.jwks, "push": one.push}
    return told | {name: value for name, value in more.items() if value}


async def _register(settings: Settings, entries: list[Any], ehrs: tuple[str, ...]) -> list[Mapping[str, Any]]:
    async with local.opened(settings) as state:
        registrar = local.registrar(state, ehrs)
        found: list[Mapping[str, Any]] = []
        for number, entry in enumerate(entries, 1):
            try:
                found.append(await registrar.register(entry))
            except OAuthError as error:
                raise ConfigError(f"{error.error}: {error.message}", where=f"--from, client {number}", fix="correct it and register again") from error
        return found


def _named_ehrs(entries: list[Any], ehr: tuple[str, ...]) -> tuple[str, ...]:
    """Where no EHR is set here: the names that the file and --ehr use. The gateway that knows their URLs may run elsewhere."""
    found = dict.fromkeys(one.partition("=")[0] for one in ehr)
    for entry in entries:
        if isinstance(entry, dict):
            one = cast("dict[str, Any]", entry)
            push = one.get("push")
            named: list[Any] = [cast("dict[str, Any]", push).get("ehr")] if isinstance(push, dict) else []
            named += cast("list[Any]", one["ehrs"]) if isinstance(one.get("ehrs"), list) else []
            found |= dict.fromkeys(name for name in named if isinstance(name, str) and name != "*")
    return tuple(found)


def _read(source: Path) -> Any:
    try:
        text = sys.stdin.read() if str(source) == "-" else source.read_text("utf-8")
        return json.loads(text)
    except OSError as error:
        raise ConfigError(f"{source} cannot be read ({error.strerror})", where="--from", fix="name a file that exists") from error
    except ValueError as error:
        raise ConfigError(f"{source} is no JSON: {error}", where="--from", fix="write one object, or a list of them") from error


@client.command(epilog=_SIGN)
@click.option("--client", "client_id", required=True, metavar="ID", help="A backend client, registered with the public part of the key.")
@click.option("--key", required=True, type=click.Path(path_type=Path, exists=True, dir_okay=False), help="Its private key: JWK, JWK Set or PEM.")
@click.option("--kid", default="", metavar="TEXT", help="The key's id, when the file does not say it.")
@click.option("--scope", default="", metavar="TEXT", help="What to ask for. Without it, all that the client is registered for in this store.")
@click.option("--public-url", metavar="URL", help="Where the gateway is.")
@click.option("--ca", type=click.Path(path_type=Path, exists=True, dir_okay=False), help="Certificates to trust (PEM).")
@options.common
@options.as_json
def token(
    client_id: str,
    key: Path,
    kid: str,
    scope: str,
    public_url: str | None,
    ca: Path | None,
    json_: bool,  # noqa: FBT001  # click passes by name
    config: Path | None,
    store: str | None,
    ehr: tuple[str, ...],
) -> None:
    """Sign an assertion with the private key and print the access token that the gateway gives for it (SMART Backend Services)."""
    loaded = options.settings(config, store, ehr, public_url=public_url)
    registered = asyncio.run(_registered(loaded.settings, client_id))
    name = registered.ehrs[0] if registered and not ehr and _counts_at_one(registered) else options.chosen(loaded, ehr)
    scope = scope or (registered.scope if registered else "")
    if not scope:
        raise ConfigError(f"{client_id} is not registered in this store", where="--client", fix="name that store, or say --scope and --ehr")
    endpoint = Endpoints(loaded.settings.public_url, name).token
    answer = _ask(endpoint, form(client_id, _signing_key(key, kid), endpoint), scope, ca)
    if json_:
        output.show_json(answer)
    else:
        click.echo(answer["access_token"])


async def _registered(settings: Settings, client_id: str) -> Client | None:
    """The client, when the gateway's store can be read from here. It only saves typing: the gateway may be elsewhere."""
    if not local.has_store(settings):
        return None
    async with local.opened(settings) as state, state.database.read() as connection:
        return await rows.client(connection, client_id)


def _counts_at_one(client: Client) -> bool:
    return len(client.ehrs) == 1 and client.ehrs != ("*",)


def _signing_key(path: Path, kid: str) -> SigningKey:
    try:
        return read_key(path, kid)
    except KeyUnusable as error:
        fix = "name a private JWK, a JWK Set with one, or a PEM file, and its --kid where the file does not say it"
        raise ConfigError(f"{path} cannot be signed with: {error}", where="--key", fix=fix) from error


def _ask(endpoint: str, signed: Mapping[str, str], scope: str, ca: Path | None) -> Mapping[str, Any]:
    asked = {"grant_type": "client_credentials", "scope": scope, **signed}
    try:
        with httpx.Client(trust_env=False, verify=ssl.create_default_context(cafile=str(ca) if ca else None), timeout=15) as http:
            answer = http.post(endpoint, data=asked)
            found = cast("dict[str, Any]", answer.json())
    except httpx.HTTPError as error:
        raise ConfigError(
            f"{endpoint} does not answer ({upstream.reason(error)})", where="--public-url", fix="start the gateway, or name its address"
        ) from error
    except ValueError as error:
        raise GatewayError(f"{endpoint} did not answer as a token endpoint does") from error
    if answer.status_code != 200:
        raise GatewayError(f"{found.get('error', answer.status_code)}: {found.get('error_description', 'the gateway refused')}")
    return found
