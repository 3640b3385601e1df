"""Builds every object once, in one visible, ordered list. The only place that names concrete classes.

`gateway` builds on what is on this machine (`local`) all that serves and delivers, in the order in which each needs the ones before it.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo

from fastapi import APIRouter, Request
from sqlalchemy import text

from gateway import credentials, local, shipped
from gateway.adapters import ehr as adapters
from gateway.adapters import notify
from gateway.adapters.ehr.base import Ehr
from gateway.api import brands as api_brands
from gateway.api import health, oauth, registration, upstream_keys
from gateway.api import launches as api_launches
from gateway.api import trials as api_trials
from gateway.api.asgi import Limits, client_address
from gateway.api.fhir import Edge, FhirFacade
from gateway.cache.cache import Cache, NoCache
from gateway.cache.circle import Circle
from gateway.cache.memory import Held, MemoryStore, single_process_lock
from gateway.cache.policy import Lives
from gateway.cache.store import CacheStore
from gateway.config import EhrSettings, Settings, SignInSettings
from gateway.config.settings import is_loopback
from gateway.errors import ConfigError, Unavailable
from gateway.fhir import brands
from gateway.fhir.brands import Brand, Brands, BrandWrong, Site
from gateway.ingest.deliver import Parts as WorkerParts
from gateway.ingest.deliver import Policy as WorkerPolicy
from gateway.ingest.deliver import Worker
from gateway.ingest.receive import Door, Inbox
from gateway.ingest.senders import RegisteredSenders
from gateway.ingest.signals import Signals
from gateway.local import State
from gateway.portal.chart import Source
from gateway.portal.faces import Faces
from gateway.portal.visits import Visits
from gateway.proxy.access_log import AccessLog
from gateway.proxy.capabilities import Capabilities
from gateway.proxy.pipeline import Parts, Pipeline
from gateway.seal import Plain, Seals
from gateway.smart.client.assertion import KeyUnusable, public_keys
from gateway.smart.client.connections import Connections
from gateway.smart.client.persons import PersonTokens
from gateway.smart.client.tokens import Tokens
from gateway.smart.http import Http
from gateway.smart.policy import AccessRules
from gateway.smart.server.clients.jwks import JwksFetcher
from gateway.smart.server.discovery import Offered, openid_configuration, smart_configuration
from gateway.smart.server.endpoints import Endpoints
from gateway.smart.server.people.accounts import Passwords
from gateway.smart.server.people.providers import Provider, ProviderConfig
from gateway.smart.server.people.verification import NoNotifier, Notifier, Verification
from gateway.smart.server.token.authenticator import Authenticator
from gateway.smart.server.trial import OFF
from gateway.smart.server.trials import Trials
from gateway.smart_server import Means, authorization_server, terms
from gateway.store.base import Database, now
from gateway.store.turns import StoredTurns
from gateway.web import apps, authorize, forgotten, portal, security, signin, upstream
from gateway.web import launcher as web_launcher
from gateway.web.doors import Doors
from gateway.web.edge import WebEdge
from gateway.web.pages import Pages
from gateway.web.people import People

AnEhr = adapters.AutoEhr | adapters.GenericEhr


@dataclass(frozen=True, slots=True)
class Gateway:
    """Everything. `routers` are the routes beside the FHIR facade; `lock` is held while a cache in memory is used."""

    state: State
    ehrs: Mapping[str, Ehr]
    cache: Cache | NoCache
    pipeline: Pipeline
    inbox: Inbox
    worker: Worker
    authenticator: Authenticator
    edge: Edge
    pages: Pages
    people: People
    passwords: Passwords
    verification: Verification
    routers: tuple[APIRouter, ...]
    trials: Trials | None = None
    lock: Held | None = None

    def facade(self, rest: Any) -> FhirFacade:
        """The ASGI app: FHIR first, everything else goes on to `rest`."""
        return FhirFacade(self.pipeline, self.authenticator, self.inbox, self.edge, rest)

    async def close(self) -> None:
        """Give everything back, what was built last first."""
        await self.verification.settled()  # codes on their way
        if self.trials:
            await self.trials.settled()
        self.passwords.close()
        await self.pipeline.close()
        for one in self.ehrs.values():
            await one.close()
        await self.cache.close()
        await self.state.close()
        if self.lock:
            self.lock.close()


def gateway(settings: Settings) -> Gateway:
    """The list. Called within the running loop: connection pools belong to it. Raises ConfigError."""
    found = local.state(settings)
    database, audit, events, seals = found.database, found.audit, found.events, found.seals
    tables = shipped.tables()
    names = tuple(one.name for one in settings.ehrs)
    persons = {one.name: _persons(found, one) for one in settings.ehrs if one.auth == "smart"}
    ehrs = {one.name: _connected(one, persons.get(one.name) or _auth(one)) for one in settings.ehrs}

    # The road to the EHRs
    cache, lock = _cache(found)
    capabilities = Capabilities(
        tables,
        events.write,
        public_url=settings.public_url,
        endpoints={name: _oauth_urls(settings, name) for name in names},
        claims={one.name: shipped.us_core(one.us_core) for one in settings.ehrs if one.us_core},
    )
    pipeline = Pipeline(
        ehrs,
        Parts(
            tables=tables,
            cache=cache,
            audit=audit,
            access_log=AccessLog(audit),
            capabilities=capabilities,
            events=events.write,
            seal=found.secrets,
            public_url=settings.public_url,
            rules=AccessRules(settings.writes, settings.practitioner_access),
            lives=_lives(settings),
            stale=settings.stale,
            upstreams=persons,
        ),
    )

    # What is pushed
    signals = Signals()
    inbox = Inbox(pipeline, database, audit, seals, tables, signals, Door(settings.public_url, settings.push_wait))
    parts = WorkerParts(pipeline, RegisteredSenders(database), database, audit, seals, cache, tables, signals, settings.public_url)
    worker = Worker(parts, WorkerPolicy(attempts=settings.push_attempts, block=settings.push_on_dead == "block"))

    # Who may
    types = tuple(sorted(name for name in tables.compartment if tables.for_persons(name)))
    pages = Pages(settings.public_url)
    means = Means(Passwords(), _notifier(settings), JwksFetcher(allow_loopback=settings.jwks_loopback), found.seals)
    server = authorization_server(found.ground, terms(settings, types=types, service=pages.service), means)
    launcher, authenticator = server.trials, server.authenticator

    # People and their pages
    providers = {one.name: _provider(found, one) for one in settings.sign_in}
    doors = Doors(server.accounts, server.sessions, server.factors, server.passkeys, server.verification, server.endings, providers)
    people = People(server.sessions, public_url=settings.public_url)

    def address(request: Request) -> str:
        return client_address(request.scope, settings.trusted_proxies)

    published = _brands(settings)
    oauth_edge = oauth.OAuthEdge(names, authenticator.allowed_origin, audit.append, settings.trusted_proxies)
    connections = _connections(found, persons)
    web_edge = WebEdge(pages, people, names, address)
    documents = {name: _documents(settings, name, types, published) for name in names}
    titles = {one.name: one.title for one in settings.ehrs}
    discovery = {name: found["smart-configuration"] for name, found in documents.items()}
    shows = web_launcher.Shows(server.clients, Faces(pipeline), Visits(pipeline), titles, discovery, settings.public_url)
    routers = (
        health.router(needed={"store": _up(database)}, wanted={"cache": cache.ping}),
        oauth.router(server.tokens, server.inspector, server.pushed, server.keys, oauth_edge),
        registration.router(server.own_registrations, oauth_edge),
        api_launches.router(authenticator, api_launches.Starters(server.launches, settings.public_url, launcher), oauth_edge),
        *((api_trials.router(launcher), web_launcher.router(web_edge, launcher, shows)) if launcher else ()),
        upstream_keys.router({one.name: partial(_public_keys, one) for one in settings.ehrs if one.key_file}),
        *((api_brands.router(published),) if published else ()),
        signin.router(web_edge, doors, server.authorizations),
        forgotten.router(web_edge, doors),
        security.router(web_edge, doors),
        authorize.router(web_edge, server.authorizations, Faces(pipeline), connections, found.ground.lifetimes),
        apps.router(web_edge, server.grants),
        upstream.router(web_edge, connections, titles),
        portal.router(pages=pages, people=people, pipeline=pipeline, sources=_Sources(settings, ehrs), address=address, claims=StoredTurns(database)),
    )
    edge = Edge(
        public_url=settings.public_url,
        discovery=documents,
        allowed_origin=authenticator.allowed_origin,
        limits=Limits(cap=settings.body_cap),
        trusted_proxies=settings.trusted_proxies,
        watch=launcher or OFF,
    )
    return Gateway(
        found, ehrs, cache, pipeline, inbox, worker, authenticator, edge, pages, people, means.passwords, server.verification, routers, launcher, lock
    )


class _Sources(Mapping[str, Source]):
    """The EHRs as patients know them. Whether one takes ids of clients may be found out later than now (platform = auto)."""

    def __init__(self, settings: Settings, ehrs: Mapping[str, AnEhr]) -> None:
        self._settings = {one.name: one for one in settings.ehrs}
        self._ehrs = ehrs

    def __getitem__(self, name: str) -> Source:
        ehr = self._settings[name]
        zone = ZoneInfo(ehr.timezone) if ehr.timezone else None
        return Source(name, ehr.title, ehr.phone, zone, self._ehrs[name].offered.client_ids.of, ehr.replies_within)

    def __iter__(self) -> Iterator[str]:
        return iter(self._settings)

    def __len__(self) -> int:
        return len(self._settings)


def _connected(ehr: EhrSettings, auth: adapters.Auth) -> AnEhr:
    return adapters.connect(
        ehr.name,
        ehr.url,
        platform=ehr.platform,
        auth=auth,
        timeout=ehr.timeout,
        tls=credentials.tls(ehr),
        aliases=ehr.aliases,
        told=adapters.Told(ehr.client_ids, ehr.transactions),
    )


def _provider(found: State, one: SignInSettings) -> Provider:
    """An outside OpenID provider."""
    settings = found.settings
    bases = (one.base,) if one.base else (settings.ehr(one.ehr).url, Endpoints(settings.public_url, one.ehr).base, one.issuer.rstrip("/"))
    title = one.title or one.name
    config = ProviderConfig(one.name, title, one.issuer, one.client_id, one.secret(), one.ehr, one.claim, one.scope, one.aud, bases)
    try:
        tls = ssl.create_default_context(cafile=str(one.ca) if one.ca else None)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError("its certificates cannot be used", where=f"sign_in.{one.name}.ca", fix="name a PEM file of certificates") from error
    fetch = JwksFetcher(allow_loopback=config.loopback)
    return Provider(config, found.database, found.secrets, Http(tls), fetch, public_url=settings.public_url, record_in=found.audit.record_in)


def _notifier(settings: Settings) -> Notifier:
    """What reaches people."""
    match settings.notify:
        case "smtp":
            return notify.Smtp(_mail_server(settings))
        case "file":
            return notify.File(settings.notify_file or settings.data_dir / "messages.jsonl")
        case "console":
            return notify.Console()
        case _:
            return NoNotifier()


def _mail_server(settings: Settings) -> notify.MailServer:
    target = urlsplit(settings.smtp)
    host = target.hostname or ""
    tls = "implicit" if target.scheme == "smtps" else "none" if is_loopback(host) else "starttls"
    try:
        context = ssl.create_default_context(cafile=str(settings.smtp_ca)) if settings.smtp_ca else None
    except (OSError, ssl.SSLError) as error:
        raise ConfigError("its certificates cannot be used", where="smtp_ca", fix="name a PEM file of certificates") from error
    secret = settings.mail_secret()
    return notify.MailServer(host, target.port or 25, settings.smtp_from, tls, settings.smtp_username, secret, context)


def _auth(ehr: EhrSettings) -> adapters.Auth:
    match ehr.auth:
        case "basic":
            return adapters.Basic(ehr.username, ehr.secret())
        case "bearer":
            return adapters.Bearer(ehr.secret())
        case "smart-backend":
            return Tokens(credentials.smart_backend(ehr))
        case _:
            return adapters.NoAuth()


def _public_keys(ehr: EhrSettings) -> tuple[Mapping[str, Any], ...]:
    """Read anew each time, as what signs is: a key that was added is seen before it is used."""
    try:
        return public_keys(ehr.key_file or Path(), ehr.kid)
    except KeyUnusable as error:
        raise Unavailable(reason="key-unusable") from error


def _persons(found: State, ehr: EhrSettings) -> PersonTokens:
    where = f"{found.settings.public_url}/auth/{ehr.name}/upstream"
    turns = StoredTurns(found.database, life=4 * ehr.timeout)  # longer than a refresh can take: two at once would be reuse of a token
    return PersonTokens(
        credentials.user_endpoints(found.settings, ehr), found.database, found.secrets, turns, where=where, record_in=found.audit.record_in
    )


def _connections(found: State, persons: Mapping[str, PersonTokens]) -> Mapping[str, Connections]:
    made = found.database, found.secrets
    return {name: Connections(one.endpoints, *made, record_in=found.audit.record_in) for name, one in persons.items()}


def _cache(found: State) -> tuple[Cache | NoCache, Held | None]:
    """Redis for any number of processes, else memory for a single one, else none."""
    settings = found.settings
    if settings.redis:
        from gateway.cache.redis import RedisStore  # noqa: PLC0415  # its library is dear, and a single process needs no Redis
        from gateway.cache.redis_board import RedisBoard  # noqa: PLC0415

        store = RedisStore(settings.redis)
        circle = Circle(RedisBoard(store, quiet=settings.coherence / 2), found.database, coherence=settings.coherence)
        return _over(store, found, found.seals, circle), None
    if settings.cache_bytes == 0:
        return NoCache(), None
    lock = single_process_lock(settings.data_dir / "memory-cache.lock")
    return _over(MemoryStore(settings.cache_bytes), found, Plain()), lock  # what stays in this process needs no seal


def _over(store: CacheStore, found: State, seals: Seals, circle: Circle | None = None) -> Cache:
    settings = found.settings
    return Cache(
        store, found.database, sealer=seals, coherence=settings.coherence, circle=circle, process_bytes=settings.process_cache_bytes if circle else 0
    )


def _lives(settings: Settings) -> Mapping[str, Lives]:
    """By EHR: ours, the operator's for all, the operator's for this one."""
    ours = Lives().overridden(settings.lives, where="lives")
    return {one.name: ours.overridden(one.lives, where=f"ehr.{one.name}.lives") for one in settings.ehrs}


def _oauth_urls(settings: Settings, ehr: str) -> Mapping[str, str]:
    urls = Endpoints(settings.public_url, ehr)
    found = {"authorize": urls.authorize, "token": urls.token, "introspect": urls.introspect, "revoke": urls.revoke}
    return found | ({"register": urls.register} if settings.registration != "closed" else {})


def _documents(settings: Settings, ehr: str, types: tuple[str, ...], brands: Brands | None) -> Mapping[str, Callable[[], Mapping[str, Any]]]:
    url, must = settings.public_url, settings.require_pushed_requests
    offered = Offered(settings.registration != "closed")
    if brands:
        offered = replace(offered, brands=settings.brand_bundle or f"{url}/brands", brand_identifier=brands.identifiers[ehr])
    return {
        "smart-configuration": lambda: smart_configuration(public_url=url, ehr=ehr, types=types, must_push=must, offered=offered),
        "openid-configuration": lambda: openid_configuration(public_url=url, ehr=ehr, types=types, must_push=must, offered=offered),
    }


def _brands(settings: Settings) -> Brands | None:
    """What is published about who offers access here; None where the operator says nothing. Raises ConfigError."""
    if not settings.brand_name or not settings.ehrs:
        return None
    url = settings.public_url
    brand = Brand(
        settings.brand_name,
        settings.brand_website,
        settings.brand_identifier,
        settings.brand_aliases,
        settings.brand_category,
        settings.brand_addresses,
        settings.brand_logo,
        settings.brand_logo_license,
        settings.brand_portal,
        settings.brand_portal_url or f"{url}/portal/",
        settings.brand_portal_description,
        settings.brand_portal_logo,
        settings.brand_developers,
    )
    sites = [Site(one.name, Endpoints(url, one.name).base, one.title, one.brand_website, one.brand_identifier) for one in settings.ehrs]
    where = f"{url}/brands"
    try:
        return brands.make(brand, sites, where, api_brands.changed_at(settings.data_dir / "brands.json", brands.etag_of(brand, sites, where), now))
    except BrandWrong as error:
        raise ConfigError(f"The brands cannot be published: {error}", where="brand", fix="look at [brand], and brand_* of each EHR") from error


def _up(database: Database) -> health.Probe:
    async def probe() -> bool:
        try:
            async with database.read() as connection:
                await connection.execute(text("SELECT 1"))
        except Unavailable:
            return False
        return True

    return probe
