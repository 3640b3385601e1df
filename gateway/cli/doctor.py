"""`gateway doctor`: each dependency, one line, with the fix."""

from __future__ import annotations

import asyncio
import os
import ssl
import stat
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit

import click
import httpx
import redis
from sqlalchemy import text

from gateway import local, seal
from gateway.cli import ehr_report, ehr_smart, options, output, upstream
from gateway.config import EhrSettings, Settings, is_loopback
from gateway.errors import ConfigError, GatewayError
from gateway.store import schema
from gateway.store.base import Database

EXAMPLE = """\b
Example:
  gateway doctor
  gateway doctor --ehr hapi=http://127.0.0.1:8090/fhir --json
"""

_SKEW = 60.0  # seconds; assertions and tokens live for minutes
_SOON = 14 * 86400.0  # a certificate that ends within two weeks


@dataclass(frozen=True, slots=True)
class Finding:
    """One line: `state` is ok, warning or failed. `fix` says what to do about it."""

    part: str
    state: str
    found: str
    fix: str = ""


def ok(part: str, found: str) -> Finding:
    """All is well."""
    return Finding(part, "ok", found)


def warning(part: str, found: str, fix: str) -> Finding:
    """It works, but it should not stay so."""
    return Finding(part, "warning", found, fix)


def failed(part: str, found: str, fix: str) -> Finding:
    """It does not work."""
    return Finding(part, "failed", found, fix)


@click.command(epilog=EXAMPLE)
@options.common
@options.as_json
def doctor(config: Path | None, store: str | None, ehr: tuple[str, ...], json_: bool) -> None:  # noqa: FBT001  # click passes by name
    """Check every dependency: settings, folder, key, store, Redis, TLS and each EHR. One line each, with the fix.

    Exits with 1 when something does not work. Warnings do not count.
    """
    settings = options.settings(config, store, ehr).settings
    findings: list[Finding] = []
    for check in checks(settings):
        found = check()
        findings.append(found)
        if not json_:
            _show(found)
    if json_:
        output.show_json([asdict(one) for one in findings])
    if any(one.state == "failed" for one in findings):
        raise SystemExit(1)


def checks(settings: Settings) -> Iterator[Callable[[], Finding]]:
    """All of them, in the order of dependence."""
    yield lambda: ok("python", sys.version.split()[0])
    yield lambda: public_url(settings)
    yield lambda: data_folder(settings)
    yield lambda: key(settings)
    yield lambda: the_store(settings)
    yield lambda: cache(settings)
    if settings.tls_cert:
        yield lambda: certificate(settings.tls_cert)
    if not settings.ehrs:
        yield lambda: failed("ehr", "none is set", "add [ehr.NAME] with its url to gateway.toml, or --ehr NAME=URL")
    for one in settings.ehrs:
        if one.auth == "smart-backend":
            yield lambda one=one: signs_in(one)
        if one.auth == "smart":
            yield lambda one=one: persons_connect(settings, one)
        yield lambda one=one: reach(one)
        yield lambda one=one: door(one)
    if settings.writes == "scopes":
        yield lambda: warning("writes", "scopes alone decide what a token may write", 'that is for sandboxes: writes = "table"')
    if settings.registration == "open" and not is_loopback(urlsplit(settings.public_url).hostname or ""):
        yield lambda: registration(settings)
    if settings.launcher_enabled and not is_loopback(urlsplit(settings.public_url).hostname or ""):
        yield lambda: launcher(settings)


def public_url(settings: Settings) -> Finding:
    """SMART wants https; http is for this machine alone."""
    host = urlsplit(settings.public_url).hostname or ""
    if settings.https or is_loopback(host):
        return ok("public url", settings.public_url)
    return warning("public url", f"{settings.public_url} is not https: tokens would travel in the clear", "serve https, or put a TLS proxy in front")


def registration(settings: Settings) -> Finding:
    """Anybody can register an app here; it is a question of who looks at it before people see it."""
    if settings.registration_review:
        return ok("registration", "open: what registers itself waits for gateway client approve")
    return warning("registration", "anybody may register an app, and nobody looks at it", 'that is for sandboxes: registration = "token"')


def launcher(settings: Settings) -> Finding:
    """It starts apps for anybody who finds it, and signs developers in without their passwords."""
    users = len(settings.launcher_users)
    found = f"the launcher is on at {settings.public_url}, and signs browsers in as {users} account(s) without a password"
    return warning("launcher", found, "that is for sandboxes: leave [launcher] out where there are patients")


def data_folder(settings: Settings) -> Finding:
    """State that is not in the database has to be writable, and private."""
    folder = settings.data_dir
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        probe = folder / f".doctor-{os.getpid()}"
        probe.write_bytes(b"")
        probe.unlink()
    except OSError as error:
        return failed("data folder", f"{folder}: {error.strerror}", "make it writable for the gateway's user, or set data_dir")
    if folder.stat().st_mode & stat.S_IRWXO:
        return warning("data folder", f"{folder} is open to every user of this machine", f"chmod 700 {folder}")
    return ok("data folder", str(folder))


def key(settings: Settings) -> Finding:
    """Without its key nothing sealed opens again."""
    if not settings.seal:
        return warning("sealing", "switched off: inbox bodies and cached values lie in the clear", "set seal = true")
    if settings.key:
        return ok("sealing", f"{len(settings.key)} key(s) from GATEWAY_KEY")
    path = settings.key_file or settings.data_dir / "key"
    if not path.exists():
        return ok("sealing", f"{path} will be made at the first start; keep a copy of it elsewhere")
    try:
        seal.load_or_make_key(path)
    except ConfigError as error:
        return failed("sealing", error.message, error.fix)
    if path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        return warning("sealing", f"{path} can be read by others", f"chmod 600 {path}")
    return ok("sealing", str(path))


def the_store(settings: Settings) -> Finding:
    """Reachable, and with the schema of this version."""
    url = settings.store
    if not local.has_store(settings):
        return ok("store", f"{url.partition(':///')[2]} will be made at the first start")
    return asyncio.run(_store(url))


async def _store(url: str) -> Finding:
    shown = url.rpartition("@")[2]
    database = Database(url)
    try:
        async with database.read() as connection:
            version = "SQLite" if database.is_sqlite else str((await connection.execute(text("select version()"))).scalar())
        found = await schema.state(database)
    except GatewayError as error:
        return failed("store", f"{shown} does not answer ({upstream.reason(error)})", "start it, or set store to one that runs")
    finally:
        await database.close()
    described = f"{shown} ({' '.join(version.split()[:2])})"
    match found:
        case schema.State.CURRENT:
            return ok("store", described)
        case schema.State.EMPTY:
            return ok("store", f"{described}, empty: the tables will be made at the first start")
        case schema.State.BEHIND:
            return failed("store", f"{described} was made by an older version", "gateway store upgrade")
        case schema.State.AHEAD:
            return failed("store", f"{described} was made by a newer version", "install that version")
        case schema.State.FOREIGN:
            return failed("store", f"{described} holds tables that the gateway did not make", "name an empty database")


def cache(settings: Settings) -> Finding:
    """Redis is wanted, never needed."""
    if not settings.redis:
        return ok("cache", "in memory, for a single process; set redis for more than one")
    shown = settings.redis.rpartition("@")[2]
    try:
        with cast("Any", redis.Redis).from_url(settings.redis, socket_timeout=2, socket_connect_timeout=2) as client:
            facts = cast("Mapping[str, Any]", client.info())
    except (redis.RedisError, OSError) as error:
        return warning("cache", f"{shown} does not answer ({upstream.reason(error)}): every read goes to the EHR", "start Redis, or set redis")
    version = f"{facts.get('server_name', 'redis')} {facts.get('valkey_version') or facts.get('redis_version')}"
    if facts.get("maxmemory") and facts.get("maxmemory_policy") == "noeviction":
        return warning("cache", f"{shown} ({version}) refuses writes when it is full", "set maxmemory-policy allkeys-lru there")
    return ok("cache", f"{shown} ({version})")


def certificate(path: Path | None) -> Finding:
    """Not run out, and not about to."""
    try:
        facts = cast("Any", ssl)._ssl._test_decode_cert(str(path))  # noqa: SLF001  # the parser that getpeercert uses
        ends = ssl.cert_time_to_seconds(facts["notAfter"])
    except (OSError, ssl.SSLError, ValueError):
        return failed("tls", f"{path} holds no certificate", "name a PEM file with the certificate chain")
    left = ends - time.time()
    day = datetime.fromtimestamp(ends, UTC).date()
    if left < 0:
        return failed("tls", f"the certificate ended on {day}", "renew it")
    return warning("tls", f"the certificate ends on {day}", "renew it") if left < _SOON else ok("tls", f"valid until {day}")


def signs_in(ehr: EhrSettings) -> Finding:
    """A token can be had, for all that is asked for."""
    found = ehr_smart.sign_in(ehr)
    return Finding(f"ehr {ehr.name} sign-in", found.state, found.found, found.fix)


def persons_connect(settings: Settings, ehr: EhrSettings) -> Finding:
    """Persons can be sent there to let the gateway in."""
    found = ehr_smart.app_fits(settings, ehr)
    return Finding(f"ehr {ehr.name} sign-in", found.state, found.found, found.fix)


def reach(ehr: EhrSettings) -> Finding:
    """It answers with the gateway's credential, speaks R4, and its clock agrees."""
    part = f"ehr {ehr.name}"
    try:
        with upstream.open_client(ehr) as client:
            started = time.monotonic()
            report = ehr_report.read(ehr.url, upstream.capability_statement(client, ehr.url))
            took = (time.monotonic() - started) * 1000
            skew = _skew(client)
    except ConfigError as error:
        return failed(part, error.message, error.fix)
    if not report.is_r4:
        return failed(part, f"{ehr.url} speaks FHIR {report.fhir_version or '?'}", "R4 (4.0.1) is needed")
    found = f"{report.software or 'unnamed software'} {report.software_version}, FHIR {report.fhir_version}, {len(report.types)} types, {took:.0f} ms"
    if abs(skew) > _SKEW:
        return warning(part, f"{found}; its clock differs by {skew:.0f} s", "set both clocks by NTP")
    return ok(part, found)


def _skew(client: httpx.Client) -> float:
    with suppress(httpx.HTTPError, TypeError, ValueError):
        told = parsedate_to_datetime(client.get("metadata", params={"_summary": "true"}).headers["date"])
        return (told - datetime.now(UTC)).total_seconds()
    return 0.0


def door(ehr: EhrSettings) -> Finding:
    """An EHR that gives patients to strangers can be asked around the gateway."""
    part = f"ehr {ehr.name} door"
    try:
        with upstream.open_client(ehr, signed_in=False) as client:
            answer = client.get("Patient", params={"_count": "1"})
    except httpx.HTTPError as error:
        return ok(part, f"strangers are not served ({upstream.reason(error)})")
    if answer.status_code != 200 or not _is_bundle(answer):
        return ok(part, f"strangers get {answer.status_code}")
    if ehr.is_loopback:
        return ok(part, "answers without credentials, on this machine only")
    return warning(
        part,
        f"{ehr.url} answers without credentials: callers can go around the gateway",
        "close it to everything but the gateway (network, or auth = basic, bearer, mtls or smart-backend)",
    )


def _is_bundle(answer: httpx.Response) -> bool:
    with suppress(ValueError):
        found = answer.json()
        return isinstance(found, dict) and cast("dict[str, Any]", found).get("resourceType") == "Bundle"
    return False


def _show(one: Finding) -> None:
    mark = {"ok": "ok     ", "warning": "WARNING", "failed": "FAILED "}[one.state]
    click.echo(f"{mark}  {one.part}: {one.found}" + (f". Fix: {one.fix}" if one.fix else ""))
