"""The settings: each declared once, with its default, its help text and its check. Components get plain arguments made from these."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar, cast
from urllib.parse import urlsplit

from gateway.config import parse
from gateway.errors import ConfigError

T = TypeVar("T")
US_CORE = ("6.1.0", "7.0.0", "8.0.0")
"""Those whose profiles are in profiles/fhir/us-core.json."""
_NO_LIVES: Mapping[str, float] = {}


def _setting(default: T, help_: str, check: parse.Parse, *, secret: bool = False, env_only: bool = False) -> T:
    """A dataclass field that knows its help text and how to read itself from TOML, text or a flag."""
    metadata = {"help": help_, "parse": check, "secret": secret, "env_only": env_only}
    if isinstance(default, dict):  # an empty table: each instance its own
        return cast("T", field(default_factory=dict[str, Any], metadata=metadata))
    return field(default=default, metadata=metadata, repr=not secret)


@dataclass(frozen=True, slots=True)
class EhrSettings:
    """One EHR, `[ehr.NAME]` in the file. Secrets come from files or from the environment, never from the settings file."""

    name: str = ""
    url: str = _setting("", "Base URL of its FHIR R4 server.", parse.url)
    display: str = _setting("", "Its name for people, on pages and consents. Without it, the name in the configuration.", parse.text)
    phone: str = _setting("", "The number that pages give to people who need help.", parse.text)
    timezone: str = _setting("", "The clinic's time zone, such as Europe/Paris. Without it, times are shown as the data name them.", parse.timezone)
    replies_within: str = _setting("", "In what time messages are answered, such as 3 working days. Without it, pages promise none.", parse.text)
    platform: str = _setting(
        "auto", "What software it is: auto asks its CapabilityStatement.", parse.one_of("auto", "generic", "hapi", "epic", "oracle")
    )
    aliases: tuple[str, ...] = _setting((), "Other base URLs by which it names itself in links and references.", parse.urls)
    client_ids: bool | None = _setting(None, "Whether it takes ids of clients (PUT of a new one). Without it, found out.", parse.boolean)
    transactions: bool | None = _setting(None, "Whether it takes transactions. Without it, found out.", parse.boolean)
    auth: str = _setting("none", "How the gateway signs in there.", parse.one_of("none", "basic", "bearer", "mtls", "smart-backend", "smart"))
    username: str = _setting("", "For auth = basic.", parse.text)
    password: str = _setting("", "For auth = basic, by variable only.", parse.text, secret=True, env_only=True)
    password_file: Path | None = _setting(None, "For auth = basic: a file that holds the password.", parse.file)
    bearer: str = _setting("", "For auth = bearer, by variable only.", parse.text, secret=True, env_only=True)
    bearer_file: Path | None = _setting(None, "For auth = bearer: a file that holds the token.", parse.file)
    client_cert: Path | None = _setting(None, "For auth = mtls: the gateway's certificate chain (PEM).", parse.file)
    client_key: Path | None = _setting(None, "For auth = mtls: its private key (PEM).", parse.file)
    client_id: str = _setting("", "For auth = smart-backend or smart: the id under which the gateway is registered there.", parse.text)
    key_file: Path | None = _setting(None, "For auth = smart-backend or smart: the gateway's private key (JWK, JWK Set or PEM).", parse.file)
    kid: str = _setting("", "For auth = smart-backend or smart: the key's id, where the file does not say it.", parse.text)
    client_secret: str = _setting("", "For auth = smart without key_file: by variable only.", parse.text, secret=True, env_only=True)
    client_secret_file: Path | None = _setting(None, "For auth = smart without key_file: a file that holds the client's secret.", parse.file)
    scope: str = _setting("", "For auth = smart-backend or smart: what to ask for, such as system/*.cruds.", parse.text)
    token_endpoint: str = _setting("", "For auth = smart-backend: instead of the one in the EHR's SMART configuration.", parse.endpoint)
    token_loopback: bool = _setting(
        default=False,
        help_="For auth = smart-backend or smart: SMART endpoints may be plain http on this machine (development).",
        check=parse.boolean,
    )
    brand_website: str = _setting("", "Its public website, for its own brand where there are several EHRs.", parse.page)
    brand_identifier: str = _setting("", "SYSTEM|VALUE of its own brand. Without it, the website's, or its FHIR base here.", parse.identifier)
    us_core: str = _setting(
        "", "The version of US Core that its data conform to, as its vendor says. Then /metadata says so too.", parse.one_of("", *US_CORE)
    )
    ca: Path | None = _setting(None, "Certificates to trust for this EHR (PEM) instead of the system's.", parse.file)
    timeout: float = _setting(10.0, "Seconds for one whole answer of this EHR.", parse.number(0.1, 300, " seconds"))
    lives: Mapping[str, float] = _setting(_NO_LIVES, "Seconds that answers of this EHR may be cached, by type.", parse.lives)

    @property
    def title(self) -> str:
        """Its name for people."""
        return self.display or self.name

    @property
    def is_loopback(self) -> bool:
        """Whether it can be reached from this machine only."""
        return is_loopback(urlsplit(self.url).hostname or "")

    def secret(self) -> str:
        """The password or token, read now. Raises ConfigError when there is none."""
        value, path = (self.password, self.password_file) if self.auth == "basic" else (self.bearer, self.bearer_file)
        found = value or (path.read_text().strip() if path else "")
        if not found:
            kind = "password" if self.auth == "basic" else "bearer"
            variable = f"GATEWAY_EHR_{env_name(self.name)}_{kind.upper()}"
            raise ConfigError(f"auth = {self.auth} has no {kind}", where=f"ehr.{self.name}", fix=f"set {kind}_file or {variable}")
        return found

    def app_secret(self) -> str:
        """The client's secret for auth = smart, read now; "" for a client with a key, or a public one."""
        return self.client_secret or (self.client_secret_file.read_text().strip() if self.client_secret_file else "")


@dataclass(frozen=True, slots=True)
class SignInSettings:
    """An outside OpenID provider that signs people in, `[sign_in.NAME]` in the file."""

    name: str = ""
    issuer: str = _setting("", "Its issuer, as it writes it itself.", parse.endpoint)
    title: str = _setting("", "How the sign-in page calls it. Without it, the name in the configuration.", parse.text)
    client_id: str = _setting("", "The id under which the gateway is registered there.", parse.text)
    client_secret_file: Path | None = _setting(None, "A file that holds the secret.", parse.file)
    ehr: str = _setting("", "At which EHR its people are. May be left out where there is one.", parse.text)
    claim: str = _setting("fhirUser", "Which claim of the id_token names the FHIR user: Patient/ID, or a URL below a known base.", parse.text)
    base: str = _setting("", "The base of such URLs. Without it: the EHR's url, our own address for it, and the issuer.", parse.url)
    scope: str = _setting("openid fhirUser", "What to ask for.", parse.text)
    aud: str = _setting("", "Sent as aud, where the provider is a SMART server: its FHIR base.", parse.url)
    ca: Path | None = _setting(None, "Certificates to trust for it (PEM) instead of the system's.", parse.file)

    def secret(self) -> str:
        """The client secret, read now. Raises ConfigError when there is none."""
        found = self.client_secret_file.read_text().strip() if self.client_secret_file else ""
        if not found:
            raise ConfigError("the file of the secret is empty", where=f"sign_in.{self.name}.client_secret_file", fix="write the secret into it")
        return found


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything that can be set. Defaults are safe for one machine."""

    public_url: str = _setting("", "The address at which callers find the gateway. Without it, the one it listens on.", parse.public_url)
    listen: str = _setting("127.0.0.1:8080", "HOST:PORT to listen on.", parse.listen)
    data_dir: Path = _setting(
        Path("gateway-data"), "Folder for keys, audit segments and the event log. With store = sqlite:///x.db: x-data beside it.", parse.path
    )
    store: str = _setting("", "Where state is kept: sqlite:///file or postgresql://... Without it, gateway.db in data_dir.", parse.store)
    redis: str = _setting("", "Redis or Valkey for cached answers. Without it, memory, for a single process only.", parse.redis)
    cache_bytes: int = _setting(64 * 1024 * 1024, "Most bytes of cached answers in memory when there is no Redis.", parse.count(0, 2**40, " bytes"))
    process_cache_bytes: int = _setting(
        16 * 1024 * 1024, "Most bytes of cached answers that each process keeps for itself beside Redis; 0: none.", parse.count(0, 2**40, " bytes")
    )
    workers: int = _setting(1, "Processes that serve HTTP. More than one needs Redis.", parse.count(1, 64))
    with_worker: bool = _setting(default=False, help_="Deliver the inbox from within the serving process too (one machine).", check=parse.boolean)
    tls_cert: Path | None = _setting(None, "Certificate chain (PEM) to serve https with.", parse.file)
    tls_key: Path | None = _setting(None, "Its private key (PEM).", parse.file)
    trusted_proxies: tuple[parse.Network, ...] = _setting((), "Addresses whose X-Forwarded-For is believed.", parse.networks)
    key_file: Path | None = _setting(None, "File of the key that seals what is stored. Without it, data_dir/key, made at first start.", parse.path)
    key: tuple[bytes, ...] = _setting((), "The same by variable: base64; of several, the first seals.", parse.keys, secret=True, env_only=True)
    seal: bool = _setting(
        default=True, help_="Encrypt inbox bodies, the event log, trials and cached values; what opens a door is always.", check=parse.boolean
    )
    writes: str = _setting(
        "table", "What a token may write: table narrows its scopes; scopes alone is for sandboxes.", parse.one_of("table", "scopes")
    )
    practitioner_access: str = _setting("listed", "Whom a practitioner's token reaches.", parse.one_of("launched", "listed", "all"))
    coherence: float = _setting(1.0, "Seconds after which every process has seen an invalidation.", parse.number(0.1, 30, " seconds"))
    notify: str = _setting(
        "none",
        "How codes reach people: none, smtp, a file (of JSON lines), or the console (for a demo). With none, addresses are not asked for.",
        parse.one_of("none", "smtp", "file", "console"),
    )
    notify_file: Path | None = _setting(None, "For notify = file: the file to which each message is added.", parse.path)
    smtp: str = _setting("", "For notify = smtp: smtp://HOST:PORT (with STARTTLS) or smtps://HOST:PORT.", parse.mail_server)
    smtp_from: str = _setting("", "For notify = smtp: the address that messages come from.", parse.mail_address)
    smtp_username: str = _setting("", "For notify = smtp: who signs in there. Without it, nobody does.", parse.text)
    smtp_password: str = _setting("", "For notify = smtp, by variable only.", parse.text, secret=True, env_only=True)
    smtp_password_file: Path | None = _setting(None, "For notify = smtp: a file that holds the password.", parse.file)
    smtp_ca: Path | None = _setting(None, "For notify = smtp: certificates to trust (PEM) instead of the system's.", parse.file)
    push_wait: float = _setting(10.0, "Seconds that a push waits for its result before it gets a 202.", parse.number(0, 60, " seconds"))
    # Times when the EHR is away count for none, so even one attempt loses nothing; a hundred are hours, and what waits behind it gets no further.
    push_attempts: int = _setting(12, "Attempts to deliver a push after which it is dead: an operator decides.", parse.count(1, 100))
    push_on_dead: str = _setting(
        "block",
        "What was pushed for the same patient behind a dead message: block holds it, since order matters; skip delivers it.",
        parse.one_of("block", "skip"),
    )
    lives: Mapping[str, float] = _setting(_NO_LIVES, "Seconds that answers may be cached, by resource type.", parse.lives)
    stale: float = _setting(
        300.0,
        "Seconds beyond its life that a cached answer is given, and said to be old, while the EHR fails; 0: none.",
        parse.number(0, 86400, " seconds"),
    )
    body_cap: int = _setting(16 * 1024 * 1024, "Most bytes of one request's body.", parse.count(1024, 2**30, " bytes"))
    require_pushed_requests: bool = _setting(default=False, help_="Take authorization requests only as pushed (RFC 9126).", check=parse.boolean)
    jwks_loopback: bool = _setting(default=False, help_="Fetch clients' keys from loopback addresses too (development).", check=parse.boolean)
    registration: str = _setting(
        "closed",
        "Whether developers register their own apps over HTTP (RFC 7591): closed; token, with an invite of the operator's; open, for sandboxes.",
        parse.one_of("closed", "token", "open"),
    )
    registration_review: bool = _setting(
        default=True, help_="An app that registered itself waits for `gateway client approve`, and again when it changes.", check=parse.boolean
    )
    launch_user: str = _setting(
        "optional",
        "Whether whoever launches an app has to say for which user: required, or optional: then any staff of that EHR may use the launch.",
        parse.one_of("optional", "required"),
    )
    registration_rate: int = _setting(20, "Registrations an hour from one address, refused ones too; more are refused.", parse.count(1, 100_000))
    brand_name: str = _setting("", "[brand] name: by which apps show who offers access here. Without it, no brands are published.", parse.text)
    brand_website: str = _setting("", "[brand] website: its public website, which is not the portal.", parse.page)
    brand_identifier: str = _setting("", "[brand] identifier: SYSTEM|VALUE. Without it, the website's address.", parse.identifier)
    brand_aliases: tuple[str, ...] = _setting((), "[brand] aliases: other names that people know it by.", parse.texts)
    brand_category: str = _setting("prov", "[brand] category: prov, a provider of care, or ins, an insurer.", parse.one_of("prov", "ins"))
    brand_addresses: tuple[Mapping[str, str], ...] = _setting((), "[brand] addresses: where it is.", parse.addresses)
    brand_logo: str = _setting("", "[brand] logo: SVG or a square PNG, by https.", parse.page)
    brand_logo_license: str = _setting("", "[brand] logo_license: on what terms apps may show it.", parse.page)
    brand_portal: str = _setting("", "[brand] portal: what the portal is called. Without it, the brand's name.", parse.text)
    brand_portal_url: str = _setting("", "[brand] portal_url: another portal than this gateway's own.", parse.page)
    brand_portal_description: str = _setting("", "[brand] portal_description: for whom it is.", parse.text)
    brand_portal_logo: str = _setting("", "[brand] portal_logo: the portal's own.", parse.page)
    brand_developers: str = _setting("", "[brand] developers: where developers read how to get access. Without it, the website.", parse.page)
    brand_bundle: str = _setting("", "[brand] bundle: where the brands are published elsewhere; discovery names that instead of /brands.", parse.page)
    launcher_enabled: bool = _setting(
        default=False, help_="[launcher] enabled: pages on which developers try apps and simulate errors. Not for production.", check=parse.boolean
    )
    launcher_users: tuple[str, ...] = _setting(
        (), "[launcher] users: developers' accounts, as which it may sign a browser in without their password.", parse.texts
    )
    log_format: str = _setting("text", "Logs on stderr: text for people, json for machines.", parse.one_of("text", "json"))
    ehrs: tuple[EhrSettings, ...] = ()
    sign_in: tuple[SignInSettings, ...] = ()

    @property
    def host(self) -> str:
        """Where to listen."""
        return self.listen.rpartition(":")[0].strip("[]")

    @property
    def port(self) -> int:
        """0: any free one."""
        return int(self.listen.rpartition(":")[2])

    @property
    def https(self) -> bool:
        """Whether callers come by https: cookies depend on it."""
        return self.public_url.startswith("https://")

    def mail_secret(self) -> str:
        """The mail server's password, read now; "" where nobody signs in."""
        found = self.smtp_password or (self.smtp_password_file.read_text().strip() if self.smtp_password_file else "")
        if self.smtp_username and not found:
            raise ConfigError("smtp_username has no password", where="smtp_username", fix="set smtp_password_file or GATEWAY_SMTP_PASSWORD")
        return found

    def ehr(self, name: str) -> EhrSettings:
        """The EHR of this name. Raises ConfigError."""
        for one in self.ehrs:
            if one.name == name:
                return one
        known = ", ".join(one.name for one in self.ehrs) or "none"
        raise ConfigError(f"There is no EHR called {name}.", where="--ehr", fix=f"choose one of: {known}; or add [ehr.{name}] with its url")


def is_loopback(host: str) -> bool:
    """Whether this host name or address is this machine itself."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def env_name(name: str) -> str:
    """How a name is spelt within a variable."""
    return name.upper().replace("-", "_")
