"""`gateway demo`: the whole thing on this machine. `start` shows what is started, in order; everything ends with this process.

State lies in one folder for each kind of EHR, with a `gateway.toml` that the printed commands use; started again, the demo goes on with it.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import secrets
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import click
import httpx
from joserfc import jwk

from gateway import local
from gateway.config import Settings, load
from gateway.errors import ConfigError
from gateway.sandbox import embedded, hapi, people, ports, processes, sample_app, valkey
from gateway.sandbox.people import Account
from gateway.smart.server.authorization.launches import Created
from gateway.smart.server.authorization.launches import Wanted as WantedLaunch
from gateway.store import schema
from gateway.store.oauth_rows import AuthMethod, ListedPatient

DELIVERS = "demo-lab"
"""A laboratory: what it pushes is delivered into the EHR."""
NOTIFIES = "demo-record"
"""The EHR itself: what it pushes is already there."""
MESSAGES = "messages.jsonl"
"""What people are sent, in the demo's folder."""
_LONGEST_PAGE = 10
"""People looked for in an EHR that is not ours."""

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the command line asked for. `ehr` is embedded, hapi or the URL of an R4 server; `data` the folder of all demos."""

    ehr: str
    data: Path
    fresh: bool = False
    yes: bool = False
    port: int = 0

    @property
    def name(self) -> str:
        """The EHR's name in addresses."""
        return {"embedded": "demo", "hapi": "hapi"}.get(self.ehr, "ehr")

    @property
    def folder(self) -> Path:
        """Where this EHR's demo keeps its state."""
        if self.ehr in ("embedded", "hapi"):
            return self.data / self.ehr
        return self.data / hashlib.sha256(self.ehr.encode()).hexdigest()[:12]


@dataclass(frozen=True, slots=True)
class Demo:
    """A running demo. `parts` are the processes to watch, by name; `launch` is ready to open."""

    wanted: Wanted
    settings: Settings
    ehr_url: str
    ehr_headers: Mapping[str, str]
    accounts: tuple[Account, ...]
    app_url: str
    launch: Created
    parts: Mapping[str, Callable[[], int | None]] = field(default_factory=dict[str, Callable[[], "int | None"]])

    @property
    def base(self) -> str:
        """The gateway's FHIR base."""
        return f"{self.settings.public_url}/fhir/{self.wanted.name}"

    @property
    def config(self) -> Path:
        """The settings file for every other command."""
        return self.wanted.folder / "gateway.toml"

    def key(self, client_id: str) -> Path:
        """The private key of a backend client."""
        return self.wanted.folder / "keys" / f"{client_id}.json"


def run(wanted: Wanted) -> int:
    """Start everything, say how to try it, and wait for Ctrl-C or for a part that dies. The exit code."""
    with stopping() as stopped:
        try:
            with started(wanted, say=_say) as demo:
                _say(described(demo))
                return _watch(demo, stopped)
        except Stop:
            return 130


@contextlib.contextmanager
def started(wanted: Wanted, *, say: Say) -> Generator[Demo]:
    """Everything, in the order in which each part needs those before it; ended in the opposite order."""
    begun = time.monotonic()
    folder = _folder(wanted)
    ask_first(wanted)
    chosen = ports.chosen(folder / "ports.json", gateway=wanted.port)
    with contextlib.ExitStack() as stack:
        ehr_url, headers, ehr_process = _ehr(wanted, chosen, stack, say)
        accounts = asyncio.run(_people(wanted, ehr_url, headers, say))
        cache = _cache(folder, stack, say)
        app_listener = sample_app.listen(chosen.app)
        app_url = sample_app.base_url(app_listener)
        settings = _settings(wanted, chosen, ehr_url, cache, [one.username for one in accounts])
        launch = asyncio.run(_registered(wanted, settings, accounts, app_url))
        gateway = _process(folder, "serve", *(() if cache else ("--with-worker",)), stack=stack)
        worker = _process(folder, "worker", stack=stack) if cache else None
        _wait_ready(settings.public_url, gateway, folder / "serve.log")
        app = sample_app.start([f"{settings.public_url}/fhir/{wanted.name}"], app_listener)
        stack.callback(app.stop)
        say(f"Everything is up after {time.monotonic() - begun:.0f} s.\n")
        parts: dict[str, Callable[[], int | None]] = {"gateway": gateway.poll}
        if worker:
            parts["worker"] = worker.poll
        if cache:
            parts["Valkey"] = cache.process.poll
        if ehr_process:
            parts["EHR"] = ehr_process
        yield Demo(wanted, settings, ehr_url, headers, accounts, app_url, launch, parts)
        say("\nEnding everything ...")


def ask_first(wanted: Wanted) -> None:
    """Before anything is written to an EHR that is not ours. Raises ConfigError when there is nobody to ask."""
    if wanted.ehr in ("embedded", "hapi") or wanted.yes:
        return
    if "://" not in wanted.ehr:
        raise ConfigError(f"{wanted.ehr!r} is no EHR to demonstrate", where="--ehr", fix="write embedded, hapi, or the URL of an R4 server")
    if not sys.stdin.isatty():
        raise ConfigError(f"The demo lets you write to {wanted.ehr}", where="--ehr", fix="add --yes, when that server may be written to")
    click.confirm(f"Messages, requests and pushes that you try will be written to {wanted.ehr}. Go on?", abort=True, err=True)


def _folder(wanted: Wanted) -> Path:
    if wanted.fresh and wanted.folder.exists():
        shutil.rmtree(wanted.folder)
    (wanted.folder / "keys").mkdir(parents=True, exist_ok=True, mode=0o700)
    return wanted.folder


# The EHR and its people ------------------------------------------------------------------------------------------------------------------


def _ehr(
    wanted: Wanted, chosen: ports.Ports, stack: contextlib.ExitStack, say: Say
) -> tuple[str, Mapping[str, str], Callable[[], int | None] | None]:
    """Its base URL, what a request to it must carry, and how to see that it died."""
    match wanted.ehr:
        case "embedded":
            say("Starting the embedded EHR ...")
            running = embedded.start(wanted.folder / "ehr", port=chosen.ehr)
            stack.callback(running.stop)
            return running.base_url, running.headers, running.process.poll
        case "hapi":
            server = hapi.start(hapi.Options(port=chosen.ehr), say=say)
            stack.callback(server.stop)
            return server.base_url, {}, lambda: None if _alive(server.pid) else 1
        case url:
            return url.rstrip("/"), {}, None


def _alive(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists() if sys.platform == "linux" else True


async def _people(wanted: Wanted, ehr_url: str, headers: Mapping[str, str], say: Say) -> tuple[Account, ...]:
    """Ours, loaded; or those that an EHR of somebody else has."""
    if wanted.ehr in ("embedded", "hapi"):
        loaded = await people.load(ehr_url, people.folders(datetime.now(UTC).date()), headers=headers, say=say)
        for refused in loaded.refused:
            say(f"  the EHR did not take {refused}")
        return people.roster()
    return _found_people(ehr_url, _password(wanted.folder))


def _found_people(ehr_url: str, password: str) -> tuple[Account, ...]:
    try:
        answer = httpx.get(f"{ehr_url}/Patient", params={"_count": _LONGEST_PAGE}, headers={"Accept": "application/fhir+json"}, timeout=30)
        bundle = cast("dict[str, Any]", answer.json())
    except (httpx.HTTPError, ValueError) as error:
        raise ConfigError(f"{ehr_url} does not answer as a FHIR server does", where="--ehr", fix=f"gateway ehr check {ehr_url}") from error
    resources = [cast("dict[str, Any]", entry.get("resource", {})) for entry in cast("list[dict[str, Any]]", bundle.get("entry", []))]
    patients = [one for one in resources if one.get("resourceType") == "Patient" and isinstance(one.get("id"), str)]
    if not patients:
        raise ConfigError(f"There are no patients at {ehr_url}", where="--ehr", fix="put one there first, or try gateway demo --ehr hapi")
    return tuple(_account(number, one, password) for number, one in enumerate(patients, 1))


def _account(number: int, patient: Mapping[str, Any], password: str) -> Account:
    id_ = str(patient["id"])
    names = cast("list[dict[str, Any]]", patient.get("name") or [{}])
    given = " ".join(str(part) for part in cast("list[Any]", names[0].get("given", [])))
    name = str(names[0].get("text") or f"{given} {names[0].get('family', '')}".strip() or f"Patient {id_}")
    return Account(f"p{number}", f"Patient/{id_}", name, ((id_, name),), f"Patient/{id_} there", password)


def _password(folder: Path) -> str:
    """Of the people of somebody else's EHR: their data may be real, so it is no word that anybody knows."""
    path = folder / "password"
    if not path.exists():
        path.touch(mode=0o600)
        path.write_text(secrets.token_urlsafe(9))
    return path.read_text()


# The gateway -----------------------------------------------------------------------------------------------------------------------------


def _cache(folder: Path, stack: contextlib.ExitStack, say: Say) -> valkey.Valkey | None:
    program = valkey.binary()
    if program is None:
        say("No Valkey for this machine: cached answers stay in the gateway's memory, and it delivers pushes itself.")
        return None
    running = valkey.launch(program, folder / "valkey")
    stack.callback(running.stop)
    return running


def _settings(wanted: Wanted, chosen: ports.Ports, ehr_url: str, cache: valkey.Valkey | None, developers: Sequence[str]) -> Settings:
    """Written to a file, so that every command that is printed works on the same gateway."""
    lines = [
        "# Written by `gateway demo` at each start.",
        f'listen = "127.0.0.1:{chosen.gateway}"',
        f'public_url = "http://127.0.0.1:{chosen.gateway}"',
        'data_dir = "gateway"',
        "jwks_loopback = true",
        'registration = "open"',
        "registration_review = false",
        'notify = "file"',
        f'notify_file = "{MESSAGES}"',
        *([f"redis = {json.dumps(cache.url)}"] if cache else []),
        f"[ehr.{wanted.name}]",
        f"url = {json.dumps(ehr_url)}",
        *(people.CLINIC_SETTINGS if wanted.ehr in ("embedded", "hapi") else (f"display = {json.dumps(ehr_url)}",)),
    ]
    if wanted.ehr == "embedded":
        lines += ['auth = "bearer"', f'bearer_file = "ehr/{embedded.TOKEN}"']
    lines += ["[launcher]", "enabled = true", f"users = {json.dumps(list(developers))}"]
    path = wanted.folder / "gateway.toml"
    path.write_text("\n".join(lines) + "\n")
    return load(config=path, environ={}).settings


async def _registered(wanted: Wanted, settings: Settings, accounts: tuple[Account, ...], app_url: str) -> Created:
    """People who sign in, the sample app, and the two kinds of senders; and a launch of the app."""
    first = accounts[0]
    await _upgraded(settings)
    async with local.opened(settings) as state:
        signing = local.accounts(state)
        for one in accounts:
            if await signing.named(one.username) is None:
                listed = tuple(ListedPatient(id_, name) for id_, name in one.patients if one.fhir_user != f"Patient/{id_}")
                await signing.add(one.username, one.password, ehr=wanted.name, fhir_user=one.fhir_user, display_name=one.display, patients=listed)
        registrar = local.registrar(state)
        await registrar.register(sample_app.registration(app_url))
        await registrar.register(_sender(wanted, DELIVERS, "Demo laboratory", {"mode": "deliver", "ehr": wanted.name}))
        await registrar.register(_sender(wanted, NOTIFIES, "The record system itself", {"mode": "notify"}) | {"ehrs": [wanted.name]})
        return await local.launches(state).create(WantedLaunch(wanted.name, sample_app.CLIENT_ID, first.patients[0][0]))


async def _upgraded(settings: Settings) -> None:
    """A sandbox that a newer version starts again goes on without a word; a gateway of somebody's is upgraded by its operator."""
    found = local.state(settings)
    try:
        await schema.upgrade(found.database)
    finally:
        await found.close()


def _sender(wanted: Wanted, client_id: str, name: str, push: Mapping[str, str]) -> dict[str, Any]:
    """RFC 7591 metadata of a backend client, whose key is made once and kept in the demo's folder."""
    path = wanted.folder / "keys" / f"{client_id}.json"
    if not path.exists():
        made = jwk.ECKey.generate_key("P-384", {"kid": f"{client_id}-1", "use": "sig", "alg": "ES384"}, private=True)
        path.touch(mode=0o600)
        path.write_text(json.dumps(made.as_dict(private=True)))
    key = jwk.ECKey.import_key(cast("dict[str, Any]", json.loads(path.read_text())))
    return {
        "client_id": client_id,
        "client_name": name,
        "grant_types": ["client_credentials"],
        "token_endpoint_auth_method": AuthMethod.KEY,
        "jwks": {"keys": [key.as_dict(private=False)]},
        "scope": "system/*.cruds",
        "push": dict(push),
    }


def _process(folder: Path, *arguments: str, stack: contextlib.ExitStack) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "gateway", arguments[0], "--config", str(folder / "gateway.toml"), *arguments[1:]]
    process = processes.start(command, log=folder / f"{arguments[0]}.log")
    stack.callback(processes.end, process)
    return process


def _wait_ready(url: str, process: subprocess.Popen[bytes], log: Path, seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(httpx.HTTPError):
            if httpx.get(f"{url}/readyz", trust_env=False).status_code == 200:
                return
        time.sleep(0.1)
    raise ConfigError("The gateway did not come up", where=str(log), fix="read that log")


# Waiting and ending ----------------------------------------------------------------------------------------------------------------------


class Stop(BaseException):
    """Ctrl-C, SIGTERM or a closed terminal while something is being started. Not an error: nobody may catch it on the way."""


@dataclass(slots=True)
class Stopped:
    """Whether somebody asked for the end."""

    asked: bool = False
    starting: bool = True


@contextlib.contextmanager
def stopping() -> Generator[Stopped]:
    """Signals end the demo in good order, once: a second Ctrl-C does not leave half of it running."""
    stopped = Stopped()

    def ask(number: int, frame: object) -> None:
        del number, frame
        first, stopped.asked = not stopped.asked, True
        if first and stopped.starting:
            raise Stop

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        yield stopped
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _watch(demo: Demo, stopped: Stopped) -> int:
    """Until somebody asks for the end (0) or a part died (1)."""
    stopped.starting = False
    while not stopped.asked:
        for name, poll in demo.parts.items():
            if (code := poll()) is not None:
                _say(f"{name} ended by itself (exit code {code}); its log is in {demo.wanted.folder}.")
                return 1
        time.sleep(0.3)
    return 0


# What it says ----------------------------------------------------------------------------------------------------------------------------


def described(demo: Demo) -> str:
    """Where everything is, and what to try, ready to paste."""
    width = max(len(one.username) for one in demo.accounts)
    names = "\n".join(f"    {one.username:<{width}}  {one.password}  {one.display}: {one.about}" for one in demo.accounts)
    patient = demo.accounts[0].patients[0][0]
    program = _program()
    config = _shown(demo.config)
    token = f"{program} client token --config {config} --client {DELIVERS} --key {_shown(demo.key(DELIVERS))}"
    return f"""\
Launcher       {demo.settings.public_url}/launcher   (an app in two clicks, and what it does)
Portal         {demo.settings.public_url}/portal/
  sign in as
{names}
  codes that the portal sends them are in {_shown(demo.wanted.folder / MESSAGES)}

FHIR base      {demo.base}
Sample app     {demo.app_url}/   (standalone launch)
EHR launch     {demo.launch.url}
               works once, within five minutes; another one:
               {program} launch create --config {config} --client {sample_app.CLIENT_ID} --patient {patient}

A push (a new result for {patient}; load the portal's results before and after):
  TOKEN=$({token})
  curl -X POST {demo.base}/Observation -H "Authorization: Bearer $TOKEN" -H "Content-Type: application/fhir+json" \\
    -d '{json.dumps(observation(patient))}'

Ctrl-C ends everything; started again it goes on with the same data ({_shown(demo.wanted.folder)}; --fresh begins anew)."""


def observation(patient: str, value: float = 5.6) -> dict[str, Any]:
    """A new result: potassium, final, a minute ago."""
    coding = {"system": "http://loinc.org", "code": "2823-3", "display": "Potassium [Moles/volume] in Serum or Plasma"}
    category = {"system": "http://terminology.hl7.org/CodeSystem/observation-category", "code": "laboratory"}
    now = datetime.now(UTC).isoformat(timespec="seconds")
    return {
        "resourceType": "Observation",
        "status": "final",
        "category": [{"coding": [category]}],
        "code": {"coding": [coding], "text": "Potassium"},
        "subject": {"reference": f"Patient/{patient}"},
        "effectiveDateTime": now,
        "issued": now,
        "valueQuantity": {"value": value, "unit": "mmol/L", "system": "http://unitsofmeasure.org", "code": "mmol/L"},
        "referenceRange": [{"low": {"value": 3.5, "unit": "mmol/L"}, "high": {"value": 5.1, "unit": "mmol/L"}}],
    }


def _program() -> str:
    return _shown(Path(sys.executable).with_name("gateway"))


def _shown(path: Path) -> str:
    """As short as it can be from here, quoted for the shell."""
    with contextlib.suppress(ValueError):
        path = path.relative_to(Path.cwd())
    return shlex.quote(str(path))


def _say(text: str) -> None:
    print(text, flush=True)
