"""Reads the settings once, at start: gateway.toml, then GATEWAY_* variables, then flags. The later source wins; each wrong value is named."""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit

from gateway.config.parse import Place, Wrong
from gateway.config.settings import EhrSettings, Settings, SignInSettings, env_name, is_loopback
from gateway.errors import ConfigError

EHR_NAME = re.compile(r"[a-z][a-z0-9-]{0,31}")
DEFAULT_FILE = "gateway.toml"
_SIGN_IN = "sign_in."
_TABLES = ("brand", "launcher")
"""Tables of the gateway's own settings: [brand] name is brand_name."""
# Kubernetes and Docker links put these into every container beside a service called "gateway"; they are no settings of ours.
_FOREIGN = re.compile(r"GATEWAY_(PORT.*|SERVICE_(HOST|PORT).*|NAME|TEST_.*|KILL_.*|CONFIG|PYTHON|BENCH_.*)")


@dataclass(frozen=True, slots=True)
class Listed:
    """One setting as `gateway config` shows it. Secrets are masked."""

    name: str
    value: str
    source: str
    help: str


@dataclass(frozen=True, slots=True)
class Loaded:
    """The settings, and where each that is no default came from: by name (`listen`, `ehr.hapi.url`)."""

    settings: Settings
    sources: Mapping[str, str]

    def listed(self) -> tuple[Listed, ...]:
        """Every setting with its value and source, in the order in which they are declared."""
        found = [self._one(name, spec, getattr(self.settings, name)) for name, spec in _specs(Settings)]
        for ehr in self.settings.ehrs:
            found += [self._one(f"ehr.{ehr.name}.{name}", spec, getattr(ehr, name)) for name, spec in _specs(EhrSettings)]
        for one in self.settings.sign_in:
            found += [self._one(f"sign_in.{one.name}.{name}", spec, getattr(one, name)) for name, spec in _specs(SignInSettings)]
        return tuple(found)

    def _one(self, name: str, spec: Mapping[str, Any], value: Any) -> Listed:
        return Listed(name, _shown(value, secret=spec["secret"]), self.sources.get(name, "default"), spec["help"])


def load(*, config: Path | None = None, environ: Mapping[str, str], flags: Mapping[str, Any] | None = None, cwd: Path | None = None) -> Loaded:
    """Read everything. `flags` maps names of settings to values, and "ehr" to a sequence of NAME=URL. Raises ConfigError."""
    cwd = cwd or Path.cwd()
    values = _Values({}, {})
    path = config or (Path(environ["GATEWAY_CONFIG"]) if environ.get("GATEWAY_CONFIG") else None)
    if path is None and (cwd / DEFAULT_FILE).is_file():
        path = cwd / DEFAULT_FILE
    if path is not None:
        values.take(_from_file(path if path.is_absolute() else cwd / path))
    values.take(_from_environ(environ, cwd))
    values.take(_from_flags(flags or {}, cwd))
    return values.loaded(cwd)


# Reading the three sources -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Found:
    """A value as it stands somewhere. `ehr` is "" for a setting of the gateway itself, `sign_in.NAME` for one of a provider."""

    ehr: str
    name: str
    raw: Any
    place: Place
    by_variable: bool = False


@dataclass(frozen=True, slots=True)
class _Values:
    """What was read so far, checked; a later source replaces an earlier one."""

    values: dict[tuple[str, str], Any]
    sources: dict[str, str]

    def take(self, found: Iterator[_Found]) -> None:
        for one in found:
            cls = SignInSettings if one.ehr.startswith(_SIGN_IN) else EhrSettings if one.ehr else Settings
            spec = dict(_specs(cls)).get(one.name)
            if spec is None:
                raise _unknown(one, cls)
            if spec["env_only"] and not one.by_variable:
                raise ConfigError(f"{one.name} is a secret and does not belong here", where=one.place.label, fix=_secret_fix(one, dict(_specs(cls))))
            try:
                self.values[one.ehr, one.name] = spec["parse"](one.raw, one.place)
            except Wrong as error:
                shown = "the value" if spec["secret"] else one.name
                raise ConfigError(f"{shown}: {error}", where=one.place.label, fix=error.fix) from error
            prefix = "" if not one.ehr else f"{one.ehr}." if one.ehr.startswith(_SIGN_IN) else f"ehr.{one.ehr}."
            self.sources[f"{prefix}{one.name}"] = one.place.label

    def loaded(self, cwd: Path) -> Loaded:
        names = dict.fromkeys(ehr for ehr, _ in self.values if ehr and not ehr.startswith(_SIGN_IN))
        ehrs = tuple(self._ehr(name) for name in names)
        providers = dict.fromkeys(name for name, _ in self.values if name.startswith(_SIGN_IN))
        sign_in = tuple(self._provider(name, ehrs) for name in providers)
        own: dict[str, Any] = {name: value for (ehr, name), value in self.values.items() if not ehr}
        settings = _completed(Settings(**own, ehrs=ehrs, sign_in=sign_in), self.sources, cwd)
        _check_together(settings, self.sources)
        return Loaded(settings, self.sources)

    def _ehr(self, name: str) -> EhrSettings:
        values = {key: value for (ehr, key), value in self.values.items() if ehr == name}
        where = next((label for key, label in self.sources.items() if key.startswith(f"ehr.{name}.")), f"ehr.{name}")
        if not values.get("url"):
            raise ConfigError(f"EHR {name} has no url", where=where, fix=f'write url = "https://..." under [ehr.{name}]')
        found = EhrSettings(name=name, **values)
        _check_ehr(found, where)
        return found

    def _provider(self, table: str, ehrs: tuple[EhrSettings, ...]) -> SignInSettings:
        values = {key: value for (name, key), value in self.values.items() if name == table}
        where = next((label for key, label in self.sources.items() if key.startswith(f"{table}.")), table)
        for needed in ("issuer", "client_id", "client_secret_file"):
            if not values.get(needed):
                raise ConfigError(f"{table} has no {needed}", where=where, fix=f"write {needed} under [{table}]")
        if not values.get("ehr") and len(ehrs) == 1:
            values["ehr"] = ehrs[0].name
        if values.get("ehr") not in {one.name for one in ehrs}:
            raise ConfigError(f"{table} does not say at which EHR its people are", where=where, fix=f"write ehr = NAME under [{table}]")
        issuer = str(values["issuer"])
        if issuer.startswith("http://") and not is_loopback(urlsplit(issuer).hostname or ""):
            raise ConfigError(f"{table}: a secret would travel in the clear", where=where, fix="use its https URL")
        return SignInSettings(name=table.removeprefix(_SIGN_IN), **values)


def _from_file(path: Path) -> Iterator[_Found]:
    try:
        text = path.read_text(encoding="utf-8")
        document = tomllib.loads(text)
    except OSError as error:
        raise ConfigError(f"{path} cannot be read ({error.strerror})", where="--config", fix="name a file that exists") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        line = re.search(r"line (\d+)", str(error))
        where = f"{path.name}:{line[1]}" if line else path.name
        raise ConfigError(f"this is no TOML: {error}", where=where, fix='write settings as name = "value"') from error

    def place(table: str, key: str) -> Place:
        return Place(f"{path.name}:{_line_of(text, table, key)}", path.parent)

    for key, value in document.items():
        if key in _TABLES:
            if not isinstance(value, dict):
                raise ConfigError(f"{key} is no table", where=place("", key).label, fix=f"write [{key}] and its settings below it")
            for inner, one in cast("dict[str, Any]", value).items():
                yield _Found("", f"{key}_{inner}", one, place(key, inner))
            continue
        if key not in ("ehr", "sign_in"):
            yield _Found("", key, value, place("", key))
            continue
        needed = "url" if key == "ehr" else "issuer"
        if not isinstance(value, dict):
            raise ConfigError(f"{key} is no table", where=place("", key).label, fix=f"write [{key}.NAME] and its {needed} below it")
        for name, table in cast("dict[str, Any]", value).items():
            at = place(f"{key}.{name}", "")
            _check_name(name, at.label)
            if not isinstance(table, dict):
                raise ConfigError(f"{key}.{name} is no table", where=at.label, fix=f"write [{key}.{name}] and its {needed} below it")
            for inner, one in cast("dict[str, Any]", table).items():
                yield _Found(name if key == "ehr" else f"{_SIGN_IN}{name}", inner, one, place(f"{key}.{name}", inner))


def _line_of(text: str, table: str, key: str) -> int:
    """The line on which a key of a table stands; the table's own line when the key is not on a line of its own."""
    current, header = "", 1
    for number, line in enumerate(text.splitlines(), 1):
        if found := re.match(r"\s*\[\s*([^\]]+?)\s*\]", line):
            current = re.sub(r"\s*\.\s*", ".", found[1]).replace('"', "").replace("'", "")
            if current == table:
                header = number
            if key and current == (f"{table}.{key}" if table else key):
                return number
        elif key and current == table and re.match(rf"\s*[\"']?{re.escape(key)}[\"']?\s*[=.]", line):
            return number
    return header


def _from_environ(environ: Mapping[str, str], cwd: Path) -> Iterator[_Found]:
    own = {f"GATEWAY_{name.upper()}": name for name, _ in _specs(Settings)}
    for variable in sorted(environ):
        if not variable.startswith("GATEWAY_") or _FOREIGN.fullmatch(variable):
            continue
        place, raw = Place(variable, cwd), environ[variable]
        if variable in own:
            yield _Found("", own[variable], _table(raw) if own[variable] == "lives" else raw, place, by_variable=True)
            continue
        ehr, name = _ehr_variable(variable)
        if not ehr:
            near = difflib.get_close_matches(variable, own, 1)
            fix = f"did you mean {near[0]}?" if near else "`gateway config` lists the names; unset this one"
            raise ConfigError("there is no such setting", where=variable, fix=fix)
        _check_name(ehr, variable)
        yield _Found(ehr, name, _table(raw) if name == "lives" else raw, place, by_variable=True)


def _ehr_variable(variable: str) -> tuple[str, str]:
    """GATEWAY_EHR_ST_MARYS_BEARER_FILE is ("st-marys", "bearer_file")."""
    rest = variable.removeprefix("GATEWAY_EHR_")
    if rest == variable:
        return "", ""
    for name in sorted((name for name, _ in _specs(EhrSettings)), key=len, reverse=True):
        if rest.endswith(f"_{name.upper()}"):
            return rest.removesuffix(f"_{name.upper()}").lower().replace("_", "-"), name
    return "", ""


def _table(raw: str) -> Any:
    """`Observation=60,Patient=300` as a table."""
    return dict(part.strip().split("=", 1) for part in raw.split(",") if "=" in part) if raw else {}


def _from_flags(flags: Mapping[str, Any], cwd: Path) -> Iterator[_Found]:
    for name, value in flags.items():
        place = Place(f"--{name.replace('_', '-')}", cwd)
        if name == "ehr":
            for pair in value:
                ehr, equals, url = str(pair).partition("=")
                if not equals:
                    raise ConfigError(f"{pair!r} is not NAME=URL", where=place.label, fix="write it like --ehr hapi=http://127.0.0.1:8080/fhir")
                _check_name(ehr, place.label)
                yield _Found(ehr, "url", url, place)
        elif value is not None:
            yield _Found("", name, str(value) if isinstance(value, Path) else value, place)


# Checks ------------------------------------------------------------------------------------------------------------------------------


def _check_name(name: str, where: str) -> None:
    if not EHR_NAME.fullmatch(name):
        raise ConfigError(f"{name!r} is no name for a table", where=where, fix="take lower-case letters, digits and dashes, such as st-marys")


_NEEDED = {
    "basic": ("username",),
    "mtls": ("client_cert", "client_key"),
    "smart-backend": ("client_id", "key_file", "scope"),
    "smart": ("client_id", "scope"),
}
"""What each way to sign in needs, besides its secret."""
_OF = {
    **dict.fromkeys(("password_file", "username"), ("basic",)),
    "bearer_file": ("bearer",),
    **dict.fromkeys(("client_id", "key_file", "kid", "scope", "token_loopback"), ("smart-backend", "smart")),
    "token_endpoint": ("smart-backend",),
    **dict.fromkeys(("client_secret", "client_secret_file"), ("smart",)),
}
"""Settings that mean something with some ways to sign in only."""


def _check_ehr(ehr: EhrSettings, where: str) -> None:
    lacks = [name for name in _NEEDED.get(ehr.auth, ()) if not getattr(ehr, name)]
    if lacks:
        raise ConfigError(
            f"EHR {ehr.name}: auth = {ehr.auth} has no {' and no '.join(lacks)}", where=where, fix=f"set {' and '.join(lacks)} under [ehr.{ehr.name}]"
        )
    if ehr.auth in ("basic", "bearer"):
        ehr.secret()
    if ehr.auth in ("basic", "bearer", "smart-backend", "smart") and ehr.url.startswith("http://") and not ehr.is_loopback:
        raise ConfigError(f"EHR {ehr.name}: a secret would travel in the clear", where=where, fix="use its https URL")
    if ehr.token_endpoint.startswith("http://") and not (ehr.token_loopback and is_loopback(urlsplit(ehr.token_endpoint).hostname or "")):
        raise ConfigError(
            f"EHR {ehr.name}: token_endpoint is not https",
            where=where,
            fix="use its https URL (on this machine, for development: token_loopback = true)",
        )
    for name, kinds in _OF.items():
        if getattr(ehr, name) and ehr.auth not in kinds:
            raise ConfigError(f"EHR {ehr.name}: {name} has no effect", where=where, fix=f'set auth = "{kinds[0]}" as well, or leave {name} out')
    if ehr.auth == "smart":
        _check_app(ehr, where)


def _check_app(ehr: EhrSettings, where: str) -> None:
    """The gateway as an app of a person: it has to learn who she is, and has one way to say who it is itself."""
    lacks = [one for one in ("openid", "fhirUser") if one not in ehr.scope.split()]
    if lacks:
        raise ConfigError(
            f"EHR {ehr.name}: scope has no {' and no '.join(lacks)}", where=where, fix="add openid and fhirUser: they tell who signed in there"
        )
    if ehr.key_file and (ehr.client_secret or ehr.client_secret_file):
        raise ConfigError(f"EHR {ehr.name}: a key and a secret are set", where=where, fix="leave one out")


def _completed(settings: Settings, sources: Mapping[str, str], cwd: Path) -> Settings:
    data_dir = (cwd / settings.data_dir).absolute()
    if settings.store.startswith("sqlite") and "data_dir" not in sources:
        # Two stores in one folder are two gateways: their audit segments and keys stay apart.
        file = Path(settings.store.removeprefix("sqlite+aiosqlite:///"))
        data_dir = file.with_name(f"{file.stem}-data")
    scheme = "https" if settings.tls_cert else "http"
    host = settings.host if settings.host not in ("0.0.0.0", "::") else "127.0.0.1"  # noqa: S104  # compared, not bound
    shown = f"[{host}]" if ":" in host else host
    return replace(
        settings,
        data_dir=data_dir,
        store=settings.store or f"sqlite+aiosqlite:///{data_dir / 'gateway.db'}",
        public_url=settings.public_url or f"{scheme}://{shown}:{settings.port}",
    )


def _check_together(settings: Settings, sources: Mapping[str, str]) -> None:
    if bool(settings.tls_cert) != bool(settings.tls_key):
        present, absent = ("tls_cert", "tls_key") if settings.tls_cert else ("tls_key", "tls_cert")
        raise ConfigError(f"{present} is set without {absent}", where=sources.get(present, present), fix=f"set {absent} too")
    if settings.workers > 1 and not settings.redis:
        raise ConfigError(
            "more than one process cannot share a cache in memory",
            where=sources.get("workers", "workers"),
            fix="set redis, or workers = 1",
        )
    said = sorted(key for key in sources if key.startswith("brand_"))
    for name in ("brand_name", "brand_website"):
        if said and not getattr(settings, name):
            raise ConfigError(f"[brand] has no {name.removeprefix('brand_')}", where=sources[said[0]], fix=f"write {name.removeprefix('brand_')} too")
    if settings.launcher_users and not settings.launcher_enabled:
        where = sources.get("launcher_users", "launcher_users")
        raise ConfigError("[launcher] users has no effect", where=where, fix="write enabled = true there as well, or leave users out")
    if settings.key and settings.key_file:
        raise ConfigError("the key is given twice", where=sources.get("key", "key"), fix="leave out key_file or GATEWAY_KEY")
    _check_notify(settings, sources)


def _check_notify(settings: Settings, sources: Mapping[str, str]) -> None:
    where = sources.get("notify", "notify")
    for name, needed_by in (("notify_file", "file"), ("smtp", "smtp"), ("smtp_from", "smtp")):
        if settings.notify == needed_by and not getattr(settings, name):
            raise ConfigError(f"notify = {needed_by} has no {name}", where=where, fix=f"set {name}")
    for name in ("notify_file", "smtp", "smtp_from", "smtp_username", "smtp_password", "smtp_password_file", "smtp_ca"):
        kind = "file" if name == "notify_file" else "smtp"
        if getattr(settings, name) and settings.notify != kind:
            raise ConfigError(f"{name} has no effect", where=sources.get(name, name), fix=f'set notify = "{kind}" as well, or leave {name} out')
    settings.mail_secret()


def _unknown(one: _Found, cls: type) -> ConfigError:
    names = [name for name, _ in _specs(cls)]
    near = difflib.get_close_matches(one.name, names, 1)
    if one.name in {name for name, _ in _specs(EhrSettings)} and not one.ehr:
        return ConfigError(f"{one.name} is a setting of an EHR", where=one.place.label, fix="write it under [ehr.NAME]")
    fix = f"did you mean {near[0]}?" if near else "`gateway config` lists the names"
    return ConfigError(f"there is no setting called {one.name}", where=one.place.label, fix=fix)


def _secret_fix(one: _Found, specs: Mapping[str, Any]) -> str:
    variable = f"GATEWAY_EHR_{env_name(one.ehr)}_{one.name.upper()}" if one.ehr else f"GATEWAY_{one.name.upper()}"
    file = f"{one.name}file"
    return f"put it into a file and name that by {file}, or use the variable {variable}" if file in specs else f"use the variable {variable}"


def _specs(cls: type) -> list[tuple[str, Mapping[str, Any]]]:
    return [(one.name, one.metadata) for one in fields(cls) if one.metadata]


def _shown(value: Any, *, secret: bool) -> str:
    if secret:
        return "(set)" if value else ""
    match value:
        case None:
            return ""
        case bool():
            return str(value).lower()
        case tuple():
            return ", ".join(str(one) for one in cast("tuple[Any, ...]", value))
        case Mapping():
            return ", ".join(f"{name} = {one:g}" for name, one in cast("Mapping[str, float]", value).items())
        case str() if "://" in value and "@" in value:
            return re.sub(r"://([^:@/]*):[^@/]*@", r"://\1:***@", value)  # the password of a store's or Redis' URL
        case _:
            return str(value)
